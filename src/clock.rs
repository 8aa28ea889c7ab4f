//! The two clocks the program reads, behind one trait so that tests simulate them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Source of monotonic and wall time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary origin; never goes back.
    fn mono_ns(&self) -> u64;
    /// Nanoseconds since 1970-01-01 UTC; may jump when the machine's clock is set.
    fn unix_ns(&self) -> i64;
}

/// A moment by which something must have happened, by the monotonic time of a [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at_ns: u64,
}

impl Deadline {
    /// `wait` from now on.
    pub fn after(clock: &dyn Clock, wait: Duration) -> Self {
        Self { at_ns: clock.mono_ns().saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// The time that is left; zero when it has passed.
    pub fn left(self, clock: &dyn Clock) -> Duration {
        Duration::from_nanos(self.at_ns.saturating_sub(clock.mono_ns()))
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
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
        // Before 1970 is a machine whose clock is unset: 0 is as good as any lie and is visibly wrong.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A clock that moves only when told: for tests, and for offline scoring, whose output must not depend on the time
/// of day.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ns: AtomicU64,
}

impl ManualClock {
    pub fn advance(&self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn mono_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    fn unix_ns(&self) -> i64 {
        i64::try_from(self.mono_ns()).unwrap_or(i64::MAX)
    }
}
