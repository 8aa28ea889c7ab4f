//! 3×3 convolutions with stride 1 by Winograd's F(2×2, 3×3): 16 products for four output pixels instead of 36.
//!
//! Source: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. Tiles of 4×4 pixels overlap by two.
//! Their transforms are 16 matrices (tiles × inputs), each multiplied with one of 16 matrices of transformed weights; the
//! transforms back give 2×2 pixels. Transforms only add and subtract, so the result is as exact as the plain sum's.
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use std::sync::Arc;

use super::format::F32Format;
use super::graph::{CacheLine, PackedConv};
use super::kernel::{self, ConvRows, LANES, Prefetch, Reduction};
use super::plan::{Split, Step, ValueLayout};
use super::run::Call;
use super::simd::SimdVector;

/// Products per tile and channel.
const POSITIONS: usize = 16;

/// The largest transformed weights, bytes: larger ones cost more memory traffic than the saved products are worth.
const MOST_WEIGHTS: usize = 6 << 20;

/// The smallest picture, pixels per side: smaller ones waste too much of their last tiles.
const LEAST_SIDE: usize = 12;

/// The transformed input of a task, bytes, unless the weights are larger: it should stay in the second-level cache.
const INPUT_SHARE: usize = 384 << 10;

/// No bias: it is added after the inverse transform.
const GROUP: usize = 2;
static NO_BIAS: [CacheLine; GROUP] = [CacheLine::ZERO; GROUP];

/// Plan of a convolution in tiles.
#[derive(Clone, Debug)]
pub(super) struct WinogradPlan {
    pub layer: Arc<PackedConv>,
    /// The sum of a position, over the blocks of the input.
    reduction: Reduction,
    /// Tiles across the picture, and tiles of the largest task.
    across: usize,
    tiles: usize,
    /// Rows of tiles × blocks of outputs.
    pub split: Split,
    group: usize,
}

/// Transforms weights (Cout, Cin, 3, 3): for every block of outputs and every position, a line per input. `None` where tiles
/// would not be faster.
pub(super) fn pack(values: &[f32], outputs: usize, inputs: usize) -> Option<Vec<CacheLine>> {
    let (blocks, rows) = (outputs.div_ceil(LANES), inputs.div_ceil(LANES) * LANES);
    if blocks * POSITIONS * rows * size_of::<CacheLine>() > MOST_WEIGHTS || inputs < LANES || outputs < LANES {
        return None;
    }
    // The rows of G, which maps three taps to four.
    let four = |[a, b, c]: [f32; 3]| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
    let mut lines = vec![CacheLine::ZERO; blocks * POSITIONS * rows];
    for (i, taps) in values.chunks_exact(9).enumerate() {
        let (output, input) = (i / inputs, i % inputs);
        let columns: [[f32; 4]; 3] = std::array::from_fn(|x| four([taps[x], taps[3 + x], taps[6 + x]]));
        for y in 0..4 {
            for (x, value) in four([columns[0][y], columns[1][y], columns[2][y]]).into_iter().enumerate() {
                let line = (output / LANES * POSITIONS + y * 4 + x) * rows + input;
                lines[line].0[output % LANES] = value;
            }
        }
    }
    Some(lines)
}

impl WinogradPlan {
    /// `None` where the plain convolution is faster.
    pub fn new(layer: &Arc<PackedConv>, x: &ValueLayout, y: &ValueLayout, threads: usize, wide: bool) -> Option<Self> {
        let weights = layer.winograd.as_ref()?;
        if y.h.min(y.w) < LEAST_SIDE {
            return None;
        }
        let (across, rows) = (y.w.div_ceil(2), y.h.div_ceil(2));
        let per_row = across * x.blocks * POSITIONS * size_of::<CacheLine>();
        let share = INPUT_SHARE.max(weights.len() * size_of::<CacheLine>());
        let parts = rows.div_ceil((share / per_row).clamp(1, rows));
        let rows_each = rows.div_ceil(parts);
        let group = if wide { GROUP } else { 1 };
        let groups = y.blocks.div_ceil(group);
        // Every task transforms its own input: few tasks, but enough to keep all threads busy.
        let pieces = (2 * threads).div_ceil(parts).clamp(1, groups);
        let tiles = rows_each * across;
        Some(Self {
            layer: layer.clone(),
            reduction: Reduction {
                segments: (0..x.blocks).map(|block| (block * tiles * LANES) as u32).collect(),
                run: LANES,
                step: LANES,
            },
            across,
            tiles,
            split: Split { rows, rows_each, blocks: y.blocks, blocks_each: groups.div_ceil(pieces) * group },
            group,
        })
    }

    /// Lines of scratch memory, for the transforms of input and output.
    pub fn scratch(&self) -> usize {
        POSITIONS * self.tiles * (self.reduction.segments.len() + self.split.blocks_each)
    }

    /// # Safety
    /// The processor has the instructions of `L`; `picture` and `task` are of this step, whose earlier steps are done, and no
    /// other thread has them; `scratch` is this thread's and as long as [`WinogradPlan::scratch`].
    #[inline(always)]
    pub unsafe fn run<L: SimdVector>(
        &self,
        call: &Call<'_>,
        step: &Step,
        picture: usize,
        task: usize,
        scratch: *mut f32,
    ) {
        let (rows, blocks) = self.split.task(task);
        let (from, x) = call.value(step.x, picture);
        let (to, y) = call.value(step.y, picture);
        let residual = step.residual.map(|value| call.value(value, picture));
        let inputs = x.blocks;
        let tiles = (rows.end - rows.start) * self.across;
        let place = |tile: usize| (rows.start + tile / self.across, tile % self.across);
        // Values between positions in both halves of the scratch.
        let (v_position, m_position) = (inputs * self.tiles * LANES, (blocks.end - blocks.start) * self.tiles * LANES);
        let products = scratch.wrapping_add(POSITIONS * v_position);
        // SAFETY: as the caller promises; tiles lie in the picture with its border, or are loaded with care.
        unsafe {
            for block in 0..inputs {
                let plane = from.add(block * x.plane());
                for tile in 0..tiles {
                    let (row, column) = place(tile);
                    let inside = 2 * row + 2 < x.h + 1 && 2 * column + 2 < x.w + 1;
                    let corner = plane.add(x.at(2 * row, 2 * column, 1));
                    let v = scratch.add((block * self.tiles + tile) * LANES);
                    if inside {
                        transform::<L>(|i, j| L::load(corner.add(i * x.row() + j * LANES)), v, v_position);
                    } else {
                        let pixel = |i: usize, j: usize| {
                            // Rows and columns from the border before the picture on.
                            let there = 2 * row + i < x.h + 2 && 2 * column + j < x.w + 2;
                            if there { L::load(corner.add(i * x.row() + j * LANES)) } else { L::zero() }
                        };
                        transform::<L>(pixel, v, v_position);
                    }
                }
            }
            let weights: *const f32 = self.layer.winograd.as_deref().map_or(std::ptr::null(), |w| w.as_ptr().cast());
            let rows_each = inputs * LANES;
            for position in 0..POSITIONS {
                let mut block = blocks.start;
                while block < blocks.end {
                    let group = if blocks.end - block >= self.group { self.group } else { 1 };
                    let job = ConvRows {
                        reduction: &self.reduction,
                        segments: (0, inputs),
                        x: scratch.add(position * v_position),
                        weights: weights.add((block * POSITIONS + position) * rows_each * LANES),
                        weights_block: POSITIONS * rows_each * LANES,
                        bias: NO_BIAS.as_ptr().cast(),
                        scale: std::ptr::null(),
                        y: products.add(position * m_position + (block - blocks.start) * self.tiles * LANES),
                        y_block: self.tiles * LANES,
                        residual: std::ptr::null(),
                        residual_block: 0,
                        residual_factor: std::ptr::null(),
                        scratch: std::ptr::null_mut(),
                        bounds: (f32::NEG_INFINITY, f32::INFINITY),
                        first: true,
                        last: true,
                        pixels: tiles,
                        prefetch: Prefetch::NONE,
                    };
                    kernel::convolve::<L, F32Format>(group, job);
                    block += group;
                }
            }
            for block in blocks.clone() {
                let bias = L::load(self.layer.epilogue.bias.as_ptr().add(block).cast());
                let (low, high) = (L::splat(&self.layer.epilogue.bounds.0), L::splat(&self.layer.epilogue.bounds.1));
                for tile in 0..tiles {
                    let (row, column) = place(tile);
                    let m = products.add(((block - blocks.start) * self.tiles + tile) * LANES);
                    let pixels = back::<L>(m, m_position);
                    for i in 0..2.min(y.h - 2 * row) {
                        for j in 0..2.min(y.w - 2 * column) {
                            let (row, column) = (2 * row + i, 2 * column + j);
                            let mut sum = pixels[i][j].add(bias);
                            if let Some((r, p)) = residual {
                                sum = sum.add(L::load(r.add(block * p.plane() + p.at(row, column, 0))));
                            }
                            let sum = sum.at_least(low).at_most(high);
                            sum.store(to.add(block * y.plane() + y.at(row, column, 0)));
                        }
                    }
                }
                call.border(to, y, block, &(2 * rows.start..(2 * rows.end).min(y.h)));
            }
        }
    }
}

/// `Bᵀ d B` of a tile's 4×4 pixels, one value a position.
///
/// # Safety
/// As [`WinogradPlan::run`]; `to` is valid for a line at every position.
#[inline(always)]
unsafe fn transform<L: SimdVector>(pixel: impl Fn(usize, usize) -> L, to: *mut f32, position: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[L::zero(); 4]; 4];
        for j in 0..4 {
            let d = [pixel(0, j), pixel(1, j), pixel(2, j), pixel(3, j)];
            half[0][j] = d[0].sub(d[2]);
            half[1][j] = d[1].add(d[2]);
            half[2][j] = d[2].sub(d[1]);
            half[3][j] = d[1].sub(d[3]);
        }
        for i in 0..4 {
            let d = half[i];
            let line = [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])];
            for j in 0..4 {
                line[j].store(to.add((4 * i + j) * position));
            }
        }
    }
}

/// `Aᵀ m A`: the 2×2 pixels of a tile.
///
/// # Safety
/// As [`transform`].
#[inline(always)]
unsafe fn back<L: SimdVector>(from: *const f32, position: usize) -> [[L; 2]; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[L::zero(); 4]; 2];
        for j in 0..4 {
            let at = |i: usize| L::load(from.add((4 * i + j) * position));
            let m = [at(0), at(1), at(2), at(3)];
            half[0][j] = m[0].add(m[1]).add(m[2]);
            half[1][j] = m[1].sub(m[2]).sub(m[3]);
        }
        let two = |m: [L; 4]| [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3])];
        [two(half[0]), two(half[1])]
    }
}
