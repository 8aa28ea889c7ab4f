//! Selects the classes that a dataset can teach, per modality, and the rows that are samples of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::dataset::split::Side;
use super::dataset::{Dataset, Item, Kind};
use super::rows::{Key, WantedRow, teaches};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassId, ClassSet, Modality, STUDY_CLASSES};

/// Recordings that a class needs when all of them come from a single source.
const ENOUGH_OF_ONE_SOURCE: usize = 10;

/// Weights of samples stay within this factor of their mean. Beyond it, a few recordings would dominate the training.
const WEIGHT_BOUND: f32 = 4.0;

/// Returns the classes that the dataset can teach, in alphabetical order, and the classes that are left out, with the reason.
/// A class needs stills, two sources, or ten recordings of one source.
///
/// # Errors
/// [`Error::Data`] when fewer than two classes can be learnt, or a class name is invalid.
pub fn known(dataset: &Dataset) -> Result<(ClassSet, BTreeMap<String, String>)> {
    let mut names = BTreeSet::new();
    let mut left_out = BTreeMap::new();
    let in_data = dataset.class_names();
    for class in &in_data {
        let of_class: Vec<&Item> = dataset.items.iter().filter(|i| i.class == *class).collect();
        let recordings = of_class.iter().filter(|i| !i.kind.is_still()).count();
        if of_class.len() == recordings && !learnable(of_class.iter().copied()) {
            left_out.insert(class.clone(), format!("only {recordings} recording(s) of one source, no pictures"));
        } else {
            names.insert(class.clone());
        }
    }
    for class in STUDY_CLASSES.iter().filter(|c| !in_data.iter().any(|d| d == *c)) {
        left_out.insert((*class).to_owned(), "no data".to_owned());
    }
    if names.len() < 2 {
        let cause = format!("only {} class(es) can be learnt, and a model needs two", names.len());
        let advice = "add recordings of other classes: two sources, or ten recordings of one source";
        return Err(Error::data(&dataset.dir, cause, advice));
    }
    let set = ClassSet::new(names.into_iter().collect()).map_err(|e| {
        Error::data(&dataset.dir, e, "correct the class name in the material and build the dataset again")
    })?;
    Ok((set, left_out))
}

/// Returns whether recordings can teach a class: they have two sources, or one source has many.
fn learnable<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> bool {
    let sources: BTreeSet<&str> = items.clone().map(|i| i.group.as_str()).collect();
    sources.len() >= 2 || items.count() >= ENOUGH_OF_ONE_SOURCE
}

/// Returns the classes that the model of a modality distinguishes, in the order of its outputs.
pub fn outputs(dataset: &Dataset, classes: &ClassSet, modality: Modality) -> Vec<ClassId> {
    let teaching: Vec<&Item> = dataset.items.iter().filter(|i| teaches(modality, i)).collect();
    classes
        .ids()
        .filter(|id| {
            let of_class = teaching.iter().copied().filter(|i| i.class == classes.name(*id));
            of_class.clone().any(|i| i.kind.is_still()) || learnable(of_class)
        })
        .collect()
}

/// Returns the items whose rows training needs: training items with random views, validation items without, no test items.
/// `views` is the number of random views of a still and of a recording. Stills come first.
pub fn wanted(
    dataset: &Dataset,
    sides: &[Side],
    names: &[String],
    modality: Modality,
    views: (u32, u32),
) -> Vec<WantedRow> {
    let (of_stills, of_recordings) = views;
    let wanted = |index, item: &Item, side| {
        let views = match side {
            Side::Train if item.kind.is_still() => of_stills,
            Side::Train => of_recordings,
            Side::Validation => 0,
            Side::Test => return None,
        };
        Some(WantedRow::with_views(index, views))
    };
    select(dataset, sides, names, modality, wanted)
}

/// Returns random view `view`, from 1, of all items on one of the `wanted` sides. Stills come first.
pub fn wanted_view(
    dataset: &Dataset,
    (sides, wanted): (&[Side], &[Side]),
    names: &[String],
    modality: Modality,
    view: u32,
) -> Vec<WantedRow> {
    let wanted = |index, _: &Item, side| wanted.contains(&side).then_some(WantedRow::of_view(index, view));
    select(dataset, sides, names, modality, wanted)
}

/// Returns what `wanted` gives for the items that teach a modality. Stills come first.
fn select(
    dataset: &Dataset,
    sides: &[Side],
    names: &[String],
    modality: Modality,
    wanted: impl Fn(u32, &Item, Side) -> Option<WantedRow>,
) -> Vec<WantedRow> {
    let mut all: Vec<(Kind, WantedRow)> = Vec::new();
    for (i, (item, side)) in dataset.items.iter().zip(sides).enumerate() {
        if teaches(modality, item)
            && names.contains(&item.class)
            && let Some(wanted) = wanted(i as u32, item, *side)
        {
            all.push((item.kind, wanted));
        }
    }
    // Stills before recordings, so that a chunk holds only one of the two.
    all.sort_by_key(|(kind, wanted)| (!kind.is_still(), wanted.item));
    all.into_iter().map(|(_, wanted)| wanted).collect()
}

/// Samples for training or validation. The three lists have one entry per sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Row of each sample, an index into [`super::rows::Rows`].
    pub rows: Vec<u32>,
    /// Class of each sample, an index into the outputs of the model.
    pub labels: Vec<u32>,
    /// Weight of each sample in the loss; about 1 on average.
    pub weights: Vec<f32>,
}

impl Samples {
    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the number of samples of each class.
    ///
    /// # Panics
    /// If a label is not below `classes`.
    pub fn counts(&self, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        for label in &self.labels {
            counts[*label as usize] += 1;
        }
        counts
    }
}

/// Returns the rows of one side as samples: all views for training, only the unchanged rows (view 0) for the other sides.
/// `names` are the classes of the outputs and `keys` the keys of the rows.
///
/// Weights balance classes and sources. They use square roots, so that a class or source with many rows counts more than
/// one with few, but less than in proportion.
pub fn samples(dataset: &Dataset, sides: &[Side], names: &[String], keys: &[Key], side: Side) -> Samples {
    let label_of = |key: &Key| -> Option<u32> {
        let item = &dataset.items[key.item as usize];
        let wanted = sides[key.item as usize] == side && (side == Side::Train || key.view == 0);
        names.iter().position(|n| *n == item.class).filter(|_| wanted).map(|p| p as u32)
    };
    let mut of_class: HashMap<u32, f32> = HashMap::new();
    let mut of_source: HashMap<(u32, &str), f32> = HashMap::new();
    for key in keys {
        if let Some(label) = label_of(key) {
            *of_class.entry(label).or_default() += 1.0;
            *of_source.entry((label, &dataset.items[key.item as usize].source)).or_default() += 1.0;
        }
    }
    let mut samples = Samples::default();
    for (row, key) in keys.iter().enumerate() {
        let Some(label) = label_of(key) else { continue };
        let source = of_source[&(label, dataset.items[key.item as usize].source.as_str())];
        samples.rows.push(row as u32);
        samples.labels.push(label);
        samples.weights.push(1.0 / (of_class[&label] * source).sqrt());
    }
    let mean = samples.weights.iter().sum::<f32>() / samples.len().max(1) as f32;
    samples.weights.iter_mut().for_each(|w| *w = (*w / mean).clamp(1.0 / WEIGHT_BOUND, WEIGHT_BOUND));
    samples
}
