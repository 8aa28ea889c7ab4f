//! What outlives a restart.

use std::sync::Arc;

use touchline_core::time::RunId;

/// Keeps what a restart must not lose. Called on the publishing thread: must not wait, but for [`Archive::run_ahead`].
pub trait Archive: Send + Sync {
    /// Keeps a record of `stream`: events, incidents and states.
    fn keep(&self, stream: &str, kind: RecordKind, json: &Arc<str>);
    /// Run `run` of `stream` has begun.
    fn run_began(&self, stream: &str, run: RunId);
    /// Run `run` of `stream` and those after it may begin from now on. Called where a source is opened: may wait.
    fn run_ahead(&self, stream: &str, run: RunId);
}

/// What was kept of a stream before the program was started again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    /// Records, oldest first.
    pub events: Vec<Arc<str>>,
    pub incidents: Vec<Arc<str>>,
    pub state: Option<Arc<str>>,
    /// The run that began last.
    pub run: Option<RunId>,
}

/// Which kind of record it is: the name of its server-sent event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    Second,
    Gap,
    Event,
    State,
    Incident,
    Pack,
}

impl RecordKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            RecordKind::Second => "second",
            RecordKind::Gap => "gap",
            RecordKind::Event => "event",
            RecordKind::State => "state",
            RecordKind::Incident => "incident",
            RecordKind::Pack => "pack",
        }
    }
}
