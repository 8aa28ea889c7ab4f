//! Watches the clock of MPEG-TS as it goes into the demultiplexer.

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::ingest::incident::Incident;
use crate::ingest::outlet::Outlet;
use crate::ingest::pcr::{Clock, ClockWatch};
use crate::ingest::{Discontinuity, MediaItem};

/// Says when the clock of a live stream jumps (what comes then is another run) or begins anew.
///
/// A jump is told when its first packet arrives; the pictures before it that are still being decoded, a few hundred
/// milliseconds at most, are counted to the new run.
pub(super) fn connect(pipeline: &gst::Pipeline, clock: Arc<dyn crate::clock::Clock>, outlet: Outlet) {
    pipeline.connect("deep-element-added", false, move |args| {
        let element = args.get(2).and_then(|v| v.get::<gst::Element>().ok())?;
        let pad = element.static_pad("sink").filter(|_| element.factory().is_some_and(|f| f.name() == "tsdemux"))?;
        let (watch, clock, outlet) = (Mutex::new(ClockWatch::default()), clock.clone(), outlet.clone());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let heard = info.buffer().and_then(|buffer| {
                let map = buffer.map_readable().ok()?;
                watch.lock().unwrap_or_else(|e| e.into_inner()).push(&map, clock.mono_ns())
            });
            let item = match heard {
                None => return gst::PadProbeReturn::Ok,
                Some(Clock::JumpForward) => MediaItem::Discontinuity(Discontinuity::JumpForward),
                Some(Clock::JumpBack) => MediaItem::Discontinuity(Discontinuity::JumpBack),
                Some(Clock::Wrapped) => MediaItem::Incident(Incident::ClockWrapped),
            };
            // Closed means that the session is ending anyway.
            let _ = outlet.send(item);
            gst::PadProbeReturn::Ok
        });
        None
    });
}
