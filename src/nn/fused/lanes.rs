//! Sixteen `f32` lanes on each instruction set, and the formats in which values lie in memory.
#![allow(unsafe_code)]

/// Sixteen `f32`. All functions are inlined into callers that are compiled for the instruction set.
///
/// # Safety
/// Of every function: the processor has the instruction set of the type, and pointers are valid for 16 values (one value
/// for [`Lanes::splat`]), of any alignment.
pub(super) trait Lanes: Copy {
    /// Registers for 28 sums and more; otherwise for 6 times 16.
    const WIDE: bool;
    unsafe fn zero() -> Self;
    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(at: *const f32);
    /// As [`Lanes::prefetch`], but only into the second-level cache.
    unsafe fn prefetch_far(at: *const f32);
    /// One value in all lanes.
    unsafe fn splat(value: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a · b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// The greater; `self` where it is not a number.
    unsafe fn at_least(self, low: Self) -> Self;
    /// The lesser; `self` where it is not a number.
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
    /// Sixteen bf16.
    #[inline(always)]
    unsafe fn load_bf16(from: *const f32) -> Self {
        // SAFETY: the caller's promise; the array holds 16 values.
        unsafe {
            let halves = from.cast::<[u16; 16]>().read_unaligned();
            Self::load(halves.map(|half| f32::from_bits(u32::from(half) << 16)).as_ptr())
        }
    }
    /// As sixteen bf16, rounded to the nearest.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut f32) {
        let mut values = [0f32; 16];
        // SAFETY: as above.
        unsafe {
            self.store(values.as_mut_ptr());
            to.cast::<[u16; 16]>().write_unaligned(values.map(|value| half::bf16::from_f32(value).to_bits()));
        }
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
pub(super) struct Portable([f32; 16]);

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
impl Lanes for Portable {
    const WIDE: bool = false;
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
        // Without the instruction a fused product would be a call of the C library.
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
    unsafe fn at_least(self, low: Self) -> Self {
        self.each(low, |x, low| if low > x { low } else { x })
    }
    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        self.each(high, |x, high| if high < x { high } else { x })
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY: the caller has checked AVX-512 F, and AVX512_BF16 for what works on bf16; pointers as the trait asks, loads and stores are unaligned ones. The minimum
    // and maximum instructions give their second operand where one is not a number.
    impl Lanes for Avx512 {
        const WIDE: bool = true;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Self(_mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(value: *const f32) -> Self {
            unsafe { Self(_mm512_set1_ps(*value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn at_least(self, low: Self) -> Self {
            unsafe { Self(_mm512_max_ps(low.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm512_min_ps(high.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
            // A register of pairs is only a name for the same bits.
            unsafe {
                Self(_mm512_dpbf16_ps(
                    self.0,
                    std::mem::transmute::<__m512, __m512bh>(a.0),
                    std::mem::transmute::<__m512, __m512bh>(b.0),
                ))
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const f32) -> Self {
            unsafe {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0)))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    // SAFETY: the caller has checked AVX2 and FMA; the rest as above.
    impl Lanes for Avx2 {
        const WIDE: bool = false;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(value: *const f32) -> Self {
            unsafe {
                let all = _mm256_set1_ps(*value);
                Self(all, all)
            }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn at_least(self, low: Self) -> Self {
            unsafe { Self(_mm256_max_ps(low.0, self.0), _mm256_max_ps(low.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm256_min_ps(high.0, self.0), _mm256_min_ps(high.1, self.1)) }
        }
    }
}

/// How values of blocks lie in memory and what is multiplied. Memory is counted in words of 4 bytes.
///
/// # Safety
/// Of every function: as [`Lanes`].
pub(super) trait Format {
    /// Words of 16 channels.
    const WORDS: usize;
    /// `sum` and the products of a word of the input with 16 words of weights.
    unsafe fn dot<L: Lanes>(sum: L, x: L, weights: L) -> L;
    unsafe fn load<L: Lanes>(from: *const f32) -> L;
    unsafe fn store<L: Lanes>(values: L, to: *mut f32);
}

/// `f32`: one value a word.
pub(super) struct Single;

// SAFETY: as the traits ask.
impl Format for Single {
    const WORDS: usize = 16;
    #[inline(always)]
    unsafe fn dot<L: Lanes>(sum: L, x: L, weights: L) -> L {
        unsafe { sum.fma(x, weights) }
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, to: *mut f32) {
        unsafe { values.store(to) }
    }
}

/// bf16: two values a word, sums in `f32`.
pub(super) struct Brain;

// SAFETY: as the traits ask.
impl Format for Brain {
    const WORDS: usize = 8;
    #[inline(always)]
    unsafe fn dot<L: Lanes>(sum: L, x: L, weights: L) -> L {
        unsafe { sum.dot_bf16(x, weights) }
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        unsafe { L::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, to: *mut f32) {
        unsafe { values.store_bf16(to) }
    }
}
