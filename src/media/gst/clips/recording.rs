//! Reads the coded units of a recording.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use parking_lot::Mutex;

use super::index::Index;
use super::movie_end;
use super::unit::{Unit, track_of};
use super::{ClipError, ClipFile, ClipRequest, OpenClip};
use crate::gst::causes::first_sentence;
use crate::gst::sinks::running_time;
use touchline_core::item::Track;
use touchline_core::redact;

/// Units between the demuxer and the reader: slack for a thread switch.
const WAITING: usize = 64;

/// A recording of which nothing is read for this long is given up.
const STALL: Duration = Duration::from_secs(30);

/// A track that jumps back by more than this begins a run, ns: the clip builder's limit.
const JUMP_BACK_NS: i64 = 500_000_000;

/// A track that jumps ahead by more than this begins a run, ns: the clip builder's limit.
const BRIDGE_NS: i64 = 2_000_000_000;

/// Cuts clips from a recording. The results are in the order of the requests.
///
/// # Errors
/// If the recording cannot be read.
pub fn cut_recording(
    path: &Path,
    requests: &[ClipRequest],
) -> Result<Vec<Result<Vec<ClipFile>, ClipError>>, ClipError> {
    let mut index = Index::default();
    read(path, |unit| {
        index.push(&unit);
        true
    })?;
    let mut clips: Vec<OpenClip<'_>> = requests.iter().map(|request| OpenClip::new(request, &index)).collect();
    read(path, |unit| {
        clips.iter_mut().for_each(|clip| clip.push(&unit));
        clips.iter().any(|clip| !clip.is_over())
    })?;
    Ok(clips.into_iter().map(OpenClip::finish).collect())
}

enum Read {
    Unit(Box<Unit>),
    End,
    Failed(String),
}

/// Passes each unit of the first video track and the first audio track to `take`, until it returns false.
pub(in crate::gst) fn read(path: &Path, mut take: impl FnMut(Unit) -> bool) -> Result<(), ClipError> {
    let failed = |e: &dyn std::fmt::Display| ClipError::Failed(format!("cannot read the recording: {e}"));
    crate::gst::init().map_err(|e| failed(&e))?;
    let make = |factory: &str| gst::ElementFactory::make(factory).build().map_err(|e| failed(&e));
    let (pipeline, file, parser) = (gst::Pipeline::new(), make("filesrc")?, make("parsebin")?);
    file.set_property("location", path);
    movie_end::lengthen(&file, path);
    pipeline.add_many([&file, &parser]).map_err(|e| failed(&e))?;
    file.link(&parser).map_err(|e| failed(&e))?;
    let (to, units) = bounded(WAITING);
    connect(&pipeline, &parser, &to);
    let bus = pipeline.bus().expect("a pipeline has a bus");
    bus.set_sync_handler(move |_, message| {
        let news = match message.view() {
            gst::MessageView::Eos(_) => Read::End,
            gst::MessageView::Error(e) => Read::Failed(redact::text(first_sentence(e.error().message()))),
            _ => return gst::BusSyncReply::Drop,
        };
        // Closed means that the reader has seen enough.
        let _ = to.send(news);
        gst::BusSyncReply::Drop
    });
    let (mut runs, mut places) = (Runs::default(), [0; 2]);
    let result = match pipeline.set_state(gst::State::Playing) {
        Err(e) => Err(failed(&e)),
        Ok(_) => loop {
            match units.recv_timeout(STALL) {
                Ok(Read::Unit(mut unit)) => {
                    unit.run = runs.of(unit.track, unit.pts_ns, unit.end_ns());
                    unit.place = places[unit.track.index()];
                    places[unit.track.index()] += 1;
                    if !take(*unit) {
                        break Ok(());
                    }
                }
                Ok(Read::End) => break Ok(()),
                // The readable part of a damaged recording was decided, and it is cut as well.
                Ok(Read::Failed(cause)) if runs.has_begun() => {
                    tracing::debug!("{}: {cause}", path.display());
                    break Ok(());
                }
                Ok(Read::Failed(cause)) => break Err(failed(&cause)),
                Err(_) => break Err(failed(&"the demuxer makes no progress")),
            }
        },
    };
    // Wakes the streaming threads that wait for room.
    drop(units);
    // A failure leaves nothing to stop.
    let _ = pipeline.set_state(gst::State::Null);
    bus.unset_sync_handler();
    result
}

/// Links the first pad of each track to a sink that passes on its units, and drops the data of the others.
fn connect(pipeline: &gst::Pipeline, parser: &gst::Element, to: &Sender<Read>) {
    let (pipeline, to) = (pipeline.downgrade(), to.clone());
    let linked = Mutex::new([false; 2]);
    parser.connect_pad_added(move |_, pad| {
        let Some(pipeline) = pipeline.upgrade() else { return };
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let track = track_of(&caps).filter(|track| !std::mem::replace(&mut linked.lock()[track.index()], true));
        let sink = match track {
            Some(track) => unit_sink(track, to.clone()),
            None => {
                match gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build() {
                    Ok(sink) => sink,
                    Err(_) => return,
                }
            }
        };
        // A pad that cannot be linked is reported by the demuxer.
        let linked = pipeline.add(&sink).is_ok()
            // The state of the pipeline may be on its way, and the sink must not stay behind.
            && sink.set_state(gst::State::Playing).is_ok()
            && sink.static_pad("sink").is_some_and(|to| pad.link(&to).is_ok());
        if !linked {
            tracing::debug!("{}: not linked", pad.name());
        }
    });
}

fn unit_sink(track: Track, to: Sender<Read>) -> gst::Element {
    let sink = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
    // No picture is shown while the pipeline starts, and a track that begins late must not hold back the other.
    sink.set_property("async", false);
    let tags = Arc::new(Mutex::new(None::<gst::TagList>));
    if let Some(pad) = sink.static_pad("sink") {
        let tags = tags.clone();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if let Some(gst::EventView::Tag(tag)) = info.event().map(|event| event.view()) {
                let mut tags = tags.lock();
                let list = tag.tag_owned();
                *tags = Some(match tags.take() {
                    Some(known) => known.merge(&list, gst::TagMergeMode::Replace),
                    None => list,
                });
            }
            gst::PadProbeReturn::Ok
        });
    }
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        match unit(track, &sample, tags.lock().clone()) {
            Some(unit) => {
                to.send(Read::Unit(Box::new(unit))).map(|()| gst::FlowSuccess::Ok).map_err(|_| gst::FlowError::Eos)
            }
            // Without a time it has no place in a clip.
            None => Ok(gst::FlowSuccess::Ok),
        }
    });
    sink.set_callbacks(callbacks.build());
    sink.upcast()
}

fn unit(track: Track, sample: &gst::Sample, tags: Option<gst::TagList>) -> Option<Unit> {
    let (buffer, caps) = (sample.buffer_owned()?, sample.caps_owned()?);
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let pts_ns = running_time(segment, &buffer)?;
    Some(Unit::new(track, pts_ns, buffer, caps, tags))
}

/// Numbers the runs as the clip builder does: a track that jumps begins one, and the other track joins it.
#[derive(Debug, Default)]
pub(in crate::gst) struct Runs {
    /// Number of the run and latest end, ns, per track.
    tracks: [Option<(u32, i64)>; 2],
    /// Number of the first run.
    first: u32,
}

impl Runs {
    fn has_begun(&self) -> bool {
        self.tracks.iter().any(Option::is_some)
    }

    /// The runs of the next connection.
    pub fn next_connection(&self) -> Self {
        let last = self.tracks.iter().flatten().map(|(run, _)| *run).max();
        Self { tracks: [None; 2], first: last.map_or(self.first, |last| last + 1) }
    }

    pub fn of(&mut self, track: Track, pts_ns: i64, end_ns: i64) -> u32 {
        let Some((run, latest_ns)) = self.tracks[track.index()] else {
            let run = self.tracks[track.other().index()].map_or(self.first, |(run, _)| run);
            self.tracks[track.index()] = Some((run, end_ns));
            return run;
        };
        let other = self.tracks[track.other().index()].filter(|(other, _)| *other == run);
        let reach_ns = other.map_or(latest_ns, |(_, other_ns)| other_ns.max(latest_ns));
        let jumps = pts_ns < latest_ns - JUMP_BACK_NS || pts_ns > reach_ns + BRIDGE_NS;
        let (run, latest_ns) = if jumps { (run + 1, end_ns) } else { (run, latest_ns.max(end_ns)) };
        self.tracks[track.index()] = Some((run, latest_ns));
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_of_a_track_begin_a_run() {
        let mut runs = Runs::default();
        let mut of = |track, ms: i64| runs.of(track, ms * 1_000_000, ms * 1_000_000);
        assert_eq!([of(Track::Video, 5000), of(Track::Video, 4600), of(Track::Video, 6900)], [0, 0, 0]);
        assert_eq!([of(Track::Audio, 5000), of(Track::Video, 20_000), of(Track::Audio, 20_000)], [0, 1, 1]);
        assert_eq!([of(Track::Video, 1000), of(Track::Video, 1040), of(Track::Audio, 1000)], [2, 2, 2]);
    }
}
