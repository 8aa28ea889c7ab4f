//! The thread that owns a pipeline: starts it, handles its bus messages, and shuts it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;

use super::causes::{self, MissingPlugins};
use super::decoders::Decoders;
use super::formats::FormatWatch;
use super::frame_gate::FrameGate;
use super::graph::Graph;
use super::{progress, recording};
use crate::guard::proxy::LoopbackProxy;
use crate::outlet::Outlet;
use crate::uri::{Kind, Location};
use touchline_core::cause::Cause;
use touchline_core::clock::Deadline;
use touchline_core::incident::Incident;
use touchline_core::item::{End, MediaItem, Tracks};
use touchline_core::redact;

/// How often the thread checks its deadlines while the bus is silent. Decisions of other threads wake it.
const POLL: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// How long a pipeline may take to stop. Normal pipelines take milliseconds; an element that hangs must not block the stream or the
/// program.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// How long the media time of a recording may not advance while downstream accepts data, ns. Far longer than any disk access or
/// picture needs.
const STILL_MAX_NS: u64 = 30_000_000_000;

/// How long media time may not advance after an error of a recording before the session ends, or after the end of an RTSP stream
/// before the end is passed on, ns.
const REST_MAX_NS: u64 = 2_000_000_000;

/// `GST_FLOW_NOT_LINKED`, as in the details of errors.
const NOT_LINKED: i32 = -1;

fn is_refused(end: &End) -> bool {
    matches!(end, End::Failed { kind: Cause::Refused, .. })
}

/// A message that only wakes the bus thread.
pub(super) fn wake_message() -> gst::Message {
    gst::message::Application::new(gst::Structure::new_empty("touchline-wake"))
}

/// One pipeline from start to end.
pub(super) struct PipelineSession {
    /// The URI, redacted.
    pub name: String,
    pub location: Location,
    pub pipeline: gst::Pipeline,
    pub graph: Arc<Graph>,
    pub gate: Option<Arc<FrameGate>>,
    pub formats: Vec<FormatWatch>,
    /// Set when media arrived over TCP only.
    pub falls_back: Arc<AtomicBool>,
    pub decoders: Decoders,
    pub outlet: Outlet,
    pub connect_timeout: Option<Duration>,
    /// The loopback proxy of a guarded source. Closed with the session.
    pub proxy: Option<LoopbackProxy>,
    /// The appsinks wait for the clock, so buffering must pause it.
    pub paced: bool,
    /// Touchline fetches the media; GStreamer connects to no server.
    pub is_fed: bool,
    pub id: String,
}

impl PipelineSession {
    pub fn run(mut self) {
        let end = self.play();
        // The proxy stays open until the pipeline has stopped or its time limit passes. Closing it then unblocks the pipeline.
        let proxy = self.proxy.take();
        // From here on only the end is sent: streaming threads that wait for room give up, so that the pipeline can stop.
        self.outlet.stop();
        self.graph.release();
        if let Some(bus) = self.pipeline.bus() {
            bus.set_flushing(true);
        }
        if !self.graph.has_data() {
            // TCP brought no data either, so the next connection tries UDP again.
            self.falls_back.store(false, Ordering::Relaxed);
        }
        let (outlet, id) = (self.outlet.clone(), self.id.clone());
        let counters = self.graph.counters.clone();
        let (session, (to, done)) = (Arc::new(self), bounded::<()>(0));
        let helper = std::thread::Builder::new().name(format!("stop/{id}")).spawn({
            let session = session.clone();
            move || {
                session.shut_down();
                drop((session, to));
            }
        });
        if helper.is_err() {
            session.shut_down();
        } else if done.recv_timeout(SHUTDOWN_MAX) == Err(RecvTimeoutError::Timeout) {
            counters.abandoned.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(stream = id, "the pipeline does not stop and is abandoned");
        }
        drop(proxy);
        outlet.send_end(end);
    }

    fn shut_down(&self) {
        if self.location.kind == Kind::Rtsp {
            progress::wake_held_ends(self.pipeline.upcast_ref());
        }
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(stream = self.id, "the pipeline did not shut down cleanly");
        }
        super::sinks::disconnect(&self.graph);
        self.formats.iter().for_each(FormatWatch::disconnect);
        if let Some(gate) = &self.gate {
            gate.disconnect();
        }
    }

    fn play(&self) -> End {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        let mut missing = MissingPlugins::default();
        let clock = self.graph.progress.clock();
        let connected_by = self.connect_timeout.map(|timeout| (Deadline::after(clock, timeout), timeout));
        // The error of a recording whose remaining data are still being decoded.
        let mut broken: Option<End> = None;
        let mut idle = 0;
        if self.pipeline.set_state(gst::State::Playing).is_err() {
            // The reason is on the bus.
            while let Some(message) = bus.pop() {
                if let Some(end) = self.handle(&message, &mut missing) {
                    return end;
                }
            }
            return causes::refused_to_start();
        }
        loop {
            let message = bus.timed_pop(POLL);
            if self.outlet.stopped() {
                return End::Finished;
            }
            if let Some(gate) = &self.gate {
                gate.release_late();
            }
            // A refusal by the policy comes first; GStreamer's errors only follow from it.
            if let Some(refused) = self.graph.verdict().filter(is_refused) {
                return refused;
            }
            if let Some(end) = message.and_then(|m| self.handle(&m, &mut missing)) {
                if let Some(refused) = self.graph.verdict().filter(is_refused) {
                    return refused;
                }
                if !self.waits_for_rest(&end) {
                    return end;
                }
                broken.get_or_insert(end);
                self.graph.play_sinks();
            }
            if let Some(end) = self.graph.verdict() {
                while let Some(message) = bus.pop() {
                    if let Some(end) = self.handle(&message, &mut missing) {
                        broken = broken.or(Some(end).filter(|end| self.waits_for_rest(end)));
                    }
                }
                return missing.instead_of(self.with_fault(end, broken));
            }
            let still_ns = self.graph.progress.still_ns();
            if self.location.kind == Kind::Rtsp && still_ns > REST_MAX_NS {
                progress::wake_held_ends(self.pipeline.upcast_ref());
            }
            let is_over = || still_ns > STILL_MAX_NS || (still_ns > REST_MAX_NS && !self.graph.is_queued());
            if broken.is_some() && is_over() {
                return missing.instead_of(self.with_fault(End::Finished, broken));
            }
            // Twice in succession, because after a suspension of the process the clock is far ahead.
            idle = if still_ns > REST_MAX_NS && self.has_given_up() { idle + 1 } else { 0 };
            if idle > 1 {
                return missing.instead_of(self.cut_off().unwrap_or_else(recording::given_up));
            }
            if self.is_recording() && still_ns > STILL_MAX_NS {
                return self.cut_off().unwrap_or_else(|| causes::stands_still(STILL_MAX_NS / 1_000_000_000));
            }
            if let Some((_, timeout)) = connected_by.filter(|(deadline, _)| deadline.is_over(clock))
                && !self.graph.has_data()
                && !self.graph.progress.is_fed_within(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
            {
                return self.unreachable().unwrap_or_else(|| causes::no_data(self.location.kind, timeout));
            }
        }
    }

    fn is_recording(&self) -> bool {
        matches!(self.location.kind, Kind::File | Kind::Http) || self.location.test.is_some_and(|test| !test.live)
    }

    fn cut_off(&self) -> Option<End> {
        if self.location.kind == Kind::File { recording::cut_off(&self.location) } else { None }
    }

    /// Whether the demuxer of a recording stopped without a message. GStreamer 1.22 holds an element's errors back while it is
    /// plugged in and drops them if its state change succeeds: the error of a demuxer that fails at once can be lost.
    fn has_given_up(&self) -> bool {
        self.location.kind == Kind::File
            && !self.graph.has_data()
            && !self.graph.is_queued()
            && !self.graph.is_decoded.load(Ordering::Relaxed)
            && !progress::is_streaming(self.pipeline.upcast_ref())
    }

    /// Whether the session continues after the error `end`, until the data before it have been decoded. Which seconds of a damaged
    /// recording are decided must not depend on timing.
    fn waits_for_rest(&self, end: &End) -> bool {
        let is_damage = matches!(end, End::Failed { kind: Cause::Damaged, .. });
        is_damage && self.location.kind == Kind::File && self.graph.is_media.load(Ordering::Relaxed)
    }

    /// The end of a recording after the error `broken`, if there was one. If any data were decoded, it ends in order, as damaged.
    fn with_fault(&self, end: End, broken: Option<End>) -> End {
        match (end, broken) {
            // What failed because the source was stopped is no damage.
            _ if self.outlet.stopped() => End::Finished,
            (End::Finished, Some(End::Failed { cause, .. })) if self.graph.has_data() => {
                self.graph.count_fault();
                tracing::info!(
                    stream = self.id,
                    uri = self.name,
                    cause,
                    "the recording is damaged; the rest of it was decoded"
                );
                End::Finished
            }
            (End::Finished | End::Failed { kind: Cause::NoTracks, .. }, Some(broken)) => broken,
            (end, _) => end,
        }
    }

    /// Connects to the server's port. Some elements report a refused connection as an "internal data stream error".
    fn unreachable(&self) -> Option<End> {
        let over_tcp = matches!(self.location.kind, Kind::Rtsp | Kind::Http | Kind::Hls | Kind::Rtmp);
        let behind = self.proxy.as_ref().and_then(LoopbackProxy::last_failure);
        if behind.is_some() {
            return behind.map(|trouble| trouble.end());
        }
        if over_tcp && !self.is_fed && !self.graph.has_data() { causes::probe(&self.location.uri) } else { None }
    }

    /// Handles one message. Returns the end if the session is over.
    fn handle(&self, message: &gst::Message, missing: &mut MissingPlugins) -> Option<End> {
        use gst::MessageView;
        match message.view() {
            MessageView::Error(error) => {
                let debug = error.debug().unwrap_or_default();
                let text = redact::text(&format!("{}: {debug}", error.error()));
                tracing::debug!(stream = self.id, uri = self.name, "{text}");
                let kind = self.location.kind;
                let flow = error.details().and_then(|details| details.get::<i32>("flow-return").ok());
                if let Some(end) =
                    self.decoders.failure(error.src(), &redact::text(error.error().message()), flow, &self.graph)
                {
                    return Some(end);
                }
                if flow == Some(NOT_LINKED) && !self.graph.has_data() {
                    // The source has tracks, but none of the wanted ones.
                    return Some(self.graph.verdict().unwrap_or_else(|| causes::no_tracks(&self.graph.wanted())));
                }
                // With a proxy, GStreamer does not see the server's failure.
                let behind = self.proxy.as_ref().and_then(LoopbackProxy::last_failure).map(|trouble| trouble.end());
                let is_media = self.graph.is_media.load(Ordering::Relaxed);
                let end = behind
                    .or_else(|| {
                        let is_file = kind == Kind::File;
                        is_file.then(|| recording::failure(&self.location, &error.error(), is_media)).flatten()
                    })
                    .or_else(|| causes::PipelineError::new(kind, error, &error.error(), &debug).end())
                    .or_else(|| self.unreachable())
                    .or_else(|| {
                        causes::handshake(&self.location.uri).filter(|_| !self.is_fed && !self.graph.has_data())
                    })
                    .unwrap_or_else(|| causes::unexplained(kind, &error.error(), &debug));
                return Some(missing.instead_of(end));
            }
            // Posted only when every sink has ended. With an unlinked branch, the graph's own count decides.
            MessageView::Eos(_) => return Some(self.graph.verdict().unwrap_or(End::Finished)),
            MessageView::Warning(warning) => {
                let error = warning.error();
                // Mostly missing packets. Only the first warning is logged; there may be thousands.
                let is_fault = error.matches(gst::StreamError::Demux) || error.matches(gst::StreamError::Decode);
                if is_fault && !self.graph.count_fault() {
                    return None;
                }
                // The text of rtspsrc when no packet arrived over UDP.
                if warning.debug().is_some_and(|debug| debug.contains("Retrying using a tcp connection")) {
                    self.falls_back.store(true, Ordering::Relaxed);
                    // Closed means that the session is ending anyway.
                    let _ = self.outlet.send(MediaItem::Incident(Incident::TcpFallback));
                    return None;
                }
                // A source without one of the tracks leaves a branch unlinked, which is no reason to warn.
                if !error.matches(gst::CoreError::Negotiation) && !error.message().contains("Delayed linking") {
                    let text = redact::text(&format!("{error}"));
                    tracing::warn!(stream = self.id, uri = self.name, "{text}");
                }
            }
            MessageView::Element(element) => {
                if let Some(structure) = element.structure() {
                    missing.note(structure);
                }
            }
            MessageView::StreamsSelected(selected) => {
                let types = selected.streams().fold(gst::StreamType::empty(), |all, s| all | s.stream_type());
                self.graph.selected(Tracks {
                    video: types.contains(gst::StreamType::VIDEO),
                    audio: types.contains(gst::StreamType::AUDIO),
                });
            }
            MessageView::Buffering(buffering) if self.paced => {
                // The clock must pause while a stream buffers; otherwise its data would be late, and arrive all at once.
                let state = if buffering.percent() < 100 { gst::State::Paused } else { gst::State::Playing };
                if self.pipeline.set_state(state).is_err() {
                    tracing::warn!(stream = self.id, "the pipeline did not change to {state:?} for buffering");
                }
            }
            MessageView::ClockLost(_) => {
                // The documented reaction: the pipeline chooses a new clock when it plays again.
                let changed = self
                    .pipeline
                    .set_state(gst::State::Paused)
                    .and_then(|_| self.pipeline.set_state(gst::State::Playing));
                if changed.is_err() {
                    tracing::warn!(stream = self.id, "the pipeline did not take a new clock");
                }
            }
            MessageView::Latency(_) => {
                // Without it, paced sinks would deliver data at stale offsets.
                let _ = self.pipeline.recalculate_latency();
            }
            MessageView::StateChanged(change)
                if message.src().is_some_and(|s| s == self.pipeline.upcast_ref::<gst::Object>()) =>
            {
                tracing::debug!(stream = self.id, from = ?change.old(), to = ?change.current(), "pipeline state");
            }
            _ => {}
        }
        None
    }
}
