//! Inspects a segment before GStreamer demuxes it: its container, the start times of its tracks, and its announcements.
//!
//! The times determine the position of a segment on the stream's timeline, whether it continues the previous one, and the offset
//! between sound and pictures.

use super::id3;
use super::mp4::{self, Mp4Tracks};
use super::splice::Cue;
use super::ts;
use touchline_core::time::{NANOS_PER_SECOND, samples_to_nanos};

/// The containers of HLS, and some others that occur in practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    MpegTs,
    /// Fragmented MP4. Its `EXT-X-MAP` must be fed first.
    Mp4,
    /// AAC in ADTS frames.
    Aac,
    Mp3,
    Ac3,
    Eac3,
    /// A sequence of JPEG pictures from a camera over HTTP. Not HLS.
    MotionJpeg,
}

impl Container {
    /// GStreamer's caps of the container.
    pub const fn caps(self) -> &'static str {
        match self {
            Container::MpegTs => "video/mpegts,systemstream=(boolean)true,packetsize=188",
            Container::Mp4 => "video/quicktime",
            Container::Aac => "audio/mpeg,mpegversion=4,stream-format=adts",
            Container::Mp3 => "audio/mpeg,mpegversion=1,layer=3",
            Container::Ac3 => "audio/x-ac3",
            Container::Eac3 => "audio/x-eac3",
            Container::MotionJpeg => "multipart/x-mixed-replace",
        }
    }

    /// Whether it has no time stamps, so that arrival times are used.
    pub const fn is_untimed(self) -> bool {
        matches!(self, Container::MotionJpeg)
    }
}

/// The times of the first picture and of the first sound in decoding order, ns on the media's own timeline; [`None`] for a
/// missing track.
pub(super) type Starts = [Option<u64>; 2];

/// How many bytes of fragmented MP4 are searched for the starts of tracks. Only GStreamer finds a track that begins later.
const LOOK_MAX: usize = 4 << 20;

/// The range of a 33-bit 90 kHz clock, ns: times of MPEG-TS wrap here.
pub(super) const WRAP_NS: u64 = (1 << 33) * 100_000 / 9;

/// The properties of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentInfo {
    pub container: Container,
    pub starts: Starts,
    /// The latest time of a picture, or of sound without pictures, ns. MPEG-TS only.
    pub last_ns: Option<u64>,
    /// Number of bytes of ID3 tags before the media.
    pub skip: usize,
    /// Announcements of advertisement breaks, with times of the media.
    pub cues: Vec<Cue>,
}

/// Inspects `bytes`, a segment. `map`: the tracks of its `EXT-X-MAP`.
///
/// # Errors
/// The name of the content when it is not media.
pub(super) fn inspect(bytes: &[u8], map: Option<&Mp4Tracks>) -> Result<SegmentInfo, &'static str> {
    let (skip, stamped_ns, mut cues) = tags(bytes);
    let media = &bytes[skip.min(bytes.len())..];
    let seen = &media[..media.len().min(LOOK_MAX)];
    if seen.is_empty() {
        return Err("it is empty");
    }
    let container = kind(seen).ok_or_else(|| what(seen))?;
    let (mut starts, mut last_ns) = ([None, stamped_ns], None);
    match container {
        Container::MpegTs => {
            let seen = ts::inspect(media);
            (starts, last_ns) = (seen.starts, seen.last_ns);
            cues.extend(seen.cues);
        }
        Container::Mp4 => {
            // Segments may contain their own header.
            let own = if map.is_none() { mp4::tracks(seen) } else { None };
            starts = map.or(own.as_ref()).map_or([None; 2], |tracks| mp4::starts(seen, tracks));
            cues.extend(mp4::cues(seen, begins(&starts)));
        }
        _ => {}
    }
    Ok(SegmentInfo { container, starts, last_ns, skip, cues })
}

fn kind(bytes: &[u8]) -> Option<Container> {
    if ts::is_ts(bytes) {
        return Some(Container::MpegTs);
    }
    if mp4::is_mp4(bytes) {
        return Some(Container::Mp4);
    }
    match *bytes.get(..6)? {
        [0xff, b, ..] if b & 0xf6 == 0xf0 => Some(Container::Aac),
        [0xff, b, ..] if b & 0xe0 == 0xe0 && b & 0x06 != 0 => Some(Container::Mp3),
        // The stream identification of E-AC-3 is above 10 (ETSI TS 102 366, E.1.3.1.6).
        [0x0b, 0x77, _, _, _, id] if id >> 3 > 10 => Some(Container::Eac3),
        [0x0b, 0x77, ..] => Some(Container::Ac3),
        _ => None,
    }
}

/// The name of bytes that are not media.
fn what(bytes: &[u8]) -> &'static str {
    if super::playlist::is_playlist(bytes) {
        return "it is a playlist";
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).to_ascii_lowercase();
    let text = text.trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "it is a web page"
    } else if text.starts_with("webvtt") {
        "it is subtitles"
    } else if bytes.iter().all(|b| *b == 0) {
        "it contains only zeros"
    } else {
        "it is neither MPEG-TS nor fragmented MP4 nor packed audio"
    }
}

/// The ID3 tags at the start of `bytes`: their length in bytes, the time in them, ns, and their announcements.
fn tags(bytes: &[u8]) -> (usize, Option<u64>, Vec<Cue>) {
    let (mut at, mut stamped_ns, mut cues) = (0, None, Vec::new());
    while let Some(length) = bytes.get(at..).and_then(id3::length) {
        let tag = &bytes[at..at.saturating_add(length).min(bytes.len())];
        stamped_ns = id3::stamp_ns(tag).or(stamped_ns);
        cues.extend(id3::cues(tag));
        at += tag.len();
    }
    (at, stamped_ns, cues)
}

/// The time of ticks of 90 kHz, ns.
pub(super) fn ticks_ns(ticks: u64) -> u64 {
    samples_to_nanos(ticks, 90_000)
}

/// `to` − `from` on a timeline that may wrap, ns.
pub(super) fn distance_ns(container: Container, from: u64, to: u64) -> i64 {
    let plain = to as i64 - from as i64;
    // Only MPEG-TS counts in 33 bits; packed sound is stamped by the same clock.
    if container == Container::Mp4 {
        return plain;
    }
    let half = (WRAP_NS / 2) as i64;
    match plain {
        d if d > half => d - WRAP_NS as i64,
        d if d < -half => d + WRAP_NS as i64,
        d => d,
    }
}

/// The start of a segment: that of its first picture, or of its sound without pictures. Sound is not cut exactly at the pictures.
pub(super) fn begins(starts: &Starts) -> Option<u64> {
    starts[0].or(starts[1])
}

/// How far ahead an advertisement break may be announced, ns.
pub(super) const ANNOUNCED_MAX_NS: u64 = 600 * NANOS_PER_SECOND;

/// How late an announcement may be, ns: immediate splices are announced after they have happened.
pub(super) const LATE_MAX_NS: u64 = 4 * NANOS_PER_SECOND;

/// The largest valid offset between the two tracks of a segment, ns.
pub(super) const APART_MAX_NS: u64 = 10 * NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_sound_is_recognised_and_its_time_is_read() {
        let mut tagged = vec![b'I', b'D', b'3', 4, 0, 0, 0, 0, 0, 73];
        tagged.extend(b"PRIV\0\0\0\x35\0\0com.apple.streaming.transportStreamTimestamp\0");
        tagged.extend(900_000u64.to_be_bytes());
        tagged.resize(83, 0);
        tagged.extend([0xff, 0xf1, 0x50, 0x80, 0, 0, 0]);
        let opened = inspect(&tagged, None).unwrap();
        assert_eq!(
            opened,
            SegmentInfo {
                container: Container::Aac,
                starts: [None, Some(10 * NANOS_PER_SECOND)],
                last_ns: None,
                skip: 83,
                cues: Vec::new()
            }
        );
        for (bytes, kind) in [
            (&[0xff, 0xfb, 0x90, 0, 0, 0][..], Container::Mp3),
            (&[0x0b, 0x77, 0, 0, 0, 0x40], Container::Ac3),
            (&[0x0b, 0x77, 0, 0, 0, 0x80], Container::Eac3),
        ] {
            assert_eq!(inspect(bytes, None).unwrap().container, kind);
        }
        for (bytes, expected) in [
            (&b"<html>"[..], "a web page"),
            (b"#EXTM3U\n#EXTINF:1", "a playlist"),
            (b"WEBVTT\n\n", "subtitles"),
            (b"", "empty"),
            (&[0; 400], "zeros"),
            (b"nothing that is known", "neither MPEG-TS"),
        ] {
            let error = inspect(bytes, None).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn mpeg_ts_times_continue_across_the_wrap() {
        let last = WRAP_NS - NANOS_PER_SECOND;
        assert_eq!(distance_ns(Container::MpegTs, last, NANOS_PER_SECOND), 2 * NANOS_PER_SECOND as i64);
        assert_eq!(distance_ns(Container::MpegTs, NANOS_PER_SECOND, last), -2 * NANOS_PER_SECOND as i64);
        assert_eq!(distance_ns(Container::Mp4, 5, 3), -2);
        assert_eq!(begins(&[Some(5), Some(last)]), Some(5));
        assert_eq!(begins(&[None, Some(7)]), Some(7));
    }
}
