use std::sync::Arc;

use super::*;
use touchline_core::clip::{Absent, FrameShare};
use touchline_core::tier::DecodeTier;
use touchline_core::time::RunId;

fn second(index: u64) -> ClipOutput {
    ClipOutput::Second(ClipSecond {
        run: RunId(0),
        index,
        frames: Vec::new(),
        rgb: Vec::new(),
        pairs: Vec::new(),
        frame_share: FrameShare::ALL,
        tier: DecodeTier::Full,
        frames_seen: 0,
        audio: None,
        audio_missing: 0,
        rgb_absent: Some(Absent::NoData),
        flow_absent: Some(Absent::NoData),
        audio_absent: Some(Absent::NoData),
        wall: None,
        timecode: None,
        arrived_ns: 0,
        behind_ns: 0,
    })
}

fn describe(items: &[ClipOutput]) -> Vec<(u64, bool)> {
    items
        .iter()
        .map(|i| match i {
            ClipOutput::Second(s) => (s.index, true),
            ClipOutput::Gap(g) => {
                assert_eq!(g.reason, GapReason::Overload);
                (g.index, false)
            }
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

#[test]
fn a_live_queue_sheds_its_oldest_seconds_in_order() {
    let backlog = Backlog::new();
    let queue = backlog.add_queue(Pace::Live);
    for i in 0..LIVE_SECONDS as u64 + 2 {
        assert!(backlog.push(queue, second(i)));
    }
    let taken = backlog.take(1).unwrap().remove(0);
    // Two seconds exceed the limit, and in an overload only the newest second is decided.
    assert_eq!(describe(&taken.items), [(0, false), (1, false), (2, false), (3, false), (4, true)]);
    assert_eq!(taken.backlog, 0);
}

#[test]
fn a_file_queue_waits_and_loses_nothing() {
    let backlog = Arc::new(Backlog::new());
    let queue = backlog.add_queue(Pace::File);
    let writer = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || (0..50).all(|i| backlog.push(queue, second(i)))
    });
    let mut decided = Vec::new();
    while decided.len() < 50 {
        for taken in backlog.take(1).unwrap() {
            assert!(taken.backlog as usize <= FILE_SECONDS);
            decided.extend(describe(&taken.items));
        }
    }
    assert!(writer.join().unwrap());
    assert_eq!(decided, (0..50).map(|i| (i, true)).collect::<Vec<_>>());
}

#[test]
fn queues_are_served_in_turn() {
    let backlog = Backlog::new();
    let (a, b) = (backlog.add_queue(Pace::Live), backlog.add_queue(Pace::Live));
    for i in 0..2 {
        backlog.push(a, second(i));
    }
    backlog.push(b, second(100));
    let order: Vec<QueueId> = (0..3).map(|_| backlog.take(1).unwrap()[0].queue).collect();
    assert_eq!(order, [a, b, a]);
    for i in 0..2 {
        backlog.push(a, second(i));
        backlog.push(b, second(i));
    }
    assert_eq!(backlog.take(8).unwrap().len(), 2, "a batch holds at most one second of each stream");
}

#[test]
fn a_nudge_wakes_the_taker_once() {
    let backlog = Arc::new(Backlog::new());
    let queue = backlog.add_queue(Pace::Live);
    let taker = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || backlog.take(1).map(|batch| batch.len())
    });
    backlog.nudge();
    assert_eq!(taker.join().unwrap(), Some(0));
    backlog.nudge();
    backlog.push(queue, second(0));
    assert_eq!(backlog.take(1).unwrap().len(), 1, "a nudge also returns available work");
    backlog.push(queue, second(1));
    assert_eq!(backlog.take(1).unwrap().len(), 1, "the nudge is used up");
}

#[test]
fn gathering_ends_when_the_batch_is_full_or_no_other_second_can_arrive() {
    let day = Duration::from_secs(86_400);
    let backlog = Backlog::new();
    let queues: Vec<_> = (0..3).map(|_| backlog.add_queue(Pace::Live)).collect();
    backlog.push(queues[0], second(0));
    backlog.push(queues[2], second(0));
    assert_eq!(backlog.gather(2, day).unwrap().len(), 2, "the requested number");
    queues.iter().for_each(|queue| assert!(backlog.push(*queue, second(1))));
    assert_eq!(backlog.gather(64, day).unwrap().len(), 3, "one of every queue");
    backlog.push(queues[1], second(2));
    backlog.nudge();
    assert_eq!(backlog.gather(64, day).unwrap().len(), 1, "a nudge ends the wait");
    backlog.push(queues[1], second(3));
    assert_eq!(backlog.gather(64, Duration::from_millis(1)).unwrap().len(), 1, "the wait is over");
}

#[test]
fn a_second_that_arrives_while_others_wait_joins_their_batch() {
    let backlog = Arc::new(Backlog::new());
    let queues = [backlog.add_queue(Pace::Live), backlog.add_queue(Pace::Live)];
    backlog.push(queues[0], second(0));
    let taker = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || backlog.gather(2, Duration::from_secs(86_400)).map(|batch| batch.len())
    });
    backlog.push(queues[1], second(0));
    assert_eq!(taker.join().unwrap(), Some(2));
}

#[test]
fn a_removed_queue_wakes_its_writer() {
    let backlog = Arc::new(Backlog::new());
    let (gone, stays) = (backlog.add_queue(Pace::File), backlog.add_queue(Pace::Live));
    for i in 0..FILE_SECONDS as u64 {
        backlog.push(gone, second(i));
    }
    let writer = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || backlog.push(gone, second(99))
    });
    backlog.remove_queue(gone);
    assert!(!writer.join().unwrap(), "the queue accepts nothing more");
    assert!(!backlog.push(gone, ClipOutput::Ended(touchline_core::item::End::Finished)));
    backlog.push(stays, second(7));
    let taken = backlog.take(8).unwrap();
    assert_eq!(
        (taken.len(), taken[0].queue),
        (1, stays),
        "the waiting seconds are dropped, and the other queue is served"
    );
    assert!(![gone, stays].contains(&backlog.add_queue(Pace::Live)), "an id is not reused");
}

#[test]
fn a_batch_does_not_wait_for_a_removed_queue() {
    let backlog = Arc::new(Backlog::new());
    let (a, b) = (backlog.add_queue(Pace::Live), backlog.add_queue(Pace::Live));
    backlog.push(a, second(0));
    let taker = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || backlog.gather(2, Duration::from_secs(86_400)).map(|batch| batch.len())
    });
    backlog.remove_queue(b);
    assert_eq!(taker.join().unwrap(), Some(1));
}

#[test]
fn at_the_end_all_waiting_seconds_become_gaps() {
    let backlog = Backlog::new();
    let (live, file) = (backlog.add_queue(Pace::Live), backlog.add_queue(Pace::File));
    for i in 0..3 {
        assert!(backlog.push(live, second(i)) && backlog.push(file, second(i)));
    }
    backlog.shed_all();
    assert!(backlog.push(file, second(3)), "a full file queue has room again");
    let taken = backlog.take(8).unwrap();
    assert_eq!(describe(&taken[0].items), [(0, false), (1, false), (2, false)]);
    assert_eq!(describe(&taken[1].items), [(0, false), (1, false), (2, false), (3, false)]);
}

#[test]
fn closing_wakes_both_sides() {
    let backlog = Arc::new(Backlog::new());
    let queue = backlog.add_queue(Pace::File);
    for i in 0..FILE_SECONDS as u64 {
        backlog.push(queue, second(i));
    }
    let writer = std::thread::spawn({
        let backlog = Arc::clone(&backlog);
        move || backlog.push(queue, second(99))
    });
    backlog.close();
    assert!(!writer.join().unwrap());
    assert!(backlog.take(1).is_none());
}
