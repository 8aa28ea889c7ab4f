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
const SETTLES: Duration = Duration::from_secs(3);

/// How long a source waits for others to settle: long enough for dozens of them where the limit is a thousand.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// How often it is looked whether sources have settled.
const LOOK: Duration = Duration::from_millis(100);

/// Whether there is room for another source: GLib ends the process when it cannot make a pipe, so that a source must not be
/// tried without. One that `takes_long` to open waits until there is room beside others that are being opened.
pub fn has_room_for_source(takes_long: bool) -> bool {
    static OPENINGS: Mutex<Openings> = Mutex::new(Openings(VecDeque::new()));
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(Instant::now);
    let room = |openings: &Mutex<Openings>| {
        let Some(limit) = open_files().0 else { return Room::Yes };
        match std::fs::read_dir("/proc/self/fd") {
            Ok(open) => lock(openings).room(origin.elapsed(), open.count() as u64, limit, takes_long),
            // Where files cannot be counted, opening one more fails with the system's own error.
            Err(e) if !is_out_of_files(&e) => Room::Yes,
            Err(_) => Room::No,
        }
    };
    let looks = (WAIT_MAX.as_millis() / LOOK.as_millis()) as u32;
    wait_for_room(&OPENINGS, &room, looks, &|| std::thread::sleep(LOOK), &STOPPING)
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

/// Asks for `room` up to `looks` times. The lock is free during each `pause`, so that waiting sources do not wait for each other.
fn wait_for_room(
    openings: &Mutex<Openings>,
    room: &dyn Fn(&Mutex<Openings>) -> Room,
    looks: u32,
    pause: &dyn Fn(),
    stopping: &AtomicBool,
) -> bool {
    for _ in 0..looks {
        match room(openings) {
            Room::Yes => return true,
            Room::No => return false,
            Room::Later if stopping.load(Ordering::Acquire) => return false,
            Room::Later => pause(),
        }
    }
    false
}

/// When sources were opened lately.
struct Openings(VecDeque<Duration>);

#[derive(Debug, PartialEq, Eq)]
enum Room {
    Yes,
    /// When those that are being opened have what they need, there may be.
    Later,
    No,
}

impl Openings {
    /// Whether another may be opened at `now`, with `used` of `limit` files open.
    fn room(&mut self, now: Duration, used: u64, limit: u64, takes_long: bool) -> Room {
        self.0.retain(|at| now.saturating_sub(*at) < SETTLES);
        let after = |sources: u64| used.saturating_add(MARGIN).saturating_add(SOURCE_FILES * sources);
        if after(1) > limit {
            return Room::No;
        }
        if !takes_long {
            return Room::Yes;
        }
        if after(1 + self.0.len() as u64) > limit {
            return Room::Later;
        }
        self.0.push_back(now);
        Room::Yes
    }
}

/// How many connections a server may have open, of `wanted`: the streams come first.
pub fn connections(wanted: usize) -> usize {
    let room = open_files().0.map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    wanted.min(room.max(8))
}

/// How long the same is not said again.
const SILENCE_NS: u64 = 60 * 1_000_000_000;

/// Says in the log that files have run out, at most once a minute, however many meet with it.
pub fn say_out_of_files() {
    static SAID: Said = Said::new();
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = ORIGIN.get_or_init(Instant::now).elapsed();
    if let Some(unsaid) = SAID.is_due(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)) {
        let (soft, _) = open_files();
        let limit = soft.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        tracing::error!("{OUT_OF_FILES} (limit {limit}, met {unsaid} times since this was last said); {ADVICE}");
    }
}

/// Counts what is not said.
struct Said {
    /// When it was said last, plus one; 0: never.
    at_ns: AtomicU64,
    unsaid: AtomicU64,
}

impl Said {
    const fn new() -> Self {
        Self { at_ns: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Whether it is to be said now; how often it was not said since the last time.
    fn is_due(&self, now_ns: u64) -> Option<u64> {
        let at_ns = self.at_ns.load(Ordering::Acquire);
        let is_due = at_ns == 0 || now_ns.saturating_sub(at_ns - 1) >= SILENCE_NS;
        let is_ours =
            is_due && self.at_ns.compare_exchange(at_ns, now_ns + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_ours {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
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
        let said = Said::new();
        assert_eq!(said.is_due(5), Some(0));
        assert!((0..1000).all(|n| said.is_due(6 + n).is_none()));
        assert_eq!(said.is_due(5 + SILENCE_NS), Some(1000));
        assert_eq!(said.is_due(6 + SILENCE_NS), None);
    }

    #[test]
    fn sources_that_are_opened_at_once_do_not_take_the_same_files() {
        let at = Duration::from_secs;
        let mut openings = Openings(VecDeque::new());
        let said: Vec<Room> = (0..4).map(|_| openings.room(at(1), 60, 160, true)).collect();
        assert_eq!(said, [Room::Yes, Room::Yes, Room::Later, Room::Later]);
        // They have taken ten each.
        assert_eq!(openings.room(at(4), 80, 160, true), Room::Yes);
        assert_eq!(openings.room(at(5), 90, 160, true), Room::Later);
        assert_eq!(openings.room(at(9), 110, 160, false), Room::No);
        assert_eq!(openings.room(at(9), 110, 20_000, true), Room::Yes);
    }

    #[test]
    fn waiting_for_room_holds_no_lock_and_ends_when_the_program_stops() {
        let openings = Mutex::new(Openings(VecDeque::new()));
        let (stopping, pauses) = (AtomicBool::new(false), std::cell::Cell::new(0));
        let later = |openings: &Mutex<Openings>| {
            lock(openings).room(Duration::ZERO, 60, 100, true);
            Room::Later
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
        assert!(wait_for_room(&openings, &|_| Room::Yes, 1, &pause, &stopping));
    }

    #[test]
    fn running_out_is_told_from_other_troubles() {
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(24)));
        assert!(is_out_of_files(&std::io::Error::from_raw_os_error(23)));
        assert!(!is_out_of_files(&std::io::Error::from_raw_os_error(2)));
    }
}
