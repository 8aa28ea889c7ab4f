//! Clips of events and segments: a sink that cuts them from the ring of original media.
//!
//! A clip waits until the second after its end is decided, because its media are in the ring then. Cutting takes the time of copying;
//! the sink's queue bridges it, and neither decisions nor recording wait. The sink also keeps the ring and the clips within their
//! limits.

mod cutter;
mod open_clips;
mod past;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use self::cutter::{RingCutter, SecondPlace, WantedClip};
use self::open_clips::{LeftClip, OpenClip};
use self::past::RingPast;
use crate::clips::{self, ClipAccess, ClipReason, ClipStore, DecisionRecord, MissingReason, Sidecar};
use crate::config::{ClipKind, RecordKind, RecordSettings};
use crate::hub::Hub;
use crate::record::{OutputRecord, Published, StreamState};
use crate::sink::{Item, ItemContent, Sink};
use crate::teach::PastSeconds;
use touchline_core::clip::ClipConfig;
use touchline_core::decision::{Event, EventKind, SecondOutcome};
use touchline_core::error::Result;
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::Open;
use touchline_media::gst::clips::ClipError;
use touchline_media::gst::clips::ring::{self, RingOptions};

/// How often the ring is brought within its limits, ns: about the length of one of its files.
const TRIM_EVERY_NS: u64 = 4 * NANOS_PER_SECOND;

/// Names the clips whose sidecar cannot be read.
fn report_unreadable(store: &ClipStore) {
    /// Clips that the message names.
    const NAMED: usize = 8;
    let unreadable = store.unreadable();
    if unreadable.is_empty() {
        return;
    }
    let (place, count) = (store.dir().display(), unreadable.len());
    let names: Vec<&str> = unreadable.iter().take(NAMED).map(String::as_str).collect();
    let advice = "they stay until you remove them; a later version of the program may have written them";
    tracing::warn!("{place}: the JSON files of {count} clips cannot be read, as {}; {advice}", names.join(", "));
}

/// The rings below a recording folder.
pub fn ring_options(settings: &RecordSettings) -> RingOptions {
    // The process of a source may have another working directory.
    let dir = std::path::absolute(&settings.dir).unwrap_or_else(|_| settings.dir.clone());
    RingOptions { root: dir.join("ring") }
}

/// The clips below a recording folder.
pub fn clip_dir(settings: &RecordSettings) -> PathBuf {
    settings.dir.join("clips")
}

/// Cuts the clips of events and segments.
pub struct ClipSink {
    settings: RecordSettings,
    cutter: Arc<RingCutter>,
    hub: Hub,
    /// Wall time of the start, nanoseconds since 1970-01-01 UTC.
    since_unix_ns: u64,
    /// Clips whose end has not come, by stream.
    open: BTreeMap<Arc<str>, Vec<OpenClip>>,
    trimmed_ns: Option<u64>,
}

impl ClipSink {
    /// Opens the folders. Completes the clips that a killed program left open, and removes its unfinished files.
    ///
    /// # Errors
    /// If the folder cannot be written, or GStreamer does not start.
    pub fn open(settings: RecordSettings, hub: &Hub) -> Result<Self> {
        // Clips are completed before a source is opened.
        touchline_media::gst::init()?;
        let (ring, dir) = (ring_options(&settings), clip_dir(&settings));
        let (store, unfinished) = ClipStore::open(&dir)?;
        let removed = unfinished + store.remove_orphans().unwrap_or(0);
        clips::create_dir(&ring.root)?;
        if removed > 0 {
            tracing::warn!("{}: removed {removed} files of unfinished clips", dir.display());
            hub.metrics().clip_files_removed(removed);
        }
        report_unreadable(&store);
        hub.metrics().clips_unreadable(store.unreadable().len());
        let classes = hub.classes().names().iter().map(|name| name.to_string()).collect();
        let cutter = Arc::new(RingCutter::new(settings.clone(), ring, store, hub.metrics().clone(), classes));
        salvage(&cutter);
        let since_unix_ns = u64::try_from(hub.clock().unix_ns()).unwrap_or(0);
        Ok(Self { settings, cutter, hub: hub.clone(), since_unix_ns, open: BTreeMap::new(), trimmed_ns: None })
    }

    /// What the API needs.
    pub fn access(&self) -> ClipAccess {
        ClipAccess { store: self.cutter.store.clone(), maker: self.cutter.clone() }
    }

    /// Has the decided seconds of the rings. `opener` opens recordings, and `config` says how their seconds are cut.
    pub fn past(&self, opener: Arc<dyn Open>, config: ClipConfig) -> Arc<dyn PastSeconds> {
        let (cutter, hub, decoding) = (self.cutter.clone(), self.hub.clone(), Mutex::default());
        Arc::new(RingPast { cutter, hub, opener, config, decoding })
    }

    fn second(&mut self, stream: &Arc<str>, published: &Published, records: &[OutputRecord]) {
        if !self.hub.is_recorded(stream) {
            return;
        }
        let (arrived_ns, wall_ns, top) = match &published.outcome {
            SecondOutcome::Predicted(second) => {
                let top = (second.decision.label.index(), second.decision.probability);
                (second.arrived_ns, Some(second.wall.unix_ns), Some(top))
            }
            SecondOutcome::Gap(_) => (self.hub.clock().mono_ns(), None, None),
        };
        let (run, index) = (published.outcome.run(), published.outcome.index());
        let place = SecondPlace { run, index, arrived_ns, wall_ns, top };
        let record = |record: &OutputRecord| DecisionRecord { run, index, json: record.json.to_string() };
        // A segment is longer than a clip, and its record comes later than its seconds.
        let records = records.iter().filter(|record| record.kind != RecordKind::Segment);
        let records: Vec<DecisionRecord> = records.map(record).collect();
        self.cutter.second(stream, place, &records);
        let mut open = self.open.remove(stream).unwrap_or_default();
        self.end_runs(stream, &mut open, place);
        open.iter().for_each(|clip| clip.add(&records));
        for event in &published.events {
            self.event(stream, &mut open, event, place);
        }
        let end = Pts::from_second(index + 1);
        // The ring must still have the beginning of a clip when it is cut.
        let part_ns = self.settings.clip_max_s() * NANOS_PER_SECOND / 4 * 3;
        let is_due = |clip: &OpenClip| !clip.is_open_ended && end >= clip.wanted.to;
        let is_long = |clip: &OpenClip| clip.is_open_ended && clip.wanted.from.distance(end) >= part_ns;
        for mut clip in open.extract_if(.., |clip| is_due(clip) || is_long(clip)).collect::<Vec<_>>() {
            if !clip.is_open_ended {
                self.cut(stream, &clip, MissingReason::Ring);
                continue;
            }
            (clip.wanted.span.1, clip.wanted.to) = (end, end);
            self.cut(stream, &clip, MissingReason::Ring);
            open.push(self.open_segment(stream, &clip.wanted.class, place, (end, end)));
        }
        self.open.insert(stream.clone(), open);
    }

    /// Cuts the clips of runs that are over. A segment continues in the next run.
    fn end_runs(&self, stream: &str, open: &mut Vec<OpenClip>, place: SecondPlace) {
        let over: Vec<OpenClip> = open.extract_if(.., |clip| clip.wanted.place.run != place.run).collect();
        for mut clip in over {
            let cause = self.cutter.cause_after(stream, clip.wanted.place.run);
            self.end(stream, &mut clip, cause.map_or(MissingReason::Reconnect, Into::into));
            if clip.is_open_ended {
                let begin = Pts::from_second(place.index);
                open.push(self.open_segment(stream, &clip.wanted.class, place, (begin, begin)));
            }
        }
    }

    fn event(&self, stream: &str, open: &mut Vec<OpenClip>, event: &Event, place: SecondPlace) {
        let RecordSettings { pre_roll_s, post_roll_s, ref clips, .. } = self.settings;
        let clip_max_ns = self.settings.clip_max_s() * NANOS_PER_SECOND;
        let class = self.hub.classes().name(event.class).to_owned();
        // All open clips are of this run. An event of the run before it counts now.
        let index = if event.run == place.run { event.index } else { place.index };
        let (begin, end) = (Pts::from_second(index), Pts::from_second(index + 1));
        let (from, to) = (Pts::from_second(index.saturating_sub(pre_roll_s)), end.plus(post_roll_s * NANOS_PER_SECOND));
        let is_onset = event.kind == EventKind::Onset;
        for kind in clips {
            let reason = match kind {
                ClipKind::Event => ClipReason::Event,
                ClipKind::Segment => ClipReason::Segment,
            };
            let is_known =
                |clip: &&mut OpenClip| (clip.wanted.reason, clip.wanted.class.as_deref()) == (reason, Some(&*class));
            match open.iter_mut().find(is_known) {
                // The ring must still have the beginning when the clip of an event is cut.
                Some(clip) if *kind == ClipKind::Segment || clip.wanted.from.distance(to) <= clip_max_ns => {
                    clip.is_open_ended = is_onset && *kind == ClipKind::Segment;
                    (clip.wanted.span.1, clip.wanted.to) = (end, to);
                    clip.write_head(stream, self.since_unix_ns);
                }
                _ if is_onset => {
                    let wanted = WantedClip { reason, class: Some(class.clone()), place, span: (begin, end), from, to };
                    open.push(self.open_clip(stream, wanted, *kind == ClipKind::Segment));
                }
                _ => {}
            }
        }
    }

    fn open_segment(&self, stream: &str, class: &Option<String>, place: SecondPlace, span: (Pts, Pts)) -> OpenClip {
        let (reason, class, (from, to)) = (ClipReason::Segment, class.clone(), span);
        self.open_clip(stream, WantedClip { reason, class, place, span, from, to }, true)
    }

    fn open_clip(&self, stream: &str, wanted: WantedClip, is_open_ended: bool) -> OpenClip {
        let first = (wanted.from.0 / NANOS_PER_SECOND).saturating_sub(1);
        let records = self.cutter.records(stream, wanted.place.run, first);
        OpenClip::new(self.cutter.store.dir(), stream, self.since_unix_ns, wanted, is_open_ended, &records)
    }

    /// Cuts a clip now: its end has come, or the stream is over.
    fn cut(&self, stream: &str, clip: &OpenClip, end: MissingReason) {
        let made = self.cutter.make(stream, &clip.wanted, end);
        report(stream, &clip.wanted, made);
        clip.close();
    }

    /// Cuts all clips of a stream as far as its media go.
    fn cut_open(&mut self, stream: &str, end: MissingReason) {
        for mut clip in self.open.remove(stream).unwrap_or_default() {
            self.end(stream, &mut clip, end);
        }
    }

    /// Cuts a clip whose run or stream has ended. One without an end ends with the last decided second.
    fn end(&self, stream: &str, clip: &mut OpenClip, reason: MissingReason) {
        if clip.is_open_ended {
            let last = self.cutter.last(stream, clip.wanted.place.run);
            let last = last.map_or(clip.wanted.from, |index| Pts::from_second(index + 1));
            (clip.wanted.span.1, clip.wanted.to) = (last, last);
        }
        self.cut(stream, clip, reason);
    }

    fn trim(&mut self) {
        let now_ns = self.hub.clock().mono_ns();
        if self.trimmed_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < TRIM_EVERY_NS) {
            return;
        }
        self.trimmed_ns = Some(now_ns);
        let unix_ns = u64::try_from(self.hub.clock().unix_ns()).unwrap_or(0);
        let root = &self.cutter.ring.root;
        match ring::trim(root, self.settings.ring_bytes, self.settings.ring_s, unix_ns) {
            Ok(extent) => self.hub.metrics().rings(extent.bytes, &extent.ages_ns),
            Err(e) => tracing::debug!("{}: {e}", root.display()),
        }
        let store = &self.cutter.store;
        match store.trim(self.settings.keep_bytes, self.settings.keep_s, unix_ns) {
            Ok(bytes) => self.hub.metrics().clip_bytes(bytes),
            Err(e) => tracing::debug!("{}: {e}", store.dir().display()),
        }
    }
}

impl Sink for ClipSink {
    fn name(&self) -> &'static str {
        "clips"
    }

    fn take(&mut self, item: &Item) -> u64 {
        match &item.content {
            ItemContent::Second(published) => self.second(&item.stream, published, &item.records),
            ItemContent::RunStarted(run, cause) => self.cutter.run_started(&item.stream, *run, *cause),
            ItemContent::State(state) => {
                let end = match state {
                    StreamState::Ended | StreamState::Failed { .. } => Some(MissingReason::StreamEnd),
                    StreamState::Paused | StreamState::Removed => Some(MissingReason::Stopped),
                    _ => None,
                };
                if let Some(end) = end {
                    self.cut_open(&item.stream, end);
                    self.cutter.forget(&item.stream);
                }
            }
            ItemContent::RecordsOnly => {}
        }
        self.trim();
        0
    }

    fn finish(&mut self) {
        for stream in self.open.keys().cloned().collect::<Vec<_>>() {
            self.cut_open(&stream, MissingReason::ProgramEnd);
        }
    }
}

/// Completes the clips that a killed program left open, as far as the ring goes.
fn salvage(cutter: &RingCutter) {
    for left in LeftClip::all(cutter.store.dir()) {
        let id = left.wanted.id(&left.stream);
        if cutter.store.sidecar(&id).is_none() {
            let made = cutter.salvage(&left);
            if made.is_ok() {
                tracing::info!(
                    "{}: the clip {id} was open when the program was killed; it is complete now",
                    left.stream
                );
            }
            report(&left.stream, &left.wanted, made);
        }
        left.close();
    }
}

fn report(stream: &str, wanted: &WantedClip, made: std::result::Result<Sidecar, ClipError>) {
    if let Err(cause) = made {
        let (class, at) = (wanted.class.as_deref().unwrap_or("a request"), Pts::from_second(wanted.place.index));
        tracing::warn!("{stream}: the clip of {class} at {at} was not made: {cause}");
    }
}

#[cfg(test)]
mod tests;
