//! The frame gate: drops decoded pictures that will not be sampled before they are converted.
//!
//! A probe where pictures enter the converters asks a [`FrameSelector`] about each picture, by its running time. Of a dropped
//! picture only the time is sent, on the same thread and in order. One picture at a time may be held until the next one decides.
//! A held picture without a successor is passed on after a while, so that a stall loses no picture.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::graph::Graph;
use super::left_out::{self, Absence};
use super::sinks::{PtsTracker, running_time};
use touchline_core::clock::Clock;
use touchline_core::item::{MediaItem, Track};
use touchline_core::selection::{FrameChoice, FrameSelection, FrameSelector};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// Factory names of elements that only convert.
const CONVERTERS: [&str; 6] =
    ["capsfilter", "videoconvert", "videoscale", "videoconvertscale", "audioconvert", "audioresample"];

/// How long the last picture is held when none follows, ns. So all pictures of streams below four pictures per second are converted.
/// A second is closed 1.5 s after its pictures stopped, well after this time.
const HELD_MAX_NS: u64 = NANOS_PER_SECOND / 4;

/// The frame gate of one session.
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
    /// A held picture is being passed through the pad, and the probe must not check it again.
    is_passing: bool,
}

struct HeldFrame {
    buffer: gst::Buffer,
    pts: Pts,
    arrived_ns: u64,
}

/// The probe's action for a picture.
enum GateAction {
    /// Pass it to the converters.
    Pass,
    /// Pass this copy, which has a derived time stamp.
    PassAs(gst::Buffer),
    /// Do not convert it.
    Drop,
}

impl FrameGate {
    /// Installs the probe; [`None`] without a branch for pictures.
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
        *gate.probe.lock() = probe;
        Some(gate)
    }

    /// Removes the probe and frees the held picture at the end of the session.
    pub fn disconnect(&self) {
        if let Some(id) = self.probe.lock().take() {
            self.pad.remove_probe(id);
        }
        self.state.lock().held = None;
    }

    /// Passes on a picture that has been held for too long. A thread of GStreamer converts it; the caller does not wait.
    pub fn release_late(self: &Arc<Self>) {
        if !self.state.lock().held.as_ref().is_some_and(|held| self.is_late(held)) {
            return;
        }
        let gate = self.clone();
        self.sink.call_async(move |_| {
            // Pictures pass the pad under this lock, so none can overtake the held one.
            let _lock = gate.pad.stream_lock();
            let late = gate.state.lock().held.take_if(|held| gate.is_late(held));
            if let Some(held) = late {
                // An error of the pipeline shows with the next picture.
                let _ = gate.pass(held.buffer);
            }
        });
    }

    fn is_late(&self, held: &HeldFrame) -> bool {
        self.clock.mono_ns().saturating_sub(held.arrived_ns) > HELD_MAX_NS
    }

    /// Called under the pad's stream lock, except for flush events.
    fn probed(&self, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let action = match &info.data {
            Some(gst::PadProbeData::Buffer(_)) if self.state.lock().is_passing => return gst::PadProbeReturn::Ok,
            Some(gst::PadProbeData::Buffer(buffer)) => self.picture(buffer),
            // Decoders do not output lists of pictures. If one does, all are converted.
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
        let given = self.state.lock().segment.as_ref().and_then(|segment| running_time(segment, buffer));
        if let Some(running_ns) = given.and_then(|time| u64::try_from(time).ok()) {
            self.release_left_out(Some(running_ns))?;
        }
        let mut stamped = None;
        let (choices, pts, held) = {
            let mut state = self.state.lock();
            let state = &mut *state;
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
                // After the gate, its predecessor may be missing, so its time is set here.
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
        // A picture that is shown for seconds belongs to all of them.
        let is_long = buffer.duration().is_some_and(|duration| duration.nseconds() > NANOS_PER_SECOND);
        // The plan chooses among key pictures when all of a second are known.
        let is_key_only = self.selection.tier() == DecodeTier::Key;
        let is_wanted = |keep: bool| keep || is_key_only || self.selection.is_wanted();
        if let Some(held) = held {
            if is_wanted(choices.keep_held) {
                self.pass(held.buffer)?;
            } else {
                self.report_unconverted(held.pts, held.arrived_ns)?;
            }
        }
        match choices.this {
            _ if is_long => Ok(stamped.map_or(GateAction::Pass, GateAction::PassAs)),
            FrameChoice::Hold => {
                let buffer = stamped.unwrap_or_else(|| buffer.clone());
                self.state.lock().held = Some(HeldFrame { buffer, pts, arrived_ns });
                Ok(GateAction::Drop)
            }
            FrameChoice::Drop if !is_wanted(false) => {
                self.report_unconverted(pts, arrived_ns).map(|()| GateAction::Drop)
            }
            FrameChoice::Drop | FrameChoice::Keep => Ok(stamped.map_or(GateAction::Pass, GateAction::PassAs)),
        }
    }

    /// Handles an event. A held picture is passed on before an event that ends its stream or segment.
    fn event(&self, event: &gst::Event) {
        match event.view() {
            gst::EventView::Caps(_) | gst::EventView::Eos(_) | gst::EventView::StreamStart(_) => {
                // An error of the pipeline shows with the next picture.
                let _ = self.pass_held();
                // Not before other events: the decoder is ahead of this thread, and times after the event may be there already.
                if matches!(event.view(), gst::EventView::Eos(_)) {
                    let _ = self.release_left_out(None);
                }
            }
            gst::EventView::CustomDownstream(event) => {
                if let Some(until_ns) = left_out::until_ns(event) {
                    let _ = self.release_left_out(Some(until_ns));
                }
            }
            gst::EventView::Segment(segment) => {
                let _ = self.pass_held();
                self.state.lock().segment = segment.segment().clone().downcast().ok();
            }
            gst::EventView::FlushStart(_) => self.state.lock().held = None,
            gst::EventView::FlushStop(_) => {
                let mut state = self.state.lock();
                (state.held, state.segment, state.timing) = (None, None, PtsTracker::default());
                self.graph.left_out.take(None);
            }
            _ => {}
        }
    }

    fn pass_held(&self) -> Result<(), gst::FlowError> {
        let held = self.state.lock().held.take();
        held.map_or(Ok(()), |held| self.pass(held.buffer))
    }

    /// Sends a held picture to the converters. The caller holds the stream lock.
    fn pass(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        self.state.lock().is_passing = true;
        let result = self.pad.chain(buffer);
        self.state.lock().is_passing = false;
        result.map(|_| ())
    }

    /// Sends the times of pictures that do not come: those before running time `until_ns`, or all. The caller holds the stream lock.
    fn release_left_out(&self, until_ns: Option<u64>) -> Result<(), gst::FlowError> {
        for (running_ns, absence) in self.graph.left_out.take(until_ns) {
            let Some(pts) = self.graph.pts(Track::Video, running_ns) else { continue };
            if absence == Absence::Lost {
                self.graph.lose_picture(pts).map_err(|_| gst::FlowError::Flushing)?;
                continue;
            }
            let (keep_held, held) = {
                let mut state = self.state.lock();
                (state.selector.offer(pts).keep_held, state.held.take())
            };
            if let Some(held) = held {
                if keep_held || self.selection.tier() == DecodeTier::Key || self.selection.is_wanted() {
                    self.pass(held.buffer)?;
                } else {
                    self.report_unconverted(held.pts, held.arrived_ns)?;
                }
            }
            self.report_unconverted(pts, self.clock.mono_ns())?;
        }
        Ok(())
    }

    /// Sends the time of a picture that is not converted.
    fn report_unconverted(&self, pts: Pts, arrived_ns: u64) -> Result<(), gst::FlowError> {
        if !self.graph.admit(Track::Video) {
            return if self.graph.outlet.stopped() { Err(gst::FlowError::Flushing) } else { Ok(()) };
        }
        let item = MediaItem::Unconverted { pts, arrived_ns };
        self.graph.deliver(Track::Video, item).map_err(|_| gst::FlowError::Flushing)
    }
}

/// Removes the picture from the pipeline. Not with [`gst::PadProbeReturn::Drop`]: the bindings have freed the picture by then, and
/// GStreamer 1.22 warns that there is none to free.
pub(super) fn handled(
    info: &mut gst::PadProbeInfo<'_>,
    result: Result<gst::FlowSuccess, gst::FlowError>,
) -> gst::PadProbeReturn {
    info.data = None;
    info.flow_res = result;
    gst::PadProbeReturn::Handled
}

/// Whether `element` only converts.
pub(super) fn is_converter(element: &gst::Element) -> bool {
    element.factory().is_some_and(|factory| CONVERTERS.contains(&factory.name().as_str()))
}

/// The pad where media enter the converters that lead to `sink`.
pub(super) fn entry(sink: &gst::Element) -> Option<gst::Pad> {
    let mut entry = sink.static_pad("sink")?;
    // Bounded, so that a loop cannot hang the program. No sensible branch is longer.
    for _ in 0..100 {
        let Some(before) = entry.peer().and_then(|peer| peer.parent_element()) else { break };
        if !is_converter(&before) {
            break;
        }
        let Some(pad) = before.static_pad("sink") else { break };
        entry = pad;
    }
    Some(entry)
}
