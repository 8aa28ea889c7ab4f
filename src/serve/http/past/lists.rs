//! `/api/v1/segments` and `/api/v1/events`: lists of the store, page by page.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::{DAY_MS, invalid, names, read, stream_ids, table, time, unreadable, wants_csv, words};
use crate::export::{SEGMENT_COLUMNS, cells_of_record, text_cell};
use crate::http::answer::{ApiError, json};
use crate::http::app_state::AppState;
use crate::http::extract::{Parameters, Place};
use crate::hub::{HistoryCursor, HistoryFilter};
use crate::record::types::Stamped;
use crate::record::{SegmentContent, to_json};
use touchline_core::time::RunId;

/// Items on a page, by default and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Types of records in the list of events.
const EVENT_KINDS: [&str; 4] = ["event", "state", "incident", "expectation"];

/// The first columns of events.
const EVENT_COLUMNS: [&str; 12] =
    ["at", "stream", "type", "what", "class", "run", "index", "probability", "reason", "track", "cause", "advice"];

/// Selects the segments of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentsQuery {
    /// Only segments that end after this time, RFC 3339; by default a day before `to`.
    from: Option<String>,
    /// Only segments that begin before this time, RFC 3339; by default now.
    to: Option<String>,
    /// Ids of streams, separated by commas.
    stream: Option<String>,
    /// Groups of streams, separated by commas.
    group: Option<String>,
    /// Classes, separated by commas.
    class: Option<String>,
    /// Contents, separated by commas: class, unknown, no-programme, undecided; by default all.
    content: Option<String>,
    /// oldest or newest first.
    #[param(pattern = "^(oldest|newest)$")]
    order: Option<String>,
    /// At most this many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
    /// json or csv; by default from the header Accept.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// Selects the events of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// Only from this time on, RFC 3339; by default a day before `to`.
    from: Option<String>,
    /// Only before this time, RFC 3339; by default now.
    to: Option<String>,
    /// Ids of streams, separated by commas.
    stream: Option<String>,
    /// Groups of streams, separated by commas.
    group: Option<String>,
    /// Classes of events, separated by commas.
    class: Option<String>,
    /// Types of records, separated by commas: event, state, incident, expectation.
    #[param(default = "event")]
    r#type: Option<String>,
    /// oldest or newest first.
    #[param(pattern = "^(oldest|newest)$")]
    order: Option<String>,
    /// At most this many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
    /// json or csv; by default from the header Accept.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// Segments of the past.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Segments")]
pub(crate) struct SegmentsView {
    segments: Vec<SegmentView>,
    /// Value of `after` for the next page; null on the last.
    next: Option<String>,
}

/// A segment of the past.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StoredSegment")]
struct SegmentView {
    /// The segment is not closed. Its values may be a minute old.
    open: bool,
    /// Path of its poster, a picture of a strong second; null without one.
    poster: Option<String>,
    /// The machine of the fleet that decided it, if it is another one: it may have pictures and clips of it. Null for this machine.
    elsewhere: Option<String>,
    /// Its record.
    #[schemars(with = "Stamped")]
    segment: Box<RawValue>,
}

/// Events, states, incidents and expectation records of the past.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Events")]
pub(crate) struct EventsView {
    /// Their records.
    #[schemars(with = "Vec<Stamped>")]
    events: Vec<Box<RawValue>>,
    /// Value of `after` for the next page; null on the last.
    next: Option<String>,
}

/// Lists the segments of all streams from the store.
#[utoipa::path(get, path = "/api/v1/segments", operation_id = "listSegments", params(SegmentsQuery), responses(
    (status = 200, description = "The segments. A table has the next page in the header touchline-next.",
        content((ref("#/components/schemas/Segments") = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is unknown or has a wrong form."),
    (status = 404, description = "The program has no store."),
    (status = 422, description = "A value is not allowed."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn segments(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(query): Parameters<SegmentsQuery>,
) -> Result<Response, ApiError> {
    let is_csv = wants_csv(query.format.as_ref(), &headers)?;
    let time = time(query.from.as_deref(), query.to.as_deref(), &**state.hub.clock(), DAY_MS)?;
    let limit = limit(query.limit)?;
    let filter = HistoryFilter {
        streams: stream_ids(&state.hub, query.stream.as_ref(), query.group.as_ref()),
        classes: words(query.class.as_ref()),
        kinds: names("content", query.content.as_ref(), &SegmentContent::NAMES)?,
        from_ms: time.from_ms,
        to_ms: time.to_ms,
        after: cursor(query.after.as_ref())?,
        newest_first: newest_first(query.order.as_ref())?,
        limit: limit + 1,
    };
    let mut found = read(&state, move |archive| archive.segments(&filter).map_err(|e| unreadable(&e))).await?;
    let next = next(&mut found, limit, |segment| segment.at);
    if is_csv {
        let head: Vec<&str> = ["stream"].into_iter().chain(SEGMENT_COLUMNS).chain(["open"]).collect();
        let rows = found.iter().filter_map(|stored| {
            let record = serde_json::from_str(&stored.json).ok()?;
            let cells = [text_cell(&stored.stream)].into_iter().chain(cells_of_record(&record));
            Some(cells.chain([stored.is_open.to_string()]))
        });
        return table("segments", &head, rows, next.as_ref());
    }
    let view = |stored: crate::hub::StoredSegment| {
        let crate::hub::StoredSegment { stream, run, first, has_poster, .. } = &stored;
        let poster = has_poster.then(|| format!("/api/v1/streams/{stream}/segments/{run}/{first}/poster", run = run.0));
        let segment = serde_json::from_str(&stored.json).ok()?;
        Some(SegmentView { open: stored.is_open, poster, elsewhere: stored.node, segment })
    };
    Ok(json(to_json(&SegmentsView { segments: found.into_iter().filter_map(view).collect(), next })))
}

/// The path of a segment of the past.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SegmentPath {
    /// Id of the stream.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    id: String,
    /// Run of the segment.
    run: u32,
    /// Its first second.
    first: u64,
}

/// Returns the poster of a segment that this machine decided: a picture of its strongest second, as far as one is kept.
#[utoipa::path(get, path = "/api/v1/streams/{id}/segments/{run}/{first}/poster", operation_id = "getSegmentPoster", params(SegmentPath),
    responses(
    (status = 200, description = "The picture.", body = Vec<u8>, content_type = "image/jpeg"),
    (status = 404, description = "There is no such segment, it has no poster, or the program has no store."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn poster(
    State(state): State<AppState>,
    Place(SegmentPath { id, run, first }): Place<SegmentPath>,
) -> Result<Response, ApiError> {
    let found = read(&state, move |archive| archive.poster(&id, RunId(run), first).map_err(|e| unreadable(&e))).await?;
    let jpeg = found.ok_or_else(|| {
        let advice = "GET /api/v1/segments names the posters";
        ApiError::new(StatusCode::NOT_FOUND, "there is no poster of that segment", advice)
    })?;
    // That of an open segment may become another.
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=60")];
    Ok((headers, jpeg).into_response())
}

/// Lists events, states, incidents and expectation records of all streams from the store.
#[utoipa::path(get, path = "/api/v1/events", operation_id = "listEvents", params(EventsQuery), responses(
    (status = 200, description = "The records. A table has the next page in the header touchline-next.",
        content((ref("#/components/schemas/Events") = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is unknown or has a wrong form."),
    (status = 404, description = "The program has no store."),
    (status = 422, description = "A value is not allowed."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn events(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(query): Parameters<EventsQuery>,
) -> Result<Response, ApiError> {
    let is_csv = wants_csv(query.format.as_ref(), &headers)?;
    let time = time(query.from.as_deref(), query.to.as_deref(), &**state.hub.clock(), DAY_MS)?;
    let limit = limit(query.limit)?;
    let kinds = names("type", query.r#type.as_ref(), &EVENT_KINDS)?;
    let filter = HistoryFilter {
        streams: stream_ids(&state.hub, query.stream.as_ref(), query.group.as_ref()),
        classes: words(query.class.as_ref()),
        kinds: Some(kinds.unwrap_or_else(|| vec!["event".to_owned()])),
        from_ms: time.from_ms,
        to_ms: time.to_ms,
        after: cursor(query.after.as_ref())?,
        newest_first: newest_first(query.order.as_ref())?,
        limit: limit + 1,
    };
    let mut found = read(&state, move |archive| archive.records(&filter).map_err(|e| unreadable(&e))).await?;
    let next = next(&mut found, limit, |record| record.at);
    if is_csv {
        let rows = found.iter().filter_map(|stored| Some(event_cells(&serde_json::from_str(&stored.json).ok()?)));
        return table("events", &EVENT_COLUMNS, rows, next.as_ref());
    }
    let events = found.into_iter().filter_map(|stored| serde_json::from_str(&stored.json).ok()).collect();
    Ok(json(to_json(&EventsView { events, next })))
}

fn event_cells(record: &Value) -> [String; EVENT_COLUMNS.len()] {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text_cell(text),
        other => other.to_string(),
    };
    let kind = record["type"].as_str().unwrap_or_default();
    let (at, what) = match kind {
        "event" | "expectation" => (&record["wall"]["time"], &record["kind"]),
        "state" => (&record["at"], &record["state"]),
        _ => (&record["at"], &record["incident"]),
    };
    let class = text(record.get("class").unwrap_or(&record["on_air"]));
    let [run, index, probability, reason, track, cause, advice] =
        ["run", "index", "probability", "reason", "track", "cause", "advice"].map(|key| text(&record[key]));
    [
        text(at),
        text(&record["stream"]),
        kind.to_owned(),
        text(what),
        class,
        run,
        index,
        probability,
        reason,
        track,
        cause,
        advice,
    ]
}

fn limit(given: Option<usize>) -> Result<usize, ApiError> {
    let limit = given.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(invalid("limit", &format!("{limit} is not allowed; choose 1 to {LIMIT_MAX}")))
    }
}

fn newest_first(order: Option<&String>) -> Result<bool, ApiError> {
    match order.map(String::as_str) {
        None | Some("oldest") => Ok(false),
        Some("newest") => Ok(true),
        Some(_) => Err(invalid("order", "choose oldest or newest")),
    }
}

/// A place in a list, as `after` writes it.
fn cursor(text: Option<&String>) -> Result<Option<HistoryCursor>, ApiError> {
    let parse = |text: &String| {
        let (at_ms, number) = text.rsplit_once('.')?;
        Some(HistoryCursor { at_ms: at_ms.parse().ok()?, number: number.parse().ok()? })
    };
    text.map(|text| parse(text).ok_or_else(|| invalid("after", "it is not next of a page"))).transpose()
}

/// Cuts the page to `limit` items. Returns the place of the next page.
fn next<T>(found: &mut Vec<T>, limit: usize, at: impl Fn(&T) -> HistoryCursor) -> Option<String> {
    let has_more = found.len() > limit;
    found.truncate(limit);
    let HistoryCursor { at_ms, number } = at(found.last().filter(|_| has_more)?);
    Some(format!("{at_ms}.{number}"))
}
