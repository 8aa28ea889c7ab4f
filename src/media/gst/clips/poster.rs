//! The poster of a clip: one of its pictures as a JPEG.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use gstreamer_video::VideoFrameExt;
use image::RgbImage;

use super::{ClipError, write_whole};
use crate::{jpeg, still};

/// JPEG quality, 1 to 100.
const QUALITY: u8 = 85;

/// Longest side of a clip's poster, pixels: it is shown in a list.
const SIDE_MAX: u32 = 1280;

/// How long a picture may take. Decoding begins at the key picture before it.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Writes the picture at `at_ns` of the media file `media` as `file` in the same directory.
///
/// # Errors
/// If there is no picture, or it cannot be written.
pub fn poster(dir: &Path, media: &str, at_ns: u64, file: &str) -> Result<(), ClipError> {
    let jpeg = thumbnail(&dir.join(media), at_ns, SIDE_MAX)?;
    Ok(write_whole(dir, file, &jpeg)?)
}

/// The picture at `at_ns` of a media file as JPEG, upright, with square pixels. Its longest side has at most `side_max` pixels.
///
/// # Errors
/// If there is no picture.
pub fn thumbnail(media: &Path, at_ns: u64, side_max: u32) -> Result<Vec<u8>, ClipError> {
    let picture = picture(media, at_ns, side_max)?;
    jpeg::encode(&still::frame(picture), QUALITY)
        .map_err(|e| ClipError::Failed(format!("cannot encode the poster: {e}")))
}

fn picture(media: &Path, at_ns: u64, side_max: u32) -> Result<RgbImage, ClipError> {
    let failed = |e: &dyn std::fmt::Display| ClipError::Failed(format!("cannot decode the poster: {e}"));
    crate::gst::init().map_err(|e| failed(&e))?;
    let text = format!(
        "filesrc name=file ! decodebin ! videoflip method=automatic ! videoconvertscale ! \
         video/x-raw,format=RGB,pixel-aspect-ratio=1/1,width=[1,{side_max}],height=[1,{side_max}] ! appsink name=picture sync=false"
    );
    let pipeline = gst::parse::launch(&text).map_err(|e| failed(&e))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed(&"not a pipeline"))?;
    pipeline.by_name("file").expect("named above").set_property("location", media);
    let result = (|| {
        pipeline.set_state(gst::State::Paused).map_err(|e| failed(&e))?;
        pipeline.state(LIMIT).0.map_err(|e| failed(&e))?;
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        // The first picture is better than none.
        if at_ns > 0 && pipeline.seek_simple(flags, gst::ClockTime::from_nseconds(at_ns)).is_ok() {
            pipeline.state(LIMIT).0.map_err(|e| failed(&e))?;
        }
        let sink = pipeline.by_name("picture").and_then(|sink| sink.downcast::<gst_app::AppSink>().ok());
        let sample =
            sink.and_then(|sink| sink.try_pull_preroll(LIMIT)).ok_or_else(|| failed(&"there is no picture"))?;
        rgb(&sample).ok_or_else(|| failed(&"the picture has no format"))
    })();
    // A failure leaves nothing to stop.
    let _ = pipeline.set_state(gst::State::Null);
    result
}

fn rgb(sample: &gst::Sample) -> Option<RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let (width, stride) = (frame.width() as usize * 3, usize::try_from(*frame.plane_stride().first()?).ok()?);
    let rows = frame.plane_data(0).ok()?.chunks(stride).take(frame.height() as usize);
    let pixels = rows.flat_map(|row| row.iter().take(width)).copied().collect();
    RgbImage::from_raw(frame.width(), frame.height(), pixels)
}
