//! What is expected of streams: records, metrics, the API, and changes by SIGHUP and over the API.

use std::path::Path;

use serde_json::{Value, json};

use super::{Fixtures, Program, records, until};
use crate::common::api::{Answer, ask, send};
use crate::common::program::{data, finish, touchline};

/// Colour bars, which count as no programme after two seconds.
const BARS: &str = "testsrc://?width=64&height=48&fps=10&pattern=bars&audio=0";

fn stream(more: &str) -> String {
    format!("[[stream]]\nid = \"night\"\nuri = \"{BARS}\"\nexpect_for_s = 2\n{more}\n")
}

/// The expectation records: kind, expected, on air, reason.
fn found(jsonl: &Path) -> Vec<Value> {
    let of_kind = records(jsonl).into_iter().filter(|record| record["type"] == "expectation");
    of_kind.map(|r| json!([r["kind"], r["expected"], r["on_air"], r["reason"]])).collect()
}

fn began(expected: &[&str]) -> Value {
    json!(["unexpected-began", expected, "no-programme", null])
}

fn changed(expected: &[&str]) -> Value {
    json!(["unexpected-ended", expected, "no-programme", "changed"])
}

#[test]
fn something_unexpected_is_reported_and_a_reload_changes_what_is_expected() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.path().join("out.jsonl");
    let day = fixtures.write("day.csv", b"start,end,expect\n2000-01-01T00:00:00Z,2100-01-01T00:00:00Z,soccer\n");
    let scheduled = stream(&format!("schedule = \"{}\"", day.display()));
    let path = fixtures.write("touchline.toml", stream("expect = [\"tennis\"]").as_bytes());
    let state = fixtures.path().join("state.db");
    let program = Program::start(&[
        "--config",
        path.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
    ]);
    let expectation = || ask(&program.address, "GET", "/api/v1/streams/night", None, &[]).body["expectation"].clone();
    let gauge = || {
        let metrics = send(&program.address, "GET", "/metrics", "", &[]).unwrap().text;
        metrics.contains("touchline_stream_unexpected{stream=\"night\"} 1\n")
    };
    let mut expected = vec![began(&["tennis"])];
    until("something unexpected", || found(&jsonl) == expected);
    until("the metric", gauge);
    let shown = expectation();
    assert_eq!((&shown["expected"], &shown["unexpected"]["on_air"]), (&json!(["tennis"]), &"no-programme".into()));
    let overview = ask(&program.address, "GET", "/api/v1/overview", None, &[]).body;
    assert_eq!(overview["streams"][0]["expectation"]["expected"], json!(["tennis"]));

    let last_reload = || ask(&program.address, "GET", "/api/v1/config", None, &[]).body["reloads"]["last"].clone();
    let reload = |text: &str| {
        let before = last_reload();
        std::fs::write(&path, text).unwrap();
        program.signal("HUP");
        until("a reload", || last_reload() != before);
        last_reload()
    };
    let outcome = reload(&stream("expect = [\"no-programme\"]"));
    assert_eq!(outcome["changes"]["changed"], json!(["night"]), "{outcome}");
    expected.push(changed(&["tennis"]));
    until("its end", || found(&jsonl) == expected && !gauge());
    assert_eq!(expectation(), json!({ "expected": ["no-programme"], "unexpected": null }));

    assert_eq!(reload(&scheduled)["outcome"], "applied");
    expected.push(began(&["soccer"]));
    until("something else than the schedule", || found(&jsonl) == expected);
    let settings = ask(&program.address, "GET", "/api/v1/streams/night", None, &[]).body["settings"].clone();
    let of_settings = (&settings["expect"], &settings["expect_for_s"], &settings["schedule"]);
    assert_eq!(of_settings, (&json!([]), &json!(2), &"day.csv".into()));
    // Only the schedule changes. A mistake in it keeps what is in force.
    for (line, word) in [
        (
            "2000-01-01T00:00:00Z,2100-01-01T00:00:00Z,socer",
            "day.csv:2: the pack has no class \"socer\"; did you mean soccer?",
        ),
        ("2100-01-01T00:00:00Z,2000-01-01T00:00:00Z,soccer", "day.csv:2: the end"),
    ] {
        std::fs::write(&day, format!("start,end,expect\n{line}\n")).unwrap();
        let outcome = reload(&scheduled);
        assert!(outcome["error"].as_str().is_some_and(|error| error.contains(word)), "{outcome}");
    }
    std::fs::write(&day, "start,end,expect\n2000-01-01T00:00:00Z,2000-01-02T00:00:00Z,soccer\n").unwrap();
    assert_eq!(reload(&scheduled)["changes"]["changed"], json!(["night"]));
    expected.push(changed(&["soccer"]));
    until("the end of the schedule", || found(&jsonl) == expected);
    assert_eq!(expectation(), Value::Null, "the schedule says nothing of this time");

    let [begin, end] = ["unexpected-began", "unexpected-ended"];
    until("all of them in the store", || {
        let events = ask(&program.address, "GET", "/api/v1/events?type=expectation&order=oldest", None, &[]).body;
        let kinds: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|record| &record["kind"]).collect();
        kinds == [begin, end, begin, end]
    });
    assert!(program.stop().success());
}

#[test]
fn streams_of_the_api_have_expectations_without_a_schedule() {
    let program = Program::start(&[]);
    let change =
        |method: &str, path: &str, body: Value| -> Answer { ask(&program.address, method, path, Some(&body), &[]) };
    let night = json!({ "id": "night", "uri": BARS, "expect": ["tenis"], "expect_for_s": 2 });
    let refused = change("POST", "/api/v1/streams", night);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.text.contains("did you mean tennis?"), "{refused:?}");
    let night = json!({ "id": "night", "uri": BARS, "expect": ["tennis"], "expect_for_s": 2 });
    assert_eq!(change("POST", "/api/v1/streams", night).status, 201);
    let unexpected = || {
        let stream = ask(&program.address, "GET", "/api/v1/streams/night", None, &[]).body;
        (stream["expectation"]["expected"].clone(), stream["expectation"]["unexpected"].is_object())
    };
    until("something unexpected", || unexpected() == (json!(["tennis"]), true));
    for (patch, status) in [
        (json!({ "expect": ["soccer", "tenis"] }), 422),
        (json!({ "schedule": "/etc/passwd" }), 422),
        (json!({ "expect_for_s": 0 }), 422),
        (json!({ "expect": ["no-programme", "unknown"] }), 200),
    ] {
        let answer = change("PATCH", "/api/v1/streams/night", patch);
        assert_eq!(answer.status, status, "{answer:?}");
    }
    until("its end", || unexpected() == (json!(["unknown", "no-programme"]), false));
    assert_eq!(change("PATCH", "/api/v1/streams/night", json!({ "expect": null })).status, 200);
    until("no expectation", || unexpected() == (Value::Null, false));
    assert!(program.stop().success());
}

#[test]
fn a_file_gives_the_same_records_each_time() {
    let fixtures = Fixtures::new();
    let run = |n: u32, uri: &str, expect: &str| {
        let jsonl = fixtures.path().join(format!("{n}.jsonl"));
        let mut program = touchline();
        program.args(["run", "--quiet", "--listen", "off", "--expect", expect, "--expect-for-s", "3", "--jsonl"]);
        let output = finish(program.arg(&jsonl).arg(uri));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let of_kind = records(&jsonl).into_iter().filter(|record| record["type"] == "expectation");
        of_kind.collect::<Vec<_>>()
    };
    let bars = format!("{BARS}&seconds=9");
    let first = run(1, &bars, "tennis,soccer");
    assert_eq!(first, run(2, &bars, "tennis,soccer"));
    let kinds: Vec<[&Value; 2]> = first.iter().map(|record| [&record["kind"], &record["reason"]]).collect();
    let [began, ended] = ["unexpected-began", "unexpected-ended"].map(Value::from);
    assert_eq!(kinds, [[&began, &Value::Null], [&ended, &"ended".into()]], "{first:?}");
    assert_eq!((&first[0]["seconds"], &first[0]["wall"]), (&json!(3), &Value::Null), "{first:?}");
    assert_eq!(run(3, &bars, "no-programme"), Vec::<Value>::new());

    // A class on air, where there are recordings.
    let Some(data) = data() else { return };
    let tennis = std::fs::read_dir(data.join("clips/tennis")).unwrap().map(|entry| entry.unwrap().path());
    let mut clips: Vec<_> = tennis.collect();
    clips.sort();
    let mut found = clips.iter().zip(10..).map(|(clip, n)| (run(n, clip.to_str().unwrap(), "soccer"), n, clip));
    let is_tennis = |records: &[Value]| records.first().is_some_and(|record| record["on_air"] == "tennis");
    let (_, n, clip) =
        found.find(|(records, ..)| is_tennis(records)).expect("the pack finds tennis in one of the clips");
    assert_eq!(run(n + 100, clip.to_str().unwrap(), "tennis"), Vec::<Value>::new(), "tennis is expected");
}

#[test]
fn invalid_expectations_stop_the_start_with_place_and_remedy() {
    let fixtures = Fixtures::new();
    let day = fixtures.write("day.csv", b"start,end,expect\n2000-01-01T00:00:00Z,2100-01-01T00:00:00Z,socer\n");
    let local = fixtures.write("local.csv", b"start,end,expect\n2000-01-01T00:00,2100-01-01T00:00,soccer\n");
    let (day, local) = (day.display().to_string(), local.display().to_string());
    let of_file = fixtures.write("a.toml", stream(&format!("schedule = \"{day}\"")).as_bytes());
    let of_file = of_file.display().to_string();
    for (arguments, words) in [
        (vec!["--expect", "tenis", BARS], ["--expect: the pack has no class \"tenis\"", "did you mean tennis?"]),
        (vec!["--schedule", &day, BARS], ["--schedule: ", "day.csv:2: the pack has no class \"socer\""]),
        (vec!["--config", &of_file], ["a.toml:5: schedule: ", "day.csv:2: the pack has no class"]),
        (vec!["--schedule", &local, BARS], ["local.csv:2: 2000-01-01T00:00 is a local time", "set time_zone"]),
        (
            vec!["--schedule", "missing.ics", BARS],
            ["--schedule: missing.ics: cannot read the schedule", "check the path"],
        ),
        (vec!["--expect-for-s", "0", BARS], ["--expect-for-s", "1 to 86400"]),
    ] {
        let output = finish(touchline().args(["run", "--listen", "off", "--quiet"]).args(&arguments));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
    let zoned =
        finish(touchline().args(["config", "show", "--time-zone", "Europe/Berlin", "--schedule", &local, BARS]));
    assert!(zoned.status.success() && String::from_utf8_lossy(&zoned.stdout).contains("local.csv"), "{zoned:?}");
}
