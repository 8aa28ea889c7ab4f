//! The feed: what happens in all streams, for clients that watch many of them over one connection.
//!
//! One memory, bounded in bytes, serves every subscriber and every client that resumes. A subscriber is a position in it:
//! nothing is queued per subscriber, and publishing never waits. A subscriber that is slower than the memory loses the oldest
//! items and learns how many.

use std::collections::{HashMap, HashSet, VecDeque};
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::RecordKind;

/// Bytes of JSON kept: half a minute of 64 streams with all types, many minutes of fewer streams. A browser resumes after two
/// seconds.
const MEMORY_BYTES: usize = 8 << 20;

/// Items that are examined under one lock, so that a subscriber far behind does not delay publishing.
const BATCH: usize = 256;

/// Type of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeedKind {
    /// A record.
    Record(RecordKind),
    /// The answer of a second, short: what a wall shows.
    Estimate,
    /// A stream is new, or its settings changed.
    Stream,
    /// Another machine of the fleet watches a stream, or does not any more.
    Elsewhere,
}

impl FeedKind {
    /// Name of the server-sent event.
    pub const fn as_str(self) -> &'static str {
        match self {
            FeedKind::Record(kind) => kind.as_str(),
            FeedKind::Estimate => "estimate",
            FeedKind::Stream => "stream",
            FeedKind::Elsewhere => "elsewhere",
        }
    }

    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        RecordKind::ALL.into_iter().map(FeedKind::Record).chain([
            FeedKind::Estimate,
            FeedKind::Stream,
            FeedKind::Elsewhere,
        ])
    }
}

impl FromStr for FeedKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::as_str).collect();
            format!("there is no type {name:?}; choose from {}", names.join(", "))
        })
    }
}

/// An item of the feed.
#[derive(Clone, Debug)]
pub struct FeedItem {
    /// Number of the item in the process, from 1.
    pub sequence: u64,
    /// Its type.
    pub kind: FeedKind,
    /// One line of JSON.
    pub json: Arc<str>,
    stream: Arc<str>,
    group: Option<Arc<str>>,
    /// Of a stream that another machine watches.
    is_elsewhere: bool,
}

/// Which items a subscriber receives. `None` selects all.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Ids of streams.
    pub streams: Option<HashSet<String>>,
    /// Groups of streams.
    pub groups: Option<HashSet<String>>,
    /// Types.
    pub kinds: Option<HashSet<FeedKind>>,
    /// Streams that other machines of the fleet watch as well.
    pub fleet: bool,
}

impl FeedFilter {
    /// Whether it selects stream `id` of `group`.
    pub fn has_stream(&self, id: &str, group: Option<&str>) -> bool {
        self.streams.as_ref().is_none_or(|ids| ids.contains(id))
            && self.groups.as_ref().is_none_or(|groups| group.is_some_and(|group| groups.contains(group)))
    }

    fn has(&self, item: &FeedItem) -> bool {
        (self.fleet || !item.is_elsewhere)
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&item.kind))
            && self.has_stream(&item.stream, item.group.as_deref())
    }
}

pub(super) struct Feed {
    memory: Mutex<FeedMemory>,
    newest: watch::Sender<u64>,
    /// Distinguishes the numbers of this process from those of earlier ones: when it started, milliseconds since 1970-01-01 UTC.
    epoch: i64,
}

#[derive(Default)]
struct FeedMemory {
    items: VecDeque<FeedItem>,
    bytes: usize,
    sequence: u64,
}

/// A position in the feed.
#[derive(Debug)]
pub struct FeedCursor {
    /// Number of the next item.
    next: u64,
    filter: FeedFilter,
    /// Per stream, the number of the last item that the snapshot contains, where it is `next` or later.
    contained: HashMap<Arc<str>, u64>,
    newest: watch::Receiver<u64>,
}

/// The next items of a subscriber.
#[derive(Debug, Default)]
pub struct FeedBatch {
    /// Items of all streams and types that left the memory before the subscriber read them.
    pub lost: u64,
    /// The items that the filter selects. May be empty.
    pub items: Vec<FeedItem>,
}

impl Feed {
    pub(super) fn new(epoch: i64) -> Self {
        Self { memory: Mutex::default(), newest: watch::Sender::new(0), epoch }
    }

    /// Appends an item and returns its number.
    pub(super) fn push(&self, stream: Arc<str>, group: Option<Arc<str>>, kind: FeedKind, json: Arc<str>) -> u64 {
        self.push_item(FeedItem { sequence: 0, kind, json, stream, group, is_elsewhere: false })
    }

    /// As [`Feed::push`], for a stream that another machine watches.
    pub(super) fn push_elsewhere(
        &self,
        stream: Arc<str>,
        group: Option<Arc<str>>,
        kind: FeedKind,
        json: Arc<str>,
    ) -> u64 {
        self.push_item(FeedItem { sequence: 0, kind, json, stream, group, is_elsewhere: true })
    }

    fn push_item(&self, item: FeedItem) -> u64 {
        let mut memory = self.memory.lock();
        memory.sequence += 1;
        memory.bytes += item.json.len();
        let sequence = memory.sequence;
        memory.items.push_back(FeedItem { sequence, ..item });
        while memory.bytes > MEMORY_BYTES
            && let Some(oldest) = memory.items.pop_front()
        {
            memory.bytes -= oldest.json.len();
        }
        // Under the lock, so that the numbers arrive in order.
        self.newest.send_replace(sequence);
        sequence
    }

    /// A position after the newest item.
    pub(super) fn end(&self, filter: FeedFilter) -> FeedCursor {
        let newest = self.newest.subscribe();
        let next = self.memory.lock().sequence + 1;
        FeedCursor { next, filter, contained: HashMap::new(), newest }
    }

    /// The position after the item `id`, if the items after it are all in memory.
    pub(super) fn after(&self, id: &str, filter: FeedFilter) -> Option<FeedCursor> {
        let (epoch, sequence) = id.split_once('-')?;
        let next = sequence.parse::<u64>().ok()?.checked_add(1)?;
        let newest = self.newest.subscribe();
        let memory = self.memory.lock();
        let first = memory.items.front().map_or(memory.sequence + 1, |item| item.sequence);
        let known = epoch.parse() == Ok(self.epoch) && (first..=memory.sequence + 1).contains(&next);
        known.then(|| FeedCursor { next, filter, contained: HashMap::new(), newest })
    }

    /// The id of the item before `cursor`, for [`Feed::after`].
    pub(super) fn id(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.epoch)
    }

    /// Reads the next items, or `None` if there are none yet.
    pub(super) fn read(&self, cursor: &mut FeedCursor) -> Option<FeedBatch> {
        let memory = self.memory.lock();
        if cursor.next > memory.sequence {
            return None;
        }
        let first = memory.items.front().map_or(memory.sequence + 1, |item| item.sequence);
        let lost = first.saturating_sub(cursor.next);
        cursor.next = cursor.next.max(first);
        let skip = (cursor.next - first) as usize;
        let batch = memory.items.range(skip..memory.items.len().min(skip + BATCH));
        cursor.next += batch.len() as u64;
        let is_new = |item: &&FeedItem| cursor.contained.get(&item.stream).is_none_or(|last| item.sequence > *last);
        let items = batch.filter(|item| cursor.filter.has(item)).filter(is_new).cloned().collect();
        Some(FeedBatch { lost, items })
    }
}

impl FeedCursor {
    /// The streams that it selects.
    pub fn filter(&self) -> &FeedFilter {
        &self.filter
    }

    /// Number of the last item before it.
    pub(super) fn before(&self) -> u64 {
        self.next - 1
    }

    /// A snapshot contains the items of `stream` up to `sequence`.
    pub(super) fn contains(&mut self, stream: &Arc<str>, sequence: u64) {
        if sequence >= self.next {
            self.contained.insert(stream.clone(), sequence);
        }
    }

    /// Waits for an item after it. Returns false when the hub is gone.
    pub async fn changed(&mut self) -> bool {
        let next = self.next;
        self.newest.wait_for(|newest| *newest >= next).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTIMATE: FeedKind = FeedKind::Estimate;
    const EVENT: FeedKind = FeedKind::Record(RecordKind::Event);

    fn push(feed: &Feed, stream: &str, group: Option<&str>, kind: FeedKind, json: &str) -> u64 {
        feed.push(stream.into(), group.map(Into::into), kind, json.into())
    }

    fn read(feed: &Feed, cursor: &mut FeedCursor) -> Vec<u64> {
        std::iter::from_fn(|| feed.read(cursor)).flat_map(|batch| batch.items).map(|item| item.sequence).collect()
    }

    fn set(names: &[&str]) -> Option<HashSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_subscriber_reads_what_its_filter_selects_in_order() {
        let feed = Feed::new(7);
        push(&feed, "a", None, EVENT, "{}");
        let mut all = feed.end(FeedFilter::default());
        let mut one = feed.end(FeedFilter { streams: set(&["a"]), ..FeedFilter::default() });
        let mut group = feed.end(FeedFilter { groups: set(&["west"]), ..FeedFilter::default() });
        let mut events = feed.end(FeedFilter { kinds: Some([EVENT].into()), ..FeedFilter::default() });
        assert!(feed.read(&mut all).is_none(), "only items after the subscription");
        push(&feed, "a", Some("west"), ESTIMATE, "{}");
        push(&feed, "b", Some("west"), EVENT, "{}");
        push(&feed, "a", None, EVENT, "{}");
        assert_eq!(read(&feed, &mut all), [2, 3, 4]);
        assert_eq!(read(&feed, &mut one), [2, 4]);
        assert_eq!(read(&feed, &mut group), [2, 3]);
        assert_eq!(read(&feed, &mut events), [3, 4]);
        assert_eq!(read(&feed, &mut all), [0; 0]);
    }

    #[test]
    fn a_client_resumes_where_it_ended_or_not_at_all() {
        let feed = Feed::new(7);
        for _ in 0..5 {
            push(&feed, "a", None, EVENT, "{}");
        }
        let resume = |id: &str| feed.after(id, FeedFilter::default()).map(|mut cursor| read(&feed, &mut cursor));
        assert_eq!(resume(&feed.id(3)), Some(vec![4, 5]));
        assert_eq!(resume("7-5"), Some(vec![]));
        assert_eq!(resume("7-0"), Some(vec![1, 2, 3, 4, 5]));
        for unknown in ["7-6", "8-3", "7", "", "x-y", "7-18446744073709551615"] {
            assert_eq!(resume(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_memory_is_bounded_and_a_slow_subscriber_learns_its_loss() {
        let feed = Feed::new(7);
        let mut slow = feed.end(FeedFilter { streams: set(&["b"]), ..FeedFilter::default() });
        let text = "x".repeat(MEMORY_BYTES / 100);
        for _ in 0..250 {
            push(&feed, "a", None, EVENT, &text);
        }
        assert_eq!(feed.memory.lock().items.len(), 100);
        assert!(feed.memory.lock().bytes <= MEMORY_BYTES);
        let batch = feed.read(&mut slow).unwrap();
        assert_eq!((batch.lost, batch.items.len()), (150, 0));
        assert!(feed.after("7-149", FeedFilter::default()).is_none(), "item 150 is gone");
        assert!(feed.after("7-150", FeedFilter::default()).is_some());
    }

    #[test]
    fn items_of_a_snapshot_are_not_read_again() {
        let feed = Feed::new(7);
        let mut cursor = feed.end(FeedFilter::default());
        let a = push(&feed, "a", None, EVENT, "{}");
        push(&feed, "b", None, EVENT, "{}");
        push(&feed, "a", None, EVENT, "{}");
        cursor.contains(&"a".into(), a);
        assert_eq!(read(&feed, &mut cursor), [2, 3]);
    }

    #[tokio::test]
    async fn a_subscriber_wakes_up_for_a_new_item() {
        let feed = Arc::new(Feed::new(7));
        let mut cursor = feed.end(FeedFilter::default());
        let waiting = tokio::spawn(async move {
            assert!(cursor.changed().await);
            cursor
        });
        push(&feed, "a", None, EVENT, "{}");
        let mut cursor = waiting.await.unwrap();
        assert_eq!(read(&feed, &mut cursor), [1]);
        drop(feed);
        assert!(!cursor.changed().await, "the hub is gone");
    }

    #[test]
    fn types_have_names() {
        for kind in FeedKind::all() {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("seconds".parse::<FeedKind>().unwrap_err().contains("choose from second, gap, event"));
    }
}
