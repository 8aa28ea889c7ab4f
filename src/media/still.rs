//! Still pictures from files.

use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use touchline_core::frame::{Frame, PIXELS_MAX, SIDE_MAX};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

use crate::truncation;

/// A still picture as a frame at time 0.
pub fn frame(image: RgbImage) -> Frame {
    let (width, height) = image.dimensions();
    Frame::new(Pooled::detached(image.into_raw()), width, height, Pts(0), 0)
}

/// Reads a still picture and turns it upright. Its format is recognised by its content, not its name.
///
/// # Errors
/// Why it cannot be read or decoded, on one line.
pub fn read_still(path: &Path) -> Result<RgbImage, String> {
    let reason = |e: &dyn std::fmt::Display| e.to_string().replace('\n', " ");
    let reader = ImageReader::open(path).map_err(|e| reason(&e))?.with_guessed_format().map_err(|e| reason(&e))?;
    if let Some(format) = truncation::unsupported_file(path) {
        return Err(format!("{format} pictures are not supported"));
    }
    let broken = |e: &dyn std::fmt::Display| match truncation::cut_off(path) {
        Some(cut) => format!("the picture is cut off: {cut}"),
        None => reason(e),
    };
    let mut decoder = reader.into_decoder().map_err(|e| broken(&e))?;
    let (width, height) = decoder.dimensions();
    // Checked before memory is allocated: a header of a few bytes can declare any size.
    if u64::from(width) * u64::from(height) > PIXELS_MAX || width.max(height) > SIDE_MAX {
        let most = PIXELS_MAX / 1_000_000;
        return Err(format!(
            "a picture of {width}×{height} pixels; the limits are {most} million pixels and {SIDE_MAX} per side"
        ));
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(PIXELS_MAX * 8);
    decoder.set_limits(limits).map_err(|e| broken(&e))?;
    // A picture with unreadable metadata is still a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| broken(&e))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Turns a picture the right way up.
pub fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// Scales a picture down to at most `height` lines, as ingest does with a video of its size. The aspect ratio stays.
pub fn scale_down(image: RgbImage, height: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    if h <= height {
        return image;
    }
    let width = (u64::from(w) * u64::from(height)).div_ceil(u64::from(h)).max(1) as u32;
    image::imageops::resize(&image, width, height, image::imageops::FilterType::Triangle)
}
