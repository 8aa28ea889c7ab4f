//! Seconds, for exports and the history.
//!
//! Lines of JSON, a minute of a stream in one compressed row: a row for each second would be a write a second. A killed process loses
//! the last minute.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rusqlite::{Connection, Transaction, params};
use serde::Deserialize;

use crate::hub::KeptTime;
use crate::record::format::parse_rfc3339;

/// Seconds in a row.
const ROW: u32 = 60;

/// The longest row that is read, bytes: far more than a minute of records of a pack with 1000 classes has.
const ROW_MAX: u64 = 8 << 20;

/// A row to be written.
pub(super) struct HistoryRow {
    stream: String,
    row: PendingRow,
}

#[derive(Default)]
struct PendingRow {
    lines: Vec<u8>,
    seconds: u32,
    /// The time of the seconds.
    time: Option<KeptTime>,
}

/// The rows that are not complete.
#[derive(Default)]
pub(super) struct History {
    pending: BTreeMap<String, PendingRow>,
}

impl History {
    /// Takes a line; `at_ms` is the begin of its second, if it is one. Returns a row when it is complete.
    pub fn take(&mut self, stream: &str, line: &str, at_ms: Option<i64>) -> Option<HistoryRow> {
        if !self.pending.contains_key(stream) {
            self.pending.insert(stream.to_owned(), PendingRow::default());
        }
        let row = self.pending.get_mut(stream).expect("it was inserted");
        row.lines.extend_from_slice(line.as_bytes());
        row.lines.push(b'\n');
        if let Some(at_ms) = at_ms {
            row.seconds += 1;
            let KeptTime { from_ms, to_ms } = row.time.unwrap_or(KeptTime { from_ms: at_ms, to_ms: at_ms });
            row.time = Some(KeptTime { from_ms: from_ms.min(at_ms), to_ms: to_ms.max(at_ms.saturating_add(1000)) });
        }
        if row.seconds < ROW { None } else { self.row(stream) }
    }

    /// Forgets what is pending of a removed stream.
    pub fn forget(&mut self, stream: &str) {
        self.pending.remove(stream);
    }

    /// The incomplete row of a stream.
    pub fn row(&mut self, stream: &str) -> Option<HistoryRow> {
        self.pending.remove(stream).map(|row| HistoryRow { stream: stream.to_owned(), row })
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// All incomplete rows.
    pub fn drain(&mut self) -> Vec<HistoryRow> {
        std::mem::take(&mut self.pending).into_iter().map(|(stream, row)| HistoryRow { stream, row }).collect()
    }

    /// What is pending of a stream.
    pub fn pending(&self, stream: &str) -> Vec<u8> {
        self.pending.get(stream).map(|row| row.lines.clone()).unwrap_or_default()
    }
}

/// The number of the last row.
pub(super) fn last_row(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(number), 0) FROM history", [], |row| row.get(0))
}

/// The lines of the rows of a stream that have something of `time`, oldest first, up to the row `last`.
pub(super) fn read(connection: &Connection, stream: &str, time: KeptTime, last: i64) -> rusqlite::Result<Vec<u8>> {
    let sql =
        "SELECT lines FROM history WHERE stream = ?1 AND number <= ?2 AND to_ms > ?3 AND from_ms < ?4 ORDER BY number";
    decompressed(connection.prepare(sql)?.query(params![stream, last, time.from_ms, time.to_ms])?)
}

/// The lines of all streams in the file.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<Vec<u8>> {
    let mut statement = connection.prepare("SELECT lines FROM history ORDER BY number")?;
    decompressed(statement.query([])?)
}

fn decompressed(mut rows: rusqlite::Rows<'_>) -> rusqlite::Result<Vec<u8>> {
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        decompress(row.get_ref(0)?.as_blob()?, &mut lines);
    }
    Ok(lines)
}

/// Appends the lines of a row. What a damaged row has before the damage is used: readers skip and count lines that are not whole.
fn decompress(bytes: &[u8], lines: &mut Vec<u8>) {
    if DeflateDecoder::new(bytes).take(ROW_MAX).read_to_end(lines).is_err() {
        lines.push(b'\n');
    }
}

/// Writes a row.
pub(super) fn write(transaction: &Transaction<'_>, HistoryRow { stream, row }: &HistoryRow) -> rusqlite::Result<()> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let bytes = encoder.write_all(&row.lines).and_then(|()| encoder.finish()).expect("memory takes all bytes");
    let KeptTime { from_ms, to_ms } = row.time.unwrap_or(KeptTime { from_ms: 0, to_ms: 0 });
    let sql = "INSERT INTO history (stream, lines, from_ms, to_ms) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(sql, params![stream, bytes, from_ms, to_ms]).map(drop)
}

/// Sets the times of rows from version 4 of the file: the time of their seconds, or now for files.
pub(super) fn date_rows(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    #[derive(Deserialize)]
    struct DatedLine {
        wall: Option<Wall>,
    }
    #[derive(Deserialize)]
    struct Wall {
        time: String,
    }
    let at_ms = |line: &[u8]| {
        let line: DatedLine = serde_json::from_slice(line).ok()?;
        Some(parse_rfc3339(&line.wall?.time).ok()?.div_euclid(1_000_000))
    };
    let now_ms: i64 = transaction.query_row("SELECT unixepoch() * 1000", [], |row| row.get(0))?;
    let mut statement = transaction.prepare("SELECT number, lines FROM history")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut lines = Vec::new();
        decompress(row.get_ref(1)?.as_blob()?, &mut lines);
        let times = || lines.split(|byte| *byte == b'\n').filter_map(at_ms);
        let (from_ms, to_ms) = (times().min().unwrap_or(now_ms), times().max().unwrap_or(now_ms).saturating_add(1000));
        let sql = "UPDATE history SET from_ms = ?2, to_ms = ?3 WHERE number = ?1";
        transaction.execute(sql, params![row.get::<_, i64>(0)?, from_ms, to_ms])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_kept_in_rows_of_a_minute() {
        let mut connection = super::super::schema::in_memory();
        let mut history = History::default();
        let minutes = 200;
        let mut rows = 0;
        for second in 0..minutes * 60 + 7 {
            let row = history.take("court", &format!("{{\"index\":{second}}}"), Some(second as i64 * 1000));
            assert!(history.take("court", "{\"type\":\"event\"}", None).is_none());
            if let Some(row) = row {
                let transaction = connection.transaction().unwrap();
                write(&transaction, &row).unwrap();
                transaction.commit().unwrap();
                rows += 1;
            }
        }
        assert_eq!((rows, last_row(&connection).unwrap()), (minutes, minutes as i64));
        let of = |stream: &str, time: KeptTime| {
            let mut lines = read(&connection, stream, time, rows as i64).unwrap();
            lines.extend(history.pending(stream));
            String::from_utf8(lines).unwrap()
        };
        let lines = of("court", KeptTime::ALL);
        let seconds: Vec<&str> = lines.lines().filter(|line| line.contains("index")).collect();
        assert_eq!(seconds.len(), minutes * 60 + 7);
        assert_eq!(seconds.last(), Some(&format!("{{\"index\":{}}}", minutes * 60 + 6).as_str()));
        // The event after the last second of a row begins the next one.
        assert_eq!(lines.lines().count() - seconds.len(), seconds.len(), "every event is there");
        assert!(of("other", KeptTime::ALL).is_empty());
        let hour = of("court", KeptTime { from_ms: 3_600_000, to_ms: 7_200_000 });
        assert!(hour.starts_with("{\"type\":\"event\"}\n{\"index\":3600}"), "{}", &hour[..60]);
        assert_eq!(
            hour.lines().filter(|line| line.contains("index")).count(),
            3607,
            "with those that are in no row yet"
        );
        let rest = read(&connection, "court", KeptTime::ALL, 100).unwrap();
        assert!(rest.len() < lines.len() * 51 / 100, "only the rows up to the last one");
        let written: i64 =
            connection.query_row("SELECT sum(length(lines)) FROM history", [], |row| row.get(0)).unwrap();
        assert!(written < lines.len() as i64 / 4, "{written} of {}", lines.len());
        connection
            .execute("UPDATE history SET lines = x'ff00ff' WHERE number = (SELECT max(number) FROM history)", [])
            .unwrap();
        let rest = of("court", KeptTime::ALL);
        assert!(rest.len() < lines.len() && rest.len() > lines.len() / 2, "a damaged row costs its minute");
        assert_eq!(history.drain().len(), 1);
    }
}
