//! Forwards the log of a source's process to the program's log.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

/// The longest forwarded line, bytes. Longer lines are cut.
const LINE_MAX: u64 = 4096;

/// The most lines per [`SPAN`], so that a process cannot flood the program's log.
const LINES_MAX: usize = 100;
const SPAN: Duration = Duration::from_secs(10);

/// Forwards every line of `from` until its end. The program's log redacts them.
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
            log_dropped(id, lines);
            (began, lines) = (Instant::now(), 0);
        }
        lines += 1;
        if lines <= LINES_MAX {
            log_line(id, String::from_utf8_lossy(&line).trim());
        }
    }
    log_dropped(id, lines);
}

fn log_dropped(id: &str, lines: usize) {
    if lines > LINES_MAX {
        tracing::warn!("{id}: {} more log lines of its process were dropped", lines - LINES_MAX);
    }
}

/// Logs one line of the process, which begins with its level.
fn log_line(id: &str, line: &str) {
    let (level, text) = line.split_once(' ').unwrap_or((line, ""));
    match level {
        _ if line.is_empty() => {}
        "ERROR" => tracing::error!("{id}: {}", text.trim()),
        "WARN" => tracing::warn!("{id}: {}", text.trim()),
        "INFO" => tracing::info!("{id}: {}", text.trim()),
        "DEBUG" => tracing::debug!("{id}: {}", text.trim()),
        "TRACE" => tracing::trace!("{id}: {}", text.trim()),
        // From a library or a panic.
        _ => tracing::warn!("{id}: {line}"),
    }
}
