//! Waits for conditions. The limit only finds a program that hangs: no test measures speed with it.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::time::{Duration, Instant};

/// The longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The shortest and the longest pause between two checks of a condition. Checks take processor time from the program under test, so a pause
/// is a twentieth of the time waited so far.
const POLL: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Waits until `condition` is true. `event` names it in the failure.
#[track_caller]
pub fn until(event: &str, mut condition: impl FnMut() -> bool) {
    until_some(event, || condition().then_some(()));
}

/// Waits until `poll` returns a value. `event` names it in the failure.
#[track_caller]
pub fn until_some<T>(event: &str, poll: impl FnMut() -> Option<T>) -> T {
    until_or(poll, || format!("{event} did not happen within {LIMIT:?}"))
}

/// Waits until `poll` returns a value. Panics with the text of `failure` if it hangs.
#[track_caller]
pub fn until_or<T>(mut poll: impl FnMut() -> Option<T>, failure: impl FnOnce() -> String) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        let waited = start.elapsed();
        if waited >= LIMIT {
            panic!("{}", failure());
        }
        std::thread::sleep((waited / 20).clamp(POLL[0], POLL[1]));
    }
}
