//! The history of a fleet on each machine: of a stream that moves, and of the time for which a machine was away.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Entry, FleetBench, ms};
use crate::common::alone;
use crate::common::api::{ask, wait_until_ready};
use crate::common::wait::until;
use crate::common::webdriver::Browser;

impl FleetBench {
    fn ask(&self, node: &str, path: &str) -> Value {
        ask(&self.nodes[node].address, "GET", path, None, &[]).body
    }

    fn segments(&self, node: &str) -> Vec<Value> {
        self.ask(node, "/api/v1/segments?stream=court&order=oldest")["segments"].as_array().cloned().unwrap_or_default()
    }

    /// Moves the stream, and waits until its new machine has published some seconds.
    fn hand_over(&self, to: &str) {
        let (_, epoch) = self.owner("court").unwrap();
        self.stream(&["move", "court", to]);
        until("the move", || self.owner("court").is_some_and(|(node, now)| node == to && now > epoch));
        self.wait_for_seconds(&["court"], 3);
    }

    /// Whether the history of a machine has each of `entries`, which were decided, and has no time twice.
    fn covers(&self, node: &str, entries: &[Entry]) -> bool {
        let history = self.ask(node, "/api/v1/history?stream=court&step=1");
        let Some(from_ms) = history["from_ms"].as_i64() else { return false };
        let decided: Vec<u64> = history["decided"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let step = |wall_ms: i64| usize::try_from((wall_ms - from_ms) / 1000).unwrap();
        let has = |at: usize| decided.get(at).is_some_and(|count| *count > 0);
        // Two machines cut the same second at different moments.
        let is_there = |entry: &Entry| {
            let at = step(entry.wall_ms.unwrap());
            (at.saturating_sub(1)..=at + 1).any(has)
        };
        let twice = decided.iter().filter(|count| **count > 1).count();
        entries.iter().all(is_there) && twice <= entries.len() / 4
    }

    /// Epoch, machine and place of the closed segments of a machine.
    fn closed(&self, node: &str) -> BTreeSet<(u64, String, u64, u64)> {
        let of = |item: &Value| {
            let segment = &item["segment"];
            let number = |key: &str| segment[key].as_u64().unwrap();
            (number("epoch"), segment["node"].as_str().unwrap().to_owned(), number("run"), number("first"))
        };
        self.segments(node).iter().filter(|item| item["open"] == false).map(of).collect()
    }
}

#[test]
fn each_machine_has_the_history_of_a_stream_that_moves_and_one_that_was_away_catches_up() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&[]) else { return };
    let vote = ["--vote-window=2", "--vote-onset=0.01", "--vote-offset=0.005"];
    bench.arguments = [&vote[..], &["--state", "FOLDER/store.db"]].concat().into_iter().map(str::to_owned).collect();
    ["a", "b", "c"].iter().for_each(|node| bench.run(node));
    bench.add(&["court"]);
    bench.wait_for_seconds(&["court"], 5);
    let (first, epoch) = bench.owner("court").unwrap();
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|node| *node != first).collect();
    let [second, away] = others[..] else { panic!("{others:?}") };
    // One is killed, the stream moves twice, and it returns.
    bench.nodes[away].signal("KILL");
    bench.nodes.remove(away);
    bench.hand_over(second);
    bench.hand_over(&first);
    bench.run(away);
    until("its return", || bench.state(second, away) == "active");
    bench.wait_for_seconds(&["court"], 2);
    let decided: Vec<Entry> = bench.entries().into_iter().filter(|entry| entry.wall_ms.is_some()).collect();
    let epochs: BTreeSet<u64> = decided.iter().map(|entry| entry.epoch).collect();
    assert!(epochs.len() >= 3, "{epochs:?}");
    for node in ["a", "b", "c"] {
        until(&format!("the seconds of all on {node}"), || bench.covers(node, &decided));
        until(&format!("the segments of all on {node}"), || {
            let closed = bench.closed(node);
            [(epoch, first.as_str()), (epoch + 1, second)]
                .iter()
                .all(|(epoch, owner)| closed.iter().any(|(of, by, ..)| of == epoch && by == owner))
        });
        until(&format!("the same segments on {node}"), || bench.closed(node) == bench.closed(&first));
        for item in bench.segments(node) {
            let owner = &item["segment"]["node"];
            assert_eq!(item["elsewhere"], if owner == node { Value::Null } else { owner.clone() }, "{node}: {item}");
        }
        // They begin with the first second; a gap before it has no wall time of its own.
        let segments = bench.segments(node);
        let began = segments.iter().map(|item| ms(&item["segment"]["began"])).min().unwrap();
        let first_ms = decided.iter().filter_map(|entry| entry.wall_ms).min().unwrap();
        assert!((first_ms - 5000..=first_ms).contains(&began), "{node}: {began} and {first_ms}");
        let events = bench.ask(node, "/api/v1/events?stream=court&type=state,event");
        let by: BTreeSet<&str> =
            events["events"].as_array().unwrap().iter().filter_map(|e| e["node"].as_str()).collect();
        assert!(by.contains(first.as_str()) && by.contains(second), "{node}: {by:?}");
        let sums = bench.ask(node, "/api/v1/summary");
        assert_eq!(sums["streams"].as_array().unwrap().len(), 1, "{sums}");
        assert_eq!(sums["streams"][0]["stream"], "court");
        let table = bench.nodes[node].get("/api/v1/segments?stream=court&format=csv");
        assert!(table.lines().count() > segments.len(), "{table}");
    }
    if let Some(browser) = Browser::start() {
        shows_the_history(&bench, &browser, away, (&first, second));
    }
    // A stream that is removed from the fleet has no history, on a machine that was away either.
    assert_eq!(bench.stop(away), 0);
    bench.stream(&["remove", "court"]);
    for node in [&*first, second] {
        until("the end of its history", || bench.segments(node).is_empty());
    }
    bench.run(away);
    wait_until_ready(&bench.nodes[away].address);
    until("the end of its history", || bench.segments(away).is_empty());
    let seconds = || ask(&bench.nodes[away].address, "GET", "/api/v1/history?stream=court", None, &[]);
    until("the end of its seconds", || seconds().status == 404);
}

/// The page of a machine that decided nothing of the stream.
fn shows_the_history(bench: &FleetBench, browser: &Browser, node: &str, (first, second): (&str, &str)) {
    browser.go(&format!("http://{}/history?span=3600", bench.nodes[node].address));
    let rows = "[...document.querySelectorAll('#list button')]";
    let lanes = "[...document.querySelectorAll('#lanes a.name')].map((name) => [name.textContent, name.href])";
    let shown = browser
        .wait("the lane", &format!("const lanes = {lanes}; return {rows}.length > 1 && lanes.length ? lanes : null"));
    assert_eq!(
        shown,
        json!([["court", format!("http://{first}.example/?stream=court")]]),
        "the machine that watches it"
    );
    let machine = "[...document.querySelectorAll('#detail .facts div')].find((fact) => fact.firstChild.textContent === 'Machine')";
    let link = browser.wait(
        "the oldest segment's machine",
        &format!("{rows}.at(-1).click(); const fact = {machine}; return fact ? [fact.lastChild.textContent, fact.querySelector('a').href.split('?')[0]] : null"),
    );
    let of = |node: &str| json!([node, format!("http://{node}.example/history")]);
    assert!(link == of(first) || link == of(second), "{link}");
    assert_eq!(browser.console(), Vec::<String>::new());
}
