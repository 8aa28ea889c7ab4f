//! SIMD vectors of sixteen 4-byte lanes, for each instruction set.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod x86;

/// Sixteen `f32`, or sixteen other 4-byte words where a function says so. All functions are inlined into callers that are
/// compiled for the instruction set.
///
/// # Safety
/// Of every function: the processor has the instruction set of the type, and pointers are valid for 16 values (one value
/// for [`SimdVector::splat`]), of any alignment.
pub(in crate::nn) trait SimdVector: Copy {
    /// Whether 28 sums fit the registers; otherwise 6 do.
    const WIDE: bool;
    unsafe fn zero() -> Self;
    /// Prefetches the cache line of an address, which need not be valid.
    unsafe fn prefetch(at: *const f32);
    /// As [`SimdVector::prefetch`], but only into the second-level cache.
    unsafe fn prefetch_far(at: *const f32);
    /// The same value in all lanes.
    unsafe fn splat(value: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a · b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self` where `low < y < high`, else 0.
    unsafe fn within(self, y: Self, low: Self, high: Self) -> Self;
    /// The maximum; `self` where it is NaN.
    unsafe fn at_least(self, low: Self) -> Self;
    /// The minimum; `self` where it is NaN.
    unsafe fn at_most(self, high: Self) -> Self;
    /// `self + a₀ · b₀ + a₁ · b₁`, where each lane of `a` and `b` is a pair of bf16, the first in the lower half.
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        let [mut sum, mut left, mut right] = [[0f32; 16]; 3];
        // SAFETY: the caller's promise; the arrays hold 16 values.
        unsafe {
            self.store(sum.as_mut_ptr());
            a.store(left.as_mut_ptr());
            b.store(right.as_mut_ptr());
            for i in 0..16 {
                let (a, b) = (pair(left[i]), pair(right[i]));
                sum[i] += a.0 * b.0 + a.1 * b.1;
            }
            Self::load(sum.as_ptr())
        }
    }
    /// Loads sixteen bf16.
    #[inline(always)]
    unsafe fn load_bf16(from: *const f32) -> Self {
        // SAFETY: the caller's promise; the array holds 16 values.
        unsafe {
            let halves = from.cast::<[u16; 16]>().read_unaligned();
            Self::load(halves.map(|half| f32::from_bits(u32::from(half) << 16)).as_ptr())
        }
    }
    /// Stores sixteen bf16, rounded to nearest.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut f32) {
        let mut values = [0f32; 16];
        // SAFETY: as above.
        unsafe {
            self.store(values.as_mut_ptr());
            to.cast::<[u16; 16]>().write_unaligned(values.map(|value| super::format::bf16_bits(value) as u16));
        }
    }
    /// Words of two bf16, rounded to nearest: `low` in the lower half, `high` in the upper.
    #[inline(always)]
    unsafe fn pair_bf16(low: Self, high: Self) -> Self {
        let [mut lower, mut upper] = [[0f32; 16]; 2];
        // SAFETY: as above.
        unsafe {
            low.store(lower.as_mut_ptr());
            high.store(upper.as_mut_ptr());
            for i in 0..16 {
                let (low, high) = (super::format::bf16_bits(lower[i]), super::format::bf16_bits(upper[i]));
                lower[i] = f32::from_bits(low | high << 16);
            }
            Self::load(lower.as_ptr())
        }
    }
    /// `self + a₀ · b₀ + … + a₃ · b₃`, where each lane of `self` is an `i32`, of `a` four `u8` and of `b` four `i8`.
    #[inline(always)]
    unsafe fn dot_u8(self, a: Self, b: Self) -> Self {
        let [mut sum, mut left, mut right] = [[0f32; 16]; 3];
        // SAFETY: the caller's promise; the arrays hold 16 values.
        unsafe {
            self.store(sum.as_mut_ptr());
            a.store(left.as_mut_ptr());
            b.store(right.as_mut_ptr());
            for i in 0..16 {
                let (a, b) = (left[i].to_bits().to_le_bytes(), right[i].to_bits().to_le_bytes());
                let products = (0..4).map(|j| i32::from(a[j]) * i32::from(b[j] as i8)).sum::<i32>();
                sum[i] = f32::from_bits((sum[i].to_bits() as i32).wrapping_add(products) as u32);
            }
            Self::load(sum.as_ptr())
        }
    }
    /// Converts `i32` lanes to `f32`, rounded to nearest.
    #[inline(always)]
    unsafe fn whole_to_f32(self) -> Self {
        let mut values = [0f32; 16];
        // SAFETY: as above.
        unsafe {
            self.store(values.as_mut_ptr());
            Self::load(values.map(|value| (value.to_bits() as i32) as f32).as_ptr())
        }
    }
    /// Loads sixteen `u8` as `f32`.
    #[inline(always)]
    unsafe fn load_u8(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Self::load(from.cast::<[u8; 16]>().read_unaligned().map(f32::from).as_ptr()) }
    }
    /// Stores sixteen `u8`: rounded to nearest, ties to even, clamped; NaN as 0.
    #[inline(always)]
    unsafe fn store_u8(self, to: *mut f32) {
        let mut values = [0f32; 16];
        // SAFETY: as above.
        unsafe {
            self.store(values.as_mut_ptr());
            to.cast::<[u8; 16]>().write_unaligned(values.map(|value| value.round_ties_even() as u8));
        }
    }
    /// As [`SimdVector::store_u8`] four times, one after the other.
    #[inline(always)]
    unsafe fn store_u8_four(four: [Self; 4], to: *mut f32) {
        for (i, values) in four.into_iter().enumerate() {
            // SAFETY: the caller's promise: 64 bytes.
            unsafe { values.store_u8(to.add(4 * i)) };
        }
    }
    /// Index vectors for [`SimdVector::turn_u8`].
    type TransposeTable: Copy;
    unsafe fn turn() -> Self::TransposeTable;
    /// Transposes four pixels of 16 channels of `u8`, 64 bytes: each lane holds the four pixels of a channel.
    unsafe fn turn_u8(from: *const f32, turn: Self::TransposeTable) -> Self;
}

/// The largest argument for which [`gelu`] computes the tail; beyond it the tail is below 2e-7.
static TAIL_END: f32 = 5.5;

/// Coefficients of `a · Φ(−a)`, highest power first, in `2 a / TAIL_END − 1`: its Chebyshev series, accurate to 2e-7. Φ is the normal
/// distribution.
static TAIL: [f32; 17] = [
    -0.015_696_92,
    -0.000_522_047_34,
    0.098_924_37,
    -0.037_460_41,
    -0.256_906_2,
    0.232_402_07,
    0.272_212_54,
    -0.545_276_4,
    0.151_383_86,
    0.459_697_34,
    -0.628_322_9,
    0.260_418_27,
    0.178_947_58,
    -0.308_680_9,
    0.191_263_38,
    -0.060_577_98,
    0.008_194_37,
];

/// GELU with the error function, in place on `pixels` blocks of 16: `max(x, 0) − |x| · Φ(−|x|)`. The error is below 1e-6.
///
/// # Safety
/// As [`SimdVector`]; `at` is valid for the pixels.
#[inline(always)]
pub(super) unsafe fn gelu<L: SimdVector>(at: *mut f32, pixels: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (end, scale, minus_one) = (L::splat(&TAIL_END), L::splat(&(2.0 / TAIL_END)), L::splat(&-1.0));
        for pixel in 0..pixels {
            let place = at.add(pixel * 16);
            let x = L::load(place);
            let t = minus_one.fma(L::zero().sub(x).at_least(x).at_most(end), scale);
            let mut tail = L::splat(&TAIL[0]);
            for coefficient in &TAIL[1..] {
                tail = L::splat(coefficient).fma(tail, t);
            }
            x.at_least(L::zero()).sub(tail).store(place);
        }
    }
}

/// [`SimdVector::turn_u8`] without special instructions.
///
/// # Safety
/// As [`SimdVector`].
#[inline(always)]
unsafe fn turn_u8_plainly<L: SimdVector>(from: *const f32) -> L {
    // SAFETY: the caller's promise; the array holds 16 values.
    unsafe {
        let pixels = from.cast::<[[u8; 16]; 4]>().read_unaligned();
        let lane = |c: usize| f32::from_bits(u32::from_le_bytes(pixels.map(|pixel| pixel[c])));
        L::load(std::array::from_fn::<f32, 16, _>(lane).as_ptr())
    }
}

/// The lower and the upper bf16 of a pair.
#[inline(always)]
fn pair(bits: f32) -> (f32, f32) {
    let bits = bits.to_bits();
    (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000))
}

/// Plain Rust that the compiler vectorises.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self;
        for i in 0..16 {
            out.0[i] = f(self.0[i], other.0[i]);
        }
        out
    }
}

// SAFETY: no instruction beyond the target's; pointers as the trait asks.
impl SimdVector for Portable {
    const WIDE: bool = false;
    type TransposeTable = ();
    #[inline(always)]
    unsafe fn turn() {}
    #[inline(always)]
    unsafe fn turn_u8(from: *const f32, (): ()) -> Self {
        // SAFETY: the caller's promise.
        unsafe { turn_u8_plainly(from) }
    }
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 16])
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn prefetch_far(_: *const f32) {}
    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        // SAFETY: valid for one value.
        Self([unsafe { value.read_unaligned() }; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: valid for 16 values.
        Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: valid for 16 values.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // Not fused: without FMA instructions that would be a call of the C library.
        let product = a.each(b, |a, b| a * b);
        self.each(product, |sum, product| sum + product)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn within(self, y: Self, low: Self, high: Self) -> Self {
        let inside = y.each(low, |y, low| if y > low { 1.0 } else { 0.0 });
        let inside = inside.each(y.each(high, |y, high| if y < high { 1.0 } else { 0.0 }), |a, b| a * b);
        self.each(inside, |x, inside| if inside > 0.0 { x } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn at_least(self, low: Self) -> Self {
        self.each(low, |x, low| if low > x { low } else { x })
    }
    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        self.each(high, |x, high| if high < x { high } else { x })
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::nn) use x86::{Avx2, Avx512};
