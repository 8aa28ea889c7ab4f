//! `touchline score`: the decisions of `run`, offline, for files.

mod part;
mod scorer;
mod tables;

use std::path::{Path, PathBuf};

use clap::Args;

use self::scorer::{FileState, Scorer};
use self::tables::{SegmentTable, Summary};
use super::clips::{ClipArgs, ClipCutter};
use super::decide_args::DecideArgs;
use super::paths::{output_path, refuse_inputs, shown};
use super::progress::Bar;
use touchline_core::error::{Error, Result};
use touchline_serve::sink::jsonl::JsonlWriter;

pub(super) use self::part::work;
pub(super) use self::scorer::decide;

/// Still pictures, by extension: one second with RGB only.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Recordings that a folder is searched for; a file named on the command line may have any name.
const RECORDINGS: [&str; 20] = [
    "mp4", "m4v", "mov", "mkv", "webm", "ts", "m2ts", "mts", "mpg", "mpeg", "avi", "flv", "ogg", "ogv", "mp3", "m4a",
    "aac", "wav", "flac", "opus",
];

#[derive(Debug, Args)]
#[command(
    after_long_help = "Settings come from flags and environment variables. Flags override variables, and variables override \
defaults. --precision, --device, --tier, --vote-… and --signal-… have the variables of `touchline run`: --vote-window is \
TOUCHLINE_VOTE_WINDOW. Configuration files are not read."
)]
pub struct ScoreArgs {
    /// Recordings, still pictures, and folders of them. Folders are searched recursively, in the order of the names.
    #[arg(value_name = "FILE|DIR", required = true)]
    inputs: Vec<PathBuf>,
    /// Write one JSON object per second and per event to this file; "-" is standard output.
    #[arg(long, value_name = "FILE|-", value_parser = output_path())]
    jsonl: Option<PathBuf>,
    /// Write a CSV with one row per file: path, label (or unknown), probability, seconds, gaps, state (whole, cut-off,
    /// damaged, failed).
    #[arg(long, value_name = "FILE.csv", value_parser = output_path())]
    summary: Option<PathBuf>,
    /// Write a CSV with one row per segment, for recordings that show several things: path, class (or unknown, no-programme,
    /// undecided), begin and end, mean and peak probability, and the seconds that each modality decided.
    #[arg(long, value_name = "FILE.csv", value_parser = output_path())]
    segments: Option<PathBuf>,
    #[command(flatten)]
    clips: ClipArgs,
    #[command(flatten)]
    decide: DecideArgs,
}

pub fn score(args: ScoreArgs) -> Result<()> {
    let settings = args.decide.settings(|name| std::env::var_os(name))?;
    let files = expand(&args.inputs)?;
    for (flag, out) in [("--jsonl", &args.jsonl), ("--summary", &args.summary), ("--segments", &args.segments)] {
        out.iter().try_for_each(|out| refuse_inputs(flag, out, &files))?;
    }
    let clips = ClipCutter::new(&args.clips, &files)?;
    let mut scorer = Scorer::start(args.decide.pack.as_deref(), settings)?;
    // Last, because this replaces the output of an earlier run: nothing else can fail after it.
    let mut jsonl = args.jsonl.as_deref().map(JsonlWriter::create).transpose()?;
    let mut summary = args.summary.as_deref().map(Summary::create).transpose()?;
    let mut segments = args.segments.as_deref().map(SegmentTable::create).transpose()?;
    scorer.clips = clips;
    let mut write = |records: &[String]| match &mut jsonl {
        Some(jsonl) => records.iter().try_for_each(|record| jsonl.write(record)),
        None => Ok(()),
    };

    let to_stdout = args.jsonl.as_deref() != Some(Path::new("-"));
    let mut progress = Bar::new("files", files.len() as u64);
    let mut failed = 0;
    let mut first_failure = None;
    for (i, path) in files.iter().enumerate() {
        progress.set(i as u64);
        match scorer.file(path, &mut write) {
            Ok(labelled) => {
                if to_stdout {
                    let label = labelled.label.as_ref().map_or("-".to_owned(), |(l, p)| format!("{l}\t{p:.3}"));
                    let mut line = format!("{}\t{label}\t{} s\t{} gaps", shown(path), labelled.seconds, labelled.gaps);
                    if labelled.state != FileState::Whole {
                        line.push('\t');
                        line.push_str(labelled.state.as_str());
                    }
                    if let Some(guess) = &labelled.guess {
                        line.push_str(&format!("\tbest guess {guess}"));
                    }
                    progress.out(&line);
                }
                let what = match &labelled.state {
                    FileState::Whole => None,
                    FileState::CutOff(how) => Some(format!("the file is cut off: {how}")),
                    FileState::Damaged => Some("the recording is damaged".to_owned()),
                };
                if let Some(what) = what {
                    let line = format!("touchline: {}: {what}; the readable part was labelled", path.display());
                    progress.line(&touchline_core::redact::text(&line));
                }
                if let Some(summary) = &mut summary {
                    summary.row(path, &labelled)?;
                }
                if let Some(segments) = &mut segments {
                    segments.rows(path, &labelled.segments, &scorer.classes)?;
                }
            }
            // A failure of the outputs or of the program concerns every file; other failures concern one file.
            Err(e @ (Error::Output { .. } | Error::Internal(_))) => {
                progress.finish();
                return Err(e);
            }
            Err(e) => {
                failed += 1;
                if let Some(summary) = &mut summary {
                    summary.failed(path, &e)?;
                }
                if files.len() > 1 {
                    progress.line(&touchline_core::redact::text(&format!("touchline: {e}")));
                }
                first_failure.get_or_insert(e);
            }
        }
    }
    progress.finish();
    match first_failure {
        None => Ok(()),
        Some(_) if files.len() > 1 => Err(Error::Partial { failed, total: files.len() }),
        Some(e) => Err(e),
    }
}

/// Whether a folder is searched for files of this name.
pub(super) fn is_recording(name: &str) -> bool {
    extension(Path::new(name)).is_some_and(|extension| is_known(&extension))
}

/// Files as given, folders searched through; sorted within a folder, so that the order is the same everywhere.
pub(super) fn expand(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            // A missing file is reported in its turn, like any other bad file.
            files.push(input.clone());
            continue;
        }
        let before = files.len();
        walk(input, &mut files)
            .map_err(|e| Error::source_error(input.display().to_string(), e.to_string(), "check the permissions"))?;
        if files.len() == before {
            tracing::warn!("{}: the folder has no recording or picture", input.display());
        }
    }
    if files.is_empty() {
        let advice = format!("files with these extensions are read: {}", RECORDINGS.map(|e| format!(".{e}")).join(" "));
        return Err(Error::source_error("the folders given", "they have no recording or picture", advice));
    }
    Ok(files)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        // A link to a folder may lead in circles.
        if path.is_dir() && !path.is_symlink() {
            walk(&path, files)?;
        } else if path.is_file() && extension(&path).is_some_and(|e| is_known(&e)) {
            files.push(path);
        }
    }
    Ok(())
}

fn extension(path: &Path) -> Option<String> {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase())
}

fn is_known(extension: &str) -> bool {
    PICTURES.contains(&extension) || RECORDINGS.contains(&extension)
}
