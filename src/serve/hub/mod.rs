//! The current state of every stream, and its subscribers.
//!
//! The publisher calls [`StreamHandle::publish`] once a second. Subscribers of the HTTP server read a snapshot and
//! receive every record after it. Publishing never waits for a subscriber: a slow one loses the oldest records and
//! learns how many. The hub does no networking.

mod archive;
mod elsewhere;
mod facts;
mod feed;
mod handle;
mod history;
pub mod notice;
pub mod output;
pub(crate) mod overview;
mod posters;
pub(crate) mod preview;
mod stream;
pub(crate) mod view;

use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::broadcast;

use self::notice::Notice;
use self::output::OutputStatus;
use self::preview::Preview;
pub use crate::config::RecordKind;
use crate::config::stream_id;
use crate::control::packs::PackStatus;
use crate::metrics::Metrics;
use crate::record::{FleetTenure, StreamState};
use crate::sink::DeliveryBoard;
pub use archive::{
    Archive, FleetRecord, FleetSource, HistoryCursor, HistoryFilter, KeptSegment, KeptTime, Restored, StoredRecord,
    StoredSegment, TimeOfContent,
};
pub use elsewhere::ElsewhereInfo;
use elsewhere::ElsewhereList;
pub(crate) use elsewhere::ElsewhereView;
pub use facts::{StreamFacts, StreamInfo, StreamOwner, VoteFacts};
use feed::Feed;
pub use feed::{FeedBatch, FeedCursor, FeedFilter, FeedItem, FeedKind};
pub use handle::StreamHandle;
pub use posters::PosterBook;
pub use stream::StreamCounts;
use stream::{LiveState, SourceFacts, Stream, Unexpected};
use touchline_core::clock::Clock;
use touchline_core::decision::PackStamp;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// Seconds kept per stream for the timeline: ten minutes, as much as the page shows.
pub const HISTORY_SECONDS: usize = 600;

/// Events kept per stream: ten minutes even if the sport changes every few seconds.
pub const HISTORY_EVENTS: usize = 200;

/// Incidents kept per stream: several minutes even if the source stalls every few seconds.
pub const HISTORY_INCIDENTS: usize = 100;

/// Facts that all streams share at the start.
#[derive(Clone, Debug)]
pub struct HubInfo {
    /// The classes of the pack.
    pub classes: ClassSet,
    /// Modalities that the pack has a model for.
    pub modalities: Vec<Modality>,
    /// Name and hashes of the pack.
    pub pack: PackStamp,
    /// Default vote window, seconds.
    pub vote_window_s: u32,
    /// Name of the program in the records, if it has one.
    pub instance: Option<Arc<str>>,
}

/// A record for subscribers.
#[derive(Clone, Debug)]
pub struct LiveRecord {
    /// Number of the record in its stream, from 1.
    pub sequence: u64,
    /// Its type.
    pub kind: RecordKind,
    /// The record.
    pub json: Arc<str>,
}

/// The names of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamName {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub label: Option<String>,
    /// Its group.
    pub group: Option<String>,
}

/// A snapshot of a stream, and every record after it.
#[derive(Debug)]
pub struct Subscription {
    /// JSON, as [`Hub::stream_json`].
    pub snapshot: String,
    /// Sequence number of the last record in `snapshot`.
    pub sequence: u64,
    /// The records after it.
    pub records: broadcast::Receiver<LiveRecord>,
}

/// The state of all streams. Cloning shares it.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<HubShared>,
}

struct HubShared {
    /// The same for every pack: the classes of a stream's records must not change.
    classes: Arc<ClassSet>,
    instance: Option<Arc<str>>,
    vote_window_s: AtomicU32,
    time_zone: RwLock<Option<Arc<str>>>,
    teaches: AtomicBool,
    notice: RwLock<Option<Notice>>,
    /// JSON; `None` without a fleet.
    fleet: RwLock<Option<String>>,
    /// Set once, if there is one.
    fleet_name: OnceLock<String>,
    pack: RwLock<RunningPack>,
    pack_status: PackStatus,
    deliveries: DeliveryBoard,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// In the order in which they were added.
    streams: RwLock<Vec<Arc<Stream>>>,
    /// Streams that other machines of the fleet watch.
    elsewhere: ElsewhereList,
    feed: Arc<Feed>,
    archive: RwLock<Option<Arc<dyn Archive>>>,
    /// Why the program is not ready; `None` if it is.
    not_ready: RwLock<Option<String>>,
}

/// The running pack, for the page and the API.
#[derive(Clone)]
struct RunningPack {
    stamp: Arc<PackStamp>,
    modalities: Vec<Modality>,
}

impl Hub {
    /// A hub without streams, not ready.
    pub fn new(info: HubInfo, metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        metrics.set_pack(&info.pack);
        let classes = Arc::new(info.classes);
        let pack = RwLock::new(RunningPack { stamp: Arc::new(info.pack), modalities: info.modalities });
        let not_ready = RwLock::new(Some("starting".to_owned()));
        let pack_status = PackStatus::new(classes.clone(), clock.clone());
        let instance = info.instance;
        let feed = Arc::new(Feed::new(clock.unix_ns().div_euclid(1_000_000)));
        let vote_window_s = AtomicU32::new(info.vote_window_s);
        let (streams, archive, time_zone) = (RwLock::default(), RwLock::default(), RwLock::default());
        let deliveries = DeliveryBoard::default();
        let shared = HubShared {
            classes,
            instance,
            vote_window_s,
            time_zone,
            teaches: AtomicBool::new(false),
            notice: RwLock::default(),
            fleet: RwLock::default(),
            fleet_name: OnceLock::new(),
            pack,
            pack_status,
            deliveries,
            metrics,
            clock,
            streams,
            elsewhere: ElsewhereList::default(),
            feed,
            archive,
            not_ready,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds a stream in the state [`StreamState::Connecting`].
    ///
    /// # Errors
    /// [`Error::Usage`] if the id is ill-formed or exists.
    pub fn add_stream(&self, info: StreamInfo) -> Result<StreamHandle> {
        self.add_stream_of(info, None)
    }

    /// As [`Hub::add_stream`], for a stream of a fleet.
    ///
    /// # Errors
    /// As [`Hub::add_stream`].
    pub fn add_stream_of(&self, info: StreamInfo, tenure: Option<Arc<FleetTenure>>) -> Result<StreamHandle> {
        let id = info.id;
        stream_id(&id).map_err(Error::Usage)?;
        let mut streams = self.shared.streams.write();
        if streams.iter().any(|s| *s.id == *id) {
            return Err(Error::Usage(format!("stream id {id:?} is given twice; give every stream its own")));
        }
        let metrics = self.shared.metrics.stream(&id, &self.shared.classes);
        let (state, unix_ns) = (StreamState::default(), self.shared.clock.unix_ns());
        metrics.state(state.as_str(), state.cause(), unix_ns, None);
        let stream = Arc::new(Stream {
            source: RwLock::new(SourceFacts::new(&id, &self.shared, &info.uri, info.pace, tenure.clone())),
            tenure,
            metrics,
            live: Mutex::new(LiveState::new(unix_ns)),
            preview: Arc::new(Preview::new(self.shared.clock.clone())),
            posters: Arc::default(),
            feed: self.shared.feed.clone(),
            id: id.into(),
        });
        streams.push(stream.clone());
        // The other threads wait for this lock: the feed needs only that of the stream.
        drop(streams);
        let handle = StreamHandle { hub: self.clone(), stream };
        handle.announce();
        Ok(handle)
    }

    /// Removes stream `id` with its metrics. Its subscribers and viewers receive the pending records and then the end.
    /// Returns false if there is no such stream. Later updates by its threads have no effect.
    pub fn remove_stream(&self, id: &str) -> bool {
        let mut streams = self.shared.streams.write();
        let Some(at) = streams.iter().position(|s| *s.id == *id) else { return false };
        let stream = streams.remove(at);
        // Under the lock: the id is free for another stream only after this one is removed completely.
        self.shared.metrics.remove_stream(&stream.metrics);
        self.shared.pack_status.forget(id);
        stream.live().subscribers = None;
        stream.preview.close();
        true
    }

    /// The pictures for the segments of stream `id`; `None` if there is no such stream.
    pub fn posters(&self, id: &str) -> Option<Arc<PosterBook>> {
        Some(self.stream(id)?.posters.clone())
    }

    /// Whether stream `id` exists.
    pub fn has_stream(&self, id: &str) -> bool {
        self.stream(id).is_some()
    }

    /// Whether stream `id` is recorded, if the program records.
    pub fn is_recorded(&self, id: &str) -> bool {
        self.stream(id).is_some_and(|stream| stream.live().facts.as_ref().is_none_or(|facts| facts.record))
    }

    /// Where stream `id` comes from, without secrets, and whether the source policy applies to it.
    pub fn source(&self, id: &str) -> Option<(Arc<str>, bool)> {
        let stream = self.stream(id)?;
        let is_guarded = stream.live().facts.as_ref().is_none_or(|facts| facts.origin.is_guarded());
        Some((stream.source().uri, is_guarded))
    }

    /// Where the pictures of stream `id` are sent with the label, with its secrets.
    pub fn output(&self, id: &str) -> Option<String> {
        self.stream(id)?.live().output.clone()
    }

    /// Sets the status of the output of stream `id`, for the API.
    pub fn set_output_status(&self, id: &str, status: Option<Arc<OutputStatus>>) {
        if let Some(stream) = self.stream(id) {
            stream.live().output_status = status;
        }
    }

    /// The classes of the records.
    pub fn classes(&self) -> &Arc<ClassSet> {
        &self.shared.classes
    }

    /// The status of the sinks of the configuration.
    pub fn deliveries(&self) -> &DeliveryBoard {
        &self.shared.deliveries
    }

    /// Archives events, incidents and states from now on.
    pub fn set_archive(&self, archive: Arc<dyn Archive>) {
        *self.shared.archive.write() = Some(archive);
    }

    /// Where events, incidents, states and seconds are archived.
    pub fn archive(&self) -> Option<Arc<dyn Archive>> {
        self.shared.archive.read().clone()
    }

    /// Stops archiving.
    pub fn end_archive(&self) {
        *self.shared.archive.write() = None;
    }

    /// One line on what the program does: number of streams, and how many play.
    pub fn status(&self) -> String {
        let streams = self.streams();
        let playing = streams.iter().filter(|s| s.live().state == StreamState::Playing).count();
        match self.not_ready() {
            Some(why) => why,
            None => {
                let many = if streams.len() == 1 { "" } else { "s" };
                format!("watching {} stream{many}, {playing} playing", streams.len())
            }
        }
    }

    /// Archives a record of the time `unix_ns`; `None`: of now. While a stream of a fleet is prepared, another machine's records count.
    fn keep(&self, stream: &Stream, kind: RecordKind, json: &Arc<str>, unix_ns: Option<i64>) {
        if stream.tenure.as_ref().is_some_and(|tenure| tenure.epoch().is_none()) {
            return;
        }
        if let Some(archive) = &*self.shared.archive.read() {
            let unix_ns = unix_ns.unwrap_or_else(|| self.shared.clock.unix_ns());
            archive.keep(&stream.id, kind, json, unix_ns.div_euclid(1_000_000));
        }
    }

    /// Sets whether the program is ready.
    pub fn set_ready(&self, ready: bool) {
        self.set_not_ready(if ready { None } else { Some("starting".to_owned()) });
    }

    /// Sets why the program is not ready, as in "warming up the models".
    pub fn set_starting(&self, doing: impl Into<String>) {
        self.set_not_ready(Some(doing.into()));
    }

    fn set_not_ready(&self, why: Option<String>) {
        *self.shared.not_ready.write() = why;
    }

    /// Why the program is not ready; `None` if it is.
    pub fn not_ready(&self) -> Option<String> {
        self.shared.not_ready.read().clone()
    }

    /// Sets the running pack. Subscribers of a stream receive a `pack` record before the first second that it decides.
    pub fn set_pack(&self, stamp: Arc<PackStamp>, modalities: Vec<Modality>) {
        self.shared.metrics.set_pack(&stamp);
        *self.shared.pack.write() = RunningPack { stamp, modalities };
    }

    /// Sets the default vote window.
    pub fn set_vote_window(&self, seconds: u32) {
        self.shared.vote_window_s.store(seconds, Ordering::Relaxed);
    }

    /// Sets the sentence that the page shows to all viewers.
    pub fn set_notice(&self, notice: Option<Notice>) {
        *self.shared.notice.write() = notice;
    }

    /// Sets whether seconds can be corrected.
    pub fn set_teaches(&self, teaches: bool) {
        self.shared.teaches.store(teaches, Ordering::Relaxed);
    }

    /// This machine belongs to the fleet `name`.
    pub fn join_fleet(&self, name: &str) {
        // It does not change.
        let _ = self.shared.fleet_name.set(name.to_owned());
    }

    /// Sets the answer of `GET /api/v1/fleet`.
    pub fn set_fleet(&self, json: Option<String>) {
        *self.shared.fleet.write() = json;
    }

    /// The answer of `GET /api/v1/fleet`; `None` without a fleet.
    pub fn fleet_json(&self) -> Option<String> {
        self.shared.fleet.read().clone()
    }

    /// Sets the time zone of the page, as in `Europe/London`.
    pub fn set_time_zone(&self, name: Option<&str>) {
        *self.shared.time_zone.write() = name.map(Into::into);
    }

    /// The status for `/api/v1/pack`.
    pub fn pack_status(&self) -> &PackStatus {
        &self.shared.pack_status
    }

    /// The answer of `GET /api/v1/pack`; `writable`: whether POST is accepted.
    pub fn pack_json(&self, writable: bool) -> String {
        self.shared.pack_status.json(&self.pack().stamp, writable)
    }

    fn pack(&self) -> RunningPack {
        self.shared.pack.read().clone()
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Subscribes to stream `id`; `None` if there is no such stream. Snapshot and records neither overlap nor leave a
    /// gap.
    pub fn subscribe(&self, id: &str) -> Option<Subscription> {
        let stream = self.stream(id)?;
        let live = stream.live();
        let records = live.subscribers.as_ref()?.subscribe();
        Some(Subscription { snapshot: self.detail(&stream, &live), sequence: live.sequence, records })
    }

    /// The preview of stream `id`, and whether it can have pictures; `None` if there is no such stream.
    pub(super) fn preview(&self, id: &str) -> Option<(Arc<Preview>, bool)> {
        self.stream(id).map(|s| (s.preview.clone(), s.live().tracks.is_none_or(|tracks| tracks.video)))
    }

    /// As [`Hub::preview`] for streams that can have pictures, and whether it plays.
    pub(super) fn thumbnails(&self, id: &str) -> Option<(Arc<Preview>, bool)> {
        let stream = self.stream(id)?;
        let live = stream.live();
        let has_pictures = live.tracks.is_none_or(|tracks| tracks.video);
        has_pictures.then(|| (stream.preview.clone(), live.state == StreamState::Playing))
    }

    fn stream(&self, id: &str) -> Option<Arc<Stream>> {
        self.streams().into_iter().find(|s| *s.id == *id)
    }

    /// The streams with their names and groups, in their order.
    pub fn stream_names(&self) -> Vec<StreamName> {
        let name = |stream: Arc<Stream>| {
            let live = stream.live();
            let facts = live.facts.as_ref();
            let label = facts.and_then(|facts| facts.label.clone());
            StreamName { id: stream.id.to_string(), label, group: live.group.as_deref().map(Into::into) }
        };
        self.streams().into_iter().map(name).collect()
    }

    /// The time zone of the page; `None`: that of the viewer.
    pub fn time_zone(&self) -> Option<String> {
        self.shared.time_zone.read().as_deref().map(Into::into)
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        self.shared.streams.read().clone()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<Arc<str>> = self.streams().iter().map(|s| s.id.clone()).collect();
        f.debug_struct("Hub").field("streams", &ids).finish_non_exhaustive()
    }
}

/// Appends to a ring of at most `max` items.
fn push_bounded<T>(ring: &mut VecDeque<T>, item: T, max: usize) {
    if ring.len() == max {
        ring.pop_front();
    }
    ring.push_back(item);
}

#[cfg(test)]
mod tests;
