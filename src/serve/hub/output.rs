//! The status of the live output of a stream, for the API, the page and the metrics.

use std::sync::Arc;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;

use crate::metrics::OutputMetrics;
use crate::record::format::rfc3339;
use touchline_core::clock::Clock;
use touchline_media::gst::output::{OutputAddress, OutputCause, OutputEvent, OutputObserver};

/// The status of one output.
pub struct OutputStatus {
    stream: String,
    address: String,
    kind: &'static str,
    metrics: OutputMetrics,
    clock: Arc<dyn Clock>,
    counts: Mutex<OutputCounts>,
}

#[derive(Clone, Debug, Default)]
struct OutputCounts {
    is_up: bool,
    sent: u64,
    dropped: u64,
    failures: u64,
    delay_ns: Option<u64>,
    last_error: Option<(i64, OutputCause, String)>,
}

/// The live output of a stream.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Output")]
pub(crate) struct OutputView {
    /// Redacted.
    address: String,
    #[schemars(extend("enum" = ["file", "hls", "rtmp", "srt", "udp"]))]
    kind: &'static str,
    /// Whether the receiver takes data.
    up: bool,
    /// Coded pictures and pieces of sound that were sent.
    sent: u64,
    /// Those that were not sent, because the receiver was away or too slow.
    dropped: u64,
    /// Failures; it was tried again after each.
    failures: u64,
    /// How much later than they arrive pictures are sent, milliseconds: they wait for the decision of their second. Null before the first.
    delay_ms: Option<u64>,
    /// The last failure; null if none.
    last_error: Option<OutputErrorView>,
}

/// A failure of an output.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OutputError")]
struct OutputErrorView {
    #[schemars(extend("format" = "date-time"))]
    at: String,
    kind: OutputCause,
    cause: String,
}

impl OutputStatus {
    /// The status of an output that has not begun.
    pub fn new(stream: &str, address: &OutputAddress, metrics: OutputMetrics, clock: Arc<dyn Clock>) -> Self {
        let (stream, kind) = (stream.to_owned(), address.kind());
        Self { stream, address: address.shown(), kind, metrics, clock, counts: Mutex::default() }
    }

    pub(crate) fn view(&self) -> OutputView {
        let OutputCounts { is_up, sent, dropped, failures, delay_ns, last_error } = self.counts.lock().clone();
        OutputView {
            address: self.address.clone(),
            kind: self.kind,
            up: is_up,
            sent,
            dropped,
            failures,
            delay_ms: delay_ns.map(|ns| ns / 1_000_000),
            last_error: last_error.map(|(at, kind, cause)| OutputErrorView { at: rfc3339(at), kind, cause }),
        }
    }

    /// Counts a failure. The first of each outage is logged.
    fn failed(&self, cause: OutputCause, text: &str, retry_s: u64) {
        let Self { stream, address, .. } = self;
        let advice = cause.advice();
        let before = {
            let mut counts = self.counts.lock();
            counts.failures += 1;
            counts.is_up = false;
            counts.last_error.replace((self.clock.unix_ns(), cause, text.to_owned()))
        };
        self.metrics.up(false);
        self.metrics.failed(cause);
        if before.is_some_and(|(_, last, _)| last == cause) {
            tracing::debug!("{stream}: the output {address} failed again: {text}; it is tried again in {retry_s} s");
        } else {
            tracing::warn!("{stream}: the output {address} failed: {text}; {advice}; it is tried again in {retry_s} s");
        }
    }
}

impl OutputObserver for OutputStatus {
    fn event(&self, event: OutputEvent) {
        match event {
            OutputEvent::Opened => {
                self.counts.lock().is_up = true;
                self.metrics.up(true);
                tracing::info!("{}: the output {} takes pictures", self.stream, self.address);
            }
            OutputEvent::Failed { error, retry_ns } => {
                self.failed(error.cause, &error.text, retry_ns / touchline_core::time::NANOS_PER_SECOND);
            }
            OutputEvent::Sent(units) => {
                self.counts.lock().sent += units;
                self.metrics.sent(units);
            }
            OutputEvent::Dropped(units) => {
                self.counts.lock().dropped += units;
                self.metrics.dropped(units);
            }
            OutputEvent::Delayed(ns) => {
                self.counts.lock().delay_ns = Some(ns);
                self.metrics.delayed(ns);
            }
            OutputEvent::Ended => {
                self.counts.lock().is_up = false;
                self.metrics.remove();
            }
        }
    }
}
