//! Metrics of the shadow of one stream, with resolved labels.

use prometheus::{Histogram, IntCounter};
use serde::Serialize;

use super::families::Families;
use super::health::HealthCounters;
use super::stream::forget;

/// Why the shadow did not decide a second that the running pack decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShadowDrop {
    /// The queue was full.
    Overload,
    /// The models failed.
    Compute,
    /// None of its models had input.
    NoScores,
}

impl ShadowDrop {
    /// In the order of the variants.
    pub const ALL: [ShadowDrop; 3] = [ShadowDrop::Overload, ShadowDrop::Compute, ShadowDrop::NoScores];

    /// Value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ShadowDrop::Overload => "overload",
            ShadowDrop::Compute => "compute",
            ShadowDrop::NoScores => "no-scores",
        }
    }
}

/// Metrics of one stream's shadow. Cloning shares them; every method is lock-free and may be called from any thread.
#[derive(Clone, Debug)]
pub struct ShadowMetrics {
    same: IntCounter,
    different: IntCounter,
    /// In the order of [`ShadowDrop::ALL`].
    dropped: [IntCounter; ShadowDrop::ALL.len()],
    difference: Histogram,
    health: HealthCounters,
}

impl ShadowMetrics {
    pub(super) fn new(families: &Families, id: &str) -> Self {
        let seconds = |agreement| families.shadow_seconds.with_label_values(&[id, agreement]);
        Self {
            same: seconds("same"),
            different: seconds("different"),
            dropped: ShadowDrop::ALL.map(|why| families.shadow_dropped.with_label_values(&[id, why.as_str()])),
            difference: families.shadow_difference.with_label_values(&[id]),
            health: families.health.clone(),
        }
    }

    pub(super) fn remove(families: &Families, id: &str) {
        ["same", "different"].iter().for_each(|agreement| forget(&families.shadow_seconds, &[id, *agreement]));
        ShadowDrop::ALL.iter().for_each(|why| forget(&families.shadow_dropped, &[id, why.as_str()]));
        forget(&families.shadow_difference, &[id]);
    }

    /// Counts a second that both packs decided; `difference` is the mean absolute difference of their probabilities.
    pub fn compared(&self, same: bool, difference: f64) {
        if same {
            self.same.inc()
        } else {
            self.different.inc()
        }
        self.difference.observe(difference);
    }

    /// Counts a second that the shadow did not decide.
    pub fn dropped(&self, why: ShadowDrop) {
        self.dropped[why as usize].inc();
        if why == ShadowDrop::Compute {
            self.health.failed();
        }
    }
}
