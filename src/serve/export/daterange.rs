//! `EXT-X-DATERANGE` of HLS (RFC 8216bis, 4.4.5.1): lines, or a copy of a playlist with them.

use std::fmt::Write as _;

use super::place::{Export, probability};
use super::text::plain;
use crate::record::format::rfc3339;
use touchline_core::error::{Error, Result};

/// How ids begin: lines of an earlier export are replaced.
const ID: &str = "touchline-";

/// One line per segment.
///
/// # Errors
/// If a segment has no wall time.
pub(super) fn lines(export: &Export<'_>) -> Result<String> {
    let mut text = String::new();
    for placed in &export.segments {
        let segment = &placed.segment;
        let Some(began) = segment.began_ns else {
            return Err(Error::Usage(
                "date ranges need wall time, and these records have none; give the wall time of PTS 0 (began)".into(),
            ));
        };
        let kind = quoted(&export.kind(placed));
        let _ = write!(
            text,
            "#EXT-X-DATERANGE:ID=\"{ID}{}-{}-{}\",CLASS=\"touchline.segment\",START-DATE=\"{}\",DURATION={}.0,\
             X-TOUCHLINE-CLASS={kind}",
            segment.run.0,
            segment.first,
            began.div_euclid(1_000_000),
            rfc3339(began),
            segment.seconds(),
        );
        for (name, value) in [("MEAN", segment.mean), ("PEAK", segment.peak)] {
            if let Some(value) = value {
                let _ = write!(text, ",X-TOUCHLINE-{name}={}", probability(value));
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// A quoted string, which can contain neither quotes nor line breaks.
fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text).replace('"', "'"))
}

/// `playlist` with `lines` before its first segment.
///
/// # Errors
/// Cause and advice, if date ranges do not fit it.
pub(super) fn with_lines(playlist: &str, lines: &str) -> std::result::Result<String, (&'static str, &'static str)> {
    if !playlist.trim_start_matches('\u{feff}').starts_with("#EXTM3U") {
        return Err(("this is not a playlist", "give an HLS media playlist"));
    }
    if playlist.contains("#EXT-X-STREAM-INF") {
        return Err(("this is the playlist of the variants", "give the media playlist of one of them"));
    }
    if !playlist.lines().any(|line| line.starts_with("#EXT-X-PROGRAM-DATE-TIME:")) {
        let advice = "make the packager write EXT-X-PROGRAM-DATE-TIME, by which players place date ranges";
        return Err(("its segments have no wall time", advice));
    }
    let own = format!("#EXT-X-DATERANGE:ID=\"{ID}");
    let mut out = String::with_capacity(playlist.len() + lines.len());
    let mut is_inserted = false;
    for line in playlist.split_inclusive('\n').filter(|line| !line.starts_with(&own)) {
        if line.starts_with("#EXTINF:") && !is_inserted {
            out.push_str(lines);
            is_inserted = true;
        }
        out.push_str(line);
    }
    if is_inserted { Ok(out) } else { Err(("it has no segments", "give an HLS media playlist")) }
}

#[cfg(test)]
mod tests {
    use super::super::place::ExportPlacement;
    use super::super::testing::{BEGAN_NS, Fixture, anywhere};
    use super::*;

    const PLAYLIST: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:00:00Z\n\
                            #EXTINF:4,\na.ts\n#EXTINF:4,\nb.ts\n";

    #[test]
    fn lines_have_wall_time_and_class() {
        let text = lines(&Fixture::live().export(&anywhere()).of_classes()).unwrap();
        let first = "#EXT-X-DATERANGE:ID=\"touchline-0-0-1774792800000\",CLASS=\"touchline.segment\",\
                     START-DATE=\"2026-03-29T14:00:00.000Z\",DURATION=20.0,X-TOUCHLINE-CLASS=\"soccer\",X-TOUCHLINE-MEAN=0.9000,X-TOUCHLINE-PEAK=0.9000";
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 2);
        let fixture = Fixture::recording();
        assert!(lines(&fixture.export(&anywhere())).unwrap_err().to_string().contains("(began)"));
        assert!(
            lines(&fixture.export(&ExportPlacement { pts_zero_ns: Some(BEGAN_NS), ..anywhere() }))
                .unwrap()
                .contains("14:00:30.000Z")
        );
        assert_eq!(quoted("a\"b\nc"), "\"a'b\u{fffd}c\"");
    }

    #[test]
    fn a_playlist_gets_the_lines_before_its_first_segment_once() {
        let text = lines(&Fixture::live().export(&anywhere()).of_classes()).unwrap();
        let marked = with_lines(PLAYLIST, &text).unwrap();
        assert_eq!(marked, PLAYLIST.replacen("#EXTINF:4,\n", &format!("{text}#EXTINF:4,\n"), 1));
        assert_eq!(with_lines(&marked, &text).unwrap(), marked, "a second export replaces the first");
        for (playlist, word) in [
            ("hello", "not a playlist"),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n", "variants"),
            ("#EXTM3U\n#EXTINF:4,\na.ts\n", "no wall time"),
            ("#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:00:00Z\n", "no segments"),
        ] {
            assert!(with_lines(playlist, &text).unwrap_err().0.contains(word), "{playlist}");
        }
    }
}
