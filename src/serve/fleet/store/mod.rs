//! The store of a fleet: a key-value bucket of NATS JetStream.
//!
//! The bucket has the name of the fleet's records, `touchline-NAME`. A revision is the number of the key's last write, and an update
//! names the one that it replaces. Renewals have keys of their own, so that the watch of all other keys does not receive them. The client
//! connects again by itself; requests that are sent meanwhile have no answer.

mod key;
mod packs;
mod records;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::kv::{self, CreateErrorKind, Operation, UpdateErrorKind};
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use self::key::{WATCHED, key_of, text_of};
pub(crate) use self::packs::is_digest;
pub use self::records::FleetRecords;
pub(crate) use self::snapshot::entries;
use super::{FleetKey, FleetStoreError, FleetStoreResult, FleetValue};
use crate::config::sink::Receiver;
use crate::config::{FleetSettings, RecordKind, records_stream};
use crate::connect::causes;
use crate::connect::nats::{NatsLogin, login_cause, subject};
use crate::record::format::parse_rfc3339;
use touchline_core::time::NANOS_PER_SECOND;

/// The longest pause before the client connects again. Much shorter than a lease, which must survive a restart of the server.
const RECONNECT_MAX: Duration = Duration::from_millis(250);

/// When nothing was received for this long, the server is asked for a sign of life; after two more without one the connection is replaced. The
/// client's own default notices a server without power, or a network that loses all packets, after three minutes, in which another server of
/// the cluster would answer. Answers to renewals come more often, so a connection in use has no such questions.
const PING: Duration = Duration::from_secs(1);

/// Records of a stream that are read to find the last second of a lost owner: a move takes 20 s at most.
const SECONDS_READ: usize = 100;

/// How long a request of the command line may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// What the bucket is for.
const DESCRIPTION: &str = "streams, leases and machines of a fleet of Touchline";

/// A change of a watched key: its value with the revision, or `None` if it was deleted.
pub type FleetChange = (FleetKey, Option<(FleetValue, u64)>);

/// Why the store cannot be used: cause and advice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FleetStoreFailure(String);

/// A connection to the bucket. Cloning shares it.
#[derive(Clone)]
pub struct FleetStore {
    client: Client,
    context: Context,
    name: Arc<str>,
    host: Arc<str>,
    /// Template of the subjects of the fleet's records.
    subject: Arc<str>,
    bucket: Arc<Mutex<Option<kv::Store>>>,
}

/// The keys that all nodes observe, with their revisions.
pub type FleetSnapshot = BTreeMap<FleetKey, (FleetValue, u64)>;

impl FleetStore {
    /// Connects to the server. `user` names the connection, for the operator of the server.
    ///
    /// # Errors
    /// Cause and advice: a secret that cannot be used, no server, a login that is refused.
    pub async fn connect(settings: &FleetSettings, user: &str) -> Result<Self, FleetStoreFailure> {
        let Receiver::Nats { url, nats } = &settings.sink.receiver else {
            return Err(FleetStoreFailure("the address of a fleet is that of a NATS server".into()));
        };
        let name = format!("touchline-{}-{user}", settings.name);
        let login = NatsLogin::open(url, &settings.sink, name).map_err(FleetStoreFailure)?;
        let host: Arc<str> = login.host().into();
        let limit = settings.sink.timeout;
        let options = login.options().reconnect_delay_callback(|attempts| {
            let ms = 1 << attempts.saturating_sub(1).min(16);
            RECONNECT_MAX.min(Duration::from_millis(ms))
        });
        let options = options.ping_interval(PING).event_callback(|event| async move {
            tracing::debug!("fleet: NATS: {event}");
        });
        let client = timeout(limit, options.connect(login.url())).await.map_err(|_| {
            FleetStoreFailure(format!("{host}: NATS does not answer within {} s; check its address", limit.as_secs()))
        })?;
        let client = client
            .map_err(|e| FleetStoreFailure(format!("{host}: {}; check its address", login_cause(&causes(&e)))))?;
        let context = jetstream::context::ContextBuilder::new().timeout(limit).ack_timeout(limit).build(client.clone());
        let (name, subject) = (settings.name.as_str().into(), nats.subject.as_str().into());
        Ok(Self { client, context, name, host, subject, bucket: Arc::default() })
    }

    /// JetStream, for other buckets and streams of the fleet.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Whether the server answers.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The bucket. Creates it if it does not exist.
    async fn bucket(&self) -> Result<kv::Store, FleetStoreFailure> {
        let mut known = self.bucket.lock().await;
        if let Some(bucket) = &*known {
            return Ok(bucket.clone());
        }
        let name = records_stream(&self.name);
        let bucket = match self.context.get_key_value(&name).await {
            Ok(bucket) => bucket,
            Err(_) => {
                // Another machine may create it at the same time.
                let created = self.context.create_stream(bucket_config(&name, DESCRIPTION)).await;
                self.context.get_key_value(&name).await.map_err(|e| {
                    let cause = created.err().map_or_else(|| causes(&e), |e| causes(&e));
                    let advice = "start nats-server with -js, or create the bucket and give this login its rights";
                    FleetStoreFailure(format!("{}: cannot open the bucket {name}: {cause}; {advice}", self.host))
                })?
            }
        };
        *known = Some(bucket.clone());
        Ok(bucket)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`FleetStoreError::Unavailable`] without an answer.
    pub async fn read(&self, key: &FleetKey) -> FleetStoreResult {
        let bucket = self.bucket().await.map_err(unavailable)?;
        let entry = bucket.entry(text_of(key)).await.map_err(unavailable)?;
        Ok(entry.and_then(|entry| value_of(key, &entry)))
    }

    /// Replaces the value of a key that has revision `revision`, or of one that does not exist (`None`).
    ///
    /// # Errors
    /// [`FleetStoreError::Conflict`] if it has another revision, [`FleetStoreError::Unavailable`] without an answer.
    pub async fn put(&self, key: &FleetKey, value: &FleetValue, revision: Option<u64>) -> FleetStoreResult {
        let bucket = self.bucket().await.map_err(unavailable)?;
        let (text, json) = (text_of(key), json(value));
        let written = match revision {
            Some(revision) => bucket.update(text, json.into(), revision).await.map_err(|e| match e.kind() {
                UpdateErrorKind::WrongLastRevision => FleetStoreError::Conflict,
                _ => unavailable(e),
            }),
            None => bucket.create(text, json.into()).await.map_err(|e| match e.kind() {
                CreateErrorKind::AlreadyExists => FleetStoreError::Conflict,
                _ => unavailable(e),
            }),
        };
        written.map(|revision| Some((value.clone(), revision)))
    }

    /// Deletes a key that has revision `revision`.
    ///
    /// # Errors
    /// As [`FleetStore::put`].
    pub async fn delete(&self, key: &FleetKey, revision: u64) -> Result<(), FleetStoreError> {
        let bucket = self.bucket().await.map_err(unavailable)?;
        bucket.delete_expect_revision(text_of(key), Some(revision)).await.map_err(|e| match e.kind() {
            UpdateErrorKind::WrongLastRevision => FleetStoreError::Conflict,
            _ => unavailable(e),
        })
    }

    /// Sends the keys that all nodes observe, and then their changes. Ends with the receiver of `to`, or with a failure, after which a
    /// new watch starts with all keys again.
    pub async fn watch(&self, to: &mpsc::Sender<FleetChange>) -> FleetStoreFailure {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot watch the bucket: {text}", self.host));
        let bucket = match self.bucket().await {
            Ok(bucket) => bucket,
            Err(e) => return e,
        };
        let mut entries = match bucket.watch_with_history(WATCHED).await {
            Ok(entries) => entries,
            Err(e) => {
                // The bucket may have been deleted.
                *self.bucket.lock().await = None;
                return failed(causes(&e));
            }
        };
        loop {
            match entries.next().await {
                Some(Ok(entry)) => {
                    let Some(key) = key_of(&entry.key) else { continue };
                    let value = value_of(&key, &entry);
                    if to.send((key, value)).await.is_err() {
                        return failed("nothing reads it".into());
                    }
                }
                Some(Err(e)) => return failed(causes(&e)),
                None => return failed("the server has ended it".into()),
            }
        }
    }

    /// All keys that nodes observe.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn snapshot(&self) -> Result<FleetSnapshot, FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot read the bucket: {text}", self.host));
        let late = |_| failed(format!("no answer within {} s; retry", REQUEST_LIMIT.as_secs()));
        timeout(REQUEST_LIMIT, async {
            let bucket = self.bucket().await?;
            let entries = entries(&bucket, WATCHED).await.map_err(|e| failed(causes(&*e)))?;
            let value = |entry: &kv::Entry| {
                let key = key_of(&entry.key)?;
                value_of(&key, entry).map(|value| (key, value))
            };
            Ok(entries.values().filter_map(value).collect())
        })
        .await
        .map_err(late)?
    }

    /// The last second that the fleet's records have of a stream, decided or not; `None` if they have none.
    ///
    /// # Errors
    /// [`FleetStoreError::Unavailable`] without an answer.
    pub async fn last_second(&self, stream: &str) -> Result<Option<LastSecond>, FleetStoreError> {
        let decided = |payload: &[u8]| Ok(second(payload)?.map(|(_, until_ns)| until_ns));
        let decided = self.last_of(stream, RecordKind::Second, decided).await?;
        Ok(match (decided, self.last_of(stream, RecordKind::Gap, gap).await?) {
            (Some(decided), Some(gap)) => Some(LastSecond { until_ns: decided.until_ns.max(gap.until_ns), ..decided }),
            (decided, gap) => decided.or(gap),
        })
    }

    /// The last record of a kind; `until` reads when its second ended.
    async fn last_of(
        &self,
        stream: &str,
        kind: RecordKind,
        until: impl Fn(&[u8]) -> Result<Option<i64>, FleetStoreError>,
    ) -> Result<Option<LastSecond>, FleetStoreError> {
        let records = self.context.get_stream_no_info(records_stream(&self.name)).await.map_err(unavailable)?;
        let message = match records.get_last_raw_message_by_subject(&self.subject_of(stream, kind)).await {
            Ok(message) => message,
            Err(e) if matches!(e.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(e) => return Err(unavailable(e)),
        };
        Ok(until(&message.payload)?.map(|until_ns| LastSecond { sequence: message.sequence, until_ns }))
    }

    /// When the last second of a stream ended that has an epoch before `epoch`, nanoseconds since 1970-01-01 UTC, among its records from
    /// `sequence` on; `None` if there is none.
    ///
    /// # Errors
    /// [`FleetStoreError::Unavailable`] without an answer.
    pub async fn last_second_before(
        &self,
        stream: &str,
        sequence: u64,
        epoch: u64,
    ) -> Result<Option<i64>, FleetStoreError> {
        let records = self.context.get_stream_no_info(records_stream(&self.name)).await.map_err(unavailable)?;
        let (subject, mut sequence, mut last) = (self.subject_of(stream, RecordKind::Second), sequence, None);
        for _ in 0..SECONDS_READ {
            let message = match records.get_first_raw_message_by_subject(&subject, sequence).await {
                Ok(message) => message,
                Err(e) if matches!(e.kind(), LastRawMessageErrorKind::NoMessageFound) => break,
                Err(e) => return Err(unavailable(e)),
            };
            sequence = message.sequence + 1;
            let until = second(&message.payload)?.filter(|(of, _)| *of < epoch).map(|(_, until_ns)| until_ns);
            last = last.max(until);
        }
        Ok(last)
    }

    /// The subject of a stream's records of a kind.
    fn subject_of(&self, stream: &str, kind: RecordKind) -> String {
        // No part of the template is the instance.
        subject(&self.subject, "", stream, kind)
    }
}

/// A second of the records of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSecond {
    /// Number of the record.
    pub sequence: u64,
    /// Wall time of its end, nanoseconds since 1970-01-01 UTC.
    pub until_ns: i64,
}

/// Epoch and wall time of the end of a second; `None` if it has no wall time.
fn second(payload: &[u8]) -> Result<Option<(u64, i64)>, FleetStoreError> {
    #[derive(Deserialize)]
    struct SecondEnvelope {
        data: Second,
    }
    #[derive(Deserialize)]
    struct Second {
        #[serde(default)]
        epoch: u64,
        wall: Option<Wall>,
    }
    #[derive(Deserialize)]
    struct Wall {
        time: String,
    }
    let SecondEnvelope { data: Second { epoch, wall } } = serde_json::from_slice(payload).map_err(unavailable)?;
    let began = wall.and_then(|wall| parse_rfc3339(&wall.time).ok());
    Ok(began.map(|began| (epoch, began.saturating_add_unsigned(NANOS_PER_SECOND))))
}

/// Wall time of the end of a gap. A span that was lost has one; another gap is published about a second after its end.
fn gap(payload: &[u8]) -> Result<Option<i64>, FleetStoreError> {
    #[derive(Deserialize)]
    struct GapEnvelope {
        time: String,
        data: Gap,
    }
    #[derive(Deserialize)]
    struct Gap {
        lost: Option<Lost>,
    }
    #[derive(Deserialize)]
    struct Lost {
        to: String,
    }
    let GapEnvelope { time, data: Gap { lost } } = serde_json::from_slice(payload).map_err(unavailable)?;
    Ok(match lost {
        Some(Lost { to }) => parse_rfc3339(&to).ok(),
        None => parse_rfc3339(&time).ok().map(|at| at.saturating_sub_unsigned(NANOS_PER_SECOND)),
    })
}

/// The stream of a bucket, as all clients of NATS create it. The client's own function first asks for the limits of the account, in a form
/// that servers of version 2.9 do not answer.
pub(crate) fn bucket_config(name: &str, description: &str) -> stream::Config {
    stream::Config {
        name: format!("KV_{name}"),
        description: Some(description.to_owned()),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: 1,
        ..stream::Config::default()
    }
}

fn unavailable(error: impl std::error::Error) -> FleetStoreError {
    tracing::debug!("fleet: a request to the store failed: {}", causes(&error));
    FleetStoreError::Unavailable
}

fn json(value: &FleetValue) -> Vec<u8> {
    let json = match value {
        FleetValue::Renewal(renewal) => serde_json::to_vec(renewal),
        FleetValue::Node(node) => serde_json::to_vec(node),
        FleetValue::Stream(stream) => serde_json::to_vec(stream),
        FleetValue::Lease(lease) => serde_json::to_vec(lease),
        FleetValue::Rollout(rollout) => serde_json::to_vec(rollout),
        FleetValue::Pack(report) => serde_json::to_vec(report),
    };
    json.expect("records of the fleet are structs and maps with string keys")
}

/// The value of an entry with its revision; `None` if the key was deleted or has something else.
fn value_of(key: &FleetKey, entry: &kv::Entry) -> Option<(FleetValue, u64)> {
    if entry.operation != Operation::Put {
        return None;
    }
    let json = &entry.value;
    let value = match key {
        FleetKey::Renewal(_) => serde_json::from_slice(json).map(FleetValue::Renewal),
        FleetKey::Node(_) => serde_json::from_slice(json).map(FleetValue::Node),
        FleetKey::Stream(_) => serde_json::from_slice(json).map(FleetValue::Stream),
        FleetKey::Lease(_) => serde_json::from_slice(json).map(FleetValue::Lease),
        FleetKey::Rollout => serde_json::from_slice(json).map(FleetValue::Rollout),
        FleetKey::Pack(_) => serde_json::from_slice(json).map(FleetValue::Pack),
    };
    match value {
        Ok(value) => Some((value, entry.revision)),
        Err(e) => {
            tracing::error!("fleet: the key {} of the bucket is damaged: {e}; delete or correct it", entry.key);
            None
        }
    }
}
