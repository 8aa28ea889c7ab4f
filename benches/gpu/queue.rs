//! A queue between streams and the engine, with the rules of the server's backlog as far as they matter here: a batch has at
//! most one second per stream, oldest first, and a stream that is [`WAITING_MAX`] seconds behind loses its oldest one. The
//! backlog itself is not used because its crate needs GStreamer, which a GPU machine may lack.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use touchline_core::clip::ClipSecond;

/// Largest number of waiting seconds per stream.
const WAITING_MAX: usize = 3;

#[derive(Default)]
struct Waiting {
    /// Stream and second, oldest first.
    seconds: VecDeque<(usize, ClipSecond)>,
    /// Seconds dropped because their stream was too far behind.
    shed: usize,
    closed: bool,
}

#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Queue {
    /// Appends a second of `stream`.
    pub fn push(&self, stream: usize, second: ClipSecond) {
        let mut waiting = self.waiting.lock();
        let own = waiting.seconds.iter().filter(|(of, _)| *of == stream).count();
        if own >= WAITING_MAX
            && let Some(oldest) = waiting.seconds.iter().position(|(of, _)| *of == stream)
        {
            waiting.seconds.remove(oldest);
            waiting.shed += 1;
        }
        waiting.seconds.push_back((stream, second));
        drop(waiting);
        self.filled.notify_one();
    }

    /// Takes up to `max` seconds, at most one per stream. When fewer wait, waits up to `linger` for more. `None` when
    /// closed.
    pub fn gather(&self, max: usize, linger: Duration) -> Option<Vec<ClipSecond>> {
        let mut waiting = self.waiting.lock();
        let mut deadline = None;
        loop {
            if waiting.closed {
                return None;
            }
            let left = match waiting.seconds.len() {
                0 => Duration::MAX,
                n if n >= max => Duration::ZERO,
                _ => deadline.get_or_insert_with(|| Instant::now() + linger).saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return Some(waiting.take(max));
            }
            match left {
                Duration::MAX => self.filled.wait(&mut waiting),
                left => _ = self.filled.wait_for(&mut waiting, left),
            }
        }
    }

    /// Wakes [`Queue::gather`], which then returns `None`.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
    }

    /// Seconds dropped so far.
    pub fn shed(&self) -> usize {
        self.waiting.lock().shed
    }
}

impl Waiting {
    fn take(&mut self, max: usize) -> Vec<ClipSecond> {
        let (mut batch, mut later, mut streams) = (Vec::new(), VecDeque::new(), BTreeSet::new());
        for (stream, second) in self.seconds.drain(..) {
            if batch.len() < max && streams.insert(stream) {
                batch.push(second);
            } else {
                later.push_back((stream, second));
            }
        }
        self.seconds = later;
        batch
    }
}
