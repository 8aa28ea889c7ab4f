//! Clips of events: a sink that cuts them from the ring of original media.
//!
//! A clip waits until the second after its end is decided, because its media are in the ring then. Cutting takes the time of copying;
//! the sink's queue bridges it, and neither decisions nor recording wait. The sink also keeps the ring and the clips within their
//! limits.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::clips::{self, ClipReason, ClipStore, ClipSubject, DecisionRecord};
use crate::config::RecordSettings;
use crate::metrics::{ClipResult, Metrics};
use crate::publish::record::{Published, StreamState};
use crate::publish::sink::{Content, Item, Sink};
use touchline_core::clock::Clock;
use touchline_core::decision::{EventKind, SecondOutcome};
use touchline_core::error::Result;
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};
use touchline_media::gst::clips::ring::{self, RingAnchor, RingOptions, cut_ring};
use touchline_media::gst::clips::{ClipError, ClipFile, ClipRequest};

/// How often the ring is brought within its limits, ns: about the length of one of its files.
const TRIM_EVERY_NS: u64 = 4 * NANOS_PER_SECOND;

/// How many files of the ring are removed for one clip on a full disk. A clip is not larger than these.
const MAKE_ROOM_MAX: usize = 16;

/// The rings below a recording folder.
pub fn ring_options(settings: &RecordSettings) -> RingOptions {
    RingOptions { root: settings.dir.join("ring") }
}

/// The clips below a recording folder.
pub fn clip_dir(settings: &RecordSettings) -> PathBuf {
    settings.dir.join("clips")
}

/// Cuts the clips of events.
pub struct ClipSink {
    settings: RecordSettings,
    ring: RingOptions,
    clips: ClipStore,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    streams: BTreeMap<Arc<str>, StreamClips>,
    trimmed_ns: Option<u64>,
}

/// The clips of one stream.
#[derive(Default)]
struct StreamClips {
    /// The latest records, as many as a clip may need.
    records: VecDeque<DecisionRecord>,
    /// Clips whose end has not come.
    pending: Vec<PendingClip>,
}

/// A clip whose end has not come.
#[derive(Clone, Debug)]
struct PendingClip {
    class: String,
    run: RunId,
    /// Second of the event.
    index: u64,
    to: Pts,
    anchor: RingAnchor,
    /// Wall time of the event's second, nanoseconds since 1970-01-01 UTC.
    wall_ns: Option<i64>,
}

/// The keys of an event's record.
#[derive(Deserialize)]
struct EventRecord {
    class: String,
}

impl ClipSink {
    /// Opens the folders, and removes what a killed program left.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn open(settings: RecordSettings, metrics: Metrics, clock: Arc<dyn Clock>) -> Result<Self> {
        let (ring, dir) = (ring_options(&settings), clip_dir(&settings));
        let (clips, unfinished) = ClipStore::open(&dir)?;
        let removed = unfinished + clips.remove_orphans().unwrap_or(0);
        clips::create_dir(&ring.root)?;
        if removed > 0 {
            tracing::warn!("{}: removed {removed} files of unfinished clips", dir.display());
            metrics.clip_files_removed(removed);
        }
        Ok(Self { settings, ring, clips, metrics, clock, streams: BTreeMap::new(), trimmed_ns: None })
    }

    fn second(&mut self, stream: &Arc<str>, published: &Published, records: &[Arc<str>]) {
        let (run, index) = (published.outcome.run(), published.outcome.index());
        let (pre_roll_s, post_roll_s) = (self.settings.pre_roll_s, self.settings.post_roll_s);
        let state = self.streams.entry(stream.clone()).or_default();
        let lines = records.iter().map(|json| DecisionRecord { run, index, json: json.to_string() });
        state.records.extend(lines);
        // No clip is longer than the ring.
        let is_old = |first: &DecisionRecord, pending: &[PendingClip]| {
            let is_of_run = first.run == run || pending.iter().any(|clip| clip.run == first.run);
            !is_of_run || first.run == run && first.index + self.settings.ring_s < index
        };
        while state.records.front().is_some_and(|first| is_old(first, &state.pending)) {
            state.records.pop_front();
        }
        let (arrived_ns, wall_ns) = match &published.outcome {
            SecondOutcome::Predicted(second) => (second.arrived_ns, Some(second.wall.unix_ns)),
            SecondOutcome::Gap(_) => (self.clock.mono_ns(), None),
        };
        // The events follow their second.
        for (event, json) in published.events.iter().zip(records.iter().skip(1)) {
            let Ok(EventRecord { class }) = serde_json::from_str(json) else { continue };
            let to = Pts::from_second(event.index + 1 + post_roll_s);
            let known = state.pending.iter_mut().find(|clip| clip.class == class && clip.run == event.run);
            match known {
                // The ring must still have the beginning when the clip is cut.
                Some(clip) if to.second() <= clip.index.saturating_sub(pre_roll_s) + self.settings.ring_s => {
                    clip.to = to
                }
                _ if event.kind == EventKind::Onset => {
                    let anchor = RingAnchor { pts: Pts::from_second(event.index), arrived_ns };
                    state.pending.push(PendingClip { class, run, index: event.index, to, anchor, wall_ns });
                }
                _ => {}
            }
        }
        let end = Pts::from_second(index + 1);
        let due = state.pending.extract_if(.., |clip| clip.run != run || end >= clip.to).collect();
        self.cut(stream, due);
    }

    /// Cuts clips now: their end has come, or the stream is over.
    fn cut(&mut self, stream: &Arc<str>, due: Vec<PendingClip>) {
        for clip in due {
            let result = match self.try_cut(stream, &clip) {
                Ok(()) => ClipResult::Made,
                Err(error) => {
                    tracing::warn!("{stream}: the clip of {} at {} was not made: {error}", clip.class, clip.anchor.pts);
                    match error {
                        ClipError::NoMedia => ClipResult::NoMedia,
                        ClipError::NoSpace => ClipResult::NoSpace,
                        ClipError::Failed(_) => ClipResult::Failed,
                    }
                }
            };
            self.metrics.clip(result);
        }
    }

    /// Cuts all clips of a stream as far as its media go.
    fn cut_pending(&mut self, stream: &Arc<str>) {
        let pending = self.streams.get_mut(stream).map(|state| std::mem::take(&mut state.pending));
        self.cut(stream, pending.unwrap_or_default());
    }

    fn try_cut(&self, stream: &str, clip: &PendingClip) -> Result<(), ClipError> {
        let unix_ms = clip.wall_ns.unwrap_or_else(|| self.clock.unix_ns()) / 1_000_000;
        let dir = self.clips.dir();
        let from = Pts::from_second(clip.index.saturating_sub(self.settings.pre_roll_s));
        let name = clips::name(&[stream, &unix_ms.to_string(), &clip.class]);
        let request = ClipRequest { run: clip.run, from, to: clip.to, dir: dir.into(), name };
        let files = self.cut_with_room(&self.ring.root.join(stream), clip.anchor, &request)?;
        let subject = ClipSubject {
            stream,
            reason: ClipReason::Event,
            class: Some(&clip.class),
            run: clip.run,
            from,
            to: clip.to,
            strongest: clip.index,
            wall: clip.wall_ns.map(|wall_ns| (Pts::from_second(clip.index), wall_ns)),
        };
        let records = self.streams.get(stream).into_iter().flat_map(|state| &state.records);
        let records: Vec<DecisionRecord> = records.cloned().collect();
        clips::complete(dir, &request.name, &subject, files, &records)?;
        Ok(())
    }

    /// Cuts a clip. When the disk is full, the oldest media of all rings make room.
    fn cut_with_room(
        &self,
        ring_dir: &Path,
        anchor: RingAnchor,
        request: &ClipRequest,
    ) -> Result<Vec<ClipFile>, ClipError> {
        for _ in 0..MAKE_ROOM_MAX {
            match cut_ring(ring_dir, anchor, request) {
                Err(ClipError::NoSpace) if ring::remove_oldest(&self.ring.root) => {}
                result => return result,
            }
        }
        Err(ClipError::NoSpace)
    }

    fn trim(&mut self) {
        let now_ns = self.clock.mono_ns();
        if self.trimmed_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < TRIM_EVERY_NS) {
            return;
        }
        self.trimmed_ns = Some(now_ns);
        let unix_ns = u64::try_from(self.clock.unix_ns()).unwrap_or(0);
        match ring::trim(&self.ring.root, self.settings.ring_bytes, self.settings.ring_s, unix_ns) {
            Ok(extent) => self.metrics.rings(extent.bytes, &extent.ages_ns),
            Err(e) => tracing::debug!("{}: {e}", self.ring.root.display()),
        }
        match self.clips.trim(self.settings.keep_bytes, self.settings.keep_s, unix_ns) {
            Ok(bytes) => self.metrics.clip_bytes(bytes),
            Err(e) => tracing::debug!("{}: {e}", self.clips.dir().display()),
        }
    }
}

impl Sink for ClipSink {
    fn name(&self) -> &'static str {
        "clips"
    }

    fn take(&mut self, item: &Item) -> u64 {
        match &item.content {
            Content::Second(published) => self.second(&item.stream, published, &item.records),
            Content::State(
                StreamState::Ended | StreamState::Failed { .. } | StreamState::Paused | StreamState::Removed,
            ) => {
                self.cut_pending(&item.stream);
                self.streams.remove(&item.stream);
            }
            _ => {}
        }
        self.trim();
        0
    }

    fn finish(&mut self) {
        for stream in self.streams.keys().cloned().collect::<Vec<_>>() {
            self.cut_pending(&stream);
        }
    }
}
