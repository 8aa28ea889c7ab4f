//! Folds by source, for cross-validation: every source is held out once, with all its items.
//!
//! The test side of a split has only one or two sources of a class, so its figures depend on chance. Over all folds, every source
//! of a class is tested by models that were not trained on it.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Item, Kind};

/// Items of one kind and class.
type Stratum<'a> = (Kind, &'a str);

/// Returns the fold of every item, 0 to `folds` − 1. First the sources of a class and kind are spread evenly over the folds, then
/// their items. The result depends on `seed`, kinds, classes and groups only, not on the order of the items.
///
/// # Panics
/// If `folds` is 0.
pub fn by_source(items: &[Item], folds: u32, seed: u64) -> Vec<u32> {
    assert!(folds > 0, "there is at least one fold");
    let mut strata: BTreeMap<Stratum, BTreeMap<&str, usize>> = BTreeMap::new();
    for item in items {
        *strata.entry((item.kind, &item.class)).or_default().entry(&item.group).or_default() += 1;
    }
    // A source may have several classes. The class with the fewest sources has the least choice, so it is assigned first.
    let mut order: Vec<_> = strata.into_iter().collect();
    order.sort_by_key(|((kind, class), sources)| (sources.len(), *kind, *class));
    let mut fold_of: BTreeMap<&str, u32> = BTreeMap::new();
    let mut totals = vec![0; folds as usize];
    for ((_, class), sources) in order {
        // (sources, items) of the stratum in each fold
        let mut counts = vec![(0, 0); folds as usize];
        for (source, n) in &sources {
            if let Some(fold) = fold_of.get(source) {
                counts[*fold as usize].0 += 1;
                counts[*fold as usize].1 += n;
            }
        }
        let hash = |text: String| -> [u8; 32] { Sha256::digest(text.as_bytes()).into() };
        let mut open: Vec<_> = sources.iter().filter(|(source, _)| !fold_of.contains_key(*source)).collect();
        open.sort_by_key(|(source, n)| (std::cmp::Reverse(**n), hash(format!("{seed}/{class}/{source}"))));
        for (source, n) in open {
            let least = |fold: &u32| {
                let (sources, items) = counts[*fold as usize];
                (sources, items, totals[*fold as usize], hash(format!("{seed}/{class}/{fold}")))
            };
            let fold = (0..folds).min_by_key(least).expect("there is at least one fold");
            let at = fold as usize;
            counts[at] = (counts[at].0 + 1, counts[at].1 + n);
            totals[at] += n;
            fold_of.insert(source, fold);
        }
    }
    items.iter().map(|item| fold_of[item.group.as_str()]).collect()
}

/// Reduces training to `share` (0 to 1) of the sources of clips, frames and sounds, for a learning curve. `trained` marks the
/// items of training; the result marks those that remain.
///
/// Of every class and kind the first sources in a fixed random order remain, at least one, so that a smaller share is a subset of
/// a larger one. All photographs remain: each is a source of its own, and a broadcaster does not record them.
pub fn limit_sources(items: &[Item], trained: &[bool], share: f64, seed: u64) -> Vec<bool> {
    let mut strata: BTreeMap<Stratum, BTreeSet<([u8; 32], &str)>> = BTreeMap::new();
    for (item, _) in items.iter().zip(trained).filter(|(item, trained)| **trained && item.kind != Kind::Picture) {
        let hash = Sha256::digest(format!("{seed}/{}", item.group).as_bytes()).into();
        strata.entry((item.kind, &item.class)).or_default().insert((hash, &item.group));
    }
    let mut kept: BTreeSet<(Stratum, &str)> = BTreeSet::new();
    for (stratum, sources) in strata {
        let n = ((sources.len() as f64 * share).ceil() as usize).max(1);
        kept.extend(sources.into_iter().take(n).map(|(_, group)| (stratum, group)));
    }
    let remains = |item: &Item| {
        item.kind == Kind::Picture || kept.contains(&((item.kind, item.class.as_str()), item.group.as_str()))
    };
    items.iter().zip(trained).map(|(item, trained)| *trained && remains(item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: Kind, class: &str, group: &str) -> Item {
        Item {
            kind,
            path: format!("{class}/{group}").into(),
            class: class.into(),
            source: group.into(),
            group: group.into(),
            weak: false,
            audible: false,
            licence: String::new(),
            start_ns: None,
            end_ns: None,
            seconds: 1,
            shard: None,
        }
    }

    fn material() -> Vec<Item> {
        let mut items = Vec::new();
        for source in 0..10 {
            items.extend((0..=source).map(|_| item(Kind::Clip, "tennis", &format!("s{source}"))));
        }
        for source in [0, 3] {
            items.push(item(Kind::Frame, "golf", &format!("s{source}")));
        }
        items.push(item(Kind::Clip, "darts", "only"));
        items.extend((0..50).map(|n| item(Kind::Picture, "golf", &format!("p{n}"))));
        items
    }

    #[test]
    fn every_source_is_in_one_fold_and_classes_are_spread() {
        let items = material();
        let folds = by_source(&items, 5, 1);
        let mut of_group: BTreeMap<&str, u32> = BTreeMap::new();
        for (item, fold) in items.iter().zip(&folds) {
            assert_eq!(of_group.entry(&item.group).or_insert(*fold), fold, "{item:?}");
        }
        for fold in 0..5 {
            let count = |kind, class: &str| {
                let of = items.iter().zip(&folds).filter(|(i, f)| i.kind == kind && i.class == class && **f == fold);
                of.map(|(i, _)| &i.group).collect::<BTreeSet<_>>().len()
            };
            assert_eq!((count(Kind::Clip, "tennis"), count(Kind::Picture, "golf")), (2, 10));
            assert!(count(Kind::Frame, "golf") <= 1, "two sources are in two folds");
        }
        let mut reversed: Vec<Item> = items.clone();
        reversed.reverse();
        let mut again = by_source(&reversed, 5, 1);
        again.reverse();
        assert_eq!(folds, again, "the order of the material does not matter");
        assert_ne!(folds, by_source(&items, 5, 2), "the seed matters");
        assert!(by_source(&[], 5, 1).is_empty());
        assert!(by_source(&items, 1, 1).iter().all(|f| *f == 0));
    }

    #[test]
    fn smaller_shares_are_parts_of_larger_ones() {
        let items = material();
        let trained: Vec<bool> = items.iter().map(|i| i.group != "s9").collect();
        let sources = |kept: &[bool], class: &str, kind| -> BTreeSet<String> {
            let of = items.iter().zip(kept).filter(|(i, k)| **k && i.class == class && i.kind == kind);
            of.map(|(i, _)| i.group.clone()).collect()
        };
        let [third, most, all] = [0.3, 0.8, 1.0].map(|share| limit_sources(&items, &trained, share, 1));
        assert_eq!(all, trained);
        let tennis = |kept: &[bool]| sources(kept, "tennis", Kind::Clip);
        assert_eq!((tennis(&third).len(), tennis(&most).len()), (3, 8));
        assert!(tennis(&third).is_subset(&tennis(&most)) && !tennis(&most).contains("s9"));
        assert_eq!(sources(&third, "darts", Kind::Clip).len(), 1, "one source of every class remains");
        assert_eq!(sources(&third, "golf", Kind::Picture).len(), 50, "photographs remain");
    }
}
