//! The little of MPEG-TS that says when its tracks begin (ISO/IEC 13818-1, 2.4).

use super::container::{Container, Starts};
use crate::time::samples_to_nanos;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;

/// Where the packets begin: broadcasters put a few odd bytes before them.
fn first_packet(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len().min(4 * PACKET)).find(|&at| {
        let is_sync = |n: usize| bytes.get(at + n * PACKET).is_none_or(|b| *b == SYNC);
        bytes[at] == SYNC && bytes.len() >= at + PACKET && (0..4).all(is_sync)
    })
}

pub(super) fn is_ts(bytes: &[u8]) -> bool {
    first_packet(bytes).is_some()
}

/// The presentation times of the first picture and of the first sound, ns.
pub(super) fn starts(bytes: &[u8]) -> Starts {
    let mut starts = [None, None];
    each_time(bytes, &mut |index, pts, has_tracks| {
        starts[index] = starts[index].or(Some(pts));
        !(0..2).all(|i| !has_tracks[i] || starts[i].is_some())
    });
    starts
}

/// The latest presentation time of a picture, or of sound where there are none, ns. Of times that wrap, the one after that.
pub(super) fn last(bytes: &[u8]) -> Option<u64> {
    let mut last: [Option<u64>; 2] = [None, None];
    each_time(bytes, &mut |index, pts, _| {
        let is_later = |before: u64| super::container::distance_ns(Container::MpegTs, before, pts) > 0;
        if last[index].is_none_or(is_later) {
            last[index] = Some(pts);
        }
        true
    });
    last[0].or(last[1])
}

/// Calls `tell` with each time: its track, its time in ns, and which tracks there are; until it says `false`.
fn each_time(bytes: &[u8], tell: &mut dyn FnMut(usize, u64, [bool; 2]) -> bool) {
    // PIDs of the programme's map, of its pictures, of its sound.
    let (mut map, mut tracks) = (None, [None, None]);
    let packets = bytes[first_packet(bytes).unwrap_or(bytes.len())..].chunks_exact(PACKET);
    for packet in packets.filter(|packet| packet[0] == SYNC && packet[1] & 0x40 != 0) {
        let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
        let Some(payload) = payload(packet) else { continue };
        if pid == 0 && map.is_none() {
            map = section(payload, 0).and_then(first_programme);
        } else if Some(pid) == map && tracks == [None, None] {
            tracks = section(payload, 2).map_or(tracks, first_tracks);
        } else if let Some(index) = tracks.iter().position(|track| *track == Some(pid))
            && let Some(pts) = pts(payload)
            && !tell(index, pts, tracks.map(|track| track.is_some()))
        {
            break;
        }
    }
}

/// The payload of a packet, if it has one.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let control = packet[3] >> 4 & 3;
    let skip = if control & 2 != 0 { 1 + usize::from(packet[4]) } else { 0 };
    if control & 1 == 0 { None } else { packet.get(4 + skip..) }
}

/// The body of a section with table identity `table`, between its head of 8 bytes and its checksum.
fn section(payload: &[u8], table: u8) -> Option<&[u8]> {
    let section = payload.get(1 + usize::from(*payload.first()?)..)?;
    if *section.first()? != table {
        return None;
    }
    let length = usize::from(section.get(1)? & 0x0f) << 8 | usize::from(*section.get(2)?);
    section.get(8..section.len().min((3 + length).saturating_sub(4)))
}

/// The PID of the first programme's map in a body of a PAT; 0 is the network's.
fn first_programme(body: &[u8]) -> Option<u16> {
    let mut programmes = body.chunks_exact(4).filter(|p| p[0] != 0 || p[1] != 0);
    programmes.next().map(|p| u16::from(p[2] & 0x1f) << 8 | u16::from(p[3]))
}

/// The PIDs of the first pictures and of the first sound in a body of a PMT.
fn first_tracks(body: &[u8]) -> [Option<u16>; 2] {
    let mut tracks = [None, None];
    let Some(head) = body.get(..4) else { return tracks };
    let mut at = 4 + (usize::from(head[2] & 0x0f) << 8 | usize::from(head[3]));
    while let Some(stream) = body.get(at..at + 5) {
        let pid = u16::from(stream[1] & 0x1f) << 8 | u16::from(stream[2]);
        let length = usize::from(stream[3] & 0x0f) << 8 | usize::from(stream[4]);
        let descriptors = body.get(at + 5..at + 5 + length).unwrap_or_default();
        let index = match stream[0] {
            0x01 | 0x02 | 0x10 | 0x1b | 0x24 | 0x42 | 0xd1 | 0xea => Some(0),
            0x03 | 0x04 | 0x0f | 0x11 | 0x81 | 0x87 => Some(1),
            // Private data: AC-3, E-AC-3, DTS and AAC name themselves in descriptors, Opus by its registration.
            0x06 if has_sound(descriptors) => Some(1),
            _ => None,
        };
        if let Some(index) = index {
            tracks[index] = tracks[index].or(Some(pid));
        }
        at += 5 + length;
    }
    tracks
}

fn has_sound(mut descriptors: &[u8]) -> bool {
    while let [tag, length, rest @ ..] = descriptors {
        let (body, next) = rest.split_at(rest.len().min(usize::from(*length)));
        if matches!(tag, 0x6a | 0x7a | 0x7b | 0x7c) || (*tag == 0x05 && matches!(body, b"AC-3" | b"EAC3" | b"Opus")) {
            return true;
        }
        descriptors = next;
    }
    false
}

/// The presentation time at the head of a PES packet, ns.
fn pts(payload: &[u8]) -> Option<u64> {
    let head = payload.get(..14).filter(|head| head.starts_with(&[0, 0, 1]) && head[7] & 0x80 != 0)?;
    let bits = |byte: u8, mask: u8| u64::from(byte & mask) >> 1;
    let ticks = bits(head[9], 0x0e) << 30
        | u64::from(head[10]) << 22
        | bits(head[11], 0xfe) << 15
        | u64::from(head[12]) << 7
        | bits(head[13], 0xfe);
    Some(samples_to_nanos(ticks, 90_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![SYNC, 0x40 | (pid >> 8) as u8, pid as u8, 0x10];
        packet.extend(payload);
        packet.resize(PACKET, 0xff);
        packet
    }

    fn pes(ticks: u64) -> Vec<u8> {
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5];
        let part = |shift: u32, mask: u64| ((ticks >> shift) & mask) as u8;
        pes.extend([
            0x21 | part(30, 7) << 1,
            part(22, 0xff),
            part(15, 0x7f) << 1 | 1,
            part(7, 0xff),
            part(0, 0x7f) << 1 | 1,
        ]);
        pes
    }

    fn stream(kinds: &[(u8, u16)]) -> Vec<u8> {
        let pat = [0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0, 0, 0, 0, 0];
        let mut pmt = vec![0, 2, 0xb0, (13 + 5 * kinds.len()) as u8, 0, 1, 0xc1, 0, 0, 0xe1, 1, 0xf0, 0];
        for (kind, pid) in kinds {
            pmt.extend([*kind, 0xe0 | (pid >> 8) as u8, *pid as u8, 0xf0, 0]);
        }
        pmt.extend([0; 4]);
        [packet(0, &pat), packet(0x100, &pmt)].concat()
    }

    #[test]
    fn the_first_times_of_each_track_are_found() {
        let mut bytes = stream(&[(0x1b, 0x101), (0x0f, 0x102)]);
        bytes.extend(packet(0x102, &pes((1 << 33) - 90_000)));
        bytes.extend(packet(0x101, &pes(90_000)));
        bytes.extend(packet(0x101, &pes(0)));
        assert!(is_ts(&bytes));
        let second = crate::time::NANOS_PER_SECOND;
        assert_eq!(starts(&bytes), [Some(second), Some(super::super::container::WRAP_NS - second)]);
        // Odd bytes before the first packet.
        assert_eq!(starts(&[&[1, 2, 3][..], &bytes].concat())[0], Some(second));
        let mut alone = stream(&[(0x0f, 0x102)]);
        alone.extend(packet(0x102, &pes(180_000)));
        assert_eq!(starts(&alone), [None, Some(2 * second)]);
        assert_eq!((last(&bytes), last(&alone)), (Some(second), Some(2 * second)));
    }

    #[test]
    fn what_is_cut_off_or_garbage_is_none() {
        let bytes = stream(&[(0x1b, 0x101)]);
        for length in 0..bytes.len() {
            assert_eq!(starts(&bytes[..length]), [None, None]);
        }
        assert!(!is_ts(b"#EXTM3U") && !is_ts(&[0x47; 100]));
    }
}
