//! The report on an evaluation: the main figures first, then the details.

use super::bars::{Bars, Measured, Series, intervals};
use super::chart::Axis;
use super::heat;
use super::html::{
    Figure, Page, Sign, Table, Tile, capital, card, details, folds, grid, list, missing, notice, three, tiles, whole,
};
use super::ink::Role;
use super::{name_of, quality, role_of};
use crate::evaluate::result::{ClassReport, Evaluation, Level, LevelReport, Predictor};
use touchline_core::error::Result;

const LEVELS: [Level; 3] = [Level::Frame, Level::Second, Level::Video];
const PREDICTORS: [Predictor; 5] =
    [Predictor::Rgb, Predictor::Flow, Predictor::Audio, Predictor::Table, Predictor::Learned];

/// Number of notes of the evaluation that are also shown near the top.
const FIRST_NOTES: usize = 3;

/// With fewer recordings than this, a single recording changes the video figures by several points.
const FEW_RECORDINGS: u64 = 50;

/// Number of confusions in the list.
const PAIRS: usize = 10;

pub(super) fn page(evaluation: &Evaluation) -> Result<String> {
    let e = evaluation;
    let subtitle = format!("{} on the {} side of {}", e.pack, e.side, e.dataset);
    let mut page = Page::new("Evaluation report", &subtitle);
    let lead = format!(
        "{} classes; weights {}. Figures in brackets are 95 % bootstrap intervals over sources.",
        e.classes.len(),
        if e.weights_sha256.is_empty() { "without a checksum" } else { &e.weights_sha256 },
    );
    page.section("summary", "Summary", &lead, &summary(e)?);
    page.section(
        "kinds",
        "Recordings, photographs and frames",
        "Whole items of each kind of material: the share of correct items of a class, averaged over its sources.",
        &super::kinds::section(e),
    );
    page.section("labels", "Label distribution", "", &labels(e)?);
    page.section(
        "classes",
        "F1 of each class",
        "At second level: each modality alone and fusion, side by side.",
        &classes(e)?,
    );
    page.section(
        "confusion",
        "Confusion",
        "A row is a true class. The stronger the colour of a cell, the larger its share of the row. The numbers are counts.",
        &confusions(e)?,
    );
    page.section("roc", "ROC", "One class against the rest, at second level.", &quality::roc(e)?);
    page.section(
        "calibration",
        "Calibration",
        "Whether predictions with a confidence of 80 % are right in 80 of 100 cases: at frame level, before and after \
         temperature scaling.",
        &quality::calibration(e)?,
    );
    page.section(
        "modalities",
        "Contribution of each modality",
        "The fall of second-level macro F1 without the modality, and the improvement of fusion over the modality alone.",
        &quality::modalities(e)?,
    );
    page.section(
        "residuals",
        "Residuals",
        "1 − probability of the true class, at second level: 0 is confident and right, 1 is confident and wrong.",
        &quality::residuals(e)?,
    );
    page.section(
        "wrong",
        "Wrong seconds",
        "Seconds that fusion decided wrongly, the most confident first.",
        &quality::wrong(e),
    );
    let notes = if e.notes.is_empty() {
        missing("No notes", "Nothing was skipped.")
    } else {
        card("Notes", "", &list(&e.notes))
    };
    page.section("notes", "Notes and limits", "Material that was skipped or could not be measured.", &notes);
    Ok(page.finish())
}

/// Returns the figures of one predictor at one level.
pub(super) fn find(e: &Evaluation, level: Level, predictor: Predictor) -> Option<&LevelReport> {
    e.reports.iter().find(|r| r.level == level && r.predictor == predictor)
}

/// Returns the figures of fusion by the table, which the detector uses; those of another predictor if there are none.
pub(super) fn main_of(e: &Evaluation, level: Level) -> Option<&LevelReport> {
    [Predictor::Table, Predictor::Learned, Predictor::Rgb, Predictor::Flow, Predictor::Audio]
        .into_iter()
        .find_map(|p| find(e, level, p))
}

/// Returns the figures of the best single modality.
fn best_alone(e: &Evaluation, level: Level) -> Option<&LevelReport> {
    [Predictor::Rgb, Predictor::Flow, Predictor::Audio]
        .into_iter()
        .filter_map(|p| find(e, level, p))
        .max_by(|a, b| a.macro_f1.value.total_cmp(&b.macro_f1.value))
}

/// Returns the display name of a level.
pub(super) const fn level_name(level: Level) -> &'static str {
    match level {
        Level::Frame => "frame",
        Level::Second => "second",
        Level::Video => "video",
    }
}

/// Formats a figure with its interval.
pub(super) fn with_interval(i: &crate::evaluate::result::Interval) -> String {
    match i.ends() {
        Some((low, high)) => format!("{} [{}, {}]", three(i.value), three(low), three(high)),
        None => format!("{} [n/a]", three(i.value)),
    }
}

fn summary(e: &Evaluation) -> Result<String> {
    let mut all = Vec::new();
    let mut tile = |name: String, i: &crate::evaluate::result::Interval, of: String| {
        let note = match i.ends() {
            Some((low, high)) => format!("{} to {}; {of}", three(low), three(high)),
            None => format!("no interval (n/a) for a single source; {of}"),
        };
        all.push(Tile { name, value: three(i.value), note });
    };
    if let Some(r) = main_of(e, Level::Second) {
        let of = format!("{}, {} seconds", name_of(r.predictor), whole(r.n));
        tile("macro F1, second".into(), &r.macro_f1, of.clone());
        tile("accuracy, second".into(), &r.accuracy, of);
    }
    if let Some(r) = main_of(e, Level::Video) {
        tile("accuracy, video".into(), &r.accuracy, format!("{}, {} recordings", name_of(r.predictor), whole(r.n)));
    }
    if let Some(r) = best_alone(e, Level::Second) {
        tile("best modality alone".into(), &r.macro_f1, format!("{}, macro F1, second", name_of(r.predictor)));
    }
    let mut html = if all.is_empty() {
        missing("No headline figures", "No second and no recording was measured.")
    } else {
        tiles(&all)
    };
    html.push_str(&notice("Before reading on", &cautions(e)));
    html.push_str(&headline(e)?);
    Ok(html)
}

/// Returns the most important limits of the figures.
fn cautions(e: &Evaluation) -> Vec<String> {
    let mut all = Vec::new();
    if e.side != "test" {
        all.push(format!(
            "These are figures on the {} side, not on held-back test material, so they are likely too high.",
            e.side
        ));
    }
    let names = |of: fn(&crate::evaluate::result::ClassCount) -> bool| {
        e.label_distribution.iter().filter(|c| of(c)).map(|c| c.class.as_str()).collect::<Vec<_>>()
    };
    let none = names(|c| c.seconds == 0 && c.pictures == 0 && c.frames == 0);
    if !none.is_empty() {
        all.push(format!(
            "{} of the {} classes have no material on this side and are not measured: {}.",
            none.len(),
            e.classes.len(),
            none.join(", ")
        ));
    }
    let single = names(|c| c.sources == 1 && c.seconds + c.pictures > 0);
    if !single.is_empty() {
        all.push(format!(
            "{} come from a single source and are unreliable: {}.",
            if single.len() == 1 {
                "The figures of 1 class".into()
            } else {
                format!("The figures of each of {} classes", single.len())
            },
            single.join(", ")
        ));
    }
    if let Some(r) = main_of(e, Level::Video).filter(|r| r.n < FEW_RECORDINGS && r.n > 0) {
        all.push(format!(
            "There are only {} recordings: a single one changes the video accuracy by {:.1} points.",
            r.n,
            100.0 / r.n as f64
        ));
    }
    if let (Some(fusion), Some(alone)) = (find(e, Level::Second, Predictor::Table), best_alone(e, Level::Second))
        && fusion.macro_f1.value < alone.macro_f1.value
    {
        all.push(format!(
            "Fusion by table ({}) is not above {} alone ({}) in second-level macro F1.",
            three(fusion.macro_f1.value),
            name_of(alone.predictor),
            three(alone.macro_f1.value)
        ));
    }
    all.extend(e.notes.iter().take(FIRST_NOTES).cloned());
    if e.notes.len() > FIRST_NOTES {
        all.push(format!("All {} notes are at the end.", e.notes.len()));
    }
    all
}

/// Returns chart and table of all levels and predictors.
fn headline(e: &Evaluation) -> Result<String> {
    let mut rows = Vec::new();
    let mut table = Table::new(
        2,
        &["level", "predictor", "samples", "macro F1", "accuracy", "precision", "recall", "top 3", "log loss", "AUC"],
    );
    for r in every_report(e) {
        rows.push(Measured {
            name: format!("{}: {}", level_name(r.level), name_of(r.predictor)),
            role: role_of(r.predictor),
            value: r.macro_f1.value,
            low: r.macro_f1.low.unwrap_or(r.macro_f1.value),
            high: r.macro_f1.high.unwrap_or(r.macro_f1.value),
        });
        let cells = vec![
            level_name(r.level).to_owned(),
            name_of(r.predictor).to_owned(),
            whole(r.n),
            with_interval(&r.macro_f1),
            with_interval(&r.accuracy),
            three(r.macro_precision),
            three(r.macro_recall),
            three(r.top3),
            three(r.log_loss),
            r.macro_auc.map_or("–".into(), three),
        ];
        if r.predictor == Predictor::Table { table.strong_row(cells) } else { table.row(cells) }
    }
    if rows.is_empty() {
        return Ok(missing("Macro F1", "No level has samples."));
    }
    let title = "Macro F1 with its interval";
    let description = format!("{} pairs of level and predictor with 95 % intervals.", rows.len());
    let svg = intervals(title, description, &Axis::share("macro F1"), &rows)?;
    let chart = Figure { title, note: "95 % bootstrap over sources", legend: Vec::new(), svg };
    // The table is wide and has a separate row.
    Ok(format!("{}{}", grid(&[chart.alone()]), card("Levels and predictors", "", &table.html())))
}

fn labels(e: &Evaluation) -> Result<String> {
    let counts = &e.label_distribution;
    if counts.is_empty() {
        return Ok(missing("Label distribution", "The evaluation has no label counts."));
    }
    let title = "Seconds, pictures and frames of each class";
    let mut series = Vec::new();
    let mut legend = Vec::new();
    let totals = [
        ("seconds", Role::Blue, counts.iter().map(|c| c.seconds).collect::<Vec<_>>()),
        ("pictures", Role::Orange, counts.iter().map(|c| c.pictures).collect()),
        ("frames", Role::Green, counts.iter().map(|c| c.frames).collect()),
    ];
    for (name, role, values) in totals {
        let total: u64 = values.iter().sum();
        if total > 0 {
            legend.push((role, Sign::Box, format!("{name} ({})", whole(total))));
            let values = values.into_iter().map(|n| Some(n as f64)).collect();
            series.push(Series { role, values, errors: Vec::new() });
        }
    }
    if series.is_empty() {
        return Ok(missing(title, "No class has a second or a picture on this side."));
    }
    let most = counts.iter().map(|c| c.seconds.max(c.pictures).max(c.frames) as f64);
    let svg = Bars {
        title,
        description: format!("Seconds, pictures and frames of {} classes.", counts.len()),
        names: counts.iter().map(|c| c.class.clone()).collect(),
        series,
        x: Axis::up_to("seconds, pictures, frames", most),
        label: |v| whole(v as u64),
    }
    .svg()?;
    let mut table = Table::new(1, &["class", "recordings", "sources", "seconds", "pictures", "frames"]);
    for c in counts {
        let numbers = [c.recordings, c.sources, c.seconds, c.pictures, c.frames].map(whole);
        table.row([vec![c.class.clone()], numbers.to_vec()].concat());
    }
    Ok(grid(&[Figure { title, note: "", legend, svg }.card(), card("Material on this side", "", &table.html())]))
}

fn classes(e: &Evaluation) -> Result<String> {
    let title = "F1 of each class by modality and fusion";
    let fusion = if find(e, Level::Second, Predictor::Table).is_some() { Predictor::Table } else { Predictor::Learned };
    let shown: Vec<&LevelReport> = [Predictor::Rgb, Predictor::Flow, Predictor::Audio, fusion]
        .into_iter()
        .filter_map(|p| find(e, Level::Second, p))
        .collect();
    if shown.is_empty() || e.classes.is_empty() {
        return Ok(missing(title, "No second was measured."));
    }
    let of = |r: &LevelReport, class: &str| r.per_class.iter().find(|c| c.class == class).cloned();
    let f1 = |c: ClassReport| (c.support > 0).then_some(c.f1);
    let series = shown
        .iter()
        .map(|r| Series {
            role: role_of(r.predictor),
            values: e.classes.iter().map(|class| of(r, class).and_then(f1)).collect(),
            errors: Vec::new(),
        })
        .collect();
    let legend = shown.iter().map(|r| (role_of(r.predictor), Sign::Box, name_of(r.predictor).to_owned())).collect();
    let svg = Bars {
        title,
        description: format!("F1 of {} classes from {} predictors, at second level.", e.classes.len(), shown.len()),
        names: e.classes.clone(),
        series,
        x: Axis::share("F1"),
        label: three,
    }
    .svg()?;
    let chart = Figure { title, note: "A dash: no samples of the class with this modality.", legend, svg }.card();
    let mut parts = vec![chart];
    if let Some(r) = main_of(e, Level::Second) {
        parts.push(card(&format!("In numbers: {}", name_of(r.predictor)), "second level", &class_table(r)));
    }
    let mut html = grid(&parts);
    let absent: Vec<&str> = [Predictor::Rgb, Predictor::Flow, Predictor::Audio]
        .into_iter()
        .filter(|p| find(e, Level::Second, *p).is_none())
        .map(name_of)
        .collect();
    if !absent.is_empty() {
        html.push_str(&missing("Not measured", &format!("There is no figure for: {}.", absent.join(", "))));
    }
    let main = main_of(e, Level::Second);
    let others = every_report(e).filter(|r| main.is_none_or(|main| !std::ptr::eq(main, *r)));
    let folded: Vec<String> = others
        .map(|r| details(&format!("{} level: {}", capital(level_name(r.level)), name_of(r.predictor)), &class_table(r)))
        .collect();
    html.push_str(&folds(&folded));
    Ok(html)
}

fn class_table(r: &LevelReport) -> String {
    let mut table = Table::new(1, &["class", "precision", "recall", "F1", "AUC", "samples"]);
    for c in &r.per_class {
        let figure = |v: f64| if c.support > 0 { three(v) } else { "–".into() };
        let auc = c.auc.map_or("–".into(), three);
        table.row(vec![c.class.clone(), figure(c.precision), figure(c.recall), figure(c.f1), auc, whole(c.support)]);
    }
    table.html()
}

fn confusions(e: &Evaluation) -> Result<String> {
    let Some(main) = main_of(e, Level::Second) else {
        return folded_confusions(e, None, missing("Confusion at second level", "No second was measured."));
    };
    let title = format!("Second level: {}", name_of(main.predictor));
    let svg = heat::confusion(&title, &e.classes, &main.confusion)?;
    let figure = Figure { title: &title, note: "", legend: Vec::new(), svg }.wide();
    let pairs = card("The most frequent confusions", "", &pairs(&e.classes, &main.confusion));
    folded_confusions(e, Some(main), format!("{}{pairs}", grid(&[figure])))
}

fn folded_confusions(e: &Evaluation, shown: Option<&LevelReport>, mut html: String) -> Result<String> {
    let mut folded = Vec::new();
    for r in every_report(e).filter(|r| shown.is_none_or(|shown| !std::ptr::eq(shown, *r))) {
        let title = format!("{} level: {}", capital(level_name(r.level)), name_of(r.predictor));
        let svg = heat::confusion(&title, &e.classes, &r.confusion)?;
        folded.push(details(&title, &Figure { title: &title, note: "", legend: Vec::new(), svg }.wide()));
    }
    html.push_str(&folds(&folded));
    Ok(html)
}

/// Returns all reports in the order of the page.
fn every_report(e: &Evaluation) -> impl Iterator<Item = &LevelReport> {
    LEVELS.into_iter().flat_map(move |level| PREDICTORS.iter().filter_map(move |p| find(e, level, *p)))
}

/// Returns the table of the most frequent confusions.
fn pairs(classes: &[String], counts: &[Vec<u64>]) -> String {
    let mut all: Vec<(u64, u64, usize, usize)> = Vec::new();
    for (i, row) in counts.iter().enumerate() {
        let of_row: u64 = row.iter().sum();
        all.extend(row.iter().enumerate().filter(|(j, n)| *j != i && **n > 0).map(|(j, n)| (*n, of_row, i, j)));
    }
    if all.is_empty() {
        return list(&["No classes are confused.".to_owned()]);
    }
    all.sort_by_key(|(n, _, i, j)| (std::cmp::Reverse(*n), *i, *j));
    let mut table = Table::new(2, &["true class", "predicted as", "count", "share of the class"]);
    let name = |i: usize| classes.get(i).cloned().unwrap_or_default();
    for (n, of_row, i, j) in all.into_iter().take(PAIRS) {
        table.row(vec![name(i), name(j), whole(n), format!("{:.0} %", 100.0 * n as f64 / of_row as f64)]);
    }
    table.html()
}
