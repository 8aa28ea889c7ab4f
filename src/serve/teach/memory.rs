//! The latest seconds of all streams as the models saw them, within bounds of size and age.
//!
//! Seconds leave in the order in which they came. The most doubtful ones stay longer, in a quarter of the size, so that a queue of
//! suggestions remains after a quiet hour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::doubt::doubt;
use touchline_core::clock::Clock;
use touchline_core::decision::{PerModality, SecondPrediction};
use touchline_core::labels::ClassId;
use touchline_core::time::{NANOS_PER_SECOND, RunId};
use touchline_media::gst::clips::SeenSecond;

/// Seconds of which one at most is suggested: neighbours show the same and would teach the same.
const BLOCK_S: u64 = 10;

/// Doubt from which a second stays longer than others.
const KEEP_FROM: f32 = 0.3;

/// Doubtful seconds that stay, at most. Nobody answers more in one session.
const KEPT_MAX: usize = 200;

/// What the pack decided about a second.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldDecision {
    /// The class.
    pub label: ClassId,
    /// Its probability.
    pub probability: f32,
    /// Fused probability per class.
    pub probabilities: Vec<f32>,
    /// Class and score of each modality.
    pub views: PerModality<Option<(ClassId, f32)>>,
}

impl From<&SecondPrediction> for HeldDecision {
    fn from(second: &SecondPrediction) -> Self {
        let decision = &second.decision;
        let view = |modality| second.scores.get(modality).as_ref().map(|scores| (scores.label, scores.score()));
        Self {
            label: decision.label,
            probability: decision.probability,
            probabilities: decision.probabilities.clone(),
            views: PerModality::of(view),
        }
    }
}

/// A second in memory.
#[derive(Debug)]
pub struct HeldSecond {
    /// Id of the stream.
    pub stream: Arc<str>,
    /// Run of the second.
    pub run: RunId,
    /// Index of the second.
    pub index: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
    /// What the pack decided.
    pub decision: HeldDecision,
    /// What the models saw.
    pub seen: SeenSecond,
    shadow: OnceLock<ClassId>,
    held_ns: u64,
}

impl HeldSecond {
    /// A second that is held from `held_ns` (monotonic clock) on.
    pub fn new(stream: Arc<str>, second: &SecondPrediction, seen: SeenSecond, held_ns: u64) -> Self {
        Self {
            stream,
            run: second.run,
            index: second.index,
            unix_ns: second.wall.unix_ns,
            decision: second.into(),
            seen,
            shadow: OnceLock::new(),
            held_ns,
        }
    }

    /// The label of the shadow, once it has scored the second.
    pub fn shadow(&self) -> Option<ClassId> {
        self.shadow.get().copied()
    }

    /// How doubtful the decision is, 0 to 1.
    pub fn doubt(&self) -> f32 {
        doubt(&self.decision, self.shadow())
    }

    /// The first and the last second of its block, of which one at most is suggested.
    pub fn block(&self) -> (u64, u64) {
        let first = self.index - self.index % BLOCK_S;
        (first, first + BLOCK_S - 1)
    }

    fn is(&self, stream: &str, run: RunId, index: u64) -> bool {
        *self.stream == *stream && self.run == run && self.index == index
    }

    fn is_near(&self, other: &HeldSecond) -> bool {
        self.stream == other.stream && self.run == other.run && self.block() == other.block()
    }
}

/// Stream, run, and the first second of the block.
type BlockKey = (Arc<str>, RunId, u64);

#[derive(Default)]
struct Seconds {
    recent: VecDeque<Arc<HeldSecond>>,
    recent_bytes: usize,
    /// Doubtful seconds that were recent, one a block.
    kept: Vec<Arc<HeldSecond>>,
    kept_bytes: usize,
}

/// The latest seconds.
pub struct Memory {
    max_bytes: usize,
    max_ns: u64,
    rate: Option<u32>,
    clock: Arc<dyn Clock>,
    seconds: Mutex<Seconds>,
}

impl Memory {
    /// A memory of at most `max_bytes` and `max_s` seconds. `rate`: samples per second of the sound, if the pack hears.
    pub fn new(max_bytes: u64, max_s: u64, rate: Option<u32>, clock: Arc<dyn Clock>) -> Self {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Self { max_bytes, max_ns: max_s.saturating_mul(NANOS_PER_SECOND), rate, clock, seconds: Mutex::default() }
    }

    /// Samples per second of the sound.
    pub fn rate(&self) -> Option<u32> {
        self.rate
    }

    /// Size of what is held.
    pub fn bytes(&self) -> usize {
        let seconds = self.seconds.lock();
        seconds.recent_bytes + seconds.kept_bytes
    }

    /// Adds a second. Others leave to make room.
    pub fn hold(&self, second: HeldSecond) {
        let now_ns = self.clock.mono_ns();
        let mut seconds = self.seconds.lock();
        seconds.recent_bytes += second.seen.bytes();
        seconds.recent.push_back(Arc::new(second));
        let is_old = |held: &HeldSecond| now_ns.saturating_sub(held.held_ns) > self.max_ns;
        while let Some(first) = seconds.recent.front()
            && (seconds.recent_bytes > self.max_bytes / 4 * 3 || is_old(first))
        {
            let Some(first) = seconds.recent.pop_front() else { break };
            seconds.recent_bytes -= first.seen.bytes();
            seconds.keep(first, self.max_bytes / 4);
        }
    }

    /// Notes the label of the shadow for a second. One that is not held is left out.
    pub fn shadow_said(&self, stream: &str, run: RunId, index: u64, label: ClassId) {
        if let Some(held) = self.find(stream, run, index) {
            // Another shadow may have scored it before.
            let _ = held.shadow.set(label);
        }
    }

    /// A second, if it is held.
    pub fn find(&self, stream: &str, run: RunId, index: u64) -> Option<Arc<HeldSecond>> {
        let seconds = self.seconds.lock();
        // The latest: runs may start over when a stream is removed and added again.
        let mut all = seconds.kept.iter().chain(&seconds.recent).rev();
        all.find(|held| held.is(stream, run, index)).cloned()
    }

    /// The held seconds from `from` to `to`, both included, in order.
    pub fn span(&self, stream: &str, run: RunId, (from, to): (u64, u64)) -> Vec<Arc<HeldSecond>> {
        let seconds = self.seconds.lock();
        let is_in =
            |held: &&Arc<HeldSecond>| *held.stream == *stream && held.run == run && (from..=to).contains(&held.index);
        let all = seconds.kept.iter().chain(&seconds.recent).filter(is_in);
        let by_index: BTreeMap<u64, Arc<HeldSecond>> = all.map(|held| (held.index, held.clone())).collect();
        by_index.into_values().collect()
    }

    /// The most doubtful seconds, one a block at most, the most doubtful first. `is_answered` says whether a block needs no answer.
    pub fn suggestions(&self, limit: usize, is_answered: impl Fn(&HeldSecond) -> bool) -> Vec<Arc<HeldSecond>> {
        let mut blocks: BTreeMap<BlockKey, (f32, Arc<HeldSecond>)> = BTreeMap::new();
        {
            let seconds = self.seconds.lock();
            for held in seconds.kept.iter().chain(&seconds.recent).filter(|held| !held.seen.pictures.is_empty()) {
                let (doubt, key) = (held.doubt(), (held.stream.clone(), held.run, held.block().0));
                match blocks.get(&key) {
                    Some((most, _)) if *most >= doubt => {}
                    _ => drop(blocks.insert(key, (doubt, held.clone()))),
                }
            }
        }
        let mut found: Vec<_> = blocks.into_values().filter(|(_, held)| !is_answered(held)).collect();
        // Equals in the order of their streams and times.
        found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        found.into_iter().take(limit).map(|(_, held)| held).collect()
    }
}

impl Seconds {
    /// Keeps a second that is no longer recent, if it is doubtful and there is room, or less doubtful ones leave for it.
    fn keep(&mut self, second: Arc<HeldSecond>, max_bytes: usize) {
        if second.doubt() < KEEP_FROM || second.seen.pictures.is_empty() {
            return;
        }
        if let Some(near) = self.kept.iter().position(|kept| kept.is_near(&second)) {
            if self.kept[near].doubt() >= second.doubt() {
                return;
            }
            self.drop_kept(near);
        }
        self.kept_bytes += second.seen.bytes();
        self.kept.push(second);
        while self.kept.len() > KEPT_MAX || self.kept_bytes > max_bytes {
            let least = |(_, a): &(usize, &Arc<HeldSecond>), (_, b): &(usize, &Arc<HeldSecond>)| {
                a.doubt().total_cmp(&b.doubt())
            };
            let Some((least, _)) = self.kept.iter().enumerate().min_by(least) else { return };
            self.drop_kept(least);
        }
    }

    fn drop_kept(&mut self, at: usize) {
        self.kept_bytes -= self.kept.remove(at).seen.bytes();
    }
}
