//! A supervised source as in `touchline run`, up to the seconds to be classified, with a log of its events and their times.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::Mutex;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, PlanSelector, SamplingPlan};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::frame::Frame;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace};
use touchline_core::time::{NANOS_PER_SECOND, Pts, WallTime};
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::uri::Location;
use touchline_media::{Open, Source};

use super::wait::until_or;

/// An event of the source or of the clip builder.
#[derive(Clone, Debug)]
pub enum Event {
    State(SourceState),
    Incident(Incident),
    /// The PTS of the first picture of a connection, or of the first one after a discontinuity.
    Picture(Pts),
    Run(Option<Discontinuity>),
    Second {
        run: u32,
        index: u64,
        frames: u32,
        has_sound: bool,
        wall: Option<WallTime>,
        width: u32,
    },
    Gap {
        run: u32,
        index: u64,
    },
}

impl Event {
    /// Whether the source waits because of `cause`.
    pub fn waits_for(&self, cause: Cause) -> bool {
        matches!(self, Event::State(SourceState::Waiting { kind, .. }) if *kind == cause)
    }

    pub fn plays(&self) -> bool {
        matches!(self, Event::State(SourceState::Playing))
    }

    pub fn is_second(&self) -> bool {
        matches!(self, Event::Second { .. })
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl Log {
    fn push(&self, event: Event) {
        self.0.lock().push(event);
    }
}

impl SourceObserver for Log {
    fn state(&self, state: SourceState) {
        self.push(Event::State(state));
    }

    fn incident(&self, incident: Incident) {
        self.push(Event::Incident(incident));
    }
}

/// A source whose events are logged. Dropping it stops the source.
pub struct Watched {
    log: Arc<Log>,
    source: Option<Box<dyn Source>>,
    clip: Option<JoinHandle<()>>,
    /// The number of events that [`Watched::until`] has examined.
    examined: usize,
}

/// A policy with stall times that are short enough for tests.
pub fn quick() -> Policy {
    Policy {
        retry_first: true,
        stall: Duration::from_secs(4),
        track_stall: Duration::from_secs(2),
        pictures_stall: Duration::from_secs(5),
        backoff_min: Duration::from_millis(200),
        backoff_max: Duration::from_secs(1),
        ..Policy::default()
    }
}

impl Watched {
    pub fn start(uri: &str) -> Self {
        Self::start_with(uri, GstOptions { connect_timeout: Duration::from_secs(6), ..GstOptions::default() }, quick())
    }

    pub fn start_with(uri: &str, options: GstOptions, policy: Policy) -> Self {
        let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
        let options = GstOptions { selection: Some(PlanSelector::selection(&plan)), ..options };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let log = Arc::<Log>::default();
        let kind = Location::parse(uri).expect("a known kind of source").kind;
        let supervisor = Supervisor {
            inner: Arc::new(GstOpener::new(options.clone(), clock.clone()).expect("GStreamer starts")),
            policy: Policy { reopen_on_end: kind.reopens_on_end(), stall_cause: kind.stall_cause(), ..policy },
            clock,
            observer: log.clone(),
            counters: options.counters.clone(),
            id: "watched".into(),
        };
        let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
        let source = supervisor.open(uri, to).expect("the source opens");
        let lag = LagLimits::for_pace(Pace::Live);
        let mut builder = ClipBuilder::new(ClipConfig { sample_rate: Some(32_000), plan, lag, behind_ns: 0 });
        let events = log.clone();
        let clip = std::thread::spawn(move || {
            let (mut out, mut is_new) = (Vec::new(), true);
            for item in from {
                match &item {
                    MediaItem::Discontinuity(_) => is_new = true,
                    MediaItem::Frame(Frame { pts, .. }) | MediaItem::Unconverted { pts, .. }
                        if std::mem::take(&mut is_new) =>
                    {
                        events.push(Event::Picture(*pts));
                    }
                    _ => {}
                }
                builder.push(item, &mut out);
                out.drain(..).for_each(|output| record(&events, output));
            }
        });
        Self { log, source: Some(source), clip: Some(clip), examined: 0 }
    }

    /// Waits for the next event that matches, after the last one returned.
    pub fn until(&mut self, name: &str, matches: impl Fn(&Event) -> bool) -> Event {
        let (log, examined) = (&self.log.0, self.examined);
        let poll = || log.lock()[examined..].iter().position(&matches);
        let found = until_or(poll, || format!("no {name} after {:#?}", tail(&log.lock()[..])));
        self.examined += found + 1;
        self.log.0.lock()[self.examined - 1].clone()
    }

    /// Waits for the first picture and the first second, and checks that the second begins within two seconds of media after it.
    pub fn until_classified(&mut self) {
        let Event::Picture(picture) = self.until("picture", |event| matches!(event, Event::Picture(_))) else {
            unreachable!()
        };
        let Event::Second { index, .. } = self.until("second", Event::is_second) else { unreachable!() };
        assert!(
            index < picture.0 / NANOS_PER_SECOND + 3,
            "second {index} is the first after the picture at {picture:?}"
        );
    }

    /// Ignores all events so far.
    pub fn skip(&mut self) {
        self.examined = self.log.0.lock().len();
    }

    pub fn all(&self) -> Vec<Event> {
        self.log.0.lock().clone()
    }
}

fn tail(log: &[Event]) -> &[Event] {
    &log[log.len().saturating_sub(12)..]
}

fn record(log: &Log, output: ClipOutput) {
    match output {
        ClipOutput::RunStarted { cause, .. } => log.push(Event::Run(cause)),
        ClipOutput::Second(s) => log.push(Event::Second {
            run: s.run.0,
            index: s.index,
            frames: s.frames_seen,
            has_sound: s.audio.is_some(),
            wall: s.wall,
            width: s.frames.first().map_or(0, |f| f.width),
        }),
        ClipOutput::Gap(gap) => log.push(Event::Gap { run: gap.run.0, index: gap.index }),
        _ => {}
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.source = None;
        if let Some(clip) = self.clip.take() {
            let _ = clip.join();
        }
    }
}
