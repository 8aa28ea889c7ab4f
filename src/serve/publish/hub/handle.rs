//! One stream as the threads that work on it see it: what they tell, the hub keeps and passes on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::history::HistoryEntry;
use super::{
    Counters, HISTORY_EVENTS, HISTORY_INCIDENTS, HISTORY_SECONDS, Hub, LiveState, RecordKind, Restored, SourceFacts,
    Stream, StreamFacts, push_bounded,
};
use crate::metrics::StreamMetrics;
use crate::publish::record::{Published, StreamState};
use touchline_core::decision::{Event, SecondOutcome};
use touchline_core::frame::Frame;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Pace, Track, Tracks};
use touchline_core::observer::{Observer as _, Stage};
use touchline_core::time::RunId;

/// One stream, for the threads that work on it. Cloning shares it; all methods may be called from any thread and none
/// waits for a subscriber.
#[derive(Clone)]
pub struct StreamHandle {
    pub(super) hub: Hub,
    pub(super) stream: Arc<Stream>,
}

impl StreamHandle {
    pub fn id(&self) -> &str {
        &self.stream.id
    }

    /// The redacted URI.
    pub fn uri(&self) -> Arc<str> {
        self.stream.source().uri
    }

    /// The stream has another source from now on. What it said before stays.
    pub fn set_source(&self, uri: &str, pace: Pace) {
        let facts = SourceFacts::new(&self.stream.id, &self.hub.shared.classes, uri, pace);
        *self.stream.source.write() = facts;
    }

    /// What its source promises about its timing.
    pub fn pace(&self) -> Pace {
        self.stream.source().pace
    }

    /// Whether any source of it has opened since the program started.
    pub fn has_opened(&self) -> bool {
        self.stream.live().tracks.is_some()
    }

    /// How the stream is set up from now on.
    pub fn set_facts(&self, facts: StreamFacts) {
        self.stream.live().facts = Some(facts);
    }

    /// What the stream is doing.
    pub fn state(&self) -> StreamState {
        self.stream.live().state.clone()
    }

    /// Puts what was kept before a restart in its place. Call it before anything is published.
    pub fn restore(&self, restored: Restored) {
        let mut live = self.stream.live();
        live.events = bounded(restored.events, HISTORY_EVENTS);
        live.incidents = bounded(restored.incidents, HISTORY_INCIDENTS);
        live.before = restored.state;
        live.run = restored.run.unwrap_or(live.run);
        live.has_run = restored.run.is_some();
    }

    /// Number of the run that a source opened now begins with.
    pub fn next_run(&self) -> RunId {
        let live = self.stream.live();
        if live.has_run { RunId(live.run.0.wrapping_add(1)) } else { live.run }
    }

    /// As [`StreamHandle::next_run`]; the archive knows of it afterwards, so that no later process uses that number. Waits for
    /// the disk.
    pub fn reserve_run(&self) -> RunId {
        let run = self.next_run();
        // Not under the lock: others go on while this one waits.
        let archive = self.hub.shared.archive.read().clone();
        if let Some(archive) = archive {
            archive.run_ahead(self.id(), run);
        }
        run
    }

    /// The run that began last, in this process or before.
    pub fn last_run(&self) -> Option<RunId> {
        let live = self.stream.live();
        live.has_run.then_some(live.run)
    }

    /// For what is counted elsewhere: frames and samples taken in.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.stream.metrics
    }

    /// Sets the state and tells subscribers. Returns the record, or `None` when nothing changed.
    pub fn set_state(&self, state: StreamState) -> Option<Arc<str>> {
        let state = state.redacted();
        let mut live = self.stream.live();
        if live.state == state {
            return None;
        }
        if state.is_over() {
            self.stream.metrics.estimate_over();
            live.backlog = 0;
        }
        let unix_ns = self.hub.shared.clock.unix_ns();
        let next_try_ns = match &state {
            StreamState::Waiting { retry_in_ns, .. } => Some(unix_ns.saturating_add_unsigned(*retry_in_ns)),
            _ => None,
        };
        self.stream.metrics.state(state.as_str(), state.cause(), unix_ns, next_try_ns);
        if let Some(tracks) = live.tracks.filter(|_| state == StreamState::Playing) {
            self.stream.metrics.tracks(tracks);
        }
        live.state = state;
        live.since_unix_ns = unix_ns;
        Some(self.send_state(&mut live))
    }

    /// The source opened and has these tracks. Returns the record, or `None` when nothing changed.
    pub fn set_tracks(&self, tracks: Tracks) -> Option<Arc<str>> {
        let mut live = self.stream.live();
        if live.tracks == Some(tracks) {
            return None;
        }
        live.tracks = Some(tracks);
        self.stream.metrics.tracks(tracks);
        Some(self.send_state(&mut live))
    }

    fn send_state(&self, live: &mut LiveState) -> Arc<str> {
        let recorder = self.stream.source().recorder;
        let json: Arc<str> = recorder.state(&live.state, live.tracks, live.since_unix_ns).into();
        self.stream.send(live, RecordKind::State, json.clone());
        if live.state != StreamState::Removed {
            self.hub.keep(&self.stream, RecordKind::State, &json);
        }
        json
    }

    /// Run `run` began; `cause` is `None` for the first of a stream. Returns the record, if there was a cause.
    pub fn run_started(&self, run: RunId, cause: Option<Discontinuity>) -> Option<Arc<str>> {
        {
            let mut live = self.stream.live();
            live.counters.runs += 1;
            live.run = run;
            live.has_run = true;
        }
        if let Some(archive) = &*self.hub.shared.archive.read() {
            archive.run_began(&self.stream.id, run);
        }
        self.stream.metrics.run_started();
        cause.map(|cause| self.incident(Incident::RunStarted(cause)))
    }

    /// Something happened to the source. Keeps it for the page, tells subscribers, and returns the record.
    pub fn incident(&self, incident: Incident) -> Arc<str> {
        tracing::info!(stream = self.stream.id, "{incident:?}");
        self.stream.metrics.incident(&incident);
        let unix_ns = self.hub.shared.clock.unix_ns();
        let recorder = self.stream.source().recorder;
        let mut live = self.stream.live();
        live.counters.incidents += 1;
        let json: Arc<str> = recorder.incident(&incident, live.run, unix_ns).into();
        push_bounded(&mut live.incidents, json.clone(), HISTORY_INCIDENTS);
        self.stream.send(&mut live, RecordKind::Incident, json.clone());
        self.hub.keep(&self.stream, RecordKind::Incident, &json);
        json
    }

    /// The source was opened again `times` more; each counts, whether data came of it or not.
    pub fn reconnected(&self, times: u64) {
        self.stream.live().counters.reconnects += times;
        self.stream.metrics.reconnected(times);
    }

    /// Data of `track` could not be used.
    pub fn discarded(&self, track: Track, count: u64) {
        self.stream.metrics.discarded(track, count);
    }

    /// Publishes one second: keeps it for the page, tells subscribers, updates the metrics. Returns its records for other
    /// outputs: the second or gap, then its events; before them that another pack decides, if so.
    ///
    /// # Panics
    /// If a class id or a probability vector does not belong to the hub's classes.
    pub fn publish(&self, published: &Published) -> Vec<Arc<str>> {
        let clock = &self.hub.shared.clock;
        let began_ns = clock.mono_ns();
        let unix_ns = clock.unix_ns();
        let recorder = self.stream.source().recorder;
        let mut lines: Vec<Arc<str>> = recorder.published(published).into_iter().map(Arc::from).collect();
        self.count(published, unix_ns);
        let mut live = self.stream.live();
        let live = &mut *live;
        let kind = match &published.outcome {
            SecondOutcome::Predicted(_) => {
                live.counters.classified += 1;
                // A gap has no latency; the last decision's stays on show.
                live.latency_ns = published.latency_ns;
                RecordKind::Second
            }
            SecondOutcome::Gap(gap) => {
                live.counters.gapped[gap.reason as usize] += 1;
                RecordKind::Gap
            }
        };
        let estimate = &published.estimate;
        live.top = (estimate.seconds > 0).then(|| (estimate.label, estimate.mean[estimate.label.index()]));
        live.backlog = published.backlog;
        live.counters.events += published.events.len() as u64;
        push_bounded(&mut live.history, HistoryEntry::new(published, unix_ns), HISTORY_SECONDS);
        let change = self.pack_changed(live, published, unix_ns);
        if let Some(line) = &change {
            self.stream.send(live, RecordKind::Pack, line.clone());
        }
        for (i, line) in lines.iter().enumerate() {
            if i == 0 {
                live.last = Some(line.clone());
                self.stream.send(live, kind, line.clone());
            } else {
                push_bounded(&mut live.events, line.clone(), HISTORY_EVENTS);
                self.stream.send(live, RecordKind::Event, line.clone());
                self.hub.keep(&self.stream, RecordKind::Event, line);
            }
        }
        if let Some(line) = change {
            lines.insert(0, line);
        }
        self.hub.shared.metrics.observe_stage(Stage::Publish, clock.mono_ns().saturating_sub(began_ns));
        lines
    }

    /// The record of a change of packs, when this second is the first that another one decided.
    fn pack_changed(&self, live: &mut LiveState, published: &Published, unix_ns: i64) -> Option<Arc<str>> {
        let SecondOutcome::Predicted(second) = &published.outcome else { return None };
        let previous = live.pack.replace(second.pack.clone()).filter(|previous| *previous != second.pack)?;
        Some(self.stream.source().recorder.pack(second, &previous, unix_ns).into())
    }

    /// Publishes events that no second causes: the end of a stream takes every class off air. Returns their records.
    ///
    /// # Panics
    /// If a class id does not belong to the hub's classes.
    pub fn publish_events(&self, events: &[Event]) -> Vec<Arc<str>> {
        let lines: Vec<Arc<str>> = self.stream.source().recorder.events(events).into_iter().map(Arc::from).collect();
        let mut live = self.stream.live();
        live.counters.events += events.len() as u64;
        for line in &lines {
            push_bounded(&mut live.events, line.clone(), HISTORY_EVENTS);
            self.stream.send(&mut live, RecordKind::Event, line.clone());
            self.hub.keep(&self.stream, RecordKind::Event, line);
        }
        events.iter().for_each(|event| self.stream.metrics.event(event));
        lines
    }

    fn count(&self, published: &Published, unix_ns: i64) {
        let metrics = &self.stream.metrics;
        match &published.outcome {
            SecondOutcome::Predicted(second) => metrics.classified(second.decision.modality, unix_ns),
            SecondOutcome::Gap(gap) => metrics.gapped(gap.reason),
        }
        if let Some(ns) = published.latency_ns {
            metrics.latency(ns);
        }
        metrics.estimate(&published.estimate);
        metrics.backlog(published.backlog);
        published.events.iter().for_each(|event| metrics.event(event));
    }

    pub fn counters(&self) -> Counters {
        self.stream.live().counters
    }

    /// Whether someone watches and the next picture is due: only then a frame is worth offering. Cheap.
    pub fn preview_wanted(&self) -> bool {
        self.stream.preview.wanted()
    }

    /// Shows `frame` to whoever watches. Takes a reference, encodes nothing.
    pub fn offer_preview(&self, frame: Frame) {
        self.stream.preview.offer(frame);
    }
}

/// The last `max` of `items`.
fn bounded<T>(mut items: Vec<T>, max: usize) -> VecDeque<T> {
    items.drain(..items.len().saturating_sub(max));
    items.into()
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle").field("id", &self.stream.id).finish_non_exhaustive()
    }
}
