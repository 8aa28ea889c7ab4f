//! The state of one stream.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::broadcast;

use super::facts::StreamFacts;
use super::feed::{Feed, FeedKind};
use super::history::HistoryEntry;
use super::output::OutputStatus;
use super::posters::PosterBook;
use super::preview::Preview;
use super::{HISTORY_SECONDS, HubShared, LiveRecord, RecordKind};
use crate::metrics::StreamMetrics;
use crate::record::{FleetTenure, Recorder, StreamState};
use touchline_core::clip::GapReason;
use touchline_core::decision::PackStamp;
use touchline_core::expectation::{Expected, OnAir};
use touchline_core::item::{Pace, Tracks};
use touchline_core::labels::ClassId;
use touchline_core::redact;
use touchline_core::signal::Signal;
use touchline_core::time::{RunId, WallTime};

/// Records that a subscriber may lag behind before it loses the oldest: about a minute. For a browser that is further
/// behind, a new snapshot is better.
pub(super) const LIVE_RECORDS: usize = 64;

pub(crate) struct Stream {
    pub(super) id: Arc<str>,
    pub(super) feed: Arc<Feed>,
    pub(super) source: RwLock<SourceFacts>,
    /// Of a stream of a fleet.
    pub(super) tenure: Option<Arc<FleetTenure>>,
    pub(super) metrics: StreamMetrics,
    pub(super) live: Mutex<LiveState>,
    pub(super) preview: Arc<Preview>,
    pub(super) posters: Arc<PosterBook>,
}

/// Replaced when the stream gets another source.
#[derive(Clone)]
pub(super) struct SourceFacts {
    /// Redacted.
    pub(super) uri: Arc<str>,
    pub(super) pace: Pace,
    pub(super) recorder: Recorder,
    /// Masks the credentials of the URI for as long as the stream or one of its threads exists.
    pub(super) _known: redact::MaskGuard,
}

impl SourceFacts {
    pub(super) fn new(id: &str, shared: &HubShared, uri: &str, pace: Pace, tenure: Option<Arc<FleetTenure>>) -> Self {
        let recorder = Recorder::new(id, shared.classes.clone(), pace).with_instance(shared.instance.clone());
        let recorder = recorder.with_tenure(tenure);
        Self { uri: redact::uri(uri).into(), pace, recorder, _known: redact::remember(uri) }
    }
}

/// The changing state of a stream.
pub(super) struct LiveState {
    pub(super) facts: Option<StreamFacts>,
    /// Where its pictures are sent with the label, with its secrets.
    pub(super) output: Option<String>,
    pub(super) output_status: Option<Arc<OutputStatus>>,
    /// `None` once the stream is removed.
    pub(super) subscribers: Option<broadcast::Sender<LiveRecord>>,
    /// The last state before the restart.
    pub(super) before: Option<Arc<str>>,
    pub(super) state: StreamState,
    pub(super) since_unix_ns: i64,
    pub(super) tracks: Option<Tracks>,
    /// When the stream stopped playing; `None` while it plays, and before it first did.
    pub(super) down_since_unix_ns: Option<i64>,
    /// The record of the last second or gap.
    pub(super) last: Option<Arc<str>>,
    /// The answer of the last second, short.
    pub(super) estimate: Option<Arc<str>>,
    /// The classes on air.
    pub(super) on_air: Vec<ClassId>,
    /// Label and mean probability of the last estimate, and whether it is unknown.
    pub(super) top: Option<(ClassId, f32, bool)>,
    /// The conditions of the signal that last, and when they began, nanoseconds since 1970-01-01 UTC.
    pub(super) signals: Vec<(Signal, i64)>,
    /// What is expected at the last second.
    pub(super) expected: Expected,
    pub(super) unexpected: Option<Unexpected>,
    pub(super) latency_ns: Option<u64>,
    pub(super) backlog: u32,
    pub(super) history: VecDeque<HistoryEntry>,
    /// Records, oldest first.
    pub(super) events: VecDeque<Arc<str>>,
    /// Incident records, oldest first.
    pub(super) incidents: VecDeque<Arc<str>>,
    /// The last second with a wall time: its run, index and time.
    pub(super) last_wall: Option<(RunId, u64, WallTime)>,
    /// The last run that was published.
    pub(super) run: RunId,
    /// A run has begun, in this process or before.
    pub(super) has_run: bool,
    pub(super) counters: StreamCounts,
    /// The pack that made the last decision.
    pub(super) pack: Option<Arc<PackStamp>>,
    pub(super) sequence: u64,
    /// Of the settings.
    pub(super) group: Option<Arc<str>>,
    /// Number of the stream's last item in the feed.
    pub(super) fed: u64,
}

/// Something unexpected is on air.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unexpected {
    /// When it began, nanoseconds since 1970-01-01 UTC.
    pub(super) since_unix_ns: i64,
    /// What was on air at the last second of which that is known.
    pub(super) on_air: Option<OnAir>,
}

/// Counts since the program started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Seconds with a decision.
    pub classified: u64,
    /// Seconds without one, in the order of [`GapReason::ALL`].
    pub gapped: [u64; GapReason::ALL.len()],
    /// Runs.
    pub runs: u64,
    /// Times the source was opened again.
    pub reconnects: u64,
    /// Events.
    pub events: u64,
    /// Incidents.
    pub incidents: u64,
}

impl Stream {
    pub(super) fn live(&self) -> MutexGuard<'_, LiveState> {
        self.live.lock()
    }

    pub(super) fn source(&self) -> SourceFacts {
        self.source.read().clone()
    }

    /// Sends `json` to subscribers. The caller holds the lock, so that snapshots and records do not overlap.
    pub(super) fn send(&self, live: &mut LiveState, kind: RecordKind, json: Arc<str>) {
        live.sequence += 1;
        if let Some(subscribers) = &live.subscribers {
            // Fails if nobody subscribes.
            let _ = subscribers.send(LiveRecord { sequence: live.sequence, kind, json: json.clone() });
        }
        self.feed(live, FeedKind::Record(kind), json);
    }

    /// Appends `json` to the feed, unless the stream is removed. The caller holds the lock, as for `send`.
    pub(super) fn feed(&self, live: &mut LiveState, kind: FeedKind, json: Arc<str>) {
        if live.subscribers.is_none() {
            return;
        }
        live.fed = self.feed.push(self.id.clone(), live.group.clone(), kind, json);
    }
}

impl LiveState {
    pub(super) fn new(since_unix_ns: i64) -> Self {
        Self {
            facts: None,
            output: None,
            output_status: None,
            subscribers: Some(broadcast::Sender::new(LIVE_RECORDS)),
            before: None,
            state: StreamState::default(),
            since_unix_ns,
            tracks: None,
            down_since_unix_ns: None,
            last: None,
            estimate: None,
            on_air: Vec::new(),
            top: None,
            signals: Vec::new(),
            expected: Expected::default(),
            unexpected: None,
            latency_ns: None,
            backlog: 0,
            history: VecDeque::with_capacity(HISTORY_SECONDS),
            events: VecDeque::new(),
            incidents: VecDeque::new(),
            last_wall: None,
            run: RunId(0),
            has_run: false,
            counters: StreamCounts::default(),
            pack: None,
            sequence: 0,
            group: None,
            fed: 0,
        }
    }
}
