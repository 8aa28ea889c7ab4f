//! The plain table every figure is computed from: the models' raw outputs for each second of one side.
//!
//! Logits are kept as they came, so that temperatures can be fitted and applied afterwards without running a model
//! again. How the table is made is [`super::score`]'s matter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::temperature::temperature;
use crate::dataset::Kind;
use touchline_compute::infer::spread_softmax;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::fusion::second_scores;
use touchline_core::labels::{ClassId, ClassSet, Modality};

/// A recording or picture of the side that was scored.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredItem {
    /// Its place in the dataset.
    pub dataset_index: u32,
    /// As the dataset names it.
    pub path: PathBuf,
    pub kind: Kind,
    pub truth: ClassId,
    /// What the split keeps together: the unit of resampling and of cross-validation.
    pub group: String,
}

/// The raw outputs of one second.
#[derive(Clone, Debug, PartialEq)]
pub struct RawSecond {
    /// Index into [`ScoreTable::items`].
    pub item: u32,
    /// Second of the recording, counted over its runs.
    pub second: u32,
    /// Rows of logits, one a frame, pair or second of sound; each as long as the model's outputs. No rows = missing.
    pub logits: PerModality<Vec<Vec<f32>>>,
}

/// One side of a dataset as the models of a pack see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreTable {
    /// The pack's classes.
    pub classes: ClassSet,
    /// For each output of a modality's model, the class of the pack; `None` without a model.
    pub outputs: PerModality<Option<Vec<ClassId>>>,
    pub items: Vec<ScoredItem>,
    /// By item, then by second.
    pub seconds: Vec<RawSecond>,
    /// What could not be read, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
    /// Items of classes the pack does not know: they are not scored.
    pub unknown: BTreeMap<String, u64>,
    /// Items that show little of their sport: they are not scored either.
    pub weak: u64,
    /// How the material differs from what the pack serves, a sentence each.
    pub remarks: Vec<String>,
}

/// One second with its true class and what each modality says of it at some temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftSecond {
    /// Index into the items.
    pub item: u32,
    /// The first item of the same recording and class: a long one is several items.
    pub recording: u32,
    pub second: u32,
    pub truth: ClassId,
    pub kind: Kind,
    pub scores: PerModality<Option<ModalityScores>>,
}

impl ScoreTable {
    /// The modalities that have a model.
    pub fn modalities(&self) -> Vec<Modality> {
        Modality::ALL.into_iter().filter(|m| self.outputs.get(*m).is_some()).collect()
    }

    /// Every row of logits of a modality, with its second.
    pub fn rows(&self, modality: Modality) -> impl Iterator<Item = (&RawSecond, &[f32])> {
        self.seconds.iter().flat_map(move |s| s.logits.get(modality).iter().map(move |row| (s, row.as_slice())))
    }

    /// The item of a second.
    pub fn item(&self, second: &RawSecond) -> &ScoredItem {
        &self.items[second.item as usize]
    }

    /// Probabilities over the pack's classes.
    ///
    /// # Panics
    /// If the pack has no model for the modality.
    pub fn softmax(&self, modality: Modality, logits: &[f32], temperature: f32) -> Vec<f32> {
        let outputs = self.outputs.get(modality).as_ref().expect("rows of logits come from a model");
        spread_softmax(logits, temperature, outputs, self.classes.len())
    }

    /// The seconds as serving scores them, at these temperatures.
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

    /// The temperature of a modality that makes the true classes of this table, which must be validation, most likely;
    /// over every row (frame, pair, second of sound) of clips, or of all items without clips, whose class the model knows. 1
    /// without such rows.
    pub fn fit_temperature(&self, modality: Modality) -> f32 {
        let Some(outputs) = self.outputs.get(modality) else { return 1.0 };
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        // Stills are many and easy: where there are clips, what is served is what counts.
        let clips = self.rows(modality).any(|(second, _)| self.item(second).kind == Kind::Clip);
        for (second, row) in self.rows(modality).filter(|(s, _)| !clips || self.item(s).kind == Kind::Clip) {
            if let Some(label) = outputs.iter().position(|o| *o == self.item(second).truth) {
                logits.push(row.to_vec());
                labels.push(label as u32);
            }
        }
        temperature(&logits, &labels)
    }

    /// [`Self::fit_temperature`] for each modality, within what a pack may state (0.05 to 20).
    pub fn fit_temperatures(&self) -> PerModality<f32> {
        PerModality::of(|modality| self.fit_temperature(modality).clamp(0.05, 20.0))
    }

    /// The part of the table that is of some items, by their place, and the places of those.
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

    /// The groups of all items by name, numbered from 0.
    pub fn groups(&self) -> Vec<u32> {
        let names: BTreeSet<&str> = self.items.iter().map(|i| i.group.as_str()).collect();
        let number: BTreeMap<&str, u32> = names.into_iter().zip(0..).collect();
        self.items.iter().map(|i| number[i.group.as_str()]).collect()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Score tables made by hand.

    use super::*;

    /// An empty table over classes `a`, `b`, … whose modalities all know all of them.
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

    /// Logits that say `label` with a margin of `by`.
    pub fn says(label: usize, by: f32, classes: usize) -> Vec<f32> {
        (0..classes).map(|c| if c == label { by } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{says, table};
    use super::*;

    #[test]
    fn seconds_soften_as_serving_scores_them() {
        let mut t = table(3);
        t.outputs.audio = Some(vec![ClassId(2), ClassId(0)]);
        t.outputs.flow = None;
        let rgb = vec![says(1, 2.0, 3), says(1, 2.0, 3), says(0, 9.0, 3)];
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
    fn temperature_looks_at_known_classes_only() {
        let mut t = table(2);
        t.outputs.rgb = Some(vec![ClassId(0), ClassId(0)]);
        t.add(Kind::Clip, 1, "s", vec![PerModality { rgb: vec![vec![1.0, 0.0]], ..PerModality::default() }]);
        assert_eq!(t.fit_temperature(Modality::Rgb), 1.0, "no row of a class it knows");
        let mut t = table(2);
        // Three of four are right at a margin of 4: the likeliest margin is ln 3.
        for (truth, n) in [(0, 3), (1, 1)] {
            let second = PerModality { rgb: vec![says(0, 4.0, 2); n], ..PerModality::default() };
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
