//! The table from which all figures are computed: the models' logits for each second of one side.
//!
//! Temperatures are fitted and applied to the logits later, without running the models again. [`super::score`] creates the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::temperature::temperature;
use crate::dataset::Kind;
use touchline_compute::infer::spread_softmax;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::fusion::second_scores;
use touchline_core::labels::{ClassId, ClassSet, Modality};

/// A recording or picture of the scored side.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredItem {
    /// Index of the item in the dataset.
    pub dataset_index: u32,
    /// Path of the file, as the dataset names it.
    pub path: PathBuf,
    /// Kind of material.
    pub kind: Kind,
    /// True class.
    pub truth: ClassId,
    /// Group (source) of the item: the unit of the split, of resampling and of cross-validation.
    pub group: String,
}

/// The logits of one second.
#[derive(Clone, Debug, PartialEq)]
pub struct RawSecond {
    /// Index into [`ScoreTable::items`].
    pub item: u32,
    /// Index of the second in its item, from 0, counted over its runs.
    pub second: u32,
    /// Rows of logits, one per frame, pair or second of sound, with one value per output of the model. No rows if the modality is
    /// missing.
    pub logits: PerModality<Vec<Vec<f32>>>,
}

/// The logits of a pack's models on one side of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreTable {
    /// The pack's classes.
    pub classes: ClassSet,
    /// For each output of a modality's model, the class of the pack; `None` without a model.
    pub outputs: PerModality<Option<Vec<ClassId>>>,
    /// The items of the side.
    pub items: Vec<ScoredItem>,
    /// The seconds, ordered by item and then by second.
    pub seconds: Vec<RawSecond>,
    /// Items that could not be read, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
    /// Number of items of each class that the pack does not have. They are not scored.
    pub unknown: BTreeMap<String, u64>,
    /// Number of items that barely show their sport. They are not scored.
    pub weak: u64,
    /// Differences between the cut of the material and that of the pack, one sentence each.
    pub remarks: Vec<String>,
}

/// One second with its true class and the scores of each modality at some temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftSecond {
    /// Index into [`ScoreTable::items`].
    pub item: u32,
    /// Index of the first item of the same recording and class. A long recording has several items.
    pub recording: u32,
    /// Index of the second in its item, from 0.
    pub second: u32,
    /// True class.
    pub truth: ClassId,
    /// Kind of material.
    pub kind: Kind,
    /// Scores of each modality; `None` if it is missing.
    pub scores: PerModality<Option<ModalityScores>>,
}

impl ScoreTable {
    /// Returns the modalities that have a model.
    pub fn modalities(&self) -> Vec<Modality> {
        Modality::ALL.into_iter().filter(|m| self.outputs.get(*m).is_some()).collect()
    }

    /// Iterates over all rows of logits of a modality, each with its second.
    pub fn rows(&self, modality: Modality) -> impl Iterator<Item = (&RawSecond, &[f32])> {
        self.seconds.iter().flat_map(move |s| s.logits.get(modality).iter().map(move |row| (s, row.as_slice())))
    }

    /// Returns the item of a second.
    pub fn item(&self, second: &RawSecond) -> &ScoredItem {
        &self.items[second.item as usize]
    }

    /// Returns the probabilities over the pack's classes for one row of logits.
    ///
    /// # Panics
    /// If the pack has no model for the modality.
    pub fn softmax(&self, modality: Modality, logits: &[f32], temperature: f32) -> Vec<f32> {
        let outputs = self.outputs.get(modality).as_ref().expect("rows of logits come from a model");
        spread_softmax(logits, temperature, outputs, self.classes.len())
    }

    /// Returns the seconds with their scores at `temperatures`, computed as in serving.
    pub fn soften(&self, temperatures: &PerModality<f32>) -> Vec<SoftSecond> {
        let mut first: BTreeMap<(&std::path::Path, ClassId), u32> = BTreeMap::new();
        for (item, i) in self.items.iter().zip(0..) {
            first.entry((&item.path, item.truth)).or_insert(i);
        }
        let soft = |second: &RawSecond| {
            let mut scores = PerModality::default();
            for modality in self.modalities() {
                let rows = second.logits.get(modality).iter();
                let rows: Vec<Vec<f32>> =
                    rows.map(|row| self.softmax(modality, row, *temperatures.get(modality))).collect();
                *scores.get_mut(modality) = second_scores(rows.iter().map(Vec::as_slice));
            }
            let item = self.item(second);
            let recording = first[&(item.path.as_path(), item.truth)];
            SoftSecond {
                item: second.item,
                recording,
                second: second.second,
                truth: item.truth,
                kind: item.kind,
                scores,
            }
        };
        self.seconds.iter().map(soft).collect()
    }

    /// Fits the temperature of a modality: the one that maximises the likelihood of the true classes. The table must be that of
    /// validation. The fit uses each row (frame, pair, second of sound) of a class that the model knows, of clips only if there are
    /// any. 1 without such rows.
    pub fn fit_temperature(&self, modality: Modality) -> f32 {
        let Some(outputs) = self.outputs.get(modality) else { return 1.0 };
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        // Stills are numerous and easy. Clips, if there are any, resemble the served material.
        let clips = self.rows(modality).any(|(second, _)| self.item(second).kind == Kind::Clip);
        for (second, row) in self.rows(modality).filter(|(s, _)| !clips || self.item(s).kind == Kind::Clip) {
            if let Some(label) = outputs.iter().position(|o| *o == self.item(second).truth) {
                logits.push(row.to_vec());
                labels.push(label as u32);
            }
        }
        temperature(&logits, &labels)
    }

    /// Fits the temperature of each modality, clamped to the range of a pack (0.05 to 20).
    pub fn fit_temperatures(&self) -> PerModality<f32> {
        PerModality::of(|modality| self.fit_temperature(modality).clamp(0.05, 20.0))
    }

    /// Returns the part of the table with the items whose index is `wanted`, and the old indices of these items.
    pub fn only(&self, wanted: impl Fn(usize) -> bool) -> (Self, Vec<usize>) {
        let kept: Vec<usize> = (0..self.items.len()).filter(|i| wanted(*i)).collect();
        let place: BTreeMap<u32, u32> = kept.iter().zip(0..).map(|(old, new)| (*old as u32, new)).collect();
        let second = |s: &RawSecond| Some(RawSecond { item: *place.get(&s.item)?, ..s.clone() });
        let table = Self {
            classes: self.classes.clone(),
            outputs: self.outputs.clone(),
            items: kept.iter().map(|i| self.items[*i].clone()).collect(),
            seconds: self.seconds.iter().filter_map(second).collect(),
            skipped: self.skipped.clone(),
            unknown: self.unknown.clone(),
            weak: self.weak,
            remarks: self.remarks.clone(),
        };
        (table, kept)
    }

    /// Returns the names of the groups, in order.
    pub fn group_names(&self) -> Vec<&str> {
        let names: BTreeSet<&str> = self.items.iter().map(|i| i.group.as_str()).collect();
        names.into_iter().collect()
    }

    /// Returns the group of each item, as a number from 0 in the order of the groups' names.
    pub fn groups(&self) -> Vec<u32> {
        let number: BTreeMap<&str, u32> = self.group_names().into_iter().zip(0..).collect();
        self.items.iter().map(|i| number[i.group.as_str()]).collect()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Score tables for tests.

    use super::*;

    /// An empty table over classes `a`, `b`, … with a model of all classes for each modality.
    pub fn table(classes: usize) -> ScoreTable {
        let names = (0..classes).map(|c| char::from(b'a' + c as u8).to_string()).collect();
        let classes = ClassSet::new(names).unwrap();
        let outputs = || Some(classes.ids().collect::<Vec<_>>());
        ScoreTable {
            outputs: PerModality { rgb: outputs(), flow: outputs(), audio: outputs() },
            classes,
            items: Vec::new(),
            seconds: Vec::new(),
            skipped: Vec::new(),
            unknown: BTreeMap::new(),
            weak: 0,
            remarks: Vec::new(),
        }
    }

    impl ScoreTable {
        /// Adds an item of class `truth` with one second per element of `seconds`.
        pub fn add(&mut self, kind: Kind, truth: u16, group: &str, seconds: Vec<PerModality<Vec<Vec<f32>>>>) {
            let item = self.items.len() as u32;
            let path = PathBuf::from(format!("{group}/{item}"));
            self.items.push(ScoredItem {
                dataset_index: item,
                path,
                kind,
                truth: ClassId(truth),
                group: group.to_owned(),
            });
            for (second, logits) in (0..).zip(seconds) {
                self.seconds.push(RawSecond { item, second, logits });
            }
        }
    }

    /// Logits that favour `label` by a margin of `by`.
    pub fn logits_for(label: usize, by: f32, classes: usize) -> Vec<f32> {
        (0..classes).map(|c| if c == label { by } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{logits_for, table};
    use super::*;

    #[test]
    fn seconds_are_softened_as_in_serving() {
        let mut t = table(3);
        t.outputs.audio = Some(vec![ClassId(2), ClassId(0)]);
        t.outputs.flow = None;
        let rgb = vec![logits_for(1, 2.0, 3), logits_for(1, 2.0, 3), logits_for(0, 9.0, 3)];
        t.add(Kind::Clip, 1, "s", vec![PerModality { rgb, flow: vec![], audio: vec![vec![1.0, 3.0]] }]);
        let soft = t.soften(&PerModality { rgb: 2.0, flow: 1.0, audio: 1.0 });
        let rgb = soft[0].scores.rgb.as_ref().unwrap();
        assert_eq!((rgb.label, rgb.votes, rgb.voters), (ClassId(1), 2, 3));
        let e = 1f32.exp();
        let nine = 4.5f32.exp();
        assert!((rgb.scores[1] - (2.0 * e / (e + 2.0) + 1.0 / (nine + 2.0)) / 3.0).abs() < 1e-6);
        let audio = soft[0].scores.audio.as_ref().unwrap();
        assert_eq!((audio.label, audio.scores[1]), (ClassId(0), 0.0), "outputs go to their classes");
        assert!(soft[0].scores.flow.is_none());
        assert_eq!(t.modalities(), [Modality::Rgb, Modality::Audio]);
    }

    #[test]
    fn temperature_uses_known_classes_only() {
        let mut t = table(2);
        t.outputs.rgb = Some(vec![ClassId(0), ClassId(0)]);
        t.add(Kind::Clip, 1, "s", vec![PerModality { rgb: vec![vec![1.0, 0.0]], ..PerModality::default() }]);
        assert_eq!(t.fit_temperature(Modality::Rgb), 1.0, "no row of a class it knows");
        let mut t = table(2);
        // Three of four are right at a margin of 4; the most likely margin is ln 3.
        for (truth, n) in [(0, 3), (1, 1)] {
            let second = PerModality { rgb: vec![logits_for(0, 4.0, 2); n], ..PerModality::default() };
            t.add(Kind::Clip, truth, "s", vec![second]);
        }
        assert!((t.fit_temperature(Modality::Rgb) - 4.0 / 3f32.ln()).abs() < 1e-3);
        assert_eq!(t.fit_temperatures().audio, 1.0);
    }

    #[test]
    fn groups_are_numbered_by_name() {
        let mut t = table(2);
        for group in ["b", "a", "b"] {
            t.add(Kind::Clip, 0, group, vec![]);
        }
        assert_eq!(t.groups(), [1, 0, 1]);
    }
}
