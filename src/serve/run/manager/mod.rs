//! The stream manager: the thread that reconciles the wanted streams with the actual ones.
//!
//! Requests come from the start, the API ([`StreamControl`]) and reloads of the configuration file. Each stream has an
//! entry with its wanted and its actual state. Whenever a step finishes, [`StreamManager::reconcile`] takes the next
//! one. The manager does nothing slow: opening, dropping, reading and storing run on threads of their own, so that no
//! stream waits for another.

mod entry;
mod fleet;
mod reload;
mod requests;
mod shutdown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::crash_guard;
use super::driver::{Driver, OpenRequest, Opened};
use super::notify::ServiceManager;
use super::publisher::{PublisherCommand, PublisherReport};
use crate::backlog::QueueId;
use crate::config::{Fixed, StreamSettings};
use crate::control::streams::{StreamControl, StreamRequest};
use crate::hub::{Hub, Restored, StreamInfo, StreamOwner};
use crate::record::{FleetTenure, StreamState};
use crate::store::Store;
use entry::{ManagedStream, Phase};
pub use reload::{Reader, Reading};
use shutdown::Stopping;
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::Pace;
use touchline_core::threads::spawn;
use touchline_core::time::RunId;
use touchline_core::vote::VoteConfig;

/// Interval of the checks while a deadline is pending.
const CHECK: Duration = Duration::from_millis(100);

/// Interval of the checks without a deadline. Any value would do.
const IDLE: Duration = Duration::from_secs(60);

/// Limits and options of the run.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) max_streams: usize,
    /// The streams are those of a fleet.
    pub(super) is_in_fleet: bool,
    /// Streams of the configuration file and the command line retry after a first attempt that fails.
    pub(super) retry: bool,
    /// Jitter buffer of streams without one of their own, milliseconds.
    pub(super) latency_ms: u32,
    /// The program continues after all streams have ended: it has a store, was started without streams, or has reloaded
    /// its configuration.
    pub(super) is_service: bool,
    /// The page stays after all streams have ended.
    pub(super) lingers: bool,
}

/// A stream at the start.
pub(super) struct InitialStream {
    pub(super) settings: StreamSettings,
    pub(super) origin: StreamOwner,
    /// Version of its settings in the store.
    pub(super) generation: Option<u64>,
    pub(super) restored: Restored,
}

/// The channels of the stream manager.
pub(super) struct ManagerInbox {
    pub(super) requests: Receiver<StreamRequest>,
    pub(super) reports: Receiver<PublisherReport>,
    /// Reload the configuration file.
    pub(super) reload: Receiver<()>,
    pub(super) stop: Receiver<()>,
}

/// The collaborators of the stream manager.
pub(super) struct ManagerDependencies<H> {
    pub(super) driver: Arc<H>,
    pub(super) hub: Hub,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) commands: Sender<PublisherCommand>,
    pub(super) store: Option<Store>,
    pub(super) control: StreamControl,
    /// Reads the configuration file; `None` when there is none.
    pub(super) read: Option<Reader>,
    pub(super) service_manager: ServiceManager,
}

/// Results of threads.
enum Done {
    Opened { id: String, ticket: u64, result: Result<Opened> },
    Saved { id: String, result: Result<()> },
    Read(Box<Result<Reading>>),
}

/// The result of [`StreamManager::run`].
#[derive(Debug)]
pub(super) struct Ended {
    /// A signal stopped the program.
    pub(super) stopped: bool,
    /// An error if a stream could not be opened at the start, or had failed when the last stream ended.
    pub(super) result: Result<()>,
}

pub(super) struct StreamManager<H> {
    tools: ManagerDependencies<H>,
    rules: Rules,
    vote: VoteConfig,
    /// Values at the start of the keys that take effect only at the start.
    fixed: Fixed,
    entries: BTreeMap<String, ManagedStream>,
    /// Streams of the start that are not opened yet, in order.
    ids: Vec<String>,
    /// Results of threads. `done_to` keeps the channel open.
    done: Receiver<Done>,
    done_to: Sender<Done>,
    /// Queues that ended before their stream was known: a source that ends at once overtakes the thread that opened it.
    early: Vec<(QueueId, Option<Error>)>,
    /// The last run of removed streams. A new stream of such a name continues after it.
    runs: BTreeMap<String, RunId>,
    /// Streams that were paused because opening them ended the process.
    held: BTreeSet<String>,
    suspects: crash_guard::Suspects,
    /// Number of openings so far, which identifies each.
    tickets: u64,
    /// The last version number of settings.
    generation: u64,
    /// The configuration file is being read.
    reading: bool,
    /// It must be read once more after that.
    read_again: bool,
    stopping: Option<Stopping>,
    lingering_logged: bool,
}

impl<H: Driver + 'static> StreamManager<H> {
    pub(super) fn new(tools: ManagerDependencies<H>, rules: Rules, vote: VoteConfig, fixed: Fixed) -> Self {
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
            suspects: crash_guard::Suspects::default(),
            tickets: 0,
            generation: 0,
            reading: false,
            read_again: false,
            stopping: None,
            lingering_logged: false,
        }
    }

    /// Sets the last runs of removed streams.
    pub(super) fn restore_runs(&mut self, runs: BTreeMap<String, RunId>) {
        self.runs.extend(runs);
    }

    /// Sets the streams that start paused because opening them ended the process, and those that may have ended it.
    pub(super) fn restore_held(&mut self, held: BTreeSet<String>, suspects: BTreeSet<String>) {
        self.held = held;
        self.suspects = crash_guard::Suspects::new(suspects);
    }

    /// Adds the streams of the start, in order. [`StreamManager::run`] opens them.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are too many, or an id is invalid.
    pub(super) fn add_initial(&mut self, streams: Vec<InitialStream>) -> Result<()> {
        let (have, most) = (streams.len(), self.rules.max_streams);
        if have > most {
            let text = format!(
                "stream limit exceeded: {have} streams, --max-streams {most}; raise the limit or remove streams"
            );
            return Err(Error::Usage(text));
        }
        for stream in streams {
            let (id, is_initial) = (stream.settings.id.clone(), !stream.origin.is_guarded());
            self.enter(stream, None)?.is_initial = is_initial;
            self.ids.push(id);
        }
        Ok(())
    }

    /// Adds an entry without opening the source.
    fn enter(&mut self, stream: InitialStream, tenure: Option<Arc<FleetTenure>>) -> Result<&mut ManagedStream> {
        let InitialStream { settings, origin, generation, mut restored } = stream;
        let generation = generation.unwrap_or_else(|| self.next_generation());
        self.generation = self.generation.max(generation);
        let id = settings.id.clone();
        let info = StreamInfo { id: id.clone(), uri: settings.uri.clone(), pace: Pace::Live };
        let handle = self.tools.hub.add_stream_of(info, tenure)?;
        restored.run = restored.run.or_else(|| self.runs.get(&id).copied());
        handle.restore(restored);
        let entry = ManagedStream::new(settings, origin, generation, handle);
        entry.show(self.vote, self.rules.retry);
        Ok(self.entries.entry(id).insert_entry(entry).into_mut())
    }

    /// Adds a stream while the program runs.
    fn add(&mut self, stream: InitialStream) -> Result<()> {
        let id = stream.settings.id.clone();
        self.enter(stream, None)?;
        self.reconcile(&id);
        Ok(())
    }

    /// Manages the streams until the last has ended or a signal stops the program.
    pub(super) fn run(mut self, inbox: &ManagerInbox) -> Ended {
        for id in std::mem::take(&mut self.ids) {
            self.reconcile(&id);
        }
        let mut stop = inbox.stop.clone();
        let fleet = self.tools.control.fleet_requests();
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            select! {
                recv(inbox.requests) -> request => if let Ok(request) = request {
                    self.handle_request(request);
                },
                recv(fleet) -> request => request.into_iter().for_each(|request| self.handle_fleet(request)),
                recv(inbox.reports) -> report => match report {
                    Ok(PublisherReport::Ended { queue, error }) => self.over(queue, error),
                    Ok(PublisherReport::Removed(id)) => self.gone(&id),
                    Err(_) => {}
                },
                recv(self.done) -> done => if let Ok(done) = done {
                    self.done(done);
                },
                recv(inbox.reload) -> request => if request.is_ok() {
                    self.reload();
                },
                recv(stop) -> _ => {
                    tracing::info!("stopping: finishing the seconds in progress");
                    touchline_core::limits::stop_opening();
                    self.stop(None);
                    stop = crossbeam_channel::never();
                },
                default(self.patience()) => {}
            }
            self.check_deadlines();
        }
    }

    fn patience(&self) -> Duration {
        let waits = self.stopping.is_some() || self.entries.values().any(|e| e.phase.waits_since_ns().is_some());
        let waits = waits || self.suspects.wait() || self.entries.values().any(|e| e.revive_at_ns.is_some());
        if waits { CHECK } else { IDLE }
    }

    /// A version number greater than all before, in this process and, by the clock, in earlier ones.
    fn next_generation(&mut self) -> u64 {
        let now_ms = u64::try_from(self.tools.clock.unix_ns() / 1_000_000).unwrap_or(0);
        self.generation = (self.generation + 1).max(now_ms);
        self.generation
    }

    /// Takes the next step from the actual to the wanted state of stream `id`, unless a step is in progress.
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
            // Opening cannot be cancelled. The time limit for it starts now.
            Phase::Opening { unwanted_ns, .. } => {
                if entry.gone || !entry.settings.enabled || must_reopen {
                    unwanted_ns.get_or_insert(now_ns);
                }
            }
            Phase::Running { queue, source } => {
                let queue = *queue;
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
                    self.tools.tell(PublisherCommand::EndsInto(queue, into));
                }
                source.stop();
                entry.close(now_ns);
            }
            Phase::Idle if entry.gone => {
                entry.phase = Phase::Leaving;
                self.tools.tell(PublisherCommand::Remove(entry.handle.clone()));
            }
            Phase::Idle if is_stopping => entry.answer(Err(StreamControl::shutting_down())),
            Phase::Idle if !entry.settings.enabled => {
                // The publisher drops a state that is set already.
                let state = if self.held.contains(id) { crash_guard::held() } else { StreamState::Paused };
                self.tools.tell(PublisherCommand::SetState(entry.handle.clone(), state));
                entry.over = false;
                // If it is enabled later, a failure to open it must not end the program.
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
            // An operator enabled it: the count of crashes starts over.
            store.unmark(id, true);
        }
        let store = self.tools.store.clone().filter(|_| entry.origin == StreamOwner::Api);
        let mark = store.map(|store| crash_guard::OpeningMark::new(store, self.tools.clock.clone(), id));
        if !self.suspects.may_open(id, mark.as_ref(), self.tools.clock.mono_ns()) {
            return;
        }
        let request = OpenRequest {
            mark,
            settings: entry.settings.clone(),
            handle: entry.handle.clone(),
            vote: entry.vote(self.vote),
            expectations: entry.expectations(self.tools.hub.classes()),
            retry: entry.retries_now(self.rules.retry),
            guarded: entry.origin.is_guarded(),
        };
        self.tickets += 1;
        let ticket = self.tickets;
        entry.opened_with(request.vote, ticket, self.tools.clock.mono_ns());
        let (driver, to) = (Arc::clone(&self.tools.driver), self.done_to.clone());
        let name = format!("open/{id}");
        let done_id = id.to_owned();
        let started = spawn(&name, move || {
            let result = driver.open(request);
            // The stream manager is gone only at shutdown. The source is then dropped with the message.
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
            Done::Read(reading) => self.read_done(*reading),
        }
    }

    fn opened(&mut self, id: &str, ticket: u64, result: Result<Opened>) {
        let is_this = |e: &&mut ManagedStream| matches!(e.phase, Phase::Opening { ticket: t, .. } if t == ticket);
        let Some(entry) = self.entries.get_mut(id).filter(is_this) else {
            // The manager had given up on this opening.
            if let Ok(Opened { queue, source }) = result {
                self.tools.tell(PublisherCommand::Forget(queue));
                self.tools.driver.remove_queue(queue);
                self.tools.drop_aside(id, Some(source));
            }
            return;
        };
        let is_initial = std::mem::take(&mut entry.is_initial);
        match result {
            Ok(Opened { queue, source }) => {
                entry.phase = Phase::Running { queue, source };
                match self.early.iter().position(|(early, _)| *early == queue) {
                    Some(at) => {
                        let (_, error) = self.early.swap_remove(at);
                        self.over(queue, error);
                    }
                    None => self.reconcile(id),
                }
            }
            Err(e) => {
                entry.phase = Phase::Idle;
                if is_initial && self.stopping.is_none() {
                    return self.stop(Some(e));
                }
                self.open_failed(id, e);
            }
        }
    }

    /// The source of a stream that was added while the program runs cannot be opened.
    fn open_failed(&mut self, id: &str, error: Error) {
        if self.undo(id, &error) {
            return;
        }
        let Some(entry) = self.entries.get_mut(id) else { return };
        tracing::error!("{id}: cannot open the source: {}", touchline_core::redact::text(&error.to_string()));
        let (kind, cause, advice) = match &error {
            Error::Source { kind, cause, advice, .. } => (*kind, cause.clone(), advice.clone()),
            other => (Cause::Other, other.to_string(), "correct the stream's settings".into()),
        };
        let state = StreamState::Failed { kind, cause, advice };
        self.tools.tell(PublisherCommand::SetState(entry.handle.clone(), state));
        entry.over = true;
        entry.error = Some(error);
        self.reconcile(id);
    }

    /// A stream ended, by itself or because it was stopped.
    fn over(&mut self, queue: QueueId, error: Option<Error>) {
        let Some((id, entry)) = self.entries.iter_mut().find(|(_, e)| e.phase.queue() == Some(queue)) else {
            // It belongs to a stream that is being opened, or to one that was cut off.
            if !self.entries.values().any(|e| matches!(e.phase, Phase::Opening { .. })) {
                self.early.clear();
            }
            self.early.push((queue, error));
            return;
        };
        let id = id.clone();
        let was_asked = matches!(entry.phase, Phase::Closing { .. });
        let source = entry.phase.take_source();
        entry.over = !was_asked;
        entry.error = error.filter(|_| !was_asked);
        entry.revive_later(self.tools.clock.mono_ns());
        self.tools.driver.remove_queue(queue);
        self.tools.drop_aside(&id, source);
        self.reconcile(&id);
    }

    /// The actual state is the wanted one: applies the vote and the expectations, and answers the request.
    fn settle(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let vote = entry.vote(self.vote);
        if let Some(queue) = entry.replace_vote(vote) {
            self.tools.tell(PublisherCommand::Vote(queue, vote));
        }
        if let Some((queue, expectations)) = entry.replace_expectations(self.tools.hub.classes()) {
            self.tools.tell(PublisherCommand::Expect(queue, Box::new(expectations)));
        }
        entry.answer(Ok(id.to_owned()));
    }

    /// The publisher has removed the stream.
    fn gone(&mut self, id: &str) {
        let Some(mut entry) = self.entries.remove(id) else { return };
        self.runs.extend(entry.handle.last_run().map(|run| (id.to_owned(), run)));
        match &self.tools.store {
            // Another machine watches it.
            Some(store) if entry.origin == StreamOwner::Fleet && !entry.forgotten => store.leave(id),
            Some(store) => store.forget(id),
            None => {}
        }
        tracing::info!("{id}: removed");
        entry.answer(Ok(id.to_owned()));
        if let Some(again) = entry.again.take() {
            return self.watch_again(*again);
        }
        if !entry.gone {
            // StreamChange again meanwhile.
            let ManagedStream { settings, origin, generation, .. } = entry;
            let again = InitialStream { settings, origin, generation: Some(generation), restored: Restored::default() };
            if let Err(e) = self.add(again) {
                tracing::error!("{id}: {e}");
            }
        }
    }
}

impl<H> ManagerDependencies<H> {
    fn tell(&self, command: PublisherCommand) {
        // The publisher is gone only at shutdown.
        let _ = self.commands.send(command);
    }

    /// Drops a source on its own thread, because dropping may hang.
    fn drop_aside(&self, id: &str, source: Option<Box<dyn touchline_media::Source>>) {
        let Some(source) = source else { return };
        if let Err(e) = spawn(&format!("drop/{id}"), move || drop(source)) {
            tracing::warn!("{id}: the source was dropped on the manager's thread: {e}");
        }
    }
}
