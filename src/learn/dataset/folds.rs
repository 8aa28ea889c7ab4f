//! Folds by source, for cross-validation: every source is held out once, with all that it brings.
//!
//! One side of a split tests a class on one or two sources, which is luck. Over all folds every source of a class is tested
//! on, by models that did not learn from it.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Item, Kind};

/// A kind of material of one class.
type Stratum<'a> = (Kind, &'a str);

/// The fold of every item, 0 to `folds` − 1: sources of a class and kind are spread evenly over the folds, then their items.
/// Depends on `seed`, kinds, classes and groups only, not on the order.
///
/// # Panics
/// If `folds` is 0.
pub fn by_source(items: &[Item], folds: u32, seed: u64) -> Vec<u32> {
    assert!(folds > 0, "there is at least one fold");
    let mut strata: BTreeMap<Stratum, BTreeMap<&str, usize>> = BTreeMap::new();
    for item in items {
        *strata.entry((item.kind, &item.class)).or_default().entry(&item.group).or_default() += 1;
    }
    // A source may bring several classes. The class with the fewest sources has the least choice, so it chooses first.
    let mut order: Vec<_> = strata.into_iter().collect();
    order.sort_by_key(|((kind, class), sources)| (sources.len(), *kind, *class));
    let mut fold_of: BTreeMap<&str, u32> = BTreeMap::new();
    let mut totals = vec![0; folds as usize];
    for ((_, class), sources) in order {
        // (sources, items) of the stratum in each fold
        let mut held = vec![(0, 0); folds as usize];
        for (source, n) in &sources {
            if let Some(fold) = fold_of.get(source) {
                held[*fold as usize].0 += 1;
                held[*fold as usize].1 += n;
            }
        }
        let hash = |text: String| -> [u8; 32] { Sha256::digest(text.as_bytes()).into() };
        let mut open: Vec<_> = sources.iter().filter(|(source, _)| !fold_of.contains_key(*source)).collect();
        open.sort_by_key(|(source, n)| (std::cmp::Reverse(**n), hash(format!("{seed}/{class}/{source}"))));
        for (source, n) in open {
            let least = |fold: &u32| {
                let (sources, items) = held[*fold as usize];
                (sources, items, totals[*fold as usize], hash(format!("{seed}/{class}/{fold}")))
            };
            let fold = (0..folds).min_by_key(least).expect("there is at least one fold");
            let at = fold as usize;
            held[at] = (held[at].0 + 1, held[at].1 + n);
            totals[at] += n;
            fold_of.insert(source, fold);
        }
    }
    items.iter().map(|item| fold_of[item.group.as_str()]).collect()
}

/// Which of the items that `learnt` names stay when only `share` of the sources of clips, frames and sounds is learnt from,
/// for a learning curve: of every class and kind the first sources in a fixed order, at least one, so that a smaller share is
/// part of a larger one. Photographs stay: each is a source of its own, and they are not what a broadcaster records.
pub fn thinned(items: &[Item], learnt: &[bool], share: f64, seed: u64) -> Vec<bool> {
    let mut strata: BTreeMap<Stratum, BTreeSet<([u8; 32], &str)>> = BTreeMap::new();
    for (item, _) in items.iter().zip(learnt).filter(|(item, learnt)| **learnt && item.kind != Kind::Picture) {
        let hash = Sha256::digest(format!("{seed}/{}", item.group).as_bytes()).into();
        strata.entry((item.kind, &item.class)).or_default().insert((hash, &item.group));
    }
    let mut kept: BTreeSet<(Stratum, &str)> = BTreeSet::new();
    for (stratum, sources) in strata {
        let n = ((sources.len() as f64 * share).ceil() as usize).max(1);
        kept.extend(sources.into_iter().take(n).map(|(_, group)| (stratum, group)));
    }
    let stays = |item: &Item| {
        item.kind == Kind::Picture || kept.contains(&((item.kind, item.class.as_str()), item.group.as_str()))
    };
    items.iter().zip(learnt).map(|(item, learnt)| *learnt && stays(item)).collect()
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
        assert_ne!(folds, by_source(&items, 5, 2), "the seed does");
        assert!(by_source(&[], 5, 1).is_empty());
        assert!(by_source(&items, 1, 1).iter().all(|f| *f == 0));
    }

    #[test]
    fn smaller_shares_are_parts_of_larger_ones() {
        let items = material();
        let learnt: Vec<bool> = items.iter().map(|i| i.group != "s9").collect();
        let sources = |kept: &[bool], class: &str, kind| -> BTreeSet<String> {
            let of = items.iter().zip(kept).filter(|(i, k)| **k && i.class == class && i.kind == kind);
            of.map(|(i, _)| i.group.clone()).collect()
        };
        let (third, most, all) =
            (thinned(&items, &learnt, 0.3, 1), thinned(&items, &learnt, 0.8, 1), thinned(&items, &learnt, 1.0, 1));
        assert_eq!(all, learnt);
        let tennis = |kept: &[bool]| sources(kept, "tennis", Kind::Clip);
        assert_eq!((tennis(&third).len(), tennis(&most).len()), (3, 8));
        assert!(tennis(&third).is_subset(&tennis(&most)) && !tennis(&most).contains("s9"));
        assert_eq!(sources(&third, "darts", Kind::Clip).len(), 1, "one source stays of every class");
        assert_eq!(sources(&third, "golf", Kind::Picture).len(), 50, "photographs stay");
    }
}
