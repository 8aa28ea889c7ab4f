//! Tests of addresses: opens a source as a new stream would, for a few seconds, and reports what was found.
//!
//! `run::driver` opens the source, `probe_routes` answers over HTTP. A test has a thread of its own and touches no stream. Its place is
//! free again only when its source is gone: a pipeline that hangs is stopped, and abandoned, as that of a stream.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use super::streams::{NewStream, StreamRefusal, StreamRefusalKind};
use crate::config::StreamSettings;
use crate::metrics::{Metrics, ProbeResult};
use touchline_core::clock::Clock;
use touchline_core::error::Result;
use touchline_core::item::{MEDIA_CHANNEL_CAPACITY, MediaItem};
use touchline_core::{redact, threads};
use touchline_media::Source;
use touchline_media::facts::SharedFacts;
use touchline_media::probe::{ProbeLimits, Probed, failure_of, watch};
use touchline_media::uri::Location;

/// Tests at once. Each decodes in full size; one operator needs one.
pub const PROBES_MAX: usize = 2;

/// How long a test may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Id of the source of a test in thread names and log lines.
const ID: &str = "probe";

/// Opens the sources of tests.
pub trait ProbeOpener: Send + Sync {
    /// Opens the source of a stream with `settings`, under the source policy. It reports to `facts`. May take seconds.
    ///
    /// # Errors
    /// As [`touchline_media::Open::open`].
    fn open(&self, settings: &StreamSettings, facts: SharedFacts, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}

/// Starts tests. Cloning shares it.
#[derive(Clone)]
pub struct ProbeControl {
    opener: Arc<OnceLock<Arc<dyn ProbeOpener>>>,
    running: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    latency_ms: u32,
}

impl fmt::Debug for ProbeControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeControl").field("running", &self.running).finish_non_exhaustive()
    }
}

/// A running test. Dropping it cancels the test.
#[derive(Debug)]
pub struct RunningProbe {
    /// What was found. Closed without a value if the thread of the test failed.
    pub outcome: oneshot::Receiver<Probed>,
    /// Closed when the source is gone and the place is free again.
    pub closed: oneshot::Receiver<Infallible>,
    _cancel: Sender<Infallible>,
}

/// A place among the running tests.
struct ProbeSlot(Arc<AtomicUsize>);

impl Drop for ProbeSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ProbeControl {
    /// A control that refuses tests until [`ProbeControl::connect`]. `latency_ms` is the jitter buffer of sources without their own.
    pub fn new(clock: Arc<dyn Clock>, metrics: Metrics, latency_ms: u32) -> Self {
        Self { opener: Arc::default(), running: Arc::default(), clock, metrics, latency_ms }
    }

    /// Opens sources with `opener` from now on. The first call counts.
    pub fn connect(&self, opener: Arc<dyn ProbeOpener>) {
        let _ = self.opener.set(opener);
    }

    /// Number of tests whose sources exist.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Starts a test of the source of `new`.
    ///
    /// # Errors
    /// [`StreamRefusalKind::Invalid`] for an invalid value, [`StreamRefusalKind::Busy`] while [`PROBES_MAX`] tests run,
    /// [`StreamRefusalKind::NotReady`] while the program starts or has no thread left.
    pub fn start(&self, new: NewStream) -> Result<RunningProbe, StreamRefusal> {
        new.check()?;
        let location = Location::parse(new.uri())
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e.to_string(), "correct the uri"))?;
        let not_ready = |error: String| StreamRefusal::new(StreamRefusalKind::NotReady, error, "retry in a second");
        let opener = self.opener.get().ok_or_else(|| not_ready("the program is starting".into()))?.clone();
        let place = |running: usize| (running < PROBES_MAX).then_some(running + 1);
        if self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, place).is_err() {
            self.metrics.probed(ProbeResult::Busy);
            let error = format!("{PROBES_MAX} addresses are being tested already");
            return Err(StreamRefusal::new(StreamRefusalKind::Busy, error, "retry in a few seconds"));
        }
        let slot = ProbeSlot(self.running.clone());
        let settings = new.settings(ID.into(), self.latency_ms);
        let (cancel, cancelled) = bounded(0);
        let (answer, outcome) = oneshot::channel();
        let (open, closed) = oneshot::channel();
        let test = ProbeThread { opener, settings, location, cancelled, clock: self.clock.clone() };
        let metrics = self.metrics.clone();
        let run = move || {
            // Variables are dropped in reverse order: the place is free when `closed` ends.
            let _open = open;
            let _slot = slot;
            test.run(|found| {
                metrics.probed(match &found {
                    None => ProbeResult::Cancelled,
                    Some(Probed { failure: None, .. }) => ProbeResult::Playable,
                    Some(_) => ProbeResult::Failed,
                });
                if let Some(found) = found {
                    // The client may be gone.
                    let _ = answer.send(found);
                }
            });
        };
        threads::spawn(ID, run).map_err(|e| not_ready(e.to_string()))?;
        Ok(RunningProbe { outcome, closed, _cancel: cancel })
    }
}

struct ProbeThread {
    opener: Arc<dyn ProbeOpener>,
    settings: StreamSettings,
    location: Location,
    cancelled: Receiver<Infallible>,
    clock: Arc<dyn Clock>,
}

impl ProbeThread {
    /// Runs the test, calls `done` with what was found, or [`None`] if it was cancelled, and then drops the source, which may take
    /// seconds.
    fn run(self, done: impl FnOnce(Option<Probed>)) {
        let _known = redact::remember(&self.settings.uri);
        let limits = ProbeLimits {
            clock: &self.clock,
            began_ns: self.clock.mono_ns(),
            limit: PROBE_TIMEOUT,
            listens: self.location.listens(),
            cancelled: &self.cancelled,
        };
        let (to, items) = bounded(MEDIA_CHANNEL_CAPACITY);
        let facts = SharedFacts::default();
        match self.opener.open(&self.settings, facts.clone(), to) {
            Ok(mut source) => {
                done(watch(&items, &facts, &limits));
                source.stop();
                // A source that waits for room ends at once.
                drop(items);
                drop(source);
            }
            Err(error) => done(Some(Probed::failed(failure_of(error)))),
        }
    }
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;
