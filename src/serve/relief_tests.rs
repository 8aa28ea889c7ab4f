use super::*;
use crate::backlog::Backlog;
use crate::testing::{classes, predicted};
use touchline_core::clip::{Gap, GapReason};
use touchline_core::item::Pace;
use touchline_core::time::RunId;

/// Streams with automatic tiers, and what their seconds show: a class by second.
struct Streams {
    tiers: AutoTiers,
    all: Vec<(QueueId, SharedTier)>,
}

impl Streams {
    fn new(count: usize) -> Self {
        let (tiers, backlog) = (AutoTiers::default(), Backlog::new());
        let all: Vec<_> = (0..count).map(|_| (backlog.add_queue(Pace::Live), SharedTier::default())).collect();
        all.iter().for_each(|(queue, tier)| tiers.add(*queue, tier.clone()));
        Self { tiers, all }
    }

    fn second(&self, stream: usize, index: u64, label: &str) {
        self.decided(stream, index, label, Modality::Rgb);
    }

    fn decided(&self, stream: usize, index: u64, label: &str, modality: Modality) {
        let (queue, tier) = &self.all[stream];
        let SecondOutcome::Predicted(mut second) = predicted(index, label, 0.9).outcome else {
            panic!("a second was predicted")
        };
        (second.tier, second.decision.modality) = (tier.get(), modality);
        self.tiers.note(*queue, &SecondOutcome::Predicted(second), &classes());
    }

    fn without_programme(&self, stream: usize, index: u64) {
        let gap = Gap::new(RunId(0), index, GapReason::NoProgramme);
        self.tiers.note(self.all[stream].0, &SecondOutcome::Gap(gap), &classes());
    }

    fn current(&self) -> Vec<&'static str> {
        self.all.iter().map(|(_, tier)| tier.get().as_str()).collect()
    }
}

/// The level after `steps` falls with `streams` streams.
fn relief(streams: usize, steps: usize) -> Relief {
    (0..steps).fold(Relief::default(), |relief, _| relief.lower(streams, true).unwrap_or(relief))
}

#[test]
fn the_streams_whose_decisions_suffer_least_are_lowered_first() {
    let streams = Streams::new(4);
    for index in 0..60 {
        // A sport that changes, a steady sport, studio, bars.
        streams.second(0, index, if index / 5 % 2 == 0 { "soccer" } else { "tennis" });
        streams.second(1, index, "tennis");
        streams.second(2, index, "other");
        streams.without_programme(3, index);
    }
    let mut level = Relief::default();
    let mut seen = Vec::new();
    for _ in 0..4 {
        level = level.lower(4, false).unwrap();
        assert_eq!(streams.tiers.assign(level)[DecodeTier::Sparse as usize], seen.len() + 1);
        seen.push(streams.current());
    }
    assert_eq!(seen[0], ["lean", "lean", "lean", "sparse"]);
    assert_eq!(seen[1], ["lean", "lean", "sparse", "sparse"]);
    assert_eq!(seen[2], ["lean", "sparse", "sparse", "sparse"]);
    assert_eq!(seen[3], ["sparse"; 4]);
    // Back in the other order, and key pictures alone in the same order.
    let level = level.higher(4).unwrap();
    streams.tiers.assign(level);
    assert_eq!(streams.current(), seen[2]);
    assert_eq!(streams.tiers.assign(relief(4, 5)), [0, 0, 3, 1]);
    assert_eq!(streams.current(), ["sparse", "sparse", "sparse", "key"]);
    streams.tiers.assign(Relief::default());
    assert_eq!(streams.current(), ["lean"; 4]);
}

#[test]
fn a_stream_that_needs_motion_keeps_it_longest() {
    let streams = Streams::new(2);
    for index in 0..60 {
        streams.decided(0, index, "tennis", Modality::Flow);
        streams.second(1, index, if index % 20 == 0 { "soccer" } else { "tennis" });
    }
    let level = Relief::default().lower(2, false).unwrap();
    streams.tiers.assign(level);
    assert_eq!(streams.current(), ["lean", "sparse"]);
    // In a lower tier flow cannot decide, and that says nothing.
    let all = level.lower(2, false).unwrap();
    streams.tiers.assign(all);
    for index in 60..120 {
        streams.second(0, index, "tennis");
        streams.second(1, index, "tennis");
    }
    streams.tiers.assign(all.higher(2).unwrap());
    assert_eq!(streams.current(), ["lean", "sparse"]);
}

#[test]
fn tiers_do_not_alternate_between_streams_that_cost_alike() {
    let streams = Streams::new(8);
    let level = relief(8, 0).lower(8, false).unwrap();
    let mut changes = 0;
    let mut before = streams.current();
    for index in 0..3600 {
        for stream in 0..8 {
            // Each changes its class every 40 s or so, at times of its own.
            let is_soccer = ((index + 7 * stream as u64) / 40).is_multiple_of(2);
            streams.second(stream, index, if is_soccer { "soccer" } else { "tennis" });
        }
        if index >= 60 && index % 2 == 0 {
            streams.tiers.assign(level);
            let now = streams.current();
            changes += usize::from(index > 60 && now != before);
            before = now;
        }
    }
    assert_eq!(changes, 0);
    // A stream that becomes much cheaper takes the place of another.
    for index in 3600..3660 {
        streams.without_programme(7, index);
    }
    streams.tiers.assign(level);
    assert_eq!((streams.current()[7], streams.tiers.assign(level)), ("sparse", [0, 6, 2, 0]));
}

#[test]
fn a_new_or_removed_stream_changes_the_numbers() {
    let streams = Streams::new(3);
    assert_eq!(streams.tiers.assign(relief(3, 1)), [0, 0, 3, 0]);
    streams.tiers.remove(streams.all[1].0);
    assert_eq!((streams.tiers.count(), streams.tiers.assign(relief(3, 1))), (2, [0, 0, 2, 0]));
    // Unknown queues, as of streams with a tier of their own.
    streams.second(1, 0, "tennis");
    streams.tiers.remove(streams.all[1].0);
    assert_eq!(streams.tiers.count(), 2);
}

#[test]
fn every_level_gives_up_more_and_the_way_back_is_the_same() {
    for streams in [0, 1, 2, 3, 8, 64] {
        let down: Vec<_> =
            std::iter::successors(Some(Relief::default()), |relief| relief.lower(streams, false)).collect();
        let end = *down.last().unwrap();
        assert_eq!(end.share(), FrameShare::STEPS[3], "{streams}");
        let is_cheaper = |two: &[Relief]| two[1].cost(streams) < two[0].cost(streams);
        assert!(down.windows(2).all(is_cheaper), "{streams}: {down:?}");
        let mut up: Vec<_> = std::iter::successors(Some(end), |relief| relief.higher(streams)).collect();
        up.reverse();
        let costs = |levels: &[Relief]| levels.iter().map(|level| level.cost(streams)).collect::<Vec<_>>();
        assert_eq!(costs(&down), costs(&up));
        assert_eq!(down.len(), 4 + streams.min(4), "{streams}");
        let most = std::iter::successors(Some(end), |relief| relief.lower(streams, true)).last().unwrap();
        assert_eq!(most == end, streams == 0);
        let least = if streams == 0 { 0.2 } else { 0.2 * 0.125 };
        assert!((Relief::default().cost(streams) - 1.0).abs() + (most.cost(streams) - least).abs() < 1e-9);
    }
}
