//! ISO 8601 dates with time and zone, as `EXT-X-PROGRAM-DATE-TIME` and `EXT-X-DATERANGE` have them.

use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The time of an ISO 8601 date with time and zone (`2026-11-23T10:36:08.602Z`, `+0100`, `-05:00`), ns since 1970. Without a zone it
/// is UTC.
pub(super) fn unix_ns(text: &str) -> Option<i64> {
    let mut text = text.trim().to_ascii_uppercase().replacen(' ', "T", 1);
    // ISO 8601 has either no colons or colons in the time and the zone. Many packagers write them in the time only.
    if let Some(sign) = text.rfind(['+', '-']).filter(|sign| text.len() - sign == "+0100".len() && text.contains(':')) {
        text.insert(sign + "+01".len(), ':');
    }
    let date = OffsetDateTime::parse(&text, &Iso8601::PARSING)
        .or_else(|_| PrimitiveDateTime::parse(&text, &Iso8601::PARSING).map(PrimitiveDateTime::assume_utc));
    i64::try_from(date.ok()?.unix_timestamp_nanos()).ok()
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
            ("2026-11-23T05:36:08.602123456789-05:00", 1_795_430_168_602_123_457),
            ("1969-12-31T23:59:59", -1_000_000_000),
            ("2026-11-23 10:36:08,602z", 1_795_430_168_602_000_000),
            // A leap second is read as the last nanosecond before it.
            ("2016-12-31T23:59:60Z", 1_483_228_799_999_999_999),
        ] {
            assert_eq!(unix_ns(text), Some(ns), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-23",
            "2026-11-23T10:36:08+1",
            "２026-11-23T10:36:08Z",
        ] {
            assert_eq!(unix_ns(text), None, "{text}");
        }
    }
}
