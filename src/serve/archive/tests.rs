//! The bucket and the queue of a real server with the deployed rights.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::objects::FoundObject;
use super::record_tests::job;
use super::store::{ArchiveStore, StoreFailure, job_key, next_message, recording_key};
use super::work::{WorkBench, WorkControl, begin};
use super::{ArchivePart, ArchiveRecording, RecordingState, TRIES, WorkItem};
use crate::deliver::tests::servers::Process;
use crate::fleet::deployed;
use crate::metrics::Metrics;
use touchline_core::clock::SystemClock;

struct QueueBench {
    runtime: Runtime,
    bench: WorkBench,
    item: WorkItem,
    _folder: TempDir,
    _server: Process,
}

impl QueueBench {
    /// A server whose job `j` has one recording, in the queue.
    fn start() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (server, settings) = deployed(folder.path())?;
        let store = runtime.block_on(ArchiveStore::connect(&settings, "a")).unwrap();
        let url = "file:///srv/a.mp4".to_owned();
        let object = FoundObject { name: "/srv/a.mp4".into(), url, size: 7, version: "1".into() };
        let recording = ArchiveRecording::new(&object);
        let item = WorkItem { job: "j".into(), recording: recording.id(&job()), part: 0, attempt: 0 };
        runtime.block_on(async {
            store.write(&job_key("j"), &job(), None).await.unwrap();
            store.write(&recording_key("j", &item.recording), &recording, None).await.unwrap();
            // The same message twice is one.
            store.send(&item, &job().manifest_sha256).await.unwrap();
            store.send(&item, &job().manifest_sha256).await.unwrap();
        });
        let bench = WorkBench {
            store,
            program: PathBuf::new(),
            pack: Box::new(PathBuf::new),
            worker: ("a".into(), 7),
            folder: folder.path().join("work"),
            metrics: Metrics::new(),
            clock: Arc::new(SystemClock::new()),
        };
        Some(Self { runtime, bench, item, _folder: folder, _server: server })
    }

    fn next(&self) -> Option<Message> {
        self.runtime.block_on(async {
            let consumer = self.bench.store.consumer(&job().manifest_sha256).await.unwrap();
            next_message(&consumer, Duration::from_secs(2)).await.unwrap()
        })
    }

    /// Takes the part of a message; `None` if there is nothing to do.
    fn begin(&self, message: &Message) -> Option<ArchivePart> {
        let (_to, control) = watch::channel(WorkControl::Go);
        let item = serde_json::from_slice(&message.payload).unwrap();
        let work = self.runtime.block_on(begin(&self.bench, item, message, control)).unwrap();
        work.map(|work| work.part.0)
    }

    fn give_back(&self, message: &Message) {
        self.runtime.block_on(message.ack_with(AckKind::Nak(None))).unwrap();
    }
}

#[test]
fn a_message_that_comes_again_is_one_of_a_lost_machine_and_another_one_is_dropped() {
    let Some(bench) = QueueBench::start() else { return };
    let first = bench.next().expect("the recording is in the queue");
    let part = bench.begin(&first).unwrap();
    assert_eq!((part.tries, part.worker), (0, Some(("a".into(), 7))));
    assert!(bench.next().is_none(), "the same message twice is one");
    for tries in 1..=TRIES {
        // The machine is lost: its message comes again, and its part has its name.
        bench.give_back(&first);
        let again = bench.next().unwrap();
        let part = bench.begin(&again).unwrap();
        assert_eq!(part.tries, tries);
        assert!(part.reason.unwrap().contains("machine a was lost"));
    }
    // Another message of the same part, while it is worked on.
    let (store, item) = (&bench.bench.store, &bench.item);
    bench.runtime.block_on(async {
        store.send(&WorkItem { part: 1, ..item.clone() }, &job().manifest_sha256).await.unwrap();
    });
    let mut other = bench.next().unwrap();
    other.message.payload = serde_json::to_vec(item).unwrap().into();
    assert_eq!(bench.begin(&other), None);
}

#[test]
fn what_is_done_cancelled_or_begun_anew_is_not_worked_on() {
    let Some(bench) = QueueBench::start() else { return };
    let message = bench.next().unwrap();
    let store = &bench.bench.store;
    let key = recording_key("j", &bench.item.recording);
    let set = |change: &dyn Fn(&mut ArchiveRecording)| {
        bench.runtime.block_on(async {
            let (mut recording, revision) = store.read::<ArchiveRecording>(&key).await.unwrap().unwrap();
            change(&mut recording);
            store.write(&key, &recording, Some(revision)).await.unwrap();
            // What was read before is overtaken.
            assert_eq!(store.write(&key, &recording, Some(revision)).await, Err(StoreFailure::Conflict));
        });
    };
    set(&|recording| recording.state = RecordingState::Done { seconds: 1, gaps: 0, at_ns: 0 });
    assert_eq!(bench.begin(&message), None);
    set(&|recording| (recording.state, recording.attempt) = (RecordingState::Open, 1));
    assert_eq!(bench.begin(&message), None, "it is a message of the attempt before");
    set(&|recording| recording.attempt = 0);
    assert!(bench.begin(&message).is_some());
    bench.runtime.block_on(async {
        let all = store.keys(Some("j")).await.unwrap();
        assert_eq!((all["j"].recordings.len(), all["j"].parts.len()), (1, 1));
        assert!(store.keys(Some("k")).await.unwrap().is_empty());
        let (job, revision) = all["j"].job.clone().unwrap();
        let cancelled = super::ArchiveJob { is_cancelled: true, ..job };
        store.write(&job_key("j"), &cancelled, Some(revision)).await.unwrap();
        store.purge("j", &cancelled.manifest_sha256).await.unwrap();
    });
    assert_eq!(bench.begin(&message), None);
    bench.give_back(&message);
    assert!(bench.next().is_none(), "the queue is empty");
}
