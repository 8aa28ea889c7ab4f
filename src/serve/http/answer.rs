//! Bodies of answers: JSON, and the one form that every error has.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Keys;
use crate::hub::Hub;
use crate::record::to_json;

/// The body of every error.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Problem<'a> {
    /// What is wrong.
    #[schemars(length(min = 1))]
    error: &'a str,
    /// What to do about it.
    #[schemars(length(min = 1))]
    advice: &'a str,
}

/// An error of the API.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) error: String,
    pub(crate) advice: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status, error: error.into(), advice: advice.into() }
    }

    /// The body has another media type.
    pub(crate) fn not_json() -> Self {
        let advice = "send -H 'Content-Type: application/json'";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json", advice)
    }

    /// There is no such stream.
    pub(crate) fn no_stream(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no stream {id:?}"), "GET /api/v1/streams lists the ids")
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the program is shutting down", "retry after it has restarted")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        problem(self.status, &self.error, &self.advice)
    }
}

pub(crate) fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(crate) fn problem(status: StatusCode, error: &str, advice: &str) -> Response {
    (status, json(to_json(&Problem { error, advice }))).into_response()
}

pub(crate) fn not_found(error: &str, advice: &str) -> Response {
    problem(StatusCode::NOT_FOUND, error, advice)
}

pub(crate) fn no_stream(id: &str) -> Response {
    ApiError::no_stream(id).into_response()
}

/// As [`no_stream`], for a stream that another machine of the fleet may watch.
pub(crate) fn no_stream_here(hub: &Hub, id: &str) -> Response {
    let Some((node, page)) = hub.watched_by(id) else { return no_stream(id) };
    let advice = page.map_or("ask that machine".to_owned(), |page| format!("ask that machine: {page}"));
    not_found(&format!("machine {node:?} of the fleet watches stream {id:?}"), &advice)
}

/// Refuses a body. `who` names the request.
///
/// # Errors
/// 400 with a body.
pub(crate) fn refuse_body(body: &Bytes, who: &str) -> Result<(), ApiError> {
    if body.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::BAD_REQUEST, format!("{who} takes no body"), "send no body"))
}

/// The length of a page: the parameter `limit`.
///
/// # Errors
/// 422 if it is not 1 to `max`.
pub(crate) fn page_limit(given: Option<usize>, default: usize, max: usize) -> Result<usize, ApiError> {
    let limit = given.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    let error = format!("limit {limit} is not allowed");
    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error, format!("choose 1 to {max}")))
}

/// The first key of `body` that `T` does not have, and the key that may be meant.
pub(crate) fn unknown_key<T: JsonSchema>(body: &[u8]) -> Option<String> {
    let keys = Keys::of_type::<T>();
    let path = keys.unknown_in(&serde_json::from_slice(body).ok()?)?;
    Some(match keys.nearest(&path) {
        Some(nearest) => format!("unknown key {path}; did you mean {nearest}?"),
        None => format!("unknown key {path}"),
    })
}

/// The media type of a body in lower case, without parameters. Empty if the request has none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
