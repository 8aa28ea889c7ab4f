//! A batch of values, seen directly or through a batch norm, and its gradient.
#![allow(unsafe_code)]

use super::engine::{Buffer, Engine};
use super::kernel::{self, Gradient, LANES, NormSums, Normalised, Stored, Sums};
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Sizes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchShape {
    pub samples: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl BatchShape {
    pub fn pixels(&self) -> usize {
        self.samples * self.height * self.width
    }

    /// Blocks of 16 channels; the last is filled with zeros.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Channels including those that fill the last block.
    pub fn padded(&self) -> usize {
        self.blocks() * LANES
    }
}

/// A batch as (N, H, W, C), with C filled up to blocks; a *thin* one has four channels instead, of which up to three are used.
#[derive(Debug)]
pub(super) struct Values {
    pub shape: BatchShape,
    pub thin: bool,
    pub words: Buffer,
}

/// Channels of a thin batch.
pub(super) const THIN: usize = 4;

impl Values {
    /// Values with any content.
    pub fn new(engine: &Engine, shape: BatchShape) -> Self {
        Self { shape, thin: false, words: engine.buffer(shape.pixels() * engine.words(shape.blocks())) }
    }

    /// The values as they are.
    pub fn stored<F: ValueFormat>(&self) -> Stored {
        Stored { from: self.words.as_ptr(), pixel: self.shape.blocks() * F::WORDS }
    }
}

/// A batch norm with known statistics and the activation after it: `clamp(scale · x + shift)`. One value per channel, 0 for those
/// that fill the last block.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub mean: Vec<f32>,
    pub bounds: (f32, f32),
}

impl Affine {
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    pub unsafe fn of<L: SimdVector>(&self, stored: Stored) -> Normalised<L> {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (L::splat(&self.bounds.0), L::splat(&self.bounds.1)) };
        Normalised { stored, scale: self.scale.as_ptr(), shift: self.shift.as_ptr(), low, high }
    }

    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    pub unsafe fn sums<L: SimdVector>(&self, stored: Stored, sums: Sums) -> NormSums<L> {
        // SAFETY: the caller's promise.
        NormSums { normalised: unsafe { self.of(stored) }, mean: self.mean.as_ptr(), sums }
    }
}

/// Values through a batch norm, or as they are.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub values: &'a Values,
    pub affine: Option<&'a Affine>,
}

impl View<'_> {
    /// As [`kernel::copy`].
    ///
    /// # Safety
    /// As [`kernel::copy`].
    #[inline(always)]
    pub unsafe fn copy<L: SimdVector, F: ValueFormat>(
        &self,
        first: usize,
        count: usize,
        rows: *mut f32,
        pairs: *mut f32,
    ) {
        let (stored, blocks) = (self.values.stored::<F>(), self.values.shape.blocks());
        // SAFETY: the caller's promise.
        unsafe {
            match self.affine {
                Some(affine) => kernel::copy::<L, F>(&affine.of::<L>(stored), first, count, blocks, rows, pairs),
                None => kernel::copy::<L, F>(&stored, first, count, blocks, rows, pairs),
            }
        }
    }

    /// As [`kernel::copy_f32`].
    ///
    /// # Safety
    /// As [`kernel::copy`].
    #[inline(always)]
    pub unsafe fn copy_f32<L: SimdVector, F: ValueFormat>(&self, first: usize, count: usize, rows: *mut f32) {
        let (stored, blocks) = (self.values.stored::<F>(), self.values.shape.blocks());
        // SAFETY: the caller's promise.
        unsafe {
            match self.affine {
                Some(affine) => kernel::copy_f32::<L, F>(&affine.of::<L>(stored), first, count, blocks, rows),
                None => kernel::copy_f32::<L, F>(&stored, first, count, blocks, rows),
            }
        }
    }
}

/// The factors of a gradient through a batch norm; see [`Gradient`]. One value per channel.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    pub alpha: Vec<f32>,
    pub beta: Vec<f32>,
    pub gamma: Vec<f32>,
}

/// The gradient of values: stored, or computed from that of the normalised ones.
#[derive(Clone, Copy)]
pub(super) struct GradientView<'a> {
    pub grad: &'a Values,
    pub norm: Option<(&'a Values, &'a Affine, &'a Factors)>,
}

impl GradientView<'_> {
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn through<L: SimdVector, F: ValueFormat>(
        &self,
        (values, affine, factors): (&Values, &Affine, &Factors),
    ) -> Gradient<L> {
        Gradient {
            grad: self.grad.stored::<F>(),
            // SAFETY: the caller's promise.
            normalised: unsafe { affine.of::<L>(values.stored::<F>()) },
            mean: affine.mean.as_ptr(),
            alpha: factors.alpha.as_ptr(),
            beta: factors.beta.as_ptr(),
            gamma: factors.gamma.as_ptr(),
        }
    }

    /// As [`kernel::copy`].
    ///
    /// # Safety
    /// As [`kernel::copy`].
    #[inline(always)]
    pub unsafe fn copy<L: SimdVector, F: ValueFormat>(
        &self,
        first: usize,
        count: usize,
        rows: *mut f32,
        pairs: *mut f32,
    ) {
        let blocks = self.grad.shape.blocks();
        // SAFETY: the caller's promise.
        unsafe {
            match self.norm {
                Some(norm) => {
                    kernel::copy::<L, F>(&self.through::<L, F>(norm), first, count, blocks, rows, pairs);
                }
                None => kernel::copy::<L, F>(&self.grad.stored::<F>(), first, count, blocks, rows, pairs),
            }
        }
    }

    /// As [`kernel::copy_f32`].
    ///
    /// # Safety
    /// As [`kernel::copy`].
    #[inline(always)]
    pub unsafe fn copy_f32<L: SimdVector, F: ValueFormat>(&self, first: usize, count: usize, rows: *mut f32) {
        let blocks = self.grad.shape.blocks();
        // SAFETY: the caller's promise.
        unsafe {
            match self.norm {
                Some(norm) => kernel::copy_f32::<L, F>(&self.through::<L, F>(norm), first, count, blocks, rows),
                None => kernel::copy_f32::<L, F>(&self.grad.stored::<F>(), first, count, blocks, rows),
            }
        }
    }
}

/// Where the gradient of a view goes.
pub(super) struct GradientTarget<'a> {
    pub view: View<'a>,
    /// The gradient, in the layout of the values.
    pub grad: super::engine::Shared,
    /// Whether the gradient is added to what is there.
    pub add: bool,
    /// The sums of its batch norm, for each group two rows of padded channels.
    pub sums: super::engine::Shared,
}

impl GradientTarget<'_> {
    /// As [`kernel::finish_backward`].
    ///
    /// # Safety
    /// As [`kernel::finish_backward`]; the sums are this group's alone.
    #[inline(always)]
    pub unsafe fn finish<L: SimdVector, F: ValueFormat>(
        &self,
        values: *const f32,
        pixels: (usize, usize),
        group: usize,
    ) {
        let shape = &self.view.values.shape;
        // SAFETY: the caller's promise.
        unsafe {
            let norm = self.view.affine.map(|affine| {
                let first = self.sums.0.add(group * 2 * shape.padded());
                let sums = Sums { first, second: first.add(shape.padded()) };
                affine.sums::<L>(self.view.values.stored::<F>(), sums)
            });
            kernel::finish_backward::<L, F>(values, pixels, shape.blocks(), self.grad.0, self.add, norm);
        }
    }
}
