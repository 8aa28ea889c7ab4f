//! Reloads of the configuration file.

use prometheus::{IntCounter, IntGauge, Registry};

use super::Metrics;
use super::families::{counters, int_gauges};

pub(super) struct Reloads {
    applied: IntCounter,
    refused: IntCounter,
    last: IntGauge,
}

impl Reloads {
    pub fn new(r: &Registry) -> Self {
        let family = counters(
            r,
            "touchline_config_reloads_total",
            "Reloads of the configuration file; after a refused one the previous settings stay in force.",
            &["result"],
        );
        let last = int_gauges(
            r,
            "touchline_config_last_reload_success",
            "1 if the last reload of the configuration file was applied, 0 if it was refused.",
            &[],
        );
        let last = last.with_label_values::<&str>(&[]);
        // The start counts as applied.
        last.set(1);
        let [applied, refused] = ["applied", "refused"].map(|result| family.with_label_values(&[result]));
        Self { applied, refused, last }
    }
}

impl Metrics {
    /// Counts a reload of the configuration file.
    pub fn config_reload(&self, applied: bool) {
        let reloads = &self.families.reloads;
        if applied {
            reloads.applied.inc()
        } else {
            reloads.refused.inc()
        }
        reloads.last.set(i64::from(applied));
    }
}
