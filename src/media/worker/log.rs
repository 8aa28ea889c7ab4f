//! Forwards the log of a source's process to the program's log.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use touchline_core::clock::{Clock, Deadline};

/// The longest forwarded line, bytes. Longer lines are cut.
const LINE_MAX: u64 = 4096;

/// The most lines per [`SPAN`], so that a process cannot flood the program's log.
const LINES_MAX: usize = 100;
const SPAN: Duration = Duration::from_secs(10);

/// Counts lines against [`LINES_MAX`].
struct LineQuota {
    ends: Deadline,
    lines: usize,
}

impl LineQuota {
    fn new(clock: &dyn Clock) -> Self {
        Self { ends: Deadline::after(clock, SPAN), lines: 0 }
    }

    /// Counts a line. Returns whether it is to be logged, and the number of lines that the span before it dropped.
    fn count(&mut self, clock: &dyn Clock) -> (bool, usize) {
        let dropped = if self.ends.is_over(clock) { std::mem::replace(self, Self::new(clock)).dropped() } else { 0 };
        self.lines += 1;
        (self.lines <= LINES_MAX, dropped)
    }

    /// The lines of this span that were not logged.
    fn dropped(&self) -> usize {
        self.lines.saturating_sub(LINES_MAX)
    }
}

/// Forwards every line of `from` until its end. The program's log redacts them.
pub(super) fn forward(from: impl Read, id: &str, clock: &dyn Clock) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut quota = LineQuota::new(clock);
    loop {
        line.clear();
        match from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let (is_logged, dropped) = quota.count(clock);
        log_dropped(id, dropped);
        if is_logged {
            log_line(id, String::from_utf8_lossy(&line).trim());
        }
    }
    log_dropped(id, quota.dropped());
}

fn log_dropped(id: &str, lines: usize) {
    if lines > 0 {
        tracing::warn!("{id}: {lines} more log lines of its process were dropped");
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

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::clock::ManualClock;

    #[test]
    fn a_process_that_floods_the_log_is_cut_until_the_span_is_over() {
        let clock = ManualClock::default();
        let mut quota = LineQuota::new(&clock);
        let logged = (0..LINES_MAX + 40).filter(|_| quota.count(&clock).0).count();
        assert_eq!((logged, quota.dropped()), (LINES_MAX, 40));
        clock.advance(SPAN.as_nanos() as u64);
        assert_eq!(quota.count(&clock), (false, 0), "the span includes its end");
        clock.advance(1);
        assert_eq!(quota.count(&clock), (true, 41));
        assert_eq!((quota.count(&clock), quota.dropped()), ((true, 0), 0));
    }
}
