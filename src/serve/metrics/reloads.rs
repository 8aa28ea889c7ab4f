//! Readings of the configuration file.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{Metrics, counters, int_gauges};

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
            "Times the configuration file was read again; a refused one leaves the old settings in force.",
            &["result"],
        );
        let last = int_gauges(
            r,
            "touchline_config_last_reload_success",
            "1 while the last reading of the configuration file was applied, 0 after one that was refused.",
            &[],
        );
        let last = last.with_label_values::<&str>(&[]);
        // What the program started with was taken.
        last.set(1);
        let [applied, refused] = ["applied", "refused"].map(|result| family.with_label_values(&[result]));
        Self { applied, refused, last }
    }
}

impl Metrics {
    /// A configuration file was read again, and taken or refused.
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
