//! SIGKILL at random moments: acknowledged changes and written records survive.
//!
//! `TOUCHLINE_KILL_SEED` repeats a sequence of moments, `TOUCHLINE_KILL_ROUNDS` sets the number of kills.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Dice, Fixtures, Program, TEST};
use crate::common::api::{ask, ids, send, wait_until_ready};

/// The changes that the API has acknowledged.
#[derive(Clone, Default)]
struct Acknowledged {
    /// The label of every stream.
    labels: BTreeMap<String, u64>,
    /// The stream of the request without an answer: its change may or may not have been made.
    pending: Option<String>,
}

/// Changes streams, one request at a time, until the program is killed.
fn operate(address: &str, acknowledged: &Mutex<Acknowledged>, mut dice: Dice, is_killed: &AtomicBool) {
    for n in 0.. {
        if is_killed.load(Ordering::Acquire) {
            return;
        }
        let id = format!("guest-{}", dice.below(4));
        let exists = acknowledged.lock().labels.contains_key(&id);
        let label = dice.below(1_000_000);
        let path = format!("/api/v1/streams/{id}");
        let (method, path, body) = match (exists, dice.below(3)) {
            (false, _) => {
                // Half of the streams are paused: they need no decoding, and the store works the same.
                let new = json!({ "id": id, "uri": TEST, "label": label.to_string(), "enabled": n % 2 == 0 });
                ("POST", "/api/v1/streams".to_owned(), new.to_string())
            }
            (true, 0) => ("DELETE", path, String::new()),
            (true, _) => ("PATCH", path, json!({ "label": label.to_string() }).to_string()),
        };
        acknowledged.lock().pending = Some(id.clone());
        let kind = ("content-type", "application/json");
        let headers = if body.is_empty() { &[][..] } else { &[kind][..] };
        let Some(answer) = send(address, method, &path, &body, headers) else { return };
        let mut acknowledged = acknowledged.lock();
        match (method, answer.status) {
            ("DELETE", 204) => drop(acknowledged.labels.remove(&id)),
            (_, 200 | 201) => drop(acknowledged.labels.insert(id, label)),
            _ => panic!("{method} {path}: {answer:?}"),
        }
        acknowledged.pending = None;
    }
}

#[test]
fn a_killed_process_loses_no_written_record() {
    let fixtures = Fixtures::new();
    let (state, jsonl) = (fixtures.path().join("state.db"), fixtures.path().join("out.jsonl"));
    let arguments = [
        "--state",
        state.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        // Recordings play as fast as the machine allows, so that the program writes continually.
        "one=testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400",
        "two=testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400",
    ];
    let mut dice = Dice::new("TOUCHLINE_KILL_SEED");
    let rounds = std::env::var("TOUCHLINE_KILL_ROUNDS").map_or(8, |n| n.parse().expect("a number"));
    let mut acknowledged = Acknowledged::default();
    let mut visible = String::new();
    let (mut streams, mut interrupted) = (0, 0);
    for round in 0..rounds {
        let mut program = Program::launch(&arguments, |_| ());
        wait_until_ready(&program.address);
        check(&program.address, &mut acknowledged, round);
        let shared = Arc::new(Mutex::new(acknowledged.clone()));
        let is_killed = Arc::new(AtomicBool::new(false));
        let operator = std::thread::spawn({
            let (address, shared, is_killed) = (program.address.clone(), shared.clone(), is_killed.clone());
            let dice = Dice(dice.below(u64::MAX >> 12) | 1);
            move || operate(&address, &shared, dice, &is_killed)
        });
        std::thread::sleep(Duration::from_millis(200 + dice.below(2_500)));
        // A reader could have read these records before the kill.
        let before = std::fs::read_to_string(&jsonl).unwrap();
        program.signal("KILL");
        program.wait();
        is_killed.store(true, Ordering::Release);
        operator.join().expect("every answer has the expected status");
        acknowledged = shared.lock().clone();
        streams += acknowledged.labels.len();
        interrupted += usize::from(acknowledged.pending.is_some());
        let whole = &before[..before.rfind('\n').map_or(0, |at| at + 1)];
        let after = std::fs::read_to_string(&jsonl).unwrap();
        assert!(after.starts_with(whole) && whole.starts_with(&visible), "round {round}: lines are missing");
        visible = whole.to_owned();
        let program_is_gone = send(&program.address, "GET", "/healthz", "", &[]).is_none();
        assert!(program_is_gone);
    }
    let program = Program::start(&arguments);
    check(&program.address, &mut acknowledged, rounds);
    let status = program.stop();
    assert!(status.success(), "{status}");
    // Every line is a record: the next start removes a line that a kill has cut short.
    let text = std::fs::read_to_string(&jsonl).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    let lines: Vec<Value> = parsed.collect();
    // No two seconds have the same stream, run and index, even when a stream was removed and added again with the same id.
    let mut places = BTreeSet::new();
    for line in lines.iter().filter(|line| line["type"] == "second" || line["type"] == "gap") {
        let place = (line["stream"].to_string(), line["run"].as_u64(), line["index"].as_u64());
        assert!(places.insert(place), "twice: {line}");
    }
    println!("{rounds} kills, {} lines, {interrupted} kills during a change, {streams} streams kept", lines.len());
}

/// Checks that the restarted program has every acknowledged stream with its label.
fn check(address: &str, acknowledged: &mut Acknowledged, round: u64) {
    let mut labels: BTreeMap<String, u64> = BTreeMap::new();
    for id in ids(address).into_iter().filter(|id| id.starts_with("guest")) {
        let body = ask(address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body;
        labels.insert(id, body["settings"]["label"].as_str().unwrap().parse().unwrap());
    }
    // A change without an answer may or may not have been made. The restarted program decides.
    if let Some(id) = acknowledged.pending.take() {
        acknowledged.labels.remove(&id);
        acknowledged.labels.extend(labels.get(&id).map(|label| (id, *label)));
    }
    assert_eq!(labels, acknowledged.labels, "round {round}");
}
