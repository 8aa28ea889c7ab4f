//! Memory that extractors keep between calls: resize plans by picture size, and a pool of scratch memory for parallel tasks.

use parking_lot::Mutex;

use super::cpu::resize::ResizePlan;
use super::params::{Filter, Fit};

/// Plans kept for sizes that are not in the current batch. An extractor serves several streams, each of one size; a plan for
/// 1080p takes about 100 kB.
const PLANS_KEPT: usize = 16;

/// A cache of resize plans from picture sizes to one input rectangle.
#[derive(Debug)]
pub(super) struct PlanCache {
    target: (usize, usize),
    fit: Fit,
    filter: Filter,
    /// Most recently used last.
    plans: Vec<ResizePlan>,
}

impl PlanCache {
    pub(super) fn new(target: (usize, usize), fit: Fit, filter: Filter) -> Self {
        Self { target, fit, filter, plans: Vec::new() }
    }

    /// Makes sure that [`PlanCache::get`] knows every (width, height) of `sources`, and drops the plans that have
    /// not been used for longest.
    pub(super) fn prepare(&mut self, sources: impl IntoIterator<Item = (usize, usize)>) {
        // The last `in_use` plans belong to this call.
        let mut in_use = 0;
        for source in sources {
            if source.0 == 0 || source.1 == 0 {
                continue;
            }
            match self.plans.iter().position(|p| p.is_for(source, self.target, self.fit)) {
                Some(i) if i >= self.plans.len() - in_use => {}
                Some(i) => {
                    self.plans[i..].rotate_left(1);
                    in_use += 1;
                }
                None => {
                    self.plans.push(ResizePlan::filtered(source, self.target, self.fit, self.filter));
                    in_use += 1;
                }
            }
        }
        let surplus = self.plans.len().saturating_sub(in_use.max(PLANS_KEPT));
        self.plans.drain(..surplus);
    }

    /// The plan for a size that was prepared; `None` for an empty picture.
    pub(super) fn get(&self, source: (usize, usize)) -> Option<&ResizePlan> {
        self.plans.iter().find(|p| p.is_for(source, self.target, self.fit))
    }
}

/// A pool of scratch memory for parallel tasks. It grows to the number of tasks that ran at once; at most `limit` are kept.
#[derive(Debug)]
pub(super) struct ScratchPool<T> {
    free: Mutex<Vec<T>>,
    limit: usize,
}

impl<T> ScratchPool<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { free: Mutex::new(Vec::new()), limit }
    }

    /// Runs `work` with a piece of scratch that `suits`, made by `make` when none is free.
    pub(super) fn with<R>(
        &self,
        suits: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> R {
        // A panic elsewhere does no harm: each user overwrites the scratch memory.
        let taken = {
            let mut free = self.free.lock();
            free.iter().rposition(suits).map(|i| free.remove(i))
        };
        let mut scratch = taken.unwrap_or_else(make);
        let result = work(&mut scratch);
        let mut free = self.free.lock();
        if free.len() >= self.limit {
            // The first has been unused for longest.
            free.remove(0);
        }
        free.push(scratch);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_in_use_are_kept_and_old_ones_are_dropped() {
        let mut plans = PlanCache::new((8, 8), Fit::Pad, Filter::Bilinear);
        plans.prepare((1..=30).map(|w| (w, 3)).chain([(0, 5), (5, 0), (2, 3)]));
        assert!((1..=30).all(|w| plans.get((w, 3)).is_some()));
        assert!(plans.get((0, 5)).is_none() && plans.get((5, 0)).is_none());
        plans.prepare([(3, 3), (4, 3)]);
        assert_eq!(plans.plans.len(), PLANS_KEPT);
        assert!(plans.get((3, 3)).is_some() && plans.get((4, 3)).is_some() && plans.get((5, 3)).is_none());
    }

    #[test]
    fn scratch_is_reused_if_it_fits() {
        let scratch = ScratchPool::new(2);
        let with = |kind: u32| scratch.with(|s: &(u32, u32)| s.0 == kind, || (kind, 0), |s| (s.1 += 1, s.1).1);
        assert_eq!([with(1), with(1), with(2), with(1), with(2)], [1, 2, 1, 3, 2]);
        assert_eq!([with(3), with(2), with(1)], [1, 3, 1]);
    }
}
