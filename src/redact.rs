//! Keeps secrets of URLs out of logs, pages, JSONL and metrics labels.
//!
//! Two lines of defence: URLs inside any text lose user, password, query and fragment; and the secret parts of every
//! URI the program was given are remembered, so that a library that prints them on their own (GStreamer's debug
//! strings do) is caught as well.

use std::io;
use std::sync::RwLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::userinfo::{self, Reading};

/// Secret substrings of the URIs seen so far, longest first.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// What stands where a secret stood.
const MASK: &str = "***";

/// A secret shorter than this is not searched for in free text: it would mask ordinary words.
const SECRET_MIN: usize = 4;

/// Remembers the secret parts of `uri` so that [`text`] masks them from now on.
pub fn remember(uri: &str) {
    let parts = split(uri);
    let mut found: Vec<String> = Vec::new();
    let mut certain: Vec<String> = Vec::new();
    if let Some((_, password)) = parts.userinfo.and_then(|u| u.split_once(':')) {
        certain.push(password.to_owned());
    }
    if let Some(login) = parts.userinfo {
        // As clients send it.
        certain.push(BASE64_STANDARD.encode(percent_decode(login)));
    }
    let unclear = uri.split_once("://").filter(|_| parts.is_unclear || parts.is_doubtful);
    if let Some((rest, from)) = unclear.and_then(|(_, rest)| Some((rest, rest.find(':')? + 1))) {
        // Whatever may be the password.
        certain.extend(rest.match_indices('@').filter_map(|(at, _)| rest.get(from..at)).map(String::from));
        certain.push(rest[from..].to_owned());
    }
    if let Some((_, key)) = stream_key(&parts) {
        certain.push(key.to_owned());
    }
    if let Some(query) = parts.query {
        found.extend(query.split('&').filter_map(|pair| pair.split_once('=')).map(|(_, value)| value.to_owned()));
    }
    // Words such as `mode=caller` or `latency=2000` are no secrets, and masking them would blind the logs.
    const PUBLIC: [&str; 8] = ["caller", "listener", "rendezvous", "true", "false", "request", "publish", "live"];
    found.retain(|s| !PUBLIC.contains(&s.as_str()) && !s.chars().all(|c| c.is_ascii_digit() || c == '.'));
    found.append(&mut certain);
    let decoded: Vec<String> = found.iter().map(|s| String::from_utf8_lossy(&percent_decode(s)).into_owned()).collect();
    keep(found.into_iter().chain(decoded));
}

/// Remembers `secret`, which belongs to no URI, so that [`text`] masks it from now on.
pub fn remember_secret(secret: &str) {
    keep([secret.to_owned()]);
}

/// Adds what is long enough and new.
fn keep(found: impl IntoIterator<Item = String>) {
    let mut secrets = SECRETS.write().unwrap_or_else(|e| e.into_inner());
    let before = secrets.len();
    for secret in found {
        if secret.len() >= SECRET_MIN && !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }
    if secrets.len() > before {
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    }
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

/// `text` on one line, with every URL in it redacted and every remembered secret masked.
pub fn text(text: &str) -> String {
    // Secrets first: one with a bracket or a blank in it would be cut in two where its URL seems to end.
    let text = masked(text);
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
        out.push_str(&rest[..scheme_from]);
        out.push_str(&uri(&rest[scheme_from..end]));
        rest = &rest[end..];
    }
    out.push_str(rest);
    if out.contains(['\n', '\r']) {
        out = out.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" | ");
    }
    out
}

/// `text` with every remembered secret masked.
fn masked(text: &str) -> String {
    let mut out = text.to_owned();
    for secret in SECRETS.read().unwrap_or_else(|e| e.into_inner()).iter() {
        if out.contains(secret.as_str()) {
            out = out.replace(secret.as_str(), MASK);
        }
    }
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
pub(crate) fn percent_decode(text: &str) -> Vec<u8> {
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
        remember("rtsp://bob:hunter%402x@cam/live?key=abcd1234&mode=caller");
        let shown =
            text("cannot open \"rtsp://bob:hunter%402x@cam/live?key=abcd1234\"\n user hunter@2x, abcd1234 caller");
        assert!(!shown.contains("hunter") && !shown.contains("abcd1234") && !shown.contains('\n'), "{shown}");
        assert!(shown.contains("rtsp://***@cam/live?***") && shown.contains("caller"), "{shown}");
        remember("rtsp://ann:ge-heim#one@cam/live");
        assert_eq!(text("login ann:ge-heim#one"), "login ann:***");
        remember("rtsp://eve:24681357@cam/live?latency=2000");
        assert_eq!(
            text("user eve, 24681357, latency 2000"),
            "user eve, ***, latency 2000",
            "a number may be a password"
        );
    }

    #[test]
    fn pieces_of_uris_are_decoded_whole() {
        assert_eq!(percent_decode("a%26b&c=d+e%2Bf%zz"), b"a&b&c=d+e+f%zz");
    }

    #[test]
    fn logins_are_masked_as_clients_send_them() {
        remember("http://zoe:gr%C3%BCn-pass@cam/live");
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
