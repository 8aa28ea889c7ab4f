//! The API's contract: every route is in the OpenAPI document, and every answer matches it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Fixtures, OWN_SOURCES, Program, TEST};
use crate::common::api::{Answer, ask, send};
use crate::common::wait::{until, until_some};

/// The OpenAPI document, and the answers compared with it.
struct Contract {
    document: Value,
    /// Path, method and status of every answer that was checked.
    checked: BTreeSet<(String, String, u16)>,
    address: String,
}

impl Contract {
    fn of(address: &str) -> Self {
        let document = ask(address, "GET", "/api/v1/openapi.json", None, &[]).body;
        Self { document, checked: BTreeSet::new(), address: address.to_owned() }
    }

    /// Sends a request and checks the answer against the document.
    fn ask(&mut self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_with(method, path, body.as_ref(), &[])
    }

    fn ask_with(&mut self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        let answer = ask(&self.address, method, path, body, headers);
        self.check(method, path, &answer);
        answer
    }

    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let (template, operation) = self.operation(method, path);
        let status = answer.status.to_string();
        let response = self.resolve(&operation["responses"][&status]);
        assert!(response.is_object(), "{method} {path}: {status} is not documented: {answer:?}");
        for header in response["headers"].as_object().into_iter().flat_map(|h| h.keys()) {
            let value = match header.as_str() {
                "ETag" => &answer.etag,
                "Location" => &answer.location,
                _ => continue,
            };
            assert!(value.is_some(), "{method} {path}: no {header}");
        }
        let kind = answer.kind.split(';').next().unwrap_or_default();
        match response["content"].as_object() {
            None => assert!(answer.text.is_empty() || kind != "application/json", "{method} {path}: {answer:?}"),
            Some(content) => {
                let schema = &content
                    .get(kind)
                    .unwrap_or_else(|| panic!("{method} {path}: {kind} is not in {content:?}"))["schema"];
                if !answer.body.is_null() {
                    assert_matches(&self.document, schema, &answer.body, &format!("{method} {path} {status}"));
                }
            }
        }
        self.checked.insert((template, method.to_lowercase(), answer.status));
    }

    /// The target of a `$ref`, or `value` itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.map_or(value, |pointer| self.document.pointer(pointer).expect("the target is in the document"))
    }

    fn operation(&self, method: &str, path: &str) -> (String, Value) {
        let path = path.split('?').next().unwrap();
        let paths = self.document["paths"].as_object().unwrap();
        let matches = |template: &str| {
            let (a, b): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || a.starts_with('{'))
        };
        // A literal path takes precedence over a template.
        let found = paths.keys().find(|t| *t == path).or_else(|| paths.keys().find(|t| matches(t)));
        let template = found.unwrap_or_else(|| panic!("{path} is not documented"));
        let operation = paths[template][method.to_lowercase()].clone();
        assert!(operation.is_object(), "{method} {path} is not documented");
        (template.clone(), operation)
    }
}

/// Panics unless `value` matches `schema`, a part of `document`.
fn assert_matches(document: &Value, schema: &Value, value: &Value, context: &str) {
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    let validator = jsonschema::validator_for(&whole).unwrap_or_else(|e| panic!("{context}: {e}"));
    let errors: Vec<String> = validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{context}: {errors:#?} in {value}");
}

/// Panics unless `record` matches the schema of the records.
fn assert_record(schema: &Value, record: &Value) {
    static VALIDATOR: OnceLock<jsonschema::Validator> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| jsonschema::validator_for(schema).expect("a schema"));
    let errors: Vec<String> = validator.iter_errors(record).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?} in {record}");
}

#[test]
fn every_answer_matches_the_document() {
    let fixtures = Fixtures::new();
    let config = fixtures
        .write("touchline.toml", format!("{OWN_SOURCES}[[stream]]\nid = \"fixed\"\nuri = \"{TEST}\"\n").as_bytes());
    let jsonl = fixtures.path().join("out.jsonl");
    let state = fixtures.path().join("state.db");
    let teach = fixtures.path().join("corrections");
    let program = Program::start(&[
        "--config",
        config.to_str().unwrap(),
        "--jsonl",
        jsonl.to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
        "--max-streams",
        "4",
        "--teach-dir",
        teach.to_str().unwrap(),
        "own=testsrc://?width=64&height=48&fps=10",
    ]);
    let mut api = Contract::of(&program.address);
    for path in
        ["/", "/history", "/teach", "/assets/wall.js", "/assets/none", "/api/v1/info", "/api/v1/pack", "/api/v1/schema"]
    {
        api.ask("GET", path, None);
    }
    for path in [
        "/api/v1/openapi.json",
        "/api/v1/config",
        "/api/v1/sinks",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/streams",
        "/api/v1/overview",
        "/api/v1/overview?stream=own,fixed&group=none",
    ] {
        assert_eq!(api.ask("GET", path, None).status, 200, "{path}");
    }
    assert_eq!(api.ask("POST", "/api/v1/pack", Some(json!({ "path": "no-such-pack" }))).status, 422);
    until("a second in the store", || {
        send(&program.address, "GET", "/api/v1/streams/own/export?format=csv", "", &[]).is_some_and(|a| a.status == 200)
    });
    for (query, status) in [
        ("own/export?format=csv", 200),
        ("own/export?format=html", 200),
        ("own/export?format=webvtt&all=true", 200),
        ("own/export?format=daterange&all=true&began=2026-03-29T14:00:00Z", 200),
        ("own/export?format=otio&all=true&media=https://tv.example/a.mp4", 200),
        ("own/export?format=edl&all=true&rate=29.97df&offset=01:00:00;00&cut=true", 200),
        ("own/export?format=csv&from=99:00:00", 404),
        ("none/export?format=csv", 404),
        ("own/export", 400),
        ("own/export?format=csv&colour=red", 400),
        ("own/export?format=csv&cut=perhaps", 400),
        ("own/export?format=aaf", 422),
        ("own/export?format=csv&cut=true", 422),
        ("own/export?format=csv&rate=26", 422),
        ("own/export?format=csv&from=yesterday", 422),
        ("own/export?format=csv&time=timecode", 422),
        ("own/export?format=csv&media=/etc/passwd", 422),
    ] {
        assert_eq!(api.ask("GET", &format!("/api/v1/streams/{query}"), None).status, status, "{query}");
    }
    for (query, status) in [
        ("segments", 200),
        ("segments?stream=own&content=class,unknown&order=newest&limit=1", 200),
        ("segments?format=csv&from=2026-03-29T14:00:00Z", 200),
        ("segments?colour=red", 400),
        ("segments?content=sport", 422),
        ("segments?limit=0", 422),
        ("segments?after=x", 422),
        ("segments?order=random", 422),
        ("events", 200),
        ("events?type=state,incident&group=none", 200),
        ("events?type=state&format=csv", 200),
        ("events?type=second", 422),
        ("events?limit=many", 400),
        ("events?from=2026-03-29T14:00:00Z&to=2026-03-29T13:00:00Z", 422),
        ("history?stream=own", 200),
        ("history?stream=own&step=10&format=csv", 200),
        ("history?stream=none", 404),
        ("history", 400),
        ("history?stream=own&step=0", 422),
        ("history?stream=own&from=2026-01-01T00:00:00Z", 422),
        ("summary", 200),
        ("summary?zone=Europe/London&stream=own&format=csv", 200),
        ("summary?zone=Atlantis", 422),
        ("summary?days=3", 400),
        ("summary?from=2000-01-01T00:00:00Z", 422),
    ] {
        assert_eq!(api.ask("GET", &format!("/api/v1/{query}"), None).status, status, "{query}");
    }

    corrections_match(&mut api);

    let new = json!({ "id": "guest", "uri": "testsrc://?width=64&height=48&fps=10", "label": "Court 1", "latency_ms": 100,
        "rtsp_transport": "tcp", "retry": false, "vote": { "window": 3, "onset": 0.05, "offset": 0.0 } });
    let added = api.ask("POST", "/api/v1/streams", Some(new.clone()));
    assert_eq!((added.status, added.location.as_deref()), (201, Some("/api/v1/streams/guest")));
    let settings = &added.body["settings"];
    assert_eq!(
        (&settings["label"], &settings["origin"], &settings["retry"]),
        (&json!("Court 1"), &json!("api"), &json!(false))
    );
    assert_eq!(settings["vote"], json!({ "window": 3, "stride": 1, "onset": 0.05, "offset": 0.0 }));
    let secret = json!({ "id": "secret", "uri": "rtsp://ann:geheim-api-9@127.0.0.1:1/live?token=geheim-api-10" });
    let hidden = api.ask("POST", "/api/v1/streams", Some(secret.clone()));
    assert_eq!((hidden.status, &hidden.body["uri"]), (201, &json!("rtsp://***@127.0.0.1:1/live?***")));
    let metadata = json!({ "uri": "http://169.254.169.254/latest/live.m3u8" });
    let refused = api.ask("POST", "/api/v1/streams", Some(metadata.clone()));
    assert_eq!((refused.status, refused.text.contains("allow_addresses")), (403, true), "{}", refused.text);
    assert_eq!(api.ask("PATCH", "/api/v1/streams/guest", Some(metadata)).status, 403);
    let full = api.ask("POST", "/api/v1/streams", Some(json!({ "uri": TEST })));
    assert!(full.status == 409 && full.body["advice"].as_str().unwrap().contains("--max-streams"), "{full:?}");

    let tested = api.ask("POST", "/api/v1/probe", Some(json!({ "uri": "testsrc://?width=64&height=48&fps=10" })));
    assert_eq!((tested.status, &tested.body["reachable"]), (200, &json!(true)), "{}", tested.text);
    let silent = api.ask("POST", "/api/v1/probe", Some(secret.clone()));
    assert_eq!(
        (silent.status, &silent.body["failure"]["kind"]),
        (200, &json!("connection-refused")),
        "{}",
        silent.text
    );

    // Invalid bodies, each with a word of the expected error.
    for (body, status, word) in [
        (json!({ "uri": TEST, "id": "guest" }), 409, "stream limit"),
        (json!({ "uri": TEST, "colour": "red" }), 422, "colour"),
        (json!({ "uri": TEST, "vote": { "windwo": 3 } }), 422, "windwo"),
        (json!({ "id": "x" }), 422, "uri"),
        (json!({ "uri": "gopher://h/x" }), 403, "gopher"),
    ] {
        let answer = api.ask("POST", "/api/v1/streams", Some(body));
        assert!(answer.status == status && answer.text.contains(word), "{answer:?}");
    }
    for (body, status, word) in
        [(json!({ "uri": TEST, "colour": "red" }), 422, "colour"), (json!({ "uri": "gopher://h/x" }), 403, "gopher")]
    {
        let answer = api.ask("POST", "/api/v1/probe", Some(body));
        assert!(answer.status == status && answer.text.contains(word), "{answer:?}");
    }
    for (body, status, word) in [
        (json!({ "uri": "gopher://h/x" }), 403, "gopher"),
        (json!({ "uri": "/etc/passwd" }), 403, "file"),
        (json!({ "uri": "" }), 422, "uri"),
        (json!({ "latency_ms": -1 }), 422, "-1"),
        (json!({ "latency_ms": 60001 }), 422, "latency_ms"),
        (json!({ "vote": { "stride": 9 } }), 422, "stride"),
        (json!({ "vote": { "onset": 1.5 } }), 422, "onset"),
        (json!({ "label": "" }), 422, "label"),
        (json!({ "id": "other" }), 422, "id"),
    ] {
        let answer = api.ask("PATCH", "/api/v1/streams/guest", Some(body.clone()));
        assert!(answer.status == status && answer.text.contains(word), "{body}: {answer:?}");
    }
    let raw = |method: &str, path: &str, body: &str, headers: &[(&str, &str)]| {
        send(&program.address, method, path, body, headers).expect("the server answers")
    };
    let json_kind = ("content-type", "application/json");
    for (method, path) in [("POST", "/api/v1/streams"), ("PATCH", "/api/v1/streams/guest"), ("POST", "/api/v1/probe")] {
        for (answer, status) in [
            (raw(method, path, "{\"uri\":", &[json_kind]), 400),
            (raw(method, path, "uri=x", &[("content-type", "application/x-www-form-urlencoded")]), 415),
            (raw(method, path, &format!("{{\"uri\":\"{}\"}}", "x".repeat(5000)), &[json_kind]), 413),
            (raw(method, path, "{}", &[json_kind, ("origin", "https://evil.example")]), 403),
        ] {
            assert_eq!(answer.status, status, "{method} {answer:?}");
            api.check(method, path, &answer);
        }
    }
    let foreign = raw("DELETE", "/api/v1/streams/guest", "", &[("sec-fetch-site", "cross-site")]);
    assert_eq!(foreign.status, 403);
    api.check("DELETE", "/api/v1/streams/guest", &foreign);

    for (id, status) in [("fixed", 409), ("own", 409), ("none", 404)] {
        let path = format!("/api/v1/streams/{id}");
        assert_eq!(api.ask("PATCH", &path, Some(json!({ "label": "x" }))).status, status, "{id}");
        assert_eq!(api.ask("DELETE", &path, None).status, status, "{id}");
    }

    let read = api.ask("GET", "/api/v1/streams/guest", None);
    let tag = read.etag.clone().unwrap();
    let changed =
        api.ask_with("PATCH", "/api/v1/streams/guest", Some(&json!({ "label": null })), &[("if-match", &tag)]);
    assert!(changed.status == 200 && changed.body["settings"]["label"].is_null(), "{changed:?}");
    assert_ne!(changed.etag.as_ref(), Some(&tag));
    let stale = api.ask_with("PATCH", "/api/v1/streams/guest", Some(&json!({ "label": "x" })), &[("if-match", &tag)]);
    assert_eq!(stale.status, 412, "the tag is stale after another operator's change");
    assert_eq!(api.ask_with("DELETE", "/api/v1/streams/guest", None, &[("if-match", &tag)]).status, 412);

    // The records and the history match their schema.
    super::until("an event of the guest", || {
        let detail = ask(&program.address, "GET", "/api/v1/streams/guest", None, &[]).body;
        !detail["events"].as_array().unwrap().is_empty()
    });
    let detail = api.ask("GET", "/api/v1/streams/guest", None).body;
    let schema = ask(&program.address, "GET", "/api/v1/schema", None, &[]);
    let schema: Value = serde_json::from_str(&schema.text).unwrap();
    assert_record(&schema, &detail["last"]);
    detail["events"].as_array().unwrap().iter().for_each(|event| assert_record(&schema, event));

    let overview = api.ask("GET", "/api/v1/overview?stream=guest", None).body;
    assert_eq!(overview["streams"][0]["estimate"]["stream"], "guest");
    assert!(!overview["streams"][0]["spans"].as_array().unwrap().is_empty(), "{overview}");
    assert_eq!(api.ask("GET", "/api/v1/overview?stream=none", None).status, 404);
    assert_eq!(api.ask("GET", "/api/v1/live?type=none", None).status, 400);
    assert_eq!(api.ask("GET", "/api/v1/live?stream=none", None).status, 404);
    assert_eq!(api.ask("GET", "/api/v1/preview?stream=none", None).status, 204);

    let paused = api.ask("PATCH", "/api/v1/streams/guest", Some(json!({ "enabled": false })));
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")));
    assert_eq!(api.ask("DELETE", "/api/v1/streams/guest", None).status, 204);
    assert_eq!(api.ask("GET", "/api/v1/streams/guest", None).status, 404);
    assert_eq!(api.ask("GET", "/api/v1/streams/guest/live", None).status, 404);
    assert_eq!(api.ask("GET", "/api/v1/streams/guest/preview", None).status, 404);
    assert_eq!(api.ask("GET", "/api/v1/streams/secret/preview?single=1", None).status, 503);
    let all = [api.ask("GET", "/api/v1/streams", None).text, api.ask("GET", "/metrics", None).text].concat();
    assert!(!all.contains("geheim-api"), "{all}");
    assert_eq!(api.ask("DELETE", "/api/v1/streams/secret", None).status, 204);
    let answers: BTreeMap<_, Vec<u16>> = api.checked.iter().fold(BTreeMap::new(), |mut all, (path, method, status)| {
        all.entry((path.clone(), method.clone())).or_insert_with(Vec::new).push(*status);
        all
    });
    println!("answers checked against the document: {answers:#?}");
    assert!(program.stop().success());
    for record in super::records(&jsonl) {
        assert_record(&schema, &record);
        assert!(!record.to_string().contains("geheim-api"), "{record}");
    }
}

/// Compares the answers about corrections with the document.
fn corrections_match(api: &mut Contract) {
    let held = until_some("a second in memory", || {
        let found = send(&api.address, "GET", "/api/v1/suggestions?limit=1", "", &[])?;
        found.body["suggestions"].as_array()?.first().cloned()
    });
    let second = format!("/api/v1/streams/own/seconds/{}/{}", held["run"], held["index"]);
    let body = |answer: Value| {
        let mut body = json!({ "run": held["run"], "from": held["index"] });
        body.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        Some(body)
    };
    for (path, status) in [
        ("/api/v1/suggestions", 200),
        ("/api/v1/suggestions?limit=0", 422),
        ("/api/v1/suggestions?limit=many", 400),
        (&*second, 200),
        ("/api/v1/streams/own/seconds/99/0", 404),
        ("/api/v1/streams/own/seconds/first/0", 400),
        ("/api/v1/streams/own/seconds/99/0/picture", 404),
        ("/api/v1/corrections", 200),
        ("/api/v1/corrections?limit=1001", 422),
        ("/api/v1/learn", 200),
    ] {
        assert_eq!(api.ask("GET", path, None).status, status, "{path}");
    }
    let path = "/api/v1/streams/own/corrections";
    assert_eq!(api.ask("POST", "/api/v1/learn", None).status, 422, "there is nothing to learn from");
    let made = api.ask("POST", path, body(json!({ "class": "soccer" })));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(api.ask("POST", path, body(json!({ "answer": "unsure" }))).status, 201);
    assert_eq!(api.ask("POST", path, body(json!({ "class": "no-such-class" }))).status, 422);
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!(
        api.ask("GET", "/api/v1/corrections?limit=1", None).body["total"],
        1,
        "the newer answer replaces the older"
    );
    assert_eq!(api.ask("DELETE", &format!("/api/v1/corrections/{id}"), None).status, 204);
    assert_eq!(api.ask("DELETE", &format!("/api/v1/corrections/{id}"), None).status, 404);
    assert_eq!(api.ask("POST", "/api/v1/learn/swap", None).status, 422);
    assert_eq!(api.ask("POST", "/api/v1/learn/rollback", None).status, 422);
    assert_eq!(api.ask("DELETE", "/api/v1/learn", None).status, 204);
}

#[test]
fn the_document_has_every_route_and_every_method() {
    let program = Program::start(&[]);
    let document = ask(&program.address, "GET", "/api/v1/openapi.json", None, &[]).body;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 14, "{paths:?}");
    // The document lists the routes added with `routes`. No route may be added without it.
    let source = include_str!("../../../src/serve/http/mod.rs");
    assert!(source.contains(".routes(") && !source.contains(".route("));
    for (path, item) in paths {
        let documented: BTreeSet<String> =
            item.as_object().unwrap().keys().filter(|k| *k != "parameters").map(|k| k.to_uppercase()).collect();
        // The router answers an unsupported method with the list of the supported ones.
        let answer = send(
            &program.address,
            "TRACE",
            &path.replace("{id}", "x").replace("{name}", "x").replace("{run}", "0").replace("{index}", "0"),
            "",
            &[],
        )
        .unwrap();
        assert_eq!(answer.status, 405, "{path}");
        let allowed = answer.allow.unwrap();
        let allowed: BTreeSet<String> =
            allowed.split(',').map(|m| m.trim().to_owned()).filter(|m| m != "HEAD").collect();
        assert_eq!(documented, allowed, "{path}");
    }
    let ids: Vec<&str> = paths
        .values()
        .flat_map(|item| item.as_object().unwrap().iter().filter(|(k, _)| *k != "parameters"))
        .map(|(_, operation)| operation["operationId"].as_str().expect("an operation has a name"))
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let whole = json!({ "allOf": [schema], "components": document["components"] });
        jsonschema::validator_for(&whole).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(program.stop().success());
}
