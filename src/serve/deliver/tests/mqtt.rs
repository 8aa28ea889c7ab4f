use std::process::Command;

use serde_json::Value;

use super::servers::{Forwarder, Message, Subscriber, free_port, installed, mosquitto};
use super::*;
use crate::config::sink::{MqttSettings, MqttVersion};

const ANONYMOUS: &str = "allow_anonymous true";

fn mqtt(folder: &Path, port: u16, version: MqttVersion) -> SinkSettings {
    let topic = "touchline/{instance}/{stream}/{kind}".to_owned();
    let mqtt = MqttSettings { topic, version, home_assistant: true };
    let url = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
    settings(folder.to_owned(), Receiver::Mqtt { url, mqtt })
}

fn is_event(message: &Message) -> bool {
    message.topic == "touchline/watcher-1/court/event"
}

fn n(message: &Message) -> u64 {
    serde_json::from_str::<Value>(&message.payload).unwrap()["data"]["n"].as_u64().unwrap()
}

#[test]
fn a_broker_gets_records_in_order_and_keeps_states_and_the_status() {
    let Some(program) = installed("mosquitto") else { return };
    for version in [MqttVersion::V3, MqttVersion::V5] {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let _broker = mosquitto(&program, folder.path(), port, ANONYMOUS);
        let subscriber = Subscriber::start(port, None);
        let (mut sink, _hub) = open_one(mqtt(folder.path(), port, version));
        let online = subscriber.next(|message| message.topic == "touchline/watcher-1/status");
        assert_eq!(online.payload, "online", "before the first record");
        for number in 0..200 {
            sink.take(&item("court", "event", number));
        }
        sink.take(&item("court", "state", 200));
        let events: Vec<u64> = (0..200).map(|_| n(&subscriber.next(is_event))).collect();
        assert_eq!(events, (0..200).collect::<Vec<_>>());
        subscriber.next(|message| message.topic.ends_with("/state"));
        sink.finish();
        let offline = subscriber.next(|message| message.topic.ends_with("/status"));
        assert_eq!(offline.payload, "offline");
        // A client that subscribes later gets what the broker has retained.
        let late = Subscriber::start(port, None);
        let mut retained: Vec<Message> = (0..5).map(|_| late.next(|message| message.is_retained)).collect();
        retained.sort_by(|a, b| a.topic.cmp(&b.topic));
        let topics: Vec<&str> = retained.iter().map(|message| &*message.topic).collect();
        let sensor = |name: &str| format!("homeassistant/sensor/touchline_watcher-1_court_{name}/config");
        let expected = [
            &*sensor("class"),
            &sensor("programme"),
            &sensor("state"),
            "touchline/watcher-1/court/state",
            "touchline/watcher-1/status",
        ];
        assert_eq!(topics, expected);
        let class: Value = serde_json::from_str(&retained[0].payload).unwrap();
        assert_eq!(class["state_topic"], "touchline/watcher-1/court/second");
        assert_eq!(class["availability_topic"], "touchline/watcher-1/status");
        assert_eq!(retained[4].payload, "offline");
    }
}

#[test]
fn an_outage_loses_nothing_and_the_broker_publishes_the_last_will() {
    let Some(program) = installed("mosquitto") else { return };
    for version in [MqttVersion::V3, MqttVersion::V5] {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let _broker = mosquitto(&program, folder.path(), port, ANONYMOUS);
        let subscriber = Subscriber::start(port, None);
        let forwarder = Forwarder::start(0, port);
        let way = forwarder.port;
        let (mut sink, hub) = open_one(mqtt(folder.path(), way, version));
        sink.take(&item("court", "event", 0));
        assert_eq!(n(&subscriber.next(is_event)), 0);
        until("the acknowledgement", || value(&hub, WAITING) == Some(0.0));
        drop(forwarder);
        let will = |message: &Message| message.topic.ends_with("/status") && message.payload == "offline";
        subscriber.next(will);
        (1..100).for_each(|number| assert_eq!(sink.take(&item("court", "event", number)), 0));
        until("a failure", || value(&hub, "touchline_sink_failures_total{sink=\"desk\"}") > Some(0.0));
        assert_eq!(value(&hub, WAITING), Some(99.0));
        let _forwarder = Forwarder::start(way, port);
        let mut events: Vec<u64> = Vec::new();
        while events.last() != Some(&99) {
            events.push(n(&subscriber.next(is_event)));
        }
        events.dedup();
        assert_eq!(events, (1..100).collect::<Vec<_>>());
        sink.finish();
    }
}

#[test]
fn a_wrong_password_is_reported_and_the_records_wait() {
    let Some(program) = installed("mosquitto") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (port, passwords) = (free_port(), folder.path().join("passwords"));
    let made =
        Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["ann", "pl4nt-right"]).status();
    assert!(made.unwrap().success());
    let _broker = mosquitto(&program, folder.path(), port, &format!("password_file {}", passwords.display()));
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "pl4nt-wrong\n").unwrap();
    for version in [MqttVersion::V3, MqttVersion::V5] {
        let login = SinkSettings {
            user: Some("ann".into()),
            secret: Some(SecretSource::File(secret.clone())),
            ..mqtt(folder.path(), port, version)
        };
        let (mut sink, hub) = open_one(login.clone());
        sink.take(&item("court", "event", 1));
        until("the refusal", || hub.deliveries().json().contains("the broker refuses the login"));
        assert!(!hub.deliveries().json().contains("pl4nt"));
        sink.finish();
        assert!(value(&hub, WAITING) >= Some(1.0));
    }
    // The right one, read on SIGHUP.
    let right = SinkSettings {
        user: Some("ann".into()),
        secret: Some(SecretSource::File(secret.clone())),
        ..mqtt(folder.path(), port, MqttVersion::V5)
    };
    let (mut sink, hub) = open_one(right);
    until("the refusal", || hub.deliveries().json().contains("the broker refuses the login"));
    std::fs::write(&secret, "pl4nt-right\n").unwrap();
    sink.reopen();
    until("the delivery", || value(&hub, WAITING) == Some(0.0));
    sink.finish();
}
