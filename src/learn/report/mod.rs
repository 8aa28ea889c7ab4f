//! Reports of trainings and evaluations: one HTML file each, which needs nothing else.
//!
//! Drawn from what was written down (`log.jsonl`, `evaluation.json`), so a report can be drawn again at any time. No
//! figure is computed here that the evaluation does not give: this is the drawing, not the measuring.

mod bars;
mod chart;
mod evaluation;
mod heat;
mod html;
mod ink;
mod kinds;
mod log;
mod quality;
mod resources;
mod training;

use std::path::Path;

use super::evaluate::result::{Evaluation, Predictor};
use super::record::LogLine;
use touchline_core::error::Result;
use touchline_core::labels::Modality;

/// What one training wrote down.
#[derive(Clone, Debug, PartialEq)]
pub struct RunLog {
    pub modality: Modality,
    /// In the order of the file; a resumed run has several starts.
    pub lines: Vec<LogLine>,
}

impl RunLog {
    /// Reads a `log.jsonl`. A last line that is broken is passed over: that is how a killed run leaves its log.
    ///
    /// # Errors
    /// Names the file, and the line that cannot be understood.
    pub fn read(path: &Path) -> Result<Self> {
        log::read(path)
    }
}

/// The report of a training as HTML: one section for each modality that was trained, one log each.
///
/// # Errors
/// Only when a chart cannot be drawn, which would be a fault of the program. What a log lacks is named in the report.
pub fn training(runs: &[RunLog]) -> Result<String> {
    training::page(runs)
}

/// The report of an evaluation as HTML.
///
/// # Errors
/// Only when a chart cannot be drawn, which would be a fault of the program. What was not measured is named in the report.
pub fn evaluation(evaluation: &Evaluation) -> Result<String> {
    evaluation::page(evaluation)
}

/// A modality in the words of the live page.
const fn view(modality: Modality) -> &'static str {
    match modality {
        Modality::Rgb => "pictures",
        Modality::Flow => "motion",
        Modality::Audio => "sound",
    }
}

/// The same at the beginning of a title.
const fn title_of(modality: Modality) -> &'static str {
    match modality {
        Modality::Rgb => "Pictures (RGB)",
        Modality::Flow => "Motion (flow)",
        Modality::Audio => "Sound (audio)",
    }
}

/// The colour of a modality or fusion, the same in every chart.
const fn role_of(predictor: Predictor) -> ink::Role {
    match predictor {
        Predictor::Rgb => ink::Role::Blue,
        Predictor::Flow => ink::Role::Orange,
        Predictor::Audio => ink::Role::Green,
        Predictor::Table => ink::Role::Ink,
        Predictor::Learned => ink::Role::Purple,
    }
}

const fn name_of(predictor: Predictor) -> &'static str {
    match predictor {
        Predictor::Rgb => "pictures",
        Predictor::Flow => "motion",
        Predictor::Audio => "sound",
        Predictor::Table => "fusion by table",
        Predictor::Learned => "learned fusion",
    }
}
