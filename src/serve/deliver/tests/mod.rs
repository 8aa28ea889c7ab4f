#[cfg(feature = "kafka")]
mod kafka;
mod mqtt;
mod nats;
pub(crate) mod servers;
mod stalled;
mod tls;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::{Receiver as Messages, Sender, unbounded};
use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::config::sink::{ClientTls, Receiver};
use crate::config::{SecretSource, SinkSettings};
use crate::record::OutputRecord;
use crate::sink::ItemContent;
use crate::testing;
use crate::wait::until;
use touchline_core::clock::SystemClock;

/// Far longer than anything here takes: a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// The metric of the records in the spool.
const WAITING: &str = "touchline_sink_waiting_records{sink=\"desk\"}";

const KEY: &str = "a-key-of-more-than-24-bytes";

/// A request that a receiver got.
#[derive(Clone, Debug)]
struct Received {
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Received {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }

    fn n(&self) -> u64 {
        self.body["data"]["n"].as_u64().unwrap()
    }
}

/// An HTTP server. It answers with the next of `answers`, and then with 204.
struct WebServer {
    url: url::Url,
    received: Messages<Received>,
    _runtime: tokio::runtime::Runtime,
}

impl WebServer {
    fn start(answers: &[(u16, Option<&str>)]) -> Self {
        Self::serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), answers)
    }

    fn serve(listener: std::net::TcpListener, answers: &[(u16, Option<&str>)]) -> Self {
        let answers: VecDeque<_> = answers.iter().map(|(status, after)| (*status, after.map(str::to_owned))).collect();
        let answers = Arc::new(Mutex::new(answers));
        let (to, received) = unbounded();
        let handler = move |headers: HeaderMap, body: Bytes| {
            let (to, answers): (Sender<Received>, _) = (to.clone(), answers.clone());
            async move {
                let text = String::from_utf8(body.to_vec()).unwrap();
                to.send(Received { headers, body: serde_json::from_str(&text).unwrap(), text }).unwrap();
                let (status, after) = answers.lock().pop_front().unwrap_or((204, None));
                let mut headers = HeaderMap::new();
                headers.extend(after.map(|after| (axum::http::header::RETRY_AFTER, after.parse().unwrap())));
                (StatusCode::from_u16(status).unwrap(), headers)
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("http://{}/s3cret", listener.local_addr().unwrap()).parse().unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(handler)).await
        });
        Self { url, received, _runtime: runtime }
    }

    fn next(&self) -> Received {
        self.received.recv_timeout(LIMIT).expect("a request arrives")
    }
}

fn settings(spool: PathBuf, receiver: Receiver) -> SinkSettings {
    SinkSettings {
        name: "desk".into(),
        receiver,
        spool,
        spool_max_bytes: 1_000_000,
        streams: None,
        kinds: None,
        timeout: LIMIT,
        user: None,
        secret: None,
        token: None,
        credentials: None,
        tls: ClientTls::default(),
    }
}

fn item(stream: &str, kind: &str, n: u64) -> Item {
    let json = format!("{{\"type\":\"{kind}\",\"stream\":\"{stream}\",\"n\":{n}}}");
    let kind = RecordKind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap();
    let records = vec![OutputRecord { kind, json: json.into() }];
    Item { stream: stream.into(), content: ItemContent::RecordsOnly, records }
}

fn hub() -> Hub {
    testing::hub(Arc::new(SystemClock::new()))
}

fn open_one(settings: SinkSettings) -> (Box<dyn Sink>, Hub) {
    let hub = hub();
    let mut sinks = open(vec![settings], Some("watcher-1".into()), &hub).unwrap();
    (sinks.remove(0), hub)
}

fn value(hub: &Hub, metric: &str) -> Option<f64> {
    hub.metrics().encode().lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok())
}

#[test]
fn a_webhook_receives_signed_events_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = WebServer::start(&[]);
    let key = folder.path().join("key");
    std::fs::write(&key, format!("{KEY}\nwhsec_{}\n", BASE64_STANDARD.encode(KEY))).unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "pl4nt-token\n").unwrap();
    let settings = SinkSettings {
        secret: Some(SecretSource::File(key)),
        token: Some(SecretSource::File(token)),
        kinds: Some(vec![RecordKind::Event]),
        streams: Some(vec!["court".into()]),
        ..settings(folder.path().to_owned(), Receiver::Webhook { url: server.url.clone() })
    };
    let (mut sink, hub) = open_one(settings);
    assert_eq!(sink.name(), "desk");
    for n in 0..20 {
        assert_eq!(sink.take(&item("court", "event", n)), 0);
        sink.take(&item("court", "second", 100));
        sink.take(&item("other", "event", 200));
    }
    let all: Vec<Received> = (0..20).map(|_| server.next()).collect();
    assert_eq!(all.iter().map(Received::n).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    for request in &all {
        let Received { headers, body, text } = request;
        assert_eq!(headers["content-type"], "application/cloudevents+json; charset=utf-8");
        assert_eq!(headers["authorization"], "Bearer pl4nt-token");
        let stamp = headers["webhook-timestamp"].to_str().unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, KEY.as_bytes());
        let signature = ring::hmac::sign(&key, format!("{}.{stamp}.{text}", request.id()).as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(signature));
        assert_eq!(headers["webhook-signature"], format!("{signature} {signature}"), "one per key");
        assert_eq!((&body["specversion"], &body["id"]), (&"1.0".into(), &request.id().into()));
        assert_eq!(body["source"], "/touchline/watcher-1/streams/court");
        assert_eq!((&body["type"], &body["subject"]), (&"touchline.event".into(), &"court".into()));
        assert_eq!(body["data"]["type"], "event");
        assert!(body["time"].as_str().unwrap().ends_with('Z'));
    }
    let mut ids: Vec<&str> = all.iter().map(Received::id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    until("the last removal", || value(&hub, WAITING) == Some(0.0));
    assert_eq!(value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}"), Some(20.0));
    assert!(value(&hub, "touchline_sink_last_success_timestamp_seconds{sink=\"desk\"}").is_some());
    let status: Value = serde_json::from_str(&hub.deliveries().json()).unwrap();
    assert_eq!((&status["sinks"][0]["sent"], &status["sinks"][0]["last_error"]), (&20.into(), &Value::Null));
    let text = status.to_string();
    assert!(text.contains("/***") && !text.contains("s3cret"), "the path of a webhook is a secret: {text}");
    sink.finish();
}

#[test]
fn a_passing_failure_is_retried_with_the_same_id_and_keeps_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = WebServer::start(&[(503, Some("0")), (429, Some("0")), (204, None), (500, Some("0"))]);
    let (mut sink, hub) = open_one(settings(folder.path().into(), Receiver::Webhook { url: server.url.clone() }));
    (0..3).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    let all: Vec<Received> = (0..6).map(|_| server.next()).collect();
    assert_eq!(all.iter().map(Received::n).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 2]);
    assert!(all[0].id() == all[2].id() && all[2].id() != all[3].id());
    assert!(!all[0].headers.contains_key("webhook-signature"), "there is no key");
    assert!(!all[0].headers.contains_key("authorization"), "there is no token");
    assert_eq!(value(&hub, "touchline_sink_failures_total{sink=\"desk\"}"), Some(3.0));
    let status: Value = serde_json::from_str(&hub.deliveries().json()).unwrap();
    assert!(status["sinks"][0]["last_error"]["cause"].as_str().unwrap().contains("(500)"), "{status}");
    let document: Value = serde_json::from_str(&crate::http::OPENAPI).unwrap();
    let schema = serde_json::json!({ "$ref": "#/components/schemas/Sinks", "components": document["components"] });
    let errors: Vec<String> =
        jsonschema::validator_for(&schema).unwrap().iter_errors(&status).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    sink.finish();
}

#[test]
fn a_refused_record_is_put_aside_and_the_next_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let server = WebServer::start(&[(204, None), (422, None)]);
    let (mut sink, hub) = open_one(settings(folder.path().into(), Receiver::Webhook { url: server.url.clone() }));
    (0..3).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    assert_eq!([server.next(), server.next(), server.next()].map(|request| request.n()), [0, 1, 2]);
    let lost = "touchline_sink_lost_records_total{reason=\"refused\",sink=\"desk\"}";
    until("the last removal", || value(&hub, WAITING) == Some(0.0));
    assert_eq!(
        (value(&hub, lost), value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}")),
        (Some(1.0), Some(2.0))
    );
    let letters = std::fs::read_to_string(folder.path().join("desk.refused.jsonl")).unwrap();
    let letter: Value = serde_json::from_str(letters.trim_end()).unwrap();
    assert_eq!(letter["event"]["data"]["n"], 1);
    assert!(letter["cause"].as_str().unwrap().contains("(422)"), "{letter}");
    sink.finish();
}

#[test]
fn dead_letters_are_delivered_again_once_their_file_is_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let server = WebServer::start(&[(400, None), (422, None)]);
    let (mut sink, hub) = open_one(settings(folder.path().into(), Receiver::Webhook { url: server.url.clone() }));
    for n in 0..3 {
        sink.take(&item("court-1", "event", n));
    }
    let refused: Vec<(u64, String)> = (0..3).map(|_| server.next()).map(|r| (r.n(), r.id().to_owned())).collect();
    until("the refusals", || value(&hub, WAITING) == Some(0.0));
    let (letters, again) = (folder.path().join("desk.refused.jsonl"), folder.path().join("desk.again.jsonl"));
    let text = std::fs::read_to_string(&letters).unwrap();
    std::fs::write(&letters, format!("{text}no letter\n\n")).unwrap();
    std::fs::rename(&letters, &again).unwrap();
    // As on SIGHUP.
    sink.reopen();
    for n in 0..2 {
        let received = server.next();
        assert_eq!((received.n(), received.body["subject"].as_str()), (n, Some("court-1")));
        assert_eq!(received.body["type"], "touchline.event");
        assert!(refused.iter().all(|(_, id)| id != received.id()), "no id is used twice");
    }
    until("the deliveries", || value(&hub, WAITING) == Some(0.0));
    assert!(!again.exists() && !letters.exists());
    assert_eq!(value(&hub, "touchline_sink_lost_records_total{reason=\"damaged\",sink=\"desk\"}"), Some(1.0));
    sink.finish();
    drop(sink);
    // And at a start: what does not fit the spool stays in the file.
    std::fs::write(&again, text.repeat(4)).unwrap();
    let small = SinkSettings {
        spool_max_bytes: 1000,
        ..settings(folder.path().into(), Receiver::Webhook { url: server.url.clone() })
    };
    let (mut sink, _) = open_one(small);
    let left = std::fs::read_to_string(&again).unwrap().lines().count();
    assert!((1..8).contains(&left), "{left}");
    (left..8).for_each(|_| drop(server.next()));
    sink.finish();
    assert!(server.received.is_empty());
}

#[test]
fn a_stalled_receiver_delays_nothing_and_a_restart_delivers_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    // Connections wait in its queue, and nothing answers.
    let stalled = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", stalled.local_addr().unwrap()).parse().unwrap();
    let (mut sink, hub) = open_one(settings(folder.path().into(), Receiver::Webhook { url }));
    (0..500).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    assert_eq!(value(&hub, WAITING), Some(500.0));
    sink.finish();
    drop(sink);
    let server = WebServer::start(&[]);
    let (mut sink, _) = open_one(settings(folder.path().into(), Receiver::Webhook { url: server.url.clone() }));
    let all: Vec<u64> = (0..500).map(|_| server.next().n()).collect();
    assert_eq!(all, (0..500).collect::<Vec<_>>());
    sink.finish();
}

#[test]
fn an_overflow_drops_the_oldest_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:1/".parse().unwrap();
    let small = SinkSettings { spool_max_bytes: 20_000, ..settings(folder.path().into(), Receiver::Webhook { url }) };
    let (mut sink, hub) = open_one(small);
    (0..500).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    let lost = value(&hub, "touchline_sink_lost_records_total{reason=\"overflow\",sink=\"desk\"}").unwrap();
    let waiting = value(&hub, WAITING).unwrap();
    assert!(lost > 300.0 && (lost + waiting - 500.0).abs() < 0.1, "{lost} lost, {waiting} waiting");
    sink.finish();
}

/// An exec sink that runs `script` with a shell; `$1` is `folder`.
fn shell(folder: &Path, script: &str, timeout: Duration) -> SinkSettings {
    let command = ["/bin/sh", "-c", script, "hook", folder.to_str().unwrap()].map(String::from).to_vec();
    SinkSettings { timeout, ..settings(folder.to_owned(), Receiver::Exec { command }) }
}

fn exits(hub: &Hub, code: &str) -> Option<f64> {
    value(hub, &format!("touchline_sink_exec_exits_total{{code=\"{code}\",sink=\"desk\"}}"))
}

#[test]
fn a_program_gets_each_record_on_its_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let script = "cat >> $1/all; echo $TOUCHLINE_RECORD_KIND $TOUCHLINE_RECORD_STREAM >> $1/names";
    let (mut sink, hub) = open_one(shell(folder.path(), script, LIMIT));
    (0..5).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    until("five runs", || exits(&hub, "0") == Some(5.0));
    let all = std::fs::read_to_string(folder.path().join("all")).unwrap();
    let events: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().map(|e| e["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(std::fs::read_to_string(folder.path().join("names")).unwrap(), "event court\n".repeat(5));
    sink.finish();
}

#[test]
fn a_program_does_not_see_the_secrets_of_any_sink() {
    let folder = tempfile::tempdir().unwrap();
    // Variables that every test has. One is named as the secret of another sink.
    let [secret, other] = ["CARGO_MANIFEST_DIR", "PATH"];
    assert!([secret, other].iter().all(|name| std::env::var_os(name).is_some()));
    let webhook = SinkSettings {
        name: "web".into(),
        token: Some(SecretSource::Variable(secret.into())),
        ..settings(folder.path().into(), Receiver::Webhook { url: "http://127.0.0.1:1/".parse().unwrap() })
    };
    let hub = hub();
    let exec = shell(folder.path(), "env > $1/env", LIMIT);
    let mut sinks = open(vec![exec, webhook], None, &hub).unwrap();
    sinks[0].take(&item("court", "event", 0));
    until("the run", || exits(&hub, "0") == Some(1.0));
    let env = std::fs::read_to_string(folder.path().join("env")).unwrap();
    let has = |name: &str| env.lines().any(|line| line.starts_with(&format!("{name}=")));
    assert!(has(other) && !has(secret), "{env}");
    sinks.iter_mut().for_each(|sink| sink.finish());
}

#[test]
fn exit_codes_accept_refuse_or_repeat() {
    let folder = tempfile::tempdir().unwrap();
    // Record 0 fails once, record 1 is refused.
    let script = "read line; case $line in *'\"n\":0'*) mkdir $1/once || exit 0; exit 7;; \
                  *'\"n\":1'*) seq 1 100000 >&2; printf 'not the score\\n\\n' >&2; exit 65;; esac";
    let (mut sink, hub) = open_one(shell(folder.path(), script, LIMIT));
    (0..3).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    until("the end", || value(&hub, WAITING) == Some(0.0));
    assert_eq!((exits(&hub, "0"), exits(&hub, "7"), exits(&hub, "65")), (Some(2.0), Some(1.0), Some(1.0)));
    let letters = std::fs::read_to_string(folder.path().join("desk.refused.jsonl")).unwrap();
    assert!(letters.contains("\"n\":1") && letters.contains("(exit code 65): not the score\""), "{letters}");
    sink.finish();
}

#[test]
fn the_last_line_of_a_program_is_the_cause_of_its_failure() {
    let folder = tempfile::tempdir().unwrap();
    // The process that stays keeps the output open, and is not waited for.
    let script = "echo begins >&2; sleep 1000 & echo $! > $1/child; printf 'no route\\033[31m to rtsp://a:pl4nt-pw@h.example/x' >&2; exit 7";
    let (mut sink, hub) = open_one(shell(folder.path(), script, LIMIT));
    sink.take(&item("court", "event", 0));
    until("the failure", || {
        hub.deliveries().json().contains("exit code 7: no route\u{fffd}[31m to rtsp://***@h.example")
    });
    sink.finish();
    let child: i32 = std::fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
}

#[test]
fn a_program_that_does_not_end_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > $1/child; mkdir $1/once || exit 0; wait";
    let (mut sink, hub) = open_one(shell(folder.path(), script, Duration::from_secs(1)));
    sink.take(&item("court", "event", 0));
    until("the time-out", || exits(&hub, "timeout") == Some(1.0));
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    // A killed process is gone, or a zombie until its parent collects it.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    until("the end of the child", || state().is_empty() || state().contains(") Z "));
    sink.finish();
}

#[test]
fn a_program_that_does_not_exist_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (mut sink, hub) = open_one(settings(folder.path().into(), Receiver::Exec { command: vec!["/nowhere".into()] }));
    sink.take(&item("court", "event", 0));
    until("the failure", || hub.deliveries().json().contains("cannot start /nowhere"));
    sink.finish();
    assert_eq!(value(&hub, WAITING), Some(1.0));
}

#[test]
fn unusable_secrets_stop_the_start_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "pl4nt-short").unwrap();
    let url: url::Url = "https://h.example/".parse().unwrap();
    let with = |secret| SinkSettings {
        secret: Some(secret),
        ..settings(folder.path().into(), Receiver::Webhook { url: url.clone() })
    };
    for (secret, words) in [
        (SecretSource::File(key), "sink desk: the secret is shorter than 24 bytes"),
        (SecretSource::File("/nowhere/key".into()), "sink desk: /nowhere/key: cannot read the secret"),
        (SecretSource::Variable("TOUCHLINE_NO_SUCH".into()), "sink desk: the variable TOUCHLINE_NO_SUCH is not set"),
    ] {
        let error = open(vec![with(secret)], None, &hub()).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(words) && !text.contains("pl4nt") && error.exit_code() == 2, "{text}");
    }
}

#[test]
fn names_of_kinds_are_in_their_order() {
    assert_eq!(RecordKind::ALL.map(RecordKind::as_str), RecordKind::NAMES);
}
