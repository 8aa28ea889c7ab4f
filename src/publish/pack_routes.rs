//! `GET` and `POST /api/v1/pack`: who may ask for another pack, and how the answer reads.
//!
//! There is no login, and a pack changes what the program says: so a request counts only on an address of this machine
//! (or when that was allowed), only below the root of packs, and never from another site's page. A browser sends
//! `Origin` with every POST. A page whose name was pointed at this machine has that name in `Host` as well, so a name in
//! either is not believed; a page cannot make its origin a bare address.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use url::{Host, Url};

use super::http::{Server, json, problem};
use super::packs::{PackDesk, Refused, RefusedKind};
use super::record::to_json;

/// Bytes of a request's body: a path and little else.
const BODY_MAX: usize = 4096;

/// Who may change the pack.
#[derive(Clone, Debug)]
pub struct PackAccess {
    pub desk: PackDesk,
    /// Requests are listened to at all: the server listens on this machine only, or it was allowed.
    pub open: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Directory of a pack; absent: the running pack's directory, again.
    path: Option<String>,
}

pub(super) async fn get(State(server): State<Server>) -> Response {
    json(server.hub.pack_json(server.packs.as_ref().is_some_and(|access| access.open)))
}

pub(super) async fn post(State(server): State<Server>, request: Request) -> Response {
    match update(&server, request).await {
        Ok(answer) => answer,
        Err((status, error, advice)) => problem(status, &error, &advice),
    }
}

pub(super) type Problem = (StatusCode, String, String);

pub(super) fn fail(status: StatusCode, error: &str, advice: &str) -> Problem {
    (status, error.to_owned(), advice.to_owned())
}

async fn update(server: &Server, request: Request) -> Result<Response, Problem> {
    let access = server.packs.as_ref().filter(|access| access.open).ok_or_else(|| {
        fail(
            StatusCode::FORBIDDEN,
            "the pack cannot be changed over this address",
            "listen on 127.0.0.1, or start with --allow-pack-updates where everyone who reaches the server may do it",
        )
    })?;
    let (parts, body) = request.into_parts();
    same_site(&parts.headers)?;
    let body = small_body(body).await?;
    let wanted = wanted(&parts.headers, &body)?;
    if let Some(why) = server.hub.not_ready() {
        return Err(fail(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("not ready: {why}"),
            "ask again when /readyz says ready",
        ));
    }
    let outcome = access.desk.ask(wanted.path.map(Into::into)).map_err(refused)?;
    match outcome.await {
        Ok(Ok(applied)) => Ok(json(to_json(&applied))),
        Ok(Err(why)) => Err(refused(why)),
        // The pack thread ended with the request in its hands.
        Err(_) => Err(fail(StatusCode::SERVICE_UNAVAILABLE, "the program ends", "start it again")),
    }
}

/// The status that says whose fault it is.
fn refused(why: Refused) -> Problem {
    let status = match why.kind {
        RefusedKind::Busy => StatusCode::CONFLICT,
        RefusedKind::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        RefusedKind::OutsideRoot => StatusCode::FORBIDDEN,
        RefusedKind::BadPack | RefusedKind::Incompatible => StatusCode::UNPROCESSABLE_ENTITY,
        RefusedKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, why.error, why.advice)
}

/// Refuses what a browser sends for another site's page. Programs send no `Origin`.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = || {
        let advice = "ask with a program such as curl, or from this server's own page under its address";
        fail(StatusCode::FORBIDDEN, "the request comes from another site's page", advice)
    };
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(foreign());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let parse = |text: &str| Url::parse(text).ok().filter(|url| url.scheme() == "http");
    let origin = origin.to_str().ok().and_then(parse).ok_or_else(foreign)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| parse(&format!("http://{host}/"))).ok_or_else(foreign)?;
    let is_address = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(_) => true,
        None => false,
    };
    let same = origin.host() == host.host() && origin.port_or_known_default() == host.port_or_known_default();
    if same && is_address(&host) { Ok(()) } else { Err(foreign()) }
}

pub(super) async fn small_body(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, BODY_MAX).await.map_err(|_| {
        fail(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is longer than {BODY_MAX} bytes or did not arrive"),
            "send what is asked for and nothing else",
        )
    })
}

fn wanted(headers: &HeaderMap, body: &[u8]) -> Result<Wanted, Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    let is_json = kind.and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let nothing = empty && kind.is_none();
    if !is_json && !nothing {
        let advice = "send -H 'Content-Type: application/json'";
        return Err(fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json", advice));
    }
    if empty {
        return Ok(Wanted::default());
    }
    serde_json::from_slice(body).map_err(|e| {
        let advice = "send {\"path\": \"NAME\"}, or nothing to read the running pack's directory again";
        fail(StatusCode::BAD_REQUEST, &format!("the body does not say a pack: {e}"), advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_programs_and_the_servers_own_page_may_ask() {
        for (pairs, may) in [
            (&[("host", "127.0.0.1:8080")][..], true),
            (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")], true),
            (&[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")], true),
            (&[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true),
            (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9090")], false),
            (&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")], false),
            (&[("host", "127.0.0.1:8080"), ("origin", "null")], false),
            // A name that was pointed at this machine.
            (&[("host", "evil.example:8080"), ("origin", "http://evil.example:8080")], false),
            (&[("origin", "http://127.0.0.1:8080")], false),
            (&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")], false),
            (&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "none")], true),
        ] {
            assert_eq!(same_site(&headers(pairs)).is_ok(), may, "{pairs:?}");
        }
    }

    #[test]
    fn bodies_are_json_or_nothing() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        assert_eq!(wanted(&json, br#"{"path":"new"}"#).unwrap().path.as_deref(), Some("new"));
        assert!(wanted(&json, b" ").unwrap().path.is_none());
        assert!(wanted(&headers(&[]), b"").unwrap().path.is_none());
        assert_eq!(wanted(&json, br#"{"pth":"new"}"#).err().unwrap().0, StatusCode::BAD_REQUEST);
        let text = headers(&[("content-type", "text/plain")]);
        for (headers, body) in [(&text, &b""[..]), (&text, b"{}"), (&headers(&[]), b"{}")] {
            assert_eq!(wanted(headers, body).err().unwrap().0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
    }
}
