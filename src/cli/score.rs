//! `touchline score`: the decisions of `run`, offline, for files.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::clips::{ClipArgs, ClipCutter};
use super::paths::{output_path, refuse_inputs, shown};
use super::progress::Bar;
use super::run::named;
use super::signal::SignalArgs;
use super::vote::VoteArgs;
use super::{Compute, place, settings_of};
use touchline_compute::models::pack::Pack;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipOutput, ClipSecond, PlanSelector};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, Pace};
use touchline_core::labels::ClassSet;
use touchline_core::segment::{ClosedSegment, Segment, SegmentKind};
use touchline_core::tier::SharedTier;
use touchline_core::vote::{VideoVote, VoteConfig};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::options::TierChoice;
use touchline_media::outlet::Counters;
use touchline_media::still::{read_still, scale_down};
use touchline_media::truncation;
use touchline_serve::backlog::QueueId;
use touchline_serve::clips::DecisionRecord;
use touchline_serve::config;
use touchline_serve::config::{Key, Settings};
use touchline_serve::live::StreamVote;
use touchline_serve::metrics::Metrics;
use touchline_serve::publish::export::{SEGMENT_COLUMNS, segment_cells, text_cell};
use touchline_serve::publish::jsonl::{JsonlWriter, hold_pipe};
use touchline_serve::publish::record::Recorder;
use touchline_serve::workers::{DecidedItem, Workers};

/// The label of a recording of which the models are not sure enough.
const UNKNOWN: &str = "unknown";

/// Still pictures, by extension: one second with RGB only.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Recordings that a folder is searched for; a file named on the command line may have any name.
const RECORDINGS: [&str; 20] = [
    "mp4", "m4v", "mov", "mkv", "webm", "ts", "m2ts", "mts", "mpg", "mpeg", "avi", "flv", "ogg", "ogv", "mp3", "m4a",
    "aac", "wav", "flac", "opus",
];

#[derive(Debug, Args, Serialize)]
#[command(
    after_long_help = "Settings come from flags and environment variables. Flags override variables, and variables override \
defaults. --precision, --device, --tier, --vote-… and --signal-… have the variables of `touchline run`: --vote-window is \
TOUCHLINE_VOTE_WINDOW. Configuration files are not read."
)]
pub struct ScoreArgs {
    /// Recordings, still pictures, and folders of them. Folders are searched recursively, in the order of the names.
    #[arg(value_name = "FILE|DIR", required = true)]
    #[serde(skip)]
    inputs: Vec<PathBuf>,
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    #[serde(skip)]
    pack: Option<PathBuf>,
    /// Write one JSON object per second and per event to this file; "-" is standard output.
    #[arg(long, value_name = "FILE|-", value_parser = output_path())]
    #[serde(skip)]
    jsonl: Option<PathBuf>,
    /// Write a CSV with one row per file: path, label (or unknown), probability, seconds, gaps, state (whole, cut-off,
    /// damaged, failed).
    #[arg(long, value_name = "FILE.csv", value_parser = output_path())]
    #[serde(skip)]
    summary: Option<PathBuf>,
    /// Write a CSV with one row per segment, for recordings that show several things: path, class (or unknown, no-programme,
    /// undecided), begin and end, mean and peak probability, and the seconds that each modality decided.
    #[arg(long, value_name = "FILE.csv", value_parser = output_path())]
    #[serde(skip)]
    segments: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    clips: ClipArgs,
    #[command(flatten)]
    #[serde(flatten)]
    compute: Compute,
    /// Pictures to decode. full: all; lean: those that the models use and their references; sparse: as lean, without the flow
    /// model; key: key pictures only (seconds without one are gaps); auto: lean [default: auto].
    #[arg(long, value_parser = named::<TierChoice>(&TierChoice::NAMES))]
    tier: Option<TierChoice>,
    #[command(flatten)]
    vote: VoteArgs,
    #[command(flatten)]
    signal: SignalArgs,
}

impl ScoreArgs {
    /// The settings from flags and the variables that `read` reads.
    fn settings(&self, read: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        settings_of(self, Self::has, read)
    }

    /// Whether `score` takes the key from the environment.
    fn has(key: &Key) -> bool {
        Compute::has(key) || key.path == "tier" || key.path.starts_with("vote.") || key.path.starts_with("signal.")
    }
}

/// The result of one file.
struct Labelled {
    label: Option<(String, f32)>,
    /// The best guess, where the label is unknown.
    guess: Option<String>,
    seconds: u32,
    gaps: u32,
    state: FileState,
    segments: Vec<Segment>,
}

/// The segments of a recording, in order.
#[derive(Default)]
struct SegmentList(Vec<Segment>);

impl SegmentList {
    fn add(&mut self, closed: Vec<ClosedSegment>) {
        for ClosedSegment { segment, is_revision } in closed {
            // A revision replaces the last one.
            self.0.truncate(self.0.len() - usize::from(is_revision));
            self.0.push(segment);
        }
    }
}

/// Whether a file is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FileState {
    Whole,
    /// How it is cut off.
    CutOff(String),
    /// Data were found to be damaged, or are missing in between.
    Damaged,
}

impl FileState {
    /// The word in the summary.
    const fn as_str(&self) -> &'static str {
        match self {
            FileState::Whole => "whole",
            FileState::CutOff(_) => "cut-off",
            FileState::Damaged => "damaged",
        }
    }
}

pub fn score(args: ScoreArgs) -> Result<()> {
    let settings = args.settings(|name| std::env::var_os(name))?;
    let files = expand(&args.inputs)?;
    for (flag, out) in [("--jsonl", &args.jsonl), ("--summary", &args.summary), ("--segments", &args.segments)] {
        out.iter().try_for_each(|out| refuse_inputs(flag, out, &files))?;
    }
    let clips = ClipCutter::new(&args.clips, &files)?;
    let mut scorer = Scorer::start(args.pack.as_deref(), settings)?;
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

/// Decides a recording with the settings of `flags` and the environment. `take` receives the records of each second.
///
/// # Errors
/// As [`score`], and those of `take`.
pub(super) fn decide(flags: &impl Serialize, pack: Option<&Path>, path: &Path, take: RecordTaker<'_>) -> Result<()> {
    let settings = settings_of(flags, ScoreArgs::has, |name| std::env::var_os(name))?;
    Scorer::start(pack, settings)?.file(path, take).map(|_| ())
}

/// Receives the records of a second.
type RecordTaker<'a> = &'a mut dyn FnMut(&[String]) -> Result<()>;

/// Files as given, folders searched through; sorted within a folder, so that the order is the same everywhere.
fn expand(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
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

struct Scorer {
    workers: Workers,
    opener: GstOpener,
    /// Of the opener's sources, all together.
    counters: Arc<Counters>,
    classes: Arc<ClassSet>,
    clips: Option<ClipCutter>,
    vote: VoteConfig,
    tier: SharedTier,
}

impl Scorer {
    /// Loads the pack.
    fn start(pack: Option<&Path>, settings: Settings) -> Result<Self> {
        let Settings { vote, signals, precision, device, tier, .. } = settings;
        let mut pack = Pack::open(&config::find_pack(pack)?)?;
        place(&mut pack, precision, &device)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let tier = SharedTier::new(tier.fixed().unwrap_or_default());
        let options = GstOptions {
            id: "score".into(),
            frame_height: pack.frame_height,
            want_video: pack.wants().video,
            want_audio: pack.wants().audio,
            selection: Some(PlanSelector::selection(&pack.plan).at(tier.clone())),
            ..GstOptions::default()
        };
        let counters = options.counters.clone();
        let opener = GstOpener::new(options, clock.clone())?;
        let classes = Arc::new(pack.classes.clone());
        let workers = Workers::start(pack, 1, Metrics::new(), clock)?.with_signals(signals);
        Ok(Self { workers, opener, counters, classes, clips: None, vote, tier })
    }

    fn file(&mut self, path: &Path, take: RecordTaker<'_>) -> Result<Labelled> {
        // Only files: addresses of streams are for `run`, and their secrets must not get into records.
        std::fs::metadata(path).map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { Cause::NotFound } else { Cause::Other };
            Error::source_failure(kind, path.display().to_string(), e.to_string(), "check the path")
        })?;
        if extension(path).is_some_and(|e| PICTURES.contains(&e.as_str())) {
            let queue = self.workers.add_queue(Pace::File);
            self.workers.push(queue, ClipOutput::Second(picture(path, self.workers.pack().frame_height)?));
            self.workers.push(queue, ClipOutput::Ended(End::Finished));
            return self.collect(path, queue, 0, take);
        }
        let damage_before = self.counters.damage();
        let (queue, to) = self.workers.add_stream("score", Pace::File, 0, self.tier.clone(), Box::new(|_| ()))?;
        let _source = self.opener.open(&address(path), to)?;
        self.collect(path, queue, damage_before, take)
    }

    /// Takes the decisions of one queue until its end.
    fn collect(&mut self, path: &Path, queue: QueueId, damage_before: u64, take: RecordTaker<'_>) -> Result<Labelled> {
        let labelled = self.collect_all(path, queue, damage_before, take);
        // Thousands of files leave nothing behind.
        self.workers.remove_queue(queue);
        labelled
    }

    fn collect_all(
        &mut self,
        path: &Path,
        queue: QueueId,
        damage_before: u64,
        take: RecordTaker<'_>,
    ) -> Result<Labelled> {
        let name = path.to_string_lossy();
        let recorder = Recorder::new(&name, self.classes.clone(), Pace::File);
        let mut votes = StreamVote::new(self.vote, self.classes.len(), Pace::File);
        let mut video = VideoVote::new(self.classes.len());
        let (mut decisions, mut segments) = (Vec::new(), SegmentList::default());
        loop {
            let decided =
                self.workers.decided.recv().map_err(|_| Error::Internal("the inference thread ended".into()))?;
            if decided.queue != queue {
                // The tail of a file that failed.
                continue;
            }
            match decided.item {
                DecidedItem::Outcome { outcome, .. } => {
                    video.push(&outcome);
                    let (run, index) = (outcome.run(), outcome.index());
                    // Backlog and latency depend on the load of the machine; a recording's records must not.
                    let published = votes.take(outcome, 0, None, 0);
                    let records = recorder.published(&published);
                    take(&records)?;
                    if self.clips.is_some() {
                        let records = records.into_iter().take(1 + published.events.len());
                        decisions.extend(records.map(|json| DecisionRecord { run, index, json }));
                    }
                    segments.add(published.segments);
                }
                DecidedItem::News(ClipOutput::Ended(end)) => {
                    let (events, closed) = votes.finish();
                    let records: Vec<_> = events.iter().map(|event| recorder.event(event, None)).collect();
                    take(&records)?;
                    let closed_records: Vec<_> = closed.iter().map(|closed| recorder.segment(closed)).collect();
                    take(&closed_records)?;
                    segments.add(closed);
                    let last = events.iter().zip(records);
                    decisions.extend(last.map(|(event, json)| DecisionRecord {
                        run: event.run,
                        index: event.index,
                        json,
                    }));
                    if let End::Failed { kind, cause, advice } = end {
                        return Err(Error::source_failure(kind, name, cause, advice));
                    }
                    let label = video.label().map(|l| (self.classes.name(l.label).to_owned(), l.probability));
                    let is_unknown = label.as_ref().is_some_and(|(_, p)| *p < self.workers.pack().known_from());
                    let (label, guess) = match label {
                        Some((guess, p)) if is_unknown => (Some((UNKNOWN.to_owned(), p)), Some(guess)),
                        label => (label, None),
                    };
                    let state = match truncation::cut_off(path) {
                        Some(how) => FileState::CutOff(how),
                        None if self.counters.damage() > damage_before => FileState::Damaged,
                        None => FileState::Whole,
                    };
                    if let Some(clips) = &mut self.clips {
                        clips.cut(path, &segments.0, &self.classes, &decisions)?;
                    }
                    let (seconds, gaps) = (video.seconds(), video.gaps());
                    return Ok(Labelled { label, guess, seconds, gaps, state, segments: segments.0 });
                }
                DecidedItem::News(_) => {}
            }
        }
    }
}

/// The address of `path` for the opener: the path itself, or a URI where the path is not UTF-8.
fn address(path: &Path) -> Cow<'_, str> {
    if let Some(name) = path.to_str() {
        return name.into();
    }
    let uri = std::path::absolute(path).ok().and_then(|path| url::Url::from_file_path(path).ok());
    uri.map_or_else(|| path.to_string_lossy(), |uri| String::from(uri).into())
}

/// A still as one second: RGB only, scaled down as a video of its size would be on ingest.
fn picture(path: &Path, frame_height: u32) -> Result<ClipSecond> {
    let name = path.display().to_string();
    let image =
        read_still(path).map_err(|e| Error::source_error(&name, e, "give a readable JPEG, PNG or WebP picture"))?;
    Ok(ClipSecond::of_pictures(vec![touchline_media::still::frame(scale_down(image, frame_height))]))
}

/// A CSV, flushed after each file, so that a crash loses none.
struct CsvFile {
    writer: csv::Writer<std::fs::File>,
    place: String,
    flag: &'static str,
}

impl CsvFile {
    fn create(path: &Path, flag: &'static str) -> Result<Self> {
        let place = path.display().to_string();
        let _held = hold_pipe(path)?;
        let writer = csv::Writer::from_path(path).map_err(|e| unwritable(&place, flag, &e))?;
        Ok(Self { writer, place, flag })
    }

    fn write<T: AsRef<[u8]>>(&mut self, rows: impl IntoIterator<Item = impl IntoIterator<Item = T>>) -> Result<()> {
        let written = rows.into_iter().try_for_each(|row| self.writer.write_record(row));
        written.map_err(|e| unwritable(&self.place, self.flag, &e))?;
        self.writer.flush().map_err(|e| unwritable(&self.place, self.flag, &e))
    }
}

/// The CSV of segments.
struct SegmentTable(CsvFile);

impl SegmentTable {
    fn create(path: &Path) -> Result<Self> {
        let mut file = CsvFile::create(path, "--segments")?;
        file.write([std::iter::once("path").chain(SEGMENT_COLUMNS)])?;
        Ok(Self(file))
    }

    fn rows(&mut self, path: &Path, segments: &[Segment], classes: &ClassSet) -> Result<()> {
        let row = |segment: &Segment| {
            let class = match segment.kind {
                SegmentKind::Class(class) => Some(classes.name(class)),
                _ => None,
            };
            std::iter::once(text_cell(&path.to_string_lossy())).chain(segment_cells(segment, class))
        };
        self.0.write(segments.iter().map(row))
    }
}

/// The CSV of labels.
struct Summary(CsvFile);

impl Summary {
    fn create(path: &Path) -> Result<Self> {
        let mut file = CsvFile::create(path, "--summary")?;
        file.write([["path", "label", "probability", "seconds", "gaps", "state"]])?;
        Ok(Self(file))
    }

    fn row(&mut self, path: &Path, labelled: &Labelled) -> Result<()> {
        let (label, probability) = labelled
            .label
            .as_ref()
            .map_or((String::new(), String::new()), |(label, p)| (label.clone(), format!("{p:.4}")));
        let (seconds, gaps) = (labelled.seconds.to_string(), labelled.gaps.to_string());
        self.0.write([[
            path.to_string_lossy().as_ref(),
            label.as_str(),
            probability.as_str(),
            seconds.as_str(),
            gaps.as_str(),
            labelled.state.as_str(),
        ]])
    }

    /// The row of a file that could not be decided.
    fn failed(&mut self, path: &Path, error: &Error) -> Result<()> {
        let state = if truncation::cut_off(path).is_some() {
            "cut-off"
        } else if matches!(error, Error::Source { kind: Cause::Damaged, .. }) {
            "damaged"
        } else {
            "failed"
        };
        self.0.write([[path.to_string_lossy().as_ref(), "", "", "0", "0", state]])
    }
}

fn unwritable(place: &str, flag: &str, e: &dyn std::fmt::Display) -> Error {
    let advice = format!("free space, check the permissions or choose another {flag}");
    Error::output(place, format!("cannot write: {e}"), advice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ScoreArgs,
    }

    fn settings(flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings> {
        let args = Cli::try_parse_from(["score", "a.mp4"].iter().chain(flags)).unwrap().args;
        args.settings(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn vote_and_signals_come_from_flags_and_variables() {
        let variables = [
            ("TOUCHLINE_VOTE_WINDOW", "5"),
            ("TOUCHLINE_VOTE_ONSET", "0.8"),
            ("TOUCHLINE_SIGNAL_BLACK_S", "3"),
            ("TOUCHLINE_PRECISION", "f32"),
            ("TOUCHLINE_MAX_STREAMS", "0"),
        ];
        let chosen = settings(&["--vote-window", "7", "--signal-freeze-s=4", "--vote-stride=2"], &variables).unwrap();
        assert_eq!((chosen.vote.window, chosen.vote.stride, chosen.vote.onset), (7, 2, 0.8));
        assert_eq!((chosen.signals.black.as_secs(), chosen.signals.freeze.as_secs()), (3, 4));
        assert_eq!(chosen.precision, config::PrecisionChoice::F32);
        for (flags, variables, word) in [
            (&["--vote-window=601"][..], &[][..], "--vote-window"),
            (&[], &[("TOUCHLINE_VOTE_WINDOW", "0")], "TOUCHLINE_VOTE_WINDOW"),
            (&[], &[("TOUCHLINE_SIGNAL_BLACK_S", "long")], "TOUCHLINE_SIGNAL_BLACK_S"),
        ] {
            let refused = settings(flags, variables).unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn every_setting_of_score_has_a_flag() {
        let command = Cli::command();
        let flags: BTreeSet<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .map(|name| format!("--{name}"))
            .collect();
        for key in config::RUN_KEYS.keys.iter().filter(|key| ScoreArgs::has(key)) {
            assert!(flags.contains(&key.flag()), "{}", key.flag());
        }
    }
}
