//! `touchline report`: draws the report of a training or an evaluation again.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::paths::shown;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_learn::evaluate::result::Evaluation;
use touchline_learn::report;
use touchline_learn::report::RunLog;

/// The log of a training, in its run directory.
const LOG: &str = "log.jsonl";

/// The figures of an evaluation.
const EVALUATION: &str = "evaluation.json";

#[derive(Debug, Args)]
#[command(
    after_long_help = "The report is one self-contained HTML file with charts, tables and pictures. Training and evaluation write \
it when they end. This command writes it again from the recorded figures, also for a training run that is still in progress or \
was killed.

Examples:
  touchline report out/runs/rgb                        writes out/runs/rgb/report.html
  touchline report out/runs -o training.html           rgb, flow and audio in one report
  touchline report out/evaluation.json                 writes out/evaluation.html"
)]
pub struct ReportArgs {
    /// Run directory of a training (with log.jsonl, or with one directory per modality), or the evaluation.json of an
    /// evaluation.
    #[arg(value_name = "RUN_DIR|FILE")]
    path: PathBuf,
    /// HTML file to write [default: report.html in the run directory, or the evaluation's name with .html].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn report(args: &ReportArgs) -> Result<()> {
    let (html, default) = draw(&args.path)?;
    let out = args.output.clone().unwrap_or(default);
    std::fs::write(&out, html).map_err(|e| {
        let advice = "free space, check the permissions or choose another --output";
        Error::output(out.display().to_string(), format!("cannot write: {e}"), advice)
    })?;
    let _ = writeln!(std::io::stdout(), "report written to {}", shown(&out));
    Ok(())
}

/// The report and its default path.
fn draw(path: &Path) -> Result<(String, PathBuf)> {
    if path.is_dir() {
        let logs = logs(path);
        if !logs.is_empty() {
            return Ok((training(&logs)?, path.join("report.html")));
        }
        let evaluation = path.join(EVALUATION);
        if evaluation.is_file() {
            return draw(&evaluation);
        }
        let cause = format!("neither the directory nor those of its modalities have {LOG} or {EVALUATION}");
        return Err(Error::data(path, cause, "give the run directory of a training, or an evaluation.json"));
    }
    let default = path.with_extension("html");
    if path.extension().is_some_and(|e| e == "jsonl") {
        return Ok((training(&[path.to_owned()])?, default));
    }
    let text = std::fs::read_to_string(path).map_err(|e| {
        let advice = "give the run directory of a training, or the evaluation.json of an evaluation";
        Error::data(path, format!("cannot read the file: {e}"), advice)
    })?;
    let evaluation: Evaluation = serde_json::from_str(&text).map_err(|e| {
        let advice = "give a file that touchline evaluate wrote, or evaluate again with this version";
        Error::data(path, format!("this is not an evaluation: {e}"), advice)
    })?;
    Ok((report::evaluation(&evaluation)?, default))
}

/// The logs of a run: its own, or one for each modality.
fn logs(run: &Path) -> Vec<PathBuf> {
    let own = run.join(LOG);
    if own.is_file() {
        return vec![own];
    }
    Modality::ALL.iter().map(|m| run.join(m.as_str()).join(LOG)).filter(|p| p.is_file()).collect()
}

fn training(logs: &[PathBuf]) -> Result<String> {
    let runs: Vec<RunLog> = logs.iter().map(|path| RunLog::read(path)).collect::<Result<_>>()?;
    report::training(&runs)
}
