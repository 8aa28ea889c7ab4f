//! SIGKILL at random moments: what was acknowledged or written is there afterwards.
//!
//! `TOUCHLINE_KILL_SEED` repeats a sequence of moments, `TOUCHLINE_KILL_ROUNDS` says how many kills.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Dice, Fixtures, LIMIT, Program, TEST};
use crate::common::api::{ask, ids, send, wait_until_ready};

/// What the API has acknowledged: the label of every stream; and the one whose change may be either through or not.
#[derive(Clone, Default)]
struct Known {
    labels: BTreeMap<String, u64>,
    doubtful: Option<String>,
}

/// Changes streams until the program is gone; one request at a time.
fn operate(address: &str, known: &Mutex<Known>, mut dice: Dice, over: &AtomicBool) {
    for n in 0.. {
        if over.load(Ordering::Acquire) {
            return;
        }
        let id = format!("guest-{}", dice.below(4));
        let is_there = known.lock().unwrap().labels.contains_key(&id);
        let label = dice.below(1_000_000);
        let path = format!("/api/v1/streams/{id}");
        let (method, path, body) = match (is_there, dice.below(3)) {
            (false, _) => {
                // Half of them are paused: their streams cost nothing, and the store has as much to do.
                let new = json!({ "id": id, "uri": TEST, "label": label.to_string(), "enabled": n % 2 == 0 });
                ("POST", "/api/v1/streams".to_owned(), new.to_string())
            }
            (true, 0) => ("DELETE", path, String::new()),
            (true, _) => ("PATCH", path, json!({ "label": label.to_string() }).to_string()),
        };
        known.lock().unwrap().doubtful = Some(id.clone());
        let kind = ("content-type", "application/json");
        let headers = if body.is_empty() { &[][..] } else { &[kind][..] };
        let Some(answer) = send(address, method, &path, &body, headers) else { return };
        let mut known = known.lock().unwrap();
        match (method, answer.status) {
            ("DELETE", 204) => drop(known.labels.remove(&id)),
            (_, 200 | 201) => drop(known.labels.insert(id, label)),
            _ => panic!("{method} {path}: {answer:?}"),
        }
        known.doubtful = None;
    }
}

#[test]
fn a_killed_process_has_lost_nothing_that_it_had_written() {
    let fixtures = Fixtures::new();
    let (state, jsonl) = (fixtures.path().join("state.db"), fixtures.path().join("out.jsonl"));
    let arguments = [
        "--state",
        state.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        // Recordings that go as fast as the machine allows: something is always being written.
        "one=testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400",
        "two=testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400",
    ];
    let mut dice = Dice::new("TOUCHLINE_KILL_SEED");
    let rounds = std::env::var("TOUCHLINE_KILL_ROUNDS").map_or(8, |n| n.parse().expect("a number"));
    let mut known = Known::default();
    let mut visible = String::new();
    let (mut changes, mut doubts) = (0, 0);
    for round in 0..rounds {
        let mut program = Program::launch(&arguments, |_| ());
        wait_until_ready(&program.address, LIMIT);
        check(&program.address, &mut known, round);
        let shared = Arc::new(Mutex::new(known.clone()));
        let over = Arc::new(AtomicBool::new(false));
        let operator = std::thread::spawn({
            let (address, shared, over) = (program.address.clone(), shared.clone(), over.clone());
            let dice = Dice(dice.below(u64::MAX >> 12) | 1);
            move || operate(&address, &shared, dice, &over)
        });
        std::thread::sleep(Duration::from_millis(200 + dice.below(2_500)));
        // What anybody could have read before the kill.
        let seen = std::fs::read_to_string(&jsonl).unwrap();
        program.signal("KILL");
        program.wait(LIMIT);
        over.store(true, Ordering::Release);
        operator.join().expect("every answer is as it should be");
        known = shared.lock().unwrap().clone();
        changes += known.labels.len();
        doubts += usize::from(known.doubtful.is_some());
        let whole = &seen[..seen.rfind('\n').map_or(0, |at| at + 1)];
        let after = std::fs::read_to_string(&jsonl).unwrap();
        assert!(after.starts_with(whole) && whole.starts_with(&visible), "round {round}: lines are gone");
        visible = whole.to_owned();
        let program_is_gone = send(&program.address, "GET", "/healthz", "", &[]).is_none();
        assert!(program_is_gone);
    }
    let program = Program::start(&arguments);
    check(&program.address, &mut known, rounds);
    let (status, took) = program.stop();
    assert!(status.success(), "{status} after {took:?}");
    // Every line is a record: what a kill had cut short was mended by the next start.
    let text = std::fs::read_to_string(&jsonl).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    let lines: Vec<Value> = parsed.collect();
    // No second has the place of another one, also of streams that were removed and added by the same name.
    let mut places = BTreeSet::new();
    for line in lines.iter().filter(|line| line["type"] == "second" || line["type"] == "gap") {
        let place = (line["stream"].to_string(), line["run"].as_u64(), line["index"].as_u64());
        assert!(places.insert(place), "twice: {line}");
    }
    println!("{rounds} kills, {} lines, {doubts} kills during a change, {changes} streams kept", lines.len());
}

/// The program that was started again knows what was acknowledged.
fn check(address: &str, known: &mut Known, round: u64) {
    let mut there: BTreeMap<String, u64> = BTreeMap::new();
    for id in ids(address).into_iter().filter(|id| id.starts_with("guest")) {
        let body = ask(address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body;
        there.insert(id, body["settings"]["label"].as_str().unwrap().parse().unwrap());
    }
    // A change that was not answered may have come through or not; what it is now is known from now on.
    if let Some(id) = known.doubtful.take() {
        known.labels.remove(&id);
        known.labels.extend(there.get(&id).map(|label| (id, *label)));
    }
    assert_eq!(there, known.labels, "round {round}");
}
