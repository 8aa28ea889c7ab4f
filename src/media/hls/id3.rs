//! Reads the ID3 tags of HLS: the time of packed audio, and SCTE-35 sections.
//!
//! ID3 has no mark of its own for advertisement breaks. Sections are in `PRIV` frames as binary and in `TXXX` frames as text.
//! Source: ID3v2.4.0 structure and frames; RFC 8216bis, 3.1.4.

use base64::Engine as _;

use super::container::ticks_ns;
use super::splice::{self, Cue};

const HEAD: usize = 10;

/// Owner of the frame with the time of packed audio.
const OWNER: &[u8] = b"com.apple.streaming.transportStreamTimestamp\0";

/// The length of the tag at the start of `bytes`, including its header; [`None`] without a tag.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..HEAD).filter(|head| head.starts_with(b"ID3"))?;
    Some(HEAD + syncsafe(&head[6..]))
}

/// A number with seven bits per byte.
fn syncsafe(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, b| sum << 7 | usize::from(b & 0x7f))
}

/// The time of packed audio in a tag, ns.
pub(super) fn stamp_ns(tag: &[u8]) -> Option<u64> {
    let place = tag.windows(OWNER.len()).position(|w| w == OWNER)? + OWNER.len();
    let ticks = tag.get(place..place + 8)?.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
    Some(ticks_ns(ticks & ((1 << 33) - 1)))
}

/// The announcements of advertisement breaks in a tag.
pub(super) fn cues(tag: &[u8]) -> Vec<Cue> {
    frames(tag).filter_map(|(name, body)| section(name, body)).flat_map(|section| splice::cues(&section)).collect()
}

/// The frames of a tag: name and body.
fn frames(tag: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let is_older = tag.get(3).is_some_and(|version| *version < 4);
    let mut rest = length(tag).and_then(|end| tag.get(HEAD..end.min(tag.len()))).unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, size) = (rest.get(..4)?, rest.get(4..8)?);
        let plain = u32::from_be_bytes(size.try_into().ok()?) as usize;
        let end = HEAD.checked_add(if is_older { plain } else { syncsafe(size) })?;
        let body = rest.get(HEAD..end)?;
        rest = &rest[end..];
        Some((name, body))
    })
}

/// The splice_info_section in a frame.
fn section(name: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let body = match name {
        b"PRIV" => body,
        // A byte for the encoding precedes the text. Sections are ASCII, which is the same in Latin-1 and UTF-8.
        b"TXXX" => body.strip_prefix(&[0]).or(body.strip_prefix(&[3]))?,
        _ => return None,
    };
    let end = body.iter().position(|b| *b == 0)?;
    let (what, value) = (body[..end].to_ascii_lowercase(), &body[end + 1..]);
    if !what.windows(6).any(|w| w == b"scte35") && !what.windows(7).any(|w| w == b"scte-35") {
        return None;
    }
    if name == b"PRIV" {
        return Some(value.to_vec());
    }
    let text = std::str::from_utf8(value).ok()?.trim_matches(['\0', ' ']);
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => hex(digits),
        None => base64::engine::general_purpose::STANDARD.decode(text).ok(),
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::hls::splice::tests::insert_at;

    /// A tag with one frame.
    pub fn tag(name: &str, body: &[u8]) -> Vec<u8> {
        let size = |n: usize| [(n >> 21) as u8 & 127, (n >> 14) as u8 & 127, (n >> 7) as u8 & 127, n as u8 & 127];
        let frame = [name.as_bytes(), &size(body.len()), &[0, 0], body].concat();
        [&b"ID3\x04\0\0"[..], &size(frame.len()), &frame].concat()
    }

    #[test]
    fn sections_in_frames_are_found() {
        let section = insert_at(7, true, 900_000, None);
        let wanted = splice::cues(&section);
        assert_eq!(wanted.len(), 1);
        let hex: String = section.iter().map(|b| format!("{b:02X}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(&section);
        for (name, body) in [
            ("PRIV", [&b"urn:scte:scte35:2013:bin\0"[..], &section[..]].concat()),
            ("TXXX", [&b"\x03SCTE35\0"[..], base64.as_bytes()].concat()),
            ("TXXX", [&b"\0scte-35\0"[..], format!("0x{hex}\0").as_bytes()].concat()),
        ] {
            let tag = tag(name, &body);
            assert_eq!((cues(&tag), length(&tag)), (wanted.clone(), Some(tag.len())), "{name}");
            for n in 0..tag.len() {
                assert!(cues(&tag[..n]).is_empty() || n == tag.len() - 1, "{name}, {n} bytes");
            }
        }
        for (name, body) in [("PRIV", &b"com.example\0abc"[..]), ("TXXX", b"\x03SCTE35\0no"), ("TIT2", b"\x03SCTE35")] {
            assert!(cues(&tag(name, body)).is_empty());
        }
        assert_eq!(length(b"ID"), None);
    }
}
