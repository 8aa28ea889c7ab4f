//! What an evaluation says: plain figures, written as `evaluation.json` and drawn by the report.

use serde::{Deserialize, Serialize};

use crate::dataset::Kind;
use touchline_core::labels::Modality;

/// Everything measured of one pack on one side of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub pack: String,
    pub weights_sha256: String,
    pub dataset: String,
    /// `test`, `validation` or `train`.
    pub side: String,
    pub classes: Vec<String>,
    pub modalities: Vec<Modality>,
    /// Recordings, seconds and pictures of each class on this side.
    pub label_distribution: Vec<ClassCount>,
    /// Every (level, predictor) that has samples.
    pub reports: Vec<LevelReport>,
    /// Every (kind of material, predictor) that has items; evaluations of earlier versions have none.
    #[serde(default)]
    pub kinds: Vec<KindReport>,
    pub improvement: Vec<Improvement>,
    pub calibration: Vec<Calibration>,
    pub importance: Vec<Importance>,
    /// `1 − probability of the true class`, as a histogram, at second level.
    pub residuals: Vec<Histogram>,
    pub wrong: Vec<WrongExample>,
    /// What could not be measured and what was skipped, a sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCount {
    pub class: String,
    pub recordings: u64,
    pub sources: u64,
    pub seconds: u64,
    /// Photographs.
    pub pictures: u64,
    /// Frames of television and other footage.
    #[serde(default)]
    pub frames: u64,
}

/// Whole items of one kind of material: recordings by the vote of their seconds, stills, pieces of sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindReport {
    pub kind: Kind,
    pub predictor: Predictor,
    pub items: u64,
    pub sources: u64,
    pub accuracy: f64,
    pub macro_f1: f64,
    pub top3: f64,
    /// The share of a class's items in a source that is right, mean over all of them.
    pub by_source: Interval,
    /// Of the classes' means over their sources.
    pub mean_over_classes: f64,
    /// Share of what is no sport of the list that is called one.
    pub other_called_a_sport: Option<f64>,
    pub classes: Vec<ClassOfKind>,
}

/// One class in one kind of material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassOfKind {
    pub class: String,
    pub items: u64,
    pub sources: u64,
    /// Share that is right, mean over sources.
    pub right: Interval,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One frame, pair or second of sound.
    Frame,
    /// Majority label and mean probabilities of a second.
    Second,
    /// Votes over a recording's seconds.
    Video,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    Rgb,
    Flow,
    Audio,
    /// Fusion by the class-to-modality table.
    Table,
    /// Multinomial logistic stacking, learnt on validation scores.
    Learned,
}

/// A figure and its 95 % bootstrap interval over sources. A single source says nothing of how far others lie from it: it has
/// no interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Interval {
    /// Both ends, or none.
    pub fn ends(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelReport {
    pub level: Level,
    pub predictor: Predictor,
    pub n: u64,
    pub accuracy: Interval,
    pub macro_f1: Interval,
    pub macro_precision: f64,
    pub macro_recall: f64,
    pub top3: f64,
    pub log_loss: f64,
    /// One class against the rest, mean over classes that have both.
    pub macro_auc: Option<f64>,
    pub per_class: Vec<ClassReport>,
    /// `confusion[truth][predicted]`, in the order of the classes.
    pub confusion: Vec<Vec<u64>>,
    pub roc: Vec<RocCurve>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    pub class: String,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: u64,
    pub auc: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RocCurve {
    /// A class, or `macro` or `micro` average.
    pub name: String,
    pub auc: f64,
    /// (false positive rate, true positive rate), ascending.
    pub points: Vec<(f64, f64)>,
}

/// How much better fusion by the table is, in the study's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Improvement {
    pub level: Level,
    pub over: Modality,
    pub fusion_f1: f64,
    pub modality_f1: f64,
    /// `100 (fusion − modality) / modality`, on the seconds that have the modality.
    pub percent: f64,
}

/// Reliability before and after temperature scaling, at frame level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub modality: Modality,
    pub temperature: f64,
    /// Expected calibration error.
    pub ece_before: f64,
    pub ece_after: f64,
    pub before: Vec<Bin>,
    pub after: Vec<Bin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub count: u64,
    /// Mean of the highest probability.
    pub confidence: f64,
    pub accuracy: f64,
}

/// What fusion loses without a modality: by leaving it out, and by shuffling its scores between seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    pub predictor: Predictor,
    pub modality: Modality,
    /// Fall of second-level macro F1 when the modality is missing.
    pub ablation: f64,
    /// Mean fall over the permutations, and their standard deviation.
    pub permutation: f64,
    pub permutation_std: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub predictor: Predictor,
    /// `counts.len() + 1` borders.
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

/// A second that fusion got wrong, the surest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrongExample {
    pub path: String,
    pub second: u32,
    pub truth: String,
    pub predicted: String,
    pub probability: f64,
    pub decided_by: Option<Modality>,
    /// JPEG as a `data:` URI; `None` without a picture.
    pub thumbnail: Option<String>,
}
