//! `GET`, `POST`, `PATCH` and `DELETE /api/v1/streams`, and `GET /api/v1/config`.
//!
//! `access` decides who may call them, the source policy which sources they may open. Bodies are small JSON objects.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::answer::{ApiError, json, media_type, no_stream_here, refuse_body, unknown_key};
use super::app_state::{AppState, StreamAccess};
use super::extract::Place;
use crate::control::streams::{NewStream, StreamChange, StreamControl, StreamPatch, StreamRefusal, StreamRefusalKind};
use touchline_core::cause::Cause;

/// How long a request waits for its change. A source gets eight seconds to stop and may be opened after that.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// The path of a stream.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct StreamPath {
    /// Id of the stream.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    pub(crate) id: String,
}

/// Returns the sinks of the configuration file: what they have delivered, and what waits in their spools.
#[utoipa::path(get, path = "/api/v1/sinks", operation_id = "listSinks", responses(
    (status = 200, description = "The sinks.", body = ref("#/components/schemas/Sinks")),
))]
pub(crate) async fn sinks(State(state): State<AppState>) -> Response {
    json(state.hub.deliveries().json())
}

/// Returns the fleet as this machine sees it: machines, streams, and which machine watches which stream.
#[utoipa::path(get, path = "/api/v1/fleet", operation_id = "fleet", responses(
    (status = 200, description = "The fleet.", body = ref("#/components/schemas/Fleet")),
    (status = 404, description = "The program is in no fleet."),
))]
pub(crate) async fn fleet(State(state): State<AppState>) -> Result<Response, ApiError> {
    let advice = "start the program with --fleet";
    let json_of = state.hub.fleet_json();
    json_of.map(json).ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "the program is in no fleet", advice))
}

/// Returns the configuration file and its last reload (SIGHUP).
#[utoipa::path(get, path = "/api/v1/config", operation_id = "config", responses(
    (status = 200, description = "The configuration file and its reloads.", body = ref("#/components/schemas/Config")),
    (status = 404, description = "The server has no configuration."),
))]
pub(crate) async fn config(State(state): State<AppState>) -> Result<Response, ApiError> {
    match &state.streams {
        Some(access) => Ok(json(access.control.config().json())),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "there is no configuration", "see /api/v1/streams")),
    }
}

/// Lists the streams without their histories.
#[utoipa::path(get, path = "/api/v1/streams", operation_id = "listStreams", responses(
    (status = 200, description = "The streams, in the order in which they were added.", body = ref("#/components/schemas/Streams")),
))]
pub(crate) async fn list(State(state): State<AppState>) -> Response {
    json(state.hub.streams_json())
}

/// Returns a stream with its last ten minutes.
#[utoipa::path(get, path = "/api/v1/streams/{id}", operation_id = "getStream", params(StreamPath), responses(
    (status = 200, description = "The stream.", body = ref("#/components/schemas/StreamDetail"),
        headers(("ETag" = String, description = "Version of the stream's settings, for If-Match."))),
    (status = 404),
))]
pub(crate) async fn get(State(state): State<AppState>, Place(StreamPath { id }): Place<StreamPath>) -> Response {
    match state.hub.stream_json(&id) {
        Some(body) => (tag(&state, &id), json(body)).into_response(),
        None => no_stream_here(&state.hub, &id),
    }
}

/// Adds a stream.
///
/// With --state it survives a restart. Unless retry is false, a source that fails to open is retried.
#[utoipa::path(post, path = "/api/v1/streams", operation_id = "addStream", request_body = ref("#/components/schemas/NewStream"), responses(
    (status = 201, description = "The stream is added and stored.", body = ref("#/components/schemas/Stream"),
        headers(("ETag" = String, description = "Version of the stream's settings, for If-Match."), ("Location" = String, description = "Path of the stream."))),
    (status = 400, description = "The body is not JSON."),
    (status = 403, description = "The token may only read, changes are disabled on this address, the request comes from another site's page, or the source policy forbids the source."),
    (status = 409, description = "The id exists, or the stream limit (--max-streams) is reached."),
    (status = 415),
    (status = 422, description = "A key is unknown, a value is invalid, or the source cannot be opened."),
    (status = 503), (status = 504),
    (status = 507, description = "The stream cannot be stored and is not added."),
))]
pub(crate) async fn post(State(state): State<AppState>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let access = stream_access(&state)?;
    let new: NewStream = parse(&headers, &body)?;
    new.check().map_err(refusal)?;
    check_source(access, new.uri()).await?;
    let id = apply(&state, access, StreamChange::Add(Box::new(new))).await?;
    // An id has no character that a path must escape.
    let location = format!("/api/v1/streams/{id}");
    let body = state.hub.summary_json(&id).unwrap_or_default();
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tag(&state, &id), json(body)).into_response())
}

/// Changes a stream that the API added.
///
/// Absent keys stay; null selects the default of the run. The source is opened again only if its settings change.
#[utoipa::path(patch, path = "/api/v1/streams/{id}", operation_id = "changeStream",
    params(StreamPath, ("If-Match" = Option<String>, Header, nullable = false, description = "The ETag of GET. The request is refused if the settings have changed since.")),
    request_body(content(
        (ref("#/components/schemas/StreamPatch") = "application/json"),
        (ref("#/components/schemas/StreamPatch") = "application/merge-patch+json"),
    )),
    responses(
        (status = 200, description = "The stream is changed and stored.", body = ref("#/components/schemas/Stream"),
            headers(("ETag" = String, description = "Version of the stream's settings, for If-Match."))),
        (status = 400, description = "The body is not JSON."),
        (status = 403, description = "The token may only read, changes are disabled on this address, the request comes from another site's page, or the source policy forbids the source."),
        (status = 404),
        (status = 409, description = "The stream belongs to the configuration file or the command line, or another change of it is in progress."),
        (status = 412, description = "The settings have changed since they were read."),
        (status = 415),
        (status = 422, description = "A key is unknown, a value is invalid, or the source cannot be opened. The previous source continues."),
        (status = 503), (status = 504),
        (status = 507, description = "The change cannot be stored and is not made."),
    ))]
pub(crate) async fn patch(
    State(state): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let access = stream_access(&state)?;
    let patch: Box<StreamPatch> = parse(&headers, &body)?;
    let generation = if_match(&headers)?;
    patch.check().map_err(refusal)?;
    if let Some(uri) = &patch.uri {
        check_source(access, uri).await?;
    }
    let id = apply(&state, access, StreamChange::Change { id, patch, generation }).await?;
    let body = state.hub.summary_json(&id).unwrap_or_default();
    Ok((tag(&state, &id), json(body)).into_response())
}

/// Removes a stream that the API added.
///
/// It is removed from the API, the metrics and the store after its last whole second is published.
#[utoipa::path(delete, path = "/api/v1/streams/{id}", operation_id = "removeStream",
    params(StreamPath, ("If-Match" = Option<String>, Header, nullable = false, description = "The ETag of GET. The request is refused if the settings have changed since.")),
    responses(
        (status = 204, description = "The stream is removed."),
        (status = 400, description = "DELETE takes no body."),
        (status = 404),
        (status = 409, description = "The stream belongs to the configuration file or the command line, or another change of it is in progress."),
        (status = 412, description = "The settings have changed since they were read."),
        (status = 503), (status = 504),
        (status = 507, description = "The store cannot be written. The stream stays."),
    ))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let access = stream_access(&state)?;
    refuse_body(&body, "DELETE")?;
    let generation = if_match(&headers)?;
    apply(&state, access, StreamChange::Remove { id, generation }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) fn stream_access(state: &AppState) -> Result<&StreamAccess, ApiError> {
    state.streams.as_ref().ok_or_else(|| {
        let error = "the streams of this server cannot be changed";
        ApiError::new(StatusCode::FORBIDDEN, error, "start it with `touchline run`")
    })
}

/// Checks `uri` against the source policy. Resolves its host.
pub(crate) async fn check_source(access: &StreamAccess, uri: &str) -> Result<(), ApiError> {
    let (policy, uri) = (access.policy.clone(), uri.to_owned());
    match tokio::task::spawn_blocking(move || policy.check(&uri)).await {
        Ok(Err(refusal)) if refusal.kind == Cause::Refused => {
            Err(ApiError::new(StatusCode::FORBIDDEN, refusal.cause, refusal.advice))
        }
        // Other failures may be temporary. The supervisor retries the stream.
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::shutting_down()),
    }
}

pub(crate) fn parse<T: DeserializeOwned + JsonSchema>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    if !matches!(media_type(headers).as_str(), "application/json" | "application/merge-patch+json") {
        return Err(ApiError::not_json());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| (e.path().to_string(), e.into_inner()));
    let value = value.and_then(|value| reader.end().map(|()| value).map_err(|e| (".".to_owned(), e)));
    value.map_err(|(path, e)| {
        let text = unknown_key::<T>(body).unwrap_or_else(|| match path.as_str() {
            "." => e.to_string(),
            path => format!("{path}: {e}"),
        });
        // serde quotes values, and a value may be a URI with a password.
        let text = touchline_core::redact::text(&text);
        let advice = "see /api/v1/openapi.json for the keys";
        if e.is_data() {
            let error = format!("the body does not match the schema: {text}");
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error, advice)
        } else {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {text}"), advice)
        }
    })
}

/// The version in `If-Match`. `None` without the header and for `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let advice = "send the ETag of GET unchanged, with its quotation marks";
        ApiError::new(StatusCode::PRECONDITION_FAILED, "If-Match is not a valid ETag", advice)
    })
}

fn tag(state: &AppState, id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let version = state.hub.generation(id).and_then(|n| HeaderValue::from_str(&format!("\"{n}\"")).ok());
    if let Some(version) = version {
        headers.insert(header::ETAG, version);
    }
    headers
}

/// Submits a change and waits for its outcome.
async fn apply(state: &AppState, access: &StreamAccess, change: StreamChange) -> Result<String, ApiError> {
    state.check_ready()?;
    let outcome = access.control.submit(change).map_err(refusal)?;
    match tokio::time::timeout(CHANGE_TIMEOUT, outcome).await {
        Ok(Ok(outcome)) => outcome.map_err(refusal),
        Ok(Err(_)) => Err(refusal(StreamControl::shutting_down())),
        Err(_) => {
            let error = format!("not finished after {} s; still running", CHANGE_TIMEOUT.as_secs());
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, error, "poll GET for the state of the stream"))
        }
    }
}

pub(crate) fn refusal(refusal: StreamRefusal) -> ApiError {
    let status = match refusal.kind {
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
    ApiError::new(status, refusal.error, refusal.advice)
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub(crate) fn fuzz_parse(headers: &HeaderMap, body: &[u8]) {
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
    fn invalid_bodies_are_refused_with_the_cause() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        let new = |headers: &HeaderMap, text: &str| parse::<NewStream>(headers, text.as_bytes());
        assert_eq!(new(&json, r#"{"uri":"rtsp://h/a"}"#).unwrap().uri(), "rtsp://h/a");
        for (text, words) in [
            (r#"{"uri":"rtsp://h/a","ury":1}"#, "unknown key ury; did you mean uri?"),
            (r#"{"uri":"rtsp://h/a","max_hight":1}"#, "unknown key max_hight; did you mean max_height?"),
            (r#"{"uri":"rtsp://h/a","vote":{"windwo":1}}"#, "unknown key vote.windwo; did you mean vote.window?"),
            // A mistake before the unknown key.
            (r#"{"uri":1,"latency":1}"#, "unknown key latency; did you mean latency_ms?"),
            (r#"{"uri":"rtsp://h/a","pipeline":"x"}"#, "unknown key pipeline"),
            (r#"{"uri":"rtsp://h/a","output":"rtmp://h/a/b"}"#, "unknown key output"),
            (r#"{"uri":"rtsp://h/a","latency_ms":60001}"#, "latency_ms: 60001 is not allowed; choose 0 to 60000"),
            (r#"{"uri":"rtsp://h/a","max_height":0}"#, "max_height: 0 is not allowed; choose 1 to 8192"),
            (r#"{"uri":"rtsp://h/a","vote":{"window":"long"}}"#, "vote.window: invalid type"),
        ] {
            let ApiError { status, error, .. } = new(&json, text).unwrap_err();
            assert!(status == StatusCode::UNPROCESSABLE_ENTITY && error.contains(words), "{text}: {error}");
        }
        let patch = parse::<StreamPatch>(&json, br#"{"vote":{"windwo":1}}"#).unwrap_err().error;
        assert!(patch.contains("unknown key vote.windwo; did you mean vote.window?"), "{patch}");
        let patch = parse::<StreamPatch>(&json, br#"{"id":"b"}"#).unwrap_err().error;
        assert!(patch.contains("unknown key id"), "{patch}");
        assert_eq!(new(&json, r#"{"uri":"rtsp://h/a"} {}"#).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(new(&json, r#"{"uri":"#).unwrap_err().status, StatusCode::BAD_REQUEST);
        for other in [headers(&[]), headers(&[("content-type", "text/plain")])] {
            assert_eq!(new(&other, "{}").unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let ApiError { error, .. } = new(&json, r#"{"uri":{"rtsp://ann:geheim55@h/a":1}}"#).unwrap_err();
        assert!(!error.contains("geheim55"), "{error}");
    }

    #[test]
    fn versions_are_read_from_the_header() {
        let version = |text: &'static str| if_match(&headers(&[("if-match", text)]));
        assert_eq!(if_match(&headers(&[])).unwrap(), None);
        assert_eq!(version("*").unwrap(), None);
        assert_eq!(version("\"17\"").unwrap(), Some(17));
        for bad in ["17", "W/\"17\"", "\"x\"", "\"1\", \"2\""] {
            assert_eq!(version(bad).unwrap_err().status, StatusCode::PRECONDITION_FAILED, "{bad}");
        }
    }
}
