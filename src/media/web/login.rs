//! The credential jar: cookies and logins that a server expects with later requests.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cookie_store::CookieStore;
use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use touchline_core::redact;

/// The most cookies of a source. Further ones are ignored.
const COOKIES_MAX: usize = 100;

/// The longest cookie, bytes.
const COOKIE_MAX: usize = 4096;

/// The most servers whose challenges are kept.
const SERVERS_MAX: usize = 100;

/// The cookies and challenges of one connection. A source that is opened again starts with an empty jar.
#[derive(Debug, Default)]
pub(super) struct CredentialJar {
    cookies: CookieStore,
    /// Login schemes by origin.
    logins: HashMap<String, Login>,
}

/// The login scheme of a server.
#[derive(Debug)]
enum Login {
    /// RFC 7617.
    Basic,
    /// RFC 7616, with the challenge that is answered.
    Digest(Box<WwwAuthenticateHeader>),
}

impl CredentialJar {
    /// The cookie and login headers for a request of `url`, whose path and query are `path`.
    pub fn headers(&mut self, url: &Url, method: &Method, path: &str) -> Vec<(HeaderName, HeaderValue)> {
        let cookies: Vec<String> =
            self.cookies.get_request_values(url).map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = Some(cookies.join("; ")).filter(|cookies| !cookies.is_empty());
        let login = self.login(url, method, path);
        let both = [(header::COOKIE, cookies), (header::AUTHORIZATION, login)];
        // Skips values that are not valid in a header.
        both.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value?).ok()?))).collect()
    }

    fn login(&mut self, url: &Url, method: &Method, path: &str) -> Option<String> {
        let (user, password) = credentials(url)?;
        match self.logins.get_mut(&url.origin().ascii_serialization())? {
            Login::Basic => {
                Some(format!("Basic {}", BASE64_STANDARD.encode([&user[..], b":", &password[..]].concat())))
            }
            Login::Digest(challenge) => {
                let method = if method == Method::HEAD { HttpMethod::HEAD } else { HttpMethod::GET };
                let (user, password) = (String::from_utf8_lossy(&user), String::from_utf8_lossy(&password));
                let context = AuthContext::new_with_method(user, password, path, None::<&[u8]>, method);
                challenge.respond(&context).ok().map(|login| login.to_header_string())
            }
        }
    }

    /// Stores the cookies of a response from `url`.
    pub fn keep(&mut self, url: &Url, answer: &HeaderMap) {
        for cookie in answer.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let has_room = self.cookies.iter_any().count() < COOKIES_MAX;
            if cookie.len() <= COOKIE_MAX && has_room {
                // Fails for a cookie of another domain, which is ignored.
                let _ = self.cookies.parse(cookie, url);
            }
        }
    }

    /// Stores the challenge of a 401. Returns whether to repeat the request with the login.
    pub fn challenged(&mut self, url: &Url, answer: &HeaderMap) -> bool {
        if credentials(url).is_none() {
            return false;
        }
        let challenges: Vec<&str> =
            answer.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let named = |scheme: &str| challenges.iter().find_map(|c| Some(&c[c.to_ascii_lowercase().find(scheme)?..]));
        let digest = named("digest ").and_then(|challenge| WwwAuthenticateHeader::parse(challenge).ok());
        let login = match digest {
            Some(challenge) => Login::Digest(Box::new(challenge)),
            None if named("basic").is_some() => Login::Basic,
            None => return false,
        };
        let origin = url.origin().ascii_serialization();
        // The login was sent already and rejected.
        let is_wrong = matches!((self.logins.get(&origin), &login), (Some(Login::Basic), Login::Basic));
        let has_room = self.logins.len() < SERVERS_MAX || self.logins.contains_key(&origin);
        if has_room {
            self.logins.insert(origin, login);
        }
        has_room && !is_wrong
    }
}

/// User and password of a URL, decoded.
pub(crate) fn credentials(url: &Url) -> Option<(Vec<u8>, Vec<u8>)> {
    let password = url.password();
    let is_there = !url.username().is_empty() || password.is_some();
    is_there.then(|| (redact::percent_decode(url.username()), redact::percent_decode(password.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn sent(jar: &mut CredentialJar, url: &Url, name: HeaderName) -> Option<String> {
        let all = jar.headers(url, &Method::GET, url.path());
        all.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_login_is_sent_only_to_the_server_that_requires_it() {
        let mut jar = CredentialJar::default();
        let url = Url::parse("http://ann:gr%C3%BCn%26mehr@h.example/a").unwrap();
        assert_eq!(sent(&mut jar, &url, header::AUTHORIZATION), None);
        let basic = answer(&[(header::WWW_AUTHENTICATE, "Basic realm=\"t\"")]);
        assert!(jar.challenged(&url, &basic));
        let login = format!("Basic {}", BASE64_STANDARD.encode("ann:grün&mehr"));
        assert_eq!(sent(&mut jar, &url, header::AUTHORIZATION), Some(login));
        assert!(!jar.challenged(&url, &basic), "the login was refused");
        for elsewhere in ["http://ann:x@other.example/", "https://ann:x@h.example/", "http://h.example/"] {
            assert_eq!(sent(&mut jar, &Url::parse(elsewhere).unwrap(), header::AUTHORIZATION), None, "{elsewhere}");
        }
        assert!(!jar.challenged(&Url::parse("http://h.example/").unwrap(), &basic), "there is no login");
        assert!(!jar.challenged(&url, &answer(&[(header::WWW_AUTHENTICATE, "Negotiate")])));
    }

    /// The example of RFC 2617, section 3.5, with another client nonce, so the response is recomputed.
    #[test]
    fn digest_is_answered_and_counted() {
        let mut jar = CredentialJar::default();
        let url = Url::parse("http://Mufasa:Circle%20Of%20Life@h.example/dir/index.html").unwrap();
        let challenge = "Basic realm=\"t\", Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        assert!(jar.challenged(&url, &answer(&[(header::WWW_AUTHENTICATE, challenge)])));
        for count in 1..=2 {
            let authorization = sent(&mut jar, &url, header::AUTHORIZATION).unwrap();
            let authorization = digest_auth::AuthorizationHeader::parse(&authorization).unwrap();
            assert_eq!(
                (authorization.nc, authorization.uri.as_str(), authorization.username.as_str()),
                (count, "/dir/index.html", "Mufasa")
            );
            let mut expected = authorization.clone();
            let mut context = AuthContext::new("Mufasa", "Circle Of Life", "/dir/index.html");
            context.set_custom_cnonce(authorization.cnonce.clone().unwrap());
            expected.digest(&context);
            assert_eq!(authorization.response, expected.response);
        }
        let stale = challenge.replace("dcd98b", "eeeeee");
        assert!(jar.challenged(&url, &answer(&[(header::WWW_AUTHENTICATE, &stale)])), "the nonce has expired");
    }

    #[test]
    fn cookies_are_sent_only_to_their_server() {
        let mut jar = CredentialJar::default();
        let url = Url::parse("http://h.example/a/live.m3u8").unwrap();
        jar.keep(
            &url,
            &answer(&[(header::SET_COOKIE, "k=1; Path=/a"), (header::SET_COOKIE, "s=2; Domain=evil.example")]),
        );
        assert_eq!(
            sent(&mut jar, &Url::parse("http://h.example/a/1.ts").unwrap(), header::COOKIE).as_deref(),
            Some("k=1")
        );
        for elsewhere in ["http://h.example/b", "http://evil.example/a/", "http://other.example/a/"] {
            assert_eq!(sent(&mut jar, &Url::parse(elsewhere).unwrap(), header::COOKIE), None, "{elsewhere}");
        }
        for n in 0..1000 {
            jar.keep(&url, &answer(&[(header::SET_COOKIE, &format!("c{n}=1"))]));
        }
        assert_eq!(jar.cookies.iter_any().count(), COOKIES_MAX);
    }
}
