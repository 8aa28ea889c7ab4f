//! The appsinks: map a buffer, copy it into a pooled buffer, compute its time, and send it. Runs on GStreamer's streaming threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_audio as gst_audio;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use image::RgbImage;
use image::metadata::Orientation;
use parking_lot::Mutex;

use super::conversion::{FormatFilter, conversion};
use super::graph::Graph;
use crate::convert::{Chroma, Conversion, Converter, Plane, TooShort};
use crate::still::{scale_down, upright};
use crate::tone;
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::frame::Frame;
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Track};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::{Pool, Pooled};
use touchline_core::time::{NANOS_PER_SECOND, Pts, samples_to_nanos};

/// Name of the appsink of `track`.
pub(super) const fn name(track: Track) -> &'static str {
    match track {
        Track::Video => "video",
        Track::Audio => "audio",
    }
}

/// Idle buffers kept: as many as fit in the channel, and as many again for the second being cut.
const IDLE_BUFFERS: usize = 2 * MEDIA_CHANNEL_CAPACITY;

/// Installs the callbacks on the graph's appsinks.
pub(super) fn connect(
    graph: &Arc<Graph>,
    clock: &Arc<dyn Clock>,
    frame_height: u32,
    filter: Option<&Arc<FormatFilter>>,
) {
    for (track, sink) in graph.sinks() {
        // No preroll: a branch without data must not keep the other from playing.
        sink.set_property("async", false);
        sink.set_property("enable-last-sample", false);
        // The callback takes each buffer at once and blocks while downstream is full, so one is enough.
        sink.set_max_buffers(1);
        sink.set_drop(false);
        let orientation = Arc::new(Mutex::new(Orientation::NoTransforms));
        if track == Track::Video {
            watch_orientation(sink, orientation.clone(), filter.cloned());
            accept_strides(sink);
        }
        let mut feed = SinkCallback {
            orientation,
            frame_height,
            graph: graph.clone(),
            clock: clock.clone(),
            timing: PtsTracker::default(),
            track,
            pools: Pools { frames: Pool::new(IDLE_BUFFERS), samples: Pool::new(IDLE_BUFFERS) },
            converter: None,
        };
        let ended = graph.clone();
        let sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            feed.sample(&sample)
        };
        sink.set_callbacks(
            gst_app::AppSinkCallbacks::builder().new_sample(sample).eos(move |_| ended.end_of_track(track)).build(),
        );
    }
}

/// Removes the callbacks. They hold the graph, which holds the sinks; without this the session and its end of the channel would
/// never be freed.
pub(super) fn disconnect(graph: &Graph) {
    for (_, sink) in graph.sinks() {
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().build());
    }
}

/// Tracks the orientation of the pictures that reach `sink`. They are rotated after scaling, because GStreamer's element would rotate
/// them at full size. For a picture on its side, the height limit is a limit on its width.
fn watch_orientation(sink: &gst_app::AppSink, orientation: Arc<Mutex<Orientation>>, filter: Option<Arc<FormatFilter>>) {
    let Some(pad) = sink.static_pad("sink") else { return };
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let turned = match info.event().map(|event| event.view()) {
            // Tags of the previous stream do not apply to a new one.
            Some(gst::EventView::StreamStart(_)) => Some(Orientation::NoTransforms),
            Some(gst::EventView::Tag(tags)) => {
                tags.tag().get::<gst::tags::ImageOrientation>().and_then(|tag| turning(tag.get()))
            }
            _ => None,
        };
        if let Some(turned) = turned {
            if let Some(filter) = &filter {
                filter.set_sideways(is_sideways(turned));
            }
            *orientation.lock() = turned;
        }
        gst::PadProbeReturn::Ok
    });
}

/// Tells the decoder that rows may have any distance. Otherwise it copies every picture whose rows are not side by side.
fn accept_strides(sink: &gst_app::AppSink) {
    let Some(pad) = sink.static_pad("sink") else { return };
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| match info.query_mut().map(gst::QueryRef::view_mut) {
        Some(gst::QueryViewMut::Allocation(allocation)) => {
            allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
            gst::PadProbeReturn::Handled
        }
        _ => gst::PadProbeReturn::Ok,
    });
}

const fn is_sideways(turned: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(turned, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// The orientation of GStreamer's tag: angles are clockwise, and a flip precedes the rotation.
fn turning(tag: &str) -> Option<Orientation> {
    Some(match tag {
        "rotate-0" => Orientation::NoTransforms,
        "rotate-90" => Orientation::Rotate90,
        "rotate-180" => Orientation::Rotate180,
        "rotate-270" => Orientation::Rotate270,
        "flip-rotate-0" => Orientation::FlipHorizontal,
        "flip-rotate-90" => Orientation::Rotate270FlipH,
        "flip-rotate-180" => Orientation::FlipVertical,
        "flip-rotate-270" => Orientation::Rotate90FlipH,
        _ => return None,
    })
}

/// One appsink's callback state.
struct SinkCallback {
    graph: Arc<Graph>,
    clock: Arc<dyn Clock>,
    timing: PtsTracker,
    track: Track,
    pools: Pools,
    /// The rotation that turns a picture upright.
    orientation: Arc<Mutex<Orientation>>,
    /// Maximum height of a picture, lines.
    frame_height: u32,
    /// For the last format that came in planes.
    converter: Option<Converter>,
}

struct Pools {
    frames: Pool<u8>,
    samples: Pool<f32>,
}

impl SinkCallback {
    fn sample(&mut self, sample: &gst::Sample) -> Result<gst::FlowSuccess, gst::FlowError> {
        let arrived_ns = self.clock.mono_ns();
        if !self.graph.admit(self.track) {
            if self.graph.outlet.stopped() {
                return Err(gst::FlowError::Flushing);
            }
            self.graph.counters.undeclared.fetch_add(1, Ordering::Relaxed);
            return Ok(gst::FlowSuccess::Ok);
        }
        let made = match self.track {
            Track::Video => self.frame(sample, arrived_ns),
            Track::Audio => self.chunk(sample, arrived_ns),
        };
        match made {
            Ok(Some(item)) => {
                let duration = sample.buffer().and_then(gst::BufferRef::duration).map(gst::ClockTime::nseconds);
                let sent = match (item, duration) {
                    (MediaItem::Frame(frame), Some(ns)) if ns > NANOS_PER_SECOND => self.graph.deliver_still(frame, ns),
                    (item, _) => self.graph.deliver(self.track, item),
                };
                sent.map_err(|_| gst::FlowError::Flushing)?;
                Ok(gst::FlowSuccess::Ok)
            }
            Ok(None) => Ok(gst::FlowSuccess::Ok),
            Err(cause) => {
                let advice = "change the pipeline template: video/x-raw,format=RGB and audio/x-raw,format=F32LE";
                self.graph.fail(End::Failed { kind: Cause::Format, cause, advice: advice.into() });
                Err(gst::FlowError::NotSupported)
            }
        }
    }

    /// The picture of `sample`; [`None`] if it has no time and none can be derived.
    ///
    /// # Errors
    /// The cause, for a format other than the required one.
    fn frame(&mut self, sample: &gst::Sample, arrived_ns: u64) -> Result<Option<MediaItem>, String> {
        let (Some(buffer), Some(caps)) = (sample.buffer(), sample.caps()) else { return Ok(None) };
        let info = gst_video::VideoInfo::from_caps(caps)
            .map_err(|_| format!("pictures come as {caps}, not RGB, I420 or NV12"))?;
        let turned = *self.orientation.lock();
        let layout = match info.format() {
            gst_video::VideoFormat::Rgb => PictureLayout::Packed { pixel_bytes: 3 },
            gst_video::VideoFormat::Argb64 => PictureLayout::Packed { pixel_bytes: 8 },
            other => match conversion(&info, self.frame_height, is_sideways(turned)) {
                Some(conversion) => PictureLayout::Planes(conversion),
                None => return Err(format!("pictures come as {other}, not RGB, I420 or NV12")),
            },
        };
        let duration = buffer.duration().map(gst::ClockTime::nseconds);
        let running = match sample_time(sample, buffer) {
            // A picture that began before the segment is shown from its start.
            Some(time) => match self.graph.on_line(self.track, time) {
                Some(time) => Some(u64::try_from(time).unwrap_or(0)),
                None => return Ok(None),
            },
            None => None,
        };
        let Some(pts) = self.timing.time(running, duration) else {
            self.graph.counters.untimed.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let picture = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)
            .map_err(|_| "a decoded picture cannot be read".to_owned())?;
        let mut data = self.pools.frames.take();
        let (width, height) = match layout {
            PictureLayout::Packed { pixel_bytes } => self.copy(&picture, pixel_bytes, &mut data)?,
            PictureLayout::Planes(conversion) => self.convert(&picture, conversion, &mut data)?,
        };
        let (data, width, height) = match turned {
            Orientation::NoTransforms => (data, width, height),
            _ => self.turned(&data, width, height, turned),
        };
        Ok(Some(MediaItem::Frame(Frame::new(data, width, height, Pts(pts), arrived_ns))))
    }

    /// Copies packed pixels to `data`, HDR mapped to SDR. Returns width and height.
    ///
    /// # Errors
    /// Why the picture cannot be read.
    fn copy(&self, picture: &PictureRef<'_>, pixel_bytes: usize, data: &mut Vec<u8>) -> Result<(u32, u32), String> {
        let (width, height) = (picture.width(), picture.height());
        let row_bytes = width as usize * pixel_bytes;
        let plane = plane(picture, 0)?;
        data.reserve_exact(width as usize * 3 * height as usize);
        if pixel_bytes == 3 && plane.stride == row_bytes && plane.data.len() >= row_bytes * height as usize {
            data.extend_from_slice(&plane.data[..row_bytes * height as usize]);
        } else {
            for y in 0..height as usize {
                let row = plane.data.get(y * plane.stride..y * plane.stride + row_bytes);
                let row = row.ok_or_else(|| format!("a picture of {width}×{height} ends in row {y}"))?;
                match pixel_bytes {
                    3 => data.extend_from_slice(row),
                    _ => tone::deep_to_sdr(row, self.graph.hdr(), data),
                }
            }
        }
        if pixel_bytes == 3 {
            self.map_tones(data);
        }
        Ok((width, height))
    }

    /// Scales and converts planes to `data`. Returns width and height.
    ///
    /// # Errors
    /// Why the picture cannot be read.
    fn convert(
        &mut self,
        picture: &PictureRef<'_>,
        conversion: Conversion,
        data: &mut Vec<u8>,
    ) -> Result<(u32, u32), String> {
        let luma = plane(picture, 0)?;
        let chroma = match picture.format() {
            gst_video::VideoFormat::Nv12 => Chroma::Interleaved(plane(picture, 1)?),
            _ => Chroma::Separate(plane(picture, 1)?, plane(picture, 2)?),
        };
        if self.converter.as_ref().is_none_or(|converter| converter.conversion() != conversion) {
            self.converter = None;
        }
        let converter = self.converter.get_or_insert_with(|| Converter::new(conversion));
        let (width, height) = conversion.to;
        data.reserve_exact(3 * width * height);
        converter
            .convert(luma, chroma, data)
            .map_err(|TooShort| format!("a picture of {}×{} ends early", picture.width(), picture.height()))?;
        self.map_tones(data);
        Ok((width as u32, height as u32))
    }

    fn map_tones(&self, rgb: &mut [u8]) {
        if let Some((hdr, is_wide)) = self.graph.hdr() {
            tone::to_sdr(rgb, hdr, is_wide);
        }
    }

    /// Rotates a picture upright and scales it to the greatest height.
    fn turned(&self, data: &[u8], width: u32, height: u32, turned: Orientation) -> (Pooled<u8>, u32, u32) {
        let image = RgbImage::from_raw(width, height, data.to_vec()).expect("a picture is packed RGB8");
        let image = scale_down(upright(image, turned), self.frame_height);
        let (width, height) = image.dimensions();
        let mut data = self.pools.frames.take();
        data.extend_from_slice(&image);
        (data, width, height)
    }

    /// The sound of `sample`; [`None`] if it is empty, or has no time and none can be derived.
    ///
    /// # Errors
    /// The cause, for a format other than the required one.
    fn chunk(&mut self, sample: &gst::Sample, arrived_ns: u64) -> Result<Option<MediaItem>, String> {
        let (Some(buffer), Some(caps)) = (sample.buffer(), sample.caps()) else { return Ok(None) };
        let info = gst_audio::AudioInfo::from_caps(caps).map_err(|_| format!("sound comes as {caps}, not F32LE"))?;
        let interleaved = info.layout() == gst_audio::AudioLayout::Interleaved || info.channels() == 1;
        if info.format() != gst_audio::AudioFormat::F32le || !interleaved {
            return Err(format!("sound comes as {} ({:?}), not F32LE, interleaved", info.format(), info.layout()));
        }
        let channels = u16::try_from(info.channels()).map_err(|_| format!("{} channels", info.channels()))?;
        let (rate, sample_bytes) = (info.rate(), 4 * usize::from(channels));
        let map = buffer.map_readable().map_err(|_| "decoded sound cannot be read".to_owned())?;
        let mut bytes = &map[..map.len() - map.len() % sample_bytes];
        let mut running = sample_time(sample, buffer).and_then(|time| self.graph.on_line(self.track, time));
        if let Some(early) = running.filter(|t| *t < 0) {
            // Samples before the segment's start are not part of the stream.
            let skip = touchline_core::time::nanos_to_samples(early.unsigned_abs(), rate);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX).saturating_mul(sample_bytes).min(bytes.len());
            bytes = &bytes[skip..];
            running = Some(0);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let duration = samples_to_nanos((bytes.len() / sample_bytes) as u64, rate);
        let running = running.map(|t| u64::try_from(t).unwrap_or(0));
        let Some(pts) = self.timing.time(running, Some(duration)) else {
            self.graph.counters.untimed.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let mut data = self.pools.samples.take();
        data.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(Some(MediaItem::Pcm(PcmChunk::new(data, rate, channels, Pts(pts), arrived_ns))))
    }
}

/// How the values of a picture lie.
enum PictureLayout {
    /// One pixel after the other.
    Packed { pixel_bytes: usize },
    /// In planes, which are converted so.
    Planes(Conversion),
}

/// A mapped picture.
type PictureRef<'a> = gst_video::VideoFrameRef<&'a gst::BufferRef>;

fn plane<'a>(picture: &'a PictureRef<'_>, index: u32) -> Result<Plane<'a>, String> {
    let stride = usize::try_from(picture.plane_stride()[index as usize])
        .map_err(|_| "pictures come with their rows in reverse order".to_owned())?;
    let data = picture.plane_data(index).map_err(|_| "a decoded picture cannot be read".to_owned())?;
    Ok(Plane { data, stride })
}

fn sample_time(sample: &gst::Sample, buffer: &gst::BufferRef) -> Option<i64> {
    running_time(sample.segment()?.downcast_ref::<gst::ClockTime>()?, buffer)
}

/// Running time of `buffer` in ns, negative before the segment's start; [`None`] if it has no PTS.
pub(super) fn running_time(segment: &gst::FormattedSegment<gst::ClockTime>, buffer: &gst::BufferRef) -> Option<i64> {
    match segment.to_running_time_full(buffer.pts()?)? {
        gst::Signed::Positive(t) => i64::try_from(t.nseconds()).ok(),
        gst::Signed::Negative(t) => i64::try_from(t.nseconds()).ok().map(|t| -t),
    }
}

/// Derives the time of buffers without one from the end of the buffer before.
#[derive(Debug, Default)]
pub(super) struct PtsTracker {
    /// End of the last buffer, ns; [`None`] if unknown.
    end_ns: Option<u64>,
}

impl PtsTracker {
    /// The time of a buffer with running time `given` and `duration`, both in ns.
    pub fn time(&mut self, given: Option<u64>, duration: Option<u64>) -> Option<u64> {
        let pts = given.or(self.end_ns)?;
        self.end_ns = duration.map(|d| pts.saturating_add(d));
        Some(pts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_without_pts_follow_the_previous_buffer() {
        let mut timing = PtsTracker::default();
        assert_eq!(timing.time(None, Some(40)), None, "there is no previous buffer");
        assert_eq!(timing.time(Some(100), Some(40)), Some(100));
        assert_eq!(timing.time(None, Some(40)), Some(140));
        assert_eq!(timing.time(None, None), Some(180));
        assert_eq!(timing.time(None, Some(40)), None, "the previous buffer has no known end");
    }
}
