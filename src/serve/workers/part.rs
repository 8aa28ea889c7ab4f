//! A part of a recording: which of its seconds are decided.
//!
//! The seconds of a part are cut as in the whole recording, because the times of all pictures and all sound arrive. Only the pictures of
//! some are there: those of the part, and of the seconds before it that the signals of its pictures may depend on.

use std::sync::Arc;

use parking_lot::Mutex;

use super::programme::ProgrammeFilter;
use touchline_compute::features::signal::SignalConfig;
use touchline_core::clip::ClipOutput;
use touchline_core::item::End;

/// The seconds of a part, by their index in the only run of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRange {
    /// The first second that is decided.
    pub from: u64,
    /// The first second after the part.
    pub to: u64,
    /// The first second whose pictures are there; `None`: all are.
    pub seen_from: Option<u64>,
}

/// What is known of a recording of which a part was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartReport {
    /// Runs that have begun.
    pub runs: u32,
    /// The first second and the one after the last, so far.
    pub seconds: Option<(u64, u64)>,
    /// No second of the part was decided, because its signals depend on earlier pictures that were not decoded.
    pub is_unknown: bool,
}

/// Passes the seconds of a part on. Ends the stream after it.
#[derive(Debug)]
pub(super) struct PartFilter {
    filter: ProgrammeFilter,
    range: PartRange,
    report: Arc<Mutex<PartReport>>,
    has_forgotten: bool,
}

impl PartFilter {
    pub(super) fn new(config: SignalConfig, range: PartRange) -> (Self, Arc<Mutex<PartReport>>) {
        let report = Arc::<Mutex<PartReport>>::default();
        let filter = ProgrammeFilter::new(config);
        (Self { filter, range, report: report.clone(), has_forgotten: false }, report)
    }

    /// As [`ProgrammeFilter::pass`].
    pub(super) fn pass(&mut self, mut output: ClipOutput, mut push: impl FnMut(ClipOutput) -> bool) -> bool {
        let index = match &output {
            ClipOutput::Second(second) => second.index,
            ClipOutput::Gap(gap) => gap.index,
            ClipOutput::RunStarted { .. } => {
                self.report.lock().runs += 1;
                return self.filter.pass(output, push);
            }
            _ => return self.filter.pass(output, push),
        };
        if index >= self.range.to {
            push(ClipOutput::Ended(End::Finished));
            return false;
        }
        {
            let mut report = self.report.lock();
            report.seconds = Some((report.seconds.map_or(index, |(first, _)| first), index + 1));
        }
        if let Some(seen_from) = self.range.seen_from {
            if index >= seen_from && !std::mem::replace(&mut self.has_forgotten, true) {
                self.filter.forget_pictures();
            }
            if let ClipOutput::Second(second) = &mut output
                && index < seen_from
            {
                second.frames.clear();
                second.rgb.clear();
                second.pairs.clear();
            }
        }
        if index == self.range.from && !self.filter.knows_pictures() {
            self.report.lock().is_unknown = true;
            push(ClipOutput::Ended(End::Finished));
            return false;
        }
        let is_decided = index >= self.range.from;
        self.filter.pass(output, |output| !is_decided || push(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::clip::{ClipSecond, Gap};
    use touchline_core::frame::Frame;
    use touchline_core::pool::Pooled;
    use touchline_core::signal::Signals;
    use touchline_core::time::{Pts, RunId};

    /// A second with pictures of these grey values.
    fn second(index: u64, greys: &[u8]) -> ClipOutput {
        let step = 1_000_000_000 / greys.len() as u64;
        let picture = |(n, grey): (usize, &u8)| {
            let pts = Pts::from_second(index).plus(n as u64 * step);
            Frame::new(Pooled::detached(vec![*grey; 64 * 36 * 3]), 64, 36, pts, 0)
        };
        let frames = greys.iter().enumerate().map(picture).collect();
        ClipOutput::Second(ClipSecond { index, ..ClipSecond::of_pictures(frames) })
    }

    /// The seconds that a part passes on: their index, the signals of gaps, and whether the part is known.
    fn passed(seconds: &[&[u8]], range: PartRange) -> (Vec<(u64, Signals)>, PartReport) {
        let (mut filter, report) = PartFilter::new(SignalConfig::default(), range);
        let mut out = Vec::new();
        assert!(filter.pass(ClipOutput::RunStarted { run: RunId(0), cause: None }, |_| true));
        for (index, greys) in (0..).zip(seconds) {
            let goes_on = filter.pass(second(index, greys), |output| {
                match output {
                    ClipOutput::Second(second) => out.push((second.index, Signals::NONE)),
                    ClipOutput::Gap(Gap { index, signals, .. }) => out.push((index, signals)),
                    _ => {}
                }
                true
            });
            if !goes_on {
                break;
            }
        }
        let report = *report.lock();
        (out, report)
    }

    /// Seconds with motion, a freeze, black, and motion again.
    fn programme() -> Vec<Vec<u8>> {
        (0..60_u8)
            .map(|n| match n {
                10..30 => vec![90; 4],
                40..50 => vec![0; 4],
                _ => vec![60 + n, 120 + n, 70 + n, 130 + n],
            })
            .collect()
    }

    #[test]
    fn parts_pass_on_what_the_whole_does_or_are_unknown() {
        let programme = programme();
        let seconds: Vec<&[u8]> = programme.iter().map(Vec::as_slice).collect();
        let (whole, report) = passed(&seconds, PartRange { from: 0, to: 100, seen_from: None });
        assert_eq!((whole.len(), report.seconds, report.runs), (60, Some((0, 60)), 1));
        assert!(whole.iter().filter(|(_, signals)| !signals.is_empty()).count() > 15);
        let mut unknown = 0;
        for from in 2..60 {
            for seen_from in 0..=from - 2 {
                let range = PartRange { from, to: from + 5, seen_from: Some(seen_from) };
                let (part, report) = passed(&seconds, range);
                if report.is_unknown {
                    assert_eq!(part, [], "{range:?}");
                    unknown += 1;
                } else {
                    let expected: Vec<_> =
                        whole.iter().filter(|(index, _)| (from..from + 5).contains(index)).copied().collect();
                    assert_eq!(part, expected, "{range:?}");
                }
            }
        }
        // Only parts that begin in the freeze or in the first seconds of black, and see nothing before it.
        assert!((1..300).contains(&unknown), "{unknown}");
    }

    #[test]
    fn a_slow_drift_is_unknown_until_pictures_differ_by_more_than_twice_the_noise() {
        // Each picture equals the one before but for noise, so the reference depends on where the freeze began.
        let drift: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![100 + n / 10; 4]).collect();
        let seconds: Vec<&[u8]> = drift.iter().map(Vec::as_slice).collect();
        let noise = SignalConfig { freeze_db: -45.0, ..SignalConfig::default() };
        let range = PartRange { from: 20, to: 25, seen_from: Some(5) };
        let (mut filter, report) = PartFilter::new(noise, range);
        let goes_on = (0..).zip(&seconds).all(|(index, greys)| filter.pass(second(index, greys), |_| true));
        assert!(!goes_on && report.lock().is_unknown);
    }
}
