//! The log of a source's process, as part of the program's.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

/// The longest line that is passed on, bytes; what is longer is cut.
const LINE_MAX: u64 = 4096;

/// At most so many lines are passed on in a [`SPAN`]: a process that floods its log must not flood the program's.
const LINES_MAX: usize = 100;
const SPAN: Duration = Duration::from_secs(10);

/// Passes on every line of `from` until that is over. Whatever writes them, they are redacted where the program writes its log.
pub(super) fn forward(from: impl Read, id: &str) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let (mut began, mut lines) = (Instant::now(), 0);
    loop {
        line.clear();
        match from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if began.elapsed() > SPAN {
            say_left_out(id, lines);
            (began, lines) = (Instant::now(), 0);
        }
        lines += 1;
        if lines <= LINES_MAX {
            say(id, String::from_utf8_lossy(&line).trim());
        }
    }
    say_left_out(id, lines);
}

fn say_left_out(id: &str, lines: usize) {
    if lines > LINES_MAX {
        tracing::warn!("{id}: {} more log lines of its process were dropped", lines - LINES_MAX);
    }
}

/// The process writes the level and what happened.
fn say(id: &str, line: &str) {
    let (level, text) = line.split_once(' ').unwrap_or((line, ""));
    match level {
        _ if line.is_empty() => {}
        "ERROR" => tracing::error!("{id}: {}", text.trim()),
        "WARN" => tracing::warn!("{id}: {}", text.trim()),
        "INFO" => tracing::info!("{id}: {}", text.trim()),
        "DEBUG" => tracing::debug!("{id}: {}", text.trim()),
        "TRACE" => tracing::trace!("{id}: {}", text.trim()),
        // Of a library, or of a panic.
        _ => tracing::warn!("{id}: {line}"),
    }
}
