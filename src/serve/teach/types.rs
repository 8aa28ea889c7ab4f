//! Corrections as the API and `corrections.jsonl` have them, and why one is refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::types::Probability;
use touchline_core::time::RunId;

/// What a person answers about seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnswerKind {
    /// They show a class.
    Class,
    /// The pack is right.
    Confirm,
    /// A person cannot tell either. Nothing learns from them, and they are not suggested again.
    Unsure,
}

/// Who has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Author")]
pub struct Author {
    /// How the caller got its role: a token, a session, or nothing.
    pub by: String,
    /// Address of the caller.
    pub address: String,
}

/// What the pack had decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CorrectedDecision {
    /// The class of most of the seconds.
    pub label: String,
    /// Mean probability of that class in these seconds.
    pub probability: f32,
}

/// A correction: what seconds of a stream show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Correction {
    /// Its id.
    pub id: String,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// Who made it.
    pub author: Author,
    /// Id of the stream.
    pub stream: String,
    /// Run of the seconds.
    pub run: RunId,
    /// Index of the first second.
    pub from: u64,
    /// Index of the last second.
    pub to: u64,
    /// Wall time of the first second.
    #[schemars(extend("format" = "date-time"))]
    pub began: String,
    /// The answer.
    pub answer: AnswerKind,
    /// The class that the seconds show; null if nobody can tell.
    pub class: Option<String>,
    /// What the pack had decided.
    pub decision: CorrectedDecision,
    /// Number of seconds in the file.
    pub seconds: u32,
    /// The file with their pictures and sound, below `clips`, or `sounds` without pictures; null for an answer from which nothing learns.
    pub file: Option<String>,
    /// Size of the file.
    pub bytes: u64,
    /// Whether the seconds have pictures.
    pub has_pictures: bool,
    /// Whether the seconds have sound.
    pub has_sound: bool,
}

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCorrection {
    /// Id of the stream.
    pub stream: String,
    /// Run of the seconds.
    pub run: RunId,
    /// Index of the first second.
    pub from: u64,
    /// Index of the last second.
    pub to: u64,
    /// The answer.
    pub answer: AnswerKind,
    /// The class, with [`AnswerKind::Class`].
    pub class: Option<String>,
}

/// Why a correction was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorrectionRefusal {
    /// None of the seconds is in memory, and the stream is not recorded.
    NotHeld,
    /// None of the seconds is in memory, and the ring of the stream does not have them.
    NotRecorded,
    /// The caller is gone.
    Cancelled,
    /// They overlap those of another correction.
    Overlaps(String),
    /// The folder has its maximum size.
    Full,
    /// The disk is full.
    NoSpace,
    /// There is no such correction.
    Unknown(String),
    /// The folder cannot be read or written. The text is one line.
    Failed(String),
}

/// A second that people are asked about, or that they ask about.
#[derive(Serialize, JsonSchema)]
pub(crate) struct HeldView<'a> {
    /// Id of the stream.
    pub stream: &'a str,
    /// Run of the second.
    pub run: RunId,
    /// Index of the second.
    pub index: u64,
    /// Index of the first second of its block, of which one second at most is suggested at a time.
    pub block: u64,
    /// Wall time of its start.
    #[schemars(extend("format" = "date-time"))]
    pub began: String,
    /// What the pack decided.
    pub label: &'a str,
    /// Its probability.
    pub probability: Probability,
    /// The most probable classes, the most probable first.
    pub likely: Vec<LikelyView<'a>>,
    /// The labels of the modalities.
    pub modalities: Vec<ModalityView<'a>>,
    /// The label of the shadow; null without a shadow.
    pub shadow: Option<&'a str>,
    /// How doubtful the decision is, 0 to 1.
    pub doubt: Probability,
    /// Number of pictures.
    pub pictures: usize,
}

/// A class with its probability.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LikelyView<'a> {
    /// The class.
    pub class: &'a str,
    /// Its probability.
    pub probability: Probability,
}

/// The label of a modality.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HeldModality")]
pub(crate) struct ModalityView<'a> {
    /// The modality.
    pub modality: touchline_core::labels::Modality,
    /// Its class.
    pub class: &'a str,
    /// Its score.
    pub score: Probability,
}
