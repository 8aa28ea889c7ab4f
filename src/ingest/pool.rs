//! A pool of byte and sample buffers, so that a picture costs a copy but no allocation.
//!
//! The pool is a bounded lock-free queue of empty buffers: dropping a [`Pooled`] puts its buffer back from any thread.
//! When the queue is empty a new buffer is made; when it is full the buffer is freed. So the pool never blocks, and
//! its bound limits only how much idle memory is kept.

use std::ops::{Deref, DerefMut};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A pool of `Vec<T>` buffers.
#[derive(Debug)]
pub struct Pool<T> {
    give: Sender<Vec<T>>,
    take: Receiver<Vec<T>>,
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { give: self.give.clone(), take: self.take.clone() }
    }
}

impl<T> Pool<T> {
    /// A pool that keeps at most `idle_max` empty buffers.
    pub fn new(idle_max: usize) -> Self {
        let (give, take) = bounded(idle_max.max(1));
        Self { give, take }
    }

    /// An empty buffer (length 0, with whatever capacity it last had).
    pub fn take(&self) -> Pooled<T> {
        let mut data = self.take.try_recv().unwrap_or_default();
        data.clear();
        Pooled { data, home: Some(self.give.clone()) }
    }

    /// Number of idle buffers.
    pub fn idle(&self) -> usize {
        self.take.len()
    }
}

/// A buffer that goes back to its pool when dropped.
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
    fn buffers_come_back_and_keep_their_capacity() {
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
}
