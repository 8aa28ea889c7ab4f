//! The live outputs of streams.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::output::OutputCause;

use super::Metrics;
use super::families::{counters, gauges, int_gauges};
use super::stream::forget;

/// The families.
pub(super) struct OutputFamilies {
    up: IntGaugeVec,
    sent: IntCounterVec,
    dropped: IntCounterVec,
    failures: IntCounterVec,
    delay: GaugeVec,
}

impl OutputFamilies {
    pub fn new(r: &Registry) -> Self {
        Self {
            up: int_gauges(
                r,
                "touchline_output_up",
                "1 while the output of the stream takes data, else 0.",
                &["stream"],
            ),
            sent: counters(
                r,
                "touchline_output_sent_units_total",
                "Coded pictures and pieces of sound that were sent to the output of the stream.",
                &["stream"],
            ),
            dropped: counters(
                r,
                "touchline_output_dropped_units_total",
                "Coded pictures and pieces of sound that were not sent, because the receiver was away or too slow.",
                &["stream"],
            ),
            failures: counters(
                r,
                "touchline_output_failures_total",
                "Failures of the output of the stream, by cause. It is tried again after each.",
                &["stream", "cause"],
            ),
            delay: gauges(
                r,
                "touchline_output_delay_seconds",
                "How much later than they arrive pictures are sent to the output of the stream, because they wait for their decision.",
                &["stream"],
            ),
        }
    }
}

/// The metrics of the output of one stream.
#[derive(Clone)]
pub struct OutputMetrics {
    metrics: Metrics,
    stream: String,
}

impl Metrics {
    /// The metrics of the output of `stream`. Its counters are exported from now on, starting at 0.
    pub fn output(&self, stream: &str) -> OutputMetrics {
        let output = OutputMetrics { metrics: self.clone(), stream: stream.to_owned() };
        output.up(false);
        output.sent(0);
        output.dropped(0);
        let failures = &self.families.outputs.failures;
        OutputCause::ALL.iter().for_each(|cause| failures.with_label_values(&[stream, cause.as_str()]).inc_by(0));
        output
    }
}

impl OutputMetrics {
    /// Whether the receiver takes data.
    pub fn up(&self, is_up: bool) {
        self.metrics.families.outputs.up.with_label_values(&[&self.stream]).set(i64::from(is_up));
    }

    /// Counts units that were sent.
    pub fn sent(&self, units: u64) {
        self.metrics.families.outputs.sent.with_label_values(&[&self.stream]).inc_by(units);
    }

    /// Counts units that were not sent.
    pub fn dropped(&self, units: u64) {
        self.metrics.families.outputs.dropped.with_label_values(&[&self.stream]).inc_by(units);
    }

    /// Sets how much later than it arrived the last picture was sent, ns.
    pub fn delayed(&self, ns: u64) {
        let seconds = ns as f64 / NANOS_PER_SECOND as f64;
        self.metrics.families.outputs.delay.with_label_values(&[&self.stream]).set(seconds);
    }

    /// Counts a failure.
    pub fn failed(&self, cause: OutputCause) {
        self.metrics.families.outputs.failures.with_label_values(&[self.stream.as_str(), cause.as_str()]).inc();
    }

    /// Ends the export of the output.
    pub fn remove(&self) {
        let OutputFamilies { up, sent, dropped, failures, delay } = &self.metrics.families.outputs;
        let id = self.stream.as_str();
        forget(up, &[id]);
        forget(delay, &[id]);
        [sent, dropped].iter().for_each(|family| forget(*family, &[id]));
        OutputCause::ALL.iter().for_each(|cause| forget(failures, &[id, cause.as_str()]));
    }
}
