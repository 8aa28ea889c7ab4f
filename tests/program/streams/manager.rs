//! What a service manager is told over its socket.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Fixtures, LIMIT, Program, TEST};
use crate::common::api::wait_until_ready;

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

    /// Waits for a message with the line `wanted`; gives it.
    fn wait_for(&self, wanted: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            match self.next() {
                Some(message) if message.lines().any(|line| line == wanted) => return message,
                _ => assert!(Instant::now() < until, "no {wanted}"),
            }
        }
    }

    /// How often the program says that it lives in `time`.
    fn signs_of_life(&self, time: Duration) -> usize {
        let until = Instant::now() + time;
        let mut signs = 0;
        while Instant::now() < until {
            signs += usize::from(self.next().is_some_and(|message| message.contains("WATCHDOG=1")));
        }
        signs
    }

    fn launch(&self, arguments: &[&str]) -> Program {
        Program::launch(arguments, |command| {
            command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "8000000").stdout(Stdio::piped());
        })
    }
}

#[test]
fn it_is_told_of_every_step_and_of_life() {
    let fixtures = Fixtures::new();
    let manager = Manager::new(&fixtures);
    let config = fixtures.write("touchline.toml", b"");
    let mut program = manager.launch(&["--config", config.to_str().unwrap(), TEST]);
    manager.wait_for("STATUS=warming up the models");
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=watching 1 stream, 1 playing");
    assert!(manager.signs_of_life(Duration::from_secs(10)) >= 2);
    program.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    program.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert!(program.wait(LIMIT).success());
}

#[test]
fn waiting_for_a_reader_is_no_hang() {
    let fixtures = Fixtures::new();
    let manager = Manager::new(&fixtures);
    // Nobody reads the records: the pipe is full after a moment, and the recording waits.
    let program = manager.launch(&["--jsonl", "-", "testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400"]);
    wait_until_ready(&program.address, LIMIT);
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
}
