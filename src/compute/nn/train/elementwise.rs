//! Passes over a whole batch that compute each value from those at the same place: sums of two batches, gradients.
#![allow(unsafe_code)]

use super::engine::{Shared, Task, share};
use super::kernel::{self, LANES, Pixels, Sums};
use super::values::{GradientTarget, GradientView, Values, View};
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Pixels of a tile: few, so that those of many channels stay in the cache.
const TILE: usize = 16;

/// Words of scratch for values of `padded` channels.
pub(super) fn scratch(padded: usize) -> usize {
    2 * TILE * padded
}

/// `clamp(a + b)`, or `clamp(a)`, with sums for statistics where they are wanted.
pub(super) struct Sum<'a> {
    pub a: View<'a>,
    pub b: Option<View<'a>>,
    pub bounds: (f32, f32),
    /// Null if only the statistics are wanted.
    pub out: Shared,
    pub sums: Option<(&'a [f32], Shared)>,
}

impl Task for Sum<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let shape = self.a.values.shape;
        let (blocks, padded) = (shape.blocks(), shape.padded());
        // SAFETY: the caller's promise; tiles lie in the batch.
        unsafe {
            let (low, high) = (L::splat(&self.bounds.0), L::splat(&self.bounds.1));
            let other = scratch.add(TILE * padded);
            let pixels = share(shape.pixels(), number, TILE);
            let sums = self.sums.map(|(centre, sums)| {
                let first = sums.0.add(number * 2 * padded);
                (Sums { first, second: first.add(padded) }, centre.as_ptr())
            });
            for first in pixels.clone().step_by(TILE) {
                let count = TILE.min(pixels.end - first);
                self.a.copy_f32::<L, F>(first, count, scratch);
                if let Some(b) = &self.b {
                    b.copy_f32::<L, F>(first, count, other);
                }
                for at in (0..count * padded).step_by(LANES) {
                    let mut value = L::load(scratch.add(at));
                    if self.b.is_some() {
                        value = value.add(L::load(other.add(at)));
                    }
                    value.at_least(low).at_most(high).store(scratch.add(at));
                }
                if self.out.0.is_null() {
                    if let Some((sums, centre)) = sums {
                        moments::<L>(scratch, count, blocks, sums, centre);
                    }
                } else {
                    let out = self.out.0.add(first * blocks * F::WORDS);
                    kernel::finish_forward::<L, F>(scratch, count, blocks, out, sums);
                }
            }
        }
    }
}

/// Adds the sums of `x − centre` and of its square.
///
/// # Safety
/// As [`kernel::finish_forward`].
#[inline(always)]
unsafe fn moments<L: SimdVector>(values: *const f32, count: usize, blocks: usize, sums: Sums, centre: *const f32) {
    for at in (0..blocks * LANES).step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let centre = L::load(centre.add(at));
            let [mut first, mut second] = [L::zero(); 2];
            for pixel in 0..count {
                let far = L::load(values.add(pixel * blocks * LANES + at)).sub(centre);
                first = first.add(far);
                second = second.fma(far, far);
            }
            kernel::add_to(sums.first.add(at), first);
            kernel::add_to(sums.second.add(at), second);
        }
    }
}

/// A gradient plus another one, where the activation of `mask` has slope 1; given to a target, whose `add` is not used.
pub(super) struct Passed<'a> {
    pub grad: GradientView<'a>,
    pub other: Option<&'a Values>,
    /// Activated values with their bounds.
    pub mask: Option<(&'a Values, (f32, f32))>,
    pub target: GradientTarget<'a>,
}

impl Task for Passed<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let shape = self.grad.grad.shape;
        let blocks = shape.blocks();
        let pixels = share(shape.pixels(), number, TILE);
        for first in pixels.clone().step_by(TILE) {
            let count = TILE.min(pixels.end - first);
            // SAFETY: the caller's promise; tiles lie in the batch.
            unsafe {
                self.grad.copy_f32::<L, F>(first, count, scratch);
                if self.other.is_some() || self.mask.is_some() {
                    for i in 0..count * blocks {
                        let (pixel, block) = (first + i / blocks, i % blocks);
                        let mut value = L::load(scratch.add(i * LANES));
                        if let Some(other) = self.other {
                            value = value.add(Pixels::<L, F>::at(&other.stored::<F>(), pixel, block));
                        }
                        if let Some((values, bounds)) = &self.mask {
                            let y: L = Pixels::<L, F>::at(&values.stored::<F>(), pixel, block);
                            value = value.within(y, L::splat(&bounds.0), L::splat(&bounds.1));
                        }
                        value.store(scratch.add(i * LANES));
                    }
                }
                self.target.finish::<L, F>(scratch, (first, count), number);
            }
        }
    }
}
