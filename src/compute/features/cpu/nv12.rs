//! NV12 → packed RGB8: a decoder's output to the input of the features.
//!
//! Supports 8-bit video-range levels only, and does not interpolate chroma.

/// The standard by which a picture was converted to luma and chroma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorMatrix {
    /// ITU-R BT.601: standard definition.
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

impl ColorMatrix {
    /// Luma gain, Cr → red, Cb → green, Cr → green, Cb → blue, for levels minus their offsets of 16 and 128.
    pub fn coefficients(self) -> [f32; 5] {
        let (red, blue) = match self {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let green: f64 = 1.0 - red - blue;
        // Luma covers 219 levels, chroma 224.
        let chroma = 255.0 / 112.0;
        let (cr, cb): (f64, f64) = (chroma * (1.0 - red), chroma * (1.0 - blue));
        [255.0 / 219.0, cr, -cb * blue / green, -cr * red / green, cb].map(|c| c as f32)
    }
}

/// Size of a picture, bytes: a plane of luma, then one of pairs (Cb, Cr) at half the size, rounded up; rows without gaps.
pub fn len(width: usize, height: usize) -> usize {
    width * height + 2 * width.div_ceil(2) * height.div_ceil(2)
}

/// Converts a picture; `out` is height × width × 3, packed RGB8, rounded to the nearest level.
///
/// # Panics
/// If `data` is not [`len`] bytes or `out` not three a pixel.
pub fn to_rgb8(data: &[u8], (width, height): (usize, usize), matrix: ColorMatrix, out: &mut [u8]) {
    assert_eq!(data.len(), len(width, height), "a picture is luma and chroma without gaps");
    assert_eq!(out.len(), 3 * width * height, "RGB8 has three bytes a pixel");
    let (luma, chroma) = data.split_at(width * height);
    let [gain, cr_red, cb_green, cr_green, cb_blue] = matrix.coefficients();
    let level = |value: f32| (value.clamp(0.0, 255.0) + 0.5).floor() as u8;
    for (i, (pixel, &y)) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma).enumerate() {
        let at = (i / width / 2) * 2 * width.div_ceil(2) + 2 * (i % width / 2);
        let (y, cb, cr) =
            ((f32::from(y) - 16.0) * gain, f32::from(chroma[at]) - 128.0, f32::from(chroma[at + 1]) - 128.0);
        *pixel = [level(y + cr * cr_red), level(y + cb * cb_green + cr * cr_green), level(y + cb * cb_blue)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners of the colour cube by the equations of the standards, rounded to levels.
    #[test]
    fn known_colours_are_converted() {
        for (matrix, red, blue) in [(ColorMatrix::Bt601, 0.299, 0.114), (ColorMatrix::Bt709, 0.2126, 0.0722)] {
            for corner in 0..8u8 {
                let [r, g, b] = [corner & 1, corner >> 1 & 1, corner >> 2].map(f64::from);
                let y = red * r + (1.0 - red - blue) * g + blue * b;
                let levels =
                    [16.0 + 219.0 * y, 128.0 + 112.0 * (b - y) / (1.0 - blue), 128.0 + 112.0 * (r - y) / (1.0 - red)];
                let [y, cb, cr] = levels.map(|v| v.round() as u8);
                let mut out = [7; 3 * 15];
                let data: Vec<u8> = std::iter::repeat_n(y, 15).chain([cb, cr].repeat(6)).collect();
                to_rgb8(&data, (5, 3), matrix, &mut out);
                for pixel in out.as_chunks::<3>().0 {
                    for (got, want) in pixel.iter().zip([r, g, b]) {
                        assert!((f64::from(*got) - 255.0 * want).abs() <= 2.0, "{matrix:?} {corner}: {pixel:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn chroma_covers_four_pixels_and_fewer_at_odd_sides() {
        let (width, height) = (3, 3);
        let mut data = vec![126; len(width, height)];
        assert_eq!(data.len(), 9 + 8);
        data[9..].fill(128);
        // Cr of the lower right corner, which covers one pixel.
        data[9 + 4 + 3] = 240;
        let mut out = [0; 27];
        to_rgb8(&data, (width, height), ColorMatrix::Bt601, &mut out);
        let red: Vec<bool> = out.as_chunks::<3>().0.iter().map(|p| p[0] > p[1]).collect();
        assert_eq!(red, [false, false, false, false, false, false, false, false, true]);
    }
}
