//! Reads the log of a training, and reconstructs the run from it.

use std::path::Path;

use super::RunLog;
use crate::record::{EpochRecord, Finding, LogLine, Phase, ResourceSample, RunEnd, Start, StepRecord};
use touchline_core::error::{Error, Result};

pub(super) fn read(path: &Path) -> Result<RunLog> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::data(path, format!("cannot read: {e}"), "choose a run directory or the log.jsonl of a training")
    })?;
    // Bytes instead of text, because a killed run may leave an incomplete character.
    let texts: Vec<(usize, &[u8])> =
        bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()).collect();
    let mut lines = Vec::with_capacity(texts.len());
    for (i, (number, text)) in texts.iter().enumerate() {
        match serde_json::from_slice(text) {
            Ok(line) => lines.push(line),
            Err(_) if i + 1 == texts.len() && i > 0 => {}
            Err(e) => {
                let cause = format!("line {} is not a line of a training log: {e}", number + 1);
                return Err(Error::data(path, cause, "remove the line, or choose the log.jsonl of a training"));
            }
        }
    }
    let modality = lines.iter().find_map(|line| if let LogLine::Start(s) = line { Some(s.modality) } else { None });
    let modality = modality.ok_or_else(|| {
        Error::data(path, "it has no line of kind \"start\"", "choose the log.jsonl of a training that has started")
    })?;
    Ok(RunLog { modality, lines })
}

/// The events of a run as if it had never been interrupted: steps that a resumed run repeated occur once.
#[derive(Default)]
pub(super) struct RunHistory<'a> {
    /// The last start.
    pub start: Option<&'a Start>,
    /// Steps at which the run was resumed.
    pub resumed_at: Vec<u64>,
    pub steps: Vec<&'a StepRecord>,
    pub epochs: Vec<&'a EpochRecord>,
    pub findings: Vec<&'a Finding>,
    /// Samples with the time over all parts of the run.
    pub resources: Vec<ResourceSample>,
    pub end: Option<&'a RunEnd>,
}

impl<'a> RunHistory<'a> {
    pub(super) fn of(run: &'a RunLog) -> Self {
        let mut history = RunHistory::default();
        // Time of the earlier parts of the run.
        let mut elapsed_s = 0.0;
        for line in &run.lines {
            match line {
                LogLine::Start(start) => {
                    history.rewind(start);
                    elapsed_s = history.resources.last().map_or(0.0, |r| r.at_s);
                }
                LogLine::Step(step) => history.steps.push(step),
                LogLine::Epoch(epoch) => history.epochs.push(epoch),
                LogLine::Finding(finding) => history.findings.push(finding),
                LogLine::Resources(sample) => {
                    history.resources.push(ResourceSample { at_s: sample.at_s + elapsed_s, ..*sample });
                }
                LogLine::End(end) => history.end = Some(end),
            }
        }
        history
    }

    /// Returns to the checkpoint of a resumed run; a run from step 0 starts over. Resource samples stay, because the resources were
    /// used.
    fn rewind(&mut self, start: &'a Start) {
        let at = start.resumed_at;
        if at == 0 {
            *self = RunHistory::default();
        } else {
            self.resumed_at.push(at);
        }
        self.steps.retain(|s| s.step <= at);
        self.epochs.retain(|e| e.step <= at);
        self.findings.retain(|f| f.step <= at);
        self.end = None;
        self.start = Some(start);
    }

    /// Number of epochs of step 1; those of step 2 are counted from there.
    pub(super) fn head_epochs(&self) -> u32 {
        self.epochs.iter().filter(|e| e.phase == Phase::Head).map(|e| e.epoch).max().unwrap_or(0)
    }

    /// Number of an epoch over both phases.
    pub(super) fn number(&self, phase: Phase, epoch: u32) -> u32 {
        if phase == Phase::Head { epoch } else { self.head_epochs() + epoch }
    }

    /// Returns phase and number of the epoch with the best weights.
    pub(super) fn kept(&self) -> Option<(Phase, u32)> {
        let best = || self.epochs.iter().rev().find(|e| e.best).map(|e| (e.phase, e.epoch));
        self.end.map(|end| (end.best_phase, end.best_epoch)).or_else(best)
    }

    /// Returns the last optimiser step and the last epoch of step 1, if both steps were trained.
    pub(super) fn border(&self) -> Option<(u64, u32)> {
        let both = self.steps.iter().map(|s| s.phase).chain(self.epochs.iter().map(|e| e.phase));
        both.clone().any(|p| p == Phase::Tune).then_some(())?;
        both.clone().any(|p| p == Phase::Head).then_some(())?;
        let head = self.steps.iter().filter(|s| s.phase == Phase::Head).map(|s| s.step);
        let step = head.chain(self.epochs.iter().filter(|e| e.phase == Phase::Head).map(|e| e.step)).max()?;
        Some((step, self.head_epochs()))
    }
}

/// Merges neighbouring points into at most `most` tuples (x, mean, lowest, highest). Points that are not finite are left out.
pub(super) fn condensed(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64, f64, f64)> {
    let known: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let size = known.len().div_ceil(most.max(1)).max(1);
    let bucket = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        let (x, y) = points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
        (x / n, y / n, low, high)
    };
    known.chunks(size).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condensed_points_keep_their_extremes() {
        let points: Vec<(f64, f64)> = (0..1000).map(|n| (f64::from(n), if n == 500 { 9.0 } else { 1.0 })).collect();
        let few = condensed(&points, 100);
        assert_eq!(few.len(), 100);
        assert_eq!((few[50].1, few[50].2, few[50].3), (1.8, 1.0, 9.0));
        assert_eq!(condensed(&[(1.0, f64::NAN), (2.0, 5.0)], 100), [(2.0, 5.0, 5.0, 5.0)]);
        assert_eq!(condensed(&[], 100), []);
    }
}
