//! What the system lets one process have.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

/// How many files may be open now, and how many the process may ask for; [`None`]: any number.
pub fn open_files() -> (Option<u64>, Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    (limit.current, limit.maximum)
}

/// Raises the number of files that may be open to the highest that this process may have: a stream has ten to thirty, and
/// the usual limit of 1,024 is from times in which programs had a few.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files cannot be raised: {e}");
    }
}

/// Whether `error` means that no more files can be opened, by this process or on this machine.
pub fn is_out_of_files(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// What to say of it, and what to do.
pub const OUT_OF_FILES: &str = "no more files and connections can be opened";
pub const ADVICE: &str = "raise the limit (systemd: LimitNOFILE=, shell: ulimit -n) or watch fewer streams; \
                          `touchline doctor` shows it";

/// Files that must be free for a source to be opened: it has ten to thirty, more for a moment while it is opened.
const SOURCE_FILES: u64 = 40;

/// Files that are left for everything else.
const MARGIN: u64 = 16;

/// How long a source takes until it has most of the files that it will have.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// How long a source waits for others to settle: long enough for dozens of them where the limit is a thousand.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// How often it is looked whether sources have settled.
const POLL: Duration = Duration::from_millis(100);

/// Whether there is room for another source: GLib ends the process when it cannot make a pipe, so that a source must not be
/// tried without. One that `takes_long` to open waits until there is room beside others that are being opened.
pub fn has_room_for_source(takes_long: bool) -> bool {
    static OPENINGS: Mutex<Openings> = Mutex::new(Openings(VecDeque::new()));
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(Instant::now);
    let room = |openings: &Mutex<Openings>| {
        let Some(limit) = open_files().0 else { return Admission::Now };
        match std::fs::read_dir("/proc/self/fd") {
            Ok(open) => lock(openings).room(origin.elapsed(), open.count() as u64, limit, takes_long),
            // Where files cannot be counted, opening one more fails with the system's own error.
            Err(e) if !is_out_of_files(&e) => Admission::Now,
            Err(_) => Admission::No,
        }
    };
    let polls = (WAIT_MAX.as_millis() / POLL.as_millis()) as u32;
    wait_for_room(&OPENINGS, &room, polls, &|| std::thread::sleep(POLL), &STOPPING)
}

/// Set when the program stops.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// The program stops: sources that wait for room are not opened any more.
pub fn stop_opening() {
    STOPPING.store(true, Ordering::Release);
}

fn lock(openings: &Mutex<Openings>) -> MutexGuard<'_, Openings> {
    openings.lock().unwrap_or_else(|e| e.into_inner())
}

/// Asks for `room` up to `polls` times. The lock is free during each `pause`, so that waiting sources do not wait for each other.
fn wait_for_room(
    openings: &Mutex<Openings>,
    room: &dyn Fn(&Mutex<Openings>) -> Admission,
    polls: u32,
    pause: &dyn Fn(),
    stopping: &AtomicBool,
) -> bool {
    for _ in 0..polls {
        match room(openings) {
            Admission::Now => return true,
            Admission::No => return false,
            Admission::Later if stopping.load(Ordering::Acquire) => return false,
            Admission::Later => pause(),
        }
    }
    false
}

/// When sources were opened lately.
struct Openings(VecDeque<Duration>);

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Now,
    /// When those that are being opened have what they need, there may be.
    Later,
    No,
}

impl Openings {
    /// Whether another may be opened at `now`, with `used` of `limit` files open.
    fn room(&mut self, now: Duration, used: u64, limit: u64, takes_long: bool) -> Admission {
        self.0.retain(|at| now.saturating_sub(*at) < SETTLE_TIME);
        let after = |sources: u64| used.saturating_add(MARGIN).saturating_add(SOURCE_FILES * sources);
        if after(1) > limit {
            return Admission::No;
        }
        if !takes_long {
            return Admission::Now;
        }
        if after(1 + self.0.len() as u64) > limit {
            return Admission::Later;
        }
        self.0.push_back(now);
        Admission::Now
    }
}

/// How many connections a server may have open, of `wanted`: the streams come first.
pub fn connections(wanted: usize) -> usize {
    let room = open_files().0.map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    wanted.min(room.max(8))
}

/// How long the same is not limiter again.
const REPEAT_AFTER_NS: u64 = 60 * 1_000_000_000;

/// Says in the log that files have run out, at most once a minute, however many meet with it.
pub fn log_out_of_files() {
    static LIMITER: LogLimiter = LogLimiter::new();
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = ORIGIN.get_or_init(Instant::now).elapsed();
    if let Some(suppressed) = LIMITER.is_due(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)) {
        let (soft, _) = open_files();
        let limit = soft.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        tracing::error!("{OUT_OF_FILES} (limit {limit}, met {suppressed} times since this was last limiter); {ADVICE}");
    }
}

/// Counts what is not limiter.
struct LogLimiter {
    /// When it was limiter last, plus one; 0: never.
    at_ns: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimiter {
    const fn new() -> Self {
        Self { at_ns: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether it is to be limiter now; how often it was not limiter since the last time.
    fn is_due(&self, now_ns: u64) -> Option<u64> {
        let at_ns = self.at_ns.load(Ordering::Acquire);
        let is_due = at_ns == 0 || now_ns.saturating_sub(at_ns - 1) >= REPEAT_AFTER_NS;
        let is_ours =
            is_due && self.at_ns.compare_exchange(at_ns, now_ns + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_ours {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_may_be() {
        raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn the_same_is_said_once_a_minute() {
        let limiter = LogLimiter::new();
        assert_eq!(limiter.is_due(5), Some(0));
        assert!((0..1000).all(|n| limiter.is_due(6 + n).is_none()));
        assert_eq!(limiter.is_due(5 + REPEAT_AFTER_NS), Some(1000));
        assert_eq!(limiter.is_due(6 + REPEAT_AFTER_NS), None);
    }

    #[test]
    fn sources_that_are_opened_at_once_do_not_take_the_same_files() {
        let at = Duration::from_secs;
        let mut openings = Openings(VecDeque::new());
        let limiter: Vec<Admission> = (0..4).map(|_| openings.room(at(1), 60, 160, true)).collect();
        assert_eq!(limiter, [Admission::Now, Admission::Now, Admission::Later, Admission::Later]);
        // They have taken ten each.
        assert_eq!(openings.room(at(4), 80, 160, true), Admission::Now);
        assert_eq!(openings.room(at(5), 90, 160, true), Admission::Later);
        assert_eq!(openings.room(at(9), 110, 160, false), Admission::No);
        assert_eq!(openings.room(at(9), 110, 20_000, true), Admission::Now);
    }

    #[test]
    fn waiting_for_room_holds_no_lock_and_ends_when_the_program_stops() {
        let openings = Mutex::new(Openings(VecDeque::new()));
        let (stopping, pauses) = (AtomicBool::new(false), std::cell::Cell::new(0));
        let later = |openings: &Mutex<Openings>| {
            lock(openings).room(Duration::ZERO, 60, 100, true);
            Admission::Later
        };
        let pause = || {
            assert!(openings.try_lock().is_ok(), "another source can ask meanwhile");
            pauses.set(pauses.get() + 1);
            stopping.store(pauses.get() == 3, Ordering::Release);
        };
        assert!(!wait_for_room(&openings, &later, 100, &pause, &stopping));
        assert_eq!(pauses.get(), 3);
        stopping.store(false, Ordering::Release);
        pauses.set(10);
        assert!(!wait_for_room(&openings, &later, 5, &pause, &stopping), "it does not wait for ever");
        assert_eq!(pauses.get(), 15);
        assert!(wait_for_room(&openings, &|_| Admission::Now, 1, &pause, &stopping));
    }

    #[test]
    fn running_out_is_told_from_other_troubles() {
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(24)));
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(23)));
        assert!(!is_out_of_files(&std::io::Error::from_raw_os_error(2)));
    }
}
