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
            "Share of the pictures chosen by the pack that the models see; below 1 the machine is too slow for all.",
            &[],
        );
        let changes = counters(
            r,
            "touchline_frame_share_changes_total",
            "Times the share of pictures that the models see went down, because the machine was too slow, or up again.",
            &["direction"],
        );
        let ratio = ratio.with_label_values::<&str>(&[]);
        ratio.set(FrameShare::ALL.ratio());
        let [down, up] = ["down", "up"].map(|direction| changes.with_label_values(&[direction]));
        Self { ratio, down, up }
    }
}

impl Metrics {
    /// From now on the models see this share of the pictures, and saw `before`.
    pub fn frame_share(&self, before: FrameShare, share: FrameShare) {
        let family = &self.families.frame_share;
        family.ratio.set(share.ratio());
        if share < before { family.down.inc() } else { family.up.inc() }
    }
}
