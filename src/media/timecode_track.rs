//! The timecode track of QuickTime and MP4 recordings (QuickTime File Format, "Timecode Media"), which GStreamer 1.22 does not read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use touchline_core::time::Pts;
use touchline_core::timecode::{FrameRate, TimecodeMark};

use crate::boxes::{self, BoxReader};

/// Flags of a sample description.
const DROP_FRAME: u32 = 1;
const IS_COUNTER: u32 = 8;

/// The timecode at the start of the recording at `path`; [`None`] if it has no timecode track, or is not of this format.
///
/// Only the first timecode is read: edit suites write a single one, which counts on.
pub(crate) fn first(path: &Path) -> Option<TimecodeMark> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // The player reports a file that cannot be read.
    in_movie(&mut BoxReader(file), length).ok().flatten()
}

fn in_movie(file: &mut BoxReader<File>, length: u64) -> io::Result<Option<TimecodeMark>> {
    if !boxes::is_first(&file.bytes::<4>(4)?) {
        return Ok(None);
    }
    let Some(moov) = file.find(0..length, b"moov")? else { return Ok(None) };
    file.find_map(moov, |file, found| if found.kind == *b"trak" { timecode(file, found.body) } else { Ok(None) })
}

/// The timecode that a track begins with, if it is a timecode track.
fn timecode(file: &mut BoxReader<File>, trak: Range<u64>) -> io::Result<Option<TimecodeMark>> {
    let Some(mdia) = file.find(trak.clone(), b"mdia")? else { return Ok(None) };
    let Some(hdlr) = file.find(mdia.clone(), b"hdlr")? else { return Ok(None) };
    if &file.bytes::<4>(hdlr.start + 8)? != b"tmcd" {
        return Ok(None);
    }
    let Some(minf) = file.find(mdia, b"minf")? else { return Ok(None) };
    let Some(stbl) = file.find(minf, b"stbl")? else { return Ok(None) };
    let Some(stsd) = file.find(stbl.clone(), b"stsd")? else { return Ok(None) };
    let Some(entry) = file.find(stsd.start + 8..stsd.end, b"tmcd")? else { return Ok(None) };
    // Six reserved bytes, the index of a data reference, and four reserved bytes.
    let flags = file.u32(entry.start + 12)?;
    let (timescale, frame_length) = (file.u32(entry.start + 16)?, file.u32(entry.start + 20)?);
    if flags & IS_COUNTER != 0 {
        return Ok(None);
    }
    let Some(rate) = FrameRate::nearest(timescale, frame_length, flags & DROP_FRAME != 0) else { return Ok(None) };
    let sample = match (file.find(stbl.clone(), b"stco")?, file.find(stbl, b"co64")?) {
        (Some(stco), _) => u64::from(file.u32(stco.start + 8)?),
        (None, Some(co64)) => file.u64(co64.start + 8)?,
        (None, None) => return Ok(None),
    };
    let frame = i64::from(file.u32(sample)?) + frames_cut(file, trak, frame_length)?;
    Ok(Some(TimecodeMark { pts: Pts(0), frame: frame.rem_euclid(rate.frames_in_day()), rate }))
}

/// Frames before the start of the track's edit list.
fn frames_cut(file: &mut BoxReader<File>, trak: Range<u64>, frame_length: u32) -> io::Result<i64> {
    let Some(edts) = file.find(trak, b"edts")? else { return Ok(0) };
    let Some(elst) = file.find(edts, b"elst")? else { return Ok(0) };
    let ticks = if file.bytes::<1>(elst.start)? == [1] {
        i64::from_be_bytes(file.bytes(elst.start + 16)?)
    } else {
        i64::from(i32::from_be_bytes(file.bytes(elst.start + 12)?))
    };
    // -1 is an empty edit.
    Ok(ticks.max(0) / i64::from(frame_length.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::boxed;

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
