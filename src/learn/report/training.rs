//! The report on a training.

use super::bars::{Bars, Series};
use super::chart::{Axis, Chart, Layer};
use super::html::{Figure, Page, Sign, Table, Tile, capital, card, details, grid, missing, notice, span, tiles, whole};
use super::ink::{Role, tick};
use super::log::{RunHistory, condensed};
use super::{RunLog, resources, title_of, view};
use crate::record::{EpochRecord, Phase, RuleName, Start, StepRecord};
use touchline_core::error::Result;

/// Maximum number of points of a curve over the steps; more cannot be distinguished on a screen.
const CURVE_POINTS: usize = 240;

pub(super) fn page(runs: &[RunLog]) -> Result<String> {
    let views: Vec<&str> = runs.iter().map(|r| view(r.modality)).collect();
    let subtitle = if views.is_empty() { "nothing was trained".to_owned() } else { views.join(", ") };
    let mut page = Page::new("Training report", &subtitle);
    if runs.is_empty() {
        page.section("nothing", "Nothing was trained", "", &missing("No log", "No training has written a log."));
    }
    for run in runs {
        section(&mut page, run, runs.len() > 1)?;
    }
    Ok(page.finish())
}

/// Adds the sections of one run. If there are several runs, the titles name the modality.
fn section(page: &mut Page, run: &RunLog, several: bool) -> Result<()> {
    let history = RunHistory::of(run);
    let id = run.modality.as_str();
    let title = title_of(run.modality);
    let of = |part: &str| if several { format!("{title}: {part}") } else { capital(part) };
    let lead = history.start.map_or("The log has no start line.".to_owned(), summary);
    page.section(id, title, &lead, &header(&history));
    page.section(&format!("{id}-labels"), &of("labels"), "", &labels(history.start)?);
    page.section(
        &format!("{id}-curves"),
        &of("loss and accuracy"),
        "Against step: each batch as a line, and validation as points at the end of each epoch. \
         Training figures are those of augmented samples, which are harder.",
        &curves(&history)?,
    );
    page.section(&format!("{id}-findings"), &of("findings of the rules"), "", &findings(&history));
    page.section(&format!("{id}-resources"), &of("resources"), "", &resources::charts(&history)?);
    page.section(&format!("{id}-settings"), &of("settings"), "", &settings(&history));
    Ok(())
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Head => "step 1 (head)",
        Phase::Tune => "step 2 (layers)",
    }
}

fn summary(start: &Start) -> String {
    format!(
        "{} on {}, {} classes, seed {}.",
        start.architecture.name(),
        view(start.modality),
        start.classes.len(),
        start.seed
    )
}

fn header(history: &RunHistory) -> String {
    let mut all = Vec::new();
    let mut tile = |name: &str, value: String, note: String| all.push(Tile { name: name.into(), value, note });
    let kept = history.kept();
    let kept_epoch =
        kept.and_then(|(phase, epoch)| history.epochs.iter().find(|e| e.phase == phase && e.epoch == epoch));
    match kept_epoch.and_then(|e| e.validation) {
        Some(v) => {
            tile("macro F1, validation", format!("{:.3}", v.macro_f1), "at the kept epoch".into());
            tile("accuracy, validation", format!("{:.3}", v.accuracy), format!("loss {:.4}", v.loss));
        }
        None => tile("validation", "–".into(), "no figure on validation samples".into()),
    }
    match kept {
        Some((phase, epoch)) => tile("kept epoch", epoch.to_string(), phase_name(phase).into()),
        None => tile("kept epoch", "–".into(), "no epoch is complete".into()),
    }
    match history.end {
        Some(end) => tile("ended", end.cause.clone(), format!("step {}, {}", whole(end.step), span(end.took_s))),
        None => tile("ended", "not yet".into(), "the log has no end: running, or killed".into()),
    }
    if let Some(start) = history.start {
        let of = format!("of {} parameters are trained", whole(start.parameters));
        tile("trained", whole(start.trainable_parameters), of);
    }
    let count = history.findings.len();
    tile("findings", count.to_string(), if count == 0 { "no rule fired".into() } else { "see below".into() });
    let stopped: Vec<String> = history
        .findings
        .iter()
        .filter(|f| f.stopped)
        .map(|f| format!("{}: {}", rule_name(f.rule), f.evidence))
        .collect();
    format!("{}{}", tiles(&all), notice("A rule stopped the run", &stopped))
}

fn labels(start: Option<&Start>) -> Result<String> {
    let Some(start) = start.filter(|s| !s.classes.is_empty()) else {
        return Ok(missing("Label distribution", "The log has no classes."));
    };
    let counts = |of: &[u64]| (0..start.classes.len()).map(|i| of.get(i).map(|n| *n as f64)).collect::<Vec<_>>();
    let validated = start.validation.iter().any(|n| *n > 0);
    let mut series = vec![Series { role: Role::Blue, values: counts(&start.train), errors: Vec::new() }];
    let mut legend = vec![(Role::Blue, Sign::Box, format!("training ({})", whole(start.train.iter().sum())))];
    if validated {
        series.push(Series { role: Role::Orange, values: counts(&start.validation), errors: Vec::new() });
        legend.push((Role::Orange, Sign::Box, format!("validation ({})", whole(start.validation.iter().sum()))));
    }
    let title = "Label distribution";
    let most = start.train.iter().chain(&start.validation).map(|n| *n as f64);
    let svg = Bars {
        title,
        description: format!("Samples of each of {} classes.", start.classes.len()),
        names: start.classes.clone(),
        series,
        x: Axis::up_to("samples", most),
        label: |v| whole(v as u64),
    }
    .svg()?;
    let note = if validated { "" } else { "There are no validation samples." };
    let chart = Figure { title, note, legend, svg }.card();
    let mut table = Table::new(1, &["class", "training", "validation"]);
    for (i, class) in start.classes.iter().enumerate() {
        let count = |of: &[u64]| of.get(i).map_or("–".to_owned(), |n| whole(*n));
        table.row(vec![class.clone(), count(&start.train), count(&start.validation)]);
    }
    Ok(grid(&[chart, card("Samples of each class", "", &table.html())]))
}

/// Marks in the charts over steps and in those over epochs.
struct Marks {
    step: Vec<Layer>,
    epoch: Vec<Layer>,
}

fn marks(history: &RunHistory) -> Marks {
    let mut marks = Marks { step: Vec::new(), epoch: Vec::new() };
    if let Some((step, epoch)) = history.border() {
        let word = "step 1 | step 2".to_owned();
        marks.step.push(Layer::Mark(Role::DashedQuiet, step as f64 + 0.5, word.clone()));
        marks.epoch.push(Layer::Mark(Role::DashedQuiet, f64::from(epoch) + 0.5, word));
    }
    if let Some((phase, epoch)) = history.kept() {
        let record = history.epochs.iter().find(|e| e.phase == phase && e.epoch == epoch);
        if let Some(record) = record {
            marks.step.push(Layer::Mark(Role::DashedGreen, record.step as f64, "kept".into()));
            marks.epoch.push(Layer::Mark(Role::DashedGreen, f64::from(history.number(phase, epoch)), "kept".into()));
        }
    }
    marks
}

fn curves(history: &RunHistory) -> Result<String> {
    if history.steps.is_empty() && history.epochs.is_empty() {
        return Ok(missing("Curves", "The log has no step and no epoch yet."));
    }
    let marks = marks(history);
    let mut parts = Vec::new();
    parts.push(against_step(
        history,
        &marks,
        "Loss against step",
        "loss",
        |s| s.loss,
        |e| e.validation.map(|v| v.loss),
    )?);
    let loss = [Curve::train(|e| Some(e.train_loss)), Curve::validation(|e| e.validation.map(|v| v.loss))];
    parts.push(per_epoch(history, &marks, "Loss of each epoch", "loss", &loss)?);
    parts.push(against_step(
        history,
        &marks,
        "Accuracy against step",
        "accuracy (share correct)",
        |s| s.accuracy,
        |e| e.validation.map(|v| v.accuracy),
    )?);
    let accuracy = [
        Curve::train(|e| Some(e.train_accuracy)),
        Curve::validation(|e| e.validation.map(|v| v.accuracy)),
        Curve { role: Role::Purple, name: "validation, macro F1", of: |e| e.validation.map(|v| v.macro_f1) },
    ];
    parts.push(per_epoch(history, &marks, "Accuracy of each epoch", "accuracy, macro F1", &accuracy)?);
    let rates: Vec<(f64, f64)> = history.steps.iter().map(|s| (s.step as f64, s.learning_rate)).collect();
    let schedule = "The schedule: warm-up, then a cosine.";
    parts.push(of_steps(&rates, span_of_steps(history), &marks.step, "Learning rate", "learning rate", schedule)?);
    parts.extend(speeds(history, &marks)?);
    let mut table =
        Table::new(1, &["epoch", "step", "train loss", "train acc.", "val. loss", "val. acc.", "val. F1", "took"]);
    for e in &history.epochs {
        let v = |of: fn(&crate::record::Validation) -> f64| {
            e.validation.as_ref().map_or("–".to_owned(), |v| format!("{:.4}", of(v)))
        };
        let cells = vec![
            format!("{} of {}, {}", e.epoch, e.epochs, phase_name(e.phase)),
            whole(e.step),
            format!("{:.4}", e.train_loss),
            format!("{:.4}", e.train_accuracy),
            v(|v| v.loss),
            v(|v| v.accuracy),
            v(|v| v.macro_f1),
            span(e.took_s),
        ];
        if history.kept() == Some((e.phase, e.epoch)) { table.strong_row(cells) } else { table.row(cells) }
    }
    Ok(format!("{}{}", grid(&parts), details("All epochs in numbers", &table.html())))
}

/// Returns an axis for values with possible outliers, and its upper border if some values exceed it.
fn cut(name: &str, values: impl Iterator<Item = f64>) -> (Axis, Option<f64>) {
    let mut known: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    known.sort_by(f64::total_cmp);
    let (Some(most), Some(usual)) = (known.last().copied(), known.get(known.len() * 95 / 100).copied()) else {
        return (Axis::new(name, 0.0, 1.0), None);
    };
    if usual > 0.0 && most > 6.0 * usual {
        return (Axis::new(name, 0.0, 2.0 * usual), Some(2.0 * usual));
    }
    (Axis::up_to(name, known.into_iter()), None)
}

fn span_of_steps(history: &RunHistory) -> Axis {
    let last = history.steps.iter().map(|s| s.step).chain(history.epochs.iter().map(|e| e.step)).max().unwrap_or(1);
    Axis::new("step", 0.0, last.max(1) as f64)
}

fn against_step(
    history: &RunHistory,
    marks: &Marks,
    title: &str,
    unit: &str,
    of_step: fn(&StepRecord) -> f64,
    of_epoch: fn(&EpochRecord) -> Option<f64>,
) -> Result<String> {
    let steps: Vec<(f64, f64)> = history.steps.iter().map(|s| (s.step as f64, of_step(s))).collect();
    let validation: Vec<(f64, f64)> =
        history.epochs.iter().filter_map(|e| Some((e.step as f64, of_epoch(e)?))).collect();
    if steps.is_empty() && validation.is_empty() {
        return Ok(missing(title, "The log has neither steps nor figures on validation."));
    }
    let lost = steps.iter().filter(|p| !p.1.is_finite()).count();
    let few = condensed(&steps, CURVE_POINTS);
    let (y, limit) = if unit.starts_with("accuracy") {
        (Axis::share(unit), None)
    } else {
        cut(unit, steps.iter().chain(&validation).map(|p| p.1))
    };
    let mut layers = marks.step.clone();
    let condensed_any = steps.len() > few.len() + lost;
    if condensed_any {
        layers.push(Layer::Band(Role::Blue, few.iter().map(|p| (p.0, p.2, p.3)).collect()));
    }
    layers.push(Layer::Hair(Role::Blue, few.iter().map(|p| (p.0, p.1)).collect()));
    layers.push(Layer::Points(Role::Orange, validation.clone()));
    let mut notes = Vec::new();
    if condensed_any {
        notes.push("The band spans the lowest and highest values of neighbouring steps.".to_owned());
    }
    if let Some(limit) = limit {
        notes.push(format!("Values above {} are drawn at the border.", tick(limit)));
    }
    if lost > 0 {
        notes.push(format!("Steps with a value that is NaN or infinite: {lost}."));
    }
    let mut legend = vec![(Role::Blue, Sign::Line, "training".to_owned())];
    if validation.is_empty() {
        notes.push("There are no figures on validation.".to_owned());
    } else {
        legend.push((Role::Orange, Sign::Box, "validation".to_owned()));
    }
    let description = format!("{} steps, {} epochs with validation.", steps.len(), validation.len());
    let svg = Chart { title, description, x: span_of_steps(history), y, layers, square: false }.svg()?;
    Ok(Figure { title, note: &notes.join(" "), legend, svg }.card())
}

/// A curve over the epochs.
struct Curve {
    role: Role,
    name: &'static str,
    of: fn(&EpochRecord) -> Option<f64>,
}

impl Curve {
    fn train(of: fn(&EpochRecord) -> Option<f64>) -> Self {
        Self { role: Role::Blue, name: "training", of }
    }

    fn validation(of: fn(&EpochRecord) -> Option<f64>) -> Self {
        Self { role: Role::DashedOrange, name: "validation", of }
    }
}

fn per_epoch(history: &RunHistory, marks: &Marks, title: &str, unit: &str, curves: &[Curve]) -> Result<String> {
    if history.epochs.is_empty() {
        return Ok(missing(title, "No epoch is complete."));
    }
    let mut layers = marks.epoch.clone();
    let mut legend = Vec::new();
    let mut all = Vec::new();
    for curve in curves {
        let points: Vec<(f64, f64)> = history
            .epochs
            .iter()
            .filter_map(|e| Some((f64::from(history.number(e.phase, e.epoch)), (curve.of)(e)?)))
            .collect();
        if points.is_empty() {
            continue;
        }
        all.extend(points.iter().map(|p| p.1));
        legend.push((curve.role, Sign::Line, curve.name.to_owned()));
        layers.push(Layer::Line(curve.role, points));
    }
    let (y, limit) = if unit.starts_with("accuracy") { (Axis::share(unit), None) } else { cut(unit, all.into_iter()) };
    let mut note =
        limit.map_or(String::new(), |limit| format!("Values above {} are drawn at the border.", tick(limit)));
    if legend.len() < curves.len() {
        note.push_str(" There are no figures on validation.");
    }
    let last = history.epochs.iter().map(|e| history.number(e.phase, e.epoch)).max().unwrap_or(1);
    let x = Axis::new("epoch, counted over both steps", 0.0, f64::from(last) + 0.5);
    let description = format!("{} epochs.", history.epochs.len());
    let svg = Chart { title, description, x, y, layers, square: false }.svg()?;
    Ok(Figure { title, note: note.trim(), legend, svg }.card())
}

/// Returns a chart of the speed for each of the study's steps. In a common chart step 2 would be a line at the bottom, because step
/// 1 on cached features is many times as fast.
fn speeds(history: &RunHistory, marks: &Marks) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for phase in [Phase::Head, Phase::Tune] {
        let points: Vec<(f64, f64)> =
            history.steps.iter().filter(|s| s.phase == phase).map(|s| (s.step as f64, s.images_per_second)).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        let x = Axis::new("step", first.0, last.0);
        let within = |mark: &&Layer| matches!(mark, Layer::Mark(_, at, _) if (x.from..=x.to).contains(at));
        let own: Vec<Layer> = marks.step.iter().filter(within).cloned().collect();
        let title = format!("Speed, {}", phase_name(phase));
        parts.push(of_steps(&points, x, &own, &title, "images a second", "")?);
    }
    if parts.is_empty() {
        parts.push(missing("Speed", "The log has no steps."));
    }
    Ok(parts)
}

fn of_steps(points: &[(f64, f64)], x: Axis, marks: &[Layer], title: &str, unit: &str, note: &str) -> Result<String> {
    if points.is_empty() {
        return Ok(missing(title, "The log has no steps."));
    }
    let few: Vec<(f64, f64)> = condensed(points, CURVE_POINTS).iter().map(|p| (p.0, p.1)).collect();
    let y = Axis::up_to(unit, few.iter().map(|p| p.1));
    let mut layers = marks.to_vec();
    layers.push(Layer::Line(Role::Blue, few));
    let description = format!("{unit} over {} steps.", points.len());
    let svg = Chart { title, description, x, y, layers, square: false }.svg()?;
    Ok(Figure { title, note, legend: Vec::new(), svg }.card())
}

const fn rule_name(rule: RuleName) -> &'static str {
    match rule {
        RuleName::LossNotDecreasing => "loss not decreasing",
        RuleName::OverTraining => "over-training",
        RuleName::ExplodingTensor => "exploding tensor",
        RuleName::VanishingTensor => "vanishing tensor",
        RuleName::DeadRelu => "dead ReLU",
        RuleName::ClassImbalance => "class imbalance",
    }
}

fn findings(history: &RunHistory) -> String {
    if history.findings.is_empty() {
        return missing("No findings", "No rule fired.");
    }
    let mut table = Table::of_sentences(&["rule", "when", "evidence", "action"]);
    for f in &history.findings {
        let when = if f.step == 0 {
            "before the first step".to_owned()
        } else {
            format!("{}, epoch {}, step {}", phase_name(f.phase), f.epoch, whole(f.step))
        };
        let after = if f.stopped { "the run was stopped" } else { "a warning" };
        let cells = vec![rule_name(f.rule).to_owned(), when, f.evidence.clone(), after.to_owned()];
        if f.stopped { table.strong_row(cells) } else { table.row(cells) }
    }
    card("Findings", "Each rule fires once per cause.", &table.html())
}

fn settings(history: &RunHistory) -> String {
    let Some(start) = history.start else { return missing("Settings", "The log has no start line.") };
    let mut table = Table::new(2, &["setting", "value"]);
    table.row(vec!["architecture".into(), start.architecture.name().into()]);
    table.row(vec!["seed".into(), start.seed.to_string()]);
    let learn = format!("{} of {}", whole(start.trainable_parameters), whole(start.parameters));
    table.row(vec!["trained parameters".into(), learn]);
    for (key, value) in &start.settings {
        table.row(vec![key.clone(), value.clone()]);
    }
    if !history.resumed_at.is_empty() {
        let steps: Vec<String> = history.resumed_at.iter().map(|s| whole(*s)).collect();
        table.row(vec!["resumed at step".into(), steps.join(", ")]);
    }
    card("Settings", "", &table.html())
}
