//! The order in which live streams reduce their work during an overload.
//!
//! First the tiers are lowered, beginning with the streams whose decisions suffer least. Then all streams use fewer pictures.
//! Last, only key pictures are decoded, which loses seconds. [`crate::frame_share`] chooses the level, [`AutoTiers`] the streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backlog::QueueId;
use touchline_core::clip::FrameShare;
use touchline_core::decision::SecondOutcome;
use touchline_core::labels::{ClassId, ClassSet, Modality, OTHER};
use touchline_core::tier::{DecodeTier, SharedTier};

/// Steps of a change of tier: at each, another quarter of the streams. One stream a step would take minutes with 64 streams.
const QUARTERS: u8 = 4;

/// The last level without a smaller share of pictures, and the last without tier `key`.
const ALL_SPARSE: u8 = QUARTERS;
const LEAST_SHARE: u8 = ALL_SPARSE + FrameShare::STEPS.len() as u8 - 1;

/// Level of relief; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relief(u8);

impl Relief {
    const LAST: Relief = Relief(LEAST_SHARE + QUARTERS);

    /// The share of pictures that the models see.
    pub fn share(self) -> FrameShare {
        let step = self.0.clamp(ALL_SPARSE, LEAST_SHARE) - ALL_SPARSE;
        FrameShare::STEPS[usize::from(step)]
    }

    /// Of `streams` with the automatic tier, how many decode at most `sparse`, and how many of these only `key`.
    fn lowered(self, streams: usize) -> [usize; 2] {
        let of = |quarters: u8| (streams * usize::from(quarters)).div_ceil(usize::from(QUARTERS));
        [of(self.0.min(ALL_SPARSE)), of(self.0.saturating_sub(LEAST_SHARE))]
    }

    /// The cost of decoding and classifying with `streams` automatic streams; 1 without relief. The costs of the tiers are those
    /// that `benches/RESULTS.md` has.
    pub fn cost(self, streams: usize) -> f64 {
        let [sparse, key] = self.lowered(streams);
        let all = streams.max(1) as f64;
        self.share().ratio() * (all - 0.5 * sparse as f64 - 0.375 * key as f64) / all
    }

    /// The next level with more relief for `streams` automatic streams. `is_losing`: seconds are lost already. Only then are the
    /// tiers of all streams changed at once, and only then are key pictures alone decoded, because that loses seconds too.
    pub fn lower(self, streams: usize, is_losing: bool) -> Option<Self> {
        let first = if is_losing && self.0 < ALL_SPARSE { ALL_SPARSE } else { self.0 + 1 };
        let last = if is_losing { Self::LAST.0 } else { LEAST_SHARE };
        (first..=last).map(Relief).find(|level| !level.is_like(self, streams))
    }

    /// The next level with less relief.
    pub fn higher(self, streams: usize) -> Option<Self> {
        // The lowest of several equal levels, so that the next overload has the most levels left.
        let level = (0..self.0).rev().map(Relief).find(|level| !level.is_like(self, streams))?;
        (0..=level.0).map(Relief).find(|other| other.is_like(level, streams))
    }

    fn is_like(self, other: Self, streams: usize) -> bool {
        self.share() == other.share() && self.lowered(streams) == other.lowered(streams)
    }
}

/// A decided second counts a sixteenth: a stream's rank follows its last quarter of a minute.
const MEMORY: i32 = 16;

/// The unit of costs.
const ONE: i32 = 1024;

/// A stream in a lower tier keeps it while another is cheaper by less than this: half of what a sport costs more than `other`.
const KEPT: i32 = ONE / 2;

/// What a lower tier costs a stream.
#[derive(Debug)]
struct StreamCost {
    tier: SharedTier,
    label: Option<ClassId>,
    /// Whether a programme is on, whether it is a sport, and how often it changes. Averages in units of [`ONE`].
    programme: i32,
    /// The flow model decides. Only seconds with flow change it.
    flow: i32,
}

impl StreamCost {
    fn note(&mut self, outcome: &SecondOutcome, classes: &ClassSet) {
        let average = |value: &mut i32, now: i32| *value += (now * ONE - *value) / MEMORY;
        match outcome {
            SecondOutcome::Predicted(second) => {
                let label = second.decision.label;
                let is_sport = !second.is_unknown() && classes.name(label) != OTHER;
                let is_change = self.label.replace(label).is_some_and(|before| before != label);
                // A change is what a viewer waits for, so it counts twice as much as a sport that continues.
                average(&mut self.programme, 1 + i32::from(is_sport) + 2 * i32::from(is_change));
                if second.tier.has_flow() {
                    average(&mut self.flow, 2 * i32::from(second.decision.modality == Modality::Flow));
                }
            }
            SecondOutcome::Gap(_) if outcome.is_no_programme() => average(&mut self.programme, 0),
            SecondOutcome::Gap(_) => {}
        }
    }

    fn rank(&self) -> i32 {
        let kept = match self.tier.get() {
            DecodeTier::Full | DecodeTier::Lean => 0,
            DecodeTier::Sparse => KEPT,
            DecodeTier::Key => 2 * KEPT,
        };
        self.programme + self.flow - kept
    }
}

/// The live streams whose tier is automatic. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct AutoTiers(Arc<Mutex<BTreeMap<QueueId, StreamCost>>>);

impl AutoTiers {
    /// Adds the stream of a queue, whose tier is from now on set by [`AutoTiers::assign`]. It counts as a sport that changes until
    /// its seconds show something else.
    pub fn add(&self, queue: QueueId, tier: SharedTier) {
        self.0.lock().insert(queue, StreamCost { tier, label: None, programme: 4 * ONE, flow: 0 });
    }

    /// Removes a stream. Nothing happens for a queue without an automatic tier.
    pub fn remove(&self, queue: QueueId) {
        self.0.lock().remove(&queue);
    }

    /// The number of streams.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Takes the outcome of a second of a stream.
    pub fn note(&self, queue: QueueId, outcome: &SecondOutcome, classes: &ClassSet) {
        if let Some(stream) = self.0.lock().get_mut(&queue) {
            stream.note(outcome, classes);
        }
    }

    /// Sets the tier of each stream for `relief`: those are lowered whose decisions suffer least. Returns the number of streams in
    /// each tier, in the order of [`DecodeTier::ALL`].
    pub fn assign(&self, relief: Relief) -> [usize; DecodeTier::ALL.len()] {
        let streams = self.0.lock();
        let mut order: Vec<_> = streams.iter().map(|(queue, stream)| (stream.rank(), *queue)).collect();
        order.sort_unstable();
        let [sparse, key] = relief.lowered(order.len());
        let mut counts = [0; DecodeTier::ALL.len()];
        for (at, (_, queue)) in order.iter().enumerate() {
            let tier = match at {
                at if at < key => DecodeTier::Key,
                at if at < sparse => DecodeTier::Sparse,
                _ => DecodeTier::Lean,
            };
            streams[queue].tier.set(tier);
            counts[tier as usize] += 1;
        }
        counts
    }
}

#[cfg(test)]
#[path = "relief_tests.rs"]
mod tests;
