//! Outputs that stall.

use std::process::Stdio;
use std::thread;

use serde_json::json;

use super::{Program, TEST, until};
use crate::common::api::{ask, wait_until_ready};

/// The sum of the metrics that begin with `name`.
fn metric(address: &str, name: &str) -> f64 {
    let text = ask(address, "GET", "/metrics", None, &[]).text;
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// Adds paused streams and removes them until the output drops records. Each stream is some records.
fn fill(address: &str, worker: usize) {
    let id = format!("filler-{worker}");
    let body = json!({ "id": id, "uri": TEST, "enabled": false });
    until("the first dropped record", || {
        for _ in 0..50 {
            assert_eq!(ask(address, "POST", "/api/v1/streams", Some(&body), &[]).status, 201);
            assert_eq!(ask(address, "DELETE", &format!("/api/v1/streams/{id}"), None, &[]).status, 204);
        }
        metric(address, DROPPED) > 0.0
    });
}

const DROPPED: &str = "touchline_sink_dropped_records_total{sink=\"jsonl\"}";

#[test]
fn decisions_continue_while_nobody_reads_an_output() {
    let court = format!("court={TEST}");
    // Nobody reads this pipe while the program runs.
    let program = Program::launch(&["--jsonl", "-", &court], |command| {
        // The log has two lines per added stream, which are thousands.
        command.stdout(Stdio::piped()).env("RUST_LOG", "warn");
    });
    let address = program.address.as_str();
    wait_until_ready(address);
    let decided = || metric(address, "touchline_seconds_classified_total{stream=\"court\"}");
    until("the first decision", || decided() > 0.0);
    // The pipe and the sink's queue fill up.
    thread::scope(|scope| (0..4).for_each(|worker| drop(scope.spawn(move || fill(address, worker)))));

    let (decided_before, dropped_before) = (decided(), metric(address, DROPPED));
    until("ten decisions", || decided() >= decided_before + 10.0);
    until("dropped records of these", || metric(address, DROPPED) >= dropped_before + 10.0);
    // Lost records are the program's error.
    assert_eq!(program.stop().code(), Some(5));
}
