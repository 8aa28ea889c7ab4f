//! The steps that no kernel has: input to planes, blocks to features or planes, steps that see all pixels at once, zeros around values.
#![allow(unsafe_code)]

use super::format::ValueFormat;
use super::hybrid;
use super::kernel::{self, LANES};
use super::plan::{Split, Step, StepKind, ValueLayout};
use super::run::Call;
use super::simd::SimdVector;

impl Call<'_> {
    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    pub(super) unsafe fn planes<F: ValueFormat>(&self, step: &Step, split: &Split, picture: usize, task: usize) {
        let (rows, blocks) = split.task(task);
        let (to, y) = self.value(step.y, picture);
        let (per_word, plane) = (LANES / F::WORDS, y.h * y.w);
        let channels = self.plan.channels;
        for block in blocks {
            let first = block * per_word;
            let bytes = &self.plan.bytes[y.number][first..channels.min(first + per_word)];
            let mut units = [(0.0, 0.0); 4];
            units.iter_mut().zip(bytes).for_each(|(units, bytes)| *units = (bytes.units(1.0), bytes.zero));
            let from =
                |channel: usize, row: usize| &self.input[(picture * channels + channel) * plane + row * y.w..][..y.w];
            for row in rows.clone() {
                // SAFETY: the row is inside the workspace and is this task's alone.
                let words = unsafe { std::slice::from_raw_parts_mut(to.add(block * y.plane() + y.at(row, 0, 0)), y.w) };
                // An explicit loop, which the compiler vectorises.
                match channels.min(first + per_word) - first {
                    1 => words.iter_mut().zip(from(first, row)).for_each(|(word, a)| *word = F::word(&[*a], &units)),
                    2 => {
                        let pixels = from(first, row).iter().zip(from(first + 1, row));
                        words.iter_mut().zip(pixels).for_each(|(word, (a, b))| *word = F::word(&[*a, *b], &units));
                    }
                    3 => {
                        let pixels = from(first, row).iter().zip(from(first + 1, row)).zip(from(first + 2, row));
                        let pixels = words.iter_mut().zip(pixels);
                        pixels.for_each(|(word, ((a, b), c))| *word = F::word(&[*a, *b, *c], &units));
                    }
                    _ => {
                        let pixel = |i: usize| [0, 1, 2, 3].map(|c| from(first + c, row)[i]);
                        words.iter_mut().enumerate().for_each(|(i, word)| *word = F::word(&pixel(i), &units));
                    }
                }
            }
            // SAFETY: the caller's promise.
            unsafe { self.border(to, y, block, &rows) };
        }
    }

    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    pub(super) unsafe fn average<L: SimdVector, F: ValueFormat>(&self, step: &Step, picture: usize) {
        let (from, x) = self.value(step.x, picture);
        let features = self.plan.output[0];
        for block in 0..x.blocks {
            let mut sums = [0f32; LANES];
            for row in 0..x.h {
                let mut part = [0f32; LANES];
                // SAFETY: a row of a block in the workspace.
                unsafe { kernel::sum::<L, F>(from.add(block * x.plane() + x.at(row, 0, 0)), part.as_mut_ptr(), x.w) };
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            let count = LANES.min(features - block * LANES);
            for (lane, sum) in sums[..count].iter().enumerate() {
                let mean = self.plan.bytes[x.number][block * LANES + lane].real(sum / (x.h * x.w) as f32);
                // SAFETY: the run checked the output's length; this picture's part is this task's alone.
                unsafe { self.output.0.add(picture * features + block * LANES + lane).write(mean) };
            }
        }
    }

    /// Runs a task of a gate, a norm over channels, or attention.
    ///
    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    pub(super) unsafe fn hybrid(&self, step: &Step, picture: usize, task: usize, thread: usize) {
        let ((from, x), (to, y)) = (self.value(step.x, picture), self.value(step.y, picture));
        // The blocks that the task writes.
        let blocks = y.blocks / step.tasks;
        // SAFETY: the value is inside the workspace and no task of this step writes it; nothing else writes the task's blocks or the
        // thread's scratch.
        let (values, out, scratch) = unsafe {
            (
                std::slice::from_raw_parts(from, x.blocks * x.plane()),
                std::slice::from_raw_parts_mut(to.add(task * blocks * y.plane()), blocks * y.plane()),
                std::slice::from_raw_parts_mut(self.scratch_of(thread), self.scratch_words()),
            )
        };
        match &step.work {
            StepKind::Gate(layer) => layer.run(values, out, scratch),
            StepKind::ChannelNorm { epsilon } => hybrid::channel_norm(values, out, x.h * x.w, *epsilon),
            _ => {
                let plane = x.plane();
                let part = |n: usize| &values[(n * y.blocks + task * blocks) * plane..][..blocks * plane];
                hybrid::attention([part(0), part(1), part(2)], out, x.h * x.w, scratch);
            }
        }
    }

    /// Copies blocks to planes.
    ///
    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    pub(super) unsafe fn whole<L: SimdVector, F: ValueFormat>(&self, step: &Step, picture: usize, block: usize) {
        let (from, x) = self.value(step.x, picture);
        let (channels, plane) = (self.plan.output[0], x.h * x.w);
        let lanes = LANES.min(channels - block * LANES);
        let bytes = &self.plan.bytes[x.number][block * LANES..];
        for row in 0..x.h {
            // SAFETY: a row of the block; the run checked the output's length, and these planes are this task's alone.
            unsafe {
                let to = self.output.0.add((picture * channels + block * LANES) * plane + row * x.w);
                let from = from.add(block * x.plane() + x.at(row, 0, 0));
                kernel::planes::<L, F>(from, (to, plane), lanes, x.w, |lane, value| bytes[lane].real(value));
            }
        }
    }

    /// Writes the border of zeros beside the rows of a block, and above the first and below the last row.
    ///
    /// # Safety
    /// As [`Call::task`]: rows and block are this task's.
    #[inline(always)]
    pub(super) unsafe fn border(&self, to: *mut f32, y: &ValueLayout, block: usize, rows: &std::ops::Range<usize>) {
        if y.padding == 0 {
            return;
        }
        let fill = self.plan.fills[y.number].get(block * y.pixel..(block + 1) * y.pixel).unwrap_or(&[]);
        let zeros = |at: *mut f32, words: usize| {
            // SAFETY: places of the block's border in the workspace.
            unsafe {
                if fill.is_empty() {
                    at.write_bytes(0, words);
                    return;
                }
                for pixel in 0..words / y.pixel {
                    at.add(pixel * y.pixel).copy_from_nonoverlapping(fill.as_ptr(), y.pixel);
                }
            }
        };
        let side = y.padding * y.pixel;
        let to = to.wrapping_add(block * y.plane());
        if rows.start == 0 {
            zeros(to, y.padding * y.row());
        }
        for row in rows.clone() {
            let row = to.wrapping_add((row + y.padding) * y.row());
            zeros(row, side);
            zeros(row.wrapping_add(side + y.w * y.pixel), side);
        }
        if rows.end == y.h {
            zeros(to.wrapping_add((y.h + y.padding) * y.row()), y.padding * y.row());
        }
    }
}
