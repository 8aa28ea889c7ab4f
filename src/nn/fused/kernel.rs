//! The inner loops: convolution as a matrix product without columns, depthwise convolution, and what stands between them.
//!
//! A convolution's sum runs over *segments*: places in the input, relative to an output pixel's first tap, from which `run`
//! consecutive values are multiplied with `run` rows of 16 weights each. In a picture of blocks of 16 channels a segment is
//! a tap and a block (`run` = 16); in a planar picture, of the first layer, it is a row of taps (`run` = the kernel). So
//! one loop does for every convolution, and nothing is copied into columns.
//!
//! Sources: Georganas et al., *Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures*, 2018 (blocked
//! layout, register tiles); Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008 (pieces of
//! the sum that stay in the cache).
#![allow(unsafe_code)]
// Counted loops over arrays that are registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::lanes::{Format, Lanes, Single};

/// Channels of a block: the lanes of one register.
pub(super) const LANES: usize = 16;

/// The sum of a convolution and where its input lies. Offsets are in words of 4 bytes: one value, or two of bf16.
#[derive(Clone, Debug)]
pub(super) struct Reduction {
    /// Where each segment begins, from the first tap of the output pixel.
    pub segments: Vec<u32>,
    /// Words of a segment.
    pub run: usize,
    /// Between the inputs of neighbouring output pixels: one of those that tiles are compiled for, a pixel of blocks or of
    /// planes with stride 1 or 2.
    pub step: usize,
}

/// Segments that are asked for ahead.
const AHEAD: usize = 1;

/// What a call computes: `blocks` of output channels at some rows, over some segments of the sum.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub reduction: &'a Reduction,
    /// The segments of this call, a piece of the sum.
    pub segments: (usize, usize),
    /// The first output pixel's first tap.
    pub x: *const f32,
    /// Weights of the first block at segment 0, and how many words one block has.
    pub weights: *const f32,
    pub weights_block: usize,
    /// Sixteen a block.
    pub bias: *const f32,
    /// The first output pixel in the first block, and words between blocks.
    pub y: *mut f32,
    pub y_block: usize,
    /// Added before the activation; as `y`. Null where there is none.
    pub residual: *const f32,
    pub residual_block: usize,
    /// Sums of a call that is not the last, pixel by pixel and block by block. Null where one call does all.
    pub scratch: *mut f32,
    /// The activation is a clamp.
    pub bounds: (f32, f32),
    /// Whether sums begin and end with this call.
    pub first: bool,
    pub last: bool,
    /// Pixels in the row.
    pub pixels: usize,
}

/// One row of output pixels for `B` blocks.
///
/// # Safety
/// The processor has the instructions of `L`; every pointer of `job` is valid for what its shape says; nothing else writes
/// `y` or `scratch` meanwhile.
#[inline(always)]
unsafe fn row<L: Lanes, X: Format, Y: Format, const B: usize, const STEP: usize>(mut job: Rows<'_>) {
    macro_rules! tiles {
        ($($p:literal)*) => {$(
            while job.pixels >= $p {
                // SAFETY: the tile lies in the row.
                unsafe {
                    tile::<L, X, Y, $p, B, STEP>(&job);
                    job.x = job.x.add($p * STEP);
                    job.y = job.y.add($p * Y::WORDS);
                    if !job.residual.is_null() {
                        job.residual = job.residual.add($p * Y::WORDS);
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
        tiles!(14 7 2 1);
    } else if L::WIDE {
        tiles!(7 2 1);
    } else {
        tiles!(6 1);
    }
}

/// `P` output pixels of `B` blocks: all sums stay in registers.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn tile<L: Lanes, X: Format, Y: Format, const P: usize, const B: usize, const STEP: usize>(job: &Rows<'_>) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[L::zero(); P]; B];
        for b in 0..B {
            let bias = if job.first { L::load(job.bias.add(b * LANES)) } else { L::zero() };
            for p in 0..P {
                sums[b][p] = if job.first { bias } else { L::load(job.scratch.add((p * B + b) * LANES)) };
            }
        }
        let run = job.reduction.run;
        let mut weights = job.weights.add(job.segments.0 * run * LANES);
        let segments = &job.reduction.segments[job.segments.0..job.segments.1];
        for (i, segment) in segments.iter().enumerate() {
            let mut x = job.x.add(*segment as usize);
            // The next segment may be in another plane, where no prefetcher of the processor looks.
            let mut next = job.x.wrapping_add(segments[(i + AHEAD).min(segments.len() - 1)] as usize);
            for _ in 0..run {
                if STEP >= X::WORDS {
                    L::prefetch(next);
                    next = next.wrapping_add(STEP);
                }
                let mut w = [L::zero(); B];
                for b in 0..B {
                    w[b] = L::load(weights.add(b * job.weights_block));
                }
                for p in 0..P {
                    let value = L::splat(x.add(p * STEP));
                    for b in 0..B {
                        sums[b][p] = X::dot(sums[b][p], value, w[b]);
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
        let (low, high) = (L::splat(&job.bounds.0), L::splat(&job.bounds.1));
        for b in 0..B {
            for p in 0..P {
                let mut sum = sums[b][p];
                if !job.residual.is_null() {
                    sum = sum.add(Y::load(job.residual.add(b * job.residual_block + p * Y::WORDS)));
                }
                Y::store(sum.at_least(low).at_most(high), job.y.add(b * job.y_block + p * Y::WORDS));
            }
        }
    }
}

/// One row for a group of blocks (4, 2 or 1; narrow registers: 1), of an input of blocks in the same format as the output.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn convolve<L: Lanes, F: Format>(blocks: usize, job: Rows<'_>) {
    // Every line is a piece of code of its own, compiled for every instruction set and format.
    // SAFETY: the caller's promise.
    unsafe {
        match (blocks, job.reduction.step, F::WORDS) {
            (4, 16, 16) if L::WIDE => row::<L, F, F, 4, 16>(job),
            (2, 16, 16) if L::WIDE => row::<L, F, F, 2, 16>(job),
            (1, 16, 16) => row::<L, F, F, 1, 16>(job),
            (4, 32, 16) if L::WIDE => row::<L, F, F, 4, 32>(job),
            (2, 32, 16) if L::WIDE => row::<L, F, F, 2, 32>(job),
            (1, 32, 16) => row::<L, F, F, 1, 32>(job),
            (4, 8, 8) if L::WIDE => row::<L, F, F, 4, 8>(job),
            (2, 8, 8) if L::WIDE => row::<L, F, F, 2, 8>(job),
            (1, 8, 8) => row::<L, F, F, 1, 8>(job),
            (4, 16, 8) if L::WIDE => row::<L, F, F, 4, 16>(job),
            (2, 16, 8) if L::WIDE => row::<L, F, F, 2, 16>(job),
            (1, 16, 8) => row::<L, F, F, 1, 16>(job),
            _ => unreachable!("blocks and step are chosen among those compiled"),
        }
    }
}

/// As [`convolve`], of the network's input: planes of `f32`; groups of 2 or 1.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn convolve_planes<L: Lanes, F: Format>(blocks: usize, job: Rows<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (blocks, job.reduction.step) {
            (2, 2) if L::WIDE => row::<L, Single, F, 2, 2>(job),
            (1, 2) => row::<L, Single, F, 1, 2>(job),
            (2, 1) if L::WIDE => row::<L, Single, F, 2, 1>(job),
            (1, 1) => row::<L, Single, F, 1, 1>(job),
            _ => unreachable!("blocks and step are chosen among those compiled"),
        }
    }
}

/// A row of a depthwise convolution of one block of channels.
#[derive(Clone, Copy)]
pub(super) struct DepthwiseRow {
    /// The first tap of the first output pixel, and words between rows of the input.
    pub x: *const f32,
    pub x_row: usize,
    /// Kernel · kernel · 16 values.
    pub weights: *const f32,
    pub bias: *const f32,
    pub y: *mut f32,
    pub kernel: usize,
    pub stride: usize,
    pub bounds: (f32, f32),
    pub pixels: usize,
}

/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn depthwise<L: Lanes, F: Format>(mut job: DepthwiseRow) {
    macro_rules! tiles {
        ($kernel:expr, $stride:literal: $($p:literal)*) => {$(
            while job.pixels >= $p {
                // SAFETY: the tile lies in the row.
                unsafe {
                    depthwise_tile::<L, F, $p, $stride>(&job, $kernel);
                    job.x = job.x.add($p * job.stride * F::WORDS);
                    job.y = job.y.add($p * F::WORDS);
                }
                job.pixels -= $p;
            }
        )*};
    }
    match (job.kernel, job.stride) {
        (3, 1) if L::WIDE => {
            tiles!(3, 1: 14 7);
        }
        (3, 2) if L::WIDE => {
            tiles!(3, 2: 14 7);
        }
        _ => {}
    }
    tiles!(job.kernel, 0: 4 1);
}

/// `STRIDE` 0 takes the job's own.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn depthwise_tile<L: Lanes, F: Format, const P: usize, const STRIDE: usize>(job: &DepthwiseRow, kernel: usize) {
    let stride = if STRIDE == 0 { job.stride } else { STRIDE };
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [L::load(job.bias); P];
        for ky in 0..kernel {
            let x = job.x.add(ky * job.x_row);
            for kx in 0..kernel {
                let w = L::load(job.weights.add((ky * kernel + kx) * LANES));
                for p in 0..P {
                    sums[p] = sums[p].fma(F::load(x.add((p * stride + kx) * F::WORDS)), w);
                }
            }
        }
        let (low, high) = (L::splat(&job.bounds.0), L::splat(&job.bounds.1));
        for p in 0..P {
            F::store(sums[p].at_least(low).at_most(high), job.y.add(p * F::WORDS));
        }
    }
}

/// The greatest value under each window of a row; windows do not reach over the picture's border.
///
/// # Safety
/// As [`row`]: `rows` × `columns(pixel)` pixels are valid from `x`.
#[inline(always)]
pub(super) unsafe fn max_row<L: Lanes, F: Format>(
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
pub(super) unsafe fn scale_shift<L: Lanes, F: Format>(
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
pub(super) unsafe fn sum<L: Lanes, F: Format>(x: *const f32, y: *mut f32, pixels: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = L::zero();
        for pixel in 0..pixels {
            sum = sum.add(F::load(x.add(pixel * F::WORDS)));
        }
        sum.store(y);
    }
}

/// One lane of a row of pixels, into a row of a plane.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub(super) unsafe fn planes<L: Lanes, F: Format>(
    x: *const f32,
    (y, plane): (*mut f32, usize),
    lanes: usize,
    pixels: usize,
) {
    for pixel in 0..pixels {
        let mut values = [0f32; LANES];
        // SAFETY: as the caller promises.
        unsafe {
            F::load::<L>(x.add(pixel * F::WORDS)).store(values.as_mut_ptr());
            for (lane, value) in values[..lanes].iter().enumerate() {
                y.add(lane * plane + pixel).write(*value);
            }
        }
    }
}
