//! Kafka: each record is produced with its stream as key, so that the records of a stream keep their order within a partition.
//!
//! The producer is idempotent and waits for all in-sync replicas. librdkafka repeats what fails within a connection, in order and without
//! duplicates. When that takes too long, the producer is replaced and the unacknowledged records come again from the spool, with the
//! same ids.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::Notify;
use url::Url;

use super::courier::{Delivered, Failure};
use super::envelope::{Envelope, MEDIA_TYPE};
use crate::config::sink::{ClientTls, KafkaSettings};
use crate::config::{Secret, SinkSettings, read_pem};
use crate::connect::filled;
use crate::record::SCHEMA_VERSION;

/// The port of a broker.
const PORT: u16 = 9092;

type Producer = FutureProducer<ErrorWatch>;

/// Keeps the last error of the connections: records only time out.
#[derive(Clone, Default)]
struct ErrorWatch(Arc<Watched>);

#[derive(Default)]
struct Watched {
    last: Mutex<Option<String>>,
    /// An error that waiting does not end.
    gives_up: Notify,
}

impl rdkafka::ClientContext for ErrorWatch {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("Kafka: {error}: {}", touchline_core::redact::text(reason));
        *self.0.last.lock() = Some(reason.to_owned());
        // The courier pauses longer and reports it, which librdkafka does not.
        let gives_up = [RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SSL, RDKafkaErrorCode::AllBrokersDown];
        if error.rdkafka_error_code().is_some_and(|code| gives_up.contains(&code)) {
            self.0.gives_up.notify_waiters();
        }
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!("Kafka: {facility}: {}", touchline_core::redact::text(message));
    }
}

pub(super) struct Kafka {
    config: ClientConfig,
    topic: String,
    host: String,
    timeout: Duration,
    instance: Arc<str>,
    watch: ErrorWatch,
    producer: Option<Producer>,
    /// Masked while this exists.
    _secret: Secret,
}

impl Kafka {
    /// # Errors
    /// Cause and advice for a secret, a certificate or a key that cannot be used.
    pub fn open(
        url: &Url,
        kafka: &KafkaSettings,
        settings: &SinkSettings,
        instance: &Arc<str>,
    ) -> Result<Self, String> {
        let secret = settings.secret.as_ref().map(|secret| secret.read()).transpose()?.unwrap_or_default();
        let config = config(url, kafka, settings, instance, &secret)?;
        let mut kafka = Self {
            config,
            topic: kafka.topic.clone(),
            host: url.host_str().unwrap_or_default().to_owned(),
            timeout: settings.timeout,
            instance: instance.clone(),
            watch: ErrorWatch::default(),
            producer: None,
            _secret: secret,
        };
        // Certificates that cannot be used are found now.
        kafka.producer = Some(kafka.start().map_err(|e| format!("{e}; check its certificates, key and login"))?);
        Ok(kafka)
    }

    /// A producer whose errors are not mixed with those of the one before.
    fn start(&mut self) -> Result<Producer, KafkaError> {
        self.watch = ErrorWatch::default();
        self.config.create_with_context(self.watch.clone())
    }

    /// Produces records, and waits for the acknowledgement of each. A failure replaces the producer.
    pub async fn deliver(&mut self, batch: &[Envelope]) -> Delivered {
        let mut accepted = 0;
        let outcome = self.produce(batch, &mut accepted).await;
        if outcome.is_err() {
            // Takes back what it has not sent, so that nothing of it can come after the repetitions.
            self.producer = None;
        }
        Delivered { accepted, failure: outcome.err() }
    }

    async fn produce(&mut self, batch: &[Envelope], accepted: &mut usize) -> Result<(), Failure> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.start().map_err(|e| self.failure(&e))?,
        };
        let watch = self.watch.clone();
        let gives_up = watch.0.gives_up.notified();
        tokio::pin!(gives_up);
        // Errors count from here on: one while nothing was sent is over, or comes again.
        gives_up.as_mut().enable();
        let mut pending = Vec::with_capacity(batch.len());
        let mut refused = None;
        for envelope in batch {
            match self.send(&producer, envelope) {
                Ok(delivery) => pending.push(delivery),
                Err(e) => {
                    refused = Some(self.failure(&e));
                    break;
                }
            }
        }
        self.producer = Some(producer);
        let late = tokio::time::sleep(self.timeout);
        tokio::pin!(late);
        for delivery in pending {
            let answer = tokio::select! {
                answer = delivery => answer,
                () = &mut late => {
                    let text = format!("no acknowledgement within {} s", self.timeout.as_secs());
                    return Err(self.unreachable(&text));
                }
                () = &mut gives_up => return Err(self.unreachable("the cluster cannot be reached")),
            };
            match answer {
                Ok(Ok(_)) => *accepted += 1,
                Ok(Err((e, _))) => return Err(self.failure(&e)),
                Err(_) => return Err(self.unreachable("the producer has ended")),
            }
        }
        *watch.0.last.lock() = None;
        refused.map_or(Ok(()), Err)
    }

    fn send(&self, producer: &Producer, envelope: &Envelope) -> Result<DeliveryFuture, KafkaError> {
        let topic = filled(&self.topic, &self.instance, &envelope.stream, envelope.kind.as_str());
        let schema = SCHEMA_VERSION.to_string();
        let headers = [
            ("content-type", MEDIA_TYPE),
            ("touchline-id", &envelope.id),
            ("touchline-kind", envelope.kind.as_str()),
            ("touchline-schema", &schema),
        ];
        let headers = headers.into_iter().fold(OwnedHeaders::new_with_capacity(4), |all, (key, value)| {
            all.insert(Header { key, value: Some(value) })
        });
        let record = FutureRecord::to(&topic).key(&envelope.stream).payload(&envelope.json).headers(headers);
        producer.send_result(record).map_err(|(e, _)| e)
    }

    /// A failure with the last error of the connections.
    fn unreachable(&self, text: &str) -> Failure {
        let host = &self.host;
        match self.watch.0.last.lock().take() {
            Some(cause) => Failure::retry(format!("{host}: {text}: {}", login_cause(&cause))),
            None => Failure::retry(format!("{host}: {text}")),
        }
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        use RDKafkaErrorCode as Code;
        let host = &self.host;
        match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord) => {
                Failure::Refused { cause: format!("{host}: {error}") }
            }
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Failure::retry(format!(
                    "{host}: the cluster has no topic {:?} and does not create it; create it, or choose another topic",
                    self.topic
                ))
            }
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
                Failure::retry(format!("{host}: {error}; let the user write to the topic {:?}", self.topic))
            }
            _ => Failure::retry(format!("{host}: {error}")),
        }
    }
}

fn config(
    url: &Url,
    kafka: &KafkaSettings,
    settings: &SinkSettings,
    instance: &str,
    secret: &Secret,
) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    let is_tls = url.scheme() == "kafkas";
    let broker = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(PORT));
    config
        .set("bootstrap.servers", broker)
        .set("client.id", format!("touchline-{instance}-{}", settings.name))
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // The courier's limit counts. Within it librdkafka may repeat as often as it likes.
        .set("message.timeout.ms", "0")
        .set("linger.ms", "0")
        .set("reconnect.backoff.max.ms", "1000")
        // As clients in other languages choose the partition of a key.
        .set("partitioner", "murmur2_random");
    let protocol = match (is_tls, settings.user.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(user) = &settings.user {
        let password = secret.lines.first().cloned().unwrap_or_default();
        config
            .set("sasl.mechanism", kafka.mechanism.as_str())
            .set("sasl.username", user)
            .set("sasl.password", password);
    }
    if is_tls {
        add_certificates(&mut config, &settings.tls)?;
    }
    Ok(config)
}

fn add_certificates(config: &mut ClientConfig, tls: &ClientTls) -> Result<(), String> {
    let pair = tls.identity.as_ref().map(|(cert, key)| [("ssl.certificate.location", cert), ("ssl.key.location", key)]);
    let files = tls.ca.iter().map(|ca| ("ssl.ca.location", ca)).chain(pair.into_iter().flatten());
    for (key, path) in files {
        // Its errors say what to do.
        read_pem(path)?;
        config.set(key, path.to_string_lossy());
    }
    if tls.ca.is_none() {
        // Looks in the usual places for those of the system.
        config.set("ssl.ca.location", "probe");
    }
    Ok(())
}

fn login_cause(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower.contains("sasl") || lower.contains("authentication") {
        return format!("{text}; check user, secret_file and kafka_mechanism");
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretSource;
    use crate::config::sink::{KafkaMechanism, Receiver};

    fn settings(folder: &std::path::Path, user: Option<&str>) -> SinkSettings {
        let password = folder.join("password");
        std::fs::write(&password, "pl4nt-password\n").unwrap();
        let url = "kafka://h".parse().unwrap();
        let kafka = KafkaSettings { topic: "touchline".into(), mechanism: KafkaMechanism::Plain };
        SinkSettings {
            name: "desk".into(),
            receiver: Receiver::Kafka { url, kafka },
            spool: folder.to_owned(),
            spool_max_bytes: 1_000_000,
            streams: None,
            kinds: None,
            timeout: Duration::from_secs(1),
            user: user.map(str::to_owned),
            secret: user.map(|_| SecretSource::File(password)),
            token: None,
            credentials: None,
            tls: ClientTls::default(),
        }
    }

    #[test]
    fn protocol_and_login_follow_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        for (url, user, mechanism, protocol) in [
            ("kafka://h", None, KafkaMechanism::Plain, "plaintext"),
            ("kafkas://h:9093", None, KafkaMechanism::Plain, "ssl"),
            ("kafka://h", Some("ann"), KafkaMechanism::ScramSha256, "sasl_plaintext"),
            ("kafkas://h", Some("ann"), KafkaMechanism::ScramSha512, "sasl_ssl"),
        ] {
            let settings = settings(folder.path(), user);
            let secret = settings.secret.as_ref().map(|secret| secret.read().unwrap()).unwrap_or_default();
            let kafka = KafkaSettings { topic: "t".into(), mechanism };
            let config = config(&url.parse().unwrap(), &kafka, &settings, "watcher-1", &secret).unwrap();
            assert_eq!(config.get("security.protocol"), Some(protocol), "{url}");
            assert_eq!(config.get("sasl.mechanism"), user.map(|_| mechanism.as_str()));
            assert_eq!(config.get("sasl.password"), user.map(|_| "pl4nt-password"));
            assert_eq!((config.get("acks"), config.get("enable.idempotence")), (Some("all"), Some("true")));
            let port = if url.contains("9093") { "h:9093" } else { "h:9092" };
            assert_eq!(
                (config.get("bootstrap.servers"), config.get("client.id")),
                (Some(port), Some("touchline-watcher-1-desk"))
            );
            assert_eq!(config.get("ssl.ca.location").is_some(), url.starts_with("kafkas"));
        }
    }

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let open = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let tls = ClientTls { ca: Some(path.clone()), identity: None };
            let settings = SinkSettings { tls, ..settings(folder.path(), None) };
            let kafka = KafkaSettings { topic: "t".into(), mechanism: KafkaMechanism::Plain };
            Kafka::open(&"kafkas://h".parse().unwrap(), &kafka, &settings, &"w".into()).err().unwrap_or_default()
        };
        assert!(open("hello").contains("give a PEM file"));
        let broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
        assert!(open(broken).contains("check its certificates"), "{}", open(broken));
    }
}
