//! Archives: recordings that the machines of a fleet score when live streams leave room.
//!
//! A job and its recordings are keys of a bucket of NATS JetStream, and each recording is a message in a work queue. A machine takes a message,
//! and divides a long recording into parts, which are messages as well. It acknowledges a message only after the result is durable in the
//! store of results, so a machine that is lost gives its work back.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `JOB.job` | [`ArchiveJob`] | who submits, retries and cancels |
//! | `JOB.recording.ID` | [`ArchiveRecording`] | who submits, and the machine that works on it |
//! | `JOB.part.ID.N` | [`ArchivePart`] | the machine that works on it |
//!
//! Each part decodes the sound from the begin of the recording, and pictures from a key picture before it, and keeps the decisions of its own
//! seconds. The machine that ends the last part votes over all of them in order, so the records are those that one machine would write
//! ([`task`], [`join`]). Parts can be worked on twice, and give the same bytes.

pub mod admin;
pub mod join;
pub mod objects;
mod process;
pub mod room;
mod store;
pub mod task;
#[cfg(test)]
mod tests;
pub mod view;
mod work;
mod worker;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::objects::FoundObject;
use self::task::{PartPlan, ScoreVariables};

pub use admin::{ArchiveAdmin, NewJob, Submitted};
pub use worker::{ArchiveHost, ArchiveParts, LiveLoad, PackDirectory};

/// How often a part is tried.
pub const TRIES: u32 = 3;

/// A job: recordings that are scored with the same pack and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveJob {
    /// Address of the store of results. The results of a job are below its name.
    pub results: String,
    /// Name of the pack.
    pub pack: String,
    /// SHA-256 of the pack's manifest. Machines with another pack do not take its recordings.
    pub manifest_sha256: String,
    /// The settings.
    pub variables: ScoreVariables,
    /// Length of the parts, seconds.
    pub part_seconds: u64,
    /// When it was submitted first, nanoseconds since 1970-01-01 UTC.
    pub submitted_ns: i64,
    /// It is cancelled: its messages are dropped.
    pub is_cancelled: bool,
}

/// How far a recording is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum RecordingState {
    /// Its results are not there yet.
    Open,
    /// The results are durable.
    Done {
        /// Seconds with a decision.
        seconds: u64,
        /// Seconds without.
        gaps: u64,
        /// When, nanoseconds since 1970-01-01 UTC.
        at_ns: i64,
    },
    /// It was tried often enough.
    SetAside {
        /// Why.
        reason: String,
    },
}

/// A recording of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecording {
    /// Its address.
    pub url: String,
    /// Its size, bytes.
    pub size: u64,
    /// Its version in the store.
    pub version: String,
    /// Its name in records.
    pub name: String,
    /// How far it is.
    #[serde(flatten)]
    pub state: RecordingState,
    /// Its parts. Empty before it is divided, and for short ones.
    pub parts: Vec<PartPlan>,
    /// It is scored in one piece, because it is damaged.
    pub is_whole: bool,
    /// How often it was begun anew. Messages of earlier attempts are dropped.
    pub attempt: u32,
}

impl ArchiveRecording {
    /// A recording that was found in a store.
    pub fn new(object: &FoundObject) -> Self {
        let FoundObject { url, name, size, version } = object.clone();
        Self { url, size, version, name, state: RecordingState::Open, parts: Vec::new(), is_whole: false, attempt: 0 }
    }

    /// The object that it was when it was submitted.
    pub fn object(&self) -> FoundObject {
        let Self { url, name, size, version, .. } = self;
        FoundObject { url: url.clone(), name: name.clone(), size: *size, version: version.clone() }
    }

    /// Its id in a job: the same recording, pack and settings have the same one.
    pub fn id(&self, job: &ArchiveJob) -> String {
        let mut hash = Sha256::new();
        let size = self.size.to_string();
        let ArchiveJob { manifest_sha256, variables, part_seconds: _, .. } = job;
        let variables = variables.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        for part in [&self.url, &size, &self.version, manifest_sha256].map(String::as_str).into_iter().chain(variables)
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a machine did with a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivePart {
    /// The attempt of the recording that it belongs to.
    pub attempt: u32,
    /// The machine that works on it, with its session.
    pub worker: Option<(String, u64)>,
    /// The number of the message that it works on.
    pub message: u64,
    /// How often it has failed.
    pub tries: u32,
    /// Why it failed last.
    pub reason: Option<String>,
    /// Seconds that are decided; `None` until all are.
    pub seconds: Option<u64>,
    /// When it ended, nanoseconds since 1970-01-01 UTC.
    pub ended_ns: i64,
}

/// A message of the work queue. Part 0 divides the recording, or scores a short one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkItem {
    pub(crate) job: String,
    pub(crate) recording: String,
    pub(crate) part: usize,
    pub(crate) attempt: u32,
}

impl WorkItem {
    /// Two messages with the same id are one.
    pub(crate) fn message_id(&self) -> String {
        format!("{}.{}.{}.{}", self.job, self.recording, self.attempt, self.part)
    }
}

#[cfg(test)]
mod record_tests {
    use super::*;

    pub(super) fn job() -> ArchiveJob {
        ArchiveJob {
            results: "file:///results".into(),
            pack: "compact".into(),
            manifest_sha256: "9d01".into(),
            variables: ScoreVariables::new(),
            part_seconds: 1200,
            submitted_ns: 0,
            is_cancelled: false,
        }
    }

    #[test]
    fn a_recording_is_itself_with_the_same_version_pack_and_settings() {
        let object =
            FoundObject { url: "s3://b/a.mp4".into(), name: "s3://b/a.mp4".into(), size: 7, version: "e".into() };
        let id = |object: &FoundObject, job: &ArchiveJob| ArchiveRecording::new(object).id(job);
        let same = id(&object, &job());
        assert_eq!(id(&object, &ArchiveJob { part_seconds: 60, submitted_ns: 5, ..job() }), same);
        assert_eq!(same.len(), 16);
        let variables = ScoreVariables::from([("TOUCHLINE_TIER".to_owned(), "full".to_owned())]);
        for other in [
            id(&FoundObject { version: "f".into(), ..object.clone() }, &job()),
            id(&FoundObject { size: 8, ..object.clone() }, &job()),
            id(&FoundObject { url: "s3://b/b.mp4".into(), ..object.clone() }, &job()),
            id(&object, &ArchiveJob { manifest_sha256: "9d02".into(), ..job() }),
            id(&object, &ArchiveJob { variables, ..job() }),
        ] {
            assert_ne!(other, same);
        }
    }

    #[test]
    fn records_are_json_with_flat_states() {
        let object =
            FoundObject { url: "s3://b/a.mp4".into(), name: "s3://b/a.mp4".into(), size: 7, version: "e".into() };
        let mut recording = ArchiveRecording::new(&object);
        recording.state = RecordingState::SetAside { reason: "no pictures".into() };
        let json = serde_json::to_string(&recording).unwrap();
        assert!(json.contains("\"state\":\"set-aside\",\"reason\":\"no pictures\""), "{json}");
        assert_eq!(serde_json::from_str::<ArchiveRecording>(&json).unwrap(), recording);
    }
}
