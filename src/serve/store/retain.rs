//! The bounds of the history: age and size.

use rusqlite::Connection;

use crate::config::HistorySettings;

/// The part of the size that pictures may have while others must go: they are the largest part, and seconds cannot be made again.
const POSTERS_PART: u64 = 4;

/// Removes old rows by age, then the oldest rows beyond the size: first pictures beyond a quarter, then seconds, then segments and records. The file does not
/// become smaller: new rows take the free space. Returns the removed rows.
pub(super) fn trim(connection: &mut Connection, limits: &HistorySettings, now_ms: i64) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let before = |age_s: u64| now_ms.saturating_sub_unsigned(age_s.saturating_mul(1000));
    let mut removed =
        transaction.execute("DELETE FROM history WHERE to_ms < ?1", [before(limits.seconds_s.min(limits.keep_s))])?;
    removed += transaction.execute("DELETE FROM segments WHERE ended_ms < ?1", [before(limits.keep_s)])?;
    // The last state is for the next start.
    let sql = "DELETE FROM records WHERE at_ms < ?1 AND (kind != 'state' OR number < (
                   SELECT max(number) FROM records AS newer WHERE newer.stream = records.stream AND newer.kind = 'state'))";
    removed += transaction.execute(sql, [before(limits.keep_s)])?;
    while used_bytes(&transaction)? > limits.max_bytes {
        // A twentieth at once, at least one row.
        let oldest = |table: &str| {
            format!(
                "DELETE FROM {table} WHERE number <= (SELECT min(number) + (max(number) - min(number)) / 20 FROM {table})"
            )
        };
        let sql = "SELECT coalesce(sum(length(poster)), 0) FROM segments WHERE poster IS NOT NULL";
        let posters: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
        if u64::try_from(posters).unwrap_or(0) > limits.max_bytes / POSTERS_PART {
            let sql = "UPDATE segments SET poster = NULL WHERE poster IS NOT NULL AND number <= (
                           SELECT min(number) + (max(number) - min(number)) / 20 FROM segments WHERE poster IS NOT NULL)";
            removed += transaction.execute(sql, [])?;
            continue;
        }
        let mut count = transaction.execute(&oldest("history"), [])?;
        if count == 0 {
            count = transaction.execute(&oldest("segments"), [])?;
            count += transaction.execute(&oldest("records"), [])?;
        }
        if count == 0 {
            break;
        }
        removed += count;
    }
    transaction.commit()?;
    Ok(removed)
}

/// Bytes of the file that are not free.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let of = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let bytes = (of("page_count")? - of("freelist_count")?) * of("page_size")?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
