//! The answers of the API about streams, as JSON.

use std::sync::atomic::Ordering;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::history::Row;
use super::notice::Notice;
use super::output::OutputView;
use super::{Hub, LiveState, Stream, StreamFacts};
use crate::record::format::{class_title, millis, rfc3339};
use crate::record::state::StateFields;
use crate::record::types::{Probability, Stamped};
use crate::record::{SERIALISES, to_json};
use touchline_core::clip::GapReason;
use touchline_core::decision::PackStamp;
use touchline_core::item::{Pace, Tracks};
use touchline_core::labels::Modality;
use touchline_core::signal::Signal;

/// `/api/v1/info`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Info")]
pub(crate) struct InfoView<'a> {
    #[schemars(extend("const" = "touchline"))]
    name: &'static str,
    version: &'static str,
    pack: &'a PackStamp,
    classes: Vec<ClassView<'a>>,
    modalities: &'a [Modality],
    vote_window_s: u32,
    history_seconds: usize,
    /// Time zone of the page (`time_zone` in the configuration); null means the viewer's.
    time_zone: Option<&'a str>,
    /// A sentence that the page shows to all viewers.
    notice: Option<String>,
    /// Whether seconds can be corrected (`[teach]`).
    teaches: bool,
    /// Name of the fleet of this machine, whose streams `touchline stream` changes; null without a fleet.
    fleet: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct ClassView<'a> {
    id: &'a str,
    title: String,
}

/// A stream without its history.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stream")]
pub(crate) struct SummaryView<'a> {
    id: &'a str,
    /// Redacted.
    uri: String,
    /// The machine of the fleet that watches it; null without a fleet.
    node: Option<&'a str>,
    pace: Pace,
    settings: Option<&'a StreamFacts>,
    #[serde(flatten)]
    state: StateFields<'a>,
    /// When the state began.
    #[schemars(extend("format" = "date-time"))]
    since: String,
    /// Start of the current outage; null while the stream plays or has not been opened yet.
    #[schemars(extend("format" = "date-time"))]
    down_since: Option<String>,
    tracks: Option<Tracks>,
    top: Option<TopView<'a>>,
    /// The classes on air, by hysteresis on the estimate.
    on_air: Vec<&'a str>,
    /// The conditions of the signal that last: test bars, black, a frozen picture or silence.
    signal: Vec<SignalView>,
    /// What is expected on air now (`expect`, `schedule`); null if nothing is.
    expectation: Option<ExpectationView<'a>>,
    #[schemars(range(min = 0))]
    latency_ms: Option<f64>,
    backlog: u32,
    counters: CountersView,
    /// Where its pictures are sent with the label; null if nowhere.
    output: Option<OutputView>,
    /// Pack that made the last decision.
    pack: Option<&'a PackStamp>,
}

/// A stream with its history.
// Records are JSON already and are embedded as they are, so that they cannot differ from those of the other outputs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StreamDetail")]
pub(crate) struct DetailView<'a> {
    #[serde(flatten)]
    summary: SummaryView<'a>,
    /// The server's time, milliseconds since 1970-01-01 UTC.
    now_ms: i64,
    #[schemars(with = "Option<Stamped>")]
    last: Option<&'a RawValue>,
    /// The last state before the restart, with --state.
    #[schemars(with = "Option<Stamped>")]
    before: Option<&'a RawValue>,
    #[schemars(with = "Vec<Stamped>")]
    events: Vec<&'a RawValue>,
    #[schemars(with = "Vec<Stamped>")]
    incidents: Vec<&'a RawValue>,
    /// The last ten minutes, one entry per second.
    history: Vec<Row<'a>>,
}

/// The streams, in the order in which they were added.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Streams")]
pub(crate) struct StreamsView {
    #[schemars(with = "Vec<SummaryView>")]
    streams: Vec<Box<RawValue>>,
}

/// `None` if it is not JSON: a record of a damaged store.
pub(super) fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

#[derive(Serialize, JsonSchema)]
struct TopView<'a> {
    label: &'a str,
    probability: Probability,
    /// `label` is too improbable to be the answer.
    unknown: bool,
}

#[derive(Serialize, JsonSchema)]
struct SignalView {
    signal: Signal,
    /// When it began.
    #[schemars(extend("format" = "date-time"))]
    since: String,
}

/// What is expected on air.
#[derive(Serialize, JsonSchema)]
struct ExpectationView<'a> {
    /// Classes of the pack, unknown, no-programme.
    expected: Vec<&'a str>,
    /// Something else has been on air for too long; null if not.
    unexpected: Option<UnexpectedView<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct UnexpectedView<'a> {
    /// When it came on air.
    #[schemars(extend("format" = "date-time"))]
    since: String,
    /// A class of the pack or no-programme; null if it is not known.
    on_air: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct CountersView {
    classified: u64,
    gapped: GappedView,
    runs: u64,
    reconnects: u64,
    events: u64,
    incidents: u64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct GappedView {
    overload: u64,
    no_media: u64,
    compute: u64,
    no_programme: u64,
}

impl Hub {
    /// Version, pack, classes with their titles, vote window.
    pub fn info_json(&self) -> String {
        let running = self.pack();
        let time_zone = self.shared.time_zone.read().clone();
        to_json(&InfoView {
            name: "touchline",
            version: env!("CARGO_PKG_VERSION"),
            pack: &running.stamp,
            classes: self.shared.classes.names().iter().map(|id| ClassView { id, title: class_title(id) }).collect(),
            modalities: &running.modalities,
            vote_window_s: self.shared.vote_window_s.load(Ordering::Relaxed),
            history_seconds: super::HISTORY_SECONDS,
            time_zone: time_zone.as_deref(),
            notice: self.shared.notice.read().as_ref().map(Notice::text),
            teaches: self.shared.teaches.load(Ordering::Relaxed),
            fleet: self.shared.fleet_name.get().map(String::as_str),
        })
    }

    /// `{"streams": [...]}` without their histories, in the order they were added.
    pub fn streams_json(&self) -> String {
        let streams = self.streams();
        // One lock at a time: a snapshot of all streams at once would delay publishing.
        let rows = streams.iter().map(|s| to_raw_value(&self.summary(s, &s.live())).expect(SERIALISES));
        to_json(&StreamsView { streams: rows.collect() })
    }

    /// Stream `id` with its last record, its events and its last ten minutes; `None` if there is no such stream.
    pub fn stream_json(&self, id: &str) -> Option<String> {
        let stream = self.stream(id)?;
        let live = stream.live();
        Some(self.detail(&stream, &live))
    }

    /// Stream `id` without its history; `None` if there is no such stream.
    pub fn summary_json(&self, id: &str) -> Option<String> {
        let stream = self.stream(id)?;
        let live = stream.live();
        Some(to_json(&self.summary(&stream, &live)))
    }

    /// Version of the settings of stream `id`.
    pub fn generation(&self, id: &str) -> Option<u64> {
        self.stream(id)?.live().facts.as_ref().map(|facts| facts.generation)
    }

    pub(super) fn detail(&self, stream: &Stream, live: &LiveState) -> String {
        let classes = &self.shared.classes;
        to_json(&DetailView {
            summary: self.summary(stream, live),
            now_ms: self.shared.clock.unix_ns().div_euclid(1_000_000),
            last: live.last.as_deref().and_then(raw),
            before: live.before.as_deref().and_then(raw),
            events: live.events.iter().filter_map(|record| raw(record)).collect(),
            incidents: live.incidents.iter().filter_map(|record| raw(record)).collect(),
            history: live.history.iter().map(|entry| entry.row(classes)).collect(),
        })
    }

    pub(super) fn summary<'a>(&'a self, stream: &'a Stream, live: &'a LiveState) -> SummaryView<'a> {
        let source = stream.source();
        let gapped = |reason: GapReason| live.counters.gapped[reason as usize];
        SummaryView {
            id: &stream.id,
            uri: source.uri.to_string(),
            node: stream.tenure.as_ref().map(|tenure| tenure.node()),
            pace: source.pace,
            settings: live.facts.as_ref(),
            state: StateFields::new(&live.state, live.since_unix_ns),
            since: rfc3339(live.since_unix_ns),
            down_since: live.down_since_unix_ns.map(rfc3339),
            tracks: live.tracks,
            top: live.top.map(|(class, probability, unknown)| TopView {
                label: self.shared.classes.name(class),
                probability: probability.into(),
                unknown,
            }),
            on_air: live.on_air.iter().map(|class| self.shared.classes.name(*class)).collect(),
            signal: live
                .signals
                .iter()
                .map(|(signal, unix_ns)| SignalView { signal: *signal, since: rfc3339(*unix_ns) })
                .collect(),
            expectation: (!live.expected.is_empty()).then(|| ExpectationView {
                expected: live.expected.names(&self.shared.classes),
                unexpected: live.unexpected.map(|unexpected| UnexpectedView {
                    since: rfc3339(unexpected.since_unix_ns),
                    on_air: unexpected.on_air.map(|on_air| on_air.name(&self.shared.classes)),
                }),
            }),
            latency_ms: live.latency_ns.map(millis),
            backlog: live.backlog,
            counters: CountersView {
                classified: live.counters.classified,
                gapped: GappedView {
                    overload: gapped(GapReason::Overload),
                    no_media: gapped(GapReason::NoMedia),
                    compute: gapped(GapReason::Compute),
                    no_programme: gapped(GapReason::NoProgramme),
                },
                runs: live.counters.runs,
                reconnects: live.counters.reconnects,
                events: live.counters.events,
                incidents: live.counters.incidents,
            },
            output: live.output_status.as_ref().map(|status| status.view()),
            pack: live.pack.as_deref(),
        }
    }
}
