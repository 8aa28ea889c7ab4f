use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::{Contents, Store, StoreThread, schema};
use super::*;
use crate::config::HistorySettings;
use crate::hub::{Archive, HistoryFilter, KeptTime, StoredSegment};
use crate::live::StreamVote;
use crate::metrics::Metrics;
use crate::record::{FleetTenure, PublishingRight, Recorder, reader};
use crate::testing::{classes, predicted};
use touchline_core::clock::ManualClock;
use touchline_core::decision::SecondOutcome;
use touchline_core::item::Pace;
use touchline_core::vote::VoteConfig;

/// A machine that watches the stream `court`.
struct OtherNode {
    recorder: Recorder,
    vote: StreamVote,
    next: u64,
    /// Wall time of its first second, after that of the first machine.
    began_s: i64,
}

impl OtherNode {
    fn new(node: &str, epoch: u64, began_s: i64) -> Self {
        let tenure = FleetTenure::new(node.into(), PublishingRight::default());
        tenure.take(epoch);
        let recorder = Recorder::new("court", Arc::new(classes()), Pace::Live).with_tenure(Some(Arc::new(tenure)));
        Self { recorder, vote: StreamVote::new(VoteConfig::default(), 3, Pace::Live), next: 0, began_s }
    }

    fn play(&mut self, to: &mut Published, class: &str, seconds: u64) {
        for _ in 0..seconds {
            let mut outcome = predicted(self.next, class, 0.9).outcome;
            if let SecondOutcome::Predicted(second) = &mut outcome {
                second.wall.unix_ns += self.began_s * 1_000_000_000;
            }
            self.next += 1;
            let published = self.vote.take(outcome, 0, None, 0);
            self.recorder.published(&published).into_iter().for_each(|line| to.push(line));
        }
    }

    /// The machine hands the stream over.
    fn leave(mut self, to: &mut Published) {
        let (events, segments) = self.vote.finish();
        events.iter().for_each(|event| to.push(self.recorder.event(event, None)));
        segments.iter().for_each(|closed| to.push(self.recorder.segment(closed)));
    }
}

/// What JetStream has.
#[derive(Default)]
struct Published(Vec<FleetRecord>);

impl Published {
    fn push(&mut self, json: String) {
        let value: Value = serde_json::from_str(&json).unwrap();
        let kind = RecordKind::ALL.into_iter().find(|kind| value["type"] == kind.as_str()).unwrap();
        self.0.push(FleetRecord { sequence: self.0.len() as u64 + 1, kind, at_ms: 1_700_000_000_000, json });
    }

    fn of(&self, kind: RecordKind) -> Vec<&str> {
        self.0.iter().filter(|record| record.kind == kind).map(|record| record.json.as_str()).collect()
    }

    /// Delivers the records after a number.
    fn deliver(&self, store: &Store, after: u64) -> bool {
        let rest = &self.0[after as usize..];
        rest.chunks(37).all(|some| store.keep_fleet(&source("a"), some.to_vec()).blocking_recv().is_ok())
    }
}

fn source(node: &str) -> FleetSource {
    FleetSource { node: node.into(), created_ns: 5 }
}

struct TestFleet(tempfile::TempDir);

impl TestFleet {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("touchline.db")
    }

    fn open(&self) -> (Store, StoreThread, Contents) {
        let limits = HistorySettings { keep_s: u64::MAX, seconds_s: u64::MAX, max_bytes: u64::MAX };
        Store::open(&self.path(), limits, Metrics::new(), Arc::<ManualClock>::default()).unwrap()
    }

    /// A copy of the files as they are now: what a killed process leaves.
    fn killed(&self) -> TestFleet {
        let copy = TestFleet::new();
        for file in std::fs::read_dir(self.0.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.0.path().join(file.file_name())).unwrap();
        }
        copy
    }
}

fn filter() -> HistoryFilter {
    let (from_ms, to_ms) = (0, i64::MAX);
    let (streams, classes, kinds, after) = (None, None, None, None);
    HistoryFilter { streams, classes, kinds, from_ms, to_ms, after, newest_first: false, limit: 1000 }
}

/// Wall times of the seconds, after that of the first machine's first.
fn seconds(store: &Store) -> Vec<i64> {
    let lines = store.seconds("court", KeptTime::ALL).unwrap();
    let file = reader::read(&lines[..]).unwrap();
    assert_eq!(file.damaged, 0, "{:?}", file.damaged_lines);
    let Some(stream) = file.streams.get("court") else { return Vec::new() };
    stream.seconds().iter().map(|s| s.wall_ns.unwrap() / 1_000_000_000 - 1_700_000_000).collect()
}

fn segments(store: &Store) -> Vec<StoredSegment> {
    store.segments(&filter()).unwrap()
}

/// Begin and end of the segments as they are summed, milliseconds.
fn spans(path: &Path) -> Vec<(i64, i64)> {
    let connection = Connection::open(path).unwrap();
    let mut rows = connection.prepare("SELECT began_ms, ended_ms FROM segments ORDER BY began_ms").unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Machine, class and length of the segments, and whether they are open.
fn contents(store: &Store) -> Vec<(String, String, u64, bool)> {
    let of = |stored: StoredSegment| {
        let json: Value = serde_json::from_str(&stored.json).unwrap();
        let class = json["class"].as_str().unwrap_or_default().to_owned();
        (stored.node.unwrap_or_default(), class, json["seconds"].as_u64().unwrap(), stored.is_open)
    };
    segments(store).into_iter().map(of).collect()
}

#[test]
fn what_another_machine_publishes_is_stored_once_however_often_it_is_read() {
    let kept = TestFleet::new();
    let (store, thread, _) = kept.open();
    let mut published = Published::default();
    let mut other = OtherNode::new("b", 3, 0);
    for class in ["tennis", "soccer", "tennis"] {
        other.play(&mut published, class, 150);
    }
    published.push(other.recorder.state(&crate::record::StreamState::Playing, None, 0));
    published.push(other.recorder.state(&crate::record::StreamState::Removed, None, 0));
    assert!(published.deliver(&store, 0));
    let all: Vec<i64> = (0..450).collect();
    assert_eq!(seconds(&store), all);
    let closed: Vec<String> = segments(&store).into_iter().filter(|s| !s.is_open).map(|s| s.json).collect();
    assert_eq!(closed, published.of(RecordKind::Segment), "as the machine has closed them");
    let records = |store: &Store| {
        let mut records: Vec<String> = store.records(&filter()).unwrap().into_iter().map(|r| r.json).collect();
        records.sort_unstable();
        records
    };
    let mut expected = [published.of(RecordKind::Event), published.of(RecordKind::State)[..1].to_vec()].concat();
    expected.sort_unstable();
    assert_eq!(records(&store), expected);
    // A killed process lacks what waited in memory, and knows that.
    let killed = kept.killed();
    let (again, _again_thread, _) = killed.open();
    let position = again.fleet_position(&source("a")).unwrap();
    let is_second = |record: &&FleetRecord| record.kind == RecordKind::Second;
    let stored = published.0[..position as usize].iter().filter(is_second).count();
    assert_eq!(seconds(&again), all[..stored]);
    assert!((360..450).contains(&stored), "{stored}");
    assert!(published.deliver(&again, position));
    let as_before = |store: &Store| {
        assert_eq!(seconds(store), all);
        let open = segments(store).into_iter().filter(|s| s.is_open).count();
        let closed: Vec<String> = segments(store).into_iter().filter(|s| !s.is_open).map(|s| s.json).collect();
        assert!(open <= 1 && published.of(RecordKind::Segment).iter().all(|json| closed.iter().any(|c| c == json)));
        assert_eq!(records(store), expected);
    };
    as_before(&again);
    // All of it once more, and after an orderly end nothing is missing.
    assert!(published.deliver(&store, 0));
    as_before(&store);
    drop((store, thread));
    let (store, _thread, _) = kept.open();
    assert_eq!(store.fleet_position(&source("a")).unwrap(), published.0.len() as u64);
    assert_eq!(seconds(&store), all);
    assert_eq!(store.fleet_position(&FleetSource { created_ns: 6, ..source("a") }).unwrap(), 0, "another JetStream");
}

#[test]
fn own_records_are_stored_when_they_are_published_and_not_again() {
    let kept = TestFleet::new();
    let (store, _thread, _) = kept.open();
    let mut published = Published::default();
    OtherNode::new("a", 3, 0).play(&mut published, "tennis", 200);
    assert!(published.deliver(&store, 0));
    assert_eq!((seconds(&store).len(), segments(&store).len(), store.records(&filter()).unwrap().len()), (0, 0, 0));
}

#[test]
fn a_stream_that_moves_has_the_segments_of_both_machines_and_each_second_once() {
    let kept = TestFleet::new();
    let (store, _thread, _) = kept.open();
    let mut published = Published::default();
    let mut first = OtherNode::new("b", 1, 0);
    first.play(&mut published, "tennis", 200);
    // Its last second arrives late, after those of its successor, which has decided the last three as well.
    let late = published.0.pop().unwrap();
    let mut next = OtherNode::new("c", 2, 197);
    next.play(&mut published, "tennis", 20);
    published.push(late.json);
    first.leave(&mut published);
    next.play(&mut published, "tennis", 100);
    published.push(published.0[0].json.clone());
    assert!(published.deliver(&store, 0));
    assert_eq!(seconds(&store), (0..317).collect::<Vec<_>>());
    let found = contents(&store);
    let [(b, tennis, length, is_open), (c, .., still)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((b.as_str(), tennis.as_str(), *length, *is_open), ("b", "tennis", 200, false));
    assert_eq!((c.as_str(), *still), ("c", true), "both began with second 0 of run 0");
    // Both have seconds 197 to 199.
    let spans = spans(&kept.path());
    assert_eq!(spans[0].1, spans[1].0);
    assert_eq!(store.times(&[KeptTime::ALL]).unwrap()[0][0].ms, spans[1].1 - spans[0].0);
    // This machine takes it, and its segment ends the open one.
    OtherNode::new("a", 3, 320).play(&mut published, "tennis", 1);
    let position = published.0.len() as u64 - 1;
    assert!(published.deliver(&store, position));
    let found = contents(&store);
    assert_eq!(found[1], ("c".to_owned(), "tennis".to_owned(), 120, false), "with its last seconds");
}

#[test]
fn a_machine_that_is_lost_leaves_the_segment_that_it_never_closed() {
    let kept = TestFleet::new();
    let (store, _thread, _) = kept.open();
    let mut published = Published::default();
    let mut lost = OtherNode::new("b", 1, 0);
    lost.play(&mut published, "tennis", 400);
    // JetStream has the first ones no more: the event of what is on air is among them.
    assert!(published.of(RecordKind::Event).len() == 1 && published.deliver(&store, 150));
    let open = contents(&store);
    assert!(open.len() == 1 && open[0].1 == "tennis" && open[0].3, "{open:?}");
    OtherNode::new("c", 2, 403).play(&mut published, "tennis", 90);
    assert!(published.deliver(&store, 401));
    let found = contents(&store);
    assert_eq!(found[0].clone(), ("b".to_owned(), "tennis".to_owned(), 251, false));
    assert_eq!((found.len(), found[1].0.as_str()), (2, "c"));
    assert_eq!(store.times(&[KeptTime::ALL]).unwrap()[0].len(), 1, "of one stream and class");
}

#[test]
fn records_that_cannot_be_written_are_read_again() {
    let kept = TestFleet::new();
    let (store, _thread, _) = kept.open();
    let mut published = Published::default();
    OtherNode::new("b", 1, 0).play(&mut published, "tennis", 100);
    assert!(published.deliver(&store, 0));
    let position = store.fleet_position(&source("a")).unwrap();
    let direct = Connection::open(kept.path()).unwrap();
    direct.execute_batch("ALTER TABLE history RENAME TO away").unwrap();
    let before = published.0.len() as u64;
    OtherNode::new("b", 2, 100).play(&mut published, "tennis", 100);
    assert!(!published.deliver(&store, before));
    direct.execute_batch("ALTER TABLE away RENAME TO history").unwrap();
    assert_eq!(store.fleet_position(&source("a")).unwrap(), position);
    assert!(published.deliver(&store, position));
    assert_eq!(seconds(&store), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_stream_that_is_removed_from_the_fleet_has_no_history() {
    let kept = TestFleet::new();
    let (store, thread, _) = kept.open();
    let mut published = Published::default();
    OtherNode::new("b", 1, 0).play(&mut published, "tennis", 130);
    assert!(published.deliver(&store, 0));
    store.forget("court");
    assert!(store.flush(Duration::from_secs(60)));
    assert_eq!((seconds(&store).len(), segments(&store).len(), store.records(&filter()).unwrap().len()), (0, 0, 0));
    drop((store, thread));
    let (store, thread, _) = kept.open();
    assert_eq!(seconds(&store).len(), 0, "nor what waited in memory");
    drop((store, thread));
    // A stream that this machine hands over keeps its own.
    let (store, _thread, _) = kept.open();
    (0..30).for_each(|index| store.keep_second("court", index * 1000, format!("{{\"index\":{index}}}")));
    store.leave("court");
    assert!(store.flush(Duration::from_secs(60)));
    let rows: i64 =
        Connection::open(kept.path()).unwrap().query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "its seconds wait no longer");
}

#[test]
fn segments_of_version_6_get_their_epoch() {
    let kept = TestFleet::new();
    let connection = schema::of_version(&kept.path(), 6);
    let sql = "INSERT INTO segments (stream, run, first, last, began_ms, ended_ms, content, class, open, json, poster)
               VALUES (?1, 0, 0, 9, 1, 10000, 'class', 'tennis', 0, ?2, x'ff')";
    for (stream, json) in [("court", r#"{"epoch":7}"#), ("local", "{}"), ("damaged", "{")] {
        connection.execute(sql, [stream, json]).unwrap();
    }
    drop(connection);
    let (store, _thread, _) = kept.open();
    let found = segments(&store);
    assert!(found.len() == 3 && found.iter().all(|s| s.node.is_none() && s.has_poster), "{found:?}");
    let epochs: Vec<i64> = {
        let connection = Connection::open(kept.path()).unwrap();
        let mut rows = connection.prepare("SELECT epoch FROM segments ORDER BY number").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(epochs, [7, 0, 0]);
    assert!(store.poster("court", RunId(0), 0).unwrap().is_some());
}
