//! Detailed charts of an evaluation: ROC, calibration, importance, residuals, wrong seconds.

use super::bars::{Bars, Series};
use super::chart::{Axis, Chart, Layer};
use super::evaluation::{level_name, main_of};
use super::html::{Figure, Sign, Table, capital, card, escaped, grid, missing, three, whole};
use super::ink::{Role, tick};
use super::{name_of, role_of, title_of, view};
use crate::evaluate::result::{
    Calibration, Evaluation, Histogram, Importance, Level, LevelReport, Predictor, RocCurve,
};
use crate::measure::signed;
use touchline_core::error::Result;
use touchline_core::labels::Modality;

/// Number of classes whose curve is drawn: those with the smallest area.
const WORST: usize = 5;

/// Maximum number of points of a ROC curve in the drawing.
const CURVE_POINTS: usize = 200;

/// Largest radius of a point of a reliability diagram, in pixels.
const BUBBLE_PX: f64 = 9.0;

const FUSION_CURVES: [Role; WORST] = [Role::Blue, Role::DashedOrange, Role::DashedGreen, Role::Purple, Role::DashedRed];

pub(super) fn roc(e: &Evaluation) -> Result<String> {
    let Some(main) = main_of(e, Level::Second) else {
        return Ok(missing("ROC curves", "No second was measured."));
    };
    let mut parts = vec![worst_curves(main)?];
    let averages: Vec<(Predictor, &RocCurve)> = e
        .reports
        .iter()
        .filter(|r| r.level == Level::Second)
        .filter_map(|r| Some((r.predictor, r.roc.iter().find(|c| c.name == "macro")?)))
        .collect();
    let title = "Macro average of each predictor";
    if averages.is_empty() {
        parts.push(missing(title, "No class has both positive and negative samples."));
    } else {
        let curves = averages.iter().map(|(p, c)| (role_of(*p), format!("{} ({})", name_of(*p), three(c.auc)), *c));
        parts.push(curves_card(title, curves.collect())?);
    }
    Ok(grid(&parts))
}

fn worst_curves(main: &LevelReport) -> Result<String> {
    let title = format!("{}: macro average and the {WORST} worst classes", capital(name_of(main.predictor)));
    let mut classes: Vec<&RocCurve> =
        main.roc.iter().filter(|c| c.name != "macro" && c.name != "micro" && c.auc.is_finite()).collect();
    classes.sort_by(|a, b| a.auc.total_cmp(&b.auc));
    let average = main.roc.iter().find(|c| c.name == "macro");
    let mut curves: Vec<(Role, String, &RocCurve)> = FUSION_CURVES
        .into_iter()
        .zip(classes)
        .map(|(role, c)| (role, format!("{} ({})", c.name, three(c.auc)), c))
        .collect();
    if let Some(c) = average {
        curves.insert(0, (Role::Ink, format!("macro average ({})", three(c.auc)), c));
    }
    if curves.is_empty() {
        return Ok(missing(&title, "No class has both positive and negative samples."));
    }
    curves_card(&title, curves)
}

fn curves_card(title: &str, curves: Vec<(Role, String, &RocCurve)>) -> Result<String> {
    let mut layers = vec![Layer::Hair(Role::DashedQuiet, vec![(0.0, 0.0), (1.0, 1.0)])];
    // The first curve is the most important and is drawn over the others.
    for (role, _, curve) in curves.iter().rev() {
        let every = curve.points.len().div_ceil(CURVE_POINTS).max(1);
        let last = curve.points.len().saturating_sub(1);
        let keep = curve.points.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
        layers.push(Layer::Line(*role, keep.map(|(_, p)| *p).collect()));
    }
    let names: Vec<&str> = curves.iter().map(|c| c.1.as_str()).collect();
    let svg = Chart {
        title,
        description: format!("Area under the curve in brackets: {}.", names.join(", ")),
        x: Axis::share("false positive rate"),
        y: Axis::share("true positive rate"),
        layers,
        square: true,
    }
    .svg()?;
    let legend = curves.into_iter().map(|(role, name, _)| (role, Sign::Line, name)).collect();
    Ok(Figure { title, note: "Area under the curve in brackets; the diagonal is random guessing.", legend, svg }.card())
}

pub(super) fn calibration(e: &Evaluation) -> Result<String> {
    if e.calibration.is_empty() {
        return Ok(missing("Reliability", "No calibration was measured: there are no samples."));
    }
    let mut parts = Vec::new();
    for c in &e.calibration {
        parts.push(reliability(c)?);
    }
    let measured = |m: Modality| e.calibration.iter().any(|c| c.modality == m);
    for modality in Modality::ALL.into_iter().filter(|m| !measured(*m)) {
        parts.push(missing(title_of(modality), "No calibration was measured for this modality."));
    }
    Ok(grid(&parts))
}

fn reliability(c: &Calibration) -> Result<String> {
    let most = c.before.iter().chain(&c.after).map(|b| b.count).max().unwrap_or(0).max(1) as f64;
    let mut layers = vec![Layer::Hair(Role::DashedQuiet, vec![(0.0, 0.0), (1.0, 1.0)])];
    let mut legend = Vec::new();
    let sides = [
        (Role::DashedOrange, Role::Orange, "before", c.ece_before, &c.before),
        (Role::Blue, Role::Blue, "after", c.ece_after, &c.after),
    ];
    for (line, dot, name, ece, bins) in sides {
        let filled: Vec<_> = bins.iter().filter(|b| b.count > 0).collect();
        legend.push((line, Sign::Line, format!("{name}: ECE {}", three(ece))));
        layers.push(Layer::Hair(line, filled.iter().map(|b| (b.confidence, b.accuracy)).collect()));
        // The area of a point is proportional to its number of samples.
        let radius = |n: u64| (BUBBLE_PX * (n as f64 / most).sqrt()).max(2.0);
        layers.push(Layer::Bubbles(dot, filled.iter().map(|b| (b.confidence, b.accuracy, radius(b.count))).collect()));
    }
    let title = format!("{}: reliability", title_of(c.modality));
    let svg = Chart {
        title: &title,
        description: format!(
            "Expected calibration error {} before and {} after scaling with temperature {}.",
            three(c.ece_before),
            three(c.ece_after),
            three(c.temperature)
        ),
        x: Axis::share("confidence (highest probability)"),
        y: Axis::share("accuracy (share correct)"),
        layers,
        square: true,
    }
    .svg()?;
    let note = format!(
        "Temperature {}. The area of a point is its share of the samples. Below the diagonal the model is overconfident.",
        three(c.temperature)
    );
    Ok(Figure { title: &title, note: &note, legend, svg }.card())
}

pub(super) fn modalities(e: &Evaluation) -> Result<String> {
    let mut parts = Vec::new();
    for predictor in [Predictor::Table, Predictor::Learned] {
        let of: Vec<&Importance> = e.importance.iter().filter(|i| i.predictor == predictor).collect();
        let title = format!("Importance: {}", name_of(predictor));
        if of.is_empty() {
            parts.push(missing(&title, "Not measured: this needs a fusion of at least two modalities."));
        } else {
            parts.push(importance(&title, &of)?);
        }
    }
    parts.push(improvement(e));
    Ok(grid(&parts))
}

fn importance(title: &str, of: &[&Importance]) -> Result<String> {
    let series = vec![
        Series { role: Role::Blue, values: of.iter().map(|i| Some(i.ablation)).collect(), errors: Vec::new() },
        Series {
            role: Role::Orange,
            values: of.iter().map(|i| Some(i.permutation)).collect(),
            errors: of.iter().map(|i| i.permutation_std).collect(),
        },
    ];
    let ends = of.iter().flat_map(|i| {
        [i.ablation, i.permutation - i.permutation_std.max(0.0), i.permutation + i.permutation_std.max(0.0)]
    });
    let known = || ends.clone().filter(|v| v.is_finite());
    let (low, high) = (known().fold(0.0, f64::min), known().fold(0.01, f64::max));
    let svg = Bars {
        title,
        description: "Fall of macro F1 without each modality, and with its scores shuffled.".into(),
        names: of.iter().map(|i| view(i.modality).to_owned()).collect(),
        series,
        x: Axis::new("fall of macro F1", low * 1.1, high * 1.08),
        label: |v| signed(v, 3),
    }
    .svg()?;
    let legend = vec![
        (Role::Blue, Sign::Box, "left out (ablation)".to_owned()),
        (Role::Orange, Sign::Box, "shuffled between seconds (permutation ± deviation)".to_owned()),
    ];
    let note = "A longer bar: fusion depends more on the modality. Below 0: fusion is better without it.";
    Ok(Figure { title, note, legend, svg }.card())
}

fn improvement(e: &Evaluation) -> String {
    let title = "Improvement of fusion over each modality";
    if e.improvement.is_empty() {
        return missing(title, "No fusion was measured.");
    }
    let mut table = Table::new(2, &["level", "over", "fusion F1", "modality F1", "improvement"]);
    for i in &e.improvement {
        let percent = if i.percent.is_finite() { format!("{} %", signed(i.percent, 2)) } else { "–".into() };
        table.row(vec![
            level_name(i.level).into(),
            view(i.over).into(),
            three(i.fusion_f1),
            three(i.modality_f1),
            percent,
        ]);
    }
    card(title, "Macro F1 of fusion by table, on the samples that have the modality.", &table.html())
}

pub(super) fn residuals(e: &Evaluation) -> Result<String> {
    let mut parts = Vec::new();
    for h in &e.residuals {
        parts.push(residual(h)?);
    }
    if parts.is_empty() {
        return Ok(missing("Residuals", "No second was measured."));
    }
    Ok(grid(&parts))
}

fn residual(h: &Histogram) -> Result<String> {
    let title = format!("Residuals: {}", name_of(h.predictor));
    let total: u64 = h.counts.iter().sum();
    if total == 0 || h.edges.len() != h.counts.len() + 1 {
        return Ok(missing(&title, "No second was measured."));
    }
    let share = |n: u64| n as f64 / total as f64;
    let mut outline = Vec::new();
    let mut area = Vec::new();
    for (border, n) in h.edges.windows(2).zip(&h.counts) {
        outline.extend([(border[0], share(*n)), (border[1], share(*n))]);
        area.extend([(border[0], 0.0, share(*n)), (border[1], 0.0, share(*n))]);
    }
    let role = role_of(h.predictor);
    let svg = Chart {
        title: &title,
        description: format!("Histogram of {total} seconds."),
        x: Axis::new("1 − probability of the true class", h.edges[0], h.edges[h.edges.len() - 1]),
        y: Axis::up_to("share of the seconds", h.counts.iter().map(|n| share(*n))),
        layers: vec![Layer::Band(role, area), Layer::Line(role, outline)],
        square: false,
    }
    .svg()?;
    let surely = h.edges.windows(2).zip(&h.counts).filter(|(b, _)| b[0] >= 0.9 - 1e-9).map(|(_, n)| n).sum::<u64>();
    let note =
        format!("{} seconds; {} % of them beyond 0.9", whole(total), tick((1000.0 * share(surely)).round() / 10.0));
    Ok(Figure { title: &title, note: &note, legend: Vec::new(), svg }.card())
}

pub(super) fn wrong(e: &Evaluation) -> String {
    if e.wrong.is_empty() {
        return missing("None", "There are no wrong seconds: all were right, or none was measured.");
    }
    let figures: String = e
        .wrong
        .iter()
        .map(|w| {
            let caption = format!("{} predicted as {}", w.truth, w.predicted);
            let picture = match w.thumbnail.as_deref().filter(|uri| is_picture(uri)) {
                Some(uri) => format!("<img src=\"{uri}\" alt=\"{}\" loading=\"lazy\">", escaped(&caption)),
                None => "<div class=\"none\">no picture</div>".to_owned(),
            };
            let by = w.decided_by.map_or(String::new(), |m| format!(", {} decided", view(m)));
            format!(
                "<figure>{picture}<figcaption><b>{}</b> predicted as <b>{}</b>, {:.0} % confident{by}<br><span class=\"quiet\">\
                 {}, second {}</span></figcaption></figure>\n",
                escaped(&w.truth),
                escaped(&w.predicted),
                100.0 * w.probability,
                escaped(&w.path),
                w.second
            )
        })
        .collect();
    format!("<div class=\"wrong\">{figures}</div>\n")
}

/// Whether `uri` is a JPEG in base64 and nothing else. Only such text may be part of the page without escaping.
fn is_picture(uri: &str) -> bool {
    uri.strip_prefix("data:image/jpeg;base64,")
        .is_some_and(|data| data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')))
}
