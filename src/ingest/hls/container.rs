//! What kind of container a segment is, and when its tracks begin: read from the bytes, before GStreamer takes it apart.
//!
//! The times decide where a segment lies on the stream's line, whether it goes on from the one before, and how far sound and
//! pictures are apart.

use super::mp4::{self, Tracks};
use super::ts;
use crate::time::{NANOS_PER_SECOND, samples_to_nanos};

/// Containers that HLS allows, and those that it is met with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Container {
    MpegTs,
    /// Fragmented MP4, which needs the bytes of its `EXT-X-MAP` first.
    Mp4,
    /// AAC in ADTS frames.
    Aac,
    Mp3,
    Ac3,
    Eac3,
    /// JPEG pictures one after the other, as cameras send them over HTTP. No HLS.
    MotionJpeg,
}

impl Container {
    /// The caps by which GStreamer knows it.
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

    /// Whether it has no times of its own: those of its arrival are taken.
    pub const fn is_untimed(self) -> bool {
        matches!(self, Container::MotionJpeg)
    }
}

/// The time of the first picture and of the first sound in decoding order, ns on the media's own line; [`None`] for what is not there.
pub(super) type Starts = [Option<u64>; 2];

/// How many bytes are looked through for the beginnings of tracks: a track that begins later is found by GStreamer alone.
const LOOK_MAX: usize = 4 << 20;

/// The 33 bits of a 90 kHz clock, ns: where times of MPEG-TS begin anew.
pub(super) const WRAP_NS: u64 = (1 << 33) * 100_000 / 9;

/// A segment as it is taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub container: Container,
    pub starts: Starts,
    /// The latest time of a picture, or of sound where there are none, ns; of MPEG-TS alone.
    pub last_ns: Option<u64>,
    /// Where the media begin: behind ID3 tags.
    pub skip: usize,
}

/// Looks into `bytes`, a segment; `map`: what its `EXT-X-MAP` says.
///
/// # Errors
/// What it is instead of media.
pub(super) fn look(bytes: &[u8], map: Option<&Tracks>) -> Result<Opened, &'static str> {
    let (skip, stamped_ns) = id3(bytes);
    let media = &bytes[skip.min(bytes.len())..];
    let seen = &media[..media.len().min(LOOK_MAX)];
    if seen.is_empty() {
        return Err("it is empty");
    }
    let container = kind(seen).ok_or_else(|| what(seen))?;
    let starts = match container {
        Container::MpegTs => ts::starts(seen),
        Container::Mp4 => match map {
            Some(tracks) => mp4::starts(seen, tracks),
            // Segments that bring their own header.
            None => mp4::tracks(seen).map_or([None; 2], |tracks| mp4::starts(seen, &tracks)),
        },
        _ => [None, stamped_ns],
    };
    let last_ns = if container == Container::MpegTs { ts::last(media) } else { None };
    Ok(Opened { container, starts, last_ns, skip })
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

/// What bytes are that are no media.
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
        "it is nothing but zeros"
    } else {
        "it is no MPEG-TS, no fragmented MP4 and no packed sound"
    }
}

/// Bytes of the ID3 tags at the start, and the time in them (RFC 8216bis, 3.1.4), ns.
fn id3(bytes: &[u8]) -> (usize, Option<u64>) {
    const OWNER: &[u8] = b"com.apple.streaming.transportStreamTimestamp\0";
    let (mut at, mut stamped_ns) = (0, None);
    while let Some(tag) = bytes.get(at..).filter(|tag| tag.starts_with(b"ID3") && tag.len() >= 10) {
        // Seven bits a byte.
        let length = tag[6..10].iter().fold(0usize, |sum, b| sum << 7 | usize::from(b & 0x7f));
        let end = 10usize.saturating_add(length).min(tag.len());
        let place = tag[..end].windows(OWNER.len()).position(|w| w == OWNER).map(|p| p + OWNER.len());
        if let Some(stamp) = place.and_then(|p| tag[..end].get(p..p + 8)) {
            let ticks = stamp.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b)) & ((1 << 33) - 1);
            stamped_ns = Some(samples_to_nanos(ticks, 90_000));
        }
        at += end;
    }
    (at, stamped_ns)
}

/// `to` − `from` on a line that may wrap, ns.
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

/// Where a segment begins: with its first picture, or with its sound where it has none. Sound is cut a little beside the pictures.
pub(super) fn begins(starts: &Starts) -> Option<u64> {
    starts[0].or(starts[1])
}

/// The longest that two tracks of one segment may be apart and still be believed, ns.
pub(super) const APART_MAX_NS: u64 = 10 * NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_sound_is_told_apart_and_its_time_is_read() {
        let mut tagged = vec![b'I', b'D', b'3', 4, 0, 0, 0, 0, 0, 73];
        tagged.extend(b"PRIV\0\0\0\x35\0\0com.apple.streaming.transportStreamTimestamp\0");
        tagged.extend(900_000u64.to_be_bytes());
        tagged.resize(83, 0);
        tagged.extend([0xff, 0xf1, 0x50, 0x80, 0, 0, 0]);
        let opened = look(&tagged, None).unwrap();
        assert_eq!(
            opened,
            Opened { container: Container::Aac, starts: [None, Some(10 * NANOS_PER_SECOND)], last_ns: None, skip: 83 }
        );
        for (bytes, kind) in [
            (&[0xff, 0xfb, 0x90, 0, 0, 0][..], Container::Mp3),
            (&[0x0b, 0x77, 0, 0, 0, 0x40], Container::Ac3),
            (&[0x0b, 0x77, 0, 0, 0, 0x80], Container::Eac3),
        ] {
            assert_eq!(look(bytes, None).unwrap().container, kind);
        }
        for (bytes, why) in [
            (&b"<html>"[..], "a web page"),
            (b"#EXTM3U\n#EXTINF:1", "a playlist"),
            (b"WEBVTT\n\n", "subtitles"),
            (b"", "empty"),
            (&[0; 400], "zeros"),
            (b"nothing that is known", "no MPEG-TS"),
        ] {
            let said = look(bytes, None).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn times_of_mpeg_ts_go_on_over_their_end() {
        let last = WRAP_NS - NANOS_PER_SECOND;
        assert_eq!(distance_ns(Container::MpegTs, last, NANOS_PER_SECOND), 2 * NANOS_PER_SECOND as i64);
        assert_eq!(distance_ns(Container::MpegTs, NANOS_PER_SECOND, last), -2 * NANOS_PER_SECOND as i64);
        assert_eq!(distance_ns(Container::Mp4, 5, 3), -2);
        assert_eq!(begins(&[Some(5), Some(last)]), Some(5));
        assert_eq!(begins(&[None, Some(7)]), Some(7));
    }
}
