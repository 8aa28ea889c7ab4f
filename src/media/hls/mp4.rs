//! Reads from fragmented MP4 the start times of tracks and the announcements of advertisement breaks (ISO/IEC 14496-12, 8).

use super::container::Starts;
use super::id3;
use super::splice::{self, Cue};
use touchline_core::time::NANOS_PER_SECOND;

/// The most boxes of one level. More do not occur and would be unbounded work.
const BOXES_MAX: usize = 4_096;

/// The most announcements of one segment.
const CUES_MAX: usize = 64;

/// A video or audio track of an initialisation section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mp4Track {
    id: u32,
    /// 0: pictures, 1: sound.
    index: usize,
    /// Ticks a second.
    timescale: u32,
    /// The media time at which the edit list begins to play, ticks.
    begins: i64,
}

/// The tracks of an initialisation section.
pub(super) type Mp4Tracks = Vec<Mp4Track>;

pub(super) fn is_mp4(bytes: &[u8]) -> bool {
    const FIRST: [&[u8]; 8] = [b"ftyp", b"styp", b"moof", b"sidx", b"moov", b"emsg", b"prft", b"free"];
    bytes.get(4..8).is_some_and(|name| FIRST.contains(&name))
}

/// The boxes in `bytes`: name and body. The body of a truncated box is its available part.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, name) = (rest.get(..4)?, rest.get(4..8)?);
        let short = u64::from(u32::from_be_bytes(head.try_into().ok()?));
        let (length, skip) = match short {
            0 => (rest.len() as u64, 8),
            1 => (u64::from_be_bytes(rest.get(8..16)?.try_into().ok()?), 16),
            _ => (short, 8),
        };
        let length = usize::try_from(length).ok().filter(|n| *n >= skip)?;
        let body = rest.get(skip..length.min(rest.len()))?;
        rest = rest.get(length..).unwrap_or_default();
        Some((name, body))
    })
    .take(BOXES_MAX)
}

fn find<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    boxes(bytes).find(|(n, _)| *n == name).map(|(_, body)| body)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The tracks that `bytes`, an initialisation section, declares; [`None`] without a `moov`.
pub(super) fn tracks(bytes: &[u8]) -> Option<Mp4Tracks> {
    let moov = find(bytes, b"moov")?;
    let traks = boxes(moov).filter(|(name, _)| *name == b"trak");
    Some(traks.filter_map(|(_, trak)| track(trak)).collect())
}

fn track(trak: &[u8]) -> Option<Mp4Track> {
    let (tkhd, mdia) = (find(trak, b"tkhd")?, find(trak, b"mdia")?);
    let (mdhd, hdlr) = (find(mdia, b"mdhd")?, find(mdia, b"hdlr")?);
    let is_long = |body: &[u8]| body.first() == Some(&1);
    let index = match hdlr.get(8..12)? {
        b"vide" => 0,
        b"soun" => 1,
        _ => return None,
    };
    let timescale = u32_at(mdhd, if is_long(mdhd) { 20 } else { 12 })?;
    let edits = find(trak, b"edts").and_then(|edts| find(edts, b"elst"));
    Some(Mp4Track {
        id: u32_at(tkhd, if is_long(tkhd) { 20 } else { 12 })?,
        index,
        timescale: (timescale > 0).then_some(timescale)?,
        begins: edits.and_then(begins).unwrap_or(0),
    })
}

/// The media time at which an edit list begins to play, ticks; [`None`] if it has no such entry.
fn begins(elst: &[u8]) -> Option<i64> {
    let is_long = *elst.first()? == 1;
    let entries = usize::try_from(u32_at(elst, 4)?).ok()?.min(16);
    let media_time = |n: usize| {
        if is_long {
            u64_at(elst, 8 + 20 * n + 8).map(|time| time as i64)
        } else {
            u32_at(elst, 8 + 12 * n + 4).map(|time| i64::from(time as i32))
        }
    };
    // An entry of media time -1 is empty: silence before the media.
    (0..entries).filter_map(media_time).find(|time| *time >= 0)
}

/// The presentation times of the first picture and of the first sound of `bytes`, a media segment, ns.
pub(super) fn starts(bytes: &[u8], tracks: &Mp4Tracks) -> Starts {
    let mut starts = [None, None];
    let moofs = boxes(bytes).filter(|(name, _)| *name == b"moof");
    let trafs = moofs.flat_map(|(_, moof)| boxes(moof).filter(|(name, _)| *name == b"traf"));
    for (_, traf) in trafs {
        if let Some((index, start)) = start(traf, tracks) {
            starts[index] = starts[index].or(Some(start));
        }
        if starts.iter().flatten().count() >= tracks.len().min(2) {
            break;
        }
    }
    starts
}

fn start(traf: &[u8], tracks: &Mp4Tracks) -> Option<(usize, u64)> {
    let id = u32_at(find(traf, b"tfhd")?, 4)?;
    let track = tracks.iter().find(|track| track.id == id)?;
    let tfdt = find(traf, b"tfdt")?;
    let decoded = if tfdt.first() == Some(&1) { u64_at(tfdt, 4)? } else { u64::from(u32_at(tfdt, 4)?) };
    let offset = find(traf, b"trun").and_then(first_offset).unwrap_or(0);
    let ticks = i128::from(decoded) + i128::from(offset) - i128::from(track.begins);
    let ns = ticks.max(0) * i128::from(NANOS_PER_SECOND) / i128::from(track.timescale);
    // Later times are invalid and could overflow in additions.
    u64::try_from(ns).ok().filter(|ns| *ns < 1 << 62).map(|ns| (track.index, ns))
}

/// The announcements in the event messages (`emsg`) of `bytes`, a media segment that begins at `begins_ns` (ISO/IEC 23009-1,
/// 5.10.3.3).
///
/// The time is that of the message. Times within it refer to the MPEG-TS input of the packager.
pub(super) fn cues(bytes: &[u8], begins_ns: Option<u64>) -> Vec<Cue> {
    let messages = boxes(bytes).filter(|(name, _)| *name == b"emsg");
    messages.filter_map(|(_, body)| message(body, begins_ns)).flatten().take(CUES_MAX).collect()
}

fn message(emsg: &[u8], begins_ns: Option<u64>) -> Option<Vec<Cue>> {
    let is_long = *emsg.first()? == 1;
    let mut rest = emsg.get(if is_long { 24 } else { 4 }..)?;
    let (scheme, _value) = (text(&mut rest)?, text(&mut rest)?);
    // In version 0 the numbers follow the texts.
    let (numbers, data) = if is_long { (&emsg[4..24], rest) } else { rest.split_at_checked(16)? };
    let timescale = u128::from(u32_at(numbers, 0)?.max(1));
    let ns = |ticks: u64| u64::try_from(u128::from(ticks) * u128::from(NANOS_PER_SECOND) / timescale).ok();
    let at_ns =
        if is_long { ns(u64_at(numbers, 4)?)? } else { begins_ns?.checked_add(ns(u64::from(u32_at(numbers, 4)?))?)? };
    let found = match scheme {
        b"urn:scte:scte35:2013:bin" => splice::cues(data),
        b"https://aomedia.org/emsg/ID3" | b"https://developer.apple.com/streaming/emsg-id3" => id3::cues(data),
        _ => return None,
    };
    Some(found.into_iter().map(|cue| Cue { at_ns: Some(at_ns).filter(|ns| *ns < 1 << 62), ..cue }).collect())
}

/// Reads a null-terminated text from `rest`.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|b| *b == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

/// The composition offset of the first sample, ticks.
fn first_offset(trun: &[u8]) -> Option<i64> {
    let flags = u32_at(trun, 0)? & 0x00ff_ffff;
    if flags & 0x800 == 0 {
        return None;
    }
    let before = [0x001, 0x004, 0x100, 0x200, 0x400].iter().filter(|flag| flags & **flag != 0).count();
    let value = u32_at(trun, 8 + 4 * before)?;
    // Version 0 does not allow negative offsets, but encoders write them.
    Some(i64::from(value as i32))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn make(name: &str, body: &[u8]) -> Vec<u8> {
        [&(8 + body.len() as u32).to_be_bytes()[..], name.as_bytes(), body].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    pub fn init() -> Vec<u8> {
        let trak = |id: u32, kind: &str, timescale: u32, begins: u32| {
            let hdlr = [&words(&[0, 0])[..], kind.as_bytes(), &[0; 13]].concat();
            let mdia = [make("mdhd", &words(&[0, 0, 0, timescale, 0])), make("hdlr", &hdlr)].concat();
            let edts = make("elst", &words(&[0, 1, 0, begins, 0x10000]));
            make("trak", &[make("tkhd", &words(&[0, 0, 0, id])), make("edts", &edts), make("mdia", &mdia)].concat())
        };
        let moov = [trak(1, "vide", 12_800, 1_024), trak(2, "soun", 48_000, 0), trak(3, "meta", 1, 0)].concat();
        [make("ftyp", b"iso5"), make("moov", &moov)].concat()
    }

    pub fn fragment(id: u32, decoded: u64, offset: u32) -> Vec<u8> {
        let tfdt = [&words(&[0x0100_0000])[..], &decoded.to_be_bytes()].concat();
        let trun = words(&[0x0000_0a05, 1, 0, 0, 77, offset]);
        let traf = [make("tfhd", &words(&[0, id])), make("tfdt", &tfdt), make("trun", &trun)].concat();
        make("moof", &make("traf", &traf))
    }

    #[test]
    fn times_of_fragments_are_read() {
        let tracks = tracks(&init()).unwrap();
        assert_eq!(tracks.len(), 2);
        let bytes = [make("styp", b"msdh"), fragment(1, 25_600, 1_024), fragment(2, 96_000, 0)].concat();
        assert!(is_mp4(&bytes));
        assert_eq!(starts(&bytes, &tracks), [Some(2 * NANOS_PER_SECOND), Some(2 * NANOS_PER_SECOND)]);
        assert_eq!(starts(&fragment(9, 1, 1), &tracks), [None, None]);
        assert_eq!(starts(&fragment(1, u64::MAX, 0), &tracks), [None, None]);
        for length in 0..bytes.len() {
            starts(&bytes[..length], &tracks);
        }
        for length in 0..init().len() {
            super::tracks(&init()[..length]);
        }
    }

    /// An event message at a time in milliseconds. In version 0, the time is relative to the start of the segment.
    pub fn emsg(version: u8, scheme: &str, at_ms: u64, data: &[u8]) -> Vec<u8> {
        let texts = [scheme.as_bytes(), &[0], b"1", &[0]].concat();
        let body = if version == 1 {
            [&words(&[0x0100_0000, 1_000])[..], &at_ms.to_be_bytes(), &words(&[0, 7]), &texts, data].concat()
        } else {
            [&words(&[0])[..], &texts, &words(&[1_000, at_ms as u32, 0, 7]), data].concat()
        };
        make("emsg", &body)
    }

    #[test]
    fn event_messages_of_both_versions_are_read() {
        use crate::hls::{id3, splice};
        let section = splice::tests::insert_at(7, true, 900_000, None);
        let tag = id3::tests::tag("PRIV", &[&b"urn:scte:scte35:2013:bin\0"[..], &section[..]].concat());
        let wanted = |at_s: u64| {
            let cue = splice::cues(&section)[0];
            vec![Cue { at_ns: Some(at_s * NANOS_PER_SECOND), ..cue }]
        };
        let begins = Some(100 * NANOS_PER_SECOND);
        for (scheme, data) in [("urn:scte:scte35:2013:bin", &section), ("https://aomedia.org/emsg/ID3", &tag)] {
            let long = [emsg(1, scheme, 105_000, data), fragment(1, 1, 1)].concat();
            assert_eq!(cues(&long, begins), wanted(105), "{scheme}");
            let short = [make("styp", b"msdh"), emsg(0, scheme, 5_000, data)].concat();
            assert_eq!(cues(&short, begins), wanted(105), "{scheme}");
            assert!(cues(&short, None).is_empty());
            for length in 0..long.len() {
                cues(&long[..length], begins);
            }
            for length in 0..short.len() {
                cues(&short[..length], begins);
            }
        }
        assert!(cues(&emsg(1, "urn:mpeg:dash:event:2012", 0, &section), begins).is_empty());
    }
}
