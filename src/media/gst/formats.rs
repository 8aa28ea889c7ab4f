//! Detects and reports changes of the picture size, the sample rate and the channel count. The run continues, because the clip
//! builder accepts such changes.
//!
//! The probe is where the branch begins to convert: after the converters, pictures of different sizes look the same.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use parking_lot::Mutex;

use super::caps_facts;
use super::conversion::FormatFilter;
use super::frame_gate::entry;
use super::graph::Graph;
use crate::facts::SharedFacts;
use crate::tone::Hdr;
use touchline_core::incident::Incident;
use touchline_core::item::{MediaItem, Track};

/// The compared values of a format; [`None`] if the caps do not have them.
type FormatKey = [Option<i32>; 2];

/// The probe on one branch.
pub(super) struct FormatWatch {
    pad: gst::Pad,
    probe: Mutex<Option<gst::PadProbeId>>,
}

impl FormatWatch {
    /// Installs a probe on every branch of `graph`. A frame gate on the same pad must be connected first, so that it releases a held
    /// picture before the change is reported. The formats are taken into `facts`; `filter` is that of the pictures.
    pub fn connect(graph: &Arc<Graph>, facts: &SharedFacts, filter: Option<&Arc<FormatFilter>>) -> Vec<Self> {
        let on = |(track, sink): (Track, &gst_app::AppSink)| {
            let filter = filter.filter(|_| track == Track::Video).cloned();
            Self::on(track, entry(sink.upcast_ref())?, graph, facts, filter)
        };
        graph.sinks().filter_map(on).collect()
    }

    fn on(
        track: Track,
        pad: gst::Pad,
        graph: &Arc<Graph>,
        facts: &SharedFacts,
        filter: Option<Arc<FormatFilter>>,
    ) -> Option<Self> {
        let (known, graph, facts) = (Mutex::<Option<FormatKey>>::default(), Arc::downgrade(graph), facts.clone());
        let probe = pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let caps = match info.event().map(|event| event.view()) {
                Some(gst::EventView::Caps(caps)) => caps,
                _ => return gst::PadProbeReturn::Ok,
            };
            caps_facts::decoded(&facts, track, caps.caps());
            if let Some(graph) = graph.upgrade().filter(|_| track == Track::Video) {
                let hdr = hdr(caps.caps());
                graph.set_hdr(hdr);
                if let Some(filter) = &filter {
                    filter.set_input(caps.caps(), hdr.is_some());
                }
            }
            let shape = size(track, caps.caps());
            let before = known.lock().replace(shape);
            if before.is_some_and(|before| before != shape)
                && let Some(graph) = graph.upgrade()
                && graph.is_playing(track)
            {
                tracing::info!(?track, ?before, ?shape, "the format changed");
                // Closed means that the session is ending anyway.
                let _ = graph.outlet.send(MediaItem::Incident(Incident::FormatChanged { track }));
            }
            gst::PadProbeReturn::Ok
        });
        Some(Self { pad, probe: Mutex::new(probe) })
    }

    /// Removes the probe at the end of the session.
    pub fn disconnect(&self) {
        if let Some(id) = self.probe.lock().take() {
            self.pad.remove_probe(id);
        }
    }
}

/// The transfer function of HDR pictures, and whether their colours are those of BT.2020; [`None`] for SDR. After the converters this
/// is no longer known, because they only rearrange the values.
fn hdr(caps: &gst::CapsRef) -> Option<(Hdr, bool)> {
    let colorimetry = caps.structure(0)?.get::<String>("colorimetry").ok()?;
    // A name for common ones, otherwise range, matrix, transfer and primaries as numbers of GStreamer's enumerations.
    let (transfer, primaries) = match colorimetry.as_str() {
        "bt2100-pq" => ("14", "7"),
        "bt2100-hlg" => ("15", "7"),
        other => {
            let mut numbers = other.split(':').skip(2);
            (numbers.next()?, numbers.next()?)
        }
    };
    let coded = match transfer {
        "14" => Hdr::Pq,
        "15" => Hdr::Hlg,
        _ => return None,
    };
    Some((coded, primaries == "7"))
}

fn size(track: Track, caps: &gst::CapsRef) -> FormatKey {
    let keys = match track {
        Track::Video => ["width", "height"],
        Track::Audio => ["rate", "channels"],
    };
    keys.map(|key| caps.structure(0).and_then(|s| s.get::<i32>(key).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transfer_function_identifies_hdr() {
        super::super::init().unwrap();
        let hdr_of = |colorimetry: &str| {
            let caps: gst::Caps = format!("video/x-raw, colorimetry=(string){colorimetry}").parse().unwrap();
            hdr(&caps)
        };
        assert_eq!(hdr_of("bt2100-pq"), Some((Hdr::Pq, true)));
        assert_eq!(hdr_of("bt2100-hlg"), Some((Hdr::Hlg, true)));
        assert_eq!(hdr_of("1:3:14:7"), Some((Hdr::Pq, true)));
        assert_eq!(hdr_of("2:3:15:1"), Some((Hdr::Hlg, false)));
        assert_eq!(
            (hdr_of("bt709"), hdr_of("bt2020-10"), hdr_of("2:3:5:1"), hdr_of("nonsense")),
            (None, None, None, None)
        );
        // GStreamer uses the same numbers.
        let number = |text: &str| text.parse::<gstreamer_video::VideoColorimetry>().unwrap();
        assert_eq!(number("2:6:14:7"), number("bt2100-pq"));
        assert_eq!(number("2:6:15:7"), number("bt2100-hlg"));
    }
}
