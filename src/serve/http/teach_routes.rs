//! `/api/v1/suggestions`, `/api/v1/corrections`, the pictures of held seconds, and the page that asks about them.
//!
//! `access` decides who may call them.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crossbeam_channel::{TryRecvError, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::IntoParams;

use super::access::{Caller, Peer};
use super::answer::{ApiError, json, no_stream, page_limit, refuse_body};
use super::app_state::AppState;
use super::extract::{Parameters, Place};
use super::stream_routes::{StreamPath, parse};
use crate::record::format::rfc3339;
use crate::record::to_json;
use crate::teach::types::{
    AnswerKind, Author, Correction, CorrectionRefusal, HeldView, LikelyView, ModalityView, NewCorrection,
};
use crate::teach::{HeldSecond, TeachAccess};
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::time::RunId;

/// Suggestions in an answer, by default and at most.
const SUGGESTIONS: usize = 20;
const SUGGESTIONS_MAX: usize = 200;

/// Corrections on a page, by default and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The most probable classes of a second that an answer has: one a digit key.
const LIKELY: usize = 9;

/// The longest span of a correction, seconds: a long programme.
const SPAN_MAX: u64 = 6 * 3600;

/// Answers that read seconds from a ring: one at a time, because decoding takes the processor from the streams. The others wait here and
/// hold no thread.
static RECALLS: Semaphore = Semaphore::const_new(1);

/// How many suggestions are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SuggestionFilter {
    /// At most this many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 20)]
    limit: Option<usize>,
    /// Id of a stream: only its seconds.
    stream: Option<String>,
}

/// Which corrections are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CorrectionFilter {
    /// At most this many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// Only corrections after this one in the list: `next` of the page before.
    after: Option<String>,
}

/// The path of a correction.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct CorrectionPath {
    /// Id of the correction.
    id: String,
}

/// The path of a held second.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SecondPath {
    /// Id of the stream.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    id: String,
    /// Run of the second.
    run: u32,
    /// Index of the second.
    index: u64,
}

/// Seconds that people should be asked about, the most doubtful first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Suggestions")]
pub(crate) struct SuggestionsView<'a> {
    suggestions: Vec<HeldView<'a>>,
}

/// Corrections, the newest first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Corrections")]
pub(crate) struct CorrectionsView {
    corrections: Vec<Correction>,
    /// Value of `after` for the next page; null on the last.
    next: Option<String>,
    /// Number of all corrections.
    total: usize,
    /// Size of their files.
    bytes: u64,
    /// Largest size of their files.
    max_bytes: u64,
    /// The classes of those that teach, in the order of their names.
    classes: Vec<TaughtClass>,
}

/// A class of corrections.
#[derive(Serialize, JsonSchema)]
struct TaughtClass {
    class: String,
    /// Number of corrections.
    corrections: u64,
    /// Seconds in their files.
    seconds: u64,
}

/// What seconds show.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewCorrection")]
pub(crate) struct CorrectionBody {
    /// Run of the seconds.
    run: u32,
    /// Index of the first second.
    from: u64,
    /// Index of the last second; by default the first.
    to: Option<u64>,
    /// The answer; by default that they show `class`.
    answer: Option<AnswerKind>,
    /// The class that they show: one of the pack.
    class: Option<String>,
}

/// A correction that is kept.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AddedCorrection")]
pub(crate) struct AddedView {
    #[serde(flatten)]
    correction: Correction,
    /// Ids of the corrections of the same seconds that it replaces.
    replaced: Vec<String>,
}

/// Returns the page on which people answer suggestions, and on which a pack learns.
#[utoipa::path(get, path = "/teach", operation_id = "teachPage", responses(
    (status = 200, description = "The page.", body = String, content_type = "text/html"),
    (status = 401, description = "The request has no token (the login page), or a wrong one.",
        content((String = "text/html"), (ref("#/components/schemas/Problem") = "application/json"))),
))]
pub(crate) async fn page() -> Response {
    super::file("teach.html")
}

/// Returns seconds that people should be asked about: doubtful decisions that nobody has answered.
#[utoipa::path(get, path = "/api/v1/suggestions", operation_id = "listSuggestions", params(SuggestionFilter), responses(
    (status = 200, description = "The seconds.", body = ref("#/components/schemas/Suggestions")),
    (status = 400, description = "A parameter has a wrong form."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
    (status = 422, description = "limit is not 1 to 200."),
))]
pub(crate) async fn suggestions(
    State(state): State<AppState>,
    Parameters(filter): Parameters<SuggestionFilter>,
) -> Result<Response, ApiError> {
    let limit = page_limit(filter.limit, SUGGESTIONS, SUGGESTIONS_MAX)?;
    let TeachAccess { memory, store, .. } = access(&state)?;
    let classes = state.hub.classes().clone();
    let found = tokio::task::spawn_blocking(move || {
        let is_other = |held: &HeldSecond| filter.stream.as_ref().is_some_and(|stream| **stream != *held.stream);
        let held = memory.suggestions(limit, |held| is_other(held) || store.has_answer(held));
        to_json(&SuggestionsView { suggestions: held.iter().map(|held| view(held, &classes)).collect() })
    });
    found.await.map(json).map_err(|_| ApiError::shutting_down())
}

/// Returns a second in memory: what was decided about it.
#[utoipa::path(get, path = "/api/v1/streams/{id}/seconds/{run}/{index}", operation_id = "getHeldSecond", params(SecondPath), responses(
    (status = 200, description = "The second.", body = ref("#/components/schemas/HeldView")),
    (status = 400, description = "The path has a wrong form."),
    (status = 404, description = "The second is not in memory, or nothing can be corrected."),
))]
pub(crate) async fn second(
    State(state): State<AppState>,
    Place(SecondPath { id, run, index }): Place<SecondPath>,
) -> Result<Response, ApiError> {
    let held = access(&state)?.memory.find(&id, RunId(run), index).ok_or_else(not_held)?;
    Ok(json(to_json(&view(&held, state.hub.classes()))))
}

/// Returns the middle picture of a second in memory, as the models saw it.
#[utoipa::path(get, path = "/api/v1/streams/{id}/seconds/{run}/{index}/picture", operation_id = "getHeldPicture", params(SecondPath), responses(
    (status = 200, description = "The picture.", body = Vec<u8>, content_type = "image/jpeg"),
    (status = 400, description = "The path has a wrong form."),
    (status = 404, description = "The second is not in memory, it has no picture, or nothing can be corrected."),
))]
pub(crate) async fn picture(
    State(state): State<AppState>,
    Place(SecondPath { id, run, index }): Place<SecondPath>,
) -> Result<Response, ApiError> {
    let held = access(&state)?.memory.find(&id, RunId(run), index).ok_or_else(not_held)?;
    let pictures = &held.seen.pictures;
    let picture = pictures.get(pictures.len() / 2).ok_or_else(not_held)?;
    // A second does not change.
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=600")];
    Ok((headers, picture.jpeg.clone()).into_response())
}

/// Lists the corrections, page by page, the newest first.
#[utoipa::path(get, path = "/api/v1/corrections", operation_id = "listCorrections", params(CorrectionFilter), responses(
    (status = 200, description = "The corrections.", body = ref("#/components/schemas/Corrections")),
    (status = 400, description = "A parameter has a wrong form."),
    (status = 404, description = "Nothing can be corrected: [teach] has no dir."),
    (status = 422, description = "limit is not 1 to 1000."),
))]
pub(crate) async fn list(
    State(state): State<AppState>,
    Parameters(filter): Parameters<CorrectionFilter>,
) -> Result<Response, ApiError> {
    let limit = page_limit(filter.limit, LIMIT, LIMIT_MAX)?;
    let store = access(&state)?.store;
    let mut corrections = store.list();
    let (total, bytes) = (corrections.len(), corrections.iter().map(|kept| kept.bytes).sum());
    let mut classes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for kept in &corrections {
        if let Some(class) = &kept.class {
            let (corrections, seconds) = classes.entry(class).or_default();
            (*corrections, *seconds) = (*corrections + 1, *seconds + u64::from(kept.seconds));
        }
    }
    let class =
        |(class, (corrections, seconds)): (&str, _)| TaughtClass { class: class.to_owned(), corrections, seconds };
    let classes = classes.into_iter().map(class).collect();
    if let Some(after) = filter.after {
        let at = corrections.iter().position(|kept| kept.id == after).map_or(total, |at| at + 1);
        corrections.drain(..at);
    }
    let has_more = corrections.len() > limit;
    corrections.truncate(limit);
    let next = corrections.last().filter(|_| has_more).map(|kept| kept.id.clone());
    Ok(json(to_json(&CorrectionsView { corrections, next, total, bytes, max_bytes: store.max_bytes(), classes })))
}

/// Says what seconds of a stream show. They must be in memory, or in the ring of the stream (`[record]`), from which they are decoded.
#[utoipa::path(post, path = "/api/v1/streams/{id}/corrections", operation_id = "addCorrection", params(StreamPath),
    request_body = ref("#/components/schemas/NewCorrection"), responses(
    (status = 201, description = "The correction is kept.", body = ref("#/components/schemas/AddedCorrection")),
    (status = 400, description = "The body is not JSON."),
    (status = 404, description = "There is no such stream, none of the seconds is in memory or recorded, or nothing can be corrected."),
    (status = 409, description = "Some of the seconds belong to another correction."),
    (status = 415),
    (status = 422, description = "A key is unknown, the class is not one of the pack, or the span is not valid."),
    (status = 500, description = "The folder cannot be read or written."),
    (status = 503),
    (status = 507, description = "The disk is full, or the folder has its maximum size."),
))]
pub(crate) async fn post(
    State(state): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    caller: Option<Extension<Caller>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let TeachAccess { memory, store, .. } = access(&state)?;
    let new = wanted(id.clone(), parse(&headers, &body)?, state.hub.classes())?;
    // The material of a removed stream stays for a while.
    if !state.hub.has_stream(&id) && memory.span(&id, new.run, (new.from, new.to)).is_empty() {
        return Ok(no_stream(&id));
    }
    let author = author(caller, peer);
    let permit = match store.reads_ring(&memory, &new) {
        true => Some(RECALLS.acquire().await.map_err(|_| ApiError::shutting_down())?),
        false => None,
    };
    // Dropped with the request, when the client goes away.
    let (_alive, cancelled) = bounded::<Infallible>(0);
    let added = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let is_cancelled = || cancelled.try_recv() == Err(TryRecvError::Disconnected);
        store.add(&memory, &new, author, &is_cancelled)
    });
    let added = added.await;
    let (correction, replaced) = added.map_err(|_| ApiError::shutting_down())?.map_err(refusal)?;
    Ok((StatusCode::CREATED, json(to_json(&AddedView { correction, replaced }))).into_response())
}

/// Removes a correction and its file.
#[utoipa::path(delete, path = "/api/v1/corrections/{id}", operation_id = "removeCorrection", params(CorrectionPath), responses(
    (status = 204, description = "The correction is removed."),
    (status = 400, description = "DELETE takes no body."),
    (status = 404, description = "There is no such correction, or nothing can be corrected."),
    (status = 500, description = "The folder cannot be read or written."),
    (status = 503),
    (status = 507, description = "The disk is full."),
))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    Place(CorrectionPath { id }): Place<CorrectionPath>,
    caller: Option<Extension<Caller>>,
    peer: Option<Extension<Peer>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    refuse_body(&body, "DELETE")?;
    let (store, author) = (access(&state)?.store, author(caller, peer));
    let removed = tokio::task::spawn_blocking(move || store.remove(&id, author)).await;
    removed.map_err(|_| ApiError::shutting_down())?.map_err(refusal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a body asks for.
fn wanted(stream: String, body: CorrectionBody, classes: &ClassSet) -> Result<NewCorrection, ApiError> {
    let invalid = |error: String, advice: &str| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error, advice);
    let CorrectionBody { run, from, to, answer, class } = body;
    let (to, answer) = (to.unwrap_or(from), answer.unwrap_or(AnswerKind::Class));
    if to < from || to - from >= SPAN_MAX {
        let error = format!("the span from {from} to {to} is not valid");
        return Err(invalid(error, &format!("choose to from {from} to {}", from.saturating_add(SPAN_MAX - 1))));
    }
    match (&class, answer) {
        (Some(class), AnswerKind::Class) if classes.id(class).is_none() => {
            Err(invalid(format!("{class:?} is not a class of the pack"), "see classes in GET /api/v1/info"))
        }
        (Some(_), AnswerKind::Class) | (None, AnswerKind::Confirm | AnswerKind::Unsure) => {
            Ok(NewCorrection { stream, run: RunId(run), from, to, answer, class })
        }
        (Some(_), _) => Err(invalid("class belongs to the answer class".into(), "leave out class or answer")),
        (None, AnswerKind::Class) => Err(invalid("class is missing".into(), "give class, or answer confirm or unsure")),
    }
}

fn author(caller: Option<Extension<Caller>>, peer: Option<Extension<Peer>>) -> Author {
    let by = caller.map_or("nothing", |Extension(caller)| caller.by.as_str());
    let address = peer.map_or_else(String::new, |Extension(peer)| peer.address.ip().to_string());
    Author { by: by.to_owned(), address }
}

fn view<'a>(held: &'a HeldSecond, classes: &'a ClassSet) -> HeldView<'a> {
    let decision = &held.decision;
    let mut order: Vec<_> = classes.ids().collect();
    let probability = |id: &touchline_core::labels::ClassId| decision.probabilities[id.index()];
    order.sort_by(|a, b| probability(b).total_cmp(&probability(a)));
    let likely = order.iter().take(LIKELY);
    let modality = |modality: Modality| {
        let (label, score) = (*decision.views.get(modality))?;
        Some(ModalityView { modality, class: classes.name(label), score: score.into() })
    };
    HeldView {
        stream: &held.stream,
        run: held.run,
        index: held.index,
        block: held.block().0,
        began: rfc3339(held.unix_ns),
        label: classes.name(decision.label),
        probability: decision.probability.into(),
        likely: likely.map(|id| LikelyView { class: classes.name(*id), probability: probability(id).into() }).collect(),
        modalities: Modality::ALL.into_iter().filter_map(modality).collect(),
        shadow: held.shadow().map(|label| classes.name(label)),
        doubt: held.doubt().into(),
        pictures: held.seen.pictures.len(),
    }
}

pub(crate) fn access(state: &AppState) -> Result<TeachAccess, ApiError> {
    state.teach.clone().ok_or_else(|| {
        let advice = "start it with --teach-dir, or with dir in [teach]";
        ApiError::new(StatusCode::NOT_FOUND, "the server keeps no corrections", advice)
    })
}

fn not_held() -> ApiError {
    let advice = "choose later seconds, or raise memory_s and memory_mb in [teach]";
    ApiError::new(StatusCode::NOT_FOUND, "the second is not in memory, or has no picture", advice)
}

fn refusal(refusal: CorrectionRefusal) -> ApiError {
    let (status, error, advice) = match refusal {
        CorrectionRefusal::NotHeld => {
            let advice = "choose later seconds, record the stream with dir in [record], or raise memory_s and memory_mb in [teach]";
            let error = "the seconds are not in memory, and the stream is not recorded".to_owned();
            (StatusCode::NOT_FOUND, error, advice)
        }
        CorrectionRefusal::NotRecorded => {
            let advice = "choose later seconds, or raise ring_s and ring_mb in [record]; a source without coded media, as testsrc, has none";
            let error = "the seconds are neither in memory nor in the ring of the stream".to_owned();
            (StatusCode::NOT_FOUND, error, advice)
        }
        CorrectionRefusal::Cancelled => return ApiError::shutting_down(),
        CorrectionRefusal::Overlaps(id) => {
            let advice = "remove that correction first, or correct all of its seconds";
            (StatusCode::CONFLICT, format!("some of the seconds belong to the correction {id:?}"), advice)
        }
        CorrectionRefusal::Full => {
            let advice = "raise max_mb in [teach], or remove corrections";
            (StatusCode::INSUFFICIENT_STORAGE, "the corrections have their maximum size".to_owned(), advice)
        }
        CorrectionRefusal::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "the disk is full".to_owned(), "free space"),
        CorrectionRefusal::Unknown(id) => {
            let advice = "GET /api/v1/corrections lists the ids";
            (StatusCode::NOT_FOUND, format!("there is no correction {id:?}"), advice)
        }
        CorrectionRefusal::Failed(cause) => {
            let error = format!("the corrections cannot be read or changed: {cause}");
            (StatusCode::INTERNAL_SERVER_ERROR, error, "check the folder of [teach] and its permissions")
        }
    };
    ApiError::new(status, error, advice)
}
