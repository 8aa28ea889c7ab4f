//! The training loop of one modality: the study's two steps, on precomputed rows.
//!
//! All random numbers derive from the seed and the number of the epoch or step. A resumed run therefore gives the same result as
//! one that was never interrupted. `log.jsonl` records the run, `checkpoint.safetensors` is the point from which it resumes, and
//! `best.safetensors` has the best weights so far.

mod average;
mod batch;
mod checkpoint;
pub(crate) mod classifier;
mod head;
mod log;
mod order;
mod training_loop;
mod watch;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use batch::{log_softmax_loss, soft_targets};
pub use checkpoint::{BEST, CHECKPOINT, TrainState};
pub use log::LOG;
pub use training_loop::{prepare, run};

use super::classes::Samples;
use super::net::Net;
use super::optimizer::OptimizerKind;
use super::record::{EpochRecord, Finding, Phase, StepRecord};
use super::rows::Rows;
use super::rules::OnRule;
use touchline_core::error::Result;
use touchline_core::labels::Modality;

/// Settings of step 1: the classifier on the frozen network, trained to its optimum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadConfig {
    /// Maximum number of L-BFGS steps; 0 skips step 1.
    pub steps: u32,
    /// Factor of half the sum of the classifier's squared weights, which is added to the mean loss.
    pub penalty: f64,
}

/// The values that cross-validation by source selected, see `weights/EXPERIMENTS.md`.
impl Default for HeadConfig {
    fn default() -> Self {
        Self { steps: 500, penalty: 1e-2 }
    }
}

/// Settings of step 2: the trainable blocks and the classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneConfig {
    /// Number of epochs; 0 skips step 2.
    pub epochs: u32,
    /// Samples in a batch.
    pub batch: usize,
    /// Peak learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Samples in an epoch; `None` for all. The next epoch continues with the other samples: each sample is used once before any
    /// is used again. A smaller number makes validation more frequent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether each epoch uses a new random view of each sample. Otherwise all epochs use the same rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh_views: bool,
}

/// Settings of the training of one modality.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitConfig {
    /// Step 1.
    pub head: HeadConfig,
    /// Step 2.
    pub tune: TuneConfig,
    /// The optimiser of step 2.
    pub optimizer: OptimizerKind,
    /// Weight decay of the optimiser of step 2.
    pub weight_decay: f64,
    /// Share of the target that is spread over all classes, 0 to 1.
    pub label_smoothing: f64,
    /// Share of the pooled features that are zeroed in training, 0 to 1.
    pub dropout: f64,
    /// α of mixup's Beta distribution; 0 disables mixup.
    pub mixup: f64,
    /// α of CutMix's Beta distribution; 0 disables CutMix. With mixup, each batch has one of the two.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cutmix: f64,
    /// Decay of the moving average of the weights over the steps of step 2, below 1. The average is validated and kept instead of
    /// the weights of the last step. 0 disables it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub average: f64,
    /// Maximum norm of all gradients together; `None` does not clip.
    pub clip_norm: Option<f64>,
    /// Epochs over which the learning rate of step 2 rises to its peak.
    pub warm_up_epochs: f64,
    /// Epochs without a better validation figure after which step 2 ends; 0 disables early stopping.
    pub patience: u32,
    /// Optimiser steps between checkpoints, in addition to the checkpoint after every epoch; 0 disables them.
    pub checkpoint_every: u64,
    /// Optimiser steps between two collections of tensors; 0 collects none.
    pub tensors_every: u64,
    /// Action when a training rule fires.
    pub on_rule: OnRule,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Whether convolutions compute in `bf16`; parameters and sums are `f32` in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed_precision: bool,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The training of one modality: network, samples and settings.
pub struct Fit<'a> {
    /// The modality.
    pub modality: Modality,
    /// The network with its first weights. Training changes its variables.
    pub net: &'a Net,
    /// Number of blocks that stay frozen in step 2.
    pub frozen: usize,
    /// Precomputed outputs of the frozen blocks.
    pub rows: &'a Rows,
    /// Training samples.
    pub train: &'a Samples,
    /// The rows of step 2 with [`TuneConfig::fresh_views`], in place of those of `train`.
    pub fresh: Option<&'a dyn EpochRows>,
    /// Validation samples; may be empty.
    pub validation: &'a Samples,
    /// Class names, in the order of the outputs.
    pub names: &'a [String],
    /// The settings.
    pub config: &'a FitConfig,
    /// SHA-256 of everything that the run depends on: material, labels, features, first weights, settings.
    pub ground: String,
    /// Directory of this modality's run.
    pub dir: &'a Path,
    /// Number of parameters of the network, and of those that step 2 trains.
    pub parameters: (u64, u64),
    /// Further settings for the log, as key and value.
    pub settings: Vec<(String, String)>,
}

/// Computes the training rows of each epoch.
pub trait EpochRows {
    /// Returns the rows of an epoch, from 1, and the training samples among them: as many in each epoch.
    ///
    /// # Errors
    /// As for [`make`](super::rows::make).
    fn of_epoch(&self, epoch: u32, observer: &mut dyn Observer) -> Result<(Rows, Samples)>;
}

/// Receives the progress of a training.
pub trait Observer {
    /// The rows of `done` of `of` items are ready; `inputs` model inputs were computed for them so far.
    fn rows(&mut self, modality: Modality, done: usize, of: usize, inputs: usize);
    /// A step of the optimiser has ended. `of` is the number of steps in this phase: in step 1 the maximum, in step 2 the total.
    fn step(&mut self, record: &StepRecord, of: u64);
    /// An epoch has ended and is validated.
    fn epoch(&mut self, record: &EpochRecord);
    /// A training rule has fired.
    fn finding(&mut self, finding: &Finding);
    /// A message for the user.
    fn note(&mut self, text: &str);
}

/// Result of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Phase of the epoch with the best weights.
    pub best_phase: Phase,
    /// Number of that epoch within its phase, from 1; 0 when the run ended before its first epoch did.
    pub best_epoch: u32,
    /// Validation macro F1 of that epoch, 0 to 1; `None` without validation.
    pub validation_f1: Option<f64>,
    /// The reason why the run ended, as in [`RunEnd::cause`](super::record::RunEnd::cause).
    pub cause: String,
    /// Optimiser steps over both phases.
    pub steps: u64,
}
