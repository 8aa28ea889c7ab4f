//! The embedded store: what a restart must not lose. Streams that were added at run time with all their settings, and of
//! every stream the last events, incidents, state and run.
//!
//! SQLite with a write-ahead log and `synchronous = FULL`: what was answered is on the disk, also when the machine loses
//! its power the moment after. It is written on a thread of its own (`store`); changes of streams wait for the disk and
//! are answered by it, records do not and are lost, counted, when the disk is slower than they come. The file holds the
//! secrets of URIs, so only its owner may read it; one process at a time has it.
//!
//! What is kept of a stream goes with it, but for the number of its last run: a stream of the same name, whenever it comes,
//! goes on from there (`runs`), for 90 days. Not the seconds: those are in the JSON lines.

mod runs;
mod schema;
mod statements;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::config::StreamSettings;
use crate::metrics::Metrics;
use crate::publish::access::{LogOuts, LoggedOut, Role, SessionArchive};
use crate::publish::hub::{Archive, RecordKind, Restored};
use runs::Runs;
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;
use touchline_core::time::RunId;

/// Messages that wait for the disk: some seconds of everything that 64 streams can have to say at once (states, incidents,
/// events). Beyond that records are lost, counted.
const WAITING: usize = 1024;

/// Records that are written in one transaction.
const BATCH: usize = 256;

/// How long a record waits for others to be written with: a few writes a second at most are kind to flash disks, and a
/// killed process loses no more than that.
const GATHER: Duration = Duration::from_millis(200);

/// How long a source waits until the number of its run is on the disk. A disk that takes longer must not keep a stream from
/// being watched.
const AHEAD_LIMIT: Duration = Duration::from_secs(2);

/// A stream of the API as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub settings: StreamSettings,
    /// Version of the settings.
    pub generation: u64,
}

/// What the store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// In the order in which they were added.
    pub streams: Vec<Stored>,
    /// By stream.
    pub restored: BTreeMap<String, Restored>,
    /// How often the process has ended while a stream was being opened.
    pub ends: BTreeMap<String, u32>,
    /// Sessions that were left.
    pub log_outs: LogOuts,
}

/// Is told what became of a write, on the store's thread.
pub type OnStored = Box<dyn FnOnce(Result<()>) + Send>;

enum StoreMessage {
    Save(Box<Stored>, OnStored),
    Delete(String, OnStored),
    Forget(String),
    /// These streams are there; see [`Runs::forget_gone`].
    Here(Vec<String>),
    /// A session was left. The sender is told when it is written.
    LogOut(LoggedOut, oneshot::Sender<()>),
    /// Sessions of the role that did not begin after this second are over.
    LoginsFrom(Role, u64),
    Record {
        stream: String,
        kind: RecordKind,
        json: Arc<str>,
    },
    Run {
        stream: String,
        run: RunId,
    },
    /// The stream is being opened. The sender is dropped when it is written.
    Mark(String, Sender<()>),
    /// It is no longer, and has played.
    Unmark(String, bool),
    /// The sender is dropped when it is written.
    Ahead {
        stream: String,
        run: RunId,
        written: Sender<()>,
    },
    Flush(Sender<()>),
    Close,
}

/// The way to the store. Cloning shares it.
#[derive(Clone)]
pub struct Store {
    to: Sender<StoreMessage>,
    metrics: Metrics,
    /// The thread has not heard of some run that began.
    misses_runs: Arc<AtomicBool>,
}

/// The thread of the store. Dropping it closes the file when everything is written that was given before; what is given
/// after that is lost, or refused.
pub struct StoreThread {
    to: Sender<StoreMessage>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        // An error means that the thread has ended.
        let _ = self.to.send(StoreMessage::Close);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread panicked; its message is above");
        }
    }
}

impl Store {
    /// Opens or makes the file at `path`, and reads it.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be opened or made, is damaged, is none of this program's or of a newer one's, or
    /// another process has it.
    pub fn open(path: &Path, metrics: Metrics) -> Result<(Self, StoreThread, Contents)> {
        let connection = schema::open(path)?;
        let contents = statements::count_ends(&connection)
            .and_then(|()| statements::read(&connection))
            .map_err(|e| schema::failed(path, &e))?;
        let (to, messages) = bounded(WAITING);
        let place = path.to_owned();
        let misses_runs = Arc::<AtomicBool>::default();
        let writer = StoreWriter {
            connection,
            place: place.display().to_string(),
            metrics: metrics.clone(),
            failed: false,
            runs: Runs::new(&contents.restored),
            waiting: Vec::new(),
            misses_runs: misses_runs.clone(),
        };
        let thread = spawn("store", move || writer.run(&messages))?;
        let thread = StoreThread { to: to.clone(), thread: Some(thread) };
        Ok((Self { to, metrics, misses_runs }, thread, contents))
    }

    /// Stores a stream; `on_stored` hears of it when it is on the disk.
    pub fn save(&self, stream: Stored, on_stored: OnStored) {
        self.send(StoreMessage::Save(Box::new(stream), on_stored));
    }

    /// Removes a stream and what is kept of it but the number of its run; `on_stored` hears of it when that is on the disk.
    pub fn delete(&self, id: &str, on_stored: OnStored) {
        self.send(StoreMessage::Delete(id.to_owned(), on_stored));
    }

    /// Removes what is kept of a stream that is gone, but for the number of its run.
    pub fn forget(&self, id: &str) {
        self.offer(StoreMessage::Forget(id.to_owned()));
    }

    /// Says which streams there are at the start: the numbers of runs of those that have been gone for long are forgotten.
    pub fn here(&self, ids: Vec<String>) {
        self.offer(StoreMessage::Here(ids));
    }

    /// Notes that the source of a stream is about to be opened; returns when that is on the disk, or the disk takes too long.
    pub fn mark(&self, id: &str) {
        let (written_to, written) = bounded(0);
        if self.to.send_timeout(StoreMessage::Mark(id.to_owned(), written_to), AHEAD_LIMIT).is_ok() {
            let _ = written.recv_timeout(AHEAD_LIMIT);
        }
    }

    /// Takes that back; `played`: and all that was counted before.
    pub fn unmark(&self, id: &str, played: bool) {
        self.offer(StoreMessage::Unmark(id.to_owned(), played));
    }

    /// Waits until everything is on the disk that was given before, `limit` at most. Whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done_to, done) = bounded(1);
        self.to.send_timeout(StoreMessage::Flush(done_to), limit).is_ok() && done.recv_timeout(limit).is_ok()
    }

    /// For what must not be lost and is seldom: without room it is refused at once, since the stream manager must not wait.
    fn send(&self, message: StoreMessage) {
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) = self.to.try_send(message)
            && let StoreMessage::Save(_, on_stored) | StoreMessage::Delete(_, on_stored) = message
        {
            on_stored(Err(Error::output("the store", "is too slow", "check the disk of --state")));
        }
    }

    fn offer(&self, message: StoreMessage) {
        if self.to.try_send(message).is_err() {
            self.metrics.store_lost(1);
        }
    }
}

impl Archive for Store {
    fn keep(&self, stream: &str, kind: RecordKind, json: &Arc<str>) {
        self.offer(StoreMessage::Record { stream: stream.to_owned(), kind, json: json.clone() });
    }

    fn run_began(&self, stream: &str, run: RunId) {
        if self.to.try_send(StoreMessage::Run { stream: stream.to_owned(), run }).is_err() {
            // Its number was set apart, and the next one that gets through says as much.
            self.misses_runs.store(true, Ordering::Release);
        }
    }

    fn run_ahead(&self, stream: &str, run: RunId) {
        let (written_to, written) = bounded(0);
        let ahead = StoreMessage::Ahead { stream: stream.to_owned(), run, written: written_to };
        if self.to.send_timeout(ahead, AHEAD_LIMIT).is_ok() {
            // Nothing is ever sent: it is written, or could not be, when the other end is gone.
            let _ = written.recv_timeout(AHEAD_LIMIT);
        }
    }
}

impl SessionArchive for Store {
    fn left(&self, session: LoggedOut, kept: oneshot::Sender<()>) {
        self.offer(StoreMessage::LogOut(session, kept));
    }

    fn not_before(&self, role: Role, unix_s: u64) {
        self.offer(StoreMessage::LoginsFrom(role, unix_s));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// The thread of the store.
struct StoreWriter {
    connection: Connection,
    place: String,
    metrics: Metrics,
    /// The last write failed; said once.
    failed: bool,
    runs: Runs,
    /// Who waits for numbers of runs to be written.
    waiting: Vec<Sender<()>>,
    /// See [`Store::misses_runs`].
    misses_runs: Arc<AtomicBool>,
}

impl StoreWriter {
    fn run(mut self, messages: &Receiver<StoreMessage>) {
        let mut records = Vec::new();
        // When the oldest of them came.
        let mut since = Instant::now();
        loop {
            let message = if records.is_empty() {
                messages.recv().ok()
            } else {
                match messages.recv_deadline(since + GATHER) {
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
                StoreMessage::Delete(id, on_stored) => {
                    // What was said before is removed with it.
                    self.write(&mut records);
                    let result = statements::delete(&mut self.connection, &id);
                    self.report(on_stored, result);
                }
                StoreMessage::Close => return self.close(&mut records),
                StoreMessage::Here(ids) => {
                    if let Err(e) = self.runs.forget_gone(&mut self.connection, &ids) {
                        tracing::warn!("{}: numbers of runs of old streams are not forgotten: {e}", self.place);
                    }
                }
                StoreMessage::LogOut(session, kept) => match statements::log_out(&self.connection, &session) {
                    // Who asked may have given up.
                    Ok(()) => drop(kept.send(())),
                    Err(e) => tracing::error!("{}: a log-out is not stored: {e}", self.place),
                },
                StoreMessage::LoginsFrom(role, unix_s) => {
                    if let Err(e) = statements::logins_from(&mut self.connection, role, unix_s) {
                        tracing::error!("{}: log-outs are not stored: {e}", self.place);
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
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                record => {
                    if records.is_empty() {
                        since = Instant::now();
                    }
                    records.push(record);
                    if records.len() >= BATCH {
                        self.write(&mut records);
                    }
                }
            }
            // Numbers do not wait for company, but streams that begin together are written together. While the disk fails, they
            // go with the records.
            let is_urgent = !self.waiting.is_empty() || (self.runs.is_due() && !self.failed);
            if is_urgent && messages.is_empty() {
                self.write(&mut records);
            }
        }
    }

    /// Writes what is left, and which numbers of runs were not used after all.
    fn close(mut self, records: &mut Vec<StoreMessage>) {
        self.write(records);
        // Whatever is still being opened has not ended the process: that ends in order.
        self.note(self.connection.execute("UPDATE openings SET open = 0 WHERE open = 1", []).map(drop));
        // Without having heard of all that began it is not known which were.
        if !self.misses_runs.load(Ordering::Acquire)
            && let Err(e) = self.runs.give_back(&mut self.connection)
        {
            tracing::warn!("{}: the next start leaves numbers of runs out: {e}", self.place);
        }
    }

    /// What a mark is worth is not worth a stream.
    fn note(&self, result: rusqlite::Result<()>) {
        if let Err(e) = result {
            tracing::debug!("{}: which streams are being opened is not stored: {e}", self.place);
        }
    }

    fn report(&self, on_stored: OnStored, result: rusqlite::Result<()>) {
        on_stored(result.map_err(|e| {
            tracing::error!("{}: a stream could not be stored: {e}", self.place);
            Error::output("the store", format!("cannot be written: {e}"), "check the disk of --state")
        }));
    }

    /// Writes records and the numbers of runs that are due, all or none. Records that cannot be written are lost; numbers stay
    /// due until the next time.
    fn write(&mut self, records: &mut Vec<StoreMessage>) {
        // Whoever waits goes on when it has been tried.
        let _waiting = std::mem::take(&mut self.waiting);
        if records.is_empty() && !self.runs.is_due() {
            return;
        }
        match statements::write_all(&mut self.connection, records, &self.runs) {
            Ok(()) => {
                self.runs.written();
                if std::mem::take(&mut self.failed) {
                    tracing::info!("{}: the store works again", self.place);
                }
            }
            Err(e) => {
                self.metrics.store_lost(records.len() as u64);
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!("{}: events and states are not stored: {e}; check the disk", self.place);
                }
            }
        }
        records.clear();
    }
}
