//! Finds the end of the login in a source's address, even if the password contains `@ : / # ?`.
//!
//! People write passwords unescaped: `rtsp://ann:p@ss#1/x?@cam/live`. By the rules of URLs its host is `ss`, so a part of the
//! password would be sent to the name server and appear in messages. This module considers every position where the login may
//! end. If exactly one leaves a usable host, it is taken. If several do, the address is ambiguous and is neither opened nor shown.

use std::net::Ipv6Addr;

/// The advice for an ambiguous address.
pub const ADVICE: &str = "percent-encode the special characters of the password (@ as %40, : as %3A, / as %2F, # as %23, \
                          ? as %3F), and every @ after the host";

/// The interpretation of the part of an address after `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// It has no login.
    Plain {
        /// It could also be a login, though this is unlikely. The text after the host must not be shown.
        is_doubtful: bool,
    },
    /// It has a login.
    Login {
        /// The login as written: user, and password after the first colon.
        userinfo: &'a str,
        /// The rest, from the host on.
        rest: &'a str,
    },
    /// It is ambiguous or has no valid interpretation.
    Unclear,
}

/// Interprets the text after `scheme://`.
pub fn read<'a>(scheme: &str, rest: &'a str) -> Reading<'a> {
    let plain = Host::read(rest, rest.contains('@'));
    // These have no logins, and their parameters may contain anything. `udp://@239.1.2.3:5000` is VLC's form for "listen".
    if ["srt", "udp"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
        let text = rest.strip_prefix('@').unwrap_or(rest);
        if text.starts_with(':') || Host::read(text, false).is_some() {
            return Reading::Plain { is_doubtful: false };
        }
    }
    let logins = rest.match_indices('@').filter_map(|(at, _)| {
        let user = rest[..at].split(':').next().unwrap_or_default();
        // With one of these in the user name, the text is a host with a path.
        (!user.contains(['/', '?', '#', '\\'])).then_some(())?;
        Some((Some(at), Host::read(&rest[at + 1..], true)?))
    });
    let mut readings: Vec<_> = plain.map(|host| (None, host)).into_iter().chain(logins).collect();
    let is_doubtful = readings.len() > 1;
    if is_doubtful {
        // A host is not a plain number, and a fragment, which is never sent, does not contain the end of a login.
        readings.retain(|(_, host)| !host.is_number() && !host.fragment.contains('@'));
    }
    let found = match readings[..] {
        [(at, _)] => at,
        // A name with a dot and a path is a host. If it was a password after all, it is at least not shown.
        [(None, host), ..] if host.has_dot() && host.has_path => None,
        _ => return Reading::Unclear,
    };
    match found {
        None => Reading::Plain { is_doubtful },
        Some(at) => Reading::Login { userinfo: &rest[..at], rest: &rest[at + 1..] },
    }
}

/// Returns `uri` with the special characters of the login percent-encoded, so that every parser reads it alike. [`None`] if it is
/// ambiguous. A path without a scheme is returned unchanged.
pub fn canonical(uri: &str) -> Option<String> {
    let Some((scheme, rest)) = uri.split_once("://").filter(|(scheme, _)| !is_local(scheme)) else {
        return Some(uri.to_owned());
    };
    match read(scheme, rest) {
        Reading::Plain { .. } => Some(uri.to_owned()),
        Reading::Login { userinfo, rest } => {
            let login = match userinfo.split_once(':') {
                Some((user, password)) => format!("{}:{}", encode(user), encode(password)),
                None => encode(userinfo),
            };
            Some(format!("{scheme}://{login}@{rest}"))
        }
        Reading::Unclear => None,
    }
}

/// Whether addresses of this scheme have no host.
pub fn is_local(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("testsrc") || scheme.eq_ignore_ascii_case("file")
}

/// The host at the start of a text.
#[derive(Clone, Copy, Debug)]
struct Host<'a> {
    name: &'a str,
    /// A path follows, and not a query, a fragment or nothing.
    has_path: bool,
    fragment: &'a str,
}

impl<'a> Host<'a> {
    /// Parses the host. With `needs_port`, a colon without a port is rejected: it is valid but practically never written, so another
    /// interpretation is more likely.
    fn read(text: &'a str, needs_port: bool) -> Option<Self> {
        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
        let (authority, behind) = text.split_at(end);
        let (name, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (address, port) = inner.split_once(']')?;
                // A zone (`%eth0`) names the interface of a link-local address.
                address.split('%').next()?.parse::<Ipv6Addr>().ok()?;
                (&authority[..address.len() + 2], if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match authority.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (authority, None),
            },
        };
        // Asterisks, because redacted text may be redacted again.
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        let is_host = name.starts_with('[') || (!name.is_empty() && name.chars().all(is_name));
        let is_port = port.is_none_or(|port| {
            let is_number = port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5;
            is_number && (port.parse::<u16>().is_ok() || (port.is_empty() && !needs_port))
        });
        let fragment = behind.split_once('#').map_or("", |(_, fragment)| fragment);
        (is_host && is_port).then_some(Self { name, has_path: behind.starts_with('/'), fragment })
    }

    fn is_number(&self) -> bool {
        self.name.bytes().all(|b| b.is_ascii_digit())
    }

    fn has_dot(&self) -> bool {
        self.name.contains('.') || self.name.starts_with('[') || self.name.eq_ignore_ascii_case("localhost")
    }
}

/// Percent-encodes the characters that a user or password must not contain. Encoded ones stay as they are.
fn encode(text: &str) -> String {
    use std::fmt::Write;
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut out = String::with_capacity(text.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
        if is_plain || (byte == b'%' && is_hex(at + 1) && is_hex(at + 2)) {
            out.push(byte as char);
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use url::Url;

    use super::*;
    use crate::redact;

    #[test]
    fn clear_uris_are_made_canonical_and_ambiguous_ones_are_refused() {
        for (given, expected) in [
            ("rtsp://ann:p@ss#1/x?:é@cam/live", Some("rtsp://ann:p%40ss%231%2Fx%3F%3A%C3%A9@cam/live")),
            ("rtsp://ann:p%40ss@cam/live", Some("rtsp://ann:p%40ss@cam/live")),
            ("rtsp://ann:50%@cam/live", Some("rtsp://ann:50%25@cam/live")),
            ("rtsp://me@mail.example:p@ss@cam:554/live", Some("rtsp://me%40mail.example:p%40ss@cam:554/live")),
            ("rtsp://ann:pa/ss@[::1]:554/live", Some("rtsp://ann:pa%2Fss@[::1]:554/live")),
            ("rtsp://token@cam/live@720p", Some("rtsp://token@cam/live@720p")),
            ("http://ann:p\\ss@h.example/", Some("http://ann:p%5Css@h.example/")),
            ("https://h.example/i/name@12345/master.m3u8", Some("https://h.example/i/name@12345/master.m3u8")),
            ("https://ann:pw@h.example/i/name@12345/a.m3u8", Some("https://ann:pw@h.example/i/name@12345/a.m3u8")),
            ("http://h.example:8080/me@mail.example/pw/1.ts", Some("http://h.example:8080/me@mail.example/pw/1.ts")),
            ("srt://enc:9000?streamid=#!::r=me@x", Some("srt://enc:9000?streamid=#!::r=me@x")),
            ("srt://:9000?mode=listener", Some("srt://:9000?mode=listener")),
            ("udp://@239.1.2.3:5004", Some("udp://@239.1.2.3:5004")),
            ("file:///a:b@c.mp4", Some("file:///a:b@c.mp4")),
            ("/a:b@c.mp4", Some("/a:b@c.mp4")),
            // "ss" and "cam" might both be the host.
            ("rtsp://ann:p@ss/x@cam/live", None),
            ("rtsp://ann:p@ss?x@cam/live", None),
            ("rtsp://ann:1234/56@cam/live", None),
            ("rtsp://ann:1234?56@cam/live", None),
            ("http://ann:pw@h.example/a.m3u8?mail=me@there", None),
            ("rtsp://ann:geheim#1", None),
            ("http://h:notaport/a.mp4", None),
            ("rtsp://ann:pw@", None),
        ] {
            assert_eq!(canonical(given).as_deref(), expected, "{given}");
        }
    }

    /// Whether `text` holds four characters of `secret` in a row.
    fn leaks(text: &str, secret: &str) -> bool {
        let letters: Vec<char> = secret.chars().collect();
        letters.windows(4).any(|piece| text.contains(&piece.iter().collect::<String>()))
    }

    #[test]
    fn no_part_of_a_random_password_leaks() {
        let mut random = SmallRng::seed_from_u64(13);
        let alphabet: Vec<char> = "@:/#?@:/#?qxzvkjQXZ0123456789.-_%é".chars().collect();
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let length = random.random_range(1..16);
            let password: String = (0..length).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
            // Text that looks percent-encoded is decoded.
            if redact::percent_decode(&password) != password.as_bytes() {
                continue;
            }
            let scheme = ["rtsp", "rtsps", "http", "https", "rtmp"][random.random_range(0..5)];
            let host = ["cam", "cam.example", "10.1.2.3", "[2001:db8::1]"][random.random_range(0..4)];
            let rest = ["", ":8554/live", "/live", "/app/stream?a=b"][random.random_range(0..4)];
            let given = format!("{scheme}://ann:{password}@{host}{rest}");
            for redacted in [redact::uri(&given), redact::text(&format!("cannot open {given}: no"))] {
                assert!(!leaks(&redacted, &password), "{given}: {redacted}");
            }
            match canonical(&given) {
                None => refused += 1,
                Some(canonical_uri) => {
                    accepted += 1;
                    let url = Url::parse(&canonical_uri).unwrap_or_else(|e| panic!("{given}: {canonical_uri}: {e}"));
                    let decoded = |text| String::from_utf8(redact::percent_decode(text)).unwrap();
                    assert_eq!((url.username(), url.host_str()), ("ann", Some(host)), "{given}: {canonical_uri}");
                    assert_eq!(decoded(url.password().unwrap_or_default()), password, "{given}: {canonical_uri}");
                    assert_eq!(
                        canonical(&canonical_uri).as_deref(),
                        Some(&canonical_uri[..]),
                        "the canonical form is stable"
                    );
                }
            }
        }
        assert!(accepted > refused && refused > 100, "{accepted} accepted, {refused} refused");
    }
}
