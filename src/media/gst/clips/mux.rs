//! Writes units into a media file: MP4 with its index at the front, or Matroska for codings that MP4 does not have.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::unit::Unit;
use super::{ClipError, ClipFile, partial, publish};
use crate::gst::causes::first_sentence;
use touchline_core::item::Track;
use touchline_core::redact;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// Time of the file's begin in the muxer, ns. The first pictures are decoded before it, and GStreamer has no negative times.
const BEGIN_NS: i64 = 3600 * NANOS_PER_SECOND as i64;

/// Units of each track that a file keeps before it is opened: until both formats are known. The tracks of a container are interleaved
/// more closely than this.
const HELD_MAX: usize = 4096;

/// Bytes that wait in front of the muxer at most, while it has data of both tracks: a second of the highest rates.
const WAITING_BYTES: u64 = 16 << 20;

/// Minimum time without media that counts as a hole, ns. Slow sources have a picture a second.
const HOLE_NS: i64 = NANOS_PER_SECOND as i64;

/// One file that is being written.
pub(super) struct Muxer {
    dir: PathBuf,
    name: String,
    begin_ns: i64,
    end_ns: i64,
    /// The last time of the leading track so far, ns.
    reached_ns: i64,
    holes: Vec<Range<Pts>>,
    /// The first format of each track.
    formats: [Option<gst::Caps>; 2],
    expected: [bool; 2],
    ended: [bool; 2],
    /// Units until the pipeline is open.
    held: Vec<Unit>,
    open: Option<OpenFile>,
}

/// A file and its pipeline.
struct OpenFile {
    file: String,
    partial: PathBuf,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    inputs: [Option<gst_app::AppSrc>; 2],
    /// Receives a message when an input has room.
    room: Receiver<()>,
}

impl Muxer {
    /// A file `name` (with the extension of its container) that expects the tracks in `expected`.
    pub fn new(dir: &Path, name: &str, expected: [bool; 2], begin_ns: i64) -> Self {
        Self {
            dir: dir.into(),
            name: name.into(),
            begin_ns,
            end_ns: begin_ns,
            reached_ns: begin_ns,
            holes: Vec::new(),
            formats: [None, None],
            expected,
            ended: [false; 2],
            held: Vec::new(),
            open: None,
        }
    }

    /// Whether the unit has the format of its track in this file.
    pub fn accepts(&self, unit: &Unit) -> bool {
        self.formats[unit.track.index()].as_ref().is_none_or(|format| *format == unit.caps)
    }

    /// Appends a unit.
    ///
    /// # Errors
    /// Those of the muxer and the disk.
    pub fn push(&mut self, unit: &Unit) -> Result<(), ClipError> {
        let track = unit.track.index();
        self.formats[track].get_or_insert_with(|| unit.caps.clone());
        self.end_ns = self.end_ns.max(unit.end_ns());
        self.note_hole(unit);
        if self.open.is_none() {
            self.held.push(unit.clone());
            return if self.is_known() || self.held.len() > HELD_MAX { self.open() } else { Ok(()) };
        }
        self.write(unit)
    }

    /// Notes the time without media before a unit. Pictures come in decoding order, so a hole is seen at a key picture: after a loss,
    /// media continue with one, and all pictures before it have come.
    fn note_hole(&mut self, unit: &Unit) {
        let leading = if self.expected[Track::Video.index()] { Track::Video } else { Track::Audio };
        if unit.track != leading {
            return;
        }
        if unit.is_key && unit.pts_ns.saturating_sub(self.reached_ns) > HOLE_NS {
            self.holes.push(pts(self.reached_ns)..pts(unit.pts_ns));
        }
        // Not its end: some containers give the last picture before a hole the length of the hole.
        self.reached_ns = self.reached_ns.max(unit.pts_ns);
    }

    /// Whether the formats of all tracks are known.
    fn is_known(&self) -> bool {
        (0..2).all(|track| !self.expected[track] || self.ended[track] || self.formats[track].is_some())
    }

    /// Takes the end of a track.
    ///
    /// # Errors
    /// As [`Muxer::push`].
    pub fn end_track(&mut self, track: Track) -> Result<(), ClipError> {
        self.ended[track.index()] = true;
        if self.open.is_none() && !self.held.is_empty() && self.is_known() {
            self.open()?;
        }
        if let Some(input) = self.open.as_ref().and_then(|open| open.inputs[track.index()].as_ref()) {
            // Fails after an error only, which `finish` reports.
            let _ = input.end_of_stream();
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), ClipError> {
        let held = std::mem::take(&mut self.held);
        let first = [Track::Video, Track::Audio].map(|track| held.iter().find(|unit| unit.track == track));
        self.open = Some(OpenFile::new(&self.dir, &self.name, first)?);
        held.iter().try_for_each(|unit| self.write(unit))?;
        for track in [Track::Video, Track::Audio] {
            if self.ended[track.index()] {
                self.end_track(track)?;
            }
        }
        Ok(())
    }

    fn write(&self, unit: &Unit) -> Result<(), ClipError> {
        let Some(open) = &self.open else { return Ok(()) };
        // A track that appeared too late has no place in the file.
        let Some(input) = &open.inputs[unit.track.index()] else { return Ok(()) };
        let place = |ns: i64| gst::ClockTime::from_nseconds(u64::try_from(ns - self.begin_ns + BEGIN_NS).unwrap_or(0));
        let mut buffer = unit.buffer.copy();
        let fields = buffer.make_mut();
        fields.set_pts(place(unit.pts_ns));
        fields.set_dts(unit.dts_ns.map(place));
        if unit.duration_ns == 0 {
            fields.set_duration(gst::ClockTime::NONE);
        }
        fields.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC);
        input.push_buffer(buffer).map_err(|_| open.cause("the muxer stopped"))?;
        // With data of both tracks in front of it, the muxer always continues. Otherwise it may need what comes next.
        while open.is_full(&self.ended) {
            if let Some(error) = open.error() {
                return Err(error);
            }
            // The time is a limit for looking at errors only.
            let _ = open.room.recv_timeout(std::time::Duration::from_millis(100));
        }
        Ok(())
    }

    /// Completes the file. [`None`] if nothing was written.
    ///
    /// # Errors
    /// Those of the muxer and the disk.
    pub fn finish(mut self) -> Result<Option<ClipFile>, ClipError> {
        self.ended = [true; 2];
        if self.open.is_none() {
            if self.held.is_empty() {
                return Ok(None);
            }
            self.open()?;
        }
        let Some(open) = self.open.take() else { return Ok(None) };
        open.inputs.iter().flatten().for_each(|input| {
            // As in `end_track`.
            let _ = input.end_of_stream();
        });
        open.wait()?;
        let coding = |track: usize| self.formats[track].as_ref().and_then(|caps| caps.structure(0)).map(coding);
        let (video, audio) = (coding(0), coding(1));
        let file = open.file.clone();
        let bytes = publish(&self.dir, &file)?;
        let (begin, end) = (pts(self.begin_ns), pts(self.end_ns));
        Ok(Some(ClipFile { file, bytes, begin, end, video, audio, holes: self.holes }))
    }
}

fn pts(ns: i64) -> Pts {
    Pts(u64::try_from(ns).unwrap_or(0))
}

/// The name of a coding, with the version that the type alone does not give.
fn coding(format: &gst::StructureRef) -> String {
    match format.get::<i32>("mpegversion") {
        Ok(version) => format!("{}, mpegversion={version}", format.name()),
        Err(_) => format.name().to_string(),
    }
}

/// The element that brings a coding into the form that files hold, and that form.
pub(in crate::gst) fn parser(caps: &gst::CapsRef) -> (Option<&'static str>, Option<&'static str>) {
    let Some(format) = caps.structure(0) else { return (None, None) };
    match (format.name().as_str(), format.get::<i32>("mpegversion").unwrap_or(0)) {
        ("video/x-h264", _) => (Some("h264parse"), Some("video/x-h264,stream-format=avc,alignment=au")),
        ("video/x-h265", _) => (Some("h265parse"), Some("video/x-h265,stream-format=hvc1,alignment=au")),
        ("video/x-av1", _) => (Some("av1parse"), None),
        ("video/x-vp9", _) => (Some("vp9parse"), None),
        ("video/mpeg", 4) => (Some("mpeg4videoparse"), None),
        ("video/mpeg", _) => (Some("mpegvideoparse"), None),
        ("audio/mpeg", 2 | 4) => (Some("aacparse"), Some("audio/mpeg,mpegversion=4,stream-format=raw")),
        ("audio/mpeg", _) => (Some("mpegaudioparse"), None),
        ("audio/x-ac3" | "audio/x-eac3", _) => (Some("ac3parse"), None),
        ("audio/x-opus", _) => (Some("opusparse"), None),
        ("audio/x-flac", _) => (Some("flacparse"), None),
        _ => (None, None),
    }
}

/// The element that gives pictures their decoding times, for sources that have none.
fn timestamper(caps: &gst::CapsRef) -> Option<&'static str> {
    match caps.structure(0)?.name().as_str() {
        "video/x-h264" => Some("h264timestamper"),
        "video/x-h265" => Some("h265timestamper"),
        _ => None,
    }
}

/// Whether the muxer can hold the coding, in any form.
pub(in crate::gst) fn holds(muxer: &gst::ElementFactory, caps: &gst::CapsRef) -> bool {
    let Some(format) = caps.structure(0) else { return false };
    let mut coding = gst::Structure::new_empty(format.name());
    for key in ["mpegversion", "layer"] {
        if let Ok(value) = format.get::<i32>(key) {
            // An AAC stream may be announced as MPEG-2; the parser makes it MPEG-4.
            let is_aac = format.name() == "audio/mpeg" && key == "mpegversion" && value == 2;
            coding.set(key, if is_aac { 4 } else { value });
        }
    }
    let coding = gst::Caps::from_iter([coding]);
    muxer
        .static_pad_templates()
        .iter()
        .any(|t| t.direction() == gst::PadDirection::Sink && t.caps().can_intersect(&coding))
}

impl OpenFile {
    fn new(dir: &Path, name: &str, first: [Option<&Unit>; 2]) -> Result<Self, ClipError> {
        let failed = |e: &dyn std::fmt::Display| ClipError::Failed(format!("cannot write the clip: {e}"));
        let make = |factory: &str| gst::ElementFactory::make(factory).build().map_err(|e| failed(&e));
        let is_mp4 = gst::ElementFactory::find("mp4mux")
            .is_some_and(|factory| first.iter().flatten().all(|unit| holds(&factory, &unit.caps)));
        let (muxer, extension) = if is_mp4 { (make("mp4mux")?, "mp4") } else { (make("matroskamux")?, "mkv") };
        let file = format!("{name}.{extension}");
        let partial = partial(dir, &file);
        if is_mp4 {
            // The index comes first, so that a browser plays the file while it loads it.
            muxer.set_property("faststart", true);
            muxer.set_property("faststart-file", partial.with_extension("index.part"));
        }
        let (pipeline, sink) = (gst::Pipeline::new(), make("filesink")?);
        sink.set_property("location", &partial);
        sink.set_property("async", false);
        pipeline.add_many([&muxer, &sink]).map_err(|e| failed(&e))?;
        muxer.link(&sink).map_err(|e| failed(&e))?;
        let (has_room, room) = bounded(1);
        let mut inputs = [None, None];
        for unit in first.into_iter().flatten() {
            let caps = &unit.caps;
            let input = gst_app::AppSrc::builder().build();
            set_up_input(&input, caps, &has_room);
            let mut chain = vec![input.clone().upcast::<gst::Element>()];
            let (parser, form) = parser(caps);
            if let Some(parser) = parser {
                chain.push(make(parser)?);
            }
            if let Some(form) = form {
                let form: gst::Caps = form.parse().map_err(|e| failed(&e))?;
                chain.push(
                    gst::ElementFactory::make("capsfilter").property("caps", form).build().map_err(|e| failed(&e))?,
                );
            }
            if let Some(timestamper) = timestamper(caps).filter(|_| unit.dts_ns.is_none()) {
                chain.push(make(timestamper)?);
            }
            pipeline.add_many(&chain).map_err(|e| failed(&e))?;
            gst::Element::link_many(&chain).map_err(|e| failed(&e))?;
            let last = chain.last().expect("the input is in it");
            let pad = if unit.track == Track::Video { "video_%u" } else { "audio_%u" };
            last.link_pads(Some("src"), &muxer, Some(pad)).map_err(|e| failed(&e))?;
            if let Some(tags) = unit.tags.clone() {
                input.send_event(gst::event::Tag::new(tags));
            }
            inputs[unit.track.index()] = Some(input);
        }
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let open = Self { file, partial, pipeline, bus, inputs, room };
        match open.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(open),
            Err(_) => Err(open.cause("the muxer does not start")),
        }
    }

    /// Whether the muxer has enough to continue with.
    fn is_full(&self, ended: &[bool; 2]) -> bool {
        let levels = || {
            let inputs = self.inputs.iter().zip(ended).filter(|(_, ended)| !**ended);
            inputs.filter_map(|(input, _)| input.as_ref()).map(gst_app::AppSrc::current_level_bytes)
        };
        levels().all(|level| level > 0) && levels().any(|level| level > WAITING_BYTES)
    }

    /// The error of the pipeline, if there is one.
    fn error(&self) -> Option<ClipError> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        let gst::MessageView::Error(e) = message.view() else { return None };
        Some(match e.error().kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NoSpaceLeft) => ClipError::NoSpace,
            _ => ClipError::Failed(format!(
                "cannot write the clip: {}",
                redact::text(first_sentence(e.error().message()))
            )),
        })
    }

    fn cause(&self, otherwise: &str) -> ClipError {
        self.error().unwrap_or_else(|| ClipError::Failed(format!("cannot write the clip: {otherwise}")))
    }

    /// Waits for the end of the file.
    fn wait(&self) -> Result<(), ClipError> {
        let end = [gst::MessageType::Eos, gst::MessageType::Error];
        // Writing the index first copies the file once; no sensible clip takes longer.
        let message = self.bus.timed_pop_filtered(gst::ClockTime::from_seconds(600), &end);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(e)) => Err(match e.error().kind::<gst::ResourceError>() {
                Some(gst::ResourceError::NoSpaceLeft) => ClipError::NoSpace,
                _ => ClipError::Failed(format!(
                    "cannot write the clip: {}",
                    redact::text(first_sentence(e.error().message()))
                )),
            }),
            _ => Err(ClipError::Failed("cannot write the clip: the muxer makes no progress".into())),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A failure leaves nothing to stop.
        let _ = self.pipeline.set_state(gst::State::Null);
        // The file was renamed if it is complete. Otherwise it is part of a failed one.
        let _ = std::fs::remove_file(&self.partial);
        let _ = std::fs::remove_file(self.partial.with_extension("index.part"));
    }
}

/// Sets up an input for units of the form `caps`, which sends to `has_room` when it is half empty.
pub(in crate::gst) fn set_up_input(input: &gst_app::AppSrc, caps: &gst::Caps, has_room: &Sender<()>) {
    input.set_caps(Some(caps));
    input.set_format(gst::Format::Time);
    input.set_max_bytes(2 * WAITING_BYTES);
    input.set_property("min-percent", 50u32);
    let has_room = has_room.clone();
    let told = move |_: &gst_app::AppSrc, _: u32| {
        // A message that waits already says the same.
        let _ = has_room.try_send(());
    };
    input.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(told).build());
}
