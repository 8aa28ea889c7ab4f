//! Streams that are added and removed while the program runs: over the API, by the configuration file, across restarts
//! and kills.

mod api;
mod brake;
mod churn;
mod ending;
mod expectation;
mod files;
mod isolation;
mod kill;
mod manager;
mod outputs;
mod probe;
mod reload;
mod restart;

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::common::Fixtures;
use crate::common::live::RecordReader;
use crate::common::program::touchline;
use crate::common::wait::{until, until_some};
use parking_lot::MutexGuard;

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
    /// Starts the program with `arguments` and waits until it is ready.
    fn start(arguments: &[&str]) -> Self {
        let program = Self::launch(arguments, |_| ());
        crate::common::api::wait_until_ready(&program.address);
        program
    }

    /// Starts the program after `change` has changed its command.
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

    /// Sends SIGTERM. Returns the exit status.
    fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until the program exits.
    fn wait(&mut self) -> ExitStatus {
        until_some("the exit of the program", || self.child.try_wait().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails after `stop`, when the process has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The records of a file.
fn records(path: &Path) -> Vec<serde_json::Value> {
    RecordReader::new(path).read()
}

/// A seeded random number generator (xorshift; Marsaglia 2003).
struct Dice(u64);

impl Dice {
    /// Takes the seed from the environment variable `name`, or from the clock, and prints it.
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

    /// A number from 0 to `n - 1`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}
