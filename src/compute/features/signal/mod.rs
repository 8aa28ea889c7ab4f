//! Test bars, black, freeze and silence, found in the frames and samples of seconds.
//!
//! | signal | condition | as |
//! |---|---|---|
//! | bars | the picture is colour bars ([`bars`]) | |
//! | black | enough of the pixels have a low luminance ([`picture`]) | FFmpeg's `blackdetect` |
//! | freeze | the picture equals the one with which the freeze began, but for noise ([`picture`]) | `freezedetect` |
//! | silence | no sample is louder than a level | `silencedetect` |
//!
//! A [`SignalDetector`] sees the seconds of one stream in order. It examines all sampled frames: those of the models and those that are
//! sampled for it (`signal_frames` of the plan). Times are exact to the distance of these frames: a condition that holds in the first frame of a second began with the second. A
//! second has a signal when the condition holds in all of it and has lasted for the hold time at its end. Bars and black are
//! not reported as freeze, although they do not change.
//!
//! A second without frames or sound says nothing about them. A condition continues after such seconds, unless they last longer than
//! two seconds.
//!
//! There is one channel of sound here, the mean of all: two channels that cancel each other are silent.

pub mod bars;
mod config;
mod hold;
pub mod picture;
#[cfg(test)]
mod tests;

use touchline_core::clip::ClipSecond;
use touchline_core::frame::Frame;
use touchline_core::incident::Incident;
use touchline_core::signal::{Signal, Signals};
use touchline_core::time::{NANOS_PER_SECOND, Pts};

use bars::BarsDetector;
pub use config::SignalConfig;
use hold::Hold;
use picture::{BlackLevel, FreezeNoise};

/// How long frames or sound may be missing within a condition, ns.
const BRIDGE_NS: u64 = 2 * NANOS_PER_SECOND;

/// Finds the signals of one stream. In the steady state it allocates nothing but the incidents it reports.
#[derive(Debug)]
pub struct SignalDetector {
    config: SignalConfig,
    black_level: BlackLevel,
    noise: FreezeNoise,
    /// Maximum absolute sample value of silence.
    silence_level: f32,
    bars_of: BarsDetector,
    bars: Hold,
    black: Hold,
    freeze: Hold,
    silence: Hold,
    /// The frame with which a freeze began or would begin, and when.
    reference: Option<(Frame, Pts)>,
    /// What was seen before is not known: the first frame since, and the last one while the reference may be another.
    unknown: Option<UnknownPast>,
    /// End of the last second with frames.
    seen_until: Pts,
    /// End of the last second with sound.
    heard_until: Pts,
}

/// The pictures before a moment are not known.
#[derive(Debug)]
struct UnknownPast {
    /// Start of the first second that was seen.
    since: Option<Pts>,
    /// The last frame, while an unknown one may be the reference of a freeze.
    last: Option<Frame>,
    is_freeze_known: bool,
}

impl SignalDetector {
    /// A detector for one stream. `config` must be valid.
    pub fn new(config: SignalConfig) -> Self {
        let hold =
            |signal: Signal| Hold::new(signal, u64::try_from(config.hold(signal).as_nanos()).unwrap_or(u64::MAX));
        Self {
            black_level: BlackLevel::new(config.black_luma, config.black_share),
            noise: FreezeNoise::new(config.freeze_db),
            silence_level: 10f32.powf(config.silence_db / 20.0),
            bars_of: BarsDetector::default(),
            bars: hold(Signal::Bars),
            black: hold(Signal::Black),
            freeze: hold(Signal::Freeze),
            silence: hold(Signal::Silence),
            reference: None,
            unknown: None,
            seen_until: Pts(0),
            heard_until: Pts(0),
            config,
        }
    }

    /// The pictures before the next second are not known. Sound is.
    pub fn forget_pictures(&mut self) {
        self.end_pictures(&mut Vec::new());
        self.unknown = Some(UnknownPast { since: None, last: None, is_freeze_known: false });
    }

    /// Whether the signals no longer depend on what was forgotten: a picture has differed from every one that a freeze may have begun with, and
    /// bars and black have ended or lasted for their hold times.
    pub fn knows_pictures(&self) -> bool {
        let Some(unknown) = &self.unknown else { return true };
        let is_off = self.config.off.contains(Signal::Freeze);
        let has_lasted = |hold: &Hold| {
            hold.began().is_none_or(|began| {
                // One that began with the first second may have begun earlier.
                unknown.since.is_some_and(|since| began > since) || hold.is_on()
            })
        };
        unknown.since.is_some()
            && (unknown.is_freeze_known || is_off)
            && has_lasted(&self.bars)
            && has_lasted(&self.black)
    }

    /// Examines the next second of the run. Returns its signals, and appends those that began or ended.
    pub fn second(&mut self, second: &ClipSecond, incidents: &mut Vec<Incident>) -> Signals {
        self.parts(second.index, &second.frames, second.audio.as_deref(), incidents)
    }

    /// A second of the run without frames and sound.
    pub fn gap(&mut self, index: u64, incidents: &mut Vec<Incident>) {
        self.parts(index, &[], None, incidents);
    }

    /// The run is over: every condition ends, for nothing is known about the time until the next run.
    pub fn finish(&mut self, incidents: &mut Vec<Incident>) {
        self.end_pictures(incidents);
        self.unknown = None;
        self.silence.end(self.heard_until, incidents);
        (self.seen_until, self.heard_until) = (Pts(0), Pts(0));
    }

    fn parts(&mut self, index: u64, frames: &[Frame], audio: Option<&[f32]>, incidents: &mut Vec<Incident>) -> Signals {
        let (start, end) = (Pts::from_second(index), Pts::from_second(index + 1));
        let mut signals = Signals::NONE;
        if frames.is_empty() {
            if end.0.saturating_sub(self.seen_until.0) > BRIDGE_NS {
                self.end_pictures(incidents);
                // Nothing is left of what was before, unless that is where it was forgotten.
                self.unknown.take_if(|unknown| unknown.since.is_some());
            }
        } else {
            signals = self.pictures(start, end, frames, incidents);
            self.seen_until = end;
        }
        match audio.filter(|samples| !samples.is_empty()) {
            None if end.0.saturating_sub(self.heard_until.0) > BRIDGE_NS => {
                self.silence.end(self.heard_until, incidents)
            }
            None => {}
            Some(samples) => {
                let is_silent = !self.config.off.contains(Signal::Silence) && self.sound(start, samples, incidents);
                if is_silent && self.silence.has_lasted(end, incidents) {
                    signals.insert(Signal::Silence);
                }
                self.heard_until = end;
            }
        }
        signals
    }

    fn end_pictures(&mut self, incidents: &mut Vec<Incident>) {
        for hold in [&mut self.bars, &mut self.black, &mut self.freeze] {
            hold.end(self.seen_until, incidents);
        }
        self.reference = None;
    }

    fn pictures(&mut self, start: Pts, end: Pts, frames: &[Frame], incidents: &mut Vec<Incident>) -> Signals {
        let off = self.config.off;
        // In all frames so far.
        let (mut bars, mut black, mut freeze) = (true, true, true);
        if let Some(unknown) = &mut self.unknown {
            unknown.since.get_or_insert(start);
        }
        for (n, frame) in frames.iter().enumerate() {
            let at = if n == 0 { start } else { frame.pts };
            let view = frame.view();
            let is_black = !off.contains(Signal::Black) && self.black_level.is_black(view);
            let is_bars = !is_black && !off.contains(Signal::Bars) && self.bars_of.is_bars(view);
            self.black.observe(is_black, at, incidents);
            self.bars.observe(is_bars, at, incidents);
            self.learn_reference(frame, is_black || is_bars);
            let is_frozen = if is_black || is_bars || off.contains(Signal::Freeze) {
                self.freeze.end(at, incidents);
                self.reference = None;
                false
            } else {
                self.is_frozen(frame, at, incidents)
            };
            (bars, black, freeze) = (bars && is_bars, black && is_black, freeze && is_frozen);
        }
        let held = [
            (Signal::Bars, &mut self.bars, bars),
            (Signal::Black, &mut self.black, black),
            (Signal::Freeze, &mut self.freeze, freeze),
        ];
        let lasted = held.into_iter().filter_map(|(signal, hold, is_throughout)| {
            let has_lasted = hold.has_lasted(end, incidents);
            (has_lasted && is_throughout).then_some(signal)
        });
        lasted.collect()
    }

    /// Notes whether the reference of a freeze is known after `frame`.
    fn learn_reference(&mut self, frame: &Frame, is_cleared: bool) {
        let Some(unknown) = self.unknown.as_mut().filter(|unknown| !unknown.is_freeze_known) else { return };
        // The reference before is the last frame, or equals it but for noise.
        let is_new =
            unknown.last.as_ref().is_some_and(|last| self.noise.differs_from_all_like(last.view(), frame.view()));
        unknown.is_freeze_known = is_cleared || is_new;
        unknown.last = (!unknown.is_freeze_known).then(|| frame.clone());
    }

    /// Whether the frame is frozen: it equals the reference. Otherwise it becomes the reference.
    fn is_frozen(&mut self, frame: &Frame, at: Pts, incidents: &mut Vec<Incident>) -> bool {
        if let Some((reference, began)) = &self.reference
            && self.noise.is_same(reference.view(), frame.view())
        {
            self.freeze.observe_since(*began);
            return true;
        }
        self.freeze.end(at, incidents);
        self.reference = Some((frame.clone(), at));
        false
    }

    /// Whether all samples of a second are silent.
    fn sound(&mut self, start: Pts, samples: &[f32], incidents: &mut Vec<Incident>) -> bool {
        let level = self.silence_level;
        let is_silent = |sample: &f32| sample.abs() < level;
        if samples.iter().all(is_silent) {
            self.silence.observe(true, start, incidents);
            return true;
        }
        let rate = samples.len() as u64;
        let mut holds = self.silence.holds();
        for (n, sample) in samples.iter().enumerate() {
            if is_silent(sample) != holds || n == 0 {
                holds = is_silent(sample);
                let at = start.plus(n as u64 * NANOS_PER_SECOND / rate);
                self.silence.observe(holds, at, incidents);
            }
        }
        false
    }
}
