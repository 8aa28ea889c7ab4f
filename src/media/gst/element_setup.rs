//! Sets up the elements that GStreamer plugs in automatically: decoders of recordings have one thread, formats beyond the limits are
//! rejected, and damaged pictures are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::caps_facts;
use super::causes::failed;
use super::clips::ring::RingTap;
use super::damage;
use super::debug::ErrorWatch;
use super::decoders::Decoders;
use super::graph::Graph;
use super::timecodes;
use crate::facts::SharedFacts;
use touchline_core::cause::Cause;
use touchline_core::frame::{PIXELS_MAX, SIDE_MAX};
use touchline_core::item::Pace;
use touchline_core::selection::FrameSelection;

/// The most tracks of a container. A television transponder has about forty, and each needs a decoder.
const TRACKS_MAX: u32 = 64;

/// The most channels of sound. The largest format of cinema and broadcasting, 22.2, has 24.
const CHANNELS_MAX: i32 = 64;

/// The highest sample rate of sound, Hz: the clip builder's limit.
const SOUND_RATE_MAX: i32 = *touchline_core::clip::resample::SAMPLE_RATES.end() as i32;

/// Excludes libav's demultiplexers from GStreamer's selection. They probe under a process-wide lock, and a picture file that is
/// truncated after its header holds that lock for ever: every later stream that needs libav hangs. All supported containers have
/// another demultiplexer.
pub(super) fn forbid_libav_demuxers() {
    let all = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::DEMUXER, gst::Rank::MARGINAL);
    for factory in all.iter().filter(|factory| factory.name().starts_with("avdemux_")) {
        factory.set_rank(gst::Rank::NONE);
    }
}

/// What the elements of one connection are set up for.
pub(super) struct ElementSetup {
    pub pace: Pace,
    pub selection: Option<FrameSelection>,
    pub ring: Option<Arc<RingTap>>,
    pub decoders: Decoders,
    pub facts: SharedFacts,
}

impl ElementSetup {
    /// Sets up every element that is added to `pipeline`.
    pub fn connect(self, pipeline: &gst::Pipeline, graph: &Arc<Graph>) {
        let graph = Arc::downgrade(graph);
        pipeline.connect("deep-element-added", false, move |args| {
            let (element, graph) = (args.get(2)?.get::<gst::Element>().ok()?, graph.upgrade()?);
            set_up(&element, &graph, &self);
            None
        });
    }
}

fn set_up(element: &gst::Element, graph: &Arc<Graph>, setup: &ElementSetup) {
    let ElementSetup { pace, selection, ring, decoders, facts } = setup;
    let pace = *pace;
    let Some(factory) = element.factory() else { return };
    let class = factory.metadata("klass").unwrap_or_default();
    if ["Demux", "Parser", "Decoder"].iter().any(|kind| class.contains(kind)) && !element.is::<gst::Bin>() {
        graph.is_media.store(true, Ordering::Relaxed);
    }
    if class.contains("Demux") {
        limit_tracks(element, graph);
    }
    if !class.contains("Decoder") || element.is::<gst::Bin>() {
        return;
    }
    graph.is_decoded.store(true, Ordering::Relaxed);
    limit_format(element, graph, facts);
    // These two come before the probe that leaves out pictures.
    if let Some(ring) = ring {
        ring.connect(element, graph);
    }
    if class.contains("Video") || class.contains("Image") {
        decoders.plugged(element, graph);
        timecodes::connect(element, graph);
        // With several libav threads, the concealment of damaged pictures depends on timing. A recording must always give the same
        // seconds.
        let is_alone =
            pace == Pace::File && factory.name().starts_with("avdec_") && element.has_property("max-threads");
        if is_alone {
            element.set_property("max-threads", 1i32);
        }
        guess_colours(element);
        damage::connect(element, graph, is_alone, selection.clone());
    } else if pace == Pace::File && factory.name().starts_with("avdec_") {
        count_errors(element, graph);
    }
}

/// Chooses the colour matrix of upright pictures that do not state one. GStreamer takes BT.709 for more than 576 lines and BT.601
/// otherwise, so a small picture would change its colours when its encoder turns it upright. The shorter side decides instead.
fn guess_colours(element: &gst::Element) {
    let (Some(coded), Some(pad)) = (element.static_pad("sink"), element.static_pad("src")) else { return };
    let coded = coded.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let (Some(gst::EventView::Caps(caps)), Some(coded)) =
            (info.event().map(|event| event.view()), coded.upgrade())
            && !coded.current_caps().is_some_and(|coded| coded.iter().any(|format| format.has_field("colorimetry")))
            && is_small_and_upright(caps.caps())
        {
            let mut caps = caps.caps_owned();
            caps.make_mut().set("colorimetry", "bt601");
            info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
        }
        gst::PadProbeReturn::Ok
    });
}

/// Whether GStreamer takes pictures of standard definition for high definition, because they are upright.
fn is_small_and_upright(caps: &gst::CapsRef) -> bool {
    let side = |name| caps.structure(0).and_then(|format| format.get::<i32>(name).ok());
    let is_yuv = caps.structure(0).is_some_and(|format| !format.get::<&str>("format").is_ok_and(|f| f.contains("RGB")));
    is_yuv
        && matches!((side("width"), side("height")), (Some(width), Some(height)) if width <= SD_LINES && height > SD_LINES)
}

/// Lines of standard definition: 625-line television has 576, and GStreamer's guess of a colour matrix changes above.
const SD_LINES: i32 = 576;

/// Counts the errors of an audio decoder. It has one thread and conceals damage.
fn count_errors(element: &gst::Element, graph: &Arc<Graph>) {
    // The probe is at the input, because damaged sound may produce no output.
    let Some(pad) = element.static_pad("sink") else { return };
    let (graph, watch) = (Arc::downgrade(graph), Mutex::new(ErrorWatch::default()));
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, _| {
        if watch.lock().has_new()
            && let Some(graph) = graph.upgrade()
        {
            graph.count_fault();
        }
        gst::PadProbeReturn::Ok
    });
}

fn limit_tracks(element: &gst::Element, graph: &Arc<Graph>) {
    let (graph, count) = (Arc::downgrade(graph), AtomicU32::new(0));
    element.connect_pad_added(move |_, pad| {
        let is_one_more =
            pad.direction() == gst::PadDirection::Src && count.fetch_add(1, Ordering::Relaxed) == TRACKS_MAX;
        if let Some(graph) = graph.upgrade().filter(|_| is_one_more) {
            let cause = format!("more than {TRACKS_MAX} tracks");
            graph.fail(failed(Cause::Refused, cause, "give a source with fewer tracks"));
        }
    });
}

/// Rejects formats beyond the limits before memory is allocated for them. Checks both the input format, as the container or the
/// parser declares it, and the output format. Takes the codec into `facts`.
fn limit_format(element: &gst::Element, graph: &Arc<Graph>, facts: &SharedFacts) {
    for pad in element.pads() {
        let (graph, facts) = (Arc::downgrade(graph), facts.clone());
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) else {
                return gst::PadProbeReturn::Ok;
            };
            let Some(cause) = caps.caps().structure(0).and_then(excess) else {
                caps_facts::coded(&facts, caps.caps());
                return gst::PadProbeReturn::Ok;
            };
            if let Some(graph) = graph.upgrade() {
                graph.fail(failed(Cause::Refused, cause, "give a source within these limits"));
            }
            // Without caps the element decodes nothing; the session is about to end.
            gst::PadProbeReturn::Drop
        });
    }
}

/// Describes the value of a format that is beyond the limits.
fn excess(format: &gst::StructureRef) -> Option<String> {
    let number = |key| format.get::<i32>(key).ok();
    match (number("width"), number("height")) {
        (Some(width), Some(height)) => {
            let pixels = i64::from(width) * i64::from(height);
            if pixels > PIXELS_MAX as i64 || width.max(height) > SIDE_MAX as i32 {
                return Some(format!(
                    "pictures of {width}×{height} pixels; the limits are {} million pixels and {SIDE_MAX} per side",
                    PIXELS_MAX / 1_000_000
                ));
            }
        }
        _ => {
            if let Some(channels) = number("channels").filter(|n| *n > CHANNELS_MAX) {
                return Some(format!("sound of {channels} channels; the limit is {CHANNELS_MAX}"));
            }
            if let Some(rate) = number("rate").filter(|n| *n > SOUND_RATE_MAX) {
                return Some(format!("sound of {rate} Hz; the limit is {SOUND_RATE_MAX}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_beyond_the_limits_are_named() {
        super::super::init().unwrap();
        let excess_of = |caps: &str| {
            let caps: gst::Caps = caps.parse().unwrap();
            excess(caps.structure(0).unwrap())
        };
        assert_eq!(excess_of("image/gif, width=(int)1920, height=(int)1080"), None);
        assert_eq!(excess_of("video/x-raw, width=(int)12000, height=(int)9000"), None);
        assert!(excess_of("video/x-h264, width=(int)65535, height=(int)65535").unwrap().contains("65535×65535"));
        assert!(excess_of("video/x-h264, width=(int)100000, height=(int)16").is_some());
        assert_eq!(excess_of("audio/x-raw, rate=(int)192000, channels=(int)24"), None);
        assert!(excess_of("audio/x-raw, rate=(int)48000, channels=(int)65").unwrap().contains("65 channels"));
        assert!(excess_of("audio/x-raw, rate=(int)2000000, channels=(int)2").unwrap().contains("2000000 Hz"));
    }

    #[test]
    fn small_upright_pictures_are_recognised() {
        super::super::init().unwrap();
        let is_small = |format: &str, width: u32, height: u32| {
            let caps = format!("video/x-raw, format=(string){format}, width=(int){width}, height=(int){height}");
            is_small_and_upright(&caps.parse::<gst::Caps>().unwrap())
        };
        assert!(is_small("I420", 360, 640) && is_small("NV12", 540, 960));
        assert!(!is_small("I420", 640, 360) && !is_small("I420", 1080, 1920) && !is_small("I420", 320, 576));
        assert!(!is_small("RGB", 360, 640));
    }

    #[test]
    fn demuxers_of_libav_are_not_chosen() {
        super::super::init().unwrap();
        let all = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::DEMUXER, gst::Rank::MARGINAL);
        assert!(all.iter().all(|factory| !factory.name().starts_with("avdemux_")));
        assert!(all.iter().any(|factory| factory.name() == "qtdemux"));
    }
}
