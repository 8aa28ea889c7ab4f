//! The status of deliveries, for metrics and `GET /api/v1/sinks`.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use schemars::JsonSchema;
use serde::Serialize;

use crate::metrics::{DeliveryMetrics, Loss};
use crate::record::format::rfc3339;
use crate::record::to_json;

/// The status of one sink. Clones share it.
#[derive(Clone)]
pub struct DeliveryStatus {
    name: Arc<str>,
    kind: &'static str,
    receiver: Arc<str>,
    metrics: DeliveryMetrics,
    counts: Arc<Mutex<DeliveryCounts>>,
}

#[derive(Clone, Default)]
struct DeliveryCounts {
    sent: u64,
    waiting: u64,
    waiting_bytes: u64,
    lost: [u64; Loss::ALL.len()],
    last_success: Option<i64>,
    last_error: Option<(i64, String)>,
}

impl DeliveryStatus {
    /// `receiver` is shown: it must be without secrets.
    pub fn new(name: &str, kind: &'static str, receiver: &str, metrics: DeliveryMetrics) -> Self {
        Self { name: name.into(), kind, receiver: receiver.into(), metrics, counts: Arc::default() }
    }

    /// The metrics of the sink.
    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.metrics
    }

    /// The receiver accepted records at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn sent(&self, records: u64, unix_ns: i64) {
        self.metrics.sent(records, unix_ns);
        let mut counts = self.counts.lock();
        counts.sent += records;
        counts.last_success = Some(unix_ns);
    }

    /// Sets the contents of the spool.
    pub fn waiting(&self, records: u64, bytes: u64) {
        self.metrics.waiting(records, bytes);
        let mut counts = self.counts.lock();
        (counts.waiting, counts.waiting_bytes) = (records, bytes);
    }

    /// Records are not delivered.
    pub fn lost(&self, loss: Loss, records: u64) {
        self.metrics.lost(loss, records);
        self.counts.lock().lost[loss as usize] += records;
    }

    /// A delivery failed at `unix_ns`, nanoseconds since 1970-01-01 UTC. `cause` is redacted here.
    pub fn failed(&self, cause: &str, unix_ns: i64) {
        self.metrics.failed();
        self.counts.lock().last_error = Some((unix_ns, touchline_core::redact::text(cause)));
    }

    /// The number of records in the spool.
    pub fn records_waiting(&self) -> u64 {
        self.counts.lock().waiting
    }

    fn view(&self) -> SinkView {
        let DeliveryCounts { sent, waiting, waiting_bytes, lost, last_success, last_error } =
            self.counts.lock().clone();
        let [overflow, refused, damaged] = lost;
        SinkView {
            name: self.name.to_string(),
            kind: self.kind,
            receiver: self.receiver.to_string(),
            sent,
            waiting,
            waiting_bytes,
            lost: LostView { overflow, refused, damaged },
            last_success: last_success.map(rfc3339),
            last_error: last_error.map(|(at, cause)| SinkErrorView { at: rfc3339(at), cause }),
        }
    }
}

/// The status of all sinks, in the order of the configuration. Clones share it.
#[derive(Clone, Default)]
pub struct DeliveryBoard(Arc<RwLock<Vec<DeliveryStatus>>>);

impl DeliveryBoard {
    /// Adds a sink.
    pub fn add(&self, status: DeliveryStatus) {
        self.0.write().push(status);
    }

    /// The answer of `GET /api/v1/sinks`.
    pub fn json(&self) -> String {
        to_json(&SinksView { sinks: self.0.read().iter().map(DeliveryStatus::view).collect() })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sinks")]
pub(crate) struct SinksView {
    /// The sinks of the configuration file.
    sinks: Vec<SinkView>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sink")]
struct SinkView {
    name: String,
    #[schemars(extend("enum" = ["webhook", "exec", "mqtt", "nats", "kafka"]))]
    kind: &'static str,
    /// Scheme and host of the receiver, or its program.
    receiver: String,
    /// Records that the receiver has accepted since the start.
    sent: u64,
    /// Records in the spool.
    waiting: u64,
    /// Size of the records in the spool.
    waiting_bytes: u64,
    lost: LostView,
    /// When the receiver last accepted a record; null before the first.
    #[schemars(extend("format" = "date-time"))]
    last_success: Option<String>,
    /// The last failure; null if none.
    last_error: Option<SinkErrorView>,
}

/// Records that are not delivered, since the start.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SinkLosses")]
struct LostView {
    /// The spool was full.
    overflow: u64,
    /// The receiver refused them. They are in the file of dead letters.
    refused: u64,
    /// The file of the spool was damaged.
    damaged: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SinkError")]
struct SinkErrorView {
    #[schemars(extend("format" = "date-time"))]
    at: String,
    cause: String,
}
