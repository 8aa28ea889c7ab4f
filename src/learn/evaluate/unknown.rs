//! The probability from which a label is an answer; below it the answer is unknown.
//!
//! Selective classification by the highest softmax probability, as in Geifman and El-Yaniv, "Selective Classification for Deep
//! Neural Networks" (2017): the lowest threshold whose answers are right often enough.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::by_source::ByKind;
use super::metrics::Samples;
use crate::dataset::Kind;
use touchline_compute::models::pack::Unknown;
use touchline_core::labels::ClassId;

/// Share of right answers that a threshold must reach.
const PRECISION: f64 = 0.9;

/// Smallest share of items that must remain answered. A detector that answers less often is of no use, however right it is.
const COVERAGE_MIN: f64 = 0.5;

/// Items of a class in a source: (class, group).
type Cell = (ClassId, u32);

/// Answers at a threshold, counted by class and source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Items, answers and right answers.
    cells: BTreeMap<Cell, [u64; 3]>,
}

/// How often a pack answers, and how often the answers are right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Share of items that are answered.
    pub coverage: f64,
    /// Share of right answers; `None` without an answer.
    pub precision: Option<f64>,
}

impl Answers {
    /// Adds `samples`, of which those with a probability of at least `known_from` are answered.
    pub fn add(&mut self, samples: &Samples, known_from: f32) {
        for (truth, predicted, group, probabilities) in samples.iter() {
            let is_answer = probabilities[predicted.index()] >= known_from;
            let cell = self.cells.entry((truth, group)).or_default();
            cell[0] += 1;
            cell[1] += u64::from(is_answer);
            cell[2] += u64::from(is_answer && truth == predicted);
        }
    }

    /// Coverage and precision. Each source of a class has the same weight.
    pub fn shares(&self) -> Answered {
        let of = |n: usize| self.cells.values().map(|cell| cell[n] as f64 / cell[0] as f64).sum::<f64>();
        let (answered, right) = (of(1), of(2));
        let coverage = answered / (self.cells.len() as f64).max(1.0);
        Answered { coverage, precision: (answered > 0.0).then(|| right / answered) }
    }
}

/// Chooses the threshold on recordings and frames of television, which are what a stream shows. If no threshold reaches the
/// precision and the coverage, the one with the best precision that still has the coverage. `None` without such items.
pub fn fit(items: &ByKind) -> Option<Unknown> {
    let on_air: Vec<&Samples> = [Kind::Clip, Kind::Frame].iter().filter_map(|kind| items.get(kind)).collect();
    let label = |(_, predicted, _, probabilities): (ClassId, ClassId, u32, &[f32])| probabilities[predicted.index()];
    let mut thresholds: Vec<f32> = on_air.iter().flat_map(|samples| samples.iter().map(label)).collect();
    // Rounded down, so that the item that the threshold comes from is answered.
    thresholds.iter_mut().for_each(|p| *p = (*p * 1e4).floor() / 1e4);
    thresholds.push(0.0);
    thresholds.sort_by(f32::total_cmp);
    thresholds.dedup();
    let mut best: Option<Unknown> = None;
    for below in thresholds {
        let mut answers = Answers::default();
        on_air.iter().for_each(|samples| answers.add(samples, below));
        let Answered { coverage, precision: Some(precision) } = answers.shares() else { break };
        if coverage < COVERAGE_MIN {
            break;
        }
        if best.is_none_or(|best| precision > f64::from(best.precision)) {
            best = Some(Unknown { below, precision: precision as f32, coverage: coverage as f32 });
        }
        if precision >= PRECISION {
            break;
        }
    }
    let round = |share: f32| (share * 1e4).round() / 1e4;
    best.map(|Unknown { below, precision, coverage }| Unknown {
        below,
        precision: round(precision),
        coverage: round(coverage),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of class 0 of two classes: (whether the label is right, its probability, source).
    fn samples(items: &[(bool, f32, u32)]) -> Samples {
        let mut samples = Samples::new(2);
        for (is_right, p, group) in items {
            let row = if *is_right { [*p, 1.0 - p] } else { [1.0 - p, *p] };
            samples.push(ClassId(0), ClassId(u16::from(!is_right)), *group, &row);
        }
        samples
    }

    fn of_clips(items: &[(bool, f32, u32)]) -> ByKind {
        ByKind::from([(Kind::Clip, samples(items)), (Kind::Picture, samples(&[(false, 0.99, 9); 50]))])
    }

    #[test]
    fn the_lowest_threshold_with_the_precision_is_chosen() {
        let mut items: Vec<(bool, f32, u32)> = (0..18).map(|n| (true, 0.7 + n as f32 * 0.01, n)).collect();
        items.extend([(false, 0.55, 18), (false, 0.6, 19), (true, 0.65, 20), (false, 0.66, 21)]);
        let unknown = fit(&of_clips(&items)).unwrap();
        // 19 of 21 are right from 0.6 on; photographs do not count.
        assert_eq!(unknown, Unknown { below: 0.6, precision: 0.9048, coverage: 0.9545 });
        let mut answers = Answers::default();
        answers.add(&samples(&items), unknown.below);
        let Answered { coverage, precision } = answers.shares();
        assert!((coverage - 21.0 / 22.0).abs() < 1e-9 && (precision.unwrap() - 19.0 / 21.0).abs() < 1e-9);
    }

    #[test]
    fn a_source_with_many_items_weighs_as_much_as_one_with_few() {
        let mut items = vec![(false, 0.55, 0); 100];
        items.extend((1..20).map(|group| (true, 0.9, group)));
        assert_eq!(fit(&of_clips(&items)).unwrap(), Unknown { below: 0.0, precision: 0.95, coverage: 1.0 });
    }

    #[test]
    fn without_the_precision_the_best_threshold_with_the_coverage_is_chosen() {
        let items: Vec<(bool, f32, u32)> = (0..10).map(|n| (n == 9 || n % 2 == 0, 0.5 + n as f32 * 0.02, n)).collect();
        let unknown = fit(&of_clips(&items)).unwrap();
        // 4 of 5 from 0.6 on would be less than all of the coverage below.
        assert!(unknown.coverage >= 0.5 && unknown.precision < 0.9, "{unknown:?}");
        assert_eq!(fit(&ByKind::new()), None);
    }
}
