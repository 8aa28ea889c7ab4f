//! Splits a dataset 80/10/10 into training, validation and test, by source and stratified by class. All items of a source, and
//! items that show the same, are on one side, regardless of class and kind. The group of an item identifies its source.
//!
//! A class with a single source stays in training. A class with two sources has no validation side; for frames, half of these
//! classes have no test side instead. No honest figure is possible for such classes, and the model card states it.
//! [`super::folds`] holds every source out once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dataset, Item, Kind, Sides, index};
use touchline_core::error::Result;

/// Side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Models are trained on it.
    Train,
    /// Selects weights, temperatures and the class-to-modality table.
    Validation,
    /// Measures the finished pack; selects nothing.
    Test,
}

impl Side {
    /// All sides.
    pub const ALL: [Side; 3] = [Side::Train, Side::Validation, Side::Test];

    /// Returns the name of the side: `train`, `validation` or `test`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Train => "train",
            Side::Validation => "validation",
            Side::Test => "test",
        }
    }
}

/// Returns the side of every item. It depends on `seed`, kinds, classes and groups only, not on the order of the items.
pub fn by_source(items: &[Item], seed: u64) -> Vec<Side> {
    // (kind, class) → source → number of items
    let mut strata: BTreeMap<(Kind, &str), BTreeMap<String, usize>> = BTreeMap::new();
    for item in items {
        *strata.entry((item.kind, &item.class)).or_default().entry(item.group.clone()).or_default() += 1;
    }
    // A source may have several classes and kinds. The class with the fewest sources has the least choice, so its sources are
    // assigned first, and the other classes keep these assignments.
    let mut order: Vec<_> = strata.into_iter().collect();
    order.sort_by_key(|((kind, class), sources)| (sources.len(), *kind, *class));
    let mut sides: BTreeMap<String, Side> = BTreeMap::new();
    for ((kind, class), sources) in order {
        assign(&sources, kind, class, seed, &mut sides);
    }
    items.iter().map(|item| sides[&item.group]).collect()
}

/// Splits a dataset: writes `split.csv` and returns the side of every item.
///
/// # Errors
/// [`touchline_core::error::Error::Output`] when the file cannot be written.
pub fn divide(dataset: &mut Dataset, seed: u64) -> Result<Vec<Side>> {
    let sides = by_source(&dataset.items, seed);
    index::save_split(&dataset.dir, &dataset.items, &sides)?;
    dataset.sides = Sides::Known(sides.clone());
    Ok(sides)
}

/// Returns a line for every class and kind that has items, but none on the validation or on the test side.
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
            (false, true) => "no validation items",
            (true, false) => "no test items",
            (false, false) => "no validation or test items",
        };
        let sources =
            if groups.len() == 1 { "a single source".to_owned() } else { format!("{} sources", groups.len()) };
        lines.push(format!("{class}, {}: {missing} ({sources})", kind.plural()));
    }
    lines
}

/// Assigns a side to those `sources` of a class (source → number of items) that have none in `sides` yet.
fn assign(sources: &BTreeMap<String, usize>, kind: Kind, class: &str, seed: u64, sides: &mut BTreeMap<String, Side>) {
    let largest = sources.values().copied().max().unwrap_or(0);
    let tenth = (sources.len() as f64 / 10.0).round() as usize;
    let (test, validation) = match sources.len() {
        0 | 1 => (0, 0),
        // Most classes have frames from two sources. If all of them had a test side, no frames would be left for validation.
        2 if kind == Kind::Frame && Sha256::digest(format!("{seed}/{class}").as_bytes())[0] % 2 == 1 => (0, 1),
        2 => (1, 0),
        _ => (tenth.max(1), tenth.max(1)),
    };
    let has = |side| sources.keys().filter(|s| sides.get(*s) == Some(&side)).count();
    let (mut test, mut validation) =
        (test.saturating_sub(has(Side::Test)), validation.saturating_sub(has(Side::Validation)));
    // Shuffled by hash. The largest source goes last, which means training: holding it out would leave little to train on.
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
    let is_trained = has(Side::Train) > 0;
    let spare = open.len().saturating_sub(usize::from(!is_trained));
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
        // Sources with two classes, and with sounds besides clips.
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
        assert_eq!(of_source[&("boxing", "b")], Side::Train, "the largest source is for training");
        assert_eq!(of_source[&("boxing", "a")], Side::Test);
        let mut reversed: Vec<Item> = items.clone();
        reversed.reverse();
        let mut again = by_source(&reversed, 7);
        again.reverse();
        assert_eq!(sides, again, "the order of the manifest does not matter");
        assert_ne!(sides, by_source(&items, 8), "the seed matters");
    }

    #[test]
    fn frames_of_two_sources_are_for_validation_in_half_the_classes() {
        let classes: Vec<String> = (0..40).map(|c| format!("class{c}")).collect();
        let frames =
            |class: &String| ["a", "b"].map(|s| Item { kind: Kind::Frame, ..clip(class, &format!("{class}{s}"), 0) });
        let items: Vec<Item> = classes.iter().flat_map(frames).collect();
        let sides = by_source(&items, 1);
        for pair in sides.chunks(2) {
            assert!(pair.contains(&Side::Train) && pair[0] != pair[1], "one is for training: {pair:?}");
        }
        let count = |side| sides.iter().filter(|s| **s == side).count();
        assert!((10..=30).contains(&count(Side::Test)) && count(Side::Test) + count(Side::Validation) == 40);
    }
}
