//! Sixteen `f32` lanes on each instruction set.
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
    /// The greater; `self` where it is not a number.
    unsafe fn at_least(self, low: Self) -> Self;
    /// The lesser; `self` where it is not a number.
    unsafe fn at_most(self, high: Self) -> Self;
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

    // SAFETY: the caller has checked AVX-512 F; pointers as the trait asks, loads and stores are unaligned ones. The minimum
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
        unsafe fn at_least(self, low: Self) -> Self {
            unsafe { Self(_mm512_max_ps(low.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm512_min_ps(high.0, self.0)) }
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
        unsafe fn at_least(self, low: Self) -> Self {
            unsafe { Self(_mm256_max_ps(low.0, self.0), _mm256_max_ps(low.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm256_min_ps(high.0, self.0), _mm256_min_ps(high.1, self.1)) }
        }
    }
}
