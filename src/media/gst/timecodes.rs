//! The timecode of coded pictures: from SEI messages of H.264 and HEVC, which GStreamer's parsers attach to the buffers, or counted on
//! from the timecode track of a recording.
//!
//! The probe is before the decoder, because not every picture is decoded.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::graph::Graph;
use super::sinks;
use touchline_core::item::{MediaItem, Track};
use touchline_core::time::Pts;
use touchline_core::timecode::{FrameRate, TimecodeMark};

/// Sends the timecode of the first picture of each second, and of pictures where it does not count on. `decoder` decodes pictures.
pub(super) fn connect(decoder: &gst::Element, graph: &Arc<Graph>) {
    let Some(pad) = decoder.static_pad("sink") else { return };
    let (graph, last) = (Arc::downgrade(graph), Mutex::<Option<TimecodeMark>>::default());
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let (Some(buffer), Some(graph)) = (info.buffer(), graph.upgrade()) else { return gst::PadProbeReturn::Ok };
        let label = buffer.meta::<gst_video::VideoTimeCodeMeta>().map(|meta| label(&meta.tc().into()));
        if label.is_none() && graph.timecode.get().is_none() {
            return gst::PadProbeReturn::Ok;
        }
        let Some(pts) = pts(pad, buffer, &graph) else { return gst::PadProbeReturn::Ok };
        let mark = match label {
            Some(label) => label.map(|(frame, rate)| TimecodeMark { pts, frame, rate }),
            None => graph.timecode.get().map(|mark| mark.moved_to(pts)),
        };
        let mut last = last.lock();
        let is_news = |mark: &TimecodeMark| {
            last.is_none_or(|last| mark.pts.second() > last.pts.second() || !last.counts_on_to(*mark))
        };
        if let Some(mark) = mark.filter(is_news) {
            *last = Some(mark);
            // Closed means that the session is ending anyway.
            let _ = graph.outlet.send(MediaItem::Timecode(mark));
        }
        gst::PadProbeReturn::Ok
    });
}

/// The time of a coded picture on the stream's timeline.
fn pts(pad: &gst::Pad, buffer: &gst::BufferRef, graph: &Graph) -> Option<Pts> {
    let segment = pad.sticky_event::<gst::event::Segment>(0)?;
    let running_ns = sinks::running_time(segment.segment().downcast_ref::<gst::ClockTime>()?, buffer)?;
    graph.pts(Track::Video, u64::try_from(running_ns).ok()?)
}

/// The number of the frame and its rate; [`None`] for a label or a rate that does not exist.
fn label(timecode: &gst_video::VideoTimeCode) -> Option<(i64, FrameRate)> {
    let fps = timecode.fps();
    let (numerator, denominator) = (u32::try_from(fps.numer()).ok()?, u32::try_from(fps.denom()).ok()?);
    let is_drop = timecode.flags().contains(gst_video::VideoTimeCodeFlags::DROP_FRAME);
    let rate = FrameRate::nearest(numerator, denominator, is_drop)?;
    let label = (timecode.hours(), timecode.minutes(), timecode.seconds(), timecode.frames());
    rate.frame_of(label).ok().map(|frame| (frame, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_exist_are_counted() {
        super::super::init().unwrap();
        let of = |fps: (i32, i32), is_drop: bool, [h, m, s, f]: [u32; 4]| {
            let drop = if is_drop {
                gst_video::VideoTimeCodeFlags::DROP_FRAME
            } else {
                gst_video::VideoTimeCodeFlags::empty()
            };
            let fps = gst::Fraction::new(fps.0, fps.1);
            let timecode = gst_video::VideoTimeCode::new(fps, None, drop, h, m, s, f, 0);
            label(&timecode).map(|(frame, rate)| (frame, rate.name()))
        };
        assert_eq!(of((30_000, 1001), true, [1, 0, 0, 0]), Some((107_892, "29.97df")));
        assert_eq!(of((60_000, 1001), false, [0, 0, 1, 59]), Some((119, "59.94")));
        assert_eq!(of((25, 1), false, [10, 0, 0, 0]), Some((900_000, "25")));
        assert_eq!(of((30_000, 1001), true, [0, 1, 0, 0]), None, "drop-frame timecode leaves it out");
        assert_eq!(of((15, 1), false, [0, 0, 0, 0]), None);
    }
}
