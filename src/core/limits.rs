//! Limits of the system on one process: open files.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::clock::{Clock, SystemClock};

/// The soft and the hard limit on open files; [`None`] means unlimited.
pub fn open_files() -> (Option<u64>, Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    (limit.current, limit.maximum)
}

/// Raises the soft limit on open files to the hard limit. A stream needs 10 to 30 files, and the usual soft limit is 1,024.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}

/// Whether `error` means that this process or the machine has no free file descriptor.
pub fn is_out_of_files(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// The cause to report when no file can be opened.
pub const OUT_OF_FILES: &str = "no more files and connections can be opened";
/// The advice to report with [`OUT_OF_FILES`].
pub const ADVICE: &str = "raise the limit (systemd: LimitNOFILE=, shell: ulimit -n) or watch fewer streams; \
                          `touchline doctor` shows it";

/// Files that must be free before a source is opened. It keeps 10 to 30 and needs more while it opens.
const SOURCE_FILES: u64 = 40;

/// Files reserved for everything else.
const MARGIN: u64 = 16;

/// Time after which a source has opened most of its files.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// How long a source waits for others to open their files: enough for dozens of sources at a limit of 1,024.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// How often a waiting source checks for free files.
const POLL: Duration = Duration::from_millis(100);

/// The clock of the limits below. They are those of the process, so they have one clock.
static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);

fn now() -> Duration {
    Duration::from_nanos(CLOCK.mono_ns())
}

/// Whether enough files are free to open another source. Must be called first, because GLib aborts the process when it cannot make a
/// pipe. With `takes_long`, waits up to 15 s for sources that are still being opened.
pub fn has_room_for_source(takes_long: bool) -> bool {
    static OPENINGS: Mutex<Openings> = Mutex::new(Openings(VecDeque::new()));
    let room = |openings: &Mutex<Openings>| {
        let Some(limit) = open_files().0 else { return Admission::Now };
        match std::fs::read_dir("/proc/self/fd") {
            Ok(open) => openings.lock().room(now(), open.count() as u64, limit, takes_long),
            // Open files cannot be counted here; opening one more fails with the system's own error.
            Err(e) if !is_out_of_files(&e) => Admission::Now,
            Err(_) => Admission::No,
        }
    };
    let polls = (WAIT_MAX.as_millis() / POLL.as_millis()) as u32;
    wait_for_room(&OPENINGS, &room, polls, &|| CLOCK.sleep(POLL), &STOPPING)
}

/// Whether the program is stopping.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Ends all waits in [`has_room_for_source`], because the program is stopping.
pub fn stop_opening() {
    STOPPING.store(true, Ordering::Release);
}

/// Calls `room` up to `polls` times. The lock is free during each `pause`, so that waiting sources do not block each other.
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

/// Times at which sources were opened recently.
struct Openings(VecDeque<Duration>);

/// Whether a source may be opened.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// Yes.
    Now,
    /// Perhaps, once the sources that are being opened have their files.
    Later,
    /// No.
    No,
}

impl Openings {
    /// Whether another source may be opened at `now`, with `used` of `limit` files open.
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

/// The number of connections a server may keep open: `wanted`, but at most a quarter of the file limit, because streams come first.
pub fn connections(wanted: usize) -> usize {
    let room = open_files().0.map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    wanted.min(room.max(8))
}

/// Minimum time between two log messages about the same problem, ns.
const REPEAT_AFTER_NS: u64 = 60 * 1_000_000_000;

/// Logs that no file can be opened, at most once a minute.
pub fn log_out_of_files() {
    static LIMITER: LogLimiter = LogLimiter::new();
    if let Some(suppressed) = LIMITER.is_due(CLOCK.mono_ns()) {
        let (soft, _) = open_files();
        let limit = soft.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        tracing::error!("{OUT_OF_FILES} (limit {limit}; {suppressed} more since the last message); {ADVICE}");
    }
}

/// Limits a message to one a minute, and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct LogLimiter {
    /// Time of the last message plus 1, ns; 0 before the first.
    at_ns: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimiter {
    /// A limiter that lets the first message pass.
    pub const fn new() -> Self {
        Self { at_ns: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// The number of suppressed messages if one is due now, otherwise `None`.
    pub fn is_due(&self, now_ns: u64) -> Option<u64> {
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
    fn the_limit_of_open_files_is_raised_to_its_maximum() {
        raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn a_repeated_message_is_logged_once_a_minute() {
        let limiter = LogLimiter::new();
        assert_eq!(limiter.is_due(5), Some(0));
        assert!((0..1000).all(|n| limiter.is_due(6 + n).is_none()));
        assert_eq!(limiter.is_due(5 + REPEAT_AFTER_NS), Some(1000));
        assert_eq!(limiter.is_due(6 + REPEAT_AFTER_NS), None);
    }

    #[test]
    fn sources_opened_at_the_same_time_do_not_count_on_the_same_files() {
        let at = Duration::from_secs;
        let mut openings = Openings(VecDeque::new());
        let answers: Vec<Admission> = (0..4).map(|_| openings.room(at(1), 60, 160, true)).collect();
        assert_eq!(answers, [Admission::Now, Admission::Now, Admission::Later, Admission::Later]);
        // Each has opened ten files.
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
            openings.lock().room(Duration::ZERO, 60, 100, true);
            Admission::Later
        };
        let pause = || {
            assert!(openings.try_lock().is_some(), "the lock is free during the pause");
            pauses.set(pauses.get() + 1);
            stopping.store(pauses.get() == 3, Ordering::Release);
        };
        assert!(!wait_for_room(&openings, &later, 100, &pause, &stopping));
        assert_eq!(pauses.get(), 3);
        stopping.store(false, Ordering::Release);
        pauses.set(10);
        assert!(!wait_for_room(&openings, &later, 5, &pause, &stopping), "the wait is limited");
        assert_eq!(pauses.get(), 15);
        assert!(wait_for_room(&openings, &|_| Admission::Now, 1, &pause, &stopping));
    }

    #[test]
    fn running_out_of_files_is_distinguished_from_other_errors() {
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(24)));
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(23)));
        assert!(!is_out_of_files(&std::io::Error::from_raw_os_error(2)));
    }
}
