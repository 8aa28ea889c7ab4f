//! Advertisement breaks announced in playlists and media: each is reported once.

use touchline_core::incident::Incident;

use super::case::{Case, Site, run, secs, shows, whole};
use super::list::segment_of;
use super::material::{self, BASE, file};
use super::play::Outcome;
use super::server::Answer;

/// The CRC of MPEG systems.
fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

/// An immediate `splice_insert`.
fn splice(event: u8, is_out: bool) -> Vec<u8> {
    let mut section = vec![0xfc, 0x30, 27, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, 10, 5];
    section.extend([0, 0, 0, event, 0x7f, if is_out { 0xdf } else { 0x5f }, 0, 1, 0, 0, 0, 0]);
    section.extend(crc32(&section).to_be_bytes());
    section
}

/// The MPEG-TS segment `path` with an SCTE-35 PID in its program map and these sections at its end.
fn with_sections(path: &str, sections: &[Vec<u8>]) -> Vec<u8> {
    const MAP: u16 = 0x1000;
    const MARKS: u16 = 0x1f0;
    let mut all = Vec::new();
    for packet in file(path).chunks_exact(188) {
        let mut packet = packet.to_vec();
        if u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]) == MAP {
            let at = 5 + usize::from(packet[4]);
            let end = at + 3 + usize::from(packet[at + 2]) - 4;
            packet.truncate(end);
            packet.extend([0x86, 0xe0 | (MARKS >> 8) as u8, MARKS as u8, 0xf0, 0]);
            packet[at + 2] += 5;
            let crc = crc32(&packet[at..]);
            packet.extend(crc.to_be_bytes());
            packet.resize(188, 0xff);
        }
        all.extend(packet);
    }
    for (n, section) in sections.iter().enumerate() {
        let mut packet = vec![0x47, 0x40 | (MARKS >> 8) as u8, MARKS as u8, 0x10 | n as u8, 0];
        packet.extend(section);
        packet.resize(188, 0xff);
        all.extend(packet);
    }
    all
}

/// The fragmented MP4 segment `path` after an event message for this second.
fn with_message(path: &str, second: u32, section: &[u8]) -> Vec<u8> {
    let mut message = b"emsg\x01\0\0\0".to_vec();
    message.extend(1u32.to_be_bytes());
    message.extend(u64::from(second).to_be_bytes());
    message.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    message.extend(b"urn:scte:scte35:2013:bin\0\0");
    message.extend(section);
    [&(4 + message.len() as u32).to_be_bytes()[..], &message, &file(path)].concat()
}

fn breaks(wanted: &'static [Incident]) -> impl Fn(&Outcome, &[super::server::Request]) -> Result<(), String> {
    move |outcome, _| {
        let is_break = |i: &&Incident| matches!(i, Incident::AdBreakBegan | Incident::AdBreakEnded);
        let reported: Vec<Incident> = outcome.incidents.iter().filter(is_break).copied().collect();
        if reported == wanted { Ok(()) } else { Err(format!("{reported:?} instead of {wanted:?}")) }
    }
}

const ONE: &[Incident] = &[Incident::AdBreakBegan, Incident::AdBreakEnded];

/// The segments of a folder with the tags `out` before the third and `back` before the fifth.
fn list(folder: &str, extension: &str, out: &str, back: &str) -> String {
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n");
    if extension == "m4s" {
        text += &format!("#EXT-X-MAP:URI=\"{folder}/init.mp4\"\n");
    }
    for n in 0..6 {
        text += if n == 2 { out } else { "" };
        text += if n == 4 { back } else { "" };
        text += &format!("{}\n", segment_of("2.0", &format!("{folder}/s{n}.{extension}")));
    }
    text + "#EXT-X-ENDLIST\n"
}

#[test]
fn each_advertisement_break_is_reported_once() {
    assert!(material::files().contains_key("ts/s2.ts"));
    let ts = |tags: (&str, &str)| {
        // The start of the break is repeated, as in the field.
        let out = with_sections("ts/s2.ts", &[splice(1, true), splice(1, true), splice(2, true)]);
        Site::new()
            .text("x.m3u8", list("ts", "ts", tags.0, tags.1))
            .answers("ts/s2.ts", Answer::bytes(out))
            .answers("ts/s4.ts", Answer::bytes(with_sections("ts/s4.ts", &[splice(1, false)])))
    };
    let mp4 = Site::new()
        .text("x.m3u8", list("f4", "m4s", "", ""))
        .answers("f4/s0.m4s", Answer::bytes(with_message("f4/s0.m4s", 5, &splice(1, true))))
        .answers("f4/s3.m4s", Answer::bytes(with_message("f4/s3.m4s", 9, &splice(1, false))));
    let damaged = {
        let mut section = splice(1, true);
        section[14] ^= 1;
        Site::new()
            .text("x.m3u8", list("ts", "ts", "", ""))
            .answers("ts/s2.ts", Answer::bytes(with_sections("ts/s2.ts", &[section])))
    };
    let tags = ("#EXT-X-CUE-OUT:4\n", "#EXT-X-CUE-IN\n");
    run(vec![
        Case::new("breaks: tags alone", Site::new().text("x.m3u8", list("ts", "ts", tags.0, tags.1)), whole())
            .check(breaks(ONE)),
        Case::new("breaks: SCTE-35 in MPEG-TS", ts(("", "")), shows(secs(BASE, 0..12))).check(breaks(ONE)),
        Case::new("breaks: SCTE-35 in MPEG-TS and tags", ts(tags), whole()).check(breaks(ONE)),
        Case::new("breaks: event messages in fMP4", mp4, whole()).check(breaks(ONE)),
        Case::new("breaks: a damaged section", damaged, whole()).check(breaks(&[])),
    ]);
}
