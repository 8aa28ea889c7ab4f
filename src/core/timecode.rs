//! Frame rates and SMPTE timecode, in integers and rationals.
//!
//! Drop-frame timecode (SMPTE ST 12-1) counts every frame and leaves out labels: the first two labels of each minute at 29.97
//! frames a second, and the first four at 59.94, except in minutes that are divisible by ten. Its labels follow the clock to
//! 2.6 frames a day at 29.97.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::{NANOS_PER_SECOND, Pts};

/// Hours, minutes, seconds and frames.
pub type TimecodeLabel = (u32, u32, u32, u32);

/// A frame rate with its way of counting. It is serialised as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub struct FrameRate {
    /// Frames in `denominator` seconds.
    numerator: u32,
    denominator: u32,
    is_drop: bool,
}

/// Every rate by its name.
const RATES: [(&str, FrameRate); 11] = [
    ("23.976", FrameRate::new(24_000, 1001, false)),
    ("24", FrameRate::new(24, 1, false)),
    ("25", FrameRate::new(25, 1, false)),
    ("29.97", FrameRate::new(30_000, 1001, false)),
    ("29.97df", FrameRate::new(30_000, 1001, true)),
    ("30", FrameRate::new(30, 1, false)),
    ("48", FrameRate::new(48, 1, false)),
    ("50", FrameRate::new(50, 1, false)),
    ("59.94", FrameRate::new(60_000, 1001, false)),
    ("59.94df", FrameRate::new(60_000, 1001, true)),
    ("60", FrameRate::new(60, 1, false)),
];

impl FrameRate {
    /// The names of all rates, ascending.
    pub const NAMES: [&str; 11] = {
        let mut names = [""; 11];
        let mut i = 0;
        while i < names.len() {
            names[i] = RATES[i].0;
            i += 1;
        }
        names
    };

    const fn new(numerator: u32, denominator: u32, is_drop: bool) -> Self {
        Self { numerator, denominator, is_drop }
    }

    /// The rate with this name.
    ///
    /// # Errors
    /// Names the rates that exist.
    pub fn parse(name: &str) -> Result<Self, String> {
        let rate = RATES.iter().find(|(known, _)| *known == name).map(|(_, rate)| *rate);
        rate.ok_or_else(|| format!("{name:?} is not a frame rate; choose one of {}", Self::NAMES.join(", ")))
    }

    /// The rate of `numerator` frames in `denominator` seconds, as media state it: 2997/100 is 29.97. [`None`] if none is near.
    pub fn nearest(numerator: u32, denominator: u32, is_drop: bool) -> Option<Self> {
        // Rates with and without the factor 1001/1000 are one part in 1000 apart.
        const PART: u64 = 2500;
        let is_near = |rate: &FrameRate| {
            let given = u64::from(numerator) * u64::from(rate.denominator);
            let own = u64::from(rate.numerator) * u64::from(denominator);
            given.abs_diff(own) <= own / PART
        };
        let rates = RATES.iter().map(|(_, rate)| *rate);
        rates.filter(|rate| denominator > 0 && rate.is_drop == is_drop).find(is_near)
    }

    /// The name, as in [`FrameRate::NAMES`].
    pub fn name(self) -> &'static str {
        RATES.iter().find(|(_, rate)| *rate == self).expect("every rate is made from the table").0
    }

    /// Whether it counts in drop-frame timecode.
    pub const fn is_drop(self) -> bool {
        self.is_drop
    }

    /// Frames a second as numerator and denominator.
    pub const fn ratio(self) -> (u32, u32) {
        (self.numerator, self.denominator)
    }

    /// Frame labels of one second.
    const fn labels(self) -> i64 {
        self.numerator.div_ceil(self.denominator) as i64
    }

    /// Labels that a minute leaves out.
    const fn dropped(self) -> i64 {
        if self.is_drop { self.labels() / 15 } else { 0 }
    }

    const fn frames_in_minute(self) -> i64 {
        self.labels() * 60 - self.dropped()
    }

    const fn frames_in_ten_minutes(self) -> i64 {
        self.frames_in_minute() * 10 + self.dropped()
    }

    /// Frames in 24 hours of timecode.
    pub const fn frames_in_day(self) -> i64 {
        self.frames_in_ten_minutes() * 6 * 24
    }

    /// The frame whose start is nearest to `ns`.
    pub fn frame_at(self, ns: i64) -> i64 {
        let scale = i128::from(self.denominator) * i128::from(NANOS_PER_SECOND);
        let doubled = i128::from(ns) * i128::from(self.numerator) * 2 + scale;
        clamped(doubled.div_euclid(scale * 2))
    }

    /// Start of `frame` in nanoseconds, rounded to the nearest.
    pub fn start_of(self, frame: i64) -> i64 {
        let scale = i128::from(self.numerator);
        let doubled = i128::from(frame) * i128::from(self.denominator) * i128::from(NANOS_PER_SECOND) * 2 + scale;
        clamped(doubled.div_euclid(scale * 2))
    }

    /// The label of `frame`, counted from 00:00:00:00. It wraps after 24 hours.
    pub const fn label(self, frame: i64) -> TimecodeLabel {
        let frame = frame.rem_euclid(self.frames_in_day());
        let (tens, rest) = (frame / self.frames_in_ten_minutes(), frame % self.frames_in_ten_minutes());
        let minutes_dropped = if rest < self.dropped() { 0 } else { (rest - self.dropped()) / self.frames_in_minute() };
        let label = frame + self.dropped() * (9 * tens + minutes_dropped);
        let (seconds, frames) = (label / self.labels(), label % self.labels());
        ((seconds / 3600) as u32, (seconds / 60 % 60) as u32, (seconds % 60) as u32, frames as u32)
    }

    /// The frame with this label.
    ///
    /// # Errors
    /// If there is no such label.
    pub fn frame_of(self, (h, m, s, f): TimecodeLabel) -> Result<i64, String> {
        if h > 23 || m > 59 || s > 59 || i64::from(f) >= self.labels() {
            return Err(format!("hours end at 23, minutes and seconds at 59, frames at {}", self.labels() - 1));
        }
        if s == 0 && i64::from(f) < self.dropped() && !m.is_multiple_of(10) {
            return Err("drop-frame timecode leaves this label out".into());
        }
        let minutes = i64::from(h) * 60 + i64::from(m);
        let label = (minutes * 60 + i64::from(s)) * self.labels() + i64::from(f);
        Ok(label - self.dropped() * (minutes - minutes / 10))
    }

    /// The timecode of `frame`. A semicolon before the frames marks drop-frame timecode.
    pub fn timecode(self, frame: i64) -> Timecode {
        Timecode { label: self.label(frame), is_drop: self.is_drop }
    }

    /// The frame of a timecode such as 10:00:00:00, or 10:00:00;00 in drop-frame timecode.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse_timecode(self, text: &str) -> Result<i64, String> {
        let wrong = |why: &str| format!("timecode {text:?}: {why}");
        if text.contains(';') && !self.is_drop {
            return Err(wrong(&format!("a semicolon means drop-frame timecode, and {} is not", self.name())));
        }
        let fields: Vec<&str> = text.split([':', ';']).collect();
        let number = |field: &str| {
            let is_short = (1..=2).contains(&field.len()) && field.bytes().all(|b| b.is_ascii_digit());
            field.parse().ok().filter(|_| is_short)
        };
        let numbers: Option<Vec<u32>> = fields.iter().map(|field| number(field)).collect();
        match numbers.as_deref() {
            Some(&[h, m, s, f]) => self.frame_of((h, m, s, f)).map_err(|e| wrong(&e)),
            _ => Err(wrong("write hours:minutes:seconds:frames, as in 10:00:00:00")),
        }
    }
}

impl From<FrameRate> for &'static str {
    fn from(rate: FrameRate) -> Self {
        rate.name()
    }
}

impl TryFrom<String> for FrameRate {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
    }
}

/// The timecode of a picture of the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimecodeMark {
    /// Start of the picture.
    pub pts: Pts,
    /// Its number, counted from 00:00:00:00.
    pub frame: i64,
    /// How the timecode counts.
    pub rate: FrameRate,
}

impl TimecodeMark {
    /// How far the time stamps of a picture may be off, ns: containers round them to milliseconds.
    pub const ROUNDING_NS: u64 = 1_000_000;

    /// The first picture that starts at `pts` or later, if the timecode counts on from this picture or counted up to it.
    #[must_use]
    pub fn moved_to(self, pts: Pts) -> Self {
        let distance = signed(pts).saturating_sub(signed(self.pts));
        let nearest = self.rate.frame_at(distance);
        let is_before = self.rate.start_of(nearest).saturating_add(Self::ROUNDING_NS as i64) < distance;
        let moved = nearest.saturating_add(i64::from(is_before));
        let start = signed(self.pts).saturating_add(self.rate.start_of(moved));
        Self {
            // A rounding error must not move it out of its second.
            pts: Pts(u64::try_from(start).unwrap_or(0)).max(pts),
            frame: self.frame.saturating_add(moved).rem_euclid(self.rate.frames_in_day()),
            rate: self.rate,
        }
    }

    /// Whether the timecode counts on from this picture to `other`, before or after it.
    pub fn counts_on_to(self, other: Self) -> bool {
        let expected = self.frame + self.rate.frame_at(signed(other.pts).saturating_sub(signed(self.pts)));
        let day = self.rate.frames_in_day();
        self.rate == other.rate && (other.frame - expected).rem_euclid(day) == 0
    }

    /// The number of the frame that starts nearest to `pts`, counted on from this picture. It does not wrap after 24 hours.
    pub fn frame_at(self, pts: Pts) -> i64 {
        self.frame.saturating_add(self.rate.frame_at(signed(pts).saturating_sub(signed(self.pts))))
    }
}

fn signed(pts: Pts) -> i64 {
    i64::try_from(pts.0).unwrap_or(i64::MAX)
}

const fn clamped(value: i128) -> i64 {
    if value > i64::MAX as i128 {
        i64::MAX
    } else if value < i64::MIN as i128 {
        i64::MIN
    } else {
        value as i64
    }
}

/// A timecode as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timecode {
    label: TimecodeLabel,
    is_drop: bool,
}

impl fmt::Display for Timecode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (h, m, s, f) = self.label;
        write!(out, "{h:02}:{m:02}:{s:02}{}{f:02}", if self.is_drop { ';' } else { ':' })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(name: &str) -> FrameRate {
        FrameRate::parse(name).unwrap()
    }

    #[test]
    fn every_label_of_a_day_follows_the_rule_of_the_standard() {
        for (name, labels, dropped) in
            [("29.97df", 30, 2), ("59.94df", 60, 4), ("29.97", 30, 0), ("25", 25, 0), ("60", 60, 0)]
        {
            let rate = rate(name);
            let mut frame = 0;
            // Counts as the standard says: one label after the other, without those that are left out.
            for (h, m) in (0..24).flat_map(|h| (0..60).map(move |m| (h, m))) {
                for s in 0..60 {
                    let first = if s == 0 && m % 10 != 0 { dropped } else { 0 };
                    for f in 0..labels {
                        if f < first {
                            assert!(rate.frame_of((h, m, s, f)).is_err(), "{name} {h}:{m}:{s}:{f}");
                            continue;
                        }
                        assert_eq!(rate.label(frame), (h, m, s, f), "{name} frame {frame}");
                        assert_eq!(rate.frame_of((h, m, s, f)), Ok(frame), "{name}");
                        frame += 1;
                    }
                }
            }
            assert_eq!(frame, rate.frames_in_day(), "{name}");
            assert_eq!(rate.label(frame), (0, 0, 0, 0), "{name} wraps");
        }
        assert_eq!((rate("29.97df").frames_in_day(), rate("59.94df").frames_in_day()), (2_589_408, 5_178_816));
    }

    #[test]
    fn timecodes_are_written_and_read() {
        for (name, frame, text) in [
            ("25", 90_000, "01:00:00:00"),
            ("29.97df", 1799, "00:00:59;29"),
            ("29.97df", 1800, "00:01:00;02"),
            ("29.97df", 17_982, "00:10:00;00"),
            ("59.94df", 3600, "00:01:00;04"),
            ("23.976", 24, "00:00:01:00"),
        ] {
            assert_eq!(rate(name).timecode(frame).to_string(), text);
            assert_eq!(rate(name).parse_timecode(text), Ok(frame));
        }
        for (name, text) in [
            ("29.97df", "00:01:00;01"),
            ("25", "00:00:00:25"),
            ("25", "00:00:00;24"),
            ("25", "24:00:00:00"),
            ("25", "1:2:3"),
            ("25", "+1:00:00:00"),
            ("25", "000:00:00:00"),
            ("25", ""),
        ] {
            assert!(rate(name).parse_timecode(text).unwrap_err().contains(text), "{text}");
        }
        assert!(FrameRate::parse("26").unwrap_err().contains("29.97df"));
    }

    #[test]
    fn rates_are_found_as_media_state_them() {
        let name = |numerator, denominator, is_drop| {
            FrameRate::nearest(numerator, denominator, is_drop).map_or("none", FrameRate::name)
        };
        assert_eq!([name(2997, 100, true), name(30_000, 1001, false), name(30, 1, false)], ["29.97df", "29.97", "30"]);
        assert_eq!(
            [name(60_000, 1001, true), name(23_976, 1000, false), name(50, 2, false)],
            ["59.94df", "23.976", "25"]
        );
        assert_eq!([name(30, 1, true), name(15, 1, false), name(25, 0, false), name(0, 1, false)], ["none"; 4]);
        for rate in FrameRate::NAMES {
            assert_eq!(FrameRate::try_from(rate.to_owned()).map(<&str>::from), Ok(rate));
        }
    }

    #[test]
    fn a_mark_counts_on_exactly_for_a_day() {
        for name in ["25", "29.97df", "59.94df", "59.94", "23.976"] {
            let rate = rate(name);
            let mark = TimecodeMark { pts: Pts(40_000_000), frame: 107_892, rate };
            for second in (0..200).chain([3599, 3600, 86_399]) {
                let moved = mark.moved_to(Pts::from_second(second));
                assert!(mark.counts_on_to(moved) && moved.counts_on_to(mark), "{name} {second}");
                assert_eq!(moved.pts.second(), second, "{name}: a second has frames");
                // It is the first: the one before starts in the second before.
                let before = signed(moved.pts) - rate.start_of(1) + TimecodeMark::ROUNDING_NS as i64;
                assert!(
                    before < signed(Pts::from_second(second)) + 2 * TimecodeMark::ROUNDING_NS as i64,
                    "{name} {second}"
                );
            }
            assert!(!mark.counts_on_to(TimecodeMark { frame: mark.frame + 1, ..mark }));
        }
        // A picture that a container rounded down still belongs to its second.
        let mark = TimecodeMark { pts: Pts(999_999_000), frame: 0, rate: rate("25") };
        assert_eq!(mark.moved_to(Pts::from_second(1)), TimecodeMark { pts: Pts::from_second(1), ..mark });
        // Timecode begins again at midnight.
        let mark = TimecodeMark { pts: Pts(0), frame: 25 * 86_400 - 1, rate: rate("25") };
        assert_eq!(mark.moved_to(Pts::from_second(1)).frame, 24);
        assert_eq!(mark.frame_at(Pts::from_second(1)), 25 * 86_400 + 24);
    }

    #[test]
    fn frames_and_nanoseconds_are_exact_over_a_week() {
        for name in FrameRate::NAMES {
            let rate = rate(name);
            assert_eq!(rate.name(), name);
            let (numerator, denominator) = rate.ratio();
            let week = 7 * 86_400 * i64::from(numerator) / i64::from(denominator);
            for frame in (0..1000).chain(week - 1000..week) {
                assert_eq!(rate.frame_at(rate.start_of(frame)), frame, "{name}");
                assert_eq!(rate.frame_at(-rate.start_of(frame)), -frame, "{name}");
            }
        }
        // 1001 seconds are 30 000 frames.
        assert_eq!(rate("29.97").frame_at(1001 * 1_000_000_000), 30_000);
        assert_eq!(rate("25").frame_at(19_999_999), 0);
        assert_eq!(rate("25").frame_at(20_000_000), 1);
    }
}
