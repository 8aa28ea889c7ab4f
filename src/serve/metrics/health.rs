//! What tells whether a pack does well, over all streams and without labels: series of a stream end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use touchline_core::clip::GapReason;

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackHealth {
    /// Seconds that a model failed on, panics of models, faults of devices.
    pub failures: u64,
    /// Seconds that were given up under load.
    pub shed: u64,
    /// Seconds that were decided.
    pub decided: u64,
}

/// The counters. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthCounters(Arc<[AtomicU64; 3]>);

impl HealthCounters {
    pub(super) fn failed(&self) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gapped(&self, reason: GapReason) {
        match reason {
            GapReason::Compute => self.failed(),
            GapReason::Overload => drop(self.0[1].fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    pub(super) fn decided(&self) {
        self.0[2].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> PackHealth {
        let [failures, shed, decided] = [0, 1, 2].map(|n| self.0[n].load(Ordering::Relaxed));
        PackHealth { failures, shed, decided }
    }
}
