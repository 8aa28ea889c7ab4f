//! The memory formats of activations, and the arithmetic of a convolution in each.
#![allow(unsafe_code)]

use super::kernel::LANES;
use super::quantise::TOP;
use super::simd::SimdVector;

/// How activations are stored and multiplied. Memory is counted in words of 4 bytes.
///
/// # Safety
/// Of every function: as [`SimdVector`].
pub(in crate::nn) trait ValueFormat {
    /// Words of 16 channels.
    const WORDS: usize;
    /// The initial value of a sum. By default sums are real and start with the bias.
    #[inline(always)]
    unsafe fn begin<L: SimdVector>(bias: *const f32) -> L {
        unsafe { L::load(bias) }
    }
    /// `sum` plus the products of a word of the input with 16 words of weights.
    unsafe fn dot<L: SimdVector>(sum: L, x: L, weights: L) -> L;
    /// A finished sum in units of the output.
    #[inline(always)]
    unsafe fn end<L: SimdVector>(sum: L, _scale: *const f32, _bias: *const f32) -> L {
        sum
    }
    /// `sum` plus a residual, whose unit is `factor` units of the output.
    #[inline(always)]
    unsafe fn beside<L: SimdVector>(sum: L, value: L, _factor: *const f32) -> L {
        unsafe { sum.add(value) }
    }
    unsafe fn load<L: SimdVector>(from: *const f32) -> L;
    unsafe fn store<L: SimdVector>(values: L, to: *mut f32);
    /// Stores neighbouring pixels, clamped to `bounds`. Bytes clamp to their own range, which is within the bounds.
    #[inline(always)]
    unsafe fn store_row<L: SimdVector, const P: usize>(values: [L; P], (low, high): (f32, f32), to: *mut f32) {
        unsafe {
            let (low, high) = (L::splat(&low), L::splat(&high));
            for (p, value) in values.into_iter().enumerate() {
                Self::store(value.at_least(low).at_most(high), to.add(p * Self::WORDS));
            }
        }
    }
    /// Packs input channels into a word. `units` has, for each channel, how many units of the format 1.0 is, and the zero
    /// point.
    fn word(values: &[f32], units: &[(f32, f32); 4]) -> f32;
}

/// `f32`: one value per word.
pub(in crate::nn) struct F32Format;

// SAFETY: as the traits ask.
impl ValueFormat for F32Format {
    const WORDS: usize = LANES;
    #[inline(always)]
    unsafe fn dot<L: SimdVector>(sum: L, x: L, weights: L) -> L {
        unsafe { sum.fma(x, weights) }
    }
    #[inline(always)]
    unsafe fn load<L: SimdVector>(from: *const f32) -> L {
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: SimdVector>(values: L, to: *mut f32) {
        unsafe { values.store(to) }
    }
    #[inline(always)]
    fn word(values: &[f32], _: &[(f32, f32); 4]) -> f32 {
        values[0]
    }
}

/// bf16: two values per word, sums in `f32`.
pub(in crate::nn) struct Bf16Format;

// SAFETY: as the traits ask.
impl ValueFormat for Bf16Format {
    const WORDS: usize = LANES / 2;
    #[inline(always)]
    unsafe fn dot<L: SimdVector>(sum: L, x: L, weights: L) -> L {
        unsafe { sum.dot_bf16(x, weights) }
    }
    #[inline(always)]
    unsafe fn load<L: SimdVector>(from: *const f32) -> L {
        unsafe { L::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: SimdVector>(values: L, to: *mut f32) {
        unsafe { values.store_bf16(to) }
    }
    #[inline(always)]
    fn word(values: &[f32], _: &[(f32, f32); 4]) -> f32 {
        let bits = |value: Option<&f32>| value.map_or(0, |value| bf16_bits(*value));
        f32::from_bits(bits(values.first()) | bits(values.get(1)) << 16)
    }
}

/// A value as bf16, rounded to nearest, written so that the compiler vectorises it.
#[inline(always)]
pub(in crate::nn) fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Bytes: four values per word, quantised as in [`super::quantise`]; weights are signed bytes, sums are `i32`.
pub(super) struct Int8Format;

// SAFETY: as the traits ask.
impl ValueFormat for Int8Format {
    const WORDS: usize = LANES / 4;
    #[inline(always)]
    unsafe fn begin<L: SimdVector>(_: *const f32) -> L {
        unsafe { L::zero() }
    }
    #[inline(always)]
    unsafe fn dot<L: SimdVector>(sum: L, x: L, weights: L) -> L {
        unsafe { sum.dot_u8(x, weights) }
    }
    #[inline(always)]
    unsafe fn end<L: SimdVector>(sum: L, scale: *const f32, bias: *const f32) -> L {
        unsafe { L::load(bias).fma(sum.whole_to_f32(), L::load(scale)) }
    }
    #[inline(always)]
    unsafe fn beside<L: SimdVector>(sum: L, value: L, factor: *const f32) -> L {
        unsafe { sum.fma(value, L::load(factor)) }
    }
    #[inline(always)]
    unsafe fn load<L: SimdVector>(from: *const f32) -> L {
        unsafe { L::load_u8(from) }
    }
    #[inline(always)]
    unsafe fn store<L: SimdVector>(values: L, to: *mut f32) {
        unsafe { values.store_u8(to) }
    }
    #[inline(always)]
    unsafe fn store_row<L: SimdVector, const P: usize>(values: [L; P], _: (f32, f32), to: *mut f32) {
        unsafe {
            for four in 0..P / 4 {
                let p = 4 * four;
                L::store_u8_four([values[p], values[p + 1], values[p + 2], values[p + 3]], to.add(p * Self::WORDS));
            }
            for (p, value) in values.into_iter().enumerate().skip(P / 4 * 4) {
                Self::store(value, to.add(p * Self::WORDS));
            }
        }
    }
    #[inline(always)]
    fn word(values: &[f32], units: &[(f32, f32); 4]) -> f32 {
        let byte = |value: f32, (units, zero): (f32, f32)| {
            let units = value * units + zero;
            // NaN becomes 0.
            let low = if units > 0.0 { units } else { 0.0 };
            (low.min(TOP) + TO_WHOLE).to_bits() & 0xff
        };
        let bytes = values.iter().zip(units).enumerate();
        f32::from_bits(bytes.map(|(i, (value, units))| byte(*value, *units) << (8 * i)).sum())
    }
}

/// Added to a small number, leaves its integer in the lowest bits, with ties rounded to even.
const TO_WHOLE: f32 = 12_582_912.0;
