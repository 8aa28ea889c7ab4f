//! Figures by kind of material, class and source.
//!
//! Photographs, frames of television and recordings differ more than sports do, so each kind has separate figures. Items of one
//! source resemble each other: the share of correct items is first taken within each source of a class and then averaged over
//! its sources. A single long match thus does not dominate the figure of its class.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bootstrap::{DRAWS, interval};
use super::metrics::Samples;
use super::predict::{DecisionMethod, video_samples};
use super::result::{ClassOfKind, Interval, KindReport, Predictor, SourceShare};
use super::scores::SoftSecond;
use crate::dataset::Kind;
use touchline_core::labels::{ClassId, ClassSet};

/// Name of the class for material that is none of the sports.
const OTHER: &str = "other";

/// Lower bound of probabilities in the log loss, so that one item that is certainly wrong does not decide a figure.
const LEAST_PROBABILITY: f64 = 1e-6;

/// Decisions on whole items (recordings by the vote of their seconds) of each kind.
pub type ByKind = BTreeMap<Kind, Samples>;

/// Returns the decisions of `judge` on whole items. `groups` has the group of each item.
pub fn item_samples(soft: &[SoftSecond], judge: &DecisionMethod, classes: usize, groups: &[u32]) -> ByKind {
    let mut out = ByKind::new();
    for kind in Kind::ALL {
        let seconds: Vec<&SoftSecond> = soft.iter().filter(|s| s.kind == kind).collect();
        let samples = video_samples(&seconds, judge, classes, groups);
        if !samples.is_empty() {
            out.insert(kind, samples);
        }
    }
    out
}

/// Returns the right items of each class within each source. `names` are those of the groups.
pub fn shares(kind: Kind, samples: &Samples, classes: &ClassSet, names: &[&str]) -> Vec<SourceShare> {
    let mut cells: BTreeMap<(u32, ClassId), (u64, u64)> = BTreeMap::new();
    for (truth, predicted, group, _) in samples.iter() {
        let cell = cells.entry((group, truth)).or_default();
        cell.0 += u64::from(truth == predicted);
        cell.1 += 1;
    }
    let share = |((group, class), (right, items)): ((u32, ClassId), (u64, u64))| SourceShare {
        kind,
        source: names[group as usize].to_owned(),
        class: classes.name(class).to_owned(),
        items,
        right,
    };
    cells.into_iter().map(share).collect()
}

/// Returns the figures of one kind by one predictor. `seed` is that of the bootstrap.
pub fn report(kind: Kind, predictor: Predictor, samples: &Samples, classes: &ClassSet, seed: u64) -> KindReport {
    // (class, source) → (right, items, sum of log losses)
    let mut cells: BTreeMap<(ClassId, u32), (u64, u64, f64)> = BTreeMap::new();
    for (truth, predicted, group, probabilities) in samples.iter() {
        let cell = cells.entry((truth, group)).or_default();
        cell.0 += u64::from(truth == predicted);
        cell.1 += 1;
        cell.2 -= f64::from(probabilities[truth.index()]).max(LEAST_PROBABILITY).ln();
    }
    let losses = cells.values().map(|(_, items, loss)| loss / *items as f64);
    let log_loss = losses.sum::<f64>() / (cells.len() as f64).max(1.0);
    // For each source, the shares of its classes.
    let mut sources: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    let mut of_class: BTreeMap<ClassId, Vec<Vec<f64>>> = BTreeMap::new();
    for ((class, group), (right, items, _)) in &cells {
        let share = *right as f64 / *items as f64;
        sources.entry(*group).or_default().push(share);
        of_class.entry(*class).or_default().push(vec![share]);
    }
    let confusion = samples.confusion();
    let per_class: Vec<ClassOfKind> = of_class
        .iter()
        .map(|(class, shares)| ClassOfKind {
            class: classes.name(*class).to_owned(),
            items: confusion.class(*class).support,
            sources: shares.len() as u64,
            right: mean_over_sources(shares, seed),
        })
        .collect();
    let mean_over_classes = per_class.iter().map(|c| c.right.value).sum::<f64>() / (per_class.len() as f64).max(1.0);
    let other = classes.id(OTHER).map(|id| confusion.class(id)).filter(|other| other.support > 0);
    let shares: Vec<Vec<f64>> = sources.into_values().collect();
    KindReport {
        kind,
        predictor,
        items: samples.len() as u64,
        sources: shares.len() as u64,
        accuracy: confusion.accuracy(),
        macro_f1: confusion.macro_f1(),
        top3: samples.top_k(3),
        by_source: mean_over_sources(&shares, seed),
        mean_over_classes,
        log_loss,
        other_called_a_sport: other.map(|other| 1.0 - other.recall),
        answered: None,
        classes: per_class,
    }
}

/// Returns the mean of all values with its 95 % interval over sources. Each source has at least one value.
pub fn mean_over_sources(sources: &[Vec<f64>], seed: u64) -> Interval {
    let mean = |drawn: &mut dyn Iterator<Item = usize>| {
        let (mut sum, mut n) = (0.0, 0);
        for source in drawn {
            sum += sources[source].iter().sum::<f64>();
            n += sources[source].len();
        }
        sum / (n as f64).max(1.0)
    };
    let value = mean(&mut (0..sources.len()));
    // A single source gives no spread between sources.
    if sources.len() < 2 {
        return interval(value, Vec::new());
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let draws = (0..DRAWS).map(|_| mean(&mut (0..sources.len()).map(|_| rng.random_range(0..sources.len()))));
    interval(value, draws.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> ClassSet {
        ClassSet::new(["golf", "other", "tennis"].map(str::to_owned).to_vec()).unwrap()
    }

    /// Adds `n` items of class `truth` from one source: `right` of them are predicted correctly, the others as golf.
    fn add(samples: &mut Samples, truth: u16, group: u32, right: usize, n: usize) {
        for i in 0..n {
            let predicted = if i < right { truth } else { 0 };
            samples.push(ClassId(truth), ClassId(predicted), group, &[1.0 / 3.0; 3]);
        }
    }

    #[test]
    fn a_class_is_the_mean_of_its_sources_and_one_source_has_no_interval() {
        let mut samples = Samples::new(3);
        add(&mut samples, 2, 0, 90, 90);
        add(&mut samples, 2, 1, 0, 10);
        add(&mut samples, 0, 1, 5, 5);
        add(&mut samples, 1, 2, 1, 4);
        let r = report(Kind::Frame, Predictor::Table, &samples, &classes(), 1);
        assert_eq!((r.items, r.sources), (109, 3));
        assert!((r.accuracy - 96.0 / 109.0).abs() < 1e-12);
        let class = |name: &str| r.classes.iter().find(|c| c.class == name).unwrap();
        let tennis = class("tennis");
        assert_eq!((tennis.items, tennis.sources, tennis.right.value), (100, 2, 0.5));
        assert_eq!(tennis.right.ends(), Some((0.0, 1.0)));
        assert_eq!(class("golf").right, Interval { value: 1.0, low: None, high: None });
        assert_eq!(class("other").right, Interval { value: 0.25, low: None, high: None });
        assert_eq!(r.other_called_a_sport, Some(0.75));
        assert!((r.by_source.value - (1.0 + 0.0 + 1.0 + 0.25) / 4.0).abs() < 1e-12, "every class of every source");
        assert!((r.mean_over_classes - (0.5 + 1.0 + 0.25) / 3.0).abs() < 1e-12);
        assert!((r.log_loss - 3f64.ln()).abs() < 1e-6, "every probability is a third");
        let (low, high) = r.by_source.ends().unwrap();
        assert!(low >= 0.25 && high <= 1.0 && low < r.by_source.value && r.by_source.value < high, "{low} {high}");
        assert_eq!(r, report(Kind::Frame, Predictor::Table, &samples, &classes(), 1), "the seed makes it reproducible");
    }

    #[test]
    fn figures_without_samples_are_zero_or_none() {
        let r = report(Kind::Clip, Predictor::Rgb, &Samples::new(3), &classes(), 1);
        assert_eq!((r.items, r.accuracy, r.by_source.ends(), r.other_called_a_sport), (0, 0.0, None, None));
        assert!(r.mean_over_classes == 0.0 && r.by_source.value == 0.0 && r.classes.is_empty());
    }
}
