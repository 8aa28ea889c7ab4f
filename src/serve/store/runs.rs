//! The numbers of runs, written ahead of their use: no run has the number of one before it, however the process ended.
//!
//! While the program runs, the file holds the last number that a stream may use, not the last one that it did. It is raised
//! long before it is reached, so that neither a process that is killed nor a disk that does not answer for a while gives a
//! number away twice. At an orderly end the file gets the last number that was used; after any other some are left out.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use crate::publish::hub::Restored;
use touchline_core::time::RunId;

/// How many numbers are set apart at once: a write every few hundred runs.
const AHEAD: u32 = 256;

/// With fewer left than this, more are set apart: so many runs may begin before the disk has answered.
const LEFT_MIN: u32 = 128;

/// How long the number of a stream's last run is kept after the stream is gone, seconds: 90 days. Records are not kept for longer
/// than that by those who compare them.
const KEPT_S: i64 = 90 * 24 * 3600;

/// Numbers that are kept of streams that are gone or not, at most: names may be made by a program.
const KEPT_MAX: i64 = 16_384;

/// Of one stream.
#[derive(Clone, Copy, Debug, Default)]
struct RunNumbers {
    /// The last that was used.
    used: Option<u32>,
    /// The last that may be used, by the file.
    written: Option<u32>,
    /// The same, as it is to be.
    due: Option<u32>,
}

/// Of every stream that ever had one.
#[derive(Debug, Default)]
pub(super) struct Runs {
    streams: BTreeMap<String, RunNumbers>,
}

impl Runs {
    /// As the file has them.
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

    /// Run `run` of `stream` may begin soon.
    pub fn ahead(&mut self, stream: &str, run: RunId) {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), RunNumbers::default());
        }
        let Some(numbers) = self.streams.get_mut(stream) else { return };
        if numbers.due.max(numbers.written) < Some(run.0.saturating_add(LEFT_MIN)) {
            numbers.due = Some(run.0.saturating_add(AHEAD));
        }
    }

    /// Whether something is to be written.
    pub fn is_due(&self) -> bool {
        self.streams.values().any(|numbers| numbers.due.is_some())
    }

    /// Writes what is due; it stays due until [`Runs::written`].
    pub fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let due = self.streams.iter().filter_map(|(id, numbers)| Some((id, numbers.due?)));
        due.into_iter().try_for_each(|(id, run)| write(connection, id, run))
    }

    /// What was due is on the disk.
    pub fn written(&mut self) {
        for numbers in self.streams.values_mut() {
            numbers.written = numbers.due.take().or(numbers.written);
        }
    }

    /// The streams `here` are there. Forgets the numbers of those that have not been for long, and of the longest gone when they are
    /// too many.
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

    /// Nothing begins any more: gives back what was set apart and not used.
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

/// A stream is there, or was until now.
pub(super) fn see(connection: &Connection, stream: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE runs SET seen = unixepoch() WHERE stream = ?1", [stream]).map(drop)
}

fn write(connection: &Connection, stream: &str, run: u32) -> rusqlite::Result<()> {
    let sql = "INSERT INTO runs (stream, run, seen) VALUES (?1, ?2, unixepoch())
               ON CONFLICT (stream) DO UPDATE SET run = ?2, seen = unixepoch()";
    connection.execute(sql, params![stream, run]).map(drop)
}
