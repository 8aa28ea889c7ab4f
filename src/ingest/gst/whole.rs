//! Lets only whole pictures through a decoder.
//!
//! What comes before the first key frame, and after a loss until the next one, is decoded from pictures that are not there:
//! gray with moving smears. It is dropped before it is decoded, and counted; so is what a decoder itself marks as corrupt.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::graph::Graph;
use super::sinks::running_time;
use super::thin::handled;
use crate::ingest::outlet::Dropped;
use crate::ingest::{MediaItem, Track};
use crate::time::{NANOS_PER_SECOND, Pts};

/// How long a key frame is waited for, ns of stream time. Encoders that refresh a picture piece by piece send none, and are
/// clean within a second or two; cameras put up to ten seconds between two.
const WAIT_MAX_NS: u64 = 20 * NANOS_PER_SECOND;

/// What becomes of a picture.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    On,
    Away(Dropped),
}

/// What is waited for.
#[derive(Debug)]
struct Wait {
    why: Option<Dropped>,
    since_ns: Option<u64>,
    has_begun: bool,
}

impl Wait {
    fn new() -> Self {
        Self { why: Some(Dropped::BeforeKeyFrame), since_ns: None, has_begun: false }
    }

    /// A coded picture at `pts_ns`: `is_break`: something before it is missing.
    fn offer(&mut self, pts_ns: Option<u64>, is_break: bool, is_key: bool) -> Way {
        if is_break && self.has_begun && self.why.is_none() {
            (self.why, self.since_ns) = (Some(Dropped::AfterLoss), None);
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
}

#[derive(Debug)]
struct State {
    wait: Wait,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
}

/// Watches what goes into the video decoder `element` and what comes out.
pub(super) fn connect(element: &gst::Element, graph: &Arc<Graph>) {
    let (Some(sink), Some(src)) = (element.static_pad("sink"), element.static_pad("src")) else { return };
    let state = Mutex::new(State { wait: Wait::new(), segment: None });
    let weak = Arc::downgrade(graph);
    sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (way, pts_ns) = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if let Some(graph) = weak.upgrade() {
                    graph.progress.fed();
                }
                let running = state.segment.as_ref().and_then(|segment| running_time(segment, buffer));
                let pts_ns = running.map(|t| u64::try_from(t).unwrap_or(0));
                let flags = buffer.flags();
                let is_key = !flags.contains(gst::BufferFlags::DELTA_UNIT);
                (state.wait.offer(pts_ns, flags.contains(gst::BufferFlags::DISCONT), is_key), pts_ns)
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Segment(segment) = event.view() {
                    state.segment = segment.segment().clone().downcast().ok();
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
    let (weak, segment) = (Arc::downgrade(graph), Mutex::new(None));
    src.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let mut segment = segment.lock().unwrap_or_else(PoisonError::into_inner);
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) if buffer.flags().contains(gst::BufferFlags::CORRUPTED) => {
                let running = segment.as_ref().and_then(|segment| running_time(segment, buffer));
                away(info, &weak, running.map(|t| u64::try_from(t).unwrap_or(0)), Dropped::Corrupt)
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Segment(event) = event.view() {
                    *segment = event.segment().clone().downcast().ok();
                }
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

/// Drops the picture of `info` and says so. Its time goes on where pictures are known to be there; before that nobody waits
/// for them.
fn away(
    info: &mut gst::PadProbeInfo<'_>,
    graph: &Weak<Graph>,
    pts_ns: Option<u64>,
    why: Dropped,
) -> gst::PadProbeReturn {
    let mut result = Ok(gst::FlowSuccess::Ok);
    if let Some(graph) = graph.upgrade() {
        graph.counters.drop_picture(why);
        if graph.counters.dropped(why) == 1 {
            tracing::info!(why = why.as_str(), "pictures are dropped: what they build on is missing");
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
        let (early, late) = (Way::Away(Dropped::BeforeKeyFrame), Way::Away(Dropped::AfterLoss));
        assert_eq!(wait.offer(Some(0), true, false), early);
        assert_eq!(wait.offer(None, false, false), early);
        assert_eq!(wait.offer(Some(10 * S), false, true), Way::On);
        assert_eq!(wait.offer(Some(10 * S + 1), false, false), Way::On);
        assert_eq!(wait.offer(Some(11 * S), true, false), late);
        assert_eq!(wait.offer(Some(12 * S), true, true), Way::On, "a key frame builds on nothing");
        assert_eq!(wait.offer(Some(13 * S), false, false), Way::On);
    }

    #[test]
    fn a_stream_without_key_frames_is_decoded_after_a_while() {
        let mut wait = Wait::new();
        for second in 0..=20 {
            assert_eq!(wait.offer(Some(second * S), false, false), Way::Away(Dropped::BeforeKeyFrame));
        }
        assert_eq!(wait.offer(Some(20 * S + 1), false, false), Way::On);
        assert_eq!(wait.offer(Some(21 * S), false, false), Way::On);
    }
}
