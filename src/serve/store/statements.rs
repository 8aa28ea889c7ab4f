//! The SQL of the store.

use rusqlite::{Connection, Transaction, params};
use touchline_core::segment::HAND_OVER_MAX_NS;
use touchline_core::time::RunId;

use super::fleet;
use super::history;
use super::runs;
use super::runs::Runs;
use super::{Contents, StoreMessage, Stored};
use crate::config::StreamSettings;
use crate::http::access::{LogOuts, NONCE, RevokedSession, Role};
use crate::hub::{HISTORY_EVENTS, HISTORY_INCIDENTS, KeptSegment};

pub(super) fn read(connection: &Connection) -> rusqlite::Result<Contents> {
    let mut contents = Contents { log_outs: read_log_outs(connection)?, ..Contents::default() };
    let mut rows = connection.prepare("SELECT id, settings, generation FROM streams ORDER BY place")?;
    let streams =
        rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))?;
    for stream in streams {
        let (id, settings, generation) = stream?;
        match serde_json::from_str::<StreamSettings>(&settings) {
            Ok(settings) => {
                // Masks its secrets until the hub does.
                drop(touchline_core::redact::remember(&settings.uri));
                let generation = u64::try_from(generation).unwrap_or(0);
                contents.streams.push(Stored { settings, generation });
            }
            // The others are kept. This one stays in the file.
            Err(e) => tracing::error!("cannot read the stored settings of stream {id:?}; it is skipped: {e}"),
        }
    }
    let sql = "SELECT stream, kind, json FROM (
                   SELECT *, row_number() OVER (PARTITION BY stream, kind ORDER BY number DESC) AS age FROM records)
               WHERE age <= CASE kind WHEN 'event' THEN ?1 WHEN 'incident' THEN ?2 ELSE 1 END ORDER BY number";
    let mut rows = connection.prepare(sql)?;
    let records = rows.query_map(params![HISTORY_EVENTS as i64, HISTORY_INCIDENTS as i64], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    for record in records {
        let (stream, kind, json) = record?;
        let restored = contents.restored.entry(stream).or_default();
        match kind.as_str() {
            "event" => restored.events.push(json.into()),
            "incident" => restored.incidents.push(json.into()),
            "state" => restored.state = Some(json.into()),
            _ => {}
        }
    }
    let mut rows = connection.prepare("SELECT stream, ends FROM openings WHERE ends > 0")?;
    let ends = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?;
    contents.ends = ends.collect::<rusqlite::Result<_>>()?;
    let mut rows = connection.prepare("SELECT stream, run FROM runs")?;
    let runs = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?;
    for run in runs {
        let (stream, run) = run?;
        contents.restored.entry(stream).or_default().run = Some(RunId(run));
    }
    Ok(contents)
}

/// Counts a crash for every stream that is still marked. Segments that were open have ended.
pub(super) fn count_ends(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE segments SET open = 0 WHERE open = 1", [])?;
    connection.execute("UPDATE openings SET ends = ends + 1, open = 0 WHERE open = 1", []).map(drop)
}

pub(super) fn mark(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO openings (stream, ends, open) VALUES (?1, 0, 1) ON CONFLICT (stream) DO UPDATE SET open = 1";
    connection.execute(sql, [id]).map(drop)
}

pub(super) fn unmark(connection: &Connection, id: &str, played: bool) -> rusqlite::Result<()> {
    let sql = "UPDATE openings SET open = 0, ends = CASE WHEN ?2 THEN 0 ELSE ends END WHERE stream = ?1";
    connection.execute(sql, params![id, played]).map(drop)
}

pub(super) fn save(connection: &Connection, stored: &Stored) -> rusqlite::Result<()> {
    let settings = serde_json::to_string(&stored.settings).expect("settings have string keys only and serialise");
    let generation = i64::try_from(stored.generation).unwrap_or(i64::MAX);
    let sql = "INSERT INTO streams (id, settings, generation) VALUES (?1, ?2, ?3)
               ON CONFLICT (id) DO UPDATE SET settings = ?2, generation = ?3";
    connection.execute(sql, params![stored.settings.id, settings, generation]).map(drop)
}

pub(super) fn delete(connection: &mut Connection, id: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("DELETE FROM streams WHERE id = ?1", [id])?;
    transaction.execute("DELETE FROM openings WHERE stream = ?1", [id])?;
    forget(&transaction, id)?;
    transaction.commit()
}

pub(super) fn log_out(connection: &Connection, session: &RevokedSession) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM logouts WHERE ends < unixepoch()", [])?;
    let sql = "INSERT OR IGNORE INTO logouts (nonce, role, ends) VALUES (?1, ?2, ?3)";
    let ends = i64::try_from(session.ends_s).unwrap_or(i64::MAX);
    connection.execute(sql, params![session.nonce, session.role.as_str(), ends]).map(drop)
}

pub(super) fn logins_from(connection: &mut Connection, role: Role, unix_s: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("DELETE FROM logouts WHERE role = ?1", [role.as_str()])?;
    let unix_s = i64::try_from(unix_s).unwrap_or(i64::MAX);
    transaction
        .execute("INSERT OR REPLACE INTO logins_from (role, unix_s) VALUES (?1, ?2)", params![role.as_str(), unix_s])?;
    transaction.commit()
}

fn read_log_outs(connection: &Connection) -> rusqlite::Result<LogOuts> {
    let role = |text: String| Role::ALL.into_iter().find(|role| role.as_str() == text);
    let seconds = |s: i64| u64::try_from(s).unwrap_or(0);
    let mut log_outs = LogOuts::default();
    let mut rows = connection.prepare("SELECT role, nonce, ends FROM logouts")?;
    for row in rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, [u8; NONCE]>(1)?, row.get(2)?)))? {
        let (name, nonce, ends) = row?;
        log_outs.left.extend(role(name).map(|role| RevokedSession { role, nonce, ends_s: seconds(ends) }));
    }
    let mut rows = connection.prepare("SELECT role, unix_s FROM logins_from")?;
    for row in rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
        let (name, unix_s) = row?;
        log_outs.not_before.extend(role(name).map(|role| (role, seconds(unix_s))));
    }
    Ok(log_outs)
}

pub(super) fn forget(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    runs::see(connection, id)?;
    connection.execute("DELETE FROM fleet_places WHERE stream = ?1", [id])?;
    connection.execute("DELETE FROM history WHERE stream = ?1", [id])?;
    connection.execute("DELETE FROM segments WHERE stream = ?1", [id])?;
    connection.execute("DELETE FROM records WHERE stream = ?1", [id]).map(drop)
}

pub(super) fn write_all(connection: &mut Connection, records: &[StoreMessage], runs: &Runs) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    runs.write(&transaction)?;
    for record in records {
        match record {
            StoreMessage::Record { stream, kind, json, at_ms } => {
                let sql =
                    "INSERT INTO records (stream, kind, json, at_ms, class) VALUES (?1, ?2, ?3, ?4, ?3 ->> '$.class')";
                transaction.execute(sql, params![stream, kind.as_str(), &**json, at_ms])?;
            }
            StoreMessage::RecordOnce { stream, kind, json, at_ms } => {
                let sql =
                    "INSERT INTO records (stream, kind, json, at_ms, class) SELECT ?1, ?2, ?3, ?4, ?3 ->> '$.class'
                           WHERE NOT EXISTS (SELECT 1 FROM records WHERE at_ms = ?4 AND stream = ?1 AND json = ?3)";
                transaction.execute(sql, params![stream, kind.as_str(), &**json, at_ms])?;
            }
            StoreMessage::Fleet(progress) => fleet::write(&transaction, progress)?,
            StoreMessage::Segment { stream, segment } => write_segment(&transaction, stream, segment)?,
            StoreMessage::Forget(id) => forget(&transaction, id)?,
            StoreMessage::Row(row) => history::write(&transaction, row)?,
            StoreMessage::Save(..)
            | StoreMessage::Delete(..)
            | StoreMessage::Run { .. }
            | StoreMessage::Second { .. }
            | StoreMessage::Pending { .. }
            | StoreMessage::FleetRecords { .. }
            | StoreMessage::Leave(_)
            | StoreMessage::Ahead { .. } => {}
            StoreMessage::Mark(..) | StoreMessage::Unmark(..) | StoreMessage::Here(_) => {}
            StoreMessage::LogOut(..) | StoreMessage::LoginsFrom(..) => {}
            StoreMessage::Flush(_) | StoreMessage::Close => {}
        }
    }
    transaction.commit()
}

/// Writes a segment in place of the one with the same begin, and of those within it.
fn write_segment(transaction: &Transaction<'_>, stream: &str, segment: &KeptSegment) -> rusqlite::Result<()> {
    let [first, last] = [segment.first, segment.last].map(|index| i64::try_from(index).unwrap_or(i64::MAX));
    let epoch = i64::try_from(segment.epoch).unwrap_or(i64::MAX);
    let sql = "DELETE FROM segments WHERE stream = ?1 AND epoch = ?2 AND run = ?3 AND first > ?4 AND first <= ?5";
    transaction.execute(sql, params![stream, epoch, segment.run.0, first, last])?;
    // Of machines that take a stream over from each other, one has an open segment.
    let sql = "UPDATE segments SET open = 0 WHERE stream = ?1 AND epoch < ?2 AND open = 1";
    transaction.execute(sql, params![stream, epoch])?;
    // A picture from before a restart is of a second of the segment, unless its content changed.
    let sql = "INSERT INTO segments
                   (stream, run, first, last, began_ms, ended_ms, content, class, open, json, poster, epoch, node)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
               ON CONFLICT (stream, epoch, run, first) DO UPDATE
               SET poster = CASE WHEN content = ?7 AND class IS ?8 THEN coalesce(?11, poster) ELSE ?11 END,
                   last = ?4, began_ms = ?5, ended_ms = ?6, content = ?7, class = ?8, open = ?9, json = ?10";
    let KeptSegment { run, began_ms, ended_ms, content, class, is_open, json, poster, .. } = segment;
    let (content, class, poster) = (content.as_str(), class.as_deref(), poster.as_deref());
    let node = segment.node.as_deref();
    let values =
        params![stream, run.0, first, last, began_ms, ended_ms, content, class, is_open, &**json, poster, epoch, node];
    transaction.execute(sql, values)?;
    if epoch > 0 { end_at_successor(transaction, stream, [*began_ms, *ended_ms]) } else { Ok(()) }
}

/// Ends segments of a stream within `span` (milliseconds since 1970-01-01 UTC) where the next machine took it over: both decide the
/// seconds of a planned move, and those of the next count, as in exports.
fn end_at_successor(transaction: &Transaction<'_>, stream: &str, span: [i64; 2]) -> rusqlite::Result<()> {
    let sql = "UPDATE segments AS before SET ended_ms = max(before.began_ms, next.at_ms)
               FROM (SELECT a.number, min(b.began_ms) AS at_ms FROM segments a INDEXED BY segments_by_end JOIN segments b
                         ON b.stream = a.stream AND b.epoch > a.epoch AND b.began_ms < a.ended_ms AND b.ended_ms > a.began_ms
                             AND a.ended_ms - b.began_ms <= ?4
                     WHERE a.stream = ?1 AND a.began_ms < ?3 AND a.ended_ms > ?2 GROUP BY a.number) AS next
               WHERE before.number = next.number";
    let max_ms = HAND_OVER_MAX_NS / 1_000_000;
    transaction.execute(sql, params![stream, span[0], span[1], max_ms]).map(drop)
}
