//! What a stream is doing, and how records and the API say it.

use serde::Serialize;

use super::format::{millis, rfc3339};
use touchline_core::cause::Cause;
use touchline_core::redact;

/// What a stream is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StreamState {
    /// The source is being opened for the first time.
    #[default]
    Connecting,
    /// Data come.
    Playing,
    /// The source failed and will be opened again, for the `attempt`th time since it last played for long, in
    /// `retry_in_ns` nanoseconds.
    Waiting { kind: Cause, cause: String, attempt: u32, retry_in_ns: u64 },
    /// An operator stopped it; it is opened when it is enabled again.
    Paused,
    /// The program paused it.
    Held { kind: Cause, cause: String, advice: String },
    /// The source came to its end.
    Ended,
    /// The source failed and will not be opened again.
    Failed { kind: Cause, cause: String, advice: String },
    /// It was taken out of the program. The last state of all.
    Removed,
}

impl StreamState {
    /// Why it is so, where there is a reason.
    pub const fn cause(&self) -> Option<Cause> {
        match self {
            StreamState::Waiting { kind, .. } | StreamState::Failed { kind, .. } | StreamState::Held { kind, .. } => {
                Some(*kind)
            }
            _ => None,
        }
    }

    /// Value of the key `state`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            StreamState::Connecting => "connecting",
            StreamState::Playing => "playing",
            StreamState::Waiting { .. } => "waiting",
            StreamState::Paused | StreamState::Held { .. } => "paused",
            StreamState::Ended => "ended",
            StreamState::Failed { .. } => "failed",
            StreamState::Removed => "removed",
        }
    }

    /// Nothing comes of it as long as it is in this state.
    pub const fn is_over(&self) -> bool {
        !matches!(self, StreamState::Connecting | StreamState::Playing | StreamState::Waiting { .. })
    }

    /// The same state with URLs and secrets taken out of its texts.
    pub(super) fn redacted(self) -> Self {
        match self {
            StreamState::Waiting { kind, cause, attempt, retry_in_ns } => {
                StreamState::Waiting { kind, cause: redact::text(&cause), attempt, retry_in_ns }
            }
            StreamState::Failed { kind, cause, advice } => {
                StreamState::Failed { kind, cause: redact::text(&cause), advice: redact::text(&advice) }
            }
            StreamState::Held { kind, cause, advice } => {
                StreamState::Held { kind, cause: redact::text(&cause), advice: redact::text(&advice) }
            }
            state => state,
        }
    }
}

/// The state as it stands in records and in the API: all keys always there.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StateFields<'a> {
    state: &'static str,
    kind: Option<Cause>,
    cause: Option<&'a str>,
    advice: Option<&'a str>,
    attempt: Option<u32>,
    retry_in_ms: Option<f64>,
    next_try: Option<String>,
}

impl<'a> StateFields<'a> {
    /// `since_unix_ns`: when it came about, nanoseconds since 1970-01-01 UTC.
    pub(super) fn new(state: &'a StreamState, since_unix_ns: i64) -> Self {
        let bare = Self {
            state: state.as_str(),
            kind: state.cause(),
            cause: None,
            advice: None,
            attempt: None,
            retry_in_ms: None,
            next_try: None,
        };
        match state {
            StreamState::Connecting
            | StreamState::Playing
            | StreamState::Paused
            | StreamState::Ended
            | StreamState::Removed => bare,
            StreamState::Waiting { cause, attempt, retry_in_ns, .. } => Self {
                cause: Some(cause),
                attempt: Some(*attempt),
                retry_in_ms: Some(millis(*retry_in_ns)),
                next_try: Some(rfc3339(since_unix_ns.saturating_add_unsigned(*retry_in_ns))),
                ..bare
            },
            StreamState::Failed { cause, advice, .. } | StreamState::Held { cause, advice, .. } => {
                Self { cause: Some(cause), advice: Some(advice), ..bare }
            }
        }
    }
}
