//! What a person does with jobs: submits, retries and cancels them, and looks how far they are.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::objects::{FoundObject, ObjectPlace};
use super::store::{ArchiveStore, JobKeys, StoreFailure, job_key, recording_key};
use super::task::ScoreVariables;
use super::view::JobView;
use super::{ArchiveJob, ArchiveRecording, RecordingState, WorkItem};
use crate::config::FleetSettings;
use touchline_core::clock::Clock;
use touchline_core::decision::PackStamp;
use touchline_core::error::{Error, Result};

/// A job to submit.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its name: 1 to 64 letters, digits, '-' and '_'.
    pub name: String,
    /// Address of the store of results.
    pub results: String,
    /// The pack that decides.
    pub pack: PackStamp,
    /// The settings.
    pub variables: ScoreVariables,
    /// Length of the parts, seconds.
    pub part_seconds: u64,
}

/// What was submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Recordings that are new.
    pub added: usize,
    /// Recordings that the job had already.
    pub known: usize,
}

/// A connection to the jobs of a fleet. Its methods wait.
pub struct ArchiveAdmin {
    store: ArchiveStore,
    runtime: Runtime,
    place: String,
    clock: Arc<dyn Clock>,
}

/// Whether `name` can be the name of a job. It is a part of keys and subjects.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

impl ArchiveAdmin {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Output`] if the server cannot be reached.
    pub fn connect(settings: &FleetSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime: {e}")))?;
        let place = settings.sink.receiver.shown();
        let store = runtime.block_on(ArchiveStore::connect(settings, "command-line"));
        let store = store.map_err(|e| Error::output(&place, e, "then retry"))?;
        Ok(Self { store, runtime, place, clock })
    }

    fn failed(&self, failure: StoreFailure) -> Error {
        Error::output(&self.place, failure.text(), "check the server and the rights of this login")
    }

    /// The recordings at an address: the object there, or those below it for whose names `is_wanted` is true.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that cannot be used, [`Error::Source`] if it cannot be read.
    pub fn find(&self, url: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<FoundObject>> {
        let place = ObjectPlace::open(url).map_err(Error::Usage)?;
        let found = self.runtime.block_on(place.list(is_wanted));
        let found = found.map_err(|e| Error::source_error(url, e, "check the address"))?;
        if found.is_empty() {
            return Err(Error::source_error(url, "there is no recording", "check the address"));
        }
        Ok(found)
    }

    /// Submits recordings. What the job has already is not scored again.
    ///
    /// # Errors
    /// [`Error::Usage`] if the job exists with other settings, [`Error::Output`] if the results cannot be written or the server does not
    /// acknowledge.
    pub fn submit(&self, new: &NewJob, recordings: &[FoundObject]) -> Result<Submitted> {
        if !is_name(&new.name) {
            let text = format!("job name {:?} is ill-formed; use 1 to 64 letters, digits, '-' and '_'", new.name);
            return Err(Error::Usage(text));
        }
        let results = ObjectPlace::open(&new.results).map_err(Error::Usage)?;
        self.runtime.block_on(async {
            let job = self.job(new).await?;
            // What was asked, beside the results. It fails at once where a machine would fail later.
            let json = serde_json::to_vec_pretty(&job).expect("a job is a struct with string keys");
            let written = results.child(&new.name).child("job.json").put(json).await;
            written.map_err(|e| Error::output("the results", e, "then submit again"))?;
            let mut submitted = Submitted::default();
            for object in recordings {
                let recording = ArchiveRecording::new(object);
                let (id, key) = (recording.id(&job), recording_key(&new.name, &recording.id(&job)));
                let known = match self.store.write(&key, &recording, None).await {
                    Ok(_) => {
                        submitted.added += 1;
                        Some(recording)
                    }
                    Err(StoreFailure::Conflict) => {
                        submitted.known += 1;
                        let known = self.store.read(&key).await.map_err(|e| self.failed(e))?;
                        known.map(|(known, _): (ArchiveRecording, u64)| known)
                    }
                    Err(e) => return Err(self.failed(e)),
                };
                let is_untouched = |known: &ArchiveRecording| {
                    known.attempt == 0 && known.state == RecordingState::Open && known.parts.is_empty()
                };
                // Also if it was there: a submission may have ended between the two. The queue drops what it has.
                if known.as_ref().is_some_and(is_untouched) {
                    let item = WorkItem { job: new.name.clone(), recording: id, part: 0, attempt: 0 };
                    self.store.send(&item, &job.manifest_sha256).await.map_err(|e| self.failed(e))?;
                }
            }
            Ok(submitted)
        })
    }

    /// The job of a submission, new or as it is.
    async fn job(&self, new: &NewJob) -> Result<ArchiveJob> {
        let job = ArchiveJob {
            results: new.results.clone(),
            pack: new.pack.name.clone(),
            manifest_sha256: new.pack.manifest_sha256.clone(),
            variables: new.variables.clone(),
            part_seconds: new.part_seconds,
            submitted_ns: self.clock.unix_ns(),
            is_cancelled: false,
        };
        let key = job_key(&new.name);
        match self.store.write(&key, &job, None).await {
            Ok(_) => return Ok(job),
            Err(StoreFailure::Conflict) => {}
            Err(e) => return Err(self.failed(e)),
        }
        let known = self.store.read::<ArchiveJob>(&key).await.map_err(|e| self.failed(e))?;
        let Some((known, _)) = known else { return Err(self.failed(StoreFailure::Conflict)) };
        if (ArchiveJob { submitted_ns: known.submitted_ns, is_cancelled: false, ..job })
            != (ArchiveJob { is_cancelled: false, ..known.clone() })
        {
            let text = format!(
                "job {:?} exists with another pack, other settings or other results; choose another name",
                new.name
            );
            return Err(Error::Usage(text));
        }
        if known.is_cancelled {
            let text = format!("job {:?} was cancelled; continue it with `touchline fleet score retry {0}`", new.name);
            return Err(Error::Usage(text));
        }
        Ok(known)
    }

    fn keys(&self, name: &str) -> Result<JobKeys> {
        let all = self.runtime.block_on(self.store.keys(Some(name))).map_err(|e| self.failed(e))?;
        let keys = all.into_iter().find(|(job, keys)| job == name && keys.job.is_some());
        let unknown = || Error::Usage(format!("there is no job {name:?}; `touchline fleet score status` lists them"));
        keys.map(|(_, keys)| keys).ok_or_else(unknown)
    }

    /// How far a job is, or all.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none of that name, [`Error::Output`] if the server does not answer.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<JobView>> {
        let now_ns = self.clock.unix_ns();
        if let Some(name) = name {
            return Ok(JobView::new(name, &self.keys(name)?, now_ns).into_iter().collect());
        }
        let all = self.runtime.block_on(self.store.keys(None)).map_err(|e| self.failed(e))?;
        Ok(all.iter().filter_map(|(name, keys)| JobView::new(name, keys, now_ns)).collect())
    }

    /// Queues the recordings that were set aside again, and after a cancellation all that are not done. Returns how many.
    ///
    /// # Errors
    /// As [`ArchiveAdmin::status`].
    pub fn retry(&self, name: &str) -> Result<usize> {
        let keys = self.keys(name)?;
        let Some((job, revision)) = &keys.job else { return Ok(0) };
        self.runtime.block_on(async {
            if job.is_cancelled {
                let job = ArchiveJob { is_cancelled: false, ..job.clone() };
                let written = self.store.write(&job_key(name), &job, Some(*revision)).await;
                written.map_err(|e| self.failed(e))?;
            }
            let mut count = 0;
            for (id, (recording, revision)) in &keys.recordings {
                let is_open = job.is_cancelled && recording.state == RecordingState::Open;
                if !is_open && !matches!(recording.state, RecordingState::SetAside { .. }) {
                    continue;
                }
                let attempt = recording.attempt + 1;
                let again =
                    ArchiveRecording { state: RecordingState::Open, parts: Vec::new(), attempt, ..recording.clone() };
                let written = self.store.write(&recording_key(name, id), &again, Some(*revision)).await;
                written.map_err(|e| self.failed(e))?;
                let item = WorkItem { job: name.to_owned(), recording: id.clone(), part: 0, attempt };
                self.store.send(&item, &job.manifest_sha256).await.map_err(|e| self.failed(e))?;
                count += 1;
            }
            Ok(count)
        })
    }

    /// Cancels a job. Machines stop working on it within seconds. Its results stay.
    ///
    /// # Errors
    /// As [`ArchiveAdmin::status`].
    pub fn cancel(&self, name: &str) -> Result<()> {
        let keys = self.keys(name)?;
        let Some((job, revision)) = keys.job else { return Ok(()) };
        self.runtime.block_on(async {
            let cancelled = ArchiveJob { is_cancelled: true, ..job.clone() };
            let written = self.store.write(&job_key(name), &cancelled, Some(revision)).await;
            written.map_err(|e| self.failed(e))?;
            self.store.purge(name, &job.manifest_sha256).await.map_err(|e| self.failed(e))
        })
    }
}
