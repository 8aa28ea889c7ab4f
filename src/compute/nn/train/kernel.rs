//! The inner loops of training: one matrix product for all convolutions and their gradients, and the passes before and after
//! it.
//!
//! A product multiplies a word of its left operand with sixteen columns of the right one. In `f32` a word is one term of the
//! sum, in bf16 two neighbouring ones. So an operand is stored either in *rows*, where the terms of the sum are the channels of
//! a pixel, or in *pairs*, where they are pixels: the words of a channel lie beside those of the next channel. In `f32` both are
//! the same.
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use crate::nn::fused::format::ValueFormat;
use crate::nn::fused::simd::SimdVector;

/// Channels of a block: the lanes of one register.
pub(super) const LANES: usize = 16;

/// A part of a sum whose left operand is contiguous.
#[derive(Clone, Copy, Debug)]
pub(super) struct SumSegment {
    /// Offset of the left operand, words.
    pub left: usize,
    /// First term in the right operand, words of the sum.
    pub term: usize,
}

/// The right operand of a product: words of the sum by columns.
#[derive(Clone, Copy)]
pub(super) enum Columns {
    /// Panels of up to four blocks, each with all `depth` words of the sum: packed weights.
    Panels { depth: usize },
    /// Rows of all columns.
    Rows,
}

/// `out[i][j] (+)= Σ left[i][k] · right[k][j]`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub left: *const f32,
    /// Words between rows of the left operand, and between terms of the sum.
    pub left_row: usize,
    pub left_step: usize,
    pub segments: &'a [SumSegment],
    /// Words of a segment.
    pub run: usize,
    pub right: *const f32,
    pub columns: Columns,
    /// Blocks of 16 columns.
    pub blocks: usize,
    pub rows: usize,
    /// `f32` values; words between rows.
    pub out: *mut f32,
    pub out_row: usize,
    /// Whether the product is added to `out`.
    pub add: bool,
}

/// The number of blocks of the panel that begins at `block`.
pub(super) const fn panel(blocks: usize, block: usize, wide: bool) -> usize {
    match blocks - block {
        _ if !wide => 1,
        0 => 0,
        1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

impl Product<'_> {
    /// # Safety
    /// The processor has the instructions of `L`; all pointers are valid for the shape; nothing else writes `out` meanwhile.
    #[inline(always)]
    pub unsafe fn run<L: SimdVector, F: ValueFormat>(&self) {
        let mut block = 0;
        while block < self.blocks {
            let width = panel(self.blocks, block, L::WIDE);
            // SAFETY: the caller's promise; the panel is inside the operands.
            unsafe {
                match width {
                    4 => self.panel::<L, F, 4>(block),
                    2 => self.panel::<L, F, 2>(block),
                    _ => self.panel::<L, F, 1>(block),
                }
            }
            block += width;
        }
    }

    /// # Safety
    /// As [`Product::run`].
    #[inline(always)]
    unsafe fn panel<L: SimdVector, F: ValueFormat, const B: usize>(&self, block: usize) {
        let (offset, step) = match self.columns {
            Columns::Panels { depth } => (block * depth * LANES, B * LANES),
            Columns::Rows => (block * LANES, self.blocks * LANES),
        };
        let mut row = 0;
        macro_rules! tiles {
            ($($p:literal)*) => {$(
                while self.rows - row >= $p {
                    // SAFETY: the tile is inside the panel.
                    unsafe {
                        let left = self.left.add(row * self.left_row);
                        let out = self.out.add(row * self.out_row + block * LANES);
                        self.tile::<L, F, $p, B>(left, self.right.add(offset), step, out);
                    }
                    row += $p;
                }
            )*};
        }
        if !L::WIDE {
            tiles!(6 1);
        } else if B == 4 && self.rows.is_multiple_of(7) {
            tiles!(7);
        } else if B == 4 {
            tiles!(6 4 2 1);
        } else {
            tiles!(14 7 4 2 1);
        }
    }

    /// `P` rows of `B` blocks: all sums stay in registers.
    ///
    /// # Safety
    /// As [`Product::run`].
    #[inline(always)]
    unsafe fn tile<L: SimdVector, F: ValueFormat, const P: usize, const B: usize>(
        &self,
        left: *const f32,
        right: *const f32,
        right_step: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[L::zero(); P]; B];
            for segment in self.segments {
                let mut left = left.add(segment.left);
                let mut right = right.add(segment.term * right_step);
                for _ in 0..self.run {
                    let mut columns = [L::zero(); B];
                    for b in 0..B {
                        columns[b] = L::load(right.add(b * LANES));
                    }
                    for p in 0..P {
                        let value = L::splat(left.add(p * self.left_row));
                        for b in 0..B {
                            sums[b][p] = F::dot(sums[b][p], value, columns[b]);
                        }
                    }
                    left = left.add(self.left_step);
                    right = right.add(right_step);
                }
            }
            for b in 0..B {
                for p in 0..P {
                    let to = out.add(p * self.out_row + b * LANES);
                    let sum = if self.add { sums[b][p].add(L::load(to)) } else { sums[b][p] };
                    sum.store(to);
                }
            }
        }
    }
}

/// Values of pixels, read block by block.
pub(super) trait Pixels<L: SimdVector, F: ValueFormat> {
    /// Sixteen channels of a pixel.
    ///
    /// # Safety
    /// The processor has the instructions of `L`; pixel and block exist.
    unsafe fn at(&self, pixel: usize, block: usize) -> L;
}

/// Stored values.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub from: *const f32,
    /// Words of a pixel.
    pub pixel: usize,
}

impl<L: SimdVector, F: ValueFormat> Pixels<L, F> for Stored {
    #[inline(always)]
    unsafe fn at(&self, pixel: usize, block: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { F::load(self.from.add(pixel * self.pixel + block * F::WORDS)) }
    }
}

/// Stored values after batch norm and activation.
#[derive(Clone, Copy)]
pub(super) struct Normalised<L> {
    pub stored: Stored,
    pub scale: *const f32,
    pub shift: *const f32,
    pub low: L,
    pub high: L,
}

impl<L: SimdVector, F: ValueFormat> Pixels<L, F> for Normalised<L> {
    #[inline(always)]
    unsafe fn at(&self, pixel: usize, block: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let z: L = Pixels::<L, F>::at(&self.stored, pixel, block);
            let y = L::load(self.shift.add(block * LANES)).fma(z, L::load(self.scale.add(block * LANES)));
            y.at_least(self.low).at_most(self.high)
        }
    }
}

/// The gradient of stored values, from that of the normalised and activated ones: `alpha · passed + beta · (z − mean) + gamma`, where
/// `passed` is the gradient where the activation has slope 1, else 0.
#[derive(Clone, Copy)]
pub(super) struct Gradient<L> {
    pub grad: Stored,
    pub normalised: Normalised<L>,
    pub mean: *const f32,
    pub alpha: *const f32,
    pub beta: *const f32,
    pub gamma: *const f32,
}

impl<L: SimdVector, F: ValueFormat> Pixels<L, F> for Gradient<L> {
    #[inline(always)]
    unsafe fn at(&self, pixel: usize, block: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let Normalised { stored, scale, shift, low, high } = self.normalised;
            let z: L = Pixels::<L, F>::at(&stored, pixel, block);
            let grad: L = Pixels::<L, F>::at(&self.grad, pixel, block);
            let at = block * LANES;
            let y = L::load(shift.add(at)).fma(z, L::load(scale.add(at)));
            let far = z.sub(L::load(self.mean.add(at)));
            let rest = L::load(self.gamma.add(at)).fma(far, L::load(self.beta.add(at)));
            rest.fma(grad.within(y, low, high), L::load(self.alpha.add(at)))
        }
    }
}

/// Writes `count` pixels from `first` on: to `rows` in the format of the values, and to `pairs`. A null pointer is skipped. In
/// `f32` one of the two suffices.
///
/// # Safety
/// As [`Pixels::at`]; the pointers are valid for the pixels, `pairs` for an even number of them.
#[inline(always)]
pub(super) unsafe fn copy<L: SimdVector, F: ValueFormat>(
    pixels: &impl Pixels<L, F>,
    first: usize,
    count: usize,
    blocks: usize,
    rows: *mut f32,
    pairs: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if F::WORDS == LANES {
            let to = if rows.is_null() { pairs } else { rows };
            for pixel in 0..count {
                for block in 0..blocks {
                    pixels.at(first + pixel, block).store(to.add((pixel * blocks + block) * LANES));
                }
            }
            return;
        }
        for two in 0..count.div_ceil(2) {
            let both = 2 * two + 1 < count;
            for block in 0..blocks {
                let low = pixels.at(first + 2 * two, block);
                let high = if both { pixels.at(first + 2 * two + 1, block) } else { L::zero() };
                if !rows.is_null() {
                    let to = rows.add((2 * two * blocks + block) * F::WORDS);
                    F::store(low, to);
                    if both {
                        F::store(high, to.add(blocks * F::WORDS));
                    }
                }
                if !pairs.is_null() {
                    L::pair_bf16(low, high).store(pairs.add((two * blocks + block) * LANES));
                }
            }
        }
    }
}

/// As [`copy`], to rows of `f32`.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub(super) unsafe fn copy_f32<L: SimdVector, F: ValueFormat>(
    pixels: &impl Pixels<L, F>,
    first: usize,
    count: usize,
    blocks: usize,
    rows: *mut f32,
) {
    for pixel in 0..count {
        for block in 0..blocks {
            // SAFETY: the caller's promise.
            unsafe { pixels.at(first + pixel, block).store(rows.add((pixel * blocks + block) * LANES)) };
        }
    }
}

/// Sums over pixels, two `f32` per channel: `first[c]` and `second[c]`.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub first: *mut f32,
    pub second: *mut f32,
}

/// Stores finished values and adds their sums of `x − centre` and its square. Without sums it only stores.
///
/// # Safety
/// All pointers are valid for `count` pixels of `blocks` blocks.
#[inline(always)]
pub(super) unsafe fn finish_forward<L: SimdVector, F: ValueFormat>(
    values: *const f32,
    count: usize,
    blocks: usize,
    out: *mut f32,
    sums: Option<(Sums, *const f32)>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for block in 0..blocks {
            let centre = sums.map_or(L::zero(), |(_, centre)| L::load(centre.add(block * LANES)));
            // Two of each, because an addition takes several cycles.
            let [mut first, mut second] = [[L::zero(); 2]; 2];
            macro_rules! pixel {
                ($pixel:expr, $i:literal) => {
                    let value = L::load(values.add(($pixel * blocks + block) * LANES));
                    F::store(value, out.add(($pixel * blocks + block) * F::WORDS));
                    let far = value.sub(centre);
                    first[$i] = first[$i].add(far);
                    second[$i] = second[$i].fma(far, far);
                };
            }
            for two in 0..count / 2 {
                pixel!((2 * two), 0);
                pixel!((2 * two + 1), 1);
            }
            if count % 2 == 1 {
                pixel!((count - 1), 0);
            }
            if let Some((sums, _)) = sums {
                add_to(sums.first.add(block * LANES), first[0].add(first[1]));
                add_to(sums.second.add(block * LANES), second[0].add(second[1]));
            }
        }
    }
}

/// # Safety
/// `to` is valid for 16 values.
#[inline(always)]
pub(super) unsafe fn add_to<L: SimdVector>(to: *mut f32, value: L) {
    // SAFETY: the caller's promise.
    unsafe { value.add(L::load(to)).store(to) };
}

/// What a gradient of normalised values needs for the sums of its batch norm.
#[derive(Clone, Copy)]
pub(super) struct NormSums<L> {
    pub normalised: Normalised<L>,
    pub mean: *const f32,
    pub sums: Sums,
}

/// Stores the gradients of `count` pixels from `pixel` on, added to those already in `out` if `add`; nowhere if `out` is null. With `norm`, adds the sums
/// of the passed gradients, and of their products with the distance of the value from its mean.
///
/// # Safety
/// All pointers are valid for the pixels; `values` begins with the first of them, `out` with pixel 0.
#[inline(always)]
pub(super) unsafe fn finish_backward<L: SimdVector, F: ValueFormat>(
    values: *const f32,
    (pixel, count): (usize, usize),
    blocks: usize,
    out: *mut f32,
    add: bool,
    norm: Option<NormSums<L>>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let stores = !out.is_null();
        let out = out.wrapping_add(pixel * blocks * F::WORDS);
        for block in 0..blocks {
            let at = block * LANES;
            macro_rules! value {
                ($i:expr) => {{
                    let to = out.wrapping_add(($i * blocks + block) * F::WORDS);
                    let mut value = L::load(values.add($i * blocks * LANES + at));
                    if add {
                        value = value.add(F::load(to));
                    }
                    if stores {
                        F::store(value, to);
                    }
                    value
                }};
            }
            let Some(norm) = &norm else {
                for i in 0..count {
                    value!(i);
                }
                continue;
            };
            let Normalised { stored, scale, shift, low, high } = norm.normalised;
            let load = |from: *const f32| L::load(from.add(at));
            let (scale, shift, mean) = (load(scale), load(shift), load(norm.mean));
            let [mut first, mut second] = [[L::zero(); 2]; 2];
            macro_rules! pixel {
                ($i:expr, $sum:literal) => {
                    let value: L = value!($i);
                    let z: L = Pixels::<L, F>::at(&stored, pixel + $i, block);
                    let passed = value.within(shift.fma(z, scale), low, high);
                    first[$sum] = first[$sum].add(passed);
                    second[$sum] = second[$sum].fma(passed, z.sub(mean));
                };
            }
            for two in 0..count / 2 {
                pixel!((2 * two), 0);
                pixel!((2 * two + 1), 1);
            }
            if count % 2 == 1 {
                pixel!((count - 1), 0);
            }
            add_to(norm.sums.first.add(at), first[0].add(first[1]));
            add_to(norm.sums.second.add(at), second[0].add(second[1]));
        }
    }
}
