//! The section on kinds of material: recordings, photographs and frames of television, by predictor, class and source.

use super::evaluation::with_interval;
use super::html::{Table, card, details, missing, three, whole};
use super::name_of;
use crate::dataset::Kind;
use crate::evaluate::result::{Comparison, Evaluation, EventFigures, Interval, KindReport, Predictor};

/// Returns the heading of a kind.
const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Picture => "Photographs",
        Kind::Frame => "Frames of television and other footage",
        Kind::Clip => "Recordings, by the vote of their seconds",
        Kind::Sound => "Sound without picture",
    }
}

pub(super) fn section(e: &Evaluation) -> String {
    if e.kinds.is_empty() {
        return missing("No figures by kind", "An earlier version, which did not measure them, wrote this evaluation.");
    }
    let mut table = Table::new(
        2,
        &[
            "kind",
            "predictor",
            "items",
            "sources",
            "accuracy",
            "mean over sources",
            "mean over classes",
            "macro F1",
            "top 3",
            "log loss",
            "answered",
            "right answers",
        ],
    );
    for r in &e.kinds {
        table.row(vec![
            r.kind.plural().to_owned(),
            name_of(r.predictor).to_owned(),
            whole(r.items),
            whole(r.sources),
            three(r.accuracy),
            with_interval(&r.by_source),
            three(r.mean_over_classes),
            three(r.macro_f1),
            three(r.top3),
            three(r.log_loss),
            r.answered.map_or_else(|| "-".into(), |a| three(a.coverage)),
            r.answered.and_then(|a| a.precision).map_or_else(|| "-".into(), three),
        ]);
    }
    let mut html = card("By kind", "", &table.html());
    if let Some(comparison) = &e.comparison {
        html.push_str(&by_comparison(comparison));
    }
    if let Some(events) = &e.events {
        html.push_str(&by_event(events));
    }
    for kind in Kind::ALL {
        html.push_str(&of_kind(e, kind));
    }
    html
}

/// Returns the differences from another pack.
fn by_comparison(comparison: &Comparison) -> String {
    let mut table = Table::new(1, &["kind", "sources", "difference", "the pack is"]);
    for kind in &comparison.kinds {
        table.row(vec![
            kind.kind.plural().to_owned(),
            whole(kind.sources),
            with_interval(&kind.difference),
            kind.verdict.name().to_owned(),
        ]);
    }
    let text = format!(
        "Right items of a class within a source, less those of the other pack on the same items, mean over sources. {} pairs of class \
         and source are not in both evaluations.",
        comparison.not_compared
    );
    let title = format!("Compared with {}: {}", comparison.pack, comparison.verdict.name());
    card(&title, &text, &table.html())
}

/// Returns the errors of events, by length of scenes.
fn by_event(events: &EventFigures) -> String {
    let optional = |figure: &Option<Interval>| figure.as_ref().map_or_else(|| "-".into(), with_interval);
    let mut table = Table::new(
        1,
        &[
            "scenes of",
            "hours",
            "scenes",
            "missed an hour",
            "false an hour",
            "delay, s",
            "begin error, s",
            "end error, s",
        ],
    );
    for e in &events.by_length {
        table.row(vec![
            format!("{} s", e.scene_seconds),
            three(e.hours),
            whole(e.scenes),
            with_interval(&e.missed_per_hour),
            with_interval(&e.false_per_hour),
            optional(&e.delay_s),
            optional(&e.begin_error_s),
            optional(&e.end_error_s),
        ]);
    }
    let note = format!(
        "Programmes of recordings in a random order with known cuts, and a vote of {} s every {} s, onset {}, offset {}. Events of \
         other are not counted. The delay is that of the event; begin and end are dated back to the change.",
        events.vote_window,
        events.vote_stride,
        three(events.vote_onset),
        three(events.vote_offset)
    );
    card("Events on simulated programmes", &note, &table.html())
}

/// Returns the figures of the classes of one kind, by the main predictor.
fn of_kind(e: &Evaluation, kind: Kind) -> String {
    let of = |p: Predictor| e.kinds.iter().find(|r| r.kind == kind && r.predictor == p);
    let order = [Predictor::Table, Predictor::Learned, Predictor::Rgb, Predictor::Flow, Predictor::Audio];
    let Some(report) = order.into_iter().find_map(of) else { return String::new() };
    let KindReport { predictor, classes, .. } = report;
    let mut table = Table::new(1, &["class", "items", "sources", "accuracy, mean over sources"]);
    for c in classes {
        table.row(vec![c.class.clone(), whole(c.items), whole(c.sources), with_interval(&c.right)]);
    }
    details(&format!("{}: classes by {}", title(kind), name_of(*predictor)), &table.html())
}
