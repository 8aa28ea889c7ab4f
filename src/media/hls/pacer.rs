//! Paces a live stream: segments arrive in bursts of several seconds, and their items are sent at the stream's own pace.

/// How many times faster than real time a late stream may run. A larger burst would make the backlog shed seconds that were only
/// delayed.
const CATCH_UP: u64 = 2;

/// The schedule of one stream. Times are monotonic, positions are on the timeline, both in ns.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// A monotonic time and the position that is due then.
    anchor: Option<(u64, u64)>,
    /// Monotonic time and position of the last sent item.
    last: Option<(u64, u64)>,
}

impl Pacer {
    /// The monotonic time at which `at_ns` is due. The first item is due at once.
    pub fn due(&mut self, at_ns: u64, now_ns: u64) -> u64 {
        let (moment, place) = *self.anchor.get_or_insert((now_ns, at_ns));
        let scheduled =
            if at_ns >= place { moment.saturating_add(at_ns - place) } else { moment.saturating_sub(place - at_ns) };
        // A late item is sent as soon as the maximum speed allows.
        self.last.map_or(scheduled, |(last_now, last_at)| {
            scheduled.max(last_now.saturating_add(at_ns.saturating_sub(last_at) / CATCH_UP))
        })
    }

    /// Records that the item at `at_ns` was sent.
    pub fn passed(&mut self, at_ns: u64, now_ns: u64) {
        if self.last.is_none_or(|(_, last_at)| at_ns > last_at) {
            self.last = Some((now_ns, at_ns));
        }
    }

    /// Uses the next item as the new anchor after a restart of the stream.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_stream_plays_at_its_own_pace_and_catches_up_after_a_stall() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.due(5 * S, 100 * S), 100 * S);
        pacer.passed(5 * S, 100 * S);
        assert_eq!(pacer.due(6 * S, 100 * S), 101 * S);
        pacer.passed(6 * S, 101 * S);
        // Three seconds late: each second takes half a second until the stream is on time.
        let (mut now, mut at) = (105 * S, 7 * S);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let due = pacer.due(at, now).max(now);
            waits.push((due - now) / (S / 2));
            now = due;
            pacer.passed(at, now);
            at += S;
        }
        assert_eq!(waits, [0, 1, 1, 1, 1, 1]);
        pacer.restart();
        assert_eq!(pacer.due(at, now + 60 * S), now + 60 * S);
    }
}
