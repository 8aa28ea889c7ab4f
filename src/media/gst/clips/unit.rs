//! A coded unit: one picture or one piece of sound, as a container holds it.

use gstreamer as gst;
use touchline_core::item::Track;

/// A coded unit.
#[derive(Clone, Debug)]
pub(in crate::gst) struct Unit {
    pub track: Track,
    /// Number of the run.
    pub run: u32,
    /// Its place in the track, in decoding order.
    pub place: usize,
    /// Running time at which it is shown, ns.
    pub pts_ns: i64,
    /// Running time at which it is decoded, ns.
    pub dts_ns: Option<i64>,
    pub duration_ns: u64,
    /// Decoding can begin here.
    pub is_key: bool,
    pub caps: gst::Caps,
    pub buffer: gst::Buffer,
    /// Tags of the track, such as the orientation.
    pub tags: Option<gst::TagList>,
}

impl Unit {
    /// A unit in `buffer`, whose place on the stream's timeline is `pts_ns`.
    pub fn new(track: Track, pts_ns: i64, buffer: gst::Buffer, caps: gst::Caps, tags: Option<gst::TagList>) -> Self {
        // Both times are shifted by the same amount.
        let dts_ns = buffer
            .dts()
            .zip(buffer.pts())
            .map(|(dts, pts)| pts_ns.saturating_add_unsigned(dts.nseconds()).saturating_sub_unsigned(pts.nseconds()));
        Self {
            track,
            run: 0,
            place: 0,
            pts_ns,
            dts_ns,
            duration_ns: buffer.duration().map_or(0, gst::ClockTime::nseconds),
            is_key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
            caps,
            buffer,
            tags,
        }
    }

    pub fn end_ns(&self) -> i64 {
        self.pts_ns.saturating_add_unsigned(self.duration_ns)
    }
}

/// The track of coded media; [`None`] for subtitles and data.
pub(in crate::gst) fn track_of(caps: &gst::CapsRef) -> Option<Track> {
    match caps.structure(0)?.name().split('/').next()? {
        "video" | "image" => Some(Track::Video),
        "audio" => Some(Track::Audio),
        _ => None,
    }
}
