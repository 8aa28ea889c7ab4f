//! The live records as server-sent events: of one stream, and of many over one connection.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::Hash;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::answer::{ApiError, json, no_stream_here};
use super::app_state::AppState;
use super::extract::{Parameters, Place};
use super::stream_routes::StreamPath;
use crate::hub::{FeedBatch, FeedCursor, FeedFilter, FeedKind, Hub, Subscription};
use crate::metrics::Viewer;

/// Silence on the live records after which a comment is sent, so that proxies and clients see a working connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Events buffered per connection, in addition to the memory of the hub: enough to fill a packet.
const CONNECTION_EVENTS: usize = 4;

/// How long an item of many streams waits for others. Nobody sees a tenth of a second on a wall.
const GATHER: Duration = Duration::from_millis(100);

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

type EventSender = mpsc::Sender<Result<Event, Infallible>>;

/// Counts a viewer for as long as it lives.
pub(crate) struct ViewerGauge {
    hub: Hub,
    kind: Viewer,
}

impl ViewerGauge {
    pub(crate) fn new(hub: &Hub, kind: Viewer) -> Self {
        hub.metrics().viewers(kind, 1);
        Self { hub: hub.clone(), kind }
    }
}

impl Drop for ViewerGauge {
    fn drop(&mut self) {
        self.hub.metrics().viewers(self.kind, -1);
    }
}

/// The answer with `events`. nginx must not hold them back.
fn events_of(events: mpsc::Receiver<Result<Event, Infallible>>) -> Response {
    let events = Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([("x-accel-buffering", "no")], events).into_response()
}

/// Streams server-sent events: snapshot, then second, gap, event, state, incident, pack, segment and expectation.
///
/// After lost records it sends lagged and a new snapshot. It ends after the state removed.
#[utoipa::path(get, path = "/api/v1/streams/{id}/live", operation_id = "liveStream", params(StreamPath), responses(
    (status = 200, description = "The events.", body = String, content_type = "text/event-stream"),
    (status = 404),
))]
pub(crate) async fn stream(State(server): State<AppState>, Place(StreamPath { id }): Place<StreamPath>) -> Response {
    let Some(subscription) = server.hub.subscribe(&id) else { return no_stream_here(&server.hub, &id) };
    let (to, events) = mpsc::channel(CONNECTION_EVENTS);
    tokio::spawn(send_live(server, id, subscription, to));
    events_of(events)
}

/// Sends `events`; returns whether more can be sent. False if the client disconnects or the server stops.
async fn send(events: &mut Vec<Event>, to: &EventSender, server: &mut AppState) -> bool {
    for event in events.drain(..) {
        let sent = tokio::select! {
            sent = to.send(Ok(event)) => sent.is_ok(),
            _ = server.closing.wait_for(|closing| *closing) => false,
        };
        if !sent {
            return false;
        }
    }
    true
}

fn lagged(skipped: u64, hub: &Hub) -> Event {
    hub.metrics().records_skipped(skipped);
    Event::default().event("lagged").data(serde_json::json!({ "skipped": skipped }).to_string())
}

/// Sends the snapshot and every record after it, until the client disconnects or the server stops.
async fn send_live(mut server: AppState, id: String, mut subscription: Subscription, to: EventSender) {
    let _viewing = ViewerGauge::new(&server.hub, Viewer::Live);
    let snapshot = |s: &mut Subscription| {
        let data = std::mem::take(&mut s.snapshot);
        Event::default().event("snapshot").id(s.sequence.to_string()).retry(RETRY).data(data)
    };
    let mut pending = vec![snapshot(&mut subscription)];
    while send(&mut pending, &to, &mut server).await {
        tokio::select! {
            () = to.closed() => return,
            _ = server.closing.wait_for(|closing| *closing) => return,
            record = subscription.records.recv() => match record {
                Ok(record) => pending.push(
                    Event::default()
                        .event(record.kind.as_str())
                        .id(record.sequence.to_string())
                        .data(&*record.json),
                ),
                Err(RecvError::Lagged(skipped)) => {
                    pending.push(lagged(skipped, &server.hub));
                    let Some(again) = server.hub.subscribe(&id) else { return };
                    subscription = again;
                    pending.push(snapshot(&mut subscription));
                }
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Which streams.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamsQuery {
    /// Ids of streams, separated by commas. Without it all streams.
    stream: Option<String>,
    /// Groups of streams, separated by commas. Without it all groups.
    group: Option<String>,
    /// Streams that other machines of the fleet watch as well.
    #[serde(default)]
    #[param(default = false)]
    fleet: bool,
}

/// Which types.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TypesQuery {
    /// Types, separated by commas: those of the records, estimate, stream, and elsewhere. Without it all types.
    r#type: Option<String>,
}

fn list<T: Eq + Hash>(
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<HashSet<T>>, String> {
    text.map(|text| text.split(',').filter(|part| !part.is_empty()).map(parse).collect()).transpose()
}

impl StreamsQuery {
    fn filter(&self, hub: &Hub) -> Result<FeedFilter, ApiError> {
        let names = |text: &Option<String>| list(text.as_deref(), |name| Ok(name.to_owned())).unwrap_or_default();
        let streams = names(&self.stream);
        if let Some(id) =
            streams.iter().flatten().find(|id| !(hub.has_stream(id) || self.fleet && hub.watched_by(id).is_some()))
        {
            let advice = "GET /api/v1/streams lists the ids";
            return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no stream {id:?}"), advice));
        }
        Ok(FeedFilter { streams, groups: names(&self.group), kinds: None, fleet: self.fleet })
    }
}

/// Returns all streams, or some, with their last answers and their last ten minutes.
#[utoipa::path(get, path = "/api/v1/overview", operation_id = "overview", params(StreamsQuery), responses(
    (status = 200, description = "The streams.", body = ref("#/components/schemas/Overview")),
    (status = 404),
))]
pub(crate) async fn overview(
    State(server): State<AppState>,
    Parameters(streams): Parameters<StreamsQuery>,
) -> Result<Response, ApiError> {
    Ok(json(server.hub.overview_json(&streams.filter(&server.hub)?)))
}

/// Streams server-sent events of all streams, or some, over one connection.
///
/// The first event is `snapshot` (the body of GET /api/v1/overview). Then come the records, `estimate` (a short answer each
/// second), `stream` (a stream was added, or its settings changed) and, with `fleet`, `elsewhere` (another machine watches a stream, or
/// does not any more: then `node` is null). Every event has an id. A client that sends it in
/// Last-Event-ID resumes after that event without a snapshot if the server still has the events. After lost events the server
/// sends `lagged` and a new snapshot.
#[utoipa::path(get, path = "/api/v1/live", operation_id = "live",
    params(StreamsQuery, TypesQuery, ("Last-Event-ID" = Option<String>, Header, nullable = false, description = "The id of the last event that arrived.")),
    responses(
        (status = 200, description = "The events.", body = String, content_type = "text/event-stream"),
        (status = 400, description = "There is no such type."),
        (status = 404),
    ))]
pub(crate) async fn streams(
    State(server): State<AppState>,
    Parameters(streams): Parameters<StreamsQuery>,
    Parameters(types): Parameters<TypesQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let kinds = list(types.r#type.as_deref(), str::parse::<FeedKind>)
        .map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, e, "see /api/v1/openapi.json"))?;
    let filter = FeedFilter { kinds, ..streams.filter(&server.hub)? };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let resumed = last.and_then(|id| server.hub.resume(id, filter.clone()));
    let (pending, cursor) = match resumed {
        Some(cursor) => (Vec::new(), cursor),
        None => snapshot(&server.hub, filter),
    };
    let (to, events) = mpsc::channel(CONNECTION_EVENTS);
    tokio::spawn(send_feed(server, pending, cursor, to));
    Ok(events_of(events))
}

fn snapshot(hub: &Hub, filter: FeedFilter) -> (Vec<Event>, FeedCursor) {
    let (overview, id, cursor) = hub.follow(filter);
    (vec![Event::default().event("snapshot").id(id).retry(RETRY).data(overview)], cursor)
}

/// Waits for an item, and for others: seconds of many streams are published one by one, and together they cost a wake-up and a packet less
/// each. Returns false when the hub is gone.
async fn gathered(cursor: &mut FeedCursor) -> bool {
    let changed = cursor.changed().await;
    tokio::time::sleep(GATHER).await;
    changed
}

/// Sends `pending` and every item after it, until the client disconnects or the server stops.
async fn send_feed(mut server: AppState, mut pending: Vec<Event>, mut cursor: FeedCursor, to: EventSender) {
    let _viewing = ViewerGauge::new(&server.hub, Viewer::Live);
    while send(&mut pending, &to, &mut server).await {
        match server.hub.read_feed(&mut cursor) {
            None => tokio::select! {
                () = to.closed() => return,
                _ = server.closing.wait_for(|closing| *closing) => return,
                changed = gathered(&mut cursor) => if !changed { return },
            },
            Some(FeedBatch { lost: 0, items }) => pending.extend(items.into_iter().map(|item| {
                Event::default().event(item.kind.as_str()).id(server.hub.feed_id(item.sequence)).data(&*item.json)
            })),
            Some(FeedBatch { lost, .. }) => {
                pending.push(lagged(lost, &server.hub));
                let (events, again) = snapshot(&server.hub, cursor.filter().clone());
                pending.extend(events);
                cursor = again;
            }
        }
    }
}
