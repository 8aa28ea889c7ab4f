//! The store of a running program: a backup by SQLite while it writes, and the history over the API.

use std::path::Path;
use std::process::Command;

use crate::common::alone;
use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::program::finish;
use crate::common::skip::{Lacks, skip};
use crate::common::wait::until;

/// Copies the store with SQLite's backup, checks the copy, and prints its rows of records and segments.
const BACKUP: &str = "
import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
assert target.execute('PRAGMA integrity_check').fetchone() == ('ok',)
print(*(target.execute(f'SELECT count(*) FROM {table}').fetchone()[0] for table in ('records', 'segments')))
";

/// Rows of records and segments in a backup of `state`.
fn backup(state: &Path, copy: &Path) -> [u64; 2] {
    let output = finish(Command::new("python3").args(["-c", BACKUP]).arg(state).arg(copy));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<u64> = text.split_whitespace().map(|count| count.parse().unwrap()).collect();
    counts.try_into().unwrap()
}

#[test]
fn a_backup_works_while_the_program_writes_and_can_be_started() {
    let has_sqlite = Command::new("python3").args(["-c", "import sqlite3"]).output();
    if !has_sqlite.is_ok_and(|done| done.status.success()) {
        return skip(Lacks::Tool, "no python3 with sqlite3");
    }
    let _one = alone();
    let dir = tempfile::tempdir().unwrap();
    let (state, copy) = (dir.path().join("state.db"), dir.path().join("copy.db"));
    let options =
        ["--vote-window=2", "--vote-onset=0.01", "--vote-offset=0.005", "court=testsrc://?width=64&height=48&fps=10"];
    let mut arguments: Vec<String> = options.map(str::to_owned).to_vec();
    arguments.extend(["--state".to_owned(), state.display().to_string()]);
    let mut live = Live::start_with(dir.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    // Each backup is made while the stream writes, and has at least what the one before had.
    let mut before = [0, 0];
    until("more rows in each of some backups", || {
        let rows = backup(&state, &copy);
        assert!(rows[0] >= before[0] && rows[1] >= before[1], "{rows:?} after {before:?}");
        let has_both = before[0] > 0 && rows[1] > 0;
        before = rows;
        has_both
    });
    assert!(live.is_running());
    let segments = ask(&live.address, "GET", "/api/v1/segments", None, &[]).body;
    assert!(!segments["segments"].as_array().unwrap().is_empty(), "{segments}");
    // A second program is refused as long as the first runs.
    let mut second = crate::common::program::touchline();
    second.args(["run", "--quiet", "--listen", "off", "--state"]).arg(&state).arg("testsrc://");
    let refused = finish(&mut second);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("another process uses the store"), "{text}");
    assert_eq!(live.stop(), 0);
    // The copy is a store.
    let copied = ["--state".to_owned(), copy.display().to_string()];
    let live = Live::start_with(dir.path(), "127.0.0.1", &copied);
    wait_until_ready(&live.address);
    let copied = ask(&live.address, "GET", "/api/v1/segments", None, &[]).body;
    assert_eq!(copied["segments"][0]["segment"]["first"], segments["segments"][0]["segment"]["first"], "{copied}");
    assert_eq!(live.stop(), 0);
}
