//! Events on programmes with known answers.

use super::super::programme::Scene;
use super::*;
use touchline_core::decision::DecisionReason;
use touchline_core::labels::Modality;

const VOTE: VoteConfig = VoteConfig { window: 4, stride: 1, onset: 0.6, offset: 0.4, onset_seconds: 3 };
const OTHER_ID: Option<ClassId> = Some(ClassId(2));

/// Scenes of (class, group, seconds), and the label of each second with probability 0.9; `None` is a gap.
fn scenes(of: &[(u16, u32, u64)]) -> Vec<Scene> {
    let mut first = 0;
    let scene = |(class, group, seconds): &(u16, u32, u64)| {
        let scene = Scene { class: ClassId(*class), group: *group, first, end: first + seconds };
        first = scene.end;
        scene
    };
    of.iter().map(scene).collect()
}

fn labelled(runs: &[(Option<u16>, usize)]) -> Vec<Option<Decision>> {
    let decision = |label: u16| Decision {
        label: ClassId(label),
        probability: 0.9,
        modality: Modality::Rgb,
        why: DecisionReason::Default,
        probabilities: (0..3).map(|class| if class == label { 0.9 } else { 0.05 }).collect(),
    };
    runs.iter().flat_map(|(label, n)| std::iter::repeat_n(label.map(decision), *n)).collect()
}

fn measured(of: &[(u16, u32, u64)], runs: &[(Option<u16>, usize)]) -> (Vec<Detection>, BTreeMap<u32, Tally>) {
    let seconds = labelled(runs);
    let programme = Programme::of(scenes(of), &seconds);
    let found = detections(&programme, VOTE, 3);
    let mut tallies = BTreeMap::new();
    tally(&programme, &found, OTHER_ID, &mut tallies);
    (found, tallies)
}

#[test]
fn events_are_dated_back_to_the_cut_and_their_delay_is_that_of_the_vote() {
    let (found, tallies) =
        measured(&[(0, 7, 20), (2, 8, 10), (1, 9, 20)], &[(Some(0), 20), (Some(2), 10), (Some(1), 20)]);
    let of = |class, first, end, onset| Detection { class: ClassId(class), first, end, onset: Some(onset) };
    // The third of four seconds of a class brings its mean to 0.69.
    assert_eq!(found, [of(0, 0, 20, 2), of(2, 20, 30, 22), of(1, 30, 50, 32)]);
    let sport = Tally { seconds: 20, scenes: 1, found: 1, onsets: 1, delay: 3, ..Tally::default() };
    let other = Tally { seconds: 10, ..Tally::default() };
    assert_eq!(tallies, BTreeMap::from([(7, sport), (8, other), (9, sport)]));
}

#[test]
fn missed_and_false_events_are_counted_for_the_source_on_air() {
    // Tennis is taken for golf from the tenth second on, and the scene of other is taken for golf too.
    let (_, tallies) = measured(
        &[(0, 1, 20), (2, 2, 20), (1, 3, 20)],
        &[(Some(0), 10), (Some(1), 10), (Some(2), 5), (Some(0), 15), (Some(2), 20)],
    );
    let [first, other, last] = [1, 2, 3].map(|source| tallies[&source]);
    assert_eq!((first.scenes, first.missed, first.is_false, first.found), (1, 0, 1, 1));
    assert_eq!((first.begin_error, first.end_error), (0, 10));
    assert_eq!((other.scenes, other.missed, other.is_false), (0, 0, 1), "a sport in a scene of other is false");
    assert_eq!((last.scenes, last.missed, last.is_false, last.found), (1, 1, 0, 0), "an event of other is not false");
}

#[test]
fn several_events_in_a_scene_are_one_and_false_ones() {
    let (found, tallies) = measured(&[(0, 1, 60)], &[(Some(0), 20), (Some(2), 10), (Some(0), 30)]);
    assert_eq!(found.iter().filter(|d| d.class == ClassId(0)).count(), 2);
    let t = tallies[&1];
    assert_eq!((t.scenes, t.missed, t.is_false, t.found), (1, 0, 1, 1));
    assert_eq!((t.begin_error, t.end_error), (30, 0), "the longer event is that of the scene");
    // One event over two scenes: the second is missed.
    let (_, tallies) = measured(&[(0, 1, 20), (2, 2, 10), (0, 3, 30)], &[(Some(0), 60)]);
    assert_eq!((tallies[&1].missed, tallies[&3].missed, tallies[&3].found, tallies[&3].begin_error), (1, 0, 1, 30));
    assert!(tallies.values().all(|t| t.is_false == 0));
}

#[test]
fn gaps_do_not_end_an_event() {
    let (found, _) = measured(&[(0, 1, 30)], &[(Some(0), 10), (None, 3), (Some(0), 17)]);
    assert_eq!(found, [Detection { class: ClassId(0), first: 0, end: 30, onset: Some(2) }]);
    let (found, tallies) = measured(&[(0, 1, 30)], &[(None, 30)]);
    assert_eq!((found, tallies[&1].missed), (vec![], 1));
}

#[test]
fn figures_are_ratios_over_sources_with_intervals() {
    let tally = |is_false, found, begin_error| Tally {
        seconds: 1800,
        scenes: 3,
        missed: 3 - found,
        is_false,
        found,
        begin_error,
        ..Tally::default()
    };
    let f = figures(20, &[tally(4, 0, 0), tally(0, 3, 6)], 1);
    assert_eq!((f.scene_seconds, f.hours, f.scenes), (20, 1.0, 6));
    assert_eq!((f.missed_per_hour.value, f.false_per_hour.value), (3.0, 4.0));
    assert_eq!(f.false_per_hour.ends(), Some((0.0, 8.0)), "one of the sources, twice");
    assert_eq!(f.begin_error_s.unwrap(), Interval { value: 2.0, low: Some(2.0), high: Some(2.0) });
    assert_eq!((f.delay_s, f.end_error_s.unwrap().value), (None, 0.0));
    let alone = figures(20, &[tally(4, 0, 0)], 1);
    assert_eq!((alone.false_per_hour, alone.begin_error_s), (Interval { value: 8.0, low: None, high: None }, None));
    assert_eq!(EventErrors::new(VOTE).figures(1), None);
}
