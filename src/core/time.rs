//! Presentation time and the identity of a second. Integers only: no float second is ever stored.
//!
//! Wall time and monotonic time are in [`crate::clock`].

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nanoseconds in one second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Presentation time stamp: nanoseconds of running time since the stream's pipeline started playing.
///
/// Never wall time. Two frames of one run compare by `Pts`; across runs the order is (`RunId`, `Pts`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Pts(pub u64);

impl Pts {
    /// The start of second `index`.
    pub const fn from_second(index: u64) -> Self {
        Self(index * NANOS_PER_SECOND)
    }

    /// The second this time falls in: `floor(pts / 1 s)`.
    pub const fn second(self) -> u64 {
        self.0 / NANOS_PER_SECOND
    }

    /// `self + nanos`, saturating.
    pub const fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Distance in nanoseconds, without sign.
    pub const fn distance(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }

    /// The PTS that lies `samples` samples of `rate` Hz after this one (floor of the exact rational).
    pub const fn plus_samples(self, samples: u64, rate: u32) -> Self {
        Self(self.0 + samples_to_nanos(samples, rate))
    }
}

impl fmt::Display for Pts {
    /// `h:mm:ss.mmm`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0 / 1_000_000;
        let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        write!(f, "{h}:{m:02}:{s:02}.{ms:03}")
    }
}

/// Duration of `samples` samples at `rate` Hz in nanoseconds, rounded down, exact for any length.
pub const fn samples_to_nanos(samples: u64, rate: u32) -> u64 {
    (samples as u128 * NANOS_PER_SECOND as u128 / rate as u128) as u64
}

/// Number of whole samples at `rate` Hz that start within `nanos`, rounded to nearest.
pub const fn nanos_to_samples(nanos: u64, rate: u32) -> u64 {
    ((nanos as u128 * rate as u128 + NANOS_PER_SECOND as u128 / 2) / NANOS_PER_SECOND as u128) as u64
}

/// Number of a run: the data between two discontinuities (start, reconnect, flush, PTS jump). Counts up from 0 within a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct RunId(pub u32);

/// Where a wall time comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WallSource {
    /// An RTCP sender report tied the RTP clock to NTP time.
    RtcpSenderReport,
    /// `EXT-X-PROGRAM-DATE-TIME` of the HLS playlist.
    HlsProgramDateTime,
    /// This machine's clock when the data arrived.
    Arrival,
}

/// Wall time carried beside a second, never used for cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallTime {
    /// Nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
    /// Origin of the time.
    pub source: WallSource,
    /// Maximum error in either direction, by the clock named in `source`, ns. The error of that clock itself is not known.
    pub uncertainty_ns: u64,
}

/// Drift between two clocks, parts per million: twice the tolerance of the crystals in cameras and encoders.
const DRIFT_PPM: u64 = 100;

impl WallTime {
    /// The wall time `by_ns` later by PTS. The uncertainty grows with the distance.
    pub fn moved(self, by_ns: i128) -> Self {
        let unix_ns = i128::from(self.unix_ns) + by_ns;
        let drift_ns = by_ns.unsigned_abs() * u128::from(DRIFT_PPM) / 1_000_000;
        Self {
            unix_ns: unix_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            source: self.source,
            uncertainty_ns: self.uncertainty_ns.saturating_add(u64::try_from(drift_ns).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_cut_on_the_integer_grid() {
        assert_eq!(Pts(0).second(), 0);
        assert_eq!(Pts(999_999_999).second(), 0);
        assert_eq!(Pts(1_000_000_000).second(), 1);
        assert_eq!(Pts::from_second(7), Pts(7_000_000_000));
    }

    #[test]
    fn sample_counting_is_exact_over_a_year() {
        let samples = 44_100u64 * 3600 * 24 * 365;
        assert_eq!(samples_to_nanos(samples, 44_100), 3600 * 24 * 365 * NANOS_PER_SECOND);
        assert_eq!(nanos_to_samples(3600 * 24 * 365 * NANOS_PER_SECOND, 44_100), samples);
        assert_eq!(Pts(1).plus_samples(1, 44_100), Pts(1 + 22_675));
    }

    #[test]
    fn display_reads_as_a_time_code() {
        assert_eq!(Pts(3_723_004_000_000).to_string(), "1:02:03.004");
    }
}
