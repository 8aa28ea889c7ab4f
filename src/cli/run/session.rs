//! The publishing thread of `touchline run`: votes over what was decided, and tells every output.
//!
//! It opens and stops nothing: the warden does, and tells it with [`Command`]s what begins and ends. So nothing that takes
//! long for one stream holds up another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, select};

use crate::app::{Decided, What};
use crate::backlog::LineId;
use crate::cli::live::LiveStream;
use crate::clip::ClipOutput;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::ingest::incident::Incident;
use crate::ingest::outlet::{Counters, Dropped};
use crate::ingest::supervise::SourceState;
use crate::publish::hub::{Hub, StreamHandle};
use crate::publish::jsonl::JsonlWriter;
use crate::publish::record::StreamState;
use crate::publish::terminal::Terminal;
use crate::threads::Beat;
use crate::vote::VoteConfig;

/// News of a source's supervisor, beside the data.
pub(super) type News = (LineId, SourceNews);

pub(super) enum SourceNews {
    State(SourceState),
    Incident(Incident),
}

/// A stream that begins.
pub(super) struct Beginning {
    pub(super) line: LineId,
    pub(super) handle: StreamHandle,
    pub(super) vote: VoteConfig,
    /// A supervisor tells when it plays.
    pub(super) supervised: bool,
    pub(super) counters: Arc<Counters>,
}

/// What the warden tells the publishing thread.
pub(super) enum Command {
    /// Sent before anything of the line can come.
    Begin(Box<Beginning>),
    /// Nothing of the line was or will be said: its source could not be opened.
    Forget(LineId),
    /// The source is being stopped; after its last second the stream is in this state.
    EndsInto(LineId, StreamState),
    /// The source does not come to its end: it is said here and now.
    Cut(LineId),
    Vote(LineId, VoteConfig),
    /// The state of a stream without a source.
    Say(StreamHandle, StreamState),
    /// The stream is not wanted any more and has no source: nothing of it stays.
    Remove(StreamHandle),
    /// Nothing: somebody looks whether the thread turns.
    Turn,
    Finish,
}

/// What the publishing thread tells the warden, after every output knows.
#[derive(Debug)]
pub(super) enum Told {
    /// A line has come to its end; `error`: it failed by itself.
    Over { line: LineId, error: Option<Error> },
    /// A stream is removed.
    Gone(String),
}

/// A stream that runs.
struct Running {
    stream: LiveStream,
    counters: Arc<Counters>,
    /// Lost buffers when that was last said.
    loss_said: u64,
    /// Reconnects that the hub was told of.
    reconnects_said: u64,
    /// Dropped pictures that the metrics were told of.
    dropped_said: [u64; Dropped::ALL.len()],
}

impl Running {
    /// Tells the hub of reconnects since the last time.
    fn say_reconnects(&mut self) {
        let all = self.counters.reconnects.load(Ordering::Relaxed);
        self.stream.handle().reconnected(all.saturating_sub(self.reconnects_said));
        self.reconnects_said = all;
    }

    /// Says how many buffers could not be used at all, each time their number has doubled, and counts dropped pictures.
    fn say_loss(&mut self) {
        for (why, said) in Dropped::ALL.into_iter().zip(&mut self.dropped_said) {
            let all = self.counters.dropped(why);
            self.stream.handle().metrics().dropped(why, all.saturating_sub(*said));
            *said = all;
        }
        let untimed = self.counters.untimed.load(Ordering::Relaxed);
        let undeclared = self.counters.undeclared.load(Ordering::Relaxed);
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
/// nor the warden waits for an output.
pub(super) struct Inbox {
    pub(super) decided: Receiver<Decided>,
    pub(super) news: Receiver<News>,
    pub(super) commands: Receiver<Command>,
}

pub(super) struct Session {
    hub: Hub,
    clock: Arc<dyn Clock>,
    running: BTreeMap<LineId, Running>,
    classes: usize,
    jsonl: Option<JsonlWriter>,
    terminal: Option<Terminal>,
    told: Sender<Told>,
    beat: Beat,
}

impl Session {
    /// `classes`: how many the pack has.
    pub(super) fn new(
        hub: Hub,
        clock: Arc<dyn Clock>,
        classes: usize,
        jsonl: Option<JsonlWriter>,
        terminal: Option<Terminal>,
        told: Sender<Told>,
    ) -> Self {
        Self { hub, clock, running: BTreeMap::new(), classes, jsonl, terminal, told, beat: Beat::default() }
    }

    /// Turns of this thread.
    pub(super) fn beat(&self) -> &Beat {
        &self.beat
    }

    /// Publishes until the warden says that it is over.
    ///
    /// # Errors
    /// [`Error::Internal`] when the inference thread or the warden has ended; [`Error::Output`] when records were lost.
    pub(super) fn publish(&mut self, inbox: &Inbox) -> Result<()> {
        loop {
            self.beat.turn();
            select! {
                recv(inbox.decided) -> message => match message {
                    Ok(Decided { line, what }) => {
                        // An end may have been asked for, and be the beginning of something else.
                        let is_end = matches!(what, What::News(ClipOutput::Ended(_)));
                        if self.catch_up(line, &inbox.commands) || is_end && self.obey_all(&inbox.commands) {
                            return self.finish();
                        }
                        self.take(line, what);
                    }
                    Err(_) => return Err(Error::Internal("the inference thread ended".into())),
                },
                recv(inbox.news) -> message => match message {
                    Ok((line, news)) => {
                        if self.catch_up(line, &inbox.commands) {
                            return self.finish();
                        }
                        match news {
                            SourceNews::State(state) => self.news(line, state),
                            SourceNews::Incident(incident) => self.incident(line, incident),
                        }
                    }
                    Err(_) => return Err(Error::Internal("the warden's thread ended".into())),
                },
                recv(inbox.commands) -> message => match message {
                    Ok(command) => if self.command(command) {
                        return self.finish();
                    },
                    Err(_) => return Err(Error::Internal("the warden's thread ended".into())),
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

    /// What begins a line was sent before anything came of it, but on another way. Whether the last command was there.
    fn catch_up(&mut self, line: LineId, commands: &Receiver<Command>) -> bool {
        while !self.running.contains_key(&line) {
            let Ok(command) = commands.try_recv() else { break };
            if self.command(command) {
                return true;
            }
        }
        false
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(terminal) = &mut self.terminal {
            terminal.finish();
        }
        match &self.jsonl {
            Some(jsonl) if jsonl.lost() > 0 => Err(Error::output(
                jsonl.place(),
                format!("{} records could not be written", jsonl.lost()),
                "free space or choose another --jsonl",
            )),
            _ => Ok(()),
        }
    }

    /// Whether it was the last one.
    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Begin(begin) => {
                let Beginning { line, handle, vote, supervised, counters } = *begin;
                let stream = LiveStream::new(handle, vote, self.classes, supervised);
                self.running.insert(
                    line,
                    Running {
                        stream,
                        counters,
                        loss_said: 0,
                        reconnects_said: 0,
                        dropped_said: [0; Dropped::ALL.len()],
                    },
                );
            }
            Command::Forget(line) => drop(self.running.remove(&line)),
            Command::EndsInto(line, into) => {
                if let Some(running) = self.running.get_mut(&line) {
                    running.stream.ends_into(into);
                }
            }
            Command::Cut(line) => self.cut(line),
            Command::Vote(line, vote) => {
                if let Some(running) = self.running.get_mut(&line) {
                    running.stream.set_vote(vote);
                }
            }
            Command::Say(handle, state) => self.set_state(&handle, &state),
            Command::Remove(handle) => {
                self.set_state(&handle, &StreamState::Removed);
                self.hub.remove_stream(handle.id());
                // The warden is gone only when the program ends.
                let _ = self.told.send(Told::Gone(handle.id().to_owned()));
            }
            Command::Turn => {}
            Command::Finish => return true,
        }
        false
    }

    fn set_state(&mut self, handle: &StreamHandle, state: &StreamState) {
        let record = handle.set_state(state.clone());
        if record.is_some() {
            self.say(handle.id(), state);
        }
        self.write(record.as_slice());
    }

    fn take(&mut self, line: LineId, what: What) {
        let Some(running) = self.running.get_mut(&line) else { return };
        running.say_loss();
        let now_ns = self.clock.mono_ns();
        let mut records = Vec::new();
        match what {
            What::Outcome { outcome, backlog } => {
                let published = running.stream.outcome(outcome, backlog, now_ns);
                records = running.stream.handle().publish(&published);
                if let Some(terminal) = &mut self.terminal {
                    terminal.published(running.stream.handle().id(), &published);
                }
            }
            What::News(news) => {
                let state = running.stream.news(news, &mut records);
                self.changed(line, state);
            }
        }
        self.write(&records);
    }

    fn cut(&mut self, line: LineId) {
        let Some(running) = self.running.get_mut(&line) else { return };
        let mut records = Vec::new();
        let state = running.stream.cut(&mut records);
        self.write(&records);
        // A stream that is cut has no end of its own to be told of, and says nothing more.
        self.changed(line, state);
        self.running.remove(&line);
    }

    /// A stream came into `state` by itself; tells the warden when that is the end of its source.
    fn changed(&mut self, line: LineId, state: Option<StreamState>) {
        let Some(running) = self.running.get_mut(&line) else { return };
        let handle = running.stream.handle().clone();
        let is_over = running.stream.is_over();
        if is_over {
            running.say_loss();
            running.say_reconnects();
        }
        let error = match &state {
            Some(StreamState::Failed { kind, cause, advice }) if is_over => {
                Some(Error::source_failure(*kind, &*handle.uri(), cause.clone(), advice.clone()))
            }
            _ => None,
        };
        if let Some(state) = &state {
            self.say(handle.id(), state);
        }
        if is_over {
            self.running.remove(&line);
            // The warden is gone only when the program ends.
            let _ = self.told.send(Told::Over { line, error });
        }
    }

    /// A source reconnects or waits. Its end is told in-band, after its last second.
    fn news(&mut self, line: LineId, state: SourceState) {
        let Some(running) = self.running.get_mut(&line) else { return };
        running.say_reconnects();
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
        self.say(handle.id(), &state);
        self.write(record.as_slice());
    }

    fn incident(&mut self, line: LineId, incident: Incident) {
        let Some(running) = self.running.get_mut(&line) else { return };
        let record = running.stream.handle().incident(incident);
        self.write(&[record]);
    }

    fn say(&mut self, id: &str, state: &StreamState) {
        if let Some(terminal) = &mut self.terminal {
            terminal.state(id, state);
        }
    }

    fn write(&mut self, records: &[Arc<str>]) {
        let Some(jsonl) = &mut self.jsonl else { return };
        let now_ns = self.clock.mono_ns();
        for record in records {
            if !jsonl.write_or_count(record, now_ns) {
                self.hub.metrics().record_lost();
            }
        }
    }
}
