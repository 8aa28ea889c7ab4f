//! Segments of a stream, from its recorded seconds and events.
//!
//! Pure. The events of the vote say which class was on air; the seconds say since when. An event lags behind the change that
//! caused it, because the vote needs several seconds of the new class to reach the threshold. So each event is dated back to the
//! change: the point within the vote window after which the class's own probabilities fit the event best (the largest sum of
//! the differences from half of the class's peak).
//!
//! Seconds in which no class was on air are `Unknown`, those without programme are `NoProgramme`, and others without a decision
//! are `Undecided`. A segment never spans a discontinuity: media cannot be cut across one.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::clip::GapReason;
use crate::decision::{Event, EventKind, PerModality};
use crate::labels::{ClassId, Modality};
use crate::time::{NANOS_PER_SECOND, Pts, RunId};
use crate::timecode::TimecodeMark;

/// One: probabilities are integers, as precise as records.
pub const MILLION: u32 = 1_000_000;

/// Missing records that a segment may contain, seconds: fewer than a vote window. After more, a new segment begins.
const MISSING_MAX: u64 = 10;

/// Seconds without programme that interrupt a segment: the fewest after which the vote takes a class off air.
const NO_PROGRAMME_MIN: usize = 3;

/// What the record of a second contains.
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

/// What a segment shows.
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

/// A class on air.
#[derive(Clone, Copy, Debug)]
struct OnAir {
    start: usize,
    /// Order of the onsets.
    order: usize,
}

/// A class on air from `range.start` on and until before `range.end`.
#[derive(Debug)]
struct Interval {
    order: usize,
    class: ClassId,
    range: Range<usize>,
}

/// Takes the records of one stream in order.
#[derive(Debug, Default)]
pub struct Segmenter {
    /// With those that are missing.
    seconds: Vec<RecordedSecond>,
    /// Starts of the stretches without a discontinuity.
    stretches: Vec<usize>,
    on_air: BTreeMap<ClassId, OnAir>,
    onsets: usize,
    closed: Vec<Interval>,
    /// The longest vote window so far.
    vote_window: usize,
}

impl Segmenter {
    /// Takes a second, and the number of seconds in the vote window at it; 0 if not known.
    pub fn push(&mut self, second: RecordedSecond, vote_window: u32) {
        self.vote_window = self.vote_window.max(vote_window as usize);
        if let Some(last) = self.seconds.last() {
            let (run, index, wall_ns) = (last.run, last.index, last.wall_ns);
            let missing = second.index.checked_sub(index + 1).filter(|_| second.run == run);
            if let Some(missing) = missing.filter(|missing| *missing <= MISSING_MAX) {
                for i in 1..=missing {
                    let wall_ns = wall_ns.map(|ns| later(ns, i));
                    let verdict = Verdict::Missing;
                    self.seconds.push(RecordedSecond { run, index: index + i, wall_ns, timecode: None, verdict });
                }
            } else {
                // Numbers that decrease belong to another start of the program, which began with nothing on air.
                self.new_stretch(second.run > run || missing.is_some());
            }
        } else {
            self.stretches.push(0);
        }
        self.seconds.push(second);
    }

    fn new_stretch(&mut self, continues: bool) {
        let at = self.seconds.len();
        for (class, on_air) in &mut self.on_air {
            self.closed.push(Interval { order: on_air.order, class: *class, range: on_air.start..at });
            on_air.start = at;
        }
        if !continues {
            self.on_air.clear();
        }
        self.stretches.push(at);
    }

    /// Takes an event. Its second comes before it.
    pub fn event(&mut self, event: &Event) {
        let stretch = self.stretches.last().copied().unwrap_or(0);
        let at = self.seconds[stretch..].iter().rposition(|s| s.run == event.run && s.index == event.index);
        // Without its second, which a damaged file may lack, the event belongs to the newest one.
        let Some(at) = at.map(|at| stretch + at).or(self.seconds.len().checked_sub(1)) else { return };
        match event.kind {
            EventKind::Onset if !self.on_air.contains_key(&event.class) => {
                let before = self.closed.iter().rfind(|interval| interval.class == event.class);
                let from = before.map_or(stretch, |interval| interval.range.end.max(stretch));
                let start = self.onset(event.class, from, at);
                self.onsets += 1;
                self.on_air.insert(event.class, OnAir { start, order: self.onsets });
            }
            EventKind::Onset => {}
            EventKind::Offset => {
                let Some(OnAir { start, order }) = self.on_air.remove(&event.class) else { return };
                let end = self.offset(event.class, start, at);
                self.closed.push(Interval { order, class: event.class, range: start..end });
            }
        }
    }

    /// The first second of the class, whose onset came at `at`.
    fn onset(&self, class: ClassId, from: usize, at: usize) -> usize {
        let from = from.max((at + 1).saturating_sub(self.vote_window)).min(at);
        let level = half(self.seconds[from..=at].iter().map(|s| s.probability(class)).max());
        let change = self.change(from, at, |second| match &second.verdict {
            Verdict::Decided { .. } => i64::from(second.probability(class)) - level,
            Verdict::Gap(GapReason::NoProgramme) => -level,
            _ => 0,
        });
        change.unwrap_or(at)
    }

    /// The second after the last one of the class, whose offset came at `at`.
    fn offset(&self, class: ClassId, start: usize, at: usize) -> usize {
        let from = start.max((at + 1).saturating_sub(self.vote_window)).min(at);
        let level = half(self.seconds[start.min(at)..=at].iter().map(|s| s.probability(class)).max());
        let change = self.change(from, at, |second| match &second.verdict {
            Verdict::Decided { .. } => level - i64::from(second.probability(class)),
            Verdict::Gap(GapReason::NoProgramme) => level,
            _ => 0,
        });
        // At the end of a stream the class is still there in the last second.
        change.unwrap_or(at + 1)
    }

    /// The second from which on, up to `at`, the scores have the largest positive sum; the latest of several.
    fn change(&self, from: usize, at: usize, score: impl Fn(&RecordedSecond) -> i64) -> Option<usize> {
        let (mut sum, mut best, mut change) = (0, 0, None);
        for i in (from..=at).rev() {
            sum += score(&self.seconds[i]);
            if sum > best {
                (best, change) = (sum, Some(i));
            }
        }
        change
    }

    /// Ends the stream.
    pub fn finish(mut self) -> SegmentedStream {
        self.new_stretch(false);
        self.stretches.pop();
        self.closed.sort_by_key(|interval| interval.order);
        // Where two overlap, the later onset is the change of sport.
        let mut owners = vec![None; self.seconds.len()];
        for Interval { class, range, .. } in &self.closed {
            owners.iter_mut().take(range.end).skip(range.start).for_each(|owner| *owner = Some(*class));
        }
        let mut stream = SegmentedStream { kinds: Vec::with_capacity(owners.len()), ..SegmentedStream::default() };
        for (i, begin) in self.stretches.iter().enumerate() {
            let end = self.stretches.get(i + 1).copied().unwrap_or(self.seconds.len());
            fill_wall(&mut self.seconds[*begin..end]);
            fill_timecode(&mut self.seconds[*begin..end]);
            stream.kinds.extend(kinds(&self.seconds[*begin..end], &owners[*begin..end], self.vote_window));
        }
        stream.stretches = self.stretches;
        stream.seconds = self.seconds;
        stream.withhold_unknown();
        stream
    }
}

fn half(peak: Option<u32>) -> i64 {
    i64::from(match peak {
        None | Some(0) => MILLION / 2,
        Some(peak) => (peak / 2).clamp(1, MILLION / 2),
    })
}

fn later(ns: i64, seconds: u64) -> i64 {
    ns.saturating_add_unsigned(seconds.saturating_mul(NANOS_PER_SECOND))
}

/// Gives seconds without wall time that of their neighbours: records of gaps have none.
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

/// Gives seconds without timecode that of their neighbours, counted on.
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

/// The kinds of the seconds of one stretch. Few undecided seconds within a class belong to it.
fn kinds(seconds: &[RecordedSecond], owners: &[Option<ClassId>], vote_window: usize) -> Vec<SegmentKind> {
    let of = |owner: Option<ClassId>| owner.map_or(SegmentKind::Unknown, SegmentKind::Class);
    let mut kinds: Vec<SegmentKind> = Vec::with_capacity(seconds.len());
    while let Some(second) = seconds.get(kinds.len()) {
        let at = kinds.len();
        if second.is_decided() {
            kinds.push(of(owners[at]));
            continue;
        }
        let is_no_programme = second.is_no_programme();
        let alike = |s: &&RecordedSecond| !s.is_decided() && s.is_no_programme() == is_no_programme;
        let count = seconds[at..].iter().take_while(alike).count();
        let limit = if is_no_programme { NO_PROGRAMME_MIN - 1 } else { vote_window };
        let before = at.checked_sub(1).map(|i| (owners[i], kinds[i]));
        let belongs = count <= limit
            && before.is_some_and(|(owner, kind)| {
                let next = seconds[at..].iter().position(RecordedSecond::is_decided).map(|i| at + i);
                kind == of(owner) && next.is_some_and(|next| owners[at..=next].iter().all(|o| *o == owner))
            });
        let kind = match before {
            Some((_, kind)) if belongs => kind,
            _ if is_no_programme => SegmentKind::NoProgramme,
            _ => SegmentKind::Undecided,
        };
        kinds.extend(std::iter::repeat_n(kind, count));
    }
    kinds
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
            let segment = self.segment(range.clone(), kind);
            if matches!(kind, SegmentKind::Class(_)) && segment.unknown * 2 > segment.decided {
                self.kinds[range].fill(SegmentKind::Unknown);
            }
        }
    }

    /// The segments of the seconds that `keep` selects, in order.
    pub fn segments(&self, keep: impl Fn(&RecordedSecond) -> bool) -> Vec<Segment> {
        self.groups(&keep).into_iter().map(|(range, kind)| self.segment(range, kind)).collect()
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

    fn segment(&self, range: Range<usize>, kind: SegmentKind) -> Segment {
        let seconds = &self.seconds[range];
        let (first, last) = (&seconds[0], &seconds[seconds.len() - 1]);
        let mut segment = Segment {
            kind,
            run: first.run,
            first: first.index,
            last: last.index,
            began_ns: first.wall_ns,
            ended_ns: last.wall_ns.map(|ns| later(ns, 1)),
            timecodes: first.timecode.zip(last.timecode).map(<[TimecodeMark; 2]>::from),
            mean: None,
            peak: None,
            peak_index: None,
            decided: 0,
            unknown: 0,
            decided_by: PerModality::default(),
            gaps: [0; GapReason::ALL.len()],
            missing: 0,
        };
        let mut sum = 0u64;
        for second in seconds {
            match &second.verdict {
                Verdict::Decided { is_unknown, modality, .. } => {
                    segment.decided += 1;
                    segment.unknown += u32::from(*is_unknown);
                    *segment.decided_by.get_mut(*modality) += 1;
                    let SegmentKind::Class(class) = kind else { continue };
                    let probability = second.probability(class);
                    sum += u64::from(probability);
                    if segment.peak.is_none_or(|peak| probability > peak) {
                        segment.peak = Some(probability);
                        segment.peak_index = Some(second.index);
                    }
                }
                Verdict::Gap(reason) => {
                    let at = GapReason::ALL.iter().position(|known| known == reason);
                    segment.gaps[at.expect("ALL has every reason")] += 1;
                }
                Verdict::Missing => segment.missing += 1,
            }
        }
        if segment.peak.is_some() {
            let count = u64::from(segment.decided);
            segment.mean = Some(((sum + count / 2) / count) as u32);
        }
        segment
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
