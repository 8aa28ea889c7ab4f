//! The metrics of one stream, with their labels resolved once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::core::{MetricVec, MetricVecBuilder};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::families::Families;
use super::health::HealthCounters;
use super::{ShadowMetrics, nanos_to_seconds};
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::decision::{Event, EventKind, WindowEstimate};
use touchline_core::incident::Incident;
use touchline_core::item::{Track, Tracks};
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::signal::{Signal, Signals};
use touchline_media::outlet::{CounterValues, DropReason};

/// States of a stream: values of the label `state`.
pub const STATES: [&str; 7] = ["connecting", "playing", "waiting", "paused", "ended", "failed", "removed"];

/// Why a buffer is lost: values of the label `reason`.
const LOST: [&str; 2] = ["untimed", "undeclared"];

/// Metrics of one stream. Cloning shares them; every method is lock-free and may be called from any thread, except
/// [`StreamMetrics::event`], which looks its labels up.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    id: String,
    classes: ClassSet,
    /// The stream was removed and must not be exported again.
    removed: Arc<AtomicBool>,
    up: IntGauge,
    classified: IntCounter,
    unknown_seconds: IntCounter,
    unknown: IntGauge,
    gapped: Vec<IntCounter>,
    /// In the order of [`LOST`].
    lost: [IntCounter; 2],
    faults: IntCounter,
    abandoned: IntCounter,
    frames: IntCounter,
    converted: IntCounter,
    left_out: IntCounter,
    decoder_fallbacks: IntCounter,
    unrecorded: IntCounter,
    samples: IntCounter,
    discarded_video: IntCounter,
    discarded_audio: IntCounter,
    /// By reason, in the order of [`DropReason::ALL`].
    dropped: Vec<IntCounter>,
    latency: Histogram,
    /// By class, in pack order.
    probability: Vec<Gauge>,
    unexpected: IntGauge,
    unexpected_times: IntCounter,
    last_decision: Gauge,
    reconnects: IntCounter,
    backlog: IntGauge,
    runs: IntCounter,
    incidents: Vec<(&'static str, IntCounter)>,
    failures: IntCounterVec,
    states: Vec<(&'static str, IntGauge)>,
    state_since: Gauge,
    next_try: Gauge,
    tracks: [IntGauge; 2],
    events: IntCounterVec,
    /// By signal, in the order of [`Signal::ALL`]: seconds, and whether the last second had it.
    signals: Vec<(IntCounter, IntGauge)>,
    /// By modality, in the order of [`Modality::ALL`].
    decided: Vec<IntCounter>,
    health: HealthCounters,
}

impl StreamMetrics {
    pub(super) fn new(families: &Families, id: &str, classes: &ClassSet) -> Self {
        Self {
            id: id.to_owned(),
            classes: classes.clone(),
            removed: Arc::default(),
            up: families.up.with_label_values(&[id]),
            classified: families.classified.with_label_values(&[id]),
            unknown_seconds: families.unknown_seconds.with_label_values(&[id]),
            unknown: families.unknown.with_label_values(&[id]),
            gapped: GapReason::ALL.iter().map(|r| families.gapped.with_label_values(&[id, r.as_str()])).collect(),
            lost: LOST.map(|reason| families.lost.with_label_values(&[id, reason])),
            faults: families.faults.with_label_values(&[id]),
            abandoned: families.abandoned.with_label_values(&[id]),
            frames: families.frames.with_label_values(&[id]),
            converted: families.converted.with_label_values(&[id]),
            left_out: families.left_out.with_label_values(&[id]),
            decoder_fallbacks: families.decoder_fallbacks.with_label_values(&[id]),
            unrecorded: families.clips.unrecorded.with_label_values(&[id]),
            samples: families.samples.with_label_values(&[id]),
            discarded_video: families.discarded.with_label_values(&[id, "video"]),
            discarded_audio: families.discarded.with_label_values(&[id, "audio"]),
            dropped: DropReason::ALL.iter().map(|d| families.dropped.with_label_values(&[id, d.as_str()])).collect(),
            latency: families.latency.with_label_values(&[id]),
            probability: classes
                .names()
                .iter()
                .map(|class| families.probability.with_label_values(&[id, class.as_str()]))
                .collect(),
            unexpected: families.unexpected.with_label_values(&[id]),
            unexpected_times: families.unexpected_times.with_label_values(&[id]),
            last_decision: families.last_decision.with_label_values(&[id]),
            reconnects: families.reconnects.with_label_values(&[id]),
            backlog: families.backlog.with_label_values(&[id]),
            runs: families.runs.with_label_values(&[id]),
            incidents: Incident::NAMES
                .iter()
                .map(|name| (*name, families.incidents.with_label_values(&[id, *name])))
                .collect(),
            failures: families.failures.clone(),
            states: STATES.iter().map(|name| (*name, families.states.with_label_values(&[id, *name]))).collect(),
            state_since: families.state_since.with_label_values(&[id]),
            next_try: families.next_try.with_label_values(&[id]),
            tracks: ["video", "audio"].map(|track| families.tracks.with_label_values(&[id, track])),
            events: families.events.clone(),
            signals: Signal::ALL
                .map(|signal| [id, signal.as_str()])
                .map(|labels| {
                    (families.signal_seconds.with_label_values(&labels), families.signal.with_label_values(&labels))
                })
                .into(),
            decided: Modality::ALL.iter().map(|m| families.decided.with_label_values(&[id, m.as_str()])).collect(),
            health: families.health.clone(),
        }
    }

    /// Removes all series of the stream. Later updates have no effect on the export.
    pub(super) fn remove(&self, families: &Families) {
        self.removed.store(true, Ordering::Release);
        let id = self.id.as_str();
        let f = families;
        LOST.iter().for_each(|reason| forget(&f.lost, &[id, *reason]));
        for family in [
            &f.faults,
            &f.abandoned,
            &f.classified,
            &f.unknown_seconds,
            &f.frames,
            &f.converted,
            &f.left_out,
            &f.decoder_fallbacks,
            &f.clips.unrecorded,
            &f.samples,
            &f.reconnects,
            &f.runs,
            &f.unexpected_times,
        ] {
            forget(family, &[id]);
        }
        for family in [&f.up, &f.backlog, &f.unknown, &f.unexpected] {
            forget(family, &[id]);
        }
        for family in [&f.last_decision, &f.state_since, &f.next_try] {
            forget(family, &[id]);
        }
        forget(&f.latency, &[id]);
        for signal in Signal::ALL {
            forget(&f.signal_seconds, &[id, signal.as_str()]);
            forget(&f.signal, &[id, signal.as_str()]);
        }
        GapReason::ALL.iter().for_each(|reason| forget(&f.gapped, &[id, reason.as_str()]));
        DropReason::ALL.iter().for_each(|why| forget(&f.dropped, &[id, why.as_str()]));
        Incident::NAMES.iter().for_each(|name| forget(&f.incidents, &[id, *name]));
        Cause::ALL.iter().for_each(|cause| forget(&f.failures, &[id, cause.as_str()]));
        STATES.iter().for_each(|state| forget(&f.states, &[id, *state]));
        Modality::ALL.iter().for_each(|modality| forget(&f.decided, &[id, modality.as_str()]));
        for track in ["video", "audio"] {
            forget(&f.discarded, &[id, track]);
            forget(&f.tracks, &[id, track]);
        }
        for class in self.classes.names() {
            forget(&f.probability, &[id, class]);
            ["onset", "offset"].iter().for_each(|kind| forget(&f.events, &[id, class, *kind]));
        }
        ShadowMetrics::remove(f, id);
    }

    /// The stream entered `state` (one of [`STATES`]) at `unix_ns` because of `cause`; the next attempt is at
    /// `next_try_ns`. Times are nanoseconds since 1970-01-01 UTC.
    pub fn state(&self, state: &str, cause: Option<Cause>, unix_ns: i64, next_try_ns: Option<i64>) {
        self.up.set(i64::from(state == "playing"));
        for (name, gauge) in &self.states {
            gauge.set(i64::from(*name == state));
        }
        self.state_since.set(unix_ns as f64 / 1e9);
        self.next_try.set(next_try_ns.map_or(0.0, |ns| ns as f64 / 1e9));
        if let Some(cause) = cause.filter(|cause| *cause != Cause::NoCaller && !self.is_removed()) {
            self.failures.with_label_values(&[self.id.as_str(), cause.as_str()]).inc();
        }
        if state != "playing" {
            self.tracks.iter().for_each(|track| track.set(0));
        }
    }

    /// The source has these tracks.
    pub fn tracks(&self, tracks: Tracks) {
        self.tracks[0].set(i64::from(tracks.video));
        self.tracks[1].set(i64::from(tracks.audio));
    }

    /// Counts an incident of the source.
    pub fn incident(&self, incident: &Incident) {
        if let Some((_, counter)) = self.incidents.iter().find(|(name, _)| *name == incident.as_str()) {
            counter.inc();
        }
        let up = match incident {
            Incident::TrackStalled { .. } | Incident::TrackLost { .. } => 0,
            Incident::TrackRecovered { .. } | Incident::TrackAdded { .. } => 1,
            _ => return,
        };
        match incident.track() {
            Some(Track::Video) => self.tracks[0].set(up),
            Some(Track::Audio) => self.tracks[1].set(up),
            None => {}
        }
    }

    /// Counts a second decided by `modality` at `unix_ns` (nanoseconds since 1970-01-01 UTC).
    pub fn classified(&self, modality: Modality, is_unknown: bool, unix_ns: i64) {
        self.classified.inc();
        self.unknown_seconds.inc_by(u64::from(is_unknown));
        self.decided[modality as usize].inc();
        self.health.decided();
        self.last_decision.set(unix_ns as f64 / 1e9);
    }

    /// Counts a second without a decision.
    pub fn gapped(&self, reason: GapReason) {
        self.gapped[reason as usize].inc();
        self.health.gapped(reason);
    }

    /// Counts a second whose signal shows `signals`.
    pub fn signals(&self, signals: Signals) {
        for (signal, (seconds, is_on)) in Signal::ALL.into_iter().zip(&self.signals) {
            let shows = signals.contains(signal);
            seconds.inc_by(u64::from(shows));
            is_on.set(i64::from(shows));
        }
    }

    /// Adds the counts of the source between `before` and `now`.
    pub fn source(&self, before: &CounterValues, now: &CounterValues) {
        // Destructured so that a new counter is not forgotten. Reconnects are counted by `reconnected`, for the hub
        // counts them as well.
        let CounterValues {
            frames,
            samples,
            untimed,
            undeclared,
            dropped,
            left_out,
            decoder_fallbacks,
            faults,
            unrecorded,
            reconnects: _,
            abandoned,
        } = *now;
        self.frames.inc_by(frames.saturating_sub(before.frames));
        self.left_out.inc_by(left_out.saturating_sub(before.left_out));
        self.decoder_fallbacks.inc_by(decoder_fallbacks.saturating_sub(before.decoder_fallbacks));
        self.unrecorded.inc_by(unrecorded.saturating_sub(before.unrecorded));
        self.samples.inc_by(samples.saturating_sub(before.samples));
        self.lost[0].inc_by(untimed.saturating_sub(before.untimed));
        self.lost[1].inc_by(undeclared.saturating_sub(before.undeclared));
        self.faults.inc_by(faults.saturating_sub(before.faults));
        self.abandoned.inc_by(abandoned.saturating_sub(before.abandoned));
        for (why, counter) in self.dropped.iter().enumerate() {
            counter.inc_by(dropped[why].saturating_sub(before.dropped[why]));
        }
    }

    /// Counts a converted picture.
    pub fn converted(&self) {
        self.converted.inc();
    }

    /// Counts discarded pictures or audio chunks.
    pub fn discarded(&self, track: Track, count: u64) {
        match track {
            Track::Video => self.discarded_video.inc_by(count),
            Track::Audio => self.discarded_audio.inc_by(count),
        }
    }

    /// A decision was published `ns` nanoseconds after the last sample of its second arrived.
    pub fn latency(&self, ns: u64) {
        self.latency.observe(nanos_to_seconds(ns));
    }

    /// Sets the estimate. All probabilities are 0 while the vote window holds no classified second.
    pub fn estimate(&self, estimate: &WindowEstimate) {
        self.unknown.set(i64::from(estimate.is_unknown()));
        for (i, gauge) in self.probability.iter().enumerate() {
            let mean = if estimate.seconds == 0 { 0.0 } else { estimate.mean.get(i).copied().unwrap_or(0.0) };
            gauge.set(f64::from(mean));
        }
    }

    /// Something unexpected has been on air for too long, or that is over.
    pub fn unexpected(&self, begins: bool) {
        self.unexpected.set(i64::from(begins));
        self.unexpected_times.inc_by(u64::from(begins));
    }

    /// Clears the estimate: the stream ended or failed.
    pub fn estimate_over(&self) {
        self.probability.iter().for_each(|gauge| gauge.set(0.0));
        self.signals.iter().for_each(|(_, is_on)| is_on.set(0));
        self.unknown.set(0);
        self.unexpected.set(0);
        self.backlog.set(0);
    }

    /// Counts reconnects.
    pub fn reconnected(&self, times: u64) {
        self.reconnects.inc_by(times);
    }

    /// Sets the number of waiting seconds.
    pub fn backlog(&self, seconds: u32) {
        self.backlog.set(i64::from(seconds));
    }

    /// Counts a run.
    pub fn run_started(&self) {
        self.runs.inc();
    }

    /// Counts an event. A series is exported from its first event on: zeros for every class and kind would dominate the
    /// export.
    pub fn event(&self, event: &Event) {
        if self.is_removed() {
            return;
        }
        let kind = match event.kind {
            EventKind::Onset => "onset",
            EventKind::Offset => "offset",
        };
        self.events.with_label_values(&[self.id.as_str(), self.classes.name(event.class), kind]).inc();
    }

    fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// Removes one series.
pub(super) fn forget<B: MetricVecBuilder>(family: &MetricVec<B>, labels: &[&str]) {
    // Fails if it does not exist.
    let _ = family.remove_label_values(labels);
}
