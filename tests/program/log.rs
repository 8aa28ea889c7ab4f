//! The log as JSON, and the audit log.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::program::touchline;

const TOKEN: &str = "a-token-of-the-tests-of-the-log";
const PASSWORD: &str = "pl4nted-password";

/// The lines of a log, each a JSON object.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains(TOKEN) && !text.contains(PASSWORD), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn changes_over_http_are_in_the_log() {
    let _one = crate::common::alone();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut program = touchline();
    program.env("TOUCHLINE_ADMIN_TOKEN", TOKEN).args(["--log-format", "json"]).stderr(File::create(&log).unwrap());
    let live = Live::start_by(program, dir.path(), "127.0.0.1", &[]);
    wait_until_ready(&live.address);
    let uri = format!("rtsp://ann:{PASSWORD}@camera.invalid/live");
    let stream = json!({ "id": "court", "uri": uri });
    let bearer = format!("Bearer {TOKEN}");
    let answer = ask(&live.address, "POST", "/api/v1/streams", Some(&stream), &[]);
    assert_eq!(answer.status, 401, "{answer:?}");
    for (method, path, body, status) in [
        ("POST", "/api/v1/streams", Some(&stream), 201),
        ("GET", "/api/v1/streams", None, 200),
        ("DELETE", "/api/v1/streams/court", None, 204),
        ("DELETE", "/api/v1/streams/court", None, 404),
    ] {
        let answer = ask(&live.address, method, path, body, &[("authorization", &bearer)]);
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(live.stop(), 0);
    let lines = lines(&log);
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{lines:?}");
    let audit: Vec<Value> = lines
        .iter()
        .filter(|line| line["target"] == "touchline::audit")
        .map(|line| json!([line["peer"], line["by"], line["method"], line["path"], line["status"]]))
        .collect();
    let change = |by: Value, method: &str, path: &str, status: u16| json!(["127.0.0.1", by, method, path, status]);
    assert_eq!(
        audit,
        [
            change(Value::Null, "POST", "/api/v1/streams", 401),
            change("token".into(), "POST", "/api/v1/streams", 201),
            change("token".into(), "DELETE", "/api/v1/streams/court", 204),
            change("token".into(), "DELETE", "/api/v1/streams/court", 404),
        ]
    );
}
