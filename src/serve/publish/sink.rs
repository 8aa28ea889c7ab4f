//! Outputs on threads of their own.
//!
//! Publishing hands each [`Sink`] what it says through a bounded queue. A sink that stalls fills its own queue; deciding, the other
//! sinks and the page do not notice. For live streams a full queue loses records, and each is counted; for files publishing
//! waits, so that nothing is lost ([`WhenFull`]).
//!
//! The hub and the metrics are no sinks of this kind: they are memory, never wait, and the API answers from them. The store has
//! a thread and a bounded queue of its own ([`crate::store`]), because changes of streams are answered by it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError, bounded};

use super::jsonl::JsonlWriter;
use super::record::{Published, StreamState};
use super::terminal::Terminal;
use crate::metrics::{Metrics, StageThread};
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::{Beat, spawn};

/// Items that wait for a sink: a minute of 64 streams. A disk that hangs for longer is broken; records take about 2 KB.
pub const QUEUE: usize = 4096;

/// How long sinks that were never finished may write when they are dropped.
const LIMIT_OF_DROP: Duration = Duration::from_secs(3);

/// How often a thread that waits for a sink turns its beat.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// How often the log repeats that a sink is too slow.
const COMPLAIN_EVERY_NS: u64 = 60_000_000_000;

/// What is said about a stream, beside its records.
#[derive(Clone, Debug)]
pub enum Content {
    Second(Box<Published>),
    State(StreamState),
    /// The records say everything.
    RecordsOnly,
}

/// Something that was published.
#[derive(Clone, Debug)]
pub struct Item {
    pub stream: Arc<str>,
    pub content: Content,
    /// Each one line of JSON.
    pub records: Vec<Arc<str>>,
}

/// An output. It runs on a thread of its own and may wait as long as it likes.
pub trait Sink: Send {
    /// Its name in metrics and messages.
    fn name(&self) -> &'static str;

    /// The place that the program's error names when records were lost. `None`: losing records is no error.
    fn destination(&self) -> Option<String> {
        None
    }

    /// Writes an item. Returns how many of its records were lost.
    fn take(&mut self, item: &Item) -> u64;

    /// Opens its file again: somebody has moved it away.
    fn reopen(&mut self) {}

    /// Nothing follows.
    fn finish(&mut self) {}
}

/// What happens to an item when a sink's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is lost for that sink, and counted.
    Drop,
    /// The caller waits.
    Wait,
}

enum SinkMessage {
    Item(Arc<Item>),
    /// Look whether the file is to be opened again.
    Wake,
    /// Nothing follows.
    Finish,
}

/// All sinks of a run.
pub struct Sinks {
    handles: Vec<SinkHandle>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    beat: Beat,
    is_finished: bool,
}

/// The way to one sink.
struct SinkHandle {
    name: &'static str,
    destination: Option<String>,
    to: Sender<SinkMessage>,
    counts: Arc<SinkCounts>,
    reopen: Arc<AtomicBool>,
    /// Closed when its thread has ended.
    done: Receiver<()>,
    complained_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct SinkCounts {
    /// Records in the queue, or being written.
    waiting: AtomicU64,
    lost: AtomicU64,
}

impl Sinks {
    /// `beat` turns while publishing waits for a sink: waiting for a reader is no hang.
    pub fn new(metrics: Metrics, clock: Arc<dyn Clock>, beat: Beat) -> Self {
        Self { handles: Vec::new(), metrics, clock, beat, is_finished: false }
    }

    /// Adds a sink and starts its thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn add(&mut self, mut sink: impl Sink + 'static) -> Result<()> {
        let (name, destination) = (sink.name(), sink.destination());
        let (to, messages) = bounded(QUEUE);
        let (done_to, done) = bounded::<()>(0);
        let (counts, reopen) = (Arc::<SinkCounts>::default(), Arc::<AtomicBool>::default());
        let metrics = self.metrics.clone();
        metrics.sink_dropped(name, 0);
        spawn(&format!("sink/{name}"), {
            let (counts, reopen) = (counts.clone(), reopen.clone());
            move || {
                let _done = done_to;
                run(&mut sink, &messages, &counts, &reopen, &metrics);
            }
        })?;
        self.handles.push(SinkHandle { name, destination, to, counts, reopen, done, complained_ns: None });
        Ok(())
    }

    /// Asks every sink to open its file again.
    pub fn reopener(&self) -> impl Fn() + Send + Sync + 'static {
        let handles: Vec<_> = self.handles.iter().map(|o| (o.reopen.clone(), o.to.clone())).collect();
        move || {
            for (reopen, to) in &handles {
                reopen.store(true, Ordering::Release);
                // A full queue wakes the sink anyway.
                let _ = to.try_send(SinkMessage::Wake);
            }
        }
    }

    /// Gives `item` to every sink.
    pub fn send(&mut self, item: Item, when_full: WhenFull) {
        let item = Arc::new(item);
        let records = item.records.len() as u64;
        for handle in &mut self.handles {
            handle.counts.waiting.fetch_add(records, Ordering::Relaxed);
            if !handle.send(SinkMessage::Item(item.clone()), when_full, &self.beat) {
                handle.counts.waiting.fetch_sub(records, Ordering::Relaxed);
                handle.lose(records, &self.metrics);
                handle.complain(self.clock.mono_ns());
            }
        }
    }

    /// Waits until every sink has written what it was given, `limit` at most; what is left then is lost.
    ///
    /// # Errors
    /// [`Error::Output`] when records were lost that must not be.
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
                tracing::error!("{}: still busy when the program ends; {left} records are lost", handle.title());
                handle.lose(left, &self.metrics);
            }
            let lost = handle.counts.lost.load(Ordering::Relaxed);
            if let Some(destination) = handle.destination.as_ref().filter(|_| lost > 0 && result.is_ok()) {
                let cause = format!("{lost} records could not be written");
                result = Err(Error::output(destination, cause, "free space or choose another --jsonl"));
            }
        }
        result
    }
}

impl SinkHandle {
    /// For messages.
    fn title(&self) -> &str {
        self.destination.as_deref().unwrap_or(self.name)
    }

    /// Whether the sink will see `message`.
    fn send(&self, message: SinkMessage, when_full: WhenFull, beat: &Beat) -> bool {
        match when_full {
            WhenFull::Drop => {
                !matches!(self.to.try_send(message), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
            }
            WhenFull::Wait => wait(&self.to, message, beat),
        }
    }

    fn lose(&self, records: u64, metrics: &Metrics) {
        self.counts.lost.fetch_add(records, Ordering::Relaxed);
        metrics.sink_dropped(self.name, records);
    }

    /// Logs the first loss, and one a minute after it.
    fn complain(&mut self, now_ns: u64) {
        if self.complained_ns.is_none_or(|then| now_ns.saturating_sub(then) >= COMPLAIN_EVERY_NS) {
            self.complained_ns = Some(now_ns);
            let lost = self.counts.lost.load(Ordering::Relaxed);
            tracing::error!(lost, "{}: too slow, records are lost; check the disk or the reader", self.title());
        }
    }

    /// Tells the sink that nothing follows. False: its queue stayed full.
    fn tell_end(&self, limit: Option<Duration>, beat: &Beat) -> bool {
        match limit {
            None => {
                // False only if it has ended already.
                wait(&self.to, SinkMessage::Finish, beat);
                true
            }
            Some(limit) => {
                !matches!(self.to.send_timeout(SinkMessage::Finish, limit), Err(SendTimeoutError::Timeout(_)))
            }
        }
    }

    /// Waits until the sink has ended.
    fn has_ended(&self, limit: Option<Duration>, beat: &Beat) -> bool {
        let Some(limit) = limit else {
            while let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(BEAT_EVERY) {
                beat.turn();
            }
            return true;
        };
        !matches!(self.done.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }
}

/// After a panic of the publishing thread: published records are written all the same.
impl Drop for Sinks {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(e) = self.finish(Some(LIMIT_OF_DROP))
        {
            tracing::error!("{e}");
        }
    }
}

/// Sends, however long that takes. False: the receiver is gone.
fn wait(to: &Sender<SinkMessage>, mut message: SinkMessage, beat: &Beat) -> bool {
    loop {
        match to.send_timeout(message, BEAT_EVERY) {
            Ok(()) => return true,
            Err(SendTimeoutError::Disconnected(_)) => return false,
            Err(SendTimeoutError::Timeout(back)) => message = back,
        }
        beat.turn();
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
        // A panic costs one item. Its message is printed where it happens.
        let lost = catch_unwind(AssertUnwindSafe(|| sink.take(&item))).unwrap_or_else(|_| {
            metrics.panicked(StageThread::Sink);
            item.records.len() as u64
        });
        counts.waiting.fetch_sub(item.records.len() as u64, Ordering::Relaxed);
        if lost > 0 {
            counts.lost.fetch_add(lost, Ordering::Relaxed);
            metrics.sink_dropped(sink.name(), lost);
        }
    }
    sink.finish();
}

/// Records as lines: a [`JsonlWriter`] as a sink.
pub struct JsonLines {
    writer: JsonlWriter,
    clock: Arc<dyn Clock>,
}

impl JsonLines {
    pub fn new(writer: JsonlWriter, clock: Arc<dyn Clock>) -> Self {
        Self { writer, clock }
    }
}

impl Sink for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn destination(&self) -> Option<String> {
        Some(self.writer.destination().to_owned())
    }

    fn take(&mut self, item: &Item) -> u64 {
        let now_ns = self.clock.mono_ns();
        item.records.iter().map(|record| u64::from(!self.writer.write_or_count(record, now_ns))).sum()
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
            Content::Second(published) => self.published(&item.stream, published),
            Content::State(state) => self.state(&item.stream, state),
            Content::RecordsOnly => {}
        }
        // A terminal that is gone is not written to any more; that is no loss.
        0
    }

    fn finish(&mut self) {
        Terminal::finish(self);
    }
}

#[cfg(test)]
mod tests;
