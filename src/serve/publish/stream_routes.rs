//! `POST`, `PATCH` and `DELETE /api/v1/streams`: who may change what is watched, and how the answers read.
//!
//! Who may ask is decided by `access`, what may be asked for by the policy for sources. Only JSON, only a small body.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::http::{AppState, json, no_stream, problem};
use super::pack_routes::{Problem, fail, media_type, not_json, ready, small_body};
use super::streams::{NewStream, StreamChange, StreamControl, StreamPatch, StreamRefusal, StreamRefusalKind};
use touchline_core::cause::Cause;
use touchline_media::guard::SourcePolicy;

/// How long a change may take before the client is told to look later: a source gets eight seconds to stop and may be
/// opened after that.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who may change the streams.
#[derive(Clone, Debug)]
pub struct StreamAccess {
    pub control: StreamControl,
    /// What a source may be.
    pub policy: Arc<SourcePolicy>,
}

pub(super) async fn post(State(server): State<AppState>, request: Request) -> Response {
    answer(add(&server, request).await)
}

pub(super) async fn patch(State(server): State<AppState>, Path(id): Path<String>, request: Request) -> Response {
    answer(change(&server, id, request).await)
}

pub(super) async fn delete(State(server): State<AppState>, Path(id): Path<String>, request: Request) -> Response {
    answer(remove(&server, id, request).await)
}

pub(super) async fn config(State(server): State<AppState>) -> Response {
    match &server.streams {
        Some(access) => json(access.control.config().json()),
        None => problem(StatusCode::NOT_FOUND, "there is no configuration here", "see /api/v1/streams"),
    }
}

/// One stream with its history; the ETag is the version of its settings.
pub(super) async fn get(State(server): State<AppState>, Path(id): Path<String>) -> Response {
    match server.hub.stream_json(&id) {
        Some(body) => (tag(&server, &id), json(body)).into_response(),
        None => no_stream(&id),
    }
}

fn answer(outcome: Result<Response, Problem>) -> Response {
    outcome.unwrap_or_else(|(status, error, advice)| problem(status, &error, &advice))
}

async fn add(server: &AppState, request: Request) -> Result<Response, Problem> {
    let (control, headers, body) = open(server, request).await?;
    let new: NewStream = parse(&headers, &body)?;
    new.check().map_err(refused)?;
    is_allowed(server, &new.uri).await?;
    let id = carry_out(server, control, StreamChange::Add(new)).await?;
    // Ids hold nothing that a path could not.
    let location = format!("/api/v1/streams/{id}");
    let body = server.hub.summary_json(&id).unwrap_or_default();
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tag(server, &id), json(body)).into_response())
}

async fn change(server: &AppState, id: String, request: Request) -> Result<Response, Problem> {
    let (control, headers, body) = open(server, request).await?;
    let patch: Box<StreamPatch> = parse(&headers, &body)?;
    let generation = if_match(&headers)?;
    patch.check().map_err(refused)?;
    if let Some(uri) = &patch.uri {
        is_allowed(server, uri).await?;
    }
    let id = carry_out(server, control, StreamChange::Change { id, patch, generation }).await?;
    let body = server.hub.summary_json(&id).unwrap_or_default();
    Ok((tag(server, &id), json(body)).into_response())
}

async fn remove(server: &AppState, id: String, request: Request) -> Result<Response, Problem> {
    let (control, headers, body) = open(server, request).await?;
    if !body.is_empty() {
        return Err(fail(StatusCode::BAD_REQUEST, "DELETE takes no body", "send none"));
    }
    let generation = if_match(&headers)?;
    carry_out(server, control, StreamChange::Remove { id, generation }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether the request is listened to; its parts.
async fn open(server: &AppState, request: Request) -> Result<(&StreamControl, HeaderMap, axum::body::Bytes), Problem> {
    let access = server.streams.as_ref().ok_or_else(|| {
        let advice = "start it with `touchline run`";
        fail(StatusCode::FORBIDDEN, "the streams of this server cannot be changed", advice)
    })?;
    let (parts, body) = request.into_parts();
    let body = small_body(body).await?;
    Ok((&access.control, parts.headers, body))
}

/// Whether a stream may play `uri`. Resolves its host.
async fn is_allowed(server: &AppState, uri: &str) -> Result<(), Problem> {
    let Some(access) = &server.streams else { return Ok(()) };
    let (policy, uri) = (access.policy.clone(), uri.to_owned());
    let checked = tokio::task::spawn_blocking(move || policy.check(&uri)).await;
    match checked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refusal)) if refusal.kind == Cause::Refused => {
            Err(fail(StatusCode::FORBIDDEN, &refusal.cause, &refusal.advice))
        }
        // What is wrong may be right later: the stream is opened again and again.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(fail(StatusCode::SERVICE_UNAVAILABLE, "the program ends", "start it again")),
    }
}

fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    if !matches!(media_type(headers).as_str(), "application/json" | "application/merge-patch+json") {
        return Err(not_json());
    }
    serde_json::from_slice(body).map_err(|e| {
        // What serde quotes of a value may be a URI with its password.
        let text = touchline_core::redact::text(&e.to_string());
        let advice = "see /api/v1/openapi.json for the keys there are";
        if e.is_data() {
            fail(StatusCode::UNPROCESSABLE_ENTITY, &format!("the body does not fit: {text}"), advice)
        } else {
            fail(StatusCode::BAD_REQUEST, &format!("the body is no JSON: {text}"), advice)
        }
    })
}

/// The version that `If-Match` names; `*` is any.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let advice = "send the ETag of GET as it is, with its quotation marks";
        fail(StatusCode::PRECONDITION_FAILED, "If-Match names no version of a stream's settings", advice)
    })
}

fn tag(server: &AppState, id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let version = server.hub.generation(id).and_then(|n| HeaderValue::from_str(&format!("\"{n}\"")).ok());
    if let Some(version) = version {
        headers.insert(header::ETAG, version);
    }
    headers
}

async fn carry_out(server: &AppState, control: &StreamControl, wanted: StreamChange) -> Result<String, Problem> {
    ready(server)?;
    let outcome = control.submit(wanted).map_err(refused)?;
    match tokio::time::timeout(PATIENCE, outcome).await {
        Ok(Ok(outcome)) => outcome.map_err(refused),
        Ok(Err(_)) => Err(refused(StreamControl::ends())),
        Err(_) => {
            let text = format!("the change is not through after {} s; it goes on", PATIENCE.as_secs());
            Err(fail(StatusCode::GATEWAY_TIMEOUT, &text, "GET shows how far it is"))
        }
    }
}

/// The status that says whose fault it is.
fn refused(why: StreamRefusal) -> Problem {
    let status = match why.kind {
        StreamRefusalKind::Unknown => StatusCode::NOT_FOUND,
        StreamRefusalKind::Duplicate
        | StreamRefusalKind::Limit
        | StreamRefusalKind::NotOwned
        | StreamRefusalKind::Busy => StatusCode::CONFLICT,
        StreamRefusalKind::Outdated => StatusCode::PRECONDITION_FAILED,
        StreamRefusalKind::Invalid | StreamRefusalKind::Source => StatusCode::UNPROCESSABLE_ENTITY,
        StreamRefusalKind::Store => StatusCode::INSUFFICIENT_STORAGE,
        StreamRefusalKind::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, why.error, why.advice)
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub(super) fn fuzz_parse(headers: &HeaderMap, body: &[u8]) {
    let _ = (parse::<NewStream>(headers, body).is_ok(), parse::<StreamPatch>(headers, body).is_ok());
    let _ = if_match(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn bodies_are_json_and_say_what_does_not_fit() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        let new = |headers: &HeaderMap, text: &str| parse::<NewStream>(headers, text.as_bytes());
        assert_eq!(new(&json, r#"{"uri":"rtsp://h/a"}"#).unwrap().uri, "rtsp://h/a");
        let (status, error, _) = new(&json, r#"{"uri":"rtsp://h/a","ury":1}"#).unwrap_err();
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY && error.contains("ury"), "{error}");
        let (status, error, _) = new(&json, r#"{"uri":"rtsp://h/a","vote":{"windwo":1}}"#).unwrap_err();
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY && error.contains("windwo"), "{error}");
        assert_eq!(new(&json, r#"{"uri":"#).unwrap_err().0, StatusCode::BAD_REQUEST);
        for other in [headers(&[]), headers(&[("content-type", "text/plain")])] {
            assert_eq!(new(&other, "{}").unwrap_err().0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let (_, error, _) = new(&json, r#"{"uri":{"rtsp://ann:geheim55@h/a":1}}"#).unwrap_err();
        assert!(!error.contains("geheim55"), "{error}");
    }

    #[test]
    fn versions_are_read_as_they_were_given() {
        let of = |text: &'static str| if_match(&headers(&[("if-match", text)]));
        assert_eq!(if_match(&headers(&[])).unwrap(), None);
        assert_eq!(of("*").unwrap(), None);
        assert_eq!(of("\"17\"").unwrap(), Some(17));
        for bad in ["17", "W/\"17\"", "\"x\"", "\"1\", \"2\""] {
            assert_eq!(of(bad).unwrap_err().0, StatusCode::PRECONDITION_FAILED, "{bad}");
        }
    }
}
