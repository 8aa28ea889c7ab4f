//! Distinguishes requests of programs and of the server's own page from those of other sites' pages.
//!
//! A browser sends `Origin` with every change. With DNS rebinding, a foreign page has the same name in `Origin` and
//! `Host`, so without a credential only addresses are accepted: a page cannot make its origin an address that is not
//! its own. With a token or a session a name is accepted, because browsers bind both to it.

use axum::http::{HeaderMap, header};
use url::{Host, Url};

/// Whether a change comes from a program or the server's own page. `anonymous`: the request has no token and no
/// session.
pub(super) fn is_own(headers: &HeaderMap, anonymous: bool) -> bool {
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    own_origin(headers, origin.to_str().ok(), anonymous).unwrap_or(false)
}

/// Whether `Host` is an address, `localhost` or absent. Browsers always send `Host`.
pub(super) fn is_asked_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().ok().and_then(|host| Url::parse(&format!("http://{host}/")).ok());
    host.is_some_and(|host| is_address(host.host()))
}

fn is_address(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

fn own_origin(headers: &HeaderMap, origin: Option<&str>, anonymous: bool) -> Option<bool> {
    let origin = Url::parse(origin?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = headers.get(header::HOST)?.to_str().ok()?;
    // A proxy may terminate TLS: the scheme is not compared.
    let host = Url::parse(&format!("{}://{host}/", origin.scheme())).ok()?;
    let is_address = is_address(host.host());
    let is_same = origin.host() == host.host() && origin.port_or_known_default() == host.port_or_known_default();
    Some(is_same && (is_address || !anonymous))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_programs_and_pages_of_this_server_are_accepted() {
        for (pairs, allowed, allowed_with_token) in [
            (&[("host", "127.0.0.1:8080")][..], true, true),
            (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")], true, true),
            (&[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")], true, true),
            (&[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true, true),
            (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9090")], false, false),
            (&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")], false, false),
            (&[("host", "127.0.0.1:8080"), ("origin", "null")], false, false),
            // A name that resolves to this machine is accepted with a token only.
            (&[("host", "box.example:8080"), ("origin", "http://box.example:8080")], false, true),
            (&[("host", "box.example"), ("origin", "https://box.example")], false, true),
            (&[("origin", "http://127.0.0.1:8080")], false, false),
            (&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")], false, false),
            (&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "none")], true, true),
        ] {
            assert_eq!(is_own(&headers(pairs), true), allowed, "{pairs:?}");
            assert_eq!(is_own(&headers(pairs), false), allowed_with_token, "{pairs:?}");
        }
        for (host, expected) in
            [("[::1]:80", true), ("localhost", true), ("127.0.0.1:8080", true), ("evil.example", false), ("", false)]
        {
            assert_eq!(is_asked_by_address(&headers(&[("host", host)])), expected, "{host}");
        }
        assert!(is_asked_by_address(&HeaderMap::new()));
    }
}
