//! The spool of a sink: records on the disk, in order, until the receiver has accepted them.
//!
//! It is SQLite with a write-ahead log and `synchronous = NORMAL`: a killed process loses no record that was added, and a power
//! failure loses what the system had not written back, some 30 s. The log's checksums discard a transaction that was cut off.
//! Each opening skips numbers, so that a number whose record was lost is not used again: with the id of the spool, a number
//! identifies a record for ever. *Rejected:* `synchronous = FULL`, which waits for the disk once per record and sink.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};

use super::shown;
use crate::config::RecordKind;
use touchline_core::error::{Error, Result};

/// Marks the file as a spool of this program: "TchS" in SQLite's header.
const APPLICATION: i32 = 0x5463_6853;

const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE spool (id TEXT NOT NULL) STRICT;
    CREATE TABLE records (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        kind TEXT NOT NULL,
        unix_ns INTEGER NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
";

/// Size of a record beside its JSON, bytes: number, stream, kind, time, and its share of a page.
const RECORD_OVERHEAD: u64 = 100;

/// Numbers that an opening skips: more than the records that a power failure can lose.
const SKIPPED: i64 = 1_000_000;

/// The log is cut to this size after it was written back.
const LOG_MAX: u32 = 4_000_000;

/// A record of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spooled {
    pub number: i64,
    pub stream: String,
    pub kind: RecordKind,
    /// When it was added, nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
    pub json: String,
}

pub(super) struct Spool {
    connection: Connection,
    id: String,
    max_bytes: u64,
    records: u64,
    bytes: u64,
}

impl Spool {
    /// Opens or creates the file for this process only. Also returns the number of records in a damaged file, which is moved
    /// away.
    ///
    /// # Errors
    /// [`Error::Output`] if the file cannot be opened or created, belongs to another program, or is open in another process.
    pub fn open(path: &Path, max_bytes: u64) -> Result<(Self, u64)> {
        let fail = |cause: String, advice: &str| Err(Error::output(shown(path), cause, advice));
        if let Some(folder) = path.parent()
            && let Err(e) = DirBuilder::new().recursive(true).mode(0o700).create(folder)
        {
            let advice = "grant this user write access, or name another folder in spool";
            return fail(format!("cannot create the folder: {e}"), advice);
        }
        // Created here, not by SQLite, so that others can never read it.
        let created = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        if let Err(e) = created {
            return fail(
                format!("cannot open the spool: {e}"),
                "grant this user write access, or name another folder in spool",
            );
        }
        let (connection, lost) = match prepare(path) {
            Ok(connection) => (connection, 0),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                let lost = readable(path).max(1);
                let aside = path.with_extension("spool.damaged");
                let moved = std::fs::rename(path, &aside).and_then(|()| {
                    // The log belongs to the damaged file.
                    let log = path.with_extension("spool-wal");
                    if log.exists() { std::fs::rename(log, path.with_extension("spool.damaged-wal")) } else { Ok(()) }
                });
                if let Err(e) = moved {
                    return fail(format!("the spool is damaged and cannot be moved away: {e}"), "move it away");
                }
                tracing::error!(
                    "{}: the spool is damaged; it is now {}, and a new one begins",
                    shown(path),
                    shown(&aside)
                );
                (prepare(path).map_err(|e| failed(path, &e))?, lost)
            }
            Err(e) => return Err(failed(path, &e)),
        };
        let spool = Self::read(connection, max_bytes).map_err(|e| failed(path, &e))?;
        Ok((spool, lost))
    }

    fn read(connection: Connection, max_bytes: u64) -> rusqlite::Result<Self> {
        let id = connection.query_row("SELECT id FROM spool", [], |row| row.get(0))?;
        let count = "SELECT count(*), coalesce(sum(octet_length(json)), 0) FROM records";
        let (records, bytes) = connection.query_row(count, [], |row| Ok((size(row, 0)?, size(row, 1)?)))?;
        Ok(Self { connection, id, max_bytes, records, bytes: bytes + records * RECORD_OVERHEAD })
    }

    /// Identifies this file. Random.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of records in it.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Their size.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a record of this length fits without dropping another.
    pub const fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes as u64 + RECORD_OVERHEAD <= self.max_bytes
    }

    /// Adds records. Returns the number of oldest records that were dropped to keep the bound.
    pub fn add(&mut self, stream: &str, unix_ns: i64, records: &[(RecordKind, &str)]) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction()?;
        let mut added = 0;
        {
            let text = "INSERT INTO records (stream, kind, unix_ns, json) VALUES (?, ?, ?, ?)";
            let mut insert = transaction.prepare(text)?;
            for (kind, json) in records {
                insert.execute(params![stream, kind.as_str(), unix_ns, json])?;
                added += json.len() as u64 + RECORD_OVERHEAD;
            }
        }
        let over = (self.bytes + added).saturating_sub(self.max_bytes);
        let (dropped, freed) = drop_oldest(&transaction, over)?;
        transaction.commit()?;
        self.records = self.records + records.len() as u64 - dropped;
        self.bytes = self.bytes + added - freed;
        Ok(dropped)
    }

    /// The oldest records: at most `count`, and about `bytes`.
    pub fn oldest(&self, count: usize, bytes: usize) -> rusqlite::Result<Vec<Spooled>> {
        let text = "SELECT number, stream, kind, unix_ns, json FROM records ORDER BY number LIMIT ?";
        let mut select = self.connection.prepare(text)?;
        let mut rows = select.query([i64::try_from(count).unwrap_or(i64::MAX)])?;
        let (mut found, mut size) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let name: String = row.get(2)?;
            let kind = RecordKind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap_or(RecordKind::State);
            let json: String = row.get(4)?;
            size += json.len();
            found.push(Spooled { number: row.get(0)?, stream: row.get(1)?, kind, unix_ns: row.get(3)?, json });
            if size >= bytes {
                break;
            }
        }
        Ok(found)
    }

    /// Removes the records up to `number`. Returns how many were still there: an overflow may have dropped some meanwhile.
    pub fn remove_through(&mut self, number: i64) -> rusqlite::Result<u64> {
        let text = "SELECT count(*), coalesce(sum(octet_length(json)), 0) FROM records WHERE number <= ?";
        let transaction = self.connection.transaction()?;
        let (count, bytes) = transaction.query_row(text, [number], |row| Ok((size(row, 0)?, size(row, 1)?)))?;
        transaction.execute("DELETE FROM records WHERE number <= ?", [number])?;
        transaction.commit()?;
        self.records = self.records.saturating_sub(count);
        self.bytes = self.bytes.saturating_sub(bytes + count * RECORD_OVERHEAD);
        Ok(count)
    }
}

/// A number of records or bytes.
fn size(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

/// Drops the oldest records until `over` bytes are free. Returns their number and size.
fn drop_oldest(transaction: &Transaction<'_>, over: u64) -> rusqlite::Result<(u64, u64)> {
    if over == 0 {
        return Ok((0, 0));
    }
    let (mut dropped, mut freed, mut last) = (0, 0, 0i64);
    {
        let mut select = transaction.prepare("SELECT number, octet_length(json) FROM records ORDER BY number")?;
        let mut rows = select.query([])?;
        while freed < over {
            let Some(row) = rows.next()? else { break };
            last = row.get(0)?;
            freed += size(row, 1)? + RECORD_OVERHEAD;
            dropped += 1;
        }
    }
    transaction.execute("DELETE FROM records WHERE number <= ?", [last])?;
    Ok((dropped, freed))
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_millis(500))?;
    // The first access locks the file until the process ends, and the log needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (application != 0 || tables > 0) {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_MAX, |_| Ok(()))?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(check),
        ));
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.execute("INSERT INTO spool (id) VALUES (?)", [random_id()])?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    let last = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'records'";
    let last: i64 = transaction.query_row(last, [], |row| row.get(0))?;
    transaction.execute("DELETE FROM sqlite_sequence WHERE name = 'records'", [])?;
    transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)", [last + SKIPPED])?;
    transaction.commit()?;
    // On the disk before the first number is used.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(connection)
}

/// The number of records that a damaged file still shows.
fn readable(path: &Path) -> u64 {
    let count = |connection: Connection| {
        connection.query_row("SELECT count(*) FROM records", [], |row| size(row, 0)).optional().ok().flatten()
    };
    Connection::open(path).ok().and_then(count).unwrap_or(0)
}

/// 16 hexadecimal digits.
fn random_id() -> String {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// Cause and advice for an error of SQLite.
fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    let fail = |cause: &str, advice: &str| Error::output(shown(path), cause, advice);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            fail("another process uses the spool", "stop that process, or name another folder in spool")
        }
        Some(ErrorCode::NotADatabase) => fail("is not a spool of this program", "name another folder in spool"),
        Some(ErrorCode::DiskFull) => fail("the disk is full", "free space on it, or name another folder in spool"),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            fail("cannot be written", "grant this user write access to the file and its folder")
        }
        None => fail("is not a spool of this program", "name another folder in spool"),
        _ => fail(&format!("cannot open the spool: {error}"), "name another folder in spool"),
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
