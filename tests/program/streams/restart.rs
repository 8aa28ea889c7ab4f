//! Streams, settings and events survive a restart.

use serde_json::{Value, json};

use super::{Fixtures, OWN_SOURCES, Program, TEST, records, until};
use crate::common::api::{ask, ids};

fn get(program: &Program, id: &str) -> Value {
    ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body
}

#[test]
fn streams_settings_and_last_events_survive_a_restart() {
    let fixtures = Fixtures::new();
    let (state, jsonl) = (fixtures.path().join("state.db"), fixtures.path().join("out.jsonl"));
    let vote =
        fixtures.write("touchline.toml", format!("{OWN_SOURCES}[vote]\nonset = 0.02\noffset = 0.0\n").as_bytes());
    let arguments = [
        "--state",
        state.to_str().unwrap(),
        "--config",
        vote.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        "own=testsrc://?width=64&height=48&fps=10&audio=0",
    ];
    let program = Program::start(&arguments);
    for new in [
        json!({ "id": "one", "uri": TEST, "label": "Court", "vote": { "window": 5 } }),
        json!({ "id": "two", "uri": "rtsp://ann:geheim-store-1@127.0.0.1:1/live", "enabled": false, "latency_ms": 321 }),
        json!({ "id": "gone", "uri": TEST }),
    ] {
        assert_eq!(ask(&program.address, "POST", "/api/v1/streams", Some(&new), &[]).status, 201);
    }
    assert_eq!(
        ask(&program.address, "PATCH", "/api/v1/streams/two", Some(&json!({ "label": "Two" })), &[]).status,
        200
    );
    assert_eq!(ask(&program.address, "DELETE", "/api/v1/streams/gone", None, &[]).status, 204);
    until("events", || ["one", "own"].iter().all(|id| !get(&program, id)["events"].as_array().unwrap().is_empty()));
    let before: Vec<Value> = ["one", "two"].iter().map(|id| get(&program, id)["settings"].clone()).collect();
    let first_events = get(&program, "one")["events"].clone();
    assert!(program.stop().success());

    let program = Program::start(&arguments);
    assert_eq!(ids(&program.address), ["own", "one", "two"]);
    let after: Vec<Value> = ["one", "two"].iter().map(|id| get(&program, id)["settings"].clone()).collect();
    assert_eq!(before, after, "the settings and their versions");
    until("the pause", || get(&program, "two")["state"] == "paused");
    for id in ["one", "own"] {
        let detail = get(&program, id);
        assert_eq!(detail["before"]["type"], "state", "the last state is missing: {detail}");
        let events = detail["events"].as_array().unwrap();
        assert!(!events.is_empty(), "{id} has lost its events");
    }
    let events = get(&program, "one")["events"].clone();
    assert_eq!(events[0], first_events[0]);
    until("a second of the new run", || get(&program, "one")["last"]["run"] == 1);
    assert!(program.stop().success());
    // No two seconds have the same stream, run and index.
    let mut places: Vec<(String, u64, u64)> = records(&jsonl)
        .iter()
        .filter(|r| r["type"] == "second" || r["type"] == "gap")
        .map(|r| (r["stream"].to_string(), r["run"].as_u64().unwrap(), r["index"].as_u64().unwrap()))
        .collect();
    let all = places.len();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), all);

    // A second process cannot open the same store.
    let program = Program::start(&["--state", state.to_str().unwrap()]);
    let other = std::process::Command::new(crate::common::program::path())
        .args(["run", "--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(5) && error.contains("another process uses the store"), "{error}");
    assert!(!error.contains("geheim-store"), "{error}");
    assert!(program.stop().success());
}
