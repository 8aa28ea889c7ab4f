//! Demuxes and decodes media that Touchline fetched itself: bytes go into an appsrc, and frames and PCM come out with times on the
//! stream's timeline.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::{GstOpener, sinks};
use crate::Source;
use crate::hls::{Container, Decoder, DemuxerInput, DemuxerIntake, DemuxerStart};
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Track, Tracks};

/// Bytes queued before a demuxer above which its feeder waits. A segment is always queued whole.
const WAITING_BYTES: u64 = 512 << 10;

/// Times on the timeline are rounded to this, ns: far less than a tick of 90 kHz, far more than its rounding error.
const GRID_NS: i64 = 1_000;

/// Maps the running times of one demuxer to the stream's timeline.
///
/// Each demuxer has its own time base. So each track is anchored where it leaves the demuxer: the timeline position of its first
/// unit is known, and the demuxer's times give the distance of all others from it.
#[derive(Debug)]
pub(super) struct TimelineMap {
    /// Timeline positions of the first units of pictures and of sound, ns.
    places: [i64; 2],
    /// Their running times, ns.
    firsts: [OnceLock<i64>; 2],
}

impl TimelineMap {
    fn new(beginning: &DemuxerStart) -> Self {
        let start = i64::try_from(beginning.line_ns).unwrap_or(i64::MAX);
        Self { places: beginning.tracks.map(|place| place.unwrap_or(start)), firsts: Default::default() }
    }

    /// The timeline position of a running time of `track`, ns.
    pub fn place(&self, track: Track, running_ns: i64) -> i64 {
        let i = track.index();
        let after_ns = running_ns.saturating_sub(*self.firsts[i].get_or_init(|| running_ns));
        // Ticks of 90 kHz were rounded to ns one by one: a picture at a whole second must not land one nanosecond before it.
        self.places[i].saturating_add(after_ns).saturating_add(GRID_NS / 2).div_euclid(GRID_NS).saturating_mul(GRID_NS)
    }

    /// The running time of a timeline position of `track`, ns.
    pub fn running_ns(&self, track: Track, place_ns: i64) -> i64 {
        let i = track.index();
        let first = self.firsts[i].get().copied().unwrap_or(0);
        first.saturating_add(place_ns.saturating_sub(self.places[i]))
    }

    fn tie(&self, track: Track, running_ns: i64) {
        // Already set for a second track of the same kind.
        let _ = self.firsts[track.index()].set(running_ns);
    }
}

/// Opens demuxers for one source.
pub(super) struct FeedDecoder {
    pub opener: GstOpener,
    pub uri: String,
}

impl Decoder for FeedDecoder {
    fn begin(
        &self,
        beginning: &DemuxerStart,
        wants: Tracks,
        intake: Arc<DemuxerIntake>,
        to: Sender<MediaItem>,
    ) -> Result<(Box<dyn Source>, Box<dyn DemuxerInput>)> {
        let map = Arc::new(TimelineMap::new(beginning));
        let pipeline = self.opener.feed_pipeline(&self.uri, wants)?;
        let input = pipeline
            .by_name("input")
            .and_then(|element| element.downcast::<gst_app::AppSrc>().ok())
            .ok_or_else(|| Error::Internal("the pipeline for fetched media has no appsrc named input".into()))?;
        input.set_caps(Some(&caps(beginning.container)?));
        input.set_max_bytes(2 * WAITING_BYTES);
        input.set_property("min-percent", 50u32);
        if beginning.container.is_untimed() {
            input.set_format(gst::Format::Time);
            input.set_do_timestamp(true);
            input.set_is_live(true);
        }
        input.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(move |_, _| intake.has_room()).build());
        tie_at_demuxers(&pipeline, &map);
        let source = self.opener.start_feed(&self.uri, pipeline, wants, map, to)?;
        Ok((source, Box::new(AppSrcInput(input))))
    }

    fn recording(&self, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        self.opener.open_recording(&self.uri, to)
    }
}

fn caps(container: Container) -> Result<gst::Caps> {
    container.caps().parse().map_err(|e| Error::Internal(format!("caps of {container:?}: {e}")))
}

struct AppSrcInput(gst_app::AppSrc);

impl DemuxerInput for AppSrcInput {
    fn push(&self, bytes: Vec<u8>) -> bool {
        self.0.push_buffer(gst::Buffer::from_mut_slice(bytes)).is_ok()
    }

    fn is_full(&self) -> bool {
        self.0.current_level_bytes() > WAITING_BYTES
    }

    fn end(&self) {
        // Fails if the pipeline is stopped, which ends the media as well.
        let _ = self.0.end_of_stream();
    }
}

/// Anchors each track when its first unit leaves the demuxer.
fn tie_at_demuxers(pipeline: &gst::Pipeline, map: &Arc<TimelineMap>) {
    let map = map.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        if element.has_property("single-stream") {
            // For cameras: otherwise multipartdemux waits for a second stream until the end.
            element.set_property("single-stream", true);
        }
        let is_demuxer = element.factory().is_some_and(|factory| factory.has_type(gst::ElementFactoryType::DEMUXER));
        if !is_demuxer {
            return;
        }
        let map = map.clone();
        element.connect_pad_added(move |_, pad| {
            let map = map.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
                let segment = pad.sticky_event::<gst::event::Segment>(0);
                let segment = segment.as_ref().and_then(|s| s.segment().downcast_ref::<gst::ClockTime>());
                let caps = pad.current_caps();
                let name = caps.as_ref().and_then(|caps| caps.structure(0)).map_or("", |s| s.name().as_str());
                let track = match name.split('/').next() {
                    Some("video" | "image") => Track::Video,
                    Some("audio") => Track::Audio,
                    _ => return gst::PadProbeReturn::Remove,
                };
                match segment.and_then(|segment| sinks::running_time(segment, buffer)) {
                    Some(running_ns) => {
                        map.tie(track, running_ns);
                        gst::PadProbeReturn::Remove
                    }
                    None => gst::PadProbeReturn::Ok,
                }
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_keep_the_distances_of_running_times() {
        let beginning =
            DemuxerStart { container: Container::MpegTs, tracks: [Some(1_000_000), Some(-50_000)], line_ns: 1_000_000 };
        let map = TimelineMap::new(&beginning);
        map.tie(Track::Video, 70_001);
        map.tie(Track::Video, 99_000);
        assert_eq!(map.place(Track::Video, 110_000), 1_040_000, "rounded to the grid");
        assert_eq!(map.running_ns(Track::Video, 1_040_000), 110_001);
        // The sound has no anchor. Its first time sets one.
        assert_eq!(map.place(Track::Audio, 5_000), -50_000);
        assert_eq!(map.place(Track::Audio, 25_000), -30_000);
    }
}
