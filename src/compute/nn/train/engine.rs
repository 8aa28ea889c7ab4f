//! What all operations share: the instruction set and the precision, memory that is reused, and threads.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::kernel::LANES;
use crate::nn::fused::format::{Bf16Format, F32Format, ValueFormat};
use crate::nn::fused::graph::CacheLine;
#[cfg(target_arch = "x86_64")]
use crate::nn::fused::simd::{Avx2, Avx512};
use crate::nn::fused::simd::{Portable, SimdVector};
use crate::nn::fused::{Level, Precision};

/// Instruction set, precision and memory of a training. A clone shares the memory.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) level: Level,
    pub(super) precision: Precision,
    free: Arc<Mutex<Vec<Vec<CacheLine>>>>,
}

/// Lines after the end of a buffer that may be read: the last pixel of a thin picture is read as if it had sixteen channels.
const SLACK: usize = 8;

/// Parts of a batch whose sums are separate. The number does not depend on the number of threads, so neither do the results.
pub(super) const GROUPS: usize = 8;

impl Engine {
    /// An engine for this processor. Activations and their gradients are stored and multiplied in `precision`; sums, statistics
    /// and parameters are `f32`.
    ///
    /// # Panics
    /// With [`Precision::Int8`], which has no gradients.
    pub fn new(precision: Precision) -> Self {
        Self::with_level(Level::best(), precision)
    }

    /// As [`Engine::new`], with the instructions of `level`.
    ///
    /// # Panics
    /// As [`Engine::new`], and when the processor lacks the instructions.
    pub fn with_level(level: Level, precision: Precision) -> Self {
        assert!(precision != Precision::Int8 && level.is_there(), "{precision:?} at {level:?}");
        Self { level, precision, free: Arc::default() }
    }

    /// Words of 4 bytes that `blocks` blocks of 16 channels take.
    pub(super) fn words(&self, blocks: usize) -> usize {
        blocks * LANES / self.precision.per_word()
    }

    /// Whether the kernels of this engine have the many registers of AVX-512.
    pub(super) fn is_wide(&self) -> bool {
        self.level.is_wide(self.precision)
    }

    /// Memory for `words` words with any content.
    pub(super) fn buffer(&self, words: usize) -> Buffer {
        let lines = words.div_ceil(LANES) + SLACK;
        let mut free = self.free.lock();
        let fits = |kept: &Vec<CacheLine>| kept.len() >= lines && kept.len() <= 2 * lines;
        let best = free.iter().enumerate().filter(|(_, kept)| fits(kept)).min_by_key(|(_, kept)| kept.len());
        let lines = match best.map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => vec![CacheLine::ZERO; lines],
        };
        Buffer { lines, free: Arc::clone(&self.free) }
    }

    /// As [`Engine::buffer`], filled with zeros.
    pub(super) fn zeros(&self, words: usize) -> Buffer {
        let mut buffer = self.buffer(words);
        buffer.lines[..words.div_ceil(LANES)].par_chunks_mut(1 << 12).for_each(|lines| lines.fill(CacheLine::ZERO));
        buffer
    }

    /// Runs the tasks `0..tasks` on all threads, each with `scratch` words of memory with any content.
    pub(super) fn run(&self, tasks: usize, scratch: usize, task: &impl Task) {
        thread_local!(static SCRATCH: RefCell<Vec<CacheLine>> = const { RefCell::new(Vec::new()) });
        (0..tasks).into_par_iter().for_each(|number| {
            SCRATCH.with_borrow_mut(|lines| {
                let needed = scratch.div_ceil(LANES) + SLACK;
                if lines.len() < needed {
                    *lines = vec![CacheLine::ZERO; needed];
                }
                // SAFETY: the level was checked when the engine was made; the scratch is as large as the task asked.
                unsafe { self.dispatch(task, number, lines.as_mut_ptr().cast()) };
            });
        });
    }

    /// # Safety
    /// As [`Task::run`].
    unsafe fn dispatch(&self, task: &impl Task, number: usize, scratch: *mut f32) {
        // SAFETY: the level is there, and a higher one has the instructions of the lower; the rest is the caller's promise.
        unsafe {
            match (self.level, self.precision) {
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512Bf16, Precision::Bf16) => avx512_bf16(task, number, scratch),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16, Precision::F32) => {
                    avx512(task, number, scratch);
                }
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, Precision::F32) => avx2(task, number, scratch),
                (_, Precision::Bf16) => task.run::<Portable, Bf16Format>(number, scratch),
                (_, Precision::F32 | Precision::Int8) => task.run::<Portable, F32Format>(number, scratch),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($name:ident, $lanes:ty, $format:ty, $features:literal) => {
        /// # Safety
        /// As [`Task::run`].
        #[target_feature(enable = $features)]
        unsafe fn $name(task: &impl Task, number: usize, scratch: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { task.run::<$lanes, $format>(number, scratch) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512_bf16, Avx512, Bf16Format, "avx512f,avx512bf16,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, F32Format, "avx512f,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, F32Format, "avx2,fma");

/// An operation, divided into tasks that write disjoint memory.
pub(super) trait Task: Sync {
    /// Runs task `number`. Implementations are inlined into functions that are compiled for the instructions.
    ///
    /// # Safety
    /// The processor has the instructions of `L`; no other thread runs this task; `scratch` has the size that the operation
    /// asked for.
    unsafe fn run<L: SimdVector, F: ValueFormat>(&self, number: usize, scratch: *mut f32);
}

/// Memory of an engine, which takes it back.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Vec<CacheLine>,
    free: Arc<Mutex<Vec<Vec<CacheLine>>>>,
}

impl Buffer {
    pub fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    pub fn words(&self) -> &[f32] {
        // SAFETY: a cache line is sixteen f32; every bit pattern is one.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.lines.len() * LANES) }
    }

    pub fn words_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.lines.len() * LANES) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free.lock().push(std::mem::take(&mut self.lines));
    }
}

/// The range of `n` items that group `group` of [`GROUPS`] has, a multiple of `unit` items unless it is the last.
pub(super) fn share(n: usize, group: usize, unit: usize) -> std::ops::Range<usize> {
    let units = n.div_ceil(unit);
    (units * group / GROUPS * unit).min(n)..(units * (group + 1) / GROUPS * unit).min(n)
}

/// A pointer that tasks share. Each writes memory of its own behind it.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);

// SAFETY: tasks write disjoint parts, and nothing reads them until all tasks are done.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
