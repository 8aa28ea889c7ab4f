//! `/api/v1/segments`, `/api/v1/events`, `/api/v1/history` and `/api/v1/summary`: the past, from the store.
//!
//! Every answer is JSON or a table (CSV), and none has more than a page or as many points as a screen.

mod lists;
mod seconds;
mod summary;

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::answer::ApiError;
use crate::http::app_state::AppState;
pub(super) use crate::http::extract::PARAMETERS;
use crate::hub::{Archive, Hub, KeptTime};
use crate::record::format::parse_rfc3339;
pub(super) use lists::{__path_events, __path_poster, __path_segments};
pub(super) use lists::{EventsView, SegmentsView, events, poster, segments};
pub(super) use seconds::{__path_history, SecondsView, history};
pub(super) use summary::{__path_summary, SummaryOfTimeView, summary};
use touchline_core::clock::Clock;
use touchline_core::error::Error;

const DAY_MS: i64 = 86_400_000;

/// The store.
///
/// # Errors
/// 404 without one, 503 while the program starts.
pub(super) fn archive(state: &AppState) -> Result<Arc<dyn Archive>, ApiError> {
    state.check_ready()?;
    state
        .hub
        .archive()
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "the program has no store", "start it with --state FILE"))
}

/// Reads from the store on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    state: &AppState,
    read: impl FnOnce(&dyn Archive) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let archive = archive(state)?;
    tokio::task::spawn_blocking(move || read(&*archive)).await.unwrap_or_else(|_| Err(ApiError::shutting_down()))
}

/// Checks that there is a stream `id`: here, or in the store, which in a fleet has streams that this machine does not watch. Waits for the disk.
///
/// # Errors
/// 404 if there is none.
pub(super) fn check_stream(is_here: bool, archive: &dyn Archive, id: &str) -> Result<(), ApiError> {
    if is_here || archive.first_times().map_err(|e| unreadable(&e))?.contains_key(id) {
        return Ok(());
    }
    Err(ApiError::no_stream(id))
}

/// The answer to a store that cannot be read.
pub(super) fn unreadable(e: &Error) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), "see the log of the program")
}

pub(super) fn invalid(key: &str, cause: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{key}: {cause}"), PARAMETERS)
}

/// The time from `from` to `to`, by default the last `default_ms` until now.
fn time(from: Option<&str>, to: Option<&str>, clock: &dyn Clock, default_ms: i64) -> Result<KeptTime, ApiError> {
    let parse = |key: &str, text: Option<&str>| {
        text.map(|text| parse_rfc3339(text).map(|ns| ns.div_euclid(1_000_000)).map_err(|e| invalid(key, &e)))
            .transpose()
    };
    let to_ms = parse("to", to)?.unwrap_or(clock.unix_ns().div_euclid(1_000_000));
    let from_ms = parse("from", from)?.unwrap_or(to_ms - default_ms);
    if from_ms >= to_ms {
        return Err(invalid("from", "it is not before to"));
    }
    Ok(KeptTime { from_ms, to_ms })
}

/// The words of a list separated by commas.
fn words(text: Option<&String>) -> Option<Vec<String>> {
    text.map(|text| text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
}

/// As [`words`], of a fixed set.
fn names(key: &str, text: Option<&String>, known: &[&str]) -> Result<Option<Vec<String>>, ApiError> {
    let words = words(text);
    let unknown = words.iter().flatten().find(|word| !known.contains(&word.as_str()));
    match unknown {
        Some(word) => Err(invalid(key, &format!("{word:?} is not one of {}", known.join(", ")))),
        None => Ok(words),
    }
}

/// The ids of the streams of a list, of which only those in one of the groups. `None`: all.
fn stream_ids(hub: &Hub, streams: Option<&String>, groups: Option<&String>) -> Option<Vec<String>> {
    let (streams, Some(groups)) = (words(streams), words(groups)) else { return words(streams) };
    let is_in = |stream: &crate::hub::StreamName| stream.group.as_ref().is_some_and(|group| groups.contains(group));
    let ids = [hub.stream_names(), hub.names_elsewhere()].concat().into_iter().filter(is_in).map(|stream| stream.id);
    Some(ids.filter(|id| streams.as_ref().is_none_or(|streams| streams.contains(id))).collect())
}

/// Whether the answer is a table: `format`, or else what the client accepts.
fn wants_csv(format: Option<&String>, headers: &HeaderMap) -> Result<bool, ApiError> {
    match format.map(String::as_str) {
        Some("csv") => Ok(true),
        Some("json") => Ok(false),
        Some(_) => Err(invalid("format", "choose json or csv")),
        None => {
            let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            Ok(accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/csv")))
        }
    }
}

/// A table as a file. `next`: the page after this one.
fn table<C: AsRef<[u8]>, R: IntoIterator<Item = C>>(
    name: &str,
    head: &[&str],
    rows: impl IntoIterator<Item = R>,
    next: Option<&String>,
) -> Result<Response, ApiError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written =
        writer.write_record(head).and_then(|()| rows.into_iter().try_for_each(|row| writer.write_record(row)));
    let failed = |e: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("CSV: {e}"), "see the log of the program")
    };
    written.map_err(|e| failed(&e))?;
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    let disposition = format!("attachment; filename=\"{name}.csv\"");
    let mut response = (
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)],
        bytes,
    )
        .into_response();
    if let Some(next) = next.and_then(|next| next.parse().ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    Ok(response)
}

/// The header of a table that has the parameter `after` of the next page.
const NEXT: &str = "touchline-next";
