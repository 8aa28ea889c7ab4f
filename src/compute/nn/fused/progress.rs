//! Counters by which threads take the tasks of a step and learn that it is done.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::plan::Split;

/// Progress of a step.
#[derive(Debug)]
pub(super) struct TaskProgress {
    /// Tasks taken from each thread's share.
    taken: Vec<PaddedCounter>,
    /// Tasks done.
    pub done: PaddedCounter,
    /// Nanoseconds from the start of the run to the end of the step, as seen by the calling thread.
    pub ended_ns: AtomicU64,
}

/// A counter on its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct PaddedCounter(pub AtomicUsize);

impl TaskProgress {
    pub fn new(threads: usize) -> Self {
        let taken = (0..threads).map(|_| PaddedCounter::default()).collect();
        Self { taken, done: PaddedCounter::default(), ended_ns: AtomicU64::new(0) }
    }

    /// Threads that share the tasks.
    pub fn threads(&self) -> usize {
        self.taken.len()
    }

    pub fn reset(&mut self) {
        self.taken.iter_mut().for_each(|counter| *counter.0.get_mut() = 0);
        *self.done.0.get_mut() = 0;
        *self.ended_ns.get_mut() = 0;
    }

    /// The next task for a thread: from its own share, or a task that another thread has not begun. A thread's share is the
    /// same rows in every step, so that they are in its cache.
    pub fn take(&self, thread: usize, tasks: usize) -> Option<usize> {
        let threads = self.taken.len();
        (0..threads).map(|i| (thread + i) % threads).find_map(|owner| {
            let Range { start, end } = Split::share(tasks, owner, threads);
            // A plain load first: exhausted shares are visited often.
            if start + self.taken[owner].0.load(Ordering::Relaxed) >= end {
                return None;
            }
            let task = start + self.taken[owner].0.fetch_add(1, Ordering::Relaxed);
            (task < end).then_some(task)
        })
    }
}
