//! A bound on how long the program takes to end.
//!
//! Everything that ends is waited for, one after another; what hangs (a library that waits for a server, a pack that is
//! being read) must not keep a service manager waiting until it kills. When time is up the program says what it waits for
//! and exits: with 0 when everything that was published is written, else with the exit code of an output.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use touchline_core::clock::{Clock, Deadline};
use touchline_core::threads::spawn;

/// From the wish to stop, or the end of the last stream, to the end of the process.
const LIMIT: Duration = Duration::from_secs(10);

/// Exit code when not everything could be written: that of [`touchline_core::error::Error::Output`].
const NOT_WRITTEN: u8 = 5;

#[derive(Debug)]
struct ShutdownState {
    until: Option<Deadline>,
    stage: &'static str,
    /// Everything that was published is written.
    is_written: bool,
    is_done: bool,
}

/// Watches over the end of the program. Cloning shares it.
#[derive(Clone)]
pub(super) struct ShutdownTimer {
    shared: Arc<(Mutex<ShutdownState>, Condvar)>,
    clock: Arc<dyn Clock>,
}

impl ShutdownTimer {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = ShutdownState { until: None, stage: "ending the streams", is_written: false, is_done: false };
        Self { shared: Arc::new((Mutex::new(state), Condvar::new())), clock }
    }

    fn state(&self) -> MutexGuard<'_, ShutdownState> {
        self.shared.0.lock()
    }

    /// The end begins: from now on time runs. Once.
    pub(super) fn begin(&self) {
        self.begin_with(LIMIT, |stage, is_written| {
            tracing::error!("still {stage} after {} s; the program ends without that", LIMIT.as_secs());
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
            tracing::warn!("nothing bounds how long the program takes to end: {e}");
        }
    }

    /// Waits until it is done; gives the stage in which time was up.
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

    /// What is waited for now, as in "stopping the server".
    pub(super) fn at(&self, stage: &'static str) {
        self.state().stage = stage;
        self.shared.1.notify_all();
    }

    /// Everything that was published is written.
    pub(super) fn written(&self) {
        self.state().is_written = true;
    }

    /// Nothing is waited for any more.
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
    fn what_hangs_is_named_and_what_is_done_in_time_is_not() {
        let clock = Arc::new(ManualClock::default());
        let shutdown = ShutdownTimer::new(clock.clone());
        let (to, overdue) = bounded(1);
        shutdown.at("stopping the server");
        shutdown.written();
        shutdown.begin_with(LIMIT, move |stage, written| to.send((stage, written)).unwrap());
        shutdown.begin_with(Duration::ZERO, |_, _| panic!("time runs once"));
        assert!(overdue.is_empty(), "there is time");
        clock.advance(LIMIT.as_nanos() as u64);
        // Makes it look.
        shutdown.at("stopping the server");
        assert_eq!(overdue.recv().unwrap(), ("stopping the server", true));

        let shutdown = ShutdownTimer::new(clock);
        let (to, overdue) = bounded::<()>(1);
        shutdown.begin_with(Duration::from_secs(3600), move |_, _| to.send(()).unwrap());
        shutdown.done();
        assert!(overdue.recv().is_err(), "its thread has ended without a word");
    }
}
