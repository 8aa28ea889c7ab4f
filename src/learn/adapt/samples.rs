//! The samples that a pack adapts to, and the classifiers fitted to them.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use super::folds::{self, FOLDS, HeldOutBy, SampleOrigin};
use super::replay::Replay;
use super::{AdaptReport, Change, ClassChange};
use crate::dataset::Dataset;
use crate::fit::classifier::{FitInput, fit};
use crate::rows::Rows;
use touchline_compute::models::Tensors;
use touchline_core::error::{Error, Result};
use touchline_core::fusion::argmax;

/// Weight of a class's new samples as a multiple of its replay samples; cross-validation chooses one.
const SHARES: [f64; 3] = [0.3, 1.0, 3.0];

/// Penalty on half the squared distance from the pack's classifier: that of step 1 of training.
pub(super) const PENALTY: f64 = 1e-2;

/// Steps of L-BFGS at most.
const STEPS: usize = 200;

/// A linear classifier: `outputs` rows of weights, and biases.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    pub outputs: usize,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Classifier {
    /// The pack's classifier. Classes that it does not know have zero weights and the lowest bias.
    pub(super) fn read(tensors: &Tensors, name: &str, outputs: usize) -> Result<Self> {
        let values = |part: &str| -> Result<Vec<f32>> {
            let name = format!("{name}.{part}");
            let tensor = tensors.get(&name).ok_or_else(|| Error::Internal(format!("the weights lack {name}")))?;
            Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let (mut weight, mut bias) = (values("weight")?, values("bias")?);
        let width = weight.len() / bias.len().max(1);
        let lowest = bias.iter().copied().fold(0.0, f32::min);
        bias.resize(outputs, lowest);
        weight.resize(outputs * width, 0.0);
        Ok(Self { outputs, weight, bias })
    }

    pub(super) fn plus(&self, correction: &Classifier) -> Classifier {
        let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Classifier {
            outputs: self.outputs,
            weight: sum(&self.weight, &correction.weight),
            bias: sum(&self.bias, &correction.bias),
        }
    }

    /// Logits (N × outputs) of features (N × width).
    pub(super) fn logits(&self, features: &[f32]) -> Result<Vec<f32>> {
        let width = self.weight.len() / self.outputs;
        let x = Tensor::from_slice(features, (features.len() / width, width), &Device::Cpu)?;
        let weight = Tensor::from_slice(&self.weight, (self.outputs, width), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.outputs, &Device::Cpu)?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(&bias)?.flatten_all()?.to_vec1()?)
    }
}

/// Replay features and the channel's, in this order.
pub(super) struct AdaptSamples {
    width: usize,
    outputs: usize,
    features: Vec<f32>,
    pub labels: Vec<u32>,
    /// The fold that holds each out.
    folds: Vec<usize>,
    /// Number of replay samples.
    replayed: usize,
    /// Penalty of the fit.
    pub penalty: f64,
    /// Logits of the pack's classifier, N × outputs.
    before: Vec<f32>,
    /// Item and second of the channel's samples.
    places: Vec<(u32, u32)>,
    held_out_by: BTreeMap<u32, HeldOutBy>,
}

impl AdaptSamples {
    pub(super) fn new(
        dataset: &Dataset,
        outputs: &[String],
        rows: &Rows,
        replay: &Replay,
        own: &Classifier,
    ) -> Result<Self> {
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let mut features = replay.features.clone();
        features.extend(rows.pooled(&all, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
        if replay.width != rows.width {
            return Err(Error::Internal("replay features of another width than the network's".into()));
        }
        let mut labels = replay.labels.clone();
        let mut origins = Vec::with_capacity(rows.len());
        for key in &rows.keys {
            let item = &dataset.items[key.item as usize];
            let label = outputs.iter().position(|name| *name == item.class).unwrap_or_default() as u32;
            labels.push(label);
            let (source, second, seconds) = (item.group.as_str(), key.second, item.seconds);
            origins.push(SampleOrigin { label, source, item: key.item, second, seconds });
        }
        let (of_channel, held_out_by) = folds::folds(&origins);
        let mut folds: Vec<usize> = replay.sources.iter().map(|source| *source as usize % FOLDS).collect();
        folds.extend(of_channel);
        let before = own.logits(&features)?;
        let places = rows.keys.iter().map(|key| (key.item, key.second)).collect();
        let (width, outputs, replayed) = (rows.width, outputs.len(), replay.len());
        Ok(Self { width, outputs, features, labels, folds, replayed, penalty: PENALTY, before, places, held_out_by })
    }

    /// Mean square of a feature.
    pub(super) fn mean_square(&self) -> f64 {
        let sum: f64 = self.features.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        sum / self.features.len().max(1) as f64
    }

    /// The channel's samples weigh `share` times the replay samples of their class; a class without replay samples weighs as much
    /// as an average class does.
    pub(super) fn weights(&self, share: f64, used: &[usize]) -> Vec<f32> {
        let mut counts = vec![[0f64; 2]; self.outputs];
        for i in used {
            counts[self.labels[*i] as usize][usize::from(*i >= self.replayed)] += 1.0;
        }
        let with_replay = counts.iter().filter(|[replayed, _]| *replayed > 0.0);
        let (n, sum) = with_replay.fold((0.0, 0.0), |(n, sum), [replayed, _]| (n + 1.0, sum + replayed));
        let mean: f64 = if n > 0.0 { sum / n } else { 1.0 };
        let weight = |i: &usize| {
            let [replayed, new] = counts[self.labels[*i] as usize];
            let weight = match (*i < self.replayed, replayed > 0.0) {
                (true, _) => mean / replayed,
                (false, true) => share * mean / new,
                (false, false) => mean / new,
            };
            weight as f32
        };
        used.iter().map(weight).collect()
    }

    /// The correction to the pack's classifier from the samples whose fold is used.
    pub(super) fn fit(&self, share: f64, uses: &dyn Fn(usize) -> bool) -> Result<Classifier> {
        let used: Vec<usize> = (0..self.labels.len()).filter(|i| uses(self.folds[*i])).collect();
        let labels: Vec<u32> = used.iter().map(|i| self.labels[*i]).collect();
        let offsets: Vec<f32> =
            used.iter().flat_map(|i| &self.before[i * self.outputs..][..self.outputs]).copied().collect();
        let fitted = fit(
            &FitInput {
                features: &|chosen| {
                    let rows = chosen.iter().map(|n| used[*n as usize]);
                    let values: Vec<f32> =
                        rows.flat_map(|i| &self.features[i * self.width..][..self.width]).copied().collect();
                    Ok(Tensor::from_vec(values, (chosen.len(), self.width), &Device::Cpu)?)
                },
                labels: &labels,
                weights: &self.weights(share, &used),
                classes: self.outputs,
                width: self.width,
                smoothing: 0.1,
                penalty: self.penalty,
                offsets: &offsets,
            },
            STEPS,
            &mut |_| Ok(()),
        )?;
        Ok(Classifier { outputs: self.outputs, weight: fitted.weight, bias: fitted.bias })
    }

    /// Held-out logits with a share: each sample is scored by a classifier that has not learned from its fold.
    pub(super) fn held_out(&self, share: f64) -> Result<Vec<Vec<f32>>> {
        let mut scores = vec![Vec::new(); self.labels.len()];
        for fold in 0..FOLDS {
            let held: Vec<usize> = (0..self.labels.len()).filter(|i| self.folds[*i] == fold).collect();
            if held.is_empty() {
                continue;
            }
            let correction = self.fit(share, &|of| of != fold)?;
            let features: Vec<f32> =
                held.iter().flat_map(|i| &self.features[i * self.width..][..self.width]).copied().collect();
            for (i, logits) in held.into_iter().zip(correction.logits(&features)?.chunks(self.outputs)) {
                let before = &self.before[i * self.outputs..][..self.outputs];
                scores[i] = logits.iter().zip(before).map(|(a, b)| a + b).collect();
            }
        }
        Ok(scores)
    }

    /// The share with the lowest held-out loss, and its scores. The channel and the replay features count alike.
    pub(super) fn choose_share(&self) -> Result<(f64, Vec<Vec<f32>>)> {
        let mut best: Option<(f64, f64, Vec<Vec<f32>>)> = None;
        for share in SHARES {
            let scores = self.held_out(share)?;
            let losses: Vec<f64> = scores.iter().zip(&self.labels).map(|(s, l)| loss(s, *l)).collect();
            let loss = self.mean_over_classes(&losses, true) + self.mean_over_classes(&losses, false);
            if best.as_ref().is_none_or(|(least, _, _)| loss < *least) {
                best = Some((loss, share, scores));
            }
        }
        best.map(|(_, share, scores)| (share, scores)).ok_or_else(|| Error::Internal("there is no share".into()))
    }

    /// Mean over classes of the mean of `values`, of the channel's samples or of the replay samples.
    pub(super) fn mean_over_classes(&self, values: &[f64], of_channel: bool) -> f64 {
        let mut sums = vec![(0.0, 0u32); self.outputs];
        for (i, value) in values.iter().enumerate().filter(|(i, _)| (*i >= self.replayed) == of_channel) {
            let (sum, n) = &mut sums[self.labels[i] as usize];
            *sum += value;
            *n += 1;
        }
        let means: Vec<f64> = sums.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / f64::from(*n)).collect();
        means.iter().sum::<f64>() / means.len().max(1) as f64
    }

    pub(super) fn report(
        &self,
        dataset: &Dataset,
        names: &[String],
        known: usize,
        share: f64,
        after: &[Vec<f32>],
    ) -> AdaptReport {
        let is_right = |scores: &[f32], label: u32| f64::from(u8::from(argmax(scores) == label as usize));
        let before: Vec<f64> =
            self.before.chunks(self.outputs).zip(&self.labels).map(|(s, l)| is_right(s, *l)).collect();
        let after: Vec<f64> = after.iter().zip(&self.labels).map(|(s, l)| is_right(s, *l)).collect();
        let change = |of_channel| Change {
            before: self.mean_over_classes(&before, of_channel),
            after: self.mean_over_classes(&after, of_channel),
        };
        let class = |(label, by): (&u32, &HeldOutBy)| {
            let of: Vec<usize> = (self.replayed..self.labels.len()).filter(|i| self.labels[*i] == *label).collect();
            let mean = |values: &[f64]| of.iter().map(|i| values[*i]).sum::<f64>() / of.len().max(1) as f64;
            let places = of.iter().map(|i| self.places[i - self.replayed]);
            let seconds: BTreeSet<(u32, u32)> = places.clone().collect();
            let sources: BTreeSet<&str> = places.map(|(item, _)| dataset.items[item as usize].group.as_str()).collect();
            ClassChange {
                class: names[*label as usize].clone(),
                is_new: *label as usize >= known,
                seconds: seconds.len(),
                sources: sources.len(),
                held_out_by: *by,
                right: Change { before: mean(&before), after: mean(&after) },
            }
        };
        AdaptReport {
            classes: self.held_out_by.iter().map(class).collect(),
            channel: change(true),
            replay: (self.replayed > 0).then(|| change(false)),
            share,
            written: false,
        }
    }

    /// The channel's samples, to be kept beside the pack's.
    pub(super) fn new_as_replay(&self) -> Replay {
        let mut numbers = BTreeMap::new();
        let sources = self.places.iter().map(|(item, _)| {
            let next = numbers.len() as u32;
            *numbers.entry(*item).or_insert(next)
        });
        Replay {
            width: self.width,
            features: self.features[self.replayed * self.width..].to_vec(),
            labels: self.labels[self.replayed..].to_vec(),
            sources: sources.collect(),
        }
    }
}

/// Cross-entropy of one sample.
fn loss(scores: &[f32], label: u32) -> f64 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|s| f64::from(s - top).exp()).sum();
    sum.ln() - f64::from(scores[label as usize] - top)
}

#[cfg(test)]
#[path = "samples_tests.rs"]
mod tests;
