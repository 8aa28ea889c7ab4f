//! What a training writes down while it runs: one JSON object a line in `log.jsonl` of the run's directory.
//!
//! The report, the rules and a person with `jq` read the same lines.

use serde::{Deserialize, Serialize};

use touchline_compute::models::Architecture;
use touchline_core::labels::Modality;

/// A line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LogLine {
    Start(Start),
    Step(StepRecord),
    Epoch(EpochRecord),
    Finding(Finding),
    Resources(ResourceSample),
    End(RunEnd),
}

/// The study's two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Step 1: the classifier on the frozen network.
    Head,
    /// Step 2: the classifier and the unfrozen layers.
    Tune,
}

/// Written when a run begins, and again when it is resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub modality: Modality,
    pub architecture: Architecture,
    /// Names of the outputs.
    pub classes: Vec<String>,
    /// Training samples of each class, in the order of `classes`.
    pub train: Vec<u64>,
    /// Validation samples of each class.
    pub validation: Vec<u64>,
    /// Parameters that learn, and all of them.
    pub trainable_parameters: u64,
    pub parameters: u64,
    pub seed: u64,
    /// The settings, as `key = value` for people.
    pub settings: Vec<(String, String)>,
    /// Step at which the run goes on; 0 for a new one.
    pub resumed_at: u64,
}

/// One step of the optimiser: of L-BFGS on all samples, or on a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub phase: Phase,
    /// Counted over both phases, from 1.
    pub step: u64,
    /// Of the phase, from 1.
    pub epoch: u32,
    /// Mean of the batch, or of all samples in step 1.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Share of the batch whose highest score is its (largest) label.
    pub accuracy: f64,
    /// 0 in step 1, which has none.
    pub learning_rate: f64,
    pub images_per_second: f64,
}

/// One pass over the training samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub phase: Phase,
    /// The last step of the epoch.
    pub step: u64,
    pub epoch: u32,
    pub epochs: u32,
    #[serde(deserialize_with = "null_is_nan")]
    pub train_loss: f64,
    pub train_accuracy: f64,
    /// `None` without validation samples.
    pub validation: Option<Validation>,
    pub took_s: f64,
    pub images_per_second: f64,
    /// The best so far on validation; its weights are kept.
    pub best: bool,
}

/// Figures on the validation samples, one a frame (a pair, a second of sound).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    pub accuracy: f64,
    pub macro_f1: f64,
}

/// The rules that watch a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    LossNotDecreasing,
    OverTraining,
    ExplodingTensor,
    VanishingTensor,
    DeadRelu,
    ClassImbalance,
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub rule: RuleName,
    pub phase: Phase,
    pub step: u64,
    pub epoch: u32,
    /// One sentence with the numbers, for people.
    pub evidence: String,
    /// Whether the run was stopped for it.
    pub stopped: bool,
}

/// What the process used since the sample before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceSample {
    /// Seconds since the run began, or was taken up again.
    pub at_s: f64,
    /// Processor cores in use, on average.
    pub cpu_cores: f64,
    pub memory_bytes: u64,
    /// 0 to 1; `None` without a GPU.
    pub gpu_utilisation: Option<f64>,
    pub gpu_memory_bytes: Option<u64>,
    pub read_bytes_per_second: f64,
    pub written_bytes_per_second: f64,
    pub images_per_second: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    pub step: u64,
    /// `finished`, `early stop`, `stopped by a rule: …`, `interrupted`.
    pub cause: String,
    /// The epoch whose weights were kept.
    pub best_phase: Phase,
    pub best_epoch: u32,
    pub took_s: f64,
}

/// Kinds of tensors that are watched and saved every N steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collection {
    Losses,
    Gradients,
    Weights,
    /// Mean of each channel of a layer's output over a batch.
    FeatureMeans,
}

/// A tensor in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSummary {
    pub collection: Collection,
    /// Torchvision's name of the parameter or layer.
    pub name: String,
    pub count: u64,
    /// Over the finite values, as are the next three.
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    /// NaN and infinite values.
    pub not_finite: u64,
    /// Share of values that are exactly 0.
    pub zeros: f64,
    /// For outputs of a ReLU: share of channels that are 0 all over the batch.
    pub dead_channels: Option<f64>,
}

/// JSON has no NaN and no infinity: a loss that is one is written as `null`, and must not make its line unreadable.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}
