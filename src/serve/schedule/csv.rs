//! Schedules in CSV: `start,end,expect`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Mistake, ScheduleEntry, When, names, unix_s, zone_of_local};

/// The first line.
const HEADER: [&str; 3] = ["start", "end", "expect"];

/// Reads `text`. `zone` is that of times without one.
pub(super) fn parse(text: &str, zone: Option<&TimeZone>) -> Result<Vec<ScheduleEntry>, Mistake> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| (1, e.to_string()))?;
    if !header.iter().eq(HEADER) {
        return Err((1, format!("the first line is not {}; add it above the entries", HEADER.join(","))));
    }
    let mut entries = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(1, |at| at.line() as usize);
            (line, format!("an entry has three values, start,end,expect: {e}"))
        })?;
        let line = record.position().map_or(1, |at| at.line() as usize);
        let mistake = |text: String| (line, text);
        let [start, end, expect] = [0, 1, 2].map(|i| record.get(i).unwrap_or_default());
        let (start_s, end_s) = (time(start, zone).map_err(mistake)?, time(end, zone).map_err(mistake)?);
        if end_s <= start_s {
            return Err(mistake(format!("the end {end} is not after the start {start}; correct one of them")));
        }
        let names = names(expect);
        if names.is_empty() {
            return Err(mistake("the entry names no class; write one under expect, as in tennis".into()));
        }
        entries.push(ScheduleEntry { line, names, when: When::Once(start_s..end_s) });
    }
    Ok(entries)
}

/// The second of a time with an offset, or of a local time.
fn time(text: &str, zone: Option<&TimeZone>) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_second());
    }
    let Ok(local) = text.parse::<DateTime>() else {
        return Err(format!(
            "{text:?} is not a time; write 2026-07-01T14:00:00Z, or 2026-07-01T14:00 in the time zone"
        ));
    };
    unix_s(local, &zone_of_local(zone, text)?)
}
