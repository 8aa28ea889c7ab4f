//! Labels as GStreamer draws them on pictures.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use crate::overlay::{Drawing, LabelContent, Overlay, PictureSize};

/// What is shown at a time of the output.
pub(super) trait LabelSource: Send + Sync {
    /// The label at `out_ns`; [`None`]: none.
    fn label(&self, out_ns: u64) -> Option<Arc<LabelContent>>;
}

/// The label that was drawn last. It is drawn again when its content or the form of the pictures changes.
#[derive(Default)]
struct LastLabel(Option<(Arc<LabelContent>, gst_video::VideoInfo, Option<gst_video::VideoOverlayComposition>)>);

/// Draws the labels of `source` on the pictures that pass the element `painter` (`overlaycomposition`).
pub(super) fn connect(painter: &gst::Element, overlay: Overlay, source: Arc<dyn LabelSource>) {
    let last = Mutex::new(LastLabel::default());
    painter.connect("draw", false, move |args| {
        let sample = args.get(1)?.get::<gst::Sample>().ok()?;
        Some(last.lock().at(&sample, &overlay, &*source).to_value())
    });
}

impl LastLabel {
    fn at(
        &mut self,
        sample: &gst::Sample,
        overlay: &Overlay,
        source: &dyn LabelSource,
    ) -> Option<gst_video::VideoOverlayComposition> {
        let time = sample.buffer()?.pts()?;
        let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
        let content = source.label(time.nseconds())?;
        if let Some((known, form, composition)) = &self.0
            && (Arc::ptr_eq(known, &content) || *known == content)
            && *form == info
        {
            return composition.clone();
        }
        let aspect = info.par();
        let pixel_aspect = (aspect.numer().unsigned_abs(), aspect.denom().unsigned_abs());
        let size = PictureSize { width: info.width(), height: info.height(), pixel_aspect };
        let drawing = overlay.draw(&content, size);
        let composition = drawing.and_then(|drawing| composition(&drawing, &info));
        self.0 = Some((content, info, composition.clone()));
        composition
    }
}

/// The drawing in the colour matrix of the pictures. GStreamer 1.22 blends RGB with the matrix of BT.709 into all pictures, so that those
/// of standard definition would have other colours.
fn composition(drawing: &Drawing, picture: &gst_video::VideoInfo) -> Option<gst_video::VideoOverlayComposition> {
    let Drawing { x, y, width, height, ref rgba } = *drawing;
    let info = |format| gst_video::VideoInfo::builder(format, width, height);
    let drawn = info(gst_video::VideoFormat::Rgba).build().ok()?;
    let blended = info(gst_video::VideoFormat::Ayuv).colorimetry(&picture.colorimetry()).build().ok()?;
    let from = gst_video::VideoFrame::from_buffer_readable(gst::Buffer::from_slice(rgba.clone()), &drawn).ok()?;
    let buffer = gst::Buffer::with_size(blended.size()).ok()?;
    let mut to = gst_video::VideoFrame::from_buffer_writable(buffer, &blended).ok()?;
    gst_video::VideoConverter::new(&drawn, &blended, None).ok()?.frame(&from, &mut to);
    let mut buffer = to.into_buffer();
    let flags = gst_video::VideoFrameFlags::empty();
    gst_video::VideoMeta::add(buffer.get_mut()?, flags, gst_video::VideoFormat::Ayuv, width, height).ok()?;
    let (left, top) = (i32::try_from(x).ok()?, i32::try_from(y).ok()?);
    let flags = gst_video::VideoOverlayFormatFlags::empty();
    let rectangle = gst_video::VideoOverlayRectangle::new_raw(&buffer, left, top, width, height, flags);
    gst_video::VideoOverlayComposition::new([&rectangle]).ok()
}
