//! Reports on trainings and evaluations: one self-contained HTML file each.
//!
//! A report is drawn from `log.jsonl` or `evaluation.json`, so it can be drawn again at any time. This module computes no new
//! figures; it only presents those of the log or the evaluation.

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

use std::path::{Path, PathBuf};

use super::evaluate::result::{Evaluation, Predictor};
use super::fit::LOG;
use super::record::LogLine;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// File name of the report on a run, beside the folders of its modalities.
pub const REPORT: &str = "report.html";

/// The log of one training.
#[derive(Clone, Debug, PartialEq)]
pub struct RunLog {
    /// The trained modality.
    pub modality: Modality,
    /// The lines in the order of the file; a resumed run has several starts.
    pub lines: Vec<LogLine>,
}

impl RunLog {
    /// Reads a `log.jsonl`. An incomplete last line is ignored, because a killed run may leave one.
    ///
    /// # Errors
    /// [`Error::Data`] when the file cannot be read, has no start line, or has a damaged line; the
    /// cause gives its number.
    pub fn read(path: &Path) -> Result<Self> {
        log::read(path)
    }
}

/// Returns the report on a training as HTML, with one section for each log. The report names missing data.
///
/// # Errors
/// When a chart cannot be drawn, which is a defect of the program.
pub fn training(runs: &[RunLog]) -> Result<String> {
    training::page(runs)
}

/// Writes the report on all modalities in a run's directory. Returns its path.
///
/// # Errors
/// [`Error::Data`] when a log is damaged, [`Error::Output`] when the report cannot be written.
pub fn write_training(out: &Path) -> Result<PathBuf> {
    let mut logs = Vec::new();
    for modality in Modality::ALL {
        let path = out.join(modality.to_string()).join(LOG);
        if path.is_file() {
            logs.push(RunLog::read(&path)?);
        }
    }
    let path = out.join(REPORT);
    let text = training(&logs)?;
    std::fs::write(&path, text)
        .map_err(|e| Error::output(path.display().to_string(), format!("cannot write: {e}"), "choose another -o"))?;
    Ok(path)
}

/// Returns the report on an evaluation as HTML. The report names figures that were not measured.
///
/// # Errors
/// When a chart cannot be drawn, which is a defect of the program.
pub fn evaluation(evaluation: &Evaluation) -> Result<String> {
    evaluation::page(evaluation)
}

/// Returns the name of a modality, as on the live page.
const fn view(modality: Modality) -> &'static str {
    match modality {
        Modality::Rgb => "pictures",
        Modality::Flow => "motion",
        Modality::Audio => "sound",
    }
}

/// Returns the name of a modality for the beginning of a title.
const fn title_of(modality: Modality) -> &'static str {
    match modality {
        Modality::Rgb => "Pictures (RGB)",
        Modality::Flow => "Motion (flow)",
        Modality::Audio => "Sound (audio)",
    }
}

/// Returns the colour of a predictor, which is the same in every chart.
const fn role_of(predictor: Predictor) -> ink::Role {
    match predictor {
        Predictor::Rgb => ink::Role::Blue,
        Predictor::Flow => ink::Role::Orange,
        Predictor::Audio => ink::Role::Green,
        Predictor::Table => ink::Role::Ink,
        Predictor::Learned => ink::Role::Purple,
    }
}

/// Returns the display name of a predictor.
const fn name_of(predictor: Predictor) -> &'static str {
    match predictor {
        Predictor::Rgb => "pictures",
        Predictor::Flow => "motion",
        Predictor::Audio => "sound",
        Predictor::Table => "fusion by table",
        Predictor::Learned => "learned fusion",
    }
}
