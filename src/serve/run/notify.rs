//! What the service manager is told (sd_notify): that the program is ready, reloads or stops, what it does, and that its
//! threads still turn.
//!
//! The watchdog is fed only while the publishing thread and the inference thread both turn: each is given a reason to,
//! and one that has not turned since the last look is not vouched for.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;

use crate::publish::hub::Hub;
use touchline_core::error::Result;
use touchline_core::threads::{Beat, spawn};

/// How often the status is looked at when no watchdog requests for more.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Looks in the time that the service manager waits for a sign of life: a look that comes late, and one turn that takes
/// long, must not cost the program its life.
const LOOKS: u32 = 4;

type Notify = dyn Fn(&[NotifyState<'_>]) + Send + Sync;

/// The service manager, if there is one. Cloning shares it.
#[derive(Clone)]
pub(super) struct ServiceManager {
    say: Option<Arc<Notify>>,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say.
    pub(super) fn from_environment() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self::none();
        }
        let say: Arc<Notify> = Arc::new(|states| {
            if let Err(e) = sd_notify::notify(states) {
                tracing::debug!("the service manager does not listen: {e}");
            }
        });
        Self { say: Some(say), watchdog: sd_notify::watchdog_enabled() }
    }

    /// Nobody.
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

    /// The streams are being watched; also the end of a reload.
    pub(super) fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// The configuration is being read again.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(e) => tracing::debug!("no monotonic clock: {e}"),
        }
    }

    pub(super) fn stopping(&self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Starts to say what the program does and, if it is asked for, that the threads of `beats` turn; `nudge` gives them a
    /// reason to. Nothing when nobody listens.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn watch(
        &self,
        hub: Hub,
        beats: Vec<(&'static str, Beat)>,
        nudge: impl Fn() + Send + 'static,
    ) -> Result<Option<Watchdog>> {
        if self.say.is_none() {
            return Ok(None);
        }
        let every = self.watchdog.map_or(STATUS_EVERY, |limit| (limit / LOOKS).min(STATUS_EVERY));
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
                        Some(thread) => tracing::warn!("the {thread} thread has not turned for {every:?}"),
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

/// Whether threads have turned since the last look.
struct StallDetector {
    seen: Vec<(&'static str, Beat, u64)>,
}

impl StallDetector {
    fn new(beats: Vec<(&'static str, Beat)>) -> Self {
        Self { seen: beats.into_iter().map(|(name, beat)| (name, beat.clone(), beat.turns())).collect() }
    }

    /// The first thread that has not turned since the last look.
    fn stuck(&mut self) -> Option<&'static str> {
        let mut stuck = None;
        for (name, beat, seen) in &mut self.seen {
            let turns = beat.turns();
            if std::mem::replace(seen, turns) == turns {
                stuck = stuck.or(Some(*name));
            }
        }
        stuck
    }
}

/// The thread that speaks to the service manager; dropping it ends it.
pub(super) struct Watchdog {
    /// Closed by dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watchdog's thread panicked; its message is above");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_not_turned_is_named_until_it_does() {
        let (publishing, inference) = (Beat::default(), Beat::default());
        let mut stalls = StallDetector::new(vec![("publishing", publishing.clone()), ("inference", inference.clone())]);
        assert_eq!(stalls.stuck(), Some("publishing"));
        publishing.turn();
        inference.turn();
        assert_eq!(stalls.stuck(), None);
        publishing.turn();
        assert_eq!(stalls.stuck(), Some("inference"));
        inference.turn();
        publishing.turn();
        assert_eq!(stalls.stuck(), None, "it turns again");
    }
}
