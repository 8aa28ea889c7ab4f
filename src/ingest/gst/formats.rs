//! Notices when pictures change their size or sound its rate or channels: what follows is another run.
//!
//! Looked at where the branch begins to convert: behind it, pictures of different sources have the same size.

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::graph::Graph;
use super::thin::entry;
use crate::ingest::{Discontinuity, MediaItem, Track};

/// What is compared of a format; [`None`] for what caps do not say.
type Shape = [Option<i32>; 2];

/// The watch on one branch.
pub(super) struct Formats {
    pad: gst::Pad,
    probe: Mutex<Option<gst::PadProbeId>>,
}

impl Formats {
    /// Watches every branch of `graph`. What a gate on the same pad holds is passed before, if the gate was there first.
    pub fn connect(graph: &Arc<Graph>) -> Vec<Self> {
        let on = |(track, sink): (Track, &gst_app::AppSink)| Self::on(track, entry(sink.upcast_ref())?, graph);
        graph.sinks().filter_map(on).collect()
    }

    fn on(track: Track, pad: gst::Pad, graph: &Arc<Graph>) -> Option<Self> {
        let (known, graph) = (Mutex::<Option<Shape>>::default(), Arc::downgrade(graph));
        let probe = pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let caps = match info.event().map(|event| event.view()) {
                Some(gst::EventView::Caps(caps)) => caps,
                _ => return gst::PadProbeReturn::Ok,
            };
            let shape = size(track, caps.caps());
            let before = known.lock().unwrap_or_else(|e| e.into_inner()).replace(shape);
            if before.is_some_and(|before| before != shape)
                && let Some(graph) = graph.upgrade()
                && graph.is_playing(track)
            {
                let cause = match track {
                    Track::Video => Discontinuity::PictureFormat,
                    Track::Audio => Discontinuity::SoundFormat,
                };
                tracing::info!(?track, ?before, ?shape, "the format changed");
                // Closed means that the session is ending anyway.
                let _ = graph.outlet.send(MediaItem::Discontinuity(cause));
            }
            gst::PadProbeReturn::Ok
        });
        Some(Self { pad, probe: Mutex::new(probe) })
    }

    /// Takes the watch away: the session is over.
    pub fn disconnect(&self) {
        if let Some(id) = self.probe.lock().unwrap_or_else(|e| e.into_inner()).take() {
            self.pad.remove_probe(id);
        }
    }
}

fn size(track: Track, caps: &gst::CapsRef) -> Shape {
    let keys = match track {
        Track::Video => ["width", "height"],
        Track::Audio => ["rate", "channels"],
    };
    keys.map(|key| caps.structure(0).and_then(|s| s.get::<i32>(key).ok()))
}
