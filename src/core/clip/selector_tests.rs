//! Compares the samples of a plan from the kept pictures with its samples from all pictures, on generated timelines.

use super::*;
use crate::clip::FlowPair;
use crate::clip::sampling::{PendingFrame, SampledFrames};
use crate::frame::Frame;
use crate::pool::Pooled;
use crate::tier::DecodeTier;

const MS: u64 = 1_000_000;
const S: u64 = NANOS_PER_SECOND;

fn plan(rgb_frames: u32, flow_pairs: u32, gap_ms: u64) -> SamplingPlan {
    SamplingPlan { rgb_frames, flow_pairs, flow_gap_ns: gap_ms * MS, signal_frames: 0 }
}

fn picture(pts: u64, keep: bool) -> PendingFrame {
    if keep {
        PendingFrame::Frame(Frame::new(Pooled::detached(vec![0; 3]), 1, 1, Pts(pts), 0))
    } else {
        PendingFrame::Unconverted(Pts(pts))
    }
}

/// For each picture, whether it is converted.
fn kept(plan: &SamplingPlan, times: &[u64]) -> Vec<bool> {
    let mut selector = PlanSelector::new(plan.clone(), SharedTier::default());
    let (mut kept, mut held) = (vec![false; times.len()], None);
    for (i, &pts) in times.iter().enumerate() {
        let choices = selector.offer(Pts(pts));
        if let Some(held) = held.take() {
            kept[held] = choices.keep_held;
        }
        match choices.this {
            FrameChoice::Keep => kept[i] = true,
            FrameChoice::Hold => held = Some(i),
            FrameChoice::Drop => {}
        }
    }
    // A held picture is converted at the end of a stream.
    if let Some(held) = held {
        kept[held] = true;
    }
    kept
}

fn times_of(chosen: &SampledFrames) -> (Vec<u64>, &[usize], &[FlowPair]) {
    (chosen.frames.iter().map(|f| f.pts.0).collect(), &chosen.rgb, &chosen.pairs)
}

/// Checks every second of the ascending `times`. Returns the numbers of converted and of sampled pictures.
fn check(plan: &SamplingPlan, times: &[u64]) -> (usize, usize) {
    let kept = kept(plan, times);
    let (mut at, mut chosen) = (0, 0);
    while at < times.len() {
        let second = Pts(times[at]).second();
        let end = at + times[at..].iter().take_while(|t| Pts(**t).second() == second).count();
        let end = end.min(at + FRAMES_PER_SECOND_MAX);
        let mut all: Vec<PendingFrame> = times[at..end].iter().map(|t| picture(*t, true)).collect();
        let mut some: Vec<PendingFrame> = (at..end).map(|i| picture(times[i], kept[i])).collect();
        let start = Pts::from_second(second);
        let (all, some) = (plan.choose(start, &mut all), plan.choose(start, &mut some));
        assert_eq!(times_of(&all), times_of(&some), "{plan:?}: {:?}", &times[at..end]);
        chosen += all.frames.len();
        at += times[at..].iter().take_while(|t| Pts(**t).second() == second).count();
    }
    (kept.iter().filter(|k| **k).count(), chosen)
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn a_steady_stream_converts_the_sampled_pictures_and_the_first_of_each_second() {
    for (number, denominator) in [(30, 1), (25, 1), (30_000, 1001), (50, 1), (60_000, 1001), (24_000, 1001), (15, 1)] {
        let times: Vec<u64> = (0..20 * number / denominator).map(|k| k * denominator * S / number).collect();
        let (converted, chosen) = check(&plan(5, 5, 40), &times);
        assert!(converted <= chosen + 21, "{number}/{denominator}: {converted} of {}, {chosen} chosen", times.len());
    }
    let times: Vec<u64> = (0..300).map(|k| k * S / 30).collect();
    let (converted, _) = check(&plan(5, 5, 40), &times);
    assert!(converted <= 110, "{converted} of 300");
}

#[test]
fn the_samples_are_the_same_for_all_distances() {
    let mut lcg = Lcg(7);
    for round in 0..400 {
        let gap_ms = [0, 10, 40, 100, 200, 700][lcg.below(6) as usize];
        let signal_frames = lcg.below(7) as u32;
        let plan = SamplingPlan { signal_frames, ..plan(lcg.below(9) as u32, lcg.below(9) as u32, gap_ms) };
        let (mut time, mut times) = (lcg.below(3 * S), Vec::new());
        let usual = [4 * MS, 17 * MS, 33 * MS, 40 * MS, 120 * MS, 400 * MS][lcg.below(6) as usize];
        for _ in 0..300 {
            times.push(time);
            time += match (round % 4, lcg.below(60)) {
                // Holes, jumps forward and stalls.
                (_, 0) => lcg.below(5 * S) + 1,
                (0, _) => usual,
                // Jitter around a rate, and no rate at all.
                (1, _) => usual / 2 + lcg.below(usual) + 1,
                (2, _) => lcg.below(2 * usual) + 1,
                // Whole milliseconds, as in some containers: sampling points are met exactly, and distances are equal.
                (_, _) => (lcg.below(8) + 1) * 10 * MS,
            };
        }
        check(&plan, &times);
    }
}

#[test]
fn pictures_beyond_the_limit_change_nothing() {
    let times: Vec<u64> = (0..2000).map(|k| k * S / 700).collect();
    check(&plan(5, 5, 40), &times);
}

#[test]
fn after_disorder_all_pictures_are_kept_for_a_while() {
    let mut times: Vec<u64> = (0..30 * 30).map(|k| k * S / 30).collect();
    times.swap(100, 101);
    let kept = kept(&plan(5, 5, 40), &times);
    let kept_in = |second: usize| kept[second * 30..(second + 1) * 30].iter().filter(|k| **k).count();
    assert!(kept_in(2) <= 11 && kept_in(20) <= 11, "{} and {}", kept_in(2), kept_in(20));
    assert!((4..13).all(|second| kept_in(second) == 30));
}

#[test]
fn a_jump_back_starts_over_with_a_whole_second() {
    let before: Vec<u64> = (0..75).map(|k| 90 * S + k * S / 30).collect();
    let after: Vec<u64> = (0..120).map(|k| 3_350 * MS + k * S / 30).collect();
    let plan = plan(5, 5, 40);
    let kept = kept(&plan, &[before.clone(), after.clone()].concat());
    let first = after.iter().take_while(|t| **t < 4 * S).count();
    assert!(kept[75..75 + first].iter().all(|k| *k));
    let next = kept[75 + first..75 + first + 30].iter().filter(|k| **k).count();
    assert!(next <= 11, "{next}");
    // The second before the jump is sampled as if the stream had ended.
    let mut all: Vec<PendingFrame> = (60..75).map(|i| picture(before[i], true)).collect();
    let mut some: Vec<PendingFrame> = (60..75).map(|i| picture(before[i], kept[i])).collect();
    let start = Pts::from_second(92);
    assert_eq!(times_of(&plan.choose(start, &mut all)), times_of(&plan.choose(start, &mut some)));
}

#[test]
fn after_a_wrong_prediction_the_samples_are_taken_from_the_kept_pictures() {
    let mut pictures: Vec<PendingFrame> = (0..30).map(|k| picture(k * S / 30, k % 7 == 0)).collect();
    let chosen = plan(5, 5, 40).choose(Pts(0), &mut pictures);
    let is_converted = |f: &Frame| ((f.pts.0 * 30 + S / 2) / S).is_multiple_of(7);
    assert!(chosen.rgb.len() == 5 && chosen.frames.iter().all(is_converted), "{:?}", times_of(&chosen));
}

/// The times of pictures at `fps` (a fraction), with times rounded to `grain` ns, from `offset` ns on.
fn regular((num, den): (u64, u64), grain: u64, offset: u64) -> Vec<u64> {
    (0..).map(|n| offset + (n * den * S / num).div_ceil(grain) * grain).take_while(|time| *time < 4 * S).collect()
}

#[test]
fn pictures_that_are_not_decoded_are_never_sampled() {
    let rates = [(25, 1), (30_000, 1001), (30, 1), (50, 1), (60_000, 1001), (24_000, 1001), (10, 1), (3, 1)];
    let with_signal = SamplingPlan { signal_frames: 5, ..plan(2, 1, 40) };
    for plan in [plan(2, 5, 40), plan(5, 5, 40), plan(1, 0, 0), plan(2, 3, 100), with_signal] {
        for tier in DecodeTier::ALL {
            let selector = PlanSelector::new(plan.clone(), SharedTier::new(tier));
            let (mut skipped, mut all) = (0, 0);
            for rate in rates {
                for (grain, offset) in [(1, 0), (1, 7_654_321), (MS, 0), (MS, 13 * MS), (11_111, 300 * MS)] {
                    let times = regular(rate, grain, offset);
                    let interval = S * rate.1 / rate.0;
                    for second in 1..4 {
                        let seen: Vec<_> = times
                            .iter()
                            .filter(|time| Pts(**time).second() == second)
                            .map(|time| picture(*time, false))
                            .collect();
                        for (index, picture) in seen.iter().enumerate() {
                            let is_sampled = plan.in_tier(tier).samples(second * S, &seen, index);
                            let may_be = selector.may_sample(Pts(picture.pts()), interval);
                            assert!(
                                may_be || !is_sampled,
                                "{plan:?} {tier:?} {rate:?} {grain} {offset}: {}",
                                picture.pts()
                            );
                            skipped += usize::from(!may_be);
                            all += 1;
                        }
                    }
                }
            }
            let plan = plan.in_tier(tier);
            let pairs = plan.flow_pairs + plan.signal_frames;
            assert!(skipped * 4 > all || pairs >= 5, "{plan:?} {tier:?}: {skipped} of {all}");
        }
    }
    // Unknown intervals, and times out of order: everything may be sampled.
    let mut selector = PlanSelector::new(plan(1, 0, 0), SharedTier::default());
    assert!(
        selector.may_sample(Pts(S), 0) && selector.may_sample(Pts(S), 2 * S) && !selector.may_sample(Pts(S), 40 * MS)
    );
    selector.offer(Pts(S + 80 * MS));
    selector.offer(Pts(S + 40 * MS));
    assert!(selector.may_sample(Pts(S + 120 * MS), 40 * MS));
}

#[test]
fn a_tier_without_flow_samples_for_the_rgb_model_only() {
    let tier = SharedTier::new(DecodeTier::Lean);
    let plan = SamplingPlan { signal_frames: 10, ..plan(1, 5, 40) };
    let mut selector = PlanSelector::new(plan, tier.clone());
    let kept = |selector: &mut PlanSelector, second: u64| {
        let offers = (0..25).map(|n: u64| selector.offer(Pts(second * S + n * 40 * MS)));
        offers.filter(|choices| choices.this == FrameChoice::Keep || choices.keep_held).count()
    };
    assert!(kept(&mut selector, 0) > 9);
    tier.set(DecodeTier::Sparse);
    assert!(kept(&mut selector, 1) <= 3);
}
