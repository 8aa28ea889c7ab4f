//! Bootstrap intervals over sources.
//!
//! Seconds of one source resemble each other. Sources are therefore drawn with replacement, not seconds: the percentile interval
//! of the cluster bootstrap (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993). Counts are made once per source and
//! summed over each draw.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::metrics::Samples;
use super::result::Interval;

/// Number of draws, enough for stable percentiles at 2.5 and 97.5.
pub const DRAWS: usize = 1000;

/// Counts of one class in one group.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    right: u64,
    support: u64,
    predicted: u64,
}

/// Returns accuracy and macro F1 with their 95 % intervals from `draws` draws. The macro F1 of a draw covers the classes in that
/// draw. If some classes have a single source, the interval thus includes the choice of classes as well as that of sources.
pub fn intervals(samples: &Samples, draws: usize, seed: u64) -> (Interval, Interval) {
    let mut groups: BTreeMap<u32, BTreeMap<usize, Counts>> = BTreeMap::new();
    for (truth, predicted, group, _) in samples.iter() {
        let group = groups.entry(group).or_default();
        let own = group.entry(truth.index()).or_default();
        own.support += 1;
        own.right += u64::from(truth == predicted);
        group.entry(predicted.index()).or_default().predicted += 1;
    }
    let groups: Vec<Vec<(usize, Counts)>> = groups.into_values().map(|g| g.into_iter().collect()).collect();
    let figures = |drawn: &mut dyn Iterator<Item = usize>| {
        let mut sums = vec![Counts::default(); samples.classes()];
        for g in drawn {
            for (class, counts) in &groups[g] {
                let sum = &mut sums[*class];
                sum.right += counts.right;
                sum.support += counts.support;
                sum.predicted += counts.predicted;
            }
        }
        of(&sums)
    };
    let value = figures(&mut (0..groups.len()));
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut accuracies, mut f1s) = (Vec::with_capacity(draws), Vec::with_capacity(draws));
    if groups.len() > 1 {
        for _ in 0..draws {
            let (accuracy, f1) = figures(&mut (0..groups.len()).map(|_| rng.random_range(0..groups.len())));
            accuracies.push(accuracy);
            f1s.push(f1);
        }
    }
    (interval(value.0, accuracies), interval(value.1, f1s))
}

/// Returns accuracy and macro F1 from counts per class.
fn of(classes: &[Counts]) -> (f64, f64) {
    let (mut right, mut total, mut f1, mut present) = (0, 0, 0.0, 0u32);
    for c in classes.iter().filter(|c| c.support > 0) {
        right += c.right;
        total += c.support;
        f1 += 2.0 * c.right as f64 / (c.support + c.predicted) as f64;
        present += 1;
    }
    (right as f64 / total.max(1) as f64, f1 / f64::from(present.max(1)))
}

/// Returns a figure with the 95 % interval of its draws; no interval without draws, which is the case for a single source.
pub(super) fn interval(value: f64, mut draws: Vec<f64>) -> Interval {
    draws.sort_by(f64::total_cmp);
    let end = |share| (!draws.is_empty()).then(|| percentile(&draws, share));
    Interval { value, low: end(0.025), high: end(0.975) }
}

/// Returns the percentile at `share` (0 to 1) with linear interpolation, the default of numpy.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + part * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::labels::ClassId;

    /// `groups` groups of `n` samples. Half of the groups are all right, the others all wrong.
    fn clustered(groups: u32, n: u32) -> Samples {
        let mut samples = Samples::new(2);
        for group in 0..groups {
            for _ in 0..n {
                samples.push(ClassId(0), ClassId((group % 2) as u16), group, &[0.5, 0.5]);
            }
        }
        samples
    }

    #[test]
    fn the_interval_depends_on_groups_and_not_on_samples() {
        // The accuracy of a draw is a binomial share of 100 groups: standard deviation 0.05, so 0.5 ± 0.098.
        let (accuracy, f1) = intervals(&clustered(100, 1), 4000, 1);
        assert_eq!(accuracy.value, 0.5);
        let (low, high) = accuracy.ends().unwrap();
        assert!((low - 0.402).abs() < 0.02 && (high - 0.598).abs() < 0.02, "{accuracy:?}");
        assert!((f1.value - 2.0 / 3.0).abs() < 1e-12, "recall is a half, precision is 1");
        assert_eq!(
            intervals(&clustered(100, 30), 4000, 1).0,
            accuracy,
            "more samples of the same sources add no information"
        );
        let narrow = intervals(&clustered(10_000, 1), 1000, 1).0.ends().unwrap();
        assert!(
            (narrow.1 - narrow.0 - 0.0196).abs() < 0.003,
            "a hundred times the sources give a tenth of the width: {narrow:?}"
        );
    }

    #[test]
    fn seeds_are_reproducible_and_one_group_has_no_interval() {
        let samples = clustered(99, 2);
        assert_eq!(intervals(&samples, 20, 5), intervals(&samples, 20, 5));
        assert_ne!(intervals(&samples, 20, 5), intervals(&samples, 20, 6));
        let (one, _) = intervals(&clustered(1, 5), 100, 1);
        assert_eq!(one, Interval { value: 1.0, low: None, high: None });
        let (none, _) = intervals(&Samples::new(2), 100, 1);
        assert_eq!(none, Interval { value: 0.0, low: None, high: None });
        assert_eq!(percentile(&[0.0, 1.0, 2.0], 0.25), 0.5);
    }

    #[test]
    fn figures_agree_with_the_confusion() {
        let mut samples = Samples::new(4);
        for (i, (t, p)) in [0, 0, 0, 1, 1, 2, 2].into_iter().zip([0, 0, 1, 0, 1, 3, 1]).enumerate() {
            samples.push(ClassId(t), ClassId(p), i as u32 % 3, &[0.25; 4]);
        }
        let (accuracy, f1) = intervals(&samples, 10, 1);
        let confusion = samples.confusion();
        assert!((accuracy.value - confusion.accuracy()).abs() < 1e-12);
        assert!((f1.value - confusion.macro_f1()).abs() < 1e-12);
    }
}
