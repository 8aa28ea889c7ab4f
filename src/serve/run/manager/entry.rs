//! One stream as the stream manager knows it: what is wanted, and how far it is.

use tokio::sync::oneshot;

use crate::backlog::QueueId;
use crate::config::StreamSettings;
use crate::publish::hub::{Origin, StreamFacts, StreamHandle};
use crate::publish::streams::{StreamOutcome, StreamRefusal};
use touchline_core::error::Error;
use touchline_core::item::Pace;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_core::vote::VoteConfig;
use touchline_media::Source;

/// How long a stream waits that ended by a failure of the program: at first, and at most. One that played for longer than the
/// latter begins with the former again.
const REVIVE_MIN_NS: u64 = NANOS_PER_SECOND;
const REVIVE_MAX_NS: u64 = 60 * NANOS_PER_SECOND;

pub(super) enum Phase {
    /// Without a source.
    Idle,
    /// A thread opens it. Which opening this is; and since when nobody wants it any more, monotonic clock.
    Opening {
        ticket: u64,
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
    /// The publishing thread takes leave of it.
    Leaving,
}

impl Phase {
    pub(super) fn queue(&self) -> Option<QueueId> {
        match self {
            Phase::Running { queue, .. } | Phase::Closing { queue, .. } => Some(*queue),
            Phase::Idle | Phase::Opening { .. } | Phase::Leaving => None,
        }
    }

    /// Since when its end is waited for.
    pub(super) fn waits_since_ns(&self) -> Option<u64> {
        match self {
            Phase::Closing { since_ns, .. } => Some(*since_ns),
            Phase::Opening { unwanted_ns, .. } => *unwanted_ns,
            Phase::Idle | Phase::Running { .. } | Phase::Leaving => None,
        }
    }

    /// Becomes idle; gives the source, if there was one.
    pub(super) fn take_source(&mut self) -> Option<Box<dyn Source>> {
        match std::mem::replace(self, Phase::Idle) {
            Phase::Running { source, .. } | Phase::Closing { source, .. } => Some(source),
            Phase::Idle | Phase::Opening { .. } | Phase::Leaving => None,
        }
    }
}

/// What the API asked of a stream and waits for.
pub(super) struct Pending {
    pub(super) answer: oneshot::Sender<StreamOutcome>,
    pub(super) change: PendingChange,
    /// Version of the settings to come.
    pub(super) generation: u64,
}

pub(super) enum PendingChange {
    Add,
    /// The settings to come, while they are being stored; then those that they replaced.
    Change(Box<StreamSettings>),
    Remove,
}

pub(super) struct ManagedStream {
    /// What is wanted.
    pub(super) settings: StreamSettings,
    pub(super) origin: Origin,
    pub(super) generation: u64,
    pub(super) handle: StreamHandle,
    pub(super) phase: Phase,
    /// It is not wanted any more.
    pub(super) gone: bool,
    /// Its source came to an end by itself.
    pub(super) over: bool,
    /// To be opened once more, though nothing about its source differs.
    pub(super) reopen: bool,
    pub(super) error: Option<Error>,
    /// When it is opened again because the program, not the source, had failed; monotonic clock.
    pub(super) revive_at_ns: Option<u64>,
    /// How long it waits for that the next time.
    revive_in_ns: u64,
    /// When it was opened last, monotonic clock.
    opened_ns: u64,
    /// Of the start: when it cannot be opened, the program cannot do what it was told.
    pub(super) is_initial: bool,
    /// The store is being told; nothing else happens until it has answered.
    pub(super) saving: bool,
    pub(super) pending: Option<Pending>,
    /// The settings and the vote that the source was opened with.
    applied: Option<(StreamSettings, VoteConfig)>,
    /// What the source before that promised about its timing: shown again when the one that was opened cannot be.
    pub(super) pace_before: Pace,
}

impl ManagedStream {
    pub(super) fn new(settings: StreamSettings, origin: Origin, generation: u64, handle: StreamHandle) -> Self {
        Self {
            settings,
            origin,
            generation,
            handle,
            phase: Phase::Idle,
            gone: false,
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

    /// Something is under way, or a source runs.
    pub(super) fn is_busy(&self) -> bool {
        self.saving || !matches!(self.phase, Phase::Idle)
    }

    /// Somebody waits for it to be open.
    pub(super) fn is_opening_asked(&self) -> bool {
        let is_asked =
            matches!(&self.pending, Some(Pending { change: PendingChange::Add | PendingChange::Change(_), .. }));
        is_asked && !self.saving && !self.gone && matches!(self.phase, Phase::Opening { .. })
    }

    pub(super) fn must_reopen(&self) -> bool {
        self.reopen || self.applied.as_ref().is_some_and(|(applied, _)| self.settings.needs_reopening(applied))
    }

    /// The source is being opened as things are now.
    pub(super) fn opened_with(&mut self, vote: VoteConfig, ticket: u64, now_ns: u64) {
        (self.revive_at_ns, self.opened_ns) = (None, now_ns);
        self.pace_before = self.handle.pace();
        self.applied = Some((self.settings.clone(), vote));
        self.phase = Phase::Opening { ticket, unwanted_ns: None };
        (self.over, self.reopen, self.error) = (false, false, None);
    }

    /// A live stream whose end was the program's own failure is opened again after a while, which grows while that happens again and
    /// again.
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

    /// How its seconds are voted over, where the run does so by `run`.
    pub(super) fn vote(&self, run: VoteConfig) -> VoteConfig {
        // Whether they fit together was checked when the settings were taken; the run's may have changed since.
        self.settings.vote.over(run).unwrap_or(run)
    }

    /// The queue that has to hear of `vote`, because it runs with another.
    pub(super) fn take_other_vote(&mut self, vote: VoteConfig) -> Option<QueueId> {
        let (queue, (_, applied)) = (self.phase.queue()?, self.applied.as_mut()?);
        (std::mem::replace(applied, vote) != vote).then_some(queue)
    }

    /// Whether a first attempt that fails is followed by others, where the run says `run`. What the API adds is kept:
    /// a camera that is off when the program starts must come back by itself.
    pub(super) fn retries(&self, run: bool) -> bool {
        self.settings.retry.unwrap_or(run || self.origin == Origin::Api)
    }

    /// Whether others follow after a failure of the attempt that comes next. It is no first one when the stream has played
    /// before: what else than its address was changed must not end a camera that happens to be off.
    pub(super) fn retries_now(&self, run: bool) -> bool {
        self.handle.has_opened() || self.retries(run)
    }

    /// Whether the end that it came to by itself may be undone by asking again: a failure, and any end of what is live. A
    /// recording that was read to its end would only be read again.
    pub(super) fn may_revive(&self) -> bool {
        self.over && self.settings.enabled && (self.error.is_some() || self.handle.pace() == Pace::Live)
    }

    /// Shows the settings in the API.
    pub(super) fn show(&self, vote: VoteConfig, retry: bool) {
        self.handle.set_facts(StreamFacts {
            label: self.settings.label.clone(),
            origin: self.origin,
            enabled: self.settings.enabled,
            generation: self.generation,
            latency_ms: self.settings.latency_ms,
            rtsp_transport: self.settings.rtsp_transport,
            kind: self.settings.kind,
            variant: self.settings.hls.variant,
            max_height: self.settings.hls.max_height,
            audio_language: self.settings.hls.audio_language.clone(),
            isolation: self.settings.isolation(self.origin == Origin::Api),
            retry: self.retries(retry),
            vote: self.vote(vote).into(),
        });
    }

    /// Tells whoever waits.
    pub(super) fn answer(&mut self, outcome: StreamOutcome) {
        if let Some(pending) = self.pending.take() {
            // Who asked may be gone; what was done stays done.
            let _ = pending.answer.send(outcome);
        }
    }

    /// Tells whoever waits that it cannot be; false when nobody asked for it.
    pub(super) fn refuse(&mut self, refused: StreamRefusal) -> bool {
        let asked = self.pending.is_some();
        self.answer(Err(refused));
        asked
    }
}
