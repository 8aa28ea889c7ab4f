//! Reads the history on connections of its own: a reader delays no write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};

use super::fleet;
use super::history;
use crate::hub::{HistoryCursor, HistoryFilter, KeptTime, StoredRecord, StoredSegment, TimeOfContent};
use touchline_core::time::RunId;

/// Opens connections for reading.
#[derive(Clone, Debug)]
pub(super) struct StoreReader {
    path: PathBuf,
}

/// A condition, and its values.
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Those of `filter`; `time` is the condition for its begin and its end.
    fn of(filter: &HistoryFilter, time: &str) -> Self {
        let mut conditions = Self { sql: time.to_owned(), values: Vec::new() };
        conditions.values.extend([filter.from_ms.into(), filter.to_ms.into()]);
        conditions.one_of("stream", filter.streams.as_deref());
        conditions.one_of("class", filter.classes.as_deref());
        conditions
    }

    fn one_of(&mut self, column: &str, names: Option<&[String]>) {
        let Some(names) = names else { return };
        let marks = vec!["?"; names.len()].join(", ");
        self.sql += &format!(" AND {column} IN ({marks})");
        self.values.extend(names.iter().map(|name| Value::from(name.clone())));
    }

    /// The order by `time`, after the cursor, and the limit.
    fn page(&mut self, filter: &HistoryFilter, time: &str) {
        let (than, order) = if filter.newest_first { ("<", "DESC") } else { (">", "ASC") };
        if let Some(HistoryCursor { at_ms, number }) = filter.after {
            self.sql += &format!(" AND ({time}, number) {than} (?, ?)");
            self.values.extend([at_ms.into(), number.into()]);
        }
        self.sql += &format!(" ORDER BY {time} {order}, number {order} LIMIT ?");
        self.values.push(i64::try_from(filter.limit).unwrap_or(i64::MAX).into());
    }
}

impl StoreReader {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(super::READ_TIMEOUT)?;
        Ok(connection)
    }

    /// Rows of seconds up to the row `last`.
    pub fn seconds(&self, stream: &str, time: KeptTime, last: i64) -> rusqlite::Result<Vec<u8>> {
        history::read(&self.open()?, stream, time, last)
    }

    pub fn segments(&self, filter: &HistoryFilter) -> rusqlite::Result<Vec<StoredSegment>> {
        let mut conditions = Conditions::of(filter, "ended_ms > ? AND began_ms < ?");
        conditions.one_of("content", filter.kinds.as_deref());
        conditions.page(filter, "began_ms");
        let columns = "number, began_ms, stream, run, first, open, poster IS NOT NULL, json, node";
        let sql = format!("SELECT {columns} FROM segments WHERE {}", conditions.sql);
        self.rows(&sql, conditions.values, |row| {
            Ok(StoredSegment {
                at: HistoryCursor { number: row.get(0)?, at_ms: row.get(1)? },
                stream: row.get(2)?,
                run: RunId(row.get(3)?),
                first: row.get::<_, i64>(4)?.unsigned_abs(),
                is_open: row.get(5)?,
                has_poster: row.get(6)?,
                json: row.get(7)?,
                node: row.get(8)?,
            })
        })
    }

    /// See [`fleet::position`].
    pub fn fleet_position(&self, created_ns: i64) -> rusqlite::Result<u64> {
        fleet::position(&self.open()?, created_ns)
    }

    pub fn poster(&self, stream: &str, run: RunId, first: u64) -> rusqlite::Result<Option<Vec<u8>>> {
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        // Runs of this machine have a number of their own, those of others may have the same.
        let sql = "SELECT poster FROM segments WHERE stream = ?1 AND run = ?2 AND first = ?3 AND node IS NULL";
        let found = self.open()?.query_row(sql, params![stream, run.0, first], |row| row.get(0)).optional()?;
        Ok(found.flatten())
    }

    pub fn records(&self, filter: &HistoryFilter) -> rusqlite::Result<Vec<StoredRecord>> {
        let mut conditions = Conditions::of(filter, "at_ms >= ? AND at_ms < ?");
        conditions.one_of("kind", filter.kinds.as_deref());
        conditions.page(filter, "at_ms");
        let sql = format!("SELECT number, at_ms, json FROM records WHERE {}", conditions.sql);
        self.rows(&sql, conditions.values, |row| {
            Ok(StoredRecord { at: HistoryCursor { number: row.get(0)?, at_ms: row.get(1)? }, json: row.get(2)? })
        })
    }

    /// Milliseconds of each content, by stream, in each of `times`.
    pub fn times(&self, times: &[KeptTime]) -> rusqlite::Result<Vec<Vec<TimeOfContent>>> {
        let connection = self.open()?;
        let sql = "SELECT stream, content, class, sum(min(ended_ms, ?2) - max(began_ms, ?1)) FROM segments
                   WHERE ended_ms > ?1 AND began_ms < ?2 GROUP BY stream, content, class ORDER BY stream, content, class";
        let mut statement = connection.prepare(sql)?;
        let of = |time: &KeptTime| {
            let rows = statement.query_map([time.from_ms, time.to_ms], |row| {
                Ok(TimeOfContent { stream: row.get(0)?, content: row.get(1)?, class: row.get(2)?, ms: row.get(3)? })
            })?;
            rows.collect()
        };
        times.iter().map(of).collect()
    }

    /// Time of the first record of each stream, milliseconds since 1970-01-01 UTC.
    pub fn first_times(&self) -> rusqlite::Result<BTreeMap<String, i64>> {
        let sql = "SELECT stream, min(at_ms) FROM (
                       SELECT stream, min(began_ms) AS at_ms FROM segments GROUP BY stream
                       UNION ALL SELECT stream, min(at_ms) FROM records WHERE at_ms > 0 GROUP BY stream)
                   GROUP BY stream";
        Ok(self.rows(sql, Vec::new(), |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect())
    }

    fn rows<T>(
        &self,
        sql: &str,
        values: Vec<Value>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let connection = self.open()?;
        let mut statement = connection.prepare(sql)?;
        statement.query_map(params_from_iter(values), read)?.collect()
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
