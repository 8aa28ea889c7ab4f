//! One picture.

use std::sync::Arc;

use crate::pool::Pooled;
use crate::time::Pts;

/// The largest picture that is decoded, pixels. Large cameras and 16K video (15360×8640) stay below it. At four values of two bytes
/// per pixel this is a gigabyte, which bounds the memory that one malicious file can use.
pub const PIXELS_MAX: u64 = 134_217_728;

/// The longest side of a picture that is decoded, pixels.
pub const SIDE_MAX: u32 = 32_768;

/// One picture: packed RGB8, row-major, no padding between rows (`data.len() == width * height * 3`).
///
/// Cloning shares the pixels.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The pixels.
    pub data: Arc<Pooled<u8>>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Presentation time.
    pub pts: Pts,
    /// Monotonic clock when the decoder handed the picture over, ns.
    pub arrived_ns: u64,
}

impl Frame {
    /// A frame of `width` × `height` pixels.
    ///
    /// # Panics
    /// If `data` is not `width * height * 3` bytes.
    pub fn new(data: Pooled<u8>, width: u32, height: u32, pts: Pts, arrived_ns: u64) -> Self {
        assert_eq!(data.len(), width as usize * height as usize * 3, "a frame is packed RGB8");
        Self { data: Arc::new(data), width, height, pts, arrived_ns }
    }

    /// A borrowed view of the pixels.
    pub fn view(&self) -> RgbView<'_> {
        RgbView { data: &self.data, width: self.width as usize, height: self.height as usize }
    }
}

/// Borrowed packed RGB8 picture: `data.len() == width * height * 3`.
#[derive(Clone, Copy, Debug)]
pub struct RgbView<'a> {
    /// The pixels, row by row.
    pub data: &'a [u8],
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}
