//! Step 1 of the study's training: a classifier on the features of a frozen backbone.
//!
//! Multinomial logistic regression (one linear layer, as MobileNetV2 and ResNet50 have), trained by AdamW on mini-batches
//! with label smoothing; the epoch with the best validation macro F1 is kept.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use rand::seq::SliceRandom;

use super::measure::Confusion;
use crate::error::Result;
use crate::fusion::argmax;
use crate::labels::ClassId;

/// Samples to learn from or to validate on: row `i` of `features` has class `labels[i]` and counts `weights[i]`.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// `len * width`, row-major.
    pub features: Vec<f32>,
    /// Index of the class among the head's outputs.
    pub labels: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Samples {
    pub fn push(&mut self, features: &[f32], label: u32, weight: f32) {
        self.features.extend_from_slice(features);
        self.labels.push(label);
        self.weights.push(weight);
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// How a head is trained.
#[derive(Clone, Copy, Debug)]
pub struct HeadConfig {
    pub epochs: u32,
    pub batch: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Share of features zeroed in each training batch.
    pub dropout: f32,
    pub seed: u64,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 512,
            learning_rate: 1e-3,
            weight_decay: 0.05,
            label_smoothing: 0.05,
            dropout: 0.2,
            seed: 1,
        }
    }
}

/// A trained head.
#[derive(Clone, Debug)]
pub struct Head {
    /// `(classes, width)`
    pub weight: Tensor,
    /// `(classes,)`
    pub bias: Tensor,
    /// The epoch that was kept, from 1.
    pub epoch: u32,
    /// Validation macro F1 of that epoch, per sample; `None` without validation samples.
    pub validation_f1: Option<f64>,
}

impl Head {
    /// Logits of rows of features, `(rows, classes)` row by row.
    ///
    /// # Errors
    /// When the tensor library refuses.
    pub fn logits(&self, features: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (_, width) = self.weight.dims2()?;
        if features.is_empty() {
            return Ok(Vec::new());
        }
        let x = Tensor::from_slice(features, (features.len() / width, width), &Device::Cpu)?;
        Ok(logits(&x, &self.weight, &self.bias)?.to_vec2::<f32>()?)
    }
}

/// Trains a head; `progress` hears the epoch, its mean loss and its validation macro F1.
///
/// # Errors
/// When the tensor library refuses.
///
/// # Panics
/// If `train` is empty.
pub fn train(
    train: &Samples,
    validation: &Samples,
    classes: usize,
    config: &HeadConfig,
    progress: &mut dyn FnMut(u32, f64, Option<f64>),
) -> Result<Head> {
    assert!(!train.is_empty(), "a head learns from samples");
    let device = Device::Cpu;
    let width = train.features.len() / train.len();
    let weight = Var::from_tensor(&Tensor::zeros((classes, width), DType::F32, &device)?)?;
    let bias = Var::from_tensor(&Tensor::zeros(classes, DType::F32, &device)?)?;
    let steps = config.epochs as usize * train.len().div_ceil(config.batch);
    let mut optimizer = AdamW::new(
        vec![weight.clone(), bias.clone()],
        ParamsAdamW { lr: config.learning_rate, weight_decay: config.weight_decay, ..ParamsAdamW::default() },
    )?;
    let mut order: Vec<usize> = (0..train.len()).collect();
    let mut rng = super::augment::rng(config.seed, 0, 0);
    let mut best: Option<Head> = None;
    let mut step = 0usize;
    for epoch in 1..=config.epochs {
        order.shuffle(&mut rng);
        let mut loss_sum = 0f64;
        let mut batches = 0u32;
        for rows in order.chunks(config.batch) {
            // Cosine from the full rate to zero.
            let rate = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            optimizer.set_learning_rate(config.learning_rate * rate);
            let (x, target, sample_weight) = batch(train, rows, width, classes, config, &mut rng)?;
            let log_probability = candle_nn::ops::log_softmax(&logits(&x, &weight, &bias)?, 1)?;
            let loss = (log_probability.mul(&target)?.sum(1)?.mul(&sample_weight)?.sum_all()? / -1.0)?
                .div(&sample_weight.sum_all()?)?;
            optimizer.backward_step(&loss)?;
            loss_sum += f64::from(loss.to_scalar::<f32>()?);
            batches += 1;
            step += 1;
        }
        let mut head = Head {
            weight: weight.as_tensor().copy()?.detach(),
            bias: bias.as_tensor().copy()?.detach(),
            epoch,
            validation_f1: None,
        };
        if !validation.is_empty() {
            let mut confusion = Confusion::new(classes);
            for (row, label) in head.logits(&validation.features)?.iter().zip(&validation.labels) {
                confusion.add(ClassId(*label as u16), ClassId(argmax(row) as u16));
            }
            head.validation_f1 = Some(confusion.macro_f1());
        }
        progress(epoch, loss_sum / f64::from(batches), head.validation_f1);
        if best.as_ref().is_none_or(|b| head.validation_f1 >= b.validation_f1) {
            best = Some(head);
        }
    }
    Ok(best.expect("there is at least one epoch"))
}

/// `x Wᵀ + b`
fn logits(x: &Tensor, weight: &Tensor, bias: &Tensor) -> candle_core::Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

fn batch(
    samples: &Samples,
    rows: &[usize],
    width: usize,
    classes: usize,
    config: &HeadConfig,
    rng: &mut impl rand::Rng,
) -> Result<(Tensor, Tensor, Tensor)> {
    let mut x = Vec::with_capacity(rows.len() * width);
    let spread = (config.label_smoothing / classes as f64) as f32;
    let mut target = vec![spread; rows.len() * classes];
    let mut weights = Vec::with_capacity(rows.len());
    let keep = 1.0 - config.dropout;
    for (i, row) in rows.iter().enumerate() {
        let features = &samples.features[row * width..(row + 1) * width];
        x.extend(features.iter().map(|v| if rng.random::<f32>() < keep { v / keep } else { 0.0 }));
        target[i * classes + samples.labels[*row] as usize] += 1.0 - config.label_smoothing as f32;
        weights.push(samples.weights[*row]);
    }
    let device = &Device::Cpu;
    Ok((
        Tensor::from_vec(x, (rows.len(), width), device)?,
        Tensor::from_vec(target, (rows.len(), classes), device)?,
        Tensor::from_vec(weights, rows.len(), device)?,
    ))
}

/// The temperature that makes the softmax of logits most likely under the labels: a golden-section search over its
/// logarithm (the likelihood has one optimum). 1 without samples.
pub fn temperature(logits: &[Vec<f32>], labels: &[u32]) -> f32 {
    if logits.is_empty() {
        return 1.0;
    }
    let loss = |log_t: f64| -> f64 {
        let t = log_t.exp();
        logits
            .iter()
            .zip(labels)
            .map(|(row, label)| {
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|v| (f64::from(v - top) / t).exp()).sum();
                sum.ln() - f64::from(row[*label as usize] - top) / t
            })
            .sum()
    };
    let (mut low, mut high) = (0.1f64.ln(), 10f64.ln());
    let golden = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    (0.5 * (low + high)).exp() as f32
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    fn blobs(n: usize, seed: u64) -> Samples {
        let mut rng = crate::learn::augment::rng(seed, 1, 1);
        let mut samples = Samples::default();
        for i in 0..n {
            let label = (i % 3) as u32;
            let features: Vec<f32> =
                (0..8).map(|d| rng.random_range(-0.5..0.5) + if d == label as usize { 1.0 } else { 0.0 }).collect();
            samples.push(&features, label, 1.0);
        }
        samples
    }

    #[test]
    fn a_head_learns_and_repeats_by_seed() {
        let config = HeadConfig { epochs: 20, batch: 32, learning_rate: 0.02, ..HeadConfig::default() };
        let run = || {
            let mut losses = Vec::new();
            let head = train(&blobs(300, 1), &blobs(90, 2), 3, &config, &mut |_, loss, _| losses.push(loss)).unwrap();
            (head, losses)
        };
        let (head, losses) = run();
        assert!(head.validation_f1.unwrap() > 0.95, "{:?}", head.validation_f1);
        assert!(losses.last().unwrap() < &(losses[0] * 0.6), "{losses:?}");
        assert_eq!(run().1, losses);
    }

    #[test]
    fn temperature_undoes_a_known_scale() {
        let mut rng = crate::learn::augment::rng(5, 5, 5);
        // Labels drawn from the softmax of the logits: the true temperature is 1; tripled logits need 3.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..4000 {
            let row: Vec<f32> = (0..3).map(|_| rng.random_range(-2.0..2.0f32)).collect();
            let weights: Vec<f32> = row.iter().map(|v| v.exp()).collect();
            let mut at = rng.random_range(0.0..weights.iter().sum::<f32>());
            let label = weights.iter().position(|w| {
                at -= w;
                at < 0.0
            });
            labels.push(label.unwrap_or(2) as u32);
            logits.push(row.iter().map(|v| v * 3.0).collect());
        }
        let t = temperature(&logits, &labels);
        assert!((t - 3.0).abs() < 0.25, "{t}");
        assert_eq!(temperature(&[], &[]), 1.0);
    }
}
