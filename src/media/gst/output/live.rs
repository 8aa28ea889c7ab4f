//! A live output: reads the ring of a stream, waits for the decision of each second, and sends pictures with the label.
//!
//! The ring is all that it shares with the source: an output that is slow, or whose receiver is away, delays neither decoding nor
//! deciding, and its queue is the ring on the disk. What is too old for a live picture is dropped and counted.
//!
//! A picture is sent when the decision of its second is known, or when it has waited for the delay. Media are then sent at their own
//! pace, because sources deliver in bursts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::address::OutputAddress;
use super::decisions::{Decisions, LiveLabels, ShownSecond};
use super::pipeline::{OutputPipeline, free_path};
use super::{LabelForm, OutputError};
use crate::gst::clips::ring::{RingFollower, RingOptions};
use crate::gst::clips::unit::Unit;
use touchline_core::clock::Clock;
use touchline_core::error::Result;
use touchline_core::item::Track;
use touchline_core::threads::spawn;
use touchline_core::time::NANOS_PER_SECOND;

/// Between two looks at the ring. A picture lasts as long.
const POLL: Duration = Duration::from_millis(40);

/// How long a receiver may take nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the last media may take at the end.
const FINISH: Duration = Duration::from_secs(2);

/// Pauses between attempts, ns: they double.
const RETRY_MIN_NS: u64 = NANOS_PER_SECOND;
const RETRY_MAX_NS: u64 = 30 * NANOS_PER_SECOND;

/// An output without a failure for this long is open, and for ten times this long a failure begins with the shortest pause, ns.
const SETTLED_NS: u64 = NANOS_PER_SECOND;

/// Media that are this much older than the delay are dropped, ns. Segments of HLS arrive at once and are sent at their own pace.
const BEHIND_NS: u64 = 30 * NANOS_PER_SECOND;

/// Media that are held until both tracks are known, ns. Containers interleave tracks more closely.
const HELD_NS: i64 = 2 * NANOS_PER_SECOND as i64;

/// A later place than this on the clock is a new pace, ns.
const LATE_NS: u64 = NANOS_PER_SECOND / 5;

/// What a live output needs.
pub struct LiveOutputOptions {
    /// Id of the stream.
    pub id: String,
    /// The receiver.
    pub address: OutputAddress,
    /// The rings.
    pub ring: RingOptions,
    /// Media that were recorded before this wall time are not sent, nanoseconds since 1970-01-01 UTC.
    pub since_unix_ns: u64,
    /// How it has the label.
    pub form: LabelForm,
    /// Maximum time that a picture waits for its decision, ns.
    pub delay_ns: u64,
    /// The clock of arrivals.
    pub clock: Arc<dyn Clock>,
}

/// What happened to a live output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputEvent {
    /// The receiver takes data.
    Opened,
    /// It failed and is tried again after a pause.
    Failed {
        /// Why.
        error: OutputError,
        /// The pause, ns.
        retry_ns: u64,
    },
    /// Coded pictures and pieces of sound were sent.
    Sent(u64),
    /// Coded pictures and pieces of sound were dropped: the receiver was away or too slow.
    Dropped(u64),
    /// How much later than it arrived the last picture was sent, ns.
    Delayed(u64),
    /// It has ended.
    Ended,
}

/// Receives what happens to live outputs.
pub trait OutputObserver: Send + Sync {
    /// Called on the thread of the output. It must not block.
    fn event(&self, event: OutputEvent);
}

/// A running live output. Dropping it ends it, within seconds.
pub struct LiveOutput {
    stop: Option<Sender<()>>,
    is_draining: Arc<AtomicBool>,
    decisions: Arc<Mutex<Decisions>>,
    thread: Option<JoinHandle<()>>,
}

impl LiveOutput {
    /// Starts the thread `output/<id>`.
    ///
    /// # Errors
    /// If GStreamer cannot be initialised, or the system refuses to start a thread.
    pub fn start(options: LiveOutputOptions, observer: Arc<dyn OutputObserver>) -> Result<Self> {
        crate::gst::init()?;
        let (stop, stopped) = bounded(0);
        let decisions = Arc::<Mutex<Decisions>>::default();
        let is_draining = Arc::<AtomicBool>::default();
        let name = format!("output/{}", options.id);
        let mut feeder = Feeder::new(options, observer, stopped, is_draining.clone(), decisions.clone());
        let thread = spawn(&name, move || feeder.run())?;
        Ok(Self { stop: Some(stop), is_draining, decisions, thread: Some(thread) })
    }

    /// The stream has ended: the output ends after its last picture. Does not wait.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end of an output that drains.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic is reported where it happens.
            let _ = thread.join();
        }
    }

    /// Takes the decision of a second.
    pub fn decided(&self, second: ShownSecond) {
        self.decisions.lock().add(second);
    }
}

impl Drop for LiveOutput {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic is reported where it happens.
            let _ = thread.join();
        }
    }
}

/// Where the output is.
enum Connection {
    /// It is tried at this time, ns, with the next key picture.
    Waiting(u64),
    /// Units until the formats of both tracks are known.
    Holding(Vec<(Unit, i64)>),
    /// It is open since this time, ns.
    Open(Box<OutputPipeline>, u64),
}

struct Feeder {
    options: LiveOutputOptions,
    observer: Arc<dyn OutputObserver>,
    stopped: Receiver<()>,
    is_draining: Arc<AtomicBool>,
    /// Since when nothing is written to the ring, ns.
    idle_ns: Option<u64>,
    decisions: Arc<Mutex<Decisions>>,
    labels: Arc<Mutex<LiveLabels>>,
    follower: RingFollower,
    connection: Connection,
    retry_ns: u64,
    is_announced: bool,
    /// When time 0 of the output was sent, ns.
    began_ns: Option<u64>,
    /// A time on the clock and the place on the output that was sent then, ns.
    pace: Option<(u64, i64)>,
    /// The latest place on the output, ns.
    reached_ns: i64,
    sent: u64,
    dropped: u64,
    /// How much later than it arrived the last picture was sent, ns.
    delay_ns: u64,
}

impl Feeder {
    fn new(
        options: LiveOutputOptions,
        observer: Arc<dyn OutputObserver>,
        stopped: Receiver<()>,
        is_draining: Arc<AtomicBool>,
        decisions: Arc<Mutex<Decisions>>,
    ) -> Self {
        let follower = RingFollower::new(&options.ring, &options.id, options.since_unix_ns);
        Self {
            options,
            observer,
            stopped,
            is_draining,
            idle_ns: None,
            decisions,
            labels: Arc::default(),
            follower,
            connection: Connection::Waiting(0),
            retry_ns: RETRY_MIN_NS,
            is_announced: false,
            began_ns: None,
            pace: None,
            reached_ns: 0,
            sent: 0,
            dropped: 0,
            delay_ns: 0,
        }
    }

    fn run(&mut self) {
        let mut next = None;
        loop {
            if next.is_none() {
                next = self.follower.next();
            }
            let wait = match &next {
                None => POLL,
                Some((unit, arrived_ns)) => match self.wait_for(unit, *arrived_ns) {
                    None => {
                        let (unit, arrived_ns) = next.take().expect("it is there");
                        self.release(unit, arrived_ns);
                        Duration::ZERO
                    }
                    Some(wait) => wait,
                },
            };
            self.look_after();
            let is_over = self.is_drained(next.is_none());
            if is_over || self.stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        if let Connection::Open(pipeline, _) = std::mem::replace(&mut self.connection, Connection::Waiting(0)) {
            // What the receiver does not take within this time is lost with the end of the stream.
            if let Err(e) = pipeline.finish(FINISH) {
                tracing::debug!("{}: the output did not end cleanly: {e}", self.options.id);
            }
        }
        self.report();
        self.observer.event(OutputEvent::Ended);
    }

    /// Whether the stream has ended and its last unit is sent. The writer of the ring ends shortly after the stream.
    fn is_drained(&mut self, is_idle: bool) -> bool {
        let now_ns = self.options.clock.mono_ns();
        let idle_ns = if is_idle { *self.idle_ns.get_or_insert(now_ns) } else { now_ns };
        self.idle_ns = is_idle.then_some(idle_ns);
        self.is_draining.load(Ordering::Acquire) && now_ns - idle_ns > SETTLED_NS
    }

    /// How long the unit waits before it is looked at again; [`None`]: it is due.
    fn wait_for(&mut self, unit: &Unit, arrived_ns: u64) -> Option<Duration> {
        let now_ns = self.options.clock.mono_ns();
        if now_ns > arrived_ns.saturating_add(self.options.delay_ns + BEHIND_NS) {
            self.skip(unit);
            return None;
        }
        let is_decided = self.decisions.lock().find(second_of(unit), arrived_ns).is_some();
        if !is_decided && now_ns < arrived_ns.saturating_add(self.options.delay_ns) {
            return Some(POLL);
        }
        if unit.track == Track::Audio {
            // Containers interleave the tracks unevenly: the sound goes along with the pictures.
            return None;
        }
        let out_ns = self.labels.lock().timeline.place(unit.run, unit.dts_ns.unwrap_or(unit.pts_ns))?;
        let (at_ns, from_ns) = self.pace?;
        let due_ns = at_ns.saturating_add_signed(out_ns - from_ns);
        if due_ns > now_ns {
            return Some(Duration::from_nanos(due_ns - now_ns).min(POLL));
        }
        if now_ns - due_ns > LATE_NS {
            self.pace = Some((now_ns, out_ns));
        }
        None
    }

    /// Continues with the newest media.
    fn skip(&mut self, unit: &Unit) {
        self.follower.skip();
        self.close(None);
        tracing::debug!(
            "{}: the output was behind and continues with the newest media from {}",
            self.options.id,
            unit.pts_ns
        );
    }

    fn release(&mut self, unit: Unit, arrived_ns: u64) {
        let now_ns = self.options.clock.mono_ns();
        let out_ns = {
            let mut labels = self.labels.lock();
            if !labels.timeline.has(unit.run) {
                let began_ns = *self.began_ns.get_or_insert(now_ns);
                // The time of an outage passes on the output as well.
                let since_ns = i64::try_from(now_ns.saturating_sub(began_ns)).unwrap_or(i64::MAX);
                let out_ns = since_ns.max(self.reached_ns);
                labels.timeline.begin(unit.run, unit.pts_ns, out_ns);
                self.pace = None;
            }
            if unit.track == Track::Video {
                self.delay_ns = now_ns.saturating_sub(arrived_ns);
                let decoded_ns = labels.timeline.place(unit.run, unit.dts_ns.unwrap_or(unit.pts_ns));
                self.pace = self.pace.or(decoded_ns.map(|decoded_ns| (now_ns, decoded_ns)));
                if let Some(second) = self.decisions.lock().find(second_of(&unit), arrived_ns) {
                    labels.show(unit.run, second.index, second.label.clone());
                }
            }
            labels.timeline.place(unit.run, unit.pts_ns).unwrap_or(0)
        };
        self.reached_ns = self.reached_ns.max(out_ns.saturating_add_unsigned(unit.duration_ns));
        if let Err(error) = self.feed(unit, out_ns, now_ns) {
            self.close(Some(error));
        }
    }

    fn feed(&mut self, unit: Unit, out_ns: i64, now_ns: u64) -> std::result::Result<(), OutputError> {
        if let Connection::Open(pipeline, _) = &self.connection
            && !pipeline.accepts(&unit)
        {
            self.close(None);
        }
        match &mut self.connection {
            Connection::Waiting(until_ns) => {
                if now_ns >= *until_ns && unit.track == Track::Video && unit.is_key {
                    self.connection = Connection::Holding(vec![(unit, out_ns)]);
                } else {
                    self.dropped += 1;
                }
                Ok(())
            }
            Connection::Holding(held) => {
                held.push((unit, out_ns));
                let has_sound = held.iter().any(|(unit, _)| unit.track == Track::Audio);
                if has_sound || out_ns - held[0].1 >= HELD_NS {
                    let held = std::mem::take(held);
                    return self.open(held, now_ns);
                }
                Ok(())
            }
            Connection::Open(pipeline, _) => {
                pipeline.send(&unit, out_ns)?;
                pipeline.bridge_sound();
                self.sent += 1;
                let stopped = &self.stopped;
                pipeline.wait_for_room(PATIENCE, || {
                    stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)
                })
            }
        }
    }

    fn open(&mut self, held: Vec<(Unit, i64)>, now_ns: u64) -> std::result::Result<(), OutputError> {
        let first = [Track::Video, Track::Audio].map(|track| held.iter().map(|(u, _)| u).find(|u| u.track == track));
        let LiveOutputOptions { address, form, clock, .. } = &self.options;
        let address = match address {
            // An earlier recording is not overwritten.
            OutputAddress::File(path, container) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                folder.map_or(Ok(()), std::fs::create_dir_all).map_err(|e| OutputError::io(&e))?;
                OutputAddress::File(free_path(path), *container)
            }
            OutputAddress::Hls(dir) => {
                std::fs::create_dir_all(dir).map_err(|e| OutputError::io(&e))?;
                address.clone()
            }
            _ => address.clone(),
        };
        // Segments of an earlier connection may still be read.
        let name = format!("{:x}", u64::try_from(clock.unix_ns()).unwrap_or(0) / NANOS_PER_SECOND);
        let mut pipeline = OutputPipeline::open((&address, &name, true), first, form, self.labels.clone())?;
        for (unit, out_ns) in &held {
            pipeline.send(unit, *out_ns)?;
            self.sent += 1;
        }
        self.connection = Connection::Open(Box::new(pipeline), now_ns);
        Ok(())
    }

    /// Ends the connection: after a failure it is tried again after a pause, otherwise with the next key picture.
    fn close(&mut self, error: Option<OutputError>) {
        let now_ns = self.options.clock.mono_ns();
        let before = std::mem::replace(&mut self.connection, Connection::Waiting(now_ns));
        self.is_announced = false;
        match (error, before) {
            (None, Connection::Open(pipeline, _)) => {
                if let Err(e) = pipeline.finish(FINISH) {
                    tracing::debug!("{}: the output did not end cleanly: {e}", self.options.id);
                }
            }
            (None, _) => {}
            (Some(error), before) => {
                if matches!(before, Connection::Open(_, since_ns) if now_ns - since_ns > 10 * SETTLED_NS) {
                    self.retry_ns = RETRY_MIN_NS;
                }
                let retry_ns = self.retry_ns;
                self.connection = Connection::Waiting(now_ns + retry_ns);
                self.retry_ns = (2 * retry_ns).min(RETRY_MAX_NS);
                self.observer.event(OutputEvent::Failed { error, retry_ns });
            }
        }
    }

    /// Looks for errors, and reports.
    fn look_after(&mut self) {
        if let Connection::Open(pipeline, since_ns) = &self.connection {
            let (error, age_ns) = (pipeline.error(), self.options.clock.mono_ns().saturating_sub(*since_ns));
            match error {
                Some(error) => self.close(Some(error)),
                None if !self.is_announced && age_ns >= SETTLED_NS => {
                    self.is_announced = true;
                    self.observer.event(OutputEvent::Opened);
                }
                None => {}
            }
        }
        if self.sent + self.dropped >= REPORTED {
            self.report();
        }
    }

    fn report(&mut self) {
        if self.sent > 0 {
            self.observer.event(OutputEvent::Delayed(self.delay_ns));
        }
        for (count, event) in [
            (std::mem::take(&mut self.sent), OutputEvent::Sent as fn(u64) -> OutputEvent),
            (std::mem::take(&mut self.dropped), OutputEvent::Dropped),
        ] {
            if count > 0 {
                self.observer.event(event(count));
            }
        }
    }
}

/// Units between two reports.
const REPORTED: u64 = 25;

/// The second that a unit is shown in.
fn second_of(unit: &Unit) -> u64 {
    u64::try_from(unit.pts_ns).unwrap_or(0) / NANOS_PER_SECOND
}
