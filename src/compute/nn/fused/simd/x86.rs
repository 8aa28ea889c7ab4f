//! The vectors of x86-64: AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::SimdVector;

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

// SAFETY: the caller has checked AVX-512 F, and AVX512_BF16 for bf16 operations, AVX512_VNNI and AVX-512 BW for operations on bytes;
// pointers as the trait asks, loads and stores are unaligned ones. The minimum and maximum instructions give their second operand where one is NaN.
impl SimdVector for Avx512 {
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
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn within(self, y: Self, low: Self, high: Self) -> Self {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(y.0, low.0);
            let inside = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, y.0, high.0);
            Self(_mm512_maskz_mov_ps(inside, self.0))
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: Self, high: Self) -> Self {
        unsafe {
            let halves = |x: Self| {
                let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x.0));
                _mm512_cvtepu16_epi32(rounded)
            };
            let words = _mm512_or_si512(halves(low), _mm512_slli_epi32::<16>(halves(high)));
            Self(_mm512_castsi512_ps(words))
        }
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
        // The type of a register of pairs is another name for the same bits.
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
        unsafe { _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0))) }
    }
    #[inline(always)]
    unsafe fn dot_u8(self, a: Self, b: Self) -> Self {
        unsafe {
            let (sum, a, b) = (_mm512_castps_si512(self.0), _mm512_castps_si512(a.0), _mm512_castps_si512(b.0));
            Self(_mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, a, b)))
        }
    }
    #[inline(always)]
    unsafe fn whole_to_f32(self) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_castps_si512(self.0))) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const f32) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, to: *mut f32) {
        unsafe {
            // NaN becomes the smallest integer, and so 0.
            let whole = _mm512_max_epi32(_mm512_cvtps_epi32(self.0), _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(whole));
        }
    }
    #[inline(always)]
    unsafe fn store_u8_four([a, b, c, d]: [Self; 4], to: *mut f32) {
        unsafe {
            let whole = |values: Self| _mm512_cvtps_epi32(values.0);
            // Both instructions clamp; NaN is the smallest integer, and so 0.
            let (ab, cd) = (_mm512_packs_epi32(whole(a), whole(b)), _mm512_packs_epi32(whole(c), whole(d)));
            let quarters = _mm512_packus_epi16(ab, cd);
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi32(order, quarters));
        }
    }
    type TransposeTable = (__m512i, __m512i);
    #[inline(always)]
    unsafe fn turn() -> Self::TransposeTable {
        static QUARTERS: [u32; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
        static BYTES: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
        unsafe {
            // Hidden from the optimiser, which would merge the two permutations into one that takes six instructions.
            let (quarters, bytes) = std::hint::black_box((&QUARTERS, &BYTES));
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            (_mm512_loadu_si512(quarters.as_ptr().cast()), _mm512_broadcast_i32x4(bytes))
        }
    }
    #[inline(always)]
    unsafe fn turn_u8(from: *const f32, (quarters, bytes): Self::TransposeTable) -> Self {
        unsafe {
            // First collect four channels of each pixel in a quarter of the register, then permute bytes within quarters.
            let pixels = _mm512_permutexvar_epi32(quarters, _mm512_loadu_si512(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_shuffle_epi8(pixels, bytes)))
        }
    }
}

#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

impl Avx2 {
    #[inline(always)]
    fn words(self) -> [__m256i; 2] {
        // SAFETY: an AVX2 register exists only where the caller has checked AVX2, here and below.
        unsafe { [_mm256_castps_si256(self.0), _mm256_castps_si256(self.1)] }
    }

    #[inline(always)]
    fn of_words([low, high]: [__m256i; 2]) -> Self {
        unsafe { Self(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)) }
    }

    /// `sum + a₀ · b₀ + a₁ · b₁` of pairs of bf16.
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe {
            let upper = |x| _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000u32 as i32)));
            let lower = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(x)));
            _mm256_fmadd_ps(lower(a), lower(b), _mm256_fmadd_ps(upper(a), upper(b), sum))
        }
    }

    /// Values as bf16 in the lower halves of the lanes, rounded as [`super::super::format::bf16_bits`].
    #[inline(always)]
    unsafe fn bf16(values: __m256) -> __m256i {
        unsafe {
            let bits = _mm256_castps_si256(values);
            let upper = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
            _mm256_blendv_epi8(rounded, quiet, is_nan)
        }
    }

    /// `sum` plus the products of four `u8` and four `i8` in each lane, exactly: `maddubs` would saturate.
    #[inline(always)]
    unsafe fn dot_bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe {
            let a = [_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a)];
            let b = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b)];
            let products = _mm256_add_epi32(_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]));
            _mm256_add_epi32(sum, products)
        }
    }

    /// Rounded to nearest, ties to even; at most 255, NaN as the smallest integer.
    #[inline(always)]
    unsafe fn whole(values: __m256) -> __m256i {
        unsafe { _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0), values)) }
    }
}

// SAFETY: the caller has checked AVX2 and FMA; the rest as above.
impl SimdVector for Avx2 {
    const WIDE: bool = false;
    type TransposeTable = ();
    #[inline(always)]
    unsafe fn turn() {}
    #[inline(always)]
    unsafe fn turn_u8(from: *const f32, (): ()) -> Self {
        unsafe {
            let pixel = |n| _mm_loadu_si128(from.cast::<__m128i>().add(n));
            let (first, last) = ([pixel(0), pixel(1)], [pixel(2), pixel(3)]);
            let low = [_mm_unpacklo_epi8(first[0], first[1]), _mm_unpacklo_epi8(last[0], last[1])];
            let high = [_mm_unpackhi_epi8(first[0], first[1]), _mm_unpackhi_epi8(last[0], last[1])];
            let eight = |pairs: [__m128i; 2]| {
                _mm256_set_m128i(_mm_unpackhi_epi16(pairs[0], pairs[1]), _mm_unpacklo_epi16(pairs[0], pairs[1]))
            };
            Self::of_words([eight(low), eight(high)])
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        unsafe { Self(Self::dot_pairs(self.0, a.0, b.0), Self::dot_pairs(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const f32) -> Self {
        unsafe {
            let eight = |n| {
                let halves = _mm_loadu_si128(from.cast::<__m128i>().add(n));
                _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))
            };
            Self::of_words([eight(0), eight(1)])
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut f32) {
        unsafe {
            // Packing works within halves of the register.
            let packed = _mm256_packus_epi32(Self::bf16(self.0), Self::bf16(self.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: Self, high: Self) -> Self {
        unsafe {
            let pair = |low, high| _mm256_or_si256(Self::bf16(low), _mm256_slli_epi32::<16>(Self::bf16(high)));
            Self::of_words([pair(low.0, high.0), pair(low.1, high.1)])
        }
    }
    #[inline(always)]
    unsafe fn dot_u8(self, a: Self, b: Self) -> Self {
        let (sum, a, b) = (self.words(), a.words(), b.words());
        unsafe { Self::of_words([Self::dot_bytes(sum[0], a[0], b[0]), Self::dot_bytes(sum[1], a[1], b[1])]) }
    }
    #[inline(always)]
    unsafe fn whole_to_f32(self) -> Self {
        let [low, high] = self.words();
        unsafe { Self(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const f32) -> Self {
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let eight = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            Self(eight(bytes), eight(_mm_unpackhi_epi64(bytes, bytes)))
        }
    }
    #[inline(always)]
    unsafe fn store_u8(self, to: *mut f32) {
        unsafe {
            // Both instructions clamp, and work within halves of the register.
            let halves = _mm256_packus_epi32(Self::whole(self.0), Self::whole(self.1));
            let bytes = _mm256_packus_epi16(halves, halves);
            let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(ordered));
        }
    }
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
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn within(self, y: Self, low: Self, high: Self) -> Self {
        unsafe {
            let half = |x, y, low, high| {
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(y, low);
                _mm256_and_ps(x, _mm256_and_ps(above, _mm256_cmp_ps::<_CMP_LT_OQ>(y, high)))
            };
            Self(half(self.0, y.0, low.0, high.0), half(self.1, y.1, low.1, high.1))
        }
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
