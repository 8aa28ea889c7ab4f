//! `/api/v1/session`: POST exchanges a token for a session cookie, DELETE ends it, GET says who one is.
//!
//! For browsers, whose event streams and pictures cannot send a token. The cookie is out of reach of scripts and is sent to
//! no request that another site makes.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::super::http::{AppState, json, problem};
use super::super::pack_routes::{media_type, not_json};
use super::super::record::to_json;
use super::{Access, AuthMethod, BODY_MAX, Caller, Credential, Denied, Peer, address, origin, sessions};

/// How long an answer to a log-out waits for the disk. It is in effect before.
const KEPT_LIMIT: Duration = Duration::from_secs(2);

/// The body of a login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

/// The token in a login's body.
///
/// # Errors
/// What is wrong with the body, without its content: a mistyped token would be told.
pub fn parse_login(body: &[u8]) -> Result<String, &'static str> {
    serde_json::from_slice::<Login>(body)
        .map(|login| login.token)
        .map_err(|_| "the body must be {\"token\": \"…\"} and nothing else")
}

pub(in crate::publish) async fn get(State(server): State<AppState>, request: Request) -> Response {
    let access = &server.access;
    let (method, path) = (request.method(), request.uri().path());
    match access.decide(address(&request), method, path, request.headers()) {
        Ok(caller) => json(to_json(&caller)),
        Err(denied) => access.refuse(denied, path),
    }
}

pub(in crate::publish) async fn post(State(server): State<AppState>, request: Request) -> Response {
    let access = &server.access;
    let peer = request.extensions().get::<Peer>().copied();
    let from = address(&request);
    let (parts, body) = request.into_parts();
    if !origin::is_own(&parts.headers, false) {
        return access.refuse(Denied::ForeignSite, "");
    }
    // A form of another site cannot send this type.
    if media_type(&parts.headers) != "application/json" {
        let (status, error, advice) = not_json();
        return problem(status, &error, &advice);
    }
    let body: Bytes = to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let token = match parse_login(&body) {
        Ok(token) => token,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error, "see deploy/OPERATING.md"),
    };
    let role = match access.check_token(from, token.trim()) {
        Ok(role) => role,
        Err(denied) => return access.refuse(denied, ""),
    };
    let Some(value) = access.sessions.make(&access.tokens(), role, access.now_s()) else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no session can be made now", "try again");
    };
    let answer = json(to_json(&Caller { role, by: AuthMethod::Session }));
    with_cookie(access, answer, &value, sessions::LIFE_S, peer)
}

pub(in crate::publish) async fn delete(State(server): State<AppState>, request: Request) -> Response {
    let access = &server.access;
    if !origin::is_own(request.headers(), false) {
        return access.refuse(Denied::ForeignSite, "");
    }
    if let Credential::Session(value) = access.credential(request.headers())
        && let Some(kept) = access.sessions.leave(&access.tokens(), value, access.now_s())
        && !matches!(tokio::time::timeout(KEPT_LIMIT, kept).await, Ok(Ok(())))
    {
        tracing::error!("a log-out is not on the disk of --state: after a restart that session is valid again");
    }
    let peer = request.extensions().get::<Peer>().copied();
    with_cookie(access, StatusCode::NO_CONTENT.into_response(), "", 0, peer)
}

fn with_cookie(access: &Access, mut answer: Response, value: &str, life_s: u64, peer: Option<Peer>) -> Response {
    let secure = if peer.is_some_and(|peer| peer.tls) { "; Secure" } else { "" };
    let name = access.cookie();
    let cookie = format!("{name}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::from_str(&cookie).expect("base64 and digits may stand in a header");
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    answer
}
