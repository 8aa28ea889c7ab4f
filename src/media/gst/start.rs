//! Starting a session: the parts of a parsed pipeline are connected, and its thread begins.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::clips::ring::RingTap;
use super::conversion::FormatFilter;
use super::{
    GstOpener, bus, clocks, decoders, element_setup, feed, formats, frame_gate, graph, guarded, recording, sinks, wall,
};
use crate::Source;
use crate::guard::proxy::LoopbackProxy;
use crate::outlet::{Outlet, Stopper};
use crate::uri::{Kind, Location};
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Pace, Track, Tracks};
use touchline_core::redact;

/// The parts of a session to start.
pub(super) struct PipelineStart<'a> {
    pub(super) uri: &'a str,
    pub(super) location: Location,
    pub(super) pipeline: gst::Pipeline,
    pub(super) wanted: Tracks,
    pub(super) proxy: Option<LoopbackProxy>,
    pub(super) map: Option<Arc<feed::TimelineMap>>,
}

impl GstOpener {
    pub(super) fn start(&self, start: PipelineStart<'_>, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let PipelineStart { uri, location, pipeline, wanted, proxy, map } = start;
        let o = &self.options;
        let sink = |track: Track, wanted: bool| -> Result<Option<gst_app::AppSink>> {
            let Some(element) = pipeline.by_name(sinks::name(track)).filter(|_| wanted) else { return Ok(None) };
            element.downcast::<gst_app::AppSink>().map(Some).map_err(|e| {
                Error::Usage(format!("pipeline: element \"{}\" must be an appsink, not {}", e.name(), e.type_()))
            })
        };
        let video = sink(Track::Video, wanted.video)?;
        let audio = sink(Track::Audio, wanted.audio)?;
        if video.is_none() && audio.is_none() {
            return Err(Error::Usage(
                "pipeline: no appsink named \"video\" and none named \"audio\" for a track that is wanted; name one"
                    .into(),
            ));
        }
        let pace = location.pace(o.pacing);
        let is_fed = map.is_some();
        let outlet = Outlet::new(to);
        let stopper = outlet.stopper();
        // Fetched media are sent as they are decoded: the HLS relay merges the tracks and paces them.
        let is_synced = pace == Pace::File && !is_fed;
        let clock = self.clock.clone();
        let graph = graph::Graph::new(
            &pipeline,
            [video.clone(), audio],
            outlet.clone(),
            o.counters.clone(),
            is_synced,
            map,
            clock,
        );
        if let Some(mark) = recording::timecode(&location) {
            // Set here only.
            let _ = graph.timecode.set(mark);
        }
        let ring =
            o.record.as_ref().and_then(|ring| RingTap::start(ring, &o.id, self.clock.clone(), o.counters.clone()));
        let decoders = decoders::Decoders::new(o.decoder, pace, self.device_failed.clone());
        decoders.connect(&pipeline);
        let setup = element_setup::ElementSetup {
            pace,
            selection: o.selection.clone(),
            ring,
            decoders: decoders.clone(),
            facts: o.facts.clone(),
        };
        setup.connect(&pipeline, &graph);
        let frame_height = o.frame_height.max(1);
        let filter = video.as_ref().and_then(|sink| FormatFilter::before(sink, frame_height));
        sinks::connect(&graph, &self.clock, frame_height, filter.as_ref());
        if o.guard.is_some() || proxy.is_some() || is_fed {
            guarded::connect(&pipeline, &graph, proxy.as_ref());
        }
        let gate = o.selection.clone().and_then(|t| frame_gate::FrameGate::connect(&graph, self.clock.clone(), t));
        wall::connect(&pipeline, outlet.clone(), self.clock.clone(), self.source_clock.clone());
        if matches!(location.kind, Kind::Udp | Kind::Srt) {
            clocks::connect(&pipeline, self.clock.clone(), outlet.clone());
        }
        let session = bus::PipelineSession {
            name: redact::uri(uri),
            pipeline: pipeline.clone(),
            gate,
            formats: formats::FormatWatch::connect(&graph, &o.facts, filter.as_ref()),
            graph,
            falls_back: Arc::clone(&self.over_tcp),
            decoders,
            outlet,
            proxy,
            connect_timeout: (location.kind.is_network() && !is_fed && !location.listens())
                .then_some(o.connect_timeout),
            paced: location.sync(o.pacing) && !is_fed,
            is_fed,
            location,
            id: o.id.clone(),
        };
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let thread = std::thread::Builder::new()
            .name(format!("bus/{}", o.id))
            .spawn(move || session.run())
            .map_err(|e| Error::Internal(format!("cannot start the thread of a source: {e}")))?;
        Ok(Box::new(GstSource { pace, stopper, bus, thread: Some(thread) }))
    }
}

struct GstSource {
    pace: Pace,
    stopper: Stopper,
    bus: gst::Bus,
    thread: Option<JoinHandle<()>>,
}

impl GstSource {
    fn wake(&self) {
        // Fails only if the pipeline is already shut down.
        let _ = self.bus.post(bus::wake_message());
    }
}

impl Source for GstSource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
        self.wake();
    }
}

impl Drop for GstSource {
    fn drop(&mut self) {
        self.stopper.abandon();
        self.wake();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of the thread.
            let _ = thread.join();
        }
    }
}
