//! Which samples of a channel's material are held out together.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Number of folds of the cross-validation, at most.
pub(super) const FOLDS: usize = 5;

/// Parts that a single recording is cut into.
const BLOCKS: u32 = 3;

/// The unit that is held out as a whole when a class is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOutBy {
    /// All material of a source: the class has several sources.
    Source,
    /// A recording or still: the class has one source.
    Recording,
    /// A third of a recording: the class has one recording. The parts resemble each other, so the figure is too good.
    Part,
}

impl HeldOutBy {
    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            HeldOutBy::Source => "source",
            HeldOutBy::Recording => "recording",
            HeldOutBy::Part => "part of the recording",
        }
    }
}

/// Where a sample comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleOrigin<'a> {
    pub label: u32,
    pub source: &'a str,
    /// Index of the recording or still.
    pub item: u32,
    /// Second of the recording.
    pub second: u32,
    /// Seconds of the recording.
    pub seconds: u32,
}

/// The fold of every sample, from 0, and the unit by which each class is held out.
pub(super) fn folds(samples: &[SampleOrigin<'_>]) -> (Vec<usize>, BTreeMap<u32, HeldOutBy>) {
    let mut sources: BTreeMap<u32, (BTreeSet<&str>, BTreeSet<u32>)> = BTreeMap::new();
    for sample in samples {
        let (sources, items) = sources.entry(sample.label).or_default();
        sources.insert(sample.source);
        items.insert(sample.item);
    }
    let by: BTreeMap<u32, HeldOutBy> = sources
        .into_iter()
        .map(|(label, (sources, items))| match (sources.len(), items.len()) {
            (2.., _) => (label, HeldOutBy::Source),
            (_, 2..) => (label, HeldOutBy::Recording),
            _ => (label, HeldOutBy::Part),
        })
        .collect();
    // A source that shows several classes is one unit in all of them.
    let unit = |sample: &SampleOrigin<'_>| match by[&sample.label] {
        HeldOutBy::Source => (sample.source.to_owned(), 0, 0),
        HeldOutBy::Recording => (sample.source.to_owned(), sample.item, 0),
        HeldOutBy::Part => {
            let block = sample.second * BLOCKS / sample.seconds.max(1);
            (sample.source.to_owned(), sample.item, block.min(BLOCKS - 1))
        }
    };
    let mut sizes: BTreeMap<(u32, (String, u32, u32)), usize> = BTreeMap::new();
    for sample in samples {
        *sizes.entry((sample.label, unit(sample))).or_default() += 1;
    }
    let mut order: Vec<_> = sizes.into_iter().collect();
    // The largest first, each into the fold that has least of its class.
    order.sort_by(|((a, x), n), ((b, y), m)| (a, m, x).cmp(&(b, n, y)));
    let mut fold_of: BTreeMap<(String, u32, u32), usize> = BTreeMap::new();
    let mut held: BTreeMap<u32, [usize; FOLDS]> = BTreeMap::new();
    for ((label, unit), n) in order {
        let held = held.entry(label).or_default();
        let fold = *fold_of
            .entry(unit)
            .or_insert_with(|| (0..FOLDS).min_by_key(|fold| (held[*fold], *fold)).unwrap_or_default());
        held[fold] += n;
    }
    (samples.iter().map(|sample| fold_of[&unit(sample)]).collect(), by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(label: u32, source: &str, item: u32, second: u32) -> SampleOrigin<'_> {
        SampleOrigin { label, source, item, second, seconds: 9 }
    }

    #[test]
    fn sources_recordings_or_parts_are_held_out_together() {
        let mut samples = Vec::new();
        for second in 0..9 {
            samples.extend([origin(0, "a", 0, second), origin(0, "b", 1, second), origin(0, "b", 2, second)]);
            samples.extend([origin(1, "c", 3, second), origin(1, "c", 4, second)]);
            samples.push(origin(2, "d", 5, second));
        }
        let (folds, by) = folds(&samples);
        assert_eq!(by.into_values().collect::<Vec<_>>(), [HeldOutBy::Source, HeldOutBy::Recording, HeldOutBy::Part]);
        let folds_of = |matching: &dyn Fn(&SampleOrigin<'_>) -> bool| -> BTreeSet<usize> {
            samples.iter().zip(&folds).filter(|(s, _)| matching(s)).map(|(_, fold)| *fold).collect()
        };
        assert_eq!(folds_of(&|s| s.source == "b").len(), 1, "both recordings of a source");
        assert_ne!(folds_of(&|s| s.source == "a"), folds_of(&|s| s.source == "b"));
        assert_ne!(folds_of(&|s| s.item == 3), folds_of(&|s| s.item == 4));
        assert_eq!(folds_of(&|s| s.item == 5).len(), 3, "three parts");
        assert_eq!(folds_of(&|s| s.item == 5 && s.second < 3).len(), 1);
    }
}
