//! Works on a message of the queue: from the state that the bucket has of its part to a durable result, or a reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::objects::ObjectPlace;
use super::process::{ProcessNews, TaskProcess};
use super::store::{ACK_WAIT, ArchiveStore, Revised, StoreFailure, job_key, part_key, recording_key};
use super::task::{ArchiveTask, OUTCOMES, RECORDS, TABLE, TaskAnswer, TaskStep};
use super::worker::PackDirectory;
use super::{ArchiveJob, ArchivePart, ArchiveRecording, RecordingState, TRIES, WorkItem};
use crate::metrics::{ArchiveEnd, Metrics};
use touchline_core::clock::Clock;

/// Between two messages that the work continues. Several fit into the time after which it would be given to another machine.
const KEEP_ALIVE: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 4);

/// The pause before a part that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What the machine wants of the work on a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkControl {
    Go,
    /// Live streams need the processor.
    Pause,
    /// The program ends: the part goes back to the queue.
    GiveBack,
}

/// What all parts share.
pub(super) struct WorkBench {
    pub(super) store: ArchiveStore,
    pub(super) program: PathBuf,
    pub(super) pack: PackDirectory,
    /// Name and session of this machine.
    pub(super) worker: (String, u64),
    /// Folder for copies of recordings and for results on their way.
    pub(super) folder: PathBuf,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
}

/// Why a part has no result.
enum WorkFailure {
    /// It counts as a try.
    Failed(String),
    /// The program ends.
    GivenBack,
    /// The job is cancelled, or the recording begun anew.
    Obsolete,
    /// NATS does not answer. Another machine gets the message.
    Unavailable(String),
}

impl From<StoreFailure> for WorkFailure {
    fn from(failure: StoreFailure) -> Self {
        Self::Unavailable(failure.text())
    }
}

/// A part that this machine works on.
pub(super) struct PartWork<'a> {
    bench: &'a WorkBench,
    item: WorkItem,
    message: &'a Message,
    job: ArchiveJob,
    recording: Revised<ArchiveRecording>,
    pub(super) part: Revised<ArchivePart>,
    folder: PathBuf,
    control: watch::Receiver<WorkControl>,
}

/// Works on a message until it is acknowledged or given back.
pub(super) async fn work(bench: &WorkBench, message: &Message, control: watch::Receiver<WorkControl>) {
    let answered = match serde_json::from_slice::<WorkItem>(&message.payload) {
        Ok(item) => match begin(bench, item, message, control).await {
            Ok(Some(work)) => work.run().await,
            Ok(None) => message.ack().await,
            Err(failure) => {
                tracing::warn!("archive: {}", failure.text());
                message.ack_with(AckKind::Nak(Some(RETRY))).await
            }
        },
        Err(e) => {
            tracing::error!("archive: a message of the queue is damaged and was removed: {e}");
            message.ack_with(AckKind::Term).await
        }
    };
    if let Err(e) = answered {
        // It comes again, and the bucket tells what was done.
        tracing::warn!("archive: a message could not be acknowledged: {e}");
    }
}

/// Takes the part for this machine; `None` if there is nothing to do.
pub(super) async fn begin<'a>(
    bench: &'a WorkBench,
    item: WorkItem,
    message: &'a Message,
    control: watch::Receiver<WorkControl>,
) -> Result<Option<PartWork<'a>>, StoreFailure> {
    let store = &bench.store;
    let Some((job, _)) = store.read::<ArchiveJob>(&job_key(&item.job)).await? else { return Ok(None) };
    let recording = store.read::<ArchiveRecording>(&recording_key(&item.job, &item.recording)).await?;
    let is_current = |(recording, _): &Revised<ArchiveRecording>| {
        recording.state == RecordingState::Open && recording.attempt == item.attempt && !job.is_cancelled
    };
    let Some(recording) = recording.filter(is_current) else { return Ok(None) };
    let key = part_key(&item);
    let known = store.read::<ArchivePart>(&key).await?;
    let revision = known.as_ref().map(|(_, revision)| *revision);
    let known = known.map(|(part, _)| part).filter(|part| part.attempt == item.attempt);
    let mut part = known.unwrap_or_else(|| ArchivePart { attempt: item.attempt, ..ArchivePart::default() });
    let number = message.info().map_or(0, |info| info.stream_sequence);
    if part.seconds.is_none()
        && let Some((node, _)) = part.worker.take()
    {
        if part.message != number {
            // Another message of the same part is worked on.
            return Ok(None);
        }
        part.tries += 1;
        part.reason = Some(format!("machine {node} was lost while it worked on it"));
        bench.metrics.archive().ended(ArchiveEnd::Lost);
    }
    if part.seconds.is_none() {
        (part.worker, part.message) = (Some(bench.worker.clone()), number);
    }
    let revision = store.write(&key, &part, revision).await?;
    let folder = bench.folder.join(item.message_id());
    Ok(Some(PartWork { bench, item, message, job, recording, part: (part, revision), folder, control }))
}

impl PartWork<'_> {
    async fn run(mut self) -> Result<(), async_nats::Error> {
        // What an earlier process of this machine left.
        let _ = std::fs::remove_dir_all(&self.folder);
        let result = if self.part.0.seconds.is_none() && self.part.0.tries >= TRIES {
            let reason = self.part.0.reason.clone().unwrap_or_default();
            self.set_aside(&reason).await
        } else {
            match std::fs::create_dir_all(&self.folder) {
                Ok(()) => self.result().await,
                Err(e) => Err(WorkFailure::Failed(format!("{}: {e}; check the disk", self.folder.display()))),
            }
        };
        // Only space is lost.
        let _ = std::fs::remove_dir_all(&self.folder);
        let ends = self.bench.metrics.archive();
        match result {
            Ok(()) => self.message.double_ack().await,
            Err(WorkFailure::Obsolete) => self.message.ack().await,
            Err(WorkFailure::GivenBack) => {
                ends.ended(ArchiveEnd::GivenBack);
                self.part.0.worker = None;
                // If it is not written, the next machine counts it as a try.
                let _ = self.write_part().await;
                self.message.ack_with(AckKind::Nak(None)).await
            }
            Err(WorkFailure::Unavailable(text)) => {
                tracing::warn!("archive: {}: {text}", self.recording.0.name);
                self.message.ack_with(AckKind::Nak(Some(RETRY))).await
            }
            Err(WorkFailure::Failed(reason)) => {
                ends.ended(ArchiveEnd::Failed);
                tracing::warn!("archive: {}: {reason}", self.recording.0.name);
                let part = &mut self.part.0;
                (part.worker, part.reason) = (None, Some(reason.clone()));
                part.tries += 1;
                let is_last = part.tries >= TRIES;
                let done = match self.write_part().await {
                    Ok(()) if is_last => self.set_aside(&reason).await.is_ok(),
                    _ => false,
                };
                match done {
                    true => self.message.double_ack().await,
                    false => self.message.ack_with(AckKind::Nak(Some(RETRY))).await,
                }
            }
        }
    }

    /// Brings the part to its result.
    async fn result(&mut self) -> Result<(), WorkFailure> {
        let results = ObjectPlace::open(&self.job.results).map_err(WorkFailure::Failed)?.child(&self.item.job);
        if self.part.0.seconds.is_none() {
            let answer = self.decide().await?;
            match answer {
                TaskAnswer::Parts(parts) => return self.divide(parts).await,
                TaskAnswer::Damaged => return self.begin_anew().await,
                TaskAnswer::Scored { seconds, gaps } => {
                    self.publish(&results).await?;
                    self.done(seconds, gaps).await?;
                    return self.decided(seconds + gaps).await;
                }
                TaskAnswer::Decided { seconds } => {
                    let place = self.outcomes_of(&results, self.item.part);
                    place.put_file(&self.folder.join(OUTCOMES)).await.map_err(WorkFailure::Failed)?;
                    self.decided(seconds).await?;
                }
            }
        }
        self.join(&results).await
    }

    /// Runs the step of the part.
    async fn decide(&mut self) -> Result<TaskAnswer, WorkFailure> {
        let recording = &self.recording.0;
        let place = ObjectPlace::open(&recording.url).map_err(WorkFailure::Failed)?;
        let step = match (self.item.part, recording.is_whole) {
            (0, true) => TaskStep::Begin { part_seconds: u64::MAX / 4 },
            (0, false) => TaskStep::Begin { part_seconds: self.job.part_seconds },
            (number, _) => match recording.parts.get(number - 1) {
                Some(part) => TaskStep::Part(part.clone()),
                None => return Err(WorkFailure::Obsolete),
            },
        };
        let object = recording.object();
        let fetching = self.folder.join("copy");
        std::fs::create_dir_all(&fetching)
            .map_err(|e| WorkFailure::Failed(format!("{}: {e}; check the disk", fetching.display())))?;
        let file = {
            let fetch = place.fetch(&object, &fetching);
            let fetched = self.alive(fetch).await?;
            fetched.map_err(WorkFailure::Failed)?
        };
        self.process(file, step).await
    }

    /// The task of a step.
    fn task(&self, recording: PathBuf, step: TaskStep) -> ArchiveTask {
        ArchiveTask {
            recording,
            name: self.recording.0.name.clone(),
            pack: (self.bench.pack)(),
            manifest_sha256: self.job.manifest_sha256.clone(),
            variables: self.job.variables.clone(),
            folder: self.folder.clone(),
            step,
        }
    }

    /// Runs a process to its answer.
    async fn process(&mut self, recording: PathBuf, step: TaskStep) -> Result<TaskAnswer, WorkFailure> {
        let task = self.task(recording, step);
        let mut process = TaskProcess::start(&self.bench.program, &task).await.map_err(WorkFailure::Failed)?;
        let mut alive = interval(KEEP_ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match *self.control.borrow_and_update() {
                WorkControl::Go => process.stop(false),
                WorkControl::Pause => process.stop(true),
                WorkControl::GiveBack => return Err(WorkFailure::GivenBack),
            }
            tokio::select! {
                news = process.next() => match news {
                    ProcessNews::Decided(seconds) => self.bench.metrics.archive().decided(seconds),
                    ProcessNews::Ended(answer) => return answer.map_err(|reason| {
                        // The process knows only the copy.
                        WorkFailure::Failed(reason.replace(&*task.recording.to_string_lossy(), &task.name))
                    }),
                },
                _ = alive.tick() => self.is_wanted().await?,
                changed = self.control.changed() => if changed.is_err() {
                    return Err(WorkFailure::GivenBack);
                },
            }
        }
    }

    /// Waits for `work`, and says meanwhile that it continues.
    async fn alive<T>(&self, work: impl Future<Output = T>) -> Result<T, WorkFailure> {
        let mut control = self.control.clone();
        let mut work = std::pin::pin!(work);
        let mut alive = interval(KEEP_ALIVE);
        loop {
            if *control.borrow_and_update() == WorkControl::GiveBack {
                return Err(WorkFailure::GivenBack);
            }
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = alive.tick() => self.is_wanted().await?,
                changed = control.changed() => if changed.is_err() {
                    return Err(WorkFailure::GivenBack);
                },
            }
        }
    }

    /// Says that the work continues, and checks that it is wanted.
    async fn is_wanted(&self) -> Result<(), WorkFailure> {
        // Without an answer the work continues: it may be acknowledged in time.
        if let Err(e) = self.message.ack_with(AckKind::Progress).await {
            tracing::debug!("archive: the server is not told that work continues: {e}");
        }
        match self.bench.store.read::<ArchiveJob>(&job_key(&self.item.job)).await {
            Ok(Some((job, _))) if !job.is_cancelled => Ok(()),
            Ok(_) => Err(WorkFailure::Obsolete),
            Err(_) => Ok(()),
        }
    }

    /// Queues the parts of a long recording.
    async fn divide(&mut self, parts: Vec<super::task::PartPlan>) -> Result<(), WorkFailure> {
        let count = parts.len();
        self.recording.0.parts = parts;
        self.write_recording().await?;
        for part in 1..=count {
            let item = WorkItem { part, ..self.item.clone() };
            self.bench.store.send(&item, &self.job.manifest_sha256).await?;
        }
        self.decided(0).await
    }

    /// A part is damaged: the recording is scored in one piece.
    async fn begin_anew(&mut self) -> Result<(), WorkFailure> {
        tracing::info!("archive: {}: it is damaged, and is scored in one piece", self.recording.0.name);
        let recording = &mut self.recording.0;
        (recording.is_whole, recording.parts) = (true, Vec::new());
        recording.attempt += 1;
        let item = WorkItem { part: 0, attempt: recording.attempt, ..self.item.clone() };
        self.write_recording().await?;
        Ok(self.bench.store.send(&item, &self.job.manifest_sha256).await?)
    }

    /// Votes over all parts, if they are all decided.
    async fn join(&mut self, results: &ObjectPlace) -> Result<(), WorkFailure> {
        let count = self.recording.0.parts.len();
        if self.item.part == 0 {
            if count == 0 {
                return Err(WorkFailure::Obsolete);
            }
            // They may not all have been queued.
            for part in 1..=count {
                let item = WorkItem { part, ..self.item.clone() };
                self.bench.store.send(&item, &self.job.manifest_sha256).await?;
            }
            return Ok(());
        }
        for part in 1..=count {
            let key = part_key(&WorkItem { part, ..self.item.clone() });
            let known = self.bench.store.read::<ArchivePart>(&key).await?;
            let is_decided =
                |(part, _): Revised<ArchivePart>| part.attempt == self.item.attempt && part.seconds.is_some();
            if !known.is_some_and(is_decided) {
                // The machine that ends the last one finds this one.
                return Ok(());
            }
        }
        let mut parts = Vec::new();
        for part in 1..=count {
            let path = self.folder.join(format!("part-{part}.jsonl"));
            let place = self.outcomes_of(results, part);
            self.alive(place.get(&path)).await?.map_err(WorkFailure::Failed)?;
            parts.push(path);
        }
        let answer = self.process(PathBuf::new(), TaskStep::Join { parts }).await?;
        let TaskAnswer::Scored { seconds, gaps } = answer else {
            return Err(WorkFailure::Failed("the parts do not follow each other".to_owned()));
        };
        self.publish(results).await?;
        self.done(seconds, gaps).await?;
        for part in 1..=count {
            self.outcomes_of(results, part).delete().await;
        }
        Ok(())
    }

    /// Where the decided seconds of a part are until they are joined.
    fn outcomes_of(&self, results: &ObjectPlace, part: usize) -> ObjectPlace {
        results.child(&format!("parts/{}/{}-{part}.jsonl", self.item.recording, self.item.attempt))
    }

    /// Stores the records and the table.
    async fn publish(&self, results: &ObjectPlace) -> Result<(), WorkFailure> {
        let name = result_name(&self.recording.0.name);
        for (file, extension) in [(RECORDS, "jsonl"), (TABLE, "parquet")] {
            let place = results.child(&format!("{name}.{extension}"));
            let path: &Path = &self.folder.join(file);
            self.alive(place.put_file(path)).await?.map_err(WorkFailure::Failed)?;
        }
        Ok(())
    }

    /// The seconds of the part are decided, and durable.
    async fn decided(&mut self, seconds: u64) -> Result<(), WorkFailure> {
        let part = &mut self.part.0;
        (part.seconds, part.ended_ns, part.worker) = (Some(seconds), self.bench.clock.unix_ns(), None);
        self.bench.metrics.archive().ended(ArchiveEnd::Done);
        Ok(self.write_part().await?)
    }

    async fn done(&mut self, seconds: u64, gaps: u64) -> Result<(), WorkFailure> {
        self.recording.0.state = RecordingState::Done { seconds, gaps, at_ns: self.bench.clock.unix_ns() };
        self.write_recording().await?;
        tracing::info!("archive: {}: scored", self.recording.0.name);
        Ok(())
    }

    async fn set_aside(&mut self, reason: &str) -> Result<(), WorkFailure> {
        self.bench.metrics.archive().set_aside();
        tracing::error!("archive: {}: set aside after {TRIES} tries: {reason}", self.recording.0.name);
        self.recording.0.state = RecordingState::SetAside { reason: reason.to_owned() };
        self.write_recording().await
    }

    async fn write_part(&mut self) -> Result<(), StoreFailure> {
        let (part, revision) = &mut self.part;
        *revision = self.bench.store.write(&part_key(&self.item), part, Some(*revision)).await?;
        Ok(())
    }

    /// Writes the recording, unless another machine has done so: two that join it write the same.
    async fn write_recording(&mut self) -> Result<(), WorkFailure> {
        let key = recording_key(&self.item.job, &self.item.recording);
        let (recording, revision) = &mut self.recording;
        match self.bench.store.write(&key, recording, Some(*revision)).await {
            Ok(written) => *revision = written,
            Err(StoreFailure::Conflict) => return Err(WorkFailure::Obsolete),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

/// The name of a recording in the store of results: its address without the scheme.
fn result_name(name: &str) -> &str {
    name.split_once("://").map_or(name, |(_, rest)| rest).trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_names_of_their_recordings() {
        assert_eq!(result_name("s3://bucket/2024/a b.mp4"), "bucket/2024/a b.mp4");
        assert_eq!(result_name("/srv/archive/a.ts"), "srv/archive/a.ts");
    }
}
