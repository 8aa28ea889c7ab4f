//! Segments of a stream, from its recorded seconds and events.
//!
//! Pure. Events of the vote identify the class on air; the seconds' probabilities give its start and end. An event lags behind
//! the change that caused it, because the vote needs several seconds of the new class to reach the threshold. So each event is
//! dated back to the change: the point within the vote window after which the class's own probabilities fit the event best (the
//! largest sum of the differences from half of the class's peak).
//!
//! Seconds in which no class was on air are `Unknown`, those without programme are `NoProgramme`, and others without a decision
//! are `Undecided`. A segment never spans a discontinuity: media cannot be cut across one.
//!
//! A second is settled when no later event can be dated back to it: about a vote window later. [`Segmenter`] keeps all seconds of a
//! stream, for exports that select some of them. [`SegmentCloser`] keeps the last ones only, and returns each segment when it is
//! closed. Both have the same settled seconds.

mod closer;
mod settle;
mod tally;

use std::ops::Range;

use self::settle::Settler;
use self::tally::Tally;

use crate::clip::GapReason;
use crate::decision::{Event, PerModality};
use crate::labels::{ClassId, Modality};
use crate::time::{NANOS_PER_SECOND, Pts, RunId};
use crate::timecode::TimecodeMark;
pub use closer::{ClosedSegment, SegmentCloser};

/// One: probabilities are integers, as precise as records.
pub const MILLION: u32 = 1_000_000;

/// The contents of the record of a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The second was classified.
    Decided {
        /// The models are not sure enough of the label.
        is_unknown: bool,
        /// The modality that decided.
        modality: Modality,
        /// Probability per class in millionths. Missing entries are 0.
        probabilities: Vec<u32>,
    },
    /// The second was not classified.
    Gap(GapReason),
    /// The record is missing.
    Missing,
}

/// A second of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedSecond {
    /// Its run.
    pub run: RunId,
    /// Its number in the run: it starts at `index` seconds of PTS.
    pub index: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub wall_ns: Option<i64>,
    /// The timecode of its first picture.
    pub timecode: Option<TimecodeMark>,
    /// Its decision.
    pub verdict: Verdict,
}

impl RecordedSecond {
    fn probability(&self, class: ClassId) -> u32 {
        match &self.verdict {
            Verdict::Decided { probabilities, .. } => probabilities.get(class.index()).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn is_decided(&self) -> bool {
        matches!(self.verdict, Verdict::Decided { .. })
    }

    fn is_no_programme(&self) -> bool {
        self.verdict == Verdict::Gap(GapReason::NoProgramme)
    }
}

/// Content of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// The class was on air.
    Class(ClassId),
    /// Seconds were classified, and no class was on air, or the models were not sure of it.
    Unknown,
    /// There was no programme to classify.
    NoProgramme,
    /// Nothing was decided.
    Undecided,
}

/// Consecutive seconds of one run with the same content.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The content.
    pub kind: SegmentKind,
    /// Its run.
    pub run: RunId,
    /// Number of its first second in the run.
    pub first: u64,
    /// Number of its last second in the run.
    pub last: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub began_ns: Option<i64>,
    /// Wall time of its end.
    pub ended_ns: Option<i64>,
    /// Timecodes that its start and its end are counted from: of its first and its last second.
    pub timecodes: Option<[TimecodeMark; 2]>,
    /// Mean probability of the class over the decided seconds, millionths. `None` without a class.
    pub mean: Option<u32>,
    /// Largest probability of the class, millionths. `None` without a class.
    pub peak: Option<u32>,
    /// The first second with the largest probability.
    pub peak_index: Option<u64>,
    /// Decided seconds.
    pub decided: u32,
    /// Decided seconds that were unknown by themselves.
    pub unknown: u32,
    /// Seconds that each modality decided.
    pub decided_by: PerModality<u32>,
    /// Seconds without a decision, by reason, in the order of [`GapReason::ALL`].
    pub gaps: [u32; GapReason::ALL.len()],
    /// Seconds without a record.
    pub missing: u32,
}

impl Segment {
    /// Its length in seconds.
    pub const fn seconds(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Takes the records of one stream in order, and keeps all.
#[derive(Debug, Default)]
pub struct Segmenter {
    settler: Settler,
    stream: SegmentedStream,
}

impl Segmenter {
    /// Takes a second, and the number of seconds in the vote window at it; 0 if not known.
    pub fn push(&mut self, second: RecordedSecond, vote_window: u32) {
        self.settler.push(second, vote_window);
        self.keep();
    }

    /// Takes an event. Its second comes before it.
    pub fn event(&mut self, event: &Event) {
        self.settler.event(event);
    }

    fn keep(&mut self) {
        for settled in self.settler.settled() {
            if settled.begins_stretch {
                self.stream.stretches.push(self.stream.seconds.len());
            }
            self.stream.seconds.push(settled.second);
            self.stream.kinds.push(settled.kind);
        }
    }

    /// Ends the stream.
    pub fn finish(mut self) -> SegmentedStream {
        self.settler.end();
        self.keep();
        let mut stream = self.stream;
        for (i, begin) in stream.stretches.iter().enumerate() {
            let end = stream.stretches.get(i + 1).copied().unwrap_or(stream.seconds.len());
            fill_wall(&mut stream.seconds[*begin..end]);
            fill_timecode(&mut stream.seconds[*begin..end]);
        }
        stream.withhold_unknown();
        stream
    }
}

/// The longest time for which two programs decide a stream of which one takes it over from the other, nanoseconds. A longer overlap is that of a
/// wrong clock.
pub const HAND_OVER_MAX_NS: i64 = 60 * NANOS_PER_SECOND as i64;

fn later(ns: i64, seconds: u64) -> i64 {
    ns.saturating_add_unsigned(seconds.saturating_mul(NANOS_PER_SECOND))
}

/// Sets missing wall times from the neighbouring seconds: records of gaps have none.
fn fill_wall(seconds: &mut [RecordedSecond]) {
    for i in 1..seconds.len() {
        if seconds[i].wall_ns.is_none() {
            seconds[i].wall_ns = seconds[i - 1].wall_ns.map(|ns| later(ns, 1));
        }
    }
    for i in (1..seconds.len()).rev() {
        if seconds[i - 1].wall_ns.is_none() {
            seconds[i - 1].wall_ns = seconds[i].wall_ns.map(|ns| ns.saturating_sub_unsigned(NANOS_PER_SECOND));
        }
    }
}

/// Sets missing timecodes by counting from the neighbouring seconds.
fn fill_timecode(seconds: &mut [RecordedSecond]) {
    let counted = |from: &RecordedSecond, to: &RecordedSecond| {
        to.timecode.or(from.timecode.map(|mark| mark.moved_to(Pts::from_second(to.index))))
    };
    for i in 1..seconds.len() {
        seconds[i].timecode = counted(&seconds[i - 1], &seconds[i]);
    }
    for i in (1..seconds.len()).rev() {
        seconds[i - 1].timecode = counted(&seconds[i], &seconds[i - 1]);
    }
}

/// A stream with the kind of every second.
#[derive(Clone, Debug, Default)]
pub struct SegmentedStream {
    seconds: Vec<RecordedSecond>,
    kinds: Vec<SegmentKind>,
    stretches: Vec<usize>,
}

impl SegmentedStream {
    /// The seconds in order, with those that are missing.
    pub fn seconds(&self) -> &[RecordedSecond] {
        &self.seconds
    }

    /// A class that most of its seconds are unsure of is unknown.
    fn withhold_unknown(&mut self) {
        for (range, kind) in self.groups(&|_| true) {
            if self.tally(range.clone(), kind).is_withheld() {
                self.kinds[range].fill(SegmentKind::Unknown);
            }
        }
    }

    /// Appends the seconds of another program that took the stream over. Of two seconds of the same time, that of `next` counts.
    pub fn append(&mut self, next: Self) {
        let began_ns = next.seconds.first().and_then(|second| second.wall_ns);
        let is_over = |second: &RecordedSecond| {
            let lead_ns = second.wall_ns.zip(began_ns).map(|(ns, began_ns)| ns.saturating_sub(began_ns));
            // Rounded: the two cut at different moments.
            lead_ns.is_some_and(|ns| (-(NANOS_PER_SECOND as i64) / 2..HAND_OVER_MAX_NS).contains(&ns))
        };
        let overlap = self.seconds.iter().rev().take_while(|second| is_over(second)).count();
        let kept = self.seconds.len() - overlap;
        self.seconds.truncate(kept);
        self.kinds.truncate(kept);
        self.stretches.retain(|begin| *begin < kept);
        self.stretches.extend(next.stretches.into_iter().map(|begin| kept + begin));
        self.seconds.extend(next.seconds);
        self.kinds.extend(next.kinds);
    }

    /// The segments of the seconds that `keep` selects, in order.
    pub fn segments(&self, keep: impl Fn(&RecordedSecond) -> bool) -> Vec<Segment> {
        self.groups(&keep).into_iter().map(|(range, kind)| self.tally(range, kind).segment()).collect()
    }

    fn groups(&self, keep: &dyn Fn(&RecordedSecond) -> bool) -> Vec<(Range<usize>, SegmentKind)> {
        let mut groups: Vec<(Range<usize>, SegmentKind)> = Vec::new();
        for (i, kind) in self.kinds.iter().enumerate().filter(|(i, _)| keep(&self.seconds[*i])) {
            match groups.last_mut() {
                Some((range, last)) if range.end == i && last == kind && self.stretches.binary_search(&i).is_err() => {
                    range.end = i + 1;
                }
                _ => groups.push((i..i + 1, *kind)),
            }
        }
        groups
    }

    fn tally(&self, range: Range<usize>, kind: SegmentKind) -> Tally {
        let [first, rest @ ..] = &self.seconds[range] else { unreachable!("a group has at least one second") };
        let mut tally = Tally::new(first, kind);
        rest.iter().for_each(|second| tally.add(second));
        tally
    }
}

#[cfg(test)]
mod tests;
