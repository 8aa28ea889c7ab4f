//! One stream of the stream manager: its wanted and its actual state.

use tokio::sync::oneshot;

use crate::backlog::QueueId;
use crate::config::StreamSettings;
use crate::control::streams::{StreamOutcome, StreamRefusal};
use crate::hub::{StreamFacts, StreamHandle, StreamOwner};
use crate::schedule::{Expectations, Schedule};
use touchline_core::error::Error;
use touchline_core::item::Pace;
use touchline_core::labels::ClassSet;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_core::vote::VoteConfig;
use touchline_media::Source;

use super::fleet::FleetWatch;

/// Minimum and maximum delay before a stream is opened again that ended by a fault of the program. A stream that has
/// played for longer than the maximum starts with the minimum again.
const REVIVE_MIN_NS: u64 = NANOS_PER_SECOND;
const REVIVE_MAX_NS: u64 = 60 * NANOS_PER_SECOND;

pub(super) enum Phase {
    /// It has no source.
    Idle,
    /// A thread opens its source.
    Opening {
        /// Identifies the opening.
        ticket: u64,
        /// Since when the source is not wanted any more, monotonic clock.
        unwanted_ns: Option<u64>,
    },
    Running {
        queue: QueueId,
        source: Box<dyn Source>,
    },
    /// The source was asked to stop at `since_ns`, monotonic clock.
    Closing {
        queue: QueueId,
        source: Box<dyn Source>,
        since_ns: u64,
    },
    /// The publisher removes it.
    Leaving,
}

impl Phase {
    pub(super) fn queue(&self) -> Option<QueueId> {
        match self {
            Phase::Running { queue, .. } | Phase::Closing { queue, .. } => Some(*queue),
            Phase::Idle | Phase::Opening { .. } | Phase::Leaving => None,
        }
    }

    /// Since when the manager waits for its end.
    pub(super) fn waits_since_ns(&self) -> Option<u64> {
        match self {
            Phase::Closing { since_ns, .. } => Some(*since_ns),
            Phase::Opening { unwanted_ns, .. } => *unwanted_ns,
            Phase::Idle | Phase::Running { .. } | Phase::Leaving => None,
        }
    }

    /// Becomes idle. Returns the source, if there was one.
    pub(super) fn take_source(&mut self) -> Option<Box<dyn Source>> {
        match std::mem::replace(self, Phase::Idle) {
            Phase::Running { source, .. } | Phase::Closing { source, .. } => Some(source),
            Phase::Idle | Phase::Opening { .. } | Phase::Leaving => None,
        }
    }
}

/// A request of the API in progress.
pub(super) struct Pending {
    pub(super) answer: oneshot::Sender<StreamOutcome>,
    pub(super) change: PendingChange,
    /// Version of the new settings.
    pub(super) generation: u64,
}

pub(super) enum PendingChange {
    Add,
    /// The new settings while they are being stored, then those that they replaced.
    Change(Box<StreamSettings>),
    Remove,
}

pub(super) struct ManagedStream {
    /// The wanted settings.
    pub(super) settings: StreamSettings,
    pub(super) origin: StreamOwner,
    pub(super) generation: u64,
    pub(super) handle: StreamHandle,
    pub(super) phase: Phase,
    /// It is to be removed.
    pub(super) gone: bool,
    /// It was removed from the fleet: its history goes with it.
    pub(super) forgotten: bool,
    /// The fleet wants it again after that.
    pub(super) again: Option<Box<FleetWatch>>,
    /// Its source ended by itself.
    pub(super) over: bool,
    /// Open the source again although its settings have not changed.
    pub(super) reopen: bool,
    pub(super) error: Option<Error>,
    /// When it is opened again after a fault of the program, monotonic clock.
    pub(super) revive_at_ns: Option<u64>,
    /// The next delay before that.
    revive_in_ns: u64,
    /// When it was last opened, monotonic clock.
    opened_ns: u64,
    /// A stream of the start: if it cannot be opened, the program ends with an error.
    pub(super) is_initial: bool,
    /// The store is writing; nothing else happens until it is done.
    pub(super) saving: bool,
    pub(super) pending: Option<Pending>,
    /// Settings and vote that the source was opened with.
    applied: Option<(StreamSettings, VoteConfig)>,
    /// Pace of the previous source, shown again if the new one cannot be opened.
    pub(super) pace_before: Pace,
}

impl ManagedStream {
    pub(super) fn new(settings: StreamSettings, origin: StreamOwner, generation: u64, handle: StreamHandle) -> Self {
        Self {
            settings,
            origin,
            generation,
            handle,
            phase: Phase::Idle,
            gone: false,
            forgotten: false,
            again: None,
            over: false,
            reopen: false,
            error: None,
            revive_at_ns: None,
            revive_in_ns: REVIVE_MIN_NS,
            opened_ns: 0,
            is_initial: false,
            saving: false,
            pending: None,
            applied: None,
            pace_before: Pace::Live,
        }
    }

    /// A step is in progress, or a source runs.
    pub(super) fn is_busy(&self) -> bool {
        self.saving || !matches!(self.phase, Phase::Idle)
    }

    /// A request waits for it to open.
    pub(super) fn is_opening_requested(&self) -> bool {
        let is_asked =
            matches!(&self.pending, Some(Pending { change: PendingChange::Add | PendingChange::Change(_), .. }));
        is_asked && !self.saving && !self.gone && matches!(self.phase, Phase::Opening { .. })
    }

    pub(super) fn must_reopen(&self) -> bool {
        self.reopen || self.applied.as_ref().is_some_and(|(applied, _)| self.settings.needs_reopening(applied))
    }

    /// A thread opens the source with the current settings.
    pub(super) fn opened_with(&mut self, vote: VoteConfig, ticket: u64, now_ns: u64) {
        (self.revive_at_ns, self.opened_ns) = (None, now_ns);
        self.pace_before = self.handle.pace();
        self.applied = Some((self.settings.clone(), vote));
        self.phase = Phase::Opening { ticket, unwanted_ns: None };
        (self.over, self.reopen, self.error) = (false, false, None);
    }

    /// Schedules a live stream that ended by a fault of the program to be opened again. The delay doubles with each
    /// fault in a row.
    pub(super) fn revive_later(&mut self, now_ns: u64) {
        let is_own_failure = self.over && matches!(self.error, Some(Error::Internal(_)));
        if !is_own_failure || self.handle.pace() != Pace::Live {
            return;
        }
        if now_ns.saturating_sub(self.opened_ns) > REVIVE_MAX_NS {
            self.revive_in_ns = REVIVE_MIN_NS;
        }
        self.revive_at_ns = Some(now_ns.saturating_add(self.revive_in_ns));
        self.revive_in_ns = (2 * self.revive_in_ns).min(REVIVE_MAX_NS);
    }

    /// The source was asked to stop.
    pub(super) fn close(&mut self, since_ns: u64) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Running { queue, source } => Phase::Closing { queue, source, since_ns },
            other => other,
        };
    }

    /// Its vote, with `run` for the values that it does not set.
    pub(super) fn vote(&self, run: VoteConfig) -> VoteConfig {
        // The combination was valid when the settings were accepted. The run's values may have changed since.
        self.settings.vote.over(run).unwrap_or(run)
    }

    /// The queue to send `vote` to, if it runs with another one.
    pub(super) fn replace_vote(&mut self, vote: VoteConfig) -> Option<QueueId> {
        let (queue, (_, applied)) = (self.phase.queue()?, self.applied.as_mut()?);
        (std::mem::replace(applied, vote) != vote).then_some(queue)
    }

    /// What is expected on it. Settings are checked when they are accepted, but stored ones may be older than the pack.
    pub(super) fn expectations(&self, classes: &ClassSet) -> Expectations {
        self.settings.expectations(classes).unwrap_or_else(|e| {
            tracing::error!("{}: {e}; nothing is expected of the stream until `expect` is corrected", self.settings.id);
            Expectations::default()
        })
    }

    /// The queue to send expectations to, if it runs with others.
    pub(super) fn replace_expectations(&mut self, classes: &ClassSet) -> Option<(QueueId, Expectations)> {
        let (queue, new) = (self.phase.queue()?, &self.settings);
        let (applied, _) = self.applied.as_mut()?;
        if (&applied.expect, applied.expect_for_s, &applied.schedule) == (&new.expect, new.expect_for_s, &new.schedule)
        {
            return None;
        }
        (applied.expect, applied.expect_for_s) = (new.expect.clone(), new.expect_for_s);
        applied.schedule.clone_from(&new.schedule);
        Some((queue, self.expectations(classes)))
    }

    /// Whether it retries after a first attempt that fails; `run` is the default. Streams of the API and of a fleet retry: a camera
    /// that is off at the start must come back by itself.
    pub(super) fn retries(&self, run: bool) -> bool {
        self.settings.retry.unwrap_or(run || self.origin.is_guarded())
    }

    /// Whether it retries if the next attempt fails. A stream that has played before always does: changing a setting
    /// must not end a camera that happens to be off.
    pub(super) fn retries_now(&self, run: bool) -> bool {
        self.handle.has_opened() || self.retries(run)
    }

    /// Whether a reload opens it again after it ended by itself: after a failure, and after any end of a live stream. A
    /// recording that was read to its end is not read again.
    pub(super) fn may_revive(&self) -> bool {
        self.over && self.settings.enabled && (self.error.is_some() || self.handle.pace() == Pace::Live)
    }

    /// Publishes the settings in the API.
    pub(super) fn show(&self, vote: VoteConfig, retry: bool) {
        self.handle.set_output(self.settings.output.clone());
        self.handle.set_facts(StreamFacts {
            label: self.settings.label.clone(),
            group: self.settings.group.clone(),
            origin: self.origin,
            enabled: self.settings.enabled,
            generation: self.generation,
            latency_ms: self.settings.latency_ms,
            rtsp_transport: self.settings.rtsp_transport,
            kind: self.settings.kind,
            tier: self.settings.tier,
            decoder: self.settings.decoder,
            variant: self.settings.hls.variant,
            max_height: self.settings.hls.max_height,
            audio_language: self.settings.hls.audio_language.clone(),
            isolation: self.settings.isolation(self.origin.is_guarded()),
            retry: self.retries(retry),
            record: self.settings.record,
            expect: self.settings.expect.clone(),
            expect_for_s: self.settings.expect_for_s,
            schedule: self.settings.schedule.as_ref().map(Schedule::name),
            vote: self.vote(vote).into(),
        });
    }

    /// Answers the pending request, if there is one.
    pub(super) fn answer(&mut self, outcome: StreamOutcome) {
        if let Some(pending) = self.pending.take() {
            // The client may be gone. The change stays.
            let _ = pending.answer.send(outcome);
        }
    }

    /// Refuses the pending request. Returns false if there was none.
    pub(super) fn refuse(&mut self, refused: StreamRefusal) -> bool {
        let was_pending = self.pending.is_some();
        self.answer(Err(refused));
        was_pending
    }
}
