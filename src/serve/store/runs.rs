//! Run numbers, reserved in the store before they are used: no number is used twice, however the process ended.
//!
//! While the program runs, the file holds the last number that a stream may use, not the last one used. It is raised
//! well in advance, so that neither a kill nor a disk that fails for a while repeats a number. At an orderly shutdown
//! the file gets the last number used; otherwise some numbers are skipped.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use crate::hub::Restored;
use touchline_core::time::RunId;

/// Numbers reserved at once: one write for a few hundred runs.
const AHEAD: u32 = 256;

/// With fewer left than this, more are reserved: so many runs may begin before the disk has written them.
const LEFT_MIN: u32 = 128;

/// How long the last run number of a removed stream is kept, seconds: 90 days, longer than consumers keep records.
const KEPT_S: i64 = 90 * 24 * 3600;

/// Most run numbers kept: a program may generate stream names.
const KEPT_MAX: i64 = 16_384;

/// The run numbers of one stream.
#[derive(Clone, Copy, Debug, Default)]
struct RunNumbers {
    /// The last number used.
    used: Option<u32>,
    /// The last reserved number in the file.
    written: Option<u32>,
    /// The last reserved number to be written.
    due: Option<u32>,
}

/// The run numbers of all streams.
#[derive(Debug, Default)]
pub(super) struct Runs {
    streams: BTreeMap<String, RunNumbers>,
}

impl Runs {
    /// Starts with the numbers in the file.
    pub fn new(restored: &BTreeMap<String, Restored>) -> Self {
        let numbers = |run: RunId| RunNumbers { used: Some(run.0), written: Some(run.0), due: None };
        let streams = restored.iter().filter_map(|(id, kept)| Some((id.clone(), numbers(kept.run?)))).collect();
        Self { streams }
    }

    /// Run `run` of `stream` has begun.
    pub fn began(&mut self, stream: &str, run: RunId) {
        self.ahead(stream, run);
        if let Some(numbers) = self.streams.get_mut(stream) {
            numbers.used = numbers.used.max(Some(run.0));
        }
    }

    /// Reserves numbers: run `run` of `stream` may begin soon.
    pub fn ahead(&mut self, stream: &str, run: RunId) {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), RunNumbers::default());
        }
        let Some(numbers) = self.streams.get_mut(stream) else { return };
        if numbers.due.max(numbers.written) < Some(run.0.saturating_add(LEFT_MIN)) {
            numbers.due = Some(run.0.saturating_add(AHEAD));
        }
    }

    /// Whether a number must be written.
    pub fn is_due(&self) -> bool {
        self.streams.values().any(|numbers| numbers.due.is_some())
    }

    /// Writes the due numbers. They stay due until [`Runs::written`].
    pub fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let due = self.streams.iter().filter_map(|(id, numbers)| Some((id, numbers.due?)));
        due.into_iter().try_for_each(|(id, run)| write(connection, id, run))
    }

    /// The due numbers are on the disk.
    pub fn written(&mut self) {
        for numbers in self.streams.values_mut() {
            numbers.written = numbers.due.take().or(numbers.written);
        }
    }

    /// `here` are the current streams. Deletes the numbers of streams removed long ago, and the oldest if there are too
    /// many.
    pub fn forget_gone(&mut self, connection: &mut Connection, here: &[String]) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        for id in here {
            see(&transaction, id)?;
        }
        let sql = "DELETE FROM runs WHERE seen < unixepoch() - ?1 OR stream IN
                   (SELECT stream FROM runs ORDER BY seen DESC, stream LIMIT -1 OFFSET ?2)";
        transaction.execute(sql, params![KEPT_S, KEPT_MAX])?;
        let left: BTreeSet<String> = transaction
            .prepare("SELECT stream FROM runs")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        transaction.commit()?;
        self.streams.retain(|id, numbers| numbers.written.is_none() || left.contains(id));
        Ok(())
    }

    /// Returns reserved numbers that were not used, at shutdown.
    pub fn give_back(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        for (id, numbers) in self.streams.iter().filter(|(_, numbers)| numbers.written != numbers.used) {
            match numbers.used {
                Some(run) => write(&transaction, id, run)?,
                None => drop(transaction.execute("DELETE FROM runs WHERE stream = ?1", [id])?),
            }
        }
        transaction.commit()
    }
}

/// Records that a stream exists now.
pub(super) fn see(connection: &Connection, stream: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE runs SET seen = unixepoch() WHERE stream = ?1", [stream]).map(drop)
}

fn write(connection: &Connection, stream: &str, run: u32) -> rusqlite::Result<()> {
    let sql = "INSERT INTO runs (stream, run, seen) VALUES (?1, ?2, unixepoch())
               ON CONFLICT (stream) DO UPDATE SET run = ?2, seen = unixepoch()";
    connection.execute(sql, params![stream, run]).map(drop)
}
