use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::clip::Gap;
use crate::decision::testing::predicted;
use crate::decision::{EventKind, SecondOutcome};
use crate::vote::{VoteConfig, Voter};

const CLASSES: usize = 4;

/// A second as a test describes it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    /// Class, probability in millionths, and whether it is unknown.
    Is(u16, u32, bool),
    No(GapReason),
}

fn probabilities(class: u16, probability: u32) -> Vec<u32> {
    let mut all = vec![(MILLION - probability) / (CLASSES as u32 - 1); CLASSES];
    all[usize::from(class)] = probability;
    all
}

fn outcome(run: u32, index: u64, plan: Plan) -> SecondOutcome {
    let (class, probability) = match plan {
        Plan::Is(class, probability, _) => (class, probability),
        Plan::No(reason) => return SecondOutcome::Gap(Gap::new(RunId(run), index, reason)),
    };
    let probabilities: Vec<f32> =
        probabilities(class, probability).iter().map(|p| *p as f32 / MILLION as f32).collect();
    predicted(run, index, class, probabilities)
}

fn recorded(run: u32, index: u64, plan: Plan) -> RecordedSecond {
    let verdict = match plan {
        Plan::Is(class, probability, is_unknown) => Verdict::Decided {
            is_unknown,
            modality: if index.is_multiple_of(3) { Modality::Audio } else { Modality::Rgb },
            probabilities: probabilities(class, probability),
        },
        Plan::No(reason) => Verdict::Gap(reason),
    };
    RecordedSecond { run: RunId(run), index, wall_ns: None, timecode: None, verdict }
}

/// The stream that a vote makes of `plans`, each with its run and index.
fn stream(config: VoteConfig, plans: &[(u32, u64, Plan)]) -> SegmentedStream {
    let mut voter = Voter::new(config, CLASSES);
    let mut segmenter = Segmenter::default();
    for (run, index, plan) in plans {
        let mut events = Vec::new();
        let estimate = voter.push(&outcome(*run, *index, *plan), &mut events);
        let window = estimate.map_or(0, |e| e.seconds + e.gaps);
        segmenter.push(recorded(*run, *index, *plan), window);
        events.iter().for_each(|event| segmenter.event(event));
    }
    let mut events = Vec::new();
    voter.finish(&mut events);
    events.iter().for_each(|event| segmenter.event(event));
    segmenter.finish()
}

fn one_run(plans: &[Plan]) -> Vec<(u32, u64, Plan)> {
    plans.iter().enumerate().map(|(i, plan)| (0, i as u64, *plan)).collect()
}

fn spans(segments: &[Segment]) -> Vec<(SegmentKind, u64, u64)> {
    segments.iter().map(|s| (s.kind, s.first, s.last)).collect()
}

fn repeat(parts: &[(usize, Plan)]) -> Vec<Plan> {
    parts.iter().flat_map(|(n, plan)| std::iter::repeat_n(*plan, *n)).collect()
}

const SURE: u32 = 940_000;
const A: Plan = Plan::Is(0, SURE, false);
const B: Plan = Plan::Is(1, SURE, false);
const CLASS_A: SegmentKind = SegmentKind::Class(ClassId(0));
const CLASS_B: SegmentKind = SegmentKind::Class(ClassId(1));

#[test]
fn a_change_is_dated_back_to_its_second() {
    let plans = one_run(&repeat(&[(20, A), (12, B), (20, A)]));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 19), (CLASS_B, 20, 31), (CLASS_A, 32, 51)]);
    let b = &segments[1];
    assert_eq!((b.mean, b.peak, b.peak_index, b.decided), (Some(SURE), Some(SURE), Some(20), 12));
    assert_eq!((b.decided_by.rgb, b.decided_by.audio), (8, 4));
}

#[test]
fn a_change_just_before_a_discontinuity_keeps_its_second() {
    let mut plans = one_run(&repeat(&[(20, A), (8, B)]));
    plans.extend((0..10).map(|index| (1, index, B)));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 19), (CLASS_B, 20, 27), (CLASS_B, 0, 9)]);
}

#[test]
fn a_class_without_programme_leaves_where_the_programme_does() {
    let bars = Plan::No(GapReason::NoProgramme);
    let plans = one_run(&repeat(&[(15, A), (14, bars), (15, B), (2, bars), (8, B)]));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(
        spans(&segments),
        [(CLASS_A, 0, 14), (SegmentKind::NoProgramme, 15, 28), (CLASS_B, 29, 53)],
        "two seconds of black belong to the programme"
    );
    assert_eq!((segments[1].mean, segments[1].gaps), (None, [0, 0, 0, 14, 0, 0]));
    assert_eq!((segments[2].decided, segments[2].gaps), (23, [0, 0, 0, 2, 0, 0]));
}

#[test]
fn unsure_seconds_are_unknown_and_not_a_sport() {
    let flat = Plan::Is(2, 300_000, true);
    let unsure = Plan::Is(1, 700_000, true);
    let plans = one_run(&repeat(&[(20, A), (20, flat), (20, unsure)]));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 19), (SegmentKind::Unknown, 20, 59)]);
    assert_eq!((segments[1].unknown, segments[1].peak), (40, None));
}

#[test]
fn overload_within_a_match_is_counted_and_a_long_outage_is_cut_out() {
    let (shed, outage) = (Plan::No(GapReason::Overload), Plan::No(GapReason::NoMedia));
    let plans = one_run(&repeat(&[(20, A), (4, shed), (20, A), (30, outage), (20, A)]));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 43), (SegmentKind::Undecided, 44, 73), (CLASS_A, 74, 93)]);
    assert_eq!((segments[0].gaps, segments[1].gaps), ([4, 0, 0, 0, 0, 0], [0, 30, 0, 0, 0, 0]));
}

#[test]
fn a_discontinuity_and_missing_records_end_a_segment() {
    let mut plans = one_run(&[A; 20]);
    plans.extend((0..20).map(|i| (1, i, A)));
    plans.extend((0..20).map(|i| (2, 100 + i, B)));
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 19), (CLASS_A, 0, 19), (CLASS_B, 100, 119)]);
    let few = |second: &(u32, u64, Plan)| !(5..8).contains(&second.1);
    let plans: Vec<_> = one_run(&[A; 20]).into_iter().filter(few).collect();
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!((spans(&segments), segments[0].missing), (vec![(CLASS_A, 0, 19)], 3));
    let many = |second: &(u32, u64, Plan)| !(8..20).contains(&second.1);
    let plans: Vec<_> = one_run(&[A; 40]).into_iter().filter(many).collect();
    let segments = stream(VoteConfig::default(), &plans).segments(|_| true);
    assert_eq!(spans(&segments), [(CLASS_A, 0, 7), (CLASS_A, 20, 39)]);
}

#[test]
fn records_of_a_second_start_of_the_program_begin_with_nothing_on_air() {
    let mut segmenter = Segmenter::default();
    let onset = |class, index| Event {
        kind: EventKind::Onset,
        class: ClassId(class),
        run: RunId(0),
        index,
        probability: 0.9,
        reason: None,
    };
    // The first was killed: it wrote no offset.
    for start in 0..2u16 {
        for index in 0..10 {
            segmenter.push(recorded(0, index, Plan::Is(start, SURE, false)), 10);
            if index == 2 {
                segmenter.event(&onset(start, index));
            }
        }
    }
    assert_eq!(spans(&segmenter.finish().segments(|_| true)), [(CLASS_A, 0, 9), (CLASS_B, 0, 9)]);
}

#[test]
fn a_selection_cuts_segments() {
    let stream = stream(VoteConfig::default(), &one_run(&repeat(&[(20, A), (20, B)])));
    let segments = stream.segments(|second| (10..25).contains(&second.index));
    assert_eq!(spans(&segments), [(CLASS_A, 10, 19), (CLASS_B, 20, 24)]);
    assert_eq!((segments[0].decided, segments[1].decided), (10, 5));
    assert!(stream.segments(|_| false).is_empty());
}

#[test]
fn gaps_have_the_wall_time_of_their_neighbours() {
    let mut segmenter = Segmenter::default();
    for (index, wall_ns) in [None, Some(50_000_000_000), None, None].into_iter().enumerate() {
        segmenter.push(RecordedSecond { wall_ns, ..recorded(0, index as u64, A) }, 10);
    }
    let segments = segmenter.finish().segments(|_| true);
    assert_eq!((segments[0].began_ns, segments[0].ended_ns), (Some(49_000_000_000), Some(53_000_000_000)));
    assert_eq!(segments[0].kind, SegmentKind::Unknown, "there was no event");
}

#[test]
fn random_programmes_give_their_own_segments() {
    let mut random = SmallRng::seed_from_u64(17);
    for round in 0..300 {
        let config = VoteConfig { window: random.random_range(4..=20), ..VoteConfig::default() };
        let window = config.window as usize;
        let (mut plans, mut expected, mut class) = (Vec::new(), Vec::new(), 0);
        for _ in 0..random.random_range(1..8) {
            class = (class + random.random_range(1..CLASSES as u16)) % CLASSES as u16;
            let (first, count) = (plans.len(), random.random_range(window * 2..window * 5));
            expected.push((SegmentKind::Class(ClassId(class)), first as u64, (first + count - 1) as u64));
            for i in 0..count {
                // Noise and gaps, but not where the change is, and never so dense that the class loses the vote.
                let is_inside = i > window && i + window < count;
                plans.push(match (random.random_range(0..3), i % 4) {
                    (0, 0) if is_inside => Plan::Is((class + 1) % CLASSES as u16, 700_000, false),
                    (0, 1) if is_inside => Plan::No(GapReason::Overload),
                    _ => Plan::Is(class, random.random_range(850_000..990_000), false),
                });
            }
        }
        let segments = stream(config, &one_run(&plans)).segments(|_| true);
        assert_eq!(spans(&segments), expected, "round {round}, window {window}: {plans:?}");
    }
}

#[test]
fn segments_of_random_records_add_up() {
    let mut random = SmallRng::seed_from_u64(18);
    for round in 0..400 {
        let config = VoteConfig {
            window: random.random_range(1..=12),
            onset: 0.35,
            offset: 0.2,
            onset_seconds: 1,
            ..VoteConfig::default()
        };
        let (mut run, mut index, mut class) = (0, 0, 0u16);
        let mut plans = Vec::new();
        for _ in 0..random.random_range(1..150) {
            match random.random_range(0..40) {
                0 => (run, index) = (run + 1, random.random_range(0..5)),
                1 => index += random.random_range(0..25),
                2..6 => class = random.random_range(0..CLASSES as u16),
                _ => {}
            }
            let plan = match random.random_range(0..8) {
                0 => Plan::No(GapReason::ALL[random.random_range(0..4)]),
                _ => Plan::Is(class, random.random_range(250_000..1_000_000), random.random_bool(0.2)),
            };
            plans.push((run, index, plan));
            index += 1;
        }
        let stream = stream(config, &plans);
        let segments = stream.segments(|_| true);
        // Every second is in exactly one segment, in order.
        let covered: Vec<_> = segments.iter().flat_map(|s| (s.first..=s.last).map(move |i| (s.run.0, i))).collect();
        let all: Vec<_> = stream.seconds().iter().map(|s| (s.run.0, s.index)).collect();
        assert_eq!(covered, all, "round {round}");
        for segment in &segments {
            let own = |(run, index, _): &&(u32, u64, Plan)| {
                *run == segment.run.0 && (segment.first..=segment.last).contains(index)
            };
            let own: Vec<_> = plans.iter().filter(own).map(|(.., plan)| *plan).collect();
            let decided = own.iter().filter(|plan| matches!(plan, Plan::Is(..))).count() as u32;
            let gaps: u32 = segment.gaps.iter().sum();
            assert_eq!((segment.decided, gaps), (decided, own.len() as u32 - decided), "round {round}");
            assert_eq!(u64::from(segment.decided + gaps + segment.missing), segment.seconds());
            let by = &segment.decided_by;
            assert_eq!(by.rgb + by.flow + by.audio, decided);
            let SegmentKind::Class(class) = segment.kind else {
                assert_eq!((segment.mean, segment.peak), (None, None));
                continue;
            };
            let of_class: Vec<u64> = own
                .iter()
                .filter_map(|plan| match plan {
                    Plan::Is(label, p, _) => Some(u64::from(probabilities(*label, *p)[class.index()])),
                    Plan::No(_) => None,
                })
                .collect();
            assert_eq!(segment.peak.map(u64::from), of_class.iter().max().copied(), "round {round}");
            let mean = of_class.iter().sum::<u64>() as f64 / of_class.len() as f64;
            assert!((f64::from(segment.mean.unwrap()) - mean).abs() <= 0.5, "round {round}");
            assert!(segment.unknown * 2 <= segment.decided, "round {round}");
        }
    }
}

/// The segments of a running stream, each at the number of seconds that had come when it was closed.
fn closed(config: VoteConfig, plans: &[(u32, u64, Plan)]) -> Vec<(usize, ClosedSegment)> {
    let mut voter = Voter::new(config, CLASSES);
    let mut closer = SegmentCloser::default();
    let mut found = Vec::new();
    for (at, (run, index, plan)) in plans.iter().enumerate() {
        let mut events = Vec::new();
        let estimate = voter.push(&outcome(*run, *index, *plan), &mut events);
        let window = estimate.map_or(0, |e| e.seconds + e.gaps);
        found.extend(closer.push(recorded(*run, *index, *plan), window).into_iter().map(|segment| (at, segment)));
        events.iter().for_each(|event| closer.event(event));
    }
    let mut events = Vec::new();
    voter.finish(&mut events);
    events.iter().for_each(|event| closer.event(event));
    found.extend(closer.finish().into_iter().map(|segment| (plans.len(), segment)));
    found
}

#[test]
fn a_segment_is_closed_a_vote_window_after_its_end() {
    let plans = one_run(&repeat(&[(20, A), (12, B), (100, A)]));
    let found = closed(VoteConfig::default(), &plans);
    let spans: Vec<_> = found.iter().map(|(at, c)| (*at, c.segment.kind, c.segment.first, c.segment.last)).collect();
    assert_eq!(spans, [(31, CLASS_A, 0, 19), (43, CLASS_B, 20, 31), (132, CLASS_A, 32, 131)]);
    assert!(found.iter().all(|(_, closed)| !closed.is_revision));
}

#[test]
fn an_unknown_segment_that_goes_on_is_revised_once() {
    let flat = Plan::Is(2, 300_000, true);
    let unsure = |class| Plan::Is(class, 700_000, true);
    let unknown = |first, last, is_revision| (SegmentKind::Unknown, first, last, is_revision);
    let of = |parts: &[(usize, Plan)]| -> Vec<_> {
        let found = closed(VoteConfig::default(), &one_run(&repeat(parts)));
        found.iter().map(|(_, c)| (c.segment.kind, c.segment.first, c.segment.last, c.is_revision)).collect()
    };
    let a = (CLASS_A, 0, 19, false);
    assert_eq!(of(&[(20, A), (20, flat), (20, unsure(1))]), [a, unknown(20, 39, false), unknown(20, 59, true)]);
    assert_eq!(
        of(&[(20, A), (20, flat), (20, unsure(1)), (20, flat), (20, B)]),
        [a, unknown(20, 39, false), unknown(20, 79, true), (CLASS_B, 80, 99, false)]
    );
    // The second class that turns out to be unknown begins a new segment.
    assert_eq!(
        of(&[(20, A), (20, flat), (20, unsure(1)), (20, unsure(3))]),
        [a, unknown(20, 39, false), unknown(20, 59, true), unknown(60, 79, false)]
    );
}

#[test]
fn the_open_segment_grows_and_keeps_its_wall_time() {
    let mut closer = SegmentCloser::default();
    let onset =
        Event { kind: EventKind::Onset, class: ClassId(0), run: RunId(0), index: 2, probability: 0.9, reason: None };
    for index in 0..100_u64 {
        // Only one second in ten has wall time.
        let wall_ns = index.is_multiple_of(10).then_some(index as i64 * 1_000_000_000);
        assert!(closer.push(RecordedSecond { wall_ns, ..recorded(0, index, A) }, 10).is_empty());
        if index == 2 {
            closer.event(&onset);
        }
    }
    let open = closer.open().unwrap();
    assert_eq!((open.kind, open.first, open.last), (CLASS_A, 0, 88));
    assert_eq!((open.began_ns, open.ended_ns), (Some(0), Some(89_000_000_000)));
    let last = closer.finish();
    assert_eq!((last.len(), last[0].segment.last, last[0].segment.ended_ns), (1, 99, Some(100_000_000_000)));
    assert_eq!((closer.open(), closer.finish()), (None, Vec::new()), "it is over");
}

#[test]
fn closed_segments_are_those_of_the_whole_stream() {
    let mut random = SmallRng::seed_from_u64(19);
    let (mut revisions, mut longest) = (0, 0);
    for round in 0..400 {
        let window = random.random_range(1..=12);
        let config = VoteConfig { window, onset: 0.35, offset: 0.2, onset_seconds: 1, ..VoteConfig::default() };
        let (mut run, mut index, mut class, mut sure) = (0, 0, 0u16, 0.2);
        let mut plans = Vec::new();
        for _ in 0..random.random_range(1..200) {
            match random.random_range(0..60) {
                0 => (run, index) = (run + 1, random.random_range(0..5)),
                1 => index += random.random_range(0..25),
                2..8 => (class, sure) = (random.random_range(0..CLASSES as u16), random.random_range(0.0..1.0)),
                _ => {}
            }
            let plan = match random.random_range(0..8) {
                0 => Plan::No(GapReason::ALL[random.random_range(0..4)]),
                _ => Plan::Is(class, random.random_range(250_000..1_000_000), random.random_bool(sure)),
            };
            plans.push((run, index, plan));
            index += 1;
        }
        let mut found: Vec<Segment> = Vec::new();
        for (at, ClosedSegment { segment, is_revision }) in closed(config, &plans) {
            if at < plans.len() {
                let end = plans.iter().rposition(|(run, index, _)| (*run, *index) == (segment.run.0, segment.last));
                longest = longest.max(at - end.unwrap_or(at));
            }
            if is_revision {
                revisions += 1;
                let revised = found.pop().unwrap();
                assert_eq!((revised.run, revised.first, revised.kind), (segment.run, segment.first, segment.kind));
            }
            found.push(segment);
        }
        // Of several classes in a row that turn out to be unknown, each is a segment of its own.
        let is_unknown = |s: &Segment| s.kind == SegmentKind::Unknown;
        let joined = |segments: Vec<Segment>| {
            type Span = (SegmentKind, u32, u64, u64, u32, u32, Option<u32>);
            let mut spans: Vec<Span> = Vec::new();
            let mut was_unknown = false;
            for s in segments {
                let now_unknown = is_unknown(&s);
                match spans.last_mut() {
                    Some(last) if was_unknown && now_unknown && last.1 == s.run.0 && last.3 + 1 == s.first => {
                        (last.3, last.4, last.5) = (s.last, last.4 + s.decided, last.5 + s.unknown);
                    }
                    _ => spans.push((s.kind, s.run.0, s.first, s.last, s.decided, s.unknown, s.mean)),
                }
                was_unknown = now_unknown;
            }
            spans
        };
        assert_eq!(joined(found), joined(stream(config, &plans).segments(|_| true)), "round {round}: {plans:?}");
    }
    assert!(revisions > 20 && longest < 60, "{revisions} revisions, {longest} seconds");
}

#[test]
fn a_stream_that_another_program_takes_over_has_each_time_once() {
    let part = |first_s: i64, count: u64| {
        let mut segmenter = Segmenter::default();
        for index in 0..count {
            let wall_ns = Some((first_s + index as i64) * NANOS_PER_SECOND as i64 + 300_000_000 * (first_s % 2));
            segmenter.push(RecordedSecond { wall_ns, ..recorded(0, index, Plan::Is(1, 900_000, false)) }, 1);
        }
        segmenter.finish()
    };
    let times = |stream: &SegmentedStream| -> Vec<i64> {
        let wall_s = |s: &RecordedSecond| s.wall_ns.unwrap().div_euclid(NANOS_PER_SECOND as i64);
        stream.seconds().iter().map(wall_s).collect()
    };
    let mut whole = part(100, 20);
    whole.append(part(117, 10));
    assert_eq!(times(&whole), (100..127).collect::<Vec<_>>(), "the successor decided the last three seconds too");
    assert_eq!(whole.segments(|_| true).iter().map(Segment::seconds).collect::<Vec<_>>(), [17, 10]);
    whole.append(part(130, 5));
    assert_eq!(times(&whole)[27..], [130, 131, 132, 133, 134], "after a time that nobody decided");
    // A clock that is hours off takes nothing away.
    whole.append(part(-9000, 3));
    assert_eq!(whole.seconds().len(), 35);
    let mut covered = part(100, 2);
    covered.append(part(100, 5));
    assert_eq!((times(&covered), covered.segments(|_| true).len()), ((100..105).collect(), 1));
}
