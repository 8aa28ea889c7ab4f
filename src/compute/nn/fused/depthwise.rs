//! Rows of depthwise convolutions. Tiles are as wide as registers allow, and divide the widths that networks have: multiples of 8 for
//! pictures of 256, and of 7 for pictures of 224.
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use super::format::ValueFormat;
use super::kernel::LANES;
use super::simd::SimdVector;

/// A row of a depthwise convolution of one block of channels.
#[derive(Clone, Copy)]
pub(super) struct DepthwiseRow {
    /// The first tap of the first output pixel, and words between rows of the input.
    pub x: *const f32,
    pub x_row: usize,
    /// Kernel · kernel · 16 values; for bytes see [`turned_lines`].
    pub weights: *const f32,
    pub bias: *const f32,
    pub scale: *const f32,
    pub y: *mut f32,
    pub kernel: usize,
    pub stride: usize,
    pub bounds: (f32, f32),
    pub pixels: usize,
}

/// # Safety
/// The processor has the instructions of `L`; every pointer of `job` is valid for its shape; nothing else writes `y` meanwhile.
#[inline(always)]
pub(super) unsafe fn depthwise<L: SimdVector, F: ValueFormat>(mut job: DepthwiseRow) {
    macro_rules! tiles {
        ($tile:ident, $kernel:expr, $stride:literal: $($p:literal)*) => {$(
            while job.pixels >= $p {
                // SAFETY: the tile is inside the row.
                unsafe {
                    $tile::<L, F, $p, $stride>(&job, $kernel);
                    job.x = job.x.add($p * job.stride * F::WORDS);
                    job.y = job.y.add($p * F::WORDS);
                }
                job.pixels -= $p;
            }
        )*};
    }
    if F::WORDS < LANES / 2 {
        match (job.kernel, job.stride) {
            (3, 1) => {
                tiles!(turned_tile, 3, 1: 14 6 2);
            }
            (3, 2) => {
                tiles!(turned_tile, 3, 2: 14 7);
            }
            (5, _) => {
                tiles!(turned_tile, 5, 0: 8 7);
            }
            _ => {}
        }
        tiles!(turned_tile, job.kernel, 0: 1);
        return;
    }
    macro_rules! converted {
        ($kernel:literal, $stride:literal) => {{
            if job.pixels.is_multiple_of(8) {
                tiles!(converted_tile, $kernel, $stride: 8);
            }
            tiles!(converted_tile, $kernel, $stride: 7);
        }};
    }
    match (job.kernel, job.stride) {
        (7, 1) if L::WIDE => {
            tiles!(depthwise_tile, 7, 1: 16 8);
        }
        (7, 2) if L::WIDE => {
            tiles!(depthwise_tile, 7, 2: 16 8);
        }
        (3, 1) if L::WIDE && F::WORDS < LANES => converted!(3, 1),
        (3, 2) if L::WIDE && F::WORDS < LANES => converted!(3, 2),
        (5, 1) if L::WIDE && F::WORDS < LANES => converted!(5, 1),
        (5, 2) if L::WIDE && F::WORDS < LANES => converted!(5, 2),
        (3, 1) if L::WIDE => {
            tiles!(depthwise_tile, 3, 1: 14 8 7);
        }
        (3, 2) if L::WIDE => {
            tiles!(depthwise_tile, 3, 2: 14 8 7);
        }
        (5, 1) if L::WIDE => {
            tiles!(depthwise_tile, 5, 1: 16 8 7);
        }
        (5, 2) if L::WIDE => {
            tiles!(depthwise_tile, 5, 2: 16 8 7);
        }
        _ => {}
    }
    tiles!(depthwise_tile, job.kernel, 0: 4 1);
}

/// Lines of weights per row of taps for bytes: a line has four taps, which one instruction multiplies. With three taps there is
/// a line for each of two neighbouring output pixels, whose taps are among the same four.
pub(super) const fn turned_lines(kernel: usize) -> usize {
    if kernel == 3 { 2 } else { kernel.div_ceil(4) }
}

/// `P` pixels of a depthwise convolution of bytes, an even number if `STRIDE` is 1. `STRIDE` 0 means
/// `job.stride`. Reads up to three pixels beyond the last tap, and multiplies them by 0.
///
/// # Safety
/// As [`depthwise`].
#[inline(always)]
unsafe fn turned_tile<L: SimdVector, F: ValueFormat, const P: usize, const STRIDE: usize>(
    job: &DepthwiseRow,
    kernel: usize,
) {
    let stride = if STRIDE == 0 { job.stride } else { STRIDE };
    let lines = turned_lines(kernel);
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums: [L; P] = [F::begin(job.bias); P];
        let turn = L::turn();
        for ky in 0..kernel {
            let x = job.x.add(ky * job.x_row);
            let weights = |line: usize| L::load(job.weights.add((ky * lines + line) * LANES));
            if STRIDE == 1 {
                let (even, odd) = (weights(0), weights(1));
                for p in 0..P / 2 {
                    let four = L::turn_u8(x.add(2 * p * F::WORDS), turn);
                    sums[2 * p] = sums[2 * p].dot_u8(four, even);
                    sums[2 * p + 1] = sums[2 * p + 1].dot_u8(four, odd);
                }
            } else {
                for four in 0..kernel.div_ceil(4) {
                    let w = weights(four);
                    for p in 0..P {
                        sums[p] = sums[p].dot_u8(L::turn_u8(x.add((p * stride + 4 * four) * F::WORDS), turn), w);
                    }
                }
            }
        }
        for p in 0..P {
            sums[p] = F::end(sums[p], job.scale, job.bias);
        }
        F::store_row(sums, job.bounds, job.y);
    }
}

/// The most values of a row of taps: eight pixels of a kernel of five with stride 2.
const CONVERTED: usize = 19;

/// `P` pixels of a depthwise convolution. `STRIDE` 0 means `job.stride`.
///
/// # Safety
/// As [`depthwise`].
#[inline(always)]
unsafe fn depthwise_tile<L: SimdVector, F: ValueFormat, const P: usize, const STRIDE: usize>(
    job: &DepthwiseRow,
    kernel: usize,
) {
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
        F::store_row(sums, job.bounds, job.y);
    }
}

/// As [`depthwise_tile`], for values that are stored in another format than `f32`: each value of a row of taps is converted once, and
/// kept in a register for all taps that use it.
///
/// # Safety
/// As [`depthwise`].
#[inline(always)]
unsafe fn converted_tile<L: SimdVector, F: ValueFormat, const P: usize, const STRIDE: usize>(
    job: &DepthwiseRow,
    kernel: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [L::load(job.bias); P];
        for ky in 0..kernel {
            let from = job.x.add(ky * job.x_row);
            let mut x = [L::zero(); CONVERTED];
            for i in 0..(P - 1) * STRIDE + kernel {
                x[i] = F::load(from.add(i * F::WORDS));
            }
            for kx in 0..kernel {
                let w = L::load(job.weights.add((ky * kernel + kx) * LANES));
                for p in 0..P {
                    sums[p] = sums[p].fma(x[p * STRIDE + kx], w);
                }
            }
        }
        F::store_row(sums, job.bounds, job.y);
    }
}
