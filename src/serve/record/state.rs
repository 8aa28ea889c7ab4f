//! The state of a stream, in records and in the API.

use schemars::JsonSchema;
use serde::Serialize;

use super::format::{millis, rfc3339};
use crate::metrics::STATES;
use touchline_core::cause::Cause;
use touchline_core::redact;

/// The state of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StreamState {
    /// The source is being opened for the first time.
    #[default]
    Connecting,
    /// Data arrive.
    Playing,
    /// The source failed and is opened again later.
    Waiting {
        /// The cause, for programs.
        kind: Cause,
        /// The cause, for people.
        cause: String,
        /// Number of the next attempt since the stream last played for long.
        attempt: u32,
        /// Delay of the next attempt, nanoseconds.
        retry_in_ns: u64,
    },
    /// An operator paused it; enabling it opens it.
    Paused,
    /// The program paused it.
    Held {
        /// The cause, for programs.
        kind: Cause,
        /// The cause, for people.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// The source has ended.
    Ended,
    /// The source failed and is not opened again.
    Failed {
        /// The cause, for programs.
        kind: Cause,
        /// The cause, for people.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// It was removed from the program. The last state.
    Removed,
}

impl StreamState {
    /// The cause, if there is one.
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

    /// Whether the stream delivers nothing in this state.
    pub const fn is_over(&self) -> bool {
        !matches!(self, StreamState::Connecting | StreamState::Playing | StreamState::Waiting { .. })
    }

    /// The state with URLs and secrets removed from its texts.
    pub(crate) fn redacted(self) -> Self {
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

/// The state in records and in the API. All keys are always present.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct StateFields<'a> {
    /// connecting: opening for the first time; playing: data arrive; waiting: failed and retrying, or listening for a
    /// caller (no-caller); paused: by an operator, or by the program because opening it ended the process twice
    /// (crashed); ended: the source ended; failed: failed without retry; removed: removed from the program, the last
    /// record of the stream.
    #[schemars(extend("enum" = STATES))]
    state: &'static str,
    /// Cause of waiting or failure, for programs.
    kind: Option<Cause>,
    /// Cause of waiting or failure, for people.
    cause: Option<&'a str>,
    /// Advice after a failure.
    advice: Option<&'a str>,
    /// Number of the next attempt since the stream last played for long, while waiting.
    #[schemars(range(min = 1))]
    attempt: Option<u32>,
    /// Milliseconds until the next attempt, while waiting.
    #[schemars(range(min = 0))]
    retry_in_ms: Option<f64>,
    /// Time of the next attempt (RFC 3339, this machine's clock), while waiting.
    next_try: Option<String>,
}

impl<'a> StateFields<'a> {
    /// `since_unix_ns`: when the state began, nanoseconds since 1970-01-01 UTC.
    pub(crate) fn new(state: &'a StreamState, since_unix_ns: i64) -> Self {
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
