//! The store thread: gathers records and writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::Connection;

use super::fleet::FleetHistory;
use super::history::{self, History};
use super::runs::Runs;
use super::schema::StoreLock;
use super::{OnStored, StoreMessage, retain, statements};
use crate::config::HistorySettings;
use crate::hub::RecordKind;
use crate::metrics::Metrics;
use touchline_core::clock::{Clock, Deadline};
use touchline_core::error::Error;

/// Records per transaction.
const BATCH: usize = 256;

/// How long a record waits for others. It limits the wear of flash disks, and a killed process loses no more than this.
const GATHER: Duration = Duration::from_millis(200);

/// How often the history is brought within its bounds.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// The store thread.
pub(super) struct StoreWriter {
    pub(super) connection: Connection,
    pub(super) place: String,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    /// The last write failed, and that was logged.
    pub(super) failed: bool,
    pub(super) runs: Runs,
    pub(super) history: History,
    pub(super) fleet: FleetHistory,
    /// Senders to drop when run numbers are written.
    pub(super) waiting: Vec<Sender<()>>,
    /// See [`Store::misses_runs`](super::Store::misses_runs).
    pub(super) misses_runs: Arc<AtomicBool>,
    pub(super) limits: HistorySettings,
    /// When the history is brought within its bounds again; `None`: with the next write.
    pub(super) trim_at: Option<Deadline>,
    pub(super) _lock: StoreLock,
}

impl StoreWriter {
    pub(super) fn run(mut self, messages: &Receiver<StoreMessage>) {
        let mut records = Vec::new();
        // The oldest record waits until then.
        let mut due = Deadline::after(&*self.clock, GATHER);
        loop {
            let message = if records.is_empty() {
                messages.recv().ok()
            } else {
                match messages.recv_timeout(due.left(&*self.clock)) {
                    Ok(message) => Some(message),
                    Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                        self.write(&mut records);
                        continue;
                    }
                    Err(crossbeam_channel::RecvTimeoutError::Disconnected) => None,
                }
            };
            let Some(message) = message else { return self.close(&mut records) };
            match message {
                StoreMessage::Save(stored, on_stored) => {
                    let result = statements::save(&self.connection, &stored);
                    self.report(on_stored, result);
                }
                StoreMessage::Pending { stream, to } => {
                    self.write(&mut records);
                    let last = history::last_row(&self.connection);
                    let pending = [self.history.pending(&stream), self.fleet.pending(&stream)].concat();
                    // The caller may have given up.
                    let _ = to.send(last.map(|last| (pending, last)));
                }
                StoreMessage::FleetRecords { source, records: taken, kept } => {
                    let to_write = self.fleet.take(&source, &taken);
                    let is_due = !to_write.is_empty();
                    if is_due {
                        records.extend(to_write);
                        self.write(&mut records);
                    }
                    if is_due && self.failed {
                        // The records are read again after what is stored.
                        self.fleet = FleetHistory::load(&self.connection).unwrap_or_default();
                    } else {
                        self.fleet.written();
                        // The reader may be gone.
                        let _ = kept.send(());
                    }
                }
                StoreMessage::Leave(id) => {
                    if let Some(row) = self.history.row(&id) {
                        self.gather(StoreMessage::Row(row), &mut records, &mut due);
                    }
                }
                StoreMessage::Delete(id, on_stored) => {
                    self.history.forget(&id);
                    self.fleet.forget(&id);
                    // Earlier records are removed with it.
                    self.write(&mut records);
                    let result = statements::delete(&mut self.connection, &id);
                    self.report(on_stored, result);
                }
                StoreMessage::Close => return self.close(&mut records),
                StoreMessage::Here(ids) => {
                    if let Err(e) = self.runs.forget_gone(&mut self.connection, &ids) {
                        tracing::warn!("{}: cannot delete run numbers of old streams: {e}", self.place);
                    }
                }
                StoreMessage::LogOut(session, kept) => match statements::log_out(&self.connection, &session) {
                    // The caller may have given up.
                    Ok(()) => drop(kept.send(())),
                    Err(e) => tracing::error!("{}: cannot store a log-out: {e}", self.place),
                },
                StoreMessage::LoginsFrom(role, unix_s) => {
                    if let Err(e) = statements::logins_from(&mut self.connection, role, unix_s) {
                        tracing::error!("{}: cannot store log-outs: {e}", self.place);
                    }
                }
                StoreMessage::Mark(id, _written) => self.note(statements::mark(&self.connection, &id)),
                StoreMessage::Unmark(id, played) => self.note(statements::unmark(&self.connection, &id, played)),
                StoreMessage::Run { stream, run } => self.runs.began(&stream, run),
                StoreMessage::Ahead { stream, run, written } => {
                    self.runs.ahead(&stream, run);
                    self.waiting.push(written);
                }
                StoreMessage::Flush(done) => {
                    self.write(&mut records);
                    // The caller may have given up.
                    let _ = done.send(());
                }
                StoreMessage::Second { stream, at_ms, line } => {
                    if let Some(row) = self.history.take(&stream, &line, Some(at_ms)) {
                        self.gather(StoreMessage::Row(row), &mut records, &mut due);
                    }
                }
                record => {
                    match &record {
                        StoreMessage::Record { stream, kind: RecordKind::Event, json, .. } => {
                            // An event alone does not complete a row.
                            let _ = self.history.take(stream, json, None);
                        }
                        StoreMessage::Forget(id) => {
                            self.history.forget(id);
                            self.fleet.forget(id);
                        }
                        _ => {}
                    }
                    self.gather(record, &mut records, &mut due);
                }
            }
            // Run numbers do not wait for records, but streams that begin together are written together. While the disk
            // fails, they are written with the records.
            let is_urgent = !self.waiting.is_empty() || (self.runs.is_due() && !self.failed);
            if is_urgent && messages.is_empty() {
                self.write(&mut records);
            }
        }
    }

    /// Adds a record to those that are written together.
    fn gather(&mut self, record: StoreMessage, records: &mut Vec<StoreMessage>, due: &mut Deadline) {
        if records.is_empty() {
            *due = Deadline::after(&*self.clock, GATHER);
        }
        records.push(record);
        if records.len() >= BATCH {
            self.write(records);
        }
    }

    /// Writes the remaining records, and returns unused run numbers.
    fn close(mut self, records: &mut Vec<StoreMessage>) {
        records.extend(self.history.drain().into_iter().map(StoreMessage::Row));
        records.extend(self.fleet.drain());
        self.write(records);
        // An orderly shutdown is not the fault of a stream that is being opened.
        self.note(self.connection.execute("UPDATE openings SET open = 0 WHERE open = 1", []).map(drop));
        // If a message was lost, the unused numbers are not known.
        if !self.misses_runs.load(Ordering::Acquire)
            && let Err(e) = self.runs.give_back(&mut self.connection)
        {
            tracing::warn!("{}: the next start skips run numbers: {e}", self.place);
        }
    }

    /// Logs a failure to write a mark. It must not stop a stream.
    fn note(&self, result: rusqlite::Result<()>) {
        if let Err(e) = result {
            tracing::debug!("{}: cannot store the mark of a stream: {e}", self.place);
        }
    }

    fn report(&self, on_stored: OnStored, result: rusqlite::Result<()>) {
        on_stored(result.map_err(|e| {
            tracing::error!("{}: cannot store a stream: {e}", self.place);
            Error::output("the store", format!("cannot be written: {e}"), "check the disk of --state")
        }));
    }

    /// Brings the history within its bounds, from time to time.
    fn trim(&mut self) {
        if self.trim_at.as_ref().is_some_and(|at| !at.left(&*self.clock).is_zero()) {
            return;
        }
        self.trim_at = Some(Deadline::after(&*self.clock, TRIM_EVERY));
        let now_ms = self.clock.unix_ns().div_euclid(1_000_000);
        if let Err(e) = retain::trim(&mut self.connection, &self.limits, now_ms) {
            tracing::warn!("{}: cannot remove old history: {e}", self.place);
        }
    }

    /// Writes records and due run numbers in one transaction. If it fails, records are lost and run numbers stay due.
    pub(super) fn write(&mut self, records: &mut Vec<StoreMessage>) {
        // Dropped after the attempt, which wakes the waiting threads.
        let _waiting = std::mem::take(&mut self.waiting);
        if records.is_empty() && !self.runs.is_due() {
            return;
        }
        match statements::write_all(&mut self.connection, records, &self.runs) {
            Ok(()) => {
                self.runs.written();
                self.trim();
                if std::mem::take(&mut self.failed) {
                    tracing::info!("{}: the store works again", self.place);
                }
            }
            Err(e) => {
                self.metrics.store_lost(records.len() as u64);
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!("{}: cannot store events and states: {e}; check the disk", self.place);
                }
            }
        }
        records.clear();
    }
}
