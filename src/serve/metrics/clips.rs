//! The ring of coded media, and the clips that are cut from it.

use std::collections::BTreeMap;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, Registry};

use super::families::{counters, gauges, int_gauges};
use super::{Metrics, nanos_to_seconds};

/// The result of a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipResult {
    /// It is complete.
    Made,
    /// The ring did not have its time.
    NoMedia,
    /// The disk is full.
    NoSpace,
    /// It could not be read or written.
    Failed,
}

impl ClipResult {
    const ALL: [ClipResult; 4] = [ClipResult::Made, ClipResult::NoMedia, ClipResult::NoSpace, ClipResult::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            ClipResult::Made => "made",
            ClipResult::NoMedia => "no-media",
            ClipResult::NoSpace => "no-space",
            ClipResult::Failed => "failed",
        }
    }
}

/// The families of the ring and the clips.
pub(super) struct ClipFamilies {
    pub unrecorded: IntCounterVec,
    ring_bytes: IntGauge,
    ring_seconds: GaugeVec,
    /// In the order of [`ClipResult::ALL`].
    clips: Vec<IntCounter>,
    unfinished: IntCounter,
    unreadable: IntGauge,
    clip_bytes: IntGauge,
}

impl ClipFamilies {
    pub fn new(r: &Registry) -> Self {
        let clips = counters(r, "touchline_clips_total", "Clips, by result.", &["result"]);
        Self {
            unrecorded: counters(
                r,
                "touchline_ring_lost_units_total",
                "Coded pictures and pieces of sound that are missing in the ring, because its disk was too slow or full.",
                &["stream"],
            ),
            ring_bytes: int_gauges(r, "touchline_ring_bytes", "Total size of the rings of all streams, in bytes.", &[])
                .with_label_values::<&str>(&[]),
            ring_seconds: gauges(
                r,
                "touchline_ring_seconds",
                "Time from the oldest media in the ring of the stream to now, in seconds.",
                &["stream"],
            ),
            clips: ClipResult::ALL.iter().map(|result| clips.with_label_values(&[result.as_str()])).collect(),
            unfinished: counters(
                r,
                "touchline_clip_files_removed_total",
                "Files of unfinished clips that were removed at the start: the program had been killed.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            unreadable: int_gauges(
                r,
                "touchline_clips_unreadable",
                "Clips whose JSON file could not be read at the start. They are not removed.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            clip_bytes: int_gauges(r, "touchline_clips_bytes", "Size of all clips, in bytes.", &[])
                .with_label_values::<&str>(&[]),
        }
    }
}

impl Metrics {
    /// Counts a clip.
    pub fn clip(&self, result: ClipResult) {
        self.families.clips.clips[result as usize].inc();
    }

    /// Counts files of unfinished clips that were removed.
    pub fn clip_files_removed(&self, count: usize) {
        self.families.clips.unfinished.inc_by(count as u64);
    }

    /// Sets the number of clips whose sidecar cannot be read.
    pub fn clips_unreadable(&self, count: usize) {
        self.families.clips.unreadable.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the extent of the rings: bytes, and the age of the oldest media by stream, ns.
    pub fn rings(&self, bytes: u64, ages_ns: &BTreeMap<String, u64>) {
        let families = &self.families.clips;
        families.ring_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        // Streams that were removed have no ring.
        families.ring_seconds.reset();
        for (stream, age_ns) in ages_ns {
            families.ring_seconds.with_label_values(&[stream]).set(nanos_to_seconds(*age_ns));
        }
    }

    /// Sets the size of all clips.
    pub fn clip_bytes(&self, bytes: u64) {
        self.families.clips.clip_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
