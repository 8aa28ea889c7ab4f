//! Keeps secrets of URLs out of logs, pages, JSONL and metrics labels.
//!
//! Two lines of defence. URLs inside any text always lose user, password, query and fragment. And the
//! credentials of the URIs and tokens that are configured now ([`Known`]) are masked wherever they stand, so that a library that
//! prints them on their own (GStreamer's debug strings do) is caught as well. Credentials are passwords, stream keys, tokens and
//! query parameters with the name of one; other query parameters are masked in URLs only, since `format=mpegts` is no secret.
//! Nor is a credential masked on its own that is an ordinary word or a short number: the log would be blinded, and say by it what
//! the word is.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::userinfo;
use crate::userinfo::Reading;

static SECRETS: RwLock<Secrets> = RwLock::new(Secrets::new());

/// What stands where a secret stood.
const MASK: &str = "***";

/// Secrets that are still masked after nothing is configured with them: what a source says while it ends, and an error about a
/// configuration that was refused.
const LEFT_MAX: usize = 256;

/// Names of query parameters whose values are credentials have one of these in them.
const CREDENTIALS: [&str; 17] = [
    "token", "key", "sig", "pass", "pwd", "secret", "auth", "cred", "hmac", "hdnea", "hdnts", "hdntl", "jwt", "policy",
    "streamid", "session", "ticket",
];

/// Names of further parameters that are credentials, which registered sources add.
static FURTHER: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// Query parameters of these names are credentials from now on.
pub fn add_credential_parameters(names: &[&'static str]) {
    FURTHER.write().unwrap_or_else(|e| e.into_inner()).extend(names);
}

/// Whether the query parameter `name` is a credential.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let further = FURTHER.read().unwrap_or_else(|e| e.into_inner());
    CREDENTIALS.iter().any(|word| name.contains(word)) || further.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

/// Letters that a credential must have to be masked on its own when it has nothing but letters: shorter ones are words.
const LETTERS_MIN: usize = 8;

/// Digits, likewise: shorter numbers are ports, sizes and times.
const DIGITS_MIN: usize = 6;

/// Characters of any other.
const MIXED_MIN: usize = 4;

/// Longer words that people take for credentials, and logs use.
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

/// The credentials of this moment, each with how often it is known.
struct Secrets {
    known: Vec<(String, usize)>,
    /// Nothing has them any more; the oldest first.
    left: VecDeque<String>,
    /// Finds all of them in one pass, the longest first; `None` when there are none.
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

/// Credentials that [`text`] masks for as long as a clone of this exists.
#[derive(Clone, Default)]
pub struct Known(#[expect(dead_code, reason = "what counts is when it is dropped")] Option<Arc<Held>>);

struct Held(Vec<String>);

impl Known {
    fn new(mut secrets: Vec<String>) -> Self {
        secrets.retain(|secret| is_telling(secret));
        if secrets.is_empty() {
            return Self::default();
        }
        SECRETS.write().unwrap_or_else(|e| e.into_inner()).add(&secrets);
        Self(Some(Arc::new(Held(secrets))))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        SECRETS.write().unwrap_or_else(|e| e.into_inner()).release(&self.0);
    }
}

/// Without the credentials.
impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

/// Whether a credential is masked wherever it stands.
fn is_telling(secret: &str) -> bool {
    let chars = secret.chars().count();
    if secret.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return chars >= DIGITS_MIN;
    }
    if secret.chars().all(char::is_alphabetic) {
        return chars >= LETTERS_MIN && !WORDS.contains(&&*secret.to_lowercase());
    }
    chars >= MIXED_MIN
}

/// The credentials of `uri`; [`text`] masks them for as long as a clone of the answer exists, and a while after that.
pub fn remember(uri: &str) -> Known {
    let parts = split(uri);
    let mut found: Vec<String> = Vec::new();
    if let Some((_, password)) = parts.userinfo.and_then(|u| u.split_once(':')) {
        found.push(password.to_owned());
    }
    if let Some(login) = parts.userinfo {
        // As clients send it.
        found.push(BASE64_STANDARD.encode(percent_decode(login)));
        // A password that is a word is masked beside its user at least.
        if login.split_once(':').is_some_and(|(_, password)| !password.is_empty()) {
            found.push(login.to_owned());
        }
    }
    let unclear = uri.split_once("://").filter(|_| parts.is_unclear || parts.is_doubtful);
    if let Some((rest, from)) = unclear.and_then(|(_, rest)| Some((rest, rest.find(':')? + 1))) {
        // Whatever may be the password.
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
    Known::new(found)
}

/// As [`remember`], for a credential that belongs to no URI.
pub fn remember_secret(secret: &str) -> Known {
    Known::new(vec![secret.to_owned()])
}

/// `uri` without user, password, query and fragment: `rtsp://***@cam.example/live?***`.
///
/// A plain path or `testsrc://` comes back as it is.
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
        // Not even the port: it may be the password's beginning.
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

/// Path and last segment of an RTMP address: the segment is the stream key, which is all one needs to publish there.
fn stream_key<'a>(parts: &Parts<'a>) -> Option<(&'a str, &'a str)> {
    let is_rtmp = parts.scheme.is_some_and(|s| s.len() >= 4 && s[..4].eq_ignore_ascii_case("rtmp"));
    parts.path.rsplit_once('/').filter(|(_, key)| is_rtmp && !key.is_empty())
}

/// `text` on one line, with every URL in it redacted and every known credential masked.
pub fn text(text: &str) -> String {
    // Secrets first: one with a bracket or a blank in it would be cut in two where its URL seems to end.
    let text = SECRETS.read().unwrap_or_else(|e| e.into_inner()).masked(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(at) = rest.find("://") {
        let scheme_from = rest[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .map_or(0, |i| i + rest[i..].chars().next().map_or(1, char::len_utf8));
        // A bracket ends it unless it is that of an address of IPv6.
        let mut is_bracket_open = false;
        let end = rest[at..]
            .find(|c: char| match c {
                '[' => std::mem::replace(&mut is_bracket_open, true),
                ']' => !std::mem::take(&mut is_bracket_open),
                _ => c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | '|' | ')' | '}'),
            })
            .map_or(rest.len(), |i| at + i);
        // What belongs to the sentence.
        let end = at + 3 + rest[at + 3..end.max(at + 3)].trim_end_matches(['.', ',', ';', ':', '!', '…']).len();
        out.push_str(&without_queries(&rest[..scheme_from]));
        out.push_str(&uri(&rest[scheme_from..end]));
        rest = &rest[end..];
    }
    out.push_str(&without_queries(rest));
    if out.contains(['\n', '\r']) {
        out = out.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" | ");
    }
    out
}

/// `text` with the query of every address masked that stands there without its host, as in a library's `GET /live?token=…`.
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

/// Standard error, one redacted line a write: what the program's log is written to. Its lines are redacted where they are
/// made; this is for what libraries log.
#[derive(Debug, Default)]
pub struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let mut line = text(line.trim_end_matches('\n'));
        line.push('\n');
        io::stderr().write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The pieces of a URI, as they stand. Not the `url` crate: redaction must also work on what that refuses to parse.
struct Parts<'a> {
    scheme: Option<&'a str>,
    userinfo: Option<&'a str>,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    /// What follows the host may be the rest of a password, or all of it.
    is_doubtful: bool,
    is_unclear: bool,
}

fn split(uri: &str) -> Parts<'_> {
    let mut parts =
        Parts { scheme: None, userinfo: None, host: "", path: uri, query: None, is_doubtful: false, is_unclear: false };
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

/// The bytes that a piece of a URI stands for.
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
mod tests {
    use super::*;

    #[test]
    fn uris_lose_what_is_secret_and_keep_what_helps() {
        for (given, shown) in [
            ("rtsp://ann:s3cret@cam.example:554/live/1", "rtsp://***@cam.example:554/live/1"),
            ("https://h.example/a.m3u8?token=abc#t=1", "https://h.example/a.m3u8?***"),
            ("srt://h.example:9000?mode=caller&passphrase=longsecret", "srt://h.example:9000?***"),
            ("rtsp://ann:pa/ss@word@cam/live", "rtsp://***@cam/live"),
            ("rtsp://ann:geheim#1@cam/live", "rtsp://***@cam/live"),
            ("rtsp://ann:1234?56@cam/live?a=b", "rtsp://***"),
            ("rtsp://ann:ge/heim#1@cam", "rtsp://***@cam"),
            ("https://h.example:8443/a.m3u8?mail=me@there", "https://h.example/***"),
            ("rtsp://ann:p@ss/word@cam/live", "rtsp://***"),
            ("udp://@239.1.2.3:5004", "udp://@239.1.2.3:5004"),
            ("https://h.example/a.m3u8?mail=me@there", "https://h.example/a.m3u8?***"),
            ("rtmp://h.example/app/KEY-12", "rtmp://h.example/app/***"),
            ("/recordings/a file?.mp4", "/recordings/a file?.mp4"),
            ("testsrc://?seconds=5", "testsrc://?seconds=5"),
        ] {
            assert_eq!(uri(given), shown);
        }
    }

    #[test]
    fn text_is_one_line_without_secrets() {
        let _known = remember("rtsp://bob:hunter%402x@cam/live?key=abcd1234&mode=caller");
        let shown =
            text("cannot open \"rtsp://bob:hunter%402x@cam/live?key=abcd1234\"\n user hunter@2x, abcd1234 caller");
        assert!(!shown.contains("hunter") && !shown.contains("abcd1234") && !shown.contains('\n'), "{shown}");
        assert!(shown.contains("rtsp://***@cam/live?***") && shown.contains("caller"), "{shown}");
        let _known = remember("rtsp://ann:ge-heim#one@cam/live");
        assert_eq!(text("password ge-heim#one"), "password ***");
        assert_eq!(text("login ann:ge-heim#one"), "login ***");
        let _known = remember("rtsp://eve:24681357@cam/live?latency=2000");
        assert_eq!(
            text("user eve, 24681357, latency 2000"),
            "user eve, ***, latency 2000",
            "a number may be a password"
        );
    }

    #[test]
    fn words_stay_readable() {
        let _known = [
            remember("https://ann:secret@h.example/a?format=mpegts&profile=baseline-high&token=live&key=stream"),
            remember("rtsp://ann:password@h.example/a"),
            remember("rtsp://ann:1234@h.example/a"),
        ];
        let said = "format mpegts, baseline-high, live stream 1234, a secret password";
        assert_eq!(text(said), said);
        assert_eq!(text("login ann:secret"), "login ***", "but for where it is one");
        assert_eq!(text("GET /a?format=mpegts&token=live, then"), "GET /a?***, then");
        assert_eq!(text("what? a=b"), "what? a=b");
    }

    #[test]
    fn secrets_are_known_for_as_long_as_they_are_configured() {
        let known = remember("rtsp://ann:released-1x@h.example/a");
        let same = remember("rtsp://bob:released-1x@h.example/b");
        let other = known.clone();
        drop((known, other));
        let flush = || (0..2 * LEFT_MAX).for_each(|n| drop(remember_secret(&format!("flushed-{n}-x"))));
        flush();
        assert_eq!(text("released-1x"), MASK, "the other stream has it too");
        drop(same);
        assert_eq!(text("released-1x"), MASK, "what is ending may still name it");
        flush();
        assert_eq!(text("released-1x"), "released-1x");
        let secrets = SECRETS.read().unwrap();
        assert!(secrets.left.len() <= LEFT_MAX, "{}", secrets.left.len());
    }

    #[test]
    fn pieces_of_uris_are_decoded_whole() {
        assert_eq!(percent_decode("a%26b&c=d+e%2Bf%zz"), b"a&b&c=d+e+f%zz");
    }

    #[test]
    fn logins_are_masked_as_clients_send_them() {
        let _known = remember("http://zoe:gr%C3%BCn-pass@cam/live");
        let sent = BASE64_STANDARD.encode("zoe:grün-pass");
        assert_eq!(text(&format!("Authorization: Basic {sent}")), "Authorization: Basic ***");
    }

    #[test]
    fn text_without_urls_stays() {
        assert_eq!(text("no such file: /a/b.mp4"), "no such file: /a/b.mp4");
        assert_eq!(text("é://x"), "é://x");
        assert_eq!(text("[see http://[::1]:80/a, or not]"), "[see http://[::1]:80/a, or not]");
        assert_eq!(text("write rtsp://HOST…"), "write rtsp://HOST…");
    }
}
