//! The embedded store keeps the data that must survive a restart: the streams added over the API with their settings, and the
//! last events, incidents, state and run of every stream.
//!
//! It is SQLite with a write-ahead log and `synchronous = FULL`: an answered change survives a power failure. The
//! thread `store` writes it. Changes of streams wait for the disk. Records do not wait; if the disk is too slow they
//! are dropped and counted. The file contains the secrets of URIs, so only its owner may read it. One process at a time
//! may open it.
//!
//! Removing a stream removes its data, except the number of its last run: for 90 days a new stream of the same name
//! continues after it (`runs`). A stream of a fleet that another machine watches keeps its data, and what that machine publishes of it is
//! stored too (`fleet`).
//!
//! The history is bounded by age and size (`retain`): segments with their pictures, events, incidents and states, and seconds with what exports need
//! (`history`). Readers have connections of their own (`query`), and so may other programs: a backup works while this one runs.

mod fleet;
mod history;
mod query;
mod retain;
mod runs;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::config::{HistorySettings, StreamSettings};
use crate::http::access::{LogOuts, RevokedSession, Role, SessionArchive};
use crate::hub::{
    Archive, FleetRecord, FleetSource, HistoryFilter, KeptSegment, KeptTime, RecordKind, Restored, StoredRecord,
    StoredSegment, TimeOfContent,
};
use crate::metrics::{Metrics, StageThread};
use fleet::{FleetHistory, FleetProgress};
use history::{History, HistoryRow};
use query::StoreReader;
use runs::Runs;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;
use touchline_core::time::RunId;
use writer::StoreWriter;

/// Capacity of the queue: several seconds of states, incidents and events of 64 streams. Further records are dropped
/// and counted.
const WAITING: usize = 1024;

/// How long a source waits for its mark and its run number to be written. A slow disk must not keep a stream from being
/// watched.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a reader of the history waits. A day of a stream takes a fraction of a second.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A stored stream of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The settings.
    pub settings: StreamSettings,
    /// Version of the settings.
    pub generation: u64,
}

/// The contents of the store when it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The streams, in the order in which they were added.
    pub streams: Vec<Stored>,
    /// Events, incidents, state and run by stream.
    pub restored: BTreeMap<String, Restored>,
    /// How often the process has ended while opening a stream.
    pub ends: BTreeMap<String, u32>,
    /// Log-outs.
    pub log_outs: LogOuts,
}

/// Called on the store thread with the result of a write.
pub type OnStored = Box<dyn FnOnce(Result<()>) + Send>;

enum StoreMessage {
    Save(Box<Stored>, OnStored),
    Delete(String, OnStored),
    Forget(String),
    /// The current streams; see [`Runs::forget_gone`].
    Here(Vec<String>),
    /// A log-out. The sender gets a message when it is written.
    LogOut(RevokedSession, oneshot::Sender<()>),
    /// Sessions of the role that began at or before this second are invalid.
    LoginsFrom(Role, u64),
    Record {
        stream: String,
        kind: RecordKind,
        json: Arc<str>,
        /// When it happened, milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
    /// As `Record`, unless the same is stored.
    RecordOnce {
        stream: String,
        kind: RecordKind,
        json: Arc<str>,
        at_ms: i64,
    },
    Segment {
        stream: String,
        segment: KeptSegment,
    },
    /// Records of a fleet. The sender gets a message when the next ones may come, and is dropped if these were not stored.
    FleetRecords {
        source: FleetSource,
        records: Vec<FleetRecord>,
        kept: oneshot::Sender<()>,
    },
    /// How far they are stored.
    Fleet(FleetProgress),
    /// The stream is watched elsewhere from now on.
    Leave(String),
    Run {
        stream: String,
        run: RunId,
    },
    /// A second, as a line of JSON, and its begin.
    Second {
        stream: String,
        at_ms: i64,
        line: String,
    },
    /// A row of seconds.
    Row(HistoryRow),
    /// Asks for the seconds and events of a stream that are in no row yet, and the number of the last row.
    Pending {
        stream: String,
        to: Sender<rusqlite::Result<(Vec<u8>, i64)>>,
    },
    /// The stream is being opened. The sender is dropped when the mark is written.
    Mark(String, Sender<()>),
    /// The stream is no longer being opened; true if it has played.
    Unmark(String, bool),
    /// Reserves run numbers. The sender is dropped when they are written.
    Ahead {
        stream: String,
        run: RunId,
        written: Sender<()>,
    },
    Flush(Sender<()>),
    Close,
}

/// Sends messages to the store thread. Cloning shares it.
#[derive(Clone)]
pub struct Store {
    to: Sender<StoreMessage>,
    reader: StoreReader,
    metrics: Metrics,
    /// A message about a new run was lost.
    misses_runs: Arc<AtomicBool>,
}

/// The store thread. Dropping this writes all earlier messages and closes the file. Later messages are lost or refused.
pub struct StoreThread {
    to: Sender<StoreMessage>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        // Fails if the thread has ended.
        let _ = self.to.send(StoreMessage::Close);
        if let Some(thread) = self.thread.take() {
            // A panic was counted in the thread.
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens or creates the file at `path`, and reads it. `limits` are the bounds of the history.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be opened or created, is damaged, belongs to another program or a newer version,
    /// or is open in another process.
    pub fn open(
        path: &Path,
        limits: HistorySettings,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, StoreThread, Contents)> {
        let (connection, lock) = schema::open(path)?;
        let (contents, fleet) = statements::count_ends(&connection)
            .and_then(|()| Ok((statements::read(&connection)?, FleetHistory::load(&connection)?)))
            .map_err(|e| schema::failed(path, &e))?;
        let (to, messages) = bounded(WAITING);
        let place = path.to_owned();
        let misses_runs = Arc::<AtomicBool>::default();
        let writer = StoreWriter {
            connection,
            place: place.display().to_string(),
            metrics: metrics.clone(),
            clock,
            failed: false,
            runs: Runs::new(&contents.restored),
            history: History::default(),
            fleet,
            waiting: Vec::new(),
            misses_runs: misses_runs.clone(),
            limits,
            trim_at: None,
            _lock: lock,
        };
        let of_thread = metrics.clone();
        let thread = spawn("store", move || {
            if of_thread.contain(StageThread::Store, || writer.run(&messages)).is_none() {
                tracing::error!("the store thread panicked: {} is not written until a restart", place.display());
            }
        })?;
        let thread = StoreThread { to: to.clone(), thread: Some(thread) };
        Ok((Self { to, reader: StoreReader::new(path), metrics, misses_runs }, thread, contents))
    }

    /// Stores a stream and calls `on_stored` when it is on the disk.
    pub fn save(&self, stream: Stored, on_stored: OnStored) {
        self.send(StoreMessage::Save(Box::new(stream), on_stored));
    }

    /// Removes a stream and its data, except its run number. Calls `on_stored` when that is on the disk.
    pub fn delete(&self, id: &str, on_stored: OnStored) {
        self.send(StoreMessage::Delete(id.to_owned(), on_stored));
    }

    /// Removes the data of a removed stream, except its run number.
    pub fn forget(&self, id: &str) {
        self.offer(StoreMessage::Forget(id.to_owned()));
    }

    /// A stream of a fleet is watched elsewhere from now on, and its data stay.
    pub fn leave(&self, id: &str) {
        self.offer(StoreMessage::Leave(id.to_owned()));
    }

    /// Sets the streams of the start. Run numbers of streams that were removed long ago are deleted.
    pub fn retain_runs_of(&self, ids: Vec<String>) {
        self.offer(StoreMessage::Here(ids));
    }

    /// Marks a stream whose source is about to be opened. Returns when that is on the disk, or after a timeout.
    pub fn mark(&self, id: &str) {
        let (written_to, written) = bounded(0);
        if self.to.send_timeout(StoreMessage::Mark(id.to_owned(), written_to), WRITE_TIMEOUT).is_ok() {
            let _ = written.recv_timeout(WRITE_TIMEOUT);
        }
    }

    /// Removes the mark. `played` also resets the count of crashes.
    pub fn unmark(&self, id: &str, played: bool) {
        self.offer(StoreMessage::Unmark(id.to_owned(), played));
    }

    /// Waits up to `limit` until all earlier messages are on the disk. Returns whether they are.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done_to, done) = bounded(1);
        self.to.send_timeout(StoreMessage::Flush(done_to), limit).is_ok() && done.recv_timeout(limit).is_ok()
    }

    /// For rare messages that must not be lost. If the queue is full they are refused at once: the stream manager must
    /// not wait.
    fn send(&self, message: StoreMessage) {
        let (message, cause, advice) = match self.to.try_send(message) {
            Ok(()) => return,
            Err(TrySendError::Full(message)) => (message, "the disk is too slow", "check the disk of --state"),
            Err(TrySendError::Disconnected(message)) => (message, "its thread has ended", "see the log, and restart"),
        };
        if let StoreMessage::Save(_, on_stored) | StoreMessage::Delete(_, on_stored) = message {
            on_stored(Err(Error::output("the store", cause, advice)));
        }
    }

    fn offer(&self, message: StoreMessage) {
        if self.to.try_send(message).is_err() {
            self.metrics.store_lost(1);
        }
    }
}

/// The seconds and events in the store at `path`, as lines of JSON, oldest first.
///
/// # Errors
/// As [`Store::open`].
pub fn stored_seconds(path: &Path) -> Result<Vec<u8>> {
    let (connection, _lock) = schema::open(path)?;
    history::read_all(&connection).map_err(|e| schema::failed(path, &e))
}

fn unreadable(cause: impl fmt::Display) -> Error {
    Error::output("the store", format!("cannot be read: {cause}"), "check the disk of --state, and try again")
}

impl Archive for Store {
    fn keep(&self, stream: &str, kind: RecordKind, json: &Arc<str>, at_ms: i64) {
        self.offer(StoreMessage::Record { stream: stream.to_owned(), kind, json: json.clone(), at_ms });
    }

    fn keep_segment(&self, stream: &str, segment: KeptSegment) {
        self.offer(StoreMessage::Segment { stream: stream.to_owned(), segment });
    }

    fn keep_second(&self, stream: &str, at_ms: i64, line: String) {
        self.offer(StoreMessage::Second { stream: stream.to_owned(), at_ms, line });
    }

    fn seconds(&self, stream: &str, time: KeptTime) -> Result<Vec<u8>> {
        let (to, answer) = bounded(1);
        let question = StoreMessage::Pending { stream: stream.to_owned(), to };
        self.to.send_timeout(question, READ_TIMEOUT).map_err(|_| unreadable("it is busy"))?;
        let pending = answer.recv_timeout(READ_TIMEOUT).map_err(|_| unreadable("it did not answer"))?;
        let (pending, last) = pending.map_err(unreadable)?;
        let mut lines = self.reader.seconds(stream, time, last).map_err(unreadable)?;
        lines.extend_from_slice(&pending);
        Ok(lines)
    }

    fn segments(&self, filter: &HistoryFilter) -> Result<Vec<StoredSegment>> {
        self.reader.segments(filter).map_err(unreadable)
    }

    fn poster(&self, stream: &str, run: RunId, first: u64) -> Result<Option<Vec<u8>>> {
        self.reader.poster(stream, run, first).map_err(unreadable)
    }

    fn records(&self, filter: &HistoryFilter) -> Result<Vec<StoredRecord>> {
        self.reader.records(filter).map_err(unreadable)
    }

    fn times(&self, times: &[KeptTime]) -> Result<Vec<Vec<TimeOfContent>>> {
        self.reader.times(times).map_err(unreadable)
    }

    fn first_times(&self) -> Result<BTreeMap<String, i64>> {
        self.reader.first_times().map_err(unreadable)
    }

    fn fleet_position(&self, source: &FleetSource) -> Result<u64> {
        self.reader.fleet_position(source.created_ns).map_err(unreadable)
    }

    fn keep_fleet(&self, source: &FleetSource, records: Vec<FleetRecord>) -> oneshot::Receiver<()> {
        let (kept, answer) = oneshot::channel();
        // If the queue is full, the answer is an error.
        let _ = self.to.try_send(StoreMessage::FleetRecords { source: source.clone(), records, kept });
        answer
    }

    fn run_began(&self, stream: &str, run: RunId) {
        if self.to.try_send(StoreMessage::Run { stream: stream.to_owned(), run }).is_err() {
            // The number was reserved. The next message that arrives implies it.
            self.misses_runs.store(true, Ordering::Release);
        }
    }

    fn run_ahead(&self, stream: &str, run: RunId) {
        let (written_to, written) = bounded(0);
        let ahead = StoreMessage::Ahead { stream: stream.to_owned(), run, written: written_to };
        if self.to.send_timeout(ahead, WRITE_TIMEOUT).is_ok() {
            // Nothing is sent. The other end is dropped after the write, successful or not.
            let _ = written.recv_timeout(WRITE_TIMEOUT);
        }
    }
}

impl SessionArchive for Store {
    fn left(&self, session: RevokedSession, kept: oneshot::Sender<()>) {
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
