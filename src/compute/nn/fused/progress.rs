//! How far the steps of a run are, and who takes which of their tasks.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::plan::Split;

/// How far a step is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Tasks taken of each thread's share.
    taken: Vec<PaddedCounter>,
    /// Tasks done of all.
    pub done: PaddedCounter,
    /// Nanoseconds from the run's beginning to the step's end, as the calling thread saw it.
    pub ended_ns: AtomicU64,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct PaddedCounter(pub AtomicUsize);

impl Progress {
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

    /// The next task for a thread: of its own share, or what others have not begun. A thread's share are the same rows in
    /// every step, which then lie in its own cache.
    pub fn take(&self, thread: usize, tasks: usize) -> Option<usize> {
        let threads = self.taken.len();
        (0..threads).map(|i| (thread + i) % threads).find_map(|owner| {
            let Range { start, end } = Split::share(tasks, owner, threads);
            // Looked at first: a share that is used up is passed by often.
            if start + self.taken[owner].0.load(Ordering::Relaxed) >= end {
                return None;
            }
            let task = start + self.taken[owner].0.fetch_add(1, Ordering::Relaxed);
            (task < end).then_some(task)
        })
    }
}
