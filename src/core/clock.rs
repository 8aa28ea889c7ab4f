//! Monotonic and wall time behind one trait, so that tests can simulate both.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, never};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::time::NANOS_PER_SECOND;

/// Source of monotonic and wall time, and the only way to wait for time to pass.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary origin; never goes back.
    fn mono_ns(&self) -> u64;
    /// Nanoseconds since 1970-01-01 UTC; may jump when the machine's clock is set.
    fn unix_ns(&self) -> i64;
    /// Waits `how_long`, or until all senders of `stop` are dropped.
    fn sleep_until_stopped(&self, how_long: Duration, stop: &Receiver<Infallible>);
    /// Waits `how_long`.
    fn sleep(&self, how_long: Duration) {
        self.sleep_until_stopped(how_long, &never());
    }
}

/// A point in the monotonic time of a [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at_ns: u64,
}

impl Deadline {
    /// The deadline `wait` from now.
    pub fn after(clock: &dyn Clock, wait: Duration) -> Self {
        Self { at_ns: clock.mono_ns().saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// The remaining time; zero after the deadline.
    pub fn left(self, clock: &dyn Clock) -> Duration {
        Duration::from_nanos(self.at_ns.saturating_sub(clock.mono_ns()))
    }

    /// Whether the deadline has passed.
    pub fn is_over(self, clock: &dyn Clock) -> bool {
        clock.mono_ns() > self.at_ns
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl SystemClock {
    /// A clock whose monotonic time starts at `origin_ns`, a value of [`origin_ns`] from another process on this machine.
    pub fn with_origin(origin_ns: u64) -> Self {
        let age = Duration::from_nanos(machine_ns().saturating_sub(origin_ns));
        let now = Instant::now();
        Self { origin: now.checked_sub(age).unwrap_or(now) }
    }
}

/// The origin of `clock`'s monotonic time, ns on CLOCK_MONOTONIC, which all processes of the machine share.
pub fn origin_ns(clock: &dyn Clock) -> u64 {
    machine_ns().saturating_sub(clock.mono_ns())
}

/// CLOCK_MONOTONIC, which [`Instant`] reads too.
fn machine_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (s, ns) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    s.saturating_mul(NANOS_PER_SECOND).saturating_add(ns)
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn mono_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn unix_ns(&self) -> i64 {
        // A time before 1970 means that the machine's clock is not set. 0 is visibly wrong.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }

    fn sleep_until_stopped(&self, how_long: Duration, stop: &Receiver<Infallible>) {
        // Both errors end the wait: the timeout and the disconnection.
        let _ = stop.recv_timeout(how_long);
    }
}

/// A clock that does not advance until [`ManualClock::advance`] is called. A sleep advances it and returns immediately. For tests, and for
/// offline scoring, whose output must not depend on the time of day.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ns: AtomicU64,
    sleeps: Mutex<Vec<Duration>>,
}

impl ManualClock {
    /// Advances both times by `ns` nanoseconds.
    pub fn advance(&self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// The sleeps so far, in order.
    pub fn sleeps(&self) -> Vec<Duration> {
        self.sleeps.lock().clone()
    }
}

impl Clock for ManualClock {
    fn mono_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    fn unix_ns(&self) -> i64 {
        i64::try_from(self.mono_ns()).unwrap_or(i64::MAX)
    }

    fn sleep_until_stopped(&self, how_long: Duration, _: &Receiver<Infallible>) {
        self.advance(u64::try_from(how_long.as_nanos()).unwrap_or(u64::MAX));
        self.sleeps.lock().push(how_long);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_with_the_origin_of_another_shows_the_same_time() {
        let one = SystemClock::with_origin(machine_ns().saturating_sub(3 * NANOS_PER_SECOND));
        let other = SystemClock::with_origin(origin_ns(&one));
        let (before, between, after) = (one.mono_ns(), other.mono_ns(), one.mono_ns());
        assert!(before >= 3 * NANOS_PER_SECOND);
        // The origin is computed from two clocks that are read one after the other.
        let apart = NANOS_PER_SECOND / 2;
        assert!(before.saturating_sub(apart) <= between && between <= after + apart, "{before} {between} {after}");
    }

    #[test]
    fn a_sleep_of_the_manual_clock_passes_its_time_at_once() {
        let clock = ManualClock::default();
        let deadline = Deadline::after(&clock, Duration::from_secs(5));
        clock.sleep(Duration::from_secs(4));
        assert_eq!(deadline.left(&clock), Duration::from_secs(1));
        clock.sleep(Duration::from_secs(2));
        assert!(deadline.is_over(&clock));
        assert_eq!(clock.sleeps(), [Duration::from_secs(4), Duration::from_secs(2)]);
    }

    #[test]
    fn a_stop_ends_a_sleep_of_the_system_clock() {
        let (running, stop) = crossbeam_channel::bounded(0);
        drop(running);
        // Without the stop, the test would not end.
        SystemClock::new().sleep_until_stopped(Duration::MAX, &stop);
    }
}
