//! Streams that come and go while the program runs: over the API, by its configuration file, over restarts and kills.

mod api;
mod brake;
mod churn;
mod ending;
mod files;
mod isolation;
mod kill;
mod manager;
mod reload;
mod restart;

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::common::Fixtures;
use crate::common::program::touchline;

/// How long anything may take on a machine that does other work at the same time.
const LIMIT: Duration = Duration::from_secs(120);

/// A small live stream that needs no server.
const TEST: &str = "testsrc://?width=64&height=48&fps=10&audio=0";

/// Lets the API name sources of this machine.
const OWN_SOURCES: &str = "[sources]\nallow_addresses = [\"127.0.0.1\"]\n";

/// A running program; killed when dropped.
struct Program {
    child: Child,
    address: String,
    _one: MutexGuard<'static, ()>,
}

impl Program {
    /// Starts it with `arguments` and waits until it is ready.
    fn start(arguments: &[&str]) -> Self {
        let program = Self::launch(arguments, |_| ());
        crate::common::api::wait_until_ready(&program.address, LIMIT);
        program
    }

    /// Starts it; `change` changes the command.
    fn launch(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let one = crate::common::alone();
        let address = format!("127.0.0.1:{}", crate::common::free_tcp_port());
        let mut command = touchline();
        command.args(["run", "--quiet", "--listen", &address]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        change(&mut command);
        let child = command.spawn().expect("the program starts");
        Self { child, address, _one: one }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// SIGTERM; how it ended, and how long that took.
    fn stop(mut self) -> (ExitStatus, Duration) {
        self.signal("TERM");
        let began = Instant::now();
        (self.wait(Duration::from_secs(30)), began.elapsed())
    }

    /// Waits for its end.
    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `is` says true.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < end, "{what} did not happen within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The records of a file, one a line; every line must be one but the last, which may be under way.
fn records(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A generator of numbers that a seed repeats (xorshift; Marsaglia 2003).
struct Dice(u64);

impl Dice {
    /// Of the variable `name`, or of the clock; says which.
    fn new(name: &str) -> Self {
        let seed =
            std::env::var(name).ok().map(|text| text.parse().expect("a seed is a number")).unwrap_or_else(|| {
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos()
                    as u64
                    | 1
            });
        println!("{name}={seed}");
        Self(seed)
    }

    /// From 0 to below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}
