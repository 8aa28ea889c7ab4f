//! Runs a plan: each thread takes tasks of the current step until none is left, then continues with the next step.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use super::compiled;
use super::depthwise::{DepthwiseRow, depthwise};
use super::format::{Bf16Format, F32Format, Int8Format, ValueFormat};
use super::graph::{CacheLine, INPUT};
use super::kernel::{self, ConvRows, LANES, Prefetch};
use super::level::{Level, Precision};
use super::plan::{ConvPlan, Plan, Split, Step, StepKind, ValueLayout};
use super::progress::TaskProgress;
use super::simd::{self, Portable, SimdVector};

/// Memory for a plan: the values of a few pictures, scratch for every thread, and the progress of each step. The steps that
/// write values also write their borders, so nothing from an earlier run is read.
#[derive(Debug)]
pub(super) struct Workspace {
    lines: Vec<CacheLine>,
    /// Pictures that fit.
    pictures: usize,
    scratch: Vec<CacheLine>,
    scratch_each: usize,
    progress: Vec<TaskProgress>,
    threads: usize,
}

impl Workspace {
    pub fn new(plan: &Plan, pictures: usize, threads: usize) -> Self {
        let scratch_each = (plan.scratch * pictures).max(plan.scratch_alone);
        Self {
            lines: vec![CacheLine::ZERO; plan.front_lines + plan.lines * pictures],
            pictures,
            scratch: vec![CacheLine::ZERO; scratch_each * threads],
            scratch_each,
            progress: (0..plan.steps.len() + plan.front * (pictures - 1)).map(|_| TaskProgress::new(threads)).collect(),
            threads,
        }
    }

    /// Pictures that fit.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Nanoseconds that each step of the last run, of `n` pictures, took for all of them.
    pub fn step_ns(&self, plan: &Plan, n: usize) -> Vec<u64> {
        let mut took = vec![0; plan.steps.len()];
        let mut last = 0;
        let steps = (0..n).flat_map(|_| 0..plan.front).chain(plan.front..plan.steps.len());
        for (step, progress) in steps.zip(&self.progress) {
            let ended = progress.ended_ns.load(Ordering::Relaxed);
            took[step] += ended - last;
            last = ended;
        }
        took
    }

    /// Runs `plan` on `n` pictures: `input` is (n, C, H, W), `output` is (n, the plan's output).
    ///
    /// # Panics
    /// When `n` pictures do not fit, or a slice has another length.
    pub fn run(
        &mut self,
        plan: &Plan,
        (level, precision): (Level, Precision),
        input: &[f32],
        output: &mut [f32],
        n: usize,
    ) {
        let threads = self.threads;
        let call = self.call(plan, (level, precision), input, output, n);
        if threads == 1 {
            call.work(0);
            return;
        }
        // Helpers are optional: one that starts after the others have finished finds no task left. No step waits for a helper
        // that has not begun; only the end of the run waits until the pool has scheduled each of them.
        rayon::in_place_scope(|scope| {
            for thread in 1..threads {
                let call = &call;
                scope.spawn(move |_| call.work(thread));
            }
            call.work(0);
        });
    }
    /// As [`Workspace::run`] for one picture on this thread alone. `each` receives every row of every value, with its block,
    /// as soon as it has been computed.
    ///
    /// # Panics
    /// As [`Workspace::run`].
    pub fn run_watched(
        &mut self,
        plan: &Plan,
        kernels: (Level, Precision),
        input: &[f32],
        output: &mut [f32],
        each: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let call = self.call(plan, kernels, input, output, 1);
        for (number, step) in plan.steps.iter().enumerate() {
            for task in 0..step.tasks {
                // SAFETY: this thread is the only one; all earlier steps are done.
                unsafe { call.dispatch(step, (0, 1), task, 0) };
            }
            if number == 0 || matches!(step.work, StepKind::Average | StepKind::WholePicture) {
                continue;
            }
            let (from, y) = call.value(step.y, 0);
            for block in 0..y.blocks {
                for row in 0..y.h {
                    let at = block * y.plane() + y.at(row, 0, 0);
                    // SAFETY: a row of the value that the step has just written.
                    each(step.y, block, unsafe { std::slice::from_raw_parts(from.add(at), y.w * y.pixel) });
                }
            }
        }
    }

    fn call<'a>(
        &'a mut self,
        plan: &'a Plan,
        (level, precision): (Level, Precision),
        input: &'a [f32],
        output: &'a mut [f32],
        n: usize,
    ) -> Call<'a> {
        let picture = &plan.values[INPUT];
        assert!(n <= self.pictures && level.is_there(), "the workspace is for {} pictures", self.pictures);
        assert_eq!(input.len(), n * plan.channels * picture.h * picture.w, "input of {n} pictures");
        assert_eq!(output.len(), n * plan.output_len(), "output of {n} pictures");
        for progress in &mut self.progress {
            progress.reset();
        }
        Call {
            plan,
            level,
            precision,
            n,
            pictures: self.pictures,
            input,
            lines: SharedPointer(self.lines.as_mut_ptr().cast()),
            output: SharedPointer(output.as_mut_ptr()),
            scratch: SharedPointer(self.scratch.as_mut_ptr().cast()),
            scratch_each: self.scratch_each * LANES,
            progress: &self.progress,
            began: Instant::now(),
        }
    }
}

/// A pointer shared by threads. Tasks write disjoint parts of the memory behind it.
#[derive(Clone, Copy)]
pub(super) struct SharedPointer(pub *mut f32);

// SAFETY: tasks of one step write places of their own and read the output of earlier steps; steps are ordered by the counters
// of [`TaskProgress`].
unsafe impl Send for SharedPointer {}
// SAFETY: as above.
unsafe impl Sync for SharedPointer {}

pub(super) struct Call<'a> {
    pub(super) plan: &'a Plan,
    level: Level,
    precision: Precision,
    n: usize,
    pictures: usize,
    pub(super) input: &'a [f32],
    lines: SharedPointer,
    pub(super) output: SharedPointer,
    scratch: SharedPointer,
    scratch_each: usize,
    progress: &'a [TaskProgress],
    began: Instant,
}

/// The weights of the blocks from `block` on, from a segment of the sum on.
fn prefetch(conv: &ConvPlan, block: usize, segment: usize, group: usize) -> Prefetch {
    let run = conv.reduction.run;
    let lines = conv.reduction.segments.len() * run;
    match conv.split.blocks.saturating_sub(block).min(group) {
        0 => Prefetch::NONE,
        blocks => {
            let first: *const f32 = conv.layer.weights[block * lines + segment * run..].as_ptr().cast();
            Prefetch::new(first, lines * LANES, blocks)
        }
    }
}

static NO_SHIFT: CacheLine = CacheLine::ZERO;

/// How often a waiting thread polls a counter before it yields the processor.
const SPINS: u32 = 2000;

impl Call<'_> {
    /// Takes tasks of every step in order until none is left.
    fn work(&self, thread: usize) {
        let (front, back) = self.plan.steps.split_at(self.plan.front);
        let alone = (0..self.n).flat_map(|picture| front.iter().map(move |step| (step, (picture, picture + 1))));
        let together = back.iter().map(|step| (step, (0, self.n)));
        for ((step, pictures), progress) in alone.chain(together).zip(self.progress) {
            let tasks = if step.takes_all() { step.tasks } else { step.tasks * (pictures.1 - pictures.0) };
            while let Some(task) = progress.take(thread, tasks) {
                // SAFETY: the level was checked when the run began; the task is this thread's alone; all earlier steps are
                // done.
                unsafe { self.dispatch(step, pictures, task, thread) };
                progress.done.0.fetch_add(1, Ordering::Release);
            }
            let mut looks = 0;
            while progress.done.0.load(Ordering::Acquire) < tasks {
                looks += 1;
                if looks < SPINS {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
            if thread == 0 {
                let ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                progress.ended_ns.store(ns, Ordering::Relaxed);
            }
        }
    }

    /// # Safety
    /// As [`Call::task`].
    unsafe fn dispatch(&self, step: &Step, pictures: (usize, usize), task: usize, thread: usize) {
        // SAFETY: the level is there, and a higher one has the instructions of the lower; the rest is the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if compiled::task((self.level, self.precision), self, step, pictures, (task, thread)) {
                return;
            }
            match self.precision {
                Precision::F32 => self.task::<Portable, F32Format>(step, pictures, task, thread),
                Precision::Bf16 => self.task::<Portable, Bf16Format>(step, pictures, task, thread),
                Precision::Int8 => self.task::<Portable, Int8Format>(step, pictures, task, thread),
            }
        }
    }

    /// The scratch of a thread, [`Call::scratch_words`] long.
    pub fn scratch_of(&self, thread: usize) -> *mut f32 {
        self.scratch.0.wrapping_add(thread * self.scratch_each)
    }

    /// Words of a thread's scratch.
    pub fn scratch_words(&self) -> usize {
        self.scratch_each
    }

    /// Address and layout of a value of a picture.
    pub fn value(&self, value: usize, picture: usize) -> (*mut f32, &ValueLayout) {
        let p = &self.plan.values[value];
        let line =
            if p.kept { self.plan.front_lines + p.offset * self.pictures + picture * p.lines() } else { p.offset };
        // The plan reserved memory for every value of as many pictures.
        (self.lines.0.wrapping_add(line * LANES), p)
    }

    /// # Safety
    /// The processor has the instructions of `L`; no other thread has this task; all earlier steps are done.
    #[inline(always)]
    pub(super) unsafe fn task<L: SimdVector, F: ValueFormat>(
        &self,
        step: &Step,
        pictures: (usize, usize),
        task: usize,
        thread: usize,
    ) {
        let (picture, task) =
            if step.takes_all() { (pictures.0, task) } else { (pictures.0 + task / step.tasks, task % step.tasks) };
        // SAFETY: as the caller promises; places come from the plan.
        unsafe {
            match &step.work {
                StepKind::Conv(conv) => {
                    let pictures = if conv.together { pictures } else { (picture, picture + 1) };
                    self.conv::<L, F>(step, conv, pictures, task, thread);
                }
                StepKind::Winograd(tiled) if F::WORDS == LANES => {
                    let scratch = self.scratch_of(thread);
                    tiled.run::<L>(self, step, picture, task, scratch);
                }
                StepKind::Winograd(_) => unreachable!("tiles are for f32 only"),
                StepKind::Gate(_) | StepKind::ChannelNorm { .. } | StepKind::Attention => {
                    self.hybrid(step, picture, task, thread);
                }
                StepKind::Planes { split } => self.planes::<F>(step, split, picture, task),
                StepKind::Average => self.average::<L, F>(step, picture),
                StepKind::WholePicture => self.whole::<L, F>(step, picture, task),
                StepKind::Depthwise { split, .. }
                | StepKind::MaxPool { split, .. }
                | StepKind::Scale { split, .. }
                | StepKind::ScaleShift { split, .. } => {
                    self.plane::<L, F>(step, split, picture, task);
                }
            }
        }
    }

    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    unsafe fn conv<L: SimdVector, F: ValueFormat>(
        &self,
        step: &Step,
        conv: &ConvPlan,
        pictures: (usize, usize),
        task: usize,
        thread: usize,
    ) {
        let (rows, blocks) = conv.split.task(task);
        let layer = &*conv.layer;
        let lines_block = conv.reduction.segments.len() * conv.reduction.run;
        let scratch = self.scratch_of(thread);
        let last = task + 1 == Split::share(conv.split.tasks(), thread, self.progress[0].threads()).end;
        let mut block = blocks.start;
        while block < blocks.end {
            let left = blocks.end - block;
            let group = [4, 2, 1].into_iter().find(|g| *g <= conv.group && *g <= left).unwrap_or(1);
            for (number, piece) in conv.pieces.iter().enumerate() {
                let mut prefetch = match conv.pieces.get(number + 1) {
                    Some(piece) => prefetch(conv, block, piece.0, group),
                    None if block + group == blocks.end && last => self.soon_of(step.next, thread),
                    // The next task of this thread begins there.
                    None => prefetch(conv, block + group, 0, group),
                };
                for picture in pictures.0..pictures.1 {
                    let (from, _) = self.value(step.x, picture);
                    let (to, y) = self.value(step.y, picture);
                    let residual = step.residual.map(|r| self.value(r, picture));
                    for row in rows.clone() {
                        let pixels = if row + 1 == conv.rows { conv.last_row_pixels } else { conv.row_pixels };
                        let place = ((picture - pictures.0) * (rows.end - rows.start) + row - rows.start)
                            * conv.row_pixels
                            * conv.group
                            * LANES;
                        // SAFETY: the plan's places lie in the workspace; blocks and rows are this task's.
                        unsafe {
                            let job = ConvRows {
                                reduction: &conv.reduction,
                                segments: *piece,
                                x: from.add(conv.x_origin + row * conv.x_row),
                                weights: layer.weights.as_ptr().add(block * lines_block).cast(),
                                weights_block: lines_block * LANES,
                                bias: layer.epilogue.bias.as_ptr().add(block).cast(),
                                scale: layer.epilogue.scale.as_ptr().wrapping_add(block).cast(),
                                y: to.add(block * y.plane() + conv.y_origin + row * conv.y_row),
                                y_block: y.plane(),
                                residual: residual.map_or(std::ptr::null(), |(r, p)| {
                                    r.add(block * p.plane() + conv.residual_origin + row * conv.residual_row)
                                }),
                                residual_block: residual.map_or(0, |(_, p)| p.plane()),
                                residual_factor: layer.epilogue.residual.as_ptr().wrapping_add(block).cast(),
                                scratch: if conv.pieces.len() > 1 { scratch.add(place) } else { std::ptr::null_mut() },
                                bounds: layer.epilogue.bounds,
                                first: number == 0,
                                last: number + 1 == conv.pieces.len(),
                                pixels,
                                prefetch,
                            };
                            prefetch = if layer.planar {
                                kernel::convolve_planes::<L, F>(group, job)
                            } else {
                                kernel::convolve::<L, F>(group, job)
                            };
                            if y.gelu && job.last {
                                // The rows are still in the first-level cache.
                                (0..group).for_each(|block| simd::gelu::<L>(job.y.add(block * y.plane()), pixels));
                            }
                        }
                    }
                    if number == 0 {
                        for block in block..block + group {
                            // SAFETY: blocks and rows are this task's; a border exists only where rows are the picture's.
                            unsafe { self.border(to, y, block, &rows) };
                        }
                    }
                }
            }
            block += group;
        }
    }

    /// The first weights that a thread needs in a step.
    fn soon_of(&self, step: usize, thread: usize) -> Prefetch {
        match self.plan.steps.get(step).map(|step| &step.work) {
            Some(StepKind::Conv(conv)) => {
                let first = Split::share(conv.split.tasks(), thread, self.progress[0].threads()).start;
                prefetch(conv, conv.split.task(first).1.start, 0, conv.group)
            }
            _ => Prefetch::NONE,
        }
    }

    /// Runs a task of a step that processes blocks independently.
    ///
    /// # Safety
    /// As [`Call::task`].
    #[inline(always)]
    unsafe fn plane<L: SimdVector, F: ValueFormat>(&self, step: &Step, split: &Split, picture: usize, task: usize) {
        let (rows, blocks) = split.task(task);
        let (from, x) = self.value(step.x, picture);
        let (to, y) = self.value(step.y, picture);
        for block in blocks {
            // SAFETY: the plan's places lie in the workspace; blocks and rows are this task's.
            unsafe {
                // A depthwise convolution may read each channel several times.
                let from = from.add(block % x.blocks * x.plane());
                for row in rows.clone() {
                    let out = to.add(block * y.plane() + y.at(row, 0, 0));
                    match &step.work {
                        StepKind::Depthwise { layer, .. } => {
                            let window = layer.window;
                            depthwise::<L, F>(DepthwiseRow {
                                x: from.add(x.at(0, 0, window.padding) + row * window.stride * x.row()),
                                x_row: x.row(),
                                weights: layer.weights.as_ptr().add(block * layer.lines).cast(),
                                bias: layer.epilogue.bias.as_ptr().add(block).cast(),
                                scale: layer.epilogue.scale.as_ptr().wrapping_add(block).cast(),
                                y: out,
                                kernel: window.kernel,
                                stride: window.stride,
                                bounds: layer.epilogue.bounds,
                                pixels: y.w,
                            });
                        }
                        StepKind::MaxPool { window, .. } => {
                            let reach = |i: usize, n: usize| {
                                let first = i * window.stride;
                                first.saturating_sub(window.padding)..(first + window.kernel - window.padding).min(n)
                            };
                            let x0 = from.add(x.at(0, 0, 0));
                            kernel::max_row::<L, F>(x0, x.row(), reach(row, x.h), |i| reach(i, x.w), out, y.w);
                        }
                        StepKind::ScaleShift { scale, shift, bounds, .. } => {
                            let factors = (scale.as_ptr().add(block).cast(), shift.as_ptr().add(block).cast());
                            kernel::scale_shift::<L, F>((from.add(x.at(row, 0, 0)), out), factors, *bounds, y.w);
                        }
                        StepKind::Scale { gate, .. } => {
                            let (gate, _) = self.value(*gate, picture);
                            let factors = (gate.add(block * LANES).cast_const(), NO_SHIFT.0.as_ptr());
                            let bounds = (f32::NEG_INFINITY, f32::INFINITY);
                            kernel::scale_shift::<L, F>((from.add(x.at(row, 0, 0)), out), factors, bounds, y.w);
                        }
                        StepKind::Conv(_)
                        | StepKind::Winograd(_)
                        | StepKind::Gate(_)
                        | StepKind::ChannelNorm { .. }
                        | StepKind::Attention
                        | StepKind::Planes { .. }
                        | StepKind::Average
                        | StepKind::WholePicture => {}
                    }
                    if y.gelu {
                        simd::gelu::<L>(out, y.w);
                    }
                }
                self.border(to, y, block, &rows);
            }
        }
    }
}
