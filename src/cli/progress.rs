//! Progress of long work: a bar with rate and ETA on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use touchline_core::redact::print_error_line;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// A running piece of work of known length.
pub struct Bar {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    started: Instant,
    last_line: Instant,
}

impl Bar {
    /// `what` names the units, as in "files".
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:28} {pos}/{len} {msg}  {per_sec}  {elapsed} elapsed, {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(what)
        });
        let now = Instant::now();
        Self { bar, what, total, started: now, last_line: now }
    }

    pub fn set(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.last_line.elapsed() >= PLAIN_EVERY && done > 0 => {
                self.last_line = Instant::now();
                let elapsed = self.started.elapsed().as_secs_f64();
                let left = elapsed / done as f64 * self.total.saturating_sub(done) as f64;
                print_error_line(format_args!(
                    "{done}/{} {}, {:.1}/s, about {left:.0} s left",
                    self.total,
                    self.what,
                    done as f64 / elapsed.max(1e-9)
                ));
            }
            None => {}
        }
    }

    /// A line for the reader that stays above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => print_error_line(format_args!("{text}")),
        }
    }

    /// Prints to standard output without tearing the bar.
    pub fn out(&self, text: &str) {
        // A reader that closes the pipe (`| head`) needs no more lines.
        let print = || drop(writeln!(std::io::stdout(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(feature = "train")]
/// Runs `work` with a progress bar. `work` reports the number done and the total; the bar appears with the first report. `what`
/// names the units.
pub fn with_bar<T>(what: &'static str, work: impl FnOnce(&mut dyn FnMut(usize, usize)) -> T) -> T {
    let mut bar: Option<Bar> = None;
    let done = work(&mut |done, of| {
        bar.get_or_insert_with(|| Bar::new(what, of as u64)).set(done as u64);
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    done
}
