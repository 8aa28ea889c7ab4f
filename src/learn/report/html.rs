//! The page around the charts: one HTML file with its style sheet, without scripts or external resources.
//!
//! This module escapes all text from outside (names, paths, sentences) with [`escaped`]; callers pass plain text.

use super::ink::{Role, role_styles};
use crate::measure::fixed;
use touchline_core::markup;

const STYLE: &str = include_str!("style.css");

/// The logo of the live page.
const MARK: &str = r##"<svg class="mark" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#10734d"/><path d="M7 23.5h18M16 23.5V8.5" stroke="#fff" stroke-width="3" stroke-linecap="round"/><path d="M9.5 23.5a6.5 6.5 0 0 1 13 0" fill="none" stroke="#fff" stroke-width="2" opacity=".55"/></svg>"##;

/// Escapes `text` for HTML, including attributes, and replaces control characters.
pub(super) fn escaped(text: &str) -> String {
    markup::escaped(text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }))
}

/// A page that is assembled section by section.
pub(super) struct Page {
    title: String,
    subtitle: String,
    contents: Vec<(String, String)>,
    body: String,
}

impl Page {
    /// A page without sections.
    pub(super) fn new(title: &str, subtitle: &str) -> Self {
        Self { title: title.into(), subtitle: subtitle.into(), contents: Vec::new(), body: String::new() }
    }

    /// Adds a section, with an entry in the table of contents. `inner` is HTML.
    pub(super) fn section(&mut self, id: &str, title: &str, lead: &str, inner: &str) {
        self.contents.push((id.to_owned(), title.to_owned()));
        self.body.push_str(&format!("<section id=\"{}\"><h2>{}</h2>\n", escaped(id), escaped(title)));
        if !lead.is_empty() {
            self.body.push_str(&format!("<p class=\"lead\">{}</p>\n", escaped(lead)));
        }
        self.body.push_str(inner);
        self.body.push_str("</section>\n");
    }

    /// Returns the page as HTML.
    pub(super) fn finish(self) -> String {
        let links: String = self
            .contents
            .iter()
            .map(|(id, title)| format!("<li><a href=\"#{}\">{}</a></li>", escaped(id), escaped(title)))
            .collect();
        let (title, subtitle) = (escaped(&self.title), escaped(&self.subtitle));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title} · Touchline</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<header class=\"top\">{MARK}\
             <b>Touchline</b><div class=\"who\"><h1>{title}</h1><p>{subtitle}</p></div></header>\n\
             <nav aria-label=\"Contents\"><ol>{links}</ol></nav>\n<main>\n{}</main>\n<footer><p>Written by Touchline {}. \
             This file is self-contained.</p></footer>\n</body>\n</html>\n",
            role_styles(),
            self.body,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// Arranges parts side by side if there is room.
pub(super) fn grid(parts: &[String]) -> String {
    format!("<div class=\"grid\">\n{}</div>\n", parts.concat())
}

/// Symbol of a series in the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Line,
    Box,
}

/// A chart with title, note and legend. `svg` is HTML, all other fields are plain text.
pub(super) struct Figure<'a> {
    pub title: &'a str,
    pub note: &'a str,
    pub legend: Vec<(Role, Sign, String)>,
    pub svg: String,
}

impl Figure<'_> {
    /// Returns the figure as a card.
    pub(super) fn card(&self) -> String {
        self.html("card")
    }

    /// Returns the figure as a card in a separate row.
    pub(super) fn alone(&self) -> String {
        self.html("card alone")
    }

    /// Returns the figure as a card in a separate row that scrolls on a narrow screen.
    pub(super) fn wide(&self) -> String {
        self.html("card wide")
    }

    fn html(&self, class: &str) -> String {
        let mut legend: String = self
            .legend
            .iter()
            .map(|(role, sign, name)| {
                let kind = if *sign == Sign::Line { "line" } else { "box" };
                format!("<li>{}{}</li>", role.sample(kind), escaped(name))
            })
            .collect();
        if !legend.is_empty() {
            legend = format!("<ul class=\"legend\">{legend}</ul>");
        }
        let note =
            if self.note.is_empty() { String::new() } else { format!("<p class=\"quiet\">{}</p>", escaped(self.note)) };
        format!(
            "<figure class=\"{class}\"><figcaption><h3>{}</h3>{note}</figcaption>{legend}<div class=\"scroll\">{}</div>\
             </figure>\n",
            escaped(self.title),
            self.svg
        )
    }
}

/// Returns a card in place of a chart that has no data, with the reason.
pub(super) fn missing(title: &str, reason: &str) -> String {
    format!("<div class=\"card empty\"><h3>{}</h3><p class=\"quiet\">{}</p></div>\n", escaped(title), escaped(reason))
}

/// A figure in large type.
pub(super) struct Tile {
    pub name: String,
    pub value: String,
    pub note: String,
}

/// Returns tiles side by side.
pub(super) fn tiles(tiles: &[Tile]) -> String {
    let items: String = tiles
        .iter()
        .map(|t| {
            let (name, value, note) = (escaped(&t.name), escaped(&t.value), escaped(&t.note));
            // Text is too long for the size of numbers.
            let kind = if t.value.chars().count() > 12 { " class=\"words\"" } else { "" };
            format!("<div><dt>{name}</dt><dd{kind}>{value}</dd><dd class=\"quiet\">{note}</dd></div>")
        })
        .collect();
    format!("<dl class=\"tiles\">{items}</dl>\n")
}

/// A table of plain text. The columns after the first `text_columns` are numbers and aligned to the right.
#[derive(Default)]
pub(super) struct Table {
    head: Vec<String>,
    text_columns: usize,
    rows: Vec<(bool, Vec<String>)>,
    /// Whether cells are sentences, which a narrow screen shows below each other.
    sentences: bool,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(text_columns: usize, head: &[&str]) -> Self {
        Self { head: head.iter().map(|h| (*h).to_owned()).collect(), text_columns, rows: Vec::new(), sentences: false }
    }

    /// A table whose cells are sentences.
    pub(super) fn of_sentences(head: &[&str]) -> Self {
        Self { sentences: true, ..Self::new(head.len(), head) }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push((false, cells));
    }

    /// Adds an emphasised row.
    pub(super) fn strong_row(&mut self, cells: Vec<String>) {
        self.rows.push((true, cells));
    }

    /// Returns the table as HTML.
    pub(super) fn html(&self) -> String {
        let class = |i: usize| if i < self.text_columns { "" } else { " class=\"n\"" };
        let head: String = self
            .head
            .iter()
            .enumerate()
            .map(|(i, h)| format!("<th scope=\"col\"{}>{}</th>", class(i), escaped(h)))
            .collect();
        let kind = if self.sentences { " class=\"words\"" } else { "" };
        let mut body = String::new();
        for (strong, cells) in &self.rows {
            body.push_str(if *strong { "<tr class=\"strong\">" } else { "<tr>" });
            for (i, cell) in cells.iter().enumerate() {
                if i == 0 {
                    body.push_str(&format!("<th scope=\"row\">{}</th>", escaped(cell)));
                } else {
                    body.push_str(&format!("<td{}>{}</td>", class(i), escaped(cell)));
                }
            }
            body.push_str("</tr>\n");
        }
        format!(
            "<div class=\"scroll\"><table{kind}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
        )
    }
}

/// Returns a card with the HTML `inner`.
pub(super) fn card(title: &str, note: &str, inner: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"quiet\">{}</p>", escaped(note)) };
    format!("<div class=\"card\"><h3>{}</h3>{note}{inner}</div>\n", escaped(title))
}

/// Arranges collapsible parts, side by side while they are collapsed.
pub(super) fn folds(parts: &[String]) -> String {
    format!("<div class=\"folds\">\n{}</div>\n", parts.concat())
}

/// Returns a collapsible part.
pub(super) fn details(summary: &str, inner: &str) -> String {
    format!("<details><summary>{}</summary>\n{inner}</details>\n", escaped(summary))
}

/// Returns a list of sentences.
pub(super) fn list(items: &[String]) -> String {
    let items: String = items.iter().map(|i| format!("<li>{}</li>", escaped(i))).collect();
    format!("<ul class=\"notes\">{items}</ul>\n")
}

/// Returns an emphasised box; nothing without items.
pub(super) fn notice(title: &str, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    format!("<aside class=\"notice\"><strong>{}</strong>{}</aside>\n", escaped(title), list(items))
}

/// Capitalises the first letter.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

/// Formats a number with three decimals; a dash if it is not finite.
pub(super) fn three(value: f64) -> String {
    if value.is_finite() { fixed(value, 3) } else { "–".into() }
}

/// Formats a count with thin spaces between the thousands.
pub(super) fn whole(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// Formats a duration.
pub(super) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escaped("<b a=\"1\" c='2'>&\u{1}"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;\u{fffd}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!((whole(7).as_str(), whole(1234567).as_str()), ("7", "1\u{202f}234\u{202f}567"));
        assert_eq!([span(3.25), span(61.0), span(7260.0)], ["3.2 s", "1 min 01 s", "2 h 01 min"]);
        assert_eq!([three(0.12345), three(f64::NAN)], ["0.123", "–"]);
    }
}
