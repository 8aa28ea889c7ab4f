//! The columns of segments in tables: exports, the API and `touchline score --segments` have the same.

use serde_json::Value;

use super::place::probability;
use super::text::plain;
use crate::record::SERIALISES;
use crate::record::segment::SegmentFields;
use touchline_core::segment::{MILLION, Segment};

/// Names of the columns.
pub const SEGMENT_COLUMNS: [&str; 21] = [
    "class",
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
];

/// The cells of a segment; `class` is the name of its class. Without one the column has the content.
pub fn segment_cells(segment: &Segment, class: Option<&str>) -> [String; SEGMENT_COLUMNS.len()] {
    cells_of_record(&serde_json::to_value(SegmentFields::new(segment, class)).expect(SERIALISES))
}

/// The cells of the record of a segment.
pub(crate) fn cells_of_record(record: &Value) -> [String; SEGMENT_COLUMNS.len()] {
    let text = |value: &Value| value.as_str().map(text_cell).unwrap_or_default();
    let count = |value: &Value| value.as_u64().unwrap_or_default().to_string();
    let second =
        |key: &str, after: u64| record[key].as_u64().map(|index| (index + after).to_string()).unwrap_or_default();
    let share = |key: &str| {
        let value = record[key].as_f64();
        value.map(|value| probability((value * f64::from(MILLION)).round() as u32)).unwrap_or_default()
    };
    let class = &record["class"];
    [
        text(if class.is_null() { &record["content"] } else { class }),
        text(&record["began"]),
        text(&record["ended"]),
        second("first", 0),
        second("last", 1),
        count(&record["seconds"]),
        count(&record["run"]),
        share("mean"),
        share("peak"),
        second("peak_index", 0),
        count(&record["decided"]),
        count(&record["unknown"]),
        count(&record["decided_by"]["rgb"]),
        count(&record["decided_by"]["flow"]),
        count(&record["decided_by"]["audio"]),
        count(&record["gaps"]["overload"]),
        count(&record["gaps"]["no-media"]),
        count(&record["gaps"]["compute"]),
        count(&record["gaps"]["no-programme"]),
        count(&record["gaps"]["not-decoded"]),
        count(&record["missing"]),
    ]
}

/// Text that a spreadsheet does not take for a formula.
pub fn text_cell(text: &str) -> String {
    let text = plain(text);
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}
