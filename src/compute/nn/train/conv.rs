//! Convolutions of a batch, forward and backward.
//!
//! A 1×1 convolution with stride 1 sees the batch as a list of pixels and processes a tile of them at a time. Others process a
//! picture at a time, copied with zeros at its left and right. Rows above and below it are left out of the sums.
#![allow(unsafe_code)]

use super::engine::{Shared, Task, share};
use super::kernel::{self, Columns, LANES, Product, Stored, SumSegment, Sums};
use super::values::{BatchShape, GradientTarget, GradientView, THIN, View};
use super::window::{Taps, Window};
use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Pixels of a tile of a 1×1 convolution: a multiple of the rows that a product computes at once.
pub(super) const TILE: usize = 84;

/// Output pixels for which a gradient of weights is summed before it is added to memory.
const BAND: usize = 336;

/// Output, weights and sums of a convolution.
pub(super) struct ConvForward<'a> {
    pub x: View<'a>,
    pub window: Window,
    pub y: BatchShape,
    /// Panels of weights, terms by outputs.
    pub weights: &'a [f32],
    pub out: Shared,
    /// Where statistics are wanted: the values that are subtracted first, and for each group two rows of sums.
    pub sums: Option<(&'a [f32], Shared)>,
}

impl ConvForward<'_> {
    fn is_flat(&self) -> bool {
        self.window.is_flat() && !self.x.values.thin
    }

    /// Words of scratch at `per_word` values a word.
    pub fn scratch(&self, per_word: usize) -> usize {
        let x = &self.x.values.shape;
        if self.is_flat() {
            return TILE * (x.padded() / per_word + self.y.padded());
        }
        let pixel = if self.x.values.thin { THIN } else { x.padded() } / per_word;
        x.height * bordered(&self.window, x.width) * pixel + LANES + self.y.width * self.y.padded()
    }

    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn finish<L: SimdVector, F: ValueFormat>(&self, tile: *const f32, pixels: (usize, usize), group: usize) {
        let blocks = self.y.blocks();
        // SAFETY: the caller's promise: pixels and sums are this group's.
        unsafe {
            let sums = self.sums.map(|(centre, sums)| {
                let first = sums.0.add(group * 2 * self.y.padded());
                (Sums { first, second: first.add(self.y.padded()) }, centre.as_ptr())
            });
            let out = self.out.0.add(pixels.0 * blocks * F::WORDS);
            kernel::finish_forward::<L, F>(tile, pixels.1, blocks, out, sums);
        }
    }

    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn flat<L: SimdVector, F: ValueFormat>(&self, group: usize, scratch: *mut f32) {
        let x = &self.x.values.shape;
        let (words, blocks) = (x.blocks() * F::WORDS, self.y.blocks());
        // SAFETY: the caller's promise; offsets lie in values and scratch.
        unsafe {
            let tile = scratch.add(TILE * words);
            for first in share(x.pixels(), group, TILE).step_by(TILE) {
                let count = TILE.min(share(x.pixels(), group, TILE).end - first);
                let left = match self.x.affine {
                    Some(_) => {
                        self.x.copy::<L, F>(first, count, scratch, std::ptr::null_mut());
                        scratch.cast_const()
                    }
                    None => self.x.values.words.as_ptr().add(first * words),
                };
                let product = Product {
                    left,
                    left_row: words,
                    left_step: 1,
                    segments: &[SumSegment { left: 0, term: 0 }],
                    run: words,
                    right: self.weights.as_ptr(),
                    columns: Columns::Panels { depth: words },
                    blocks,
                    rows: count,
                    out: tile,
                    out_row: blocks * LANES,
                    add: false,
                };
                product.run::<L, F>();
                self.finish::<L, F>(tile, (first, count), group);
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn pictures<L: SimdVector, F: ValueFormat>(&self, group: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y);
        let taps = Taps::of(x, self.x.values.thin, self.window.kernel);
        let run = taps.terms * F::WORDS / LANES;
        let pixel = pixel_words::<F>(&self.x);
        let row = bordered(&self.window, x.width) * pixel;
        let mut segments = Vec::with_capacity(taps.count());
        for sample in share(x.samples, group, 1) {
            // SAFETY: the caller's promise; offsets lie in values and scratch.
            unsafe {
                let tile = scratch.add((x.height * row).next_multiple_of(LANES));
                picture::<L, F>(&self.x, &self.window, sample, scratch);
                for line in 0..y.height {
                    segments.clear();
                    for ky in 0..taps.rows {
                        let Some(at) = (line * self.window.stride + ky).checked_sub(self.window.before) else {
                            continue;
                        };
                        if at < x.height {
                            segments.extend((0..taps.columns).map(|kx| SumSegment {
                                left: at * row + kx * pixel,
                                term: (ky * taps.columns + kx) * run,
                            }));
                        }
                    }
                    let product = Product {
                        left: scratch,
                        left_row: self.window.stride * pixel,
                        left_step: 1,
                        segments: &segments,
                        run,
                        right: self.weights.as_ptr(),
                        columns: Columns::Panels { depth: taps.count() * run },
                        blocks: y.blocks(),
                        rows: y.width,
                        out: tile,
                        out_row: y.padded(),
                        add: false,
                    };
                    product.run::<L, F>();
                    self.finish::<L, F>(tile, ((sample * y.height + line) * y.width, y.width), group);
                }
            }
        }
    }
}

impl Task for ConvForward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.is_flat() {
                true => self.flat::<L, F>(number, scratch),
                false => self.pictures::<L, F>(number, scratch),
            }
        }
    }
}

/// Pixels of a row of the input with its borders.
fn bordered(window: &Window, width: usize) -> usize {
    window.before + width + window.after(width)
}

/// Words of a stored pixel.
fn pixel_words<F: ValueFormat>(x: &View<'_>) -> usize {
    if x.values.thin { THIN * F::WORDS / LANES } else { x.values.shape.blocks() * F::WORDS }
}

/// Copies a picture with zeros at its left and right.
///
/// # Safety
/// As [`kernel::copy`].
#[inline(always)]
unsafe fn picture<L: SimdVector, F: ValueFormat>(x: &View<'_>, window: &Window, sample: usize, to: *mut f32) {
    let shape = &x.values.shape;
    let (pixel, after) = (pixel_words::<F>(x), window.after(shape.width));
    let row = bordered(window, shape.width) * pixel;
    for y in 0..shape.height {
        let first = (sample * shape.height + y) * shape.width;
        // SAFETY: the caller's promise.
        unsafe {
            let to = to.add(y * row);
            to.write_bytes(0, window.before * pixel);
            let inner = to.add(window.before * pixel);
            if x.values.thin {
                let from = x.values.words.as_ptr().add(first * pixel);
                inner.copy_from_nonoverlapping(from, shape.width * pixel);
            } else {
                x.copy::<L, F>(first, shape.width, inner, std::ptr::null_mut());
            }
            inner.add(shape.width * pixel).write_bytes(0, after * pixel);
        }
    }
}

/// The gradients of a convolution: of its weights, and of its input where that is wanted.
pub(super) struct ConvBackward<'a> {
    pub y: GradientView<'a>,
    pub x: View<'a>,
    pub window: Window,
    /// Panels of weights, terms (taps with all outputs) by inputs.
    pub weights: &'a [f32],
    pub target: Option<GradientTarget<'a>>,
    /// For each group: parts of the taps × terms × padded outputs.
    pub weight_grads: Shared,
}

impl ConvBackward<'_> {
    fn is_flat(&self) -> bool {
        self.window.is_flat() && !self.x.values.thin
    }

    fn taps(&self) -> Taps {
        Taps::of(&self.x.values.shape, self.x.values.thin, self.window.kernel)
    }

    /// Values of the gradient of the weights.
    pub fn weight_values(&self) -> usize {
        let taps = self.taps();
        taps.count() * taps.blocks() * LANES * self.y.grad.shape.padded()
    }

    /// Words of scratch at `per_word` values a word.
    pub fn scratch(&self, per_word: usize) -> usize {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        if self.is_flat() {
            return TILE * (2 * x.padded() + 2 * y.padded());
        }
        let pixel = if self.x.values.thin { THIN } else { x.padded() } / per_word;
        let (before, after) = self.window.border(x.width);
        let band = BAND + y.width;
        x.height * bordered(&self.window, x.width) * pixel
            + y.height * (before + y.width + after) * y.padded() / per_word
            + band * (self.taps().blocks() * LANES + y.padded())
            + x.width * x.padded()
            + 4 * LANES
    }

    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn flat<L: SimdVector, F: ValueFormat>(&self, group: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        let words = y.blocks() * F::WORDS;
        let exact = F::WORDS == LANES;
        // SAFETY: the caller's promise; offsets lie in values and scratch.
        unsafe {
            let grads = self.weight_grads.0.add(group * self.weight_values());
            let y_rows = scratch;
            let y_pairs = if exact { y_rows } else { y_rows.add(TILE * y.padded() / 2) };
            let x_pairs = y_rows.add(TILE * y.padded());
            let tile = x_pairs.add(TILE * x.padded());
            let tiles = share(x.pixels(), group, TILE);
            if tiles.is_empty() {
                grads.write_bytes(0, self.weight_values());
            }
            for first in tiles.clone().step_by(TILE) {
                let count = TILE.min(tiles.end - first);
                self.y.copy::<L, F>(first, count, y_rows, y_pairs);
                self.x.copy::<L, F>(first, count, std::ptr::null_mut(), x_pairs);
                let segments = &[SumSegment { left: 0, term: 0 }];
                let weights = Product {
                    left: x_pairs,
                    left_row: 1,
                    left_step: x.padded(),
                    segments,
                    run: (count * F::WORDS).div_ceil(LANES),
                    right: y_pairs,
                    columns: Columns::Rows,
                    blocks: y.blocks(),
                    rows: x.padded(),
                    out: grads,
                    out_row: y.padded(),
                    add: first > tiles.start,
                };
                weights.run::<L, F>();
                if let Some(target) = &self.target {
                    let inputs = Product {
                        left: y_rows,
                        left_row: words,
                        left_step: 1,
                        segments,
                        run: words,
                        right: self.weights.as_ptr(),
                        columns: Columns::Panels { depth: words },
                        blocks: x.blocks(),
                        rows: count,
                        out: tile,
                        out_row: x.padded(),
                        add: false,
                    };
                    inputs.run::<L, F>();
                    target.finish::<L, F>(tile, (first, count), group);
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn pictures<L: SimdVector, F: ValueFormat>(&self, group: usize, scratch: *mut f32) {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        let (taps, pixel) = (self.taps(), pixel_words::<F>(&self.x));
        let x_row = bordered(&self.window, x.width) * pixel;
        let y_pixel = y.blocks() * F::WORDS;
        let (before, after) = self.window.border(x.width);
        let y_row = (before + y.width + after) * y_pixel;
        let band_rows = (BAND / y.width).max(1);
        let band = band_rows * y.width;
        let samples = share(x.samples, group, 1);
        // SAFETY: the caller's promise; offsets lie in values and scratch.
        unsafe {
            let grads = self.weight_grads.0.add(group * self.weight_values());
            if samples.is_empty() {
                grads.write_bytes(0, self.weight_values());
            }
            let x_rows = scratch;
            let y_rows = x_rows.add((x.height * x_row).next_multiple_of(LANES) + 2 * LANES);
            let x_pairs = y_rows.add(y.height * y_row);
            let y_pairs = x_pairs.add(band.next_multiple_of(2) * taps.blocks() * LANES);
            let tile = y_pairs.add(band.next_multiple_of(2) * y.padded());
            for sample in samples.clone() {
                picture::<L, F>(&self.x, &self.window, sample, x_rows);
                for line in 0..y.height {
                    let to = y_rows.add(line * y_row);
                    to.write_bytes(0, before * y_pixel);
                    let inner = to.add(before * y_pixel);
                    self.y.copy::<L, F>((sample * y.height + line) * y.width, y.width, inner, std::ptr::null_mut());
                    inner.add(y.width * y_pixel).write_bytes(0, after * y_pixel);
                }
                for first in (0..y.height).step_by(band_rows) {
                    let lines = first..(first + band_rows).min(y.height);
                    let first_band = sample == samples.start && first == 0;
                    let places =
                        Places { from: y_rows.add(before * y_pixel), row: y_row, pixel: y_pixel, width: y.width };
                    places.gather::<L, F>(lines.clone(), Some, y.blocks(), y_pairs);
                    for tap in 0..taps.count() {
                        let (ky, kx) = (tap / taps.columns, tap % taps.columns);
                        let source = |line: usize| {
                            (line * self.window.stride + ky).checked_sub(self.window.before).filter(|at| *at < x.height)
                        };
                        let places = Places {
                            from: x_rows.add(kx * pixel),
                            row: x_row,
                            pixel: self.window.stride * pixel,
                            width: y.width,
                        };
                        places.gather::<L, F>(lines.clone(), source, taps.blocks(), x_pairs);
                        let product = Product {
                            left: x_pairs,
                            left_row: 1,
                            left_step: taps.blocks() * LANES,
                            segments: &[SumSegment { left: 0, term: 0 }],
                            run: (lines.len() * y.width * F::WORDS).div_ceil(LANES),
                            right: y_pairs,
                            columns: Columns::Rows,
                            blocks: y.blocks(),
                            rows: taps.blocks() * LANES,
                            out: grads.add(tap * taps.blocks() * LANES * y.padded()),
                            out_row: y.padded(),
                            add: !first_band,
                        };
                        product.run::<L, F>();
                    }
                }
                if let Some(target) = &self.target {
                    self.inputs::<L, F>(target, sample, group, (y_rows, y_row, y_pixel), tile);
                }
            }
        }
    }

    /// The gradient of a picture of the input. Input columns that the same taps reach are computed together.
    ///
    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn inputs<L: SimdVector, F: ValueFormat>(
        &self,
        target: &GradientTarget<'_>,
        sample: usize,
        group: usize,
        (y_rows, y_row, y_pixel): (*const f32, usize, usize),
        tile: *mut f32,
    ) {
        let (x, y) = (&self.x.values.shape, &self.y.grad.shape);
        let Window { kernel, stride, .. } = self.window;
        let before = self.window.border(x.width).0 as isize;
        let mut segments = Vec::with_capacity(kernel * kernel);
        for line in 0..x.height {
            for phase in 0..stride.min(x.width) {
                segments.clear();
                for (ky, at) in self.window.outputs_of(line) {
                    if at < 0 || at >= y.height as isize {
                        continue;
                    }
                    segments.extend(self.window.outputs_of(phase).map(|(kx, column)| SumSegment {
                        left: at as usize * y_row + (column + before) as usize * y_pixel,
                        term: (ky * kernel + kx) * y_pixel,
                    }));
                }
                let product = Product {
                    left: y_rows,
                    left_row: y_pixel,
                    left_step: 1,
                    segments: &segments,
                    run: y_pixel,
                    right: self.weights.as_ptr(),
                    columns: Columns::Panels { depth: kernel * kernel * y_pixel },
                    blocks: x.blocks(),
                    rows: (x.width - phase).div_ceil(stride),
                    out: tile.wrapping_add(phase * x.padded()),
                    out_row: stride * x.padded(),
                    add: false,
                };
                // SAFETY: the caller's promise; offsets lie in the bordered gradient and the tile.
                unsafe { product.run::<L, F>() };
            }
            // SAFETY: as above; the row is this group's.
            unsafe { target.finish::<L, F>(tile, ((sample * x.height + line) * x.width, x.width), group) };
        }
    }
}

impl Task for ConvBackward<'_> {
    #[inline(always)]
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.is_flat() {
                true => self.flat::<L, F>(number, scratch),
                false => self.pictures::<L, F>(number, scratch),
            }
        }
    }
}

/// Pixels that one tap reads in a picture of rows.
struct Places {
    from: *const f32,
    row: usize,
    /// Words between the pixels of neighbouring output positions.
    pixel: usize,
    width: usize,
}

impl Places {
    /// Copies the pixels of output rows `lines` to pairs. A row for which `source` is `None` is zero.
    ///
    /// # Safety
    /// As [`kernel::copy`].
    #[inline(always)]
    unsafe fn gather<L: SimdVector, F: ValueFormat>(
        &self,
        lines: std::ops::Range<usize>,
        source: impl Fn(usize) -> Option<usize>,
        blocks: usize,
        to: *mut f32,
    ) {
        static ZERO: [f32; 1024 * LANES] = [0.0; 1024 * LANES];
        let total = lines.len() * self.width;
        let pixel = |i: usize| -> *const f32 {
            if i >= total {
                return ZERO.as_ptr();
            }
            match source(lines.start + i / self.width) {
                Some(row) => self.from.wrapping_add(row * self.row + i % self.width * self.pixel),
                None => ZERO.as_ptr(),
            }
        };
        let step = LANES / F::WORDS;
        for word in 0..total.div_ceil(step) {
            let to = to.wrapping_add(word * blocks * LANES);
            let low = Stored { from: pixel(word * step), pixel: 0 };
            let high = Stored { from: pixel(word * step + step - 1), pixel: 0 };
            for block in 0..blocks {
                // SAFETY: the caller's promise; the zeros are as long as 1024 blocks.
                unsafe {
                    let low: L = kernel::Pixels::<L, F>::at(&low, 0, block);
                    let words =
                        if step == 1 { low } else { L::pair_bf16(low, kernel::Pixels::<L, F>::at(&high, 0, block)) };
                    words.store(to.wrapping_add(block * LANES));
                }
            }
        }
    }
}
