//! The result of an evaluation: plain figures, written to `evaluation.json` and drawn in the report.
//!
//! Shares (accuracy, F1, probability and the like) are from 0 to 1.

use serde::{Deserialize, Serialize};

use super::unknown::Answered;
use crate::dataset::Kind;
use touchline_core::labels::Modality;

/// Figures of one pack on one side of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Name of the pack.
    pub pack: String,
    /// SHA-256 over all weights of the pack, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Display name of the dataset.
    pub dataset: String,
    /// `test`, `validation` or `train`.
    pub side: String,
    /// Classes of the pack, in its order.
    pub classes: Vec<String>,
    /// Modalities with a model.
    pub modalities: Vec<Modality>,
    /// Recordings, seconds and pictures of each class on this side.
    pub label_distribution: Vec<ClassCount>,
    /// Figures of each pair of level and predictor that has samples.
    pub reports: Vec<LevelReport>,
    /// Figures of each pair of kind and predictor that has items; evaluations of earlier versions have none.
    #[serde(default)]
    pub kinds: Vec<KindReport>,
    /// Errors of events on simulated programmes; `None` in evaluations of earlier versions, and without clips of two classes.
    #[serde(default)]
    pub events: Option<EventFigures>,
    /// Right items of each class within each source, by kind; evaluations of earlier versions have none.
    #[serde(default)]
    pub shares: Vec<SourceShare>,
    /// Comparison with another pack, if one was requested.
    #[serde(default)]
    pub comparison: Option<Comparison>,
    /// Improvement of fusion over each modality, at second and video level.
    pub improvement: Vec<Improvement>,
    /// Calibration of each modality.
    pub calibration: Vec<Calibration>,
    /// Importance of each modality for each fusion.
    pub importance: Vec<Importance>,
    /// Histograms of `1 − probability of the true class` of each predictor, at second level.
    pub residuals: Vec<Histogram>,
    /// Examples of wrong decisions, the most confident first.
    pub wrong: Vec<WrongExample>,
    /// Remarks on skipped and unmeasured material, one sentence each.
    pub notes: Vec<String>,
}

/// The items of a class within a source that fusion by the table decides correctly. The decision on a recording is the vote of its
/// seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceShare {
    /// Kind of material.
    pub kind: Kind,
    /// Name of the source.
    pub source: String,
    /// Name of the class.
    pub class: String,
    /// Number of items.
    pub items: u64,
    /// Number of correct items.
    pub right: u64,
}

/// The decisions of a pack compared with those of another pack on the same material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the other pack.
    pub pack: String,
    /// SHA-256 over all weights of the other pack, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Pairs of class and source that only one of the two packs was measured on.
    pub not_compared: u64,
    /// The differences by kind.
    pub kinds: Vec<KindComparison>,
    /// Worse if the pack is worse on one kind, better if it is better on one and worse on none.
    pub verdict: Verdict,
}

/// The difference between two packs on one kind of material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindComparison {
    /// Kind of material.
    pub kind: Kind,
    /// Number of sources.
    pub sources: u64,
    /// Share of correct items of a class within a source, less that of the other pack, mean over all pairs of class and source.
    pub difference: Interval,
    /// Whether the interval excludes 0.
    pub verdict: Verdict,
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better, beyond the choice of sources.
    Better,
    /// Worse, beyond the choice of sources.
    Worse,
    /// The difference may come from the choice of sources.
    Undecided,
}

impl Verdict {
    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Undecided => "undecided",
        }
    }
}

/// Amount of scored material of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Name of the class.
    pub class: String,
    /// Number of recordings (clips and sounds).
    pub recordings: u64,
    /// Number of sources of the recordings.
    pub sources: u64,
    /// Number of seconds of the recordings.
    pub seconds: u64,
    /// Number of photographs.
    pub pictures: u64,
    /// Number of frames of television and other footage.
    #[serde(default)]
    pub frames: u64,
}

/// Figures of whole items of one kind of material by one predictor. The decision on a recording is the vote of its seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindReport {
    /// Kind of material.
    pub kind: Kind,
    /// The predictor.
    pub predictor: Predictor,
    /// Number of items.
    pub items: u64,
    /// Number of sources.
    pub sources: u64,
    /// Share of correct items.
    pub accuracy: f64,
    /// Mean F1 over classes.
    pub macro_f1: f64,
    /// Share of items whose true class is among the three most probable.
    pub top3: f64,
    /// Share of correct items of a class within a source, mean over all pairs of class and source.
    pub by_source: Interval,
    /// Mean over classes of the means over their sources.
    pub mean_over_classes: f64,
    /// Negative logarithm of the probability of the true class, mean over all pairs of class and source. It varies less with the choice of
    /// sources than the accuracy does.
    #[serde(default)]
    pub log_loss: f64,
    /// Share of the items of class `other` that are predicted as a sport; `None` without such items.
    pub other_called_a_sport: Option<f64>,
    /// How many items are answered and how many answers are right; of the decision in service only.
    #[serde(default)]
    pub answered: Option<Answered>,
    /// Figures of each class that has items.
    pub classes: Vec<ClassOfKind>,
}

/// Figures of one class in one kind of material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassOfKind {
    /// Name of the class.
    pub class: String,
    /// Number of items.
    pub items: u64,
    /// Number of sources.
    pub sources: u64,
    /// Share of correct items within a source, mean over sources.
    pub right: Interval,
}

/// Errors of events on simulated programmes, with the decisions by the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventFigures {
    /// Seconds of the vote.
    pub vote_window: u32,
    /// Seconds between estimates.
    pub vote_stride: u32,
    /// Mean probability at which a class comes on air.
    pub vote_onset: f64,
    /// Mean probability below which it leaves.
    pub vote_offset: f64,
    /// Figures of each length of scenes.
    pub by_length: Vec<EventsOfLength>,
}

/// Errors of events on programmes with scenes of similar length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventsOfLength {
    /// Mean length of a scene of a sport, seconds.
    pub scene_seconds: u32,
    /// Length of all programmes.
    pub hours: f64,
    /// Scenes of a sport.
    pub scenes: u64,
    /// Scenes without an event of their class, per hour.
    pub missed_per_hour: Interval,
    /// Events of a sport that belong to no scene, per hour.
    pub false_per_hour: Interval,
    /// Mean time from the begin of a scene to its event, seconds; `None` without one.
    pub delay_s: Option<Interval>,
    /// Mean distance of the begin of an event, dated back to the change, from that of the scene, seconds; `None` without an event.
    pub begin_error_s: Option<Interval>,
    /// Mean distance of the ends, seconds.
    pub end_error_s: Option<Interval>,
}

/// Level at which samples are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One frame, pair of frames or second of sound.
    Frame,
    /// Majority label and mean probabilities of a second.
    Second,
    /// Vote over the seconds of a recording.
    Video,
}

/// Method of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    /// Pictures alone.
    Rgb,
    /// Motion alone.
    Flow,
    /// Sound alone.
    Audio,
    /// Fusion by the class-to-modality table.
    Table,
    /// Multinomial logistic stacking, fitted on validation scores.
    Learned,
}

/// A figure and its 95 % bootstrap interval over sources. A single source gives no interval, because it has no spread between
/// sources.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure over all samples.
    pub value: f64,
    /// Lower end, the percentile at 2.5.
    pub low: Option<f64>,
    /// Upper end, the percentile at 97.5.
    pub high: Option<f64>,
}

impl Interval {
    /// Returns both ends, lower and upper; `None` without an interval.
    pub fn ends(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }
}

/// Figures of one predictor at one level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelReport {
    /// The level.
    pub level: Level,
    /// The predictor.
    pub predictor: Predictor,
    /// Number of samples.
    pub n: u64,
    /// Share of correct samples.
    pub accuracy: Interval,
    /// Mean F1 over classes.
    pub macro_f1: Interval,
    /// Mean precision over classes.
    pub macro_precision: f64,
    /// Mean recall over classes.
    pub macro_recall: f64,
    /// Share of samples whose true class is among the three most probable.
    pub top3: f64,
    /// Mean of `−ln` of the probability of the true class.
    pub log_loss: f64,
    /// Mean area under the one-against-rest ROC curves of the classes that have both positives and negatives; `None` without such
    /// a class.
    pub macro_auc: Option<f64>,
    /// Figures of each class, in the order of the classes.
    pub per_class: Vec<ClassReport>,
    /// Counts as `confusion[truth][predicted]`, in the order of the classes.
    pub confusion: Vec<Vec<u64>>,
    /// ROC curves of the classes, then the `macro` and `micro` averages.
    pub roc: Vec<RocCurve>,
}

/// Figures of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Name of the class.
    pub class: String,
    /// Share of the samples predicted as the class that belong to it.
    pub precision: f64,
    /// Share of the samples of the class that are predicted as it.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Number of samples of the class.
    pub support: u64,
    /// Area under the ROC curve of the class against the rest; `None` without positives or negatives.
    pub auc: Option<f64>,
}

/// A receiver operating characteristic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RocCurve {
    /// A class, or `macro` or `micro` for an average.
    pub name: String,
    /// Area under the curve.
    pub auc: f64,
    /// (false positive rate, true positive rate), ascending.
    pub points: Vec<(f64, f64)>,
}

/// Improvement of fusion by the table over one modality, as the study states it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Improvement {
    /// The level.
    pub level: Level,
    /// The modality that fusion is compared with.
    pub over: Modality,
    /// Macro F1 of fusion on the seconds that have the modality.
    pub fusion_f1: f64,
    /// Macro F1 of the modality alone.
    pub modality_f1: f64,
    /// `100 (fusion − modality) / modality`.
    pub percent: f64,
}

/// Reliability before and after temperature scaling, at frame level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The modality.
    pub modality: Modality,
    /// Temperature of the modality in the pack.
    pub temperature: f64,
    /// Expected calibration error at temperature 1.
    pub ece_before: f64,
    /// Expected calibration error at the temperature of the pack.
    pub ece_after: f64,
    /// Bins at temperature 1.
    pub before: Vec<Bin>,
    /// Bins at the temperature of the pack.
    pub after: Vec<Bin>,
}

/// Samples whose highest probability is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower border, excluded.
    pub from: f64,
    /// Upper border, included.
    pub to: f64,
    /// Number of samples.
    pub count: u64,
    /// Mean of the highest probability; 0 without samples.
    pub confidence: f64,
    /// Share of correct samples; 0 without samples.
    pub accuracy: f64,
}

/// Loss of fusion without a modality: by leaving it out, and by permuting its scores among seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    /// The kind of fusion.
    pub predictor: Predictor,
    /// The modality.
    pub modality: Modality,
    /// Fall of second-level macro F1 when the modality is missing.
    pub ablation: f64,
    /// Mean fall of second-level macro F1 over the permutations.
    pub permutation: f64,
    /// Standard deviation of that fall over the permutations.
    pub permutation_std: f64,
}

/// A histogram of residuals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The predictor.
    pub predictor: Predictor,
    /// Borders of the bins, ascending; `counts.len() + 1` values.
    pub edges: Vec<f64>,
    /// Number of samples in each bin.
    pub counts: Vec<u64>,
}

/// A second that fusion by the table decided wrongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrongExample {
    /// Path of the recording, as the dataset names it.
    pub path: String,
    /// Index of the second in its item, from 0.
    pub second: u32,
    /// True class.
    pub truth: String,
    /// Predicted class.
    pub predicted: String,
    /// Probability of the predicted class.
    pub probability: f64,
    /// The modality that decided.
    pub decided_by: Option<Modality>,
    /// JPEG as a `data:` URI; `None` without a picture.
    pub thumbnail: Option<String>,
}
