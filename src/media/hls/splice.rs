//! Parses SCTE-35 `splice_info_section`s: where a stream leaves its programme for advertisements, and where it returns.
//!
//! Source: ANSI/SCTE 35 2023r1, 9.6 to 10.3. Sections are untrusted input: lengths and the CRC are checked. Encrypted sections are
//! ignored.

use super::breaks::{AdAction, AdAnnouncement, AdEventId, AdScope};
use super::container::ticks_ns;

/// The table identity of a splice_info_section.
pub(super) const TABLE: u8 = 0xfc;

/// The identifier of splice descriptors: `CUEI`.
const IDENTIFIER: u32 = 0x4355_4549;

/// The command length of encoders that are older than the field.
const LENGTH_UNKNOWN: usize = 0xfff;

/// One announcement and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cue {
    /// On the media's timeline, ns; [`None`]: immediate.
    pub at_ns: Option<u64>,
    pub ad: AdAnnouncement,
}

/// The announcements of advertisement breaks in a section. Empty if it is damaged, encrypted, or about something else.
pub(super) fn cues(section: &[u8]) -> Vec<Cue> {
    read(section).unwrap_or_default()
}

fn read(section: &[u8]) -> Option<Vec<Cue>> {
    let mut bits = ByteReader(section);
    let table = bits.u8()?;
    let length = usize::from(bits.u16()? & 0x0fff);
    let section = section.get(..3 + length)?;
    if table != TABLE || length < 4 || crc32(section) != 0 {
        return None;
    }
    let mut bits = ByteReader(section.get(4..section.len() - 4)?);
    let (flags, low) = (bits.u8()?, bits.u32()?);
    if flags & 0x80 != 0 {
        return None;
    }
    let adjustment = u64::from(flags & 1) << 32 | u64::from(low);
    bits.skip(2)?;
    let length = usize::from(bits.u16()? & 0x0fff);
    let kind = bits.u8()?;
    let mut command = bits;
    let mut cues = Vec::new();
    let mut at = None;
    match kind {
        0x05 => cues.extend(insert(&mut command, adjustment)?),
        0x06 => at = splice_time(&mut command, adjustment)?,
        _ => return None,
    }
    let mut descriptors = if length == LENGTH_UNKNOWN { command } else { ByteReader(bits.0.get(length..)?) };
    let length = usize::from(descriptors.u16()?);
    let mut descriptors = ByteReader(descriptors.0.get(..length)?);
    while let (Some(tag), Some(length)) = (descriptors.u8(), descriptors.u8()) {
        let body = descriptors.take(usize::from(length))?;
        // A splice_insert may carry segmentation descriptors as well: both are about the same break.
        if tag == 0x02 && kind == 0x06 {
            cues.extend(segmentation(body).map(|ad| Cue { at_ns: at, ad }));
        }
    }
    Some(cues)
}

/// `splice_insert()`.
fn insert(bits: &mut ByteReader, adjustment: u64) -> Option<Option<Cue>> {
    let event = AdEventId::Insert(bits.u32()?);
    let ad = |action| AdAnnouncement { action, scope: None, event: Some(event) };
    if bits.u8()? & 0x80 != 0 {
        return Some(Some(Cue { at_ns: None, ad: ad(AdAction::Cancelled) }));
    }
    let flags = bits.u8()?;
    let (is_out, is_programme) = (flags & 0x80 != 0, flags & 0x40 != 0);
    let (has_duration, is_immediate) = (flags & 0x20 != 0, flags & 0x10 != 0);
    let mut at = None;
    if is_programme && !is_immediate {
        at = splice_time(bits, adjustment)?;
    } else if !is_programme {
        for _ in 0..bits.u8()? {
            bits.skip(1)?;
            if !is_immediate {
                at = at.or(splice_time(bits, adjustment)?);
            }
        }
    }
    let mut returns_after_ns = None;
    if has_duration {
        let (high, low) = (bits.u8()?, bits.u32()?);
        let is_automatic = high & 0x80 != 0;
        returns_after_ns = is_automatic.then(|| ticks_ns(u64::from(high & 1) << 32 | u64::from(low)));
    }
    // unique_program_id, avail_num, avails_expected.
    bits.skip(4)?;
    let action = if is_out { AdAction::Out { returns_after_ns } } else { AdAction::In };
    Some(Some(Cue { at_ns: at, ad: ad(action) }))
}

/// `splice_time()`, ns; the inner [`None`] means that it has no time.
fn splice_time(bits: &mut ByteReader, adjustment: u64) -> Option<Option<u64>> {
    let first = bits.u8()?;
    if first & 0x80 == 0 {
        return Some(None);
    }
    let ticks = u64::from(first & 1) << 32 | u64::from(bits.u32()?);
    Some(Some(ticks_ns(ticks.wrapping_add(adjustment) & ((1 << 33) - 1))))
}

/// `segmentation_descriptor()`, if its type begins or ends advertisements.
fn segmentation(body: &[u8]) -> Option<AdAnnouncement> {
    let mut bits = ByteReader(body);
    if bits.u32()? != IDENTIFIER {
        return None;
    }
    let event = Some(AdEventId::Segmentation(bits.u32()?));
    if bits.u8()? & 0x80 != 0 {
        return Some(AdAnnouncement { action: AdAction::Cancelled, scope: None, event });
    }
    let flags = bits.u8()?;
    if flags & 0x80 == 0 {
        let components = usize::from(bits.u8()?);
        bits.skip(6 * components)?;
    }
    let mut returns_after_ns = None;
    if flags & 0x40 != 0 {
        let (high, low) = (bits.u8()?, bits.u32()?);
        returns_after_ns = Some(ticks_ns(u64::from(high) << 32 | u64::from(low))).filter(|ns| *ns > 0);
    }
    bits.skip(1)?;
    let upid = usize::from(bits.u8()?);
    bits.skip(upid)?;
    let kind = bits.u8()?;
    let scope = match kind {
        // Break.
        0x22 | 0x23 => AdScope::Break,
        // Advertisement of the provider, of the distributor.
        0x30..=0x33 => AdScope::Advert,
        // Placement opportunities, and blocks of advertisements, of the provider and of the distributor.
        0x34..=0x37 | 0x44..=0x47 => AdScope::Opportunity,
        _ => return None,
    };
    // In each pair of types, the even one begins.
    let action = if kind & 1 == 0 { AdAction::Out { returns_after_ns } } else { AdAction::In };
    Some(AdAnnouncement { action, scope: Some(scope), event })
}

/// The CRC of MPEG systems; 0 over a section with its CRC (ISO/IEC 13818-1, annex A).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

#[derive(Clone, Copy)]
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A section with this command and these descriptors.
    pub fn section(kind: u8, command: &[u8], descriptors: &[u8]) -> Vec<u8> {
        let length = 17 + command.len() + descriptors.len();
        let mut section = vec![TABLE, 0x30 | (length >> 8) as u8, length as u8, 0, 0, 0, 0, 0, 0, 0, 0xff];
        section.extend([0xf0 | (command.len() >> 8) as u8, command.len() as u8, kind]);
        section.extend(command);
        section.extend((descriptors.len() as u16).to_be_bytes());
        section.extend(descriptors);
        section.extend(crc32(&section).to_be_bytes());
        section
    }

    fn time(ticks: u64) -> [u8; 5] {
        let low = (ticks as u32).to_be_bytes();
        [0xfe | (ticks >> 32) as u8, low[0], low[1], low[2], low[3]]
    }

    /// A splice_insert at a time in ticks. `lasts`: the ticks until the automatic return to the programme.
    pub fn insert_at(event: u32, is_out: bool, at: u64, lasts: Option<u64>) -> Vec<u8> {
        let mut command = event.to_be_bytes().to_vec();
        command.extend([0x7f, 0x4f | u8::from(is_out) << 7 | u8::from(lasts.is_some()) << 5]);
        command.extend(time(at));
        command.extend(lasts.map(time).into_iter().flatten());
        command.extend([0, 1, 0, 0]);
        section(0x05, &command, &[])
    }

    pub fn segment_at(event: u32, kind: u8, at: u64, lasts: Option<u64>) -> Vec<u8> {
        let mut body = b"CUEI".to_vec();
        body.extend(event.to_be_bytes());
        body.extend([0x7f, 0xbf | u8::from(lasts.is_some()) << 6]);
        body.extend(lasts.into_iter().flat_map(|ticks| ticks.to_be_bytes()[3..].to_vec()));
        body.extend([0x08, 3, 1, 2, 3, kind, 1, 1]);
        section(0x06, &time(at), &[&[0x02, body.len() as u8][..], &body].concat())
    }

    fn cue(at_s: u64, action: AdAction, scope: Option<AdScope>, event: AdEventId) -> Vec<Cue> {
        vec![Cue { at_ns: Some(at_s * 1_000_000_000), ad: AdAnnouncement { action, scope, event: Some(event) } }]
    }

    const OUT: AdAction = AdAction::Out { returns_after_ns: None };

    #[test]
    fn splice_inserts_are_read() {
        let lasts = AdAction::Out { returns_after_ns: Some(30_000_000_000) };
        let read = cues(&insert_at(7, true, 900_000, Some(2_700_000)));
        assert_eq!(read, cue(10, lasts, None, AdEventId::Insert(7)));
        assert_eq!(cues(&insert_at(7, false, 900_000, None)), cue(10, AdAction::In, None, AdEventId::Insert(7)));
        // Cancelled; immediate; for one component of the programme.
        let cancelled = cues(&section(0x05, &[0, 0, 0, 7, 0xff], &[]));
        assert_eq!(cancelled[0].ad.action, AdAction::Cancelled);
        let immediate = cues(&section(0x05, &[0, 0, 0, 7, 0x7f, 0xdf, 0, 1, 0, 0], &[]));
        assert_eq!((immediate[0].at_ns, immediate[0].ad.action), (None, OUT));
        let mut component = vec![0, 0, 0, 7, 0x7f, 0x8f, 1, 9];
        component.extend(time(900_000));
        component.extend([0, 1, 0, 0]);
        assert_eq!(cues(&section(0x05, &component, &[])), cue(10, OUT, None, AdEventId::Insert(7)));
        // The time is adjusted, and wraps. The adjustment changes the CRC.
        let mut adjusted = insert_at(7, true, (1 << 33) - 90_000, None);
        adjusted[4..9].copy_from_slice(&[0, 0, 2, 0xbf, 0x20]);
        let end = adjusted.len() - 4;
        let crc = crc32(&adjusted[..end]);
        adjusted[end..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(cues(&adjusted), cue(1, OUT, None, AdEventId::Insert(7)));
    }

    #[test]
    fn segmentation_descriptors_are_read_by_their_types() {
        for (kind, scope) in [
            (0x22, AdScope::Break),
            (0x30, AdScope::Advert),
            (0x32, AdScope::Advert),
            (0x34, AdScope::Opportunity),
            (0x36, AdScope::Opportunity),
            (0x44, AdScope::Opportunity),
        ] {
            let lasts = AdAction::Out { returns_after_ns: Some(30_000_000_000) };
            let read = cues(&segment_at(9, kind, 900_000, Some(2_700_000)));
            assert_eq!(read, cue(10, lasts, Some(scope), AdEventId::Segmentation(9)), "{kind:#x}");
            let read = cues(&segment_at(9, kind + 1, 900_000, None));
            assert_eq!(read, cue(10, AdAction::In, Some(scope), AdEventId::Segmentation(9)), "{kind:#x} + 1");
        }
        // The begin of a programme, a chapter and an overlay are not advertisements.
        for kind in [0x10, 0x11, 0x20, 0x38, 0x40, 0x50] {
            assert!(cues(&segment_at(9, kind, 900_000, None)).is_empty(), "{kind:#x}");
        }
    }

    #[test]
    fn a_section_of_a_public_test_vector_is_read() {
        // ANSI/SCTE 35, 14.1 and 14.2: time_signal with a placement opportunity, splice_insert.
        for (text, event, returns_after_s) in [
            (
                "/DA0AAAAAAAA///wBQb+cr0AUAAeAhxDVUVJSAAAjn/PAAGlmbAICAAAAAAsoKGKNAIAmsnRfg==",
                AdEventId::Segmentation(0x4800_008e),
                307,
            ),
            (
                "/DAvAAAAAAAA///wFAVIAACPf+/+c2nALv4AUsz1AAAAAAAKAAhDVUVJAAABNWLbowo=",
                AdEventId::Insert(0x4800_008f),
                60,
            ),
        ] {
            use base64::Engine as _;
            let section = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            let read = cues(&section);
            assert_eq!((read.len(), read[0].ad.event), (1, Some(event)), "{text}");
            let AdAction::Out { returns_after_ns: Some(ns) } = read[0].ad.action else { panic!("{read:?}") };
            assert_eq!(ns / 1_000_000_000, returns_after_s);
        }
    }

    #[test]
    fn damaged_sections_announce_nothing() {
        for section in [insert_at(7, true, 900_000, Some(1)), segment_at(9, 0x34, 900_000, Some(1))] {
            for n in 0..section.len() {
                assert!(cues(&section[..n]).is_empty());
                let mut damaged = section.clone();
                damaged[n] ^= 0x10;
                assert!(cues(&damaged).is_empty(), "byte {n}");
                // Wrong lengths with a correct CRC.
                let end = damaged.len() - 4;
                let crc = crc32(&damaged[..end]);
                damaged[end..].copy_from_slice(&crc.to_be_bytes());
                cues(&damaged);
            }
        }
    }
}
