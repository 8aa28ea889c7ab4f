//! `touchline evaluate`: measures a pack on a dataset.

mod kinds;

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Compute;
use super::progress::with_bar;
use super::vote::VoteArgs;
use crate::cli::paths::shown;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::redact::print_error_line;
use touchline_learn::dataset::Dataset;
use touchline_learn::dataset::split::Side;
use touchline_learn::evaluate::compare::compare;
use touchline_learn::evaluate::result::{Comparison, Evaluation, Interval, Level, LevelReport, Predictor};
use touchline_learn::evaluate::score::score_side;
use touchline_learn::evaluate::scores::ScoreTable;
use touchline_learn::evaluate::{PackParameters, Settings, evaluate as figures, thumbnail};
use touchline_learn::measure::{fixed, signed};
use touchline_learn::pack::seen_in_training;
use touchline_learn::report;

#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    override_usage = "touchline evaluate [OPTIONS] <PACK> <DATASET>\n       touchline evaluate --cv <RUN> [--cv <RUN>]... <DATASET>",
    after_long_help = "Examples:
  touchline evaluate PACK DATASET                   on the test side, which training and model selection do not use
  touchline evaluate NEW DATASET --against old.json  compares NEW with the pack whose figures old.json has
  touchline evaluate --cv RUN DATASET               on the folds of `touchline train --folds 5`
  touchline evaluate --cv QUARTER --cv HALF --cv ALL DATASET
                                                    compares runs; with `train --sources`, a learning curve"
)]
pub struct EvaluateArgs {
    /// Directory of the model pack.
    #[arg(value_name = "PACK", required_unless_present = "cv", conflicts_with = "cv")]
    pack: Option<PathBuf>,
    /// Directory of a dataset that was split.
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Directory of a cross-validation, instead of a pack. Every source is scored by models that were not trained on it; the
    /// test side is not used. May be given more than once.
    #[arg(long, value_name = "RUN")]
    cv: Vec<PathBuf>,
    /// Side of the dataset to evaluate on. The learned fusion is fitted on the validation side; temperatures and table are those of
    /// the pack.
    #[arg(long, value_enum, default_value_t = MeasuredSide::Test)]
    side: MeasuredSide,
    /// JSON file to write with all figures.
    #[arg(long, value_name = "FILE", default_value = "evaluation.json")]
    json: PathBuf,
    /// Self-contained HTML report to write [default: the name of --json with .html].
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Figures (--json) of another pack on the same side of the same dataset, to compare this one with: the difference of right items
    /// with its interval over sources.
    #[arg(long, value_name = "FILE", conflicts_with = "cv")]
    against: Option<PathBuf>,
    /// Directory of the cache of scores [default: DATASET/cache].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    vote: VoteArgs,
    /// Random seed of the bootstrap, of the permutations and of the simulated programmes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The sides that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MeasuredSide {
    Test,
    Validation,
}

pub fn evaluate(args: EvaluateArgs) -> Result<()> {
    let vote = args.vote.settings()?;
    let Some(pack_dir) = args.pack else {
        let text = kinds::cross(&args.cv, &args.dataset, &args.json, vote, args.seed)?;
        // Errors are ignored, because the reader may close the pipe early.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = writeln!(std::io::stdout(), "\nfigures written to {}", shown(&args.json));
        return Ok(());
    };
    let html = args.report.unwrap_or_else(|| args.json.with_extension("html"));
    if html == args.json {
        let text = format!("--json and --report name the same file, {}; choose another --report", html.display());
        return Err(Error::Usage(text));
    }
    let mut pack = Pack::open(&pack_dir)?;
    args.compute.place(&mut pack)?;
    let dataset = Dataset::open(&args.dataset)?;
    let cache = args.cache.unwrap_or_else(|| args.dataset.join("cache"));
    let validation = score(&pack, &dataset, Side::Validation, &cache);
    let (side, measured, validation) = match args.side {
        MeasuredSide::Test => {
            let validation = match validation {
                Ok(table) => Some(table),
                // Only the learned fusion needs validation.
                Err(Error::Data { cause, .. }) if dataset.sides().is_ok() => {
                    print_error_line(format_args!("the learned fusion is not evaluated: {cause}"));
                    None
                }
                Err(error) => return Err(error),
            };
            (Side::Test, score(&pack, &dataset, Side::Test, &cache)?, validation)
        }
        MeasuredSide::Validation => {
            let table = validation?;
            (Side::Validation, table.clone(), Some(table))
        }
    };
    let settings = Settings {
        dataset: args.dataset.display().to_string(),
        side,
        dataset_classes: dataset.class_names().into_iter().collect(),
        vote,
        seed: args.seed,
    };
    let mut evaluation =
        figures(&PackParameters::of(&pack), &measured, validation.as_ref(), &settings, &mut |index, second| {
            thumbnail(&dataset, index, second)
        });
    let trained_on = seen_in_training(&pack_dir, &dataset, side)?;
    if trained_on > 0 {
        let note = format!(
            "the pack was trained on {trained_on} recordings of this side, so its figures are too high; split the dataset as for \
             its training"
        );
        print_error_line(format_args!("{note}"));
        evaluation.notes.insert(0, note);
    }
    if let Some(path) = &args.against {
        evaluation.comparison = Some(against(path, &evaluation, args.seed)?);
    }
    let json = serde_json::to_string_pretty(&evaluation)
        .map_err(|e| Error::Internal(format!("cannot write the figures as JSON: {e}")))?;
    write_file(&args.json, json.as_bytes(), "--json")?;
    write_file(&html, report::evaluation(&evaluation)?.as_bytes(), "--report")?;
    // Errors are ignored, because the reader may close the pipe early.
    let _ = std::io::stdout().write_all(text(&evaluation).as_bytes());
    let _ = writeln!(std::io::stdout(), "\nfigures written to {}, report to {}", shown(&args.json), shown(&html));
    Ok(())
}

/// Scores a side with a progress bar.
fn score(pack: &Pack, dataset: &Dataset, side: Side, cache: &Path) -> Result<ScoreTable> {
    with_bar("recordings and pictures scored", |progress| score_side(pack, dataset, side, cache, progress))
}

/// Compares an evaluation with that of another pack in the file `path`.
fn against(path: &Path, evaluation: &Evaluation, seed: u64) -> Result<Comparison> {
    let advice = "give the --json of `touchline evaluate` of the other pack on this dataset";
    let unusable = |cause: String| Error::data(path, cause, advice);
    let text = std::fs::read_to_string(path).map_err(|e| unusable(e.to_string()))?;
    let other: Evaluation = serde_json::from_str(&text).map_err(|e| unusable(format!("it is no evaluation: {e}")))?;
    compare(evaluation, &other, seed).map_err(unusable)
}

fn write_file(path: &Path, bytes: &[u8], option: &str) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, bytes)).map_err(|e| {
        Error::output(path.display().to_string(), format!("cannot write: {e}"), format!("choose another {option}"))
    })
}

/// Formats the figures for a terminal.
fn text(evaluation: &Evaluation) -> String {
    let mut out = String::new();
    let mut line = |cells: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{cells}");
    };
    line(format_args!(
        "pack {} on the {} side of {}; in brackets, 95 % intervals over sources",
        evaluation.pack, evaluation.side, evaluation.dataset
    ));
    line(format_args!(""));
    line(format_args!(
        "{:<7} {:<8} {:>6}  {:<20} {:<20} {:>6} {:>8} {:>6}",
        "level", "by", "n", "accuracy", "macro F1", "top 3", "log loss", "AUC"
    ));
    for r in &evaluation.reports {
        line(format_args!(
            "{:<7} {:<8} {:>6}  {:<20} {:<20} {:>6} {:>8} {:>6}",
            level_name(r.level),
            predictor_name(r.predictor),
            r.n,
            interval(&r.accuracy),
            interval(&r.macro_f1),
            fixed(r.top3, 3),
            fixed(r.log_loss, 3),
            r.macro_auc.map_or("-".into(), |auc| fixed(auc, 3))
        ));
    }
    per_class(evaluation, &mut line);
    line(format_args!(""));
    kinds::by_kind(&evaluation.kinds, &mut line);
    line(format_args!(""));
    kinds::by_class(&evaluation.kinds, &mut line);
    if let Some(events) = &evaluation.events {
        line(format_args!(""));
        kinds::by_event(events, &mut line);
    }
    if let Some(comparison) = &evaluation.comparison {
        line(format_args!(""));
        kinds::by_comparison(comparison, &mut line);
    }
    if !evaluation.improvement.is_empty() {
        line(format_args!(""));
    }
    for i in &evaluation.improvement {
        line(format_args!(
            "fusion over {} at {} level: {} % ({} against {} macro F1)",
            i.over,
            level_name(i.level),
            signed(i.percent, 2),
            fixed(i.fusion_f1, 3),
            fixed(i.modality_f1, 3)
        ));
    }
    for c in &evaluation.calibration {
        line(format_args!(
            "calibration of {}: ECE {} without temperature, {} with temperature {}",
            c.modality,
            fixed(c.ece_before, 3),
            fixed(c.ece_after, 3),
            fixed(c.temperature, 2)
        ));
    }
    for i in &evaluation.importance {
        line(format_args!(
            "{} without {}: macro F1 falls by {}; with it shuffled, by {} ± {}",
            predictor_name(i.predictor),
            i.modality,
            fixed(i.ablation, 3),
            fixed(i.permutation, 3),
            fixed(i.permutation_std, 3)
        ));
    }
    line(format_args!(""));
    for note in &evaluation.notes {
        line(format_args!("{note}"));
    }
    out
}

/// Prints F1 of the classes at second level, predictors side by side.
fn per_class(evaluation: &Evaluation, line: &mut dyn FnMut(std::fmt::Arguments)) {
    let reports: Vec<&LevelReport> = evaluation.reports.iter().filter(|r| r.level == Level::Second).collect();
    if reports.is_empty() {
        return;
    }
    let width = evaluation.classes.iter().map(|c| c.chars().count()).max().unwrap_or(0).max(5);
    line(format_args!(""));
    line(format_args!("F1 of each class at second level, and number of seconds"));
    let heads: String = reports.iter().map(|r| format!(" {:>7}", predictor_name(r.predictor))).collect();
    line(format_args!("{:<width$}{heads} {:>7}", "class", "n"));
    for (c, class) in evaluation.classes.iter().enumerate() {
        // A modality may be missing in some seconds, so the maximum is the number of seconds.
        let support = reports.iter().map(|r| r.per_class[c].support).max().unwrap_or(0);
        if support == 0 {
            continue;
        }
        let cell = |r: &&LevelReport| match r.per_class[c].support {
            0 => format!(" {:>7}", "-"),
            _ => format!(" {:>7}", fixed(r.per_class[c].f1, 3)),
        };
        let cells: String = reports.iter().map(cell).collect();
        line(format_args!("{class:<width$}{cells} {support:>7}"));
    }
}

fn interval(i: &Interval) -> String {
    interval_by(i, fixed)
}

/// An interval, its numbers written by `number` with three decimals.
fn interval_by(i: &Interval, number: impl Fn(f64, usize) -> String) -> String {
    match i.ends() {
        Some((low, high)) => format!("{} [{} {}]", number(i.value, 3), number(low, 3), number(high, 3)),
        None => format!("{} [n/a]", number(i.value, 3)),
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::Frame => "frame",
        Level::Second => "second",
        Level::Video => "video",
    }
}

const fn predictor_name(predictor: Predictor) -> &'static str {
    match predictor {
        Predictor::Rgb => Modality::Rgb.as_str(),
        Predictor::Flow => Modality::Flow.as_str(),
        Predictor::Audio => Modality::Audio.as_str(),
        Predictor::Table => "table",
        Predictor::Learned => "learned",
    }
}
