//! Detects truncated files by the sizes in their container. Nothing is decoded.
//!
//! Also recognises picture formats that are not supported, so that errors can name them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::boxes::{self, BOXES_MAX, BoxReader, FileBox};

/// The most elements or chunks of a file that are read.
const PARTS_MAX: u32 = 1_000_000;

/// How far a picture file is searched for its end marker, bytes.
const PICTURE_MAX: u64 = 256 << 20;

/// Describes how the file at `path` is truncated. [`None`]: it is complete, or its format does not show it.
pub fn cut_off(path: &Path) -> Option<String> {
    let (file, len) = open(path)?;
    find_cut(file, len).ok().flatten()
}

/// Describes how the index of the MP4 or MOV at `path` is missing; such a file cannot be decoded. [`None`]: the file has an index or
/// is of another kind.
pub fn missing_index(path: &Path) -> Option<String> {
    let (mut file, len) = open(path)?;
    let mut head = [0; 8];
    file.read_exact(&mut head).ok()?;
    if boxes::is_first(&head[4..]) { mp4(file, len, true).ok().flatten() } else { None }
}

/// Opens the file at `path` and returns its length, bytes. [`None`]: it is not readable, which the player reports.
fn open(path: &Path) -> Option<(BufReader<File>, u64)> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    Some((BufReader::new(file), len))
}

/// The name of the unsupported picture format of a file that begins with `head`. 32 bytes are enough.
pub fn unsupported(head: &[u8]) -> Option<&'static str> {
    let brands =
        || head.get(8..).unwrap_or_default().chunks_exact(4).enumerate().filter(|(i, _)| *i != 1).map(|(_, b)| b);
    let has_brand = |known: &[&[u8; 4]]| brands().any(|brand| known.iter().any(|k| *k == brand));
    match head {
        [b'G', b'I', b'F', b'8', ..] => Some("GIF"),
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some("TIFF"),
        _ if head.get(4..8) != Some(b"ftyp") => None,
        _ if has_brand(&[b"avif", b"avis"]) => Some("AVIF"),
        _ if has_brand(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) => Some("HEIC"),
        _ => None,
    }
}

/// As [`unsupported`], for the file at `path`.
pub fn unsupported_file(path: &Path) -> Option<&'static str> {
    let mut head = Vec::with_capacity(32);
    File::open(path).ok()?.take(32).read_to_end(&mut head).ok()?;
    unsupported(&head)
}

fn find_cut(mut file: impl Read + Seek, len: u64) -> io::Result<Option<String>> {
    let mut head = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut head)?;
    file.rewind()?;
    match head.as_slice() {
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska(file, len),
        [b'R', b'I', b'F', b'F', size @ ..] if size.len() >= 8 => {
            let declared = u64::from(u32::from_le_bytes([size[0], size[1], size[2], size[3]]));
            // Writers to a pipe cannot go back to fill in the size.
            let is_known = declared != 0 && declared < 0xffff_f000;
            Ok((is_known && declared + 8 > len).then(|| missing(declared + 8 - len)))
        }
        [0xff, 0xd8, 0xff, ..] => jpeg(file, len),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png(file, len),
        _ if head.get(4..8).is_some_and(boxes::is_first) => mp4(file, len, false),
        _ if head.len() > 376 && [0, 188, 376].iter().all(|&at| head[at] == 0x47) && !len.is_multiple_of(188) => {
            Ok(Some("it ends within a packet".to_owned()))
        }
        _ => Ok(None),
    }
}

fn missing(bytes: u64) -> String {
    format!("{bytes} bytes are missing at its end")
}

const NO_INDEX: &str = "its index (moov) is missing";

/// Walks over the boxes of an MP4 or MOV, as far as its index if `to_index`.
fn mp4(file: impl Read + Seek, len: u64, to_index: bool) -> io::Result<Option<String>> {
    let mut file = BoxReader(file);
    let (mut at, mut has_index, mut has_media) = (0u64, false, false);
    for _ in 0..BOXES_MAX {
        if at + 8 > len {
            break;
        }
        // Without a valid size, the rest of the file cannot be judged.
        let Some(FileBox { kind, body }) = file.first(at..len)? else { return Ok(None) };
        has_index |= &kind == b"moov";
        has_media |= &kind == b"mdat";
        if to_index && has_index {
            return Ok(None);
        }
        if body.end > len {
            let missing = missing(body.end - len);
            return Ok(Some(if has_index { missing } else { format!("{missing}, and with them its index (moov)") }));
        }
        at = body.end;
    }
    Ok((has_media && !has_index).then(|| NO_INDEX.to_owned()))
}

/// Walks over the elements of a Matroska or WebM file. A file that was written to a pipe has no length of the whole, but its clusters
/// or the blocks in them have lengths.
fn matroska(mut file: impl Read + Seek, len: u64) -> io::Result<Option<String>> {
    let cut = |_| Some("it ends within an element".to_owned());
    for _ in 0..PARTS_MAX {
        if file.stream_position()? >= len {
            break;
        }
        match ebml_number(&mut file, true).and_then(|id| Ok((id, ebml_number(&mut file, false)?))) {
            Ok((Some(_), Some(size))) => {
                let end = file.stream_position()?.saturating_add(size);
                if end > len {
                    return Ok(Some(missing(end - len)));
                }
                file.seek(SeekFrom::Start(end))?;
            }
            // Of unknown length: its content follows.
            Ok((Some(_), None)) => {}
            // Damaged: the rest of the file cannot be judged.
            Ok((None, _)) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(cut(e)),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// A number of EBML (RFC 8794, section 4), with its length marker for an ID; [`None`] for "unknown" and for none.
fn ebml_number(file: &mut impl Read, is_id: bool) -> io::Result<Option<u64>> {
    let mut first = [0];
    file.read_exact(&mut first)?;
    let more = first[0].leading_zeros() as usize;
    if more > 7 {
        return Ok(None);
    }
    let mut rest = [0; 7];
    file.read_exact(&mut rest[..more])?;
    let marker = 0x80u8 >> more;
    let lead = if is_id { first[0] } else { first[0] & !marker };
    let value = rest[..more].iter().fold(u64::from(lead), |value, byte| value << 8 | u64::from(*byte));
    let unknown = (1u64 << (7 * (more + 1))) - 1;
    Ok((is_id || value != unknown).then_some(value))
}

/// Walks over the segments of a JPEG up to its pictures' data, and looks for the end marker behind.
fn jpeg(mut file: impl Read + Seek, len: u64) -> io::Result<Option<String>> {
    let cut = Ok(Some("its end marker is missing".to_owned()));
    let mut at = 2;
    loop {
        if at + 4 > len {
            return cut;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 4];
        file.read_exact(&mut header)?;
        match header {
            [0xff, 0xda, ..] => break,
            // Fill bytes.
            [0xff, 0xff, ..] => at += 1,
            [0xff, _, high, low] => at += 2 + u64::from(u16::from_be_bytes([high, low])).max(2),
            // No marker: damaged, and its end is unknown.
            _ => return Ok(None),
        }
    }
    let (mut rest, mut last) = (file.take(PICTURE_MAX), 0);
    let mut piece = [0; 8192];
    loop {
        let read = rest.read(&mut piece)?;
        if read == 0 {
            return cut;
        }
        for &byte in &piece[..read] {
            if (last, byte) == (0xff, 0xd9) {
                return Ok(None);
            }
            last = byte;
        }
    }
}

/// Walks over the chunks of a PNG up to its last.
fn png(mut file: impl Read + Seek, len: u64) -> io::Result<Option<String>> {
    let mut at = 8;
    for _ in 0..PARTS_MAX {
        if at + 12 > len {
            return Ok(Some("its last chunk is missing".to_owned()));
        }
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 8];
        file.read_exact(&mut header)?;
        let [a, b, c, d, kind @ ..] = header;
        let end = at + 12 + u64::from(u32::from_be_bytes([a, b, c, d]));
        if end > len {
            return Ok(Some(missing(end - len)));
        }
        if &kind == b"IEND" {
            return Ok(None);
        }
        at = end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boxes::boxed;

    fn cut(bytes: &[u8]) -> Option<String> {
        find_cut(io::Cursor::new(bytes), bytes.len() as u64).unwrap()
    }

    /// `bytes` are complete, and every prefix of at least `least` bytes is truncated.
    fn check(bytes: &[u8], least: usize) {
        assert_eq!(cut(bytes), None, "whole");
        for len in least..bytes.len() {
            assert!(cut(&bytes[..len]).is_some(), "{len} of {}", bytes.len());
        }
    }

    #[test]
    fn boxes_that_end_after_the_file_are_truncated() {
        let (index, media) = (boxed(b"moov", &[7; 30]), boxed(b"mdat", &[9; 50]));
        let fast = [boxed(b"ftyp", b"isomiso2"), index.clone(), media.clone()].concat();
        // A truncation between boxes cannot be detected.
        assert_eq!(cut(&fast[..16 + 38]), None);
        check(&fast, 16 + 38 + 8);
        let slow = [boxed(b"ftyp", b"isomiso2"), media, index].concat();
        check(&slow, 16 + 8);
        assert!(cut(&slow[..16 + 40]).unwrap().contains("moov"));
        assert!(cut(&slow[..16 + 58]).unwrap().contains("moov"), "all media, no index");
        let mut large = boxed(b"mdat", &[0; 32]);
        large[..4].copy_from_slice(&1u32.to_be_bytes());
        large[8..16].copy_from_slice(&40u64.to_be_bytes());
        check(&[boxed(b"moov", &[]), large].concat(), 8 + 16);
        let mut open = boxed(b"mdat", &[0; 32]);
        open[..4].copy_from_slice(&[0; 4]);
        assert_eq!(cut(&[boxed(b"moov", &[]), open].concat()), None, "a box of size 0 extends to the end of the file");
    }

    #[test]
    fn a_missing_index_is_detected_before_the_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let missing = |bytes: &[u8]| {
            let path = dir.path().join("a.mp4");
            std::fs::write(&path, bytes).unwrap();
            missing_index(&path)
        };
        let (start, index, media) = (boxed(b"ftyp", b"isomiso2"), boxed(b"moov", &[7; 30]), boxed(b"mdat", &[9; 50]));
        let slow = [start.clone(), media.clone(), index.clone()].concat();
        assert_eq!(missing(&slow), None);
        assert_eq!(missing(&slow[..40]).unwrap(), "34 bytes are missing at its end, and with them its index (moov)");
        assert_eq!(missing(&slow[..16 + 58]).unwrap(), NO_INDEX);
        let fast = [start, index, media].concat();
        assert_eq!(missing(&fast[..fast.len() - 9]), None, "media with an index can be decoded");
        assert_eq!((missing(b"RIFF"), missing(b"RIFF\0\0\0\0WAVE")), (None, None));
    }

    #[test]
    fn stated_lengths_reveal_a_truncation() {
        let head = [0x1a, 0x45, 0xdf, 0xa3, 0x83, 1, 2, 3];
        let segment = |size: &[u8]| [&head[..], &[0x18, 0x53, 0x80, 0x67], size, &[5; 40]].concat();
        check(&segment(&[0x80 | 40]), 8 + 5);
        check(&segment(&[0x40, 40]), 8 + 6);
        check(&segment(&[1, 0, 0, 0, 0, 0, 0, 40]), 8 + 12);
        // The length is unknown, as in a pipe. The clusters or their blocks have lengths.
        for size in [&[0xff][..], &[1, 255, 255, 255, 255, 255, 255, 255]] {
            let head = [&head[..], &[0x18, 0x53, 0x80, 0x67], size].concat();
            let cluster = [&[0x1f, 0x43, 0xb6, 0x75, 0x80 | 20][..], &[5; 20]].concat();
            let open = [&[0x1f, 0x43, 0xb6, 0x75, 0xff, 0xa3, 0x80 | 20][..], &[5; 20]].concat();
            check(&[head.clone(), cluster].concat(), head.len() + 1);
            check(&[head.clone(), open].concat()[..], head.len() + 6);
        }
        let riff = |size: u32| [b"RIFF", &size.to_le_bytes()[..], b"WAVE", &[0; 36]].concat();
        check(&riff(40), 12);
        assert_eq!((cut(&riff(0)), cut(&riff(u32::MAX))), (None, None), "the length is unknown in a pipe");
        assert!(cut(&[[0x47; 188 * 3], [0x47; 188 * 3]].concat()).is_none());
        assert!(cut(&[0x47; 188 * 3 + 5]).is_some());
    }

    #[test]
    fn pictures_without_their_end_are_truncated() {
        // The first segment contains a preview with its own end marker.
        let jpeg =
            [&[0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 1, 2, 0xff, 0xda, 0, 3, 1][..], &[9; 20], &[0xff, 0xd9]];
        check(&jpeg.concat(), 4);
        let chunk =
            |kind: &[u8; 4], body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], kind, body, &[0; 4]].concat();
        let png =
            [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &[0; 13]), chunk(b"IDAT", &[1; 30]), chunk(b"IEND", &[])];
        check(&png.concat(), 8);
        assert_eq!(cut(b"notes about a match, no film of it"), None);
        assert_eq!(cut(b""), None);
    }

    #[test]
    fn unsupported_pictures_are_named() {
        for (head, name) in [
            (&b"GIF89a\xff\xff\xff\xff"[..], Some("GIF")),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Some("AVIF")),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", Some("AVIF")),
            (b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2", None),
            (b"II*\0\x08\0\0\0", Some("TIFF")),
            (b"\xff\xd8\xff\xe0", None),
            (b"", None),
        ] {
            assert_eq!(unsupported(head), name, "{head:?}");
        }
    }
}
