//! The training loop of one modality: the study's two steps, on rows that lie ready.
//!
//! Everything random comes from the seed and the number of the epoch or step, so that a run that is taken up again goes on
//! as if it had not been cut off. What happens is written to `log.jsonl`; `checkpoint.safetensors` is where a run goes
//! on, `best.safetensors` is what it has learnt.

mod batch;
mod checkpoint;
pub(crate) mod classifier;
mod head;
mod log;
mod loop_;
mod watch;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use batch::{log_softmax_loss, soft_targets};
pub use checkpoint::{BEST, CHECKPOINT, State};
pub use log::LOG;
pub use loop_::{prepare, run};

use super::classes::Samples;
use super::net::Net;
use super::optimizer::OptimizerKind;
use super::record::{EpochRecord, Finding, Phase, StepRecord};
use super::rows::Rows;
use super::rules::OnRule;
use touchline_core::labels::Modality;

/// Settings of step 1: the classifier on the frozen network, to its optimum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadConfig {
    /// Steps of L-BFGS at most; 0 leaves step 1 out.
    pub steps: u32,
    /// On half the sum of the classifier's squared weights, beside the mean loss.
    pub penalty: f64,
}

/// What cross-validation by source chose, see `weights/EXPERIMENTS.md`.
impl Default for HeadConfig {
    fn default() -> Self {
        Self { steps: 500, penalty: 1e-2 }
    }
}

/// Settings of step 2: the blocks that learn, and the classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneConfig {
    /// 0 leaves the step out.
    pub epochs: u32,
    pub batch: usize,
    /// At its highest, after warming up.
    pub learning_rate: f64,
    /// Samples of an epoch, if it is not to be all there are: the next epoch goes on with the others, so that every sample is
    /// taken once before one is taken twice. Validation then looks more often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
}

/// How a modality is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitConfig {
    pub head: HeadConfig,
    pub tune: TuneConfig,
    pub optimizer: OptimizerKind,
    pub weight_decay: f64,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Share of pooled features zeroed in training.
    pub dropout: f64,
    /// α of mixup's Beta distribution; 0 mixes nothing.
    pub mixup: f64,
    /// Greatest length of all gradients together.
    pub clip_norm: Option<f64>,
    /// Epochs over which the learning rate of a step rises.
    pub warm_up_epochs: f64,
    /// Epochs without a better validation figure after which a step of the study ends; 0 = never.
    pub patience: u32,
    /// Optimiser steps between checkpoints (there is one after every epoch too).
    pub checkpoint_every: u64,
    /// Optimiser steps between tensors that are looked at and saved; 0 = never.
    pub tensors_every: u64,
    pub on_rule: OnRule,
    pub seed: u64,
}

/// One training.
pub struct Fit<'a> {
    pub modality: Modality,
    pub net: &'a Net,
    /// Blocks that do not learn in step 2.
    pub frozen: usize,
    pub rows: &'a Rows,
    pub train: &'a Samples,
    pub validation: &'a Samples,
    /// Of the outputs.
    pub names: &'a [String],
    pub config: &'a FitConfig,
    /// A hash of what the run depends on: material, labels, features, first weights, settings.
    pub ground: String,
    /// Directory of this modality's run.
    pub dir: &'a Path,
    /// Tensors of the network, and those that learn in step 2.
    pub parameters: (u64, u64),
    /// Further settings for the log.
    pub settings: Vec<(String, String)>,
}

/// Hears what happens.
pub trait Observer {
    /// A step of so many in this step of the study.
    fn step(&mut self, record: &StepRecord, of: u64);
    fn epoch(&mut self, record: &EpochRecord);
    fn finding(&mut self, finding: &Finding);
    fn note(&mut self, text: &str);
}

/// What a training came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub best_phase: Phase,
    pub best_epoch: u32,
    /// Validation macro F1 of the epoch that was kept; `None` without validation.
    pub validation_f1: Option<f64>,
    pub cause: String,
    pub steps: u64,
}
