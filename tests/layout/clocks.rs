//! Time comes from a `Clock` that a test can set. The exceptions are listed here, each with its reason.

use std::fs;
use std::path::Path;

use super::names::code;
use super::sources;

/// What reads the machine's clocks, or waits for them.
const DENIED: [&str; 3] = ["Instant::now", "SystemTime::now", "thread::sleep"];

/// The beginning of a path below `src`, what it may use, and why.
const ALLOWED: &[(&str, &[&str], &str)] = &[
    ("core/clock.rs", &["Instant::now", "SystemTime::now"], "it is the clock"),
    ("core/limits.rs", &["thread::sleep"], "waits for other threads to open files; its tests replace the pause"),
    ("compute/nn/fused/run.rs", &["Instant::now"], "measures layers for the profile"),
    ("compute/backend/cpu.rs", &["Instant::now"], "measures stages for the metrics"),
    ("media/worker/process.rs", &["thread::sleep"], "polls the exit of a process, a bounded number of times"),
    ("media/hls/player", &["Instant::now"], "the clock of tokio, which the tests pause"),
    ("media/hls/session.rs", &["Instant::now"], "the clock of tokio, which tests can pause"),
    ("learn/fit/training_loop.rs", &["Instant::now"], "measures the speed of training"),
    ("learn/fit/head.rs", &["Instant::now"], "measures the speed of training"),
    ("learn/resources.rs", &["Instant::now"], "measures the load of the machine over time"),
    ("learn/resources.rs", &["thread::sleep"], "polls the exit of nvidia-smi, a bounded number of times"),
    ("cli/progress.rs", &["Instant::now"], "shows progress"),
    ("cli/train.rs", &["Instant::now"], "shows progress"),
];

/// The denied calls in a line of Rust.
fn denied(line: &str) -> Vec<&'static str> {
    let code = code(line);
    DENIED.into_iter().filter(|call| code.contains(call)).collect()
}

#[test]
fn the_machine_s_clocks_are_read_in_few_places() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut wrong, mut used) = (Vec::new(), vec![false; ALLOWED.len()]);
    for file in sources(&src) {
        let place = file.strip_prefix(&src).unwrap().to_str().unwrap();
        // The integration tests of a member run against real servers and a real browser.
        if place.split('/').nth(1) == Some("tests") {
            continue;
        }
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            for call in denied(line) {
                let entry =
                    ALLOWED.iter().position(|(path, calls, _)| place.starts_with(path) && calls.contains(&call));
                match entry {
                    Some(entry) => used[entry] = true,
                    None => wrong.push(format!("src/{place}:{}: {call}; take a Clock", number + 1)),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let unused: Vec<_> = ALLOWED.iter().zip(used).filter(|(_, used)| !used).map(|(entry, _)| entry).collect();
    assert!(unused.is_empty(), "remove these exceptions: {unused:?}");
}

#[test]
fn denied_calls_are_found_in_code_only() {
    assert_eq!(denied("let began = std::time::Instant::now(); // Instant::now"), ["Instant::now"]);
    assert_eq!(denied(".get_or_insert_with(Instant::now)"), ["Instant::now"]);
    assert_eq!(denied("    std::thread::sleep(POLL);"), ["thread::sleep"]);
    assert!(denied("/// Unlike `SystemTime::now`.").is_empty());
    assert!(denied("self.sleeper.sleep(retry_in)").is_empty());
}
