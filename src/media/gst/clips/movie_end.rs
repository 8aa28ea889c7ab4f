//! Reads MP4 files to their last packet.
//!
//! The demultiplexer of GStreamer 1.22 ends where the decoding time of a packet, counted without the track's edit list, reaches the duration
//! of the movie. The duration does not contain what the edit list skips: the delay of the sound's encoder, and that of pictures that are
//! decoded before they are shown. So the last packets were missing. A longer duration in the header, as the demultiplexer reads it, ends
//! nothing, because the tables of the packets do.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::boxes::{self, BoxReader};

/// What is added to the duration at most, seconds: more than an encoder's delay.
const ADDED_S: u64 = 1;

/// A field of the file, with what is read in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    /// Its first byte.
    at: u64,
    bytes: Vec<u8>,
}

/// Lengthens the movie in the file at `path` as `source`, which reads it, passes it on.
pub(super) fn lengthen(source: &gst::Element, path: &Path) {
    // Other containers, and files that cannot be read, are the demultiplexer's business.
    let field = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        duration(&mut BoxReader(file), length)
    });
    let field = field.ok().flatten();
    let (Some(field), Some(pad)) = (field, source.static_pad("src")) else { return };
    pad.add_probe(gst::PadProbeType::PULL | gst::PadProbeType::BUFFER, move |_, info| {
        let from = info.offset;
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            && field.at < from + buffer.size() as u64
            && from < field.at + field.bytes.len() as u64
            && let Ok(mut data) = buffer.make_mut().map_writable()
        {
            for (at, byte) in (field.at..).zip(&field.bytes) {
                let place = at.checked_sub(from).and_then(|place| usize::try_from(place).ok());
                if let Some(target) = place.and_then(|place| data.get_mut(place)) {
                    *target = *byte;
                }
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// The duration in the header of a movie (`moov/mvhd`, ISO/IEC 14496-12), lengthened; [`None`] if there is none.
fn duration(file: &mut BoxReader<impl Read + Seek>, length: u64) -> io::Result<Option<Field>> {
    if length < 8 || !boxes::is_first(&file.bytes::<4>(4)?) {
        return Ok(None);
    }
    let Some(moov) = file.find(0..length, b"moov")? else { return Ok(None) };
    let Some(mvhd) = file.find(moov, b"mvhd")? else { return Ok(None) };
    let is_long = file.bytes::<1>(mvhd.start)? == [1];
    // After the version and flags, and two times.
    let at = mvhd.start + if is_long { 20 } else { 12 };
    let scale = u64::from(file.u32(at)?);
    // The demultiplexer takes a track for a preview picture, and leaves it out, when it is shorter than a fifth of the movie.
    let longer = |duration: u64| duration.checked_add((duration / 4).min(ADDED_S * scale));
    let bytes = if is_long {
        longer(file.u64(at + 4)?).map(|duration| duration.to_be_bytes().to_vec())
    } else {
        let duration = longer(u64::from(file.u32(at + 4)?));
        duration.and_then(|duration| u32::try_from(duration).ok()).map(|duration| duration.to_be_bytes().to_vec())
    };
    // A duration that is not known ends nothing.
    Ok(bytes.map(|bytes| Field { at: at + 4, bytes }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::boxes::boxed;

    fn found(bytes: Vec<u8>) -> Option<Field> {
        let length = bytes.len() as u64;
        duration(&mut BoxReader(Cursor::new(bytes)), length).unwrap()
    }

    #[test]
    fn the_duration_of_both_versions_is_found_and_lengthened() {
        let short = [&[0; 12][..], &1000u32.to_be_bytes(), &6000u32.to_be_bytes(), &[0; 80]].concat();
        let bytes =
            [boxed(b"ftyp", b"isomiso2"), boxed(b"mdat", &[9; 50]), boxed(b"moov", &boxed(b"mvhd", &short))].concat();
        let at = bytes.windows(4).position(|kind| kind == b"mvhd").unwrap() as u64 - 4;
        assert_eq!(found(bytes), Some(Field { at: at + 24, bytes: 7000u32.to_be_bytes().to_vec() }));
        let long = [&[1u8, 0, 0, 0][..], &[0; 16], &600u32.to_be_bytes(), &3600u64.to_be_bytes(), &[0; 80]].concat();
        let bytes = [boxed(b"ftyp", b"isomiso2"), boxed(b"moov", &boxed(b"mvhd", &long))].concat();
        let at = bytes.windows(4).position(|kind| kind == b"mvhd").unwrap() as u64 - 4;
        assert_eq!(found(bytes), Some(Field { at: at + 32, bytes: 4200u64.to_be_bytes().to_vec() }));
    }

    #[test]
    fn other_files_and_unknown_durations_are_left_alone() {
        let unknown = [&[0; 12][..], &1000u32.to_be_bytes(), &u32::MAX.to_be_bytes(), &[0; 80]].concat();
        assert_eq!(found([boxed(b"ftyp", b"isomiso2"), boxed(b"moov", &boxed(b"mvhd", &unknown))].concat()), None);
        assert_eq!(found(vec![0x47; 2000]), None);
        assert_eq!(found(b"short".to_vec()), None);
        assert_eq!(found([boxed(b"ftyp", b"isomiso2"), vec![0; 64]].concat()), None);
    }
}
