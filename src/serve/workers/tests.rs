use super::inference::{contained, gap};
use super::*;
use touchline_core::clip::{ClipSecond, GapReason};
use touchline_core::item::Tracks;

fn intake(metrics: &Metrics) -> Intake {
    let pack = Pack::open(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/compact"))).unwrap();
    let (backlog, metrics) = (Arc::new(Backlog::new()), metrics.clone());
    Intake {
        backlog,
        pack: Arc::new(pack),
        feeds: Feeds::default(),
        metrics,
        clips: Arc::default(),
        signals: SignalConfig::default(),
        auto_tiers: AutoTiers::default(),
    }
}

/// The end of a queue.
fn end(backlog: &Backlog) -> End {
    loop {
        for taken in backlog.gather(1, Duration::ZERO).expect("the backlog is open") {
            for item in taken.items {
                if let ClipOutput::Ended(end) = item {
                    return end;
                }
            }
        }
    }
}

#[test]
fn a_panic_on_a_clip_thread_ends_its_stream_and_no_other() {
    let metrics = Metrics::new();
    let intake = intake(&metrics);
    let tap: Tap = Box::new(|item| assert!(!matches!(item, MediaItem::Opened(_)), "a bug"));
    for pace in [Pace::Live, Pace::File] {
        let tap: Tap = if pace == Pace::Live { Box::new(|_| panic!("another bug")) } else { Box::new(|_| ()) };
        let (_, to) = intake.add_stream("a", pace, 0, RunId(0), SharedTier::default(), tap).unwrap();
        to.send(MediaItem::Opened(Tracks { video: true, audio: false })).unwrap();
        if pace == Pace::File {
            to.send(MediaItem::Ended(End::Finished)).unwrap();
            assert_eq!(end(&intake.backlog), End::Finished, "the other stream does not affect it");
            continue;
        }
        let End::Failed { kind: Cause::Internal, cause, .. } = end(&intake.backlog) else { panic!("no failure") };
        assert!(cause.contains("panicked"), "{cause}");
        // The source sees that its channel is closed.
        while to.send(MediaItem::Opened(Tracks { video: true, audio: false })).is_ok() {
            std::thread::yield_now();
        }
    }
    let (_, to) = intake.add_stream("score", Pace::File, 0, RunId(0), SharedTier::default(), tap).unwrap();
    to.send(MediaItem::Opened(Tracks { video: true, audio: false })).unwrap();
    assert!(matches!(end(&intake.backlog), End::Failed { kind: Cause::Internal, .. }), "the publisher receives an end");
    let text = metrics.encode();
    assert!(text.contains("touchline_stage_panics_total{stage=\"clip\"} 2"), "{text}");
}

#[test]
fn a_source_that_stops_without_an_end_is_an_internal_failure() {
    let metrics = Metrics::new();
    let intake = intake(&metrics);
    let add = || intake.add_stream("a", Pace::Live, 0, RunId(0), SharedTier::default(), Box::new(|_| ())).unwrap();
    let (removed, to) = add();
    intake.remove_queue(removed);
    drop(to);
    drop(add());
    assert!(matches!(end(&intake.backlog), End::Failed { kind: Cause::Internal, .. }));
    // From the process of a source.
    let (_, to) = add();
    to.send(MediaItem::Ended(broken("the source's thread ended unexpectedly"))).unwrap();
    assert!(matches!(end(&intake.backlog), End::Failed { kind: Cause::Internal, .. }));
    intake.clips().drain(..).for_each(|clip| clip.join().unwrap());
    let text = metrics.encode();
    assert!(text.contains("touchline_stage_panics_total{stage=\"source\"} 2"), "not the removed stream: {text}");
    assert!(text.contains("touchline_stage_panics_total{stage=\"clip\"} 0"), "{text}");
}

#[test]
fn a_panic_while_scoring_costs_the_second_that_causes_it() {
    let metrics = Metrics::new();
    let second = |index| ClipSecond { index, ..ClipSecond::of_pictures(Vec::new()) };
    let seconds = [second(0), second(1), second(2)];
    let outcomes = contained(&seconds.each_ref(), &metrics, &mut |seconds| {
        assert!(seconds.iter().all(|second| second.index != 1), "the models panic on this one");
        seconds.iter().map(|second| gap(second, GapReason::NoMedia)).collect()
    });
    let reasons: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            SecondOutcome::Gap(gap) => (gap.index, gap.reason),
            SecondOutcome::Predicted(_) => panic!("nothing was predicted"),
        })
        .collect();
    assert_eq!(reasons, [(0, GapReason::NoMedia), (1, GapReason::Compute), (2, GapReason::NoMedia)]);
    assert!(metrics.encode().contains("touchline_stage_panics_total{stage=\"infer\"} 2"), "the batch and the second");
}
