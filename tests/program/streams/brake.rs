//! Streams that crash the program while they are being opened.

use std::net::TcpListener;

use serde_json::{Value, json};

use super::{Fixtures, OWN_SOURCES, Program, TEST, records, until};
use crate::common::api::{ask, wait_until_ready};

fn get(program: &Program, id: &str) -> Value {
    ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body
}

#[test]
fn a_stream_that_crashed_the_program_twice_starts_paused() {
    let fixtures = Fixtures::new();
    let (state, jsonl) = (fixtures.path().join("state.db"), fixtures.path().join("out.jsonl"));
    let config = fixtures.write("touchline.toml", OWN_SOURCES.as_bytes());
    let arguments =
        ["--state", state.to_str().unwrap(), "--config", config.to_str().unwrap(), "--jsonl", jsonl.to_str().unwrap()];
    // A server that accepts the connection and stays silent: the source is still being opened when the program
    // "crashes".
    let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    server.set_nonblocking(true).unwrap();
    let uri = format!("rtsp://127.0.0.1:{}/live", server.local_addr().unwrap().port());
    let mut program = Program::start(&arguments);
    for (id, uri) in [("good", TEST), ("bad", &uri)] {
        let answer = ask(&program.address, "POST", "/api/v1/streams", Some(&json!({ "id": id, "uri": uri })), &[]);
        assert_eq!(answer.status, 201, "{answer:?}");
        if id == "good" {
            until("probation", || get(&program, "good")["last"]["index"].as_u64() >= Some(7));
        }
    }
    let mut kept = Vec::new();
    let mut crash = |program: &mut Program| {
        until("the connection", || server.accept().map(|(client, _)| kept.push(client)).is_ok());
        program.signal("KILL");
        program.wait();
    };
    crash(&mut program);
    drop(program);
    let mut program = Program::launch(&arguments, |_| ());
    wait_until_ready(&program.address);
    until("probation", || get(&program, "good")["last"]["index"].as_u64() >= Some(7));
    crash(&mut program);
    drop(program);

    let program = Program::start(&arguments);
    until("the pause", || get(&program, "bad")["state"] == "paused");
    let bad = get(&program, "bad");
    assert_eq!((&bad["kind"], &bad["settings"]["enabled"]), (&json!("crashed"), &json!(false)), "{bad}");
    assert!(bad["cause"].as_str().unwrap().contains("ended 2 times"), "{bad}");
    assert!(bad["advice"].as_str().unwrap().contains("enable"), "{bad}");
    until("the other one", || get(&program, "good")["state"] == "playing");
    assert!(server.accept().is_err(), "the paused stream was opened");
    let is_reported =
        records(&jsonl).into_iter().any(|r| r["type"] == "state" && r["stream"] == "bad" && r["kind"] == "crashed");
    assert!(is_reported);
    // An operator can enable it again.
    let answer = ask(&program.address, "PATCH", "/api/v1/streams/bad", Some(&json!({ "enabled": true })), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    until("another attempt", || server.accept().map(|(client, _)| kept.push(client)).is_ok());
    assert!(program.stop().success());
    // An orderly stop does not count as a crash.
    let program = Program::start(&arguments);
    until("another attempt", || get(&program, "bad")["state"] != "paused");
    assert_eq!(ask(&program.address, "DELETE", "/api/v1/streams/bad", None, &[]).status, 204);
    program.stop();
}
