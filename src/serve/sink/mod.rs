//! Outputs, each on a thread of its own.
//!
//! The publisher sends items to each [`Sink`] through a bounded queue. A sink that stalls fills its own queue and
//! affects nothing else. For live streams a full queue drops records and counts them; for files the publisher waits, so
//! that nothing is lost ([`WhenFull`]).
//!
//! The hub and the metrics are not sinks: they are in memory, never wait, and the API answers from them. The store has
//! its own thread and queue ([`crate::store`]), because it answers changes of streams.

pub mod jsonl;
mod status;
pub mod terminal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError, bounded};

use self::jsonl::JsonlWriter;
use self::terminal::Terminal;
use crate::config::RecordKind;
use crate::metrics::{Metrics, StageThread};
use crate::record::{OutputRecord, Published, StreamState};
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::Discontinuity;
use touchline_core::limits::LogLimiter;
use touchline_core::threads::{Heartbeat, spawn};
use touchline_core::time::RunId;

pub(crate) use status::SinksView;
pub use status::{DeliveryBoard, DeliveryStatus};

/// Capacity of a sink's queue: one minute of 64 streams. A disk that hangs for longer is broken. A record takes about 2
/// KB.
pub const QUEUE: usize = 4096;

/// How long dropping unfinished sinks may take.
const DROP_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the publisher turns its beat while it waits for a sink.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The content of an item in typed form.
#[derive(Clone, Debug)]
pub enum ItemContent {
    /// A second with its estimate and events.
    Second(Box<Published>),
    /// A change of state.
    State(StreamState),
    /// A run began after a discontinuity. Its seconds follow.
    RunStarted(RunId, Discontinuity),
    /// The item has records only.
    RecordsOnly,
}

/// A published item.
#[derive(Clone, Debug)]
pub struct Item {
    /// Id of the stream.
    pub stream: Arc<str>,
    /// The content in typed form.
    pub content: ItemContent,
    /// The records.
    pub records: Vec<OutputRecord>,
}

/// An output. It runs on its own thread and may block.
pub trait Sink: Send {
    /// Its name in metrics and messages.
    fn name(&self) -> &str;

    /// The destination in the program's error if records were lost. `None`: losing records is not an error.
    fn destination(&self) -> Option<String> {
        None
    }

    /// What to do when records were lost, for messages.
    fn advice(&self) -> &'static str {
        "check what it writes to"
    }

    /// Writes an item. Returns the number of its records that were lost.
    fn take(&mut self, item: &Item) -> u64;

    /// Opens its file again, after log rotation.
    fn reopen(&mut self) {}

    /// Called after the last item.
    fn finish(&mut self) {}
}

/// Handling of an item if the queue of a sink is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is dropped for that sink, and counted.
    Drop,
    /// The caller waits.
    Wait,
}

enum SinkMessage {
    Item(Arc<Item>),
    /// Wakes the sink to open its file again.
    Wake,
    /// No item follows.
    Finish,
}

/// All sinks of a run.
pub struct Sinks {
    handles: Vec<SinkHandle>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    beat: Heartbeat,
    is_finished: bool,
}

/// The publisher's side of one sink.
struct SinkHandle {
    name: String,
    destination: Option<String>,
    advice: &'static str,
    to: Sender<SinkMessage>,
    counts: Arc<SinkCounts>,
    reopen: Arc<AtomicBool>,
    /// Closed when its thread has ended.
    done: Receiver<()>,
    log: LogLimiter,
}

#[derive(Debug, Default)]
struct SinkCounts {
    /// Records in the queue or being written.
    waiting: AtomicU64,
    lost: AtomicU64,
}

impl Sinks {
    /// `beat` turns while the publisher waits for a sink, so that the watchdog does not see a hang.
    pub fn new(metrics: Metrics, clock: Arc<dyn Clock>, beat: Heartbeat) -> Self {
        Self { handles: Vec::new(), metrics, clock, beat, is_finished: false }
    }

    /// Adds a sink and starts its thread.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn add(&mut self, sink: impl Sink + 'static) -> Result<()> {
        self.add_boxed(Box::new(sink))
    }

    /// As [`Sinks::add`].
    ///
    /// # Errors
    /// As [`Sinks::add`].
    pub fn add_boxed(&mut self, mut sink: Box<dyn Sink>) -> Result<()> {
        let (name, destination, advice) = (sink.name().to_owned(), sink.destination(), sink.advice());
        let (to, messages) = bounded(QUEUE);
        let (done_to, done) = bounded::<()>(0);
        let (counts, reopen) = (Arc::<SinkCounts>::default(), Arc::<AtomicBool>::default());
        let metrics = self.metrics.clone();
        metrics.sink_dropped(&name, 0);
        spawn(&format!("sink/{name}"), {
            let (counts, reopen) = (counts.clone(), reopen.clone());
            move || {
                let _done = done_to;
                run(&mut *sink, &messages, &counts, &reopen, &metrics);
            }
        })?;
        self.handles.push(SinkHandle { name, destination, advice, to, counts, reopen, done, log: LogLimiter::new() });
        Ok(())
    }

    /// Asks every sink to open its file again.
    pub fn reopener(&self) -> impl Fn() + Send + Sync + 'static {
        let handles: Vec<_> = self.handles.iter().map(|o| (o.reopen.clone(), o.to.clone())).collect();
        move || {
            for (reopen, to) in &handles {
                reopen.store(true, Ordering::Release);
                // If the queue is full, the sink is awake.
                let _ = to.try_send(SinkMessage::Wake);
            }
        }
    }

    /// Sends `item` to every sink.
    pub fn send(&mut self, item: Item, when_full: WhenFull) {
        let item = Arc::new(item);
        let records = item.records.len() as u64;
        for handle in &mut self.handles {
            handle.counts.waiting.fetch_add(records, Ordering::Relaxed);
            if !handle.send(SinkMessage::Item(item.clone()), when_full, &self.beat) {
                handle.counts.waiting.fetch_sub(records, Ordering::Relaxed);
                handle.lose(records, &self.metrics);
                handle.log_loss(self.clock.mono_ns());
            }
        }
    }

    /// Waits up to `limit` until every sink has written its queue. The rest is lost.
    ///
    /// # Errors
    /// [`Error::Output`] if a sink with a destination lost records.
    pub fn finish(&mut self, limit: Option<Duration>) -> Result<()> {
        let mut result = Ok(());
        self.is_finished = true;
        let deadline_ns = limit.map(|limit| {
            let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            self.clock.mono_ns().saturating_add(limit_ns)
        });
        // One limit for all: a sink that hangs must not use up the time of another.
        let left = |clock: &dyn Clock| {
            deadline_ns.map(|deadline_ns| Duration::from_nanos(deadline_ns.saturating_sub(clock.mono_ns())))
        };
        let told: Vec<bool> =
            self.handles.iter().map(|handle| handle.tell_end(left(&*self.clock), &self.beat)).collect();
        for (handle, was_told) in self.handles.iter_mut().zip(told) {
            if !(was_told && handle.has_ended(left(&*self.clock), &self.beat)) {
                let left = handle.counts.waiting.load(Ordering::Relaxed);
                tracing::error!("{}: still writing at shutdown; {left} records are lost", handle.title());
                handle.lose(left, &self.metrics);
            }
            let lost = handle.counts.lost.load(Ordering::Relaxed);
            if let Some(destination) = handle.destination.as_ref().filter(|_| lost > 0 && result.is_ok()) {
                let cause = format!("{lost} records could not be written");
                result = Err(Error::output(destination, cause, handle.advice));
            }
        }
        result
    }
}

impl SinkHandle {
    /// Its name in messages.
    fn title(&self) -> &str {
        self.destination.as_deref().unwrap_or(&self.name)
    }

    /// Sends a message. Returns whether it is in the queue.
    fn send(&self, message: SinkMessage, when_full: WhenFull, beat: &Heartbeat) -> bool {
        match when_full {
            WhenFull::Drop => {
                !matches!(self.to.try_send(message), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
            }
            WhenFull::Wait => wait(&self.to, message, beat),
        }
    }

    fn lose(&self, records: u64, metrics: &Metrics) {
        self.counts.lost.fetch_add(records, Ordering::Relaxed);
        metrics.sink_dropped(&self.name, records);
    }

    /// Logs the first loss, and then one per minute.
    fn log_loss(&mut self, now_ns: u64) {
        if self.log.is_due(now_ns).is_some() {
            let lost = self.counts.lost.load(Ordering::Relaxed);
            tracing::error!(lost, "{}: too slow, records are dropped; {}", self.title(), self.advice);
        }
    }

    /// Sends [`SinkMessage::Finish`]. Returns false if the queue stayed full.
    fn tell_end(&self, limit: Option<Duration>, beat: &Heartbeat) -> bool {
        match limit {
            None => {
                // Fails only if the sink has ended.
                wait(&self.to, SinkMessage::Finish, beat);
                true
            }
            Some(limit) => {
                !matches!(self.to.send_timeout(SinkMessage::Finish, limit), Err(SendTimeoutError::Timeout(_)))
            }
        }
    }

    /// Waits until the sink has ended. Returns false after the limit.
    fn has_ended(&self, limit: Option<Duration>, beat: &Heartbeat) -> bool {
        let Some(limit) = limit else {
            while let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(BEAT_EVERY) {
                beat.beat();
            }
            return true;
        };
        !matches!(self.done.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}

/// Writes published records even after a panic of the publisher.
impl Drop for Sinks {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(e) = self.finish(Some(DROP_TIMEOUT))
        {
            tracing::error!("{e}");
        }
    }
}

/// Sends without a limit. Returns false if the receiver is gone.
fn wait(to: &Sender<SinkMessage>, mut message: SinkMessage, beat: &Heartbeat) -> bool {
    loop {
        match to.send_timeout(message, BEAT_EVERY) {
            Ok(()) => return true,
            Err(SendTimeoutError::Disconnected(_)) => return false,
            Err(SendTimeoutError::Timeout(back)) => message = back,
        }
        beat.beat();
    }
}

/// The thread of a sink.
fn run(
    sink: &mut dyn Sink,
    messages: &Receiver<SinkMessage>,
    counts: &SinkCounts,
    reopen: &AtomicBool,
    metrics: &Metrics,
) {
    for message in messages {
        if reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        let item = match message {
            SinkMessage::Item(item) => item,
            SinkMessage::Wake => continue,
            SinkMessage::Finish => break,
        };
        // A panic costs one item.
        let lost = metrics.contain(StageThread::Sink, || sink.take(&item)).unwrap_or(item.records.len() as u64);
        counts.waiting.fetch_sub(item.records.len() as u64, Ordering::Relaxed);
        if lost > 0 {
            counts.lost.fetch_add(lost, Ordering::Relaxed);
            metrics.sink_dropped(sink.name(), lost);
        }
    }
    sink.finish();
}

/// A sink that writes records with a [`JsonlWriter`].
pub struct JsonLines {
    writer: JsonlWriter,
    kinds: Option<Vec<RecordKind>>,
    clock: Arc<dyn Clock>,
}

impl JsonLines {
    /// Writes records of `kinds` to `writer`; `None` selects all.
    pub fn new(writer: JsonlWriter, kinds: Option<Vec<RecordKind>>, clock: Arc<dyn Clock>) -> Self {
        Self { writer, kinds, clock }
    }

    fn takes(&self, kind: RecordKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

impl Sink for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn destination(&self) -> Option<String> {
        Some(self.writer.destination().to_owned())
    }

    fn advice(&self) -> &'static str {
        "free space, check the disk or the reader, or choose another file with --jsonl"
    }

    fn take(&mut self, item: &Item) -> u64 {
        let now_ns = self.clock.mono_ns();
        let mut lost = 0;
        for record in &item.records {
            if self.takes(record.kind) {
                lost += u64::from(!self.writer.write_or_count(&record.json, now_ns));
            }
        }
        lost
    }

    fn reopen(&mut self) {
        self.writer.reopen();
    }
}

impl Sink for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn take(&mut self, item: &Item) -> u64 {
        match &item.content {
            ItemContent::Second(published) => self.published(&item.stream, published),
            ItemContent::State(state) => self.state(&item.stream, state),
            ItemContent::RunStarted(..) | ItemContent::RecordsOnly => {}
        }
        // A closed terminal is not an error.
        0
    }

    fn finish(&mut self) {
        Terminal::finish(self);
    }
}

#[cfg(test)]
mod tests;
