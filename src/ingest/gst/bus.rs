//! The thread that owns a pipeline: starts it, listens to its bus, and shuts it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;

use super::causes::{self, Missing};
use super::formats::Formats;
use super::graph::Graph;
use super::thin::Gate;
use crate::ingest::guard::passage::Passage;
use crate::ingest::incident::Incident;
use crate::ingest::outlet::Outlet;
use crate::ingest::uri::{Kind, Location};
use crate::ingest::{End, MediaItem, Tracks};
use crate::redact;

/// How often the thread looks at deadlines while the bus is silent. What is decided elsewhere wakes it.
const POLL: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// How long a pipeline may take to stop. It takes milliseconds; an element that hangs must not hold the stream up, or the program.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// A message that only wakes the bus thread.
pub(super) fn wake_message() -> gst::Message {
    gst::message::Application::new(gst::Structure::new_empty("touchline-wake"))
}

/// One pipeline from start to end.
pub(super) struct Session {
    /// The URI, redacted.
    pub name: String,
    pub location: Location,
    pub pipeline: gst::Pipeline,
    pub graph: Arc<Graph>,
    pub gate: Option<Arc<Gate>>,
    pub formats: Vec<Formats>,
    /// Set when media came over TCP only.
    pub falls_back: Arc<AtomicBool>,
    pub outlet: Outlet,
    pub connect_timeout: Option<Duration>,
    /// The only way out of a guarded source. Closed with the session.
    pub passage: Option<Passage>,
    /// The appsinks wait for the clock, so buffering must hold the clock.
    pub paced: bool,
    /// Its media are fetched for it: it has no server of its own.
    pub is_fed: bool,
    pub id: String,
}

impl Session {
    pub fn run(mut self) {
        let end = self.play();
        // Open until the pipeline has stopped, but not longer than it may take: without it no server can hold that up.
        let passage = self.passage.take();
        // From here on nothing is sent but the end: streaming threads that wait for room give up, so that the
        // pipeline can stop.
        self.outlet.stop();
        self.graph.release();
        if let Some(bus) = self.pipeline.bus() {
            bus.set_flushing(true);
        }
        if !self.graph.has_data() {
            // TCP alone does not bring anything either: UDP gets its chance again.
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
            tracing::warn!(stream = id, "the pipeline does not stop; it is left to itself until its server lets go");
        }
        drop(passage);
        outlet.send_end(end);
    }

    fn shut_down(&self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!(stream = self.id, "the pipeline did not shut down cleanly");
        }
        super::sinks::disconnect(&self.graph);
        self.formats.iter().for_each(Formats::disconnect);
        if let Some(gate) = &self.gate {
            gate.disconnect();
        }
    }

    fn play(&self) -> End {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        let mut missing = Missing::default();
        let started = Instant::now();
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
            if let Some(end) = self.graph.verdict() {
                return missing.instead_of(end);
            }
            if let Some(end) = message.and_then(|m| self.handle(&m, &mut missing)) {
                return end;
            }
            if let Some(timeout) = self.connect_timeout.filter(|t| started.elapsed() > *t)
                && !self.graph.has_data()
            {
                return self.unreachable().unwrap_or_else(|| causes::no_data(self.location.kind, timeout));
            }
        }
    }

    /// Tries the server's port by itself. Some elements report a refused connection as an "internal data stream error".
    fn unreachable(&self) -> Option<End> {
        let over_tcp = matches!(self.location.kind, Kind::Rtsp | Kind::Http | Kind::Hls | Kind::Rtmp);
        let behind = self.passage.as_ref().and_then(Passage::trouble);
        if behind.is_some() {
            return behind.map(|trouble| trouble.end());
        }
        if over_tcp && !self.is_fed && !self.graph.has_data() { causes::probe(&self.location.uri) } else { None }
    }

    /// Acts on one message; some end if the session is over.
    fn handle(&self, message: &gst::Message, missing: &mut Missing) -> Option<End> {
        use gst::MessageView;
        match message.view() {
            MessageView::Error(error) => {
                let debug = error.debug().unwrap_or_default();
                let text = redact::text(&format!("{}: {debug}", error.error()));
                tracing::debug!(stream = self.id, uri = self.name, "{text}");
                let kind = self.location.kind;
                // Behind a passage the server is not whom GStreamer talks to.
                let behind = self.passage.as_ref().and_then(Passage::trouble).map(|trouble| trouble.end());
                let end = behind
                    .or_else(|| causes::Told::new(kind, error, &error.error(), &debug).end())
                    .or_else(|| self.unreachable())
                    .or_else(|| {
                        causes::handshake(&self.location.uri).filter(|_| !self.is_fed && !self.graph.has_data())
                    })
                    .unwrap_or_else(|| causes::unexplained(kind, &error.error(), &debug));
                return Some(missing.instead_of(end));
            }
            // Posted only when every sink is at its end; with an unlinked branch the graph's own count decides.
            MessageView::Eos(_) => return Some(self.graph.verdict().unwrap_or(End::Finished)),
            MessageView::Warning(warning) => {
                let error = warning.error();
                // rtspsrc's words when no packet came over UDP.
                if warning.debug().is_some_and(|debug| debug.contains("Retrying using a tcp connection")) {
                    self.falls_back.store(true, Ordering::Relaxed);
                    // Closed means that the session is ending anyway.
                    let _ = self.outlet.send(MediaItem::Incident(Incident::TcpFallback));
                    return None;
                }
                // A source without one of the tracks leaves a branch unlinked; that is known and no reason to warn.
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
                // A stream that has run dry must not let the clock run on: it would come back late, and all at once.
                let state = if buffering.percent() < 100 { gst::State::Paused } else { gst::State::Playing };
                if self.pipeline.set_state(state).is_err() {
                    tracing::warn!(stream = self.id, "the pipeline did not change to {state:?} for buffering");
                }
            }
            MessageView::ClockLost(_) => {
                // The documented answer: a new clock is chosen on the way back to playing.
                let changed = self
                    .pipeline
                    .set_state(gst::State::Paused)
                    .and_then(|_| self.pipeline.set_state(gst::State::Playing));
                if changed.is_err() {
                    tracing::warn!(stream = self.id, "the pipeline did not take a new clock");
                }
            }
            MessageView::Latency(_) => {
                // Without a recalculation paced sinks would hand data over at stale offsets.
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
