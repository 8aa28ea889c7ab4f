//! What an HLS playlist says beside its media: when its segments were made, and where they do not go on from each other.
//!
//! Source: RFC 8216, *HTTP Live Streaming*, 4.3. GStreamer plays the playlist; this reads only what it keeps to itself.
//! Pure: text in, times out. Playlists are hostile input: every length is bounded, nothing panics.

use crate::time::NANOS_PER_SECOND;

/// Segments that are looked at, from the end: more than two hours of ten-second segments.
const SEGMENTS_MAX: usize = 1_000;

/// The longest segment that is believed, seconds.
const SEGMENT_MAX_S: f64 = 3_600.0;

/// A playlist, as far as it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Playlist {
    /// The address of the first variant, as it stands there.
    Master(String),
    Media(Media),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Media {
    /// Of the first of `segments`.
    pub sequence: u64,
    pub target_ns: u64,
    pub segments: Vec<Segment>,
    /// `EXT-X-ENDLIST`: nothing more comes.
    pub is_over: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub duration_ns: u64,
    /// It does not go on from the one before.
    pub is_break: bool,
    /// When its first picture was taken, ns since 1970-01-01 UTC.
    pub made_ns: Option<i64>,
}

impl Playlist {
    /// [`None`] for what is no playlist.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        if !lines.next()?.starts_with("#EXTM3U") {
            return None;
        }
        let (mut media, mut segment, mut is_master) = (Media::default(), Segment::default(), false);
        let mut duration_ns = None;
        for line in lines.filter(|line| !line.is_empty()) {
            let value = |tag: &str| line.strip_prefix(tag);
            if let Some(value) = value("#EXTINF:") {
                duration_ns = seconds_ns(value.split(',').next().unwrap_or_default());
            } else if let Some(value) = value("#EXT-X-TARGETDURATION:") {
                media.target_ns = seconds_ns(value).unwrap_or(0);
            } else if let Some(value) = value("#EXT-X-MEDIA-SEQUENCE:") {
                media.sequence = value.parse().ok()?;
            } else if let Some(value) = value("#EXT-X-PROGRAM-DATE-TIME:") {
                segment.made_ns = unix_ns(value);
            } else if line == "#EXT-X-DISCONTINUITY" {
                segment.is_break = true;
            } else if line == "#EXT-X-ENDLIST" {
                media.is_over = true;
            } else if line.starts_with("#EXT-X-STREAM-INF:") {
                is_master = true;
            } else if !line.starts_with('#') {
                if is_master {
                    return Some(Playlist::Master(line.to_owned()));
                }
                segment.duration_ns = duration_ns.take()?;
                media.segments.push(std::mem::take(&mut segment));
            }
        }
        let extra = media.segments.len().saturating_sub(SEGMENTS_MAX);
        media.segments.drain(..extra);
        media.sequence = media.sequence.saturating_add(extra as u64);
        Some(Playlist::Media(media))
    }
}

/// Seconds with a fraction, as ns.
fn seconds_ns(text: &str) -> Option<u64> {
    let seconds = text.trim().parse::<f64>().ok()?;
    (0.0..=SEGMENT_MAX_S).contains(&seconds).then(|| (seconds * NANOS_PER_SECOND as f64).round() as u64)
}

/// The time of an ISO 8601 date with time and zone (`2026-11-23T10:36:08.602Z`, `+0100`, `-05:00`), ns since 1970.
fn unix_ns(text: &str) -> Option<i64> {
    let text = text.trim();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let at = |index: usize| text.as_bytes().get(index).copied();
    if (at(4)?, at(7)?, at(13)?, at(16)?) != (b'-', b'-', b':', b':') || !matches!(at(10)?, b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix(['.', ',']).map_or(0, |r| r.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = if digits > 0 { (&rest[1..=digits], &rest[digits + 1..]) } else { ("", rest) };
    let fraction_ns = fraction
        .bytes()
        .take(9)
        .fold((0i64, 100_000_000i64), |(sum, unit), digit| (sum + i64::from(digit - b'0') * unit, unit / 10));
    let offset_s = match zone.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), digits @ ..] => {
            let digits: Vec<i64> =
                digits.iter().filter(|b| **b != b':').map(|b| i64::from(*b) - i64::from(b'0')).collect();
            let [h, i, m, n] = digits[..] else { return None };
            if [h, i, m, n].iter().any(|d| !(0..=9).contains(d)) {
                return None;
            }
            let seconds = ((10 * h + i) * 60 + 10 * m + n) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset_s;
    seconds.checked_mul(NANOS_PER_SECOND as i64)?.checked_add(fraction_ns.0)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
///
/// Source: Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of one.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// What a playlist says about a moment of stream time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Time since the start of the first segment that was ever in the playlist, ns.
    pub stream_ns: u64,
    /// The media before do not go on here.
    pub is_break: bool,
    /// The wall time of the moment, ns since 1970-01-01 UTC.
    pub made_ns: Option<i64>,
}

/// Follows a playlist that moves: where each segment lies in stream time.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// Sequence number that comes next, and where it begins.
    next: Option<(u64, u64)>,
}

impl Course {
    /// What the segments say that were not there before.
    ///
    /// Segments that were missed between two looks are taken to be of target length: what follows them is that uncertain.
    pub fn follow(&mut self, media: &Media) -> Vec<Mark> {
        let (next, mut at_ns) = self.next.unwrap_or((media.sequence, 0));
        let missed = media.sequence.saturating_sub(next);
        at_ns = at_ns.saturating_add(missed.saturating_mul(media.target_ns));
        let known = usize::try_from(next.saturating_sub(media.sequence)).unwrap_or(usize::MAX);
        let mut marks = Vec::new();
        for segment in media.segments.iter().skip(known) {
            if segment.is_break || segment.made_ns.is_some() {
                marks.push(Mark { stream_ns: at_ns, is_break: segment.is_break, made_ns: segment.made_ns });
            }
            at_ns = at_ns.saturating_add(segment.duration_ns);
        }
        let end = media.sequence.saturating_add(media.segments.len() as u64);
        if known <= media.segments.len() {
            self.next = Some((end.max(next), at_ns));
        } else {
            // The numbers went back: another encoder, which begins a stream time of its own.
            self.next = None;
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    fn media(text: &str) -> Media {
        match Playlist::parse(text) {
            Some(Playlist::Media(media)) => media,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_live_playlist_is_read() {
        let text = "#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXT-X-TARGETDURATION:6\r\n#EXT-X-MEDIA-SEQUENCE:41\r\n\
                    #EXT-X-PROGRAM-DATE-TIME:2026-11-23T10:36:08.602+0000\r\n#EXTINF:6.006,title\r\na41.ts\r\n\
                    #EXT-X-DISCONTINUITY\r\n#EXTINF:5,\r\na42.ts\r\n";
        let read = media(text);
        assert_eq!((read.sequence, read.target_ns, read.is_over), (41, 6 * S, false));
        let made_ns = Some(1_795_430_168_602_000_000);
        assert_eq!(
            read.segments,
            [
                Segment { duration_ns: 6_006_000_000, is_break: false, made_ns },
                Segment { duration_ns: 5 * S, is_break: true, made_ns: None },
            ]
        );
        assert!(media("#EXTM3U\n#EXTINF:1,\na\n#EXT-X-ENDLIST").is_over);
        let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow/index.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=2\nhigh.m3u8";
        assert_eq!(Playlist::parse(master), Some(Playlist::Master("low/index.m3u8".into())));
    }

    #[test]
    fn what_is_no_playlist_does_no_harm() {
        for text in ["", "<html>", "#EXTM3U\na.ts", "#EXTM3U\n#EXTINF:x,\na", "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:-1\n"] {
            assert_eq!(Playlist::parse(text), None, "{text:?}");
        }
        assert_eq!(media("#EXTM3U\n#EXTINF:1e300,\n").segments, []);
        let long = format!("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{}\n{}", u64::MAX, "#EXTINF:1,\na\n".repeat(3_000));
        assert_eq!(media(&long).segments.len(), SEGMENTS_MAX);
        assert_eq!(media(&long).sequence, u64::MAX);
        Course { next: Some((u64::MAX, u64::MAX)) }.follow(&media(&long));
    }

    #[test]
    fn dates_are_read_with_their_zone() {
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.25Z", 951_825_600_250_000_000),
            ("2026-11-23T11:36:08.602+0100", 1_795_430_168_602_000_000),
            ("2026-11-23T05:36:08.602123456789-05:00", 1_795_430_168_602_123_456),
            ("1969-12-31T23:59:59", -1_000_000_000),
        ] {
            assert_eq!(unix_ns(text), Some(ns), "{text}");
        }
        for text in ["", "now", "2026-13-01T00:00:00Z", "2026-11-23", "2026-11-23T10:36:08+1", "２026-11-23T10:36:08Z"]
        {
            assert_eq!(unix_ns(text), None, "{text}");
        }
    }

    #[test]
    fn a_moving_playlist_keeps_its_stream_time() {
        let at = |sequence: u64, segments: &[(u64, bool)]| Media {
            sequence,
            target_ns: 6 * S,
            segments: segments
                .iter()
                .map(|&(s, is_break)| Segment { duration_ns: s * S, is_break, made_ns: None })
                .collect(),
            is_over: false,
        };
        let mut course = Course::default();
        let breaks = |marks: Vec<Mark>| marks.iter().map(|m| m.stream_ns / S).collect::<Vec<_>>();
        assert_eq!(breaks(course.follow(&at(10, &[(6, false), (6, true), (4, false)]))), [6]);
        // The same again says nothing new; then one segment goes and one comes.
        assert_eq!(breaks(course.follow(&at(10, &[(6, false), (6, true), (4, false)]))), [0; 0]);
        assert_eq!(breaks(course.follow(&at(11, &[(6, true), (4, false), (6, true)]))), [16]);
        // Two were missed.
        assert_eq!(breaks(course.follow(&at(16, &[(6, true)]))), [34]);
        // Another encoder.
        assert_eq!(breaks(course.follow(&at(0, &[(6, true)]))), [0; 0]);
    }
}
