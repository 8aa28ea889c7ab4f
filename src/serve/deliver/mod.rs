//! Delivery of records to receivers outside the program: the sinks of `[[sink]]`.
//!
//! ```text
//! publisher ─► queue ─► thread sink/NAME ─► spool (disk) ─► thread deliver/NAME ─► receiver
//! ```
//!
//! A record is in the spool before anything is sent, and leaves it when the receiver has accepted it. A receiver that is
//! down or slow fills its own spool and delays nothing. Every record is delivered at least once, in order, with an id that
//! identifies a repetition.
//!
//! The address of a receiver comes from the operator's file and from nowhere else, so the address policy of sources does not
//! apply. Redirects are not followed.

mod courier;
mod dead_letters;
mod envelope;
mod exec;
#[cfg(feature = "kafka")]
mod kafka;
mod mqtt;
mod nats;
mod spool;
mod webhook;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::config::{RecordKind, SinkSettings};
use crate::connect::host_name;
use crate::hub::Hub;
use crate::metrics::Loss;
use crate::sink::{DeliveryStatus, Item, Sink};
use courier::{Courier, Place, Transport};
use dead_letters::{DeadLetters, TakenAgain, take_again};
use spool::Spool;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::limits::LogLimiter;
use touchline_core::threads::spawn;

/// Opens the sinks of a run. Each gets a thread that delivers.
///
/// # Errors
/// [`Error::Usage`] for a secret or a certificate that cannot be used, [`Error::Output`] for a spool that cannot be opened.
pub fn open(sinks: Vec<SinkSettings>, instance: Option<String>, hub: &Hub) -> Result<Vec<Box<dyn Sink>>> {
    let secret_variables = sinks.iter().flat_map(SinkSettings::secret_variables).map(str::to_owned).collect();
    let place = Place { instance: instance.unwrap_or_else(host_name).into(), secret_variables };
    let open = |settings| Ok(Box::new(Delivery::open(settings, place.clone(), hub)?) as Box<dyn Sink>);
    sinks.into_iter().map(open).collect()
}

/// The spool, and the signals between the threads that fill and empty it.
struct DeliveryState {
    spool: Mutex<Spool>,
    /// A record was added, or the secrets are to be read again.
    wake: Notify,
    /// Becomes true when no record follows.
    closing: watch::Sender<bool>,
    /// SIGHUP: the secrets are read again.
    reload: watch::Sender<u64>,
    status: DeliveryStatus,
}

impl DeliveryState {
    /// Reports the contents of the spool.
    fn report(&self, spool: &Spool) {
        self.status.waiting(spool.records(), spool.bytes());
    }
}

/// A sink that writes to a spool, whose records another thread delivers.
struct Delivery {
    name: String,
    streams: Option<Vec<String>>,
    kinds: Option<Vec<RecordKind>>,
    /// For messages.
    place: String,
    /// Dead letters that are to be delivered again.
    again: PathBuf,
    shared: Arc<DeliveryState>,
    clock: Arc<dyn Clock>,
    thread: Option<JoinHandle<()>>,
    log: LogLimiter,
}

impl Delivery {
    fn open(settings: SinkSettings, place: Place, hub: &Hub) -> Result<Self> {
        let SinkSettings { name, receiver, spool, spool_max_bytes, streams, kinds, .. } = &settings;
        let (name, streams, kinds) = (name.clone(), streams.clone(), kinds.clone());
        let usage = |text: String| Error::Usage(format!("sink {name}: {text}"));
        let clock = hub.clock().clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("sink {name}: cannot start its asynchronous runtime: {e}")))?;
        let transport = {
            let _runtime = runtime.enter();
            Transport::open(&settings, &place, &clock).map_err(usage)?
        };
        let path = spool.join(format!("{name}.spool"));
        let (spool, damaged) = Spool::open(&path, *spool_max_bytes)?;
        let metrics = hub.metrics().delivery(&name);
        let status = DeliveryStatus::new(&name, receiver.kind().as_str(), &receiver.shown(), metrics);
        status.lost(Loss::Damaged, damaged);
        if receiver.is_readable() {
            let advice = "use https, mqtts or tls";
            tracing::warn!("sink {name}: no TLS: others on the network can read the records; {advice}");
        }
        let shared = Arc::new(DeliveryState {
            spool: Mutex::new(spool),
            wake: Notify::new(),
            closing: watch::Sender::new(false),
            reload: watch::Sender::new(0),
            status: status.clone(),
        });
        shared.report(&shared.spool.lock());
        hub.deliveries().add(status);
        let dead_letters = DeadLetters::new(path.with_extension("refused.jsonl"), *spool_max_bytes);
        let courier = Courier::new(settings, place, shared.clone(), clock.clone(), transport, dead_letters);
        let metrics = hub.metrics().clone();
        let thread = spawn(&format!("deliver/{name}"), move || {
            // A panic ends deliveries of this sink. Its records stay in the spool.
            let ran = metrics.contain(crate::metrics::StageThread::Sink, || runtime.block_on(courier.run()));
            if ran.is_none() {
                tracing::error!("a thread that delivers records panicked; they stay in the spool until a restart");
            }
        })?;
        let (place, again) = (path.display().to_string(), path.with_extension("again.jsonl"));
        let delivery =
            Self { name, streams, kinds, place, again, shared, clock, thread: Some(thread), log: LogLimiter::new() };
        delivery.take_again();
        Ok(delivery)
    }

    /// Takes the dead letters of a file that a person has renamed.
    fn take_again(&self) {
        let taken = {
            let mut spool = self.shared.spool.lock();
            let taken = take_again(&self.again, &mut spool, self.clock.unix_ns());
            self.shared.report(&spool);
            taken
        };
        let place = shown(&self.again);
        match taken {
            Ok(taken) if taken == TakenAgain::default() => {}
            Ok(TakenAgain { records, damaged, left }) => {
                self.shared.status.lost(Loss::Damaged, damaged);
                let rest = if left > 0 { "; send SIGHUP for the rest when the spool has room" } else { "" };
                tracing::info!(
                    "{place}: {records} records are delivered again, {damaged} lines are damaged, {left} left{rest}"
                );
                self.shared.wake.notify_one();
            }
            Err(e) => tracing::error!("{place}: cannot take its records: {e}; check its permissions and the disk"),
        }
    }

    fn takes(&self, kind: RecordKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

impl Sink for Delivery {
    fn name(&self) -> &str {
        &self.name
    }

    fn destination(&self) -> Option<String> {
        Some(self.place.clone())
    }

    fn advice(&self) -> &'static str {
        "free space on the disk of the sink's spool, and check the disk"
    }

    fn take(&mut self, item: &Item) -> u64 {
        if self.streams.as_ref().is_some_and(|ids| ids.iter().all(|id| **id != *item.stream)) {
            return 0;
        }
        let records = item.records.iter().filter(|record| self.takes(record.kind));
        let records: Vec<(RecordKind, &str)> = records.map(|record| (record.kind, &*record.json)).collect();
        if records.is_empty() {
            return 0;
        }
        let added = {
            let mut spool = self.shared.spool.lock();
            let added = spool.add(&item.stream, self.clock.unix_ns(), &records);
            self.shared.report(&spool);
            added
        };
        match added {
            Ok(dropped) => {
                if dropped > 0 {
                    self.shared.status.lost(Loss::Overflow, dropped);
                    if self.log.is_due(self.clock.mono_ns()).is_some() {
                        let advice = "check its receiver (GET /api/v1/sinks) or raise spool_max_mb";
                        tracing::error!("{}: the spool is full, its oldest records are dropped; {advice}", self.place);
                    }
                }
                self.shared.wake.notify_one();
                0
            }
            Err(e) => {
                if self.log.is_due(self.clock.mono_ns()).is_some() {
                    tracing::error!("{}: cannot write records: {e}; {}", self.place, self.advice());
                }
                records.len() as u64
            }
        }
    }

    fn reopen(&mut self) {
        self.take_again();
        self.shared.reload.send_modify(|number| *number += 1);
        self.shared.wake.notify_one();
    }

    fn finish(&mut self) {
        self.shared.closing.send_replace(true);
        self.shared.wake.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("{}: the thread that delivers panicked; see the panic message above", self.place);
        }
        let left = self.shared.status.records_waiting();
        if left > 0 {
            tracing::info!("{}: {left} records wait for the next start", self.place);
        }
    }
}

/// Ends the thread also if the sink was never started.
impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
        self.shared.wake.notify_one();
    }
}

/// The folder and the name of a file beside the spool, for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
