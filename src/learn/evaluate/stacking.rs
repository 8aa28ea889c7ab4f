//! The learned fusion: multinomial logistic regression on the modalities' second-level scores ("stacking").
//!
//! The inputs of each modality are the logarithms of its probabilities, minus their mean over the classes of its model. A class
//! that the model does not know is thus at 0 and neutral. A missing modality has zeros and an indicator of 1.
//!
//! The weights are one factor per modality, which multiplies the inputs of each class for that class (the trust in the modality),
//! plus a full matrix, offsets for missing modalities and a bias. The L2 penalty is on the distance from the best modality alone
//! (factor 1 for it, a small factor for the others, 0 for the remaining weights), because validation has few sources. The strength
//! of the penalty is chosen by cross-validation over source groups, on validation only. It is the strongest penalty whose loss is
//! within one standard error, over groups, of the lowest loss (Breiman et al., *Classification and Regression Trees*, 1984, section
//! 3.4.3). Source of stacking: Wolpert, *Stacked Generalization*, Neural Networks 5, 1992.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::scores::{ScoreTable, SoftSecond};
use crate::lbfgs::minimise;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::labels::{ClassId, Modality};

/// Lower limit of probabilities. Smaller values of a softmax are no evidence.
const FLOOR: f32 = 1e-6;

/// Candidate penalties, from strong to weak, relative to the mean loss of a second.
const PENALTIES: [f64; 7] = [100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4];

/// Initial factor of a modality that is not the best: enough to decide seconds in which it is the only one.
const LITTLE: f64 = 0.1;

/// Maximum number of folds.
const FOLDS: usize = 5;

/// Maximum number of L-BFGS steps.
const STEPS: usize = 200;

/// Largest component of the gradient at which a fit ends.
const TOLERANCE: f64 = 1e-6;

/// Seconds in one partial sum of the gradient. The order of the sums is fixed, so that the same data give the same weights.
const CHUNK: usize = 128;

/// A fitted stacking.
#[derive(Clone, Debug, PartialEq)]
pub struct Stacking {
    shape: Shape,
    weights: Vec<f64>,
    /// The penalty that cross-validation chose.
    pub penalty: f64,
    /// Number of folds of the cross-validation.
    pub folds: usize,
    /// Number of source groups of the examples.
    pub groups: usize,
}

/// Layout of the inputs and of the weights.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    classes: usize,
    /// Modality, the classes of its model, and the index of its first input.
    parts: Vec<(Modality, Vec<ClassId>, usize)>,
    /// Number of inputs of a second, with the constant 1 for the bias.
    inputs: usize,
}

/// One second of the fit.
struct Example {
    inputs: Vec<f64>,
    truth: usize,
    group: u32,
}

impl Stacking {
    /// Fits on the seconds of validation's clips, or on all seconds if there are no clips. `None` without seconds.
    pub fn fit(table: &ScoreTable, validation: &[SoftSecond]) -> Option<Self> {
        let shape = Shape::new(table);
        let groups = table.groups();
        let examples: Vec<Example> = super::predict::clips(validation)
            .into_iter()
            .filter_map(|s| {
                let inputs = shape.inputs(&s.scores)?;
                Some(Example { inputs, truth: s.truth.index(), group: groups[s.item as usize] })
            })
            .collect();
        if examples.is_empty() {
            return None;
        }
        let (fold_of, folds) = folds(&examples);
        // Loss of each held-out group, per penalty.
        let mut losses: BTreeMap<u32, [f64; PENALTIES.len()]> = BTreeMap::new();
        for fold in 0..if folds >= 2 { folds } else { 0 } {
            let (held, learnt): (Vec<&Example>, Vec<&Example>) =
                examples.iter().partition(|e| fold_of[&e.group] == fold);
            let start = shape.start(&learnt);
            let mut weights = start.clone();
            for (i, penalty) in PENALTIES.into_iter().enumerate() {
                // The solution for the next stronger penalty is a close start.
                weights = fit(&shape, &learnt, penalty, &start, weights);
                for e in &held {
                    losses.entry(e.group).or_default()[i] += shape.loss(&weights, e);
                }
            }
        }
        let best = choose(&losses);
        let all: Vec<&Example> = examples.iter().collect();
        let start = shape.start(&all);
        let mut weights = start.clone();
        for penalty in &PENALTIES[..=best] {
            weights = fit(&shape, &all, *penalty, &start, weights);
        }
        Some(Self { shape, weights, penalty: PENALTIES[best], folds, groups: fold_of.len() })
    }

    /// Returns the probabilities over the pack's classes; `None` when every modality is missing.
    pub fn probabilities(&self, scores: &PerModality<Option<ModalityScores>>) -> Option<Vec<f32>> {
        let inputs = self.shape.inputs(scores)?;
        Some(self.shape.softmax(&self.weights, &inputs).into_iter().map(|p| p as f32).collect())
    }

    /// Returns the factor of each modality: the exponent of its probabilities in the product.
    pub fn factors(&self) -> impl Iterator<Item = (Modality, f64)> {
        self.shape.parts.iter().map(|p| p.0).zip(self.weights[self.shape.matrix()..].iter().copied())
    }
}

impl Shape {
    fn new(table: &ScoreTable) -> Self {
        let mut parts = Vec::new();
        let mut at = 0;
        for modality in Modality::ALL {
            if let Some(outputs) = table.outputs.get(modality) {
                parts.push((modality, outputs.clone(), at));
                at += outputs.len() + 1;
            }
        }
        Self { classes: table.classes.len(), parts, inputs: at + 1 }
    }

    /// Returns the inputs of a second; `None` when every modality is missing.
    fn inputs(&self, scores: &PerModality<Option<ModalityScores>>) -> Option<Vec<f64>> {
        let mut inputs = vec![0.0; self.inputs];
        inputs[self.inputs - 1] = 1.0;
        let mut any = false;
        for (modality, outputs, at) in &self.parts {
            let Some(scores) = scores.get(*modality) else {
                inputs[at + outputs.len()] = 1.0;
                continue;
            };
            any = true;
            let logs = outputs.iter().map(|o| f64::from(scores.scores[o.index()].max(FLOOR).ln()));
            let mean = logs.clone().sum::<f64>() / outputs.len() as f64;
            inputs[*at..].iter_mut().zip(logs).for_each(|(input, log)| *input = log - mean);
        }
        any.then_some(inputs)
    }

    /// Number of weights of the matrix, with those for missing modalities and bias: one row of inputs per class.
    fn matrix(&self) -> usize {
        self.classes * self.inputs
    }

    /// Returns the first weights of a fit, which are also the centre of the penalty: the single modality that makes these
    /// examples most likely.
    fn start(&self, examples: &[&Example]) -> Vec<f64> {
        let alone = |best: usize| {
            let mut weights = vec![0.0; self.matrix()];
            weights.extend((0..self.parts.len()).map(|part| if part == best { 1.0 } else { LITTLE }));
            weights
        };
        let loss = |weights: &[f64]| examples.iter().map(|e| self.loss(weights, e)).sum::<f64>();
        let candidates = (0..self.parts.len()).map(alone);
        candidates.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap_or_default()
    }

    fn softmax(&self, weights: &[f64], inputs: &[f64]) -> Vec<f64> {
        let (matrix, factors) = weights.split_at(self.matrix());
        let mut logits: Vec<f64> = matrix
            .chunks_exact(self.inputs)
            .map(|row| row.iter().zip(inputs).map(|(weight, input)| weight * input).sum())
            .collect();
        for ((_, outputs, at), factor) in self.parts.iter().zip(factors) {
            for (o, input) in outputs.iter().zip(&inputs[*at..]) {
                logits[o.index()] += factor * input;
            }
        }
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for logit in &mut logits {
            *logit = (*logit - highest).exp();
            sum += *logit;
        }
        logits.iter_mut().for_each(|p| *p /= sum);
        logits
    }

    fn loss(&self, weights: &[f64], example: &Example) -> f64 {
        -self.softmax(weights, &example.inputs)[example.truth].max(f64::MIN_POSITIVE).ln()
    }

    /// Adds the gradient of one example's loss to `gradient`. Returns the loss.
    fn add_gradient(&self, weights: &[f64], example: &Example, gradient: &mut [f64]) -> f64 {
        let mut errors = self.softmax(weights, &example.inputs);
        let loss = -errors[example.truth].max(f64::MIN_POSITIVE).ln();
        errors[example.truth] -= 1.0;
        let (matrix, factors) = gradient.split_at_mut(self.matrix());
        for (row, error) in matrix.chunks_exact_mut(self.inputs).zip(&errors) {
            row.iter_mut().zip(&example.inputs).for_each(|(g, input)| *g += error * input);
        }
        for ((_, outputs, at), factor) in self.parts.iter().zip(factors) {
            *factor += outputs.iter().zip(&example.inputs[*at..]).map(|(o, i)| errors[o.index()] * i).sum::<f64>();
        }
        loss
    }
}

/// Returns the index of the strongest penalty within one standard error of the lowest loss; the strongest without losses.
fn choose(losses: &BTreeMap<u32, [f64; PENALTIES.len()]>) -> usize {
    let total = |i: usize| losses.values().map(|l| l[i]).sum::<f64>();
    let best = (0..PENALTIES.len()).min_by(|a, b| total(*a).total_cmp(&total(*b))).unwrap_or(0);
    let groups = losses.len() as f64;
    let within = |i: &usize| {
        let more: Vec<f64> = losses.values().map(|l| l[*i] - l[best]).collect();
        let sum: f64 = more.iter().sum();
        let spread: f64 = more.iter().map(|m| (m - sum / groups).powi(2)).sum();
        // The standard error of a sum over groups.
        sum <= (spread * groups / (groups - 1.0)).sqrt()
    };
    (0..best).find(within).unwrap_or(best)
}

/// Minimises the mean loss plus the penalty on the distance from `centre`, beginning at `weights`.
fn fit(shape: &Shape, examples: &[&Example], penalty: f64, centre: &[f64], weights: Vec<f64>) -> Vec<f64> {
    let n = examples.len().max(1) as f64;
    let mut objective = |weights: &[f64], gradient: &mut [f64]| {
        let parts: Vec<(f64, Vec<f64>)> = examples
            .par_chunks(CHUNK)
            .map(|chunk| {
                let mut gradient = vec![0.0; weights.len()];
                let loss = chunk.iter().map(|e| shape.add_gradient(weights, e, &mut gradient)).sum();
                (loss, gradient)
            })
            .collect();
        let mut value = 0.0;
        gradient.fill(0.0);
        for (loss, part) in parts {
            value += loss / n;
            gradient.iter_mut().zip(part).for_each(|(g, p)| *g += p / n);
        }
        for ((g, w), to) in gradient.iter_mut().zip(weights).zip(centre) {
            value += 0.5 * penalty * (w - to).powi(2);
            *g += penalty * (w - to);
        }
        value
    };
    minimise(&mut objective, weights, STEPS, TOLERANCE).unwrap_or_else(|never| match never {})
}

/// Assigns each group to a fold, the largest groups first, each to the fold with the fewest seconds. Returns the fold of each group
/// and the number of folds.
fn folds(examples: &[Example]) -> (BTreeMap<u32, usize>, usize) {
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    examples.iter().for_each(|e| *sizes.entry(e.group).or_default() += 1);
    let mut order: Vec<(u32, usize)> = sizes.into_iter().collect();
    order.sort_by_key(|(group, n)| (usize::MAX - n, *group));
    let folds = FOLDS.min(order.len());
    let mut filled = vec![0; folds];
    let mut fold_of = BTreeMap::new();
    for (group, n) in order {
        let fold = (0..folds).min_by_key(|f| filled[*f]).expect("a group implies a fold");
        filled[fold] += n;
        fold_of.insert(group, fold);
    }
    (fold_of, folds)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::super::scores::testing::{logits_for, table};
    use super::*;
    use crate::augment::rng;
    use crate::dataset::Kind;
    use touchline_core::fusion::argmax;

    const ONE: PerModality<f32> = PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 };

    /// Pictures recognise classes 0 and 1 and guess for 2 and 3; sound the other way round.
    fn complementary(seed: u64) -> ScoreTable {
        let mut t = table(4);
        t.outputs.flow = None;
        let mut rng = rng(seed, 1, 1);
        for group in 0..24 {
            let truth = group % 4;
            let second = || {
                let pick = |half: usize, rng: &mut rand::rngs::SmallRng| {
                    if truth / 2 == half { truth } else { 2 * (1 - half) + rng.random_range(0..2) }
                };
                let (rgb, audio) = (pick(0, &mut rng), pick(1, &mut rng));
                let audio = if rng.random_bool(0.1) { vec![] } else { vec![logits_for(audio, 2.0, 4)] };
                PerModality { rgb: vec![logits_for(rgb, 2.0, 4)], flow: vec![], audio }
            };
            let seconds = std::iter::repeat_with(second).take(8).collect();
            t.add(Kind::Clip, truth as u16, &format!("g{group:02}"), seconds);
        }
        t
    }

    fn accuracy(seconds: &[SoftSecond], label: impl Fn(&SoftSecond) -> Option<usize>) -> f64 {
        let right = seconds.iter().filter(|s| label(s) == Some(s.truth.index())).count();
        right as f64 / seconds.len() as f64
    }

    #[test]
    fn fusion_beats_modalities_that_recognise_different_classes() {
        let validation = complementary(1);
        let stacking = Stacking::fit(&validation, &validation.soften(&ONE)).unwrap();
        assert_eq!((stacking.folds, stacking.groups), (5, 24));
        let unseen = complementary(2).soften(&ONE);
        let fused = accuracy(&unseen, |s| stacking.probabilities(&s.scores).map(|p| argmax(&p)));
        let part = |m| accuracy(&unseen, move |s: &SoftSecond| Some(s.scores.get(m).as_ref()?.label.index()));
        assert!(part(Modality::Rgb) < 0.85 && part(Modality::Audio) < 0.85);
        assert!(fused > part(Modality::Rgb).max(part(Modality::Audio)) + 0.1, "{fused}");
        let p = stacking.probabilities(&unseen[0].scores).unwrap();
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(stacking.probabilities(&PerModality::default()), None);
        assert_eq!(Stacking::fit(&validation, &validation.soften(&ONE)).unwrap(), stacking, "it is reproducible");
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        let t = complementary(3);
        let shape = Shape::new(&t);
        let soft = t.soften(&ONE);
        let example = Example { inputs: shape.inputs(&soft[5].scores).unwrap(), truth: 1, group: 0 };
        let mut rng = rng(9, 9, 9);
        let weights: Vec<f64> = shape.start(&[]).iter().map(|w| w + rng.random_range(-0.3..0.3)).collect();
        let mut gradient = vec![0.0; weights.len()];
        shape.add_gradient(&weights, &example, &mut gradient);
        for i in 0..weights.len() {
            let at = |by: f64| {
                let mut moved = weights.clone();
                moved[i] += by;
                shape.loss(&moved, &example)
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((gradient[i] - difference).abs() < 1e-7, "{i}: {} {difference}", gradient[i]);
        }
    }

    #[test]
    fn a_useless_modality_has_a_factor_near_zero() {
        let mut t = table(3);
        t.outputs.flow = None;
        let mut rng = rng(4, 4, 4);
        for group in 0..30usize {
            let seconds = (0..5).map(|_| PerModality {
                rgb: vec![logits_for(group % 3, 1.5, 3)],
                flow: vec![],
                audio: vec![logits_for(rng.random_range(0..3), 5.0, 3)],
            });
            t.add(Kind::Clip, (group % 3) as u16, &group.to_string(), seconds.collect());
        }
        let stacking = Stacking::fit(&t, &t.soften(&ONE)).unwrap();
        let factors: Vec<(Modality, f64)> = stacking.factors().collect();
        assert_eq!((factors[0].0, factors[1].0), (Modality::Rgb, Modality::Audio));
        assert!(factors[0].1 > 0.7 && factors[1].1.abs() < 0.05, "{factors:?}");
    }

    #[test]
    fn the_strongest_penalty_within_one_standard_error_is_chosen() {
        let mut row = [9.0; PENALTIES.len()];
        let mut losses = BTreeMap::new();
        assert_eq!(choose(&losses), 0);
        // The third is lowest. The second is higher by 1 in each of four groups: without spread, that is significant.
        (row[1], row[2]) = (2.0, 1.0);
        losses.extend((0..4).map(|g| (g, row)));
        assert_eq!(choose(&losses), 2);
        // Now the sum is higher by 1, with a spread of 2 per group: within √(Σ(d − ¼)² · 4/3) ≈ 4.1.
        for (g, more) in [(0, 2.5), (1, -2.0), (2, 2.5), (3, -2.0)] {
            losses.get_mut(&g).unwrap()[1] = 1.0 + more;
        }
        assert_eq!(choose(&losses), 1);
    }

    #[test]
    fn without_samples_there_is_no_fusion_and_one_group_has_no_folds() {
        let mut t = table(2);
        assert!(Stacking::fit(&t, &[]).is_none());
        let picture = PerModality { rgb: vec![logits_for(0, 1.0, 2)], ..PerModality::default() };
        t.add(Kind::Clip, 0, "one", vec![picture.clone()]);
        t.add(Kind::Picture, 0, "p", vec![picture]);
        let one = Stacking::fit(&t, &t.soften(&ONE)).unwrap();
        let found = (one.folds, one.groups, one.penalty);
        assert_eq!(found, (1, 1, PENALTIES[0]), "the strongest without folds; pictures do not count beside clips");
    }
}
