use crossbeam_channel::{bounded, unbounded};

use super::*;
use crate::backlog::Backlog;
use crate::hub::StreamInfo;
use crate::record::{FleetTenure, PublishingRight, SessionRight};
use crate::sink::{QUEUE, Sink};
use crate::testing;
use touchline_core::clip::{Gap, GapReason};
use touchline_core::clock::ManualClock;
use touchline_core::decision::SecondOutcome;
use touchline_core::item::{End, Pace};
use touchline_core::time::RunId;

/// Blocks until the test is over.
struct Stalled(Receiver<()>);

impl Sink for Stalled {
    fn name(&self) -> &'static str {
        "stalled"
    }

    fn take(&mut self, _: &Item) -> u64 {
        let _ = self.0.recv();
        0
    }
}

#[test]
fn a_stalled_sink_delays_no_decision_of_a_live_stream() {
    let clock = Arc::new(ManualClock::default());
    let hub = testing::hub(clock.clone());
    let stream = StreamInfo { id: "a".into(), uri: "rtsp://h/a".into(), pace: Pace::Live };
    let handle = hub.add_stream(stream).unwrap();
    let queue = Backlog::new().add_queue(Pace::Live);
    let (reports_to, reports) = unbounded();
    let mut publisher = Publisher::new(hub.clone(), clock.clone(), 3, reports_to);
    let (release, stalled) = bounded(0);
    publisher.sinks().add(Stalled(stalled)).unwrap();
    let beat = publisher.beat().clone();
    let (decided_to, decided) = bounded(1);
    let (_news_to, news) = unbounded();
    let (commands_to, commands) = unbounded();
    let begin = StreamStart {
        queue,
        handle: handle.clone(),
        vote: VoteConfig::default(),
        expectations: Expectations::default(),
        supervised: true,
        counters: Arc::default(),
    };
    commands_to.send(PublisherCommand::Begin(Box::new(begin))).unwrap();
    let publishing = std::thread::spawn(move || publisher.publish(&PublisherInbox { decided, news, commands }));
    // More than a minute of 64 streams.
    let seconds = QUEUE as u64 + 10;
    for index in 0..seconds {
        let outcome = SecondOutcome::Gap(Gap::new(RunId(0), index, GapReason::NoMedia));
        decided_to.send(Decided { queue, item: DecidedItem::Outcome { outcome, backlog: 0 } }).unwrap();
    }
    decided_to.send(Decided { queue, item: DecidedItem::News(ClipOutput::Ended(End::Finished)) }).unwrap();
    let Ok(PublisherReport::Ended { error: None, .. }) = reports.recv() else { panic!("the end was not reported") };
    assert_eq!(handle.counters().gapped.iter().sum::<u64>(), seconds, "every second is published");
    assert!(beat.beats() > seconds);
    let text = hub.metrics().encode();
    let lost: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("touchline_sink_dropped_records_total{sink=\"stalled\"} "))
        .unwrap()
        .parse()
        .unwrap();
    assert!((9..=11).contains(&lost), "{lost} of {seconds} records and the end were lost, with one being written");
    drop(release);
    commands_to.send(PublisherCommand::Finish).unwrap();
    publishing.join().unwrap().unwrap();
}

#[test]
fn a_source_that_is_reopened_after_a_fault_of_its_thread_is_counted() {
    let clock = Arc::new(ManualClock::default());
    let hub = testing::hub(clock.clone());
    let handle = hub.add_stream(StreamInfo { id: "a".into(), uri: "rtsp://h/a".into(), pace: Pace::Live }).unwrap();
    let queue = Backlog::new().add_queue(Pace::Live);
    let mut publisher = Publisher::new(hub.clone(), clock, 3, unbounded().0);
    let vote = VoteConfig::default();
    let expectations = Expectations::default();
    let begin = StreamStart { queue, handle, vote, expectations, supervised: true, counters: Arc::default() };
    publisher.command(PublisherCommand::Begin(Box::new(begin)));
    for kind in [Cause::Internal, Cause::Refused, Cause::Internal] {
        let (retry_in, cause) = (Duration::from_secs(1), "the source's thread ended unexpectedly".into());
        publisher.news(queue, SourceState::Waiting { attempt: 1, retry_in, kind, cause });
    }
    assert!(hub.metrics().encode().contains("touchline_stage_panics_total{stage=\"source\"} 2"));
}

/// Keeps the types of records with their epochs.
#[derive(Clone, Default)]
struct KeptRecords(Arc<parking_lot::Mutex<Vec<serde_json::Value>>>);

impl Sink for KeptRecords {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn take(&mut self, item: &Item) -> u64 {
        self.0
            .lock()
            .extend(item.records.iter().map(|record| serde_json::from_str::<serde_json::Value>(&record.json).unwrap()));
        0
    }
}

/// A publisher with a stream of a fleet.
struct FleetBench {
    publisher: Publisher,
    hub: Hub,
    clock: Arc<ManualClock>,
    queue: QueueId,
    tenure: Arc<FleetTenure>,
    right: PublishingRight,
    kept: KeptRecords,
}

impl FleetBench {
    fn new() -> Self {
        Self::with(PublishingRight::default())
    }

    fn with(right: PublishingRight) -> Self {
        let clock = Arc::new(ManualClock::default());
        let hub = testing::hub(clock.clone());
        let tenure = Arc::new(FleetTenure::new("node-a".into(), right.clone()));
        let info = StreamInfo { id: "a".into(), uri: "rtsp://h/a".into(), pace: Pace::Live };
        let handle = hub.add_stream_of(info, Some(tenure.clone())).unwrap();
        let queue = Backlog::new().add_queue(Pace::Live);
        let mut publisher = Publisher::new(hub.clone(), clock.clone(), 3, unbounded().0);
        let kept = KeptRecords::default();
        publisher.sinks().add(kept.clone()).unwrap();
        let (vote, expectations) = (VoteConfig::default(), Expectations::default());
        let begin = StreamStart { queue, handle, vote, expectations, supervised: true, counters: Arc::default() };
        publisher.command(PublisherCommand::Begin(Box::new(begin)));
        Self { publisher, hub, clock, queue, tenure, right, kept }
    }

    fn second(&mut self, index: u64) {
        let mut outcome = testing::predicted(index, "soccer", 0.9).outcome;
        if let SecondOutcome::Predicted(second) = &mut outcome {
            second.run = RunId(1);
        }
        self.publisher.take(self.queue, DecidedItem::Outcome { outcome, backlog: 0 });
    }

    fn end(&mut self) {
        self.publisher.take(self.queue, DecidedItem::News(ClipOutput::Ended(End::Finished)));
    }

    /// The type, the epoch, and the index of each record of a second or a gap, and of states.
    fn records(mut self) -> Vec<(String, u64, u64)> {
        self.publisher.finish().unwrap();
        let records = self.kept.0.lock().clone();
        let kinds = ["second", "gap", "state"];
        let records = records.iter().filter(|record| kinds.contains(&record["type"].as_str().unwrap()));
        let shown = records.map(|record| {
            assert_eq!(record["node"], "node-a");
            let kind = record["type"].as_str().unwrap().to_owned();
            (kind, record["epoch"].as_u64().unwrap(), record["index"].as_u64().unwrap_or_default())
        });
        shown.collect()
    }

    fn unpublished(&self) -> String {
        let text = self.hub.metrics().encode();
        let line = text.lines().find(|line| line.starts_with("touchline_fleet_unpublished_seconds_total"));
        line.and_then(|line| line.split(' ').nth(1)).unwrap_or("0").to_owned()
    }
}

#[test]
fn a_stream_that_is_prepared_is_published_from_its_last_seconds_on_when_it_is_taken() {
    let mut bench = FleetBench::new();
    bench.right.lasts_until(u64::MAX);
    assert!(!bench.tenure.has_decided());
    (0..5).for_each(|index| bench.second(index));
    assert!(bench.tenure.has_decided());
    bench.tenure.take(7);
    bench.second(5);
    assert_eq!(bench.unpublished(), "0");
    let expected = [("state", 7, 0), ("second", 7, 2), ("second", 7, 3), ("second", 7, 4), ("second", 7, 5)];
    assert_eq!(bench.records(), expected.map(|(kind, epoch, index)| (kind.to_owned(), epoch, index)));
}

#[test]
fn a_stream_that_is_never_taken_is_not_published() {
    let mut bench = FleetBench::new();
    bench.right.lasts_until(u64::MAX);
    (0..5).for_each(|index| bench.second(index));
    bench.end();
    assert_eq!(bench.unpublished(), "0", "its owner publishes them");
    assert!(bench.records().is_empty());
}

#[test]
fn seconds_wait_while_the_right_is_interrupted_and_are_lost_if_it_does_not_return() {
    let mut bench = FleetBench::new();
    bench.tenure.take(2);
    bench.right.lasts_until(100);
    bench.second(0);
    bench.clock.advance(100);
    bench.second(1);
    bench.second(2);
    bench.right.lasts_until(200);
    bench.second(3);
    bench.clock.advance(100);
    (4..14).for_each(|index| bench.second(index));
    assert_eq!(bench.unpublished(), "2", "ten wait, and eight may");
    bench.end();
    assert_eq!(bench.unpublished(), "10");
    let expected = [("second", 2, 0), ("second", 2, 1), ("second", 2, 2), ("second", 2, 3)];
    assert_eq!(bench.records(), expected.map(|(kind, epoch, index)| (kind.to_owned(), epoch, index)));
}

#[test]
fn seconds_that_wait_when_their_session_is_fenced_are_not_published_by_the_next_one() {
    let mut node = SessionRight::default();
    node.lasts_until(7, 100);
    let mut bench = FleetBench::with(node.current().clone());
    bench.tenure.take(2);
    bench.second(0);
    bench.clock.advance(100);
    bench.second(1);
    // The machine was stopped for a while. It is in the fleet again before the source of the stream has ended.
    node.lasts_until(8, u64::MAX);
    bench.second(2);
    bench.end();
    assert!(node.current().holds(100), "for what the new session watches");
    assert_eq!(bench.unpublished(), "2");
    assert_eq!(bench.records(), [("second".to_owned(), 2, 0)]);
}

#[test]
fn the_successor_of_a_lost_node_publishes_the_span_that_is_missing() {
    let mut bench = FleetBench::new();
    bench.right.lasts_until(u64::MAX);
    bench.tenure.take(3);
    bench.tenure.lost_since(testing::EPOCH_NS - 3_400_000_000);
    bench.second(0);
    let gap = {
        bench.publisher.finish().unwrap();
        bench.kept.0.lock().iter().find(|record| record["type"] == "gap").cloned().unwrap()
    };
    assert_eq!((&gap["reason"], gap["run"].as_u64(), gap["index"].as_u64()), (&"node-lost".into(), Some(0), Some(0)));
    let lost =
        serde_json::json!({ "from": "2023-11-14T22:13:16.600Z", "to": "2023-11-14T22:13:20.000Z", "seconds": 3 });
    assert_eq!(gap["lost"], lost);
    assert_eq!(gap["epoch"], 3);
    let text = bench.hub.metrics().encode();
    assert!(text.contains("touchline_fleet_lost_seconds_total 3"), "{text}");
}
