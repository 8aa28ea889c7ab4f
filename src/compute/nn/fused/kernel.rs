//! The inner loops: convolution as a matrix product without columns, depthwise convolution, pooling, scale and shift.
//!
//! The sum of a convolution runs over *segments*: offsets in the input, relative to the first tap of an output pixel, where
//! `run` consecutive values are multiplied with `run` rows of 16 weights each. In a picture of blocks of 16 channels a segment is
//! a tap and a block (`run` = the words of 16 channels); in a planar picture, of the first layer, it is a row of taps
//! (`run` = the kernel). So one loop serves every convolution, and nothing is copied into columns.
//!
//! Sources: Georganas et al., *Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures*, 2018 (blocked
//! layout, register tiles); Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008 (pieces of
//! the sum that stay in the cache).
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::format::ValueFormat;
use super::simd::SimdVector;

/// Channels of a block: the lanes of one register.
pub(super) const LANES: usize = 16;

/// The sum of a convolution: the offsets of its input. Offsets are in words of 4 bytes: one f32, two bf16 or four bytes.
#[derive(Clone, Debug)]
pub(super) struct Reduction {
    /// Offset of each segment from the first tap of the output pixel.
    pub segments: Vec<u32>,
    /// Words of a segment.
    pub run: usize,
    /// Distance between the inputs of neighbouring output pixels. Tiles are compiled for these: a pixel of blocks or of planes,
    /// with stride 1 or 2.
    pub step: usize,
}

/// How many segments ahead the input is prefetched.
const AHEAD: usize = 1;

/// The arguments of a call: one row of output pixels for a group of blocks, over a piece of the sum.
#[derive(Clone, Copy)]
pub(super) struct ConvRows<'a> {
    pub reduction: &'a Reduction,
    /// The segments of this call.
    pub segments: (usize, usize),
    /// The first output pixel's first tap.
    pub x: *const f32,
    /// Weights of the first block at segment 0, and words per block.
    pub weights: *const f32,
    pub weights_block: usize,
    /// Biases, sixteen per block, and scales of the sums where the format has them.
    pub bias: *const f32,
    pub scale: *const f32,
    /// The first output pixel in the first block, and words between blocks.
    pub y: *mut f32,
    pub y_block: usize,
    /// Added before the activation; laid out like `y`. Null if there is none.
    pub residual: *const f32,
    pub residual_block: usize,
    pub residual_factor: *const f32,
    /// Sums between the calls of one row, by pixel and block. Null if one call computes the whole sum.
    pub scratch: *mut f32,
    /// Bounds of the activation.
    pub bounds: (f32, f32),
    /// Whether this is the first and the last call of the sum.
    pub first: bool,
    pub last: bool,
    /// Pixels in the row.
    pub pixels: usize,
    /// Weights that are needed after these: every tile prefetches from one of the streams.
    pub prefetch: Prefetch,
}

/// The weights that are needed next, a stream of lines per block. They come from the last-level cache or memory, so each tile
/// prefetches as many lines as it reads: they arrive in time, and the memory bus is not flooded.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    streams: [*const f32; 4],
    asked: usize,
}

impl Prefetch {
    /// Nothing to prefetch.
    pub const NONE: Prefetch = Prefetch { streams: [std::ptr::null(); 4], asked: 4 };

    /// The streams of `blocks` blocks, `block` words apart.
    pub fn new(first: *const f32, block: usize, blocks: usize) -> Self {
        // Only the last streams are used.
        let streams = std::array::from_fn(|i| first.wrapping_add((i + blocks).saturating_sub(4) * block));
        Self { streams, asked: 4 - blocks }
    }

    /// The stream that a tile which reads `own` prefetches: the next one, or `own` when none is left.
    #[inline(always)]
    fn next(&mut self, own: *const f32) -> *const f32 {
        let stream = self.streams.get(self.asked).map_or(own, |stream| *stream);
        self.asked += 1;
        stream
    }
}

/// One row of output pixels for `B` blocks. Returns the weights that are still to be prefetched.
///
/// # Safety
/// The processor has the instructions of `L`; every pointer of `job` is valid for its shape; nothing else writes
/// `y` or `scratch` meanwhile.
#[inline(always)]
unsafe fn row<L: SimdVector, F: ValueFormat, const B: usize, const STEP: usize>(mut job: ConvRows<'_>) -> Prefetch {
    macro_rules! tiles {
        ($($p:literal)*) => {$(
            while job.pixels >= $p {
                // SAFETY: the tile is inside the row.
                unsafe {
                    let own = job.weights.add(job.segments.0 * job.reduction.run * LANES);
                    let prefetch = job.prefetch.next(own);
                    tile::<L, F, $p, B, STEP>(&job, prefetch);
                    job.x = job.x.add($p * STEP);
                    job.y = job.y.add($p * F::WORDS);
                    if !job.residual.is_null() {
                        job.residual = job.residual.add($p * F::WORDS);
                    }
                    if !job.scratch.is_null() {
                        job.scratch = job.scratch.add($p * B * LANES);
                    }
                }
                job.pixels -= $p;
            }
        )*};
    }
    if L::WIDE && B <= 2 {
        // Tiles of 14 would leave two to four pixels of such a row, which cost as much as a whole tile.
        if job.pixels < 56 && job.pixels.is_multiple_of(8) {
            tiles!(8);
        }
        tiles!(14 8 7 2 1);
    } else if L::WIDE {
        tiles!(7 2 1);
    } else {
        tiles!(6 1);
    }
    job.prefetch
}

/// `P` output pixels of `B` blocks: all sums stay in registers.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn tile<L: SimdVector, F: ValueFormat, const P: usize, const B: usize, const STEP: usize>(
    job: &ConvRows<'_>,
    mut prefetch: *const f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[L::zero(); P]; B];
        for b in 0..B {
            let bias = if job.first { F::begin(job.bias.add(b * LANES)) } else { L::zero() };
            for p in 0..P {
                sums[b][p] = if job.first { bias } else { L::load(job.scratch.add((p * B + b) * LANES)) };
            }
        }
        let run = job.reduction.run;
        let mut weights = job.weights.add(job.segments.0 * run * LANES);
        let segments = &job.reduction.segments[job.segments.0..job.segments.1];
        for (i, segment) in segments.iter().enumerate() {
            let mut x = job.x.add(*segment as usize);
            // The next segment may be in another plane, which the hardware prefetcher does not predict.
            let mut next = job.x.wrapping_add(segments[(i + AHEAD).min(segments.len() - 1)] as usize);
            for _ in 0..run {
                L::prefetch_far(prefetch);
                prefetch = prefetch.wrapping_add(LANES);
                if STEP >= F::WORDS {
                    L::prefetch(next);
                    // Neighbouring pixels may share a cache line.
                    next = next.wrapping_add(if STEP < LANES { LANES } else { STEP });
                }
                let mut w = [L::zero(); B];
                for b in 0..B {
                    w[b] = L::load(weights.add(b * job.weights_block));
                }
                for p in 0..P {
                    let value = L::splat(x.add(p * STEP));
                    for b in 0..B {
                        sums[b][p] = F::dot(sums[b][p], value, w[b]);
                    }
                }
                x = x.add(1);
                weights = weights.add(LANES);
            }
        }
        if !job.last {
            for b in 0..B {
                for p in 0..P {
                    sums[b][p].store(job.scratch.add((p * B + b) * LANES));
                }
            }
            return;
        }
        // Short loop bodies: the compiler does not unroll longer ones, and would then keep the sums in memory.
        for b in 0..B {
            let (scale, bias) = (job.scale.wrapping_add(b * LANES), job.bias.add(b * LANES));
            for p in 0..P {
                sums[b][p] = F::end(sums[b][p], scale, bias);
            }
        }
        if !job.residual.is_null() {
            for b in 0..B {
                for p in 0..P {
                    let value = F::load(job.residual.add(b * job.residual_block + p * F::WORDS));
                    sums[b][p] = F::beside(sums[b][p], value, job.residual_factor.wrapping_add(b * LANES));
                }
            }
        }
        for b in 0..B {
            F::store_row(sums[b], job.bounds, job.y.add(b * job.y_block));
        }
    }
}

/// One row for a group of blocks (4, 2 or 1; narrow registers: 1), of an input of blocks in the same format as the output.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn convolve<L: SimdVector, F: ValueFormat>(blocks: usize, job: ConvRows<'_>) -> Prefetch {
    // Every arm is a separate function, compiled for every instruction set and format.
    // SAFETY: the caller's promise.
    unsafe {
        match (blocks, job.reduction.step, F::WORDS) {
            (4, 16, 16) if L::WIDE => row::<L, F, 4, 16>(job),
            (2, 16, 16) if L::WIDE => row::<L, F, 2, 16>(job),
            (1, 16, 16) => row::<L, F, 1, 16>(job),
            (4, 32, 16) if L::WIDE => row::<L, F, 4, 32>(job),
            (2, 32, 16) if L::WIDE => row::<L, F, 2, 32>(job),
            (1, 32, 16) => row::<L, F, 1, 32>(job),
            (4, 8, 8) if L::WIDE => row::<L, F, 4, 8>(job),
            (2, 8, 8) if L::WIDE => row::<L, F, 2, 8>(job),
            (1, 8, 8) => row::<L, F, 1, 8>(job),
            (4, 16, 8) if L::WIDE => row::<L, F, 4, 16>(job),
            (2, 16, 8) if L::WIDE => row::<L, F, 2, 16>(job),
            (1, 16, 8) => row::<L, F, 1, 16>(job),
            (2, 4, 4) if L::WIDE => row::<L, F, 2, 4>(job),
            (1, 4, 4) => row::<L, F, 1, 4>(job),
            (2, 8, 4) if L::WIDE => row::<L, F, 2, 8>(job),
            (1, 8, 4) => row::<L, F, 1, 8>(job),
            _ => unreachable!("blocks and step are chosen among those compiled"),
        }
    }
}

/// As [`convolve`], of the network's input: planes of words; groups of 2 or 1.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn convolve_planes<L: SimdVector, F: ValueFormat>(blocks: usize, job: ConvRows<'_>) -> Prefetch {
    // SAFETY: the caller's promise.
    unsafe {
        match (blocks, job.reduction.step) {
            (2, 2) if L::WIDE => row::<L, F, 2, 2>(job),
            (1, 2) => row::<L, F, 1, 2>(job),
            (2, 1) if L::WIDE => row::<L, F, 2, 1>(job),
            (1, 1) => row::<L, F, 1, 1>(job),
            _ => unreachable!("blocks and step are chosen among those compiled"),
        }
    }
}

/// The maximum of each window of a row. Windows are cut at the picture's border.
///
/// # Safety
/// As [`row`]: `rows` × `columns(pixel)` pixels are valid from `x`.
#[inline(always)]
pub(super) unsafe fn max_row<L: SimdVector, F: ValueFormat>(
    x: *const f32,
    x_row: usize,
    rows: Range<usize>,
    columns: impl Fn(usize) -> Range<usize>,
    y: *mut f32,
    pixels: usize,
) {
    for pixel in 0..pixels {
        let columns = columns(pixel);
        // SAFETY: as the caller promises.
        unsafe {
            let mut most: L = F::load(x.add(rows.start * x_row + columns.start * F::WORDS));
            for row in rows.clone() {
                for column in columns.clone() {
                    most = most.at_least(F::load(x.add(row * x_row + column * F::WORDS)));
                }
            }
            F::store(most, y.add(pixel * F::WORDS));
        }
    }
}

/// `y = max(x · scale + shift, 0)` of one block, pixel by pixel.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn scale_shift<L: SimdVector, F: ValueFormat>(
    (x, y): (*const f32, *mut f32),
    (scale, shift): (*const f32, *const f32),
    bounds: (f32, f32),
    pixels: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let (scale, shift) = (L::load(scale), L::load(shift));
        let (low, high) = (L::splat(&bounds.0), L::splat(&bounds.1));
        for pixel in 0..pixels {
            let value = shift.fma(F::load(x.add(pixel * F::WORDS)), scale);
            F::store(value.at_least(low).at_most(high), y.add(pixel * F::WORDS));
        }
    }
}

/// Sum of a block's pixels, into 16 values.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn sum<L: SimdVector, F: ValueFormat>(x: *const f32, y: *mut f32, pixels: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = L::zero();
        for pixel in 0..pixels {
            sum = sum.add(F::load(x.add(pixel * F::WORDS)));
        }
        sum.store(y);
    }
}

/// Copies a row of a block to rows of planes, channel by channel. `real` converts a stored value.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn planes<L: SimdVector, F: ValueFormat>(
    x: *const f32,
    (y, plane): (*mut f32, usize),
    lanes: usize,
    pixels: usize,
    real: impl Fn(usize, f32) -> f32,
) {
    for pixel in 0..pixels {
        let mut values = [0f32; LANES];
        // SAFETY: as the caller promises.
        unsafe {
            F::load::<L>(x.add(pixel * F::WORDS)).store(values.as_mut_ptr());
            for (lane, value) in values[..lanes].iter().enumerate() {
                y.add(lane * plane + pixel).write(real(lane, *value));
            }
        }
    }
}
