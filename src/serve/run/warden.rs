//! The warden: the thread that knows which streams there should be, and sees to it that there are.
//!
//! It alone decides about streams: those of the start, those of the API ([`StreamDesk`]), those of the configuration file
//! when it is read again. Each stream has an entry that says what is wanted and how far it is; whenever a step is done,
//! [`Warden::reconcile`] takes the next one. Nothing slow happens here: opening, dropping, reading and storing have
//! threads of their own and tell when they are done, so that no stream waits for another.

mod asks;
mod ending;
mod entry;
mod reload;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::brake;
use super::notify::Manager;
use super::open::{Hands, Opened, Order};
use super::session::{Command, Told};
use crate::backlog::LineId;
use crate::config::{Fixed, StreamSettings};
use crate::publish::hub::{Hub, Origin, Restored, StreamInfo};
use crate::publish::record::StreamState;
use crate::publish::streams::{StreamAsk, StreamDesk};
use crate::store::Store;
use ending::Stopping;
use entry::{Entry, Phase};
pub use reload::{Reader, Reading};
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::Pace;
use touchline_core::threads::spawn;
use touchline_core::time::RunId;
use touchline_core::vote::VoteConfig;

/// How often deadlines are looked at while there are any.
const LOOK: Duration = Duration::from_millis(100);

/// How often it looks while there are none: nothing would be missed if it never did.
const REST: Duration = Duration::from_secs(60);

/// What the run allows and wishes.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) max_streams: usize,
    /// Streams of the configuration and the command line go on after a first attempt that fails.
    pub(super) retry: bool,
    /// Jitter buffer of streams that say nothing, milliseconds.
    pub(super) latency_ms: u32,
    /// The program goes on when every stream has ended: it keeps streams, was started without any, or its configuration was read
    /// again.
    pub(super) is_service: bool,
    /// The page stays when every stream has ended.
    pub(super) lingers: bool,
}

/// A stream as the program starts.
pub(super) struct Initial {
    pub(super) settings: StreamSettings,
    pub(super) origin: Origin,
    /// Of the store.
    pub(super) generation: Option<u64>,
    pub(super) restored: Restored,
}

/// Everything that reaches the warden from outside.
pub(super) struct Inbox {
    pub(super) asks: Receiver<StreamAsk>,
    pub(super) told: Receiver<Told>,
    /// The configuration file is to be read again.
    pub(super) reload: Receiver<()>,
    pub(super) stop: Receiver<()>,
}

/// What the warden works with.
pub(super) struct Tools<H> {
    pub(super) hands: Arc<H>,
    pub(super) hub: Hub,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) commands: Sender<Command>,
    pub(super) store: Option<Store>,
    pub(super) desk: StreamDesk,
    /// Reads the configuration file; `None` when there is none.
    pub(super) read: Option<Reader>,
    pub(super) manager: Manager,
}

/// What threads tell when they are done.
enum Done {
    Opened { id: String, ticket: u64, result: Result<Opened> },
    Saved { id: String, result: Result<()> },
    Read(Box<Result<Reading>>),
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Somebody asked to stop.
    pub(super) stopped: bool,
    /// A stream could not be opened at the start, or had failed when the last one ended.
    pub(super) result: Result<()>,
}

pub(super) struct Warden<H> {
    tools: Tools<H>,
    rules: Rules,
    vote: VoteConfig,
    /// Keys of the configuration file that count only at the start, as they were then.
    fixed: Fixed,
    entries: BTreeMap<String, Entry>,
    /// Streams of the start that are still to be opened, in order.
    ids: Vec<String>,
    /// Threads that are done; `done_to` keeps it open.
    done: Receiver<Done>,
    done_to: Sender<Done>,
    /// Lines that came to their end before it was known whose they are: a source that ends at once overtakes the thread
    /// that opened it.
    early: Vec<(LineId, Option<Error>)>,
    /// The last run of streams that were there before, here or by the store: who comes by such a name goes on after it.
    runs: BTreeMap<String, RunId>,
    /// Streams that were paused because opening them ended the process.
    held: BTreeSet<String>,
    suspects: brake::Suspects,
    /// Openings so far: tells one of a stream from another.
    tickets: u64,
    /// Version of settings that was given last.
    generation: u64,
    /// The configuration file is being read; and is to be read once more after that.
    reading: bool,
    read_again: bool,
    stopping: Option<Stopping>,
    lingering_said: bool,
}

impl<H: Hands + 'static> Warden<H> {
    pub(super) fn new(tools: Tools<H>, rules: Rules, vote: VoteConfig, fixed: Fixed) -> Self {
        let (done_to, done) = unbounded();
        Self {
            tools,
            rules,
            vote,
            fixed,
            entries: BTreeMap::new(),
            ids: Vec::new(),
            done,
            done_to,
            early: Vec::new(),
            runs: BTreeMap::new(),
            held: BTreeSet::new(),
            suspects: brake::Suspects::default(),
            tickets: 0,
            generation: 0,
            reading: false,
            read_again: false,
            stopping: None,
            lingering_said: false,
        }
    }

    /// Takes note of the last runs of streams that are not there.
    pub(super) fn know_runs(&mut self, runs: BTreeMap<String, RunId>) {
        self.runs.extend(runs);
    }

    /// Takes note of streams that were paused because opening them ended the process, and of those that may have done so.
    pub(super) fn know_held(&mut self, held: BTreeSet<String>, suspects: BTreeSet<String>) {
        self.held = held;
        self.suspects = brake::Suspects::new(suspects);
    }

    /// Takes up the streams of the start, in order. They are opened when it runs.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are too many, or one cannot be.
    pub(super) fn take_up(&mut self, streams: Vec<Initial>) -> Result<()> {
        let (have, most) = (streams.len(), self.rules.max_streams);
        if have > most {
            let text = format!("{have} streams are more than --max-streams {most} allows; raise it or leave some out");
            return Err(Error::Usage(text));
        }
        for stream in streams {
            let (id, is_initial) = (stream.settings.id.clone(), stream.origin != Origin::Api);
            self.enter(stream)?.is_initial = is_initial;
            self.ids.push(id);
        }
        Ok(())
    }

    /// Makes an entry; nothing is opened yet.
    fn enter(&mut self, stream: Initial) -> Result<&mut Entry> {
        let Initial { settings, origin, generation, mut restored } = stream;
        let generation = generation.unwrap_or_else(|| self.next_generation());
        self.generation = self.generation.max(generation);
        let id = settings.id.clone();
        let info = StreamInfo { id: id.clone(), uri: settings.uri.clone(), pace: Pace::Live };
        let handle = self.tools.hub.add_stream(info)?;
        restored.run = restored.run.or_else(|| self.runs.get(&id).copied());
        handle.restore(restored);
        let entry = Entry::new(settings, origin, generation, handle);
        entry.show(self.vote, self.rules.retry);
        Ok(self.entries.entry(id).insert_entry(entry).into_mut())
    }

    /// A stream more, while the program runs.
    fn add(&mut self, stream: Initial) -> Result<()> {
        let id = stream.settings.id.clone();
        self.enter(stream)?;
        self.reconcile(&id);
        Ok(())
    }

    /// Watches over the streams until the last has ended or somebody asks to stop.
    pub(super) fn run(mut self, inbox: &Inbox) -> Ended {
        for id in std::mem::take(&mut self.ids) {
            self.reconcile(&id);
        }
        let mut stop = inbox.stop.clone();
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            select! {
                recv(inbox.asks) -> ask => if let Ok(ask) = ask {
                    self.asked(ask);
                },
                recv(inbox.told) -> told => match told {
                    Ok(Told::Over { line, error }) => self.over(line, error),
                    Ok(Told::Gone(id)) => self.gone(&id),
                    Err(_) => {}
                },
                recv(self.done) -> done => if let Ok(done) = done {
                    self.done(done);
                },
                recv(inbox.reload) -> ask => if ask.is_ok() {
                    self.reload();
                },
                recv(stop) -> _ => {
                    tracing::info!("stopping: finishing the seconds that are under way");
                    touchline_core::limits::stop_opening();
                    self.stop(None);
                    stop = crossbeam_channel::never();
                },
                default(self.patience()) => {}
            }
            self.look();
        }
    }

    fn patience(&self) -> Duration {
        let waits = self.stopping.is_some() || self.entries.values().any(|e| e.phase.waits_since_ns().is_some());
        let waits = waits || self.suspects.wait() || self.entries.values().any(|e| e.revive_at_ns.is_some());
        if waits { LOOK } else { REST }
    }

    /// Greater than every one before, in this process and, by the clock, in those before it.
    fn next_generation(&mut self) -> u64 {
        let now_ms = u64::try_from(self.tools.clock.unix_ns() / 1_000_000).unwrap_or(0);
        self.generation = (self.generation + 1).max(now_ms);
        self.generation
    }

    /// Takes the next step towards what is wanted of stream `id`, if none is under way.
    fn reconcile(&mut self, id: &str) {
        let is_stopping = self.stopping.is_some();
        let now_ns = self.tools.clock.mono_ns();
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.saving {
            return;
        }
        let must_reopen = entry.must_reopen();
        match &mut entry.phase {
            Phase::Closing { .. } | Phase::Leaving => {}
            // It cannot be told to stop; how long that is waited for, is counted from now.
            Phase::Opening { unwanted_ns, .. } => {
                if entry.gone || !entry.settings.enabled || must_reopen {
                    unwanted_ns.get_or_insert(now_ns);
                }
            }
            Phase::Running { line, source } => {
                let line = *line;
                let must_end = entry.gone || is_stopping || !entry.settings.enabled || must_reopen;
                if !must_end {
                    return self.settle(id);
                }
                let into = match () {
                    () if entry.gone => Some(StreamState::Removed),
                    () if is_stopping => None,
                    () if !entry.settings.enabled => Some(StreamState::Paused),
                    () => Some(StreamState::Connecting),
                };
                if let Some(into) = into {
                    self.tools.tell(Command::EndsInto(line, into));
                }
                source.stop();
                entry.close(now_ns);
            }
            Phase::Idle if entry.gone => {
                entry.phase = Phase::Leaving;
                self.tools.tell(Command::Remove(entry.handle.clone()));
            }
            Phase::Idle if is_stopping => entry.answer(Err(StreamDesk::ends())),
            Phase::Idle if !entry.settings.enabled => {
                // The publishing thread says it once, however often it hears of it.
                let state = if self.held.contains(id) { brake::held() } else { StreamState::Paused };
                self.tools.tell(Command::Say(entry.handle.clone(), state));
                entry.over = false;
                // When somebody wants it later, the program runs: it must not end because of this stream then.
                entry.is_initial = false;
                self.settle(id);
            }
            Phase::Idle if entry.over && !must_reopen => self.settle(id),
            Phase::Idle => self.open(id),
        }
    }

    fn open(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if self.held.remove(id)
            && let Some(store) = &self.tools.store
        {
            // An operator enabled it again: the count of unclean ends starts over.
            store.unmark(id, true);
        }
        let store = self.tools.store.clone().filter(|_| entry.origin == Origin::Api);
        let mark = store.map(|store| brake::Mark::new(store, self.tools.clock.clone(), id));
        if !self.suspects.may_open(id, mark.as_ref(), self.tools.clock.mono_ns()) {
            return;
        }
        let order = Order {
            mark,
            settings: entry.settings.clone(),
            handle: entry.handle.clone(),
            vote: entry.vote(self.vote),
            retry: entry.retries_now(self.rules.retry),
            guarded: entry.origin == Origin::Api,
        };
        self.tickets += 1;
        let ticket = self.tickets;
        entry.opened_with(order.vote, ticket, self.tools.clock.mono_ns());
        let (hands, to) = (Arc::clone(&self.tools.hands), self.done_to.clone());
        let name = format!("open/{id}");
        let done_id = id.to_owned();
        let started = spawn(&name, move || {
            let result = hands.open(order);
            // The warden is gone only when the program ends; the source then stops with its message.
            let _ = to.send(Done::Opened { id: done_id, ticket, result });
        });
        if let Err(e) = started {
            self.opened(id, ticket, Err(e));
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Opened { id, ticket, result } => self.opened(&id, ticket, result),
            Done::Saved { id, result } => self.saved(&id, result),
            Done::Read(reading) => self.has_read(*reading),
        }
    }

    fn opened(&mut self, id: &str, ticket: u64, result: Result<Opened>) {
        let is_this = |e: &&mut Entry| matches!(e.phase, Phase::Opening { ticket: t, .. } if t == ticket);
        let Some(entry) = self.entries.get_mut(id).filter(is_this) else {
            // It was not waited for any longer.
            if let Ok(Opened { line, source }) = result {
                self.tools.tell(Command::Forget(line));
                self.tools.hands.remove_line(line);
                self.tools.drop_aside(id, Some(source));
            }
            return;
        };
        let is_initial = std::mem::take(&mut entry.is_initial);
        match result {
            Ok(Opened { line, source }) => {
                entry.phase = Phase::Running { line, source };
                match self.early.iter().position(|(early, _)| *early == line) {
                    Some(at) => {
                        let (_, error) = self.early.swap_remove(at);
                        self.over(line, error);
                    }
                    None => self.reconcile(id),
                }
            }
            Err(e) => {
                entry.phase = Phase::Idle;
                if is_initial && self.stopping.is_none() {
                    return self.stop(Some(e));
                }
                self.could_not_open(id, e);
            }
        }
    }

    /// A stream that was asked for while the program runs cannot be opened.
    fn could_not_open(&mut self, id: &str, error: Error) {
        if self.take_back(id, &error) {
            return;
        }
        let Some(entry) = self.entries.get_mut(id) else { return };
        tracing::error!("{id}: cannot be opened: {}", touchline_core::redact::text(&error.to_string()));
        let (kind, cause, advice) = match &error {
            Error::Source { kind, cause, advice, .. } => (*kind, cause.clone(), advice.clone()),
            other => (Cause::Other, other.to_string(), "correct the stream's settings".into()),
        };
        let state = StreamState::Failed { kind, cause, advice };
        self.tools.tell(Command::Say(entry.handle.clone(), state));
        entry.over = true;
        entry.error = Some(error);
        self.reconcile(id);
    }

    /// A stream came to its end, by itself or because it was stopped.
    fn over(&mut self, line: LineId, error: Option<Error>) {
        let Some((id, entry)) = self.entries.iter_mut().find(|(_, e)| e.phase.line() == Some(line)) else {
            // Of one that is being opened, or of one that was cut off.
            if !self.entries.values().any(|e| matches!(e.phase, Phase::Opening { .. })) {
                self.early.clear();
            }
            self.early.push((line, error));
            return;
        };
        let id = id.clone();
        let was_asked = matches!(entry.phase, Phase::Closing { .. });
        let source = entry.phase.take_source();
        entry.over = !was_asked;
        entry.error = error.filter(|_| !was_asked);
        entry.revive_later(self.tools.clock.mono_ns());
        self.tools.hands.remove_line(line);
        self.tools.drop_aside(&id, source);
        self.reconcile(&id);
    }

    /// What is wanted of a stream is done.
    fn settle(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let vote = entry.vote(self.vote);
        if let Some(line) = entry.take_other_vote(vote) {
            self.tools.tell(Command::Vote(line, vote));
        }
        entry.answer(Ok(id.to_owned()));
    }

    /// Nothing of a stream that was not wanted any more is left.
    fn gone(&mut self, id: &str) {
        let Some(mut entry) = self.entries.remove(id) else { return };
        self.runs.extend(entry.handle.last_run().map(|run| (id.to_owned(), run)));
        if let Some(store) = &self.tools.store {
            store.forget(id);
        }
        tracing::info!("{id}: removed");
        entry.answer(Ok(id.to_owned()));
        if !entry.gone {
            // Wanted again meanwhile.
            let Entry { settings, origin, generation, .. } = entry;
            let again = Initial { settings, origin, generation: Some(generation), restored: Restored::default() };
            if let Err(e) = self.add(again) {
                tracing::error!("{id}: {e}");
            }
        }
    }
}

impl<H> Tools<H> {
    fn tell(&self, command: Command) {
        // The publishing thread is gone only when the program ends.
        let _ = self.commands.send(command);
    }

    /// Drops a source on a thread of its own: one that hangs holds up nobody.
    fn drop_aside(&self, id: &str, source: Option<Box<dyn touchline_media::Source>>) {
        let Some(source) = source else { return };
        if let Err(e) = spawn(&format!("drop/{id}"), move || drop(source)) {
            tracing::warn!("{id}: its source was dropped where others may wait: {e}");
        }
    }
}
