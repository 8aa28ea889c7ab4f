//! The timecode of seconds, from marks of single pictures.

use std::collections::BTreeMap;

use crate::time::{NANOS_PER_SECOND, Pts};
use crate::timecode::TimecodeMark;

/// Marks that wait for their seconds: one a second for longer than the lag limits of a recording, and many at a jump.
const MARKS_MAX: usize = 1024;

/// How far a mark applies, ns. Sources send one a second; without pictures there is none.
const REACH_NS: u64 = 10 * NANOS_PER_SECOND;

/// The marks of one timeline that are not older than the last second.
#[derive(Debug, Default)]
pub(super) struct Timecodes {
    /// By PTS, ns.
    marks: BTreeMap<u64, TimecodeMark>,
}

impl Timecodes {
    pub fn take(&mut self, mark: TimecodeMark) {
        self.marks.insert(mark.pts.0, mark);
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_first();
        }
    }

    /// The timecode of the first picture of second `index`. Seconds come in order.
    pub fn of(&mut self, index: u64) -> Option<TimecodeMark> {
        let start = Pts::from_second(index);
        let end_ns = start.0.saturating_add(NANOS_PER_SECOND);
        // The last mark before the second: at a jump within it, the timecode of its start is that from before.
        let before = self.marks.range(..=start.0.saturating_add(TimecodeMark::ROUNDING_NS)).next_back();
        let before = before.map(|(_, mark)| *mark).filter(|mark| start.0.saturating_sub(mark.pts.0) <= REACH_NS);
        let mark = before.or_else(|| self.marks.range(start.0..end_ns).next().map(|(_, mark)| *mark))?;
        while self.marks.first_key_value().is_some_and(|(pts, _)| *pts < mark.pts.0) {
            self.marks.pop_first();
        }
        Some(mark.moved_to(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timecode::FrameRate;

    const MS: u64 = 1_000_000;

    fn mark(ms: u64, frame: i64) -> TimecodeMark {
        TimecodeMark { pts: Pts(ms * MS), frame, rate: FrameRate::parse("25").unwrap() }
    }

    #[test]
    fn seconds_have_the_timecode_of_their_first_picture() {
        let mut timecodes = Timecodes::default();
        assert_eq!(timecodes.of(0), None);
        // The first picture comes late; later ones come in the order of decoding.
        for mark in [mark(1080, 27), mark(2120, 53), mark(2000, 50)] {
            timecodes.take(mark);
        }
        assert_eq!([timecodes.of(1), timecodes.of(2)], [Some(mark(1000, 25)), Some(mark(2000, 50))]);
        // Nothing for a while, and then for long.
        assert_eq!((timecodes.of(3), timecodes.of(13)), (Some(mark(3000, 75)), None));
    }

    #[test]
    fn a_jump_within_a_second_counts_from_the_next_one_on() {
        let mut timecodes = Timecodes::default();
        for mark in [mark(1000, 25), mark(1480, 90_000), mark(1400, 35), mark(1440, 89_999)] {
            timecodes.take(mark);
        }
        assert_eq!(timecodes.of(1), Some(mark(1000, 25)));
        assert_eq!(timecodes.of(2), Some(mark(2000, 90_013)));
    }

    #[test]
    fn marks_are_bounded() {
        let mut timecodes = Timecodes::default();
        (0..5000).for_each(|n| timecodes.take(mark(n * 40, n as i64)));
        assert_eq!(timecodes.marks.len(), MARKS_MAX);
        assert_eq!(timecodes.of(199), Some(mark(199_000, 4975)));
    }
}
