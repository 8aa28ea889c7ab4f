//! Decides what each second shows, as soon as no later event can change it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::{MILLION, RecordedSecond, SegmentKind, Verdict, later};
use crate::clip::GapReason;
use crate::decision::{Event, EventKind};
use crate::labels::ClassId;

/// Missing records that a segment may contain, seconds: fewer than a vote window. After more, a new segment begins.
const MISSING_MAX: u64 = 10;

/// Seconds without programme that interrupt a segment: the fewest after which the vote takes a class off air.
const NO_PROGRAMME_MIN: usize = 3;

/// A second that no later event can change.
#[derive(Debug)]
pub(super) struct SettledSecond {
    pub second: RecordedSecond,
    pub kind: SegmentKind,
    /// It does not follow the second before it: there is a discontinuity in between.
    pub begins_stretch: bool,
}

/// A class on air. Positions count the seconds of the stretch.
#[derive(Clone, Copy, Debug)]
struct OnAir {
    start: usize,
    /// Order of the onsets.
    order: usize,
    /// Its largest probability since the start.
    peak: u32,
}

/// A class on air from `range.start` on and until before `range.end`.
#[derive(Debug)]
struct Interval {
    order: usize,
    class: ClassId,
    range: Range<usize>,
}

/// Takes the seconds and events of one stream. A stretch is a span without a discontinuity.
#[derive(Debug, Default)]
pub(super) struct Settler {
    /// Seconds of the stretch that are not settled, with those that are missing. After a second was taken there is one.
    waiting: VecDeque<RecordedSecond>,
    /// Number of settled seconds of the stretch: the position of the first that waits.
    position: usize,
    on_air: BTreeMap<ClassId, OnAir>,
    onsets: usize,
    closed: Vec<Interval>,
    /// The longest vote window so far.
    vote_window: usize,
    /// Class on air and kind of the last settled second of the stretch.
    before: Option<(Option<ClassId>, SegmentKind)>,
    settled: Vec<SettledSecond>,
}

impl Settler {
    /// Takes a second, and the number of seconds in the vote window at it; 0 if not known.
    pub fn push(&mut self, second: RecordedSecond, vote_window: u32) {
        self.vote_window = self.vote_window.max(vote_window as usize);
        if let Some(last) = self.waiting.back() {
            let (run, index, wall_ns) = (last.run, last.index, last.wall_ns);
            let missing = second.index.checked_sub(index + 1).filter(|_| second.run == run);
            if let Some(missing) = missing.filter(|missing| *missing <= MISSING_MAX) {
                self.settle(false);
                for i in 1..=missing {
                    let wall_ns = wall_ns.map(|ns| later(ns, i));
                    let verdict = Verdict::Missing;
                    self.waiting.push_back(RecordedSecond { run, index: index + i, wall_ns, timecode: None, verdict });
                }
            } else {
                // Numbers that decrease belong to another start of the program, which began with nothing on air.
                self.end_stretch(second.run > run || missing.is_some());
            }
        }
        for (class, on_air) in &mut self.on_air {
            on_air.peak = on_air.peak.max(second.probability(*class));
        }
        self.waiting.push_back(second);
    }

    /// Takes an event. Its second comes before it.
    pub fn event(&mut self, event: &Event) {
        let at = self.waiting.iter().rposition(|s| s.run == event.run && s.index == event.index);
        // Without its second, which a damaged file may lack, the event belongs to the newest one.
        let Some(at) = at.or(self.waiting.len().checked_sub(1)).map(|at| self.position + at) else { return };
        match event.kind {
            EventKind::Onset if !self.on_air.contains_key(&event.class) => {
                let before = self.closed.iter().rfind(|interval| interval.class == event.class);
                let start = self.onset(event.class, before.map_or(0, |interval| interval.range.end), at);
                let peak = self.peak(event.class, start..at + 1).unwrap_or(0);
                self.onsets += 1;
                self.on_air.insert(event.class, OnAir { start, order: self.onsets, peak });
            }
            EventKind::Onset => {}
            EventKind::Offset => {
                let Some(OnAir { start, order, peak }) = self.on_air.remove(&event.class) else { return };
                let end = self.offset(event.class, start, at, peak);
                self.closed.push(Interval { order, class: event.class, range: start..end });
            }
        }
    }

    /// Ends the stream: all its seconds are settled.
    pub fn end(&mut self) {
        self.end_stretch(false);
    }

    /// The seconds that were settled since the last call, in order.
    pub fn settled(&mut self) -> Vec<SettledSecond> {
        std::mem::take(&mut self.settled)
    }

    fn end_stretch(&mut self, continues: bool) {
        self.settle(true);
        if continues {
            self.on_air.values_mut().for_each(|on_air| (on_air.start, on_air.peak) = (0, 0));
        } else {
            self.on_air.clear();
        }
        self.closed.clear();
        (self.position, self.before) = (0, None);
    }

    /// Settles what no later event can change. `is_over`: the stretch is.
    fn settle(&mut self, is_over: bool) {
        let end = self.position + self.waiting.len();
        // A later event has a later second, and is dated back by less than a vote window.
        let fixed = if is_over { end } else { end.saturating_sub(self.vote_window) };
        while self.position < fixed {
            let Some((kind, count)) = self.kind(fixed, is_over) else { break };
            for second in self.waiting.drain(..count) {
                let begins_stretch = self.position == 0;
                self.before = Some((owner(&self.closed, &self.on_air, self.position), kind));
                self.settled.push(SettledSecond { second, kind, begins_stretch });
                self.position += 1;
            }
        }
        self.closed.retain(|interval| interval.range.end > self.position);
    }

    /// The kind of the first second that waits, and of how many. `None`: it depends on seconds to come. Few undecided seconds
    /// within a class belong to it.
    fn kind(&self, fixed: usize, is_over: bool) -> Option<(SegmentKind, usize)> {
        let of = |owner: Option<ClassId>| owner.map_or(SegmentKind::Unknown, SegmentKind::Class);
        let first = &self.waiting[0];
        if first.is_decided() {
            return Some((of(self.owner(self.position)), 1));
        }
        let is_no_programme = first.is_no_programme();
        let alike = |s: &&RecordedSecond| !s.is_decided() && s.is_no_programme() == is_no_programme;
        let count = self.waiting.iter().take_while(alike).count();
        let limit = if is_no_programme { NO_PROGRAMME_MIN - 1 } else { self.vote_window };
        let kind = if is_no_programme { SegmentKind::NoProgramme } else { SegmentKind::Undecided };
        // As many as are settled in any case.
        let others = Some((kind, count.min(fixed - self.position)));
        let Some((class, before)) = self.before.filter(|(class, kind)| *kind == of(*class) && count <= limit) else {
            return others;
        };
        // Longer than that without a decision is no interruption.
        let near = limit + NO_PROGRAMME_MIN;
        match self.waiting.iter().take(near).position(RecordedSecond::is_decided) {
            Some(next) if self.position + next < fixed => {
                let is_of_class = (self.position..=self.position + next).all(|at| self.owner(at) == class);
                if is_of_class { Some((before, count)) } else { others }
            }
            None if is_over || self.waiting.len() >= near => others,
            _ => None,
        }
    }

    /// The class on air at `position`.
    fn owner(&self, position: usize) -> Option<ClassId> {
        owner(&self.closed, &self.on_air, position)
    }

    fn second(&self, position: usize) -> &RecordedSecond {
        &self.waiting[position - self.position]
    }

    fn peak(&self, class: ClassId, positions: Range<usize>) -> Option<u32> {
        positions.map(|at| self.second(at).probability(class)).max()
    }

    /// The earliest second that an event at `at` is dated back to.
    fn earliest(&self, after: usize, at: usize) -> usize {
        after.max((at + 1).saturating_sub(self.vote_window)).max(self.position).min(at)
    }

    /// The first second of the class, whose onset came at `at`.
    fn onset(&self, class: ClassId, after: usize, at: usize) -> usize {
        let from = self.earliest(after, at);
        let level = half(self.peak(class, from..at + 1));
        let change = self.change(from, at, |second| match &second.verdict {
            Verdict::Decided { .. } => i64::from(second.probability(class)) - level,
            Verdict::Gap(GapReason::NoProgramme) => -level,
            _ => 0,
        });
        change.unwrap_or(at)
    }

    /// The second after the last one of the class, whose offset came at `at`.
    fn offset(&self, class: ClassId, start: usize, at: usize, peak: u32) -> usize {
        let level = half(Some(peak));
        let change = self.change(self.earliest(start, at), at, |second| match &second.verdict {
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
            sum += score(self.second(i));
            if sum > best {
                (best, change) = (sum, Some(i));
            }
        }
        change
    }
}

/// The class on air at `position`. Where two overlap, the later onset is the change of sport.
fn owner(closed: &[Interval], on_air: &BTreeMap<ClassId, OnAir>, position: usize) -> Option<ClassId> {
    let closed = closed.iter().filter(|interval| interval.range.contains(&position)).map(|i| (i.order, i.class));
    let open = on_air.iter().filter(|(_, on_air)| on_air.start <= position).map(|(class, o)| (o.order, *class));
    closed.chain(open).max_by_key(|(order, _)| *order).map(|(_, class)| class)
}

fn half(peak: Option<u32>) -> i64 {
    i64::from(match peak {
        None | Some(0) => MILLION / 2,
        Some(peak) => (peak / 2).clamp(1, MILLION / 2),
    })
}
