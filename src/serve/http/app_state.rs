//! The shared state of the HTTP handlers.

use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::StatusCode;
use tokio::sync::watch;
use touchline_media::guard::SourcePolicy;

use super::access::Access;
use super::answer::ApiError;
use crate::clips::ClipAccess;
use crate::control::packs::PackControl;
use crate::control::probes::ProbeControl;
use crate::control::streams::StreamControl;
use crate::hub::Hub;
use crate::teach::TeachAccess;

/// The shared state of the handlers.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) hub: Hub,
    /// `None`: the pack cannot be changed.
    pub(crate) packs: Option<PackAccess>,
    /// `None`: the streams cannot be changed.
    pub(crate) streams: Option<StreamAccess>,
    /// `None`: nothing is recorded.
    pub(crate) clips: Option<ClipAccess>,
    /// `None`: nothing can be corrected.
    pub(crate) teach: Option<TeachAccess>,
    pub(crate) access: Arc<Access>,
    /// Becomes true when the server stops.
    pub(crate) closing: watch::Receiver<bool>,
}

/// Access to the running pack.
#[derive(Clone, Debug)]
pub struct PackAccess {
    /// Receives the requests.
    pub control: PackControl,
    /// Whether any caller may change the pack. `GET /api/v1/pack` reports it.
    pub open: bool,
}

/// Access to the streams.
#[derive(Clone, Debug)]
pub struct StreamAccess {
    /// Receives the requests.
    pub control: StreamControl,
    /// Which sources the API may open.
    pub policy: Arc<SourcePolicy>,
    /// Tests addresses.
    pub probes: ProbeControl,
}

impl AppState {
    /// # Errors
    /// 503 while the program starts or shuts down.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        let Some(why) = self.hub.not_ready() else { return Ok(()) };
        let advice = "retry when GET /readyz answers 200";
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}"), advice))
    }
}

impl FromRef<AppState> for Arc<Access> {
    fn from_ref(state: &AppState) -> Self {
        state.access.clone()
    }
}
