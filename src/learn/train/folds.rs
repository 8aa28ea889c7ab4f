//! Cross-validation by source: one training for each fold, measured on the sources that it was not trained on.
//!
//! The test side of the dataset takes no part, so that settings chosen by these figures can still be tested. A fold has no
//! validation: each training keeps its last epoch, because a choice of the epoch by the held-out sources would make the figures too
//! high. Rows are those of an ordinary training, so that folds of the classifier alone take seconds. As there, sources of the
//! validation side have no random views, also in the folds that train on them.

use serde::{Deserialize, Serialize};

use super::views::FreshViews;
use super::{Job, Plan, PreparedModality, RunInfo, each_modality};
use crate::classes;
use crate::classes::Samples;
use crate::dataset::Dataset;
use crate::dataset::folds::{by_source, limit_sources};
use crate::dataset::split::Side;
use crate::fit::{self, Observer};
use crate::held_out::{HeldOut, HeldOutRow};
use crate::net::Net;
use crate::rows::{Rows, teaches};
use touchline_compute::models::sha256_hex;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// File name of the description of the folds in the run directory of a modality.
pub const FOLDS: &str = "folds.toml";

/// Rows in one batch.
const BATCH: usize = 64;

/// Settings of a cross-validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Folds {
    /// Number of folds.
    pub count: u32,
    /// Share of the sources of clips, frames and sounds that are trained on, 0 to 1, for a learning curve.
    pub sources: f64,
}

/// Contents of `folds.toml`: the cross-validation of one modality.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldsInfo {
    /// Number of folds.
    pub folds: u32,
    /// Share of the sources that were trained on, 0 to 1.
    pub sources: f64,
    /// Number of sources of clips, frames and sounds that were trained on per class, mean over classes and folds.
    pub sources_per_class: f64,
    /// Model, material and settings.
    pub run: RunInfo,
}

/// Trains a model for each fold on all other folds, and saves its scores on the held-out fold. Returns the number of held-out rows
/// of each modality.
///
/// # Errors
/// As for [`super::train`].
pub fn cross_validate(
    dataset: &Dataset,
    plan: &Plan,
    folds: Folds,
    progress: &mut dyn Observer,
) -> Result<Vec<(Modality, usize)>> {
    let mut held_out = Vec::new();
    each_modality(dataset, plan, |job, modality| {
        if let Some(rows) = job.folds(modality, folds, progress)? {
            held_out.push((modality, rows));
        }
        Ok(())
    })?;
    Ok(held_out)
}

impl Job<'_> {
    fn folds(&self, modality: Modality, folds: Folds, progress: &mut dyn Observer) -> Result<Option<usize>> {
        let Some(begun) = self.begin(modality, progress)? else { return Ok(None) };
        let fold_of = by_source(&self.dataset.items, folds.count, self.plan.fit.seed);
        let dir = self.plan.out.join(modality.to_string());
        let ground = |fold: u32| {
            let text = format!("{} fold {fold} of {} sources {}", begun.ground, folds.count, folds.sources);
            sha256_hex(text.as_bytes())
        };
        let place = |fold: u32| dir.join(format!("fold-{}", fold + 1));
        for fold in 0..folds.count {
            fit::prepare(&place(fold), self.plan.resume, &ground(fold))?;
        }
        let rows = self.rows(&begun, progress)?;
        let mut held_out = HeldOut::default();
        let (mut learnt_sources, mut learnt_classes) = (0, 0);
        for fold in 0..folds.count {
            let (sides, learnt) = self.sides_of(fold, &fold_of, folds.sources);
            let side = |side| classes::samples(self.dataset, &sides, &begun.names, &rows.keys, side);
            let (train, test) = (side(Side::Train), side(Side::Validation));
            if test.is_empty() {
                progress.note(&format!("{modality}: fold {} of {} holds out no samples", fold + 1, folds.count));
                continue;
            }
            self.note_unlearnable(fold, folds.count, &begun, (&train, &test), progress);
            for (kind_sources, classes) in learnt_per_class(self.dataset, &learnt, modality) {
                learnt_sources += kind_sources;
                learnt_classes += classes;
            }
            // Every fold starts with the same weights.
            let built = self.build(begun.names.len())?;
            let none = Samples::default();
            let (dir, ground) = (place(fold), ground(fold));
            let fresh = FreshViews::new(self, &begun, &sides, true);
            let training = self.fit(&begun, &built, fresh.as_ref(), (&rows, &train, &none), (&dir, &ground));
            progress.note(&format!("{modality}: fold {} of {}", fold + 1, folds.count));
            fit::run(&training, self.plan.resume, progress)?;
            scores(&built.net, &begun, &rows, &test, fold, &mut held_out)?;
        }
        if let Some(fresh) = FreshViews::new(self, &begun, self.sides, true) {
            fresh.remove_files();
        }
        held_out.save(&dir)?;
        let info = FoldsInfo {
            folds: folds.count,
            sources: folds.sources,
            sources_per_class: f64::from(learnt_sources) / f64::from(learnt_classes.max(1)),
            run: self.info(modality, &begun.names, begun.built.net.block_name(begun.frozen), &begun.config),
        };
        let text = toml::to_string(&info).map_err(|e| Error::Internal(format!("{FOLDS} cannot be written: {e}")))?;
        std::fs::write(dir.join(FOLDS), text).map_err(|e| {
            Error::output(dir.display().to_string(), format!("{FOLDS} cannot be written: {e}"), "choose another -o")
        })?;
        Ok(Some(held_out.rows.len()))
    }

    /// Returns the side of each item in a fold, with the held-out items as validation, and whether each item is trained on. Items
    /// that are left out because of `sources` are on the test side, which is not read here.
    fn sides_of(&self, fold: u32, fold_of: &[u32], sources: f64) -> (Vec<Side>, Vec<bool>) {
        let learnt: Vec<bool> =
            self.sides.iter().zip(fold_of).map(|(side, of)| *side != Side::Test && *of != fold).collect();
        let learnt = limit_sources(&self.dataset.items, &learnt, sources, self.plan.fit.seed);
        let side = |((side, of), learnt): ((&Side, &u32), &bool)| match (side, learnt) {
            (Side::Test, _) => Side::Test,
            (_, true) => Side::Train,
            (_, false) if *of == fold => Side::Validation,
            (_, false) => Side::Test,
        };
        let sides = self.sides.iter().zip(fold_of).zip(&learnt).map(side).collect();
        (sides, learnt)
    }

    /// Reports classes whose material is all held out in a fold.
    fn note_unlearnable(
        &self,
        fold: u32,
        of: u32,
        begun: &PreparedModality,
        (train, test): (&Samples, &Samples),
        progress: &mut dyn Observer,
    ) {
        let n = begun.names.len();
        let gaps = begun.names.iter().zip(train.counts(n).into_iter().zip(test.counts(n)));
        let gaps: Vec<&str> =
            gaps.filter(|(_, (train, test))| *train == 0 && *test > 0).map(|(name, _)| name.as_str()).collect();
        if !gaps.is_empty() {
            progress.note(&format!(
                "{}: fold {} of {of} holds out all material of {}, which is therefore not measured there",
                begun.modality,
                fold + 1,
                gaps.join(", ")
            ));
        }
    }
}

/// Returns, for each class with trained material other than photographs, the number of its sources, and 1 as the count of the class.
fn learnt_per_class(dataset: &Dataset, learnt: &[bool], modality: Modality) -> Vec<(u32, u32)> {
    let mut sources: std::collections::BTreeMap<&str, std::collections::BTreeSet<&str>> = Default::default();
    for (item, learnt) in dataset.items.iter().zip(learnt) {
        let is_photograph = item.kind == crate::dataset::Kind::Picture;
        if *learnt && !is_photograph && teaches(modality, item) {
            sources.entry(&item.class).or_default().insert(&item.group);
        }
    }
    sources.into_values().map(|s| (s.len() as u32, 1)).collect()
}

/// Adds the model's scores on the held-out samples to `into`.
fn scores(
    net: &Net,
    begun: &PreparedModality,
    rows: &Rows,
    test: &Samples,
    fold: u32,
    into: &mut HeldOut,
) -> Result<()> {
    into.outputs.clone_from(&begun.names);
    for chosen in test.rows.chunks(BATCH) {
        let features = if begun.config.tune.epochs == 0 {
            rows.pooled(chosen, net.device())?
        } else {
            let x = rows.activations(chosen, net.device())?;
            net.pool(&net.run(&x, begun.frozen, net.blocks())?)?
        };
        for (row, logits) in chosen.iter().zip(net.classify_fixed(&features)?.to_vec2::<f32>()?) {
            let key = rows.keys[*row as usize];
            into.rows.push(HeldOutRow { item: key.item, second: key.second, fold, logits });
        }
    }
    Ok(())
}
