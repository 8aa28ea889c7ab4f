//! ISO 8601 dates with time and zone, as `EXT-X-PROGRAM-DATE-TIME` and `EXT-X-DATERANGE` have them.

use time::{Date, Month, OffsetDateTime};
use touchline_core::time::NANOS_PER_SECOND;

/// The time of an ISO 8601 date with time and zone (`2026-11-23T10:36:08.602Z`, `+0100`, `-05:00`), ns since 1970.
pub(super) fn unix_ns(text: &str) -> Option<i64> {
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
    if !(1..=31).contains(&day) || hour > 24 || minute > 59 || second > 60 {
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
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let first = Date::from_calendar_date(i32::try_from(year).ok()?, month, 1).ok()?;
    // A day that its month does not have belongs to the next.
    let days = i64::from(first.to_julian_day() - OffsetDateTime::UNIX_EPOCH.to_julian_day()) + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset_s;
    seconds.checked_mul(NANOS_PER_SECOND as i64)?.checked_add(fraction_ns.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_with_their_zone() {
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.25Z", 951_825_600_250_000_000),
            ("2026-11-23T11:36:08.602+0100", 1_795_430_168_602_000_000),
            ("2026-11-23T05:36:08.602123456789-05:00", 1_795_430_168_602_123_456),
            ("1969-12-31T23:59:59", -1_000_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
            ("2026-02-29T00:00:00Z", 1_772_323_200_000_000_000),
        ] {
            assert_eq!(unix_ns(text), Some(ns), "{text}");
        }
        for text in ["", "now", "2026-13-01T00:00:00Z", "2026-11-23", "2026-11-23T10:36:08+1", "２026-11-23T10:36:08Z"]
        {
            assert_eq!(unix_ns(text), None, "{text}");
        }
    }
}
