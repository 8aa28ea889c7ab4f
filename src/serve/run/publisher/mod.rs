//! The publisher, on the main thread of `touchline run`: votes over decided seconds and hands records to every output.
//!
//! The stream manager opens and stops sources and sends [`PublisherCommand`]s about streams that begin and end. The publisher
//! does nothing slow, so no stream delays another.

mod tenure;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select};

use crate::backlog::QueueId;
use crate::hub::{Hub, StreamHandle};
use crate::live::LiveStream;
use crate::metrics::StageThread;
use crate::record::{OutputRecord, StreamState, TenureStage};
use crate::schedule::Expectations;
use crate::sink::{Item, ItemContent, Sinks, WhenFull};
use crate::workers::{Decided, DecidedItem};
use touchline_core::cause::Cause;
use touchline_core::clip::ClipOutput;
use touchline_core::clock::Clock;
use touchline_core::decision::SecondOutcome;
use touchline_core::error::{Error, Result};
use touchline_core::incident::Incident;
use touchline_core::threads::Heartbeat;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_core::vote::VoteConfig;
use touchline_media::outlet::{CounterValues, Counters};
use touchline_media::supervise::SourceState;

use tenure::FleetStanding;

/// How long sinks may take to write their queues at shutdown, which is limited to ten seconds as a whole.
const SINKS_TIMEOUT: Duration = Duration::from_secs(3);

/// News of a source's supervisor, out of band.
pub(super) type News = (QueueId, SourceNews);

pub(super) enum SourceNews {
    State(SourceState),
    Incident(Incident),
}

/// A stream that begins.
pub(super) struct StreamStart {
    pub(super) queue: QueueId,
    pub(super) handle: StreamHandle,
    pub(super) vote: VoteConfig,
    pub(super) expectations: Expectations,
    /// Its supervisor reports when it plays.
    pub(super) supervised: bool,
    pub(super) counters: Arc<Counters>,
}

/// Commands of the stream manager.
pub(super) enum PublisherCommand {
    /// A stream begins. Sent before any decision of its queue.
    Begin(Box<StreamStart>),
    /// The source could not be opened: nothing of the queue was or will be published.
    Forget(QueueId),
    /// The source is being stopped. After its last second the stream enters this state.
    EndsInto(QueueId, StreamState),
    /// The source does not end: end the stream now.
    Cut(QueueId),
    Vote(QueueId, VoteConfig),
    Expect(QueueId, Box<Expectations>),
    /// Set the state of a stream without a source.
    SetState(StreamHandle, StreamState),
    /// Remove a stream, which has no source.
    Remove(StreamHandle),
    /// Does nothing but turn the loop, for the watchdog.
    Wake,
    /// Write everything and return.
    Finish,
}

/// Reports to the stream manager, sent after the hub and the queue of every sink have the records.
#[derive(Debug)]
pub(super) enum PublisherReport {
    /// The stream of a queue has ended; `error` if it failed by itself.
    Ended { queue: QueueId, error: Option<Error> },
    /// The stream is removed.
    Removed(String),
}

/// A stream with a source.
struct Running {
    stream: LiveStream,
    counters: Arc<Counters>,
    /// Number of lost buffers in the last log message.
    logged_losses: u64,
    /// Counts that the hub has so far.
    counted: CounterValues,
    fleet: FleetStanding,
}

impl Running {
    /// Passes the counts of the source to the hub. Logs unusable buffers each time their number has doubled.
    fn update_counts(&mut self) {
        let (now, handle) = (self.counters.values(), self.stream.handle());
        handle.reconnected(now.reconnects.saturating_sub(self.counted.reconnects));
        handle.metrics().source(&self.counted, &now);
        self.counted = now;
        let CounterValues { untimed, undeclared, .. } = now;
        if untimed + undeclared > 2 * self.logged_losses {
            self.logged_losses = untimed + undeclared;
            let id = self.stream.handle().id();
            tracing::warn!(
                "{id}: lost {untimed} buffers without a time stamp and {undeclared} of a track that came late"
            );
        }
    }
}

/// The channels of the publisher. `news` and `commands` carry no media and are unbounded, so that neither a supervisor
/// nor the stream manager waits for an output.
pub(super) struct PublisherInbox {
    pub(super) decided: Receiver<Decided>,
    pub(super) news: Receiver<News>,
    pub(super) commands: Receiver<PublisherCommand>,
}

pub(super) struct Publisher {
    hub: Hub,
    clock: Arc<dyn Clock>,
    running: BTreeMap<QueueId, Running>,
    classes: usize,
    sinks: Sinks,
    /// A live stream has been watched: no sink may delay publishing any more.
    live: bool,
    reports: Sender<PublisherReport>,
    beat: Heartbeat,
    /// The log says that seconds of the fleet are not published.
    is_interruption_logged: bool,
}

impl Publisher {
    /// `classes`: the number of classes of the pack.
    pub(super) fn new(hub: Hub, clock: Arc<dyn Clock>, classes: usize, reports: Sender<PublisherReport>) -> Self {
        let beat = Heartbeat::default();
        let sinks = Sinks::new(hub.metrics().clone(), clock.clone(), beat.clone());
        Self {
            hub,
            clock,
            running: BTreeMap::new(),
            classes,
            sinks,
            live: false,
            reports,
            beat,
            is_interruption_logged: false,
        }
    }

    /// The sinks, to add some.
    pub(super) fn sinks(&mut self) -> &mut Sinks {
        &mut self.sinks
    }

    /// Counts the turns of the loop.
    pub(super) fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    /// Publishes until [`PublisherCommand::Finish`].
    ///
    /// # Errors
    /// [`Error::Internal`] when the inference thread or the stream manager has ended; [`Error::Output`] when records
    /// were lost.
    pub(super) fn publish(&mut self, inbox: &PublisherInbox) -> Result<()> {
        let published = self.publish_all(inbox);
        // Also after an error: published records are written.
        let written = self.finish();
        published.and(written)
    }

    fn publish_all(&mut self, inbox: &PublisherInbox) -> Result<()> {
        loop {
            self.beat.beat();
            select! {
                recv(inbox.decided) -> message => match message {
                    Ok(Decided { queue, item }) => {
                        // A queued command may define the state after this end.
                        let is_end = matches!(item, DecidedItem::News(ClipOutput::Ended(_)));
                        if self.catch_up(queue, &inbox.commands) || is_end && self.run_commands(&inbox.commands) {
                            return Ok(());
                        }
                        self.take(queue, item);
                    }
                    Err(_) => return Err(Error::Internal("the inference thread ended".into())),
                },
                recv(inbox.news) -> message => match message {
                    Ok((queue, news)) => {
                        if self.catch_up(queue, &inbox.commands) {
                            return Ok(());
                        }
                        match news {
                            SourceNews::State(state) => self.news(queue, state),
                            SourceNews::Incident(incident) => self.incident(queue, incident),
                        }
                    }
                    Err(_) => return Err(Error::Internal("the stream manager ended".into())),
                },
                recv(inbox.commands) -> message => match message {
                    Ok(command) => if self.command(command) {
                        return Ok(());
                    },
                    Err(_) => return Err(Error::Internal("the stream manager ended".into())),
                },
            }
        }
    }

    /// Runs the queued commands. Returns true after [`PublisherCommand::Finish`].
    fn run_commands(&mut self, commands: &Receiver<PublisherCommand>) -> bool {
        while let Ok(command) = commands.try_recv() {
            if self.command(command) {
                return true;
            }
        }
        false
    }

    /// Runs commands until the queue is known: its `Begin` was sent earlier, on another channel. Returns true after
    /// [`PublisherCommand::Finish`].
    fn catch_up(&mut self, queue: QueueId, commands: &Receiver<PublisherCommand>) -> bool {
        while !self.running.contains_key(&queue) {
            let Ok(command) = commands.try_recv() else { break };
            if self.command(command) {
                return true;
            }
        }
        false
    }

    fn finish(&mut self) -> Result<()> {
        self.sinks.finish(self.live.then_some(SINKS_TIMEOUT))
    }

    /// Returns true for [`PublisherCommand::Finish`].
    fn command(&mut self, command: PublisherCommand) -> bool {
        match command {
            PublisherCommand::Begin(begin) => {
                let StreamStart { queue, handle, vote, expectations, supervised, counters } = *begin;
                self.live |= supervised;
                let stream = LiveStream::new(handle, vote, expectations, self.classes, supervised);
                let (counted, fleet) = (CounterValues::default(), FleetStanding::default());
                self.running.insert(queue, Running { stream, counters, logged_losses: 0, counted, fleet });
            }
            PublisherCommand::Forget(queue) => self.remove(queue),
            PublisherCommand::EndsInto(queue, into) => {
                if let Some(running) = self.running.get_mut(&queue) {
                    running.stream.ends_into(into);
                }
            }
            PublisherCommand::Cut(queue) => self.cut(queue),
            PublisherCommand::Vote(queue, vote) => {
                if let Some(running) = self.running.get_mut(&queue) {
                    running.stream.set_vote(vote);
                }
            }
            PublisherCommand::Expect(queue, expectations) => {
                if let Some(running) = self.running.get_mut(&queue) {
                    running.stream.expect(*expectations);
                }
            }
            PublisherCommand::SetState(handle, state) => self.set_state(&handle, &state),
            PublisherCommand::Remove(handle) => {
                self.set_state(&handle, &StreamState::Removed);
                self.hub.remove_stream(handle.id());
                // The stream manager is gone only at shutdown.
                let _ = self.reports.send(PublisherReport::Removed(handle.id().to_owned()));
            }
            PublisherCommand::Wake => {}
            PublisherCommand::Finish => return true,
        }
        false
    }

    fn set_state(&mut self, handle: &StreamHandle, state: &StreamState) {
        if let Some(record) = handle.set_state(state.clone()) {
            self.send(handle, ItemContent::State(state.clone()), vec![record]);
        }
    }

    fn take(&mut self, queue: QueueId, item: DecidedItem) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        running.update_counts();
        let stage = running.stream.handle().tenure().map(|tenure| tenure.stage(self.clock.mono_ns()));
        if stage == Some(TenureStage::Publishing) {
            self.catch_up_tenure(queue, &item);
        }
        match item {
            DecidedItem::Outcome { outcome, backlog } => match stage {
                None | Some(TenureStage::Publishing) => self.outcome(queue, outcome, backlog),
                Some(TenureStage::Preparing) => self.prepare(queue, outcome, backlog),
                Some(TenureStage::Interrupted) => self.interrupt(queue, outcome, backlog),
            },
            DecidedItem::News(news) => {
                let Some(running) = self.running.get_mut(&queue) else { return };
                let mut records = Vec::new();
                let content = match &news {
                    ClipOutput::RunStarted { run, cause: Some(cause) } => ItemContent::RunStarted(*run, *cause),
                    _ => ItemContent::RecordsOnly,
                };
                let state = running.stream.news(news, &mut records);
                self.changed(queue, state.map_or(content, ItemContent::State), records);
            }
        }
    }

    fn outcome(&mut self, queue: QueueId, outcome: SecondOutcome, backlog: u32) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let published = running.stream.outcome(outcome, backlog, &*self.clock);
        let handle = running.stream.handle().clone();
        if let Some(tenure) = handle.tenure() {
            // A gap has no wall time; it is published about a second after its end.
            tenure.published(match published.wall() {
                Some(wall) => wall.unix_ns.saturating_add_unsigned(NANOS_PER_SECOND),
                None => self.clock.unix_ns().saturating_sub_unsigned(NANOS_PER_SECOND),
            });
        }
        let records = handle.publish(&published);
        handle.keep_open_segment(published.outcome.index(), || running.stream.open_segment());
        self.send(&handle, ItemContent::Second(Box::new(published)), records);
    }

    fn cut(&mut self, queue: QueueId) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let mut records = Vec::new();
        let state = running.stream.cut(&mut records).map_or(ItemContent::RecordsOnly, ItemContent::State);
        // The manager knows that it cut the stream. Nothing more is published of it.
        self.changed(queue, state, records);
        self.remove(queue);
    }

    /// Publishes a change of a stream, and reports to the stream manager if its source has ended.
    fn changed(&mut self, queue: QueueId, content: ItemContent, records: Vec<OutputRecord>) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let handle = running.stream.handle().clone();
        let is_over = running.stream.is_over();
        if is_over {
            running.update_counts();
        }
        let error = match &content {
            ItemContent::State(StreamState::Failed { kind: Cause::Internal, cause, .. }) if is_over => {
                Some(Error::Internal(format!("{}: {cause}", handle.id())))
            }
            ItemContent::State(StreamState::Failed { kind, cause, advice }) if is_over => {
                Some(Error::source_failure(*kind, &*handle.uri(), cause.clone(), advice.clone()))
            }
            _ => None,
        };
        self.send(&handle, content, records);
        if is_over {
            self.remove(queue);
            // The stream manager is gone only at shutdown.
            let _ = self.reports.send(PublisherReport::Ended { queue, error });
        }
    }

    /// A source connects, plays or waits. Its end arrives in-band, after its last second.
    fn news(&mut self, queue: QueueId, state: SourceState) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        running.update_counts();
        let state = match state {
            SourceState::Connecting => StreamState::Connecting,
            SourceState::Playing => StreamState::Playing,
            SourceState::Waiting { attempt, retry_in, kind, cause } => {
                // A failure that is not retried arrives in-band, and its clip thread counts it.
                if kind == Cause::Internal {
                    self.hub.metrics().panicked(StageThread::Source);
                }
                let retry_in_ns = u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX);
                StreamState::Waiting { kind, cause, attempt, retry_in_ns }
            }
            SourceState::Ended | SourceState::Failed { .. } => return,
        };
        let handle = running.stream.handle().clone();
        let record = handle.set_state(state.clone());
        self.send(&handle, ItemContent::State(state), Vec::from_iter(record));
    }

    fn incident(&mut self, queue: QueueId, incident: Incident) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let handle = running.stream.handle().clone();
        let record = handle.incident(incident);
        self.send(&handle, ItemContent::RecordsOnly, vec![record]);
    }

    fn send(&mut self, handle: &StreamHandle, content: ItemContent, records: Vec<OutputRecord>) {
        if matches!(content, ItemContent::RecordsOnly) && records.is_empty() {
            return;
        }
        let stage = handle.tenure().map(|tenure| tenure.stage(self.clock.mono_ns()));
        if stage.is_some_and(|stage| stage != TenureStage::Publishing) {
            // Another machine of the fleet publishes the stream.
            return;
        }
        // Files lose nothing: their decisions wait for a slow reader, unless a live stream would wait with them.
        let when_full = if self.live { WhenFull::Drop } else { WhenFull::Wait };
        self.sinks.send(Item { stream: handle.id().into(), content, records }, when_full);
    }
}

#[cfg(test)]
mod tests;
