//! The timecode track of QuickTime and MP4 recordings (QuickTime File Format, "Timecode Media"), which GStreamer 1.22 does not read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use touchline_core::time::Pts;
use touchline_core::timecode::{FrameRate, TimecodeMark};

/// The most boxes of one level. More do not occur and would be unbounded work.
const BOXES_MAX: usize = 4_096;

/// Flags of a sample description.
const DROP_FRAME: u32 = 1;
const IS_COUNTER: u32 = 8;

/// The timecode at the start of the recording at `path`; [`None`] if it has no timecode track, or is not of this format.
///
/// Only the first timecode is read: edit suites write a single one, which counts on.
pub(crate) fn first(path: &Path) -> Option<TimecodeMark> {
    let mut file = BoxReader { file: File::open(path).ok()? };
    let length = file.file.metadata().ok()?.len();
    let head: [u8; 8] = file.bytes(0)?;
    if &head[4..] != b"ftyp" && !matches!(&head[4..], b"moov" | b"wide" | b"mdat" | b"free" | b"skip") {
        return None;
    }
    let moov = file.find(0..length, b"moov")?;
    let traks: Vec<Range<u64>> =
        file.boxes(moov)?.into_iter().filter(|(name, _)| name == b"trak").map(|(_, r)| r).collect();
    traks.into_iter().find_map(|trak| file.timecode(trak))
}

/// Reads boxes without loading them.
struct BoxReader {
    file: File,
}

impl BoxReader {
    fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.file.seek(SeekFrom::Start(at)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn u32(&mut self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&mut self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// The boxes in `range` with the ranges of their bodies.
    fn boxes(&mut self, range: Range<u64>) -> Option<Vec<([u8; 4], Range<u64>)>> {
        let (mut found, mut at) = (Vec::new(), range.start);
        while found.len() < BOXES_MAX && range.end.saturating_sub(at) >= 8 {
            let name = self.bytes(at + 4)?;
            let (length, skip) = match self.u32(at)? {
                0 => (range.end - at, 8),
                1 => (self.u64(at + 8)?, 16),
                short => (u64::from(short), 8),
            };
            let end = at.checked_add(length).filter(|end| length >= skip && *end <= range.end)?;
            found.push((name, at + skip..end));
            at = end;
        }
        Some(found)
    }

    fn find(&mut self, range: Range<u64>, name: &[u8; 4]) -> Option<Range<u64>> {
        self.boxes(range)?.into_iter().find(|(found, _)| found == name).map(|(_, body)| body)
    }

    /// The timecode that the track begins with, if it is a timecode track.
    fn timecode(&mut self, trak: Range<u64>) -> Option<TimecodeMark> {
        let mdia = self.find(trak.clone(), b"mdia")?;
        let hdlr = self.find(mdia.clone(), b"hdlr")?;
        if &self.bytes::<4>(hdlr.start + 8)? != b"tmcd" {
            return None;
        }
        let minf = self.find(mdia, b"minf")?;
        let stbl = self.find(minf, b"stbl")?;
        let (_, entry) = {
            let stsd = self.find(stbl.clone(), b"stsd")?;
            self.boxes(stsd.start + 8..stsd.end)?.into_iter().find(|(name, _)| name == b"tmcd")?
        };
        // Six reserved bytes, the index of a data reference, and four reserved bytes.
        let flags = self.u32(entry.start + 12)?;
        let (timescale, frame_length) = (self.u32(entry.start + 16)?, self.u32(entry.start + 20)?);
        if flags & IS_COUNTER != 0 {
            return None;
        }
        let rate = FrameRate::nearest(timescale, frame_length, flags & DROP_FRAME != 0)?;
        let sample = match self.find(stbl.clone(), b"stco") {
            Some(stco) => u64::from(self.u32(stco.start + 8)?),
            None => {
                let co64 = self.find(stbl, b"co64")?;
                self.u64(co64.start + 8)?
            }
        };
        let first = i64::from(self.u32(sample)?) + self.frames_cut(trak, frame_length).unwrap_or(0);
        Some(TimecodeMark { pts: Pts(0), frame: first.rem_euclid(rate.frames_in_day()), rate })
    }

    /// Frames before the start of the track's edit list.
    fn frames_cut(&mut self, trak: Range<u64>, frame_length: u32) -> Option<i64> {
        let edts = self.find(trak, b"edts")?;
        let elst = self.find(edts, b"elst")?;
        let is_long = self.bytes::<1>(elst.start)? == [1];
        let ticks = if is_long {
            i64::from_be_bytes(self.bytes(elst.start + 16)?)
        } else {
            i64::from(i32::from_be_bytes(self.bytes(elst.start + 12)?))
        };
        // -1 is an empty edit.
        Some(ticks.max(0) / i64::from(frame_length.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 8).to_be_bytes()[..], name, body].concat()
    }

    /// A recording whose timecode track begins with `frame`.
    fn recording(flags: u32, timescale: u32, length: u32, frame: u32, cut: i32) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let head = [boxed(b"ftyp", b"qt  "), boxed(b"mdat", &frame.to_be_bytes())].concat();
        let entry = [vec![0; 12], words(&[flags, timescale, length]), vec![30, 0]].concat();
        let stsd = boxed(b"stsd", &[words(&[0, 1]), boxed(b"tmcd", &entry)].concat());
        let stco = boxed(b"stco", &words(&[0, 1, head.len() as u32 - 4]));
        let minf = boxed(b"minf", &boxed(b"stbl", &[stsd, stco].concat()));
        let hdlr = |kind: &[u8]| boxed(b"hdlr", &[&[0; 8], kind, &[0; 12]].concat());
        let edts = boxed(b"edts", &boxed(b"elst", &words(&[0, 1, 0, cut as u32, 0x1_0000])));
        let pictures = boxed(b"trak", &boxed(b"mdia", &hdlr(b"vide")));
        let timecode = boxed(b"trak", &[edts, boxed(b"mdia", &[hdlr(b"tmcd"), minf].concat())].concat());
        [head, boxed(b"moov", &[pictures, timecode].concat())].concat()
    }

    fn read(bytes: &[u8]) -> Option<(i64, &'static str)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mov");
        std::fs::write(&path, bytes).unwrap();
        first(&path).map(|mark| (mark.frame, mark.rate.name()))
    }

    #[test]
    fn the_first_timecode_is_read() {
        assert_eq!(read(&recording(DROP_FRAME, 30_000, 1001, 107_892, 0)), Some((107_892, "29.97df")));
        assert_eq!(read(&recording(0, 25, 1, 90_000, 0)), Some((90_000, "25")));
        assert_eq!(read(&recording(0, 2500, 100, 90_000, 1000)), Some((90_010, "25")), "the edit list cuts ten frames");
        assert_eq!(read(&recording(0, 25, 1, 90_000, -1)), Some((90_000, "25")));
        assert_eq!(read(&recording(IS_COUNTER, 25, 1, 7, 0)), None);
        assert_eq!(read(&recording(0, 7, 1, 7, 0)), None, "no rate of timecode");
    }

    #[test]
    fn damaged_recordings_have_no_timecode() {
        let whole = recording(0, 25, 1, 90_000, 0);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = 0xff;
            // Reading ends and does not panic.
            let _ = read(&damaged);
        }
    }
}
