//! The share of pictures that the models see.

use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::{Metrics, counters, gauges, int_gauges};
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
            "touchline_auto_tier",
            "1 for the decode tier of live streams with tier = \"auto\", else 0.",
            &["tier"],
        );
        let tiers: Vec<IntGauge> =
            DecodeTier::ALL.iter().map(|tier| tiers.with_label_values(&[tier.as_str()])).collect();
        tiers[DecodeTier::default() as usize].set(1);
        let ratio = ratio.with_label_values::<&str>(&[]);
        ratio.set(FrameShare::ALL.ratio());
        let [down, up] = ["down", "up"].map(|direction| changes.with_label_values(&[direction]));
        Self { ratio, tiers, down, up }
    }
}

impl Metrics {
    /// Sets the share of pictures that the models see, and the automatic tier. `before` is the previous share.
    pub fn frame_share(&self, before: FrameShare, share: FrameShare, auto_tier: DecodeTier) {
        let family = &self.families.frame_share;
        for (tier, gauge) in DecodeTier::ALL.iter().zip(&family.tiers) {
            gauge.set(i64::from(*tier == auto_tier));
        }
        family.ratio.set(share.ratio());
        if share < before { family.down.inc() } else { family.up.inc() }
    }
}
