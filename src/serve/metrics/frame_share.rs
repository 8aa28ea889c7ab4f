//! The share of pictures that the models see.

use prometheus::{Gauge, IntCounter, Registry};

use super::{Metrics, counters, gauges};
use touchline_core::clip::FrameShare;

pub(super) struct FrameShares {
    ratio: Gauge,
    down: IntCounter,
    up: IntCounter,
}

impl FrameShares {
    pub fn new(r: &Registry) -> Self {
        let ratio = gauges(
            r,
            "touchline_frame_share_ratio",
            "Share of the chosen pictures that the models see; below 1 during an overload.",
            &[],
        );
        let changes = counters(
            r,
            "touchline_frame_share_changes_total",
            "Changes of the share of pictures that the models see: down in an overload, up after it.",
            &["direction"],
        );
        let ratio = ratio.with_label_values::<&str>(&[]);
        ratio.set(FrameShare::ALL.ratio());
        let [down, up] = ["down", "up"].map(|direction| changes.with_label_values(&[direction]));
        Self { ratio, down, up }
    }
}

impl Metrics {
    /// Sets the share of pictures that the models see; `before` is the previous one.
    pub fn frame_share(&self, before: FrameShare, share: FrameShare) {
        let family = &self.families.frame_share;
        family.ratio.set(share.ratio());
        if share < before { family.down.inc() } else { family.up.inc() }
    }
}
