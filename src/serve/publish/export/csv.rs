//! CSV: one row per segment, with all that is known about it.

use super::super::format::rfc3339;
use super::place::{Export, probability};
use super::text::plain;
use touchline_core::error::{Error, Result};

const HEAD: [&str; 25] = [
    "stream",
    "class",
    "begin_timecode",
    "end_timecode",
    "began",
    "ended",
    "begin_pts_s",
    "end_pts_s",
    "seconds",
    "run",
    "mean",
    "peak",
    "peak_pts_s",
    "decided",
    "unknown",
    "rgb",
    "flow",
    "audio",
    "overload",
    "no_media",
    "compute",
    "no_programme",
    "not_decoded",
    "missing",
    "rate",
];

/// The table.
///
/// # Errors
/// If the writer fails, which it does not in memory.
pub(super) fn render(export: &Export<'_>) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |e: String| Error::Internal(format!("CSV: {e}"));
    writer.write_record(HEAD).map_err(|e| failed(e.to_string()))?;
    for placed in &export.segments {
        let segment = &placed.segment;
        let time = |ns: Option<i64>| ns.map(rfc3339).unwrap_or_default();
        let share = |value: Option<u32>| value.map(probability).unwrap_or_default();
        let [overload, no_media, compute, no_programme, not_decoded] = segment.gaps.map(|n| n.to_string());
        let row: [String; HEAD.len()] = [
            cell(export.stream),
            cell(&export.kind(placed)),
            export.timecode(placed.begin).to_string(),
            export.timecode(placed.end).to_string(),
            time(segment.began_ns),
            time(segment.ended_ns),
            segment.first.to_string(),
            (segment.last + 1).to_string(),
            segment.seconds().to_string(),
            segment.run.0.to_string(),
            share(segment.mean),
            share(segment.peak),
            segment.peak_index.map(|index| index.to_string()).unwrap_or_default(),
            segment.decided.to_string(),
            segment.unknown.to_string(),
            segment.decided_by.rgb.to_string(),
            segment.decided_by.flow.to_string(),
            segment.decided_by.audio.to_string(),
            overload,
            no_media,
            compute,
            no_programme,
            not_decoded,
            segment.missing.to_string(),
            export.rate.name().to_owned(),
        ];
        writer.write_record(&row).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// Text that a spreadsheet does not take for a formula.
fn cell(text: &str) -> String {
    let text = plain(text);
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, at};
    use super::*;

    #[test]
    fn every_segment_has_a_row() {
        let fixture = Fixture::named("=HYPERLINK(\"x\"),a");
        let text = render(&fixture.export(&at("50", ""))).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let head = reader.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let value = |row: usize, name: &str| rows[row][head.iter().position(|h| h == name).unwrap()].to_owned();
        assert_eq!(rows.len(), 4);
        assert_eq!(value(0, "stream"), "'=HYPERLINK(\"x\"),a");
        let classes: Vec<_> = (0..4).map(|row| value(row, "class")).collect();
        assert_eq!(classes, ["soccer", "no-programme", "tennis", "unknown"]);
        assert_eq!((value(2, "begin_pts_s"), value(2, "end_pts_s")), ("30".into(), "50".into()));
        assert_eq!((value(2, "begin_timecode"), value(2, "mean")), ("00:00:30:00".into(), "0.8000".into()));
        assert_eq!(
            (value(1, "no_programme"), value(1, "mean"), value(0, "began")),
            ("10".into(), String::new(), String::new())
        );
    }
}
