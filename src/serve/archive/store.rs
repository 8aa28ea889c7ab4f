//! The bucket of jobs and the work queue, in NATS JetStream.
//!
//! The bucket is `touchline-FLEET-archive`. The queue is the stream `touchline-FLEET-work` with one durable consumer for each pack: machines
//! with another pack must not take a message, because returning it would count as a try.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::kv::{self, CreateErrorKind, Operation, UpdateErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, Message, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use super::{ArchiveJob, ArchivePart, ArchiveRecording, WorkItem};
use crate::config::FleetSettings;
use crate::connect::causes;
use crate::fleet::{FleetStore, bucket_config, entries};

/// How long a machine may be silent before its part is given to another.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(20);

/// How long a message is known, so that it is not queued twice. Later, the state of its recording tells.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3600);

/// The limit of a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// A connection to the bucket and the queue.
pub(super) struct ArchiveStore {
    store: FleetStore,
    context: Context,
    fleet: String,
    bucket: OnceCell<kv::Store>,
    queue: OnceCell<stream::Stream>,
}

/// A key and its revision.
pub(super) type Revised<T> = (T, u64);

/// All keys of a job.
#[derive(Default)]
pub(super) struct JobKeys {
    pub(super) job: Option<Revised<ArchiveJob>>,
    pub(super) recordings: BTreeMap<String, Revised<ArchiveRecording>>,
    /// By recording and number.
    pub(super) parts: BTreeMap<(String, usize), Revised<ArchivePart>>,
}

pub(super) fn job_key(job: &str) -> String {
    format!("{job}.job")
}

pub(super) fn recording_key(job: &str, id: &str) -> String {
    format!("{job}.recording.{id}")
}

pub(super) fn part_key(item: &WorkItem) -> String {
    format!("{}.part.{}.{}", item.job, item.recording, item.part)
}

/// A change that another one has overtaken, or a store that does not answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreFailure {
    Conflict,
    Unavailable(String),
}

impl StoreFailure {
    pub(super) fn text(self) -> String {
        match self {
            Self::Conflict => "another machine has changed it meanwhile; retry".to_owned(),
            Self::Unavailable(text) => text,
        }
    }
}

fn unavailable(what: &str, error: &(dyn std::error::Error + 'static)) -> StoreFailure {
    let advice = "start nats-server with -js, and give this login the rights of deploy/nats/nats-server.conf";
    StoreFailure::Unavailable(format!("{what}: {}; {advice}", causes(error)))
}

impl ArchiveStore {
    pub(super) async fn connect(settings: &FleetSettings, user: &str) -> Result<Self, String> {
        let store = FleetStore::connect(settings, user).await.map_err(|e| e.to_string())?;
        let (context, fleet) = (store.context().clone(), settings.name.clone());
        Ok(Self { store, context, fleet, bucket: OnceCell::new(), queue: OnceCell::new() })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.store.is_connected()
    }

    async fn bucket(&self) -> Result<&kv::Store, StoreFailure> {
        let open = || async {
            let name = format!("touchline-{}-archive", self.fleet);
            if let Ok(bucket) = self.context.get_key_value(&name).await {
                return Ok(bucket);
            }
            // Another machine may create it at the same time.
            let description = "recordings that a fleet of Touchline scores";
            let created = self.context.create_stream(bucket_config(&name, description)).await;
            self.context.get_key_value(&name).await.map_err(|e| match created {
                Err(created) => unavailable(&format!("cannot create the bucket {name}"), &created),
                Ok(_) => unavailable(&format!("cannot open the bucket {name}"), &e),
            })
        };
        self.bucket.get_or_try_init(open).await
    }

    async fn queue(&self) -> Result<&stream::Stream, StoreFailure> {
        let open = || async {
            let name = format!("touchline-{}-work", self.fleet);
            if let Ok(queue) = self.context.get_stream(&name).await {
                return Ok(queue);
            }
            let config = stream::Config {
                name: name.clone(),
                description: Some("parts of recordings that a fleet of Touchline scores".to_owned()),
                subjects: vec![format!("touchline-work.{}.>", self.fleet)],
                retention: stream::RetentionPolicy::WorkQueue,
                duplicate_window: DUPLICATE_WINDOW,
                num_replicas: 1,
                ..stream::Config::default()
            };
            let created = self.context.create_stream(config).await;
            self.context.get_stream(&name).await.map_err(|e| match created {
                Err(created) => unavailable(&format!("cannot create the queue {name}"), &created),
                Ok(_) => unavailable(&format!("cannot open the queue {name}"), &e),
            })
        };
        self.queue.get_or_try_init(open).await
    }

    /// The subject of a job's messages.
    fn subject(&self, pack: &str, job: &str) -> String {
        format!("touchline-work.{}.{}.{job}", self.fleet, digest(pack))
    }

    /// The consumer of the machines with a pack.
    pub(super) async fn consumer(&self, manifest_sha256: &str) -> Result<PullConsumer, StoreFailure> {
        let name = format!("pack-{}", digest(manifest_sha256));
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some("machines with this pack".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // Machines count the tries themselves: a server tells nobody of the last one.
            max_deliver: -1,
            max_ack_pending: -1,
            filter_subject: self.subject(manifest_sha256, "*"),
            ..pull::Config::default()
        };
        let consumer = self.queue().await?.get_or_create_consumer(&name, config).await;
        consumer.map_err(|e| unavailable(&format!("cannot open the consumer {name}"), &e))
    }

    /// Puts a message into the queue. One with the same id is not repeated.
    pub(super) async fn send(&self, item: &WorkItem, pack: &str) -> Result<(), StoreFailure> {
        self.queue().await?;
        let json = serde_json::to_vec(item).expect("a work item is a struct of texts and numbers");
        let message = PublishMessage::build().payload(json.into()).message_id(item.message_id());
        let failed = |e: &(dyn std::error::Error + 'static)| unavailable("cannot queue a recording", e);
        let sent = self.context.send_publish(self.subject(pack, &item.job), message).await.map_err(|e| failed(&e))?;
        sent.await.map(drop).map_err(|e| failed(&e))
    }

    /// Removes the messages of a job.
    pub(super) async fn purge(&self, job: &str, pack: &str) -> Result<(), StoreFailure> {
        let purged = self.queue().await?.purge().filter(self.subject(pack, job)).await;
        purged.map(drop).map_err(|e| unavailable("cannot empty the queue", &e))
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Revised<T>>, StoreFailure> {
        let entry = self.bucket().await?.entry(key).await.map_err(|e| unavailable("cannot read the bucket", &e))?;
        let entry = entry.filter(|entry| entry.operation == Operation::Put);
        entry.map(|entry| value(&entry)).transpose()
    }

    /// Replaces the value of a key at a revision, or one that does not exist. Returns the new revision.
    pub(super) async fn write(
        &self,
        key: &str,
        value: &impl Serialize,
        revision: Option<u64>,
    ) -> Result<u64, StoreFailure> {
        let json = serde_json::to_vec(value).expect("records of jobs are structs with string keys").into();
        let bucket = self.bucket().await?;
        match revision {
            Some(revision) => bucket.update(key, json, revision).await.map_err(|e| match e.kind() {
                UpdateErrorKind::WrongLastRevision => StoreFailure::Conflict,
                _ => unavailable("cannot write to the bucket", &e),
            }),
            None => bucket.create(key, json).await.map_err(|e| match e.kind() {
                CreateErrorKind::AlreadyExists => StoreFailure::Conflict,
                _ => unavailable("cannot write to the bucket", &e),
            }),
        }
    }

    /// All keys of a job, or of all jobs.
    pub(super) async fn keys(&self, job: Option<&str>) -> Result<BTreeMap<String, JobKeys>, StoreFailure> {
        let read = async {
            let filter = job.map_or_else(|| ">".to_owned(), |job| format!("{job}.>"));
            let entries = entries(self.bucket().await?, &filter).await;
            let mut jobs = BTreeMap::new();
            for entry in entries.map_err(|e| unavailable("cannot read the bucket", &*e))?.values() {
                take(&mut jobs, entry)?;
            }
            Ok(jobs)
        };
        let late = || StoreFailure::Unavailable(format!("no answer within {} s; retry", REQUEST_LIMIT.as_secs()));
        timeout(REQUEST_LIMIT, read).await.map_err(|_| late())?
    }
}

/// The next message for a consumer; `None` if there is none within `limit`.
pub(super) async fn next_message(consumer: &PullConsumer, limit: Duration) -> Result<Option<Message>, String> {
    let messages = consumer.batch().max_messages(1).expires(limit).messages().await;
    let mut messages = messages.map_err(|e| causes(&e))?;
    messages.next().await.transpose().map_err(|e| e.to_string())
}

/// Messages that wait for a consumer.
pub(super) async fn waiting(consumer: &PullConsumer) -> Option<u64> {
    consumer.get_info().await.ok().map(|info| info.num_pending)
}

/// The part of a SHA-256 that names it in subjects.
fn digest(sha256: &str) -> &str {
    sha256.get(..16).unwrap_or(sha256)
}

fn value<T: DeserializeOwned>(entry: &kv::Entry) -> Result<Revised<T>, StoreFailure> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Ok((value, entry.revision)),
        Err(e) => Err(StoreFailure::Unavailable(format!("the key {} is damaged: {e}; delete it", entry.key))),
    }
}

fn take(jobs: &mut BTreeMap<String, JobKeys>, entry: &kv::Entry) -> Result<(), StoreFailure> {
    let parts: Vec<&str> = entry.key.split('.').collect();
    match parts[..] {
        [job, "job"] => jobs.entry(job.to_owned()).or_default().job = Some(value(entry)?),
        [job, "recording", id] => {
            let recording = value(entry)?;
            jobs.entry(job.to_owned()).or_default().recordings.insert(id.to_owned(), recording);
        }
        [job, "part", id, number] => {
            let (part, number) = (value(entry)?, number.parse().unwrap_or(0));
            jobs.entry(job.to_owned()).or_default().parts.insert((id.to_owned(), number), part);
        }
        _ => {}
    }
    Ok(())
}
