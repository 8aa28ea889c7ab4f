//! Seconds without programme: between the clip builder and the backlog, so that they are never classified.

use touchline_compute::features::signal::{SignalConfig, SignalDetector};
use touchline_core::clip::{ClipOutput, Gap, GapReason};
use touchline_core::incident::Incident;
use touchline_core::signal::{Signal, Signals};

/// Examines the seconds of one stream. A second whose picture is test bars, black or frozen becomes a gap. Silent sound
/// becomes absent sound, and the second becomes a gap if it has no pictures.
#[derive(Debug)]
pub(super) struct ProgrammeFilter {
    detector: SignalDetector,
    incidents: Vec<Incident>,
}

impl ProgrammeFilter {
    pub(super) fn new(config: SignalConfig) -> Self {
        Self { detector: SignalDetector::new(config), incidents: Vec::new() }
    }

    /// The pictures before the next second are not known.
    pub(super) fn forget_pictures(&mut self) {
        self.detector.forget_pictures();
    }

    /// Whether nothing depends on pictures that are not known.
    pub(super) fn knows_pictures(&self) -> bool {
        self.detector.knows_pictures()
    }

    /// Passes `output` to `push`, after the incidents that come before it. Returns false as soon as `push` does.
    pub(super) fn pass(&mut self, output: ClipOutput, mut push: impl FnMut(ClipOutput) -> bool) -> bool {
        let output = self.filter(output);
        self.incidents.drain(..).all(|incident| push(ClipOutput::Incident(incident))) && push(output)
    }

    fn filter(&mut self, output: ClipOutput) -> ClipOutput {
        match output {
            ClipOutput::Second(mut second) => {
                let signals = self.detector.second(&second, &mut self.incidents);
                if is_no_programme(signals, second.frames.is_empty()) {
                    let gap = Gap { signals, ..Gap::new(second.run, second.index, GapReason::NoProgramme) };
                    return ClipOutput::Gap(gap);
                }
                if signals.contains(Signal::Silence) {
                    second.silence();
                }
                ClipOutput::Second(second)
            }
            ClipOutput::Gap(gap) => {
                self.detector.gap(gap.index, &mut self.incidents);
                ClipOutput::Gap(gap)
            }
            ClipOutput::RunStarted { .. } | ClipOutput::Ended(_) => {
                self.detector.finish(&mut self.incidents);
                output
            }
            _ => output,
        }
    }
}

/// Whether nothing is left to classify.
fn is_no_programme(signals: Signals, has_no_pictures: bool) -> bool {
    signals.has_picture() || (has_no_pictures && signals.contains(Signal::Silence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::clip::{Absent, ClipSecond};
    use touchline_core::frame::Frame;
    use touchline_core::item::End;
    use touchline_core::pool::Pooled;
    use touchline_core::time::{Pts, RunId};

    /// A second with one grey picture and constant sound.
    fn second(index: u64, grey: Option<u8>, level: Option<f32>) -> ClipOutput {
        let picture = |grey| Frame::new(Pooled::detached(vec![grey; 64 * 36 * 3]), 64, 36, Pts::from_second(index), 0);
        let frames = grey.map(picture).into_iter().collect();
        let audio = level.map(|level| vec![level; 1000]);
        ClipOutput::Second(ClipSecond { index, audio, ..ClipSecond::of_pictures(frames) })
    }

    /// The output: incidents by name, seconds and gaps with their signals.
    fn passed(filter: &mut ProgrammeFilter, input: Vec<ClipOutput>) -> Vec<String> {
        let mut out = Vec::new();
        for item in input {
            assert!(filter.pass(item, |item| {
                out.push(match item {
                    ClipOutput::Second(s) if s.audio_absent == Some(Absent::Silent) => format!("{} silent", s.index),
                    ClipOutput::Second(s) => s.index.to_string(),
                    ClipOutput::Gap(g) => format!("{} {}: {}", g.index, g.reason.as_str(), g.signals.titles()),
                    ClipOutput::Incident(i) => format!("{} {}", i.as_str(), i.signal().unwrap().0),
                    other => format!("{other:?}").split([' ', '(', '{']).next().unwrap().to_owned(),
                });
                true
            }));
        }
        out
    }

    #[test]
    fn a_black_second_is_a_gap_and_its_incidents_surround_it() {
        let mut filter = ProgrammeFilter::new(SignalConfig::default());
        let input = (0..4).map(|n| second(n, Some(if n == 3 { 90 } else { 0 }), Some(0.5))).collect();
        let expected = ["0", "signal-began black", "1 no-programme: black picture", "2 no-programme: black picture"];
        let found = passed(&mut filter, input);
        assert_eq!(found[..4], expected);
        assert_eq!(found[4..], ["signal-ended black", "3"]);
    }

    #[test]
    fn silence_leaves_the_pictures_and_is_no_programme_without_them() {
        let config = SignalConfig { silence: std::time::Duration::from_secs(2), ..SignalConfig::default() };
        let mut filter = ProgrammeFilter::new(config);
        let input = (0..3).map(|n| second(n, Some(60 + 9 * n as u8), Some(0.0))).collect();
        assert_eq!(passed(&mut filter, input), ["0", "signal-began silence", "1 silent", "2 silent"]);
        let mut filter = ProgrammeFilter::new(config);
        let input = (0..3).map(|n| second(n, None, Some(0.0))).collect();
        let expected = ["0", "signal-began silence", "1 no-programme: silence", "2 no-programme: silence"];
        assert_eq!(passed(&mut filter, input), expected);
    }

    #[test]
    fn a_new_run_and_the_end_end_every_condition() {
        let mut filter = ProgrammeFilter::new(SignalConfig::default());
        let black = |n| second(n, Some(0), None);
        let run = ClipOutput::RunStarted { run: RunId(1), cause: None };
        let input = vec![black(0), black(1), run, black(0), black(1), ClipOutput::Ended(End::Finished)];
        let expected = [
            "0",
            "signal-began black",
            "1 no-programme: black picture",
            "signal-ended black",
            "RunStarted",
            "0",
            "signal-began black",
            "1 no-programme: black picture",
            "signal-ended black",
            "Ended",
        ];
        assert_eq!(passed(&mut filter, input), expected);
    }

    #[test]
    fn it_stops_when_nobody_receives() {
        let mut filter = ProgrammeFilter::new(SignalConfig::default());
        assert!(!filter.pass(second(0, Some(0), None), |_| false));
    }
}
