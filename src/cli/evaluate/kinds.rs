//! Figures by kind of material, and those of cross-validations, formatted for a terminal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{interval, interval_by, predictor_name};
use touchline_core::error::{Error, Result};
use touchline_core::vote::VoteConfig;
use touchline_learn::dataset::{Dataset, Kind};
use touchline_learn::evaluate::cross::{Cross, CrossReport};
use touchline_learn::evaluate::result::{Comparison, EventFigures, Interval, KindReport, Predictor, Verdict};
use touchline_learn::measure::{fixed, signed};

type PrintLine<'a> = dyn FnMut(std::fmt::Arguments) + 'a;

/// Measures cross-validations. Returns the figures of each by kind, and those of the classes for the last one.
pub fn cross(runs: &[PathBuf], dataset: &Path, json: &Path, vote: VoteConfig, seed: u64) -> Result<String> {
    let dataset = Dataset::open(dataset)?;
    let reports: Vec<CrossReport> =
        runs.iter().map(|run| Ok(Cross::open(run, &dataset)?.report(run, vote, seed))).collect::<Result<_>>()?;
    let bytes = serde_json::to_vec_pretty(&reports)
        .map_err(|e| Error::Internal(format!("cannot write the figures as JSON: {e}")))?;
    super::write_file(json, &bytes, "--json")?;
    let mut out = String::new();
    let mut line = |cells: std::fmt::Arguments| {
        out += &format!("{cells}\n");
    };
    for report in &reports {
        line(format_args!(
            "{}: {} folds by source, {} sources of recordings and frames a class (share {}); in brackets, 95 % intervals over \
             sources",
            report.run,
            report.folds,
            fixed(report.sources_per_class, 1),
            report.sources
        ));
        by_kind(&report.kinds, &mut line);
        for (predictor, ece) in &report.ece {
            line(format_args!(
                "calibration error (ECE) of clips at second level, {}: {}",
                predictor_name(*predictor),
                fixed(*ece, 3)
            ));
        }
        if let Some(events) = &report.events {
            by_event(events, &mut line);
        }
        for note in &report.notes {
            line(format_args!("{note}"));
        }
        line(format_args!(""));
    }
    if let Some(last) = reports.last() {
        by_class(&last.kinds, &mut line);
    }
    Ok(out)
}

/// Prints the differences from another pack.
pub fn by_comparison(comparison: &Comparison, line: &mut PrintLine<'_>) {
    let (pack, hash) = (&comparison.pack, comparison.weights_sha256.get(..8).unwrap_or_default());
    line(format_args!("right items of a class within a source, less those of {pack} ({hash}), mean over sources"));
    for kind in &comparison.kinds {
        line(format_args!(
            "{:<9} {:>4} sources  {:<24} {}",
            kind.kind.plural(),
            kind.sources,
            interval_by(&kind.difference, signed),
            kind.verdict.name()
        ));
    }
    if comparison.not_compared > 0 {
        line(format_args!("{} pairs of class and source are not in both evaluations", comparison.not_compared));
    }
    match comparison.verdict {
        Verdict::Better => line(format_args!("the pack is better than {pack}")),
        Verdict::Worse => line(format_args!("the pack is worse than {pack}")),
        Verdict::Undecided => line(format_args!("the choice of sources may explain the difference from {pack}")),
    }
}

/// Prints a line for each kind and predictor. The last two columns are the share of items that are answered (not unknown), and the
/// share of right answers among those, each source of a class with the same weight.
pub fn by_kind(kinds: &[KindReport], line: &mut PrintLine<'_>) {
    line(format_args!(
        "{:<9} {:<8} {:>6} {:>7}  {:>6} {:<20} {:>8} {:>8} {:>6} {:>8} {:>14} {:>9} {:>9}",
        "kind",
        "by",
        "items",
        "sources",
        "acc.",
        "mean over sources",
        "classes",
        "macro F1",
        "top 3",
        "log loss",
        "other as sport",
        "answered",
        "of those"
    ));
    for r in kinds {
        line(format_args!(
            "{:<9} {:<8} {:>6} {:>7}  {:>6} {:<20} {:>8} {:>8} {:>6} {:>8} {:>14} {:>9} {:>9}",
            r.kind.plural(),
            predictor_name(r.predictor),
            r.items,
            r.sources,
            fixed(r.accuracy, 3),
            interval(&r.by_source),
            fixed(r.mean_over_classes, 3),
            fixed(r.macro_f1, 3),
            fixed(r.top3, 3),
            fixed(r.log_loss, 2),
            r.other_called_a_sport.map_or("-".into(), |share| fixed(share, 3)),
            r.answered.map_or("-".into(), |a| fixed(a.coverage, 3)),
            r.answered.and_then(|a| a.precision).map_or("-".into(), |share| fixed(share, 3))
        ));
    }
}

/// Prints the errors of events, a line for each length of scenes.
pub fn by_event(events: &EventFigures, line: &mut PrintLine<'_>) {
    line(format_args!(
        "events on simulated programmes: vote of {} s every {} s, onset {}, offset {}",
        events.vote_window,
        events.vote_stride,
        fixed(events.vote_onset, 2),
        fixed(events.vote_offset, 2)
    ));
    line(format_args!(
        "{:<9} {:>6} {:>7}  {:<21} {:<21} {:<21} {:<21} {:<21}",
        "scenes of", "hours", "scenes", "missed an hour", "false an hour", "delay, s", "begin error, s", "end error, s"
    ));
    for e in &events.by_length {
        let optional = |figure: &Option<Interval>| figure.as_ref().map_or("-".into(), interval);
        let cells = format!(
            "{:<9} {:>6} {:>7}  {:<21} {:<21} {:<21} {:<21} {:<21}",
            format!("{} s", e.scene_seconds),
            fixed(e.hours, 1),
            e.scenes,
            interval(&e.missed_per_hour),
            interval(&e.false_per_hour),
            optional(&e.delay_s),
            optional(&e.begin_error_s),
            optional(&e.end_error_s)
        );
        line(format_args!("{}", cells.trim_end()));
    }
}

/// Prints the accuracy of each class in each kind (mean over sources) and the number of sources, by the table, or by the first
/// modality without it.
pub fn by_class(kinds: &[KindReport], line: &mut PrintLine<'_>) {
    let order = [Predictor::Table, Predictor::Rgb, Predictor::Flow, Predictor::Audio];
    let shown: Vec<&KindReport> = Kind::ALL
        .into_iter()
        .filter_map(|kind| order.into_iter().find_map(|p| kinds.iter().find(|r| r.kind == kind && r.predictor == p)))
        .collect();
    let classes: BTreeSet<&str> = shown.iter().flat_map(|r| r.classes.iter().map(|c| c.class.as_str())).collect();
    let width = classes.iter().map(|c| c.chars().count()).max().unwrap_or(0).max(5);
    line(format_args!("accuracy of each class: mean over sources [95 % interval], number of sources"));
    let heads: String = shown.iter().map(|r| format!("  {:<25}", r.kind.plural())).collect();
    line(format_args!("{:<width$}{heads}", "class"));
    for class in classes {
        let cell = |r: &&KindReport| match r.classes.iter().find(|c| c.class == class) {
            Some(c) => format!("  {:<20} {:>4}", interval(&c.right), c.sources),
            None => format!("  {:<25}", "-"),
        };
        let cells: String = shown.iter().map(cell).collect();
        line(format_args!("{class:<width$}{}", cells.trim_end()));
    }
}
