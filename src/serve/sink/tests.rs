use parking_lot::Mutex;

use super::*;
use crate::sink::jsonl::JsonlWriter;
use touchline_core::clock::ManualClock;

type Records = Arc<Mutex<Vec<Arc<str>>>>;

/// Takes an item only when the test permits it.
struct Gated {
    let_in: Receiver<()>,
    taken: Records,
    began: Sender<()>,
}

fn gated() -> (Gated, Sender<()>, Receiver<()>, Records) {
    let (go, let_in) = bounded(0);
    let (began, begun) = crossbeam_channel::unbounded();
    let taken = Records::default();
    (Gated { let_in, taken: taken.clone(), began }, go, begun, taken)
}

impl Sink for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn destination(&self) -> Option<String> {
        Some("the gate".into())
    }

    fn advice(&self) -> &'static str {
        "open the gate"
    }

    fn take(&mut self, item: &Item) -> u64 {
        let _ = self.began.send(());
        // Without a sender, all items pass.
        let _ = self.let_in.recv();
        self.taken.lock().extend(item.records.iter().map(|record| record.json.clone()));
        0
    }
}

/// Collects records, and panics on a record that contains `panic`.
#[derive(Clone, Default)]
struct Collector(Records);

impl Sink for Collector {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn take(&mut self, item: &Item) -> u64 {
        assert!(!item.records.iter().any(|record| record.json.contains("panic")), "the record requests a panic");
        self.0.lock().extend(item.records.iter().map(|record| record.json.clone()));
        0
    }
}

fn record(json: &str) -> OutputRecord {
    OutputRecord { kind: RecordKind::Event, json: json.into() }
}

fn item(n: usize) -> Item {
    Item { stream: "a".into(), content: ItemContent::RecordsOnly, records: vec![record(&format!("{{\"n\":{n}}}"))] }
}

fn sinks() -> (Sinks, Metrics, Arc<ManualClock>) {
    let (metrics, clock) = (Metrics::new(), Arc::new(ManualClock::default()));
    (Sinks::new(metrics.clone(), clock.clone(), Heartbeat::default()), metrics, clock)
}

fn dropped(metrics: &Metrics, sink: &str) -> u64 {
    let key = format!("touchline_sink_dropped_records_total{{sink=\"{sink}\"}} ");
    let text = metrics.encode();
    text.lines()
        .find_map(|line| line.strip_prefix(&key))
        .expect("the counter is exported from the start")
        .parse()
        .unwrap()
}

#[test]
fn a_sink_that_stalls_for_a_minute_affects_no_other() {
    let (mut sinks, metrics, clock) = sinks();
    let (gated, go, begun, taken) = gated();
    let kept = Collector::default();
    sinks.add(gated).unwrap();
    sinks.add(kept.clone()).unwrap();
    sinks.send(item(0), WhenFull::Drop);
    begun.recv().unwrap();
    let all = QUEUE + 1 + 100;
    for n in 1..all {
        clock.advance(60_000_000_000 / all as u64);
        sinks.send(item(n), WhenFull::Drop);
        // The other sink keeps up. It has its own queue.
        while n % 1000 == 0 && kept.0.lock().len() <= n {
            std::thread::yield_now();
        }
    }
    assert_eq!((dropped(&metrics, "gated"), dropped(&metrics, "kept")), (100, 0));
    drop(go);
    let error = sinks.finish(None).expect_err("records were lost").to_string();
    assert!(error.contains("the gate: 100 records could not be written"), "{error}");
    assert!(error.contains("open the gate") && !error.contains("--jsonl"), "{error}");
    assert_eq!(kept.0.lock().len(), all);
    let taken = taken.lock();
    assert_eq!((taken.len(), &*taken[QUEUE]), (QUEUE + 1, &*format!("{{\"n\":{QUEUE}}}")), "the newest were lost");
}

#[test]
fn the_sender_waits_if_nothing_may_be_lost() {
    let (mut sinks, metrics, _) = sinks();
    let (gated, go, begun, taken) = gated();
    sinks.add(gated).unwrap();
    let all = QUEUE + 50;
    let sender = std::thread::spawn(move || {
        (0..all).for_each(|n| sinks.send(item(n), WhenFull::Wait));
        sinks.finish(None)
    });
    for _ in 0..all {
        begun.recv().unwrap();
        go.send(()).unwrap();
    }
    sender.join().unwrap().unwrap();
    assert_eq!((taken.lock().len(), dropped(&metrics, "gated")), (all, 0));
}

#[test]
fn a_sink_that_never_ends_loses_its_queue_after_the_limit() {
    let (mut sinks, metrics, _) = sinks();
    let (gated, _go, begun, _) = gated();
    sinks.add(gated).unwrap();
    (0..3).for_each(|n| sinks.send(item(n), WhenFull::Drop));
    begun.recv().unwrap();
    assert!(sinks.finish(Some(Duration::ZERO)).is_err());
    assert_eq!(dropped(&metrics, "gated"), 3);
}

#[test]
fn a_panic_costs_one_item() {
    let (mut sinks, metrics, _) = sinks();
    let kept = Collector::default();
    sinks.add(kept.clone()).unwrap();
    let bad = Item { records: vec![record("panic")], ..item(0) };
    for item in [item(1), bad, item(2)] {
        sinks.send(item, WhenFull::Wait);
    }
    sinks.finish(None).unwrap();
    assert_eq!(kept.0.lock().len(), 2);
    assert_eq!(dropped(&metrics, "kept"), 1);
    assert!(metrics.encode().contains("touchline_stage_panics_total{stage=\"sink\"} 1"));
}

#[test]
fn a_moved_file_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("out.jsonl"), folder.path().join("old"));
    let (mut sinks, _, clock) = sinks();
    sinks.add(JsonLines::new(JsonlWriter::append(&path).unwrap(), None, clock)).unwrap();
    let reopen = sinks.reopener();
    sinks.send(item(1), WhenFull::Wait);
    while std::fs::read_to_string(&path).unwrap().is_empty() {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &old).unwrap();
    reopen();
    sinks.send(item(2), WhenFull::Wait);
    sinks.finish(None).unwrap();
    assert_eq!(std::fs::read_to_string(old).unwrap(), "{\"n\":1}\n");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"n\":2}\n");
}
