//! Maximum over windows of a batch, forward and backward.
#![allow(unsafe_code)]

use super::engine::{Shared, Task, share};
use super::kernel::{self, LANES};
use super::values::{BatchShape, GradientTarget, GradientView, View};
use super::window::Window;
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// The maximum of each window, and which of its taps has it: the first where several have.
pub(super) struct MaxPoolForward<'a> {
    pub x: View<'a>,
    pub window: Window,
    pub y: BatchShape,
    pub out: Shared,
    /// A byte for each value of the result.
    pub taps: *mut u8,
}

// SAFETY: tasks write disjoint parts of `taps`.
unsafe impl Sync for MaxPoolForward<'_> {}

impl MaxPoolForward<'_> {
    /// Words of scratch.
    pub fn scratch(&self) -> usize {
        (self.x.values.shape.width + self.y.width) * self.y.padded()
    }
}

impl Task for MaxPoolForward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y);
        let (blocks, padded) = (y.blocks(), y.padded());
        let Window { kernel, stride, before } = self.window;
        // SAFETY: the caller's promise; rows lie in values and scratch, and those of the result are this task's.
        unsafe {
            let input = std::slice::from_raw_parts_mut(scratch, x.width * padded);
            let best = std::slice::from_raw_parts_mut(scratch.add(x.width * padded), y.width * padded);
            for sample in share(x.samples, number, 1) {
                for line in 0..y.height {
                    let place = (sample * y.height + line) * y.width;
                    let taps = std::slice::from_raw_parts_mut(self.taps.add(place * padded), y.width * padded);
                    best.fill(f32::NEG_INFINITY);
                    taps.fill(u8::MAX);
                    for ky in 0..kernel {
                        let Some(at) = (line * stride + ky).checked_sub(before).filter(|at| *at < x.height) else {
                            continue;
                        };
                        self.x.copy_f32::<L, F>((sample * x.height + at) * x.width, x.width, input.as_mut_ptr());
                        for column in 0..y.width {
                            for kx in 0..kernel {
                                let Some(at) = (column * stride + kx).checked_sub(before).filter(|at| *at < x.width)
                                else {
                                    continue;
                                };
                                let tap = (ky * kernel + kx) as u8;
                                let best = &mut best[column * padded..][..padded];
                                let taps = &mut taps[column * padded..][..padded];
                                for ((best, known), value) in best.iter_mut().zip(taps).zip(&input[at * padded..]) {
                                    if *value > *best || *known == u8::MAX {
                                        (*best, *known) = (*value, tap);
                                    }
                                }
                            }
                        }
                    }
                    let out = self.out.0.add(place * blocks * F::WORDS);
                    kernel::finish_forward::<L, F>(best.as_ptr(), y.width, blocks, out, None);
                }
            }
        }
    }
}

/// The gradient of the input: each window's goes to its maximum.
pub(super) struct MaxPoolBackward<'a> {
    pub y: GradientView<'a>,
    pub window: Window,
    pub taps: &'a [u8],
    pub target: GradientTarget<'a>,
}

impl MaxPoolBackward<'_> {
    /// Words of scratch.
    pub fn scratch(&self) -> usize {
        (self.target.view.values.shape.width + self.y.grad.shape.width) * self.y.grad.shape.padded()
    }
}

impl Task for MaxPoolBackward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let (x, y) = (&self.target.view.values.shape, &self.y.grad.shape);
        let padded = y.padded();
        let Window { kernel, stride, before } = self.window;
        // SAFETY: the caller's promise; rows lie in values and scratch.
        unsafe {
            let grad = std::slice::from_raw_parts_mut(scratch, y.width * padded);
            let sum = std::slice::from_raw_parts_mut(scratch.add(y.width * padded), x.width * padded);
            for sample in share(x.samples, number, 1) {
                for line in 0..x.height {
                    sum.fill(0.0);
                    for (ky, at) in self.window.outputs_of(line) {
                        if at < 0 || at >= y.height as isize {
                            continue;
                        }
                        let place = (sample * y.height + at as usize) * y.width;
                        self.y.copy_f32::<L, F>(place, y.width, grad.as_mut_ptr());
                        for column in 0..y.width {
                            for kx in 0..kernel {
                                let Some(at) = (column * stride + kx).checked_sub(before).filter(|at| *at < x.width)
                                else {
                                    continue;
                                };
                                let tap = (ky * kernel + kx) as u8;
                                let from = grad[column * padded..][..padded].as_chunks::<LANES>().0;
                                let taps = self.taps[(place + column) * padded..][..padded].as_chunks::<LANES>().0;
                                let sums = sum[at * padded..][..padded].as_chunks_mut::<LANES>().0;
                                for ((sum, grad), taps) in sums.iter_mut().zip(from).zip(taps) {
                                    for lane in 0..LANES {
                                        sum[lane] += if taps[lane] == tap { grad[lane] } else { 0.0 };
                                    }
                                }
                            }
                        }
                    }
                    let place = (sample * x.height + line) * x.width;
                    self.target.finish::<L, F>(sum.as_ptr(), (place, x.width), number);
                }
            }
        }
    }
}
