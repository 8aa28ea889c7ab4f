//! Corrections, and the seconds that are held for them.

use prometheus::{IntCounter, IntGauge, Registry};

use super::Metrics;
use super::families::{counters, int_gauges};

/// The result of a correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectionResult {
    /// It is kept.
    Kept,
    /// Its seconds are no longer in memory, and the stream is not recorded.
    NotHeld,
    /// Its seconds are neither in memory nor in the ring of the stream.
    NotRecorded,
    /// Its seconds overlap those of another correction.
    Overlaps,
    /// The folder has its maximum size.
    Full,
    /// The disk is full.
    NoSpace,
    /// The folder cannot be written.
    Failed,
}

impl CorrectionResult {
    const ALL: [CorrectionResult; 7] = [
        CorrectionResult::Kept,
        CorrectionResult::NotHeld,
        CorrectionResult::NotRecorded,
        CorrectionResult::Overlaps,
        CorrectionResult::Full,
        CorrectionResult::NoSpace,
        CorrectionResult::Failed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            CorrectionResult::Kept => "kept",
            CorrectionResult::NotHeld => "not-held",
            CorrectionResult::NotRecorded => "not-recorded",
            CorrectionResult::Overlaps => "overlaps",
            CorrectionResult::Full => "full",
            CorrectionResult::NoSpace => "no-space",
            CorrectionResult::Failed => "failed",
        }
    }
}

/// The families of teaching.
pub(super) struct TeachFamilies {
    /// In the order of [`CorrectionResult::ALL`].
    results: Vec<IntCounter>,
    corrections: IntGauge,
    bytes: IntGauge,
    memory_bytes: IntGauge,
    dropped: IntCounter,
}

impl TeachFamilies {
    pub fn new(r: &Registry) -> Self {
        let results =
            counters(r, "touchline_corrections_total", "Corrections that were asked for, by result.", &["result"]);
        Self {
            results: CorrectionResult::ALL.iter().map(|result| results.with_label_values(&[result.as_str()])).collect(),
            corrections: int_gauges(r, "touchline_corrections_kept", "Corrections in the folder.", &[])
                .with_label_values::<&str>(&[]),
            bytes: int_gauges(r, "touchline_corrections_bytes", "Size of the files of all corrections, in bytes.", &[])
                .with_label_values::<&str>(&[]),
            memory_bytes: int_gauges(
                r,
                "touchline_teach_memory_bytes",
                "Size of the seconds that are held in memory for corrections, in bytes.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            dropped: counters(
                r,
                "touchline_teach_seconds_dropped_total",
                "Decided seconds that are not held for corrections, because encoding their pictures took too long or failed.",
                &[],
            )
            .with_label_values::<&str>(&[]),
        }
    }
}

impl Metrics {
    /// Counts a correction that was asked for.
    pub fn correction(&self, result: CorrectionResult) {
        self.families.teach.results[result as usize].inc();
    }

    /// Sets the number and the size of all corrections.
    pub fn corrections(&self, count: usize, bytes: u64) {
        self.families.teach.corrections.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.families.teach.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the size of the seconds in memory.
    pub fn teach_memory(&self, bytes: usize) {
        self.families.teach.memory_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a decided second that is not held.
    pub fn teach_second_dropped(&self) {
        self.families.teach.dropped.inc();
    }
}
