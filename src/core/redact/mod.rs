//! Keeps secrets out of logs, pages, JSON lines and metric labels.
//!
//! There are two mechanisms. URLs in any text always lose user, password, query and fragment. In addition, the credentials of
//! all URIs and tokens that are configured now ([`MaskGuard`]) are masked everywhere, because libraries also print them alone
//! (GStreamer's debug strings do). Credentials are passwords, stream keys, tokens, and the values of query parameters whose names
//! say so. Other query parameters are masked in URLs only: `format=mpegts` is no secret. Credentials that are ordinary words or
//! short numbers are not masked alone. Masking them would make the log unreadable and reveal the word.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::RwLock;

use crate::markup::is_harmless;
use crate::userinfo;
use crate::userinfo::Reading;

static SECRETS: RwLock<Secrets> = RwLock::new(Secrets::new());

/// Replaces a secret.
const MASK: &str = "***";

/// Secrets that stay masked after their last guard is dropped, for the messages of a source that is ending and for errors about a
/// rejected configuration.
const LEFT_MAX: usize = 256;

/// A query parameter is a credential if its name contains one of these.
const CREDENTIALS: [&str; 17] = [
    "token", "key", "sig", "pass", "pwd", "secret", "auth", "cred", "hmac", "hdnea", "hdnts", "hdntl", "jwt", "policy",
    "streamid", "session", "ticket",
];

/// Names of credential parameters that registered sources add.
static FURTHER: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// Masks the values of query parameters with these names from now on.
pub fn add_credential_parameters(names: &[&'static str]) {
    FURTHER.write().extend(names);
}

/// Whether the query parameter `name` is a credential.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let further = FURTHER.read();
    CREDENTIALS.iter().any(|word| name.contains(word)) || further.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

/// Minimum length of a credential of letters only that is masked alone: shorter ones may be words.
const LETTERS_MIN: usize = 8;

/// Minimum length of a credential of digits only: shorter numbers are ports, sizes and times.
const DIGITS_MIN: usize = 6;

/// Minimum length of any other credential.
const MIXED_MIN: usize = 4;

/// Longer words that people use as credentials and that also appear in logs.
const WORDS: [&str; 10] = [
    "password",
    "passphrase",
    "username",
    "administrator",
    "anonymous",
    "streaming",
    "publisher",
    "subscriber",
    "television",
    "football",
];

/// The credentials that are masked now.
struct Secrets {
    /// Credentials and the number of guards that hold each.
    known: Vec<(String, usize)>,
    /// Credentials without a guard, oldest first.
    left: VecDeque<String>,
    /// Finds all of them in one pass, the longest match first; `None` when there are none.
    finder: Option<AhoCorasick>,
}

impl Secrets {
    const fn new() -> Self {
        Self { known: Vec::new(), left: VecDeque::new(), finder: None }
    }

    fn add(&mut self, secrets: &[String]) {
        for secret in secrets {
            self.left.retain(|left| left != secret);
            match self.known.iter_mut().find(|(known, _)| known == secret) {
                Some((_, times)) => *times += 1,
                None => self.known.push((secret.clone(), 1)),
            }
        }
        self.rebuild();
    }

    fn release(&mut self, secrets: &[String]) {
        for secret in secrets {
            let Some(at) = self.known.iter().position(|(known, _)| known == secret) else { continue };
            self.known[at].1 -= 1;
            if self.known[at].1 == 0 {
                self.left.push_back(self.known.swap_remove(at).0);
            }
        }
        let over = self.left.len().saturating_sub(LEFT_MAX);
        self.left.drain(..over);
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let all = self.known.iter().map(|(secret, _)| secret).chain(&self.left);
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(all);
        self.finder = (!self.known.is_empty() || !self.left.is_empty())
            .then(|| built.expect("some hundred short strings fit an automaton"));
    }

    fn masked(&self, text: &str) -> String {
        let Some(finder) = &self.finder else { return text.to_owned() };
        let mut out = String::with_capacity(text.len());
        finder.replace_all_with(text, &mut out, |_, _, out| {
            out.push_str(MASK);
            true
        });
        out
    }
}

/// Keeps credentials masked by [`text`] while a clone of it exists.
#[derive(Clone, Default)]
pub struct MaskGuard(#[expect(dead_code, reason = "its drop ends the masking")] Option<Arc<GuardedSecrets>>);

struct GuardedSecrets(Vec<String>);

impl MaskGuard {
    fn new(mut secrets: Vec<String>) -> Self {
        secrets.retain(|secret| is_maskable(secret));
        // As quoted texts and JSON contain them.
        let quoted: Vec<_> = secrets.iter().map(|secret| secret.replace('\\', r"\\").replace('"', r#"\""#)).collect();
        secrets.extend(quoted);
        secrets.sort();
        secrets.dedup();
        if secrets.is_empty() {
            return Self::default();
        }
        SECRETS.write().add(&secrets);
        Self(Some(Arc::new(GuardedSecrets(secrets))))
    }
}

impl Drop for GuardedSecrets {
    fn drop(&mut self) {
        SECRETS.write().release(&self.0);
    }
}

/// Omits the credentials.
impl std::fmt::Debug for MaskGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskGuard").finish_non_exhaustive()
    }
}

/// Whether a credential is masked outside of URLs.
fn is_maskable(secret: &str) -> bool {
    let chars = secret.chars().count();
    if secret.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return chars >= DIGITS_MIN;
    }
    if secret.chars().all(char::is_alphabetic) {
        return chars >= LETTERS_MIN && !WORDS.contains(&&*secret.to_lowercase());
    }
    chars >= MIXED_MIN
}

/// Masks the credentials of `uri` in [`text`] while a clone of the returned guard exists, and for a while after that.
pub fn remember(uri: &str) -> MaskGuard {
    let parts = split(uri);
    let mut found: Vec<String> = Vec::new();
    if let Some((_, password)) = parts.userinfo.and_then(|u| u.split_once(':')) {
        found.push(password.to_owned());
    }
    if let Some(login) = parts.userinfo {
        // The form that clients send.
        found.push(BASE64_STANDARD.encode(percent_decode(login)));
        // A password that is an ordinary word is masked at least together with its user.
        if login.split_once(':').is_some_and(|(_, password)| !password.is_empty()) {
            found.push(login.to_owned());
        }
    }
    let unclear = uri.split_once("://").filter(|_| parts.is_unclear || parts.is_doubtful);
    if let Some((rest, from)) = unclear.and_then(|(_, rest)| Some((rest, rest.find(':')? + 1))) {
        // Every candidate for the password.
        found.extend(rest.match_indices('@').filter_map(|(at, _)| rest.get(from..at)).map(String::from));
        found.push(rest[from..].to_owned());
    }
    if let Some((_, key)) = stream_key(&parts) {
        found.push(key.to_owned());
    }
    for (name, value) in parts.query.into_iter().flat_map(|q| q.split('&')).filter_map(|pair| pair.split_once('=')) {
        if is_credential(name) {
            found.push(value.to_owned());
        }
    }
    let decoded: Vec<String> = found.iter().map(|s| String::from_utf8_lossy(&percent_decode(s)).into_owned()).collect();
    found.extend(decoded);
    found.sort();
    found.dedup();
    MaskGuard::new(found)
}

/// As [`remember`], for a credential that is not part of a URI.
pub fn remember_secret(secret: &str) -> MaskGuard {
    MaskGuard::new(vec![secret.to_owned()])
}

/// `uri` without user, password, query and fragment: `rtsp://***@cam.example/live?***`.
///
/// A plain path and `testsrc://` are returned unchanged.
pub fn uri(uri: &str) -> String {
    let parts = split(uri);
    let Some(scheme) = parts.scheme else { return uri.to_owned() };
    if userinfo::is_local(scheme) {
        return uri.to_owned();
    }
    if parts.is_unclear {
        return format!("{scheme}://{MASK}");
    }
    if parts.is_doubtful {
        // The port is masked too: it may be the start of the password.
        let end = parts.host.rfind(':').filter(|_| !parts.host.ends_with(']')).unwrap_or(parts.host.len());
        return format!("{scheme}://{}/{MASK}", &parts.host[..end]);
    }
    let user = if parts.userinfo.is_some() { "***@" } else { "" };
    let query = if parts.query.is_some() { "?***" } else { "" };
    match stream_key(&parts) {
        Some((path, _)) => format!("{scheme}://{user}{}{path}/{MASK}{query}", parts.host),
        None => format!("{scheme}://{user}{}{}{query}", parts.host, parts.path),
    }
}

/// Path and last segment of an RTMP address. The segment is the stream key, which is sufficient to publish.
fn stream_key<'a>(parts: &UriParts<'a>) -> Option<(&'a str, &'a str)> {
    let is_rtmp = parts.scheme.is_some_and(|s| s.len() >= 4 && s[..4].eq_ignore_ascii_case("rtmp"));
    parts.path.rsplit_once('/').filter(|(_, key)| is_rtmp && !key.is_empty())
}

/// Returns `text` as one line, with every URL redacted, every known credential masked, and without characters that hide what it
/// contains: names of files and messages of servers come from others.
pub fn text(text: &str) -> String {
    shown(text, |c| c == '\t')
}

/// As [`text`]. Control characters that `is_kept` stay.
fn shown(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    // Secrets first: a bracket or a space in one would otherwise be taken for the end of its URL.
    let text = SECRETS.read().masked(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(at) = rest.find("://") {
        let scheme_from = rest[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .map_or(0, |i| i + rest[i..].chars().next().map_or(1, char::len_utf8));
        // A closing bracket ends the URL, except that of an IPv6 address.
        let mut is_bracket_open = false;
        let end = rest[at..]
            .find(|c: char| match c {
                '[' => std::mem::replace(&mut is_bracket_open, true),
                ']' => !std::mem::take(&mut is_bracket_open),
                _ => c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | '|' | ')' | '}'),
            })
            .map_or(rest.len(), |i| at + i);
        // Trailing punctuation belongs to the sentence.
        let end = at + 3 + rest[at + 3..end.max(at + 3)].trim_end_matches(['.', ',', ';', ':', '!', '…']).len();
        out.push_str(&without_queries(&rest[..scheme_from]));
        out.push_str(&uri(&rest[scheme_from..end]));
        rest = &rest[end..];
    }
    out.push_str(&without_queries(rest));
    if out.contains(['\n', '\r']) {
        out = out.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" | ");
    }
    if out.chars().all(|c| is_harmless(c) || is_kept(c)) {
        return out;
    }
    out.chars().map(|c| if is_harmless(c) || is_kept(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Masks the query of addresses without a host, such as a library's `GET /live?token=…`.
fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('?') {
        let (before, query) = rest.split_at(at + 1);
        out.push_str(before);
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | '|' | ')' | '}' | ']');
        let end = query.find(is_end).unwrap_or(query.len());
        let name = query[..end].split_once('=').map(|(name, _)| name);
        let is_query = name
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.~%".contains(&b)));
        if is_query {
            out.push_str(MASK);
            let tail = query[..end].trim_end_matches(['.', ',', ';', ':', '!', '…']).len();
            rest = &query[tail..];
        } else {
            rest = query;
        }
    }
    out.push_str(rest);
    out
}

/// Standard error, one redacted line per write. The program's own log lines are redacted where they are written; this redacts what
/// libraries log.
#[derive(Debug, Default)]
pub struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        // Colours of the log begin with an escape character. The formatter escapes those of messages.
        let mut line = shown(line.trim_end_matches('\n'), |c| matches!(c, '\t' | '\x1b'));
        line.push('\n');
        print_error(&line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `text` to standard error, as it is. A failure is ignored, unlike by `eprintln!`: the reader may have closed the pipe, and what the
/// program does must not depend on it.
pub fn print_error(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

/// As [`print_error`], for a line. Its end is added.
pub fn print_error_line(line: std::fmt::Arguments<'_>) {
    print_error(&format!("{line}\n"));
}

/// The parts of a URI as written. Not the `url` crate, because redaction must also work on what that crate rejects.
struct UriParts<'a> {
    scheme: Option<&'a str>,
    userinfo: Option<&'a str>,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    /// The text after the host may be part of a password.
    is_doubtful: bool,
    /// The end of the login is ambiguous.
    is_unclear: bool,
}

fn split(uri: &str) -> UriParts<'_> {
    let mut parts = UriParts {
        scheme: None,
        userinfo: None,
        host: "",
        path: uri,
        query: None,
        is_doubtful: false,
        is_unclear: false,
    };
    let Some((scheme, rest)) = uri.split_once("://") else { return parts };
    parts.scheme = Some(scheme);
    let rest = match userinfo::read(scheme, rest) {
        _ if userinfo::is_local(scheme) => rest,
        Reading::Login { userinfo, rest } => {
            parts.userinfo = Some(userinfo);
            rest
        }
        Reading::Plain { is_doubtful } => {
            parts.is_doubtful = is_doubtful;
            rest
        }
        Reading::Unclear => {
            parts.is_unclear = true;
            rest
        }
    };
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(b, q)| (b, Some(q)));
    let path_from = rest.find('/').unwrap_or(rest.len());
    (parts.host, parts.path, parts.query) = (&rest[..path_from], &rest[path_from..], query);
    parts
}

/// Decodes the percent-encoding of a part of a URI.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| (b as char).to_digit(16);
        if bytes[i] == b'%'
            && i + 2 < bytes.len()
            && let (Some(high), Some(low)) = (hex(bytes[i + 1]), hex(bytes[i + 2]))
        {
            out.push((high * 16 + low) as u8);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests;
