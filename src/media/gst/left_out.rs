//! The times of pictures that do not come out of the decoder, on their way from there to the frame gate, which sends them in order.

use gstreamer as gst;
use parking_lot::Mutex;

use touchline_core::time::NANOS_PER_SECOND;

/// Pictures are reordered by less than this time, ns: 16 pictures at 25 per second.
const REORDER_NS: u64 = 640_000_000;

/// At least this much stream time is between two events, ns.
const STEP_NS: u64 = NANOS_PER_SECOND / 4;

/// The name of the event.
const EVENT: &str = "touchline-left-out";

/// Why a picture does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Absence {
    /// It will not be sampled, and was not decoded.
    LeftOut,
    /// It is damaged, or depends on missing ones.
    Lost,
}

/// Running times of pictures that do not come.
#[derive(Debug, Default)]
pub(super) struct LeftOutPictures(Mutex<LeftOut>);

#[derive(Debug, Default)]
struct LeftOut {
    times: Vec<(u64, Absence)>,
    /// The bound of the last event.
    until_ns: u64,
}

impl LeftOutPictures {
    /// Adds a picture. Returns a bound if no picture before it is still to come, and the frame gate should send the times up to
    /// there although no decoded picture follows.
    pub fn add(&self, running_ns: u64, absence: Absence) -> Option<u64> {
        let mut all = self.0.lock();
        all.times.push((running_ns, absence));
        let until_ns = running_ns.saturating_sub(REORDER_NS);
        // After a jump back, the bounds start over.
        if until_ns + STEP_NS < all.until_ns {
            all.until_ns = 0;
        }
        if all.until_ns + STEP_NS > until_ns {
            return None;
        }
        all.until_ns = until_ns;
        Some(until_ns)
    }

    /// Removes the times before `until_ns`, or all, in order.
    pub fn take(&self, until_ns: Option<u64>) -> Vec<(u64, Absence)> {
        let mut all = self.0.lock();
        if all.times.is_empty() {
            return Vec::new();
        }
        all.times.sort_unstable();
        let count =
            until_ns.map_or(all.times.len(), |until_ns| all.times.partition_point(|(time, _)| *time < until_ns));
        all.times.drain(..count).collect()
    }
}

/// The event that tells the frame gate to send the times before `until_ns`.
pub(super) fn event(until_ns: u64) -> gst::Event {
    gst::event::CustomDownstream::new(gst::Structure::builder(EVENT).field("until", until_ns).build())
}

/// The bound in [`event`].
pub(super) fn until_ns(event: &gst::event::CustomDownstream<gst::EventRef>) -> Option<u64> {
    event.structure().filter(|structure| structure.name() == EVENT)?.get("until").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_in_order_up_to_a_bound() {
        let all = LeftOutPictures::default();
        for time in [3, 1, 2, 7] {
            assert_eq!(all.add(time, Absence::LeftOut), None);
        }
        let take = |until_ns| all.take(until_ns).into_iter().map(|(time, _)| time).collect::<Vec<_>>();
        assert_eq!((take(Some(3)), take(Some(3)), take(None)), (vec![1, 2], vec![], vec![3, 7]));
    }

    #[test]
    fn a_bound_follows_the_pictures_at_a_distance() {
        let all = LeftOutPictures::default();
        let bounds: Vec<u64> = (0..100).filter_map(|n| all.add(n * 40_000_000, Absence::LeftOut)).collect();
        assert!(bounds.len() > 10 && bounds.windows(2).all(|pair| pair[1] - pair[0] >= STEP_NS), "{bounds:?}");
        assert!(bounds.iter().all(|bound| bound + REORDER_NS < 100 * 40_000_000));
        // After a jump back.
        assert!((0..50).filter_map(|n| all.add(n * 40_000_000, Absence::LeftOut)).count() > 3);
    }
}
