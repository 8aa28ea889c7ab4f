//! `GET` and `POST /api/v1/pack`: who may ask for another pack, and how the answer reads.
//!
//! A pack changes what the program says: who may ask is decided by `access`, and packs lie below the root of packs.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::http::{AppState, json, problem};
use super::packs::{PackControl, PackRefusal, PackRefusalKind};
use super::record::to_json;

/// Bytes of a request's body: a path and little else.
const BODY_MAX: usize = 4096;

/// Where changes of the pack are asked for.
#[derive(Clone, Debug)]
pub struct PackAccess {
    pub control: PackControl,
    /// Somebody may ask: what the pack's answer tells.
    pub open: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackUpdateBody {
    /// Directory of a pack; absent: the running pack's directory, again.
    path: Option<String>,
}

pub(super) async fn get(State(server): State<AppState>) -> Response {
    json(server.hub.pack_json(server.packs.as_ref().is_some_and(|access| access.open)))
}

pub(super) async fn post(State(server): State<AppState>, request: Request) -> Response {
    match update(&server, request).await {
        Ok(answer) => answer,
        Err((status, error, advice)) => problem(status, &error, &advice),
    }
}

pub(super) type Problem = (StatusCode, String, String);

pub(super) fn fail(status: StatusCode, error: &str, advice: &str) -> Problem {
    (status, error.to_owned(), advice.to_owned())
}

async fn update(server: &AppState, request: Request) -> Result<Response, Problem> {
    let access = server.packs.as_ref().ok_or_else(|| {
        fail(StatusCode::FORBIDDEN, "the pack of this server cannot be changed", "start it with `touchline run`")
    })?;
    let (parts, body) = request.into_parts();
    let body = small_body(body).await?;
    let wanted = wanted(&parts.headers, &body)?;
    ready(server)?;
    let outcome = access.control.submit(wanted.path.map(Into::into)).map_err(refused)?;
    match outcome.await {
        Ok(Ok(applied)) => Ok(json(to_json(&applied))),
        Ok(Err(why)) => Err(refused(why)),
        // The pack thread ended with the request in its hands.
        Err(_) => Err(fail(StatusCode::SERVICE_UNAVAILABLE, "the program ends", "start it again")),
    }
}

/// The status that says whose fault it is.
fn refused(why: PackRefusal) -> Problem {
    let status = match why.kind {
        PackRefusalKind::Busy => StatusCode::CONFLICT,
        PackRefusalKind::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        PackRefusalKind::OutsideRoot => StatusCode::FORBIDDEN,
        PackRefusalKind::BadPack | PackRefusalKind::Incompatible => StatusCode::UNPROCESSABLE_ENTITY,
        PackRefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, why.error, why.advice)
}

/// Whether changes can be carried out yet, or still.
pub(super) fn ready(server: &AppState) -> Result<(), Problem> {
    let Some(why) = server.hub.not_ready() else { return Ok(()) };
    let advice = "ask again when /readyz says ready";
    Err(fail(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}"), advice))
}

/// The type of a body, without parameters and in lower case; empty where none is said.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The answer to a body of another type.
pub(super) fn not_json() -> Problem {
    let advice = "send -H 'Content-Type: application/json'";
    fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json", advice)
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

fn wanted(headers: &HeaderMap, body: &[u8]) -> Result<PackUpdateBody, Problem> {
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let nothing = empty && !headers.contains_key(header::CONTENT_TYPE);
    if media_type(headers) != "application/json" && !nothing {
        return Err(not_json());
    }
    if empty {
        return Ok(PackUpdateBody::default());
    }
    serde_json::from_slice(body).map_err(|e| {
        let advice = "send {\"path\": \"NAME\"}, or nothing to read the running pack's directory again";
        fail(StatusCode::BAD_REQUEST, &format!("the body does not say a pack: {e}"), advice)
    })
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub(super) fn fuzz_wanted(headers: &HeaderMap, body: &[u8]) {
    let _ = wanted(headers, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
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
