//! Drops pictures between the decoder and the converters, when nobody will look at them.
//!
//! A probe sits where pictures enter the converters of the branch. It asks a [`FrameSelector`] about each picture by its running
//! time. What is dropped goes on as its time alone, on the same thread and in order; one picture at a time may be held,
//! until the next one decides. A held picture that no other follows is passed on after a while, so that a stall takes
//! nothing away that was there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::graph::Graph;
use super::sinks::{PtsTracker, running_time};
use touchline_core::clock::Clock;
use touchline_core::item::{MediaItem, Track};
use touchline_core::selection::{FrameChoice, FrameSelection, FrameSelector};
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// Elements that only convert, by the name of their factory: before them media are as they were decoded.
const CONVERTERS: [&str; 6] =
    ["capsfilter", "videoconvert", "videoscale", "videoconvertscale", "audioconvert", "audioresample"];

/// How long the last picture is held when none follows, ns. Slower streams than four pictures a second are converted
/// whole; a second is given up 1.5 s after its pictures stopped.
const HELD_MAX_NS: u64 = NANOS_PER_SECOND / 4;

/// The selection of one session.
pub(super) struct FrameGate {
    pad: gst::Pad,
    sink: gst::Element,
    graph: Arc<Graph>,
    clock: Arc<dyn Clock>,
    selection: FrameSelection,
    state: Mutex<GateState>,
    probe: Mutex<Option<gst::PadProbeId>>,
}

struct GateState {
    selector: Box<dyn FrameSelector>,
    timing: PtsTracker,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    held: Option<HeldFrame>,
    /// A picture that was held is on its way through the pad: it has been looked at.
    is_passing: bool,
}

struct HeldFrame {
    buffer: gst::Buffer,
    pts: Pts,
    arrived_ns: u64,
}

/// What the probe does with the picture it was called for.
enum GateAction {
    /// On, to the converters.
    Pass,
    /// The same, with a time stamp that it had not.
    PassAs(gst::Buffer),
    Drop,
}

impl FrameGate {
    /// Puts the probe in place; [`None`] without a branch for pictures.
    pub fn connect(graph: &Arc<Graph>, clock: Arc<dyn Clock>, selection: FrameSelection) -> Option<Arc<Self>> {
        let (_, sink) = graph.sinks().find(|(track, _)| *track == Track::Video)?;
        let sink: gst::Element = sink.clone().upcast();
        let pad = entry(&sink)?;
        let (selector, timing) = (selection.start(), PtsTracker::default());
        let state = Mutex::new(GateState { selector, timing, segment: None, held: None, is_passing: false });
        let (graph, probe) = (graph.clone(), Mutex::default());
        let gate = Arc::new(Self { pad, sink, graph, clock, selection, state, probe });
        let weak = Arc::downgrade(&gate);
        let kinds = gst::PadProbeType::BUFFER
            | gst::PadProbeType::BUFFER_LIST
            | gst::PadProbeType::EVENT_DOWNSTREAM
            | gst::PadProbeType::EVENT_FLUSH;
        let probe = gate.pad.add_probe(kinds, move |_, info| match weak.upgrade() {
            Some(gate) => gate.probed(info),
            None => gst::PadProbeReturn::Ok,
        });
        *gate.probe.lock().unwrap_or_else(|e| e.into_inner()) = probe;
        Some(gate)
    }

    /// Takes the probe away and frees what is held: the session is over.
    pub fn disconnect(&self) {
        if let Some(id) = self.probe.lock().unwrap_or_else(|e| e.into_inner()).take() {
            self.pad.remove_probe(id);
        }
        self.state().held = None;
    }

    /// Passes on a picture that has been held for too long. It is converted on a thread of GStreamer's: the caller does
    /// not wait for that.
    pub fn release_late(self: &Arc<Self>) {
        if !self.state().held.as_ref().is_some_and(|held| self.is_late(held)) {
            return;
        }
        let gate = self.clone();
        self.sink.call_async(move |_| {
            // Pictures come through the pad under this lock: none can overtake the one that was held.
            let _lock = gate.pad.stream_lock();
            let late = gate.state().held.take_if(|held| gate.is_late(held));
            if let Some(held) = late {
                // What is wrong with the pipeline shows with the next picture.
                let _ = gate.pass(held.buffer);
            }
        });
    }

    fn is_late(&self, held: &HeldFrame) -> bool {
        self.clock.mono_ns().saturating_sub(held.arrived_ns) > HELD_MAX_NS
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called under the pad's stream lock, but for events that flush.
    fn probed(&self, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let action = match &info.data {
            Some(gst::PadProbeData::Buffer(_)) if self.state().is_passing => return gst::PadProbeReturn::Ok,
            Some(gst::PadProbeData::Buffer(buffer)) => self.picture(buffer),
            // No decoder makes lists of pictures; those of one that does are all converted.
            Some(gst::PadProbeData::BufferList(_)) => self.pass_held().map(|()| GateAction::Pass),
            Some(gst::PadProbeData::Event(event)) => {
                self.event(event);
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        match action {
            Ok(GateAction::Pass) => gst::PadProbeReturn::Ok,
            Ok(GateAction::PassAs(buffer)) => {
                info.data = Some(gst::PadProbeData::Buffer(buffer));
                gst::PadProbeReturn::Ok
            }
            Ok(GateAction::Drop) => handled(info, Ok(gst::FlowSuccess::Ok)),
            Err(error) => handled(info, Err(error)),
        }
    }

    fn picture(&self, buffer: &gst::Buffer) -> Result<GateAction, gst::FlowError> {
        let arrived_ns = self.clock.mono_ns();
        let mut stamped = None;
        let (fates, pts, held) = {
            let mut state = self.state();
            let state = &mut *state;
            let given = state.segment.as_ref().and_then(|segment| running_time(segment, buffer));
            let running = match given {
                Some(time) => match self.graph.on_line(Track::Video, time) {
                    Some(time) => Some(u64::try_from(time).unwrap_or(0)),
                    None => return Ok(GateAction::Drop),
                },
                None => None,
            };
            let Some(time) = state.timing.time(running, buffer.duration().map(gst::ClockTime::nseconds)) else {
                self.graph.counters.untimed.fetch_add(1, Ordering::Relaxed);
                return Ok(GateAction::Drop);
            };
            if given.is_none() {
                // Behind the gate its predecessor may be missing: it takes its time along.
                let position = state.segment.as_ref().and_then(|s| {
                    let running_ns = self.graph.running_ns(Track::Video, time);
                    s.position_from_running_time(gst::ClockTime::from_nseconds(running_ns))
                });
                let mut copy = buffer.clone();
                copy.make_mut().set_pts(position);
                stamped = Some(copy);
            }
            (state.selector.offer(Pts(time)), Pts(time), state.held.take())
        };
        // A picture that is shown for seconds is the picture of all of them.
        let is_long = buffer.duration().is_some_and(|duration| duration.nseconds() > NANOS_PER_SECOND);
        let is_wanted = |keep: bool| keep || self.selection.is_wanted();
        if let Some(held) = held {
            if is_wanted(fates.keep_held) {
                self.pass(held.buffer)?;
            } else {
                self.report_unconverted(held.pts, held.arrived_ns)?;
            }
        }
        match fates.this {
            _ if is_long => Ok(stamped.map_or(GateAction::Pass, GateAction::PassAs)),
            FrameChoice::Hold => {
                let buffer = stamped.unwrap_or_else(|| buffer.clone());
                self.state().held = Some(HeldFrame { buffer, pts, arrived_ns });
                Ok(GateAction::Drop)
            }
            FrameChoice::Drop if !is_wanted(false) => {
                self.report_unconverted(pts, arrived_ns).map(|()| GateAction::Drop)
            }
            FrameChoice::Drop | FrameChoice::Keep => Ok(stamped.map_or(GateAction::Pass, GateAction::PassAs)),
        }
    }

    /// What an event ends belongs before it.
    fn event(&self, event: &gst::Event) {
        match event.view() {
            gst::EventView::Caps(_) | gst::EventView::Eos(_) | gst::EventView::StreamStart(_) => {
                // What is wrong with the pipeline shows with the next picture.
                let _ = self.pass_held();
            }
            gst::EventView::Segment(segment) => {
                let _ = self.pass_held();
                self.state().segment = segment.segment().clone().downcast().ok();
            }
            gst::EventView::FlushStart(_) => self.state().held = None,
            gst::EventView::FlushStop(_) => {
                let mut state = self.state();
                (state.held, state.segment, state.timing) = (None, None, PtsTracker::default());
            }
            _ => {}
        }
    }

    fn pass_held(&self) -> Result<(), gst::FlowError> {
        let held = self.state().held.take();
        held.map_or(Ok(()), |held| self.pass(held.buffer))
    }

    /// Sends a picture that was held to the converters. The caller has the stream lock.
    fn pass(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        self.state().is_passing = true;
        let result = self.pad.chain(buffer);
        self.state().is_passing = false;
        result.map(|_| ())
    }

    /// Tells of a picture that is not converted.
    fn report_unconverted(&self, pts: Pts, arrived_ns: u64) -> Result<(), gst::FlowError> {
        if !self.graph.admit(Track::Video) {
            return if self.graph.outlet.stopped() { Err(gst::FlowError::Flushing) } else { Ok(()) };
        }
        let item = MediaItem::Unconverted { pts, arrived_ns };
        self.graph.deliver(Track::Video, item).map_err(|_| gst::FlowError::Flushing)
    }
}

/// Takes the picture out of the pipeline. Not [`gst::PadProbeReturn::Drop`]: the bindings have freed the picture by then, and
/// GStreamer 1.22 complains that there is none to free.
pub(super) fn handled(
    info: &mut gst::PadProbeInfo<'_>,
    result: Result<gst::FlowSuccess, gst::FlowError>,
) -> gst::PadProbeReturn {
    info.data = None;
    info.flow_res = result;
    gst::PadProbeReturn::Handled
}

/// The pad where media enter the converters that lead to `sink`.
pub(super) fn entry(sink: &gst::Element) -> Option<gst::Pad> {
    let mut entry = sink.static_pad("sink")?;
    // A bound instead of a visited set: no sensible branch is longer, and a loop must not hang the program.
    for _ in 0..100 {
        let Some(before) = entry.peer().and_then(|peer| peer.parent_element()) else { break };
        if !before.factory().is_some_and(|f| CONVERTERS.contains(&f.name().as_str())) {
            break;
        }
        let Some(pad) = before.static_pad("sink") else { break };
        entry = pad;
    }
    Some(entry)
}
