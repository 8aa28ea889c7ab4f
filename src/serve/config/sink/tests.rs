use super::*;
use crate::config::{ConfigFile, SettingSources, Settings, resolve};

fn resolved(text: &str) -> Result<Settings, Vec<String>> {
    let sources = SettingSources { file: ConfigFile::parse(text, "t.toml"), ..SettingSources::default() };
    resolve(sources).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// A valid webhook with these lines after it.
fn webhook(lines: &str) -> String {
    format!("[[sink]]\nname = \"desk\"\nkind = \"webhook\"\nspool = \"/s\"\nurl = \"https://h.example/x\"\n{lines}\n")
}

/// A sink of `kind` with this line after it.
fn bus(kind: &str, url: &str, line: &str) -> String {
    format!("[[sink]]\nname = \"bus\"\nkind = \"{kind}\"\nspool = \"/s\"\nurl = \"{url}\"\n{line}\n")
}

#[test]
fn buses_are_read_with_their_defaults() {
    let text = bus("mqtt", "mqtts://broker.example", "user = \"ann\"")
        + &bus("nats", "nats://h:4223", "").replace("bus", "nats");
    let settings = resolved(&text).unwrap();
    let Receiver::Mqtt { mqtt, .. } = &settings.sinks[0].settings.receiver else { panic!() };
    assert_eq!((&*mqtt.topic, mqtt.version), ("touchline/{instance}/{stream}/{kind}", MqttVersion::V5));
    assert!(!mqtt.home_assistant && settings.sinks[0].settings.user.as_deref() == Some("ann"));
    let Receiver::Nats { nats, .. } = &settings.sinks[1].settings.receiver else { panic!() };
    assert_eq!((&*nats.subject, &nats.create_stream), ("touchline.{instance}.{stream}.{kind}", &None));
}

#[test]
fn sinks_are_read_with_their_defaults() {
    let text = webhook("kinds = [\"event\", \"state\"]\nstreams = [\"court-1\"]\nsecret_env = \"DESK\"")
        + "[[sink]]\nname = \"log\"\nkind = \"exec\"\nspool = \"/s\"\nspool_max_mb = 1\ntimeout_s = 3\ncommand = [\"/bin/cat\", \"-\"]\n";
    let settings = resolved(&text).unwrap();
    let [desk, log] = settings.sinks.iter().map(|sink| &sink.settings).collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(desk.kinds.as_deref(), Some(&[RecordKind::Event, RecordKind::State][..]));
    assert_eq!((desk.spool_max_bytes, desk.timeout), (256_000_000, Duration::from_secs(10)));
    assert_eq!(desk.secret, Some(SecretSource::Variable("DESK".into())));
    assert_eq!((log.spool_max_bytes, log.timeout), (1_000_000, Duration::from_secs(3)));
    assert!(log.kinds.is_none() && log.streams.is_none() && log.secret.is_none());
    assert_eq!(log.receiver, Receiver::Exec { command: vec!["/bin/cat".into(), "-".into()] });
}

#[test]
fn mistakes_are_one_line_with_place_and_advice() {
    let twice = webhook("") + &webhook("");
    for (text, line, words) in [
        (&*webhook("kinds = [\"estimate\"]"), 6, "kinds: unknown variant `estimate`, expected one of `second`, `gap`"),
        (&webhook("kinds = []"), 6, "leave the key out for all"),
        (&webhook("streams = [\"a b\"]"), 6, "use 1 to 64 letters"),
        (&webhook("spool_max_mb = 0"), 6, "choose 1 to 1000000"),
        (&webhook("command = [\"x\"]"), 6, "a sink of kind webhook does not have this key; it is for exec"),
        (&webhook("client_cert = \"c\""), 6, "give both"),
        (&webhook("secret_file = \"a\"\nsecret_env = \"b\""), 7, "remove one"),
        (&webhook("secret = \"abc\""), 6, "unknown key secret; did you mean secret_"),
        (&twice, 8, "\"desk\" is given twice; give every sink its own"),
        (
            "[[sink]]\nname = \"a\"\nkind = \"webhook\"\nspool = \"/s\"",
            1,
            "url: the sink has no address; add one as in",
        ),
        ("[[sink]]\nname = \"a\"\nkind = \"exec\"\nspool = \"/s\"", 1, "command: the sink has no program; add one"),
        ("[[sink]]\nname = \"a\"\nkind = \"fax\"\nspool = \"/s\"", 3, "kind: unknown variant `fax`, expected"),
        ("[[sink]]\nname = \"a\"\nkind = \"exec\"\ncommand = [\"x\"]", 1, "the sink has no spool; add"),
        ("[[sink]]\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]", 1, "the sink has no name; add"),
        ("[[sink]]\nname = \"jsonl\"\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]", 2, "a built-in output"),
        ("[[sink]]\nname = \"clips\"\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]", 2, "a built-in output"),
        (&bus("mqtt", "mqtt://h", "topic = \"a/#\""), 6, "no spaces and wildcards, as in touchline/{instance}"),
        (&bus("nats", "nats://h", "topic = \"a.{court}\""), 6, "use {instance}, {stream} and {kind}"),
        (&bus("nats", "nats://h", "nats_stream = \"a.b\""), 6, "use 1 to 64 letters"),
        (
            &bus("nats", "nats://h", "mqtt_version = \"5\""),
            6,
            "a sink of kind nats does not have this key; it is for mqtt",
        ),
        (&bus("mqtt", "mqtt://h", "mqtt_version = \"4\""), 6, "expected `3.1.1` or `5`"),
        (&bus("mqtt", "mqtt://h", "secret_env = \"X\""), 6, "a password needs its user"),
        (&webhook("token_file = \"a\"\ntoken_env = \"b\""), 7, "remove one"),
        (&webhook("credentials_env = \"b\""), 6, "it is for nats"),
        (&bus("nats", "nats://h", "credentials_file = \"a\"\nsecret_env = \"b\""), 6, "remove user and secret"),
        (&bus("nats", "nats://h", "token_env = \"b\""), 6, "it is for webhook"),
        (&bus("nats", "nats://h", "kafka_mechanism = \"plain\""), 6, "it is for kafka"),
        (&bus("mqtt", "nats://h", ""), 5, "unknown scheme \"nats\"; use mqtts or mqtt"),
        (&bus("mqtt", "mqtt://h/path", ""), 5, "the address has a path"),
        ("[sink]\nname = \"a\"", 1, "write [[sink]] for each sink"),
    ] {
        let found = resolved(text).err().unwrap_or_default();
        assert!(found.len() == 1 && found[0].starts_with(&format!("t.toml:{line}: ")), "{text}: {found:?}");
        assert!(found[0].contains(words), "{words}: {found:?}");
    }
}

#[test]
fn addresses_have_a_scheme_a_host_and_no_login() {
    for (url, words) in [
        ("ftp://h.example/x", "unknown scheme \"ftp\"; use https or http"),
        ("h.example/x", "not a valid address"),
        ("https://ann:pl4nt-pw@h.example/x", "contains a login"),
        ("https://h.example/x#y", "fragment"),
    ] {
        let text = format!("[[sink]]\nname = \"a\"\nkind = \"webhook\"\nspool = \"/s\"\nurl = \"{url}\"\n");
        let found = resolved(&text).unwrap_err();
        assert!(found.len() == 1 && found[0].contains(words) && !found[0].contains("pl4nt"), "{url}: {found:?}");
    }
    assert_eq!(shown_url("https://h.example:8443/services/T0/SECRET?key=x"), "https://h.example:8443/***");
    assert_eq!(shown_url("http://[::1]:80/"), "http://[::1]");
}

#[test]
fn files_that_cannot_be_read_are_found_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    for (key, path, words) in [
        ("secret_file", "/nowhere/secret".to_owned(), "cannot read the secret"),
        ("secret_file", empty.display().to_string(), "contains no secret"),
        ("ca_file", empty.display().to_string(), "give a PEM file"),
    ] {
        let settings = resolved(&webhook(&format!("{key} = \"{path}\""))).unwrap();
        let problems: Vec<String> = settings.problems_at_start().iter().map(ToString::to_string).collect();
        let is_named = |line: &String| line.starts_with(&format!("t.toml:6: {key}: ")) && line.contains(words);
        assert!(problems.len() == 1 && is_named(&problems[0]), "{problems:?}");
    }
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_program_without_kafka_says_so() {
    let found = resolved(&bus("kafka", "kafkas://h", "")).unwrap_err();
    assert!(
        found.len() == 1 && found[0].contains("t.toml:3: ") && found[0].contains("cargo feature kafka"),
        "{found:?}"
    );
}

#[cfg(feature = "kafka")]
#[test]
fn kafka_is_read_with_its_defaults_and_mistakes_are_named() {
    let settings = resolved(&bus("kafka", "kafkas://h", "")).unwrap();
    let Receiver::Kafka { url, kafka } = &settings.sinks[0].settings.receiver else { panic!() };
    assert_eq!((url.as_str(), &*kafka.topic, kafka.mechanism), ("kafkas://h", "touchline", KafkaMechanism::Plain));
    let login =
        "user = \"ann\"\nsecret_env = \"X\"\nkafka_mechanism = \"scram-sha-512\"\ntopic = \"t.{stream}.{kind}\"";
    let settings = resolved(&bus("kafka", "kafka://h:9093", login)).unwrap();
    let Receiver::Kafka { kafka, .. } = &settings.sinks[0].settings.receiver else { panic!() };
    assert_eq!((&*kafka.topic, kafka.mechanism), ("t.{stream}.{kind}", KafkaMechanism::ScramSha512));
    for (url, line, words) in [
        ("kafka://h", "topic = \"a/b\"", "Kafka allows letters, digits"),
        ("kafka://h", "topic = \"a.{court}\"", "use {instance}, {stream} and {kind}"),
        ("kafka://h", "kafka_mechanism = \"md5\"", "expected one of `plain`, `scram-sha-256`"),
        ("kafka://h", "user = \"ann\"", "the user needs its password"),
        ("kafka://h", "secret_env = \"X\"", "a password needs its user"),
        ("kafka://h", "mqtt_version = \"5\"", "it is for mqtt"),
        ("kafka://h/topic", "", "the address has a path"),
        ("mqtt://h", "", "unknown scheme \"mqtt\"; use kafkas or kafka"),
    ] {
        let found = resolved(&bus("kafka", url, line)).unwrap_err();
        assert!(found.len() == 1 && found[0].contains(words), "{url} {line}: {found:?}");
    }
}
