//! The decisions that a live output waits for, and what it shows.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::composition::LabelSource;
use super::pipeline::BEGIN_NS;
use super::timeline::Timeline;
use crate::overlay::LabelContent;
use touchline_core::time::{NANOS_PER_SECOND, RunId};

/// Seconds whose decisions are known: those that wait in the ring.
const SECONDS_MAX: usize = 900;

/// Decisions and media of the same second arrive within this time, ns. Times start over with each connection.
const SAME_NS: u64 = 60 * NANOS_PER_SECOND;

/// The decision of a second.
#[derive(Clone, Debug)]
pub struct ShownSecond {
    /// Number of the second.
    pub index: u64,
    /// When its media arrived, ns on the monotonic clock.
    pub arrived_ns: u64,
    /// The label; [`None`]: none is shown.
    pub label: Option<Arc<LabelContent>>,
}

/// The decisions that are known, oldest first.
#[derive(Debug, Default)]
pub(super) struct Decisions(VecDeque<ShownSecond>);

impl Decisions {
    pub fn add(&mut self, second: ShownSecond) {
        if self.0.len() >= SECONDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(second);
    }

    /// The decision of the second `index` whose media arrived at about `arrived_ns`.
    pub fn find(&self, index: u64, arrived_ns: u64) -> Option<&ShownSecond> {
        let distance = |second: &&ShownSecond| second.arrived_ns.abs_diff(arrived_ns);
        let same = self.0.iter().filter(|second| second.index == index);
        same.min_by_key(distance).filter(|second| distance(second) <= SAME_NS)
    }
}

/// The timeline of an output, and what is shown in the seconds on it.
#[derive(Default)]
pub(super) struct LiveLabels {
    pub timeline: Timeline,
    seconds: VecDeque<(RunId, u64, Option<Arc<LabelContent>>)>,
}

impl LiveLabels {
    pub fn show(&mut self, run: u32, second: u64, label: Option<Arc<LabelContent>>) {
        if let Some(known) = self.seconds.iter_mut().rfind(|(r, s, _)| (r.0, *s) == (run, second)) {
            known.2 = label;
            return;
        }
        if self.seconds.len() >= SECONDS_MAX {
            self.seconds.pop_front();
        }
        self.seconds.push_back((RunId(run), second, label));
    }
}

impl LabelSource for Mutex<LiveLabels> {
    fn label(&self, out_ns: u64) -> Option<Arc<LabelContent>> {
        let labels = self.lock();
        let (run, second) = labels.timeline.second(i64::try_from(out_ns.saturating_sub(BEGIN_NS)).ok()?)?;
        labels.seconds.iter().rfind(|(r, s, _)| (*r, *s) == (run, second))?.2.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_those_of_the_connection() {
        let mut decisions = Decisions::default();
        let s = NANOS_PER_SECOND;
        for (index, arrived_ns) in [(3, 100 * s), (4, 101 * s), (3, 140 * s)] {
            decisions.add(ShownSecond { index, arrived_ns, label: None });
        }
        let find = |index, arrived_ns| decisions.find(index, arrived_ns).map(|second| second.arrived_ns / s);
        assert_eq!((find(3, 99 * s), find(3, 139 * s), find(4, 101 * s)), (Some(100), Some(140), Some(101)));
        assert_eq!((find(5, 101 * s), find(4, 170 * s)), (None, None));
    }
}
