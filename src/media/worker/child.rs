//! The worker process of a source: opens it and sends its items and state to the program.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded, never, select, unbounded};
use rustix::process::{Signal, getpid, kill_process};

use super::ALIVE;
use super::protocol::{
    CounterSnapshot, MessageReader, MessageWriter, OpenRequest, VERSION, WorkerCommand, WorkerMessage,
};
use crate::facts::{MediaFacts, SharedFacts};
use crate::gst::{GstOpener, GstOptions};
use crate::guard::SourcePolicy;
use crate::outlet::Counters;
use crate::{Open, Source};
use touchline_core::cause::Cause;
use touchline_core::clip::PlanSelector;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MediaItem};
use touchline_core::pool::Pool;
use touchline_core::threads::spawn;
use touchline_core::tier::SharedTier;

/// Capacity of the channel between the source and the socket: slack for a thread switch. The real buffers are in the program, so that
/// buffering is the same with and without a process.
const CAPACITY: usize = 4;

/// Serves one source over `socket`. The process ends when this returns.
///
/// # Errors
/// When the program's first message is invalid.
pub fn serve(socket: UnixStream) -> Result<()> {
    let broken = |what: &dyn std::fmt::Display| Error::Internal(format!("the process of a source: {what}"));
    let read = socket.try_clone().map_err(|e| broken(&e))?;
    let mut reader = MessageReader::new(read, Pool::new(1), Pool::new(1));
    let WorkerCommand::Open(request) = reader.head().map_err(|e| broken(&format!("{e:?}")))? else {
        return Err(broken(&"the first message is not a request to open a source"));
    };
    if request.version != VERSION {
        return Err(broken(&format!("messages of version {}, known is {VERSION}", request.version)));
    }
    let wanted = Arc::<AtomicBool>::default();
    let (stop_to, stop) = unbounded();
    // From here on this process ends with the program, even while the source is being opened.
    let tier = SharedTier::new(request.tier);
    let (is_wanted, current) = (wanted.clone(), tier.clone());
    spawn("commands", move || {
        loop {
            match reader.head() {
                Ok(WorkerCommand::Wanted(wanted)) => is_wanted.store(wanted, Ordering::Relaxed),
                Ok(WorkerCommand::Tier(tier)) => current.set(tier),
                // The receiver ends with the process.
                Ok(WorkerCommand::Stop) => drop(stop_to.send(())),
                Ok(WorkerCommand::Open(_)) | Err(_) => end_now(),
            }
        }
    })?;
    let (counters, facts) = (Arc::<Counters>::default(), SharedFacts::default());
    let mut writer = MessageWriter::new(socket);
    let (to, items) = bounded(CAPACITY);
    match open(*request, wanted, tier, (counters.clone(), facts.clone()), to) {
        Ok((opener, source)) => {
            let mut reporter = Reporter {
                writer,
                opener,
                counters,
                counts: CounterSnapshot::default(),
                facts,
                sent_facts: MediaFacts::default(),
                hints: String::new(),
            };
            // Fails when the program is gone, so nothing needs an orderly end.
            reporter.forward(source, &items, &stop).unwrap_or_else(|_| end_now());
        }
        Err(e) => writer.head(&WorkerMessage::NotOpened(e.into())).unwrap_or_else(|_| end_now()),
    }
    Ok(())
}

/// Kills the process: exit handlers could wait for threads that hang.
fn end_now() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

fn open(
    request: OpenRequest,
    wanted: Arc<AtomicBool>,
    tier: SharedTier,
    (counters, facts): (Arc<Counters>, SharedFacts),
    to: crossbeam_channel::Sender<MediaItem>,
) -> Result<(GstOpener, Box<dyn Source>)> {
    if let Some(on_demand) = request.on_demand {
        counters.on_demand.get_or_init(|| on_demand);
    }
    let options = GstOptions {
        counters,
        facts,
        guard: request.sources.as_ref().map(SourcePolicy::new).transpose()?.map(Arc::new),
        selection: request
            .plan
            .map(|plan| PlanSelector::selection(&plan).at(tier).unless(move || wanted.load(Ordering::Relaxed))),
        ..request.options
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::with_origin(request.clock_origin_ns));
    let opener = GstOpener::new(options, clock)?;
    opener.apply_hints(request.hints);
    let source = opener.open(&request.uri, to)?;
    Ok((opener, source))
}

/// Sends the items of a source, and its counters, facts and hints when they change.
struct Reporter {
    writer: MessageWriter<UnixStream>,
    opener: GstOpener,
    counters: Arc<Counters>,
    counts: CounterSnapshot,
    facts: SharedFacts,
    sent_facts: MediaFacts,
    hints: String,
}

impl Reporter {
    fn forward(
        &mut self,
        mut source: Box<dyn Source>,
        items: &Receiver<MediaItem>,
        stop: &Receiver<()>,
    ) -> io::Result<()> {
        self.writer.head(&WorkerMessage::Started)?;
        let mut stop = stop.clone();
        let clock = SystemClock::new();
        let mut hints_ns = 0;
        loop {
            let item = select! {
                recv(items) -> item => item.ok().or_else(|| Some(MediaItem::Ended(thread_ended()))),
                recv(stop) -> _ => {
                    source.stop();
                    stop = never();
                    None
                }
                default(ALIVE) => {
                    self.writer.head(&WorkerMessage::Alive)?;
                    None
                }
            };
            let is_end = matches!(item, Some(MediaItem::Ended(_)));
            self.send_counters()?;
            self.send_facts()?;
            if is_end || clock.mono_ns() - hints_ns > ALIVE.as_nanos() as u64 {
                hints_ns = clock.mono_ns();
                self.send_hints()?;
            }
            if let Some(item) = item {
                self.writer.item(item)?;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Sends the counters if they changed. Must precede the item that changed them, so that they are complete at the end.
    fn send_counters(&mut self) -> io::Result<()> {
        let counts = CounterSnapshot::of(&self.counters);
        if counts != self.counts {
            self.writer.head(&WorkerMessage::Counts(counts.clone()))?;
            self.counts = counts;
        }
        Ok(())
    }

    /// Sends the facts if they changed, before the media that they describe.
    fn send_facts(&mut self) -> io::Result<()> {
        if let Some(facts) = self.facts.newer_than(&self.sent_facts) {
            self.writer.head(&WorkerMessage::Facts(facts.clone()))?;
            self.sent_facts = facts;
        }
        Ok(())
    }

    fn send_hints(&mut self) -> io::Result<()> {
        let hints = self.opener.hints();
        let text = serde_json::to_string(&hints)?;
        if text != self.hints {
            self.writer.head(&WorkerMessage::Hints(hints))?;
            self.hints = text;
        }
        Ok(())
    }
}

fn thread_ended() -> End {
    End::Failed {
        kind: Cause::Internal,
        cause: "the source's thread ended unexpectedly".into(),
        advice: "please report this with the command you ran".into(),
    }
}
