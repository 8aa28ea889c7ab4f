//! Reads from MPEG-TS the start times of tracks and the announcements of advertisement breaks (ISO/IEC 13818-1, 2.4).

use super::container::{Container, Starts, ticks_ns};
use super::id3;
use super::splice::{self, Cue};

pub(super) const PACKET: usize = 188;
pub(super) const SYNC: u8 = 0x47;

/// The longest section or ID3 tag, bytes.
const MARK_MAX: usize = 16 << 10;

/// The most announcements of one piece.
const CUES_MAX: usize = 64;

/// The offset of the first packet. Some broadcasters put a few bytes before it.
fn first_packet(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len().min(4 * PACKET)).find(|&at| {
        let is_sync = |n: usize| bytes.get(at + n * PACKET).is_none_or(|b| *b == SYNC);
        bytes[at] == SYNC && bytes.len() >= at + PACKET && (0..4).all(is_sync)
    })
}

pub(super) fn is_ts(bytes: &[u8]) -> bool {
    first_packet(bytes).is_some()
}

/// The properties of a piece of MPEG-TS.
#[derive(Debug, Default)]
pub(super) struct TsSummary {
    /// The presentation times of the first picture and of the first sound, ns.
    pub starts: Starts,
    /// The latest presentation time of a picture, or of sound without pictures, ns. If times wrap, the one after the wrap.
    pub last_ns: Option<u64>,
    pub cues: Vec<Cue>,
}

/// Scans all packets of `bytes`.
pub(super) fn inspect(bytes: &[u8]) -> TsSummary {
    let mut scan = TsScanner::default();
    for packet in bytes[first_packet(bytes).unwrap_or(bytes.len())..].chunks_exact(PACKET) {
        scan.packet(packet);
    }
    TsSummary { starts: scan.starts, last_ns: scan.last_ns(), cues: scan.cues }
}

/// Collects the properties of packets.
#[derive(Debug, Default)]
pub(super) struct TsScanner {
    /// The PID of the programme's map.
    map: Option<u16>,
    /// The PIDs of its pictures and of its sound.
    tracks: [Option<u16>; 2],
    starts: Starts,
    last: [Option<u64>; 2],
    /// The presentation time of the last picture, or of sound without pictures, ns.
    pub newest_ns: Option<u64>,
    /// The body of the programme's map.
    programme: Vec<u8>,
    marks: Vec<CueStream>,
    pub cues: Vec<Cue>,
}

/// A PID that carries announcements, and the incomplete one that is arriving.
#[derive(Debug)]
struct CueStream {
    pid: u16,
    kind: CueStreamKind,
    /// For ID3: the presentation time of its PES packet, ns.
    pts_ns: Option<u64>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CueStreamKind {
    /// Sections of SCTE-35, stream type 0x86.
    Splice,
    /// ID3 tags in PES packets, stream type 0x15.
    Id3,
}

impl TsScanner {
    pub fn packet(&mut self, packet: &[u8]) {
        if packet[0] != SYNC {
            return;
        }
        let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
        let is_start = packet[1] & 0x40 != 0;
        if let Some(index) = self.marks.iter().position(|marks| marks.pid == pid) {
            if let Some(payload) = payload(packet) {
                let now_ns = self.last_ns();
                self.marks[index].take(payload, is_start, now_ns, &mut self.cues);
            }
            return;
        }
        let Some(payload) = Some(packet).filter(|_| is_start).and_then(payload) else { return };
        if pid == 0 {
            let map = section(payload, 0).and_then(first_programme);
            // A restarted encoder may assign other PIDs.
            if map.is_some() && map != self.map {
                self.map = map;
                self.programme.clear();
                self.marks.clear();
                self.tracks = Default::default();
            }
        } else if Some(pid) == self.map {
            // Repeated ten times per second, and rarely changed.
            if let Some(body) = section(payload, 2).filter(|body| *body != self.programme) {
                self.programme = body.to_vec();
                (self.tracks, self.marks) = streams(body);
            }
        } else if let Some(index) = self.tracks.iter().position(|track| *track == Some(pid))
            && let Some(pts) = pts(payload)
        {
            self.starts[index] = self.starts[index].or(Some(pts));
            if index == 0 || self.tracks[0].is_none() {
                self.newest_ns = Some(pts);
            }
            let is_later = |before: u64| super::container::distance_ns(Container::MpegTs, before, pts) > 0;
            if self.last[index].is_none_or(is_later) {
                self.last[index] = Some(pts);
            }
        }
    }

    /// As [`TsSummary::last_ns`].
    pub fn last_ns(&self) -> Option<u64> {
        self.last[0].or(self.last[1])
    }
}

impl CueStream {
    /// Takes the payload of a packet. `now_ns`: the current presentation time, for announcements without a time.
    fn take(&mut self, payload: &[u8], is_start: bool, now_ns: Option<u64>, cues: &mut Vec<Cue>) {
        match (self.kind, is_start) {
            (CueStreamKind::Splice, true) => {
                let Some((pointer, rest)) = payload.split_first() else { return };
                let (end, rest) = rest.split_at(rest.len().min(usize::from(*pointer)));
                if !self.bytes.is_empty() {
                    self.bytes.extend(end);
                    self.sections(now_ns, cues);
                }
                self.bytes = rest.to_vec();
                self.sections(now_ns, cues);
            }
            (CueStreamKind::Id3, true) => {
                self.pts_ns = pts(payload).or(now_ns);
                let head = payload.get(8).map_or(payload.len(), |length| 9 + usize::from(*length));
                self.bytes = payload.get(head..).unwrap_or_default().to_vec();
                self.tag(cues);
            }
            (_, false) if self.bytes.is_empty() || self.bytes.len() > MARK_MAX => self.bytes.clear(),
            (kind, false) => {
                self.bytes.extend(payload);
                if kind == CueStreamKind::Splice { self.sections(now_ns, cues) } else { self.tag(cues) }
            }
        }
    }

    /// Reads the complete sections.
    fn sections(&mut self, now_ns: Option<u64>, cues: &mut Vec<Cue>) {
        while let [table, b1, b2, ..] = self.bytes[..] {
            let length = 3 + (usize::from(b1 & 0x0f) << 8 | usize::from(b2));
            // 0xff fills the rest of a packet; other tables are not expected here.
            if table != splice::TABLE {
                self.bytes.clear();
            } else if self.bytes.len() < length {
                return;
            } else {
                let section: Vec<u8> = self.bytes.drain(..length).collect();
                let found = splice::cues(&section).into_iter();
                let room = CUES_MAX.saturating_sub(cues.len());
                cues.extend(found.map(|cue| Cue { at_ns: cue.at_ns.or(now_ns), ..cue }).take(room));
            }
        }
    }

    /// Reads the ID3 tag if it is complete.
    fn tag(&mut self, cues: &mut Vec<Cue>) {
        if let Some(length) = id3::length(&self.bytes).filter(|length| *length <= self.bytes.len()) {
            let found = id3::cues(&self.bytes[..length]).into_iter();
            let room = CUES_MAX.saturating_sub(cues.len());
            cues.extend(found.map(|cue| Cue { at_ns: cue.at_ns.or(self.pts_ns), ..cue }).take(room));
            self.bytes.clear();
        }
    }
}

/// The payload of a packet, if it has one.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let control = packet[3] >> 4 & 3;
    let skip = if control & 2 != 0 { 1 + usize::from(packet[4]) } else { 0 };
    if control & 1 == 0 { None } else { packet.get(4 + skip..) }
}

/// The body of a section with table id `table`, between its header of 8 bytes and its checksum.
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

/// The PIDs of the first pictures and of the first sound in a body of a PMT, and those that carry announcements.
fn streams(body: &[u8]) -> ([Option<u16>; 2], Vec<CueStream>) {
    let (mut tracks, mut marks) = ([None, None], Vec::new());
    let Some(head) = body.get(..4) else { return (tracks, marks) };
    let mut at = 4 + (usize::from(head[2] & 0x0f) << 8 | usize::from(head[3]));
    while let Some(stream) = body.get(at..at + 5) {
        let pid = u16::from(stream[1] & 0x1f) << 8 | u16::from(stream[2]);
        let length = usize::from(stream[3] & 0x0f) << 8 | usize::from(stream[4]);
        let descriptors = body.get(at + 5..at + 5 + length).unwrap_or_default();
        let mut carries = |kind| marks.push(CueStream { pid, kind, pts_ns: None, bytes: Vec::new() });
        let index = match stream[0] {
            0x01 | 0x02 | 0x10 | 0x1b | 0x24 | 0x42 | 0xd1 | 0xea => Some(0),
            0x03 | 0x04 | 0x0f | 0x11 | 0x81 | 0x87 => Some(1),
            // Private data: AC-3, E-AC-3, DTS and AAC name themselves in descriptors, Opus by its registration.
            0x06 if has_sound(descriptors) => Some(1),
            0x15 => {
                carries(CueStreamKind::Id3);
                None
            }
            // Also that of DTS-HD on discs, whose packets hold no section with a right CRC.
            0x86 => {
                carries(CueStreamKind::Splice);
                None
            }
            _ => None,
        };
        if let Some(index) = index {
            tracks[index] = tracks[index].or(Some(pid));
        }
        at += 5 + length;
    }
    (tracks, marks)
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
    Some(ticks_ns(ticks))
}

#[cfg(test)]
pub(super) mod tests {
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
        let second = touchline_core::time::NANOS_PER_SECOND;
        assert_eq!(inspect(&bytes).starts, [Some(second), Some(super::super::container::WRAP_NS - second)]);
        // Stray bytes before the first packet.
        assert_eq!(inspect(&[&[1, 2, 3][..], &bytes].concat()).starts[0], Some(second));
        let mut alone = stream(&[(0x0f, 0x102)]);
        alone.extend(packet(0x102, &pes(180_000)));
        assert_eq!((inspect(&alone).starts, inspect(&alone).last_ns), ([None, Some(2 * second)], Some(2 * second)));
        assert_eq!(inspect(&bytes).last_ns, Some(second));
    }

    #[test]
    fn truncated_and_foreign_bytes_have_no_times() {
        let bytes = stream(&[(0x1b, 0x101)]);
        for length in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..length]).starts, [None, None]);
        }
        assert!(!is_ts(b"#EXTM3U") && !is_ts(&[0x47; 100]));
    }

    /// Packets of `pid` with all of `payload`. The first has the start flag, and the last is padded.
    pub fn packets(pid: u16, payload: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for (n, piece) in payload.chunks(PACKET - 4).enumerate() {
            let mut packet = packet(pid, piece);
            packet[1] &= if n == 0 { 0xff } else { 0xbf };
            all.extend(packet);
        }
        all
    }

    /// The first packet of a picture of [`marked`] streams.
    pub fn picture(ticks: u64) -> Vec<u8> {
        packet(0x101, &pes(ticks))
    }

    /// An ID3 tag in a PES packet.
    pub fn id3_pes(ticks: u64, tag: &[u8]) -> Vec<u8> {
        [&pes(ticks)[..], tag].concat()
    }

    /// A segment that begins at `ticks` with pictures at PID 0x101, and carries these sections (0x102) and tags (0x103).
    pub fn marked(ticks: u64, sections: &[Vec<u8>], tags: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = stream(&[(0x1b, 0x101), (0x86, 0x102), (0x15, 0x103)]);
        bytes.extend(packet(0x101, &pes(ticks)));
        for section in sections {
            bytes.extend(packets(0x102, &[&[0u8][..], section].concat()));
        }
        for (ticks, tag) in tags {
            bytes.extend(packets(0x103, &id3_pes(*ticks, tag)));
        }
        bytes
    }

    #[test]
    fn announcements_are_read_from_sections_and_tags() {
        use crate::hls::{id3, splice};
        let second = touchline_core::time::NANOS_PER_SECOND;
        let section = splice::tests::insert_at(7, true, 900_000, None);
        let immediate = splice::tests::section(0x05, &[0, 0, 0, 8, 0x7f, 0x5f, 0, 1, 0, 0], &[]);
        // Longer than a packet: a private descriptor first.
        let long = splice::tests::section(0x06, &[0xfe, 0, 0x0d, 0xbb, 0xa0], &{
            let body = [&b"CUEI"[..], &[0, 0, 0, 9, 0x7f, 0xbf, 0x08, 0, 0x34, 0, 0]].concat();
            [&[0xf0u8, 200][..], &[1; 200], &[0x02, body.len() as u8], &body].concat()
        });
        let tag = id3::tests::tag("PRIV", &[&b"scte35\0"[..], &immediate[..]].concat());
        let long_tag = id3::tests::tag("TXXX", &[7; 500]);
        let tags = [(270_000, tag), (270_000, long_tag)];
        let bytes = marked(180_000, &[section.clone(), immediate, long], &tags);
        let info = inspect(&bytes);
        let times: Vec<_> = info.cues.iter().map(|cue| cue.at_ns.map(|ns| ns / second)).collect();
        assert_eq!(times, [Some(10), Some(2), Some(10), Some(3)], "{:?}", info.cues);
        assert_eq!(info.starts[0], Some(2 * second));
        // Two sections in one payload. The second one ends in the next packet.
        let mut bytes = stream(&[(0x1b, 0x101), (0x86, 0x102)]);
        let (head, tail) = section.split_at(20);
        bytes.extend(packet(0x102, &[&[0u8][..], &section, head].concat()[..1 + section.len() + 20]));
        let mut first = bytes.split_off(bytes.len() - PACKET);
        // There is no padding between the head of a section and its tail: an adaptation field fills the packet.
        let used = 1 + section.len() + 20;
        let field = PACKET - 4 - used;
        let payload = first[4..4 + used].to_vec();
        first.truncate(3);
        first.extend([0x30, (field - 1) as u8]);
        first.extend(vec![0; field - 1]);
        first.extend(payload);
        bytes.extend(first);
        bytes.extend(packet(0x102, &[&[tail.len() as u8][..], tail].concat()));
        assert_eq!(inspect(&bytes).cues.len(), 2);
        for length in 0..bytes.len() {
            inspect(&bytes[..length]);
        }
    }
}
