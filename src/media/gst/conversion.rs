//! Who makes RGB of the decoder's pictures: [`crate::convert`], or GStreamer's converters at the end of the template.
//!
//! The converters pass on what the caps filter behind them asks for. So for each format at their input, the filter asks for the planes
//! as they are, if ours reads them, and otherwise for RGB in the size of the template. A template is left alone if it ends in
//! another way than the built-in ones.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::frame_gate::{entry, is_converter};
use crate::convert::{Conversion, Matrix, Range};
use touchline_core::frame::{PIXELS_MAX, SIDE_MAX};

/// The format in the templates.
const SHALLOW: &str = "RGB";

/// The same with 16 bits per value.
const DEEP: &str = "ARGB64";

/// Factory names of the converters that scale.
const SCALERS: [&str; 2] = ["videoscale", "videoconvertscale"];

/// Properties of converters that do not change a picture, or that are checked one by one.
const FREE_PROPERTIES: [&str; 6] = ["name", "parent", "qos", "n-threads", "method", "add-borders"];

/// The caps filter before the appsink of a session's pictures.
#[derive(Debug)]
pub(super) struct FormatFilter {
    element: gst::Element,
    /// Its caps in the template.
    caps: gst::Caps,
    /// Maximum height of pictures, lines.
    frame_height: u32,
    /// Whether the template ends as the built-in ones, so that our pictures are those of its converters.
    is_replaceable: bool,
    requested: Mutex<RequestedFormat>,
}

/// What the filter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RequestedFormat {
    kind: FormatKind,
    /// Pictures are on their side, so the maximum height is that of their width.
    is_sideways: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FormatKind {
    /// Packed RGB with eight bits per value.
    Shallow,
    /// With 16 bits per value.
    Deep,
    /// The decoder's planes in their own size.
    Planes(gst_video::VideoFormat),
}

impl FormatFilter {
    /// The filter before `sink`; [`None`] if another element is there.
    pub fn before(sink: &gst_app::AppSink, frame_height: u32) -> Option<Arc<Self>> {
        let element = sink.static_pad("sink")?.peer()?.parent_element()?;
        if !is_filter(&element) {
            return None;
        }
        let caps = element.property::<gst::Caps>("caps");
        let is_replaceable = is_limit_alone(&caps, frame_height) && scales_as_ours(&element);
        let requested = Mutex::new(RequestedFormat { kind: FormatKind::Shallow, is_sideways: false });
        Some(Arc::new(Self { element, caps, frame_height, is_replaceable, requested }))
    }

    /// Pictures with `caps` reach the converters.
    pub fn set_input(&self, caps: &gst::CapsRef, is_hdr: bool) {
        let kind = match self.planes(caps) {
            _ if is_hdr => FormatKind::Deep,
            Some(format) if self.is_replaceable => FormatKind::Planes(format),
            _ => FormatKind::Shallow,
        };
        self.change(|requested| requested.kind = kind);
    }

    /// Pictures are on their side, or not any more.
    pub fn set_sideways(&self, is_sideways: bool) {
        self.change(|requested| requested.is_sideways = is_sideways);
    }

    /// The format of `caps` if ours converts it, upright and on its side.
    fn planes(&self, caps: &gst::CapsRef) -> Option<gst_video::VideoFormat> {
        let features = caps.features(0)?;
        let is_in_system = features.is_empty() || features.contains("memory:SystemMemory");
        let info = gst_video::VideoInfo::from_caps(caps).ok().filter(|_| is_in_system)?;
        [false, true].iter().all(|side| conversion(&info, self.frame_height, *side).is_some()).then(|| info.format())
    }

    fn change(&self, change: impl FnOnce(&mut RequestedFormat)) {
        let mut requested = self.requested.lock();
        let before = *requested;
        change(&mut requested);
        if *requested != before {
            self.element.set_property("caps", self.caps_for(*requested));
        }
    }

    fn caps_for(&self, requested: RequestedFormat) -> gst::Caps {
        if let FormatKind::Planes(format) = requested.kind {
            return gst::Caps::builder("video/x-raw").field("format", format.to_str().as_str()).build();
        }
        let mut caps = self.caps.clone();
        for format in caps.make_mut().iter_mut() {
            if requested.kind == FormatKind::Deep && format.get::<&str>("format").is_ok_and(|name| name == SHALLOW) {
                format.set("format", DEEP);
            }
            let limit = i32::try_from(self.frame_height).unwrap_or(i32::MAX);
            let is_limited = format.get::<gst::IntRange<i32>>("height").is_ok_and(|height| height.max() == limit);
            if requested.is_sideways && is_limited {
                format.remove_field("height");
                format.set("width", gst::IntRange::new(1, limit));
            }
        }
        caps
    }
}

fn is_filter(element: &gst::Element) -> bool {
    element.factory().is_some_and(|factory| factory.name() == "capsfilter")
}

/// Whether `caps` ask for RGB with square pixels and at most `frame_height` lines, and for nothing else.
fn is_limit_alone(caps: &gst::Caps, frame_height: u32) -> bool {
    let Some(format) = caps.structure(0).filter(|_| caps.size() == 1) else { return false };
    format.name() == "video/x-raw"
        && format.n_fields() == 3
        && format.get::<&str>("format").is_ok_and(|name| name == SHALLOW)
        && format.get::<gst::Fraction>("pixel-aspect-ratio").is_ok_and(|ratio| ratio == gst::Fraction::new(1, 1))
        && format.get::<gst::IntRange<i32>>("height").is_ok_and(|height| height.max() as u32 == frame_height)
}

/// Whether the converters before `filter` scale as ours does, and do nothing else.
fn scales_as_ours(filter: &gst::Element) -> bool {
    let mut has_scaler = false;
    let mut element = filter.clone();
    // Bounded, so that a loop cannot hang the program. No sensible branch is longer.
    for _ in 0..100 {
        let before = element.static_pad("sink").and_then(|pad| pad.peer()).and_then(|peer| peer.parent_element());
        let Some(before) = before.filter(is_converter) else { return has_scaler };
        if is_filter(&before) {
            // Caps before the scaler limit its input, which ours is as well. Nothing may convert before them.
            return has_scaler && entry(&before).and_then(|pad| pad.parent_element()).as_ref() == Some(&before);
        }
        let is_default = |spec: &gst::glib::ParamSpec| {
            let value = before.property_value(spec.name());
            FREE_PROPERTIES.contains(&spec.name()) || value.serialize().ok() == spec.default_value().serialize().ok()
        };
        if !before.list_properties().iter().all(is_default) {
            return false;
        }
        // All three elements have the property, but not all scale.
        if before.factory().is_some_and(|factory| SCALERS.contains(&factory.name().as_str())) {
            let method = before.property_value("method").serialize().is_ok_and(|method| method == "bilinear2");
            if !method || before.property::<bool>("add-borders") {
                return false;
            }
            has_scaler = true;
        }
        element = before;
    }
    false
}

/// How ours converts pictures of `info` to at most `frame_height` lines, or columns if they are on their side; [`None`] if it does not.
pub(super) fn conversion(info: &gst_video::VideoInfo, frame_height: u32, is_sideways: bool) -> Option<Conversion> {
    use gst_video::{VideoColorMatrix, VideoColorRange, VideoFormat, VideoInterlaceMode};
    // Fields of one frame are scaled separately, which ours does not do.
    if !matches!(info.format(), VideoFormat::I420 | VideoFormat::Nv12)
        || info.interlace_mode() != VideoInterlaceMode::Progressive
    {
        return None;
    }
    let matrix = match info.colorimetry().matrix() {
        VideoColorMatrix::Bt601 => Matrix::Bt601,
        VideoColorMatrix::Bt709 => Matrix::Bt709,
        VideoColorMatrix::Bt2020 => Matrix::Bt2020,
        _ => return None,
    };
    let range = match info.colorimetry().range() {
        VideoColorRange::Range16_235 => Range::Limited,
        VideoColorRange::Range0_255 => Range::Full,
        _ => return None,
    };
    let to = size(info, frame_height, is_sideways)?;
    let usize_of = |(width, height): (u32, u32)| Some((usize::try_from(width).ok()?, usize::try_from(height).ok()?));
    let from = usize_of((info.width(), info.height()))?;
    let is_interleaved = info.format() == VideoFormat::Nv12;
    Some(Conversion { from, to: usize_of(to)?, is_interleaved, matrix, range })
}

/// The size with square pixels that `videoscale` chooses: the height stays if it may, and the width follows; on its side the width is
/// limited and the height follows. [`None`] beyond the limits of a picture.
fn size(info: &gst_video::VideoInfo, limit: u32, is_sideways: bool) -> Option<(u32, u32)> {
    let (width, height) = (u64::from(info.width()), u64::from(info.height()));
    let ratio = info.par();
    let across = width.checked_mul(u64::try_from(ratio.numer()).ok()?)?;
    let down = height.checked_mul(u64::try_from(ratio.denom()).ok()?)?;
    let scaled =
        |side: u64, by: u64, over: u64| Some((side.checked_mul(by)?.checked_add(over / 2)? / over.max(1)).max(1));
    let limit = u64::from(limit);
    let kept = if is_sideways { height } else { height.min(limit) };
    let followed = scaled(kept, across, down)?;
    let (width, height) = if is_sideways && followed > limit {
        let width = width.min(limit);
        (width, scaled(width, down, across)?)
    } else {
        (followed, kept)
    };
    let is_possible = width.max(height) <= u64::from(SIDE_MAX) && width * height <= PIXELS_MAX && width * height > 0;
    is_possible.then_some((width as u32, height as u32))
}

#[cfg(test)]
#[path = "conversion_tests.rs"]
mod tests;
