//! Batches from and to tensors, and their averages.
#![allow(unsafe_code)]

use super::engine::{Shared, Task, share};
use super::kernel::{self, LANES};
use super::values::{BatchShape, THIN, View};
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Pixels of a tile.
const TILE: usize = 64;

/// Words of scratch for values of `padded` channels.
pub(super) fn scratch(padded: usize) -> usize {
    TILE * padded
}

/// A batch from (C, N, H, W).
pub(super) struct Pack<'a> {
    pub from: &'a [f32],
    pub shape: BatchShape,
    pub thin: bool,
    pub out: Shared,
}

impl Task for Pack<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let (total, channels) = (self.shape.pixels(), self.shape.channels);
        let row = if self.thin { THIN } else { self.shape.padded() };
        let pixels = share(total, number, TILE);
        for first in pixels.clone().step_by(TILE) {
            let count = TILE.min(pixels.end - first);
            // SAFETY: the caller's promise; a tile of a thin batch has whole registers, because TILE is a multiple of 4.
            unsafe {
                scratch.write_bytes(0, TILE * row);
                let tile = std::slice::from_raw_parts_mut(scratch, count * row);
                for channel in 0..channels {
                    let plane = &self.from[channel * total + first..][..count];
                    for (to, from) in tile[channel..].iter_mut().step_by(row).zip(plane) {
                        *to = *from;
                    }
                }
                let out = self.out.0.add(first * row * F::WORDS / LANES);
                let registers = (count * row).div_ceil(LANES);
                kernel::finish_forward::<L, F>(scratch, registers, 1, out, None);
            }
        }
    }
}

/// A batch to (C, N, H, W).
pub(super) struct Unpack<'a> {
    pub x: View<'a>,
    pub out: Shared,
}

impl Task for Unpack<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let shape = self.x.values.shape;
        let pixels = share(shape.pixels(), number, TILE);
        for first in pixels.clone().step_by(TILE) {
            let count = TILE.min(pixels.end - first);
            // SAFETY: the caller's promise; the tile's part of each channel is this task's.
            unsafe {
                self.x.copy_f32::<L, F>(first, count, scratch);
                let tile = std::slice::from_raw_parts(scratch, count * shape.padded());
                for channel in 0..shape.channels {
                    let plane = self.out.0.add(channel * shape.pixels() + first);
                    let plane = std::slice::from_raw_parts_mut(plane, count);
                    for (to, from) in plane.iter_mut().zip(tile[channel..].iter().step_by(shape.padded())) {
                        *to = *from;
                    }
                }
            }
        }
    }
}

/// The mean of each sample's pixels, (N, padded channels).
pub(super) struct Average<'a> {
    pub x: View<'a>,
    pub out: Shared,
}

impl Task for Average<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let shape = self.x.values.shape;
        let (area, padded) = (shape.height * shape.width, shape.padded());
        let share_of_pixel = 1.0 / area as f32;
        for sample in share(shape.samples, number, 1) {
            // SAFETY: the caller's promise; the row is this task's.
            unsafe {
                let out = self.out.0.add(sample * padded);
                out.write_bytes(0, padded);
                for pixel in sample * area..(sample + 1) * area {
                    self.x.copy_f32::<L, F>(pixel, 1, scratch);
                    for at in (0..padded).step_by(LANES) {
                        kernel::add_to(out.add(at), L::load(scratch.add(at)));
                    }
                }
                for at in (0..padded).step_by(LANES) {
                    L::load(out.add(at)).mul(L::splat(&share_of_pixel)).store(out.add(at));
                }
            }
        }
    }
}

/// The gradient of a batch from that of its averages, (N, C).
pub(super) struct Broadcast<'a> {
    pub from: &'a [f32],
    pub target: super::values::GradientTarget<'a>,
}

impl Task for Broadcast<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        let shape = self.target.view.values.shape;
        let (area, padded, channels) = (shape.height * shape.width, shape.padded(), shape.channels);
        for sample in share(shape.samples, number, 1) {
            let grad = &self.from[sample * channels..][..channels];
            // SAFETY: the caller's promise; the sample is this task's.
            unsafe {
                scratch.write_bytes(0, TILE * padded);
                let tile = std::slice::from_raw_parts_mut(scratch, TILE.min(area) * padded);
                for row in tile.chunks_exact_mut(padded) {
                    for (to, from) in row.iter_mut().zip(grad) {
                        *to = from / area as f32;
                    }
                }
                for first in (0..area).step_by(TILE) {
                    let count = TILE.min(area - first);
                    self.target.finish::<L, F>(scratch, (sample * area + first, count), number);
                }
            }
        }
    }
}
