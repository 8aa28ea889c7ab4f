//! Tests of addresses.

use prometheus::{IntCounter, Registry};

use super::Metrics;
use super::families::counters;

/// How a test of an address ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// Media arrived.
    Playable,
    /// The source failed, or nothing arrived in time.
    Failed,
    /// The client closed its request.
    Cancelled,
    /// Too many tests were running.
    Busy,
}

impl ProbeResult {
    /// In the order of the variants.
    pub const ALL: [ProbeResult; 4] =
        [ProbeResult::Playable, ProbeResult::Failed, ProbeResult::Cancelled, ProbeResult::Busy];

    /// Value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProbeResult::Playable => "playable",
            ProbeResult::Failed => "failed",
            ProbeResult::Cancelled => "cancelled",
            ProbeResult::Busy => "busy",
        }
    }
}

impl Metrics {
    /// Counts a test of an address.
    pub fn probed(&self, result: ProbeResult) {
        self.families.probes[result as usize].inc();
    }
}

pub(super) fn probes(registry: &Registry) -> Vec<IntCounter> {
    let help = "Tests of addresses over the API (POST /api/v1/probe), by result.";
    let family = counters(registry, "touchline_probes_total", help, &["result"]);
    ProbeResult::ALL.iter().map(|result| family.with_label_values(&[result.as_str()])).collect()
}
