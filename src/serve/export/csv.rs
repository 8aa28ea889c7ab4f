//! CSV: one row per segment, with all that is known about it.

use super::place::Export;
use super::segment_row::{SEGMENT_COLUMNS, segment_cells, text_cell};
use touchline_core::error::{Error, Result};

/// The table: the columns of segments, with stream and timecodes.
///
/// # Errors
/// If the writer fails, which it does not in memory.
pub(super) fn render(export: &Export<'_>) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |e: String| Error::Internal(format!("CSV: {e}"));
    let [class, others @ ..] = SEGMENT_COLUMNS;
    let head = ["stream", class, "begin_timecode", "end_timecode"].into_iter().chain(others).chain(["rate"]);
    writer.write_record(head).map_err(|e| failed(e.to_string()))?;
    for placed in &export.segments {
        let [class, others @ ..] = segment_cells(&placed.segment, Some(&export.kind(placed)));
        let timecodes = [placed.begin, placed.end].map(|frame| export.timecode(frame).to_string());
        let cells = [text_cell(export.stream), class].into_iter().chain(timecodes);
        let row = cells.chain(others).chain([export.rate.name().to_owned()]);
        writer.write_record(row).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
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
