//! Data that survive a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::oneshot;

use crate::config::RecordKind;
use crate::record::SegmentContent;
use touchline_core::error::Result;
use touchline_core::segment::Segment;
use touchline_core::time::RunId;

/// Stores records and runs. Called by the publisher: must not block, except [`Archive::run_ahead`]
/// and the methods that read.
pub trait Archive: Send + Sync {
    /// Stores an event, incident, state or expectation record of `stream`, of the time `at_ms`.
    fn keep(&self, stream: &str, kind: RecordKind, json: &Arc<str>, at_ms: i64);
    /// Stores a segment of `stream`. It replaces the one of its epoch and run that begins with the same second, and those within it.
    fn keep_segment(&self, stream: &str, segment: KeptSegment);
    /// Stores a second of `stream` that began at `at_ms`: a line of JSON that [`crate::record::reader`] reads.
    fn keep_second(&self, stream: &str, at_ms: i64, line: String);
    /// The stored seconds and events of `stream` in a time, and some around it, as lines of JSON, oldest first. Waits for the disk.
    ///
    /// # Errors
    /// Names the reason why they cannot be read.
    fn seconds(&self, stream: &str, time: KeptTime) -> Result<Vec<u8>>;
    /// The stored segments. [`HistoryFilter::kinds`] are their contents. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn segments(&self, filter: &HistoryFilter) -> Result<Vec<StoredSegment>>;
    /// The picture of the segment of `stream` that begins with second `first` of `run` and that this machine decided (JPEG), if there is one. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn poster(&self, stream: &str, run: RunId, first: u64) -> Result<Option<Vec<u8>>>;
    /// The stored events, incidents and states. [`HistoryFilter::kinds`] are their types. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn records(&self, filter: &HistoryFilter) -> Result<Vec<StoredRecord>>;
    /// Time per content of each stream in each of `times`. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn times(&self, times: &[KeptTime]) -> Result<Vec<Vec<TimeOfContent>>>;
    /// Time of the first record of each stream, milliseconds since 1970-01-01 UTC. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn first_times(&self) -> Result<BTreeMap<String, i64>>;
    /// Run `run` of `stream` has begun.
    fn run_began(&self, stream: &str, run: RunId);
    /// Reserves `run` and later runs of `stream`. Called before a source is opened; may block.
    fn run_ahead(&self, stream: &str, run: RunId);
    /// Number of the last record of a fleet that is stored with all before it; 0 without one. Waits for the disk.
    ///
    /// # Errors
    /// As [`Archive::seconds`].
    fn fleet_position(&self, source: &FleetSource) -> Result<u64>;
    /// Stores records of a fleet, except those of this machine, which it stores when it publishes them. They follow those of the call before,
    /// whose answer must have come. The receiver gets a message when the next ones may be stored; an error says that they were not, and
    /// that the records after [`Archive::fleet_position`] are needed again.
    fn keep_fleet(&self, source: &FleetSource, records: Vec<FleetRecord>) -> oneshot::Receiver<()>;
}

/// Where the records of a fleet are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSource {
    /// The name of this machine.
    pub node: Arc<str>,
    /// When the JetStream stream was created, nanoseconds since 1970-01-01 UTC. Numbers of another one mean nothing.
    pub created_ns: i64,
}

/// A record of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetRecord {
    /// Its number in the JetStream stream.
    pub sequence: u64,
    /// Its type.
    pub kind: RecordKind,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// The record.
    pub json: String,
}

/// A segment for the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptSegment {
    /// The epoch of its fleet; 0 without one. Runs of different epochs may have the same number.
    pub epoch: u64,
    /// The machine of the fleet that decided it; `None`: this one.
    pub node: Option<Arc<str>>,
    /// Its run.
    pub run: RunId,
    /// Number of its first second in the run.
    pub first: u64,
    /// Number of its last second in the run.
    pub last: u64,
    /// Wall time of its start, milliseconds since 1970-01-01 UTC.
    pub began_ms: i64,
    /// Wall time of its end.
    pub ended_ms: i64,
    /// Its content.
    pub content: SegmentContent,
    /// Its class.
    pub class: Option<Arc<str>>,
    /// Its end is not known yet.
    pub is_open: bool,
    /// Its record.
    pub json: Arc<str>,
    /// A picture of its strongest second (JPEG). Without one the stored picture stays.
    pub poster: Option<Bytes>,
}

impl KeptSegment {
    /// A segment of this machine, without epoch and picture; `None` without wall time.
    pub fn new(segment: &Segment, class: Option<&str>, is_open: bool, json: Arc<str>) -> Option<Self> {
        let (began_ns, ended_ns) = segment.began_ns.zip(segment.ended_ns)?;
        Some(Self {
            epoch: 0,
            node: None,
            run: segment.run,
            first: segment.first,
            last: segment.last,
            began_ms: began_ns.div_euclid(1_000_000),
            ended_ms: ended_ns.div_euclid(1_000_000),
            content: segment.kind.into(),
            class: class.map(Into::into),
            is_open,
            json,
            poster: None,
        })
    }
}

/// A time in the history: milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptTime {
    /// Its begin.
    pub from_ms: i64,
    /// Its end, exclusive.
    pub to_ms: i64,
}

impl KeptTime {
    /// The whole history.
    pub const ALL: Self = Self { from_ms: i64::MIN, to_ms: i64::MAX };
}

/// A place in a list of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryCursor {
    /// When the item began, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// Its number, which no other item of the list has.
    pub number: i64,
}

/// Which items of the history are listed.
#[derive(Clone, Debug)]
pub struct HistoryFilter {
    /// Only those of these streams.
    pub streams: Option<Vec<String>>,
    /// Only those of these classes.
    pub classes: Option<Vec<String>>,
    /// Only those of these kinds.
    pub kinds: Option<Vec<String>>,
    /// Only those that end after this time, milliseconds since 1970-01-01 UTC.
    pub from_ms: i64,
    /// Only those that begin before this time.
    pub to_ms: i64,
    /// Only those after this place.
    pub after: Option<HistoryCursor>,
    /// The newest come first.
    pub newest_first: bool,
    /// Maximum number of items.
    pub limit: usize,
}

/// A stored segment.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSegment {
    /// Its place.
    pub at: HistoryCursor,
    /// Id of its stream.
    pub stream: String,
    /// The machine of the fleet that decided it; `None`: this one.
    pub node: Option<String>,
    /// Its run.
    pub run: RunId,
    /// Number of its first second in the run.
    pub first: u64,
    /// Its end is not known yet.
    pub is_open: bool,
    /// There is a picture of it.
    pub has_poster: bool,
    /// Its record.
    pub json: String,
}

/// A stored event, incident or state.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRecord {
    /// Its place.
    pub at: HistoryCursor,
    /// Its record.
    pub json: String,
}

/// Time that a stream showed one content.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeOfContent {
    /// Id of the stream.
    pub stream: String,
    /// Its content: a name of [`SegmentContent`].
    pub content: String,
    /// The class.
    pub class: Option<String>,
    /// Duration, milliseconds.
    pub ms: i64,
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
