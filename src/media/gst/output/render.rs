//! Renders recordings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::address::OutputAddress;
use super::composition::LabelSource;
use super::pipeline::{BEGIN_NS, OutputPipeline};
use super::timeline::Timeline;
use super::{LabelForm, OutputCause, OutputError};
use crate::gst::clips::recording::read;
use crate::gst::clips::unit::Unit;
use crate::overlay::LabelContent;
use touchline_core::time::{NANOS_PER_SECOND, RunId};

/// How long an encoder may take for what waits in front of it. The slowest one makes a picture within a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// The labels of a recording: what is shown in a second of a run.
pub type SecondLabels = Arc<dyn Fn(RunId, u64) -> Option<Arc<LabelContent>> + Send + Sync>;

/// A recording to render.
pub struct RenderRequest<'a> {
    /// The recording.
    pub media: &'a Path,
    /// Output. Files get their final name when they are complete.
    pub output: &'a OutputAddress,
    /// How it has the label.
    pub form: LabelForm,
    /// What is shown.
    pub labels: SecondLabels,
}

/// What was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderSummary {
    /// Coded pictures.
    pub pictures: u64,
    /// Length, ns.
    pub length_ns: u64,
    /// Whether it has sound.
    pub has_sound: bool,
}

/// What the first reading finds.
#[derive(Default)]
struct Contents {
    /// Begin and end of each run, ns.
    runs: Vec<(u32, i64, i64)>,
    first: [Option<Unit>; 2],
    counts: [usize; 2],
    /// The track's format changes: its media up to there are rendered.
    pictures: u64,
}

struct RecordingLabels {
    timeline: Timeline,
    labels: SecondLabels,
}

impl LabelSource for RecordingLabels {
    fn label(&self, out_ns: u64) -> Option<Arc<LabelContent>> {
        let (run, second) = self.timeline.second(i64::try_from(out_ns.saturating_sub(BEGIN_NS)).ok()?)?;
        (self.labels)(run, second)
    }
}

/// The length of a recording, ns: that of all its runs.
///
/// # Errors
/// [`OutputCause::Media`] for a recording that cannot be read.
pub fn recording_length(path: &Path) -> Result<u64, OutputError> {
    let mut contents = Contents::default();
    read(path, |unit| {
        contents.take(unit);
        true
    })
    .map_err(|e| OutputError::new(OutputCause::Media, e.to_string()))?;
    Ok(contents.runs.iter().map(|(_, begin_ns, end_ns)| end_ns.abs_diff(*begin_ns)).sum())
}

/// Renders a recording. `progress` receives the whole seconds that are done, and their number.
///
/// # Errors
/// [`OutputCause::Media`] for a recording that cannot be read or has no pictures, else a failure of the output. No file stays then.
pub fn render_recording(
    request: RenderRequest<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RenderSummary, OutputError> {
    let media = |e: &dyn std::fmt::Display| OutputError::new(OutputCause::Media, e.to_string());
    let mut contents = Contents::default();
    read(request.media, |unit| {
        contents.take(unit);
        true
    })
    .map_err(|e| media(&e))?;
    if contents.first[0].is_none() {
        return Err(media(&"the recording has no pictures"));
    }
    let mut timeline = Timeline::default();
    let mut length_ns = 0;
    for (run, begin_ns, end_ns) in &contents.runs {
        timeline.begin(*run, *begin_ns, length_ns);
        length_ns += end_ns - begin_ns;
    }
    let length_ns = u64::try_from(length_ns).unwrap_or(0);
    let (output, partial) = partial(request.output)?;
    let labels = Arc::new(RecordingLabels { timeline, labels: request.labels });
    let first = contents.first.each_ref().map(Option::as_ref);
    let opened = OutputPipeline::open((&output, "segment", false), first, &request.form, labels.clone());
    let mut pipeline = opened.inspect_err(|_| remove(partial.as_ref()))?;
    let mut result = Ok(());
    let mut ended = [false; 2];
    let read = read(request.media, |unit| {
        let track = unit.track;
        if !pipeline.accepts(&unit) {
            result = Err(media(&"the format changes in the middle of the recording; split it there first"));
            return false;
        }
        let Some(out_ns) = labels.timeline.place(unit.run, unit.pts_ns) else { return true };
        result = pipeline.send(&unit, out_ns).and_then(|()| pipeline.wait_for_room(PATIENCE, || false));
        if unit.place + 1 >= contents.counts[track.index()] && !std::mem::replace(&mut ended[track.index()], true) {
            pipeline.end_track(track);
        }
        let done = u64::try_from(out_ns).unwrap_or(0).min(length_ns) / NANOS_PER_SECOND;
        progress(done, length_ns.div_ceil(NANOS_PER_SECOND));
        result.is_ok()
    });
    let result = read.map_err(|e| media(&e)).and(result).and_then(|()| pipeline.finish(PATIENCE));
    let result = result.and_then(|()| match &partial {
        Some((from, to)) => std::fs::rename(from, to).map_err(|e| OutputError::io(&e)),
        None => Ok(()),
    });
    match result {
        Ok(()) => Ok(RenderSummary { pictures: contents.pictures, length_ns, has_sound: contents.first[1].is_some() }),
        Err(e) => {
            remove(partial.as_ref());
            Err(e)
        }
    }
}

impl Contents {
    fn take(&mut self, unit: Unit) {
        let (track, end_ns) = (unit.track.index(), unit.end_ns());
        match self.runs.iter_mut().rfind(|(run, ..)| *run == unit.run) {
            Some((_, begin, end)) => (*begin, *end) = ((*begin).min(unit.pts_ns), (*end).max(end_ns)),
            None => self.runs.push((unit.run, unit.pts_ns, end_ns)),
        }
        self.counts[track] += 1;
        self.pictures += u64::from(track == 0);
        self.first[track].get_or_insert(unit);
    }
}

/// The output as it is written, and for a file its paths while it is written and after.
type PartialOutput = (OutputAddress, Option<(PathBuf, PathBuf)>);

/// Checks that the output can be written.
fn partial(output: &OutputAddress) -> Result<PartialOutput, OutputError> {
    match output {
        OutputAddress::File(path, container) => {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".part");
            let partial = path.with_file_name(name);
            if path.is_dir() {
                return Err(OutputError::new(OutputCause::Unwritable, "this is a folder".into()));
            }
            std::fs::File::create(&partial).map_err(|e| OutputError::io(&e))?;
            Ok((OutputAddress::File(partial.clone(), *container), Some((partial, path.clone()))))
        }
        OutputAddress::Hls(dir) => {
            std::fs::create_dir_all(dir).map_err(|e| OutputError::io(&e))?;
            Ok((output.clone(), None))
        }
        _ => Ok((output.clone(), None)),
    }
}

fn remove(partial: Option<&(PathBuf, PathBuf)>) {
    if let Some((path, _)) = partial {
        // It may not have been created.
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(format!("{}.index", path.display()));
    }
}
