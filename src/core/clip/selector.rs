//! Predicts which pictures the sampling plan will choose, from their times in order.
//!
//! The plan samples a second after its end. This selector reaches the same result while pictures arrive, one picture late: the
//! picture nearest to a sampling point is the last before it or the first at or after it. It keeps at least the pictures that the
//! plan will sample, so sampling the kept pictures gives the same result as sampling all, bit for bit.
//!
//! That is true for ascending times at any distance, and across jumps. Where times repeat or go back, the plan might have sampled
//! a picture that was already dropped. From there on everything is kept for a while, and only the second in which the disorder
//! began may be sampled differently.

use super::SamplingPlan;
use super::run::FRAMES_PER_SECOND_MAX;
use super::sampling::{PendingFrame, centres};
use crate::selection::{FrameChoice, FrameChoices, FrameSelection, FrameSelector};
use crate::tier::SharedTier;
use crate::time::{NANOS_PER_SECOND, Pts};

/// A larger step in either direction is a hole or a jump, ns.
const STEP_MAX_NS: u64 = NANOS_PER_SECOND / 2;

/// The shortest interval of pictures for which samples are predicted, ns.
const INTERVAL_MIN_NS: u64 = NANOS_PER_SECOND / FRAMES_PER_SECOND_MAX as u64;

/// Seconds in which all pictures are kept after pictures arrived out of order: such streams usually repeat it.
const DISORDER_SECONDS: u64 = 10;

/// The purpose of a sampling point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PointKind {
    /// One picture, for the RGB model or the signal detectors.
    Single,
    /// The first picture of a pair.
    First,
    /// The second, known once the first is.
    Second,
}

/// A sampling point without a picture so far.
#[derive(Clone, Copy, Debug)]
struct OpenPoint {
    point: PointKind,
    /// Time, ns. Before the second's start for a pair that is longer than its part of the second.
    at: i128,
    /// The last picture lies before the point and may be the nearest.
    has_last: bool,
}

/// The frame selector of one connection, by a sampling plan.
#[derive(Clone, Debug)]
pub struct PlanSelector {
    plan: SamplingPlan,
    tier: SharedTier,
    /// PTS of the last picture, ns.
    last: Option<u64>,
    /// Pictures of the last picture's second.
    seen: usize,
    open: Vec<OpenPoint>,
    /// Up to this second everything is kept.
    keep_until: Option<u64>,
}

impl PlanSelector {
    /// A selector for `plan` in a tier that may change.
    pub fn new(plan: SamplingPlan, tier: SharedTier) -> Self {
        let most = 2 * plan.flow_pairs as usize + (plan.rgb_frames + plan.signal_frames) as usize;
        Self { plan, tier, last: None, seen: 0, open: Vec::with_capacity(most), keep_until: None }
    }

    /// The frame selection for sources whose seconds are sampled by `plan`.
    pub fn selection(plan: &SamplingPlan) -> FrameSelection {
        let plan = plan.clone();
        FrameSelection::new(move |tier| Box::new(Self::new(plan.clone(), tier)))
    }

    /// Begins a second: all its points are open.
    fn begin(&mut self, second: u64) {
        let start = second.saturating_mul(NANOS_PER_SECOND);
        let half = i128::from(self.plan.flow_gap_ns / 2);
        let of = |point, at| OpenPoint { point, at, has_last: false };
        let plan = self.plan.in_tier(self.tier.get());
        self.open.clear();
        for count in [plan.rgb_frames, plan.signal_frames] {
            self.open.extend(centres(start, count).map(|at| of(PointKind::Single, i128::from(at))));
        }
        self.open.extend(centres(start, plan.flow_pairs).map(|at| of(PointKind::First, i128::from(at) - half)));
        self.seen = 0;
    }

    /// Whether the last picture is sampled if no other follows in its second. The first picture of a pair needs a second one.
    fn last_serves(&self) -> bool {
        self.open.iter().any(|open| open.has_last && open.point != PointKind::First)
    }

    /// Assigns pictures to the points that a picture at `pts` of the same second decides.
    fn settle(&mut self, last: Option<u64>, pts: u64) -> FrameChoices {
        let (now, gap) = (i128::from(pts), i128::from(self.plan.flow_gap_ns));
        let (mut keep_held, mut keep_this) = (false, false);
        let mut at = 0;
        while at < self.open.len() {
            let open = &mut self.open[at];
            if now < open.at {
                open.has_last = true;
                at += 1;
                continue;
            }
            let OpenPoint { point, at: wanted, has_last } = self.open.swap_remove(at);
            let nearer = last.map(i128::from).filter(|last| has_last && wanted - last <= now - wanted);
            match nearer {
                Some(_) => keep_held = true,
                None => keep_this = true,
            }
            if point == PointKind::First {
                // The second of the pair comes after the first: this picture may be it only if it is not the first.
                let wanted = nearer.unwrap_or(now) + gap;
                let is_this = nearer.is_some() && now >= wanted;
                keep_this |= is_this;
                if !is_this {
                    self.open.push(OpenPoint { point: PointKind::Second, at: wanted, has_last: nearer.is_some() });
                    // This picture has been considered for the new point; the loop must skip it.
                    let end = self.open.len() - 1;
                    self.open.swap(at, end);
                    at += 1;
                }
            }
        }
        let this = if keep_this {
            FrameChoice::Keep
        } else if self.open.iter().any(|open| open.has_last) {
            FrameChoice::Hold
        } else {
            FrameChoice::Drop
        };
        FrameChoices { keep_held, this }
    }
}

impl FrameSelector for PlanSelector {
    fn offer(&mut self, pts: Pts) -> FrameChoices {
        let (second, pts) = (pts.second(), pts.0);
        let last = self.last.replace(pts);
        let last_second = last.map(|last| Pts(last).second());
        match last {
            Some(last) if pts <= last && last - pts <= STEP_MAX_NS => {
                self.keep_until = Some(Pts(last).second().saturating_add(DISORDER_SECONDS));
            }
            // After a jump, pictures may continue in a second that was already begun.
            Some(last) if pts.abs_diff(last) > STEP_MAX_NS => {
                self.keep_until =
                    Some(self.keep_until.filter(|_| pts > last).map_or(second, |until| until.max(second)));
            }
            _ => {}
        }
        let is_new = last_second != Some(second);
        let mut keep_held = is_new && self.last_serves();
        if is_new {
            self.begin(second);
        }
        self.seen += 1;
        if self.keep_until.is_some_and(|until| second <= until) {
            // A held picture is kept as well.
            self.open.clear();
            return FrameChoices { keep_held: true, this: FrameChoice::Keep };
        }
        if self.seen > FRAMES_PER_SECOND_MAX {
            // More pictures than the plan considers: the last considered one takes the remaining points.
            keep_held |= self.last_serves();
            self.open.clear();
            return FrameChoices { keep_held, this: FrameChoice::Drop };
        }
        let settled = self.settle(last.filter(|_| !is_new), pts);
        // The first picture of a second is always kept: holding it would delay the end of the second before.
        let this = if is_new { FrameChoice::Keep } else { settled.this };
        FrameChoices { keep_held: keep_held || settled.keep_held, this }
    }

    fn may_sample(&self, pts: Pts, interval_ns: u64) -> bool {
        let is_kept_anyway = self.keep_until.is_some_and(|until| pts.second() <= until);
        if is_kept_anyway || !(INTERVAL_MIN_NS..=STEP_MAX_NS).contains(&interval_ns) {
            return true;
        }
        // Containers round times to milliseconds, so the neighbours may be a little nearer or farther than the interval.
        let slack = interval_ns / 16;
        let plan = self.plan.in_tier(self.tier.get());
        [interval_ns, interval_ns - slack, interval_ns + slack].into_iter().any(|next_ns| {
            let (times, index) = regular_second(pts.0, interval_ns, next_ns);
            plan.samples(Pts::from_second(pts.second()).0, &times, index)
        })
    }
}

/// The pictures of a second with one every `interval_ns`, of which one is at `pts` and its neighbours are `next_ns` away from it; and
/// the index of that one.
fn regular_second(pts: u64, interval_ns: u64, next_ns: u64) -> (Vec<PendingFrame>, usize) {
    let start = Pts::from_second(Pts(pts).second()).0;
    let end = start.saturating_add(NANOS_PER_SECOND);
    let steps = || (0..).map(|k| next_ns + k * interval_ns);
    let mut times: Vec<_> = steps().map_while(|step| pts.checked_sub(step).filter(|time| *time >= start)).collect();
    times.reverse();
    let index = times.len();
    times.push(pts);
    times.extend(steps().map(|step| pts.saturating_add(step)).take_while(|time| *time < end));
    (times.into_iter().map(|time| PendingFrame::Unconverted(Pts(time))).collect(), index)
}

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;
