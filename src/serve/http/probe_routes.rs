//! `POST /api/v1/probe`: tests an address before a stream is added.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::{ApiError, json};
use super::app_state::AppState;
use super::stream_routes::{check_source, parse, refusal, stream_access};
use crate::control::probes::{PROBE_TIMEOUT, RunningProbe};
use crate::control::streams::{NewStream, StreamRefusalKind};
use crate::hub::preview::encode_thumbnail;
use crate::record::to_json;
use touchline_core::cause::Cause;
use touchline_core::frame::Frame;
use touchline_media::facts::{AudioFacts, VariantFacts, VideoFacts};
use touchline_media::probe::{Probed, timed_out};
use touchline_media::uri::Location;

/// Width of the picture, pixels. Its JPEG has some 50 kB.
const PICTURE_WIDTH: u32 = 640;

/// How long after [`PROBE_TIMEOUT`] the answer comes in any case: opening a source may hang. Also how long an answer waits for the source
/// to close, so that a client that tests one address after another has its place free.
const GRACE: Duration = Duration::from_secs(1);

/// When a client may try again while too many tests run.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// What a test of an address found.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Probe")]
pub(crate) struct ProbeView {
    /// Whether media arrived. A source may fail after that.
    reachable: bool,
    /// Why the source cannot be played; null if it can.
    failure: Option<ProbeFailure>,
    /// Kind of the source, such as rtsp, hls or http.
    kind: &'static str,
    /// The pictures; null without a track of them.
    video: Option<VideoFacts>,
    /// The sound; null without a track of it.
    audio: Option<AudioFacts>,
    /// Variants of an HLS source, the largest first.
    variants: Vec<VariantFacts>,
    /// Time until the tracks were known, milliseconds.
    opened_ms: Option<u64>,
    /// Time until the first picture arrived, milliseconds.
    first_picture_ms: Option<u64>,
    /// The first picture as a data URL (JPEG), at most 640 pixels wide.
    picture: Option<String>,
}

/// Why a source cannot be played.
#[derive(Serialize, JsonSchema)]
struct ProbeFailure {
    /// The cause, for programs.
    kind: Cause,
    /// What failed.
    cause: String,
    /// What to do.
    advice: String,
}

/// Tests the source of a stream without adding it.
///
/// The body is that of a new stream. The source is opened for at most 10 s, under the same policy, and closed again. Closing the
/// request ends the test.
#[utoipa::path(post, path = "/api/v1/probe", operation_id = "probeSource", request_body = ref("#/components/schemas/NewStream"), responses(
    (status = 200, description = "What was found, which may be a failure of the source.", body = ref("#/components/schemas/Probe")),
    (status = 400, description = "The body is not JSON."),
    (status = 403, description = "The token may only read, changes are disabled on this address, the request comes from another site's page, or the source policy forbids the source."),
    (status = 415),
    (status = 422, description = "A key is unknown, or a value is invalid."),
    (status = 429, description = "Two addresses are being tested already, or too many wrong tokens came from this address."),
    (status = 503),
))]
pub(crate) async fn post(
    State(mut state): State<AppState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let access = stream_access(&state)?;
    let new: NewStream = parse(&headers, &body)?;
    new.check().map_err(refusal)?;
    check_source(access, new.uri()).await?;
    state.check_ready()?;
    let kind = Location::parse(new.uri()).map_or("", |location| location.kind.name());
    let probe = match access.probes.start(new) {
        Ok(probe) => probe,
        Err(busy) if busy.kind == StreamRefusalKind::Busy => {
            let mut answer = ApiError::new(StatusCode::TOO_MANY_REQUESTS, busy.error, busy.advice).into_response();
            answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            return Ok(answer);
        }
        Err(refused) => return Err(refusal(refused)),
    };
    let found = tokio::select! {
        found = outcome(probe) => found,
        _ = state.closing.wait_for(|closing| *closing) => return Err(ApiError::shutting_down()),
    };
    let view = match tokio::task::spawn_blocking(move || view(found, kind)).await {
        Ok(view) => view,
        Err(_) => return Err(ApiError::shutting_down()),
    };
    Ok(json(to_json(&view)))
}

/// What `probe` finds in its time. Returns when the source is closed, or after [`GRACE`].
async fn outcome(mut probe: RunningProbe) -> Probed {
    match tokio::time::timeout(PROBE_TIMEOUT + GRACE, &mut probe.outcome).await {
        Ok(Ok(found)) => {
            let _ = tokio::time::timeout(GRACE, &mut probe.closed).await;
            found
        }
        Err(_) => Probed::failed(timed_out(PROBE_TIMEOUT)),
        // The panic message is in the log.
        Ok(Err(_)) => Probed::failed(touchline_media::probe::failure_of(touchline_core::error::Error::Internal(
            "the test of the address failed".into(),
        ))),
    }
}

fn view(found: Probed, kind: &'static str) -> ProbeView {
    let Probed { tracks, facts, opened_ns, picture, failure } = found;
    let millis = |ns: u64| ns / 1_000_000;
    ProbeView {
        reachable: tracks.is_some(),
        failure: failure.map(|failure| ProbeFailure {
            kind: failure.kind,
            cause: failure.cause,
            advice: failure.advice,
        }),
        kind: facts.kind.map_or(kind, |kind| kind.name()),
        video: facts.video,
        audio: facts.audio,
        variants: facts.variants,
        opened_ms: opened_ns.map(millis),
        first_picture_ms: picture.as_ref().map(|(_, after_ns)| millis(*after_ns)),
        picture: picture.and_then(|(frame, _)| data_url(&frame)),
    }
}

fn data_url(frame: &Frame) -> Option<String> {
    match encode_thumbnail(frame, PICTURE_WIDTH) {
        Ok(jpeg) => Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(&jpeg))),
        Err(error) => {
            tracing::warn!("cannot encode the picture of a test: {error}");
            None
        }
    }
}
