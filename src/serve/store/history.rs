//! The seconds of the last day, for exports.
//!
//! Lines of JSON, a minute of a stream in one compressed row: a row for each second would be a write a second. A killed process loses
//! the last minute.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rusqlite::{Connection, Transaction, params};

/// Seconds in a row.
const ROW: u32 = 60;

/// Rows kept of each stream: a day.
const ROWS: i64 = 24 * 60;

/// The longest row that is read, bytes: far more than a minute of records of a pack with 1000 classes has.
const ROW_MAX: u64 = 8 << 20;

/// A row to be written.
pub(super) struct HistoryRow {
    stream: String,
    lines: Vec<u8>,
}

#[derive(Default)]
struct PendingRow {
    lines: Vec<u8>,
    seconds: u32,
}

/// The rows that are not complete.
#[derive(Default)]
pub(super) struct History {
    pending: BTreeMap<String, PendingRow>,
}

impl History {
    /// Takes a line. Returns a row when it is complete.
    pub fn take(&mut self, stream: &str, line: &str, is_second: bool) -> Option<HistoryRow> {
        if !self.pending.contains_key(stream) {
            self.pending.insert(stream.to_owned(), PendingRow::default());
        }
        let row = self.pending.get_mut(stream).expect("it was inserted");
        row.lines.extend_from_slice(line.as_bytes());
        row.lines.push(b'\n');
        row.seconds += u32::from(is_second);
        if row.seconds < ROW {
            return None;
        }
        self.pending.remove(stream).map(|row| HistoryRow { stream: stream.to_owned(), lines: row.lines })
    }

    /// Forgets what is pending of a removed stream.
    pub fn forget(&mut self, stream: &str) {
        self.pending.remove(stream);
    }

    /// All incomplete rows.
    pub fn drain(&mut self) -> Vec<HistoryRow> {
        std::mem::take(&mut self.pending)
            .into_iter()
            .map(|(stream, row)| HistoryRow { stream, lines: row.lines })
            .collect()
    }

    /// The lines of a stream, oldest first.
    pub fn read(&self, connection: &Connection, stream: &str) -> rusqlite::Result<Vec<u8>> {
        let mut statement = connection.prepare("SELECT lines FROM history WHERE stream = ?1 ORDER BY number")?;
        let mut lines = decompressed(statement.query([stream])?)?;
        lines.extend(self.pending.get(stream).into_iter().flat_map(|row| &row.lines));
        Ok(lines)
    }
}

/// The lines of all streams in the file.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<Vec<u8>> {
    let mut statement = connection.prepare("SELECT lines FROM history ORDER BY number")?;
    decompressed(statement.query([])?)
}

fn decompressed(mut rows: rusqlite::Rows<'_>) -> rusqlite::Result<Vec<u8>> {
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob()?;
        // What a damaged row has before the damage is used: the reader skips and counts lines that are not whole.
        if DeflateDecoder::new(bytes).take(ROW_MAX).read_to_end(&mut lines).is_err() {
            lines.push(b'\n');
        }
    }
    Ok(lines)
}

/// Writes a row and deletes those that are too old.
pub(super) fn write(transaction: &Transaction<'_>, row: &HistoryRow) -> rusqlite::Result<()> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let bytes = encoder.write_all(&row.lines).and_then(|()| encoder.finish()).expect("memory takes all bytes");
    transaction.execute("INSERT INTO history (stream, lines) VALUES (?1, ?2)", params![row.stream, bytes])?;
    let sql = "DELETE FROM history WHERE stream = ?1 AND number <=
               (SELECT number FROM history WHERE stream = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)";
    transaction.execute(sql, params![row.stream, ROWS]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_in_rows_of_a_minute() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(super::super::schema::HISTORY).unwrap();
        let mut history = History::default();
        let minutes = ROWS as u64 + 3;
        let mut rows = 0;
        for second in 0..minutes * 60 + 7 {
            let row = history.take("court", &format!("{{\"index\":{second}}}"), true);
            assert!(history.take("court", "{\"type\":\"event\"}", false).is_none());
            if let Some(row) = row {
                let transaction = connection.transaction().unwrap();
                write(&transaction, &row).unwrap();
                transaction.commit().unwrap();
                rows += 1;
            }
        }
        assert_eq!(rows, minutes);
        let lines = String::from_utf8(history.read(&connection, "court").unwrap()).unwrap();
        let seconds: Vec<&str> = lines.lines().filter(|line| line.contains("index")).collect();
        assert_eq!(seconds.len(), ROWS as usize * 60 + 7);
        assert_eq!(seconds.last(), Some(&format!("{{\"index\":{}}}", minutes * 60 + 6).as_str()));
        // The event after the last second of a row begins the next one.
        assert_eq!(lines.lines().count() - seconds.len(), seconds.len() + 1, "every event is there");
        assert!(history.read(&connection, "other").unwrap().is_empty());
        assert_eq!(history.drain().len(), 1);
        let written: i64 =
            connection.query_row("SELECT sum(length(lines)) FROM history", [], |row| row.get(0)).unwrap();
        assert!(written < lines.len() as i64 / 4, "{written} of {}", lines.len());
        connection
            .execute("UPDATE history SET lines = x'ff00ff' WHERE number = (SELECT max(number) FROM history)", [])
            .unwrap();
        let rest = history.read(&connection, "court").unwrap();
        assert!(rest.len() < lines.len() && rest.len() > lines.len() / 2, "a damaged row costs its minute");
    }
}
