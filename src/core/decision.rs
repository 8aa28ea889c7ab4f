//! The types of the decision chain: scores of one modality, prediction of one second, estimate over a window, event.
//!
//! [`SecondOutcome`] serialises exactly, numbers by their bits, so that one process can decide a second and another can vote over it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clip::{Absent, FrameShare, Gap, GapReason};
use crate::labels::{ClassId, Modality};
use crate::signal::{Signal, Signals};
use crate::tier::DecodeTier;
use crate::time::{Pts, RunId, WallTime};
use crate::timecode::TimecodeMark;

/// Softmax of one modality for one second, over the classes of the pack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModalityScores {
    /// Mean probability per class over the frames (or pairs) of the second; sums to 1. Classes that the modality's
    /// model does not know have 0.
    #[serde(with = "bits_of_all")]
    pub scores: Vec<f32>,
    /// Majority vote over the per-frame labels; ties go to the higher mean probability.
    pub label: ClassId,
    /// Votes for `label`.
    pub votes: u32,
    /// Frames (or pairs) that voted; 1 for sound.
    pub voters: u32,
}

impl ModalityScores {
    /// Mean probability of the majority label.
    pub fn score(&self) -> f32 {
        self.scores[self.label.index()]
    }
}

/// One value per modality. A missing modality is `None`, never zeros.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerModality<T> {
    /// The pictures.
    pub rgb: T,
    /// The motion.
    pub flow: T,
    /// The sound.
    pub audio: T,
}

impl<T> PerModality<T> {
    /// Calls `each` once for every modality.
    pub fn of(each: impl Fn(Modality) -> T) -> Self {
        Self { rgb: each(Modality::Rgb), flow: each(Modality::Flow), audio: each(Modality::Audio) }
    }

    /// The value of `modality`.
    pub fn get(&self, modality: Modality) -> &T {
        match modality {
            Modality::Rgb => &self.rgb,
            Modality::Flow => &self.flow,
            Modality::Audio => &self.audio,
        }
    }

    /// The value of `modality`, mutable.
    pub fn get_mut(&mut self, modality: Modality) -> &mut T {
        match modality {
            Modality::Rgb => &mut self.rgb,
            Modality::Flow => &mut self.flow,
            Modality::Audio => &mut self.audio,
        }
    }
}

/// Why this modality decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionReason {
    /// A label of the second has this modality in the class-to-modality table.
    Table,
    /// The table assigns no label of the second to another modality: its default decides.
    Default,
    /// The modality that should have decided is missing; this one replaces it.
    Fallback,
}

/// The fused label and probabilities of one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The class.
    pub label: ClassId,
    /// Probability of `label`.
    #[serde(with = "bits")]
    pub probability: f32,
    /// The modality that decided.
    pub modality: Modality,
    /// Why it decided.
    pub why: DecisionReason,
    /// Fused probability per class of the pack; sums to 1.
    #[serde(with = "bits_of_all")]
    pub probabilities: Vec<f32>,
}

/// Identifies the pack that made a decision, independent of its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackStamp {
    /// Name of the pack.
    pub name: String,
    /// One SHA-256 for all the pack's weights, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 of `pack.toml`, hexadecimal. The file contains the table, the temperatures, the feature parameters and the hashes
    /// of the weights, so two packs with the same value decide alike.
    pub manifest_sha256: String,
}

/// One classified second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondPrediction {
    /// Run of the second.
    pub run: RunId,
    /// Index of the second: it starts at `index` seconds of PTS.
    pub index: u64,
    /// Scores per modality; `None` where the modality is missing.
    pub scores: PerModality<Option<ModalityScores>>,
    /// Why a modality is missing; `None` where it is present.
    pub absent: PerModality<Option<Absent>>,
    /// The fused decision.
    pub decision: Decision,
    /// Least probability of an answer, of the pack that decided: below it the second is unknown. 0: every second is answered.
    #[serde(with = "bits")]
    pub known_from: f32,
    /// The share of the sampled frames and pairs that the models saw.
    pub frame_share: FrameShare,
    /// Which coded pictures were decoded.
    pub tier: DecodeTier,
    /// The pack that decided.
    #[serde(with = "shared")]
    pub pack: Arc<PackStamp>,
    /// Wall time of the start of the second.
    pub wall: WallTime,
    /// Timecode of the first picture of the second, if the media have timecode.
    pub timecode: Option<TimecodeMark>,
    /// Monotonic clock when the last sample of the second arrived, ns.
    pub arrived_ns: u64,
}

impl SecondPrediction {
    /// PTS of the start of the second.
    pub fn start(&self) -> Pts {
        Pts::from_second(self.index)
    }

    /// Whether the models are not sure enough of the label to answer with it.
    pub fn is_unknown(&self) -> bool {
        self.decision.probability < self.known_from
    }

    /// The signals of the second: none or silence.
    pub fn signals(&self) -> Signals {
        if self.absent.audio == Some(Absent::Silent) { Signals::NONE.with(Signal::Silence) } else { Signals::NONE }
    }
}

/// The result of one second: a prediction or a gap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "one a second of a stream, and most are predictions")]
pub enum SecondOutcome {
    /// The second was classified.
    Predicted(SecondPrediction),
    /// The second was not classified.
    Gap(Gap),
}

impl SecondOutcome {
    /// Run of the second.
    pub fn run(&self) -> RunId {
        match self {
            SecondOutcome::Predicted(p) => p.run,
            SecondOutcome::Gap(g) => g.run,
        }
    }

    /// Index of the second.
    pub fn index(&self) -> u64 {
        match self {
            SecondOutcome::Predicted(p) => p.index,
            SecondOutcome::Gap(g) => g.index,
        }
    }

    /// The signals of the second.
    pub fn signals(&self) -> Signals {
        match self {
            SecondOutcome::Predicted(p) => p.signals(),
            SecondOutcome::Gap(g) => g.signals,
        }
    }

    /// Whether the second has no programme.
    pub fn is_no_programme(&self) -> bool {
        matches!(self, SecondOutcome::Gap(g) if g.reason == GapReason::NoProgramme)
    }
}

/// The voted probabilities over the last `vote_window` seconds: the product's live output.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowEstimate {
    /// Share of the window's classified seconds whose label is the class; sums to 1.
    pub share: Vec<f32>,
    /// Mean fused probability per class over the window's classified seconds; sums to 1.
    pub mean: Vec<f32>,
    /// Class with the largest share; ties go to the larger mean.
    pub label: ClassId,
    /// Classified seconds in the window.
    pub seconds: u32,
    /// Seconds of the window without a decision.
    pub gaps: u32,
    /// Least mean probability of an answer, of the pack that decided last: below it the window is unknown.
    pub known_from: f32,
}

impl WindowEstimate {
    /// The estimate of a window without a classified second: every value is 0.
    pub fn empty(classes: usize) -> Self {
        let (share, mean) = (vec![0.0; classes], vec![0.0; classes]);
        Self { share, mean, label: ClassId(0), seconds: 0, gaps: 0, known_from: 0.0 }
    }

    /// Mean probability of the label.
    pub fn probability(&self) -> f32 {
        self.mean[self.label.index()]
    }

    /// Whether the label is too improbable to be the answer. False without a classified second.
    pub fn is_unknown(&self) -> bool {
        self.seconds > 0 && self.probability() < self.known_from
    }
}

/// Whether a class comes on air or leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The class comes on air.
    Onset,
    /// The class leaves.
    Offset,
}

/// A class came on air or left it, by hysteresis on the estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Onset or offset.
    pub kind: EventKind,
    /// The class.
    pub class: ClassId,
    /// Run of the second.
    pub run: RunId,
    /// The second whose estimate crossed the threshold.
    pub index: u64,
    /// Mean probability of the class in that estimate.
    pub probability: f32,
    /// Why the class left, where it is not its probability.
    pub reason: Option<EventReason>,
}

/// Why a class left, other than by its probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventReason {
    /// The vote window has no programme.
    NoProgramme,
    /// The stream ended.
    Ended,
}

/// A number by its bits.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &f32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(number.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        u32::deserialize(from).map(f32::from_bits)
    }
}

/// Numbers by their bits.
mod bits_of_all {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(numbers: &[f32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(numbers.iter().map(|number| number.to_bits()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        Vec::<u32>::deserialize(from).map(|all| all.into_iter().map(f32::from_bits).collect())
    }
}

/// What is shared, as its value: serde has [`std::sync::Arc`] behind a feature only.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// Predictions for the tests of modules that read decisions.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::time::WallSource;

    /// A second that the pictures decided, with no more than its label and probabilities.
    pub(crate) fn predicted(run: u32, index: u64, label: u16, probabilities: Vec<f32>) -> SecondOutcome {
        SecondOutcome::Predicted(SecondPrediction {
            run: RunId(run),
            index,
            scores: PerModality::default(),
            absent: PerModality::default(),
            decision: Decision {
                label: ClassId(label),
                probability: probabilities[usize::from(label)],
                modality: Modality::Rgb,
                why: DecisionReason::Default,
                probabilities,
            },
            known_from: 0.0,
            frame_share: FrameShare::ALL,
            tier: DecodeTier::Full,
            pack: Arc::new(PackStamp {
                name: "p".into(),
                weights_sha256: String::new(),
                manifest_sha256: String::new(),
            }),
            wall: WallTime { unix_ns: 0, source: WallSource::Arrival, uncertainty_ns: 0 },
            timecode: None,
            arrived_ns: 0,
        })
    }
}
