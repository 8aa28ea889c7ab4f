//! The classifier on frozen features: multinomial logistic regression, trained to its optimum.
//!
//! The loss is that of step 2 (weighted samples, smoothed targets) plus an L2 penalty on the weights but not on the biases. It is
//! convex and has one optimum. The result therefore does not depend on a learning rate, an order of samples or first weights.
//!
//! L-BFGS minimises over centred features of about unit variance. That changes its path but not the optimum: the penalty applies
//! to the weights of the original features, and the means are folded into the biases. Without centring and scaling it takes
//! several times as many steps, because features after a ReLU have means far above their deviations.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::batch::soft_targets;
use crate::lbfgs::{Objective, minimise};
use touchline_core::error::Result;

/// Samples in one matrix product. Chunks are summed in their order, so that the same samples give the same weights on any number
/// of threads.
const CHUNK: usize = 1024;

/// Minimisation ends when no component of the gradient exceeds this, which is slightly above the noise of single precision.
const TOLERANCE: f64 = 1e-5;

/// Minimum scale of a feature, as a share of its root mean square. Without it, a nearly constant feature would be scaled to unit
/// variance together with the rounding error of its mean, and that noise would end the minimisation early.
const LEAST_DEVIATION: f64 = 0.1;

/// Samples, their features, and the parameters of the loss.
pub(crate) struct FitInput<'a> {
    /// Returns the features of the samples with the given indices, (N, width).
    pub features: &'a (dyn Fn(&[u32]) -> Result<Tensor> + Sync),
    /// Class of each sample.
    pub labels: &'a [u32],
    /// Weight of each sample.
    pub weights: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Number of features.
    pub width: usize,
    /// Share of a target that is spread over all classes.
    pub smoothing: f64,
    /// Factor of half the sum of squared weights, which is added to the mean loss.
    pub penalty: f64,
    /// Logits (N × classes) that are added to those of the fit: the fit is then a correction to an existing classifier, and the penalty
    /// is on the distance from it. Empty when there is none.
    pub offsets: &'a [f32],
}

/// Figures at a point of the minimisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FitStep {
    /// Mean loss, without the penalty.
    pub loss: f64,
    /// Samples whose highest score is that of their label.
    pub right: u64,
    /// Passes over the samples since the previous step; more than one when the line search shortened a step.
    pub passes: u64,
}

/// The optimum.
pub(crate) struct Fitted {
    /// Figures at the optimum.
    pub at: FitStep,
    /// Weights, classes × width, row by row.
    pub weight: Vec<f32>,
    /// Biases, one per class.
    pub bias: Vec<f32>,
}

/// Minimises the loss with at most `steps` steps of L-BFGS. `on_step` is called after each.
///
/// # Errors
/// Those of `features` and of `on_step`.
pub(crate) fn fit(
    material: &FitInput<'_>,
    steps: usize,
    on_step: &mut dyn FnMut(FitStep) -> Result<()>,
) -> Result<Fitted> {
    let numbers: Vec<u32> = (0..material.labels.len() as u32).collect();
    let (mean, deviation) = moments(material, &numbers)?;
    let total = material.weights.iter().map(|w| f64::from(*w)).sum::<f64>();
    let at = FitStep { loss: f64::NAN, right: 0, passes: 0 };
    let scaled = Scaled { material, numbers, mean, deviation, total };
    let mut walk = Monitor { scaled: &scaled, at, reached: None, on_step };
    let x = minimise(&mut walk, vec![0.0; material.classes * (material.width + 1)], steps, TOLERANCE)?;
    let (weight, bias) = scaled.unscaled(&x);
    Ok(Fitted { at: walk.reached.unwrap_or(at), weight, bias: bias.into_iter().map(|b| b as f32).collect() })
}

/// Returns the mean of each feature, and its deviation for scaling, which is 1 for a feature that is always 0.
fn moments(material: &FitInput<'_>, numbers: &[u32]) -> Result<(Vec<f64>, Vec<f64>)> {
    let width = material.width;
    let chunks: Vec<(Vec<f64>, Vec<f64>)> = numbers
        .par_chunks(CHUNK)
        .map(|chunk| {
            let (mut sum, mut squares) = (vec![0f64; width], vec![0f64; width]);
            let values = (material.features)(chunk)?.flatten_all()?.to_vec1::<f32>()?;
            for row in values.chunks_exact(width) {
                for ((sum, square), v) in sum.iter_mut().zip(&mut squares).zip(row) {
                    *sum += f64::from(*v);
                    *square += f64::from(*v) * f64::from(*v);
                }
            }
            Ok((sum, squares))
        })
        .collect::<Result<_>>()?;
    let n = numbers.len().max(1) as f64;
    let (mut mean, mut squares) = (vec![0f64; width], vec![0f64; width]);
    for (sum, square) in chunks {
        mean.iter_mut().zip(sum).for_each(|(m, s)| *m += s / n);
        squares.iter_mut().zip(square).for_each(|(m, s)| *m += s / n);
    }
    let deviation = |(mean, square): (&f64, f64)| {
        let deviation = (square - mean * mean).max(0.0).sqrt().max(LEAST_DEVIATION * square.sqrt());
        if deviation > 0.0 { deviation } else { 1.0 }
    };
    let deviation = mean.iter().zip(squares).map(deviation).collect();
    Ok((mean, deviation))
}

/// Samples with the centring and scaling of their features.
struct Scaled<'a> {
    material: &'a FitInput<'a>,
    /// Indices of all samples.
    numbers: Vec<u32>,
    mean: Vec<f64>,
    deviation: Vec<f64>,
    /// Sum of the samples' weights.
    total: f64,
}

/// The objective of L-BFGS.
struct Monitor<'a> {
    scaled: &'a Scaled<'a>,
    /// Figures at the point evaluated last.
    at: FitStep,
    /// Figures at the point that the last step reached.
    reached: Option<FitStep>,
    on_step: &'a mut dyn FnMut(FitStep) -> Result<()>,
}

/// Value and gradient summed over one chunk.
struct PartialSums {
    loss: f64,
    right: u64,
    /// Gradient of the weights of the original features.
    weight: Vec<f32>,
    /// Gradient of the biases.
    bias: Vec<f64>,
}

impl Scaled<'_> {
    /// Converts weights and biases for centred features of unit variance to those for the original features.
    fn unscaled(&self, x: &[f64]) -> (Vec<f32>, Vec<f64>) {
        let (weights, biases) = x.split_at(self.material.classes * self.material.width);
        let mut weight = Vec::with_capacity(weights.len());
        let mut bias = Vec::with_capacity(biases.len());
        for (row, b) in weights.chunks_exact(self.material.width).zip(biases) {
            let row = row.iter().zip(&self.deviation).map(|(v, d)| v / d);
            let shift: f64 = row.clone().zip(&self.mean).map(|(w, m)| w * m).sum();
            weight.extend(row.map(|w| w as f32));
            bias.push(b - shift);
        }
        (weight, bias)
    }

    /// Sums value and gradient over the samples of `chunk`, at `weight` (classes × width) and `bias`.
    fn sums(&self, chunk: &[u32], weight: &Tensor, bias: &[f64]) -> Result<PartialSums> {
        let FitInput { features, labels, weights, classes, smoothing, offsets, .. } = *self.material;
        let features = features(chunk)?;
        let logits = features.matmul(&weight.t()?)?.flatten_all()?.to_vec1::<f32>()?;
        let own: Vec<u32> = chunk.iter().map(|i| labels[*i as usize]).collect();
        let mut residuals = soft_targets(&own, classes, smoothing);
        let mut sums = PartialSums { loss: 0.0, right: 0, weight: Vec::new(), bias: vec![0.0; classes] };
        let mut scores = vec![0f64; classes];
        for (n, (logits, targets)) in logits.chunks_exact(classes).zip(residuals.chunks_exact_mut(classes)).enumerate()
        {
            for ((score, logit), b) in scores.iter_mut().zip(logits).zip(bias) {
                *score = f64::from(*logit) + b;
            }
            if !offsets.is_empty() {
                let offsets = &offsets[chunk[n] as usize * classes..][..classes];
                scores.iter_mut().zip(offsets).for_each(|(score, offset)| *score += f64::from(*offset));
            }
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            sums.right += u64::from(scores[own[n] as usize] >= best);
            let sum: f64 = scores.iter().map(|s| (s - best).exp()).sum();
            let share = f64::from(weights[chunk[n] as usize]) / self.total;
            for ((target, score), bias) in targets.iter_mut().zip(&scores).zip(&mut sums.bias) {
                let log_probability = score - best - sum.ln();
                sums.loss -= share * f64::from(*target) * log_probability;
                let residual = share * (log_probability.exp() - f64::from(*target));
                *bias += residual;
                *target = residual as f32;
            }
        }
        let residuals = Tensor::from_vec(residuals, (chunk.len(), classes), &Device::Cpu)?;
        sums.weight = residuals.t()?.matmul(&features)?.flatten_all()?.to_vec1()?;
        Ok(sums)
    }
}

impl Objective for Monitor<'_> {
    type Error = touchline_core::error::Error;

    fn value(&mut self, x: &[f64], gradient: &mut [f64]) -> Result<f64> {
        let scaled = self.scaled;
        let FitInput { classes, width, penalty, .. } = *scaled.material;
        let (weight, bias) = scaled.unscaled(x);
        let squares: f64 = weight.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
        let tensor = Tensor::from_slice(&weight, (classes, width), &Device::Cpu)?;
        let chunks: Vec<PartialSums> =
            scaled.numbers.par_chunks(CHUNK).map(|chunk| scaled.sums(chunk, &tensor, &bias)).collect::<Result<_>>()?;
        gradient.fill(0.0);
        let (of_weights, of_biases) = gradient.split_at_mut(classes * width);
        let passes = self.at.passes + 1;
        self.at = FitStep { loss: 0.0, right: 0, passes };
        for sums in chunks {
            self.at.loss += sums.loss;
            self.at.right += sums.right;
            of_weights.iter_mut().zip(sums.weight).for_each(|(g, p)| *g += f64::from(p));
            of_biases.iter_mut().zip(sums.bias).for_each(|(g, p)| *g += p);
        }
        for ((row, of_bias), own) in
            of_weights.chunks_exact_mut(width).zip(of_biases.iter()).zip(weight.chunks_exact(width))
        {
            for (((g, w), mean), deviation) in row.iter_mut().zip(own).zip(&scaled.mean).zip(&scaled.deviation) {
                *g = (*g - of_bias * mean + penalty * f64::from(*w)) / deviation;
            }
        }
        self.reached.get_or_insert(self.at);
        Ok(self.at.loss + 0.5 * penalty * squares)
    }

    fn stepped(&mut self) -> Result<()> {
        let at = self.at;
        self.reached = Some(at);
        self.at.passes = 0;
        (self.on_step)(at)
    }
}

#[cfg(test)]
#[path = "classifier_tests.rs"]
mod tests;
