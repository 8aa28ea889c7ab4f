//! One self-contained HTML page: timeline, time per class, and table. It has no scripts and loads nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Posters;
use super::place::{Export, PlacedSegment, TimeBase, gaps, modalities};
use super::text::{escaped, file_name};
use crate::record::format::rfc3339;
use touchline_core::colours;
use touchline_core::labels::OTHER;
use touchline_core::segment::SegmentKind;

const STYLE: &str = include_str!("style.css");

/// The logo of the live page.
const MARK: &str = r##"<svg class="mark" viewBox="0 0 32 32" width="30" height="30" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#10734d"/><path d="M7 23.5h18M16 23.5V8.5" stroke="#fff" stroke-width="3" stroke-linecap="round"/><path d="M9.5 23.5a6.5 6.5 0 0 1 13 0" fill="none" stroke="#fff" stroke-width="2" opacity=".55"/></svg>"##;

const SECOND: i64 = 1_000_000_000;

/// Rows of the timeline at most, so that it fits a printed page.
const ROWS_MAX: i64 = 12;

/// Width of a part of the timeline that has its name in it, per cent.
const LABEL_MIN: f64 = 8.0;

/// Lengths of a row and of the distance between its marks, seconds.
const ROWS: [(i64, i64); 13] = [
    (60, 10),
    (120, 15),
    (300, 30),
    (600, 60),
    (900, 60),
    (1800, 300),
    (3600, 300),
    (7200, 600),
    (14_400, 1800),
    (28_800, 3600),
    (43_200, 3600),
    (86_400, 7200),
    (604_800, 86_400),
];

/// The page, with the pictures of `posters`.
pub(super) fn render(export: &Export<'_>, posters: &Posters) -> String {
    let title = escaped(file_name(export.stream));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · Touchline</title>\n<style>\n{STYLE}{}</style>\n</head>\n\
         <body>\n<header>{MARK}<div><h1>{title}</h1><p>{}</p></div></header>\n<main>\n",
        class_styles(export),
        subtitle(export),
    );
    page.push_str(&tiles(export));
    page.push_str(&timeline(export));
    page.push_str(&pictures(export, posters));
    page.push_str(&totals(export));
    page.push_str(&table(export));
    let _ = write!(
        page,
        "</main>\n<footer>Written by Touchline {}. Classes are decided by models and may be wrong.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn subtitle(export: &Export<'_>) -> String {
    let wall = export.segments.first().and_then(|first| first.segment.began_ns);
    let end = export.segments.last().and_then(|last| last.segment.ended_ns);
    let mut parts = Vec::new();
    if file_name(export.stream) != export.stream {
        parts.push(escaped(export.stream));
    }
    if let (Some(begin), Some(end)) = (wall, end) {
        let (begin, end) = (rfc3339(begin), rfc3339(end));
        let day = if begin[..10] == end[..10] { "" } else { &end[..10] };
        parts.push(format!("{} {} to {day} {} UTC", &begin[..10], &begin[11..19], &end[11..19]).replace("  ", " "));
    }
    let base = match export.base {
        TimeBase::Timecode => "timecode of the media",
        TimeBase::Wall => "wall time",
        TimeBase::Pts => "time of the media",
    };
    parts.push(format!("timecode {} at {}, from {base}", export.timecode(export.begin), export.rate.name()));
    parts.join(" · ")
}

/// The colours of the classes that occur.
fn class_styles(export: &Export<'_>) -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for (i, (class, _)) in classes(export).iter().enumerate() {
        let [day, night] = colours::css(class);
        let _ = writeln!(light, ".c{i} {{ --class: {}; --on-class: {}; }}", day.fill, day.ink);
        let _ = writeln!(dark, "  .c{i} {{ --class: {}; --on-class: {}; }}", night.fill, night.ink);
    }
    format!("{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

/// Every class that occurs with its seconds, most first.
fn classes(export: &Export<'_>) -> Vec<(String, u64)> {
    let mut seconds: BTreeMap<String, u64> = BTreeMap::new();
    for placed in &export.segments {
        if let Some(class) = export.class(placed) {
            *seconds.entry(class).or_default() += placed.segment.seconds();
        }
    }
    let mut classes: Vec<_> = seconds.into_iter().collect();
    classes.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
    classes
}

/// The style of a segment.
fn style(export: &Export<'_>, placed: &PlacedSegment, classes: &[(String, u64)]) -> String {
    match placed.segment.kind {
        SegmentKind::Class(_) => {
            let class = export.class(placed).unwrap_or_default();
            format!("c{}", classes.iter().position(|(known, _)| *known == class).unwrap_or(0))
        }
        _ => export.kind(placed),
    }
}

fn tiles(export: &Export<'_>) -> String {
    let sum = |of: &dyn Fn(&PlacedSegment) -> u64| export.segments.iter().map(of).sum::<u64>();
    let all = sum(&|p| p.segment.seconds());
    let is_sport = |p: &PlacedSegment| export.class(p).is_some_and(|class| class != OTHER);
    let sport = sum(&|p| if is_sport(p) { p.segment.seconds() } else { 0 });
    let decided = sum(&|p| p.segment.decided.into());
    let count = export.segments.iter().filter(|p| is_sport(p)).count();
    let classes = classes(export).iter().filter(|(class, _)| class != OTHER).count();
    let tile = |name: &str, value: &str, note: &str| {
        format!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"note\">{note}</dd></div>")
    };
    format!(
        "<dl class=\"tiles\">{}{}{}{}</dl>\n",
        tile("Duration", &span(all), &format!("{} segments", export.segments.len())),
        tile("Sport on air", &percent(sport, all), &format!("{} of it", span(sport))),
        tile("Segments with sport", &count.to_string(), &plural(classes, "sport", "sports")),
        tile("Decided", &percent(decided, all), &format!("{} not decided", span(all - decided))),
    )
}

fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A bar of one row, or of several if the recording is long.
fn timeline(export: &Export<'_>) -> String {
    let classes = classes(export);
    // Rows begin on a round time of the day, or of the recording.
    let shift = if export.is_wall {
        export.segments[0].segment.began_ns.unwrap_or(0).rem_euclid(86_400 * SECOND) - export.begin_ns
    } else {
        export.offset_ns
    };
    let (begin, end) = (export.begin_ns + shift, export.end_ns + shift);
    let total = (end - begin + SECOND - 1) / SECOND;
    let fits = |row: i64| (end - 1).div_euclid(row * SECOND) - begin.div_euclid(row * SECOND) < ROWS_MAX;
    let is_single = total <= 600;
    let (row, step) = if is_single {
        let step = ROWS.iter().find(|(row, _)| total <= *row).map_or(60, |(_, step)| *step);
        (total, step)
    } else {
        *ROWS.iter().find(|(row, _)| *row >= 600 && fits(*row)).unwrap_or(&ROWS[ROWS.len() - 1])
    };
    let mut out = String::from("<section><h2>Timeline</h2>\n<div class=\"timeline\">\n");
    let first = if is_single { begin } else { begin.div_euclid(row * SECOND) * row * SECOND };
    let mut at = first;
    while at < end {
        let until = at + row * SECOND;
        let share = |ns: i64| (ns - at) as f64 / (row * SECOND) as f64 * 100.0;
        let _ = write!(out, "<div class=\"row\"><span class=\"at\">{}</span><div class=\"bar\">", clock(at));
        for placed in &export.segments {
            let (from, to) = ((placed.begin_ns + shift).max(at), (placed.end_ns + shift).min(until));
            if from >= to {
                continue;
            }
            let (title, width) = (escaped(&export.title(placed)), share(to) - share(from));
            let _ = write!(
                out,
                "<i class=\"{}\" style=\"left:{:.4}%;width:{width:.4}%\" title=\"{title}, {} to {}\">{}</i>",
                style(export, placed, &classes),
                share(from),
                export.timecode(placed.begin),
                export.timecode(placed.end),
                // A narrow part has no room for its name.
                if width >= LABEL_MIN { title.as_str() } else { "" },
            );
        }
        let mut mark = at.div_euclid(step * SECOND) * step * SECOND + step * SECOND;
        while mark < until {
            let _ = write!(out, "<b style=\"left:{:.4}%\"></b>", share(mark));
            mark += step * SECOND;
        }
        out.push_str("</div></div>\n");
        at = until;
    }
    out.push_str(&axis(first, row, step));
    out.push_str("</div>\n</section>\n");
    out
}

/// Marks below the last row.
fn axis(first: i64, row: i64, step: i64) -> String {
    let mut out = String::from("<div class=\"row axis\"><span class=\"at\"></span><div class=\"marks\">");
    // Every second mark where there are many.
    let step = if row / step > 8 { step * 2 } else { step };
    let mut mark = first.div_euclid(step * SECOND) * step * SECOND;
    while mark <= first + row * SECOND {
        if mark >= first {
            let share = (mark - first) as f64 / (row * SECOND) as f64 * 100.0;
            let seconds = (mark - first) / SECOND;
            let text = if seconds == 0 { "0".into() } else { format!("+{}", span(seconds as u64)) };
            // The last mark would reach beyond the row.
            let class = if share > 97.0 { " class=\"end\"" } else { "" };
            let _ = write!(out, "<span{class} style=\"left:{share:.4}%\">{text}</span>");
        }
        mark += step * SECOND;
    }
    out.push_str("</div></div>\n");
    out
}

/// The pictures in the order of their segments.
fn pictures(export: &Export<'_>, posters: &Posters) -> String {
    if posters.is_empty() {
        return String::new();
    }
    let classes = classes(export);
    let mut out = String::from("<section><h2>Pictures</h2>\n<div class=\"pictures\">\n");
    for (i, url) in posters {
        let placed = &export.segments[*i];
        let (title, begin) = (escaped(&export.title(placed)), export.timecode(placed.begin));
        let _ = writeln!(
            out,
            "<figure><img src=\"{url}\" alt=\"{title} at {begin}\"><figcaption><s class=\"{}\"></s><b>{title}</b> \
             <span class=\"tc\">{begin}</span></figcaption></figure>",
            style(export, placed, &classes),
        );
    }
    out.push_str("</div>\n</section>\n");
    out
}

fn totals(export: &Export<'_>) -> String {
    let classes = classes(export);
    let all: u64 = export.segments.iter().map(|p| p.segment.seconds()).sum();
    let mut rows: Vec<(String, String, u64, usize)> = Vec::new();
    for placed in &export.segments {
        let style = style(export, placed, &classes);
        match rows.iter_mut().find(|(known, ..)| *known == style) {
            Some((.., seconds, count)) => {
                *seconds += placed.segment.seconds();
                *count += 1;
            }
            None => rows.push((style, export.title(placed), placed.segment.seconds(), 1)),
        }
    }
    // Classes first, most time first.
    rows.sort_by_key(|(style, _, seconds, _)| (!style.starts_with('c'), std::cmp::Reverse(*seconds)));
    let longest = rows.iter().map(|(.., seconds, _)| *seconds).max().unwrap_or(1);
    let mut out = String::from("<section class=\"totals\"><h2>Time per class</h2>\n<table><tbody>\n");
    for (style, title, seconds, count) in rows {
        let width = seconds as f64 / longest as f64 * 100.0;
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\"><s class=\"{style}\"></s>{}</th><td class=\"share\"><i class=\"{style}\" \
             style=\"width:{width:.2}%\"></i></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escaped(&title),
            length(seconds),
            percent(seconds, all),
            plural(count, "segment", "segments"),
        );
    }
    out.push_str("</tbody></table>\n</section>\n");
    out
}

fn table(export: &Export<'_>) -> String {
    let classes = classes(export);
    let mut out = String::from(
        "<section><h2>Segments</h2>\n<table class=\"segments\"><thead><tr><th class=\"n\">No.</th><th>Class</th>\
         <th>Begin</th><th>End</th><th class=\"n\">Length</th><th class=\"n\">Mean</th><th class=\"n\">Peak</th>\
         <th>Decided by</th><th>Not decided</th></tr></thead><tbody>\n",
    );
    let mut run = export.segments[0].segment.run;
    for (i, placed) in export.segments.iter().enumerate() {
        let segment = &placed.segment;
        if segment.run != run {
            run = segment.run;
            out.push_str(
                "<tr class=\"break\"><td colspan=\"9\">Discontinuity: a reconnect or a jump of time stamps</td></tr>\n",
            );
        }
        let style = style(export, placed, &classes);
        let share = |value: Option<u32>| value.map_or("–".into(), |p| format!("{} %", (p + 5000) / 10_000));
        let by: Vec<_> = modalities(segment)
            .into_iter()
            .map(|(name, seconds)| {
                let name = if name == "rgb" {
                    "picture"
                } else if name == "flow" {
                    "motion"
                } else {
                    "sound"
                };
                format!("{name} {}", percent(seconds.into(), segment.decided.into()))
            })
            .collect();
        let gaps: Vec<_> =
            gaps(segment).into_iter().map(|(reason, seconds)| format!("{} {reason}", span(seconds.into()))).collect();
        let none = |list: Vec<String>| if list.is_empty() { "–".into() } else { list.join(", ") };
        let _ = writeln!(
            out,
            "<tr{}><td class=\"n\">{}</td><th scope=\"row\"><s class=\"{style}\"></s>{}</th><td class=\"tc\">{}</td>\
             <td class=\"tc\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>",
            if matches!(segment.kind, SegmentKind::Class(_)) { "" } else { " class=\"quiet\"" },
            i + 1,
            escaped(&export.title(placed)),
            export.timecode(placed.begin),
            export.timecode(placed.end),
            length(segment.seconds()),
            share(segment.mean),
            share(segment.peak),
            none(by),
            none(gaps),
        );
    }
    out.push_str("</tbody></table>\n</section>\n");
    out
}

/// Hours, minutes and seconds of a position.
fn clock(ns: i64) -> String {
    let s = ns.div_euclid(SECOND);
    format!("{:02}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60)
}

/// A duration in a table: hours, minutes and seconds.
fn length(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A duration for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Whole per cent. Less than all is never 100.
fn percent(part: u64, whole: u64) -> String {
    match (part * 100 + whole / 2).checked_div(whole) {
        None => "–".into(),
        Some(100) if part < whole => "99 %".into(),
        Some(0) if part > 0 => "1 %".into(),
        Some(share) => format!("{share} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, anywhere};
    use super::*;

    #[test]
    fn the_page_has_every_segment_and_loads_nothing() {
        for fixture in [Fixture::recording(), Fixture::live()] {
            let page = render(&fixture.export(&anywhere()), &Posters::new());
            for text in ["Soccer", "Tennis", "No programme", "Unknown", "10 s no-programme", "90 %"] {
                assert!(page.contains(text), "{text}");
            }
            assert_eq!(page.matches("<th scope=\"row\">").count(), 4 + 4);
            for text in ["<script", "src=", "href=", "url(", "@import"] {
                assert!(!page.contains(text), "{text}");
            }
        }
    }

    #[test]
    fn pictures_are_part_of_the_page() {
        let fixture = Fixture::recording();
        let posters = Posters::from([(0, "data:image/jpeg;base64,AAAA".to_owned())]);
        let page = render(&fixture.export(&anywhere()), &posters);
        assert_eq!(page.matches("<figure>").count(), 1);
        assert!(page.contains("<img src=\"data:image/jpeg;base64,AAAA\" alt=\"Soccer at 00:00:00:00\">"));
        assert!(page.contains("img-src data:"));
    }

    #[test]
    fn names_are_text() {
        let fixture = Fixture::named("x/<img src=x onerror=alert(1)>\u{202e}\"'");
        let page = render(&fixture.export(&anywhere()), &Posters::new());
        assert!(!page.contains("<img") && !page.contains('\u{202e}') && page.contains("&lt;img"));
    }

    #[test]
    fn long_recordings_have_rows() {
        let fixture = Fixture::recording();
        let mut export = fixture.export(&anywhere());
        assert_eq!(render(&export, &Posters::new()).matches("<div class=\"row\">").count(), 1);
        export.segments[3].end_ns = 5 * 3600 * SECOND;
        export.end_ns = 5 * 3600 * SECOND;
        assert_eq!(render(&export, &Posters::new()).matches("<div class=\"row\">").count(), 10);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!([span(59), span(60), span(3723), span(7200)], ["59 s", "1 min", "1 h 02 min", "2 h"]);
        assert_eq!([percent(1, 1000), percent(999, 1000), percent(1, 1), percent(0, 0)], ["1 %", "99 %", "100 %", "–"]);
    }
}
