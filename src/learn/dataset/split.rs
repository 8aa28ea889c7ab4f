//! 80/10/10 train/validation/test, stratified by class, on the source: all that comes from one source, or shows the same
//! as it, is on one side, whatever its class and kind.
//!
//! A class from a single source stays in training, and one from two sources has no validation (of frames, half such
//! classes have no test instead): an honest figure cannot be had for them, and the card says so. [`super::folds`] holds
//! every source out once. What a source is, an item's group says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dataset, Item, Kind, Sides, index};
use touchline_core::error::Result;

/// Where an item belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Train,
    Validation,
    Test,
}

impl Side {
    pub const ALL: [Side; 3] = [Side::Train, Side::Validation, Side::Test];

    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Train => "train",
            Side::Validation => "validation",
            Side::Test => "test",
        }
    }
}

/// The side of every item. Depends on `seed`, kinds, classes and groups only, not on the order.
pub fn by_source(items: &[Item], seed: u64) -> Vec<Side> {
    // (kind, class) → source → how many items
    let mut strata: BTreeMap<(Kind, &str), BTreeMap<String, usize>> = BTreeMap::new();
    for item in items {
        *strata.entry((item.kind, &item.class)).or_default().entry(item.group.clone()).or_default() += 1;
    }
    // A source may bring several classes and kinds. The class with the fewest sources has the least choice, so it
    // chooses first, and the others take its sources as they are.
    let mut order: Vec<_> = strata.into_iter().collect();
    order.sort_by_key(|((kind, class), sources)| (sources.len(), *kind, *class));
    let mut sides: BTreeMap<String, Side> = BTreeMap::new();
    for ((kind, class), sources) in order {
        assign(&sources, kind, class, seed, &mut sides);
    }
    items.iter().map(|item| sides[&item.group]).collect()
}

/// Divides a dataset: writes `split.csv`, and gives the sides.
///
/// # Errors
/// [`touchline_core::error::Error::Output`] when it cannot be written.
pub fn divide(dataset: &mut Dataset, seed: u64) -> Result<Vec<Side>> {
    let sides = by_source(&dataset.items, seed);
    index::save_split(&dataset.dir, &dataset.items, &sides)?;
    dataset.sides = Sides::Known(sides.clone());
    Ok(sides)
}

/// What a division cannot measure: a line for every class and kind that has items, but none to validate or test with.
pub fn warnings(items: &[Item], sides: &[Side]) -> Vec<String> {
    let mut strata: BTreeMap<(&str, Kind), BTreeMap<&str, Side>> = BTreeMap::new();
    for (item, side) in items.iter().zip(sides) {
        strata.entry((&item.class, item.kind)).or_default().insert(&item.group, *side);
    }
    let mut lines = Vec::new();
    for ((class, kind), groups) in strata {
        let has = |side| groups.values().any(|s| *s == side);
        let missing = match (has(Side::Validation), has(Side::Test)) {
            (true, true) => continue,
            (false, true) => "nothing to validate with",
            (true, false) => "nothing to test with",
            (false, false) => "nothing to validate or test with",
        };
        let sources =
            if groups.len() == 1 { "a single source".to_owned() } else { format!("{} sources", groups.len()) };
        lines.push(format!("{class}, {}: {missing} ({sources})", kind.plural()));
    }
    lines
}

/// Gives the sources of a class that have no side yet theirs.
fn assign(sources: &BTreeMap<String, usize>, kind: Kind, class: &str, seed: u64, sides: &mut BTreeMap<String, Side>) {
    let largest = sources.values().copied().max().unwrap_or(0);
    let tenth = (sources.len() as f64 / 10.0).round() as usize;
    let (test, validation) = match sources.len() {
        0 | 1 => (0, 0),
        // Most classes have frames from two sources. If all of them were tested on, nothing could be chosen by frames.
        2 if kind == Kind::Frame && Sha256::digest(format!("{seed}/{class}").as_bytes())[0] % 2 == 1 => (0, 1),
        2 => (1, 0),
        _ => (tenth.max(1), tenth.max(1)),
    };
    let has = |side| sources.keys().filter(|s| sides.get(*s) == Some(&side)).count();
    let (mut test, mut validation) =
        (test.saturating_sub(has(Side::Test)), validation.saturating_sub(has(Side::Validation)));
    // Shuffled by hash; a source that alone holds most of the class goes last, which is training: holding it out would
    // leave nothing to learn from.
    let mut open: Vec<(bool, [u8; 32], &String)> = sources
        .iter()
        .filter(|(source, _)| !sides.contains_key(*source))
        .map(|(source, items)| {
            let hash = Sha256::digest(format!("{seed}/{class}/{source}").as_bytes()).into();
            (*items == largest && *items > 1, hash, source)
        })
        .collect();
    open.sort();
    // Training keeps at least one source of the class.
    let learnt_elsewhere = has(Side::Train) > 0;
    let spare = open.len().saturating_sub(usize::from(!learnt_elsewhere));
    for (i, (_, _, source)) in open.into_iter().enumerate() {
        let side = if i < spare && test > 0 {
            test -= 1;
            Side::Test
        } else if i < spare && validation > 0 {
            validation -= 1;
            Side::Validation
        } else {
            Side::Train
        };
        sides.insert(source.clone(), side);
    }
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
            group: source.into(),
            weak: false,
            audible: true,
            licence: String::new(),
            start_ns: None,
            end_ns: None,
            seconds: 1,
            shard: None,
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
        // Sources that bring two classes, and sound besides clips.
        items.extend((0..40).step_by(3).map(|n| clip("cricket", &format!("s{n}"), 9)));
        items.push(Item { kind: Kind::Sound, ..clip("other", "s6", 1) });
        items.push(clip("soccer", "only", 7));
        let sides = by_source(&items, 7);
        let mut whole: BTreeMap<&str, Side> = BTreeMap::new();
        let mut of_source: BTreeMap<(&str, &str), Side> = BTreeMap::new();
        for (item, side) in items.iter().zip(&sides) {
            assert_eq!(whole.entry(&item.source).or_insert(*side), side, "{item:?}");
            of_source.insert((&item.class, &item.source), *side);
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
    #[test]
    fn frames_of_two_sources_are_for_validation_in_half_the_classes() {
        let classes: Vec<String> = (0..40).map(|c| format!("class{c}")).collect();
        let frames =
            |class: &String| ["a", "b"].map(|s| Item { kind: Kind::Frame, ..clip(class, &format!("{class}{s}"), 0) });
        let items: Vec<Item> = classes.iter().flat_map(frames).collect();
        let sides = by_source(&items, 1);
        for pair in sides.chunks(2) {
            assert!(pair.contains(&Side::Train) && pair[0] != pair[1], "one is learnt from: {pair:?}");
        }
        let count = |side| sides.iter().filter(|s| **s == side).count();
        assert!((10..=30).contains(&count(Side::Test)) && count(Side::Test) + count(Side::Validation) == 40);
    }
}
