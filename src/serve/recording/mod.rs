//! Clips of events: a sink that cuts them from the ring of original media.
//!
//! A clip waits until the second after its end is decided, because its media are in the ring then. Cutting takes the time of copying;
//! the sink's queue bridges it, and neither decisions nor recording wait. The sink also keeps the ring and the clips within their
//! limits.

mod cutter;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use self::cutter::{RingCutter, SecondPlace, WantedClip};
use crate::clips::{self, ClipAccess, ClipReason, ClipStore};
use crate::config::RecordSettings;
use crate::metrics::Metrics;
use crate::publish::record::{Published, StreamState};
use crate::publish::sink::{Content, Item, Sink};
use touchline_core::clock::Clock;
use touchline_core::decision::{EventKind, SecondOutcome};
use touchline_core::error::Result;
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::gst::clips::ring::{self, RingOptions};

/// How often the ring is brought within its limits, ns: about the length of one of its files.
const TRIM_EVERY_NS: u64 = 4 * NANOS_PER_SECOND;

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

/// Cuts the clips of events.
pub struct ClipSink {
    settings: RecordSettings,
    cutter: Arc<RingCutter>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// Clips whose end has not come, by stream.
    pending: BTreeMap<Arc<str>, Vec<PendingClip>>,
    trimmed_ns: Option<u64>,
}

/// A clip whose end has not come.
#[derive(Clone, Debug)]
struct PendingClip {
    class: String,
    /// The second of the event.
    place: SecondPlace,
    from: Pts,
    to: Pts,
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
        let (store, unfinished) = ClipStore::open(&dir)?;
        let removed = unfinished + store.remove_orphans().unwrap_or(0);
        clips::create_dir(&ring.root)?;
        if removed > 0 {
            tracing::warn!("{}: removed {removed} files of unfinished clips", dir.display());
            metrics.clip_files_removed(removed);
        }
        let cutter = Arc::new(RingCutter::new(settings.clone(), ring, store, metrics.clone()));
        Ok(Self { settings, cutter, metrics, clock, pending: BTreeMap::new(), trimmed_ns: None })
    }

    /// What the API needs.
    pub fn access(&self) -> ClipAccess {
        ClipAccess { store: self.cutter.store.clone(), maker: self.cutter.clone() }
    }

    fn second(&mut self, stream: &Arc<str>, published: &Published, records: &[Arc<str>]) {
        let (arrived_ns, wall_ns) = match &published.outcome {
            SecondOutcome::Predicted(second) => (second.arrived_ns, Some(second.wall.unix_ns)),
            SecondOutcome::Gap(_) => (self.clock.mono_ns(), None),
        };
        let (run, index) = (published.outcome.run(), published.outcome.index());
        let place = SecondPlace { run, index, arrived_ns, wall_ns };
        self.cutter.second(stream, place, records);
        let RecordSettings { ring_s, pre_roll_s, post_roll_s, .. } = self.settings;
        let pending = self.pending.entry(stream.clone()).or_default();
        // The events follow their second.
        for (event, json) in published.events.iter().zip(records.iter().skip(1)) {
            let Ok(EventRecord { class }) = serde_json::from_str(json) else { continue };
            let to = Pts::from_second(event.index + 1 + post_roll_s);
            let known = pending.iter_mut().find(|clip| clip.class == class && clip.place.run == event.run);
            match known {
                // The ring must still have the beginning when the clip is cut.
                Some(clip) if to.distance(clip.from) <= ring_s * NANOS_PER_SECOND => clip.to = to,
                _ if event.kind == EventKind::Onset => {
                    let from = Pts::from_second(event.index.saturating_sub(pre_roll_s));
                    pending.push(PendingClip { class, place, from, to });
                }
                _ => {}
            }
        }
        let end = Pts::from_second(index + 1);
        let due: Vec<PendingClip> = pending.extract_if(.., |clip| clip.place.run != run || end >= clip.to).collect();
        self.cut(stream, &due);
    }

    /// Cuts clips now: their end has come, or the stream is over.
    fn cut(&self, stream: &str, due: &[PendingClip]) {
        for PendingClip { class, place, from, to } in due {
            let wanted =
                WantedClip { reason: ClipReason::Event, class: Some(class), place: *place, from: *from, to: *to };
            if let Err(cause) = self.cutter.make(stream, &wanted) {
                tracing::warn!(
                    "{stream}: the clip of {class} at {} was not made: {cause}",
                    Pts::from_second(place.index)
                );
            }
        }
    }

    /// Cuts all clips of a stream as far as its media go.
    fn cut_pending(&mut self, stream: &str) {
        let pending = self.pending.remove(stream).unwrap_or_default();
        self.cut(stream, &pending);
    }

    fn trim(&mut self) {
        let now_ns = self.clock.mono_ns();
        if self.trimmed_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < TRIM_EVERY_NS) {
            return;
        }
        self.trimmed_ns = Some(now_ns);
        let unix_ns = u64::try_from(self.clock.unix_ns()).unwrap_or(0);
        let root = &self.cutter.ring.root;
        match ring::trim(root, self.settings.ring_bytes, self.settings.ring_s, unix_ns) {
            Ok(extent) => self.metrics.rings(extent.bytes, &extent.ages_ns),
            Err(e) => tracing::debug!("{}: {e}", root.display()),
        }
        let store = &self.cutter.store;
        match store.trim(self.settings.keep_bytes, self.settings.keep_s, unix_ns) {
            Ok(bytes) => self.metrics.clip_bytes(bytes),
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
            Content::Second(published) => self.second(&item.stream, published, &item.records),
            Content::State(
                StreamState::Ended | StreamState::Failed { .. } | StreamState::Paused | StreamState::Removed,
            ) => {
                self.cut_pending(&item.stream);
                self.cutter.forget(&item.stream);
            }
            _ => {}
        }
        self.trim();
        0
    }

    fn finish(&mut self) {
        for stream in self.pending.keys().cloned().collect::<Vec<_>>() {
            self.cut_pending(&stream);
        }
    }
}
