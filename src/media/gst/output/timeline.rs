//! Where the media of a source are on the output, and what is shown there.

use std::collections::VecDeque;

use touchline_core::time::{NANOS_PER_SECOND, RunId};

/// Runs that a timeline knows. Of a recording all are known, and pictures leave the encoder within seconds.
const RUNS_MAX: usize = 4096;

/// A run on the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlacedRun {
    run: u32,
    /// PTS of its first media, ns.
    begin_ns: i64,
    /// Where that is on the output, ns.
    out_ns: i64,
}

/// The runs of a source, laid one behind the other on the output: its time only moves ahead.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    runs: VecDeque<PlacedRun>,
}

impl Timeline {
    /// Begins a run at `out_ns` of the output with media of `begin_ns`.
    pub fn begin(&mut self, run: u32, begin_ns: i64, out_ns: i64) {
        if self.runs.len() >= RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(PlacedRun { run, begin_ns, out_ns });
    }

    /// Whether the run has begun.
    pub fn has(&self, run: u32) -> bool {
        self.runs.iter().any(|placed| placed.run == run)
    }

    /// The place of a PTS on the output, ns; [`None`] if its run has not begun.
    pub fn place(&self, run: u32, pts_ns: i64) -> Option<i64> {
        let placed = self.runs.iter().rfind(|placed| placed.run == run)?;
        Some(pts_ns - placed.begin_ns + placed.out_ns)
    }

    /// The run and the second that are shown at a time of the output.
    pub fn second(&self, out_ns: i64) -> Option<(RunId, u64)> {
        let placed = self.runs.iter().rfind(|placed| placed.out_ns <= out_ns).or_else(|| self.runs.front())?;
        let pts_ns = u64::try_from(out_ns - placed.out_ns + placed.begin_ns).unwrap_or(0);
        Some((RunId(placed.run), pts_ns / NANOS_PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_second_of_its_own_time() {
        let mut timeline = Timeline::default();
        assert_eq!((timeline.place(0, 5), timeline.second(0)), (None, None));
        let s = NANOS_PER_SECOND as i64;
        timeline.begin(0, -s / 2, 0);
        timeline.begin(1, 7 * s + s / 4, 10 * s);
        assert_eq!((timeline.place(0, 0), timeline.place(1, 8 * s)), (Some(s / 2), Some(10 * s + s * 3 / 4)));
        let second = |out_ns| timeline.second(out_ns).unwrap();
        assert_eq!(
            [second(-1), second(0), second(s / 2), second(3 * s / 2)],
            [(RunId(0), 0), (RunId(0), 0), (RunId(0), 0), (RunId(0), 1)]
        );
        assert_eq!(
            [second(10 * s - 1), second(10 * s), second(10 * s + s * 3 / 4)],
            [(RunId(0), 9), (RunId(1), 7), (RunId(1), 8)]
        );
    }
}
