//! The messages to a service manager over its socket.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Fixtures, Program, TEST};
use crate::common::api::wait_until_ready;
use crate::common::wait::until_some;

/// A service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new(fixtures: &Fixtures) -> Self {
        let path = fixtures.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, path }
    }

    fn next(&self) -> Option<String> {
        let mut message = [0; 4096];
        let n = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..n].to_vec()).unwrap())
    }

    /// Waits for a message with the line `wanted` and returns it.
    fn wait_for(&self, wanted: &str) -> String {
        until_some(wanted, || self.next().filter(|message| message.lines().any(|line| line == wanted)))
    }

    /// The number of watchdog messages that arrive during `time`.
    fn watchdog_messages(&self, time: Duration) -> usize {
        let until = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < until {
            count += usize::from(self.next().is_some_and(|message| message.contains("WATCHDOG=1")));
        }
        count
    }

    fn launch(&self, arguments: &[&str]) -> Program {
        Program::launch(arguments, |command| {
            command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "8000000").stdout(Stdio::piped());
        })
    }
}

#[test]
fn a_service_manager_receives_every_state_and_the_watchdog_messages() {
    let fixtures = Fixtures::new();
    let manager = Manager::new(&fixtures);
    let config = fixtures.write("touchline.toml", b"");
    let mut program = manager.launch(&["--config", config.to_str().unwrap(), TEST]);
    manager.wait_for("STATUS=warming up the models");
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=watching 1 stream, 1 playing");
    assert!(manager.watchdog_messages(Duration::from_secs(10)) >= 2);
    program.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    program.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert!(program.wait().success());
}

#[test]
fn waiting_for_a_reader_keeps_the_watchdog_alive() {
    let fixtures = Fixtures::new();
    let manager = Manager::new(&fixtures);
    // No process reads the records: the pipe fills at once, and the recording waits.
    let program = manager.launch(&["--jsonl", "-", "testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400"]);
    wait_until_ready(&program.address);
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
}
