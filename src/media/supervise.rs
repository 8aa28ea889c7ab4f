//! Supervises live sources: opens them again after a failure, an unexpected end or a stall, and reports their state.
//!
//! A [`Supervisor`] is an [`Open`] that wraps another one. It runs one thread per source that forwards items and decides whether
//! to reconnect. It does not depend on GStreamer; tests use `replay.rs` and a clock whose sleeps return immediately.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::outlet::{Counters, Outlet, Stopper};
use super::stalls::{Stall, StallDetector};
use super::{Open, Source};
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MediaItem, Pace, Track, Tracks};

/// Capacity of the channel between the inner source and the supervisor: slack for a thread switch. The real buffer is the channel
/// after the supervisor.
const INNER_CAPACITY: usize = 4;

/// How often a silent connection is checked for a stall.
const POLL: Duration = Duration::from_secs(1);

/// When to reconnect and when to give up.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Retry even if the first attempt fails. Off by default, so that a mistyped address is an error and not an endless wait.
    pub retry_first: bool,
    /// Reconnect when the source ends, unless it is a recording ([`Counters::on_demand`]). See
    /// [`super::uri::Kind::reopens_on_end`].
    pub reopen_on_end: bool,
    /// Neither pictures nor sound for this long is a failure.
    pub stall: Duration,
    /// No data from one track for this long, while the other continues, is reported ([`Incident::TrackStalled`]).
    pub track_stall: Duration,
    /// No pictures for this long is a failure, even if there is sound. Missing sound never is, because reconnecting would interrupt
    /// the pictures. It also holds for a connection without pictures after one with pictures, but not for the next one.
    pub pictures_stall: Duration,
    /// The cause to report when both tracks stall.
    pub stall_cause: Cause,
    /// First pause before a reconnect.
    pub backoff_min: Duration,
    /// Longest pause. Pauses double from the first to the longest.
    pub backoff_max: Duration,
    /// First pause after a rejected login. Cameras lock a user or an address out after a few wrong passwords.
    pub login_backoff_min: Duration,
    /// Longest pause after a rejected login.
    pub login_backoff_max: Duration,
    /// The source waits for a caller without a time limit.
    pub listens: bool,
    /// A connection that lasted this long resets the pauses.
    pub healthy_after: Duration,
}

impl Policy {
    /// The policy of a source that waits for callers. It must accept the next call soon after the last one ended.
    pub fn listening() -> Self {
        Self {
            listens: true,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            healthy_after: Duration::ZERO,
            ..Self::default()
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry_first: false,
            reopen_on_end: true,
            stall: Duration::from_secs(10),
            track_stall: Duration::from_secs(5),
            pictures_stall: Duration::from_secs(30),
            stall_cause: Cause::Stalled,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            login_backoff_min: Duration::from_secs(60),
            login_backoff_max: Duration::from_secs(15 * 60),
            listens: false,
            healthy_after: Duration::from_secs(10),
        }
    }
}

/// The state of a supervised source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// The source is being opened.
    Connecting,
    /// The tracks are known, and data flow.
    Playing,
    /// The next attempt follows after a pause, or a listening source waits for a caller.
    Waiting {
        /// Number of the next attempt, from 1.
        attempt: u32,
        /// Pause before it.
        retry_in: Duration,
        /// Type of the failure.
        kind: Cause,
        /// What failed, redacted, on one line.
        cause: String,
    },
    /// The source has ended.
    Ended,
    /// The source has failed and is not retried.
    Failed {
        /// Type of the failure.
        kind: Cause,
        /// What failed, redacted, on one line.
        cause: String,
        /// What to do.
        advice: String,
    },
}

/// Receives state changes and incidents of a source, on the supervisor's thread. Must not block.
pub trait SourceObserver: Send + Sync {
    /// Called on every change of state.
    fn state(&self, state: SourceState);

    /// Called on every incident.
    fn incident(&self, incident: Incident);
}

/// Opens supervised sources.
pub struct Supervisor {
    /// Opens the source itself.
    pub inner: Arc<dyn Open>,
    /// When to reconnect.
    pub policy: Policy,
    /// Measures stalls, and waits between attempts.
    pub clock: Arc<dyn Clock>,
    /// Receives state changes and incidents.
    pub observer: Arc<dyn SourceObserver>,
    /// The supervisor counts [`Counters::reconnects`].
    pub counters: Arc<Counters>,
    /// Names the thread: `src/<id>`.
    pub id: String,
}

impl Open for Supervisor {
    /// # Errors
    /// The error of the inner [`Open::open`] at the first attempt, in the caller's thread. With [`Policy::retry_first`] only
    /// [`Error::Usage`], which another attempt cannot fix.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        self.observer.state(connecting(&self.policy));
        let (inner_to, inner_from) = bounded(INNER_CAPACITY);
        let first = match self.inner.open(uri, inner_to) {
            Ok(source) => Ok((source, inner_from)),
            Err(e) if self.policy.retry_first && !matches!(e, Error::Usage(_)) => Err(e),
            Err(e) => return Err(e),
        };
        let pace = first.as_ref().map_or(Pace::Live, |(source, _)| source.pace());
        let outlet = Outlet::new(to);
        let stopper = outlet.stopper();
        let seed = BuildHasherDefault::<DefaultHasher>::new().hash_one((uri, self.clock.unix_ns()));
        let mut run = SupervisorThread {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            clock: self.clock.clone(),
            observer: self.observer.clone(),
            counters: self.counters.clone(),
            uri: uri.to_owned(),
            outlet,
            opened_once: false,
            is_run_open: false,
            tracks: None,
            attempt: 0,
            refused_logins: 0,
            random: SmallRng::seed_from_u64(seed),
        };
        let thread = std::thread::Builder::new()
            .name(format!("src/{}", self.id))
            .spawn(move || run.run(first))
            .map_err(|e| Error::Internal(format!("cannot start the thread of a source: {e}")))?;
        Ok(Box::new(SupervisedSource { pace, stopper, thread: Some(thread) }))
    }
}

struct SupervisedSource {
    pace: Pace,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Source for SupervisedSource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
    }
}

impl Drop for SupervisedSource {
    fn drop(&mut self) {
        self.stopper.abandon();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of the thread.
            let _ = thread.join();
        }
    }
}

type OpenConnection = (Box<dyn Source>, Receiver<MediaItem>);

/// The state of the supervisor's thread.
struct SupervisorThread {
    inner: Arc<dyn Open>,
    policy: Policy,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn SourceObserver>,
    counters: Arc<Counters>,
    uri: String,
    outlet: Outlet,
    /// Whether any connection has reached [`MediaItem::Opened`].
    opened_once: bool,
    /// Whether the last connection has, and its run is not closed yet.
    is_run_open: bool,
    /// Tracks of the last connection.
    tracks: Option<Tracks>,
    /// Attempts since the last healthy connection.
    attempt: u32,
    /// How many of the last attempts in a row failed with a rejected login.
    refused_logins: u32,
    random: SmallRng,
}

/// How a connection ended.
enum ConnectionOutcome {
    /// By a stop request, or because the receiver is gone.
    Stopped,
    Over(End),
}

impl SupervisorThread {
    fn run(&mut self, first: Result<OpenConnection>) {
        let mut next = first;
        loop {
            let outcome = match next {
                Ok(connection) => self.forward(connection),
                Err(e) => ConnectionOutcome::Over(failure_of(e)),
            };
            let end = match outcome {
                ConnectionOutcome::Stopped => return self.finish(End::Finished),
                ConnectionOutcome::Over(end) => end,
            };
            let again = match &end {
                End::Finished => {
                    let is_recording = self.counters.on_demand.get() == Some(&true);
                    self.policy.reopen_on_end && self.opened_once && !is_recording
                }
                // A listening source waits for the next caller even if the last one sent invalid data.
                End::Failed { kind, .. } => {
                    let is_callers = self.policy.listens && *kind != Cause::CannotListen;
                    self.opened_once || self.policy.retry_first || is_callers
                }
            };
            if !again {
                return self.finish(end);
            }
            // Now, and not at the next connection, which may be hours away: the last second must be decided in time.
            if std::mem::take(&mut self.is_run_open)
                && self.outlet.send(MediaItem::Discontinuity(Discontinuity::Reconnect)).is_err()
            {
                return self.finish(End::Finished);
            }
            let (kind, cause) = match end {
                End::Finished => (Cause::Ended, "the stream ended".to_owned()),
                End::Failed { kind, cause, .. } => (kind, cause),
            };
            self.attempt = self.attempt.saturating_add(1);
            let pause = if kind == Cause::NotAuthorized {
                self.refused_logins = self.refused_logins.saturating_add(1);
                backoff(self.policy.login_backoff_min, self.policy.login_backoff_max, self.refused_logins)
            } else {
                self.refused_logins = 0;
                backoff(self.policy.backoff_min, self.policy.backoff_max, self.attempt)
            };
            let retry_in = jittered(pause, &mut self.random);
            tracing::warn!(
                uri = touchline_core::redact::uri(&self.uri),
                attempt = self.attempt,
                ?retry_in,
                kind = kind.as_str(),
                cause,
                "reconnecting"
            );
            self.observer.state(SourceState::Waiting { attempt: self.attempt, retry_in, kind, cause });
            self.clock.sleep_until_stopped(retry_in, self.outlet.stopping());
            if self.outlet.stopped() {
                return self.finish(End::Finished);
            }
            self.observer.state(connecting(&self.policy));
            let (inner_to, inner_from) = bounded(INNER_CAPACITY);
            next = self.inner.open(&self.uri, inner_to).map(|source| (source, inner_from));
        }
    }

    fn finish(&self, end: End) {
        self.observer.state(match end.clone() {
            End::Finished => SourceState::Ended,
            End::Failed { kind, cause, advice } => SourceState::Failed { kind, cause, advice },
        });
        self.outlet.send_end(end);
    }

    /// Forwards items until the connection ends. Returns after the inner source's threads have ended.
    fn forward(&mut self, (mut source, items): OpenConnection) -> ConnectionOutcome {
        let began_ns = self.clock.mono_ns();
        let mut watch: Option<StallDetector> = None;
        loop {
            if self.outlet.stopped() {
                source.stop();
                return ConnectionOutcome::Stopped;
            }
            let received = select! {
                recv(items) -> item => Some(item),
                recv(self.outlet.stopping()) -> _ => continue,
                default(POLL) => None,
            };
            let now_ns = self.clock.mono_ns();
            match received {
                Some(Ok(MediaItem::Ended(end))) => return ConnectionOutcome::Over(end),
                Some(Ok(MediaItem::Incident(incident))) => self.observer.incident(incident),
                Some(Ok(item)) => {
                    match &item {
                        MediaItem::Opened(tracks) => self.opened(*tracks, &mut watch, now_ns),
                        MediaItem::TrackEnded(track) => self.track_ended(*track, &mut watch),
                        _ => {}
                    }
                    let track = item.track_and_pts().map(|(track, _)| track);
                    if track.is_some() && now_ns.saturating_sub(began_ns) > nanos(self.policy.healthy_after) {
                        self.attempt = 0;
                    }
                    if self.outlet.send(item).is_err() {
                        source.stop();
                        return ConnectionOutcome::Stopped;
                    }
                    if let (Some(watch), Some(track)) = (&mut watch, track) {
                        // After the send: the time that downstream blocked does not count as silence of the source.
                        let silence = watch.received(track, self.clock.mono_ns());
                        if let Some(silent_ns) = silence {
                            self.observer.incident(Incident::TrackRecovered { track, silent_ns });
                        }
                    }
                }
                None => {}
                Some(Err(_)) => {
                    return ConnectionOutcome::Over(End::Failed {
                        kind: Cause::Internal,
                        cause: "the source's thread ended unexpectedly".into(),
                        advice: "please report this with the command you ran".into(),
                    });
                }
            }
            // Before the tracks are known, the source's own connect timeout applies. While items are queued, no track is silent.
            if items.is_empty()
                && let Some(end) = watch.as_mut().and_then(|watch| self.check_stalls(watch))
            {
                return ConnectionOutcome::Over(end);
            }
        }
    }

    /// Checks for silent tracks. Returns a failure if the stall is one.
    fn check_stalls(&self, watch: &mut StallDetector) -> Option<End> {
        let policy = &self.policy;
        let failed =
            |kind, cause| Some(End::Failed { kind, cause, advice: "check that the sender still sends".into() });
        match watch.check(self.clock.mono_ns(), policy) {
            Stall::None => None,
            Stall::Track { track, silent_ns } => {
                self.observer.incident(Incident::TrackStalled { track, silent_ns });
                None
            }
            Stall::Pictures => {
                failed(Cause::PicturesStalled, format!("no pictures for {} s", policy.pictures_stall.as_secs()))
            }
            Stall::All => {
                failed(policy.stall_cause, format!("no pictures and no sound for {} s", policy.stall.as_secs()))
            }
        }
    }

    /// Handles a new connection, or another track of the current one.
    fn opened(&mut self, tracks: Tracks, watch: &mut Option<StallDetector>, now_ns: u64) {
        let before = self.tracks.replace(tracks);
        let is_connected = watch.is_some();
        let watch = watch.insert(StallDetector::new(tracks, now_ns));
        if !is_connected {
            // A restarted server may not send all tracks at first, and then never. One more connection tells whether the pictures are gone.
            if before.is_some_and(|before| before.video) && !tracks.video {
                watch.expect_pictures();
            }
            if self.opened_once {
                self.counters.reconnects.fetch_add(1, Ordering::Relaxed);
            }
            (self.opened_once, self.is_run_open) = (true, true);
            self.observer.state(SourceState::Playing);
        }
        for track in [Track::Video, Track::Audio] {
            match (before.map(|before| before.has(track)), tracks.has(track)) {
                (Some(true), false) => self.observer.incident(Incident::TrackLost { track }),
                (Some(false), true) => self.observer.incident(Incident::TrackAdded { track }),
                _ => {}
            }
        }
    }

    fn track_ended(&mut self, track: Track, watch: &mut Option<StallDetector>) {
        if let Some(watch) = watch {
            watch.end(track);
        }
        if let Some(tracks) = &mut self.tracks {
            match track {
                Track::Video => tracks.video = false,
                Track::Audio => tracks.audio = false,
            }
            // The end of the last track is reported as the end of the connection.
            if tracks.video || tracks.audio {
                self.observer.incident(Incident::TrackLost { track });
            } else {
                self.tracks = None;
            }
        }
    }
}

pub(super) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The in-band form of an error from [`Open::open`].
fn failure_of(e: Error) -> End {
    match e {
        Error::Source { kind, cause, advice, .. } => End::Failed { kind, cause, advice },
        other => End::Failed { kind: Cause::Other, cause: other.to_string(), advice: "see the message".into() },
    }
}

/// The state of a source that is being opened.
fn connecting(policy: &Policy) -> SourceState {
    if policy.listens {
        let (kind, cause) = (Cause::NoCaller, "waiting for a caller".to_owned());
        return SourceState::Waiting { attempt: 1, retry_in: Duration::ZERO, kind, cause };
    }
    SourceState::Connecting
}

/// Pause before attempt `attempt` (from 1): doubles from `min` to `max`.
fn backoff(min: Duration, max: Duration, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(20);
    min.saturating_mul(1 << doublings).min(max)
}

/// A pause shortened by up to a quarter, so that many streams of a restarted server do not reconnect at once.
fn jittered(pause: Duration, random: &mut SmallRng) -> Duration {
    pause.mul_f64(1.0 - random.random_range(0.0..0.25))
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
