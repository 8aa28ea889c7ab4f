//! The publishing thread of `touchline run`: votes over what was decided, and tells every output.
//!
//! It opens and stops nothing: the stream manager does, and tells it with [`Command`]s what begins and ends. So nothing that takes
//! long for one stream holds up another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select};

use crate::backlog::QueueId;
use crate::live::LiveStream;
use crate::publish::hub::{Hub, StreamHandle};
use crate::publish::record::StreamState;
use crate::publish::sink::{Content, Item, Sinks, WhenFull};
use crate::workers::{Decided, DecidedItem};
use touchline_core::cause::Cause;
use touchline_core::clip::ClipOutput;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::incident::Incident;
use touchline_core::threads::Beat;
use touchline_core::vote::VoteConfig;
use touchline_media::outlet::{Counted, Counters};
use touchline_media::supervise::SourceState;

/// How long sinks may take to write what waits when the program ends: the end as a whole has ten seconds.
const SINKS_LIMIT: Duration = Duration::from_secs(3);

/// News of a source's supervisor, beside the data.
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
    /// A supervisor tells when it plays.
    pub(super) supervised: bool,
    pub(super) counters: Arc<Counters>,
}

/// What the stream manager tells the publishing thread.
pub(super) enum Command {
    /// Sent before anything of the queue can come.
    Begin(Box<StreamStart>),
    /// Nothing of the queue was or will be said: its source could not be opened.
    Forget(QueueId),
    /// The source is being stopped; after its last second the stream is in this state.
    EndsInto(QueueId, StreamState),
    /// The source does not come to its end: it is said here and now.
    Cut(QueueId),
    Vote(QueueId, VoteConfig),
    /// The state of a stream without a source.
    Say(StreamHandle, StreamState),
    /// The stream is not wanted any more and has no source: nothing of it stays.
    Remove(StreamHandle),
    /// Nothing: somebody looks whether the thread turns.
    Wake,
    Finish,
}

/// What the publishing thread tells the stream manager, after the hub and the queue of every sink have it.
#[derive(Debug)]
pub(super) enum Report {
    /// A queue has come to its end; `error`: it failed by itself.
    Ended { queue: QueueId, error: Option<Error> },
    /// A stream is removed.
    Removed(String),
}

/// A stream that runs.
struct Running {
    stream: LiveStream,
    counters: Arc<Counters>,
    /// Lost buffers when that was last said.
    loss_said: u64,
    /// What the hub was told of so far.
    counted: Counted,
}

impl Running {
    /// Tells the hub what the source has counted since the last time, and the log of buffers that could not be used at all, each time
    /// their number has doubled.
    fn say_counts(&mut self) {
        let (now, handle) = (self.counters.counted(), self.stream.handle());
        handle.reconnected(now.reconnects.saturating_sub(self.counted.reconnects));
        handle.metrics().source(&self.counted, &now);
        self.counted = now;
        let Counted { untimed, undeclared, .. } = now;
        if untimed + undeclared > 2 * self.loss_said {
            self.loss_said = untimed + undeclared;
            let id = self.stream.handle().id();
            tracing::warn!(
                "{id}: lost {untimed} buffers without a time stamp and {undeclared} of a track that came late"
            );
        }
    }
}

/// What comes to the publishing thread. The channels hold no media but `decided`: unbounded, so that neither a supervisor
/// nor the stream manager waits for an output.
pub(super) struct PublisherInbox {
    pub(super) decided: Receiver<Decided>,
    pub(super) news: Receiver<News>,
    pub(super) commands: Receiver<Command>,
}

pub(super) struct Publisher {
    hub: Hub,
    clock: Arc<dyn Clock>,
    running: BTreeMap<QueueId, Running>,
    classes: usize,
    sinks: Sinks,
    /// A live stream has been watched: from now on no sink may hold up publishing.
    live: bool,
    reports: Sender<Report>,
    beat: Beat,
}

impl Publisher {
    /// `classes`: how many the pack has.
    pub(super) fn new(hub: Hub, clock: Arc<dyn Clock>, classes: usize, reports: Sender<Report>) -> Self {
        let beat = Beat::default();
        let sinks = Sinks::new(hub.metrics().clone(), clock.clone(), beat.clone());
        Self { hub, clock, running: BTreeMap::new(), classes, sinks, live: false, reports, beat }
    }

    /// What is published goes to these as well.
    pub(super) fn sinks(&mut self) -> &mut Sinks {
        &mut self.sinks
    }

    /// Turns of this thread.
    pub(super) fn beat(&self) -> &Beat {
        &self.beat
    }

    /// Publishes until the stream manager says that it is over.
    ///
    /// # Errors
    /// [`Error::Internal`] when the inference thread or the stream manager has ended; [`Error::Output`] when records were lost.
    pub(super) fn publish(&mut self, inbox: &PublisherInbox) -> Result<()> {
        let published = self.publish_all(inbox);
        // Also after an error: what was published is written.
        let written = self.finish();
        published.and(written)
    }

    fn publish_all(&mut self, inbox: &PublisherInbox) -> Result<()> {
        loop {
            self.beat.turn();
            select! {
                recv(inbox.decided) -> message => match message {
                    Ok(Decided { queue, item }) => {
                        // An end may have been asked for, and be the beginning of something else.
                        let is_end = matches!(item, DecidedItem::News(ClipOutput::Ended(_)));
                        if self.catch_up(queue, &inbox.commands) || is_end && self.obey_all(&inbox.commands) {
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
                    Err(_) => return Err(Error::Internal("the stream manager's thread ended".into())),
                },
                recv(inbox.commands) -> message => match message {
                    Ok(command) => if self.command(command) {
                        return Ok(());
                    },
                    Err(_) => return Err(Error::Internal("the stream manager's thread ended".into())),
                },
            }
        }
    }

    /// Obeys everything that was said so far. Whether the last command was there.
    fn obey_all(&mut self, commands: &Receiver<Command>) -> bool {
        while let Ok(command) = commands.try_recv() {
            if self.command(command) {
                return true;
            }
        }
        false
    }

    /// What begins a queue was sent before anything came of it, but on another way. Whether the last command was there.
    fn catch_up(&mut self, queue: QueueId, commands: &Receiver<Command>) -> bool {
        while !self.running.contains_key(&queue) {
            let Ok(command) = commands.try_recv() else { break };
            if self.command(command) {
                return true;
            }
        }
        false
    }

    fn finish(&mut self) -> Result<()> {
        self.sinks.finish(self.live.then_some(SINKS_LIMIT))
    }

    /// Whether it was the last one.
    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Begin(begin) => {
                let StreamStart { queue, handle, vote, supervised, counters } = *begin;
                self.live |= supervised;
                let stream = LiveStream::new(handle, vote, self.classes, supervised);
                self.running.insert(queue, Running { stream, counters, loss_said: 0, counted: Counted::default() });
            }
            Command::Forget(queue) => drop(self.running.remove(&queue)),
            Command::EndsInto(queue, into) => {
                if let Some(running) = self.running.get_mut(&queue) {
                    running.stream.ends_into(into);
                }
            }
            Command::Cut(queue) => self.cut(queue),
            Command::Vote(queue, vote) => {
                if let Some(running) = self.running.get_mut(&queue) {
                    running.stream.set_vote(vote);
                }
            }
            Command::Say(handle, state) => self.set_state(&handle, &state),
            Command::Remove(handle) => {
                self.set_state(&handle, &StreamState::Removed);
                self.hub.remove_stream(handle.id());
                // The stream manager is gone only when the program ends.
                let _ = self.reports.send(Report::Removed(handle.id().to_owned()));
            }
            Command::Wake => {}
            Command::Finish => return true,
        }
        false
    }

    fn set_state(&mut self, handle: &StreamHandle, state: &StreamState) {
        if let Some(record) = handle.set_state(state.clone()) {
            self.send(handle, Content::State(state.clone()), vec![record]);
        }
    }

    fn take(&mut self, queue: QueueId, item: DecidedItem) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        running.say_counts();
        match item {
            DecidedItem::Outcome { outcome, backlog } => {
                let published = running.stream.outcome(outcome, backlog, self.clock.mono_ns());
                let handle = running.stream.handle().clone();
                let records = handle.publish(&published);
                self.send(&handle, Content::Second(Box::new(published)), records);
            }
            DecidedItem::News(news) => {
                let mut records = Vec::new();
                let state = running.stream.news(news, &mut records);
                self.changed(queue, state, records);
            }
        }
    }

    fn cut(&mut self, queue: QueueId) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let mut records = Vec::new();
        let state = running.stream.cut(&mut records);
        // A stream that is cut has no end of its own to be told of, and says nothing more.
        self.changed(queue, state, records);
        self.running.remove(&queue);
    }

    /// A stream came into `state` by itself, or only has `records` to tell; tells the stream manager when that is the end of its source.
    fn changed(&mut self, queue: QueueId, state: Option<StreamState>, records: Vec<Arc<str>>) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let handle = running.stream.handle().clone();
        let is_over = running.stream.is_over();
        if is_over {
            running.say_counts();
        }
        let error = match &state {
            Some(StreamState::Failed { kind: Cause::Internal, cause, .. }) if is_over => {
                Some(Error::Internal(format!("{}: {cause}", handle.id())))
            }
            Some(StreamState::Failed { kind, cause, advice }) if is_over => {
                Some(Error::source_failure(*kind, &*handle.uri(), cause.clone(), advice.clone()))
            }
            _ => None,
        };
        self.send(&handle, state.map_or(Content::RecordsOnly, Content::State), records);
        if is_over {
            self.running.remove(&queue);
            // The stream manager is gone only when the program ends.
            let _ = self.reports.send(Report::Ended { queue, error });
        }
    }

    /// A source reconnects or waits. Its end is told in-band, after its last second.
    fn news(&mut self, queue: QueueId, state: SourceState) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        running.say_counts();
        let state = match state {
            SourceState::Connecting => StreamState::Connecting,
            SourceState::Playing => StreamState::Playing,
            SourceState::Waiting { attempt, retry_in, kind, cause } => {
                let retry_in_ns = u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX);
                StreamState::Waiting { kind, cause, attempt, retry_in_ns }
            }
            SourceState::Ended | SourceState::Failed { .. } => return,
        };
        let handle = running.stream.handle().clone();
        let record = handle.set_state(state.clone());
        self.send(&handle, Content::State(state), Vec::from_iter(record));
    }

    fn incident(&mut self, queue: QueueId, incident: Incident) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let handle = running.stream.handle().clone();
        let record = handle.incident(incident);
        self.send(&handle, Content::RecordsOnly, vec![record]);
    }

    fn send(&mut self, handle: &StreamHandle, content: Content, records: Vec<Arc<str>>) {
        if matches!(content, Content::RecordsOnly) && records.is_empty() {
            return;
        }
        // Files lose nothing: their decisions wait for a slow reader, as long as no live stream would wait with them.
        let when_full = if self.live { WhenFull::Drop } else { WhenFull::Wait };
        self.sinks.send(Item { stream: handle.id().into(), content, records }, when_full);
    }
}

#[cfg(test)]
mod tests;
