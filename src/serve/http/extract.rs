//! Extractors of the query and the path whose refusals have the form of every error of the API.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::answer::ApiError;

/// Where the parameters are described.
pub(super) const PARAMETERS: &str = "GET /api/v1/openapi.json describes the parameters";

/// The parameters of the query.
pub(crate) struct Parameters<T>(pub(crate) T);

/// The variable parts of the path.
pub(crate) struct Place<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| refusal(e.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Place<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|e| refusal(e.body_text()))
    }
}

fn refusal(error: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, error, PARAMETERS)
}
