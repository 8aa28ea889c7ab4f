//! `/api/v1/history`: the seconds of a stream, or steps of several seconds where the time is long.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{check_stream, invalid, read, table, time, unreadable, wants_csv};
use crate::http::answer::{ApiError, json};
use crate::http::app_state::AppState;
use crate::http::export_routes::EXPORTS;
use crate::http::extract::Parameters;
use crate::hub::KeptTime;
use crate::record::format::rfc3339;
use crate::record::reader;
use crate::record::to_json;
use crate::record::types::Probability;
use touchline_core::segment::{MILLION, SegmentedStream, Verdict};

/// The steps that are chosen from, seconds.
const STEPS: [u32; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];

/// Steps of an answer: more than a screen has pixels.
const POINTS: i64 = 3600;

/// Steps of an answer with `step`.
const POINTS_MAX: i64 = 86_400;

/// The longest time of an answer, days. A day of seconds takes a fraction of a second of a core.
const DAYS_MAX: i64 = 31;

/// The time that is shown by default: an hour.
const DEFAULT_MS: i64 = 3_600_000;

/// Selects the seconds.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecondsQuery {
    /// Id of the stream.
    stream: String,
    /// From this time on, RFC 3339; by default an hour before `to`.
    from: Option<String>,
    /// Before this time, RFC 3339; by default now.
    to: Option<String>,
    /// Seconds of a step; by default as few as give no more than 3600 steps.
    #[param(minimum = 1, maximum = 86_400)]
    step: Option<u32>,
    /// json or csv; by default from the header Accept.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// Seconds of the past in steps. All lists have an entry for each step.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "History")]
pub(crate) struct SecondsView {
    /// Id of the stream.
    stream: String,
    /// Begin of the first step, milliseconds since 1970-01-01 UTC.
    from_ms: i64,
    /// Length of a step.
    step_s: u32,
    /// Names of the classes.
    classes: Vec<String>,
    /// The class that most seconds of the step have, as its position in `classes`; null without a decided second.
    class: Vec<Option<usize>>,
    /// Mean probability of that class in the seconds that have it.
    probability: Vec<Option<Probability>>,
    /// Decided seconds.
    decided: Vec<u32>,
    /// Decided seconds whose class is too improbable to be the answer.
    unknown: Vec<u32>,
    /// Seconds without a decision.
    gaps: Vec<u32>,
}

/// Contents of a step.
#[derive(Clone, Default)]
struct Step {
    /// Seconds, and sum of the probabilities in millionths, by class.
    classes: BTreeMap<usize, (u32, u64)>,
    decided: u32,
    unknown: u32,
    gaps: u32,
}

impl Step {
    fn class(&self) -> Option<(usize, u32)> {
        // The earlier of two with as many.
        let (class, (count, sum)) = self.classes.iter().rev().max_by_key(|(_, (count, _))| *count)?;
        Some((*class, (sum / u64::from(*count)) as u32))
    }
}

/// Returns the seconds of a stream from the store.
#[utoipa::path(get, path = "/api/v1/history", operation_id = "history", params(SecondsQuery), responses(
    (status = 200, description = "The seconds, in steps.",
        content((ref("#/components/schemas/History") = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is unknown or has a wrong form, or stream is missing."),
    (status = 404, description = "There is no such stream here or in the store, or the program has no store."),
    (status = 422, description = "A value is not allowed, or the time is longer than 31 days or than 86400 steps."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn history(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(query): Parameters<SecondsQuery>,
) -> Result<Response, ApiError> {
    let is_csv = wants_csv(query.format.as_ref(), &headers)?;
    let time = time(query.from.as_deref(), query.to.as_deref(), &**state.hub.clock(), DEFAULT_MS)?;
    let step_s = step(time, query.step)?;
    let permit = EXPORTS.acquire().await.map_err(|_| ApiError::shutting_down())?;
    let (is_here, stream) = (state.hub.has_stream(&query.stream), query.stream);
    let view = read(&state, move |archive| {
        // Kept until the end, also when the client goes away.
        let _permit = permit;
        check_stream(is_here, archive, &stream)?;
        let lines = archive.seconds(&stream, time).map_err(|e| unreadable(&e))?;
        let mut file = reader::read(&lines[..]).map_err(|e| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), "see the log of the program")
        })?;
        let seconds = file.streams.remove(&stream).unwrap_or_default();
        Ok(view(stream, &seconds, file.classes, time, step_s))
    })
    .await?;
    if !is_csv {
        return Ok(json(to_json(&view)));
    }
    let rows = (0..view.class.len()).filter(|i| view.decided[*i] + view.gaps[*i] > 0).map(|i| {
        let at_ms = view.from_ms + i64::from(view.step_s) * 1000 * i as i64;
        let class = view.class[i].map(|class| view.classes[class].clone()).unwrap_or_default();
        let probability = view.probability[i].map(|p| to_json(&p)).unwrap_or_default();
        let counts = [view.decided[i], view.unknown[i], view.gaps[i]].map(|count| count.to_string());
        [rfc3339(at_ms.saturating_mul(1_000_000)), class, probability].into_iter().chain(counts)
    });
    table("history", &["at", "class", "probability", "decided", "unknown", "gaps"], rows, None)
}

/// The seconds of a step.
fn step(time: KeptTime, given: Option<u32>) -> Result<u32, ApiError> {
    let length_s = (time.to_ms - time.from_ms + 999) / 1000;
    if length_s > DAYS_MAX * 86_400 {
        return Err(invalid("from", &format!("choose a time of {DAYS_MAX} days or less")));
    }
    let count = |step_s: u32| length_s.div_euclid(i64::from(step_s)) + 1;
    match given {
        Some(0) => Err(invalid("step", "choose 1 or more")),
        Some(step_s) if count(step_s) > POINTS_MAX => Err(invalid("step", "choose a longer step, or a shorter time")),
        Some(step_s) => Ok(step_s),
        None => {
            let [.., longest] = STEPS;
            Ok(STEPS.into_iter().find(|step_s| count(*step_s) <= POINTS).unwrap_or(longest))
        }
    }
}

fn view(stream: String, seconds: &SegmentedStream, classes: Vec<String>, time: KeptTime, step_s: u32) -> SecondsView {
    let step_ms = i64::from(step_s) * 1000;
    // Steps begin at whole ones, so that they stay the same while the time moves.
    let from_ms = time.from_ms - time.from_ms.rem_euclid(step_ms);
    let count = usize::try_from((time.to_ms - from_ms + step_ms - 1) / step_ms).unwrap_or(0);
    let mut steps = vec![Step::default(); count];
    for second in seconds.seconds() {
        let Some(wall_ns) = second.wall_ns else { continue };
        let at = (wall_ns.div_euclid(1_000_000) - from_ms).div_euclid(step_ms);
        let Some(step) = usize::try_from(at).ok().and_then(|at| steps.get_mut(at)) else { continue };
        match &second.verdict {
            Verdict::Decided { is_unknown, probabilities, .. } => {
                step.decided += 1;
                step.unknown += u32::from(*is_unknown);
                // The earlier of two with the same probability.
                let best = probabilities.iter().enumerate().rev().max_by_key(|(_, probability)| **probability);
                if let Some((class, probability)) = best {
                    let (seconds, sum) = step.classes.entry(class).or_default();
                    *seconds += 1;
                    *sum += u64::from(*probability);
                }
            }
            Verdict::Gap(_) => step.gaps += 1,
            Verdict::Missing => {}
        }
    }
    let best: Vec<_> = steps.iter().map(Step::class).collect();
    let share = |millionths: u32| Probability::from((f64::from(millionths) / f64::from(MILLION)) as f32);
    SecondsView {
        stream,
        from_ms,
        step_s,
        classes,
        class: best.iter().map(|best| best.map(|(class, _)| class)).collect(),
        probability: best.iter().map(|best| best.map(|(_, probability)| share(probability))).collect(),
        decided: steps.iter().map(|step| step.decided).collect(),
        unknown: steps.iter().map(|step| step.unknown).collect(),
        gaps: steps.iter().map(|step| step.gaps).collect(),
    }
}
