//! The guard against streams that take the program down: a crash in C code cannot be caught, but it can be told whose source was
//! being opened when the process ended.
//!
//! The store has a mark for every stream of the API from before its source is opened until it has played for a moment or
//! has failed in order. What is still marked when the program starts was being opened when it ended; the second time the
//! stream is started paused.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use crate::publish::record::StreamState;
use crate::store::Store;
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::Result;
use touchline_core::item::MediaItem;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::{Open, Source};

/// How often the process may end while a stream is being opened.
pub(super) const ENDS_MAX: u32 = 2;

/// How long a source has to bring media until it is no longer being opened: what crashes decoders comes with the first pictures.
const PROBATION_NS: u64 = 5 * NANOS_PER_SECOND;

/// No mark is set.
const UNMARKED: u64 = 0;
/// Marked, and nothing came yet. Greater values: when it came, monotonic clock.
const MARKED: u64 = 1;

/// The state of a stream that is held.
pub(super) fn held() -> StreamState {
    StreamState::Held {
        kind: Cause::Crashed,
        cause: format!("the program ended {ENDS_MAX} times while this source was being opened"),
        advice: "check the source with `touchline score` or another player; then enable the stream again \
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

    /// The source is about to be opened. Returns when that is on the disk.
    fn set(&self) {
        self.since.store(MARKED, Ordering::Release);
        self.store.mark(&self.id);
    }

    /// It was opened, or was not, and the program lives.
    pub(super) fn clear(&self, played: bool) {
        if self.since.swap(UNMARKED, Ordering::AcqRel) != UNMARKED {
            self.store.unmark(&self.id, played);
        }
    }

    /// Whether it is being opened.
    fn is_set(&self) -> bool {
        self.since.load(Ordering::Acquire) != UNMARKED
    }

    /// Something came of it.
    pub(super) fn media(&self) {
        let now_ns = self.clock.mono_ns().max(MARKED + 1);
        match self.since.load(Ordering::Acquire) {
            UNMARKED => {}
            // Who lost the race against a clear has nothing to do.
            MARKED => drop(self.since.compare_exchange(MARKED, now_ns, Ordering::AcqRel, Ordering::Relaxed)),
            since if now_ns.saturating_sub(since) >= PROBATION_NS => self.clear(true),
            _ => {}
        }
    }
}

/// How long the others wait for one that neither plays nor fails.
const TURN_NS: u64 = 30 * NANOS_PER_SECOND;

/// Streams that were being opened when the process ended. All of them but one are innocent, mostly: they are opened one after
/// another, so that the next time it is known which one it was.
#[derive(Default)]
pub(super) struct Suspects {
    all: BTreeSet<String>,
    waiting: VecDeque<String>,
    /// Whose turn it is, and since when.
    turn: Option<(OpeningMark, u64)>,
}

impl Suspects {
    pub(super) fn new(all: BTreeSet<String>) -> Self {
        Self { all, ..Self::default() }
    }

    /// Whether stream `id`, whose mark is `mark`, may be opened now. Else its turn comes with [`Suspects::next`].
    pub(super) fn may_open(&mut self, id: &str, mark: Option<&OpeningMark>, now_ns: u64) -> bool {
        let Some(mark) = mark.filter(|_| self.all.contains(id)) else { return true };
        if self.is_taken(now_ns) {
            if !self.waiting.iter().any(|waiting| waiting == id) {
                self.waiting.push_back(id.to_owned());
            }
            return false;
        }
        self.all.remove(id);
        // From now on, and not when a thread gets to it.
        mark.since.store(MARKED, Ordering::Release);
        self.turn = Some((mark.clone(), now_ns));
        true
    }

    fn is_taken(&self, now_ns: u64) -> bool {
        self.turn.as_ref().is_some_and(|(mark, since_ns)| mark.is_set() && now_ns - since_ns < TURN_NS)
    }

    /// Whether somebody waits.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Who may be opened now, if somebody waits and has the turn.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<String> {
        if self.is_taken(now_ns) { None } else { self.waiting.pop_front() }
    }
}

/// Sets the mark before every opening.
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
    fn suspects_are_opened_one_after_another() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _thread, _) = Store::open(&folder.path().join("s.db"), Metrics::new()).unwrap();
        let clock = Arc::new(ManualClock::default());
        clock.advance(NANOS_PER_SECOND);
        let mark = |id: &str| OpeningMark::new(store.clone(), clock.clone(), id);
        let marks = ["a", "b", "c", "d"].map(mark);
        let [a, b, c, d] = &marks;
        let mut suspects = Suspects::new(["a", "b", "c"].map(String::from).into());
        assert!(suspects.may_open("a", Some(a), 0));
        assert!(!suspects.may_open("b", Some(b), 0) && !suspects.may_open("c", Some(c), 0));
        assert!(!suspects.may_open("b", Some(b), 0) && suspects.may_open("d", Some(d), 0), "d is none");
        assert_eq!(suspects.next(1), None);
        // It plays for a while.
        a.media();
        clock.advance(PROBATION_NS - 1);
        a.media();
        assert_eq!(suspects.next(2), None);
        clock.advance(2);
        a.media();
        assert_eq!(suspects.next(3).as_deref(), Some("b"));
        assert!(suspects.may_open("b", Some(b), 3) && suspects.wait());
        // That one hangs.
        assert_eq!(suspects.next(3 + TURN_NS).as_deref(), Some("c"));
        assert!(suspects.may_open("c", Some(c), 3 + TURN_NS) && !suspects.wait());
        assert!(suspects.may_open("a", Some(a), 3 + TURN_NS), "again, which is no matter any more");
    }
}
