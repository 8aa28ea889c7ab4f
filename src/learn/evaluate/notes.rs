//! Notes for readers of the figures: material that was left out, figures with little evidence, results on pictures.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::scores::{ScoreTable, SoftSecond};
use super::stacking::Stacking;
use super::table::confusion;
use crate::dataset::Kind;
use crate::dataset::split::Side;
use crate::measure::fixed;
use touchline_core::labels::{ClassId, Modality};

/// Maximum number of skipped files that are named; the rest is counted.
const NAMED: usize = 5;

/// Returns the notes on an evaluation, one sentence each.
pub fn notes(table: &ScoreTable, soft: &[SoftSecond], stacking: Option<&Stacking>, settings: &Settings) -> Vec<String> {
    let mut out = Vec::new();
    if settings.side != Side::Test {
        out.push(format!(
            "This is the {} side. Models or settings were fitted on it, so figures are higher than on new material.",
            settings.side.as_str()
        ));
    }
    out.extend(table.remarks.iter().cloned());
    coverage(table, settings, &mut out);
    out.extend(other_kinds(table, soft));
    match stacking {
        Some(s) => {
            let factors: Vec<String> = s.factors().map(|(m, factor)| format!("{m} {}", fixed(factor, 2))).collect();
            out.push(format!(
                "Learned fusion: fitted on validation, penalty {} by {}-fold cross-validation over {} sources; exponents \
                 of the modalities: {}.",
                s.penalty,
                s.folds,
                s.groups,
                factors.join(", ")
            ));
        }
        None => out.push("No learned fusion: validation has no seconds to fit it on.".into()),
    }
    if table.weak > 0 {
        out.push(format!("{} recordings that show little of their sport are not measured.", table.weak));
    }
    if !table.unknown.is_empty() {
        let names: Vec<String> = table.unknown.iter().map(|(class, n)| format!("{class} ({n})")).collect();
        let n: u64 = table.unknown.values().sum();
        out.push(format!("{n} items of classes that the pack does not have are not measured: {}.", names.join(", ")));
    }
    if !table.skipped.is_empty() {
        let named = table.skipped.iter().take(NAMED).map(|(path, cause)| format!("{} ({cause})", path.display()));
        let named: Vec<String> = named.collect();
        let more = table.skipped.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push(format!("{} items could not be read: {}{more}.", table.skipped.len(), named.join("; ")));
    }
    out
}

/// Adds notes on classes of the pack that are not in the dataset, have no clips, or have clips of one source only.
fn coverage(table: &ScoreTable, settings: &Settings, out: &mut Vec<String>) {
    let mut sources: BTreeMap<ClassId, BTreeSet<&str>> = BTreeMap::new();
    for second in &table.seconds {
        let item = table.item(second);
        if item.kind == Kind::Clip {
            sources.entry(item.truth).or_default().insert(&item.group);
        }
    }
    let side = settings.side.as_str();
    let mut list = |note: &str, wanted: &dyn Fn(ClassId) -> bool| {
        let names: Vec<&str> = table.classes.ids().filter(|c| wanted(*c)).map(|c| table.classes.name(c)).collect();
        if !names.is_empty() {
            out.push(format!("{note}: {}.", names.join(", ")));
        }
    };
    let known = |c: ClassId| settings.dataset_classes.contains(table.classes.name(c));
    list("Classes of the pack that the dataset does not have", &|c| !known(c));
    list(&format!("No clips on the {side} side, so no figures for seconds and recordings"), &|c| {
        known(c) && !sources.contains_key(&c)
    });
    list(&format!("Clips of a single source on the {side} side, so unreliable figures"), &|c| {
        sources.get(&c).is_some_and(|s| s.len() == 1)
    });
}

/// Returns notes with the figures of pictures, frames and sounds.
fn other_kinds(table: &ScoreTable, soft: &[SoftSecond]) -> Vec<String> {
    let mut out = Vec::new();
    if soft.iter().all(|s| s.kind != Kind::Clip) {
        out.push("There are no clips: the figures are for still pictures and sound without picture.".into());
        return out;
    }
    for (kind, modality, samples) in [
        (Kind::Picture, Modality::Rgb, "still pictures"),
        (Kind::Frame, Modality::Rgb, "frames of television"),
        (Kind::Sound, Modality::Audio, "seconds of sound without picture"),
    ] {
        let c = confusion(soft.iter().filter(|s| s.kind == kind), modality, table.classes.len());
        if c.total() > 0 {
            out.push(format!(
                "{} {samples} ({modality}): accuracy {}, macro F1 {}; not part of the other figures.",
                c.total(),
                fixed(c.accuracy(), 3),
                fixed(c.macro_f1(), 3)
            ));
        }
    }
    out
}
