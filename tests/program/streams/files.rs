//! The limit of open files.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Fixtures, Program, TEST, until};
use crate::common::api::{ask, wait_until_ready};

/// More streams than the limit of open files allows.
const STREAMS_MAX: usize = 40;

#[test]
fn the_limit_of_open_files_is_logged_once() {
    let fixtures = Fixtures::new();
    let log = fixtures.path().join("log.txt");
    let program = Program::launch(&[], |command| {
        // The same program with a low limit, which its processes inherit.
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 140; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        limited.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stdout(Stdio::null());
        limited.stderr(std::fs::File::create(&log).unwrap()).process_group(0);
        *command = limited;
    });
    wait_until_ready(&program.address);
    let get = |id: &str| ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body;
    let mut playing = 0;
    let is_out = (0..STREAMS_MAX).any(|n| {
        let id = format!("s{n}");
        // A source without a process of its own opens the most files in the program.
        let new = json!({ "id": id, "uri": TEST, "isolation": "none" });
        assert_eq!(ask(&program.address, "POST", "/api/v1/streams", Some(&new), &[]).status, 201);
        until("a state", || get(&id)["state"] != "connecting");
        let stream = get(&id);
        let is_out = stream["cause"].as_str().is_some_and(|cause| cause.contains("no more files"));
        assert!(is_out || stream["state"] == "playing", "{stream}");
        playing += usize::from(!is_out);
        is_out
    });
    assert!(is_out && playing > 0, "{playing} streams play");
    // The program retries the stream, and the others continue.
    let id = format!("s{playing}");
    until("another attempt", || get(&id)["attempt"].as_u64() >= Some(3));
    let count = get("s0")["counters"]["classified"].as_u64();
    until("a second", || get("s0")["counters"]["classified"].as_u64() > count);
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.len() < 20_000, "{} bytes: {}", log.len(), &log[..2000]);
    assert_eq!(log.matches("(limit 140;").count(), 1, "{log}");
}
