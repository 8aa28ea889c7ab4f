//! `/api/v1/clips` and `POST /api/v1/streams/{id}/clips`: the clips of events and requests, and their files.
//!
//! `access` decides who may call them. Names of files come from the sidecar of their clip, never from the request alone.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tower_http::services::ServeFile;
use utoipa::IntoParams;

use super::answer::{ApiError, json, no_stream, not_found, page_limit, refuse_body};
use super::app_state::AppState;
use super::extract::{Parameters, Place};
use super::stream_routes::{StreamPath, parse};
use crate::clips::{self, ClipAccess, ClipMedia, ClipReason, ClipRefusal, ClipStore, MissingSpan, Poster, Sidecar};
use crate::record::format::parse_rfc3339;
use crate::record::to_json;
use touchline_core::time::{Pts, RunId};
use touchline_media::gst::clips::ClipError;

/// The path of a clip.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ClipPath {
    /// Id of the clip.
    id: String,
}

/// The path of a file of a clip.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ClipFilePath {
    /// Id of the clip.
    id: String,
    /// Name of the file, as the clip names it.
    name: String,
}

/// Clips on a page, by default and at most. Each is a file that is read.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Which clips are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ClipFilter {
    /// Id of a stream: only its clips.
    stream: Option<String>,
    /// At most this many clips, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// Only clips whose id comes after this one: `next` of the page before.
    after: Option<String>,
}

/// Clips.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Clips")]
pub(crate) struct ClipsView {
    /// The clips, in the order of their ids.
    clips: Vec<ClipView>,
    /// Value of `after` for the next page; null on the last.
    next: Option<String>,
}

/// A clip without its decisions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ClipSummary")]
struct ClipView {
    /// Id of the clip.
    id: String,
    /// Id of the stream.
    stream: String,
    /// Why the clip was made: an event, a segment or a request.
    reason: ClipReason,
    /// The class on air.
    class: Option<String>,
    /// The run of the decisions.
    run: RunId,
    /// Start of the requested span, PTS in nanoseconds.
    from_pts_ns: Pts,
    /// End of the requested span, PTS in nanoseconds.
    to_pts_ns: Pts,
    /// Media files in order.
    media: Vec<ClipMedia>,
    /// Parts of the wanted time that have no media.
    missing: Vec<MissingSpan>,
    /// The poster.
    poster: Option<Poster>,
}

impl From<Sidecar> for ClipView {
    fn from(sidecar: Sidecar) -> Self {
        let Sidecar { id, stream, reason, class, run, from_pts_ns, to_pts_ns, media, missing, poster, .. } = sidecar;
        Self { id, stream, reason, class, run, from_pts_ns, to_pts_ns, media, missing, poster }
    }
}

/// Lists the clips without their decisions, page by page.
#[utoipa::path(get, path = "/api/v1/clips", operation_id = "listClips", params(ClipFilter), responses(
    (status = 200, description = "The clips.", body = ref("#/components/schemas/Clips")),
    (status = 400, description = "A parameter has a wrong form."),
    (status = 404, description = "Recording is off: [record] has no dir."),
    (status = 422, description = "limit is not 1 to 1000."),
))]
pub(crate) async fn list(
    State(state): State<AppState>,
    Parameters(filter): Parameters<ClipFilter>,
) -> Result<Response, ApiError> {
    let limit = page_limit(filter.limit, LIMIT, LIMIT_MAX)?;
    let view = with_store(&state, move |store| {
        let ids = store.ids().map_err(|e| unreadable(&e))?;
        let after = filter.after.as_ref();
        // Ids begin with their stream, so that the sidecars of others need not be read. Ids of two streams may begin alike.
        let ids = ids.iter().filter(|id| after.is_none_or(|after| *id > after));
        let ids = ids.filter(|id| filter.stream.as_ref().is_none_or(|stream| clips::is_of(id, stream)));
        let clips = ids.filter_map(|id| store.sidecar(id));
        let clips = clips.filter(|clip| filter.stream.as_ref().is_none_or(|stream| *stream == clip.stream));
        // One more tells whether there is a next page.
        let mut clips: Vec<ClipView> = clips.take(limit + 1).map(ClipView::from).collect();
        let has_more = clips.len() > limit;
        clips.truncate(limit);
        let next = clips.last().filter(|_| has_more).map(|clip| clip.id.clone());
        Ok(ClipsView { clips, next })
    });
    Ok(json(to_json(&view.await?)))
}

/// A clip to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewClip {
    /// Wall time of its start, RFC 3339. The clip begins at the key picture at or before it.
    from: String,
    /// Wall time of its end, RFC 3339; at most ring_s and an hour later, and decided already.
    to: String,
}

/// Cuts a clip from the ring of a stream.
#[utoipa::path(post, path = "/api/v1/streams/{id}/clips", operation_id = "makeClip", params(StreamPath),
    request_body = ref("#/components/schemas/NewClip"), responses(
    (status = 201, description = "The clip is made.", body = ref("#/components/schemas/Clip"),
        headers(("Location" = String, description = "Path of the clip."))),
    (status = 400, description = "The body is not JSON."),
    (status = 404, description = "There is no such stream, it is not recorded, or the ring has no media of that time."),
    (status = 409, description = "The end of the clip is not recorded and decided yet."),
    (status = 415),
    (status = 422, description = "A key is unknown, or the times are not valid."),
    (status = 500, description = "The media cannot be read or written."),
    (status = 503),
    (status = 507, description = "The disk is full."),
))]
pub(crate) async fn post(
    State(state): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let NewClip { from, to } = parse(&headers, &body)?;
    let ns = |key: &str, text: &str| {
        let invalid = |e: String| refusal(&ClipRefusal::Invalid(format!("{key}: {e}")));
        parse_rfc3339(text).map_err(invalid)
    };
    let (from_ns, to_ns) = (ns("from", &from)?, ns("to", &to)?);
    if !state.hub.has_stream(&id) {
        return Ok(no_stream(&id));
    }
    let maker = access(&state)?.maker;
    if !state.hub.is_recorded(&id) {
        let error = format!("the stream {id} is not recorded");
        let advice = "remove record = false from the stream";
        return Err(ApiError::new(StatusCode::NOT_FOUND, error, advice));
    }
    let made = tokio::task::spawn_blocking(move || maker.make(&id, from_ns, to_ns)).await;
    let sidecar = made.map_err(|_| ApiError::shutting_down())?.map_err(|cause| refusal(&cause))?;
    let location = format!("/api/v1/clips/{}", sidecar.id);
    let location = HeaderValue::from_str(&location)
        .map_or_else(|_| HeaderMap::new(), |path| HeaderMap::from_iter([(header::LOCATION, path)]));
    Ok((StatusCode::CREATED, location, json(to_json(&sidecar))).into_response())
}

/// Returns a clip with its decisions.
#[utoipa::path(get, path = "/api/v1/clips/{id}", operation_id = "getClip", params(ClipPath), responses(
    (status = 200, description = "The clip.", body = ref("#/components/schemas/Clip")),
    (status = 404, description = "There is no such clip."),
))]
pub(crate) async fn get(
    State(state): State<AppState>,
    Place(ClipPath { id }): Place<ClipPath>,
) -> Result<Response, ApiError> {
    let sidecar = with_store(&state, move |store| store.sidecar(&id).ok_or_else(|| no_clip(&id)));
    Ok(json(to_json(&sidecar.await?)))
}

/// Returns a file of a clip: media, poster or sidecar. Takes one byte range.
#[utoipa::path(get, path = "/api/v1/clips/{id}/{name}", operation_id = "getClipFile",
    params(ClipFilePath, ("Range" = Option<String>, Header, nullable = false, description = "The bytes to return, as in bytes=0-1023.")),
    responses(
        (status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The bytes of the range.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It has not changed since If-Modified-Since."),
        (status = 404, description = "There is no such clip, or it has no such file."),
        (status = 416, description = "The file does not have that range.", body = Vec<u8>, content_type = "application/octet-stream"),
    ))]
pub(crate) async fn file(
    State(state): State<AppState>,
    Place(ClipFilePath { id, name }): Place<ClipFilePath>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = with_store(&state, move |store| {
        let sidecar = store.sidecar(&id).ok_or_else(|| no_clip(&id))?;
        let is_named = |path: &std::path::PathBuf| path.file_name().is_some_and(|file| file == name.as_str());
        store.files(&sidecar).into_iter().find(is_named).ok_or_else(|| {
            let advice = "GET /api/v1/clips/{id} lists its files";
            ApiError::new(StatusCode::NOT_FOUND, format!("the clip {id:?} has no file {name:?}"), advice)
        })
    });
    match ServeFile::new(path.await?).try_call(request).await {
        Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
            Ok(not_found("the clip was removed", "see /api/v1/clips"))
        }
        Ok(answer) => Ok(answer.map(Body::new).into_response()),
        Err(e) => Err(unreadable(&e)),
    }
}

/// Removes a clip and its files.
#[utoipa::path(delete, path = "/api/v1/clips/{id}", operation_id = "removeClip", params(ClipPath), responses(
    (status = 204, description = "The clip is removed."),
    (status = 400, description = "DELETE takes no body."),
    (status = 404, description = "There is no such clip."),
))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    Place(ClipPath { id }): Place<ClipPath>,
    body: Bytes,
) -> Result<Response, ApiError> {
    refuse_body(&body, "DELETE")?;
    let removed = with_store(&state, move |store| match store.remove(&id) {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_clip(&id)),
        Err(e) => Err(unreadable(&e)),
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Works with the store on a thread that may wait for the disk.
async fn with_store<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&ClipStore) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = access(state)?.store;
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or_else(|_| Err(ApiError::shutting_down()))
}

fn access(state: &AppState) -> Result<ClipAccess, ApiError> {
    state.clips.clone().ok_or_else(|| {
        let advice = "start it with --record-dir, or with dir in [record]";
        ApiError::new(StatusCode::NOT_FOUND, "the server records nothing", advice)
    })
}

fn refusal(refusal: &ClipRefusal) -> ApiError {
    let (status, error, advice) = match refusal {
        ClipRefusal::Invalid(cause) => (StatusCode::UNPROCESSABLE_ENTITY, cause.clone(), "choose other times"),
        ClipRefusal::NotYet => {
            let error = "the end of the clip is not recorded and decided yet".to_owned();
            (StatusCode::CONFLICT, error, "retry a few seconds after that time, while the stream is playing")
        }
        ClipRefusal::Clip(ClipError::NoMedia) => {
            let advice = "choose a later time, or raise ring_s and ring_mb in [record]; a source without coded media, as testsrc, has none";
            (StatusCode::NOT_FOUND, "the ring has no media of that time".to_owned(), advice)
        }
        ClipRefusal::Clip(ClipError::NoSpace) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "the disk is full".to_owned(),
            "free space, or lower keep_mb and ring_mb",
        ),
        ClipRefusal::Clip(ClipError::Failed(cause)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, cause.clone(), "see the log of the program")
        }
    };
    ApiError::new(status, error, advice)
}

fn no_clip(id: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no clip {id:?}"), "GET /api/v1/clips lists the ids")
}

fn unreadable(e: &std::io::Error) -> ApiError {
    let advice = "check the folder of [record] and its permissions";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the clips cannot be read or changed: {e}"), advice)
}
