//! The configuration file, read again on SIGHUP.

use std::path::Path;

use serde_json::{Value, json};

use super::{Fixtures, Program, TEST, records, until};
use crate::common::api::{ask, ids, send};

fn stream(id: &str, more: &str) -> String {
    format!("[[stream]]\nid = \"{id}\"\nuri = \"{TEST}\"\n{more}\n")
}

fn config(program: &Program) -> Value {
    ask(&program.address, "GET", "/api/v1/config", None, &[]).body
}

/// Writes the file, sends the signal, and waits for the outcome.
fn reload(program: &Program, path: &Path, text: &str) -> Value {
    let count = |config: &Value| {
        let reloads = |key: &str| config["reloads"][key].as_u64().unwrap();
        reloads("applied") + reloads("refused")
    };
    let before = count(&config(program));
    std::fs::write(path, text).unwrap();
    program.signal("HUP");
    until("a reload", || count(&config(program)) > before);
    config(program)["reloads"]["last"].clone()
}

#[test]
fn only_changed_streams_are_opened_again() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.path().join("out.jsonl");
    let path = fixtures.write("touchline.toml", (stream("stays", "") + &stream("goes", "")).as_bytes());
    let program = Program::start(&[
        "--config",
        path.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        "own=testsrc://?width=64&height=48&fps=10&audio=0",
    ]);
    assert_eq!(config(&program)["file"], "touchline.toml");
    let guest = json!({ "id": "guest", "uri": TEST });
    assert_eq!(ask(&program.address, "POST", "/api/v1/streams", Some(&guest), &[]).status, 201);

    let last =
        reload(&program, &path, &(stream("stays", "vote = { window = 4 }") + &stream("comes", "label = \"New\"")));
    assert_eq!(last["changes"]["added"], json!(["comes"]), "{last}");
    assert_eq!((&last["changes"]["removed"], &last["changes"]["changed"]), (&json!(["goes"]), &json!(["stays"])));
    until("the removal of the stream `goes`", || !ids(&program.address).contains(&"goes".to_owned()));
    let stays = ask(&program.address, "GET", "/api/v1/streams/stays", None, &[]).body;
    assert_eq!(stays["settings"]["vote"]["window"], 4);

    // An invalid file is refused as a whole; the old settings stay.
    for (text, word) in [
        ("[[stream]]\nid = \"a\"\nury = 3\n".to_owned(), "toml:3: "),
        (stream("guest", ""), "guest"),
        (stream("a", "") + "[vote]\nwindow = 0\n", "window"),
        ("this is no toml".to_owned(), "toml:1: "),
    ] {
        let last = reload(&program, &path, &text);
        assert_eq!(last["outcome"], "refused", "{last}");
        assert!(last["error"].as_str().unwrap().contains(word), "{last}");
    }
    let metrics = send(&program.address, "GET", "/metrics", "", &[]).unwrap().text;
    for line in [
        "touchline_config_reloads_total{result=\"applied\"} 1",
        "touchline_config_reloads_total{result=\"refused\"} 4",
        "touchline_config_last_reload_success 0",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    let mut existing = ids(&program.address);
    existing.sort();
    assert_eq!(existing, ["comes", "guest", "own", "stays"]);

    // The run's vote, and a key that takes effect only at a restart. The flag --listen overrides the key `listen`.
    let text = format!(
        "max_streams = 32\nlisten = \"127.0.0.1:1\"\n[vote]\nwindow = 7\n{}",
        stream("stays", "") + &stream("comes", "")
    );
    let last = reload(&program, &path, &text);
    assert_eq!(last["changes"]["needs_restart"], json!(["max_streams"]), "{last}");
    let window = |id: &str| {
        let body = ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body;
        body["settings"]["vote"]["window"].clone()
    };
    assert_eq!((window("stays"), window("guest"), window("own")), (json!(7), json!(7), json!(7)));
    let seconds = || -> Vec<(u64, u64)> {
        records(&jsonl)
            .iter()
            .filter(|r| r["stream"] == "stays" && (r["type"] == "second" || r["type"] == "gap"))
            .map(|r| (r["run"].as_u64().unwrap(), r["index"].as_u64().unwrap()))
            .collect()
    };
    let before = seconds().len().max(1);
    until("two seconds after the last reload", || seconds().len() >= before + 2);
    assert!(program.stop().success());

    // The stream `stays` was not opened again: it has one run and misses no second.
    let seconds = seconds();
    assert!(seconds.windows(2).all(|w| w[1] == (w[0].0, w[0].1 + 1)), "{seconds:?}");
}

#[test]
fn a_renamed_jsonl_file_is_replaced_on_request() {
    let fixtures = Fixtures::new();
    let (jsonl, renamed) = (fixtures.path().join("out.jsonl"), fixtures.path().join("out.jsonl.1"));
    let uri = format!("cam={TEST}");
    let program = Program::start(&["--jsonl", jsonl.to_str().unwrap(), &uri]);
    let seconds = |path: &Path| -> Vec<u64> {
        let records = records(path).into_iter().filter(|r| r["type"] == "second" || r["type"] == "gap");
        records.map(|r| r["index"].as_u64().unwrap()).collect()
    };
    until("the first second", || !seconds(&jsonl).is_empty());
    std::fs::rename(&jsonl, &renamed).unwrap();
    let before = seconds(&renamed).len();
    until("a second in the renamed file", || seconds(&renamed).len() > before);
    assert!(!jsonl.exists(), "without a signal the file stays the same");

    program.signal("HUP");
    until("a second in the new file", || !seconds(&jsonl).is_empty());
    let old = std::fs::read(&renamed).unwrap();
    let count = seconds(&jsonl).len();
    until("two more seconds in the new file", || seconds(&jsonl).len() >= count + 2);
    assert_eq!(std::fs::read(&renamed).unwrap(), old, "the old file does not grow");
    assert!(program.stop().success());
    let both = [seconds(&renamed), seconds(&jsonl)].concat();
    assert!(both.windows(2).all(|pair| pair[1] == pair[0] + 1), "a second is missing: {both:?}");
}
