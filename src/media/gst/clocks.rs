//! Monitors the clock and the ad-break announcements of MPEG-TS before the demultiplexer.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use crate::hls::SpliceMonitor;
use crate::outlet::Outlet;
use crate::pcr::{ClockEvent, PcrMonitor};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, MediaItem};

/// Reports jumps of a live stream's clock (which begin another run), its wraps, and the begin and end of advertisement breaks.
///
/// A jump is reported when its first packet arrives. Up to a few hundred milliseconds of earlier pictures are still being
/// decoded then and count towards the new run.
pub(super) fn connect(pipeline: &gst::Pipeline, clock: Arc<dyn touchline_core::clock::Clock>, outlet: Outlet) {
    pipeline.connect("deep-element-added", false, move |args| {
        let element = args.get(2).and_then(|v| v.get::<gst::Element>().ok())?;
        let pad = element.static_pad("sink").filter(|_| element.factory().is_some_and(|f| f.name() == "tsdemux"))?;
        let watches = Mutex::new((PcrMonitor::default(), SpliceMonitor::default()));
        let (clock, outlet) = (clock.clone(), outlet.clone());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let Some(map) = info.buffer().and_then(|buffer| buffer.map_readable().ok()) else {
                return gst::PadProbeReturn::Ok;
            };
            let (event, happened) = {
                let (clocks, splices) = &mut *watches.lock();
                (clocks.push(&map, clock.mono_ns()), splices.push(&map))
            };
            for incident in happened {
                // Closed means that the session is ending anyway.
                let _ = outlet.send(MediaItem::Incident(incident));
            }
            let item = match event {
                None => return gst::PadProbeReturn::Ok,
                Some(ClockEvent::JumpForward) => MediaItem::Discontinuity(Discontinuity::JumpForward),
                Some(ClockEvent::JumpBack) => MediaItem::Discontinuity(Discontinuity::JumpBack),
                Some(ClockEvent::Wrapped) => MediaItem::Incident(Incident::ClockWrapped),
            };
            // Closed means that the session is ending anyway.
            let _ = outlet.send(item);
            gst::PadProbeReturn::Ok
        });
        None
    });
}
