//! The tasks of a network, compiled for the instruction sets of x86-64.
#![allow(unsafe_code)]

use super::format::{Bf16Format, F32Format, Int8Format};
use super::level::{Level, Precision};
use super::plan::Step;
use super::run::Call;
use super::simd::{Avx2, Avx512};

macro_rules! compiled_for {
    ($name:ident, $lanes:ty, $format:ty, $features:literal) => {
        /// # Safety
        /// As [`Call::task`].
        #[target_feature(enable = $features)]
        unsafe fn $name(call: &Call<'_>, step: &Step, pictures: (usize, usize), task: usize, thread: usize) {
            // SAFETY: the caller's promise.
            unsafe { call.task::<$lanes, $format>(step, pictures, task, thread) }
        }
    };
}
compiled_for!(avx512_bf16, Avx512, Bf16Format, "avx512f,avx512bf16,avx2,fma");
compiled_for!(avx512_vnni, Avx512, Int8Format, "avx512f,avx512bw,avx512vnni,avx2,fma");
compiled_for!(avx512, Avx512, F32Format, "avx512f,avx2,fma");
compiled_for!(avx2, Avx2, F32Format, "avx2,fma");
compiled_for!(avx2_bf16, Avx2, Bf16Format, "avx2,fma");
compiled_for!(avx2_int8, Avx2, Int8Format, "avx2,fma");

/// Runs a task with the instructions of `level`. Returns false if there are none but those of the target.
///
/// # Safety
/// The processor has `level`; the rest as [`Call::task`].
pub(super) unsafe fn task(
    (level, precision): (Level, Precision),
    call: &Call<'_>,
    step: &Step,
    pictures: (usize, usize),
    (task, thread): (usize, usize),
) -> bool {
    let compiled = match (level, precision) {
        (Level::Portable, _) => return false,
        (Level::Avx512Bf16, Precision::Bf16) => avx512_bf16,
        (Level::Avx512Vnni | Level::Avx512Bf16, Precision::Int8) => avx512_vnni,
        (Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16, Precision::F32) => avx512,
        (Level::Avx2, Precision::F32) => avx2,
        // Where there are no instructions for bf16 or bytes, these take as long as f32.
        (Level::Avx2 | Level::Avx512 | Level::Avx512Vnni, Precision::Bf16) => avx2_bf16,
        (Level::Avx2 | Level::Avx512, Precision::Int8) => avx2_int8,
    };
    // SAFETY: a higher level has the instructions of the lower; the rest is the caller's promise.
    unsafe { compiled(call, step, pictures, task, thread) };
    true
}
