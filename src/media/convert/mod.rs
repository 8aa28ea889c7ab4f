//! From the decoder's planes of Y'CbCr with 8 bits (4:2:0) to packed RGB in the size that is wanted, in one pass.
//!
//! The result is that of GStreamer's `videoscale method=bilinear2 ! videoconvert`: each plane is scaled with a triangle filter, chroma to
//! half the wanted size, and each value of chroma holds for two by two pixels. Only the rounding differs: weights have 8 bits down
//! and 14 bits across in place of 6, and values are rounded once, at the end. All sums are integers, so every processor gives
//! the same bytes.
//!
//! Columns are summed first, because sums of whole rows fill the vectors of the processor, and few rows remain to be summed across.

mod filter;

use pulp::{Arch, NullaryFnOnce};

use filter::ScaleFilter;

/// Weights of the sums down columns have this sum: 255 times it fits 16 bits.
const DOWN: i16 = 256;

/// Weights of the sums across rows have this sum.
const ACROSS_BITS: u32 = 14;

/// Fraction bits of a value between the steps: 255 and these fit 15 bits.
const VALUE_BITS: u32 = 7;

/// Fraction bits of the matrix. A value times a coefficient, and the sum of three of them, fit 31 bits.
const MATRIX_BITS: u32 = 13;

/// Rows and values that are summed at once.
const ROWS: usize = 4;
const LANES: usize = 8;

/// The matrix from Y'CbCr to R'G'B'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

impl Matrix {
    /// The parts of red and blue in luma.
    const fn red_and_blue(self) -> (f64, f64) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
        }
    }
}

/// The codes of black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Luma from 16 to 235, chroma from 16 to 240.
    Limited,
    /// From 0 to 255.
    Full,
}

/// What a [`Converter`] reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Width and height of the input, pixels. Chroma has half of both, rounded up.
    pub from: (usize, usize),
    /// Width and height of the output, pixels.
    pub to: (usize, usize),
    /// Whether Cb and Cr are in one plane.
    pub is_interleaved: bool,
    /// The input's matrix.
    pub matrix: Matrix,
    /// The input's range. The output's is full.
    pub range: Range,
}

/// One plane: rows of bytes, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// The bytes from the first row on.
    pub data: &'a [u8],
    /// From the beginning of a row to that of the next, bytes.
    pub stride: usize,
}

impl<'a> Plane<'a> {
    #[inline(always)]
    fn row(&self, at: usize, bytes: usize) -> &'a [u8] {
        &self.data[at * self.stride..][..bytes]
    }

    fn has(&self, rows: usize, bytes: usize) -> bool {
        self.stride >= bytes && self.data.len() >= (rows - 1).saturating_mul(self.stride).saturating_add(bytes)
    }
}

/// The planes of chroma.
#[derive(Clone, Copy, Debug)]
pub enum Chroma<'a> {
    /// Cb and Cr (I420).
    Separate(Plane<'a>, Plane<'a>),
    /// Cb and Cr in turn in one plane (NV12).
    Interleaved(Plane<'a>),
}

/// A plane is shorter than the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort;

/// Converts pictures of one format.
#[derive(Debug)]
pub struct Converter {
    conversion: Conversion,
    luma: PlaneScaler,
    chroma: PlaneScaler,
    coefficients: Coefficients,
    scratch: Scratch,
}

#[derive(Debug)]
struct PlaneScaler {
    down: ScaleFilter,
    across: ScaleFilter,
    input: (usize, usize),
    keeps_width: bool,
}

impl PlaneScaler {
    /// `is_alone`: the plane has one component. GStreamer has functions of their own for half the size of such planes.
    fn new(input: (usize, usize), output: (usize, usize), is_alone: bool) -> Self {
        let halves = |input: usize, output: usize| input == 2 * output && is_alone;
        let is_half = match (halves(input.0, output.0), halves(input.1, output.1)) {
            (true, true) => true,
            (true, false) => input.1 == output.1,
            (false, true) => input.0 == output.0,
            (false, false) => false,
        };
        let filter =
            |input, output| if is_half && halves(input, output) { ScaleFilter::half } else { ScaleFilter::new };
        let across = filter(input.0, output.0)(input.0, output.0, 1 << ACROSS_BITS, LANES);
        let down = filter(input.1, output.1)(input.1, output.1, DOWN, ROWS);
        let keeps_width = across.is_identity(input.0);
        Self { down, across, input, keeps_width }
    }

    /// Values of a row that the filter may read, with the zeros behind it.
    fn padded(&self) -> usize {
        self.across.firsts().iter().max().map_or(0, |first| first + self.across.count()).max(self.input.0)
    }
}

/// Rows between the steps.
#[derive(Debug)]
struct Scratch {
    /// Sums down columns, [`DOWN`] times too large.
    sums: Vec<u16>,
    /// A row of each component, as wide as the input.
    wide: [Vec<i16>; 3],
    /// A row of each component, as wide as the output.
    narrow: [Vec<i16>; 3],
    /// What chroma adds to red, green and blue of each pixel.
    added: [Vec<i32>; 3],
    /// A row of red, of green and of blue.
    codes: [Vec<u8>; 3],
}

/// The matrix in integers.
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    luma: i32,
    /// The code of black.
    black: i32,
    cr_in_red: i32,
    cb_in_green: i32,
    cr_in_green: i32,
    cb_in_blue: i32,
}

impl Coefficients {
    /// ITU-R BT.709 and BT.601: R' = Y' + 2 (1 − Kr) Cr, B' = Y' + 2 (1 − Kb) Cb, and G' from Y' = Kr R' + Kg G' + Kb B'.
    fn new(matrix: Matrix, range: Range) -> Self {
        let (red, blue) = matrix.red_and_blue();
        let (luma, chroma, black) = match range {
            Range::Limited => (255.0 / 219.0, 255.0 / 224.0, 16),
            Range::Full => (1.0, 1.0, 0),
        };
        let fixed = |value: f64| (value * f64::from(1 << MATRIX_BITS)).round() as i32;
        let green = 1.0 - red - blue;
        Self {
            luma: fixed(luma),
            black: black << VALUE_BITS,
            cr_in_red: fixed(chroma * 2.0 * (1.0 - red)),
            cb_in_green: fixed(-chroma * 2.0 * (1.0 - blue) * blue / green),
            cr_in_green: fixed(-chroma * 2.0 * (1.0 - red) * red / green),
            cb_in_blue: fixed(chroma * 2.0 * (1.0 - blue)),
        }
    }
}

impl Converter {
    /// # Panics
    /// If a side is 0.
    pub fn new(conversion: Conversion) -> Self {
        let Conversion { from, to, is_interleaved, matrix, range } = conversion;
        assert!(from.0.min(from.1).min(to.0).min(to.1) > 0, "a picture has pixels");
        let half = |(width, height): (usize, usize)| (width.div_ceil(2), height.div_ceil(2));
        let luma = PlaneScaler::new(from, to, true);
        let chroma = PlaneScaler::new(half(from), half(to), !is_interleaved);
        let rows = |a: usize, b: usize| [vec![0; a], vec![0; b], vec![0; b]];
        let scratch = Scratch {
            // Interleaved chroma may be one wider than luma.
            sums: vec![0; from.0 + 1],
            wide: rows(luma.padded(), chroma.padded()),
            narrow: rows(to.0, half(to).0),
            added: std::array::from_fn(|_| vec![0; to.0]),
            codes: std::array::from_fn(|_| vec![0; to.0]),
        };
        Self { conversion, luma, chroma, coefficients: Coefficients::new(matrix, range), scratch }
    }

    /// The format that was given.
    pub fn conversion(&self) -> Conversion {
        self.conversion
    }

    /// Appends the picture to `out`: three bytes per pixel, without padding.
    ///
    /// # Errors
    /// [`TooShort`], with `out` unchanged, if a plane does not hold all rows.
    pub fn convert(&mut self, luma: Plane<'_>, chroma: Chroma<'_>, out: &mut Vec<u8>) -> Result<(), TooShort> {
        let (width, height) = self.chroma.input;
        let has_chroma = match chroma {
            Chroma::Separate(cb, cr) => cb.has(height, width) && cr.has(height, width),
            Chroma::Interleaved(both) => both.has(height, 2 * width),
        };
        if !has_chroma || !luma.has(self.luma.input.1, self.luma.input.0) {
            return Err(TooShort);
        }
        let begin = out.len();
        out.resize(begin + 3 * self.conversion.to.0 * self.conversion.to.1, 0);
        Arch::new().dispatch(Picture { converter: self, luma, chroma, out: &mut out[begin..] });
        Ok(())
    }
}

/// The task of one picture for [`Arch::dispatch`], which compiles it for the vectors of the processor. All that it calls is inlined.
struct Picture<'a> {
    converter: &'a mut Converter,
    luma: Plane<'a>,
    chroma: Chroma<'a>,
    out: &'a mut [u8],
}

impl NullaryFnOnce for Picture<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { converter: Converter { conversion, luma, chroma, coefficients, scratch }, .. } = self;
        let Scratch { sums, wide: [y, cb, cr], narrow: [y_out, cb_out, cr_out], added, codes } = scratch;
        for (row, out) in self.out.chunks_exact_mut(3 * conversion.to.0).enumerate() {
            if row % 2 == 0 {
                let (width, rows) = chroma.input;
                match self.chroma {
                    Chroma::Separate(b, r) => {
                        for (plane, wide) in [(b, &mut *cb), (r, &mut *cr)] {
                            sum_down(&chroma.down, row / 2, &plane, rows, &mut sums[..width]);
                            take_values(&sums[..width], wide);
                        }
                    }
                    Chroma::Interleaved(both) => {
                        sum_down(&chroma.down, row / 2, &both, rows, &mut sums[..2 * width]);
                        split_values(&sums[..2 * width], cb, cr);
                    }
                }
                sum_across(chroma, cb, cb_out);
                sum_across(chroma, cr, cr_out);
                add_chroma(coefficients, cb_out, cr_out, added);
            }
            let (width, rows) = luma.input;
            sum_down(&luma.down, row, &self.luma, rows, &mut sums[..width]);
            take_values(&sums[..width], y);
            sum_across(luma, y, y_out);
            write_rgb(coefficients, y_out, added, codes, out);
        }
    }
}

/// The weighted sums down the columns of `plane` for the row `at` of the output.
#[inline(always)]
fn sum_down(filter: &ScaleFilter, at: usize, plane: &Plane<'_>, rows: usize, sums: &mut [u16]) {
    let (first, bytes) = (filter.firsts()[at], sums.len());
    let weights = &filter.weights()[at * filter.count()..][..filter.count()];
    for (group, weights) in weights.as_chunks::<ROWS>().0.iter().enumerate() {
        // Those with the weight 0 may be below the last row.
        let rows: [&[u8]; ROWS] = std::array::from_fn(|i| plane.row((first + ROWS * group + i).min(rows - 1), bytes));
        let sum = |at: usize| {
            let products = (0..ROWS).map(|i| u16::from(rows[i][at]).wrapping_mul(weights[i] as u16));
            products.fold(0u16, u16::wrapping_add)
        };
        if group == 0 {
            for (at, to) in sums.iter_mut().enumerate() {
                *to = sum(at);
            }
        } else {
            for (at, to) in sums.iter_mut().enumerate() {
                *to = to.wrapping_add(sum(at));
            }
        }
    }
}

/// Sums down columns to values. The values behind the row stay 0.
#[inline(always)]
fn take_values(sums: &[u16], values: &mut [i16]) {
    for (value, sum) in values.iter_mut().zip(sums) {
        *value = (sum >> (DOWN.ilog2() - VALUE_BITS)) as i16;
    }
}

/// As [`take_values`], of interleaved chroma.
#[inline(always)]
fn split_values(sums: &[u16], cb: &mut [i16], cr: &mut [i16]) {
    for ((cb, cr), pair) in cb.iter_mut().zip(cr).zip(sums.chunks_exact(2)) {
        *cb = (pair[0] >> (DOWN.ilog2() - VALUE_BITS)) as i16;
        *cr = (pair[1] >> (DOWN.ilog2() - VALUE_BITS)) as i16;
    }
}

/// The weighted sums across a row.
#[inline(always)]
fn sum_across(scaler: &PlaneScaler, values: &[i16], out: &mut [i16]) {
    if scaler.keeps_width {
        out.copy_from_slice(&values[..out.len()]);
        return;
    }
    // Loops with a fixed number of weights take half the time.
    match scaler.across.count() / LANES {
        1 => sum_some_across::<LANES>(&scaler.across, values, out),
        2 => sum_some_across::<{ 2 * LANES }>(&scaler.across, values, out),
        3 => sum_some_across::<{ 3 * LANES }>(&scaler.across, values, out),
        _ => {
            let weights = scaler.across.weights().chunks_exact(scaler.across.count());
            for ((first, weights), out) in scaler.across.firsts().iter().zip(weights).zip(out) {
                *out = sum_values(&values[*first..][..weights.len()], weights);
            }
        }
    }
}

#[inline(always)]
fn sum_some_across<const N: usize>(filter: &ScaleFilter, values: &[i16], out: &mut [i16]) {
    let (weights, _) = filter.weights().as_chunks::<N>();
    for ((first, weights), out) in filter.firsts().iter().zip(weights).zip(out) {
        *out = sum_values(&values[*first..][..N], weights);
    }
}

/// The sum of each value times its weight. `values` and `weights` have the same length, a multiple of [`LANES`].
#[inline(always)]
fn sum_values(values: &[i16], weights: &[i16]) -> i16 {
    let mut sums = [0i32; LANES / 2];
    for (values, weights) in values.as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
        let product = |i: usize| i32::from(values[i]).wrapping_mul(i32::from(weights[i]));
        // Neighbours in pairs: processors have an instruction for that.
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(product(2 * i).wrapping_add(product(2 * i + 1)));
        }
    }
    let sum = sums.iter().fold(1i32 << (ACROSS_BITS - 1), |all, sum| all.wrapping_add(*sum));
    (sum >> ACROSS_BITS) as i16
}

/// What a row of chroma adds to each pixel of two rows.
#[inline(always)]
fn add_chroma(coefficients: &Coefficients, cb: &[i16], cr: &[i16], added: &mut [Vec<i32>; 3]) {
    let [red, green, blue] = added;
    // Luma of black is subtracted here, and the half for rounding added.
    let base = (1 << (VALUE_BITS + MATRIX_BITS - 1)) - coefficients.black * coefficients.luma;
    let pixels = red.chunks_mut(2).zip(green.chunks_mut(2)).zip(blue.chunks_mut(2));
    for (((red, green), blue), (cb, cr)) in pixels.zip(cb.iter().zip(cr)) {
        let (cb, cr) = (i32::from(*cb) - (128 << VALUE_BITS), i32::from(*cr) - (128 << VALUE_BITS));
        red.fill(base + coefficients.cr_in_red * cr);
        green.fill(base + coefficients.cb_in_green * cb + coefficients.cr_in_green * cr);
        blue.fill(base + coefficients.cb_in_blue * cb);
    }
}

/// Luma and chroma to codes, and the codes of a pixel side by side. Two loops, because only the first one fills vectors.
#[inline(always)]
fn write_rgb(
    coefficients: &Coefficients,
    luma: &[i16],
    added: &[Vec<i32>; 3],
    codes: &mut [Vec<u8>; 3],
    out: &mut [u8],
) {
    for (added, codes) in added.iter().zip(codes.iter_mut()) {
        for ((code, luma), added) in codes.iter_mut().zip(luma).zip(added) {
            let value = i32::from(*luma).wrapping_mul(coefficients.luma).wrapping_add(*added);
            *code = (value >> (VALUE_BITS + MATRIX_BITS)).clamp(0, 255) as u8;
        }
    }
    let [red, green, blue] = codes;
    for (((pixel, red), green), blue) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        (pixel[0], pixel[1], pixel[2]) = (*red, *green, *blue);
    }
}

#[cfg(test)]
mod tests;
