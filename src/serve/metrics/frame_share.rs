//! The share of pictures that the models see.

use std::cmp::Ordering;

use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::Metrics;
use super::families::{counters, gauges, int_gauges};
use touchline_core::clip::FrameShare;
use touchline_core::tier::DecodeTier;

pub(super) struct FrameShares {
    ratio: Gauge,
    /// By tier, in the order of [`DecodeTier::ALL`].
    tiers: Vec<IntGauge>,
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
        let tiers = int_gauges(
            r,
            "touchline_auto_tier_streams",
            "Live streams with tier = \"auto\", by their current decode tier. Counted with --adaptive.",
            &["tier"],
        );
        let tiers: Vec<IntGauge> =
            DecodeTier::ALL.iter().map(|tier| tiers.with_label_values(&[tier.as_str()])).collect();
        let ratio = ratio.with_label_values::<&str>(&[]);
        ratio.set(FrameShare::ALL.ratio());
        let [down, up] = ["down", "up"].map(|direction| changes.with_label_values(&[direction]));
        Self { ratio, tiers, down, up }
    }
}

impl Metrics {
    /// Sets the share of pictures that the models see, and the number of automatic streams in each tier, in the order of
    /// [`DecodeTier::ALL`]. `before` is the previous share.
    pub fn relief(&self, before: FrameShare, share: FrameShare, streams: [usize; DecodeTier::ALL.len()]) {
        let family = &self.families.frame_share;
        for (gauge, count) in family.tiers.iter().zip(streams) {
            gauge.set(count as i64);
        }
        family.ratio.set(share.ratio());
        match share.cmp(&before) {
            Ordering::Less => family.down.inc(),
            Ordering::Equal => {}
            Ordering::Greater => family.up.inc(),
        }
    }
}
