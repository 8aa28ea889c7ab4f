//! Which video decoder GStreamer plugs in: software, or a device through VA-API or NVDEC ([`DecoderChoice`]).
//!
//! `decodebin` tries decoders in the order of a list. Those of the wanted kind are put before the others, so a device that does not
//! open is skipped there. A device that fails later ends the connection, and the next one decodes in software.
//!
//! Decoders of devices can keep pictures in memory of the device. The converters of the templates accept system memory only, and the
//! decoders of both kinds download to it when nothing else is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::graph::Graph;
use crate::options::DecoderChoice;
use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::{End, MediaItem, Pace};

/// An interface to the decoders of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Nvdec,
    Vaapi,
}

impl DeviceKind {
    /// All kinds, in the order of `auto`: a dedicated graphics card is preferred.
    pub(crate) const ALL: [DeviceKind; 2] = [DeviceKind::Nvdec, DeviceKind::Vaapi];

    /// GStreamer's plugin. It registers decoders only for the devices that it finds.
    pub(crate) const fn plugin(self) -> &'static str {
        match self {
            DeviceKind::Nvdec => "nvcodec",
            DeviceKind::Vaapi => "va",
        }
    }
}

/// The decoders of a codec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodecDecoders {
    pub(crate) codec: &'static str,
    pub(crate) software: &'static str,
    nvdec: &'static str,
    vaapi: &'static str,
}

impl CodecDecoders {
    /// The element for a device.
    pub(crate) const fn of(&self, kind: DeviceKind) -> &'static str {
        match kind {
            DeviceKind::Nvdec => self.nvdec,
            DeviceKind::Vaapi => self.vaapi,
        }
    }
}

const fn codec(codec: &'static str, software: &'static str, nvdec: &'static str, vaapi: &'static str) -> CodecDecoders {
    CodecDecoders { codec, software, nvdec, vaapi }
}

/// The codecs that devices decode.
pub(crate) const CODECS: [CodecDecoders; 5] = [
    codec("H.264", "avdec_h264", "nvh264dec", "vah264dec"),
    codec("H.265", "avdec_h265", "nvh265dec", "vah265dec"),
    codec("MPEG-2", "avdec_mpeg2video", "nvmpeg2videodec", "vampeg2dec"),
    codec("VP8", "vp8dec", "nvvp8dec", "vavp8dec"),
    codec("VP9", "vp9dec", "nvvp9dec", "vavp9dec"),
];

/// `GST_FLOW_NOT_NEGOTIATED`, as in the details of errors.
const NOT_NEGOTIATED: i32 = -4;

/// Whether a factory makes decoders of a device.
fn is_device(factory: &gst::ElementFactory) -> bool {
    factory.metadata("klass").is_some_and(|class| class.contains("Decoder") && class.contains("Hardware"))
}

/// The choice of decoders for the connections of a source.
#[derive(Clone, Debug)]
pub(super) struct Decoders {
    choice: DecoderChoice,
    pace: Pace,
    /// A device failed: software decodes from now on.
    failed: Arc<AtomicBool>,
}

impl Decoders {
    pub fn new(choice: DecoderChoice, pace: Pace, failed: Arc<AtomicBool>) -> Self {
        Self { choice, pace, failed }
    }

    /// The kinds of devices to try, in order, and whether others may follow by GStreamer's rank.
    fn kinds(&self) -> (&'static [DeviceKind], bool) {
        if self.failed.load(Ordering::Relaxed) {
            return (&[], false);
        }
        match self.choice {
            // The decisions of a recording must not depend on whether a device is free or which one it is.
            DecoderChoice::Auto if self.pace == Pace::File => (&[], false),
            DecoderChoice::Auto => (&DeviceKind::ALL, true),
            DecoderChoice::Software => (&[], false),
            DecoderChoice::Nvdec => (&[DeviceKind::Nvdec], false),
            DecoderChoice::Vaapi => (&[DeviceKind::Vaapi], false),
        }
    }

    /// Orders the decoders of `pipeline`. Templates with `decodebin3` follow GStreamer's ranks: it has no signal for this.
    pub fn connect(&self, pipeline: &gst::Pipeline) {
        const SIGNAL: &str = "autoplug-sort";
        for element in pipeline.iterate_elements().into_iter().flatten() {
            if gst::glib::subclass::SignalId::lookup(SIGNAL, element.type_()).is_none() {
                continue;
            }
            let decoders = self.clone();
            element.connect(SIGNAL, false, move |args| {
                let sorted = match (args.get(2).map(|v| v.get::<gst::Caps>()), args.get(3)) {
                    (Some(Ok(caps)), Some(all)) => all.get::<gst::glib::ValueArray>().ok().map(|all| {
                        let all: Vec<_> = all.iter().filter_map(|factory| factory.get().ok()).collect();
                        gst::glib::ValueArray::new(decoders.sorted(&caps, all))
                    }),
                    _ => None,
                };
                Some(sorted.to_value())
            });
        }
    }

    /// The order in which the elements `all` are tried for `caps`.
    fn sorted(&self, caps: &gst::Caps, all: Vec<gst::ElementFactory>) -> Vec<gst::ElementFactory> {
        let (kinds, has_others) = self.kinds();
        let mut rest: Vec<_> = all.into_iter().filter(|factory| has_others || !is_device(factory)).collect();
        let wanted: Vec<_> = kinds
            .iter()
            .flat_map(|kind| CODECS.iter().map(|codec| codec.of(*kind)))
            .filter_map(gst::ElementFactory::find)
            .filter(|factory| factory.can_sink_any_caps(caps))
            .collect();
        rest.retain(|factory| !wanted.contains(factory));
        // Parsers come first: devices need parsed input.
        let is_decoder = |factory: &gst::ElementFactory| {
            factory.metadata("klass").is_some_and(|class| class.contains("Decoder") && !class.contains("Parser"))
        };
        let at = rest.iter().position(is_decoder).unwrap_or(rest.len());
        rest.splice(at..at, wanted);
        rest
    }

    /// A video decoder was plugged in. Reports it if a device was asked for and none decodes.
    pub fn plugged(&self, element: &gst::Element, graph: &Graph) {
        let Some(factory) = element.factory() else { return };
        tracing::debug!(decoder = %factory.name(), "pictures are decoded");
        if is_device(&factory) {
            graph.has_device.store(true, Ordering::Relaxed);
        } else if matches!(self.choice, DecoderChoice::Nvdec | DecoderChoice::Vaapi) {
            self.fall_back(graph);
        }
    }

    /// The end of a connection whose device failed. `source` posted an error with the text `error`.
    pub fn failure(&self, source: Option<&gst::Object>, error: &str, flow: Option<i32>, graph: &Graph) -> Option<End> {
        if !graph.has_device.load(Ordering::Relaxed) {
            return None;
        }
        let element = source.and_then(|source| source.downcast_ref::<gst::Element>());
        let factory = element.and_then(|element| element.factory()).filter(is_device);
        // Where the pictures of a device are not accepted, the element before the decoder reports it.
        let is_unused = flow == Some(NOT_NEGOTIATED) && !graph.has_data();
        let name = match (&factory, is_unused) {
            (Some(factory), _) => factory.name().to_string(),
            (None, true) => "of the device".to_owned(),
            (None, false) => return None,
        };
        self.fall_back(graph);
        let advice = match self.pace {
            Pace::Live => "it is opened again and decoded in software; see touchline doctor",
            Pace::File => "set decoder = \"software\"; see touchline doctor",
        };
        Some(End::Failed {
            kind: Cause::Other,
            cause: format!("the decoder {name} failed: {error}"),
            advice: advice.into(),
        })
    }

    /// Counts and reports the change to software once.
    fn fall_back(&self, graph: &Graph) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            graph.counters.decoder_fallbacks.fetch_add(1, Ordering::Relaxed);
            // Closed means that the session is ending anyway.
            let _ = graph.outlet.send(MediaItem::Incident(Incident::DecoderFallback));
        }
    }
}
