//! The choice of the decoder. No machine of the tests has a device, so an element of their own stands for one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use touchline_core::incident::Incident;
use touchline_core::item::{End, MediaItem};
use touchline_media::gst::GstOptions;
use touchline_media::options::DecoderChoice;
use touchline_media::supervise::SourceState;

use super::{LIMIT, open, text};
use crate::common::Fixtures;
use crate::common::rtsp::{Media, RtspServer};
use crate::common::watched::{Event, Watched, quick};

/// Pictures after which the device fails.
const WORKS_FOR: u32 = 30;

/// Decodes to gray pictures, and fails after a while.
mod device {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use gstreamer as gst;
    use gstreamer::glib;
    use gstreamer::subclass::prelude::*;
    use gstreamer_video as video;
    use gstreamer_video::prelude::*;
    use gstreamer_video::subclass::prelude::*;

    #[derive(Default)]
    pub struct Device {
        decoded: AtomicU32,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Device {
        const NAME: &'static str = "TestDevice";
        type Type = super::DeviceElement;
        type ParentType = video::VideoDecoder;
    }

    impl ObjectImpl for Device {}
    impl GstObjectImpl for Device {}

    impl ElementImpl for Device {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("A device", "Codec/Decoder/Video/Hardware", "It fails", "Tests")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<[gst::PadTemplate; 2]> = LazyLock::new(|| {
                let coded = gst::Caps::builder("video/x-h264").field("alignment", "au").field("parsed", true).build();
                let pictures = video::VideoCapsBuilder::new().format(video::VideoFormat::Nv12).build();
                let pad = |name, direction, caps| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).expect("the caps are valid")
                };
                [pad("sink", gst::PadDirection::Sink, &coded), pad("src", gst::PadDirection::Src, &pictures)]
            });
            &*TEMPLATES
        }
    }

    impl VideoDecoderImpl for Device {
        fn set_format(
            &self,
            state: &video::VideoCodecState<'static, video::video_codec_state::Readable>,
        ) -> Result<(), gst::LoggableError> {
            let (width, height) = (state.info().width(), state.info().height());
            let element = self.obj();
            let output = element.set_output_state(video::VideoFormat::Nv12, width, height, Some(state));
            let output = output.map_err(|_| gst::loggable_error!(gst::CAT_RUST, "no output state"))?;
            element.negotiate(output).map_err(|_| gst::loggable_error!(gst::CAT_RUST, "not negotiated"))
        }

        fn handle_frame(&self, mut frame: video::VideoCodecFrame) -> Result<gst::FlowSuccess, gst::FlowError> {
            if self.decoded.fetch_add(1, Ordering::Relaxed) >= super::WORKS_FOR {
                gst::element_imp_error!(self, gst::StreamError::Decode, ["the device is lost"]);
                return Err(gst::FlowError::Error);
            }
            self.obj().allocate_output_frame(&mut frame, None)?;
            let picture = frame.output_buffer_mut().ok_or(gst::FlowError::Error)?;
            picture.map_writable().map_err(|_| gst::FlowError::Error)?.fill(0x80);
            self.obj().finish_frame(frame)
        }
    }
}

glib::wrapper! {
    pub struct DeviceElement(ObjectSubclass<device::Device>)
        @extends gstreamer_video::VideoDecoder, gst::Element, gst::Object;
}

fn register(name: &str) {
    gst::init().expect("GStreamer starts");
    gst::Element::register(None, name, gst::Rank::NONE, DeviceElement::static_type()).expect("the name is free");
}

/// Runs the ignored test `name` in a process of its own: elements are registered for the whole process.
fn alone(name: &str) {
    let output = crate::common::again(module_path!(), name).output().expect("the test starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn options(decoder: DecoderChoice) -> GstOptions {
    GstOptions { decoder, connect_timeout: Duration::from_secs(6), ..GstOptions::default() }
}

fn is_fallback(event: &Event) -> bool {
    matches!(event, Event::Incident(Incident::DecoderFallback))
}

#[test]
fn a_device_that_fails_is_replaced_by_software() {
    alone("live_with_a_device_that_fails");
}

#[test]
#[ignore = "runs in a process of its own"]
fn live_with_a_device_that_fails() {
    register("vah264dec");
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    for choice in [DecoderChoice::Vaapi, DecoderChoice::Auto] {
        let options = options(choice);
        let counters = options.counters.clone();
        let mut watched = Watched::start_with(&server.url(), options, quick());
        watched.until("picture of the device", |event| matches!(event, Event::Picture(_)));
        watched.until("fallback", is_fallback);
        let waiting = watched.until("failure", |event| matches!(event, Event::State(SourceState::Waiting { .. })));
        let Event::State(SourceState::Waiting { cause, .. }) = waiting else { unreachable!() };
        assert!(cause.contains("vah264dec failed"), "{cause}");
        watched.until_classified();
        // More seconds than the device would decode.
        for _ in 0..2 {
            watched.until("second in software", |event| matches!(event, Event::Second { frames: 20.., .. }));
        }
        let fallbacks = watched.all().iter().filter(|event| is_fallback(event)).count();
        assert_eq!((fallbacks, counters.decoder_fallbacks.load(Ordering::Relaxed)), (1, 1), "{choice:?}");
    }
    // With software, the device is not tried, although it is there.
    let options = options(DecoderChoice::Software);
    let counters = options.counters.clone();
    let mut watched = Watched::start_with(&server.url(), options, quick());
    for _ in 0..3 {
        watched.until("second", Event::is_second);
    }
    assert_eq!((counters.values().decoder_fallbacks, counters.values().reconnects), (0, 0));
}

#[test]
fn recordings_are_decoded_in_software_unless_a_device_is_set() {
    alone("a_recording_beside_a_device");
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_recording_beside_a_device() {
    register("nvh264dec");
    let dir = Fixtures::new();
    let path = dir.clip("a.mp4", 3);
    let play = |decoder| {
        let options = options(decoder);
        let counters = options.counters.clone();
        let (_source, from) = open(text(&path), options).unwrap();
        let mut sums = Vec::new();
        loop {
            match from.recv_timeout(LIMIT).expect("the recording has not ended") {
                MediaItem::Frame(frame) => sums.push(frame.view().data.iter().map(|b| u64::from(*b)).sum::<u64>()),
                MediaItem::Ended(end) => return (sums, end, counters.values().decoder_fallbacks),
                _ => {}
            }
        }
    };
    let (software, end, _) = play(DecoderChoice::Software);
    assert_eq!((software.len(), end), (90, End::Finished));
    assert_eq!(play(DecoderChoice::Auto), (software.clone(), End::Finished, 0));
    // A kind without a device: software, and it is reported.
    assert_eq!(play(DecoderChoice::Vaapi), (software.clone(), End::Finished, 1));
    let (gray, end, fallbacks) = play(DecoderChoice::Nvdec);
    // The last pictures are still on their way when the device fails.
    assert!((20..=WORKS_FOR as usize).contains(&gray.len()) && fallbacks == 1, "{} pictures", gray.len());
    assert!(gray.iter().all(|sum| *sum == gray[0] && !software.contains(sum)), "pictures of the device");
    let End::Failed { cause, advice, .. } = end else { panic!("the device fails: {end:?}") };
    assert!(cause.contains("nvh264dec failed") && advice.contains("software"), "{cause}; {advice}");
}
