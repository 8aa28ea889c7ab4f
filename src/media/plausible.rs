//! Judges whether a source's wall-clock time is plausible. Pure: all times are passed in.
//!
//! Cameras lose their clocks at a power cut and report 1970 or 2036. Packagers restart with the date of their disk image. Some clocks
//! jump by days and back. Each claim is compared with its arrival here and with the claim before it. After an implausible
//! claim, several in a row must agree before the source is believed again.

use serde::{Deserialize, Serialize};

use touchline_core::time::NANOS_PER_SECOND;

/// How far a live source's clock may be from the arrival here, ns. Clocks that run on local time but claim UTC are up to fourteen
/// hours ahead.
pub const OFF_MAX_NS: u64 = 15 * 3600 * NANOS_PER_SECOND;

/// How far two successive claims of one source may differ, ns: more than buffers and networks explain. Smaller corrections of a
/// clock are followed.
const STEP_MAX_NS: u64 = 60 * NANOS_PER_SECOND;

/// How many claims in a row must agree before a source is believed again.
const AGREEING_MIN: u32 = 5;

/// The verdict on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Believed,
    /// Not believed, and the claim before was believed or there was none. Reported once.
    NoLonger,
    /// Still not believed.
    NotYet,
    /// Believed again.
    Again,
}

/// The claims of one source, over all its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    off_max_ns: u64,
    /// How far the last claim was ahead of its arrival, ns.
    last_ns: Option<i128>,
    /// How many claims in a row were plausible and agreed. [`None`]: the source is believed.
    agreeing: Option<u32>,
}

impl Default for Claims {
    fn default() -> Self {
        Self::of_live()
    }
}

impl Claims {
    /// For a live source: its data are new.
    pub fn of_live() -> Self {
        Self::within(OFF_MAX_NS)
    }

    /// For a source whose clock may be up to `off_max_ns` from the arrival. [`u64::MAX`] is for recordings: only jumps are judged.
    pub fn within(off_max_ns: u64) -> Self {
        Self { off_max_ns, last_ns: None, agreeing: None }
    }

    /// Judges the claim `claimed_unix_ns` of data that arrived at `arrived_unix_ns`, both ns since 1970.
    pub fn judge(&mut self, claimed_unix_ns: i64, arrived_unix_ns: i64) -> Verdict {
        let ahead_ns = i128::from(claimed_unix_ns) - i128::from(arrived_unix_ns);
        let is_near = ahead_ns.unsigned_abs() <= u128::from(self.off_max_ns);
        let last_ns = self.last_ns.replace(ahead_ns);
        let agrees = last_ns.is_none_or(|last| (ahead_ns - last).unsigned_abs() <= u128::from(STEP_MAX_NS));
        let was_believed = self.agreeing.is_none();
        match self.agreeing {
            None if is_near && agrees => return Verdict::Believed,
            // The claim that differs may be the first of a new series.
            None => self.agreeing = Some(u32::from(is_near)),
            Some(count) if is_near && agrees => self.agreeing = Some(count + 1),
            Some(_) => self.agreeing = Some(u32::from(is_near)),
        }
        if self.agreeing >= Some(AGREEING_MIN) {
            self.agreeing = None;
            return Verdict::Again;
        }
        if was_believed { Verdict::NoLonger } else { Verdict::NotYet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * S;
    const NOW: i64 = 1_700_000_000 * S;

    /// What becomes of claims that are so far off, one a second.
    fn verdicts(claims: &mut Claims, off: &[i64]) -> Vec<Verdict> {
        (0..).zip(off).map(|(n, off)| claims.judge(NOW + n * S + off, NOW + n * S)).collect()
    }

    #[test]
    fn a_clock_that_is_a_little_or_some_time_zones_off_is_believed() {
        for off in [0, -3 * S, 40 * S, 14 * 3600 * S, -12 * 3600 * S] {
            let said = verdicts(&mut Claims::default(), &[off, off + 2 * S, off - S, off + 30 * S]);
            assert_eq!(said, [Verdict::Believed; 4], "{off}");
        }
    }

    #[test]
    fn a_clock_that_is_years_off_is_told_of_once() {
        for off in [-NOW, 400 * DAY, -DAY, i64::MAX - NOW - 100 * S] {
            let said = verdicts(&mut Claims::default(), &[off; 50]);
            assert_eq!(said[0], Verdict::NoLonger, "{off}");
            assert!(said[1..].iter().all(|s| *s == Verdict::NotYet), "{off}");
        }
    }

    #[test]
    fn a_clock_that_jumps_is_not_believed_in_between() {
        let days: Vec<i64> = (0..40).map(|n| [0, 400 * DAY, -DAY][n % 3]).collect();
        let said = verdicts(&mut Claims::default(), &days);
        assert_eq!(said[..2], [Verdict::Believed, Verdict::NoLonger]);
        assert!(said[2..].iter().all(|s| *s == Verdict::NotYet), "{said:?}");
        // Hours, which are plausible each for itself.
        let hours: Vec<i64> = (0..40).map(|n| [0, 5 * 3600 * S][n % 2]).collect();
        let said = verdicts(&mut Claims::default(), &hours);
        assert_eq!(said.iter().filter(|s| **s == Verdict::NoLonger).count(), 1);
        assert!(!said.contains(&Verdict::Again));
    }

    #[test]
    fn a_clock_that_was_set_right_is_believed_again_when_it_has_stayed_so() {
        let off = [400 * DAY, 400 * DAY, 0, 0, S, 0, 0, 0];
        let said = verdicts(&mut Claims::default(), &off);
        assert_eq!(said[6..], [Verdict::Again, Verdict::Believed], "{said:?}");
        assert_eq!(said.iter().filter(|s| **s == Verdict::NotYet).count(), 5);
        // An hour, by a time server.
        let said = verdicts(&mut Claims::default(), &[0, 3600 * S, 3600 * S, 3600 * S, 3600 * S, 3600 * S]);
        assert_eq!((said[0], said[1], said[5]), (Verdict::Believed, Verdict::NoLonger, Verdict::Again));
    }

    #[test]
    fn recordings_may_be_as_old_as_they_like() {
        let said = verdicts(&mut Claims::within(u64::MAX), &[-900 * DAY, -900 * DAY, -800 * DAY]);
        assert_eq!(said, [Verdict::Believed, Verdict::Believed, Verdict::NoLonger]);
    }
}
