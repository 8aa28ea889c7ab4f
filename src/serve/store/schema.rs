//! The file of the store: permissions, identification, integrity and migrations.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use super::history;
use touchline_core::error::{Error, Result};

/// Marks the file as this program's: "TchL" in SQLite's header.
const APPLICATION: i32 = 0x5463_684c;

/// Size of SQLite's header, and offset of the application id in it.
const HEADER: u64 = 100;
const MARK: usize = 68;

/// The migration of each version. Never change a released one; append.
const STEPS: [&str; 7] = [
    "
    CREATE TABLE streams (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        settings TEXT NOT NULL,
        generation INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE records (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        kind TEXT NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    CREATE INDEX records_of_stream ON records (stream, kind, number);
    CREATE TABLE runs (
        stream TEXT PRIMARY KEY,
        run INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    // Streams that are being opened, and how often the process ended meanwhile.
    "
    CREATE TABLE openings (
        stream TEXT PRIMARY KEY,
        ends INTEGER NOT NULL,
        open INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    // Log-outs, and when a stream last existed, so that run numbers of removed streams can be deleted.
    "
    CREATE TABLE logouts (
        nonce BLOB PRIMARY KEY,
        role TEXT NOT NULL,
        ends INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE logins_from (
        role TEXT PRIMARY KEY,
        unix_s INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE runs ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
    UPDATE runs SET seen = unixepoch();
",
    "
    CREATE TABLE history (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        lines BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_of_stream ON history (stream, number);
",
    // Segments, and the time and class of records and rows of seconds. `history::date_rows` follows.
    "
    CREATE TABLE segments (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        run INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        began_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        content TEXT NOT NULL,
        class TEXT,
        open INTEGER NOT NULL,
        json TEXT NOT NULL,
        UNIQUE (stream, run, first)
    ) STRICT;
    CREATE INDEX segments_by_end ON segments (ended_ms);
    CREATE INDEX segments_by_begin ON segments (stream, began_ms);
    ALTER TABLE records ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE records ADD COLUMN class TEXT;
    UPDATE records SET
        at_ms = coalesce(CAST(unixepoch(coalesce(json ->> '$.wall.time', json ->> '$.at'), 'subsec') * 1000 AS INTEGER), 0),
        class = json ->> '$.class'
        WHERE json_valid(json);
    CREATE INDEX records_by_time ON records (at_ms);
    ALTER TABLE history ADD COLUMN from_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE history ADD COLUMN to_ms INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX history_by_time ON history (stream, to_ms);
",
    // Pictures of segments.
    "
    ALTER TABLE segments ADD COLUMN poster BLOB;
    CREATE INDEX segments_with_poster ON segments (number) WHERE poster IS NOT NULL;
",
    // Segments of other machines of a fleet, whose runs may have the same numbers, and how far the records of the fleet are stored.
    "
    CREATE TABLE segments_of_fleet (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        node TEXT,
        run INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        began_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        content TEXT NOT NULL,
        class TEXT,
        open INTEGER NOT NULL,
        json TEXT NOT NULL,
        poster BLOB,
        UNIQUE (stream, epoch, run, first)
    ) STRICT;
    INSERT INTO segments_of_fleet
        (number, stream, epoch, run, first, last, began_ms, ended_ms, content, class, open, json, poster)
        SELECT number, stream, CASE WHEN json_valid(json) THEN CAST(coalesce(json ->> '$.epoch', 0) AS INTEGER) ELSE 0 END,
            run, first, last, began_ms, ended_ms, content, class, open, json, poster FROM segments;
    DROP TABLE segments;
    ALTER TABLE segments_of_fleet RENAME TO segments;
    CREATE INDEX segments_by_end ON segments (ended_ms);
    CREATE INDEX segments_by_begin ON segments (stream, began_ms);
    CREATE INDEX segments_with_poster ON segments (number) WHERE poster IS NOT NULL;
    CREATE INDEX segments_of_here ON segments (stream, run, first) WHERE node IS NULL;
    CREATE INDEX segments_open ON segments (stream, epoch) WHERE open = 1;
    CREATE TABLE fleet_position (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        created_ns INTEGER NOT NULL,
        sequence INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE fleet_places (
        stream TEXT PRIMARY KEY,
        epoch INTEGER NOT NULL,
        run INTEGER NOT NULL,
        last INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// The version whose rows of seconds have their time.
const DATED: i32 = 5;

/// Version of the file that this program writes.
const VERSION: i32 = STEPS.len() as i32;

/// Keeps other processes of this program from the file. Others, such as a backup, may read it.
#[derive(Debug)]
pub(super) struct StoreLock {
    _held: File,
}

/// Opens or creates the file. No other process of this program can open it while the lock is held.
///
/// # Errors
/// [`Error::Output`] with the cause and advice.
pub(super) fn open(path: &Path) -> Result<(Connection, StoreLock)> {
    let fail = |cause: &str, advice: &str| Error::output(path.display().to_string(), cause, advice);
    // Created here, not by SQLite, so that others can never read it.
    let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = made.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            fail("the folder does not exist", "create it, or name another file with --state")
        }
        std::io::ErrorKind::IsADirectory => fail("is a folder", "name a file in it, as in --state FOLDER/touchline.db"),
        _ => fail(&e.to_string(), "grant this user write access, or name another file with --state"),
    })?;
    // Checked before SQLite opens it, because SQLite writes to it.
    if !may_be_ours(&file).map_err(|e| fail(&e.to_string(), "check the file"))? {
        return Err(fail("is not a store of this program", "name another file with --state"));
    }
    drop(file);
    let mut connection = Connection::open(path).map_err(|e| failed(path, &e))?;
    let lock = prepare(&mut connection, path).map_err(|trouble| match trouble {
        OpenFailure::Sql(e) => failed(path, &e),
        OpenFailure::Foreign => fail("is a database of another program", "name another file with --state"),
        OpenFailure::Newer(version) => fail(
            &format!("was written by a newer version of the program (file version {version}, supported {VERSION})"),
            "run that version, or name another file with --state",
        ),
        OpenFailure::Damaged(text) => damaged(path, &text),
        OpenFailure::Locked => in_use(path),
        OpenFailure::Mode(e) => fail(&e.to_string(), "run the program as its owner, or name another file with --state"),
    })?;
    Ok((connection, lock))
}

enum OpenFailure {
    /// Another process has the lock.
    Locked,
    Sql(rusqlite::Error),
    Foreign,
    Newer(i32),
    Damaged(String),
    /// Its permissions cannot be restricted to its owner.
    Mode(std::io::Error),
}

impl From<rusqlite::Error> for OpenFailure {
    fn from(e: rusqlite::Error) -> Self {
        OpenFailure::Sql(e)
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<StoreLock, OpenFailure> {
    connection.busy_timeout(std::time::Duration::from_millis(500))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (tables > 0 || application != 0 || version != 0) {
        return Err(OpenFailure::Foreign);
    }
    if !(0..=VERSION).contains(&version) {
        return Err(OpenFailure::Newer(version));
    }
    // The file is ours. From here on it is written, and its log inherits its mode.
    let lock = lock(path)?;
    keep_from_others(path).map_err(OpenFailure::Mode)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    let check: String = transaction.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(OpenFailure::Damaged(check));
    }
    for step in &STEPS[version as usize..] {
        transaction.execute_batch(step)?;
    }
    if version < DATED {
        history::date_rows(&transaction)?;
    }
    if version < VERSION {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        tracing::info!("{}: store of version {VERSION}", path.display());
    }
    transaction.commit()?;
    Ok(lock)
}

/// Locks a file beside it: SQLite's own locks would keep out readers too, and end when any file handle of it is closed.
fn lock(path: &Path) -> Result<StoreLock, OpenFailure> {
    let path = beside(path, "-lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open.map_err(OpenFailure::Mode)?;
    match file.try_lock() {
        Ok(()) => Ok(StoreLock { _held: file }),
        Err(TryLockError::WouldBlock) => Err(OpenFailure::Locked),
        Err(TryLockError::Error(e)) => Err(OpenFailure::Mode(e)),
    }
}

/// The path of a file beside the store.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A file as the program of an earlier version wrote it, without rows.
#[cfg(test)]
pub(super) fn of_version(path: &Path, version: i32) -> Connection {
    let connection = Connection::open(path).unwrap();
    STEPS[..version as usize].iter().for_each(|step| connection.execute_batch(step).unwrap());
    connection.pragma_update(None, "application_id", APPLICATION).unwrap();
    connection.pragma_update(None, "user_version", version).unwrap();
    connection
}

/// An empty store.
#[cfg(test)]
pub(super) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    STEPS.iter().for_each(|step| connection.execute_batch(step).unwrap());
    connection
}

/// Whether the file is empty, or a database that is not another program's. If the first process was killed early, the
/// application id may be in the log only.
fn may_be_ours(file: &File) -> std::io::Result<bool> {
    let mut header = Vec::new();
    file.take(HEADER).read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(true);
    }
    let mark = header.get(MARK..MARK + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    Ok(header.starts_with(b"SQLite format 3\0") && matches!(mark, Some(0 | APPLICATION)))
}

/// Restricts the file, its log and the index of the log to their owner.
fn keep_from_others(path: &Path) -> std::io::Result<()> {
    for path in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!("{}: other users could read the secrets in it; now only its owner can", path.display());
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

fn damaged(path: &Path, text: &str) -> Error {
    let advice = "restore a backup, or move it away to start without its streams";
    Error::output(path.display().to_string(), format!("the store is damaged: {text}"), advice)
}

fn in_use(path: &Path) -> Error {
    let advice = "stop that process, or name another file with --state";
    Error::output(path.display().to_string(), "another process uses the store", advice)
}

/// Cause and advice for an error of SQLite.
pub(super) fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    let fail = |cause: &str, advice: &str| Error::output(path.display().to_string(), cause, advice);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => in_use(path),
        Some(ErrorCode::NotADatabase) => fail("is not a store of this program", "name another file with --state"),
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, &error.to_string()),
        Some(ErrorCode::DiskFull) => fail("the disk is full", "free space on it, or name another file with --state"),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            fail("cannot be written", "grant this user write access to the file and its folder")
        }
        _ => fail(&format!("cannot open the store: {error}"), "name another file with --state"),
    }
}
