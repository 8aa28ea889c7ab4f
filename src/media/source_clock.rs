//! Judges whether a source's wall-clock time is plausible. Pure: all times are passed in.
//!
//! Cameras lose their clocks at a power cut and report 1970 or 2036. Packagers restart with the date of their disk image. Some clocks
//! jump by days and back. Each claim is compared with its arrival here and with the claim before it. After an implausible
//! claim, several in a row must agree before the source is trusted again.

use serde::{Deserialize, Serialize};

use touchline_core::time::NANOS_PER_SECOND;

/// How far a live source's clock may be from the arrival here, ns. Clocks that run on local time but claim UTC are up to fourteen
/// hours ahead.
pub const OFF_MAX_NS: u64 = 15 * 3600 * NANOS_PER_SECOND;

/// How far two successive claims of one source may differ, ns: more than buffers and networks explain. Smaller corrections of a
/// clock are followed.
const STEP_MAX_NS: u64 = 60 * NANOS_PER_SECOND;

/// How many claims in a row must agree before a source is trusted again.
const AGREEING_MIN: u32 = 5;

/// The verdict on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockVerdict {
    /// The claim is used.
    Trusted,
    /// The claim is not used, and the one before was or is missing. Reported once.
    Distrusted,
    /// Still not used.
    StillDistrusted,
    /// Used again. Reported once.
    TrustedAgain,
}

/// The claims of one source, over all its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceClock {
    off_max_ns: u64,
    /// How far the last claim was ahead of its arrival, ns.
    last_ns: Option<i128>,
    /// How many claims in a row were plausible and agreed. [`None`]: the source is trusted.
    agreeing: Option<u32>,
}

impl Default for SourceClock {
    fn default() -> Self {
        Self::live()
    }
}

impl SourceClock {
    /// For a live source, whose data are current.
    pub fn live() -> Self {
        Self::within(OFF_MAX_NS)
    }

    /// For a source whose clock may be up to `off_max_ns` from the arrival. [`u64::MAX`] is for recordings: only jumps are judged.
    pub fn within(off_max_ns: u64) -> Self {
        Self { off_max_ns, last_ns: None, agreeing: None }
    }

    /// Judges the claim `claimed_unix_ns` of data that arrived at `arrived_unix_ns`, both ns since 1970.
    pub fn judge(&mut self, claimed_unix_ns: i64, arrived_unix_ns: i64) -> ClockVerdict {
        let ahead_ns = i128::from(claimed_unix_ns) - i128::from(arrived_unix_ns);
        let is_near = ahead_ns.unsigned_abs() <= u128::from(self.off_max_ns);
        let last_ns = self.last_ns.replace(ahead_ns);
        let agrees = last_ns.is_none_or(|last| (ahead_ns - last).unsigned_abs() <= u128::from(STEP_MAX_NS));
        let was_believed = self.agreeing.is_none();
        match self.agreeing {
            None if is_near && agrees => return ClockVerdict::Trusted,
            // The claim that differs may be the first of a new series.
            None => self.agreeing = Some(u32::from(is_near)),
            Some(count) if is_near && agrees => self.agreeing = Some(count + 1),
            Some(_) => self.agreeing = Some(u32::from(is_near)),
        }
        if self.agreeing >= Some(AGREEING_MIN) {
            self.agreeing = None;
            return ClockVerdict::TrustedAgain;
        }
        if was_believed { ClockVerdict::Distrusted } else { ClockVerdict::StillDistrusted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * S;
    const NOW: i64 = 1_700_000_000 * S;

    /// The verdicts on clock readings with these offsets, one per second.
    fn judge_all(clock: &mut SourceClock, off: &[i64]) -> Vec<ClockVerdict> {
        (0..).zip(off).map(|(n, off)| clock.judge(NOW + n * S + off, NOW + n * S)).collect()
    }

    #[test]
    fn a_clock_that_is_seconds_or_time_zones_off_is_trusted() {
        for off in [0, -3 * S, 40 * S, 14 * 3600 * S, -12 * 3600 * S] {
            let verdicts = judge_all(&mut SourceClock::default(), &[off, off + 2 * S, off - S, off + 30 * S]);
            assert_eq!(verdicts, [ClockVerdict::Trusted; 4], "{off}");
        }
    }

    #[test]
    fn a_clock_that_is_years_off_is_reported_once() {
        for off in [-NOW, 400 * DAY, -DAY, i64::MAX - NOW - 100 * S] {
            let verdicts = judge_all(&mut SourceClock::default(), &[off; 50]);
            assert_eq!(verdicts[0], ClockVerdict::Distrusted, "{off}");
            assert!(verdicts[1..].iter().all(|s| *s == ClockVerdict::StillDistrusted), "{off}");
        }
    }

    #[test]
    fn a_jumping_clock_stays_distrusted() {
        let days: Vec<i64> = (0..40).map(|n| [0, 400 * DAY, -DAY][n % 3]).collect();
        let verdicts = judge_all(&mut SourceClock::default(), &days);
        assert_eq!(verdicts[..2], [ClockVerdict::Trusted, ClockVerdict::Distrusted]);
        assert!(verdicts[2..].iter().all(|s| *s == ClockVerdict::StillDistrusted), "{verdicts:?}");
        // Offsets of hours, each plausible alone.
        let hours: Vec<i64> = (0..40).map(|n| [0, 5 * 3600 * S][n % 2]).collect();
        let verdicts = judge_all(&mut SourceClock::default(), &hours);
        assert_eq!(verdicts.iter().filter(|s| **s == ClockVerdict::Distrusted).count(), 1);
        assert!(!verdicts.contains(&ClockVerdict::TrustedAgain));
    }

    #[test]
    fn a_corrected_clock_is_trusted_again_after_a_while() {
        let off = [400 * DAY, 400 * DAY, 0, 0, S, 0, 0, 0];
        let verdicts = judge_all(&mut SourceClock::default(), &off);
        assert_eq!(verdicts[6..], [ClockVerdict::TrustedAgain, ClockVerdict::Trusted], "{verdicts:?}");
        assert_eq!(verdicts.iter().filter(|s| **s == ClockVerdict::StillDistrusted).count(), 5);
        // A step of one hour, made by a time server.
        let verdicts = judge_all(&mut SourceClock::default(), &[0, 3600 * S, 3600 * S, 3600 * S, 3600 * S, 3600 * S]);
        assert_eq!(
            (verdicts[0], verdicts[1], verdicts[5]),
            (ClockVerdict::Trusted, ClockVerdict::Distrusted, ClockVerdict::TrustedAgain)
        );
    }

    #[test]
    fn recordings_may_be_of_any_age() {
        let verdicts = judge_all(&mut SourceClock::within(u64::MAX), &[-900 * DAY, -900 * DAY, -800 * DAY]);
        assert_eq!(verdicts, [ClockVerdict::Trusted, ClockVerdict::Trusted, ClockVerdict::Distrusted]);
    }
}
