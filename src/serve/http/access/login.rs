//! `/api/v1/session`: POST exchanges a token for a session cookie, GET returns the caller's role, DELETE ends the
//! session.
//!
//! Browsers need it: their event streams and images cannot send a token. Scripts cannot read the cookie, and the
//! browser does not send it with requests from other sites.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Access, AuthMethod, Caller, Credential, Denied, Peer, address, origin, sessions};
use crate::http::answer::{ApiError, json, media_type, problem};
use crate::record::to_json;

/// How long the answer to a log-out waits for the disk. The log-out itself takes effect at once.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The body of a login.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// An admin or a read token.
    token: String,
}

/// The token in the body of a login.
///
/// # Errors
/// Describes the fault without quoting the body: it may contain a mistyped token.
pub fn parse_login(body: &[u8]) -> Result<String, &'static str> {
    serde_json::from_slice::<Login>(body)
        .map(|login| login.token)
        .map_err(|_| "the body must be {\"token\": \"…\"} and nothing else")
}

/// Returns the role of the caller.
#[utoipa::path(get, path = "/api/v1/session", operation_id = "who", responses(
    (status = 200, description = "The role, and how the caller authenticated.", body = ref("#/components/schemas/Caller")),
    (status = 401), (status = 403), (status = 429),
))]
pub(crate) async fn get(State(access): State<Arc<Access>>, request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    match access.decide(address(request.extensions()), method, path, request.headers()) {
        Ok(caller) => json(to_json(&caller)),
        Err(denied) => access.refuse(denied, path),
    }
}

/// Exchanges a token for a session cookie.
#[utoipa::path(post, path = "/api/v1/session", operation_id = "logIn", request_body = ref("#/components/schemas/Login"), responses(
    (status = 200, description = "Set-Cookie contains the session.", body = ref("#/components/schemas/Caller")),
    (status = 400, description = "The body is not a login."),
    (status = 401), (status = 415), (status = 429),
    (status = 503, description = "No session can be created."),
))]
pub(crate) async fn post(
    State(access): State<Arc<Access>>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !origin::is_own(&headers, false) {
        return access.refuse(Denied::ForeignSite, "");
    }
    // A form of another site cannot send this type.
    if media_type(&headers) != "application/json" {
        return ApiError::not_json().into_response();
    }
    let token = match parse_login(&body) {
        Ok(token) => token,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error, "see deploy/OPERATING.md"),
    };
    let role = match access.check_token(address(&extensions), token.trim()) {
        Ok(role) => role,
        Err(denied) => return access.refuse(denied, ""),
    };
    let Some(value) = access.sessions.make(&access.tokens(), role, access.now_s()) else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "cannot create a session", "retry in a second");
    };
    let answer = json(to_json(&Caller { role, by: AuthMethod::Session }));
    with_cookie(&access, answer, &value, sessions::LIFE_S, extensions.get::<Peer>())
}

/// Ends the session.
#[utoipa::path(delete, path = "/api/v1/session", operation_id = "logOut", responses(
    (status = 204, description = "The session has ended."),
))]
pub(crate) async fn delete(State(access): State<Arc<Access>>, request: Request) -> Response {
    if !origin::is_own(request.headers(), false) {
        return access.refuse(Denied::ForeignSite, "");
    }
    if let Credential::Session(value) = access.credential(request.headers())
        && let Some(stored) = access.sessions.leave(&access.tokens(), value, access.now_s())
        && !matches!(tokio::time::timeout(ARCHIVE_TIMEOUT, stored).await, Ok(Ok(())))
    {
        tracing::error!("a log-out could not be written to --state; that session is valid again after a restart");
    }
    with_cookie(&access, StatusCode::NO_CONTENT.into_response(), "", 0, request.extensions().get::<Peer>())
}

fn with_cookie(access: &Access, mut answer: Response, value: &str, life_s: u64, peer: Option<&Peer>) -> Response {
    let secure = if peer.is_some_and(|peer| peer.tls) { "; Secure" } else { "" };
    let name = access.cookie();
    let cookie = format!("{name}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::from_str(&cookie).expect("base64 and digits are valid in a header");
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    answer
}
