//! One picture.

use std::path::Path;
use std::sync::Arc;

use image::{ImageReader, ImageResult, RgbImage};

use super::pool::Pooled;
use crate::time::Pts;

/// One picture: packed RGB8, row-major, no padding between rows (`data.len() == width * height * 3`).
///
/// Cloning shares the pixels.
#[derive(Clone, Debug)]
pub struct Frame {
    pub data: Arc<Pooled<u8>>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub pts: Pts,
    /// Monotonic clock when the decoder handed the picture over, ns.
    pub arrived_ns: u64,
}

impl Frame {
    /// # Panics
    /// If `data` is not `width * height * 3` bytes.
    pub fn new(data: Pooled<u8>, width: u32, height: u32, pts: Pts, arrived_ns: u64) -> Self {
        assert_eq!(data.len(), width as usize * height as usize * 3, "a frame is packed RGB8");
        Self { data: Arc::new(data), width, height, pts, arrived_ns }
    }

    /// A still picture as a frame: of no stream, at time 0.
    pub fn still(image: RgbImage) -> Self {
        let (width, height) = image.dimensions();
        Self::new(Pooled::detached(image.into_raw()), width, height, Pts(0), 0)
    }

    /// A borrowed view of the pixels.
    pub fn view(&self) -> RgbView<'_> {
        RgbView { data: &self.data, width: self.width as usize, height: self.height as usize }
    }
}

/// Reads a still picture; what it is is told by its content, not its name.
///
/// # Errors
/// When it cannot be read or decoded.
pub fn read_still(path: &Path) -> ImageResult<RgbImage> {
    Ok(ImageReader::open(path)?.with_guessed_format()?.decode()?.into_rgb8())
}

/// A picture of at most `height` lines, as a video of its size is scaled down on ingest; the width keeps the aspect.
pub fn scale_down(image: RgbImage, height: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    if h <= height {
        return image;
    }
    let width = (u64::from(w) * u64::from(height)).div_ceil(u64::from(h)).max(1) as u32;
    image::imageops::resize(&image, width, height, image::imageops::FilterType::Triangle)
}

/// Borrowed packed RGB8 picture: `data.len() == width * height * 3`.
#[derive(Clone, Copy, Debug)]
pub struct RgbView<'a> {
    pub data: &'a [u8],
    pub width: usize,
    pub height: usize,
}
