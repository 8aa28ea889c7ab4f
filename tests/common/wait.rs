//! Waits for conditions. The limit only finds a program that hangs: no test measures speed with it.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::time::{Duration, Instant};

/// The longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(240);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(10);

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
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        if Instant::now() >= end {
            panic!("{}", failure());
        }
        std::thread::sleep(POLL);
    }
}
