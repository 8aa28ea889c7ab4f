//! Kafka: against the mock cluster of librdkafka, which speaks the protocol on a port of this machine.

use std::io::Read as _;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::tls::Authority;
use super::*;
use crate::config::sink::{KafkaMechanism, KafkaSettings};

pub(super) type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A cluster of one broker with the topic `touchline`.
pub(super) fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("touchline", 1, 1).unwrap();
    cluster
}

pub(super) fn receiver(address: &str, topic: &str) -> Receiver {
    let kafka = KafkaSettings { topic: topic.into(), mechanism: KafkaMechanism::Plain };
    Receiver::Kafka { url: format!("kafka://{address}").parse().unwrap(), kafka }
}

fn kafka(folder: &Path, cluster: &Cluster, topic: &str) -> SinkSettings {
    let address = cluster.bootstrap_servers();
    // Long enough for a loaded machine. After it the records are sent again.
    SinkSettings { timeout: Duration::from_secs(5), ..settings(folder.to_owned(), receiver(&address, topic)) }
}

/// A message that a consumer got.
#[derive(Debug)]
struct Consumed {
    key: String,
    id: String,
    kind: String,
    schema: String,
    body: Value,
}

impl Consumed {
    fn n(&self) -> u64 {
        self.body["data"]["n"].as_u64().unwrap()
    }
}

/// Reads a topic from its beginning.
struct Reader {
    consumer: BaseConsumer,
    messages: Vec<Consumed>,
}

impl Reader {
    /// Reads without a group: the assignment is explicit.
    fn new(cluster: &Cluster, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&place).unwrap();
        Self { consumer, messages: Vec::new() }
    }

    /// Reads until `is_done`.
    fn read_until(&mut self, what: &str, is_done: impl Fn(&[Consumed]) -> bool) {
        until(what, || {
            // An error is a connection that broke; the consumer connects again.
            while let Some(message) = self.consumer.poll(Duration::from_millis(100)) {
                let Ok(message) = message else { continue };
                let header = |name: &str| {
                    let headers = message.headers().unwrap();
                    let value = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
                    String::from_utf8(value.unwrap_or_default().to_vec()).unwrap()
                };
                let body: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
                assert_eq!(header("content-type"), "application/cloudevents+json; charset=utf-8");
                assert_eq!(body["id"], header("touchline-id"));
                self.messages.push(Consumed {
                    key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
                    id: header("touchline-id"),
                    kind: header("touchline-kind"),
                    schema: header("touchline-schema"),
                    body,
                });
            }
            is_done(&self.messages)
        });
    }

    fn numbers(&self) -> Vec<u64> {
        self.messages.iter().map(Consumed::n).collect()
    }
}

/// The numbers without repetitions, in the order in which each came first.
fn once(numbers: &[u64]) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    numbers.iter().copied().filter(|n| seen.insert(*n)).collect()
}

#[test]
fn a_topic_has_all_records_in_order_with_key_and_headers() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    // Nothing is sent twice.
    let settings = SinkSettings { timeout: LIMIT, ..kafka(folder.path(), &cluster, "touchline") };
    let (mut sink, hub) = open_one(settings);
    for n in 0..200 {
        let (stream, kind) = if n % 2 == 0 { ("court", "second") } else { ("track", "event") };
        assert_eq!(sink.take(&item(stream, kind, n)), 0);
    }
    until("the last acknowledgement", || value(&hub, WAITING) == Some(0.0));
    let mut reader = Reader::new(&cluster, "touchline");
    reader.read_until("all records", |messages| messages.len() >= 200);
    assert_eq!(reader.numbers(), (0..200).collect::<Vec<_>>());
    for message in &reader.messages {
        let (stream, kind) = if message.n() % 2 == 0 { ("court", "second") } else { ("track", "event") };
        assert_eq!((&*message.key, &*message.kind, &*message.schema), (stream, kind, "1"));
        assert_eq!(message.body["type"], format!("touchline.{kind}"));
    }
    let ids: std::collections::BTreeSet<&str> = reader.messages.iter().map(|message| &*message.id).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}"), Some(200.0));
    sink.finish();
}

#[test]
fn a_topic_may_depend_on_stream_and_kind() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    cluster.create_topic("t.watcher-1.court.event", 1, 1).unwrap();
    let (mut sink, hub) = open_one(kafka(folder.path(), &cluster, "t.{instance}.{stream}.{kind}"));
    sink.take(&item("court", "event", 7));
    until("the acknowledgement", || value(&hub, WAITING) == Some(0.0));
    let mut reader = Reader::new(&cluster, "t.watcher-1.court.event");
    reader.read_until("the record", |messages| !messages.is_empty());
    assert_eq!(reader.numbers(), [7]);
    sink.finish();
}

/// Where no broker listens. The mock cluster cannot be stopped and started again: it ends the process if its port is taken meanwhile.
const NOBODY: &str = "127.0.0.1:9";

#[test]
fn records_wait_for_a_broker_and_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let (mut sink, hub) = open_one(kafka(folder.path(), &cluster, "touchline"));
    (0..50).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    until("the first acknowledgements", || value(&hub, WAITING) == Some(0.0));
    sink.finish();
    drop(sink);
    let (mut sink, hub) = open_one(settings(folder.path().into(), receiver(NOBODY, "touchline")));
    (50..100).for_each(|n| assert_eq!(sink.take(&item("court", "event", n)), 0));
    until("the failure", || value(&hub, "touchline_sink_failures_total{sink=\"desk\"}").is_some_and(|n| n > 0.0));
    assert_eq!(value(&hub, WAITING), Some(50.0));
    assert!(hub.deliveries().json().contains("127.0.0.1: "), "{}", hub.deliveries().json());
    sink.finish();
    drop(sink);
    let (mut sink, hub) = open_one(kafka(folder.path(), &cluster, "touchline"));
    until("the last acknowledgement", || value(&hub, WAITING) == Some(0.0));
    let mut reader = Reader::new(&cluster, "touchline");
    reader.read_until("all records", |messages| messages.iter().any(|message| message.n() == 99));
    assert_eq!(once(&reader.numbers()), (0..100).collect::<Vec<_>>());
    sink.finish();
}

#[test]
fn passing_errors_of_the_broker_are_repeated_and_a_refused_record_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS],
    );
    let (mut sink, hub) = open_one(kafka(folder.path(), &cluster, "touchline"));
    sink.take(&item("court", "event", 0));
    until("the acknowledgement", || value(&hub, WAITING) == Some(0.0));
    assert_eq!(value(&hub, "touchline_sink_sent_records_total{sink=\"desk\"}"), Some(1.0));
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    sink.take(&item("court", "event", 1));
    until("the refusal", || value(&hub, WAITING) == Some(0.0));
    sink.take(&item("court", "event", 2));
    until("the next acknowledgement", || value(&hub, WAITING) == Some(0.0));
    let letters = std::fs::read_to_string(folder.path().join("desk.refused.jsonl")).unwrap();
    assert!(letters.contains("\"n\":1") && letters.lines().count() == 1, "{letters}");
    let mut reader = Reader::new(&cluster, "touchline");
    reader.read_until("the others", |messages| messages.iter().any(|message| message.n() == 2));
    assert_eq!(once(&reader.numbers()), [0, 2]);
    sink.finish();
}

#[test]
fn a_topic_that_refuses_is_named_and_its_records_wait() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let (mut sink, hub) = open_one(kafka(folder.path(), &cluster, "touchline"));
    sink.take(&item("court", "event", 0));
    until("the refusal", || hub.deliveries().json().contains("let the user write to the topic"));
    until("the delivery after it", || value(&hub, WAITING) == Some(0.0));
    assert!(!folder.path().join("desk.refused.jsonl").exists());
    sink.finish();
}

/// A server that takes TLS connections of clients with a certificate of the authority. Returns its port, and what it gets: the first
/// bytes of a client that was accepted.
fn tls_server(authority: &Authority) -> (u16, Messages<Vec<u8>>) {
    let config = authority.server();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (to, received) = unbounded();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Ok(mut connection) = rustls::ServerConnection::new(config.clone()) else { return };
            let mut first = vec![0; 64];
            let Ok(length) = rustls::Stream::new(&mut connection, &mut stream).read(&mut first) else { continue };
            if to.send(first[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    (port, received)
}

#[test]
fn certificates_of_both_sides_are_checked() {
    let authority = Authority::new();
    let (port, received) = tls_server(&authority);
    for (tls, is_accepted) in [
        (ClientTls { identity: None, ..authority.client() }, false),
        (ClientTls { ca: None, ..authority.client() }, false),
        (authority.client(), true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Receiver::Kafka { kafka, .. } = receiver("h", "touchline") else { unreachable!() };
        let url = format!("kafkas://localhost:{port}").parse().unwrap();
        let (mut sink, hub) = open_one(SinkSettings {
            tls,
            timeout: Duration::from_secs(5),
            ..settings(folder.path().into(), Receiver::Kafka { url, kafka })
        });
        sink.take(&item("court", "event", 0));
        if is_accepted {
            let first = received.recv_timeout(LIMIT).expect("the server accepts the client");
            assert!(first.len() > 8, "a request of Kafka comes through the connection: {first:?}");
        } else {
            until("the failure", || {
                value(&hub, "touchline_sink_failures_total{sink=\"desk\"}").is_some_and(|n| n > 0.0)
            });
            assert!(received.is_empty(), "no request comes through");
        }
        assert_eq!(value(&hub, WAITING), Some(1.0));
        sink.finish();
    }
}
