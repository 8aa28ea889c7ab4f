//! 80/10/10 train/validation/test, stratified by class, on the source: all that comes from one source is on one side.
//!
//! A class from a single source stays in training, and one from two sources has no validation: an honest figure cannot
//! be had for them, and the card says so. Pictures are not frames of one recording: each is its own source.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::manifest::{Item, Kind};

/// Where an item belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    Train,
    Validation,
    Test,
}

impl Side {
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Train => "train",
            Side::Validation => "validation",
            Side::Test => "test",
        }
    }
}

/// The side of every item. Depends on `seed`, kinds, classes, sources (and, for pictures, paths) only, not on the order.
pub fn by_source(items: &[Item], seed: u64) -> Vec<Side> {
    let unit = |item: &Item| match item.kind {
        Kind::Picture => item.path.to_string_lossy().into_owned(),
        Kind::Clip | Kind::Sound => item.source.clone(),
    };
    // (kind, class) → source → how many items
    let mut strata: BTreeMap<(Kind, &str), BTreeMap<String, usize>> = BTreeMap::new();
    for item in items {
        *strata.entry((item.kind, &item.class)).or_default().entry(unit(item)).or_default() += 1;
    }
    let sides: BTreeMap<(Kind, &str), BTreeMap<String, Side>> =
        strata.into_iter().map(|(key, sources)| (key, assign(sources, key.1, seed))).collect();
    items.iter().map(|item| sides[&(item.kind, item.class.as_str())][&unit(item)]).collect()
}

fn assign(sources: BTreeMap<String, usize>, class: &str, seed: u64) -> BTreeMap<String, Side> {
    let count = sources.len();
    let largest = sources.values().copied().max().unwrap_or(0);
    // Shuffled by hash; a source that alone holds most of the class goes last, which is training: holding it out would
    // leave nothing to learn from.
    let mut order: Vec<(bool, [u8; 32], String)> = sources
        .into_iter()
        .map(|(source, items)| {
            let hash = Sha256::digest(format!("{seed}/{class}/{source}").as_bytes()).into();
            (items == largest && items > 1, hash, source)
        })
        .collect();
    order.sort();
    let tenth = (count as f64 / 10.0).round() as usize;
    let (test, validation) = match count {
        0 | 1 => (0, 0),
        2 => (1, 0),
        _ => (tenth.max(1), tenth.max(1)),
    };
    order
        .into_iter()
        .enumerate()
        .map(|(i, (_, _, source))| {
            let side = match i {
                i if i < test => Side::Test,
                i if i < test + validation => Side::Validation,
                _ => Side::Train,
            };
            (source, side)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn clip(class: &str, source: &str, n: usize) -> Item {
        Item {
            kind: Kind::Clip,
            path: PathBuf::from(format!("clips/{class}{source}{n}.mp4")),
            class: class.into(),
            source: source.into(),
            weak: false,
            audible: true,
        }
    }

    #[test]
    fn no_source_is_on_two_sides_and_shares_are_a_tenth() {
        let mut items = Vec::new();
        for source in 0..40 {
            items.extend((0..3).map(|n| clip("tennis", &format!("s{source}"), n)));
        }
        items.extend((0..20).map(|n| clip("golf", "only", n)));
        items.extend([clip("boxing", "a", 0), clip("boxing", "b", 0), clip("boxing", "b", 1)]);
        let sides = by_source(&items, 7);
        let mut of_source: BTreeMap<(&str, &str), Side> = BTreeMap::new();
        for (item, side) in items.iter().zip(&sides) {
            let first = of_source.entry((&item.class, &item.source)).or_insert(*side);
            assert_eq!(first, side, "{item:?}");
        }
        let count = |class, side| of_source.iter().filter(|((c, _), s)| *c == class && **s == side).count();
        assert_eq!((count("tennis", Side::Test), count("tennis", Side::Validation)), (4, 4));
        assert_eq!(count("golf", Side::Train), 1, "a single source stays in training");
        assert_eq!(of_source[&("boxing", "b")], Side::Train, "the largest source is for learning");
        assert_eq!(of_source[&("boxing", "a")], Side::Test);
        let mut reversed: Vec<Item> = items.clone();
        reversed.reverse();
        let mut again = by_source(&reversed, 7);
        again.reverse();
        assert_eq!(sides, again, "the order of the manifest does not matter");
        assert_ne!(sides, by_source(&items, 8), "the seed does");
    }
}
