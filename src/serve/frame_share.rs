//! Less work per second during an overload (`--adaptive`): lower tiers, then fewer pictures, instead of dropping some seconds.
//!
//! [`Relief`] defines the order. All live streams have the same share of pictures. Relief increases quickly and decreases slowly:
//! each step back that had to be undone doubles the delay before the next one.
//!
//! Recordings are exempt. They use all processor time, so they would make every machine look overloaded, and their
//! decisions must not depend on the load.

use crate::backlog::TakenSeconds;
use crate::relief::Relief;
use touchline_core::clip::{ClipOutput, Gap, GapReason};
use touchline_core::item::Pace;
use touchline_core::time::NANOS_PER_SECOND;

/// Observation time before the relief changes.
const LOOK_NS: u64 = 2 * NANOS_PER_SECOND;

/// Highest load of inference. Above it, every delay makes seconds queue.
const BUSY_MAX: f64 = 0.9;

/// Longest wait in the queue. After more, a decision within the latency target of one second is unlikely.
const WAIT_MAX_NS: u64 = 700_000_000;

/// Highest expected load after a rise.
const BUSY_AFTER: f64 = 0.75;

/// Time without overload before a rise: initial and maximum.
const QUIET_NS: (u64, u64) = (10 * NANOS_PER_SECOND, 300 * NANOS_PER_SECOND);

/// A fall within this time after a rise undoes it.
const TAKEN_BACK_NS: u64 = 30 * NANOS_PER_SECOND;

/// The load of a batch by its live seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchLoad {
    /// When the batch was decided, monotonic clock, ns.
    pub now_ns: u64,
    /// Time spent on them, ns.
    pub busy_ns: u64,
    /// The longest wait of one of them in its queue, ns.
    pub waited_ns: u64,
    /// Seconds shed since the previous batch.
    pub shed: u64,
}

/// The work of a batch, before it is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchWork {
    waited_ns: u64,
    shed: u64,
    /// Pictures of live streams and of recordings, in units of a full second.
    live: f64,
    recorded: f64,
}

impl BatchWork {
    /// The load of the batch, which was decided from `began_ns` to `now_ns` (monotonic clock).
    pub fn done(self, began_ns: u64, now_ns: u64) -> BatchLoad {
        let all = self.live + self.recorded;
        let of_live = if all > 0.0 { self.live / all } else { 0.0 };
        let busy_ns = (now_ns.saturating_sub(began_ns) as f64 * of_live).round() as u64;
        BatchLoad { now_ns, busy_ns, waited_ns: self.waited_ns, shed: self.shed }
    }
}

/// Chooses the relief with which inference keeps up.
#[derive(Debug)]
pub struct FrameShareControl {
    relief: Relief,
    /// Start of the observation, and the load since then.
    since_ns: u64,
    busy_ns: u64,
    waited_ns: u64,
    shed: u64,
    /// When the relief last changed, or the last overload was seen.
    trouble_ns: u64,
    raised_ns: Option<u64>,
    quiet_ns: u64,
}

impl FrameShareControl {
    /// Starts with all pictures at `now_ns` (monotonic clock).
    pub fn new(now_ns: u64) -> Self {
        Self {
            relief: Relief::default(),
            since_ns: now_ns,
            busy_ns: 0,
            waited_ns: 0,
            shed: 0,
            trouble_ns: now_ns,
            raised_ns: None,
            quiet_ns: QUIET_NS.0,
        }
    }

    /// The current relief.
    pub fn relief(&self) -> Relief {
        self.relief
    }

    /// Removes surplus pictures from the live seconds of a batch before it is decided at `now_ns` (monotonic clock).
    /// Returns the remaining work.
    pub fn select_frames(&self, batch: &mut [TakenSeconds], now_ns: u64) -> BatchWork {
        let (mut work, share) = (BatchWork::default(), self.relief.share());
        for taken in batch {
            let is_live = taken.pace == Pace::Live;
            for item in &mut taken.items {
                match item {
                    ClipOutput::Second(second) if is_live => {
                        second.keep(share);
                        work.live += share.ratio();
                        // From its entry into the queue: an earlier delay comes from the source.
                        work.waited_ns = work.waited_ns.max(now_ns.saturating_sub(taken.since_ns));
                    }
                    ClipOutput::Second(_) => work.recorded += 1.0,
                    ClipOutput::Gap(Gap { reason: GapReason::Overload, .. }) if is_live => work.shed += 1,
                    _ => {}
                }
            }
        }
        work
    }

    /// Records the load of a batch; `streams` live streams have the automatic tier. Returns the relief after each look, whether it
    /// has changed or not.
    pub fn note(&mut self, load: BatchLoad, streams: usize) -> Option<Relief> {
        self.busy_ns += load.busy_ns;
        self.waited_ns = self.waited_ns.max(load.waited_ns);
        self.shed += load.shed;
        let looked_ns = load.now_ns.saturating_sub(self.since_ns);
        if looked_ns < LOOK_NS {
            return None;
        }
        let busy = self.busy_ns as f64 / looked_ns as f64;
        let is_losing = self.shed > 0;
        let too_slow = is_losing || busy > BUSY_MAX || self.waited_ns > WAIT_MAX_NS;
        (self.since_ns, self.busy_ns, self.waited_ns, self.shed) = (load.now_ns, 0, 0, 0);
        if too_slow {
            self.trouble_ns = load.now_ns;
            if let Some(lower) = self.relief.lower(streams, is_losing) {
                if self.raised_ns.take().is_some_and(|raised_ns| load.now_ns - raised_ns < TAKEN_BACK_NS) {
                    self.quiet_ns = (2 * self.quiet_ns).min(QUIET_NS.1);
                }
                self.relief = lower;
            }
        } else if let Some(higher) = self.relief.higher(streams) {
            let after = busy * higher.cost(streams) / self.relief.cost(streams);
            if after <= BUSY_AFTER && load.now_ns - self.trouble_ns >= self.quiet_ns {
                // The last step back held: start again with the initial delay.
                if self.raised_ns.is_some_and(|raised_ns| load.now_ns - raised_ns >= TAKEN_BACK_NS) {
                    self.quiet_ns = QUIET_NS.0;
                }
                (self.raised_ns, self.trouble_ns) = (Some(load.now_ns), load.now_ns);
                self.relief = higher;
            }
        }
        Some(self.relief)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backlog::{Backlog, QueueId};
    use touchline_core::clip::{ClipSecond, FrameShare};
    use touchline_core::clock::{Clock, ManualClock};

    const SECOND: u64 = NANOS_PER_SECOND;

    /// Puts second `index` into a queue, whose last sample arrived at `arrived_ns`.
    fn push(backlog: &Backlog, queue: QueueId, index: u64, arrived_ns: u64) {
        let second = ClipSecond { index, arrived_ns, ..ClipSecond::of_pictures(Vec::new()) };
        assert!(backlog.push(queue, ClipOutput::Second(second)));
    }

    /// The lowest share in an hour of a queue. `cost_ns`: the time that each second takes. `late_ns`: the delay between its last
    /// sample and its arrival.
    fn lowest_share_in_an_hour(pace: Pace, cost_ns: u64, late_ns: u64) -> FrameShare {
        let clock = Arc::new(ManualClock::default());
        clock.advance(late_ns);
        let backlog = Backlog::with_clock(clock.clone());
        let queue = backlog.add_queue(pace);
        let mut control = FrameShareControl::new(clock.mono_ns());
        let mut lowest = control.relief().share();
        for index in 0..3600 {
            push(&backlog, queue, index, clock.mono_ns() - late_ns);
            clock.advance(SECOND / 100);
            let mut batch = backlog.take(4).expect("the backlog is open");
            let began_ns = clock.mono_ns();
            let work = control.select_frames(&mut batch, began_ns);
            clock.advance(cost_ns);
            control.note(work.done(began_ns, clock.mono_ns()), 0);
            lowest = lowest.min(control.relief().share());
            for item in batch.iter().flat_map(|taken| &taken.items) {
                let is_whole = matches!(item, ClipOutput::Second(second) if second.frame_share == FrameShare::ALL);
                assert!(is_whole || pace == Pace::Live, "a recording loses nothing");
            }
            clock.advance(if pace == Pace::Live { SECOND.saturating_sub(cost_ns + SECOND / 100) } else { 0 });
        }
        lowest
    }

    #[test]
    fn a_slow_source_is_not_an_overload() {
        // The last second before an outage, or a second whose sound is missing.
        assert_eq!(lowest_share_in_an_hour(Pace::Live, SECOND / 10, 10 * SECOND), FrameShare::ALL);
        assert!(lowest_share_in_an_hour(Pace::Live, 2 * SECOND, 0) < FrameShare::ALL, "a slow machine is overloaded");
    }

    #[test]
    fn a_recording_that_takes_all_the_time_loses_no_pictures() {
        assert_eq!(lowest_share_in_an_hour(Pace::File, SECOND / 2, 0), FrameShare::ALL);
    }

    #[test]
    fn the_load_counts_the_live_part_of_a_batch() {
        let clock = Arc::new(ManualClock::default());
        let backlog = Backlog::with_clock(clock.clone());
        let (live, file) = (backlog.add_queue(Pace::Live), backlog.add_queue(Pace::File));
        let relief = Relief::default().lower(0, false).expect("there are lower shares");
        let three = relief.share();
        let control = FrameShareControl { relief, ..FrameShareControl::new(0) };
        (0..5).for_each(|index| push(&backlog, live, index, 0));
        push(&backlog, file, 0, 0);
        clock.advance(SECOND / 2);
        let mut batch = backlog.take(4).expect("the backlog is open");
        let load = control.select_frames(&mut batch, clock.mono_ns()).done(clock.mono_ns(), clock.mono_ns() + SECOND);
        assert_eq!((load.waited_ns, load.shed > 0), (SECOND / 2, true));
        assert_eq!(load.busy_ns, (SECOND as f64 * three.ratio() / (1.0 + three.ratio())).round() as u64);
        let shares: Vec<FrameShare> = batch
            .iter()
            .flat_map(|taken| &taken.items)
            .filter_map(|item| match item {
                ClipOutput::Second(second) => Some(second.frame_share),
                _ => None,
            })
            .collect();
        assert_eq!(shares, [three, FrameShare::ALL]);
    }

    /// Simulates a machine on which everything takes `demand` of the time, with a batch every tenth of a second and `streams`
    /// automatic streams. Returns the new relief with the seconds in which it began.
    fn run_streams(
        control: &mut FrameShareControl,
        streams: usize,
        (from_s, seconds): (u64, u64),
        demand: impl Fn(u64) -> f64,
    ) -> Vec<(u64, Relief)> {
        let mut changes = Vec::new();
        for tenth in from_s * 10..(from_s + seconds) * 10 {
            let before = control.relief();
            let needed = demand(tenth / 10) * before.cost(streams);
            let load = BatchLoad {
                now_ns: (tenth + 1) * SECOND / 10,
                busy_ns: (needed.min(1.0) * (SECOND / 10) as f64) as u64,
                waited_ns: if needed > 1.0 { 3 * SECOND } else { SECOND / 10 },
                shed: u64::from(needed > 1.0),
            };
            let after = control.note(load, streams).filter(|relief| *relief != before);
            changes.extend(after.map(|relief| (tenth / 10, relief)));
        }
        changes
    }

    /// As [`run_streams`] without automatic streams, from second 0. Returns the shares.
    fn run(control: &mut FrameShareControl, seconds: u64, demand: impl Fn(u64) -> f64) -> Vec<(u64, FrameShare)> {
        run_streams(control, 0, (0, seconds), demand).into_iter().map(|(at, relief)| (at, relief.share())).collect()
    }

    #[test]
    fn a_fast_machine_keeps_all_pictures() {
        let mut control = FrameShareControl::new(0);
        assert_eq!(run(&mut control, 3600, |_| 0.85), []);
        assert_eq!(control.relief(), Relief::default());
    }

    #[test]
    fn the_share_falls_until_inference_keeps_up() {
        let [_, three, two, one] = FrameShare::STEPS;
        let changes = run(&mut FrameShareControl::new(0), 60, |_| 1.4);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three], "1.4 of three fifths is 0.84");
        assert!(changes[0].0 <= 2);
        let changes = run(&mut FrameShareControl::new(0), 60, |_| 1.8);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, two]);
        assert!(changes[1].0 <= 4);
        let changes = run(&mut FrameShareControl::new(0), 60, |_| 40.0);
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, two, one], "the rest is shed");
    }

    #[test]
    fn the_share_rises_when_there_is_capacity() {
        let [all, three, ..] = FrameShare::STEPS;
        let mut control = FrameShareControl::new(0);
        let changes = run(&mut control, 120, |s| if s < 30 { 1.4 } else { 0.5 });
        assert_eq!(changes.iter().map(|c| c.1).collect::<Vec<_>>(), [three, all]);
        assert!((30..45).contains(&changes[1].0), "{changes:?}");
    }

    #[test]
    fn tiers_fall_before_pictures_and_pictures_before_key_pictures_alone() {
        // A load just above the limit, before seconds are lost: one quarter of the streams after the other, until it fits.
        let mut control = FrameShareControl::new(0);
        let changes = run_streams(&mut control, 8, (0, 60), |_| 0.95);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!((control.relief().share(), control.relief().cost(8)), (FrameShare::ALL, 0.875));
        // Seconds are lost: all streams at once, and that suffices.
        let mut control = FrameShareControl::new(0);
        let changes = run_streams(&mut control, 8, (0, 60), |_| 1.7);
        assert_eq!((changes.len(), changes[0].0, control.relief().cost(8)), (1, 1, 0.5), "{changes:?}");
        // Far more than the machine can do: in the end key pictures alone, within a quarter of a minute.
        let mut control = FrameShareControl::new(0);
        let changes = run_streams(&mut control, 8, (0, 60), |_| 30.0);
        let shares: Vec<f64> = changes.iter().map(|(_, relief)| relief.share().ratio()).collect();
        assert_eq!(shares, [1.0, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2]);
        assert!(changes.windows(2).all(|two| two[1].1.cost(8) < two[0].1.cost(8)) && changes[7].0 <= 16, "{changes:?}");
        // Key pictures alone lose seconds, so they are not chosen while none are lost.
        let mut control = FrameShareControl::new(0);
        run_streams(&mut control, 8, (0, 60), |_| 0.95 / 0.1);
        assert!((control.relief().cost(8) - 0.1).abs() < 1e-9, "{control:?}");
    }

    #[test]
    fn everything_comes_back_step_by_step() {
        let mut control = FrameShareControl::new(0);
        run_streams(&mut control, 64, (0, 60), |_| 30.0);
        let changes = run_streams(&mut control, 64, (60, 600), |_| 0.5);
        assert_eq!(control.relief(), Relief::default());
        assert!(changes.windows(2).all(|two| two[1].1 < two[0].1 && two[1].0 - two[0].0 >= 10), "{changes:?}");
        assert!(changes.last().unwrap().0 < 60 + 180, "{changes:?}");
    }

    #[test]
    fn a_rise_that_fails_is_retried_less_and_less_often() {
        // Another program takes the processors for five seconds of every fifteen. The quiet
        // ten seconds are enough for a step up.
        let mut control = FrameShareControl::new(0);
        let changes = run(&mut control, 1200, |s| if s % 15 < 5 { 1.3 } else { 0.4 });
        let downs: Vec<u64> = changes.iter().filter(|c| c.1 < FrameShare::ALL).map(|c| c.0).collect();
        assert!(downs.len() <= 8, "in 20 minutes: {changes:?}");
        let last = downs.windows(2).map(|pair| pair[1] - pair[0]).next_back();
        assert!(last.is_none_or(|last| last >= 300), "{downs:?}");
    }
}
