use std::process::Command;

use async_nats::jetstream;

use super::servers::{Process, free_port, installed};
use super::*;
use crate::config::sink::NatsSettings;

const TOKEN: &str = "pl4nt-token";

fn server(program: &Path, folder: &Path, port: u16) -> Process {
    let store = folder.join("jetstream");
    let mut command = Command::new(program);
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "--auth", TOKEN, "-sd"]).arg(store);
    Process::start(&mut command, port)
}

fn nats(folder: &Path, port: u16, create_stream: Option<&str>) -> SinkSettings {
    let secret = folder.join("token");
    if !secret.exists() {
        std::fs::write(&secret, TOKEN).unwrap();
    }
    let subject = "touchline.{instance}.{stream}.{kind}".to_owned();
    let nats = NatsSettings { subject, create_stream: create_stream.map(str::to_owned) };
    let url = format!("nats://127.0.0.1:{port}").parse().unwrap();
    let secret = Some(SecretSource::File(secret));
    SinkSettings {
        secret,
        timeout: Duration::from_secs(10),
        ..settings(folder.to_owned(), Receiver::Nats { url, nats })
    }
}

/// The subject, the message id and the number of each message of a stream.
fn stored(port: u16, stream: &str) -> Vec<(String, String, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = async_nats::ConnectOptions::with_token(TOKEN.to_owned());
        let client = options.connect(format!("127.0.0.1:{port}")).await.unwrap();
        let mut stream = jetstream::new(client).get_stream(stream).await.unwrap();
        let count = stream.info().await.unwrap().state.messages;
        let mut found = Vec::new();
        for number in 1..=count {
            let message = stream.get_raw_message(number).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
            assert_eq!(body["id"], id);
            found.push((message.subject.to_string(), id, body["data"]["n"].as_u64().unwrap()));
        }
        found
    })
}

#[test]
fn jetstream_keeps_records_in_order_and_once_over_an_outage() {
    let Some(program) = installed("nats-server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let first = server(&program, folder.path(), port);
    let (mut sink, hub) = open_one(nats(folder.path(), port, Some("TOUCHLINE")));
    (0..100).for_each(|n| assert_eq!(sink.take(&item("court.1", "event", n)), 0));
    until("the acknowledgements", || value(&hub, WAITING) == Some(0.0));
    // Killed.
    drop(first);
    (100..200).for_each(|n| assert_eq!(sink.take(&item("court.1", "event", n)), 0));
    until("a failure", || value(&hub, "touchline_sink_failures_total{sink=\"desk\"}") > Some(0.0));
    assert_eq!(value(&hub, WAITING), Some(100.0));
    let _second = server(&program, folder.path(), port);
    until("the acknowledgements", || value(&hub, WAITING) == Some(0.0));
    let stored = stored(port, "TOUCHLINE");
    assert_eq!(stored.iter().map(|(_, _, n)| *n).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    assert!(stored.iter().all(|(subject, ..)| subject == "touchline.watcher-1.court_1.event"), "{stored:?}");
    assert_eq!(value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}"), Some(200.0));
    sink.finish();
}

#[test]
fn a_missing_stream_and_a_wrong_token_are_reported_and_the_records_wait() {
    let Some(program) = installed("nats-server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = server(&program, folder.path(), port);
    let (mut sink, hub) = open_one(nats(folder.path(), port, None));
    sink.take(&item("court", "event", 0));
    until("the failure", || hub.deliveries().json().contains("no JetStream stream keeps the subject"));
    sink.finish();
    drop(sink);
    std::fs::write(folder.path().join("token"), "pl4nt-wrong").unwrap();
    let (mut sink, hub) = open_one(nats(folder.path(), port, Some("TOUCHLINE")));
    until("the refusal", || hub.deliveries().json().contains("the server refuses the login"));
    assert!(!hub.deliveries().json().contains("pl4nt"));
    assert_eq!(value(&hub, WAITING), Some(1.0));
    sink.finish();
}
