//! Reads MP4 files to their last packet.
//!
//! The demultiplexer of GStreamer 1.22 ends where the decoding time of a packet, counted without the track's edit list, reaches the duration
//! of the movie. The duration does not contain what the edit list skips: the delay of the sound's encoder, and that of pictures that are
//! decoded before they are shown. So the last packets were missing. A longer duration in the header, as the demultiplexer reads it, ends
//! nothing, because the tables of the packets do.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

/// What is added to the duration at most, seconds: more than an encoder's delay.
const ADDED_S: u64 = 1;

/// Boxes that are looked at. Fragmented files have two per second, and their header comes first.
const BOXES_MAX: usize = 10_000;

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
    let field = File::open(path).and_then(|mut file| duration(&mut file)).ok().flatten();
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
fn duration(file: &mut (impl Read + Seek)) -> io::Result<Option<Field>> {
    let mut at = 0;
    let mut is_inside = false;
    for _ in 0..BOXES_MAX {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        if file.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let [a, b, c, d, kind @ ..] = head;
        let (kind, long) = kind.split_at(4);
        let size = match u64::from(u32::from_be_bytes([a, b, c, d])) {
            1 => u64::from_be_bytes(long.try_into().expect("eight bytes follow the kind")),
            size => size,
        };
        match kind {
            b"moov" if !is_inside => {
                is_inside = true;
                at += 8;
                continue;
            }
            b"mvhd" => return header(file, at),
            // The first box has a known kind, as in every MP4 file.
            _ if at == 0 && !kind.iter().all(u8::is_ascii_alphanumeric) => return Ok(None),
            _ => {}
        }
        if size < 8 {
            return Ok(None);
        }
        at = at.saturating_add(size);
    }
    Ok(None)
}

fn header(file: &mut (impl Read + Seek), at: u64) -> io::Result<Option<Field>> {
    file.seek(SeekFrom::Start(at + 8))?;
    let mut version = [0; 4];
    file.read_exact(&mut version)?;
    let times = if version[0] == 1 { 16 } else { 8 };
    file.seek_relative(times)?;
    let mut scale = [0; 4];
    file.read_exact(&mut scale)?;
    let scale = u64::from(u32::from_be_bytes(scale));
    // The demultiplexer takes a track for a preview picture, and leaves it out, when it is shorter than a fifth of the movie.
    let longer = |length: u64| length.checked_add((length / 4).min(ADDED_S * scale));
    let place = at + 8 + 4 + times.unsigned_abs() + 4;
    let bytes = if version[0] == 1 {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        longer(u64::from_be_bytes(length)).map(|length| length.to_be_bytes().to_vec())
    } else {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let length = longer(u64::from(u32::from_be_bytes(length)));
        length.and_then(|length| u32::try_from(length).ok()).map(|length| length.to_be_bytes().to_vec())
    };
    // A length that is not known ends nothing.
    Ok(bytes.map(|bytes| Field { at: place, bytes }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(8 + body.len() as u32).to_be_bytes()[..], kind, body].concat()
    }

    fn found(bytes: Vec<u8>) -> Option<Field> {
        duration(&mut Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn the_duration_of_both_versions_is_found_and_lengthened() {
        let short = [&[0; 12][..], &1000u32.to_be_bytes(), &6000u32.to_be_bytes(), &[0; 80]].concat();
        let bytes =
            [atom(b"ftyp", b"isomiso2"), atom(b"mdat", &[9; 50]), atom(b"moov", &atom(b"mvhd", &short))].concat();
        let at = bytes.windows(4).position(|kind| kind == b"mvhd").unwrap() as u64 - 4;
        assert_eq!(found(bytes), Some(Field { at: at + 24, bytes: 7000u32.to_be_bytes().to_vec() }));
        let long = [&[1u8, 0, 0, 0][..], &[0; 16], &600u32.to_be_bytes(), &3600u64.to_be_bytes(), &[0; 80]].concat();
        let bytes = [atom(b"ftyp", b"isomiso2"), atom(b"moov", &atom(b"mvhd", &long))].concat();
        let at = bytes.windows(4).position(|kind| kind == b"mvhd").unwrap() as u64 - 4;
        assert_eq!(found(bytes), Some(Field { at: at + 32, bytes: 4200u64.to_be_bytes().to_vec() }));
    }

    #[test]
    fn other_files_and_unknown_durations_are_left_alone() {
        let unknown = [&[0; 12][..], &1000u32.to_be_bytes(), &u32::MAX.to_be_bytes(), &[0; 80]].concat();
        assert_eq!(found([atom(b"ftyp", b"isomiso2"), atom(b"moov", &atom(b"mvhd", &unknown))].concat()), None);
        assert_eq!(found(vec![0x47; 2000]), None);
        assert_eq!(found(b"short".to_vec()), None);
        assert_eq!(found([atom(b"ftyp", b"isomiso2"), vec![0; 64]].concat()), None);
    }
}
