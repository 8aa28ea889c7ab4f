//! The probes at video decoders: they drop damaged pictures, and ask the decode filter about the others.
//!
//! Pictures before the first key frame, and after a loss until the next one, depend on missing pictures and would be gray with moving
//! smears. They are dropped before the decoder and counted. Pictures that the decoder marks as corrupt are dropped after it, and in
//! recordings also those for which libav logs an error.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::debug::ErrorWatch;
use super::decode_filter::{DecodeFilter, FilterAction};
use super::frame_gate::handled;
use super::graph::Graph;
use super::left_out::{self, Absence};
use super::sinks::running_time;
use crate::outlet::DropReason;
use touchline_core::item::Track;
use touchline_core::selection::FrameSelection;
use touchline_core::time::NANOS_PER_SECOND;

/// How long to wait for a key frame, ns of stream time. Encoders with intra refresh send none, and their pictures are clean within
/// a second or two. Cameras send one every ten seconds at least.
const WAIT_MAX_NS: u64 = 20 * NANOS_PER_SECOND;

/// What to do with a picture.
#[derive(Debug, PartialEq, Eq)]
enum PictureAction {
    /// Pass it on.
    Pass,
    /// Drop and count it.
    Drop(DropReason),
    /// Leave it out: it will not be sampled.
    LeaveOut {
        /// The decoder must output the key picture before it first.
        is_held: bool,
    },
    /// Leave it out without a time of its own: it is the second field of a frame.
    LeaveOutSecondField,
}

/// The wait for a key frame.
#[derive(Debug)]
struct KeyFrameWait {
    /// Why pictures are dropped; [`None`]: not waiting.
    why: Option<DropReason>,
    since_ns: Option<u64>,
    has_begun: bool,
}

impl KeyFrameWait {
    fn new() -> Self {
        Self { why: Some(DropReason::BeforeKeyFrame), since_ns: None, has_begun: false }
    }

    /// Decides about a coded picture at `pts_ns`. `is_break`: data before it are missing.
    fn offer(&mut self, pts_ns: Option<u64>, is_break: bool, is_key: bool) -> PictureAction {
        if is_break && self.has_begun && self.why.is_none() {
            (self.why, self.since_ns) = (Some(DropReason::AfterLoss), None);
        }
        self.has_begun = true;
        let Some(why) = self.why else { return PictureAction::Pass };
        let since_ns = pts_ns.map_or(0, |pts| pts.abs_diff(*self.since_ns.get_or_insert(pts)));
        if is_key || since_ns > WAIT_MAX_NS {
            self.why = None;
            return PictureAction::Pass;
        }
        PictureAction::Drop(why)
    }

    /// Marks the picture that was decoded last as damaged: the following pictures depend on it.
    fn mark_damaged(&mut self) {
        if self.why.is_none() {
            (self.why, self.since_ns) = (Some(DropReason::AfterLoss), None);
        }
    }
}

/// The most damaged pictures that may be inside a decoder: more than it reorders.
const DAMAGED_MAX: usize = 64;

/// Finds the pictures for which a decoder with one thread logged errors.
#[derive(Debug, Default)]
struct DamagedPictures {
    /// PTS of the picture that is being decoded, ns.
    at_ns: Option<u64>,
    /// PTS of damaged pictures that the decoder has not output yet, ns.
    pictures: VecDeque<u64>,
    keys: u32,
    /// PTS of the first key frame, ns.
    first_ns: u64,
    /// The recording begins in an open group: pictures after its first key frame depend on earlier ones.
    is_open: bool,
}

impl DamagedPictures {
    /// Records an error of the decoder. Returns whether it is damage: in an open group, errors are expected.
    fn note(&mut self) -> bool {
        let Some(at_ns) = self.at_ns else { return true };
        if self.pictures.back() != Some(&at_ns) {
            if self.pictures.len() == DAMAGED_MAX {
                self.pictures.pop_front();
            }
            self.pictures.push_back(at_ns);
        }
        !self.is_open || self.keys > 1
    }

    /// Records the next input of the decoder.
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

    /// Whether the decoder's output at `pts_ns` is damaged.
    fn take(&mut self, pts_ns: u64) -> bool {
        let Some(at) = self.pictures.iter().position(|garbled| *garbled == pts_ns) else { return false };
        self.pictures.remove(at);
        true
    }
}

struct DecoderState {
    wait: KeyFrameWait,
    filter: Option<DecodeFilter>,
    damaged: DamagedPictures,
    errors: ErrorWatch,
    /// It is the decoder of a recording.
    is_alone: bool,
    /// PTS of the coded picture before, ns.
    before_ns: Option<u64>,
    into: Option<gst::FormattedSegment<gst::ClockTime>>,
    out_of: Option<gst::FormattedSegment<gst::ClockTime>>,
}

impl DecoderState {
    /// Decides about a coded picture at running time `pts_ns`.
    fn coded(&mut self, buffer: &gst::BufferRef, pts_ns: Option<u64>, graph: &Graph) -> PictureAction {
        let flags = buffer.flags();
        let is_key = !flags.contains(gst::BufferFlags::DELTA_UNIT);
        let action = self.wait.offer(pts_ns, self.is_break(buffer, pts_ns), is_key);
        self.before_ns = pts_ns.or(self.before_ns);
        if action != PictureAction::Pass {
            return action;
        }
        if let (Some(filter), Some(running_ns)) = (&mut self.filter, pts_ns)
            && let Some(pts) = graph.pts(Track::Video, running_ns)
        {
            let chosen = filter.offer(buffer, running_ns, pts);
            match chosen {
                FilterAction::Decode => {}
                FilterAction::LeaveOut => return PictureAction::LeaveOut { is_held: false },
                FilterAction::Drain => return PictureAction::LeaveOut { is_held: true },
                FilterAction::LeaveOutSecondField => return PictureAction::LeaveOutSecondField,
            }
        }
        self.damaged.decode(pts_ns, is_key);
        action
    }

    /// Whether data before the picture are missing. Matroska has no decoding times, and GStreamer's parsers take the first step back to a
    /// B-picture for a break.
    fn is_break(&self, buffer: &gst::BufferRef, pts_ns: Option<u64>) -> bool {
        let is_step_back = self.is_alone && buffer.dts().is_none() && pts_ns.is_some() && pts_ns < self.before_ns;
        buffer.flags().contains(gst::BufferFlags::DISCONT) && !is_step_back
    }

    /// Checks for errors of the decoder since the last call.
    fn note_errors(&mut self, graph: &Weak<Graph>) {
        let is_expected = self.filter.as_ref().is_some_and(DecodeFilter::is_resuming);
        if self.errors.has_new() && !is_expected && self.damaged.note() {
            self.wait.mark_damaged();
            if let Some(graph) = graph.upgrade() {
                graph.count_fault();
            }
        }
    }
}

fn running_ns(segment: Option<&gst::FormattedSegment<gst::ClockTime>>, buffer: &gst::BufferRef) -> Option<u64> {
    segment.and_then(|segment| running_time(segment, buffer)).map(|t| u64::try_from(t).unwrap_or(0))
}

/// Installs probes at the input and the output of the video decoder `element`. `is_alone`: it is a libav decoder with one thread, so
/// its errors are logged on the calling thread.
pub(super) fn connect(element: &gst::Element, graph: &Arc<Graph>, is_alone: bool, selection: Option<FrameSelection>) {
    let (Some(sink), Some(src)) = (element.static_pad("sink"), element.static_pad("src")) else { return };
    let (damaged, errors) = (DamagedPictures::default(), ErrorWatch::default());
    // Behind a window many times wait for the frame gate, and those of dropped pictures must not overtake them.
    let is_ordered = selection.as_ref().is_some_and(|selection| selection.window().is_some());
    let (wait, filter) = (KeyFrameWait::new(), selection.map(DecodeFilter::new));
    let shared = Arc::new(Mutex::new(DecoderState {
        wait,
        filter,
        damaged,
        errors,
        is_alone,
        before_ns: None,
        into: None,
        out_of: None,
    }));
    let state = shared.clone();
    let output = src.downgrade();
    let weak = Arc::downgrade(graph);
    sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let mut state = state.lock();
        let (action, pts_ns) = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let Some(graph) = weak.upgrade() else { return gst::PadProbeReturn::Ok };
                graph.progress.fed();
                let pts_ns = running_ns(state.into.as_ref(), buffer);
                if is_alone {
                    state.note_errors(&weak);
                }
                (state.coded(buffer, pts_ns, &graph), pts_ns)
            }
            Some(gst::PadProbeData::Event(event)) => {
                match (event.view(), &mut state.filter) {
                    (gst::EventView::Segment(segment), _) => state.into = segment.segment().clone().downcast().ok(),
                    (gst::EventView::Caps(caps), Some(filter)) => filter.set_format(caps.caps()),
                    _ => {}
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        drop(state);
        match action {
            PictureAction::Pass => gst::PadProbeReturn::Ok,
            PictureAction::Drop(why) => {
                let output = output.upgrade().filter(|_| is_ordered);
                drop_picture(info, &weak, pts_ns, why, output.as_ref())
            }
            PictureAction::LeaveOutSecondField => handled(info, Ok(gst::FlowSuccess::Ok)),
            PictureAction::LeaveOut { is_held } => {
                if is_held {
                    // Decoders output all that they hold before a still picture. It fails only when the pipeline stops.
                    pad.send_event(gst_video::StillFrameEvent::builder(true).build());
                }
                leave_out(info, &weak, output.upgrade().as_ref(), pts_ns)
            }
        }
    });
    let (weak, state) = (Arc::downgrade(graph), shared);
    src.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let mut state = state.lock();
        let (is_garbled, pts_ns, why) = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if is_alone {
                    state.note_errors(&weak);
                }
                let pts_ns = running_ns(state.out_of.as_ref(), buffer);
                let is_corrupt = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
                let is_spoiled = pts_ns.is_some_and(|pts_ns| state.damaged.take(pts_ns));
                // Undecodable pictures of an open group are not damage.
                let is_open = !is_corrupt && state.damaged.is_open && state.damaged.keys <= 1;
                let is_expected = is_open || state.filter.as_ref().is_some_and(DecodeFilter::is_resuming);
                let why = if is_expected { DropReason::BeforeKeyFrame } else { DropReason::Corrupt };
                (is_corrupt || is_spoiled, pts_ns, why)
            }
            Some(gst::PadProbeData::Event(event)) => {
                match event.view() {
                    gst::EventView::Segment(event) => state.out_of = event.segment().clone().downcast().ok(),
                    // Sent by the other probe for the decoder alone.
                    gst::EventView::CustomDownstream(_) if gst_video::StillFrameEvent::parse(event).is_ok() => {
                        return gst::PadProbeReturn::Drop;
                    }
                    _ => {}
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        drop(state);
        if is_garbled {
            drop_picture(info, &weak, pts_ns, why, Some(pad).filter(|_| is_ordered))
        } else {
            gst::PadProbeReturn::Ok
        }
    });
}

/// Removes the coded picture of `info`. The frame gate sends its time, in order.
fn leave_out(
    info: &mut gst::PadProbeInfo<'_>,
    graph: &Weak<Graph>,
    output: Option<&gst::Pad>,
    pts_ns: Option<u64>,
) -> gst::PadProbeReturn {
    if let (Some(graph), Some(running_ns)) = (graph.upgrade(), pts_ns) {
        graph.counters.left_out.fetch_add(1, Ordering::Relaxed);
        if let (Some(until_ns), Some(output)) = (graph.left_out.add(running_ns, Absence::LeftOut), output) {
            output.push_event(left_out::event(until_ns));
        }
    }
    handled(info, Ok(gst::FlowSuccess::Ok))
}

/// Drops the picture of `info` and counts it. With `output` the frame gate behind it sends its time, in order; otherwise it is sent at once.
fn drop_picture(
    info: &mut gst::PadProbeInfo<'_>,
    graph: &Weak<Graph>,
    pts_ns: Option<u64>,
    why: DropReason,
    output: Option<&gst::Pad>,
) -> gst::PadProbeReturn {
    let mut result = Ok(gst::FlowSuccess::Ok);
    if let Some(graph) = graph.upgrade() {
        graph.counters.drop_picture(why);
        if graph.counters.dropped(why) == 1 {
            tracing::info!(why = why.as_str(), "pictures are dropped: they are damaged or depend on missing ones");
        }
        match (pts_ns, output) {
            (Some(running_ns), Some(output)) => {
                if let Some(until_ns) = graph.left_out.add(running_ns, Absence::Lost) {
                    output.push_event(left_out::event(until_ns));
                }
            }
            (Some(running_ns), None) => {
                let place = graph.pts(Track::Video, running_ns);
                if place.is_some_and(|pts| graph.lose_picture(pts).is_err()) {
                    result = Err(gst::FlowError::Flushing);
                }
            }
            (None, _) => {}
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
        let mut wait = KeyFrameWait::new();
        let (early, late) =
            (PictureAction::Drop(DropReason::BeforeKeyFrame), PictureAction::Drop(DropReason::AfterLoss));
        assert_eq!(wait.offer(Some(0), true, false), early);
        assert_eq!(wait.offer(None, false, false), early);
        assert_eq!(wait.offer(Some(10 * S), false, true), PictureAction::Pass);
        assert_eq!(wait.offer(Some(10 * S + 1), false, false), PictureAction::Pass);
        assert_eq!(wait.offer(Some(11 * S), true, false), late);
        assert_eq!(
            wait.offer(Some(12 * S), true, true),
            PictureAction::Pass,
            "a key frame does not depend on other pictures"
        );
        assert_eq!(wait.offer(Some(13 * S), false, false), PictureAction::Pass);
    }

    #[test]
    fn damaged_pictures_are_dropped_and_later_ones_wait_for_a_key_frame() {
        let (mut wait, mut damaged) = (KeyFrameWait::new(), DamagedPictures::default());
        assert_eq!(wait.offer(Some(0), false, true), PictureAction::Pass);
        damaged.decode(Some(0), true);
        assert!(!damaged.take(0));
        // The decoder outputs it two pictures later, in presentation order.
        damaged.decode(Some(3 * S), false);
        assert!(damaged.note() && damaged.note(), "two errors, one picture");
        wait.mark_damaged();
        assert!(!damaged.take(S) && damaged.take(3 * S) && !damaged.take(3 * S));
        assert_eq!(wait.offer(Some(4 * S), false, false), PictureAction::Drop(DropReason::AfterLoss));
        assert_eq!(wait.offer(Some(5 * S), false, true), PictureAction::Pass);
        // Damaged pictures that are never output need bounded memory.
        for error in 3..1000 {
            damaged.decode(Some(error * S), false);
            assert!(damaged.note());
        }
        assert_eq!(damaged.pictures.len(), DAMAGED_MAX);
    }

    #[test]
    fn errors_in_an_open_group_at_the_beginning_are_not_damage() {
        let mut damaged = DamagedPictures::default();
        damaged.decode(Some(2 * S), true);
        damaged.decode(Some(S), false);
        assert!(!damaged.note() && damaged.take(S), "still dropped");
        damaged.decode(Some(4 * S), true);
        assert!(damaged.note());
    }

    #[test]
    fn a_stream_without_key_frames_is_decoded_after_a_while() {
        let mut wait = KeyFrameWait::new();
        for second in 0..=20 {
            assert_eq!(wait.offer(Some(second * S), false, false), PictureAction::Drop(DropReason::BeforeKeyFrame));
        }
        assert_eq!(wait.offer(Some(20 * S + 1), false, false), PictureAction::Pass);
        assert_eq!(wait.offer(Some(21 * S), false, false), PictureAction::Pass);
    }
}
