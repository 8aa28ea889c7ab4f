//! Methods of decision, and their decisions at each level.

use std::collections::BTreeMap;

use super::metrics::Samples;
use super::result::Predictor;
use super::scores::{ScoreTable, SoftSecond};
use super::stacking::Stacking;
use crate::dataset::Kind;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::fusion::{FusionTable, argmax};
use touchline_core::labels::{ClassId, Modality};
use touchline_core::vote::VideoVote;

/// A method that decides label and probabilities of a second.
#[derive(Clone, Copy, Debug)]
pub enum DecisionMethod<'a> {
    /// One modality alone.
    Modality(Modality),
    /// Fusion by the class-to-modality table.
    Table(&'a FusionTable),
    /// The learned fusion.
    Learned(&'a Stacking),
}

impl DecisionMethod<'_> {
    /// Name of the method in the result.
    pub fn predictor(&self) -> Predictor {
        match self {
            DecisionMethod::Modality(Modality::Rgb) => Predictor::Rgb,
            DecisionMethod::Modality(Modality::Flow) => Predictor::Flow,
            DecisionMethod::Modality(Modality::Audio) => Predictor::Audio,
            DecisionMethod::Table(_) => Predictor::Table,
            DecisionMethod::Learned(_) => Predictor::Learned,
        }
    }

    /// Returns label and probabilities; `None` when the scores that the method needs are missing.
    pub fn decide(&self, scores: &PerModality<Option<ModalityScores>>) -> Option<(ClassId, Vec<f32>)> {
        match self {
            DecisionMethod::Modality(m) => scores.get(*m).as_ref().map(|s| (s.label, s.scores.clone())),
            DecisionMethod::Table(table) => table.decide(scores).map(|d| (d.label, d.probabilities)),
            DecisionMethod::Learned(stacking) => {
                let probabilities = stacking.probabilities(scores)?;
                Some((ClassId(argmax(&probabilities) as u16), probabilities))
            }
        }
    }
}

/// Returns the seconds of clips, which are measured and fitted on. Pictures and sound without picture would outnumber them. If
/// there are no clips, all seconds are returned.
pub fn clips(seconds: &[SoftSecond]) -> Vec<&SoftSecond> {
    let any = seconds.iter().any(|s| s.kind == Kind::Clip);
    seconds.iter().filter(|s| s.kind == Kind::Clip || !any).collect()
}

/// Returns a sample for each frame, pair or second of sound of the clips (as for [`clips`]), at `temperature`.
pub fn frame_samples(table: &ScoreTable, modality: Modality, temperature: f32) -> Samples {
    let groups = table.groups();
    let any = table.seconds.iter().any(|s| table.item(s).kind == Kind::Clip);
    let mut samples = Samples::new(table.classes.len());
    for (second, logits) in table.rows(modality) {
        let item = table.item(second);
        if item.kind == Kind::Clip || !any {
            let row = table.softmax(modality, logits, temperature);
            samples.push(item.truth, ClassId(argmax(&row) as u16), groups[second.item as usize], &row);
        }
    }
    samples
}

/// Returns a sample for each second that can be decided. `groups` has the group of each item.
pub fn second_samples(seconds: &[&SoftSecond], judge: &DecisionMethod, classes: usize, groups: &[u32]) -> Samples {
    let mut samples = Samples::new(classes);
    for s in seconds {
        if let Some((label, row)) = judge.decide(&s.scores) {
            samples.push(s.truth, label, groups[s.item as usize], &row);
        }
    }
    samples
}

/// Returns a sample for each recording of which at least one second can be decided: the vote of its seconds and their mean
/// probabilities. `groups` has the group of each item.
pub fn video_samples(seconds: &[&SoftSecond], judge: &DecisionMethod, classes: usize, groups: &[u32]) -> Samples {
    let mut votes: BTreeMap<u32, (ClassId, VideoVote)> = BTreeMap::new();
    for s in seconds {
        if let Some((label, row)) = judge.decide(&s.scores) {
            votes.entry(s.recording).or_insert_with(|| (s.truth, VideoVote::new(classes))).1.add(label, &row);
        }
    }
    let mut samples = Samples::new(classes);
    for (item, (truth, vote)) in votes {
        let label = vote.label().expect("a vote is made when its first second is decided").label;
        samples.push(truth, label, groups[item as usize], &vote.mean());
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::super::scores::testing::{logits_for, table};
    use super::*;

    #[test]
    fn levels_match_a_calculation_by_hand() {
        let mut t = table(3);
        let rgb = |labels: &[usize]| PerModality {
            rgb: labels.iter().map(|l| logits_for(*l, 1.0, 3)).collect(),
            ..PerModality::default()
        };
        // The majorities of the seconds are 1, 0, 1; one second is missing. The recording is 1, which is right.
        t.add(Kind::Clip, 1, "s", vec![rgb(&[1, 1, 0]), rgb(&[0, 0, 1]), rgb(&[1, 1, 1]), rgb(&[])]);
        t.add(Kind::Clip, 2, "t", vec![rgb(&[0])]);
        t.add(Kind::Picture, 2, "p", vec![rgb(&[2])]);
        let soft = t.soften(&PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 });
        let (clips, groups, judge) = (clips(&soft), t.groups(), DecisionMethod::Modality(Modality::Rgb));
        let frames = frame_samples(&t, Modality::Rgb, 1.0);
        assert_eq!((frames.len(), frames.confusion().accuracy()), (10, 0.6), "no pictures");
        let seconds = second_samples(&clips, &judge, 3, &groups);
        assert_eq!((seconds.len(), seconds.confusion().accuracy()), (4, 0.5));
        let videos = video_samples(&clips, &judge, 3, &groups);
        assert_eq!((videos.len(), videos.confusion().accuracy()), (2, 0.5));
        let (truth, predicted, group, row) = videos.iter().next().unwrap();
        assert_eq!((truth, predicted, group), (ClassId(1), ClassId(1), groups[0]));
        // Six of nine frames are labelled 1, and each second has the same weight.
        let (high, low) = (1f32.exp() / (1f32.exp() + 2.0), 1.0 / (1f32.exp() + 2.0));
        assert!((row[1] - (6.0 * high + 3.0 * low) / 9.0).abs() < 1e-6);
        assert!(second_samples(&clips, &DecisionMethod::Modality(Modality::Flow), 3, &groups).is_empty());
        // Without clips, pictures are measured.
        t.seconds.retain(|s| s.item == 2);
        let soft = t.soften(&PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 });
        assert_eq!((super::clips(&soft).len(), frame_samples(&t, Modality::Rgb, 1.0).len()), (1, 1));
    }
}
