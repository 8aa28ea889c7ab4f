//! CMX 3600 edit decision lists.
//!
//! Source and record timecodes are equal, so that the list lies on top of the source; with a cut, events follow each other.
//! Drop-frame timecode has a semicolon, and `FCM` says so as well.

use std::fmt::Write as _;

use super::place::Export;
use super::text::{file_name, plain, shortened};
use touchline_core::colours;
use touchline_core::error::{Error, Result};

/// Events that the format can number.
const EVENTS_MAX: usize = 999;

/// A title of CMX 3600.
const TITLE_MAX: usize = 70;

/// The list.
///
/// # Errors
/// If the segments do not fit the format.
pub(super) fn render(export: &Export<'_>, media: Option<&str>, cut: bool) -> Result<String> {
    if export.segments.len() > EVENTS_MAX {
        return Err(Error::Usage(format!(
            "{} segments are more than the {EVENTS_MAX} of an edit decision list; choose a shorter time, or the format otio",
            export.segments.len()
        )));
    }
    let (first, last) = (&export.segments[0], &export.segments[export.segments.len() - 1]);
    if last.end - first.begin > export.rate.frames_in_day() {
        return Err(Error::Usage(
            "the segments span more than 24 hours, and timecode repeats after that; choose a shorter time, or the format otio"
                .into(),
        ));
    }
    let name = plain(file_name(media.unwrap_or(export.stream)));
    let title = shortened(&plain(file_name(export.stream)), TITLE_MAX);
    let mode = if export.rate.is_drop() { "DROP FRAME" } else { "NON-DROP FRAME" };
    // B is pictures and sound.
    let channels = if export.is_silent { 'V' } else { 'B' };
    let mut text = format!("TITLE: {title}\nFCM: {mode}\n\n");
    // By convention, a programme begins at one hour.
    let mut record = export.rate.frame_of((1, 0, 0, 0)).expect("every rate has this label");
    for (i, placed) in export.segments.iter().enumerate() {
        let length = placed.end - placed.begin;
        let (begin, end) = if cut { (record, record + length) } else { (placed.begin, placed.end) };
        record += length;
        let tc = |frame| export.timecode(frame);
        let _ = writeln!(
            text,
            "{:03}  AX       {channels}     C        {} {} {} {}\n* FROM CLIP NAME: {name}\n* LOC: {} {:<7} {}",
            i + 1,
            tc(placed.begin),
            tc(placed.end),
            tc(begin),
            tc(end),
            tc(begin),
            colours::marker(export.class(placed).as_deref()),
            label(export, placed)
        );
    }
    Ok(text)
}

/// The text of the locator: the class and its mean probability.
fn label(export: &Export<'_>, placed: &super::place::PlacedSegment) -> String {
    let title = export.title(placed);
    match placed.segment.mean {
        Some(mean) => format!("{title} {} %", (mean + 5000) / 10_000),
        None => title,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, anywhere, at};
    use super::*;

    #[test]
    fn events_lie_on_the_source_or_follow_each_other() {
        let fixture = Fixture::recording();
        let export = fixture.export(&at("29.97df", "00:59:30;00")).of_classes();
        let text = render(&export, None, false).unwrap();
        assert_eq!(
            text,
            "TITLE: match.mp4\nFCM: DROP FRAME\n\n\
             001  AX       B     C        00:59:30;00 00:59:49;29 00:59:30;00 00:59:49;29\n\
             * FROM CLIP NAME: match.mp4\n* LOC: 00:59:30;00 GREEN   Soccer 90 %\n\
             002  AX       B     C        00:59:59;29 01:00:19;29 00:59:59;29 01:00:19;29\n\
             * FROM CLIP NAME: match.mp4\n* LOC: 00:59:59;29 CYAN    Tennis 80 %\n"
        );
        let text = render(&export, Some("/media/other.mov"), true).unwrap();
        assert!(
            text.contains("00:59:59;29 01:00:19;29 01:00:19;29 01:00:39;29\n* FROM CLIP NAME: other.mov\n"),
            "{text}"
        );
        let mut export = fixture.export(&at("25", ""));
        export.is_silent = true;
        assert!(render(&export, None, true).unwrap().contains("001  AX       V     C "));
        assert!(render(&export, None, false).unwrap().contains("NON-DROP FRAME"));
    }

    #[test]
    fn names_cannot_add_lines_or_turn_the_text_round() {
        let fixture = Fixture::named("a/b\"\n002  AX  V  C\u{202e}gpj.mp4");
        let text = render(&fixture.export(&anywhere()).of_classes(), None, false).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("002")).count(), 1);
        assert!(!text.contains('\u{202e}') && text.starts_with("TITLE: b\"\u{fffd}002"), "{text}");
    }

    #[test]
    fn too_many_events_and_days_are_refused() {
        let fixture = Fixture::recording();
        let mut export = fixture.export(&anywhere());
        export.segments = vec![export.segments[0].clone(); EVENTS_MAX + 1];
        assert!(render(&export, None, false).unwrap_err().to_string().contains("999"));
        export.segments.truncate(2);
        export.segments[1].end += export.rate.frames_in_day();
        assert!(render(&export, None, false).unwrap_err().to_string().contains("24 hours"));
    }
}
