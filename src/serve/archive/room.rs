//! How many parts of recordings a machine works on. Live streams come first.

use touchline_core::time::NANOS_PER_SECOND;

/// How long no part is worked on after a second of a live stream was given up, ns.
const AFTER_SHED_NS: u64 = 60 * NANOS_PER_SECOND;

/// How long seconds must wait without a pause before the backlog counts as not empty, ns. Every second waits for a moment.
const WAITING_NS: u64 = NANOS_PER_SECOND;

/// What the live streams need, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveSample {
    /// Monotonic clock, ns.
    pub now_ns: u64,
    /// Seconds of live streams that wait for inference.
    pub waiting: usize,
    /// Times that seconds were given up, since the start.
    pub sheds: u64,
    /// Processor time of this process, ns. That of processes for recordings is not in it.
    pub processor_ns: u64,
    /// Cost of the streams that this machine watches, in thousandths of a processor core.
    pub cost: u32,
}

/// Decides how many parts there is room for.
#[derive(Debug)]
pub struct ArchiveRoom {
    /// In thousandths of a processor core.
    capacity: u32,
    processors: u32,
    sheds: u64,
    shed_ns: Option<u64>,
    waiting_since_ns: Option<u64>,
    /// Time and processor time at the begin of the measurement.
    measured: Option<(u64, u64)>,
    /// Measured load, in thousandths of a processor core.
    load: u32,
}

impl ArchiveRoom {
    /// A machine that watches streams of `capacity` thousandths of a processor core and has `processors` cores.
    pub fn new(capacity: u32, processors: u32) -> Self {
        Self { capacity, processors, sheds: 0, shed_ns: None, waiting_since_ns: None, measured: None, load: 0 }
    }

    /// The number of parts that there is room for now. Others are stopped until there is.
    pub fn parts(&mut self, sample: LiveSample) -> usize {
        let now_ns = sample.now_ns;
        if sample.sheds != std::mem::replace(&mut self.sheds, sample.sheds) {
            self.shed_ns = Some(now_ns);
        }
        if sample.waiting == 0 {
            self.waiting_since_ns = None;
        } else {
            self.waiting_since_ns.get_or_insert(now_ns);
        }
        let (since_ns, before_ns) = *self.measured.get_or_insert((now_ns, sample.processor_ns));
        // Over a second, so that the work for one second of a stream is not taken for the load.
        if now_ns.saturating_sub(since_ns) >= NANOS_PER_SECOND {
            let busy_ns = sample.processor_ns.saturating_sub(before_ns);
            self.load = u32::try_from(u128::from(busy_ns) * 1000 / u128::from(now_ns - since_ns)).unwrap_or(u32::MAX);
            self.measured = Some((now_ns, sample.processor_ns));
        }
        let has_shed = self.shed_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < AFTER_SHED_NS);
        let waits = self.waiting_since_ns.is_some_and(|since_ns| now_ns.saturating_sub(since_ns) >= WAITING_NS);
        let busy = self.load.max(sample.cost);
        if has_shed || waits || busy >= self.capacity {
            return 0;
        }
        // A core that is half free is free: the parts have the lowest priority.
        ((self.processors * 1000).saturating_sub(busy) as usize + 500) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Samples every tenth of a second.
    struct Machine {
        room: ArchiveRoom,
        sample: LiveSample,
    }

    impl Machine {
        fn new() -> Self {
            Self { room: ArchiveRoom::new(3200, 4), sample: LiveSample::default() }
        }

        /// Lets `ms` pass at a load in thousandths of a core. Returns the room at the end.
        fn pass(&mut self, ms: u64, load: u64) -> usize {
            let mut parts = 0;
            for _ in 0..ms / 100 {
                self.sample.now_ns += 100 * MS;
                self.sample.processor_ns += 100 * MS * load / 1000;
                parts = self.room.parts(self.sample);
            }
            parts
        }
    }

    #[test]
    fn parts_get_the_cores_that_live_streams_leave() {
        let mut machine = Machine::new();
        assert_eq!(machine.pass(2000, 30), 4);
        assert_eq!(machine.pass(2000, 1400), 3);
        assert_eq!(machine.pass(2000, 2800), 1);
        assert_eq!(machine.pass(2000, 3300), 0, "beyond the capacity");
        assert_eq!(machine.pass(2000, 0), 4);
        // Streams that have just come are not measured yet.
        machine.sample.cost = 3100;
        assert_eq!(machine.pass(100, 0), 1);
        machine.sample.cost = 3200;
        assert_eq!(machine.pass(100, 0), 0);
    }

    #[test]
    fn there_is_no_room_while_seconds_wait_and_for_a_minute_after_one_was_given_up() {
        let mut machine = Machine::new();
        assert_eq!(machine.pass(1000, 0), 4);
        // Every second waits for a moment.
        for _ in 0..50 {
            machine.sample.waiting = 2;
            assert_eq!(machine.pass(500, 0), 4);
            machine.sample.waiting = 0;
            assert_eq!(machine.pass(100, 0), 4);
        }
        machine.sample.waiting = 1;
        assert_eq!((machine.pass(900, 0), machine.pass(300, 0)), (4, 0));
        machine.sample.waiting = 0;
        assert_eq!(machine.pass(100, 0), 4);
        machine.sample.sheds = 3;
        assert_eq!((machine.pass(100, 0), machine.pass(59_800, 0), machine.pass(200, 0)), (0, 0, 4));
    }
}
