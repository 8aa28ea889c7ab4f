//! The clip threads, the inference thread and their channels.
//!
//! ```text
//!  source threads ── MediaItem ──► clip/<id> ── seconds ──► Backlog ──► infer ── Decided ──► publisher
//!                    bounded 64     one a stream            sheds        owns the device      (main thread)
//! ```
//! The pack is replaced between two batches ([`EngineSwapper`]). Copies of each second may go to a shadow
//! ([`crate::shadow`]) and into memory ([`crate::teach`]).
//!
//! Ends travel in-band: a source sends `Ended`, the clip builder flushes and passes it on, the publisher counts it. So
//! no decided second is lost.

mod inference;
mod part;
mod posters;
mod programme;
#[cfg(test)]
mod tests;

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::inference::Infer;
use self::part::PartFilter;
pub use self::part::{PartRange, PartReport};
pub use self::posters::{PosterFeed, PosterThread};
use self::programme::ProgrammeFilter;
use crate::backlog::{Backlog, LivePressure, QueueId};
use crate::metrics::{Metrics, StageThread};
use crate::relief::AutoTiers;
use crate::shadow::ShadowFeed;
use crate::teach::TeachFeed;
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::infer::{Engine, Models};
use touchline_compute::models::pack::Pack;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits};
use touchline_core::clock::Clock;
use touchline_core::decision::SecondOutcome;
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace};
use touchline_core::threads::{Heartbeat, spawn};
use touchline_core::tier::SharedTier;
use touchline_core::time::RunId;

/// Capacity of the channel from inference to publishing. With files only, a slow reader of standard output blocks
/// publishing, and then inference.
const DECISIONS: usize = 64;

/// How seconds of different streams are batched. `None` selects the default of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// Largest batch, seconds.
    pub max: Option<usize>,
    /// How long the first second of a batch waits for others.
    pub wait: Option<Duration>,
    /// Lower tiers and use fewer pictures per second during an overload ([`crate::frame_share`]).
    pub adaptive: bool,
}

impl Batching {
    /// On the CPU a second costs as much in a batch as alone: waiting gains nothing.
    const CPU: (usize, Duration) = (4, Duration::ZERO);
    /// On a GPU the first second of a batch costs as much as a dozen.
    const GPU: (usize, Duration) = (64, Duration::from_millis(20));

    fn resolve(self, on_gpu: bool) -> (usize, Duration) {
        let (max, wait) = if on_gpu { Self::GPU } else { Self::CPU };
        (self.max.unwrap_or(max), self.wait.unwrap_or(wait))
    }
}

/// Where copies of decided seconds go. None of them may delay a decision.
#[derive(Clone, Default)]
pub struct Feeds {
    /// A second pack.
    pub shadow: Option<ShadowFeed>,
    /// The memory that corrections are made from.
    pub teach: Option<TeachFeed>,
    /// Pictures for segments.
    pub posters: Option<PosterFeed>,
}

/// The output of inference for a stream, in order.
#[derive(Debug)]
pub struct Decided {
    /// The queue of the stream.
    pub queue: QueueId,
    /// The decision or the news.
    pub item: DecidedItem,
}

/// A decision or news of a stream.
#[derive(Debug)]
pub enum DecidedItem {
    /// A second was decided, or became a gap.
    Outcome {
        /// The decision or the gap.
        outcome: SecondOutcome,
        /// Seconds that wait behind this one.
        backlog: u32,
    },
    /// A [`ClipOutput`] other than a second or a gap.
    News(ClipOutput),
}

/// Sees each item before it is cut into seconds, for previews and counters. Called on the clip thread.
pub type Tap = Box<dyn FnMut(&MediaItem) + Send>;

/// The clip threads and the inference thread.
pub struct Workers {
    backlog: Arc<Backlog>,
    /// The models loaded at the start. The streams are opened for their pack; a replacement must accept the streams as
    /// they are.
    models: Models,
    swapper: EngineSwapper,
    intake: Intake,
    infer: Option<JoinHandle<()>>,
    beat: Heartbeat,
    /// Closed when the inference thread has ended.
    pub decided: Receiver<Decided>,
}

impl Workers {
    /// Loads the models of a pack on the inference thread and returns when they are warm.
    /// `batch_max`: largest batch, seconds.
    ///
    /// # Errors
    /// [`Error::Pack`] if the weights do not match the pack.
    pub fn start(pack: Pack, batch_max: usize, metrics: Metrics, clock: Arc<dyn Clock>) -> Result<Self> {
        let batching = Batching { max: Some(batch_max), wait: Some(Duration::ZERO), adaptive: false };
        Self::start_with_feeds(pack, batching, metrics, clock, Feeds::default())
    }

    /// As [`Workers::start`], with a copy of every decided second to `feeds`.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn start_with_feeds(
        pack: Pack,
        batching: Batching,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
        feeds: Feeds,
    ) -> Result<Self> {
        let backlog = Arc::new(Backlog::with_clock(clock.clone()));
        let (decided_to, decided) = bounded(DECISIONS);
        let (swaps_to, swaps) = bounded(1);
        let (ready_to, ready) = bounded::<Result<Models>>(1);
        let beat = Heartbeat::default();
        let counts = metrics.clone();
        let auto_tiers = AutoTiers::default();
        let infer = spawn("infer", {
            let (backlog, feeds, beat) = (Arc::clone(&backlog), feeds.clone(), beat.clone());
            let auto_tiers = auto_tiers.clone();
            move || match Engine::load(pack) {
                Err(e) => drop(ready_to.send(Err(e))),
                Ok(engine) => {
                    if ready_to.send(Ok(engine.models().clone())).is_ok() {
                        let infer = Infer { engine, swaps, feeds, metrics, clock, beat, auto_tiers };
                        infer.run(&backlog, batching, &decided_to);
                    }
                }
            }
        })?;
        let models = ready.recv().map_err(|_| Error::Internal("the inference thread ended while loading".into()))??;
        let swapper = EngineSwapper { swaps: swaps_to, backlog: Arc::clone(&backlog) };
        let pack = models.pack().clone();
        let intake = Intake {
            backlog: Arc::clone(&backlog),
            pack,
            feeds,
            metrics: counts,
            clips: Arc::default(),
            signals: SignalConfig::default(),
            auto_tiers,
        };
        Ok(Self { backlog, models, swapper, intake, infer: Some(infer), beat, decided })
    }

    /// Sets when test bars, black, freeze and silence count, for streams that are added from now on. Clones of the
    /// intake keep theirs.
    #[must_use]
    pub fn with_signals(mut self, signals: SignalConfig) -> Self {
        self.intake.signals = signals;
        self
    }

    /// The pack loaded at the start.
    pub fn pack(&self) -> &Pack {
        self.models.pack()
    }

    /// The models loaded at the start.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Replaces the running pack.
    pub fn swapper(&self) -> EngineSwapper {
        self.swapper.clone()
    }

    /// Adds and removes streams.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Counts the turns of the inference loop.
    pub fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    /// As [`Intake::add_stream`], starting with run 0.
    ///
    /// # Errors
    /// As [`Intake::add_stream`].
    pub fn add_stream(
        &self,
        id: &str,
        pace: Pace,
        behind_ns: u64,
        tier: SharedTier,
        tap: Tap,
    ) -> Result<(QueueId, Sender<MediaItem>)> {
        self.intake.add_stream(id, pace, behind_ns, RunId(0), tier, tap)
    }

    /// Adds a recording of which a part is decided. Returns its queue, the channel for its source, and what is found meanwhile.
    ///
    /// # Errors
    /// As [`Intake::add_stream`].
    pub fn add_part(
        &self,
        id: &str,
        range: PartRange,
        tier: SharedTier,
        tap: Tap,
    ) -> Result<(QueueId, Sender<MediaItem>, Arc<Mutex<PartReport>>)> {
        let (filter, report) = PartFilter::new(self.intake.signals, range);
        let stream = StreamBegin { id, pace: Pace::File, behind_ns: 0, first: RunId(0), tier };
        let (queue, to) = self.intake.add(stream, SecondFilter::Part(filter), tap)?;
        Ok((queue, to, report))
    }

    /// As [`Intake::remove_queue`].
    pub fn remove_queue(&self, queue: QueueId) {
        self.intake.remove_queue(queue);
    }

    /// Pushes an item of a stream without a source: a still picture is one second.
    pub fn push(&self, queue: QueueId, item: ClipOutput) -> bool {
        self.backlog.push(queue, item)
    }

    /// A queue for [`Workers::push`].
    pub fn add_queue(&self, pace: Pace) -> QueueId {
        self.backlog.add_queue(pace)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.backlog.close();
        // Unblocks the inference thread if it is sending a decision.
        self.decided = crossbeam_channel::never();
        let clips = std::mem::take(&mut *self.intake.clips());
        for thread in clips.into_iter().chain(self.infer.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked; see the panic message above");
            }
        }
    }
}

/// Adds streams: each gets a queue in the backlog and a clip thread. Cloning shares it.
#[derive(Clone)]
pub struct Intake {
    backlog: Arc<Backlog>,
    /// The pack that the streams are opened for.
    pack: Arc<Pack>,
    feeds: Feeds,
    metrics: Metrics,
    clips: Arc<Mutex<Vec<JoinHandle<()>>>>,
    signals: SignalConfig,
    auto_tiers: AutoTiers,
}

impl Intake {
    /// The pack that the streams are opened for.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The live streams with `tier = "auto"`.
    pub fn auto_tiers(&self) -> &AutoTiers {
        &self.auto_tiers
    }

    /// Adds a stream whose first run is `first`, and starts its clip thread. Returns the channel for its source.
    /// `tier`: which pictures the source decodes. `behind_ns`: the delay between capture and arrival ([`touchline_media::uri::Location::behind_ns`]).
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn add_stream(
        &self,
        id: &str,
        pace: Pace,
        behind_ns: u64,
        first: RunId,
        tier: SharedTier,
        tap: Tap,
    ) -> Result<(QueueId, Sender<MediaItem>)> {
        let filter = SecondFilter::All(ProgrammeFilter::new(self.signals));
        self.add(StreamBegin { id, pace, behind_ns, first, tier }, filter, tap)
    }

    fn add(
        &self,
        StreamBegin { id, pace, behind_ns, first, tier }: StreamBegin<'_>,
        filter: SecondFilter,
        tap: Tap,
    ) -> Result<(QueueId, Sender<MediaItem>)> {
        let queue = self.backlog.add_queue(pace);
        if let Some(shadow) = &self.feeds.shadow {
            shadow.add_stream(queue, id);
        }
        if let Some(teach) = &self.feeds.teach {
            teach.add_stream(queue, id);
        }
        if let Some(posters) = &self.feeds.posters {
            posters.add_stream(queue, id);
        }
        let (to, media) = bounded(MEDIA_CHANNEL_CAPACITY);
        let builder = ClipBuilder::new(ClipConfig {
            sample_rate: self.pack.sample_rate(),
            plan: self.pack.plan.clone(),
            lag: LagLimits::for_pace(pace),
            behind_ns,
        });
        let builder = builder.from_run(first).at(tier);
        let (backlog, metrics) = (Arc::clone(&self.backlog), self.metrics.clone());
        let clip = move || {
            // The stream fails and the program continues.
            let looped = metrics.contain(StageThread::Clip, || {
                clip_loop(builder, filter, &media, (&backlog, queue), tap, &metrics);
            });
            // Dropped before anything blocks: the source sees at once that the channel is closed.
            drop(media);
            if looped.is_none() {
                backlog.push(queue, ClipOutput::Ended(broken("a thread of this stream panicked")));
            }
        };
        let clip = spawn(&format!("clip/{id}"), clip).inspect_err(|_| self.remove_queue(queue))?;
        let mut clips = self.clips();
        clips.retain(|clip| !clip.is_finished());
        clips.push(clip);
        Ok((queue, to))
    }

    /// How busy the live streams keep inference.
    pub fn pressure(&self) -> LivePressure {
        self.backlog.pressure()
    }

    /// Removes the queue of a stream that has ended. Its waiting seconds are not decided.
    pub fn remove_queue(&self, queue: QueueId) {
        self.backlog.remove_queue(queue);
        self.auto_tiers.remove(queue);
        if let Some(shadow) = &self.feeds.shadow {
            shadow.remove_stream(queue);
        }
        if let Some(teach) = &self.feeds.teach {
            teach.remove_stream(queue);
        }
        if let Some(posters) = &self.feeds.posters {
            posters.remove_stream(queue);
        }
    }

    /// Turns all waiting seconds into gaps, at shutdown.
    pub fn shed_all(&self) {
        self.backlog.shed_all();
    }

    /// Makes the inference loop turn once, for the watchdog.
    pub fn nudge(&self) {
        self.backlog.nudge();
    }

    fn clips(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.clips.lock()
    }
}

/// A stream that is added.
struct StreamBegin<'a> {
    id: &'a str,
    pace: Pace,
    behind_ns: u64,
    first: RunId,
    tier: SharedTier,
}

/// What lies between the clip builder and the backlog.
enum SecondFilter {
    /// Of a stream.
    All(ProgrammeFilter),
    /// Of a part of a recording.
    Part(PartFilter),
}

impl SecondFilter {
    fn pass(&mut self, output: ClipOutput, push: impl FnMut(ClipOutput) -> bool) -> bool {
        match self {
            Self::All(filter) => filter.pass(output, push),
            Self::Part(filter) => filter.pass(output, push),
        }
    }
}

fn clip_loop(
    mut builder: ClipBuilder,
    mut filter: SecondFilter,
    media: &Receiver<MediaItem>,
    (backlog, queue): (&Backlog, QueueId),
    mut tap: Tap,
    metrics: &Metrics,
) {
    let mut out = Vec::new();
    let mut pass = |output| {
        let is_broken = matches!(&output, ClipOutput::Ended(End::Failed { kind: Cause::Internal, .. }));
        let passed = filter.pass(output, |output| backlog.push(queue, output));
        // Not for a removed stream, whose source may be dropped before it sends an end.
        if is_broken && passed {
            metrics.panicked(StageThread::Source);
        }
        passed
    };
    for item in media {
        let ended = matches!(item, MediaItem::Ended(_));
        tap(&item);
        builder.push(item, &mut out);
        for output in out.drain(..) {
            if !pass(output) {
                return;
            }
        }
        if ended {
            return;
        }
    }
    // The channel closed without an end. The publisher waits for one.
    builder.push(MediaItem::Ended(broken("the threads of the source ended without an end of the stream")), &mut out);
    for output in out.drain(..) {
        if !pass(output) {
            return;
        }
    }
}

/// The end of a stream after a fault of the program.
fn broken(cause: &str) -> End {
    let advice = "report this bug with the command line and the log".to_owned();
    End::Failed { kind: Cause::Internal, cause: cause.to_owned(), advice }
}

/// An engine for the inference thread, and the channel that returns the one it replaces.
struct EngineSwap {
    engine: Box<Engine>,
    replaced: Sender<Box<Engine>>,
}

/// Replaces the engine of the inference thread. Cloning shares it.
#[derive(Clone)]
pub struct EngineSwapper {
    swaps: Sender<EngineSwap>,
    backlog: Arc<Backlog>,
}

impl EngineSwapper {
    /// Replaces the engine between two batches and returns the old one, so that the inference thread does not spend
    /// time freeing it. Waits for the current batch.
    ///
    /// # Errors
    /// [`Error::Internal`] when the inference thread has ended.
    pub fn swap(&self, engine: Engine) -> Result<Box<Engine>> {
        let ended = || Error::Internal("the inference thread ended while the pack was replaced".into());
        let (replaced_to, replaced) = bounded(1);
        self.swaps.send(EngineSwap { engine: Box::new(engine), replaced: replaced_to }).map_err(|_| ended())?;
        self.backlog.nudge();
        replaced.recv().map_err(|_| ended())
    }
}
