//! WebVTT: chapters for people, and metadata as JSON for programs.

use std::fmt::Write as _;

use super::otio::facts;
use super::place::Export;
use super::text::{escaped, plain};
use crate::record::format::rfc3339;

/// Chapters: one cue per segment, with its title.
pub(super) fn chapters(export: &Export<'_>) -> String {
    cues(export, |placed| escaped(&export.title(placed)))
}

/// The same cues with an object each.
pub(super) fn metadata(export: &Export<'_>) -> String {
    cues(export, |placed| {
        // In JSON a `>` is in strings only. Escaped, it cannot be part of an arrow.
        facts(export, placed).to_string().replace('>', "\\u003e")
    })
}

fn cues(export: &Export<'_>, payload: impl Fn(&super::place::PlacedSegment) -> String) -> String {
    let mut text = String::from("WEBVTT\n\n");
    // A note ends at an empty line and must not have an arrow.
    let _ = writeln!(text, "NOTE Touchline: segments of {}", plain(export.stream).replace("-->", "->"));
    let zero = export.segments.first().and_then(|placed| {
        placed.segment.began_ns.map(|began| began.saturating_sub(placed.begin_ns)).filter(|_| export.is_wall)
    });
    if let Some(zero) = zero {
        let _ = writeln!(text, "00:00:00.000 is {}", rfc3339(zero));
    }
    for (i, placed) in export.segments.iter().enumerate() {
        let at = |ns: i64| position(ns.saturating_add(export.offset_ns));
        let (begin, end) = (at(placed.begin_ns), at(placed.end_ns));
        let _ = write!(text, "\n{}\n{begin} --> {end}\n{}\n", i + 1, payload(placed));
    }
    text
}

/// A time of WebVTT, rounded down to milliseconds.
fn position(ns: i64) -> String {
    let ms = ns.max(0) / 1_000_000;
    let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{h:02}:{m:02}:{s:02}.{ms:03}")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, anywhere, at};
    use super::*;

    #[test]
    fn cues_have_times_and_titles() {
        let fixture = Fixture::recording();
        let text = chapters(&fixture.export(&anywhere()));
        assert!(text.starts_with("WEBVTT\n\nNOTE Touchline: segments of recordings/match.mp4\n\n1\n"), "{text}");
        assert!(text.contains("\n00:00:00.000 --> 00:00:20.000\nSoccer\n\n2\n"), "{text}");
        assert!(text.ends_with("\n4\n00:00:50.000 --> 00:01:10.000\nUnknown\n"), "{text}");
        let live = Fixture::live();
        let text = chapters(&live.export(&anywhere()));
        assert!(text.contains("\n00:00:00.000 is 2026-03-29T14:00:00.000Z\n\n1\n00:00:00.000 --> "), "{text}");
        let text = chapters(&fixture.export(&at("24", "00:00:01:12")));
        assert!(text.contains("\n00:00:01.500 --> 00:00:21.500\n"), "{text}");
    }

    #[test]
    fn metadata_are_objects_on_one_line() {
        let text = metadata(&Fixture::recording().export(&anywhere()).of_classes());
        let objects: Vec<serde_json::Value> =
            text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(
            (&objects[1]["class"], &objects[1]["seconds"], &objects[1]["peak"]),
            (&"tennis".into(), &20.into(), &0.8.into())
        );
    }

    #[test]
    fn names_cannot_end_the_note() {
        let fixture = Fixture::named("x\n\n1\n00:00:00.000 --> 00:10:00.000\n<b>");
        let text = chapters(&fixture.export(&anywhere()));
        assert_eq!(text.matches("-->").count(), 4, "{text}");
    }
}
