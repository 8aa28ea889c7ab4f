//! Bearer tokens: sources and comparison.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use subtle::{Choice, ConstantTimeEq};

use super::Role;
use touchline_core::error::{Error, Result};
use touchline_core::redact;

/// A token shorter than this can be guessed.
const TOKEN_MIN: usize = 16;

/// Longer files are not token files.
const TOKEN_MAX: usize = 1024;

/// Where a token comes from.
#[derive(Clone)]
pub enum TokenSource {
    /// The first line of a file; read again by [`super::Access::reload`].
    File(PathBuf),
    /// The value of an environment variable.
    Environment {
        /// Name of the variable.
        name: &'static str,
        /// The token.
        text: String,
    },
}

/// Omits the text, which is a secret.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::File(path) => f.debug_tuple("File").field(path).finish(),
            TokenSource::Environment { name, .. } => f.debug_tuple("Environment").field(name).finish(),
        }
    }
}

impl TokenSource {
    /// # Errors
    /// [`Error::Usage`] naming the file or variable, never its content.
    fn read(&self) -> Result<Token> {
        let (place, text) = match self {
            TokenSource::File(path) => (path.display().to_string(), read_file(path)?),
            TokenSource::Environment { name, text } => (format!("the variable {name}"), text.clone()),
        };
        let text = text.trim_end_matches(['\n', '\r']);
        let wrong = |what: &str| {
            let advice = "create one with `openssl rand -hex 32`";
            Err(Error::Usage(format!("{place}: the token {what}; {advice}")))
        };
        if text.len() < TOKEN_MIN {
            return wrong(&format!("is shorter than {TOKEN_MIN} characters"));
        }
        if text.len() > TOKEN_MAX {
            return wrong(&format!("is longer than {TOKEN_MAX} characters"));
        }
        // Other characters cannot be sent as a bearer token.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("has characters other than printable ASCII, or spaces");
        }
        Ok(Token { text: text.to_owned(), _known: redact::remember_secret(text) })
    }
}

fn read_file(path: &Path) -> Result<String> {
    let fail = |e: std::io::Error| {
        Error::Usage(format!("{}: cannot read the token: {e}; check the path and its permissions", path.display()))
    };
    let file = File::open(path).map_err(fail)?;
    warn_if_open_to_others(path, &file.metadata().map_err(fail)?.permissions());
    let mut text = String::new();
    file.take(TOKEN_MAX as u64 + 3).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// Warns if every user of this machine may read `path`, which holds a secret.
pub(crate) fn warn_if_open_to_others(path: &Path, permissions: &Permissions) {
    if permissions.mode() & 0o004 != 0 {
        tracing::warn!("{}: every user of this machine can read it; chmod 600 it", path.display());
    }
}

struct Token {
    text: String,
    _known: redact::MaskGuard,
}

impl Token {
    fn matches(&self, shown: &str) -> Choice {
        // Constant time for equal lengths. The length of the token is not a secret.
        self.text.as_bytes().ct_eq(shown.as_bytes())
    }
}

/// The current tokens.
#[derive(Default)]
pub(super) struct Tokens {
    admin: Option<Token>,
    read: Option<Token>,
}

impl Tokens {
    /// # Errors
    /// [`Error::Usage`] for a token that cannot be read or used, and if both roles have the same.
    pub fn read(admin: Option<&TokenSource>, read: Option<&TokenSource>) -> Result<Self> {
        let tokens =
            Self { admin: admin.map(TokenSource::read).transpose()?, read: read.map(TokenSource::read).transpose()? };
        if let (Some(admin), Some(read)) = (&tokens.admin, &tokens.read)
            && bool::from(admin.matches(&read.text))
        {
            let text =
                "the admin token and the read token are equal, so readers could change everything; create two tokens";
            return Err(Error::Usage(text.into()));
        }
        Ok(tokens)
    }

    pub fn any(&self) -> bool {
        self.admin.is_some() || self.read.is_some()
    }

    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    /// The role of the token `shown`. Always compares both tokens.
    pub fn role(&self, shown: &str) -> Option<Role> {
        let of = |token: &Option<Token>| token.as_ref().map_or(Choice::from(0), |token| token.matches(shown));
        let (admin, read) = (bool::from(of(&self.admin)), bool::from(of(&self.read)));
        if admin { Some(Role::Admin) } else { read.then_some(Role::Read) }
    }

    /// The key that signs sessions of `role`. Changing the token invalidates them.
    pub fn key(&self, role: Role) -> Option<hmac::Key> {
        let token = match role {
            Role::Admin => self.admin.as_ref(),
            Role::Read => self.read.as_ref(),
        }?;
        let master = hmac::Key::new(hmac::HMAC_SHA256, token.text.as_bytes());
        let derived = hmac::sign(&master, b"touchline session");
        Some(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }
}
