//! A time limit for the shutdown.
//!
//! The shutdown joins one part after another. A part that hangs (a library that waits for a server, a pack that is
//! being read) must not last until the service manager kills the process. When the time is up, the program logs the
//! part it waits for and exits: with 0 if everything published is written, otherwise with the exit code of an output
//! error.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use touchline_core::clock::{Clock, Deadline};
use touchline_core::threads::spawn;

/// From the signal, or the end of the last stream, to the end of the process.
const LIMIT: Duration = Duration::from_secs(10);

/// Exit code if records were not written: that of [`touchline_core::error::Error::Output`].
const NOT_WRITTEN: u8 = 5;

#[derive(Debug)]
struct ShutdownState {
    until: Option<Deadline>,
    stage: &'static str,
    /// Everything published is written.
    is_written: bool,
    is_done: bool,
}

/// Ends the process if the shutdown takes too long. Cloning shares it.
#[derive(Clone)]
pub(super) struct ShutdownTimer {
    shared: Arc<(Mutex<ShutdownState>, Condvar)>,
    clock: Arc<dyn Clock>,
}

impl ShutdownTimer {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = ShutdownState { until: None, stage: "stopping the streams", is_written: false, is_done: false };
        Self { shared: Arc::new((Mutex::new(state), Condvar::new())), clock }
    }

    fn state(&self) -> MutexGuard<'_, ShutdownState> {
        self.shared.0.lock()
    }

    /// Starts the time limit. Later calls have no effect.
    pub(super) fn begin(&self) {
        self.begin_with(LIMIT, |stage, is_written| {
            tracing::error!("still {stage} after {} s; the program exits without waiting", LIMIT.as_secs());
            std::process::exit(if is_written { 0 } else { NOT_WRITTEN.into() });
        });
    }

    fn begin_with(&self, limit: Duration, overdue: impl FnOnce(&'static str, bool) + Send + 'static) {
        {
            let mut state = self.state();
            if state.until.is_some() {
                return;
            }
            state.until = Some(Deadline::after(&*self.clock, limit));
        }
        let shutdown = self.clone();
        let started = spawn("shutdown", move || {
            if let Some((stage, is_written)) = shutdown.wait() {
                overdue(stage, is_written);
            }
        });
        if let Err(e) = started {
            tracing::warn!("the shutdown has no time limit: {e}");
        }
    }

    /// Waits for the end of the shutdown. Returns the stage in which the time ran out.
    fn wait(&self) -> Option<(&'static str, bool)> {
        let mut state = self.state();
        loop {
            if state.is_done {
                return None;
            }
            let left = state.until.map_or(Duration::ZERO, |until| until.left(&*self.clock));
            if left.is_zero() {
                return Some((state.stage, state.is_written));
            }
            self.shared.1.wait_for(&mut state, left);
        }
    }

    /// The current stage, as in "stopping the server".
    pub(super) fn at(&self, stage: &'static str) {
        self.state().stage = stage;
        self.shared.1.notify_all();
    }

    /// Everything published is written.
    pub(super) fn written(&self) {
        self.state().is_written = true;
    }

    /// The shutdown is complete.
    pub(super) fn done(&self) {
        self.state().is_done = true;
        self.shared.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use touchline_core::clock::ManualClock;

    #[test]
    fn a_stage_that_hangs_is_named() {
        let clock = Arc::new(ManualClock::default());
        let shutdown = ShutdownTimer::new(clock.clone());
        let (to, overdue) = bounded(1);
        shutdown.at("stopping the server");
        shutdown.written();
        shutdown.begin_with(LIMIT, move |stage, written| to.send((stage, written)).unwrap());
        shutdown.begin_with(Duration::ZERO, |_, _| panic!("the limit starts once"));
        assert!(overdue.is_empty(), "the time is not up");
        clock.advance(LIMIT.as_nanos() as u64);
        // Wakes the waiting thread.
        shutdown.at("stopping the server");
        assert_eq!(overdue.recv().unwrap(), ("stopping the server", true));

        let shutdown = ShutdownTimer::new(clock);
        let (to, overdue) = bounded::<()>(1);
        shutdown.begin_with(Duration::from_secs(3600), move |_, _| to.send(()).unwrap());
        shutdown.done();
        assert!(overdue.recv().is_err(), "the thread has ended without a report");
    }
}
