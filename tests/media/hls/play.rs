//! A supervised source as in `touchline run`, up to the seconds to be classified. The pause between two attempts is minimal, and
//! the test decides when to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, PlanSelector, SamplingPlan};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, MEDIA_CHANNEL_CAPACITY};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::uri::{Location, Pacing};

use super::material::{self, Mark};

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
    /// The reason for each run.
    pub runs: Vec<Option<Discontinuity>>,
    pub states: Vec<SourceState>,
    pub incidents: Vec<Incident>,
    /// Whether the source exceeded the time limit.
    pub timed_out: bool,
}

impl Outcome {
    pub fn decided(&self) -> usize {
        self.seconds.iter().filter(|s| !s.is_gap).count()
    }

    /// The marks of the seconds, [`None`] for gaps. A second without a readable mark has `Mark(0, 0)`, which the material lacks.
    pub fn marks(&self) -> Vec<Option<Mark>> {
        self.seconds.iter().map(|s| (!s.is_gap).then_some(s.mark.unwrap_or(Mark(0, 0)))).collect()
    }

    /// The causes and messages of the failures.
    pub fn failures(&self) -> Vec<(Cause, String)> {
        let failure = |state: &'_ SourceState| match state {
            SourceState::Waiting { kind, cause, .. } | SourceState::Failed { kind, cause, .. } => {
                Some((*kind, cause.clone()))
            }
            _ => None,
        };
        self.states.iter().filter_map(failure).collect()
    }

    /// Checks that seconds of a run are consecutive, and that runs are in order.
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

/// The decision of the test after a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

type OnState = Box<dyn FnMut(&SourceState) -> Next + Send>;

/// The options of a source, and the conditions to stop it.
pub struct PlayOptions {
    pub pacing: Pacing,
    pub frame_height: u32,
    /// Called after each change of state.
    pub on_state: OnState,
    /// Stops after this number of seconds in any state.
    pub seconds: usize,
    pub limit: Duration,
}

impl PlayOptions {
    /// A recording, unpaced, until it ends or fails.
    pub fn recording() -> Self {
        let on_state = |state: &SourceState| match state {
            SourceState::Ended | SourceState::Failed { .. } | SourceState::Waiting { .. } => Next::Stop,
            _ => Next::Continue,
        };
        Self {
            pacing: Pacing::Unpaced,
            frame_height: 360,
            on_state: Box::new(on_state),
            seconds: usize::MAX,
            limit: Duration::from_secs(90),
        }
    }

    /// A channel at its own pace, until its playlist has an end mark.
    pub fn channel() -> Self {
        let mut failures = 0;
        let on_state = move |state: &SourceState| match state {
            SourceState::Ended | SourceState::Failed { .. } => Next::Stop,
            SourceState::Waiting { kind: Cause::Ended, .. } => Next::Stop,
            // A channel that fails again and again is given up.
            SourceState::Waiting { .. } => {
                failures += 1;
                if failures > 4 { Next::Stop } else { Next::Continue }
            }
            _ => Next::Continue,
        };
        Self {
            pacing: Pacing::Auto,
            on_state: Box::new(on_state),
            limit: Duration::from_secs(120),
            ..Self::recording()
        }
    }
}

struct Observer {
    system: SystemClock,
    outcome: Arc<Mutex<Outcome>>,
    on_state: Mutex<OnState>,
    stop: Sender<()>,
    is_stopped: Mutex<bool>,
}

impl Observer {
    fn stop(&self) {
        *self.is_stopped.lock() = true;
        // Fails when the receiver no longer exists.
        let _ = self.stop.send(());
    }
}

impl SourceObserver for Observer {
    fn state(&self, state: SourceState) {
        if *self.is_stopped.lock() {
            return;
        }
        self.outcome.lock().states.push(state.clone());
        if self.on_state.lock()(&state) == Next::Stop {
            self.stop();
        }
    }

    fn incident(&self, incident: Incident) {
        self.outcome.lock().incidents.push(incident);
    }
}

impl Clock for Observer {
    fn mono_ns(&self) -> u64 {
        self.system.mono_ns()
    }

    fn unix_ns(&self) -> i64 {
        self.system.unix_ns()
    }

    /// Sleeps 50 ms, or after the end of the test until the source is stopped.
    fn sleep_until_stopped(&self, _: Duration, stopping: &Receiver<Infallible>) {
        if *self.is_stopped.lock() {
            let _ = stopping.recv();
        } else {
            // Without this pause, the supervisor would retry in a busy loop when a server refuses immediately.
            let _ = stopping.recv_timeout(Duration::from_millis(50));
        }
    }
}

/// Plays `uri` until its own end or a condition of `play_options`.
pub fn play(uri: &str, play_options: PlayOptions) -> Outcome {
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
    let options = GstOptions {
        pacing: play_options.pacing,
        frame_height: play_options.frame_height,
        selection: Some(PlanSelector::selection(&plan)),
        ..GstOptions::default()
    };
    let kind = match Location::parse(uri) {
        Ok(location) => location.kind,
        Err(e) => {
            let (kind, cause) = (Cause::Other, e.to_string());
            let states = vec![SourceState::Failed { kind, cause, advice: String::new() }];
            return Outcome { states, ..Outcome::default() };
        }
    };
    let (stop, stopped) = unbounded();
    let outcome = Arc::<Mutex<Outcome>>::default();
    let observer = Arc::new(Observer {
        system: SystemClock::new(),
        outcome: outcome.clone(),
        on_state: Mutex::new(play_options.on_state),
        stop,
        is_stopped: Mutex::new(false),
    });
    let supervisor = Supervisor {
        inner: Arc::new(GstOpener::new(options.clone(), observer.clone()).expect("GStreamer starts")),
        policy: Policy {
            retry_first: true,
            reopen_on_end: kind.reopens_on_end(),
            stall_cause: kind.stall_cause(),
            ..Policy::default()
        },
        clock: observer.clone(),
        observer: observer.clone(),
        counters: options.counters.clone(),
        id: "hls".into(),
    };
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = match supervisor.open(uri, to) {
        Ok(source) => source,
        Err(e) => {
            let failed = SourceState::Failed { kind: Cause::Other, cause: e.to_string(), advice: String::new() };
            outcome.lock().states.push(failed);
            return std::mem::take(&mut outcome.lock());
        }
    };
    let lag = LagLimits::for_pace(source.pace());
    let mut builder = ClipBuilder::new(ClipConfig { sample_rate: Some(32_000), plan, lag, behind_ns: 0 });
    let (recorder, enough) = (observer.clone(), play_options.seconds);
    let clip = std::thread::spawn(move || {
        let mut out = Vec::new();
        for item in from {
            builder.push(item, &mut out);
            let mut outcome = recorder.outcome.lock();
            for output in out.drain(..) {
                record(&mut outcome, output);
            }
            let has_enough = outcome.seconds.len() >= enough;
            drop(outcome);
            if has_enough {
                recorder.stop();
            }
        }
    });
    let until = Instant::now() + play_options.limit;
    let timed_out = stopped.recv_deadline(until).is_err();
    // The source's threads end, and then the builder has received all items.
    drop(source);
    let _ = clip.join();
    let mut outcome = std::mem::take(&mut *outcome.lock());
    outcome.timed_out = timed_out;
    outcome
}

fn record(outcome: &mut Outcome, output: ClipOutput) {
    match output {
        ClipOutput::RunStarted { cause, .. } => outcome.runs.push(cause),
        ClipOutput::Second(s) => outcome.seconds.push(Second {
            run: s.run.0,
            index: s.index,
            is_gap: false,
            // The mark of the middle frame, because a second may start slightly before or after one of the material.
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
