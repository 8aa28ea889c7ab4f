//! Threads with a name, and processors set aside for work beside the streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Starts a thread.
///
/// # Errors
/// [`Error::Internal`] when the system has none left.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Error::Internal(format!("cannot start thread {name}: {e}")))
}

/// Counts the turns of a thread's loop, for whoever wants to see that it still turns. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// The thread begins another turn.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Turns so far.
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Half the processors, at least one, for work that must not stand in the way of the running pack's: in the common pool
/// its pieces would queue before the running pack's.
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
