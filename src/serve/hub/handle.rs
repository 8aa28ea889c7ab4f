//! The handle through which threads update one stream in the hub.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::history::HistoryEntry;
use super::{
    FeedKind, HISTORY_EVENTS, HISTORY_INCIDENTS, HISTORY_SECONDS, Hub, KeptSegment, LiveState, RecordKind, Restored,
    SourceFacts, Stream, StreamCounts, StreamFacts, Unexpected, push_bounded,
};
use crate::metrics::StreamMetrics;
use crate::record::kept;
use crate::record::{FleetTenure, OutputRecord, Published, Recorder, StreamState, lost_seconds};
use touchline_core::clip::GapReason;
use touchline_core::decision::{Event, SecondOutcome};
use touchline_core::expectation::ExpectationEvent;
use touchline_core::frame::Frame;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Pace, Track, Tracks};
use touchline_core::observer::{Observer as _, Stage};
use touchline_core::segment::{ClosedSegment, Segment};
use touchline_core::time::{NANOS_PER_SECOND, RunId, WallTime};

/// Seconds between two times at which the open segment is archived.
const KEEP_OPEN_S: u64 = 60;

/// Updates one stream. Cloning shares it. All methods may be called from any thread, and none waits for a subscriber.
#[derive(Clone)]
pub struct StreamHandle {
    pub(super) hub: Hub,
    pub(super) stream: Arc<Stream>,
}

impl StreamHandle {
    /// The id of the stream.
    pub fn id(&self) -> &str {
        &self.stream.id
    }

    /// The redacted URI.
    pub fn uri(&self) -> Arc<str> {
        self.stream.source().uri
    }

    /// Replaces the source. Earlier records stay.
    pub fn set_source(&self, uri: &str, pace: Pace) {
        let facts = SourceFacts::new(&self.stream.id, &self.hub.shared, uri, pace, self.stream.tenure.clone());
        *self.stream.source.write() = facts;
    }

    /// The tenure of a stream of a fleet; `None` for other streams.
    pub fn tenure(&self) -> Option<&FleetTenure> {
        self.stream.tenure.as_deref()
    }

    /// Whether the source is live or a file.
    pub fn pace(&self) -> Pace {
        self.stream.source().pace
    }

    /// Whether a source of the stream has opened since the start.
    pub fn has_opened(&self) -> bool {
        self.stream.live().tracks.is_some()
    }

    /// Sets the published settings.
    pub fn set_facts(&self, facts: StreamFacts) {
        let mut live = self.stream.live();
        live.group = facts.group.as_deref().map(Into::into);
        live.facts = Some(facts);
        drop(live);
        self.announce();
    }

    /// Puts the stream and its settings into the feed.
    pub(super) fn announce(&self) {
        let mut live = self.stream.live();
        let json = self.hub.stream_overview(&self.stream, &live);
        self.stream.feed(&mut live, FeedKind::Stream, json.into());
    }

    /// Sets where its pictures are sent with the label. The address is not published.
    pub fn set_output(&self, address: Option<String>) {
        self.stream.live().output = address;
    }

    /// The current state.
    pub fn state(&self) -> StreamState {
        self.stream.live().state.clone()
    }

    /// Restores stored data. Call it before anything is published.
    pub fn restore(&self, restored: Restored) {
        let mut live = self.stream.live();
        live.events = bounded(restored.events, HISTORY_EVENTS);
        live.incidents = bounded(restored.incidents, HISTORY_INCIDENTS);
        live.before = restored.state;
        live.run = restored.run.unwrap_or(live.run);
        live.has_run = restored.run.is_some();
    }

    /// The first run of a source that is opened now.
    pub fn next_run(&self) -> RunId {
        let live = self.stream.live();
        if live.has_run { RunId(live.run.0.wrapping_add(1)) } else { live.run }
    }

    /// As [`StreamHandle::next_run`], and reserves the number in the archive, so that no later process uses it. Waits
    /// for the disk.
    pub fn reserve_run(&self) -> RunId {
        // A lost span has a run of its own, before that of the source. While a stream is prepared it is not known whether there is one.
        let is_after_loss = self.tenure().is_some_and(|tenure| tenure.lost().is_some() || tenure.epoch().is_none());
        let run = RunId(self.next_run().0.wrapping_add(is_after_loss.into()));
        // Without the lock: other streams continue while this one waits.
        let archive = self.hub.shared.archive.read().clone();
        if let Some(archive) = archive {
            archive.run_ahead(self.id(), run);
        }
        run
    }

    /// The last run, in this process or an earlier one.
    pub fn last_run(&self) -> Option<RunId> {
        let live = self.stream.live();
        live.has_run.then_some(live.run)
    }

    /// The metrics of the stream.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.stream.metrics
    }

    /// Sets and publishes the state. Returns the record, or `None` if nothing changed.
    pub fn set_state(&self, state: StreamState) -> Option<OutputRecord> {
        let state = state.redacted();
        let mut live = self.stream.live();
        if live.state == state {
            return None;
        }
        if state.is_over() {
            self.stream.metrics.estimate_over();
            live.backlog = 0;
            live.signals.clear();
            live.unexpected = None;
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
        match &state {
            StreamState::Playing => live.down_since_unix_ns = None,
            // From the first failure on, however often it is tried again.
            _ if live.down_since_unix_ns.is_none()
                && (state.cause().is_some() || live.state == StreamState::Playing) =>
            {
                live.down_since_unix_ns = Some(unix_ns);
            }
            _ => {}
        }
        live.state = state;
        live.since_unix_ns = unix_ns;
        Some(self.send_state(&mut live))
    }

    /// Sets the tracks of the opened source. Returns the record, or `None` if nothing changed.
    pub fn set_tracks(&self, tracks: Tracks) -> Option<OutputRecord> {
        let mut live = self.stream.live();
        if live.tracks == Some(tracks) {
            return None;
        }
        live.tracks = Some(tracks);
        self.stream.metrics.tracks(tracks);
        Some(self.send_state(&mut live))
    }

    /// The record of the current state, for outputs that did not get it when it changed.
    pub fn state_record(&self) -> OutputRecord {
        self.send_state(&mut self.stream.live())
    }

    /// Publishes that no node of the fleet published the stream between two wall times, nanoseconds since 1970-01-01 UTC. Run `run` has no
    /// other second. Returns the record.
    pub fn publish_lost(&self, run: RunId, from_ns: i64, to_ns: i64) -> OutputRecord {
        let json: Arc<str> = self.stream.source().recorder.lost(run, from_ns, to_ns).into();
        self.stream.metrics.gapped(GapReason::NodeLost);
        self.hub.shared.metrics.fleet().lost(lost_seconds(from_ns, to_ns));
        let mut live = self.stream.live();
        live.counters.gapped[GapReason::NodeLost as usize] += 1;
        self.stream.send(&mut live, RecordKind::Gap, json.clone());
        OutputRecord { kind: RecordKind::Gap, json }
    }

    fn send_state(&self, live: &mut LiveState) -> OutputRecord {
        let recorder = self.stream.source().recorder;
        let json: Arc<str> = recorder.state(&live.state, live.tracks, live.since_unix_ns).into();
        self.stream.send(live, RecordKind::State, json.clone());
        if live.state != StreamState::Removed {
            self.hub.keep(&self.stream, RecordKind::State, &json, Some(live.since_unix_ns));
        }
        OutputRecord { kind: RecordKind::State, json }
    }

    /// Run `run` began; `cause` is `None` for the first of a stream. Returns the record, if there was a cause.
    pub fn run_started(&self, run: RunId, cause: Option<Discontinuity>) -> Option<OutputRecord> {
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

    /// Publishes an incident of the source and returns its record.
    pub fn incident(&self, incident: Incident) -> OutputRecord {
        let track = incident.track().map(tracing::field::debug);
        let signal = incident.signal().map(|(signal, ..)| signal.as_str());
        tracing::info!(stream = &*self.stream.id, track, signal, "{}", incident.as_str());
        self.stream.metrics.incident(&incident);
        let unix_ns = self.hub.shared.clock.unix_ns();
        let recorder = self.stream.source().recorder;
        let mut live = self.stream.live();
        live.counters.incidents += 1;
        if let Some((signal, _, lasted_ns)) = incident.signal() {
            live.signals.retain(|(other, _)| *other != signal);
            if matches!(incident, Incident::SignalBegan { .. }) {
                live.signals.push((signal, unix_ns.saturating_sub_unsigned(lasted_ns)));
            }
        }
        let json: Arc<str> = recorder.incident(&incident, live.run, unix_ns).into();
        push_bounded(&mut live.incidents, json.clone(), HISTORY_INCIDENTS);
        self.stream.send(&mut live, RecordKind::Incident, json.clone());
        self.hub.keep(&self.stream, RecordKind::Incident, &json, Some(unix_ns));
        OutputRecord { kind: RecordKind::Incident, json }
    }

    /// Counts reconnects, with or without data.
    pub fn reconnected(&self, times: u64) {
        self.stream.live().counters.reconnects += times;
        self.stream.metrics.reconnected(times);
    }

    /// Counts unusable data of `track`.
    pub fn discarded(&self, track: Track, count: u64) {
        self.stream.metrics.discarded(track, count);
    }

    /// Publishes one second to the page, subscribers and metrics. Returns its records for other outputs: a change of
    /// the pack, if any, the second or gap, its events, then segments.
    ///
    /// # Panics
    /// If a class id or a probability vector does not belong to the hub's classes.
    pub fn publish(&self, published: &Published) -> Vec<OutputRecord> {
        let clock = &self.hub.shared.clock;
        let began_ns = clock.mono_ns();
        let unix_ns = clock.unix_ns();
        let recorder = self.stream.source().recorder;
        let lines = recorder.published(published).into_iter().map(Arc::<str>::from);
        self.count(published, unix_ns);
        if let Some(archive) = &*self.hub.shared.archive.read() {
            let at_ns =
                published.wall().and_then(|wall| recorder.shown_wall(wall)).map_or(unix_ns, |wall| wall.unix_ns);
            archive.keep_second(self.id(), at_ns.div_euclid(1_000_000), kept::line(&recorder, published));
        }
        let mut live = self.stream.live();
        let live = &mut *live;
        let kind = match &published.outcome {
            SecondOutcome::Predicted(_) => {
                live.counters.classified += 1;
                // A gap has no latency: the page keeps that of the last decision.
                live.latency_ns = published.latency_ns;
                RecordKind::Second
            }
            SecondOutcome::Gap(gap) => {
                live.counters.gapped[gap.reason as usize] += 1;
                RecordKind::Gap
            }
        };
        let estimate = &published.estimate;
        live.top = (estimate.seconds > 0).then(|| (estimate.label, estimate.probability(), estimate.is_unknown()));
        live.backlog = published.backlog;
        live.counters.events += published.events.len() as u64;
        let entry = HistoryEntry::new(published, unix_ns);
        push_bounded(&mut live.history, entry, HISTORY_SECONDS);
        live.put_on_air(&published.events);
        if let Some(wall) = published.wall() {
            live.last_wall = Some((published.outcome.run(), published.outcome.index(), wall));
        }
        let change = self.pack_changed(live, published, unix_ns);
        if let Some(line) = &change {
            self.stream.send(live, RecordKind::Pack, line.clone());
        }
        let mut records = Vec::from_iter(change.map(|json| OutputRecord { kind: RecordKind::Pack, json }));
        for (i, json) in lines.enumerate() {
            if i == 0 {
                live.last = Some(json.clone());
                self.stream.send(live, kind, json.clone());
                records.push(OutputRecord { kind, json });
            } else if i <= published.events.len() {
                records.push(self.send_event(live, json, published.wall().map(|wall| wall.unix_ns)));
            } else {
                let closed = &published.segments[i - 1 - published.events.len()];
                records.push(self.send_segment(live, &recorder, closed, json));
            }
        }
        for event in &published.watched.events {
            let wall = published.wall().or_else(|| live.wall_of(event.run, event.index));
            records.push(self.send_expectation(live, &recorder, event, wall));
        }
        live.expected.clone_from(&published.watched.expected);
        if let Some(unexpected) = &mut live.unexpected {
            unexpected.on_air = published.watched.on_air.or(unexpected.on_air);
        }
        let short: Arc<str> = self.hub.estimate(self.id(), live, published, &entry).into();
        live.estimate = Some(short.clone());
        self.stream.feed(live, FeedKind::Estimate, short);
        self.hub.shared.metrics.observe_stage(Stage::Publish, clock.mono_ns().saturating_sub(began_ns));
        records
    }

    fn send_event(&self, live: &mut LiveState, json: Arc<str>, unix_ns: Option<i64>) -> OutputRecord {
        push_bounded(&mut live.events, json.clone(), HISTORY_EVENTS);
        self.stream.send(live, RecordKind::Event, json.clone());
        self.hub.keep(&self.stream, RecordKind::Event, &json, unix_ns);
        OutputRecord { kind: RecordKind::Event, json }
    }

    /// The record of a change of the pack, if this is the first second of a new pack.
    fn pack_changed(&self, live: &mut LiveState, published: &Published, unix_ns: i64) -> Option<Arc<str>> {
        let SecondOutcome::Predicted(second) = &published.outcome else { return None };
        let previous = live.pack.replace(second.pack.clone()).filter(|previous| *previous != second.pack)?;
        Some(self.stream.source().recorder.pack(second, &previous, unix_ns).into())
    }

    /// Publishes what the end of a stream causes without a second: every class leaves, and the open segment is closed. Returns the
    /// records.
    ///
    /// # Panics
    /// If a class id does not belong to the hub's classes.
    pub fn publish_end(&self, events: &[Event], segments: &[ClosedSegment]) -> Vec<OutputRecord> {
        let recorder = self.stream.source().recorder;
        let mut live = self.stream.live();
        let walls = events.iter().map(|event| (event, live.wall_of(event.run, event.index)));
        let lines: Vec<_> =
            walls.map(|(event, wall)| (recorder.event(event, wall), wall.map(|wall| wall.unix_ns))).collect();
        live.counters.events += events.len() as u64;
        live.put_on_air(events);
        events.iter().for_each(|event| self.stream.metrics.event(event));
        let events = lines.into_iter().map(|(line, unix_ns)| self.send_event(&mut live, line.into(), unix_ns));
        let mut records: Vec<OutputRecord> = events.collect();
        for closed in segments {
            records.push(self.send_segment(&mut live, &recorder, closed, recorder.segment(closed).into()));
        }
        records
    }

    /// Publishes the end of something unexpected that has no second of its own. Returns the record.
    ///
    /// # Panics
    /// If a class id does not belong to the hub's classes.
    pub fn expectation(&self, event: &ExpectationEvent) -> OutputRecord {
        let recorder = self.stream.source().recorder;
        let mut live = self.stream.live();
        let wall = live.wall_of(event.run, event.index);
        self.send_expectation(&mut live, &recorder, event, wall)
    }

    fn send_expectation(
        &self,
        live: &mut LiveState,
        recorder: &Recorder,
        event: &ExpectationEvent,
        wall: Option<WallTime>,
    ) -> OutputRecord {
        let is_begin = event.end.is_none();
        self.stream.metrics.unexpected(is_begin);
        let lasted_ns = i64::from(event.seconds) * NANOS_PER_SECOND as i64;
        let since_unix_ns = self.hub.shared.clock.unix_ns().saturating_sub(lasted_ns);
        live.unexpected = is_begin.then_some(Unexpected { since_unix_ns, on_air: event.on_air });
        let json: Arc<str> = recorder.expectation(event, wall).into();
        self.stream.send(live, RecordKind::Expectation, json.clone());
        self.hub.keep(&self.stream, RecordKind::Expectation, &json, wall.map(|wall| wall.unix_ns));
        OutputRecord { kind: RecordKind::Expectation, json }
    }

    fn send_segment(
        &self,
        live: &mut LiveState,
        recorder: &Recorder,
        closed: &ClosedSegment,
        json: Arc<str>,
    ) -> OutputRecord {
        self.stream.send(live, RecordKind::Segment, json.clone());
        self.keep_segment(recorder, &closed.segment, false, &json);
        OutputRecord { kind: RecordKind::Segment, json }
    }

    /// Archives the open segment from time to time, for a program that is killed. `index` is the number of the last second.
    ///
    /// # Panics
    /// If its class does not belong to the hub's classes.
    pub fn keep_open_segment(&self, index: u64, open: impl FnOnce() -> Option<Segment>) {
        if index.is_multiple_of(KEEP_OPEN_S)
            && let Some(segment) = open()
        {
            let recorder = self.stream.source().recorder;
            let json = recorder.segment(&ClosedSegment { segment: segment.clone(), is_revision: false }).into();
            self.keep_segment(&recorder, &segment, true, &json);
        }
    }

    /// Archives a segment, if it has wall time.
    fn keep_segment(&self, recorder: &Recorder, segment: &Segment, is_open: bool, json: &Arc<str>) {
        let archive = &*self.hub.shared.archive.read();
        let Some(archive) = archive else { return };
        if let Some(kept) = KeptSegment::new(segment, recorder.class_of(segment), is_open, json.clone()) {
            let (epoch, poster) = (recorder.epoch().unwrap_or(0), self.stream.posters.best(segment));
            archive.keep_segment(self.id(), KeptSegment { epoch, poster, ..kept });
        }
    }

    fn count(&self, published: &Published, unix_ns: i64) {
        let metrics = &self.stream.metrics;
        match &published.outcome {
            SecondOutcome::Predicted(second) => {
                metrics.classified(second.decision.modality, second.is_unknown(), unix_ns);
            }
            SecondOutcome::Gap(gap) => metrics.gapped(gap.reason),
        }
        metrics.signals(published.outcome.signals());
        if let Some(ns) = published.latency_ns {
            metrics.latency(ns);
        }
        metrics.estimate(&published.estimate);
        metrics.backlog(published.backlog);
        published.events.iter().for_each(|event| metrics.event(event));
    }

    /// Counts since the start.
    pub fn counters(&self) -> StreamCounts {
        self.stream.live().counters
    }

    /// Whether a viewer watches and the next picture is due. Cheap.
    pub fn preview_wanted(&self) -> bool {
        self.stream.preview.wanted()
    }

    /// Offers a frame to the preview. Encodes nothing.
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
