//! `/api/v1/learn`: a pack learns from the corrections, is compared, put into use, and taken out of it again.
//!
//! `access` decides who may call them.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::answer::{ApiError, json, refuse_body};
use super::app_state::AppState;
use super::pack_routes::refusal;
use super::teach_routes::access;
use crate::record::to_json;

/// What takes no body, in refusals.
const REQUEST: &str = "the request";

/// Returns how far learning is, and what it has changed.
#[utoipa::path(get, path = "/api/v1/learn", operation_id = "getLearning", responses(
    (status = 200, description = "How far it is.", body = ref("#/components/schemas/Learning")),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
))]
pub(crate) async fn get(State(state): State<AppState>) -> Result<Response, ApiError> {
    let learner = access(&state)?.learner;
    Ok(json(to_json(&learner.view())))
}

/// Lets a copy of the running pack learn from all corrections. It then runs as shadow.
#[utoipa::path(post, path = "/api/v1/learn", operation_id = "learn", responses(
    (status = 202, description = "It learns.", body = ref("#/components/schemas/Learning")),
    (status = 400, description = "The request takes no body."),
    (status = 403, description = "The token may only read, changes are disabled on this address, the request comes from another site's page, or the running pack is outside the root of packs."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
    (status = 409, description = "A pack is learning already."),
    (status = 422, description = "There is nothing to learn from, or this program cannot learn."),
    (status = 500, description = "It cannot be started."),
    (status = 503),
))]
pub(crate) async fn post(State(state): State<AppState>, body: Bytes) -> Result<Response, ApiError> {
    let learner = access(&state)?.learner;
    refuse_body(&body, REQUEST)?;
    state.check_ready()?;
    let view = learner.start().map_err(refusal)?;
    Ok((StatusCode::ACCEPTED, json(to_json(&view))).into_response())
}

/// Stops learning.
#[utoipa::path(delete, path = "/api/v1/learn", operation_id = "cancelLearning", responses(
    (status = 204, description = "Nothing is learning any more."),
    (status = 400, description = "The request takes no body."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
))]
pub(crate) async fn delete(State(state): State<AppState>, body: Bytes) -> Result<Response, ApiError> {
    let learner = access(&state)?.learner;
    refuse_body(&body, REQUEST)?;
    learner.cancel();
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Puts the pack that has learned into use.
#[utoipa::path(post, path = "/api/v1/learn/swap", operation_id = "swapLearned", responses(
    (status = 200, description = "It is in use.", body = ref("#/components/schemas/Learning")),
    (status = 400, description = "The request takes no body."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
    (status = 409, description = "Another update of the pack is in progress."),
    (status = 422, description = "No pack has learned, or it is damaged."),
    (status = 500, description = "Internal error."),
    (status = 503),
))]
pub(crate) async fn swap(State(state): State<AppState>, body: Bytes) -> Result<Response, ApiError> {
    let learner = access(&state)?.learner;
    refuse_body(&body, REQUEST)?;
    state.check_ready()?;
    learner.swap().await.map(|view| json(to_json(&view))).map_err(refusal)
}

/// Puts the former pack into use again.
#[utoipa::path(post, path = "/api/v1/learn/rollback", operation_id = "rollBackLearned", responses(
    (status = 200, description = "The former pack is in use.", body = ref("#/components/schemas/Learning")),
    (status = 400, description = "The request takes no body."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
    (status = 409, description = "Another update of the pack is in progress."),
    (status = 422, description = "No pack that has learned is in use, or the former one is damaged."),
    (status = 500, description = "Internal error."),
    (status = 503),
))]
pub(crate) async fn roll_back(State(state): State<AppState>, body: Bytes) -> Result<Response, ApiError> {
    let learner = access(&state)?.learner;
    refuse_body(&body, REQUEST)?;
    state.check_ready()?;
    learner.roll_back().await.map(|view| json(to_json(&view))).map_err(refusal)
}
