//! Decodes coded media, draws the label, encodes, and writes or sends. Sound is passed through where the container has its coding, and
//! pictures where the label is metadata.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use parking_lot::Mutex;

use super::address::{Container, OutputAddress};
use super::composition::{self, LabelSource};
use super::metadata::{KlvTrack, Rendition};
use super::{Encoder, LabelForm, OutputCause, OutputError};
use crate::gst::causes::first_sentence;
use crate::gst::clips::mux::{holds, parser, set_up_input};
use crate::gst::clips::unit::Unit;
use touchline_core::item::Track;
use touchline_core::redact;
use touchline_core::time::NANOS_PER_SECOND;

/// Where time 0 of the output is in the pipeline, ns. Pictures are decoded before they are shown, and GStreamer has no negative times.
pub(super) const BEGIN_NS: u64 = 3600 * NANOS_PER_SECOND;

/// Sound that is so much later than the pictures is taken for lost, ns. Containers interleave tracks more closely.
const SILENT_NS: u64 = 3 * NANOS_PER_SECOND;

/// Bytes of coded pictures that wait for the encoder at most, while it has data of both tracks.
const WAITING_BYTES: u64 = 4 << 20;

/// Between two key pictures at most, pictures: two seconds of most streams. Receivers begin at key pictures.
const KEY_DISTANCE: u32 = 50;

/// Length of a segment of HLS, seconds, and how many a live playlist and its folder have.
const SEGMENT_S: u32 = 4;
const SEGMENTS_LISTED: u32 = 6;
const SEGMENTS_KEPT: u32 = 12;

/// Outputs are opened one after another: with GLib 2.74, two threads that register the same types for the first time can deadlock.
static OPENING: Mutex<()> = Mutex::new(());

/// How an output is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// What encodes.
    pub encoder: Encoder,
    /// The highest bit rate of the pictures, kbit/s.
    pub bitrate_kbps: u32,
}

/// A running output.
pub(super) struct OutputPipeline {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    inputs: [Option<gst_app::AppSrc>; 2],
    ended: [bool; 2],
    /// Labels as a track of MPEG-TS.
    klv: Option<KlvTrack>,
    /// Labels beside a playlist.
    rendition: Option<Arc<Rendition>>,
    /// The format of each track.
    formats: [Option<gst::Caps>; 2],
    /// Latest end of each track on the output, ns.
    reached_ns: [u64; 2],
    /// Up to where there is a gap in place of sound, ns.
    bridged_ns: u64,
    /// Receives a message when an input has room.
    room: Receiver<()>,
    is_network: bool,
}

/// The muxer, with its place in the pipeline.
struct OutputTarget {
    /// From the muxer on.
    text: String,
    factory: &'static str,
    pads: [&'static str; 2],
    /// Properties of named elements that may have any characters.
    places: Vec<(&'static str, &'static str, String)>,
}

fn target(address: &OutputAddress, is_live: bool, name: &str) -> OutputTarget {
    let plain = |text: &str, factory, places| OutputTarget { text: text.into(), factory, pads: ["", ""], places };
    match address {
        OutputAddress::File(path, container) => {
            let path = path.to_string_lossy().into_owned();
            // A live file is read while it is written, and may be all that stays of a killed program.
            let buffering = if is_live { "unbuffered" } else { "full" };
            let place = vec![("to", "location", path.clone()), ("to", "buffer-mode", buffering.to_owned())];
            match container {
                // Fragments, so that a killed program leaves a file that plays. The header that is written at the end keeps the sound in
                // time with the pictures when they do not begin together; fragments alone cannot.
                Container::Mp4 if is_live => plain(
                    "mp4mux name=mux fragment-duration=1000 fragment-mode=first-moov-then-finalise ! filesink name=to async=false",
                    "mp4mux",
                    place,
                ),
                Container::Mp4 => {
                    let index = ("mux", "faststart-file", format!("{path}.index"));
                    plain(
                        "mp4mux name=mux faststart=true ! filesink name=to async=false",
                        "mp4mux",
                        [place, vec![index]].concat(),
                    )
                }
                Container::Matroska => plain(
                    "matroskamux name=mux offset-to-zero=true ! filesink name=to async=false",
                    "matroskamux",
                    place,
                ),
                Container::Ts => plain("mpegtsmux name=mux ! filesink name=to async=false", "mpegtsmux", place),
            }
        }
        OutputAddress::Hls(dir) => {
            let (listed, kept) = listed(is_live);
            let text =
                format!("hlssink2 name=mux target-duration={SEGMENT_S} playlist-length={listed} max-files={kept}");
            let place = |file: &str| dir.join(file).to_string_lossy().into_owned();
            let places = vec![
                ("mux", "location", place(&format!("{name}-%05d.ts"))),
                ("mux", "playlist-location", place(super::PLAYLIST)),
            ];
            OutputTarget { text, factory: "mpegtsmux", pads: ["video", "audio"], places }
        }
        OutputAddress::Rtmp(uri) => {
            let text = "flvmux name=mux streamable=true ! rtmp2sink name=to async=false sync=false";
            plain(text, "flvmux", vec![("to", "location", uri.clone())])
        }
        OutputAddress::Srt(uri) => {
            let text =
                "mpegtsmux name=mux alignment=7 ! srtsink name=to async=false sync=false wait-for-connection=false";
            plain(text, "mpegtsmux", vec![("to", "uri", uri.clone())])
        }
        OutputAddress::Udp(host, port) => {
            let text = format!("mpegtsmux name=mux alignment=7 ! udpsink name=to async=false sync=false port={port}");
            plain(&text, "mpegtsmux", vec![("to", "host", host.clone())])
        }
    }
}

/// Segments in a playlist, and files that stay; 0: all.
const fn listed(is_live: bool) -> (u32, u32) {
    if is_live { (SEGMENTS_LISTED, SEGMENTS_KEPT) } else { (0, 0) }
}

/// The elements that decode pictures, draw the label and encode them.
fn drawn(encoding: Encoding, is_live: bool) -> Result<String, OutputError> {
    if let Some(element) = encoding.encoder.missing() {
        return Err(OutputError::new(OutputCause::Encoder, format!("this machine has no encoder {element}")));
    }
    // Fields are woven into pictures: a label that moves with one of them would flicker.
    let encoder = encoding.text(is_live);
    Ok(format!(
        "decodebin ! deinterlace mode=auto fields=top ! videoflip method=automatic ! videoconvert ! {encoder} ! h264parse"
    ))
}

/// The element that passes coded pictures on unchanged.
fn passed(unit: &Unit, muxer: &gst::ElementFactory) -> Result<&'static str, OutputError> {
    let parser = parser(&unit.caps).0.filter(|_| holds(muxer, &unit.caps));
    parser.ok_or_else(|| {
        let coding = unit.caps.structure(0).map_or("", |format| format.name().as_str());
        let text = format!("MPEG-TS has no place for pictures in {coding}; draw the label instead");
        OutputError::new(OutputCause::Media, text)
    })
}

/// Writes the rendition as the playlist's segments are completed. A failure becomes one of the pipeline.
fn follow(bus: &gst::Bus, rendition: Arc<Rendition>) {
    bus.set_sync_handler(move |bus, message| {
        if let Err(e) = rendition.take(message) {
            let domain = if e.kind() == std::io::ErrorKind::StorageFull {
                gst::ResourceError::NoSpaceLeft
            } else {
                gst::ResourceError::OpenWrite
            };
            let _ = bus.post(gst::message::Error::builder(domain, &format!("the labels' playlist: {e}")).build());
        }
        gst::BusSyncReply::Pass
    });
}

impl Encoding {
    /// The encoder's part of the pipeline, with the format that it takes.
    fn text(self, is_live: bool) -> String {
        let Self { encoder, bitrate_kbps } = self;
        match encoder {
            Encoder::X264 => {
                let tune = if is_live { "tune=zerolatency " } else { "" };
                format!(
                    "video/x-raw,format=I420 ! overlaycomposition name=painter ! queue max-size-buffers=8 max-size-bytes=0 \
                     max-size-time=0 ! x264enc pass=qual quantizer=21 speed-preset=veryfast {tune}bitrate={bitrate_kbps} \
                     key-int-max={KEY_DISTANCE}"
                )
            }
            Encoder::Va => format!(
                "video/x-raw,format=NV12 ! overlaycomposition name=painter ! queue max-size-buffers=8 max-size-bytes=0 \
                 max-size-time=0 ! vah264enc rate-control=vbr bitrate={bitrate_kbps} key-int-max={KEY_DISTANCE}"
            ),
        }
    }
}

impl OutputPipeline {
    /// Opens `address` for media of the form of `first`, the first unit of each track. The files of a playlist begin with `name`. A live
    /// output is sent while it is made: no picture waits for later ones, and files are readable at any time.
    ///
    /// # Errors
    /// An output that cannot be opened, as far as it is known at once.
    pub fn open(
        (address, name, is_live): (&OutputAddress, &str, bool),
        first: [Option<&Unit>; 2],
        form: &LabelForm,
        labels: Arc<dyn LabelSource>,
    ) -> Result<Self, OutputError> {
        let failed = |e: &dyn std::fmt::Display| OutputError::new(OutputCause::Failed, redact::text(&e.to_string()));
        let OutputTarget { text, factory, pads, places } = target(address, is_live, name);
        let muxer = gst::ElementFactory::find(factory).ok_or_else(|| failed(&format!("GStreamer has no {factory}")))?;
        let mut description = text;
        if let Some(unit) = first[0] {
            let chain = match form {
                LabelForm::Drawn { encoding, .. } => drawn(*encoding, is_live)?,
                LabelForm::Metadata => passed(unit, &muxer)?.to_owned(),
            };
            description += &format!(" appsrc name=video ! {chain} ! mux.{}", pads[0]);
        }
        if let Some(unit) = first[1] {
            let chain = match parser(&unit.caps).0 {
                Some(parser) if holds(&muxer, &unit.caps) => parser,
                _ => "decodebin ! audioconvert ! audioresample ! avenc_aac ! aacparse",
            };
            description += &format!(" appsrc name=audio ! {chain} ! mux.{}", pads[1]);
        }
        let (has_klv, playlist) = match (form, address) {
            (LabelForm::Drawn { .. }, _) => (false, None),
            (LabelForm::Metadata, OutputAddress::Hls(dir)) => (false, Some(dir)),
            (LabelForm::Metadata, _) => (true, None),
        };
        if has_klv {
            description += &format!(" appsrc name=labels caps={} ! mux.", KlvTrack::CAPS);
        }
        let _opening = OPENING.lock();
        let pipeline = gst::parse::launch(&description).map_err(|e| failed(&e))?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed(&"not a pipeline"))?;
        for (element, property, value) in places {
            let element = pipeline.by_name(element).ok_or_else(|| failed(&"an element is missing"))?;
            element.set_property_from_str(property, &value);
        }
        if let (Some(painter), LabelForm::Drawn { overlay, .. }) = (pipeline.by_name("painter"), form) {
            composition::connect(&painter, overlay.clone(), labels.clone());
        }
        let input = |name: &str| {
            let source = pipeline.by_name(name).and_then(|e| e.downcast::<gst_app::AppSrc>().ok());
            source.ok_or_else(|| failed(&"an input is missing"))
        };
        let klv = has_klv.then(|| Ok(KlvTrack::new(input("labels")?, labels.clone()))).transpose()?;
        let (has_room, room) = bounded(1);
        let mut inputs = [None, None];
        for unit in first.into_iter().flatten() {
            let name = if unit.track == Track::Video { "video" } else { "audio" };
            let source = input(name)?;
            set_up_input(&source, &unit.caps, &has_room);
            if let Some(tags) = unit.tags.clone() {
                source.send_event(gst::event::Tag::new(tags));
            }
            inputs[unit.track.index()] = Some(source);
        }
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let rendition = playlist.map(|dir| Arc::new(Rendition::new(dir, name, labels, listed(is_live))));
        if let Some(rendition) = rendition.clone() {
            follow(&bus, rendition);
        }
        let is_network = !matches!(address, OutputAddress::File(..) | OutputAddress::Hls(_));
        let formats = first.map(|unit| unit.map(|unit| unit.caps.clone()));
        let output = Self {
            pipeline,
            bus,
            inputs,
            ended: [false; 2],
            klv,
            rendition,
            formats,
            reached_ns: [0; 2],
            bridged_ns: 0,
            room,
            is_network,
        };
        match output.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(output),
            Err(_) => Err(output.error().unwrap_or_else(|| failed(&"the output does not start"))),
        }
    }

    /// Whether the unit has the format of its track in this output.
    pub fn accepts(&self, unit: &Unit) -> bool {
        self.formats[unit.track.index()].as_ref().is_none_or(|format| *format == unit.caps)
    }

    /// Sends a unit, shown at `out_ns` of the output. Does not wait.
    ///
    /// # Errors
    /// A failure of the pipeline.
    pub fn send(&mut self, unit: &Unit, out_ns: i64) -> Result<(), OutputError> {
        let track = unit.track.index();
        // A track that appeared too late has no place in the output.
        let Some(input) = &self.inputs[track] else { return Ok(()) };
        // It arrived after the muxer continued without it.
        if unit.track == Track::Audio && u64::try_from(out_ns).unwrap_or(0) < self.bridged_ns {
            return Ok(());
        }
        let place = |ns: i64| gst::ClockTime::from_nseconds(BEGIN_NS.saturating_add_signed(ns));
        let mut buffer = unit.buffer.copy();
        let fields = buffer.make_mut();
        fields.set_pts(place(out_ns));
        fields.set_dts(unit.dts_ns.map(|dts_ns| place(dts_ns - unit.pts_ns + out_ns)));
        if unit.duration_ns == 0 {
            fields.set_duration(gst::ClockTime::NONE);
        }
        let leads = self.leads(unit.track);
        if let Some(klv) = self.klv.as_mut().filter(|_| leads) {
            let decoded_ns = fields.dts_or_pts().map_or(BEGIN_NS, gst::ClockTime::nseconds);
            klv.add(decoded_ns);
        }
        let end_ns = u64::try_from(out_ns).unwrap_or(0).saturating_add(unit.duration_ns);
        self.reached_ns[track] = self.reached_ns[track].max(end_ns);
        match input.push_buffer(buffer) {
            Ok(_) => self.error().map_or(Ok(()), Err),
            Err(_) => Err(self.error().unwrap_or_else(OutputError::stopped)),
        }
    }

    /// Waits until less is waiting in front of the encoder, at most for `patience` without progress, or until `is_stopped`.
    ///
    /// # Errors
    /// A failure of the pipeline, or [`OutputCause::Stalled`].
    pub fn wait_for_room(&self, patience: Duration, is_stopped: impl Fn() -> bool) -> Result<(), OutputError> {
        let mut waited = Duration::ZERO;
        while self.is_full() && !is_stopped() {
            if let Some(error) = self.error() {
                return Err(error);
            }
            if self.room.recv_timeout(STEP).is_err() {
                waited += STEP;
            }
            if waited >= patience {
                return Err(OutputError::new(OutputCause::Stalled, "the receiver takes no data".into()));
            }
        }
        Ok(())
    }

    /// Lets the muxer continue without sound when there is none for some seconds: a source may have lost it.
    pub fn bridge_sound(&mut self) {
        let [video_ns, audio_ns] = self.reached_ns;
        let Some(input) = &self.inputs[1] else { return };
        if self.ended[1] || video_ns < audio_ns + SILENT_NS {
            return;
        }
        let length_ns = video_ns - audio_ns - SILENT_NS / 2;
        let (from, length) = (BEGIN_NS + audio_ns, gst::ClockTime::from_nseconds(length_ns));
        input.send_event(gst::event::Gap::builder(gst::ClockTime::from_nseconds(from)).duration(length).build());
        self.reached_ns[1] = audio_ns + length_ns;
        self.bridged_ns = self.reached_ns[1];
    }

    /// Takes the end of a track.
    pub fn end_track(&mut self, track: Track) {
        self.ended[track.index()] = true;
        if let Some(input) = &self.inputs[track.index()] {
            // Fails after an error only, which `finish` reports.
            let _ = input.end_of_stream();
        }
        let leads = self.leads(track);
        if let Some(klv) = self.klv.as_ref().filter(|_| leads) {
            klv.end();
        }
    }

    /// Whether labels follow this track: the pictures, or the sound of an output without pictures.
    fn leads(&self, track: Track) -> bool {
        track == Track::Video || self.inputs[0].is_none()
    }

    /// Completes the output, within `limit`.
    ///
    /// # Errors
    /// A failure of the pipeline, or [`OutputCause::Stalled`].
    pub fn finish(mut self, limit: Duration) -> Result<(), OutputError> {
        self.end_track(Track::Video);
        self.end_track(Track::Audio);
        let end = [gst::MessageType::Eos, gst::MessageType::Error];
        let limit = gst::ClockTime::try_from(limit).unwrap_or(gst::ClockTime::ZERO);
        match self.bus.timed_pop_filtered(limit, &end).as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => {
                self.rendition.as_ref().map_or(Ok(()), |rendition| rendition.end()).map_err(|e| OutputError::io(&e))
            }
            Some(gst::MessageView::Error(e)) => Err(self.typed(e)),
            _ => Err(OutputError::new(OutputCause::Stalled, "the receiver takes no data".into())),
        }
    }

    /// Whether the pipeline has enough to continue with: with data of both tracks in front of it, the muxer always continues.
    /// Otherwise it may need what comes next.
    fn is_full(&self) -> bool {
        let levels = || {
            let inputs = self.inputs.iter().zip(self.ended).filter(|(_, ended)| !*ended);
            inputs.filter_map(|(input, _)| input.as_ref()).map(gst_app::AppSrc::current_level_bytes)
        };
        levels().all(|level| level > 0) && levels().any(|level| level > WAITING_BYTES)
    }

    /// The error of the pipeline, if there is one.
    pub fn error(&self) -> Option<OutputError> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        let gst::MessageView::Error(e) = message.view() else { return None };
        Some(self.typed(e))
    }

    fn typed(&self, e: &gst::message::Error) -> OutputError {
        let error = e.error();
        let text = redact::text(first_sentence(error.message()));
        let cause = match error.kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NoSpaceLeft) => OutputCause::NoSpace,
            Some(gst::ResourceError::NotAuthorized) => OutputCause::Login,
            Some(gst::ResourceError::NotFound | gst::ResourceError::OpenWrite | gst::ResourceError::OpenReadWrite) => {
                if self.is_network {
                    OutputCause::Unreachable
                } else {
                    OutputCause::Unwritable
                }
            }
            Some(_) if self.is_network => OutputCause::Unreachable,
            Some(_) => OutputCause::Unwritable,
            None => OutputCause::Failed,
        };
        OutputError::new(cause, text)
    }
}

impl Drop for OutputPipeline {
    fn drop(&mut self) {
        // A failure leaves nothing to stop.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Between two looks at errors while an output waits for room.
const STEP: Duration = Duration::from_millis(100);

/// A path beside `path` that no file has: the path itself, or with a number.
pub(super) fn free_path(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let numbered = (2u32..).map(|number| path.with_file_name(format!("{stem}-{number}.{extension}")));
    std::iter::once(path.to_owned()).chain(numbered).find(|path| !path.exists()).expect("one of the numbers is free")
}
