//! Sources in processes of their own: a crash in GStreamer, a plugin or a decoder ends only the process of that source.
//!
//! For each connection a [`WorkerOpener`] starts the program again as `touchline source-worker` and sends it the source over a
//! socket. The process opens the source with the same [`super::gst::GstOpener`] and sends back items and state; see
//! `protocol.rs`. A process that dies ends the source with [`Cause::Crashed`], and a supervisor reconnects. The hints of one
//! connection for the next are kept in the program, so a crash does not lose them.
//!
//! Pictures are sent through the socket. Shared memory would save a third of that cost, a fifth of a percent of a core, and would
//! need `unsafe`.
//!
//! A process ends when its socket closes, so none remains when the program is killed. `PR_SET_PDEATHSIG` does not work here: it
//! applies to the thread that started the process, and the threads that open sources are short-lived.

mod child;
mod log;
mod process;
mod protocol;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

pub use child::serve;

use super::facts::SharedFacts;
use super::gst::{ConnectionHints, GstOptions, guarded};
use super::guard::Refusal;
use super::outlet::{Outlet, Stopper};
use super::uri::Location;
use super::{Open, Source};
use process::{TimedReader, WorkerProcess};
use protocol::{
    CounterSnapshot, MessageReader, MessageWriter, OpenRequest, ReadError, ReceivedMessage, VERSION, WorkerCommand,
};
use touchline_core::cause::Cause;
use touchline_core::clip::SamplingPlan;
use touchline_core::clock;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace};
use touchline_core::pool::Pool;
use touchline_core::selection::FrameSelection;
use touchline_core::tier::DecodeTier;
use touchline_core::{limits, redact};

/// Name of the subcommand that runs a source's process.
pub const SUBCOMMAND: &str = "source-worker";

/// How often a process sends a message, even if its source is silent.
const ALIVE: Duration = Duration::from_secs(1);

/// A process without a message for this long, while the program reads, is stuck: its loop does nothing that takes time.
const SILENCE: Duration = Duration::from_secs(30);

/// Time limit for opening a source, which includes name look-ups and requests.
const OPENING: Duration = Duration::from_secs(60);

/// Time limit for an orderly end. A pipeline has five seconds of it.
const STOPPING: Duration = Duration::from_secs(6);

/// Opens sources in processes of their own.
pub struct WorkerOpener {
    /// `counters`, `facts` and `selection` are not sent to the process.
    options: GstOptions,
    /// Which pictures are converted; [`None`]: all. `options.selection` only adds pictures that a preview wants.
    plan: Option<SamplingPlan>,
    clock: Arc<dyn Clock>,
    program: PathBuf,
    hints: Arc<Mutex<ConnectionHints>>,
    pictures: Pool<u8>,
    sound: Pool<f32>,
}

impl WorkerOpener {
    /// An opener with `options`. `plan` is the sampling plan of the seconds; [`None`]: all pictures are converted.
    pub fn new(options: GstOptions, plan: Option<SamplingPlan>, clock: Arc<dyn Clock>) -> Self {
        Self {
            options,
            plan,
            clock,
            // The running version, even if the file on disk has been replaced.
            program: "/proc/self/exe".into(),
            hints: Arc::default(),
            pictures: Pool::new(2 * MEDIA_CHANNEL_CAPACITY),
            sound: Pool::new(2 * MEDIA_CHANNEL_CAPACITY),
        }
    }

    /// Starts `program` instead of the running one. For tests.
    #[must_use]
    pub fn with_program(self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self }
    }

    fn request(&self, uri: &str) -> OpenRequest {
        let o = &self.options;
        OpenRequest {
            version: VERSION,
            uri: uri.to_owned(),
            options: o.clone(),
            sources: o.guard.as_ref().map(|policy| policy.file()),
            plan: self.plan.clone(),
            tier: o.selection.as_ref().map_or(DecodeTier::Full, FrameSelection::tier),
            hints: self.hints.lock().clone(),
            on_demand: o.counters.on_demand.get().copied(),
            clock_origin_ns: clock::origin_ns(&*self.clock),
        }
    }
}

impl Open for WorkerOpener {
    /// # Errors
    /// The error of the process's opener, or a request that cannot be serialised.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let location = Location::parse(uri)?;
        let location = Location { kind: self.options.kind.unwrap_or(location.kind), ..location };
        let pace = location.pace(self.options.pacing);
        let refuse = |cause: &str, advice: &str, to| {
            let refusal = Refusal { kind: Cause::Other, cause: redact::text(cause), advice: advice.into() };
            Ok(guarded::refused(refusal, pace, to))
        };
        // A process needs three files here; its other files count against its own limit.
        if !limits::has_room_for_source(false) {
            limits::log_out_of_files();
            return refuse(limits::OUT_OF_FILES, limits::ADVICE, to);
        }
        let (mut process, socket) = match WorkerProcess::start(&self.program, &self.options.id, self.clock.clone()) {
            Ok(started) => started,
            Err(e) if limits::is_out_of_files(&e) => {
                limits::log_out_of_files();
                return refuse(limits::OUT_OF_FILES, limits::ADVICE, to);
            }
            Err(e) => {
                let advice = "check the limits on processes (systemd: TasksMax=, shell: ulimit -u) and memory";
                return refuse(&format!("the source's process cannot be started: {e}"), advice, to);
            }
        };
        let commands =
            CommandSender::new(&socket).map_err(|e| Error::Internal(format!("a socket of a process: {e}")))?;
        if let Err(e) = commands.send(&WorkerCommand::Open(Box::new(self.request(uri)))) {
            let is_ours = matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData);
            return match is_ours {
                true => Err(Error::Usage(format!("{}: {e}", redact::uri(uri)))),
                false => refuse(
                    &format!("the source's process did not read its request: {e}"),
                    "check the machine's load",
                    to,
                ),
            };
        }
        let outlet = Outlet::new(to);
        let stopper = outlet.stopper();
        let timed = TimedReader::new(socket, OPENING, self.clock.clone());
        let mut reader = MessageReader::new(timed, self.pictures.clone(), self.sound.clone());
        let mut broken = None;
        match reader.next_message(|| self.clock.mono_ns()) {
            Ok(ReceivedMessage::Started) => {}
            Ok(ReceivedMessage::NotOpened(why)) => {
                process.finish();
                return Err(why.into());
            }
            Ok(other) => broken = Some(ReadError::Invalid(format!("{other:?} before the start message"))),
            Err(e) => broken = Some(e),
        }
        let receiver = MessageReceiver {
            process,
            reader,
            commands: commands.clone(),
            outlet,
            clock: self.clock.clone(),
            selection: self.options.selection.clone(),
            is_wanted: false,
            tier: self.options.selection.as_ref().map_or(DecodeTier::Full, FrameSelection::tier),
            counters: self.options.counters.clone(),
            counts: CounterSnapshot::default(),
            facts: self.options.facts.clone(),
            hints: self.hints.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("work/{}", self.options.id))
            .spawn(move || receiver.run(broken))
            .map_err(|e| Error::Internal(format!("cannot start the thread of a source: {e}")))?;
        Ok(Box::new(WorkerSource { pace, stopper, commands, thread: Some(thread) }))
    }
}

/// Sends commands to a process. Clones share the socket.
#[derive(Clone)]
struct CommandSender(Arc<Mutex<MessageWriter<UnixStream>>>);

impl CommandSender {
    fn new(socket: &UnixStream) -> std::io::Result<Self> {
        let socket = socket.try_clone()?;
        // Commands are small: a process that has no room for one is stuck.
        socket.set_write_timeout(Some(ALIVE))?;
        Ok(Self(Arc::new(Mutex::new(MessageWriter::new(socket)))))
    }

    fn send(&self, ask: &WorkerCommand) -> std::io::Result<()> {
        self.0.lock().head(ask)
    }
}

struct WorkerSource {
    pace: Pace,
    stopper: Stopper,
    commands: CommandSender,
    thread: Option<JoinHandle<()>>,
}

impl Source for WorkerSource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
        // Fails when the process is gone, which the receiver reports.
        let _ = self.commands.send(&WorkerCommand::Stop);
    }
}

impl Drop for WorkerSource {
    fn drop(&mut self) {
        self.stopper.abandon();
        let _ = self.commands.send(&WorkerCommand::Stop);
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of the thread.
            let _ = thread.join();
        }
    }
}

/// The thread that receives the messages of a process.
struct MessageReceiver {
    process: WorkerProcess,
    reader: MessageReader<TimedReader>,
    commands: CommandSender,
    outlet: Outlet,
    clock: Arc<dyn Clock>,
    selection: Option<FrameSelection>,
    /// The values that were last sent to the process.
    is_wanted: bool,
    tier: DecodeTier,
    counters: Arc<super::outlet::Counters>,
    /// The counters of this process so far.
    counts: CounterSnapshot,
    facts: SharedFacts,
    hints: Arc<Mutex<ConnectionHints>>,
}

impl MessageReceiver {
    fn run(mut self, broken: Option<ReadError>) {
        self.reader.from().listen(self.outlet.clone(), SILENCE, STOPPING);
        let received = broken.map_or_else(|| self.take_all(), Err);
        let end = match received {
            // After a stop request, a failure is not reported.
            Ok(_) if self.outlet.stopped() => End::Finished,
            Ok(end) => end,
            Err(broken) => self.crashed(broken),
        };
        self.outlet.send_end(end);
        self.process.finish();
    }

    fn take_all(&mut self) -> Result<End, ReadError> {
        // Set when the receiver is gone or a stop was requested.
        let mut is_closed = false;
        loop {
            let clock = self.clock.clone();
            let item = match self.reader.next_message(move || clock.mono_ns())? {
                ReceivedMessage::Item(MediaItem::Ended(end)) => return Ok(end),
                ReceivedMessage::Item(item) => item,
                ReceivedMessage::Counts(counts) => {
                    counts.add_to(&self.counts, &self.counters);
                    self.counts = counts;
                    continue;
                }
                ReceivedMessage::Facts(facts) => {
                    self.facts.update(|known| *known = facts);
                    continue;
                }
                ReceivedMessage::Hints(hints) => {
                    *self.hints.lock() = hints;
                    continue;
                }
                ReceivedMessage::Alive => continue,
                ReceivedMessage::Started | ReceivedMessage::NotOpened(_) => {
                    return Err(ReadError::Invalid("a second start message".into()));
                }
            };
            let is_picture = matches!(item, MediaItem::Frame(_) | MediaItem::Unconverted { .. });
            if !is_closed && self.outlet.send(item).is_err() {
                is_closed = true;
                // Further items are dropped until the end.
                self.outlet.stop();
                let _ = self.commands.send(&WorkerCommand::Stop);
            }
            if is_picture {
                self.send_selection();
            }
        }
    }

    /// Tells the process whether a preview wants pictures that the plan does not sample, and by which tier to decode. Called with
    /// every picture, as without a process.
    fn send_selection(&mut self) {
        let Some(selection) = &self.selection else { return };
        let (is_wanted, tier) = (selection.is_wanted(), selection.tier());
        if std::mem::replace(&mut self.is_wanted, is_wanted) != is_wanted {
            let _ = self.commands.send(&WorkerCommand::Wanted(is_wanted));
        }
        if std::mem::replace(&mut self.tier, tier) != tier {
            let _ = self.commands.send(&WorkerCommand::Tier(tier));
        }
    }

    /// The end for a process that did not end in order.
    fn crashed(&mut self, broken: ReadError) -> End {
        let how = match broken {
            ReadError::Closed => self.process.how_it_ended(),
            ReadError::Invalid(what) => {
                self.process.kill();
                process::ExitReport {
                    cause: format!("the source's process sent an invalid message: {what}"),
                    advice: process::ADVICE,
                }
            }
            ReadError::Failed(e) => {
                self.process.kill();
                process::ExitReport {
                    cause: format!("the source's process does not answer: {e}"),
                    advice: process::ADVICE,
                }
            }
        };
        if self.outlet.stopped() {
            self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(id = self.process.id(), "{}, while it was being stopped", how.cause);
            return End::Finished;
        }
        End::Failed { kind: Cause::Crashed, cause: redact::text(&how.cause), advice: how.advice.into() }
    }
}
