//! Pauses streams that crash the program. A crash in C code cannot be caught, but the store can tell which source was
//! being opened when the process ended.
//!
//! The store holds a mark for every stream of the API from before its source is opened until the source has played for
//! five seconds or has failed normally. A stream that is still marked at the start was being opened when the program
//! ended. After the second time it starts paused.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use crate::record::StreamState;
use crate::store::Store;
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::Result;
use touchline_core::item::MediaItem;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::{Open, Source};

/// How often the process may end while it opens a stream before that stream starts paused.
pub(super) const ENDS_MAX: u32 = 2;

/// How long a source must deliver media before its mark is removed. Decoders crash on the first pictures, if at all.
const PROBATION_NS: u64 = 5 * NANOS_PER_SECOND;

/// The stream is not marked.
const UNMARKED: u64 = 0;
/// The stream is marked and has delivered nothing yet. Greater values: arrival of its first media, monotonic clock.
const MARKED: u64 = 1;

/// The state of a stream that starts paused.
pub(super) fn held() -> StreamState {
    StreamState::Held {
        kind: Cause::Crashed,
        cause: format!("the program ended {ENDS_MAX} times while opening this source"),
        advice: "test the source with `touchline score` or another player, then enable the stream \
                 (PATCH {\"enabled\": true})"
            .into(),
    }
}

/// The mark of one stream.
#[derive(Clone)]
pub(super) struct OpeningMark {
    store: Store,
    clock: Arc<dyn Clock>,
    id: Arc<str>,
    since: Arc<AtomicU64>,
}

impl OpeningMark {
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>, id: &str) -> Self {
        Self { store, clock, id: id.into(), since: Arc::default() }
    }

    /// Marks the stream. Returns when the mark is on the disk.
    fn set(&self) {
        self.since.store(MARKED, Ordering::Release);
        self.store.mark(&self.id);
    }

    /// Removes the mark: the source opened or failed, and the program survived.
    pub(super) fn clear(&self, played: bool) {
        if self.since.swap(UNMARKED, Ordering::AcqRel) != UNMARKED {
            self.store.unmark(&self.id, played);
        }
    }

    /// Whether the stream is marked.
    fn is_set(&self) -> bool {
        self.since.load(Ordering::Acquire) != UNMARKED
    }

    /// The source has delivered media.
    pub(super) fn media(&self) {
        let now_ns = self.clock.mono_ns().max(MARKED + 1);
        match self.since.load(Ordering::Acquire) {
            UNMARKED => {}
            // If `clear` won the race, nothing is left to do.
            MARKED => drop(self.since.compare_exchange(MARKED, now_ns, Ordering::AcqRel, Ordering::Relaxed)),
            since if now_ns.saturating_sub(since) >= PROBATION_NS => self.clear(true),
            _ => {}
        }
    }
}

/// How long the other suspects wait for one that neither plays nor fails.
const TURN_NS: u64 = 30 * NANOS_PER_SECOND;

/// Streams that were being opened when the process ended. They are opened one after another, so that another crash
/// identifies its source.
#[derive(Default)]
pub(super) struct Suspects {
    all: BTreeSet<String>,
    waiting: VecDeque<String>,
    /// The suspect that is being opened, and since when.
    turn: Option<(OpeningMark, u64)>,
}

impl Suspects {
    pub(super) fn new(all: BTreeSet<String>) -> Self {
        Self { all, ..Self::default() }
    }

    /// Whether stream `id` may be opened now. If not, [`Suspects::next`] returns it later.
    pub(super) fn may_open(&mut self, id: &str, mark: Option<&OpeningMark>, now_ns: u64) -> bool {
        let Some(mark) = mark.filter(|_| self.all.contains(id)) else { return true };
        if self.is_taken(now_ns) {
            if !self.waiting.iter().any(|waiting| waiting == id) {
                self.waiting.push_back(id.to_owned());
            }
            return false;
        }
        self.all.remove(id);
        // Set here, not by the opening thread: the next call must see it.
        mark.since.store(MARKED, Ordering::Release);
        self.turn = Some((mark.clone(), now_ns));
        true
    }

    fn is_taken(&self, now_ns: u64) -> bool {
        self.turn.as_ref().is_some_and(|(mark, since_ns)| mark.is_set() && now_ns - since_ns < TURN_NS)
    }

    /// Whether a suspect waits.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next waiting suspect, if it may be opened now.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<String> {
        if self.is_taken(now_ns) { None } else { self.waiting.pop_front() }
    }
}

/// Sets the mark before every attempt to open the source.
pub(super) struct MarkingOpener {
    pub(super) inner: Arc<dyn Open>,
    pub(super) mark: OpeningMark,
}

impl Open for MarkingOpener {
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        self.mark.set();
        self.inner.open(uri, to).inspect_err(|_| self.mark.clear(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use touchline_core::clock::ManualClock;

    #[test]
    fn suspects_are_opened_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _thread, _) = Store::open(
            &folder.path().join("s.db"),
            crate::config::HistorySettings::default(),
            Metrics::new(),
            Arc::new(touchline_core::clock::SystemClock::new()),
        )
        .unwrap();
        let clock = Arc::new(ManualClock::default());
        clock.advance(NANOS_PER_SECOND);
        let mark = |id: &str| OpeningMark::new(store.clone(), clock.clone(), id);
        let marks = ["a", "b", "c", "d"].map(mark);
        let [a, b, c, d] = &marks;
        let mut suspects = Suspects::new(["a", "b", "c"].map(String::from).into());
        assert!(suspects.may_open("a", Some(a), 0));
        assert!(!suspects.may_open("b", Some(b), 0) && !suspects.may_open("c", Some(c), 0));
        assert!(!suspects.may_open("b", Some(b), 0) && suspects.may_open("d", Some(d), 0), "d is not a suspect");
        assert_eq!(suspects.next(1), None);
        // a plays for five seconds.
        a.media();
        clock.advance(PROBATION_NS - 1);
        a.media();
        assert_eq!(suspects.next(2), None);
        clock.advance(2);
        a.media();
        assert_eq!(suspects.next(3).as_deref(), Some("b"));
        assert!(suspects.may_open("b", Some(b), 3) && suspects.wait());
        // b hangs.
        assert_eq!(suspects.next(3 + TURN_NS).as_deref(), Some("c"));
        assert!(suspects.may_open("c", Some(c), 3 + TURN_NS) && !suspects.wait());
        assert!(suspects.may_open("a", Some(a), 3 + TURN_NS), "a is no longer a suspect");
    }
}
