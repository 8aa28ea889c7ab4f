//! Detects an overload, and limits the age of seconds that are decided during one.
//!
//! Waiting bridges a short peak. During an overload, waiting only makes every decision late. Each live queue is then
//! decided from its newest second, and only if that is possible within the latency target.

/// Latency target from the arrival of a second's last sample, less the time for publishing.
const LATENCY_NS: u64 = 950_000_000;

/// A second may always wait this long, however long batches take.
const WAIT_MIN_NS: u64 = 100_000_000;

/// How much of the time between a second's last sample and its entry into the queue counts: the time to close a second
/// at 20 pictures a second. Less than [`WAIT_MIN_NS`], so that no second is too old on arrival. A longer delay, from
/// rare pictures or late audio, comes from the source and is no sign of an overload.
const CLOSING_NS: u64 = 50_000_000;

/// Longest batch during an overload: in a long one the last second waits for all others.
const BATCH_NS: u64 = 240_000_000;

/// How long an overload lasts after the last second was shed.
const LASTS_NS: u64 = 10_000_000_000;

/// The state of the detector. All times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Overload {
    /// End of the overload; `None` without one.
    until_ns: Option<u64>,
    /// When the current batch was taken, and its number of seconds.
    taken: Option<(u64, u64)>,
    /// Recent time per second of a batch.
    second_ns: u64,
}

impl Overload {
    /// A second was shed.
    pub fn shed(&mut self, now_ns: u64) {
        self.until_ns = Some(now_ns + LASTS_NS);
    }

    /// A batch was taken.
    pub fn taken(&mut self, now_ns: u64, seconds: usize) {
        self.taken = Some((now_ns, seconds as u64)).filter(|_| seconds > 0);
    }

    /// The last batch is decided.
    pub fn decided(&mut self, now_ns: u64) {
        if let Some((taken_ns, seconds)) = self.taken.take() {
            let took_ns = now_ns.saturating_sub(taken_ns) / seconds;
            // Rises at once, falls slowly.
            self.second_ns = took_ns.max(self.second_ns - self.second_ns / 4 + took_ns / 4);
        }
    }

    /// Largest batch: `max`, or less during an overload.
    pub fn most(&self, max: usize) -> usize {
        let fit = BATCH_NS / self.second_ns.max(1);
        if self.until_ns.is_some() { usize::try_from(fit).unwrap_or(max).clamp(1, max) } else { max }
    }

    /// Start of the latency of a second whose last sample arrived at `arrived_ns` and that entered its queue at
    /// `since_ns`.
    pub fn counts_from_ns(arrived_ns: u64, since_ns: u64) -> u64 {
        arrived_ns.max(since_ns.saturating_sub(CLOSING_NS))
    }

    /// During an overload: seconds whose latency starts before this are too old to be decided.
    pub fn oldest_ns(&mut self, now_ns: u64, max: usize) -> Option<u64> {
        self.until_ns = self.until_ns.filter(|until_ns| now_ns < *until_ns);
        self.until_ns?;
        let batch_ns = self.second_ns.saturating_mul(self.most(max) as u64);
        let wait_ns = LATENCY_NS.saturating_sub(batch_ns).max(WAIT_MIN_NS);
        Some(now_ns.saturating_sub(wait_ns))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Backlog, QueueId};
    use touchline_core::clip::{ClipOutput, ClipSecond};
    use touchline_core::clock::{Clock, ManualClock};
    use touchline_core::item::Pace;

    const MS: u64 = 1_000_000;

    /// A machine that needs `cost_ms` for each second. `phases`: for each stream, when its seconds arrive, in ms
    /// within a second.
    struct Machine {
        clock: Arc<ManualClock>,
        backlog: Backlog,
        queues: Vec<QueueId>,
        phases: Vec<u64>,
        /// Per stream: delay between a second's last sample and its entry into the queue.
        late_ms: Vec<u64>,
        cost_ms: u64,
        /// Per queue: arrived seconds, decided seconds, and gaps.
        counts: Vec<[u64; 3]>,
        /// The latencies of decisions in ms.
        latencies: Vec<u64>,
    }

    impl Machine {
        fn new(phases: Vec<u64>, cost_ms: u64) -> Self {
            let clock = Arc::new(ManualClock::default());
            let backlog = Backlog::with_clock(clock.clone());
            let queues = phases.iter().map(|_| backlog.add_queue(Pace::Live)).collect();
            let (counts, late_ms) = (vec![[0; 3]; phases.len()], vec![0; phases.len()]);
            Self { clock, backlog, queues, phases, late_ms, cost_ms, counts, latencies: Vec::new() }
        }

        /// Advances the clock by milliseconds and pushes the seconds that arrive.
        fn pass(&mut self, ms: u64) {
            for _ in 0..ms {
                self.clock.advance(MS);
                let now_ms = self.clock.mono_ns() / MS;
                for (i, phase) in self.phases.iter().enumerate() {
                    if now_ms % 1000 == *phase {
                        let second = ClipSecond {
                            index: now_ms / 1000,
                            arrived_ns: now_ms.saturating_sub(self.late_ms[i]) * MS,
                            ..ClipSecond::of_pictures(Vec::new())
                        };
                        assert!(self.backlog.push(self.queues[i], ClipOutput::Second(second)));
                        self.counts[i][0] += 1;
                    }
                }
            }
        }

        fn run(&mut self, seconds: u64) {
            let until_ns = self.clock.mono_ns() + seconds * 1000 * MS;
            while self.clock.mono_ns() < until_ns {
                self.backlog.nudge();
                let batch = self.backlog.take(4).expect("the backlog is open");
                let decided =
                    batch.iter().flat_map(|t| &t.items).filter(|i| matches!(i, ClipOutput::Second(_))).count();
                self.pass((decided as u64 * self.cost_ms).max(1));
                for taken in batch {
                    let queue = self.queues.iter().position(|l| *l == taken.queue).expect("the queue is known");
                    for item in taken.items {
                        match item {
                            ClipOutput::Second(second) => {
                                self.counts[queue][1] += 1;
                                self.latencies.push((self.clock.mono_ns() - second.arrived_ns) / MS);
                            }
                            ClipOutput::Gap(_) => self.counts[queue][2] += 1,
                            other => panic!("unexpected {other:?}"),
                        }
                    }
                }
            }
        }

        fn p95(&mut self) -> u64 {
            self.latencies.sort_unstable();
            self.latencies[self.latencies.len() * 95 / 100]
        }
    }

    #[test]
    fn decisions_are_in_time_and_every_stream_gets_its_share() {
        let together = vec![500; 12];
        let spread: Vec<u64> = (0..12).map(|i| i * 83).collect();
        let by_halves: Vec<u64> = (0..12).map(|i| i % 2 * 500).collect();
        for phases in [together, spread, by_halves] {
            // Of twelve seconds that arrive each second, eight can be decided.
            let mut machine = Machine::new(phases.clone(), 125);
            machine.run(20);
            machine.latencies.clear();
            let before: Vec<[u64; 3]> = machine.counts.clone();
            machine.run(300);
            let p95 = machine.p95();
            assert!(p95 <= 1000, "{phases:?}: p95 {p95} ms");
            let decided: Vec<u64> = machine.counts.iter().zip(&before).map(|(now, was)| now[1] - was[1]).collect();
            let all: u64 = decided.iter().sum();
            assert!(all >= 300 * 8 * 85 / 100, "{phases:?}: {all} of 2400 possible decisions");
            let (least, most) = (decided.iter().min().unwrap(), decided.iter().max().unwrap());
            assert!(most - least <= 300 / 10, "{phases:?}: {decided:?}");
            for [arrived, decided, gaps] in &machine.counts {
                assert!((decided + gaps..=decided + gaps + 4).contains(arrived), "{:?}", machine.counts);
            }
        }
    }

    #[test]
    fn a_short_pause_causes_no_gaps() {
        let mut machine = Machine::new(vec![0, 300, 600, 900], 100);
        machine.run(10);
        // Nothing is decided for two seconds, for example because of a backup.
        machine.pass(2000);
        machine.run(20);
        assert!(machine.counts.iter().all(|[_, _, gaps]| *gaps == 0), "{:?}", machine.counts);
    }

    #[test]
    fn after_an_overload_everything_is_decided_again() {
        let mut machine = Machine::new(vec![0; 8], 250);
        machine.run(30);
        machine.cost_ms = 60;
        machine.run(15);
        let before: u64 = machine.counts.iter().map(|c| c[2]).sum();
        machine.run(60);
        assert_eq!(machine.counts.iter().map(|c| c[2]).sum::<u64>(), before, "there are no further gaps");
        assert!(before > 50, "the machine was overloaded");
    }

    #[test]
    fn a_stream_that_is_too_expensive_is_decided_as_often_as_possible() {
        let mut machine = Machine::new(vec![0], 1500);
        machine.run(100);
        let [_, decided, _] = machine.counts[0];
        assert!(decided >= 45, "every other second: {decided}");
        machine.latencies.drain(..10);
        assert!(machine.latencies.iter().all(|ms| *ms <= 1700), "{:?}", machine.latencies);
    }

    #[test]
    fn a_stream_of_few_pictures_gets_its_share_and_is_not_an_overload() {
        // One picture per second without sound: each second is closed when the next picture arrives.
        let mut machine = Machine::new(vec![0; 8], 250);
        machine.late_ms[0] = 1000;
        machine.run(60);
        let decided: Vec<u64> = machine.counts.iter().map(|count| count[1]).collect();
        assert!(decided.iter().all(|of_stream| *of_stream >= 20), "eight streams share the time for four: {decided:?}");
        machine.cost_ms = 60;
        machine.run(15);
        let before: u64 = machine.counts.iter().map(|count| count[2]).sum();
        machine.run(60);
        assert_eq!(machine.counts.iter().map(|count| count[2]).sum::<u64>(), before, "there are no further gaps");
    }

    #[test]
    fn seconds_that_are_closed_late_stay_within_the_target() {
        let mut machine = Machine::new((0..12).map(|i| i * 83).collect(), 125);
        machine.late_ms.fill(40);
        machine.run(20);
        machine.latencies.clear();
        machine.run(300);
        let p95 = machine.p95();
        assert!(p95 <= 1000, "p95 {p95} ms");
    }
}
