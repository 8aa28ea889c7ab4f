//! Named threads, and thread pools for background work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Starts a thread named `name`.
///
/// # Errors
/// [`Error::Internal`] when the system has no threads left.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Error::Internal(format!("cannot start thread {name}: {e}")))
}

/// Counts the iterations of a thread's loop, so that a watchdog can see that it still runs. Clones share the counter.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Counts an iteration.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Iterations so far.
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A pool with half the processors, at least one, for background work. In the common pool, that work would delay the running
/// pack.
///
/// # Errors
/// [`Error::Internal`] when the system has no threads left.
pub fn background_pool(name: &'static str) -> Result<ThreadPool> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    ThreadPoolBuilder::new()
        .num_threads((processors / 2).max(1))
        .thread_name(move |i| format!("{name}/{i}"))
        .build()
        .map_err(|e| Error::Internal(format!("cannot start the threads of {name}: {e}")))
}
