//! Data that survive a restart.

use std::sync::Arc;

use crate::config::RecordKind;
use touchline_core::error::Result;
use touchline_core::time::RunId;

/// Stores records and runs. Called by the publisher: must not block, except [`Archive::run_ahead`]
/// and [`Archive::seconds`].
pub trait Archive: Send + Sync {
    /// Stores an event, incident or state of `stream`.
    fn keep(&self, stream: &str, kind: RecordKind, json: &Arc<str>);
    /// Stores a second of `stream` for exports: a line of JSON that [`crate::publish::record_reader`] reads.
    fn keep_second(&self, stream: &str, line: String);
    /// The stored seconds and events of `stream` as lines of JSON, oldest first. Waits for the disk.
    ///
    /// # Errors
    /// Names the reason why they cannot be read.
    fn seconds(&self, stream: &str) -> Result<Vec<u8>>;
    /// Run `run` of `stream` has begun.
    fn run_began(&self, stream: &str, run: RunId);
    /// Reserves `run` and later runs of `stream`. Called before a source is opened; may block.
    fn run_ahead(&self, stream: &str, run: RunId);
}

/// The stored data of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    /// Event records, oldest first.
    pub events: Vec<Arc<str>>,
    /// Incident records, oldest first.
    pub incidents: Vec<Arc<str>>,
    /// The last state record.
    pub state: Option<Arc<str>>,
    /// The last run.
    pub run: Option<RunId>,
}
