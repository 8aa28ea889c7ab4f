//! Messages to the service manager (sd_notify): ready, reloading, stopping, the status line and the watchdog.
//!
//! The watchdog is fed only while the publisher and the inference thread make progress. Each is woken before every
//! check, and a thread whose loop has not turned since the last check counts as stuck.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;

use crate::hub::Hub;
use touchline_core::error::Result;
use touchline_core::threads::{Heartbeat, spawn};

/// Interval of the status line without a watchdog, and its maximum with one.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Checks per watchdog interval. One late check or one slow turn must not get the program killed.
const CHECKS: u32 = 4;

type Notify = dyn Fn(&[NotifyState<'_>]) + Send + Sync;

/// The service manager, if there is one. Cloning shares it.
#[derive(Clone)]
pub(super) struct ServiceManager {
    say: Option<Arc<Notify>>,
    /// The watchdog interval.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self::none();
        }
        let say: Arc<Notify> = Arc::new(|states| {
            if let Err(e) = sd_notify::notify(states) {
                tracing::debug!("cannot notify the service manager: {e}");
            }
        });
        Self { say: Some(say), watchdog: sd_notify::watchdog_enabled() }
    }

    /// No service manager: messages go nowhere.
    pub(super) fn none() -> Self {
        Self { say: None, watchdog: None }
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        if let Some(say) = &self.say {
            say(states);
        }
    }

    pub(super) fn status(&self, text: &str) {
        self.say(&[NotifyState::Status(text)]);
    }

    /// The program is ready, or has finished a reload.
    pub(super) fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// The program reloads its configuration.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(e) => tracing::debug!("no monotonic clock: {e}"),
        }
    }

    pub(super) fn stopping(&self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Starts a thread that sends the status and, with a watchdog, checks the threads of `beats`. `nudge` wakes those
    /// threads. Without a service manager it returns `None`.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub(super) fn watch(
        &self,
        hub: Hub,
        beats: Vec<(&'static str, Heartbeat)>,
        nudge: impl Fn() + Send + 'static,
    ) -> Result<Option<Watchdog>> {
        if self.say.is_none() {
            return Ok(None);
        }
        let every = self.watchdog.map_or(STATUS_EVERY, |limit| (limit / CHECKS).min(STATUS_EVERY));
        let manager = self.clone();
        let (stop, stopped) = bounded(0);
        let thread = spawn("watchdog", move || {
            let mut stalls = StallDetector::new(beats);
            let mut said = String::new();
            nudge();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                if manager.watchdog.is_some() {
                    match stalls.stuck() {
                        None => manager.say(&[NotifyState::Watchdog]),
                        Some(thread) => tracing::warn!("the {thread} thread has made no progress for {every:?}"),
                    }
                }
                nudge();
                let status = hub.status();
                if status != said {
                    manager.status(&status);
                    said = status;
                }
            }
        })?;
        Ok(Some(Watchdog { stop: Some(stop), thread: Some(thread) }))
    }
}

/// Detects threads whose loops have not turned since the last check.
struct StallDetector {
    seen: Vec<(&'static str, Heartbeat, u64)>,
}

impl StallDetector {
    fn new(beats: Vec<(&'static str, Heartbeat)>) -> Self {
        Self { seen: beats.into_iter().map(|(name, beat)| (name, beat.clone(), beat.beats())).collect() }
    }

    /// The first thread that has not turned since the last check.
    fn stuck(&mut self) -> Option<&'static str> {
        let mut stuck = None;
        for (name, beat, seen) in &mut self.seen {
            let turns = beat.beats();
            if std::mem::replace(seen, turns) == turns {
                stuck = stuck.or(Some(*name));
            }
        }
        stuck
    }
}

/// The thread that talks to the service manager. Dropping this stops it.
pub(super) struct Watchdog {
    /// Closed by dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watchdog thread panicked; see the panic message above");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_thread_is_named_until_its_next_heartbeat() {
        let (publishing, inference) = (Heartbeat::default(), Heartbeat::default());
        let mut stalls = StallDetector::new(vec![("publishing", publishing.clone()), ("inference", inference.clone())]);
        assert_eq!(stalls.stuck(), Some("publishing"));
        publishing.beat();
        inference.beat();
        assert_eq!(stalls.stuck(), None);
        publishing.beat();
        assert_eq!(stalls.stuck(), Some("inference"));
        inference.beat();
        publishing.beat();
        assert_eq!(stalls.stuck(), None, "the thread runs again");
    }
}
