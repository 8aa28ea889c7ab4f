//! `GET` and `POST /api/v1/pack`.
//!
//! `access` decides who may call them. Packs lie below the root of packs.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::{ApiError, json, media_type, unknown_key};
use super::app_state::AppState;
use crate::control::packs::{PackRefusal, PackRefusalKind};
use crate::record::to_json;

/// A change of the pack.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackUpdate {
    /// Directory below the root of packs. Absent: read the running pack's directory again.
    path: Option<String>,
}

/// Returns the running pack with its table and card, the shadow and the last update.
#[utoipa::path(get, path = "/api/v1/pack", operation_id = "getPack", responses(
    (status = 200, description = "The pack.", body = ref("#/components/schemas/Pack")),
))]
pub(crate) async fn get(State(state): State<AppState>) -> Response {
    json(state.hub.pack_json(state.packs.as_ref().is_some_and(|access| access.open)))
}

/// Loads another pack, or reloads the running one. The body may be absent.
#[utoipa::path(post, path = "/api/v1/pack", operation_id = "updatePack", request_body = ref("#/components/schemas/PackUpdate"), responses(
    (status = 200, description = "The pack is in use.", body = ref("#/components/schemas/Applied")),
    (status = 400, description = "The body names no pack."),
    (status = 403, description = "The token may only read, changes are disabled on this address, the request comes from another site's page, or the path is outside the root of packs."),
    (status = 409, description = "Another update is in progress."),
    (status = 415),
    (status = 422, description = "The pack is damaged or does not fit. The previous one stays in use."),
    (status = 500, description = "Internal error."),
    (status = 503),
))]
pub(crate) async fn post(State(state): State<AppState>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let access = state.packs.as_ref().ok_or_else(|| {
        let error = "the pack of this server cannot be changed";
        ApiError::new(StatusCode::FORBIDDEN, error, "start it with `touchline run`")
    })?;
    let update = parse(&headers, &body)?;
    state.check_ready()?;
    let outcome = access.control.submit(update.path.map(Into::into)).map_err(refusal)?;
    // The sender is dropped when the pack thread ends.
    let outcome = outcome.await.map_err(|_| ApiError::shutting_down())?;
    outcome.map(|applied| json(to_json(&applied))).map_err(refusal)
}

pub(crate) fn refusal(refusal: PackRefusal) -> ApiError {
    let status = match refusal.kind {
        PackRefusalKind::Busy => StatusCode::CONFLICT,
        PackRefusalKind::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        PackRefusalKind::OutsideRoot => StatusCode::FORBIDDEN,
        PackRefusalKind::BadPack | PackRefusalKind::Incompatible => StatusCode::UNPROCESSABLE_ENTITY,
        PackRefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, refusal.error, refusal.advice)
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<PackUpdate, ApiError> {
    let is_empty = body.iter().all(u8::is_ascii_whitespace);
    let is_absent = is_empty && !headers.contains_key(header::CONTENT_TYPE);
    if media_type(headers) != "application/json" && !is_absent {
        return Err(ApiError::not_json());
    }
    if is_empty {
        return Ok(PackUpdate::default());
    }
    serde_json::from_slice(body).map_err(|e| {
        let advice = "send {\"path\": \"NAME\"}, or no body to read the running pack's directory again";
        let text = unknown_key::<PackUpdate>(body).unwrap_or_else(|| e.to_string());
        ApiError::new(StatusCode::BAD_REQUEST, format!("the body names no pack: {text}"), advice)
    })
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub(crate) fn fuzz_wanted(headers: &HeaderMap, body: &[u8]) {
    let _ = parse(headers, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn bodies_are_json_or_empty() {
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        assert_eq!(parse(&json, br#"{"path":"new"}"#).unwrap().path.as_deref(), Some("new"));
        assert!(parse(&json, b" ").unwrap().path.is_none());
        assert!(parse(&headers(&[]), b"").unwrap().path.is_none());
        let ApiError { status, error, .. } = parse(&json, br#"{"pth":"new"}"#).err().unwrap();
        assert!(status == StatusCode::BAD_REQUEST && error.ends_with("unknown key pth; did you mean path?"), "{error}");
        let text = headers(&[("content-type", "text/plain")]);
        for (headers, body) in [(&text, &b""[..]), (&text, b"{}"), (&headers(&[]), b"{}")] {
            assert_eq!(parse(headers, body).err().unwrap().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
    }
}
