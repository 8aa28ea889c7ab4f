//! Fewer pictures a second while the machine is too slow (`--adaptive`): every second is still decided, from fewer of its
//! pictures, instead of some seconds not at all.
//!
//! One share for all streams, so that none pays for another. It goes down quickly and comes back slowly: each step back
//! that had to be taken again makes the next one wait twice as long.

use crate::clip::FrameShare;
use crate::time::NANOS_PER_SECOND;

/// How long it is looked before the share changes.
const LOOK_NS: u64 = 2 * NANOS_PER_SECOND;

/// Part of the time for which inference may be busy. Beyond it seconds queue at every hiccup.
const BUSY_MAX: f64 = 0.9;

/// Waiting longer than this, a second is unlikely to be decided within the latency target of one.
const WAIT_MAX_NS: u64 = 700_000_000;

/// How busy inference may be, by what is known, after a step up.
const BUSY_AFTER: f64 = 0.75;

/// How long it must have been quiet before a step up, at first and at most.
const QUIET_NS: (u64, u64) = (10 * NANOS_PER_SECOND, 300 * NANOS_PER_SECOND);

/// A step down that follows a step up within this time takes it back.
const TAKEN_BACK_NS: u64 = 30 * NANOS_PER_SECOND;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Monotonic clock when it was decided, ns.
    pub now_ns: u64,
    /// How long it took, ns.
    pub busy_ns: u64,
    /// How long its oldest second had waited before, ns.
    pub waited_ns: u64,
    /// Seconds that were shed since the batch before.
    pub shed: u64,
}

/// Chooses the share of pictures that inference has time for.
#[derive(Debug)]
pub struct Adapt {
    share: FrameShare,
    /// Since when is looked at, and what was seen.
    since_ns: u64,
    busy_ns: u64,
    waited_ns: u64,
    shed: u64,
    /// When the share last changed, or things were last too slow.
    trouble_ns: u64,
    raised_ns: Option<u64>,
    quiet_ns: u64,
}

impl Adapt {
    /// Begins with all pictures at `now_ns` of the monotonic clock.
    pub fn new(now_ns: u64) -> Self {
        Self {
            share: FrameShare::ALL,
            since_ns: now_ns,
            busy_ns: 0,
            waited_ns: 0,
            shed: 0,
            trouble_ns: now_ns,
            raised_ns: None,
            quiet_ns: QUIET_NS.0,
        }
    }

    pub fn share(&self) -> FrameShare {
        self.share
    }

    /// Takes note of a batch. Returns the share from now on when it changes.
    pub fn note(&mut self, turn: Turn) -> Option<FrameShare> {
        self.busy_ns += turn.busy_ns;
        self.waited_ns = self.waited_ns.max(turn.waited_ns);
        self.shed += turn.shed;
        let looked_ns = turn.now_ns.saturating_sub(self.since_ns);
        if looked_ns < LOOK_NS {
            return None;
        }
        let busy = self.busy_ns as f64 / looked_ns as f64;
        let too_slow = self.shed > 0 || busy > BUSY_MAX || self.waited_ns > WAIT_MAX_NS;
        (self.since_ns, self.busy_ns, self.waited_ns, self.shed) = (turn.now_ns, 0, 0, 0);
        if too_slow {
            self.trouble_ns = turn.now_ns;
            let lower = self.share.lower()?;
            if self.raised_ns.take().is_some_and(|raised_ns| turn.now_ns - raised_ns < TAKEN_BACK_NS) {
                self.quiet_ns = (2 * self.quiet_ns).min(QUIET_NS.1);
            }
            self.share = lower;
            return Some(lower);
        }
        let higher = self.share.higher()?;
        let after = busy * higher.ratio() / self.share.ratio();
        if after > BUSY_AFTER || turn.now_ns - self.trouble_ns < self.quiet_ns {
            return None;
        }
        // It held: what comes next is judged anew.
        if self.raised_ns.is_some_and(|raised_ns| turn.now_ns - raised_ns >= TAKEN_BACK_NS) {
            self.quiet_ns = QUIET_NS.0;
        }
        (self.raised_ns, self.trouble_ns) = (Some(turn.now_ns), turn.now_ns);
        self.share = higher;
        Some(higher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    /// A machine on which all streams' pictures take `load` of the time: a batch every tenth of a second. Gives the shares
    /// with the second in which each began.
    fn run(adapt: &mut Adapt, from_s: u64, seconds: u64, load: impl Fn(u64) -> f64) -> Vec<(u64, FrameShare)> {
        let mut changes = Vec::new();
        for tenth in from_s * 10..(from_s + seconds) * 10 {
            let needed = load(tenth / 10) * adapt.share().ratio();
            let turn = Turn {
                now_ns: (tenth + 1) * SECOND / 10,
                busy_ns: (needed.min(1.0) * (SECOND / 10) as f64) as u64,
                waited_ns: if needed > 1.0 { 3 * SECOND } else { SECOND / 10 },
                shed: u64::from(needed > 1.0),
            };
            changes.extend(adapt.note(turn).map(|share| (tenth / 10, share)));
        }
        changes
    }

    #[test]
    fn a_machine_that_is_fast_enough_sees_all_pictures() {
        let mut adapt = Adapt::new(0);
        assert_eq!(run(&mut adapt, 0, 3600, |_| 0.85), []);
        assert_eq!(adapt.share(), FrameShare::ALL);
    }

    #[test]
    fn it_goes_down_until_inference_keeps_up_and_no_further() {
        let [_, three, two, one] = FrameShare::STEPS;
        let changes = run(&mut Adapt::new(0), 0, 60, |_| 1.4);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three], "1.4 of three fifths is 0.84");
        assert!(changes[0].0 <= 2);
        let changes = run(&mut Adapt::new(0), 0, 60, |_| 1.8);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, two]);
        assert!(changes[1].0 <= 4);
        let changes = run(&mut Adapt::new(0), 0, 60, |_| 40.0);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, two, one], "the rest is shed");
    }

    #[test]
    fn it_comes_back_when_there_is_room() {
        let [all, three, ..] = FrameShare::STEPS;
        let mut adapt = Adapt::new(0);
        let changes = run(&mut adapt, 0, 120, |s| if s < 30 { 1.4 } else { 0.5 });
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, all]);
        assert!((30..45).contains(&changes[1].0), "{changes:?}");
    }

    #[test]
    fn what_cannot_hold_is_tried_ever_less_often() {
        // Another program takes the processors for five seconds of every fifteen: quiet enough for a step up in between.
        let mut adapt = Adapt::new(0);
        let changes = run(&mut adapt, 0, 1200, |s| if s % 15 < 5 { 1.3 } else { 0.4 });
        let downs: Vec<u64> = changes.iter().filter(|c| c.1 < FrameShare::ALL).map(|c| c.0).collect();
        assert!(downs.len() <= 8, "in 20 minutes: {changes:?}");
        let last = downs.windows(2).map(|pair| pair[1] - pair[0]).next_back();
        assert!(last.is_none_or(|last| last >= 300), "{downs:?}");
    }
}
