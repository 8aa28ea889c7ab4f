//! Figures of a cross-validation: each source is scored by models that were not trained on it.
//!
//! Temperatures, table and learned fusion of a fold are fitted on the other folds, so they too are independent of the material
//! that they are measured on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::by_source::{ByKind, item_samples, report};
use super::calibration::{ece, reliability};
use super::events::EventErrors;
use super::metrics::Samples;
use super::predict::{DecisionMethod, clips, second_samples};
use super::programme::RecordingPool;
use super::result::{EventFigures, KindReport, Predictor};
use super::scores::{RawSecond, ScoreTable, ScoredItem, SoftSecond};
use super::stacking::Stacking;
use super::unknown::Answers;
use super::{Fitted, fit};
use crate::dataset::split::Side;
use crate::dataset::{Dataset, Kind};
use crate::held_out::HeldOut;
use crate::rows::teaches;
use crate::train::folds::{FOLDS, FoldsInfo};
use crate::train::labelling;
use touchline_compute::models::pack::parse_toml;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::vote::VoteConfig;

/// A cross-validation with its scores.
#[derive(Clone, Debug)]
pub struct Cross {
    /// Scores of the held-out items of all folds.
    pub table: ScoreTable,
    /// Fold of each item of the table.
    fold_of: Vec<u32>,
    infos: BTreeMap<Modality, FoldsInfo>,
    /// Classes that one fold holds out completely, with the number of their items that are not measured.
    pub unlearnable: BTreeMap<String, u64>,
}

/// Figures of a cross-validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossReport {
    /// Directory of the run.
    pub run: String,
    /// Number of folds.
    pub folds: u32,
    /// Share of the sources of recordings and frames that the models were trained on, 0 to 1.
    pub sources: f64,
    /// Number of those sources per class, mean over classes and folds.
    pub sources_per_class: f64,
    /// Figures of each pair of kind and predictor that has items.
    pub kinds: Vec<KindReport>,
    /// Errors of events on simulated programmes, each of the sources of one fold; `None` without clips of two classes in a fold.
    pub events: Option<EventFigures>,
    /// Expected calibration error of each predictor over the seconds of clips.
    pub ece: BTreeMap<Predictor, f64>,
    /// Remarks on method and limits, one sentence each.
    pub notes: Vec<String>,
}

impl Cross {
    /// Reads the cross-validation that `touchline train --folds` wrote to the directory `run`.
    ///
    /// # Errors
    /// [`Error::Data`] when it is unfinished or damaged, or belongs to another dataset, split or labels.
    pub fn open(run: &Path, dataset: &Dataset) -> Result<Self> {
        let mut infos: BTreeMap<Modality, FoldsInfo> = BTreeMap::new();
        let mut parts: Vec<(Modality, HeldOut)> = Vec::new();
        for modality in Modality::ALL {
            let dir = run.join(modality.as_str());
            let toml = dir.join(FOLDS);
            if !toml.is_file() {
                continue;
            }
            let text = std::fs::read_to_string(&toml)
                .map_err(|e| Error::data(&toml, format!("cannot read: {e}"), "check its permissions"))?;
            let info: FoldsInfo = parse_toml(&text).map_err(|e| Error::data(&toml, e, "train the folds again"))?;
            check(&info, infos.values().next(), &dir, dataset)?;
            parts.push((modality, HeldOut::load(&dir, &info.run.outputs)?));
            infos.insert(modality, info);
        }
        let Some(info) = infos.values().next() else {
            let cause = format!("contains no finished cross-validation (no {FOLDS} in rgb/, flow/ or audio/)");
            return Err(Error::data(run, cause, "create one with `touchline train --folds`"));
        };
        let classes = ClassSet::new(info.run.classes.clone())
            .map_err(|e| Error::data(run, e, "train again; the classes of the run are damaged"))?;
        join(run, dataset, &parts, classes, infos)
    }

    /// The modalities that have folds.
    pub fn modalities(&self) -> impl Iterator<Item = Modality> {
        self.infos.keys().copied()
    }

    /// Temperatures, table and threshold of answers, fitted on all held-out items.
    pub fn fitted(&self) -> Fitted {
        fit(&self.table)
    }

    /// Computes the figures. `run` is the directory for the report, `vote` that of the events, `seed` that of the bootstrap and the
    /// programmes.
    ///
    /// # Panics
    /// Never for a cross-validation from [`Self::open`], which has at least one modality.
    pub fn report(&self, run: &Path, vote: VoteConfig, seed: u64) -> CrossReport {
        let info = self.infos.values().next().expect("an opened cross-validation has a modality");
        let classes = &self.table.classes;
        let groups = self.table.groups();
        let mut items: BTreeMap<Predictor, ByKind> = BTreeMap::new();
        let mut seconds: BTreeMap<Predictor, Samples> = BTreeMap::new();
        let mut answers: BTreeMap<Kind, Answers> = BTreeMap::new();
        let mut events = EventErrors::new(vote);
        let folds: BTreeSet<u32> = self.fold_of.iter().copied().collect();
        for fold in folds {
            let (others, own) =
                (self.table.only(|i| self.fold_of[i] != fold), self.table.only(|i| self.fold_of[i] == fold));
            let Fitted { temperatures, fusion, unknown, soft } = fit(&others.0);
            let stacking = Stacking::fit(&others.0, &soft);
            let soft = own.0.soften(&temperatures);
            let groups: Vec<u32> = own.1.iter().map(|i| groups[*i]).collect();
            if let Some(pool) = RecordingPool::new(&soft, &fusion, classes, &groups) {
                events.add(&pool, classes, seed);
            }
            let mut judges: Vec<DecisionMethod> =
                self.table.modalities().into_iter().map(DecisionMethod::Modality).collect();
            judges.push(DecisionMethod::Table(&fusion));
            judges.extend(stacking.as_ref().map(DecisionMethod::Learned));
            for judge in &judges {
                let by_kind = items.entry(judge.predictor()).or_default();
                for (kind, samples) in item_samples(&soft, judge, classes.len(), &groups) {
                    if matches!(judge, DecisionMethod::Table(_)) {
                        let known_from = unknown.map_or(0.0, |unknown| unknown.below);
                        answers.entry(kind).or_default().add(&samples, known_from);
                    }
                    by_kind.entry(kind).or_insert_with(|| Samples::new(classes.len())).append(samples);
                }
                if soft.iter().any(|s| s.kind == Kind::Clip) {
                    let of_clips: Vec<&SoftSecond> = clips(&soft);
                    let samples = second_samples(&of_clips, judge, classes.len(), &groups);
                    seconds.entry(judge.predictor()).or_insert_with(|| Samples::new(classes.len())).append(samples);
                }
            }
        }
        let kinds = items.iter().flat_map(|(predictor, by_kind)| {
            by_kind.iter().map(|(kind, samples)| report(*kind, *predictor, samples, classes, seed))
        });
        let mut kinds: Vec<KindReport> = kinds.collect();
        kinds.sort_by_key(|r| (r.kind, r.predictor));
        for report in kinds.iter_mut().filter(|r| r.predictor == Predictor::Table) {
            report.answered = answers.get(&report.kind).map(Answers::shares);
        }
        let unlearnable: Vec<String> = self.unlearnable.iter().map(|(class, n)| format!("{class} ({n})")).collect();
        let mut notes = vec![
            "The test side of the dataset takes no part. Temperatures, table and learned fusion of a fold are fitted on the \
             others."
                .to_owned(),
        ];
        if !unlearnable.is_empty() {
            notes.push(format!(
                "One fold holds out all material of these classes, so they are not measured there (number of items): {}.",
                unlearnable.join(", ")
            ));
        }
        CrossReport {
            run: run.display().to_string(),
            folds: info.folds,
            sources: info.sources,
            sources_per_class: info.sources_per_class,
            kinds,
            events: events.figures(seed),
            ece: seconds.iter().filter(|(_, s)| !s.is_empty()).map(|(p, s)| (*p, ece(&reliability(s)))).collect(),
            notes,
        }
    }
}

/// Rejects folds that do not belong to the dataset, or that differ from the folds of another modality.
fn check(info: &FoldsInfo, first: Option<&FoldsInfo>, dir: &Path, dataset: &Dataset) -> Result<()> {
    let refuse = |cause: &str, advice: &str| Err(Error::data(dir, cause, advice));
    if info.run.fingerprint != dataset.fingerprint() {
        return refuse("was trained on another dataset", "use the dataset that it was trained on");
    }
    if info.run.labelling != Some(labelling(dataset, dataset.sides()?)) {
        let advice = "restore the earlier split (dataset split --seed), or train the folds again";
        return refuse("was trained on another split or other labels", advice);
    }
    let same = |a: &FoldsInfo, b: &FoldsInfo| {
        (a.folds, a.run.fit.seed, a.sources) == (b.folds, b.run.fit.seed, b.sources) && a.run.classes == b.run.classes
    };
    if first.is_some_and(|first| !same(first, info)) {
        let advice = "train the folds of all modalities with the same --folds, --sources and --seed";
        return refuse("its folds differ from those of the other modalities", advice);
    }
    Ok(())
}

/// Joins the held-out scores of all modalities into one table.
fn join(
    run: &Path,
    dataset: &Dataset,
    parts: &[(Modality, HeldOut)],
    classes: ClassSet,
    infos: BTreeMap<Modality, FoldsInfo>,
) -> Result<Cross> {
    let damaged = |cause: &str| Error::data(run, cause, "train the folds again");
    let mut outputs = PerModality::default();
    let mut seconds: BTreeMap<(u32, u32), PerModality<Vec<Vec<f32>>>> = BTreeMap::new();
    let mut fold_of_item: BTreeMap<u32, u32> = BTreeMap::new();
    for (modality, held_out) in parts {
        let ids: Option<Vec<_>> = held_out.outputs.iter().map(|name| classes.id(name)).collect();
        *outputs.get_mut(*modality) = Some(ids.ok_or_else(|| damaged("an output belongs to no class of the run"))?);
        for row in &held_out.rows {
            if *fold_of_item.entry(row.item).or_insert(row.fold) != row.fold || row.item as usize >= dataset.items.len()
            {
                return Err(damaged("its rows belong to other items"));
            }
            seconds.entry((row.item, row.second)).or_default().get_mut(*modality).push(row.logits.clone());
        }
    }
    let unlearnable = unlearnable(dataset, &fold_of_item, parts)?;
    let mut cross = Cross {
        table: ScoreTable {
            outputs,
            items: Vec::new(),
            seconds: Vec::new(),
            skipped: Vec::new(),
            unknown: BTreeMap::new(),
            weak: 0,
            remarks: Vec::new(),
            classes,
        },
        fold_of: Vec::new(),
        infos,
        unlearnable: BTreeMap::new(),
    };
    let mut place: BTreeMap<u32, u32> = BTreeMap::new();
    for (index, fold) in &fold_of_item {
        let item = &dataset.items[*index as usize];
        if unlearnable.contains(&(item.class.as_str(), *fold)) {
            *cross.unlearnable.entry(item.class.clone()).or_default() += 1;
            continue;
        }
        let truth =
            cross.table.classes.id(&item.class).ok_or_else(|| damaged("a row belongs to no class of the run"))?;
        place.insert(*index, cross.table.items.len() as u32);
        cross.fold_of.push(*fold);
        cross.table.items.push(ScoredItem {
            dataset_index: *index,
            path: item.path.clone(),
            kind: item.kind,
            truth,
            group: item.group.clone(),
        });
    }
    for ((item, second), logits) in seconds {
        if let Some(item) = place.get(&item) {
            cross.table.seconds.push(RawSecond { item: *item, second, logits });
        }
    }
    if cross.table.items.is_empty() {
        let advice = "add recordings of other sources, or use fewer --folds";
        return Err(Error::data(run, "no class is in more than one fold, so nothing can be measured", advice));
    }
    Ok(cross)
}

/// Returns the pairs of class and fold for which no other fold has material of the class, in any of the modalities.
fn unlearnable<'a>(
    dataset: &'a Dataset,
    fold_of_item: &BTreeMap<u32, u32>,
    parts: &[(Modality, HeldOut)],
) -> Result<BTreeSet<(&'a str, u32)>> {
    // All items of a group are in one fold, so the folds of the held-out items cover all material.
    let sides = dataset.sides()?;
    let mut folds_of_class: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for (i, item) in dataset.items.iter().enumerate() {
        let takes_part = sides[i] != Side::Test && parts.iter().any(|(m, _)| teaches(*m, item));
        if let (true, Some(fold)) = (takes_part, fold_of_item.get(&(i as u32))) {
            folds_of_class.entry(&item.class).or_default().insert(*fold);
        }
    }
    let alone = folds_of_class.into_iter().filter(|(_, folds)| folds.len() == 1);
    Ok(alone.flat_map(|(class, folds)| folds.into_iter().map(move |fold| (class, fold))).collect())
}
