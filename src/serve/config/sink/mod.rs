//! `[[sink]]`: receivers outside the program that records are delivered to.

mod checks;
mod kinds;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

pub(super) use self::checks::Mistake;
use self::checks::{address, kafka_topic, server, template};
pub use self::kinds::{KafkaMechanism, MqttVersion, RecordKind, SinkKind};
use super::file::RawTable;
use super::layers::{Layer, Problem, ValueOrigin, typed};
use super::secret::{SecretSource, read_pem};
use super::stream_id;
use super::values::Within;

/// Bound of a spool, MB (1,000,000 bytes).
pub type SpoolMaxMb = Within<1, 1_000_000>;
/// Limit of one delivery, seconds.
pub type TimeoutS = Within<1, 600>;

const SPOOL_MAX: SpoolMaxMb = SpoolMaxMb::of::<256>();
const TIMEOUT: TimeoutS = TimeoutS::of::<10>();

/// The defaults of the keys of a sink, for the schema.
pub(super) fn default_values() -> Value {
    json!({ "spool_max_mb": SPOOL_MAX, "timeout_s": TIMEOUT })
}

/// Names of outputs that the program has without `[[sink]]`. They are values of the same metric label.
const TAKEN_NAMES: [&str; 5] = ["clips", super::fleet::FLEET_SINK, "jsonl", "outputs", "terminal"];

/// `[[sink]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkFile {
    /// Name in metrics and messages, and of the spool's file: 1 to 64 letters, digits, '-', '_' and '.'.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub name: String,
    /// What the records are delivered to.
    pub kind: SinkKind,
    /// Folder of the spool, on a local disk. It is created if it does not exist.
    pub spool: PathBuf,
    /// Bound of the spool, MB (1,000,000 bytes); beyond it the oldest records are dropped and counted.
    pub spool_max_mb: Option<SpoolMaxMb>,
    /// Ids of the streams whose records are delivered; by default all.
    pub streams: Option<Vec<String>>,
    /// Types of the records that are delivered; by default all.
    pub kinds: Option<Vec<RecordKind>>,
    /// Limit of one delivery, seconds.
    pub timeout_s: Option<TimeoutS>,
    /// Address of the receiver. webhook: https://HOST/PATH; mqtt: mqtts://HOST or mqtt://HOST; nats: tls://HOST or nats://HOST;
    /// kafka: kafkas://HOST or kafka://HOST, any broker of the cluster.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
    /// exec: the program and its arguments.
    pub command: Option<Vec<String>>,
    /// mqtt, nats, kafka: the user of the login.
    #[schemars(length(min = 1))]
    pub user: Option<String>,
    /// File with the secret. webhook: the key that signs (whsec_… or at least 24 characters), one a line; all sign. mqtt, nats,
    /// kafka: the password of `user`; nats without it: a token.
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the secret, in place of a file.
    #[schemars(length(min = 1))]
    pub secret_env: Option<String>,
    /// webhook: file with a token that each request has (`Authorization: Bearer`).
    pub token_file: Option<PathBuf>,
    /// Environment variable with the token, in place of a file.
    #[schemars(length(min = 1))]
    pub token_env: Option<String>,
    /// nats: file with the credentials of a user (.creds), or with the seed of an nkey.
    pub credentials_file: Option<PathBuf>,
    /// Environment variable with the content of that file.
    #[schemars(length(min = 1))]
    pub credentials_env: Option<String>,
    /// Certificates of the authorities that the receiver's certificate may come from (PEM); by default those of the system.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain that the receiver may ask for (PEM). Needs `client_key`.
    pub client_cert: Option<PathBuf>,
    /// Private key of `client_cert` (PEM).
    pub client_key: Option<PathBuf>,
    /// mqtt, nats, kafka: the topic or subject of a record, with {instance}, {stream} and {kind}; by default
    /// touchline/{instance}/{stream}/{kind}, for nats with full stops; for kafka touchline.
    #[schemars(length(min = 1))]
    pub topic: Option<String>,
    /// mqtt: the version; by default 5.
    pub mqtt_version: Option<MqttVersion>,
    /// mqtt: announce each stream to Home Assistant; by default not.
    pub home_assistant: Option<bool>,
    /// nats: name of the JetStream stream that is created for the records if it does not exist; by default none is created.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$"))]
    pub nats_stream: Option<String>,
    /// kafka: how `user` logs in; by default plain.
    pub kafka_mechanism: Option<KafkaMechanism>,
}

/// A sink, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSettings {
    /// Unique in a run.
    pub name: String,
    /// The receiver.
    pub receiver: Receiver,
    /// Folder of the spool.
    pub spool: PathBuf,
    /// Bound of the spool.
    pub spool_max_bytes: u64,
    /// `None`: all.
    pub streams: Option<Vec<String>>,
    /// `None`: all.
    pub kinds: Option<Vec<RecordKind>>,
    /// Limit of one delivery.
    pub timeout: Duration,
    /// The user of the login.
    pub user: Option<String>,
    /// Where the secret comes from.
    pub secret: Option<SecretSource>,
    /// Where the token of a webhook comes from.
    pub token: Option<SecretSource>,
    /// Where the credentials for NATS come from.
    pub credentials: Option<SecretSource>,
    /// Certificates of connections.
    pub tls: ClientTls,
}

impl SinkSettings {
    /// The names of the environment variables with its secrets.
    pub fn secret_variables(&self) -> impl Iterator<Item = &str> {
        let sources = [&self.secret, &self.token, &self.credentials].into_iter().flatten();
        sources.filter_map(|source| match source {
            SecretSource::Variable(name) => Some(name.as_str()),
            SecretSource::File(_) => None,
        })
    }
}

/// Certificates for connections to a receiver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientTls {
    /// Trusted authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key of this side.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A receiver with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Receiver {
    /// An HTTP server.
    Webhook {
        /// Without login and fragment.
        url: Url,
    },
    /// A program.
    Exec {
        /// The program, then its arguments.
        command: Vec<String>,
    },
    /// An MQTT broker.
    Mqtt {
        /// Scheme, host and port.
        url: Url,
        /// Topics and version.
        mqtt: MqttSettings,
    },
    /// JetStream of a NATS server.
    Nats {
        /// Scheme, host and port.
        url: Url,
        /// Subject and stream.
        nats: NatsSettings,
    },
    /// A Kafka cluster.
    Kafka {
        /// Scheme, host and port of a broker.
        url: Url,
        /// Topic and login.
        kafka: KafkaSettings,
    },
}

/// How records are published over MQTT.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttSettings {
    /// With places for instance, stream and kind.
    pub topic: String,
    /// Version of the protocol.
    pub version: MqttVersion,
    /// Whether streams are announced to Home Assistant.
    pub home_assistant: bool,
}

/// How records are produced to Kafka.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaSettings {
    /// With places for instance, stream and kind.
    pub topic: String,
    /// How the user logs in.
    pub mechanism: KafkaMechanism,
}

/// How records are published to JetStream.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsSettings {
    /// With places for instance, stream and kind.
    pub subject: String,
    /// The stream that is created if it does not exist.
    pub create_stream: Option<String>,
    /// How long that stream keeps records; `None`: without a limit.
    pub keep: Option<Duration>,
}

impl Receiver {
    /// The kind.
    pub const fn kind(&self) -> SinkKind {
        match self {
            Receiver::Webhook { .. } => SinkKind::Webhook,
            Receiver::Exec { .. } => SinkKind::Exec,
            Receiver::Mqtt { .. } => SinkKind::Mqtt,
            Receiver::Nats { .. } => SinkKind::Nats,
            Receiver::Kafka { .. } => SinkKind::Kafka,
        }
    }

    /// The receiver as it may be shown: the path of a webhook often is its secret, and so are arguments.
    pub fn shown(&self) -> String {
        match self {
            Receiver::Webhook { url }
            | Receiver::Mqtt { url, .. }
            | Receiver::Nats { url, .. }
            | Receiver::Kafka { url, .. } => shown_url(url.as_str()),
            Receiver::Exec { command } => command.first().cloned().unwrap_or_default(),
        }
    }

    /// Whether others on the network can read what is sent.
    pub fn is_readable(&self) -> bool {
        let is_local = |host: Option<url::Host<&str>>| match host {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            // Addresses of schemes that `url` does not know are domains.
            Some(url::Host::Domain(name)) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            None => false,
        };
        match self {
            Receiver::Webhook { url }
            | Receiver::Mqtt { url, .. }
            | Receiver::Nats { url, .. }
            | Receiver::Kafka { url, .. } => {
                matches!(url.scheme(), "http" | "mqtt" | "nats" | "kafka") && !is_local(url.host())
            }
            Receiver::Exec { .. } => false,
        }
    }
}

/// Scheme, host and port of an address; the rest of it is masked.
pub fn shown_url(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "***".to_owned() };
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let rest = if matches!(url.path(), "" | "/") && url.query().is_none() { "" } else { "/***" };
    format!("{}://{}{port}{rest}", url.scheme(), url.host_str().unwrap_or_default())
}

/// A sink of the file.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Its settings, valid.
    pub settings: SinkSettings,
    /// Where it is defined.
    pub place: ValueOrigin,
    /// Its values.
    pub values: Layer,
}

impl Sink {
    /// Problems that a run finds only when it starts: files that cannot be read. Variables are not checked, since the
    /// environment of the run may be another one.
    pub(super) fn problems_at_start(&self) -> Vec<Problem> {
        let place = |key: &str| self.values.get(key).map_or(&self.place, |entry| &entry.place).clone();
        let mut problems = Vec::new();
        let mut problem = |key: &str, text: String| problems.push(Problem { place: place(key), key: key.into(), text });
        let SinkSettings { secret, token, credentials, tls, .. } = &self.settings;
        for (key, source) in [("secret_file", secret), ("token_file", token), ("credentials_file", credentials)] {
            if let Some(source @ SecretSource::File(_)) = source
                && let Err(text) = source.read()
            {
                problem(key, text);
            }
        }
        let pair = tls.identity.as_ref().map(|(cert, key)| [("client_cert", cert), ("client_key", key)]);
        let files = tls.ca.iter().map(|ca| ("ca_file", ca)).chain(pair.into_iter().flatten());
        for (key, path) in files {
            if let Err(text) = read_pem(path) {
                problem(key, text);
            }
        }
        problems
    }
}

/// Checks the sinks of a file. Mistakes are added to `problems`.
pub(super) fn sinks(tables: Vec<RawTable>, problems: &mut Vec<Problem>) -> Vec<Sink> {
    let mut taken = HashSet::new();
    let mut sinks = Vec::with_capacity(tables.len());
    for RawTable { place, values } in tables {
        let at = |key: &str| values.get(key).map_or(&place, |entry| &entry.place).clone();
        let file: SinkFile = match typed(&values) {
            Ok(file) => file,
            Err(text) => {
                problems.push(Problem { place: place.clone(), key: "sink".into(), text });
                continue;
            }
        };
        let name = file.name.clone();
        let mut wrong = file.problems();
        if !taken.insert(name.clone()) {
            wrong.push(("name", format!("sink name {name:?} is given twice; give every sink its own")));
        }
        match (wrong.is_empty(), file.settings()) {
            (true, Ok(settings)) => {
                sinks.push(Sink { settings, place: place.clone(), values: values.clone() });
                continue;
            }
            (_, Err(problem)) => wrong.push(problem),
            (false, Ok(_)) => {}
        }
        problems.extend(wrong.into_iter().map(|(key, text)| Problem { place: at(key), key: key.to_owned(), text }));
    }
    sinks
}

impl SinkFile {
    /// Mistakes of keys that all kinds have, and keys that this kind does not have.
    pub(super) fn problems(&self) -> Vec<Mistake> {
        let mut wrong = Vec::new();
        if stream_id(&self.name).is_err() {
            let text =
                format!("sink name {:?} is ill-formed; use 1 to 64 letters, digits, '-', '_' and '.'", self.name);
            wrong.push(("name", text));
        } else if TAKEN_NAMES.contains(&self.name.as_str()) {
            wrong.push(("name", format!("{:?} is the name of a built-in output; choose another", self.name)));
        }
        if self.spool.as_os_str().is_empty() {
            wrong.push(("spool", "the folder is empty; write one as in spool = \"/var/lib/touchline/spool\"".into()));
        }
        for id in self.streams.iter().flatten() {
            if let Err(text) = stream_id(id) {
                wrong.push(("streams", text));
            }
        }
        for (key, is_empty) in [
            ("streams", self.streams.as_ref().is_some_and(Vec::is_empty)),
            ("kinds", self.kinds.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if is_empty {
                wrong.push((key, "the list is empty, so nothing would be delivered; leave the key out for all".into()));
            }
        }
        for (key, file, variable) in [
            ("secret_env", &self.secret_file, &self.secret_env),
            ("token_env", &self.token_file, &self.token_env),
            ("credentials_env", &self.credentials_file, &self.credentials_env),
        ] {
            if file.is_some() && variable.is_some() {
                wrong.push((key, "both a file and a variable are given; remove one".into()));
            }
        }
        let has_credentials = self.credentials_file.is_some() || self.credentials_env.is_some();
        if has_credentials && (self.user.is_some() || self.secret_file.is_some() || self.secret_env.is_some()) {
            let key = if self.credentials_file.is_some() { "credentials_file" } else { "credentials_env" };
            wrong.push((key, "credentials are a login of their own; remove user and secret".into()));
        }
        let secret =
            self.secret_file.as_ref().map(|_| "secret_file").or(self.secret_env.as_ref().map(|_| "secret_env"));
        if let (SinkKind::Mqtt | SinkKind::Kafka, None, Some(key)) = (self.kind, &self.user, secret) {
            wrong.push((key, "a password needs its user; add one as in user = \"touchline\"".into()));
        }
        if self.kind == SinkKind::Kafka && self.user.is_some() && secret.is_none() {
            wrong.push(("user", "the user needs its password; give it by secret_file or secret_env".into()));
        }
        if self.kind == SinkKind::Kafka && !cfg!(feature = "kafka") {
            let text =
                "this program was built without Kafka; build it with the cargo feature kafka, or choose another kind";
            wrong.push(("kind", text.into()));
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            let key = if self.client_cert.is_some() { "client_cert" } else { "client_key" };
            wrong.push((key, "a certificate needs its key, and a key its certificate; give both".into()));
        }
        let kind = self.kind.as_str();
        for (key, is_given, kinds) in self.keys_of_kinds() {
            if is_given && !kinds.contains(&self.kind) {
                let of = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
                wrong.push((key, format!("a sink of kind {kind} does not have this key; it is for {of}")));
            }
        }
        wrong
    }

    /// Keys that only some kinds have: whether each is given, and the kinds.
    fn keys_of_kinds(&self) -> [(&'static str, bool, &'static [SinkKind]); 17] {
        const NETWORK: &[SinkKind] = &[SinkKind::Webhook, SinkKind::Mqtt, SinkKind::Nats, SinkKind::Kafka];
        const BUSES: &[SinkKind] = &[SinkKind::Mqtt, SinkKind::Nats, SinkKind::Kafka];
        const MQTT: &[SinkKind] = &[SinkKind::Mqtt];
        [
            ("url", self.url.is_some(), NETWORK),
            ("command", self.command.is_some(), &[SinkKind::Exec]),
            ("secret_file", self.secret_file.is_some(), NETWORK),
            ("secret_env", self.secret_env.is_some(), NETWORK),
            ("token_file", self.token_file.is_some(), &[SinkKind::Webhook]),
            ("token_env", self.token_env.is_some(), &[SinkKind::Webhook]),
            ("credentials_file", self.credentials_file.is_some(), &[SinkKind::Nats]),
            ("credentials_env", self.credentials_env.is_some(), &[SinkKind::Nats]),
            ("ca_file", self.ca_file.is_some(), NETWORK),
            ("client_cert", self.client_cert.is_some(), NETWORK),
            ("client_key", self.client_key.is_some(), NETWORK),
            ("user", self.user.is_some(), BUSES),
            ("topic", self.topic.is_some(), BUSES),
            ("mqtt_version", self.mqtt_version.is_some(), MQTT),
            ("home_assistant", self.home_assistant.is_some(), MQTT),
            ("nats_stream", self.nats_stream.is_some(), &[SinkKind::Nats]),
            ("kafka_mechanism", self.kafka_mechanism.is_some(), &[SinkKind::Kafka]),
        ]
    }

    pub(super) fn settings(self) -> Result<SinkSettings, Mistake> {
        let receiver = match self.kind {
            SinkKind::Webhook => {
                let url = address(self.url.as_deref(), &["https", "http"], "https://receiver.example/touchline")?;
                Receiver::Webhook { url }
            }
            SinkKind::Exec => {
                let command = self.command.unwrap_or_default();
                if command.first().is_none_or(String::is_empty) {
                    let text = "the sink has no program; add one as in command = [\"/usr/local/bin/notify\"]";
                    return Err(("command", text.into()));
                }
                Receiver::Exec { command }
            }
            SinkKind::Mqtt => {
                let url = server(self.url.as_deref(), &["mqtts", "mqtt"], "mqtts://broker.example")?;
                let topic = template(self.topic, "touchline/{instance}/{stream}/{kind}", &['+', '#'])?;
                let version = self.mqtt_version.unwrap_or_default();
                let home_assistant = self.home_assistant.unwrap_or_default();
                Receiver::Mqtt { url, mqtt: MqttSettings { topic, version, home_assistant } }
            }
            SinkKind::Nats => {
                let url = server(self.url.as_deref(), &["tls", "nats"], "tls://nats.example")?;
                let subject = template(self.topic, "touchline.{instance}.{stream}.{kind}", &['*', '>'])?;
                let create_stream = self.nats_stream;
                let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                if let Some(name) = create_stream.as_deref()
                    && !((1..=64).contains(&name.len()) && name.chars().all(well_formed))
                {
                    let text = format!("the name {name:?} is ill-formed; use 1 to 64 letters, digits, '-' and '_'");
                    return Err(("nats_stream", text));
                }
                Receiver::Nats { url, nats: NatsSettings { subject, create_stream, keep: None } }
            }
            SinkKind::Kafka => {
                let url = server(self.url.as_deref(), &["kafkas", "kafka"], "kafkas://broker.example")?;
                let topic = kafka_topic(self.topic)?;
                let mechanism = self.kafka_mechanism.unwrap_or_default();
                Receiver::Kafka { url, kafka: KafkaSettings { topic, mechanism } }
            }
        };
        let source = |file: Option<PathBuf>, variable: Option<String>| {
            file.map(SecretSource::File).or(variable.map(SecretSource::Variable))
        };
        Ok(SinkSettings {
            name: self.name,
            receiver,
            spool: self.spool,
            spool_max_bytes: u64::from(self.spool_max_mb.unwrap_or(SPOOL_MAX).get()) * 1_000_000,
            streams: self.streams,
            kinds: self.kinds,
            timeout: Duration::from_secs(self.timeout_s.unwrap_or(TIMEOUT).get().into()),
            user: self.user,
            secret: source(self.secret_file, self.secret_env),
            token: source(self.token_file, self.token_env),
            credentials: source(self.credentials_file, self.credentials_env),
            tls: ClientTls { ca: self.ca_file, identity: self.client_cert.zip(self.client_key) },
        })
    }
}

#[cfg(test)]
mod tests;
