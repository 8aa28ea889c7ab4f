//! What a wall shows of every stream: its summary, its last answer, and the last ten minutes as spans.

use std::collections::VecDeque;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::history::{HistoryEntry, HistoryOutcome};
use super::view::{SummaryView, raw};
use super::{ElsewhereView, FeedCursor, FeedFilter, Hub, LiveState, Stream};
use crate::record::format::millis;
use crate::record::types::Probability;
use crate::record::{Published, SERIALISES, to_json};
use touchline_core::clip::GapReason;
use touchline_core::decision::{Event, EventKind, SecondOutcome};
use touchline_core::labels::{ClassId, ClassSet};
use touchline_core::signal::{Signal, Signals};
use touchline_core::time::{NANOS_PER_SECOND, RunId, WallTime};

/// Answers further apart than this do not join: nothing was published between them.
const PAUSE_MS: i64 = 2_500;

/// Streams with their last answers and their last ten minutes, short.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Overview")]
pub(crate) struct OverviewView {
    /// The server's time, milliseconds since 1970-01-01 UTC.
    now_ms: i64,
    /// In the order in which they were added.
    #[schemars(with = "Vec<StreamOverviewView>")]
    streams: Vec<Box<RawValue>>,
    /// Streams that other machines of the fleet watch, by id. Only with `fleet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<ElsewhereView>")]
    elsewhere: Option<Vec<Box<RawValue>>>,
}

/// A stream on a wall.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StreamOverview")]
pub(crate) struct StreamOverviewView<'a> {
    #[serde(flatten)]
    summary: SummaryView<'a>,
    #[schemars(with = "Option<EstimateView>")]
    estimate: Option<&'a RawValue>,
    /// The last ten minutes, oldest first. Nothing was published between spans that do not touch.
    spans: Vec<SpanView<'a>>,
}

/// The answer of a second, short.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Estimate")]
pub(crate) struct EstimateView<'a> {
    /// Id of the stream.
    stream: &'a str,
    run: RunId,
    index: u64,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    at_ms: i64,
    /// Class of the estimate over the vote window; null while it has no second with a decision.
    label: Option<&'a str>,
    /// Mean probability of `label`.
    probability: Option<Probability>,
    /// `label` is too improbable to be the answer.
    unknown: bool,
    /// The classes on air, by hysteresis on the estimate, the most probable first.
    on_air: Vec<OnAirView<'a>>,
    /// Why the second has no decision; null if it has one.
    reason: Option<GapReason>,
    /// What the signal shows in place of a programme, or beside it.
    #[schemars(with = "Vec<Signal>")]
    signal: Signals,
    /// Milliseconds from the arrival of the second's last sample to publication; null for gaps.
    #[schemars(range(min = 0))]
    latency_ms: Option<f64>,
    /// Seconds of the stream that wait for inference.
    backlog: u32,
}

#[derive(Serialize, JsonSchema)]
struct OnAirView<'a> {
    label: &'a str,
    /// Its mean probability over the vote window.
    probability: Probability,
}

/// Seconds in a row with the same answer.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Span")]
pub(super) struct SpanView<'a> {
    /// When its first second was published, milliseconds since 1970-01-01 UTC.
    from_ms: i64,
    /// When its last second was published.
    to_ms: i64,
    /// Class of the estimate; null for gaps.
    label: Option<&'a str>,
    unknown: bool,
    /// Why the seconds have no decision; null if they have one.
    reason: Option<GapReason>,
}

/// `history` as spans.
pub(super) fn spans<'a>(history: &VecDeque<HistoryEntry>, classes: &'a ClassSet) -> Vec<SpanView<'a>> {
    let mut spans: Vec<SpanView<'a>> = Vec::new();
    for entry in history {
        let reason = match entry.verdict {
            HistoryOutcome::Gap(reason) => Some(reason),
            HistoryOutcome::Decided { .. } => None,
        };
        let label = entry.window.filter(|_| reason.is_none()).map(|(label, _)| classes.name(label));
        let unknown = entry.unknown && label.is_some();
        match spans.last_mut() {
            Some(last)
                if (last.label, last.unknown, last.reason) == (label, unknown, reason)
                    && entry.at_ms - last.to_ms <= PAUSE_MS =>
            {
                last.to_ms = entry.at_ms;
            }
            _ => spans.push(SpanView { from_ms: entry.at_ms, to_ms: entry.at_ms, label, unknown, reason }),
        }
    }
    spans
}

impl LiveState {
    /// Wall time of second `index` of `run`, counted from the last second that has one.
    pub(super) fn wall_of(&self, run: RunId, index: u64) -> Option<WallTime> {
        let (last_run, last, wall) = self.last_wall?;
        let later = index.checked_sub(last).filter(|_| last_run == run)?;
        let unix_ns = wall.unix_ns.saturating_add_unsigned(later.saturating_mul(NANOS_PER_SECOND));
        Some(WallTime { unix_ns, ..wall })
    }

    /// Follows the classes on air.
    pub(super) fn put_on_air(&mut self, events: &[Event]) {
        for event in events {
            self.on_air.retain(|class| *class != event.class);
            if event.kind == EventKind::Onset {
                self.on_air.push(event.class);
            }
        }
    }
}

impl Hub {
    /// The overview of the streams that `filter` selects.
    pub fn overview_json(&self, filter: &FeedFilter) -> String {
        self.overview(filter, |_, _| {})
    }

    /// `each` gets the ids of the streams, and the numbers of their last items.
    fn overview(&self, filter: &FeedFilter, mut each: impl FnMut(&Arc<str>, u64)) -> String {
        let mut rows = Vec::new();
        // One lock at a time: a snapshot of all streams at once would delay publishing.
        for stream in self.streams() {
            let live = stream.live();
            if filter.has_stream(&stream.id, live.group.as_deref()) {
                each(&stream.id, live.fed);
                rows.push(to_raw_value(&self.stream_view(&stream, &live)).expect(SERIALISES));
            }
        }
        let elsewhere = filter.fleet.then(|| {
            self.elsewhere(|id, group, fed| {
                let is_selected = filter.has_stream(id, group);
                if is_selected {
                    each(id, fed);
                }
                is_selected
            })
        });
        to_json(&OverviewView { now_ms: self.shared.clock.unix_ns().div_euclid(1_000_000), streams: rows, elsewhere })
    }

    /// Follows what `filter` selects from now on. Returns the overview, the id of the newest item, and the items after it: they
    /// neither overlap with the overview nor leave a gap.
    pub fn follow(&self, filter: FeedFilter) -> (String, String, FeedCursor) {
        let mut cursor = self.shared.feed.end(filter);
        let id = self.shared.feed.id(cursor.before());
        let filter = cursor.filter().clone();
        let overview = self.overview(&filter, |id, fed| cursor.contains(id, fed));
        (overview, id, cursor)
    }

    /// Follows what `filter` selects after the item `id`. `None` if not all later items are in memory, or the item is that of
    /// another process.
    pub fn resume(&self, id: &str, filter: FeedFilter) -> Option<FeedCursor> {
        self.shared.feed.after(id, filter)
    }

    /// Reads the next items of `cursor`, each with its id. `None` if there are none yet.
    pub fn read_feed(&self, cursor: &mut FeedCursor) -> Option<super::FeedBatch> {
        self.shared.feed.read(cursor)
    }

    /// The id of the item with the number `sequence`, with which a client resumes.
    pub fn feed_id(&self, sequence: u64) -> String {
        self.shared.feed.id(sequence)
    }

    pub(super) fn stream_overview(&self, stream: &Stream, live: &LiveState) -> String {
        to_json(&self.stream_view(stream, live))
    }

    fn stream_view<'a>(&'a self, stream: &'a Stream, live: &'a LiveState) -> StreamOverviewView<'a> {
        StreamOverviewView {
            summary: self.summary(stream, live),
            estimate: live.estimate.as_deref().and_then(raw),
            spans: spans(&live.history, &self.shared.classes),
        }
    }

    pub(super) fn estimate(&self, id: &str, live: &LiveState, published: &Published, entry: &HistoryEntry) -> String {
        let classes = &self.shared.classes;
        let reason = match &published.outcome {
            SecondOutcome::Predicted(_) => None,
            SecondOutcome::Gap(gap) => Some(gap.reason),
        };
        let mean = |class: ClassId| published.estimate.mean[class.index()];
        let mut on_air = live.on_air.clone();
        on_air.sort_by(|a, b| mean(*b).total_cmp(&mean(*a)).then(a.cmp(b)));
        to_json(&EstimateView {
            stream: id,
            run: entry.run,
            index: entry.index,
            at_ms: entry.at_ms,
            label: entry.window.map(|(label, _)| classes.name(label)),
            probability: entry.window.map(|(_, probability)| probability.into()),
            unknown: entry.unknown,
            on_air: on_air
                .into_iter()
                .map(|class| OnAirView { label: classes.name(class), probability: mean(class).into() })
                .collect(),
            reason,
            signal: published.outcome.signals(),
            latency_ms: published.latency_ns.map(millis),
            backlog: published.backlog,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::hub::{FeedKind, StreamHandle, StreamInfo};
    use crate::record::StreamState;
    use crate::testing::{self, EPOCH_NS, gap, predicted};
    use touchline_core::cause::Cause;
    use touchline_core::clock::ManualClock;
    use touchline_core::item::Pace;

    const SECOND_NS: u64 = NANOS_PER_SECOND;

    fn hub() -> (Hub, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (testing::hub(clock.clone()), clock)
    }

    fn add(hub: &Hub, id: &str) -> StreamHandle {
        hub.add_stream(StreamInfo { id: id.into(), uri: "testsrc://".into(), pace: Pace::Live }).unwrap()
    }

    fn event(kind: EventKind, class: u16, index: u64) -> Event {
        Event { kind, class: ClassId(class), run: RunId(0), index, probability: 0.9, reason: None }
    }

    fn first(hub: &Hub) -> Value {
        serde_json::from_str::<Value>(&hub.overview_json(&FeedFilter::default())).unwrap()["streams"][0].clone()
    }

    #[test]
    fn seconds_with_the_same_answer_join_in_a_span() {
        let (hub, clock) = hub();
        let cam = add(&hub, "cam");
        let mut unknown = predicted(3, "tennis", 0.4);
        unknown.estimate.known_from = 0.5;
        for published in [
            predicted(0, "soccer", 0.9),
            predicted(1, "soccer", 0.9),
            gap(2, GapReason::Overload),
            unknown,
            predicted(4, "tennis", 0.9),
        ] {
            clock.advance(SECOND_NS);
            cam.publish(&published);
        }
        clock.advance(60 * SECOND_NS);
        cam.publish(&predicted(65, "tennis", 0.9));
        let span = |from: i64, to: i64, label: Option<&str>, unknown: bool, reason: Option<&str>| json!({ "from_ms": from, "to_ms": to, "label": label, "unknown": unknown, "reason": reason });
        assert_eq!(
            first(&hub)["spans"],
            json!([
                span(1000, 2000, Some("soccer"), false, None),
                span(3000, 3000, None, false, Some("overload")),
                span(4000, 4000, Some("tennis"), true, None),
                span(5000, 5000, Some("tennis"), false, None),
                span(65000, 65000, Some("tennis"), false, None),
            ])
        );
    }

    #[test]
    fn an_estimate_has_the_classes_on_air_the_most_probable_first() {
        let (hub, _) = hub();
        let cam = add(&hub, "cam");
        let mut second = predicted(0, "tennis", 0.9);
        second.events = vec![event(EventKind::Onset, 0, 0), event(EventKind::Onset, 1, 0)];
        cam.publish(&second);
        let estimate = first(&hub)["estimate"].clone();
        assert_eq!((&estimate["label"], &estimate["stream"]), (&json!("tennis"), &json!("cam")));
        assert_eq!(estimate["on_air"][0], json!({ "label": "tennis", "probability": 0.9 }));
        assert_eq!(estimate["on_air"][1]["label"], "soccer");
        assert_eq!(first(&hub)["on_air"], json!(["soccer", "tennis"]));
        second = predicted(1, "tennis", 0.9);
        second.events = vec![event(EventKind::Offset, 0, 1)];
        cam.publish(&second);
        assert_eq!(first(&hub)["estimate"]["on_air"].as_array().unwrap().len(), 1);
        cam.publish_end(&[event(EventKind::Offset, 1, 1)], &[]);
        assert_eq!(first(&hub)["on_air"], json!([]));
    }

    #[test]
    fn the_last_event_has_the_wall_time_of_its_second() {
        let (hub, _) = hub();
        let cam = add(&hub, "cam");
        let wall = |index| {
            let record = cam.publish_end(&[event(EventKind::Offset, 1, index)], &[]);
            serde_json::from_str::<Value>(&record[0].json).unwrap()["wall"]["time"].clone()
        };
        assert_eq!(wall(4), Value::Null, "no second has a time yet");
        cam.publish(&predicted(4, "tennis", 0.9));
        cam.publish(&gap(5, GapReason::NoMedia));
        assert_eq!(wall(4), crate::record::format::rfc3339(EPOCH_NS + 4_000_000_000));
        assert_eq!(wall(6), crate::record::format::rfc3339(EPOCH_NS + 6_000_000_000));
    }

    #[test]
    fn an_outage_begins_with_its_first_failure() {
        let (hub, clock) = hub();
        let cam = add(&hub, "cam");
        let waiting = |attempt| StreamState::Waiting {
            kind: Cause::HostUnreachable,
            cause: "no route to host".into(),
            attempt,
            retry_in_ns: SECOND_NS,
        };
        assert_eq!(first(&hub)["down_since"], Value::Null, "it has not failed");
        for (at, state, since) in [
            (1, StreamState::Playing, Value::Null),
            (2, waiting(1), json!("1970-01-01T00:00:03.000Z")),
            (3, waiting(2), json!("1970-01-01T00:00:03.000Z")),
            (4, StreamState::Playing, Value::Null),
            (5, StreamState::Ended, json!("1970-01-01T00:00:15.000Z")),
        ] {
            clock.advance(at * SECOND_NS);
            cam.set_state(state);
            assert_eq!(first(&hub)["down_since"], since, "{at}");
        }
    }

    #[test]
    fn the_overview_and_the_items_after_it_neither_overlap_nor_leave_a_gap() {
        let (hub, _) = hub();
        let (overview, id, mut cursor) = hub.follow(FeedFilter::default());
        assert_eq!(overview, r#"{"now_ms":0,"streams":[]}"#);
        assert_eq!(id, "0-0");
        let cam = add(&hub, "cam");
        cam.set_state(StreamState::Playing);
        cam.publish(&predicted(0, "tennis", 0.9));
        let batch = hub.read_feed(&mut cursor).unwrap();
        let kinds: Vec<&str> = batch.items.iter().map(|item| item.kind.as_str()).collect();
        assert_eq!(kinds, ["stream", "state", "second", "estimate"]);
        assert_eq!(batch.items[0].kind, FeedKind::Stream);
        let estimate: Value = serde_json::from_str(&batch.items[3].json).unwrap();
        assert_eq!(estimate, first(&hub)["estimate"], "the estimate of the overview");
        assert!(hub.remove_stream("cam"));
        cam.publish(&predicted(1, "tennis", 0.9));
        assert!(hub.read_feed(&mut cursor).is_none(), "a late update of a removed stream");
        let resumed = hub.resume(&hub.feed_id(batch.items[1].sequence), FeedFilter::default());
        assert_eq!(hub.read_feed(&mut resumed.unwrap()).unwrap().items.len(), 2);
    }
}
