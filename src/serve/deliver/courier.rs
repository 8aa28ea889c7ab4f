//! The thread that empties a spool: delivers the oldest records, removes those that were accepted, and retries the rest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::DeliveryState;
use super::dead_letters::DeadLetters;
use super::envelope::Envelope;
use super::exec::Exec;
#[cfg(feature = "kafka")]
use super::kafka::Kafka;
use super::mqtt::Mqtt;
use super::nats::Nats;
use super::webhook::Webhook;
use crate::config::SinkSettings;
use crate::config::sink::Receiver;
use crate::metrics::Loss;
use touchline_core::clock::Clock;

/// Most records of one delivery to a bus. They fill a network's round trip; more would only be repeated after a failure.
const BATCH: usize = 64;

/// About the most bytes of one delivery.
const BATCH_BYTES: usize = 512 * 1024;

/// The pause after the first failure. It doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The longest pause that a receiver can request.
const REQUESTED_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// How long the last records may take at the end. Less than the publisher waits for its sinks; the rest stays in the spool.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// How long taking leave of the receiver may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Why a delivery failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may succeed later.
    Retry {
        cause: String,
        /// The receiver requests this pause.
        after: Option<Duration>,
    },
    /// It can never succeed: the record is put aside.
    Refused { cause: String },
}

impl Failure {
    pub fn retry(cause: impl Into<String>) -> Self {
        Failure::Retry { cause: cause.into(), after: None }
    }
}

/// The result of a delivery.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Number of records that the receiver accepted, from the first on.
    pub accepted: usize,
    /// Why the record after them was not accepted.
    pub failure: Option<Failure>,
}

/// What all sinks of a program share.
#[derive(Clone)]
pub(super) struct Place {
    /// Name of the program.
    pub instance: Arc<str>,
    /// Environment variables with the secrets of all sinks.
    pub secret_variables: Arc<[String]>,
}

/// A connection to a receiver.
pub(super) enum Transport {
    Webhook(Box<Webhook>),
    Exec(Exec),
    Mqtt(Box<Mqtt>),
    Nats(Box<Nats>),
    #[cfg(feature = "kafka")]
    Kafka(Box<Kafka>),
}

impl Transport {
    /// Reads secrets and certificates. Connects later. Must be called within a runtime.
    ///
    /// # Errors
    /// Cause and advice.
    pub fn open(settings: &SinkSettings, place: &Place, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let instance = &place.instance;
        Ok(match &settings.receiver {
            Receiver::Webhook { url } => Self::Webhook(Box::new(Webhook::open(url, settings, clock.clone())?)),
            Receiver::Exec { command } => {
                Self::Exec(Exec::new(command.clone(), settings.timeout, place.secret_variables.clone()))
            }
            Receiver::Mqtt { url, mqtt } => Self::Mqtt(Box::new(Mqtt::open(url, mqtt, settings, instance)?)),
            Receiver::Nats { url, nats } => Self::Nats(Box::new(Nats::open(url, nats, settings, instance)?)),
            #[cfg(feature = "kafka")]
            Receiver::Kafka { url, kafka } => Self::Kafka(Box::new(Kafka::open(url, kafka, settings, instance)?)),
            // The configuration is refused before this.
            #[cfg(not(feature = "kafka"))]
            Receiver::Kafka { .. } => return Err("this program was built without Kafka; choose another kind".into()),
        })
    }
}

pub(super) struct Courier {
    settings: SinkSettings,
    place: Place,
    shared: Arc<DeliveryState>,
    clock: Arc<dyn Clock>,
    transport: Transport,
    dead_letters: DeadLetters,
    /// Deliveries that failed since the last success.
    failures: u32,
}

impl Courier {
    pub const fn new(
        settings: SinkSettings,
        place: Place,
        shared: Arc<DeliveryState>,
        clock: Arc<dyn Clock>,
        transport: Transport,
        dead_letters: DeadLetters,
    ) -> Self {
        Self { settings, place, shared, clock, transport, dead_letters, failures: 0 }
    }

    /// Delivers until the sink closes, and then for a short while.
    pub async fn run(mut self) {
        let (closing, reload) = (self.shared.closing.subscribe(), self.shared.reload.subscribe());
        let mut end = closing.clone();
        let overdue = async {
            // The sender lives in `shared`.
            let _ = end.wait_for(|is_closing| *is_closing).await;
            sleep(FINISH_LIMIT).await;
        };
        tokio::select! {
            () = self.deliver_all(closing, reload) => {}
            () = overdue => {}
        }
        let _ = timeout(CLOSE_LIMIT, self.transport.close()).await;
    }

    /// Returns when the sink is closing and the spool is empty or the receiver fails.
    async fn deliver_all(&mut self, mut closing: watch::Receiver<bool>, mut reload: watch::Receiver<u64>) {
        let shared = self.shared.clone();
        loop {
            if reload.has_changed().unwrap_or(false) {
                reload.mark_unchanged();
                self.reload();
            }
            let batch = match self.batch() {
                Ok(batch) => batch,
                Err(e) => {
                    let cause = format!("cannot read the spool: {e}; check its disk");
                    if !self.pause(&cause, None, &mut closing, &mut reload).await {
                        return;
                    }
                    continue;
                }
            };
            if batch.is_empty() {
                if *closing.borrow() {
                    return;
                }
                tokio::select! {
                    () = shared.wake.notified() => {}
                    () = self.transport.idle() => {}
                }
                continue;
            }
            let Delivered { accepted, failure } = self.transport.deliver(&batch, &shared.status).await;
            if let Some(last) = batch[..accepted].last() {
                self.failures = 0;
                let removed = self.remove_through(last.number);
                self.shared.status.sent(removed, self.clock.unix_ns());
            }
            let continues = match failure {
                None => true,
                Some(Failure::Refused { cause }) => {
                    self.put_aside(&batch[accepted], &cause);
                    true
                }
                Some(Failure::Retry { cause, after }) => self.pause(&cause, after, &mut closing, &mut reload).await,
            };
            if !continues {
                return;
            }
        }
    }

    /// The oldest records of the spool.
    fn batch(&self) -> rusqlite::Result<Vec<Envelope>> {
        let mut spool = self.shared.spool.lock();
        let records = spool.oldest(self.transport.batch(), BATCH_BYTES)?;
        let mut batch = Vec::with_capacity(records.len());
        for record in records {
            let number = record.number;
            match Envelope::new(record, &self.place.instance, spool.id()) {
                Ok(envelope) => batch.push(envelope),
                // Only this program writes records, and they are JSON: the disk has changed one. It blocks no other.
                Err(_) if batch.is_empty() => {
                    let removed = spool.remove_through(number)?;
                    self.shared.status.lost(Loss::Damaged, removed);
                }
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    /// Removes the records up to `number`. Returns how many overflow had not dropped.
    fn remove_through(&self, number: i64) -> u64 {
        let mut spool = self.shared.spool.lock();
        let removed = spool.remove_through(number);
        self.shared.report(&spool);
        removed.unwrap_or_else(|e| {
            // They are delivered once more, with the same ids.
            tracing::error!("sink {}: cannot remove delivered records: {e}; check its disk", self.settings.name);
            0
        })
    }

    /// A record that the receiver refuses goes to the file of dead letters.
    fn put_aside(&mut self, refused: &Envelope, cause: &str) {
        let (name, now) = (&self.settings.name, self.clock.unix_ns());
        let cause = touchline_core::redact::text(cause);
        tracing::warn!("sink {name}: a record is refused: {cause}; it is in {name}.refused.jsonl beside the spool");
        if let Err(e) = self.dead_letters.add(refused, &cause, now) {
            tracing::error!("sink {name}: a refused record is lost: {e}; check the disk of the spool");
        }
        self.shared.status.failed(&cause, now);
        let removed = self.remove_through(refused.number);
        self.shared.status.lost(Loss::Refused, removed);
    }

    /// Waits before the next attempt. Returns false if the sink closes meanwhile.
    async fn pause(
        &mut self,
        cause: &str,
        after: Option<Duration>,
        closing: &mut watch::Receiver<bool>,
        reload: &mut watch::Receiver<u64>,
    ) -> bool {
        self.shared.status.failed(cause, self.clock.unix_ns());
        let pause = after.map_or_else(|| pause_after(self.failures), |after| after.min(REQUESTED_PAUSE_MAX));
        if self.failures == 0 {
            let waiting = self.shared.status.records_waiting();
            tracing::warn!(
                "sink {}: {}; {waiting} records wait, next attempt in {} s",
                self.settings.name,
                touchline_core::redact::text(cause),
                pause.as_secs()
            );
        }
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            () = sleep(pause) => true,
            _ = closing.wait_for(|is_closing| *is_closing) => false,
            // New secrets may be what it needs.
            _ = reload.changed() => {
                self.reload();
                true
            }
        }
    }

    /// Reads secrets and certificates again.
    fn reload(&mut self) {
        match Transport::open(&self.settings, &self.place, &self.clock) {
            Ok(transport) => self.transport = transport,
            Err(e) => tracing::error!("sink {}: {e}; the previous ones stay in use", self.settings.name),
        }
    }
}

/// 1 s, 2 s, 4 s … 60 s.
fn pause_after(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(6)).min(PAUSE_MAX)
}

impl Transport {
    /// Delivers records in order, up to the first failure.
    pub async fn deliver(&mut self, batch: &[Envelope], status: &crate::sink::DeliveryStatus) -> Delivered {
        let mut delivered = Delivered::default();
        for envelope in batch {
            let outcome = match self {
                Transport::Webhook(webhook) => webhook.deliver(envelope).await,
                Transport::Exec(exec) => exec.deliver(envelope, status.metrics()).await,
                Transport::Mqtt(mqtt) => return mqtt.deliver(batch).await,
                Transport::Nats(nats) => return nats.deliver(batch).await,
                #[cfg(feature = "kafka")]
                Transport::Kafka(kafka) => return kafka.deliver(batch).await,
            };
            if let Err(failure) = outcome {
                delivered.failure = Some(failure);
                break;
            }
            delivered.accepted += 1;
        }
        delivered
    }

    /// Most records of one delivery.
    const fn batch(&self) -> usize {
        match self {
            // One request or one process at a time: each record leaves the spool before the next is sent.
            Transport::Webhook(_) | Transport::Exec(_) => 1,
            Transport::Mqtt(_) | Transport::Nats(_) => BATCH,
            #[cfg(feature = "kafka")]
            Transport::Kafka(_) => BATCH,
        }
    }

    /// Takes leave of the receiver.
    pub async fn close(&mut self) {
        if let Transport::Mqtt(mqtt) = self {
            mqtt.close().await;
        }
    }

    /// What the connection needs while there is nothing to deliver. Does not return.
    async fn idle(&mut self) {
        match self {
            Transport::Mqtt(mqtt) => mqtt.idle().await,
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = (0..9).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}
