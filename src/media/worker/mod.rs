//! A source in a process of its own: what crashes in GStreamer, in a plugin or in a decoder ends that process, and the
//! program goes on with one source less.
//!
//! A [`WorkerOpener`] starts this very program again for each connection, as `touchline source-worker`, and hands it the source
//! over a socket. The process opens it with the same [`super::gst::GstOpener`] and says everything that comes of it; see
//! `protocol.rs`. A process that dies is an end like any other ([`Cause::Crashed`]), which a supervisor answers with another
//! connection. What one connection learns for the next is kept here, so nothing is lost with a process.
//!
//! Pictures go through the socket: shared memory would save a third of what it costs, a fifth of a percent of a core, and
//! would want `unsafe`.
//!
//! A process ends when its socket does, so none is left behind when the program is killed. `PR_SET_PDEATHSIG` would not do: it
//! goes by the thread that started the process, and those that open sources come and go.

mod child;
mod log;
mod process;
mod protocol;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

pub use child::serve;

use super::gst::{GstOptions, Learned, guarded};
use super::guard::Refusal;
use super::outlet::{Outlet, Stopper};
use super::uri::Location;
use super::{Open, Source};
use process::{Patient, Process};
use protocol::{Ask, Broken, Counts, Heard, Reader, Request, VERSION, Writer};
use touchline_core::cause::Cause;
use touchline_core::clip::SamplingPlan;
use touchline_core::clock;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace};
use touchline_core::pool::Pool;
use touchline_core::selection::FrameSelection;
use touchline_core::{limits, redact};

/// Name of the subcommand that is a source's process.
pub const SUBCOMMAND: &str = "source-worker";

/// How often a process says something, whatever its source does.
const ALIVE: Duration = Duration::from_secs(1);

/// A process that has said nothing for this long, while it was listened to, is stuck: its loop does nothing that takes time.
const SILENCE: Duration = Duration::from_secs(30);

/// How long opening may take: names are looked up and servers are asked.
const OPENING: Duration = Duration::from_secs(60);

/// How long a process has for an orderly end. A pipeline gets five seconds.
const STOPPING: Duration = Duration::from_secs(6);

/// Opens sources in processes of their own.
pub struct WorkerOpener {
    /// Of these, `counters` and `selection` stay here.
    options: GstOptions,
    /// Which pictures are converted; [`None`] = all. `options.selection` says only what is wanted beside them.
    plan: Option<SamplingPlan>,
    clock: Arc<dyn Clock>,
    program: PathBuf,
    learned: Arc<Mutex<Learned>>,
    pictures: Pool<u8>,
    sound: Pool<f32>,
}

impl WorkerOpener {
    pub fn new(options: GstOptions, plan: Option<SamplingPlan>, clock: Arc<dyn Clock>) -> Self {
        Self {
            options,
            plan,
            clock,
            // Also when another version has been put in its place.
            program: "/proc/self/exe".into(),
            learned: Arc::default(),
            pictures: Pool::new(2 * MEDIA_CHANNEL_CAPACITY),
            sound: Pool::new(2 * MEDIA_CHANNEL_CAPACITY),
        }
    }

    /// Starts `program` in place of the one that runs: for tests, which run in programs of their own.
    #[must_use]
    pub fn with_program(self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self }
    }

    fn request(&self, uri: &str) -> Request {
        let o = &self.options;
        Request {
            version: VERSION,
            uri: uri.to_owned(),
            options: o.clone(),
            sources: o.guard.as_ref().map(|policy| policy.file()),
            plan: self.plan.clone(),
            learned: self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            on_demand: o.counters.on_demand.get().copied(),
            clock_origin_ns: clock::origin_ns(&*self.clock),
        }
    }
}

impl Open for WorkerOpener {
    /// # Errors
    /// As the process's opener says, and when what it needs to know cannot be told.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let location = Location::parse(uri)?;
        let location = Location { kind: self.options.kind.unwrap_or(location.kind), ..location };
        let pace = location.pace(self.options.pacing);
        let refuse = |cause: &str, advice: &str, to| {
            let refusal = Refusal { kind: Cause::Other, cause: redact::text(cause), advice: advice.into() };
            Ok(guarded::refused(refusal, pace, to))
        };
        // A process takes three files here; the rest is its own.
        if !limits::has_room_for_source(false) {
            limits::log_out_of_files();
            return refuse(limits::OUT_OF_FILES, limits::ADVICE, to);
        }
        let (mut process, socket) = match Process::start(&self.program, &self.options.id) {
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
        let speaker = Speaker::new(&socket).map_err(|e| Error::Internal(format!("a socket of a process: {e}")))?;
        if let Err(e) = speaker.say(&Ask::Open(Box::new(self.request(uri)))) {
            let is_ours = matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData);
            return match is_ours {
                true => Err(Error::Usage(format!("{}: {e}", redact::uri(uri)))),
                false => refuse(&format!("the source's process took no request: {e}"), "check the machine's load", to),
            };
        }
        let outlet = Outlet::new(to);
        let stopper = outlet.stopper();
        let patient = Patient::new(socket, OPENING);
        let mut reader = Reader::new(patient, self.pictures.clone(), self.sound.clone());
        let mut broken = None;
        match reader.hear(|| self.clock.mono_ns()) {
            Ok(Heard::Started) => {}
            Ok(Heard::NotOpened(why)) => {
                process.finish();
                return Err(why.into());
            }
            Ok(other) => broken = Some(Broken::Garbled(format!("{other:?} before it began"))),
            Err(e) => broken = Some(e),
        }
        let listener = Listener {
            process,
            reader,
            speaker: speaker.clone(),
            outlet,
            clock: self.clock.clone(),
            selection: self.options.selection.clone(),
            is_wanted: false,
            counters: self.options.counters.clone(),
            counts: Counts::default(),
            learned: self.learned.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("work/{}", self.options.id))
            .spawn(move || listener.run(broken))
            .map_err(|e| Error::Internal(format!("cannot start the thread of a source: {e}")))?;
        Ok(Box::new(WorkerSource { pace, stopper, speaker, thread: Some(thread) }))
    }
}

/// Says things to a process. Cloning shares it.
#[derive(Clone)]
struct Speaker(Arc<Mutex<Writer<UnixStream>>>);

impl Speaker {
    fn new(socket: &UnixStream) -> std::io::Result<Self> {
        let socket = socket.try_clone()?;
        // Little is said: a process that has no room for it does not listen.
        socket.set_write_timeout(Some(ALIVE))?;
        Ok(Self(Arc::new(Mutex::new(Writer::new(socket)))))
    }

    fn say(&self, ask: &Ask) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).head(ask)
    }
}

struct WorkerSource {
    pace: Pace,
    stopper: Stopper,
    speaker: Speaker,
    thread: Option<JoinHandle<()>>,
}

impl Source for WorkerSource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
        // A process that is gone needs no word, and the listener sees that it is.
        let _ = self.speaker.say(&Ask::Stop);
    }
}

impl Drop for WorkerSource {
    fn drop(&mut self) {
        self.stopper.abandon();
        let _ = self.speaker.say(&Ask::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed where it happened; there is no one to hand it to here.
            let _ = thread.join();
        }
    }
}

/// The thread that takes what a process says.
struct Listener {
    process: Process,
    reader: Reader<Patient>,
    speaker: Speaker,
    outlet: Outlet,
    clock: Arc<dyn Clock>,
    selection: Option<FrameSelection>,
    /// What the process was told of it.
    is_wanted: bool,
    counters: Arc<super::outlet::Counters>,
    /// Of this process.
    counts: Counts,
    learned: Arc<Mutex<Learned>>,
}

impl Listener {
    fn run(mut self, broken: Option<Broken>) {
        self.reader.from().listen(self.outlet.clone(), SILENCE, STOPPING);
        let heard = broken.map_or_else(|| self.take_all(), Err);
        let end = match heard {
            // What it says while it is being stopped is no news.
            Ok(_) if self.outlet.stopped() => End::Finished,
            Ok(end) => end,
            Err(broken) => self.crashed(broken),
        };
        self.outlet.send_end(end);
        self.process.finish();
    }

    fn take_all(&mut self) -> Result<End, Broken> {
        // Nobody receives any more, or it was asked to stop.
        let mut is_closed = false;
        loop {
            let clock = self.clock.clone();
            let item = match self.reader.hear(move || clock.mono_ns())? {
                Heard::Item(MediaItem::Ended(end)) => return Ok(end),
                Heard::Item(item) => item,
                Heard::Counts(counts) => {
                    counts.add_to(&self.counts, &self.counters);
                    self.counts = counts;
                    continue;
                }
                Heard::Learned(learned) => {
                    *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = learned;
                    continue;
                }
                Heard::Alive => continue,
                Heard::Started | Heard::NotOpened(_) => return Err(Broken::Garbled("that it begins, again".into())),
            };
            let is_picture = matches!(item, MediaItem::Frame(_) | MediaItem::Unconverted { .. });
            if !is_closed && self.outlet.send(item).is_err() {
                is_closed = true;
                // Nothing that it says is of use; its end is.
                self.outlet.stop();
                let _ = self.speaker.say(&Ask::Stop);
            }
            if is_picture {
                self.say_what_is_wanted();
            }
        }
    }

    /// Whether a viewer wants a picture that the plan does not choose. Looked at with every picture, as it is without a process.
    fn say_what_is_wanted(&mut self) {
        let is_wanted = self.selection.as_ref().is_some_and(FrameSelection::is_wanted);
        if std::mem::replace(&mut self.is_wanted, is_wanted) != is_wanted {
            let _ = self.speaker.say(&Ask::Wanted(is_wanted));
        }
    }

    /// The end of a process that came to none in order.
    fn crashed(&mut self, broken: Broken) -> End {
        let how = match broken {
            Broken::Over => self.process.how_it_ended(),
            Broken::Garbled(what) => {
                self.process.kill();
                process::Died {
                    cause: format!("the source's process says what cannot be: {what}"),
                    advice: process::ADVICE,
                }
            }
            Broken::Failed(e) => {
                self.process.kill();
                process::Died { cause: format!("the source's process does not answer: {e}"), advice: process::ADVICE }
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
