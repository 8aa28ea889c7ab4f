//! Formats of numbers, times and class names: rounding, RFC 3339, titles.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Six decimals: finer than an f32 probability means anything, and short enough to read.
pub(crate) fn round6(value: f32) -> f64 {
    // `+ 0.0` turns -0 into 0.
    (f64::from(value) * 1e6).round() / 1e6 + 0.0
}

/// Nanoseconds as milliseconds with three decimals.
pub(crate) fn millis(ns: u64) -> f64 {
    (ns as f64 / 1e3).round() / 1e3
}

/// `unix_ns` (nanoseconds since 1970-01-01 UTC) as RFC 3339 in UTC with milliseconds, rounded down.
pub fn rfc3339(unix_ns: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(unix_ns.into()).expect("an i64 reaches from 1677 to 2262");
    let (h, m, s, ms) = time.to_hms_milli();
    format!("{}T{h:02}:{m:02}:{s:02}.{ms:03}Z", time.date())
}

/// Nanoseconds since 1970-01-01 UTC of a time in RFC 3339.
///
/// # Errors
/// If the text is no such time, or before 1677 or after 2262.
pub fn parse_rfc3339(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a time such as 2026-03-29T14:00:00Z (RFC 3339)");
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    time.unix_timestamp_nanos().try_into().map_err(|_| wrong())
}

/// The title of a class: `tabletennis` → `Table tennis`. An unknown class gets a capital letter, and spaces for `-` and
/// `_`.
pub fn class_title(name: &str) -> String {
    let known = match name {
        "americanfootball" => "American football",
        "fieldhockey" => "Field hockey",
        "formula1" => "Formula 1",
        "icehockey" => "Ice hockey",
        "tabletennis" => "Table tennis",
        other => {
            let mut out = String::with_capacity(other.len());
            for (i, c) in other.chars().enumerate() {
                match c {
                    '-' | '_' => out.push(' '),
                    c if i == 0 => out.extend(c.to_uppercase()),
                    c => out.push(c),
                }
            }
            return out;
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_210_096_789_999_999, "2024-02-29T12:34:56.789Z"),
            (951_868_799_999_000_000, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000_000_000, "2000-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854Z"),
            (i64::MIN, "1677-09-21T00:12:43.145Z"),
        ] {
            assert_eq!(rfc3339(ns), text);
            // Cut to milliseconds, the first time is before the range.
            assert!(ns == i64::MIN || parse_rfc3339(text).unwrap().abs_diff(ns) < 1_000_000);
        }
    }

    #[test]
    fn other_times_are_refused() {
        assert_eq!(parse_rfc3339("2024-02-29T14:34:56.5+02:00"), Ok(1_709_210_096_500_000_000));
        for text in ["", "now", "2024-02-30T00:00:00Z", "2024-02-29 12:00", "9999-01-01T00:00:00Z"] {
            assert!(parse_rfc3339(text).unwrap_err().contains("RFC 3339"), "{text}");
        }
    }

    #[test]
    fn numbers_are_short_and_have_no_negative_zero() {
        assert_eq!(round6(0.1), 0.1);
        assert_eq!(serde_json::to_string(&round6(1.0 / 3.0)).unwrap(), "0.333333");
        assert_eq!(serde_json::to_string(&round6(-1e-9)).unwrap(), "0.0");
        assert_eq!(millis(1_234_567), 1.235);
    }

    #[test]
    fn every_class_of_the_study_has_a_title() {
        for name in touchline_core::labels::STUDY_CLASSES {
            let title = class_title(name);
            assert!(title.chars().next().unwrap().is_uppercase(), "{title}");
            assert_eq!(title.to_lowercase().replace(' ', ""), name);
        }
        assert_eq!(class_title("beach-volley_ball"), "Beach volley ball");
    }
}
