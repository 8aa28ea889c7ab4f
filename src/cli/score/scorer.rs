//! Decides one file after the other.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::clips::ClipCutter;
use super::super::decide_args::DecideArgs;
use super::super::place;
use super::{PICTURES, extension};
use touchline_compute::models::pack::Pack;
use touchline_core::cause::Cause;
use touchline_core::clip::{ClipOutput, ClipSecond, PlanSelector};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::decision::SecondOutcome;
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MediaItem, Pace};
use touchline_core::labels::ClassSet;
use touchline_core::segment::{ClosedSegment, Segment};
use touchline_core::selection::DecodeWindow;
use touchline_core::tier::SharedTier;
use touchline_core::vote::{VideoVote, VoteConfig};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::outlet::Counters;
use touchline_media::still::{read_still, scale_down};
use touchline_media::truncation;
use touchline_serve::backlog::QueueId;
use touchline_serve::clips::DecisionRecord;
use touchline_serve::config::{self, Settings};
use touchline_serve::live::StreamVote;
use touchline_serve::metrics::Metrics;
use touchline_serve::record::Recorder;
use touchline_serve::workers::{DecidedItem, PartRange, PartReport, Workers};

/// The label of a recording of which the models are not sure enough.
const UNKNOWN: &str = "unknown";

/// The result of one file.
pub(super) struct Labelled {
    pub(super) label: Option<(String, f32)>,
    /// The best guess, where the label is unknown.
    pub(super) guess: Option<String>,
    pub(super) seconds: u32,
    pub(super) gaps: u32,
    pub(super) state: FileState,
    pub(super) segments: Vec<Segment>,
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
pub(super) enum FileState {
    Whole,
    /// How it is cut off.
    CutOff(String),
    /// Data were found to be damaged, or are missing in between.
    Damaged,
}

impl FileState {
    /// The word in the summary.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            FileState::Whole => "whole",
            FileState::CutOff(_) => "cut-off",
            FileState::Damaged => "damaged",
        }
    }
}

/// How the decision of a part ended.
pub(super) struct PartEnd {
    pub(super) report: PartReport,
    /// The recording is damaged.
    pub(super) is_damaged: bool,
}

/// Decides a recording with the settings of `flags` and the environment. `take` receives the records of each second.
///
/// # Errors
/// As [`score`](super::score), and those of `take`.
pub(in crate::cli) fn decide(flags: &DecideArgs, path: &Path, take: RecordTaker<'_>) -> Result<()> {
    let settings = flags.settings(|name| std::env::var_os(name))?;
    Scorer::start(flags.pack.as_deref(), settings)?.file(path, take).map(|_| ())
}

/// Receives the records of a second.
pub(super) type RecordTaker<'a> = &'a mut dyn FnMut(&[String]) -> Result<()>;

pub(super) struct Scorer {
    pub(super) workers: Workers,
    opener: GstOpener,
    options: GstOptions,
    /// Of the opener's sources, all together.
    counters: Arc<Counters>,
    pub(super) classes: Arc<ClassSet>,
    pub(super) clips: Option<ClipCutter>,
    pub(super) vote: VoteConfig,
    tier: SharedTier,
}

impl Scorer {
    /// Loads the pack.
    pub(super) fn start(pack: Option<&Path>, settings: Settings) -> Result<Self> {
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
        let opener = GstOpener::new(options.clone(), clock.clone())?;
        let classes = Arc::new(pack.classes.clone());
        let workers = Workers::start(pack, 1, Metrics::new(), clock)?.with_signals(signals);
        Ok(Self { workers, opener, options, counters, classes, clips: None, vote, tier })
    }

    pub(super) fn file(&mut self, path: &Path, take: RecordTaker<'_>) -> Result<Labelled> {
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

    /// Decides a part of a recording. `take` receives its outcomes.
    ///
    /// # Errors
    /// As [`Scorer::file`], and those of `take`.
    pub(super) fn part(
        &mut self,
        path: &Path,
        range: PartRange,
        window: Option<&Arc<DecodeWindow>>,
        take: &mut dyn FnMut(SecondOutcome) -> Result<()>,
    ) -> Result<PartEnd> {
        let selection = match (self.options.selection.clone(), window) {
            (Some(selection), Some(window)) => Some(selection.within(window.clone())),
            (selection, _) => selection,
        };
        let options = GstOptions { selection, ..self.options.clone() };
        let opener = GstOpener::new(options, Arc::new(SystemClock::new()))?;
        let damage_before = self.counters.damage();
        // The damage up to the last item of the part: the source fails when its items are not wanted any more.
        let damage = Arc::new(AtomicU64::new(damage_before));
        let (counters, seen) = (self.counters.clone(), damage.clone());
        let tap = Box::new(move |_: &MediaItem| seen.store(counters.damage(), Ordering::Relaxed));
        let (queue, to, report) = self.workers.add_part("score", range, self.tier.clone(), tap)?;
        let source = opener.open(&address(path), to)?;
        let ended = self.outcomes(path, queue, take);
        self.workers.remove_queue(queue);
        drop(source);
        ended?;
        let report = *report.lock();
        Ok(PartEnd { report, is_damaged: damage.load(Ordering::Relaxed) > damage_before })
    }

    /// Takes the outcomes of one queue until its end.
    fn outcomes(&self, path: &Path, queue: QueueId, take: &mut dyn FnMut(SecondOutcome) -> Result<()>) -> Result<()> {
        loop {
            let decided =
                self.workers.decided.recv().map_err(|_| Error::Internal("the inference thread ended".into()))?;
            match decided.item {
                // The tail of a part that ended.
                _ if decided.queue != queue => {}
                DecidedItem::Outcome { outcome, .. } => take(outcome)?,
                DecidedItem::News(ClipOutput::Ended(End::Failed { kind, cause, advice })) => {
                    return Err(Error::source_failure(kind, path.to_string_lossy(), cause, advice));
                }
                DecidedItem::News(ClipOutput::Ended(End::Finished)) => return Ok(()),
                DecidedItem::News(_) => {}
            }
        }
    }

    /// The outcome of a still picture.
    ///
    /// # Errors
    /// As [`Scorer::file`].
    pub(super) fn still(&mut self, path: &Path) -> Result<SecondOutcome> {
        let queue = self.workers.add_queue(Pace::File);
        self.workers.push(queue, ClipOutput::Second(picture(path, self.workers.pack().frame_height)?));
        self.workers.push(queue, ClipOutput::Ended(End::Finished));
        let mut found = None;
        self.outcomes(path, queue, &mut |outcome| {
            found = Some(outcome);
            Ok(())
        })?;
        self.workers.remove_queue(queue);
        found.ok_or_else(|| Error::Internal("a picture has no decision".into()))
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use touchline_core::item::Tracks;
    use touchline_serve::workers::Tap;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: DecideArgs,
    }

    #[test]
    fn a_panic_on_the_clip_thread_ends_its_file_and_no_other() {
        let settings = Cli::parse_from(["score"]).args.settings(|_| None).unwrap();
        let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/compact");
        let mut scorer = Scorer::start(Some(&pack), settings).unwrap();
        let mut decide = |tap: Tap| {
            let tier = scorer.tier.clone();
            let (queue, to) = scorer.workers.add_stream("score", Pace::File, 0, tier, tap).unwrap();
            to.send(MediaItem::Opened(Tracks { video: true, audio: false })).unwrap();
            // Fails if the thread has panicked meanwhile.
            let _ = to.send(MediaItem::Ended(End::Finished));
            scorer.collect(Path::new("a.mp4"), queue, 0, &mut |_| Ok(()))
        };
        let Err(Error::Source { kind: Cause::Internal, cause, .. }) = decide(Box::new(|_| panic!("a bug"))) else {
            panic!("the panic is not reported");
        };
        assert!(cause.contains("panicked"), "{cause}");
        let next = decide(Box::new(|_| ())).unwrap();
        assert_eq!((next.seconds, next.state), (0, FileState::Whole));
    }
}
