//! Depthwise convolutions of a batch, forward and backward: row by row, with the rows that a window needs in a ring of `f32`.
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use super::engine::{Shared, Task, share};
use super::kernel::{self, LANES, Sums, add_to};
use super::values::{BatchShape, GradientTarget, GradientView, View};
use super::window::Window;
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Rows of `f32` pixels with zeros at their left and right, of which the last few are kept.
struct Ring {
    from: *mut f32,
    rows: usize,
    /// Zeros at the left and right, pixels.
    before: usize,
    after: usize,
    width: usize,
    /// Values of a pixel.
    pixel: usize,
}

impl Ring {
    fn row_words(&self) -> usize {
        (self.before + self.width + self.after) * self.pixel
    }

    fn words(&self) -> usize {
        self.rows * self.row_words()
    }

    /// Address of a row with its border.
    fn row(&self, row: usize) -> *mut f32 {
        self.from.wrapping_add(row % self.rows * self.row_words())
    }

    /// Address of the first pixel of a row.
    fn inner(&self, row: usize) -> *mut f32 {
        self.row(row).wrapping_add(self.before * self.pixel)
    }

    /// # Safety
    /// The ring's memory is valid.
    #[inline(always)]
    unsafe fn clear_borders(&self) {
        for row in 0..self.rows {
            let row = self.row(row);
            // SAFETY: the caller's promise.
            unsafe {
                row.write_bytes(0, self.before * self.pixel);
                row.add((self.before + self.width) * self.pixel).write_bytes(0, self.after * self.pixel);
            }
        }
    }
}

/// A tap of a row: its input for the first output pixel, and its weights.
type Tap = (*const f32, *const f32);

/// `out[i] = Σ tap[i · step] · weights` for `count` pixels of all blocks.
///
/// # Safety
/// The processor has the instructions of `L`; all pointers are valid.
#[inline(always)]
unsafe fn filter<L: SimdVector>(
    taps: &[Tap],
    step: usize,
    blocks: usize,
    (out, out_step): (*mut f32, usize),
    count: usize,
) {
    for block in 0..blocks {
        let at = block * LANES;
        let mut pixel = 0;
        macro_rules! tiles {
            ($($p:literal)*) => {$(
                while count - pixel >= $p {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let mut sums = [L::zero(); $p];
                        for (from, weights) in taps {
                            let weights = L::load(weights.add(at));
                            let from = from.add(pixel * step + at);
                            for p in 0..$p {
                                sums[p] = sums[p].fma(L::load(from.add(p * step)), weights);
                            }
                        }
                        for p in 0..$p {
                            sums[p].store(out.add((pixel + p) * out_step + at));
                        }
                    }
                    pixel += $p;
                }
            )*};
        }
        if L::WIDE {
            tiles!(14 7);
        }
        tiles!(4 1);
    }
}

/// Adds `Σ x[i · step + tap] · grad[i]` to the gradient of each of `K` neighbouring taps.
///
/// # Safety
/// As [`filter`].
#[inline(always)]
unsafe fn tap_grads<L: SimdVector, const K: usize>(
    x: *const f32,
    (step, pixel): (usize, usize),
    grad: *const f32,
    blocks: usize,
    count: usize,
    to: *mut f32,
) {
    for block in 0..blocks {
        let at = block * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[L::zero(); 2]; K];
            macro_rules! pixel {
                ($i:expr, $sum:literal) => {
                    let value = L::load(grad.add($i * pixel + at));
                    for k in 0..K {
                        sums[k][$sum] = sums[k][$sum].fma(L::load(x.add($i * step + k * pixel + at)), value);
                    }
                };
            }
            for two in 0..count / 2 {
                pixel!((2 * two), 0);
                pixel!((2 * two + 1), 1);
            }
            if count % 2 == 1 {
                pixel!((count - 1), 0);
            }
            for k in 0..K {
                add_to(to.add(k * pixel + at), sums[k][0].add(sums[k][1]));
            }
        }
    }
}

/// A depthwise convolution.
pub(super) struct DepthwiseForward<'a> {
    pub x: View<'a>,
    pub window: Window,
    pub y: BatchShape,
    /// Taps × padded channels.
    pub weights: &'a [f32],
    pub out: Shared,
    /// As for [`super::conv::ConvForward`].
    pub sums: Option<(&'a [f32], Shared)>,
}

/// The ring for the inputs of a window.
fn input_ring(x: &BatchShape, window: &Window, from: *mut f32) -> Ring {
    let (rows, before) = (window.kernel, window.before);
    Ring { from, rows, before, after: window.after(x.width), width: x.width, pixel: x.padded() }
}

impl DepthwiseForward<'_> {
    /// Words of scratch.
    pub fn scratch(&self) -> usize {
        let x = &self.x.values.shape;
        input_ring(x, &self.window, std::ptr::null_mut()).words() + self.y.width * x.padded()
    }
}

impl Task for DepthwiseForward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y);
        let Window { kernel, stride, before } = self.window;
        let blocks = x.blocks();
        let ring = input_ring(x, &self.window, scratch);
        let tile = scratch.wrapping_add(ring.words());
        let mut taps = Vec::with_capacity(kernel * kernel);
        // SAFETY: the caller's promise; offsets lie in values and scratch.
        unsafe {
            ring.clear_borders();
            let sums = self.sums.map(|(centre, sums)| {
                let first = sums.0.add(number * 2 * y.padded());
                (Sums { first, second: first.add(y.padded()) }, centre.as_ptr())
            });
            for sample in share(x.samples, number, 1) {
                let mut known = 0;
                for line in 0..y.height {
                    while known < x.height.min((line * stride + kernel).saturating_sub(before)) {
                        let first = (sample * x.height + known) * x.width;
                        self.x.copy_f32::<L, F>(first, x.width, ring.inner(known));
                        known += 1;
                    }
                    taps.clear();
                    for ky in 0..kernel {
                        let Some(at) = (line * stride + ky).checked_sub(before).filter(|at| *at < x.height) else {
                            continue;
                        };
                        taps.extend((0..kernel).map(|kx| {
                            let weights = self.weights.as_ptr().add((ky * kernel + kx) * ring.pixel);
                            (ring.row(at).add(kx * ring.pixel).cast_const(), weights)
                        }));
                    }
                    filter::<L>(&taps, stride * ring.pixel, blocks, (tile, ring.pixel), y.width);
                    let out = self.out.0.add((sample * y.height + line) * y.width * blocks * F::WORDS);
                    kernel::finish_forward::<L, F>(tile, y.width, blocks, out, sums);
                }
            }
        }
    }
}

/// The gradients of a depthwise convolution.
pub(super) struct DepthwiseBackward<'a> {
    pub y: GradientView<'a>,
    pub x: View<'a>,
    pub window: Window,
    /// Taps × padded channels.
    pub weights: &'a [f32],
    pub target: Option<GradientTarget<'a>>,
    /// For each group: taps × padded channels.
    pub weight_grads: Shared,
}

impl DepthwiseBackward<'_> {
    /// Values of the gradient of the weights.
    pub fn weight_values(&self) -> usize {
        self.window.kernel.pow(2) * self.x.values.shape.padded()
    }

    fn grad_ring(&self, from: *mut f32) -> Ring {
        let y = &self.y.grad.shape;
        let (before, after) = self.window.border(self.x.values.shape.width);
        Ring { from, rows: self.window.kernel, before, after, width: y.width, pixel: y.padded() }
    }

    /// Words of scratch.
    pub fn scratch(&self) -> usize {
        let x = &self.x.values.shape;
        let rings =
            input_ring(x, &self.window, std::ptr::null_mut()).words() + self.grad_ring(std::ptr::null_mut()).words();
        rings + x.width * x.padded()
    }
}

impl Task for DepthwiseBackward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        let Window { kernel, stride, before } = self.window;
        let blocks = x.blocks();
        let inputs = input_ring(x, &self.window, scratch);
        let grads = self.grad_ring(scratch.wrapping_add(inputs.words()));
        let tile = grads.from.wrapping_add(grads.words());
        // SAFETY: the caller's promise; offsets lie in values and scratch.
        unsafe {
            let to = self.weight_grads.0.add(number * self.weight_values());
            to.write_bytes(0, self.weight_values());
            inputs.clear_borders();
            grads.clear_borders();
            for sample in share(x.samples, number, 1) {
                let [mut known, mut done] = [0; 2];
                for line in 0..y.height {
                    self.y.copy_f32::<L, F>((sample * y.height + line) * y.width, y.width, grads.inner(line));
                    while known < x.height.min((line * stride + kernel).saturating_sub(before)) {
                        let first = (sample * x.height + known) * x.width;
                        self.x.copy_f32::<L, F>(first, x.width, inputs.inner(known));
                        known += 1;
                    }
                    for ky in 0..kernel {
                        let Some(at) = (line * stride + ky).checked_sub(before).filter(|at| *at < x.height) else {
                            continue;
                        };
                        let (grad, steps) = (grads.inner(line).cast_const(), (stride * inputs.pixel, inputs.pixel));
                        let row = to.add(ky * kernel * inputs.pixel);
                        match kernel {
                            3 => tap_grads::<L, 3>(inputs.row(at), steps, grad, blocks, y.width, row),
                            5 => tap_grads::<L, 5>(inputs.row(at), steps, grad, blocks, y.width, row),
                            _ => {
                                for kx in 0..kernel {
                                    let (from, row) =
                                        (inputs.row(at).add(kx * inputs.pixel), row.add(kx * inputs.pixel));
                                    tap_grads::<L, 1>(from, steps, grad, blocks, y.width, row);
                                }
                            }
                        }
                    }
                    let Some(target) = &self.target else { continue };
                    // Rows of the input that no later row of the output reaches.
                    let end =
                        if line + 1 == y.height { x.height } else { ((line + 1) * stride).saturating_sub(before) };
                    while done < end.min(x.height) {
                        self.input_row::<L>(done, &grads, tile);
                        target.finish::<L, F>(tile, ((sample * x.height + done) * x.width, x.width), number);
                        done += 1;
                    }
                }
            }
        }
    }
}

impl DepthwiseBackward<'_> {
    /// The gradient of a row of the input.
    ///
    /// # Safety
    /// As [`Task::run`]; the ring has all rows of the output that the row reaches.
    #[inline(always)]
    unsafe fn input_row<L: SimdVector>(&self, row: usize, grads: &Ring, tile: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        let Window { kernel, stride, .. } = self.window;
        let mut taps: Vec<Tap> = Vec::with_capacity(kernel * kernel);
        for phase in 0..stride.min(x.width) {
            taps.clear();
            for (ky, at) in self.window.outputs_of(row) {
                if at < 0 || at >= y.height as isize {
                    continue;
                }
                taps.extend(self.window.outputs_of(phase).map(|(kx, column)| {
                    let at =
                        grads.row(at as usize).wrapping_offset((column + grads.before as isize) * grads.pixel as isize);
                    (at.cast_const(), self.weights.as_ptr().wrapping_add((ky * kernel + kx) * grads.pixel))
                }));
            }
            let out = (tile.wrapping_add(phase * grads.pixel), stride * grads.pixel);
            // SAFETY: the caller's promise; the border of the ring has the columns beyond its ends.
            unsafe { filter::<L>(&taps, grads.pixel, x.blocks(), out, (x.width - phase).div_ceil(stride)) };
        }
    }
}
