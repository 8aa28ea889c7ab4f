//! Black pictures and pictures that equal an earlier one.

use touchline_core::frame::RgbView;

/// Pixels or bytes between two tests whether the answer is known.
const CHUNK: usize = 4096;

/// Finds black pictures as FFmpeg's `blackdetect`: enough of the pixels have a low luminance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlackLevel {
    /// Maximum luminance of a black pixel, 0 to 255. Pictures have the full range here, also those of video with the limited
    /// range.
    luma: u8,
    /// Minimum share of black pixels.
    share: f64,
}

impl BlackLevel {
    /// `luma` is the greatest luminance of a black pixel, from 0 (black) to 1 (white); `share` the smallest share of such pixels.
    pub fn new(luma: f32, share: f32) -> Self {
        Self { luma: (luma.clamp(0.0, 1.0) * 255.0) as u8, share: f64::from(share) }
    }

    /// Whether a picture is black. False without pixels.
    pub fn is_black(self, view: RgbView<'_>) -> bool {
        let pixels = view.data.len() / 3;
        // As many bright pixels are allowed as leave the share. The hundredth covers the rounding of the share, which is an f32.
        let most = pixels as f64 * (1.0 - self.share) + 0.01;
        let mut bright = 0;
        for chunk in view.data.chunks(3 * CHUNK) {
            bright += self.bright(chunk);
            if bright as f64 > most {
                return false;
            }
        }
        pixels > 0
    }

    /// Share of black pixels.
    pub fn black_share(self, view: RgbView<'_>) -> f64 {
        let pixels = (view.data.len() / 3).max(1);
        (pixels - self.bright(view.data).min(pixels)) as f64 / pixels as f64
    }

    fn bright(self, data: &[u8]) -> usize {
        data.chunks_exact(3).filter(|pixel| luma([pixel[0], pixel[1], pixel[2]]) > self.luma).count()
    }
}

/// Luminance by ITU-R BT.601, rounded.
const fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((77 * r as u32 + 150 * g as u32 + 29 * b as u32 + 128) >> 8) as u8
}

/// Compares pictures as FFmpeg's `freezedetect`: by the mean absolute difference of their values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreezeNoise {
    /// Maximum mean absolute difference between equal pictures, as a share of the range of 256 values.
    share: f64,
}

impl FreezeNoise {
    /// `db`: the greatest difference of equal pictures in decibels of full range; -60 is a thousandth.
    pub fn new(db: f32) -> Self {
        Self { share: 10f64.powf(f64::from(db) / 20.0) }
    }

    /// Whether two pictures are equal but for noise. False when their sizes differ, and without pixels.
    pub fn is_same(self, a: RgbView<'_>, b: RgbView<'_>) -> bool {
        self.differ_at_most(a, b, 1)
    }

    /// Whether every picture that equals `a` but for noise differs from `b`: by the triangle inequality, if `a` and `b` differ by more
    /// than twice the noise.
    pub fn differs_from_all_like(self, a: RgbView<'_>, b: RgbView<'_>) -> bool {
        !self.differ_at_most(a, b, 2)
    }

    /// Whether two pictures differ by at most `times` the noise.
    fn differ_at_most(self, a: RgbView<'_>, b: RgbView<'_>, times: u64) -> bool {
        if (a.width, a.height) != (b.width, b.height) || a.data.is_empty() {
            return false;
        }
        let most = times * (self.share * 256.0 * a.data.len() as f64) as u64;
        let mut sum = 0;
        for (a, b) in a.data.chunks(CHUNK).zip(b.data.chunks(CHUNK)) {
            sum += difference(a, b);
            if sum > most {
                return false;
            }
        }
        true
    }
}

/// Mean absolute difference of two pictures of one size, as a share of the range of 256 values.
pub fn mean_difference(a: RgbView<'_>, b: RgbView<'_>) -> f64 {
    let sum: u64 = a.data.chunks(CHUNK).zip(b.data.chunks(CHUNK)).map(|(a, b)| difference(a, b)).sum();
    sum as f64 / a.data.len().max(1) as f64 / 256.0
}

fn difference(a: &[u8], b: &[u8]) -> u64 {
    let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    u64::from(sum)
}
