//! A supervised source as `touchline run` has it, up to the seconds that would be classified, without waits of its own:
//! nothing sleeps between two attempts, and the test decides after which state it ends.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, PlanSelector, SamplingPlan};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, MEDIA_CHANNEL_CAPACITY};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::supervise::{Policy, Sleeper, SourceObserver, SourceState, Supervisor};
use touchline_media::uri::{Location, Pacing};

use super::material::{self, Mark};
use super::server::lock;

/// A second of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    pub run: u32,
    pub index: u64,
    pub is_gap: bool,
    /// The mark in its pictures, if it can be read.
    pub mark: Option<Mark>,
    pub has_pictures: bool,
    pub has_sound: bool,
    pub height: u32,
}

/// The outcome of a source.
#[derive(Debug, Default)]
pub struct Outcome {
    pub seconds: Vec<Second>,
    /// Why each run began.
    pub runs: Vec<Option<Discontinuity>>,
    pub states: Vec<SourceState>,
    pub incidents: Vec<Incident>,
    /// It was not over in time.
    pub timed_out: bool,
}

impl Outcome {
    pub fn decided(&self) -> usize {
        self.seconds.iter().filter(|s| !s.is_gap).count()
    }

    /// The marks of the seconds; [`None`] for gaps. A second without pictures has a mark that the material does not have.
    pub fn marks(&self) -> Vec<Option<Mark>> {
        self.seconds.iter().map(|s| (!s.is_gap).then_some(s.mark.unwrap_or(Mark(0, 0)))).collect()
    }

    /// The failures, by kind and word.
    pub fn failures(&self) -> Vec<(Cause, String)> {
        let failure = |state: &'_ SourceState| match state {
            SourceState::Waiting { kind, cause, .. } | SourceState::Failed { kind, cause, .. } => {
                Some((*kind, cause.clone()))
            }
            _ => None,
        };
        self.states.iter().filter_map(failure).collect()
    }

    /// Seconds of a run follow each other, and runs do.
    pub fn order(&self) -> Result<(), String> {
        for pair in self.seconds.windows(2) {
            let [a, b] = pair else { continue };
            let follows = if a.run == b.run { b.index == a.index + 1 } else { b.run > a.run };
            if !follows {
                return Err(format!("second {} of run {} comes after {} of {}", b.index, b.run, a.index, a.run));
            }
        }
        Ok(())
    }
}

/// How the test goes on after a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    /// The test has seen enough.
    Over,
}

type Judge = Box<dyn FnMut(&SourceState) -> Next + Send>;

/// How a source is opened.
pub struct How {
    pub pacing: Pacing,
    pub frame_height: u32,
    /// Asked after each change of state.
    pub judge: Judge,
    /// Enough, whatever the source says: so many seconds.
    pub seconds: usize,
    pub limit: Duration,
}

impl How {
    /// A recording, as fast as it goes, until it ends or fails.
    pub fn recording() -> Self {
        let judge = |state: &SourceState| match state {
            SourceState::Ended | SourceState::Failed { .. } | SourceState::Waiting { .. } => Next::Over,
            _ => Next::GoOn,
        };
        Self {
            pacing: Pacing::Unpaced,
            frame_height: 360,
            judge: Box::new(judge),
            seconds: usize::MAX,
            limit: Duration::from_secs(90),
        }
    }

    /// A channel at its own pace, until its server says that it is over.
    pub fn channel() -> Self {
        let mut failures = 0;
        let judge = move |state: &SourceState| match state {
            SourceState::Ended | SourceState::Failed { .. } => Next::Over,
            SourceState::Waiting { kind: Cause::Ended, .. } => Next::Over,
            // One that only fails is not waited for.
            SourceState::Waiting { .. } => {
                failures += 1;
                if failures > 4 { Next::Over } else { Next::GoOn }
            }
            _ => Next::GoOn,
        };
        Self { pacing: Pacing::Auto, judge: Box::new(judge), limit: Duration::from_secs(120), ..Self::recording() }
    }
}

struct Watcher {
    outcome: Arc<Mutex<Outcome>>,
    judge: Mutex<Judge>,
    over: Sender<()>,
    is_over: Mutex<bool>,
}

impl Watcher {
    fn end(&self) {
        *lock(&self.is_over) = true;
        // Fails when the receiver has already gone.
        let _ = self.over.send(());
    }
}

impl SourceObserver for Watcher {
    fn state(&self, state: SourceState) {
        if *lock(&self.is_over) {
            return;
        }
        lock(&self.outcome).states.push(state.clone());
        if lock(&self.judge)(&state) == Next::Over {
            self.end();
        }
    }

    fn incident(&self, incident: Incident) {
        lock(&self.outcome).incidents.push(incident);
    }
}

impl Sleeper for Watcher {
    /// Not at all, or until the test stops the source.
    fn sleep(&self, _: Duration, stopping: &Receiver<Infallible>) {
        if *lock(&self.is_over) {
            let _ = stopping.recv();
        } else {
            // Without this, a server that refuses at once is asked in a busy loop.
            let _ = stopping.recv_timeout(Duration::from_millis(50));
        }
    }
}

/// Plays `uri` until the end that `how` names.
pub fn play(uri: &str, how: How) -> Outcome {
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000 };
    let options = GstOptions {
        pacing: how.pacing,
        frame_height: how.frame_height,
        selection: Some(PlanSelector::selection(&plan)),
        ..GstOptions::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let kind = match Location::parse(uri) {
        Ok(location) => location.kind,
        Err(e) => {
            let (kind, cause) = (Cause::Other, e.to_string());
            let states = vec![SourceState::Failed { kind, cause, advice: String::new() }];
            return Outcome { states, ..Outcome::default() };
        }
    };
    let (over, is_over) = unbounded();
    let outcome = Arc::<Mutex<Outcome>>::default();
    let watcher =
        Arc::new(Watcher { outcome: outcome.clone(), judge: Mutex::new(how.judge), over, is_over: Mutex::new(false) });
    let supervisor = Supervisor {
        inner: Arc::new(GstOpener::new(options.clone(), clock.clone()).expect("GStreamer starts")),
        policy: Policy {
            retry_first: true,
            reopen_on_end: kind.reopens_on_end(),
            stall_cause: kind.stall_cause(),
            ..Policy::default()
        },
        clock,
        sleeper: watcher.clone(),
        observer: watcher.clone(),
        counters: options.counters.clone(),
        id: "hls".into(),
    };
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = match supervisor.open(uri, to) {
        Ok(source) => source,
        Err(e) => {
            let failed = SourceState::Failed { kind: Cause::Other, cause: e.to_string(), advice: String::new() };
            lock(&outcome).states.push(failed);
            return std::mem::take(&mut lock(&outcome));
        }
    };
    let lag = LagLimits::for_pace(source.pace());
    let mut builder = ClipBuilder::new(ClipConfig { sample_rate: Some(32_000), plan, lag, behind_ns: 0 });
    let (told, enough) = (watcher.clone(), how.seconds);
    let clip = std::thread::spawn(move || {
        let mut out = Vec::new();
        for item in from {
            builder.push(item, &mut out);
            let mut outcome = lock(&told.outcome);
            for output in out.drain(..) {
                note(&mut outcome, output);
            }
            let has_enough = outcome.seconds.len() >= enough;
            drop(outcome);
            if has_enough {
                told.end();
            }
        }
    });
    let until = Instant::now() + how.limit;
    let timed_out = is_over.recv_deadline(until).is_err();
    // The source's threads end, then the builder has all there was.
    drop(source);
    let _ = clip.join();
    let mut outcome = std::mem::take(&mut *lock(&outcome));
    outcome.timed_out = timed_out;
    outcome
}

fn note(outcome: &mut Outcome, output: ClipOutput) {
    match output {
        ClipOutput::RunStarted { cause, .. } => outcome.runs.push(cause),
        ClipOutput::Second(s) => outcome.seconds.push(Second {
            run: s.run.0,
            index: s.index,
            is_gap: false,
            // The middle one: where a second begins within a frame of the material's does not matter.
            mark: s.frames.get(s.frames.len() / 2).and_then(material::read),
            has_pictures: !s.frames.is_empty(),
            has_sound: s.audio.is_some(),
            height: s.frames.first().map_or(0, |f| f.height),
        }),
        ClipOutput::Gap(gap) => outcome.seconds.push(Second {
            run: gap.run.0,
            index: gap.index,
            is_gap: true,
            mark: None,
            has_pictures: false,
            has_sound: false,
            height: 0,
        }),
        _ => {}
    }
}
