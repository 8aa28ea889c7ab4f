use std::process::Command;

use async_nats::jetstream;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::json;

use super::servers::{Process, free_port, installed};
use super::*;
use crate::config::sink::NatsSettings;

const TOKEN: &str = "pl4nt-token";

fn server(program: &Path, folder: &Path, port: u16) -> Process {
    server_with(program, folder, port, &["--auth", TOKEN])
}

fn server_with(program: &Path, folder: &Path, port: u16, arguments: &[&str]) -> Process {
    let store = folder.join("jetstream");
    let mut command = Command::new(program);
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(store).args(arguments);
    Process::start(&mut command, port)
}

fn nats(folder: &Path, port: u16, create_stream: Option<&str>) -> SinkSettings {
    let secret = folder.join("token");
    if !secret.exists() {
        std::fs::write(&secret, TOKEN).unwrap();
    }
    let subject = "touchline.{instance}.{stream}.{kind}".to_owned();
    let nats = NatsSettings { subject, create_stream: create_stream.map(str::to_owned), keep: None };
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

/// A token of NATS: `claims` about `subject`, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let (iss, sub) = (issuer.public_key(), subject.public_key());
    let body =
        part(&json!({ "jti": "TEST", "iat": 1_700_000_000, "iss": iss, "sub": sub, "name": "t", "nats": claims }));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(format!("{head}.{body}").as_bytes()).unwrap());
    format!("{head}.{body}.{signature}")
}

/// The configuration of a server with accounts, and the credentials of a user of one.
fn accounts() -> (String, String) {
    let [operator, system, account, user] =
        [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user()];
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "limits": limits, "type": "account", "version": 2 });
    let mut of_system = of_account.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"][key] = 0.into();
    }
    let of_user = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let of_operator = jwt(&operator, &operator, &json!({ "type": "operator", "version": 2 }));
    let config = format!(
        "operator: {of_operator}\nsystem_account: {0}\nresolver: MEMORY\nresolver_preload: {{ {0}: {1}, {2}: {3} }}\n",
        system.public_key(),
        jwt(&operator, &system, &of_system),
        account.public_key(),
        jwt(&operator, &account, &of_account),
    );
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(&account, &user, &of_user),
        user.seed().unwrap(),
    );
    (config, credentials)
}

#[test]
fn a_user_logs_in_with_credentials_or_a_seed() {
    let Some(program) = installed("nats-server") else { return };
    let user = KeyPair::new_user();
    let nkey = format!("authorization {{ users: [ {{ nkey: {} }} ] }}\n", user.public_key());
    for (config, credentials) in [(nkey, user.seed().unwrap()), accounts()] {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let [config_file, file] = ["nats.conf", "login"].map(|name| folder.path().join(name));
        std::fs::write(&config_file, config).unwrap();
        std::fs::write(&file, &credentials).unwrap();
        let _server = server_with(&program, folder.path(), port, &["-c", config_file.to_str().unwrap()]);
        let with = |file: PathBuf| SinkSettings {
            secret: None,
            credentials: Some(SecretSource::File(file)),
            ..nats(folder.path(), port, Some("TOUCHLINE"))
        };
        let (mut sink, hub) = open_one(with(file));
        sink.take(&item("court", "event", 0));
        until("the acknowledgement", || value(&hub, WAITING) == Some(0.0));
        assert_eq!(value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}"), Some(1.0));
        sink.finish();
        drop(sink);
        let other = folder.path().join("other");
        std::fs::write(&other, KeyPair::new_user().seed().unwrap()).unwrap();
        let (mut sink, hub) = open_one(with(other.clone()));
        sink.take(&item("court", "event", 1));
        until("the refusal", || hub.deliveries().json().contains("the server refuses the login"));
        sink.finish();
        drop(sink);
        std::fs::write(&other, "SUpl4nt").unwrap();
        let error = open(vec![with(other)], None, &hub).err().unwrap().to_string();
        assert!(error.contains("nor the seed of an nkey; give a .creds file") && !error.contains("pl4nt"), "{error}");
    }
}
