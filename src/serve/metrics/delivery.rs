//! Deliveries to receivers outside the program (`[[sink]]`).

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::Metrics;
use super::families::{counters, gauges, int_gauges};

/// Why a record of a spool was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The spool was full. The record was the oldest.
    Overflow,
    /// The receiver refused the record. It is in the file of dead letters.
    Refused,
    /// The file of the spool was damaged.
    Damaged,
}

impl Loss {
    /// In the order of the variants.
    pub const ALL: [Loss; 3] = [Loss::Overflow, Loss::Refused, Loss::Damaged];

    /// Value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Loss::Overflow => "overflow",
            Loss::Refused => "refused",
            Loss::Damaged => "damaged",
        }
    }
}

/// The families.
pub(super) struct Deliveries {
    sent: IntCounterVec,
    waiting: IntGaugeVec,
    waiting_bytes: IntGaugeVec,
    lost: IntCounterVec,
    failures: IntCounterVec,
    last_success: GaugeVec,
    exits: IntCounterVec,
}

impl Deliveries {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            sent: counters(
                r,
                "touchline_sink_sent_records_total",
                "Records that the receiver of a sink has accepted.",
                &["sink"],
            ),
            waiting: int_gauges(r, "touchline_sink_waiting_records", "Records in the spool of a sink.", &["sink"]),
            waiting_bytes: int_gauges(
                r,
                "touchline_sink_waiting_bytes",
                "Size of the records in the spool of a sink, in bytes.",
                &["sink"],
            ),
            lost: counters(
                r,
                "touchline_sink_lost_records_total",
                "Records of a spool that were not delivered: it was full (overflow), the receiver refused them (refused; \
                 they are in the file of dead letters), or its file was damaged (damaged).",
                &["sink", "reason"],
            ),
            failures: counters(
                r,
                "touchline_sink_failures_total",
                "Deliveries of a sink that failed and are tried again.",
                &["sink"],
            ),
            last_success: gauges(
                r,
                "touchline_sink_last_success_timestamp_seconds",
                "When the receiver of a sink last accepted a record, in seconds since 1970-01-01 UTC; 0 before the first.",
                &["sink"],
            ),
            exits: counters(
                r,
                "touchline_sink_exec_exits_total",
                "Ends of the program of a sink, by exit code; \"signal\": a signal ended it, \"timeout\": it was killed.",
                &["sink", "code"],
            ),
        }
    }
}

/// The metrics of one sink, with their labels resolved.
#[derive(Clone)]
pub struct DeliveryMetrics {
    name: String,
    sent: IntCounter,
    waiting: IntGauge,
    waiting_bytes: IntGauge,
    lost: Vec<IntCounter>,
    failures: IntCounter,
    last_success: Gauge,
    exits: IntCounterVec,
}

impl Metrics {
    /// The metrics of the sink `name`. Its counters are exported from now on, starting at 0.
    pub fn delivery(&self, name: &str) -> DeliveryMetrics {
        let all = &self.families.deliveries;
        DeliveryMetrics {
            name: name.to_owned(),
            sent: all.sent.with_label_values(&[name]),
            waiting: all.waiting.with_label_values(&[name]),
            waiting_bytes: all.waiting_bytes.with_label_values(&[name]),
            lost: Loss::ALL.iter().map(|loss| all.lost.with_label_values(&[name, loss.as_str()])).collect(),
            failures: all.failures.with_label_values(&[name]),
            last_success: all.last_success.with_label_values(&[name]),
            exits: all.exits.clone(),
        }
    }
}

impl DeliveryMetrics {
    /// Counts records that the receiver accepted at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn sent(&self, records: u64, unix_ns: i64) {
        self.sent.inc_by(records);
        self.last_success.set(unix_ns as f64 / 1e9);
    }

    /// Sets the contents of the spool.
    pub fn waiting(&self, records: u64, bytes: u64) {
        self.waiting.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.waiting_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts records that are not delivered.
    pub fn lost(&self, loss: Loss, records: u64) {
        self.lost[loss as usize].inc_by(records);
    }

    /// Counts a delivery that failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Counts an end of the program. `code` is an exit code, "signal" or "timeout".
    pub fn exited(&self, code: &str) {
        self.exits.with_label_values(&[self.name.as_str(), code]).inc();
    }
}
