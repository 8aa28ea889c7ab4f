//! A pool of byte and sample buffers, so that a picture needs a copy but no allocation.
//!
//! The pool is a bounded lock-free queue of empty buffers: dropping a [`Pooled`] puts its buffer back from any thread.
//! When the queue is empty a new buffer is allocated; when it is full the buffer is freed. So the pool never blocks, and
//! its bound limits only the idle memory. Buffers that stayed idle for the last 1,024 requests are freed as well.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Requests between two releases of idle buffers: 40 s of pictures.
const REQUESTS_PER_RELEASE: usize = 1024;

/// Idle buffers that are always kept, because seconds are not decided at exactly equal intervals.
const SLACK: usize = 8;

/// A pool of `Vec<T>` buffers.
#[derive(Debug)]
pub struct Pool<T> {
    give: Sender<Vec<T>>,
    take: Receiver<Vec<T>>,
    used: Arc<PoolUsage>,
}

/// Usage since the last release of idle buffers.
#[derive(Debug)]
struct PoolUsage {
    requests: AtomicUsize,
    /// The smallest number of idle buffers after a request.
    least: AtomicUsize,
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { give: self.give.clone(), take: self.take.clone(), used: self.used.clone() }
    }
}

impl<T> Pool<T> {
    /// A pool that keeps at most `idle_max` empty buffers.
    pub fn new(idle_max: usize) -> Self {
        let (give, take) = bounded(idle_max.max(1));
        let used = PoolUsage { requests: AtomicUsize::new(0), least: AtomicUsize::new(usize::MAX) };
        Self { give, take, used: Arc::new(used) }
    }

    /// Returns an empty buffer. Its capacity is that of its last use.
    pub fn take(&self) -> Pooled<T> {
        let mut data = self.take.try_recv().unwrap_or_default();
        data.clear();
        self.free_unused();
        Pooled { data, home: Some(self.give.clone()) }
    }

    /// Counts a request, and frees unused buffers when it is time. Concurrent requests make the count approximate.
    fn free_unused(&self) {
        let idle = self.idle();
        let least = self.used.least.fetch_min(idle, Ordering::Relaxed).min(idle);
        if self.used.requests.fetch_add(1, Ordering::Relaxed) % REQUESTS_PER_RELEASE == REQUESTS_PER_RELEASE - 1 {
            self.used.least.store(usize::MAX, Ordering::Relaxed);
            (SLACK..least).for_each(|_| drop(self.take.try_recv()));
        }
    }

    /// Number of idle buffers.
    pub fn idle(&self) -> usize {
        self.take.len()
    }
}

/// A buffer that returns to its pool when dropped.
#[derive(Debug)]
pub struct Pooled<T> {
    data: Vec<T>,
    home: Option<Sender<Vec<T>>>,
}

impl<T> Pooled<T> {
    /// A buffer that belongs to no pool.
    pub fn detached(data: Vec<T>) -> Self {
        Self { data, home: None }
    }
}

impl<T> Deref for Pooled<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.data
    }
}

impl<T> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.data
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            // A full pool means enough idle buffers are kept: this one is freed.
            let _ = home.try_send(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_return_and_keep_their_capacity() {
        let pool = Pool::<u8>::new(2);
        let mut buffer = pool.take();
        buffer.resize(1000, 7);
        drop(buffer);
        assert_eq!(pool.idle(), 1);
        let buffer = pool.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
        let (b, c) = (pool.take(), pool.take());
        drop((buffer, b, c));
        assert_eq!(pool.idle(), 2, "the third buffer is freed, not kept");
    }

    #[test]
    fn buffers_of_a_burst_are_freed_and_used_buffers_are_kept() {
        let pool = Pool::<u8>::new(128);
        drop((0..100).map(|_| pool.take()).collect::<Vec<_>>());
        assert_eq!(pool.idle(), 100);
        // Thirty at a time, as the pictures of a second.
        for _ in 0..3 * REQUESTS_PER_RELEASE / 30 {
            drop((0..30).map(|_| pool.take()).collect::<Vec<_>>());
        }
        assert_eq!(pool.idle(), 30 + SLACK);
    }
}
