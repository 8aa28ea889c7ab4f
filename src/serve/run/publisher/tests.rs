use crossbeam_channel::{bounded, unbounded};

use super::*;
use crate::backlog::Backlog;
use crate::hub::StreamInfo;
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
