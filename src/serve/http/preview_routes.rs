//! The pictures of one stream as they come, and thumbnails of many streams at once.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::answer::{ApiError, no_stream, not_found, problem};
use super::app_state::AppState;
use super::extract::{Parameters, Place};
use super::live_routes::ViewerGauge;
use super::stream_routes::StreamPath;
use crate::hub::preview::{THUMBNAIL_WIDTHS, Watcher};
use crate::metrics::Viewer;

/// How long `?single=1` waits for a picture: a live stream delivers one within a second.
const PICTURE_TIMEOUT: Duration = Duration::from_secs(3);

/// Separates pictures. Parts state their length, so it may not be confused with data.
const BOUNDARY: &str = "touchline-picture";

/// Most streams of a request for thumbnails: a wall has 64 tiles.
const THUMBNAILS_MAX: usize = 64;

/// Age from which the picture of a stream that plays is not shown: it is from before the wall was opened.
const THUMBNAIL_AGE_MAX_NS: u64 = 5_000_000_000;

/// nginx must not hold the pictures back.
const NOT_BUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// Query parameters of the preview.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreviewQuery {
    /// `1`: one JPEG instead of a stream.
    single: Option<String>,
}

/// Streams pictures as multipart/x-mixed-replace. With single=1 it returns one JPEG.
#[utoipa::path(get, path = "/api/v1/streams/{id}/preview", operation_id = "previewStream", params(StreamPath, PreviewQuery), responses(
    (status = 200, description = "The pictures.", content(("multipart/x-mixed-replace"), ("image/jpeg"))),
    (status = 404, description = "There is no such stream, or it has no pictures."),
    (status = 503, description = "No picture arrived in time."),
))]
pub(crate) async fn stream(
    State(server): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    Parameters(query): Parameters<PreviewQuery>,
) -> Response {
    let Some((preview, has_pictures)) = server.hub.preview(&id) else { return no_stream(&id) };
    if !has_pictures {
        return not_found(
            &format!("stream {id:?} has no pictures"),
            "it has audio only; see /api/v1/streams for its decisions",
        );
    }
    let mut watcher = preview.watch();
    if query.single.as_deref().is_some_and(|v| v != "0") {
        return match tokio::time::timeout(PICTURE_TIMEOUT, first_picture(&mut watcher)).await {
            Ok(Some(jpeg)) => ([(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
            Ok(None) | Err(_) => problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "no picture arrived in time",
                "see the state of the stream at /api/v1/streams",
            ),
        };
    }
    let (to, parts) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(send_pictures(server, watcher, to));
    let kind = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
    ([(header::CONTENT_TYPE, kind.as_str()), NOT_BUFFERED], Body::from_stream(ReceiverStream::new(parts)))
        .into_response()
}

/// The newest picture, or the first to arrive.
async fn first_picture(watcher: &mut Watcher) -> Option<Bytes> {
    watcher.pictures.wait_for(Option::is_some).await.ok().and_then(|picture| picture.clone())
}

/// Sends every picture that the client is fast enough for, until it disconnects or the server stops.
async fn send_pictures(mut server: AppState, mut watcher: Watcher, to: mpsc::Sender<Result<Bytes, Infallible>>) {
    let _viewing = ViewerGauge::new(&server.hub, Viewer::Preview);
    // The first picture may exist already.
    watcher.pictures.mark_changed();
    let mut next = Bytes::from(format!("--{BOUNDARY}\r\n"));
    loop {
        let sent = tokio::select! {
            sent = to.send(Ok(next)) => sent.is_ok(),
            _ = server.closing.wait_for(|closing| *closing) => false,
        };
        if !sent {
            return;
        }
        next = loop {
            tokio::select! {
                () = to.closed() => return,
                _ = server.closing.wait_for(|closing| *closing) => return,
                changed = watcher.pictures.changed() => if changed.is_err() || watcher.is_over() { return },
            }
            let picture = watcher.pictures.borrow_and_update().clone();
            if let Some(jpeg) = picture {
                break part(&jpeg);
            }
        };
    }
}

/// One picture with its closing boundary: browsers show a picture once they have seen its end.
fn part(jpeg: &[u8]) -> Bytes {
    let head = format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
    let tail = format!("\r\n--{BOUNDARY}\r\n");
    [head.as_bytes(), jpeg, tail.as_bytes()].concat().into()
}

/// Query parameters of the thumbnails.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ThumbnailsQuery {
    /// Ids of streams, separated by commas: at most 64.
    #[param(pattern = "^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$")]
    stream: String,
    /// Width of the tiles, pixels. The pictures are 160, 320, 640 or 960 wide, and at least four fifths of it.
    width: Option<u32>,
}

/// Returns small pictures of several streams in one answer.
///
/// Each part has the id of its stream as its name. Streams without a picture are omitted, and so are playing streams whose
/// picture is older than 5 s. Retry after a second. A picture changes at most once a second.
#[utoipa::path(get, path = "/api/v1/preview", operation_id = "preview", params(ThumbnailsQuery), responses(
    (status = 200, description = "The pictures (JPEG).", body = String, content_type = "multipart/form-data"),
    (status = 204, description = "No stream has a picture yet."),
    (status = 400, description = "The request names more than 64 streams."),
))]
pub(crate) async fn thumbnails(
    State(server): State<AppState>,
    Parameters(ThumbnailsQuery { stream, width }): Parameters<ThumbnailsQuery>,
) -> Result<Response, ApiError> {
    let ids: Vec<&str> = stream.split(',').filter(|id| !id.is_empty()).collect();
    if ids.len() > THUMBNAILS_MAX {
        let error = format!("{} streams in one request", ids.len());
        let advice = format!("request the pictures of at most {THUMBNAILS_MAX} streams at a time");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, error, advice));
    }
    // A little enlarged is as good to look at, and has a quarter of the bytes.
    let is_enough = |picture: &u32| picture * 5 / 4 >= width.unwrap_or(0);
    let size = THUMBNAIL_WIDTHS.iter().position(is_enough).unwrap_or(THUMBNAIL_WIDTHS.len() - 1);
    // A stream may have been removed since the caller listed them.
    let previews: Vec<_> = ids
        .iter()
        .filter_map(|id| {
            let (preview, is_playing) = server.hub.thumbnails(id)?;
            preview.poll();
            Some(((*id).to_owned(), preview, is_playing))
        })
        .collect();
    let (metrics, requested) = (server.hub.metrics().clone(), ids.len());
    let body = tokio::task::spawn_blocking(move || {
        let mut body = Vec::new();
        for (id, preview, is_playing) in previews {
            let picture = preview.thumbnail(size, requested).filter(|p| !is_playing || p.age_ns < THUMBNAIL_AGE_MAX_NS);
            if let Some(picture) = picture {
                if picture.is_new {
                    metrics.thumbnail_encoded();
                }
                // An id has no character that a quoted name must escape.
                let head = format!(
                    "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{id}\"; filename=\"{id}.jpg\"\r\n\
                     Content-Type: image/jpeg\r\n\r\n"
                );
                body.extend_from_slice(head.as_bytes());
                body.extend_from_slice(&picture.jpeg);
                body.extend_from_slice(b"\r\n");
            }
        }
        body
    });
    let mut body = body.await.map_err(|_| ApiError::shutting_down())?;
    if body.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}
