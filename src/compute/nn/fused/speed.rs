//! Whether this processor multiplies bf16 faster than `f32`.
#![allow(unsafe_code)]
// Index loops over arrays that the compiler keeps in registers: iterators would take their addresses.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::format::{Bf16Format, F32Format, ValueFormat};
use super::kernel::LANES;
use super::level::Level;
use super::simd::{Avx512, SimdVector};

/// Independent sums, enough that no instruction waits for the result of another.
const SUMS: usize = 14;

/// Words that are added to each sum: some microseconds.
const WORDS: usize = 1000;

/// The fastest of so many runs counts, because others may have been interrupted.
const RUNS: u32 = 20;

macro_rules! timed_for {
    ($name:ident, $format:ty, $features:literal) => {
        /// The time of [`WORDS`] for each of [`SUMS`] sums.
        ///
        /// # Safety
        /// The processor has these instructions.
        #[target_feature(enable = $features)]
        unsafe fn $name() -> Duration {
            let began = Instant::now();
            let word = black_box([0f32; LANES]);
            // SAFETY: the caller's promise; the array has the values of a vector.
            unsafe {
                let (x, weights) = (Avx512::load(word.as_ptr()), Avx512::load(word.as_ptr()));
                let mut sums = [Avx512::zero(); SUMS];
                for _ in 0..WORDS {
                    for s in 0..SUMS {
                        sums[s] = <$format>::dot(sums[s], x, weights);
                    }
                }
                black_box(&sums);
            }
            began.elapsed()
        }
    };
}
timed_for!(single, F32Format, "avx512f,avx2,fma");
timed_for!(half, Bf16Format, "avx512f,avx512bf16,avx2,fma");

/// Whether the processor has instructions for bf16 and multiplies it faster. Measures once per process, in less than a millisecond.
pub(super) fn is_bf16_faster() -> bool {
    static RATIO: OnceLock<f64> = OnceLock::new();
    // SAFETY: the processor has the level.
    Level::Avx512Bf16.is_there() && *RATIO.get_or_init(|| unsafe { time_ratio() }) < 1.0
}

/// Time per product in bf16, of that in `f32`.
///
/// # Safety
/// The processor has [`Level::Avx512Bf16`].
unsafe fn time_ratio() -> f64 {
    let mut least = [Duration::MAX; 2];
    for _ in 0..RUNS {
        // SAFETY: the caller's promise.
        let times = unsafe { [single(), half()] };
        least = [least[0].min(times[0]), least[1].min(times[1])];
    }
    // A word has twice as many values in bf16.
    let ratio = least[1].as_secs_f64() / least[0].as_secs_f64() / 2.0;
    tracing::debug!("a product of bf16 takes {ratio:.2} times as long as one of f32");
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_times_is_that_of_a_processor() {
        if Level::Avx512Bf16.is_there() {
            // SAFETY: the level is there.
            let ratio = unsafe { time_ratio() };
            assert!((0.05..20.0).contains(&ratio), "{ratio}");
        }
        assert!(!is_bf16_faster() || Level::Avx512Bf16.is_there());
    }
}
