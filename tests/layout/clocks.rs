//! Time comes from a `Clock` that a test can set. The exceptions are listed here, each with its reason.

use std::fs;
use std::path::Path;

use super::names::code;
use super::sources;

/// What reads the machine's clocks, or waits for them.
const DENIED: [&str; 3] = ["Instant::now", "SystemTime::now", "thread::sleep"];

/// The beginning of a path, what it may use, and why.
type Exception = (&'static str, &'static [&'static str], &'static str);

/// Exceptions below `src`.
const ALLOWED: &[Exception] = &[
    ("core/clock.rs", &["Instant::now", "SystemTime::now"], "it is the clock"),
    ("compute/nn/fused/run.rs", &["Instant::now"], "measures layers for the profile"),
    ("compute/nn/fused/speed.rs", &["Instant::now"], "measures the processor"),
    ("compute/backend/cpu.rs", &["Instant::now"], "measures stages for the metrics"),
    ("media/hls/player", &["Instant::now"], "the clock of tokio, which the tests pause"),
    ("media/hls/session.rs", &["Instant::now"], "the clock of tokio, which tests can pause"),
    ("learn/fit/training_loop.rs", &["Instant::now"], "measures the speed of training"),
    ("learn/fit/head.rs", &["Instant::now"], "measures the speed of training"),
    ("cli/progress.rs", &["Instant::now"], "shows progress"),
    ("cli/train.rs", &["Instant::now"], "shows progress"),
];

/// The denied calls in a line of Rust.
fn denied(line: &str) -> Vec<&'static str> {
    let code = code(line);
    DENIED.into_iter().filter(|call| code.contains(call)).collect()
}

/// Sleeps of tests. A test waits for a condition with `common::wait`, except where the time itself is part of the test.
const SLEEPS: &[Exception] = &[
    ("tests/common/wait.rs", &["thread::sleep"], "polls conditions"),
    ("tests/common/program.rs", &["thread::sleep"], "kills a program that exceeds its time"),
    ("tests/common/camera.rs", &["thread::sleep"], "sends pictures at their time"),
    ("tests/common/origin.rs", &["thread::sleep"], "a server that answers slowly"),
    ("tests/learn/train_resume.rs", &["thread::sleep"], "kills a training at a moment"),
    ("tests/media/faults/listener.rs", &["thread::sleep"], "nothing may happen for some seconds"),
    ("tests/media/faults/ts.rs", &["thread::sleep"], "paces a sender"),
    ("tests/media/hls/endless.rs", &["thread::sleep"], "a server that sends at the rate of the media"),
    ("tests/media/hls/server.rs", &["thread::sleep"], "a server that answers slowly"),
    ("tests/media/ingest/recordings.rs", &["thread::sleep"], "a slow consumer"),
    ("tests/media/isolation.rs", &["thread::sleep"], "a process that waits to be killed"),
    ("tests/program/streams/churn.rs", &["thread::sleep"], "paces changes"),
    ("tests/program/streams/ending.rs", &["thread::sleep"], "lets queues fill"),
    ("tests/program/streams/kill.rs", &["thread::sleep"], "kills the program at a random moment"),
    ("tests/reconnects.rs", &["thread::sleep"], "waits for a log to end"),
    ("tests/soak", &["thread::sleep"], "lasts for minutes"),
    ("src/serve/tests/http/access.rs", &["thread::sleep"], "waits for the end of a throttle"),
    ("src/serve/tests/http/studio.rs", &["thread::sleep"], "paces pictures"),
    ("src/serve/tests/http/wall.rs", &["thread::sleep"], "paces seconds and pictures"),
];

/// Checks that the files below `folder` for which `is_checked` is true contain none of `calls`, except as `allowed`.
fn check(folder: &str, calls: &[&str], is_checked: impl Fn(&str) -> bool, allowed: &[Exception]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut wrong, mut used) = (Vec::new(), vec![false; allowed.len()]);
    for file in sources(&root) {
        let place = file.strip_prefix(&root).unwrap().to_str().unwrap();
        if !is_checked(place) {
            continue;
        }
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            for call in denied(line).into_iter().filter(|call| calls.contains(call)) {
                let entry =
                    allowed.iter().position(|(path, calls, _)| place.starts_with(path) && calls.contains(&call));
                match entry {
                    Some(entry) => used[entry] = true,
                    None => wrong.push(format!("{folder}{place}:{}: {call}", number + 1)),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "take a Clock, or in a test wait for a condition:\n{}", wrong.join("\n"));
    let unused: Vec<_> = allowed.iter().zip(used).filter(|(_, used)| !used).map(|(entry, _)| entry).collect();
    assert!(unused.is_empty(), "remove these exceptions: {unused:?}");
}

/// Whether a path below `src` is an integration test of a member.
fn is_integration_test(place: &str) -> bool {
    place.split('/').nth(1) == Some("tests")
}

#[test]
fn the_machine_s_clocks_are_read_in_few_places() {
    check("src/", &DENIED, |place| !is_integration_test(place), ALLOWED);
}

#[test]
fn tests_wait_for_conditions_and_do_not_sleep() {
    let is_test = |place: &str| match place.split_once('/') {
        Some(("tests", file)) => !file.starts_with("layout"),
        Some(("src", file)) => is_integration_test(file),
        _ => false,
    };
    check("", &["thread::sleep"], is_test, SLEEPS);
}

#[test]
fn denied_calls_are_found_in_code_only() {
    assert_eq!(denied("let began = std::time::Instant::now(); // Instant::now"), ["Instant::now"]);
    assert_eq!(denied(".get_or_insert_with(Instant::now)"), ["Instant::now"]);
    assert_eq!(denied("    std::thread::sleep(POLL);"), ["thread::sleep"]);
    assert!(denied("/// Unlike `SystemTime::now`.").is_empty());
    assert!(denied("self.clock.sleep(POLL)").is_empty());
}
