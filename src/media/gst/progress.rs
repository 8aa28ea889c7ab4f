//! Measures the progress of a source: its media time advances, or downstream makes it wait.
//!
//! Data without a new time are not progress: a demuxer that repeats one time stamp delivers data for ever and never completes a
//! second. Monotonic time comes from the injected clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;

use touchline_core::clock::Clock;
use touchline_core::item::Track;

/// A time that does not occur.
const NONE: u64 = u64::MAX;

/// The progress of one session. The streaming threads report to it; the bus thread reads it.
pub(super) struct MediaProgress {
    clock: Arc<dyn Clock>,
    /// Monotonic clock when media time last moved, ns. The time that threads waited for downstream is added to it.
    moved_ns: AtomicU64,
    /// The last PTS of pictures and of sound, ns.
    last: [AtomicU64; 2],
    /// Number of threads that wait for downstream.
    waiting: AtomicU32,
    /// Monotonic time of the last input of a decoder, ns.
    fed_ns: AtomicU64,
}

impl MediaProgress {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.mono_ns();
        let last = [const { AtomicU64::new(NONE) }; 2];
        Self { clock, moved_ns: now.into(), last, waiting: AtomicU32::new(0), fed_ns: AtomicU64::new(NONE) }
    }

    /// The clock of the session.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// A picture or a piece of sound was decoded.
    pub fn decoded(&self, track: Track, pts_ns: u64) {
        let last = &self.last[usize::from(track == Track::Audio)];
        if last.swap(pts_ns, Ordering::Relaxed) != pts_ns {
            self.moved_ns.store(self.clock.mono_ns(), Ordering::Relaxed);
        }
    }

    /// Runs `send`, which may wait for downstream. The wait does not count as a standstill.
    pub fn sending<T>(&self, send: impl FnOnce() -> T) -> T {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let began_ns = self.clock.mono_ns();
        let sent = send();
        let waited_ns = self.clock.mono_ns().saturating_sub(began_ns);
        self.moved_ns.fetch_add(waited_ns, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        sent
    }

    /// Records input of a decoder.
    pub fn fed(&self) {
        self.fed_ns.store(self.clock.mono_ns(), Ordering::Relaxed);
    }

    /// Whether a decoder received input within the last `ns`.
    pub fn is_fed_within(&self, ns: u64) -> bool {
        let fed_ns = self.fed_ns.load(Ordering::Relaxed);
        fed_ns != NONE && self.clock.mono_ns().saturating_sub(fed_ns) < ns
    }

    /// How long media time has not advanced, ns; 0 while a thread waits for downstream.
    pub fn still_ns(&self) -> u64 {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return 0;
        }
        self.clock.mono_ns().saturating_sub(self.moved_ns.load(Ordering::Relaxed))
    }
}

/// Wakes the jitter buffers in `bin` that hold back the end of their track. Before the jitter buffer of GStreamer 1.22 sends an end,
/// it waits for its timer thread. If the timers ran out a moment earlier, the two threads wait for each other, and the element cannot
/// be stopped either. The timer thread is also woken by a change from paused to playing.
pub(super) fn wake_held_ends(bin: &gst::Bin) {
    let has_end = |pad: gst::Pad| pad.sticky_event::<gst::event::Eos>(0).is_some();
    let is_buffer = |e: &gst::Element| e.factory().is_some_and(|factory| factory.name() == "rtpjitterbuffer");
    for buffer in bin.iterate_recurse().into_iter().flatten().filter(is_buffer) {
        if buffer.static_pad("sink").is_some_and(has_end) && !buffer.static_pad("src").is_some_and(has_end) {
            tracing::debug!(element = %buffer.name(), "the jitter buffer holds back the end of its track");
            // Neither change waits or fails: the element is playing and has no sink.
            let _ = buffer.set_state(gst::State::Paused);
            let _ = buffer.set_state(gst::State::Playing);
        }
    }
}

/// Whether a source, a type finder, a demuxer or a parser in `bin` still runs. Threads of queues do not count: they wait for data
/// without a time limit.
pub(super) fn is_streaming(bin: &gst::Bin) -> bool {
    // Queues, and the pads of a multiqueue. An appsrc also has such a level.
    let is_queue = |object: &gst::Object| {
        object.has_property("current-level-buffers") && object.type_().name().to_lowercase().contains("queue")
    };
    let works = |pad: &gst::Pad| pad.task_state() == gst::TaskState::Started && !is_queue(pad.upcast_ref());
    let all = bin.iterate_recurse().into_iter().flatten();
    all.filter(|element| !is_queue(element.upcast_ref())).any(|element| element.pads().iter().any(works))
}

impl std::fmt::Debug for MediaProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaProgress").field("still_ns", &self.still_ns()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::clock::ManualClock;

    const S: u64 = 1_000_000_000;

    #[test]
    fn data_without_advancing_time_is_not_progress() {
        let clock = Arc::new(ManualClock::default());
        let progress = MediaProgress::new(clock.clone());
        for second in 1..=40 {
            clock.advance(S);
            progress.decoded(Track::Video, 7);
            // The first call was progress.
            assert_eq!(progress.still_ns(), (second - 1) * S);
        }
        progress.decoded(Track::Audio, 7);
        assert_eq!(progress.still_ns(), 0, "the tracks are independent");
        clock.advance(S);
        progress.decoded(Track::Video, 3);
        assert_eq!(progress.still_ns(), 0, "a step back is also progress");
    }

    #[test]
    fn waiting_for_downstream_is_not_a_stall() {
        let clock = Arc::new(ManualClock::default());
        let progress = MediaProgress::new(clock.clone());
        clock.advance(5 * S);
        progress.sending(|| {
            clock.advance(100 * S);
            assert_eq!(progress.still_ns(), 0, "a thread waits for downstream");
        });
        assert_eq!(progress.still_ns(), 5 * S);
        assert!(!progress.is_fed_within(u64::MAX));
        progress.fed();
        clock.advance(2 * S);
        assert!(progress.is_fed_within(3 * S) && !progress.is_fed_within(2 * S));
    }
}
