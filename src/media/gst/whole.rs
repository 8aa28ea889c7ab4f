//! Lets only whole pictures through a decoder.
//!
//! Pictures before the first key frame, and after a loss until the next one, would be decoded from pictures that are missing: they
//! would be gray with moving smears. They are dropped before the decoder, and counted. So are pictures that the decoder marks
//! as corrupt, and in recordings those that libav logs an error for.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::debug::ErrorWatch;
use super::graph::Graph;
use super::sinks::running_time;
use super::thin::handled;
use crate::outlet::DropReason;
use touchline_core::item::{MediaItem, Track};
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// How long to wait for a key frame, ns of stream time. Encoders with intra refresh send none, and their pictures are clean within
/// a second or two. Cameras send one every ten seconds at least.
const WAIT_MAX_NS: u64 = 20 * NANOS_PER_SECOND;

/// Whether a picture goes on.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    On,
    Away(DropReason),
}

/// The wait for a key frame.
#[derive(Debug)]
struct Wait {
    /// [`None`]: not waiting.
    why: Option<DropReason>,
    since_ns: Option<u64>,
    has_begun: bool,
}

impl Wait {
    fn new() -> Self {
        Self { why: Some(DropReason::BeforeKeyFrame), since_ns: None, has_begun: false }
    }

    /// A coded picture at `pts_ns`. `is_break`: something before it is missing.
    fn offer(&mut self, pts_ns: Option<u64>, is_break: bool, is_key: bool) -> Way {
        if is_break && self.has_begun && self.why.is_none() {
            (self.why, self.since_ns) = (Some(DropReason::AfterLoss), None);
        }
        self.has_begun = true;
        let Some(why) = self.why else { return Way::On };
        let since_ns = pts_ns.map_or(0, |pts| pts.abs_diff(*self.since_ns.get_or_insert(pts)));
        if is_key || since_ns > WAIT_MAX_NS {
            self.why = None;
            return Way::On;
        }
        Way::Away(why)
    }

    /// The picture that was decoded last is garbled: those that follow build on it.
    fn spoil(&mut self) {
        if self.why.is_none() {
            (self.why, self.since_ns) = (Some(DropReason::AfterLoss), None);
        }
    }
}

/// Garbled pictures that may still be inside a decoder: more than it reorders.
const SPOILED_MAX: usize = 64;

/// Finds the pictures that a decoder with one thread logged errors for.
#[derive(Debug, Default)]
struct Spoiled {
    /// PTS of the picture that is being decoded, ns.
    at_ns: Option<u64>,
    /// PTS of garbled pictures that did not come out yet, ns.
    pictures: VecDeque<u64>,
    keys: u32,
    /// PTS of the first key frame, ns.
    first_ns: u64,
    /// The recording begins in the middle of an open group: pictures after its first key frame build on ones before it.
    is_open: bool,
}

impl Spoiled {
    /// The decoder logged errors. Says whether that is damage: in an open group they are expected.
    fn note(&mut self) -> bool {
        let Some(at_ns) = self.at_ns else { return true };
        if self.pictures.back() != Some(&at_ns) {
            if self.pictures.len() == SPOILED_MAX {
                self.pictures.pop_front();
            }
            self.pictures.push_back(at_ns);
        }
        !self.is_open || self.keys > 1
    }

    /// The next picture goes into the decoder.
    fn decode(&mut self, pts_ns: Option<u64>, is_key: bool) {
        self.at_ns = pts_ns;
        match pts_ns {
            Some(pts_ns) if is_key => {
                self.keys = self.keys.saturating_add(1);
                if self.keys == 1 {
                    self.first_ns = pts_ns;
                }
            }
            Some(pts_ns) => self.is_open |= self.keys == 1 && pts_ns < self.first_ns,
            None => {}
        }
    }

    /// Whether the picture at `pts_ns` that comes out is garbled.
    fn take(&mut self, pts_ns: u64) -> bool {
        let Some(at) = self.pictures.iter().position(|garbled| *garbled == pts_ns) else { return false };
        self.pictures.remove(at);
        true
    }
}

#[derive(Debug)]
struct State {
    wait: Wait,
    spoiled: Spoiled,
    errors: ErrorWatch,
    into: Option<gst::FormattedSegment<gst::ClockTime>>,
    out_of: Option<gst::FormattedSegment<gst::ClockTime>>,
}

impl State {
    /// Looks for errors of the decoder since the last call.
    fn note_errors(&mut self, graph: &Weak<Graph>) {
        if self.errors.has_new() && self.spoiled.note() {
            self.wait.spoil();
            if let Some(graph) = graph.upgrade() {
                graph.counters.faults.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn running_ns(segment: Option<&gst::FormattedSegment<gst::ClockTime>>, buffer: &gst::BufferRef) -> Option<u64> {
    segment.and_then(|segment| running_time(segment, buffer)).map(|t| u64::try_from(t).unwrap_or(0))
}

/// Watches what goes into the video decoder `element` and what comes out. `is_alone`: it is one of libav's and has one thread, so that
/// its errors are logged where it is called.
pub(super) fn connect(element: &gst::Element, graph: &Arc<Graph>, is_alone: bool) {
    let (Some(sink), Some(src)) = (element.static_pad("sink"), element.static_pad("src")) else { return };
    let (spoiled, errors) = (Spoiled::default(), ErrorWatch::default());
    let shared = Arc::new(Mutex::new(State { wait: Wait::new(), spoiled, errors, into: None, out_of: None }));
    let state = shared.clone();
    let weak = Arc::downgrade(graph);
    sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (way, pts_ns) = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if let Some(graph) = weak.upgrade() {
                    graph.progress.fed();
                }
                let pts_ns = running_ns(state.into.as_ref(), buffer);
                let flags = buffer.flags();
                let is_key = !flags.contains(gst::BufferFlags::DELTA_UNIT);
                if is_alone {
                    state.note_errors(&weak);
                }
                let way = state.wait.offer(pts_ns, flags.contains(gst::BufferFlags::DISCONT), is_key);
                if way == Way::On {
                    state.spoiled.decode(pts_ns, is_key);
                }
                (way, pts_ns)
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Segment(segment) = event.view() {
                    state.into = segment.segment().clone().downcast().ok();
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        drop(state);
        match way {
            Way::On => gst::PadProbeReturn::Ok,
            Way::Away(why) => away(info, &weak, pts_ns, why),
        }
    });
    let (weak, state) = (Arc::downgrade(graph), shared);
    src.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_garbled, pts_ns, why) = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if is_alone {
                    state.note_errors(&weak);
                }
                let pts_ns = running_ns(state.out_of.as_ref(), buffer);
                let is_corrupt = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
                let is_spoiled = pts_ns.is_some_and(|pts_ns| state.spoiled.take(pts_ns));
                // Pictures of an open group that nobody can decode are no damage.
                let is_expected = !is_corrupt && state.spoiled.is_open && state.spoiled.keys <= 1;
                let why = if is_expected { DropReason::BeforeKeyFrame } else { DropReason::Corrupt };
                (is_corrupt || is_spoiled, pts_ns, why)
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Segment(event) = event.view() {
                    state.out_of = event.segment().clone().downcast().ok();
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        drop(state);
        if is_garbled { away(info, &weak, pts_ns, why) } else { gst::PadProbeReturn::Ok }
    });
}

/// Drops the picture of `info` and counts it. Its time is passed on if pictures of the track were sent before.
fn away(
    info: &mut gst::PadProbeInfo<'_>,
    graph: &Weak<Graph>,
    pts_ns: Option<u64>,
    why: DropReason,
) -> gst::PadProbeReturn {
    let mut result = Ok(gst::FlowSuccess::Ok);
    if let Some(graph) = graph.upgrade() {
        graph.counters.drop_picture(why);
        if graph.counters.dropped(why) == 1 {
            tracing::info!(why = why.as_str(), "pictures are dropped: they are damaged or build on missing ones");
        }
        let place = pts_ns.and_then(|ns| graph.on_line(Track::Video, i64::try_from(ns).ok()?));
        let is_shown = graph.is_playing(Track::Video) && graph.items.load(Ordering::Relaxed) > 0;
        if let Some(pts_ns) = place.filter(|_| is_shown).and_then(|place| u64::try_from(place).ok())
            && graph.deliver(Track::Video, MediaItem::Lost { pts: Pts(pts_ns) }).is_err()
        {
            result = Err(gst::FlowError::Flushing);
        }
    }
    handled(info, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    #[test]
    fn pictures_wait_for_a_key_frame_at_the_beginning_and_after_a_loss() {
        let mut wait = Wait::new();
        let (early, late) = (Way::Away(DropReason::BeforeKeyFrame), Way::Away(DropReason::AfterLoss));
        assert_eq!(wait.offer(Some(0), true, false), early);
        assert_eq!(wait.offer(None, false, false), early);
        assert_eq!(wait.offer(Some(10 * S), false, true), Way::On);
        assert_eq!(wait.offer(Some(10 * S + 1), false, false), Way::On);
        assert_eq!(wait.offer(Some(11 * S), true, false), late);
        assert_eq!(wait.offer(Some(12 * S), true, true), Way::On, "a key frame builds on nothing");
        assert_eq!(wait.offer(Some(13 * S), false, false), Way::On);
    }

    #[test]
    fn pictures_with_errors_are_dropped_as_they_come_out_and_those_after_them_wait_for_a_key_frame() {
        let (mut wait, mut spoiled) = (Wait::new(), Spoiled::default());
        assert_eq!(wait.offer(Some(0), false, true), Way::On);
        spoiled.decode(Some(0), true);
        assert!(!spoiled.take(0));
        // It comes out two pictures later, in the order of presentation.
        spoiled.decode(Some(3 * S), false);
        assert!(spoiled.note() && spoiled.note(), "two errors, one picture");
        wait.spoil();
        assert!(!spoiled.take(S) && spoiled.take(3 * S) && !spoiled.take(3 * S));
        assert_eq!(wait.offer(Some(4 * S), false, false), Way::Away(DropReason::AfterLoss));
        assert_eq!(wait.offer(Some(5 * S), false, true), Way::On);
        // Garbled pictures that never come out take no memory.
        for error in 3..1000 {
            spoiled.decode(Some(error * S), false);
            assert!(spoiled.note());
        }
        assert_eq!(spoiled.pictures.len(), SPOILED_MAX);
    }

    #[test]
    fn errors_in_an_open_group_at_the_beginning_are_no_damage() {
        let mut spoiled = Spoiled::default();
        spoiled.decode(Some(2 * S), true);
        spoiled.decode(Some(S), false);
        assert!(!spoiled.note() && spoiled.take(S), "dropped all the same");
        spoiled.decode(Some(4 * S), true);
        assert!(spoiled.note());
    }

    #[test]
    fn a_stream_without_key_frames_is_decoded_after_a_while() {
        let mut wait = Wait::new();
        for second in 0..=20 {
            assert_eq!(wait.offer(Some(second * S), false, false), Way::Away(DropReason::BeforeKeyFrame));
        }
        assert_eq!(wait.offer(Some(20 * S + 1), false, false), Way::On);
        assert_eq!(wait.offer(Some(21 * S), false, false), Way::On);
    }
}
