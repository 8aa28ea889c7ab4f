//! The queue of seconds between the clip threads and the one inference thread, and the one place where load is shed.
//!
//! Each stream has a bounded queue. The inference thread takes from the queue that was served least recently, so one
//! busy stream cannot starve another. When the queue of a live stream is full, its oldest second becomes a [`Gap`] in
//! place: its media are freed at once and the order of the stream's output stays. During an overload, seconds that
//! cannot be decided in time become gaps as well (`overload`). The clip thread of a file waits instead.
//!
//! A lock, not a channel: shedding must reach into the middle of a queue, and the lock is taken a few times a second.

mod overload;

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use overload::Overload;
use touchline_core::clip::{ClipOutput, ClipSecond, Gap, GapReason};
use touchline_core::clock::{Clock, Deadline, SystemClock};
use touchline_core::item::Pace;

/// Seconds that a live stream may be behind before it sheds. Three bridge moments in which all streams end their
/// seconds together. More would only delay every decision on a machine that is too slow.
pub const LIVE_SECONDS: usize = 3;

/// Seconds of a file that wait for inference: enough to keep both sides busy, few enough to bound memory.
pub const FILE_SECONDS: usize = 3;

/// Identifies a queue. Ids are never reused, so that late items of a removed queue are not taken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

/// An item in a queue.
#[derive(Debug)]
struct Queued {
    /// When it entered the queue, monotonic clock.
    since_ns: u64,
    item: ClipOutput,
}

#[derive(Debug)]
struct StreamQueue {
    pace: Pace,
    items: VecDeque<Queued>,
    /// Number of seconds among `items`.
    seconds: usize,
    /// The turn in which it was last served.
    served: u64,
}

#[derive(Debug, Default)]
struct BacklogState {
    queues: BTreeMap<QueueId, StreamQueue>,
    /// Ids issued so far.
    issued: u64,
    /// Seconds taken so far.
    turns: u64,
    /// Scratch space: queues by their last turn.
    order: Vec<(u64, QueueId)>,
    overload: Overload,
    /// Times that live seconds were given up.
    sheds: u64,
    closed: bool,
    nudged: bool,
    /// Shutdown: seconds become gaps as they arrive.
    sheds_all: bool,
}

/// The queues of all streams.
pub struct Backlog {
    clock: Arc<dyn Clock>,
    state: Mutex<BacklogState>,
    filled: Condvar,
    drained: Condvar,
}

impl Default for Backlog {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("state", &self.state).finish_non_exhaustive()
    }
}

/// How busy live streams keep inference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LivePressure {
    /// Seconds of live streams that wait.
    pub waiting: usize,
    /// Times that seconds were given up, since the start.
    pub sheds: u64,
}

/// A second taken by [`Backlog::take`], with the items before it in its queue.
#[derive(Debug)]
pub struct TakenSeconds {
    /// The queue.
    pub queue: QueueId,
    /// The pace of its stream.
    pub pace: Pace,
    /// When the last of `items` entered the queue, monotonic clock. Its last sample may have arrived long before: an
    /// outage or missing audio delays the end of a second.
    pub since_ns: u64,
    /// The items before the second, then the second, if there is one.
    pub items: Vec<ClipOutput>,
    /// Seconds left in this queue.
    pub backlog: u32,
}

impl Backlog {
    /// Uses the system clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// Uses `clock`, which must be the clock of the arrival times of seconds.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let (state, filled, drained) = Default::default();
        Self { clock, state, filled, drained }
    }

    /// Adds a queue for a stream.
    pub fn add_queue(&self, pace: Pace) -> QueueId {
        let mut state = self.lock();
        let id = QueueId(state.issued);
        state.issued += 1;
        state.queues.insert(id, StreamQueue { pace, items: VecDeque::new(), seconds: 0, served: 0 });
        id
    }

    /// Removes a queue and its items. A blocked [`Backlog::push`] returns false.
    pub fn remove_queue(&self, queue: QueueId) {
        let removed = self.lock().queues.remove(&queue);
        self.drained.notify_all();
        // A batch may have waited for this queue alone.
        self.filled.notify_one();
        // Frees the media after the lock.
        drop(removed);
    }

    /// Turns every second, waiting or to come, into a gap: at shutdown there is no time to decide them.
    pub fn shed_all(&self) {
        let mut state = self.lock();
        state.sheds_all = true;
        state.queues.values_mut().for_each(|queue| while shed_oldest(queue) {});
        drop(state);
        self.filled.notify_one();
        self.drained.notify_all();
    }

    /// Appends to a queue. Blocks while a file's queue is full; a full live queue sheds its oldest second. Returns
    /// false if the queue was removed or the backlog is closed.
    pub fn push(&self, queue: QueueId, item: ClipOutput) -> bool {
        let mut state = self.lock();
        if matches!(item, ClipOutput::Second(_)) {
            let is_full = |state: &BacklogState| {
                let full = |queue: &StreamQueue| queue.pace == Pace::File && queue.seconds >= FILE_SECONDS;
                !state.closed && state.queues.get(&queue).is_some_and(full)
            };
            while is_full(&state) {
                self.drained.wait(&mut state);
            }
        }
        if state.closed {
            return false;
        }
        let BacklogState { queues, overload, sheds, sheds_all, .. } = &mut *state;
        let Some(queue) = queues.get_mut(&queue) else { return false };
        // Taken after the wait for room.
        let since_ns = self.clock.mono_ns();
        if matches!(item, ClipOutput::Second(_)) {
            if queue.pace == Pace::Live && queue.seconds >= LIVE_SECONDS {
                shed_oldest(queue);
                overload.shed(since_ns);
                *sheds += 1;
            }
            queue.seconds += 1;
        }
        queue.items.push_back(Queued { since_ns, item });
        if *sheds_all {
            shed_oldest(queue);
        }
        self.filled.notify_one();
        true
    }

    /// Waits for work and takes up to `max` seconds, at most one per queue, and the items before them. May return
    /// nothing after a [`Backlog::nudge`]. `None` when closed.
    pub fn take(&self, max: usize) -> Option<Vec<TakenSeconds>> {
        self.gather(max, Duration::ZERO)
    }

    /// As [`Backlog::take`], but waits up to `wait` for a full batch: on a GPU a second costs little in a batch and
    /// much alone.
    pub fn gather(&self, max: usize, wait: Duration) -> Option<Vec<TakenSeconds>> {
        let max = max.max(1);
        let mut state = self.lock();
        state.overload.decided(self.clock.mono_ns());
        // Starts when the first work is seen.
        let mut deadline = None;
        loop {
            if state.closed {
                return None;
            }
            let ready = state.queues.values().filter(|queue| !queue.items.is_empty()).count();
            if !wait.is_zero() && ready > 0 && ready < max.min(state.queues.len()) && !state.nudged {
                let left = deadline.get_or_insert_with(|| Deadline::after(&*self.clock, wait)).left(&*self.clock);
                if !left.is_zero() {
                    self.filled.wait_for(&mut state, left);
                    continue;
                }
            }
            let now_ns = self.clock.mono_ns();
            state.shed_late(now_ns, max);
            let (batch, seconds) = state.choose(max);
            if std::mem::take(&mut state.nudged) || !batch.is_empty() {
                state.overload.taken(now_ns, seconds);
                self.drained.notify_all();
                return Some(batch);
            }
            self.filled.wait(&mut state);
        }
    }

    /// How busy the live streams keep inference.
    pub fn pressure(&self) -> LivePressure {
        let state = self.lock();
        let live = state.queues.values().filter(|queue| queue.pace == Pace::Live);
        LivePressure { waiting: live.map(|queue| queue.seconds).sum(), sheds: state.sheds }
    }

    /// Makes [`Backlog::take`] return, with or without work.
    pub fn nudge(&self) {
        self.lock().nudged = true;
        self.filled.notify_one();
    }

    /// Wakes all threads: `push` returns false, `take` returns `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BacklogState> {
        self.state.lock()
    }
}

impl BacklogState {
    /// During an overload, leaves each live queue its newest second at most.
    fn shed_late(&mut self, now_ns: u64, max: usize) {
        let Some(oldest_ns) = self.overload.oldest_ns(now_ns, max) else { return };
        let mut has_shed = false;
        for queue in self.queues.values_mut().filter(|queue| queue.pace == Pace::Live) {
            let newest_ns = queue.items.iter().rev().find_map(|queued| match &queued.item {
                ClipOutput::Second(second) => Some(Overload::counts_from_ns(second.arrived_ns, queued.since_ns)),
                _ => None,
            });
            let keep = usize::from(newest_ns.is_some_and(|ns| ns >= oldest_ns));
            while queue.seconds > keep && shed_oldest(queue) {
                has_shed = true;
            }
        }
        if has_shed {
            self.overload.shed(now_ns);
            self.sheds += 1;
        }
    }

    /// Takes up to `max` seconds from as many queues, the least recently served first. Returns the number of seconds.
    fn choose(&mut self, max: usize) -> (Vec<TakenSeconds>, usize) {
        let Self { queues, order, turns, overload, .. } = self;
        let max = overload.most(max);
        order.clear();
        order.extend(queues.iter().filter(|(_, queue)| !queue.items.is_empty()).map(|(id, queue)| (queue.served, *id)));
        order.sort_unstable();
        let (mut batch, mut seconds) = (Vec::new(), 0);
        for (_, id) in order.iter() {
            let queue = queues.get_mut(id).expect("the id was read under the same lock");
            if queue.seconds > 0 {
                if seconds == max {
                    continue;
                }
                seconds += 1;
                *turns += 1;
                queue.served = *turns;
            }
            batch.extend(take_one(queue, *id));
        }
        (batch, seconds)
    }
}

/// Turns the oldest second of a queue into a gap. Returns false if there is none.
fn shed_oldest(queue: &mut StreamQueue) -> bool {
    for Queued { item, .. } in &mut queue.items {
        if let ClipOutput::Second(ClipSecond { run, index, .. }) = item {
            let gap = Gap::new(*run, *index, GapReason::Overload);
            *item = ClipOutput::Gap(gap);
            queue.seconds -= 1;
            return true;
        }
    }
    false
}

fn take_one(queue: &mut StreamQueue, id: QueueId) -> Option<TakenSeconds> {
    let (mut items, mut since_ns) = (Vec::new(), 0);
    while let Some(queued) = queue.items.pop_front() {
        let is_second = matches!(queued.item, ClipOutput::Second(_));
        since_ns = queued.since_ns;
        items.push(queued.item);
        if is_second {
            queue.seconds -= 1;
            break;
        }
    }
    let (pace, backlog) = (queue.pace, queue.seconds as u32);
    (!items.is_empty()).then_some(TakenSeconds { queue: id, pace, since_ns, items, backlog })
}

#[cfg(test)]
mod tests;
