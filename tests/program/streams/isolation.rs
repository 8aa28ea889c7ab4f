//! Streams whose sources have processes of their own.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Fixtures, Program, TEST, records, until};
use crate::common::api::ask;

/// The folder in `/proc` of the worker that `program` has started for source `id`.
pub(super) fn worker_of(program: &Program, id: &str) -> Option<PathBuf> {
    let wanted = format!("touchline\0source-worker\0{id}\0");
    let parent = format!("PPid:\t{}\n", program.child.id());
    let folders = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    folders.into_iter().find(|folder| {
        std::fs::read(folder.join("cmdline")).is_ok_and(|text| text == wanted.as_bytes())
            && std::fs::read_to_string(folder.join("status")).is_ok_and(|text| text.contains(&parent))
    })
}

fn get(program: &Program, id: &str) -> Value {
    ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body
}

#[test]
fn a_killed_worker_affects_only_its_own_stream() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.path().join("out.jsonl");
    let own = format!("own={TEST}");
    let program = Program::start(&["--jsonl", jsonl.to_str().unwrap(), &own]);
    for (id, isolation) in [("guest", None), ("inside", Some("none"))] {
        let mut new = json!({ "id": id, "uri": TEST });
        isolation.inspect(|isolation| new["isolation"] = json!(isolation));
        let answer = ask(&program.address, "POST", "/api/v1/streams", Some(&new), &[]);
        assert_eq!(answer.status, 201, "{answer:?}");
        let wanted = isolation.unwrap_or("process");
        assert_eq!(get(&program, id)["settings"]["isolation"], wanted);
    }
    assert_eq!(get(&program, "own")["settings"]["isolation"], "none");
    let decided = |id: &str| records(&jsonl).iter().filter(|r| r["type"] == "second" && r["stream"] == id).count();
    until("seconds of all", || ["own", "guest", "inside"].iter().all(|id| decided(id) >= 3));
    assert!(worker_of(&program, "own").is_none() && worker_of(&program, "inside").is_none());
    let worker = worker_of(&program, "guest").expect("the stream has a worker");
    let pid = worker.file_name().unwrap();
    assert!(Command::new("kill").arg("-ABRT").arg(pid).status().unwrap().success());
    let crashed = || {
        let mut all = records(&jsonl).into_iter();
        all.find(|r| r["type"] == "state" && r["stream"] == "guest" && r["state"] == "waiting")
    };
    until("the record", || crashed().is_some());
    let crashed = crashed().unwrap();
    assert_eq!(crashed["kind"], "crashed", "{crashed}");
    assert!(crashed["cause"].as_str().unwrap().contains("SIGABRT"), "{crashed}");
    let is_second_run = |r: &Value| r["type"] == "second" && r["stream"] == "guest" && r["run"] == 1;
    until("another run", || records(&jsonl).iter().any(is_second_run));
    assert!(worker_of(&program, "guest").is_some_and(|another| another != worker));
    // A change over the API opens the stream again.
    let patch = json!({ "isolation": "none" });
    assert_eq!(ask(&program.address, "PATCH", "/api/v1/streams/guest", Some(&patch), &[]).status, 200);
    until("the end of the process", || worker_of(&program, "guest").is_none());
    assert_eq!(get(&program, "guest")["settings"]["isolation"], "none");
    let all = records(&jsonl);
    for id in ["own", "inside"] {
        let waited = all.iter().any(|r| r["stream"] == id && r["type"] == "state" && r["state"] == "waiting");
        assert!(!waited && get(&program, id)["state"] == "playing", "{id} was interrupted");
    }
    assert!(program.stop().success());
}
