//! Secrets of sinks: read from a file or a variable, masked in all output from then on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use touchline_core::redact;

/// Environment variable with the admin token. A flag would show the token in the list of processes.
pub const ADMIN_TOKEN: &str = "TOUCHLINE_ADMIN_TOKEN";

/// Environment variable with the read token.
pub const READ_TOKEN: &str = "TOUCHLINE_READ_TOKEN";

/// Environment variables that other programs must not inherit.
pub const TOKEN_VARIABLES: [&str; 2] = [ADMIN_TOKEN, READ_TOKEN];

/// Longer files are no secrets.
const SECRET_MAX: u64 = 4096;

/// Longer files are no certificates: a bundle of all authorities of a system has some 200 KB.
const PEM_MAX: u64 = 4_000_000;

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; read again on SIGHUP.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

/// The lines of a secret. They are masked while this exists.
#[derive(Default)]
pub struct Secret {
    /// Never empty lines.
    pub lines: Vec<String>,
    _known: Vec<redact::MaskGuard>,
}

impl SecretSource {
    /// Reads it.
    ///
    /// # Errors
    /// Cause and advice, without the content.
    pub fn read(&self) -> Result<Secret, String> {
        let (place, text) = match self {
            SecretSource::File(path) => (path.display().to_string(), read(path, SECRET_MAX, "the secret")?),
            SecretSource::Variable(name) => {
                let text = std::env::var(name)
                    .map_err(|_| format!("the variable {name} is not set or not UTF-8; set it to the secret"))?;
                (format!("the variable {name}"), text)
            }
        };
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if lines.is_empty() {
            return Err(format!("{place} contains no secret; write one, as from `openssl rand -hex 32`"));
        }
        let known = lines.iter().map(|line| redact::remember_secret(line)).collect();
        Ok(Secret { lines, _known: known })
    }
}

/// Reads a file of certificates or keys.
///
/// # Errors
/// Cause and advice.
pub fn read_pem(path: &Path) -> Result<String, String> {
    let text = read(path, PEM_MAX, "the file")?;
    if text.contains("-----BEGIN ") {
        return Ok(text);
    }
    Err(format!("{} contains no certificate or key in PEM form; give a PEM file", path.display()))
}

fn read(path: &Path, max: u64, noun: &str) -> Result<String, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| format!("{shown}: cannot read {noun}: {e}; check the path and its permissions");
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > max {
        return Err(format!("{shown}: {noun} is longer than {max} bytes; give another file"));
    }
    Ok(text)
}
