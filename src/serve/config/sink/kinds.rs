//! Names of `[[sink]]`: kinds of records and receivers, versions, logins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Type of a record, and name of its server-sent event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// A second with a decision.
    Second,
    /// A second without one.
    Gap,
    /// An onset or offset.
    Event,
    /// A change of state.
    State,
    /// An incident of the source.
    Incident,
    /// A change of the pack.
    Pack,
    /// A closed segment.
    Segment,
    /// Something unexpected began or ended.
    Expectation,
}

impl RecordKind {
    /// In the order of the variants.
    pub const ALL: [RecordKind; 8] = [
        RecordKind::Second,
        RecordKind::Gap,
        RecordKind::Event,
        RecordKind::State,
        RecordKind::Incident,
        RecordKind::Pack,
        RecordKind::Segment,
        RecordKind::Expectation,
    ];

    /// The names, in the order of [`RecordKind::ALL`].
    pub const NAMES: [&str; 8] = ["second", "gap", "event", "state", "incident", "pack", "segment", "expectation"];

    /// Value of the key `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            RecordKind::Second => "second",
            RecordKind::Gap => "gap",
            RecordKind::Event => "event",
            RecordKind::State => "state",
            RecordKind::Incident => "incident",
            RecordKind::Pack => "pack",
            RecordKind::Segment => "segment",
            RecordKind::Expectation => "expectation",
        }
    }
}

/// What a sink delivers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// An HTTP server: CloudEvents, signed.
    Webhook,
    /// A program: one record on its standard input.
    Exec,
    /// An MQTT broker.
    Mqtt,
    /// JetStream of a NATS server.
    Nats,
    /// A Kafka cluster. Only in programs with the cargo feature kafka.
    Kafka,
}

/// Version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// 3.1.1
    #[serde(rename = "3.1.1")]
    V3,
    /// 5
    #[default]
    #[serde(rename = "5")]
    V5,
}

impl SinkKind {
    /// Name in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            SinkKind::Webhook => "webhook",
            SinkKind::Exec => "exec",
            SinkKind::Mqtt => "mqtt",
            SinkKind::Nats => "nats",
            SinkKind::Kafka => "kafka",
        }
    }
}

/// How a user logs in to Kafka (SASL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaMechanism {
    /// The password is sent: only over TLS.
    #[default]
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl KafkaMechanism {
    /// The name of the mechanism in SASL.
    pub const fn as_str(self) -> &'static str {
        match self {
            KafkaMechanism::Plain => "PLAIN",
            KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
            KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}
