//! Records of a training run: one JSON object per line in `log.jsonl` of the run's directory.
//!
//! The report, the rules and users with `jq` read the same records.

use serde::{Deserialize, Serialize};

use touchline_compute::models::Architecture;
use touchline_core::labels::Modality;

/// A line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LogLine {
    /// The run began or was resumed.
    Start(Start),
    /// An optimizer step finished.
    Step(StepRecord),
    /// An epoch finished.
    Epoch(EpochRecord),
    /// A rule fired.
    Finding(Finding),
    /// Resources that the process used.
    Resources(ResourceSample),
    /// The run ended.
    End(RunEnd),
}

/// The two training steps of the study.
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
    /// Modality of the model.
    pub modality: Modality,
    /// Architecture of the network.
    pub architecture: Architecture,
    /// Class names of the outputs, in their order.
    pub classes: Vec<String>,
    /// Number of training samples of each class, in the order of `classes`.
    pub train: Vec<u64>,
    /// Number of validation samples of each class, in the order of `classes`.
    pub validation: Vec<u64>,
    /// Number of values in the parameters that are trained.
    pub trainable_parameters: u64,
    /// Number of values in all parameters.
    pub parameters: u64,
    /// Random seed of the run.
    pub seed: u64,
    /// Settings as (name, value), in the form that the report shows.
    pub settings: Vec<(String, String)>,
    /// Last step before the resume; 0 for a new run.
    pub resumed_at: u64,
}

/// One optimizer step: L-BFGS on all samples in step 1, AdamW or SGD on a batch in step 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Phase of the step.
    pub phase: Phase,
    /// Number of the step over both phases, from 1.
    pub step: u64,
    /// Epoch within the phase, from 1.
    pub epoch: u32,
    /// Mean loss of the batch, or of all samples in step 1.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Share of these samples whose highest score is that of their label, 0 to 1. Of a mixed label, the largest part counts.
    pub accuracy: f64,
    /// Learning rate of the step; 0 in step 1, where L-BFGS finds the step length.
    pub learning_rate: f64,
    /// Samples processed per second of wall time.
    pub images_per_second: f64,
}

/// One pass over the training samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Phase of the epoch.
    pub phase: Phase,
    /// Last step of the epoch, counted over both phases.
    pub step: u64,
    /// Number of the epoch within the phase, from 1.
    pub epoch: u32,
    /// Number of epochs that the phase has unless it stops early.
    pub epochs: u32,
    /// Mean training loss of the epoch.
    #[serde(deserialize_with = "null_is_nan")]
    pub train_loss: f64,
    /// Accuracy on the training samples of the epoch, 0 to 1.
    pub train_accuracy: f64,
    /// Figures on the validation samples; `None` when there are none.
    pub validation: Option<Validation>,
    /// Wall time of the steps of the epoch, seconds. Validation is not included.
    pub took_s: f64,
    /// Samples processed per second of that time.
    pub images_per_second: f64,
    /// Whether the epoch is the best so far on validation. The weights of the best epoch are kept.
    pub best: bool,
}

/// Figures on the validation samples. A sample is a frame, a pair or a second of sound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Weighted mean loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Share of samples classified correctly, 0 to 1.
    pub accuracy: f64,
    /// Mean F1 over the classes that have samples, 0 to 1.
    pub macro_f1: f64,
}

/// The rules that watch a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    /// The training loss does not fall, or it diverges.
    LossNotDecreasing,
    /// The run has learnt, and its training or validation loss no longer improves.
    OverTraining,
    /// A tensor has values that are very large, NaN or infinite.
    ExplodingTensor,
    /// A gradient is close to zero.
    VanishingTensor,
    /// Many channels of a ReLU output 0 for the whole batch.
    DeadRelu,
    /// One class has many times the samples of another.
    ClassImbalance,
}

/// A finding of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule that fired.
    pub rule: RuleName,
    /// Phase in which it fired.
    pub phase: Phase,
    /// Step at which it fired, counted over both phases.
    pub step: u64,
    /// Epoch within the phase.
    pub epoch: u32,
    /// One sentence for the user, with the figures.
    pub evidence: String,
    /// Whether the finding stopped the run.
    pub stopped: bool,
}

/// Resources that the process used since the previous sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceSample {
    /// Seconds since the run began or was resumed.
    pub at_s: f64,
    /// Mean number of processor cores in use.
    pub cpu_cores: f64,
    /// Resident memory of the process, bytes.
    pub memory_bytes: u64,
    /// Utilisation of the first GPU, 0 to 1, by all processes; `None` without a GPU.
    pub gpu_utilisation: Option<f64>,
    /// Memory in use on the first GPU, bytes, by all processes; `None` without a GPU.
    pub gpu_memory_bytes: Option<u64>,
    /// Bytes read from storage per second.
    pub read_bytes_per_second: f64,
    /// Bytes written to storage per second.
    pub written_bytes_per_second: f64,
    /// Samples trained on per second.
    pub images_per_second: f64,
}

/// End of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Last step, counted over both phases.
    pub step: u64,
    /// Reason: `finished`, `early stop`, `stopped by a rule: …` or `interrupted`.
    pub cause: String,
    /// Phase of the epoch whose weights were kept.
    pub best_phase: Phase,
    /// Epoch whose weights were kept, within its phase.
    pub best_epoch: u32,
    /// Wall time of the run, seconds, over all resumes.
    pub took_s: f64,
}

/// Kinds of tensors that are summarised and saved every N steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collection {
    /// Losses of the steps since the last summary.
    Losses,
    /// Gradients of the parameters.
    Gradients,
    /// Values of the parameters.
    Weights,
    /// Mean of each channel of a layer's output over a batch.
    FeatureMeans,
}

/// Summary statistics of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSummary {
    /// Kind of the tensor.
    pub collection: Collection,
    /// Torchvision's name of the parameter or layer.
    pub name: String,
    /// Number of values.
    pub count: u64,
    /// Mean of the finite values; 0 without any, as for the next three.
    pub mean: f64,
    /// Standard deviation of the finite values.
    pub std: f64,
    /// Least finite value.
    pub min: f64,
    /// Maximum finite value.
    pub max: f64,
    /// Number of NaN and infinite values.
    pub not_finite: u64,
    /// Share of values that are exactly 0, 0 to 1.
    pub zeros: f64,
    /// For outputs of a ReLU: share of channels that are 0 for the whole batch, 0 to 1.
    pub dead_channels: Option<f64>,
}

/// Reads `null` as NaN. JSON has no NaN and no infinity, so such a loss is written as `null`, and its line must stay readable.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}
