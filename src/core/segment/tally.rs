//! A segment that is still growing.

use super::{RecordedSecond, Segment, SegmentKind, Verdict, later};
use crate::clip::GapReason;
use crate::decision::PerModality;
use crate::time::NANOS_PER_SECOND;

/// A segment, and what its mean is computed from.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    segment: Segment,
    /// Sum of the probabilities of its class in the decided seconds, millionths.
    sum: u64,
}

impl Tally {
    /// A segment of one second.
    pub fn new(first: &RecordedSecond, kind: SegmentKind) -> Self {
        let segment = Segment {
            kind,
            run: first.run,
            first: first.index,
            last: first.index,
            began_ns: None,
            ended_ns: None,
            timecodes: first.timecode.map(|mark| [mark; 2]),
            mean: None,
            peak: None,
            peak_index: None,
            decided: 0,
            unknown: 0,
            decided_by: PerModality::default(),
            gaps: [0; GapReason::ALL.len()],
            missing: 0,
        };
        let mut tally = Self { segment, sum: 0 };
        tally.add(first);
        tally
    }

    pub const fn kind(&self) -> SegmentKind {
        self.segment.kind
    }

    /// Adds the second that follows.
    pub fn add(&mut self, second: &RecordedSecond) {
        let segment = &mut self.segment;
        segment.last = second.index;
        segment.timecodes = segment.timecodes.zip(second.timecode).map(|([first, _], last)| [first, last]);
        if segment.began_ns.is_none() {
            let before_ns = (second.index - segment.first).saturating_mul(NANOS_PER_SECOND);
            segment.began_ns = second.wall_ns.map(|ns| ns.saturating_sub_unsigned(before_ns));
        }
        // The end so far is the start of this second.
        segment.ended_ns = second.wall_ns.or(segment.ended_ns).map(|ns| later(ns, 1));
        match &second.verdict {
            Verdict::Decided { is_unknown, modality, .. } => {
                segment.decided += 1;
                segment.unknown += u32::from(*is_unknown);
                *segment.decided_by.get_mut(*modality) += 1;
                let SegmentKind::Class(class) = segment.kind else { return };
                let probability = second.probability(class);
                self.sum += u64::from(probability);
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

    /// Whether most of its seconds are unsure of its class, which is then not an answer.
    pub const fn is_withheld(&self) -> bool {
        matches!(self.segment.kind, SegmentKind::Class(_)) && self.segment.unknown * 2 > self.segment.decided
    }

    /// Changes the class to unknown.
    pub fn withhold(&mut self) {
        let Segment { kind, mean, peak, peak_index, .. } = &mut self.segment;
        (*kind, *mean, *peak, *peak_index) = (SegmentKind::Unknown, None, None, None);
    }

    /// Adds the segment of the same kind that follows.
    pub fn join(&mut self, next: &Self) {
        let (segment, next) = (&mut self.segment, &next.segment);
        segment.last = next.last;
        segment.began_ns = segment.began_ns.or(next.began_ns);
        segment.ended_ns = next.ended_ns.or(segment.ended_ns);
        segment.timecodes = segment.timecodes.zip(next.timecodes).map(|([first, _], [_, last])| [first, last]);
        segment.decided += next.decided;
        segment.unknown += next.unknown;
        segment.decided_by.rgb += next.decided_by.rgb;
        segment.decided_by.flow += next.decided_by.flow;
        segment.decided_by.audio += next.decided_by.audio;
        segment.gaps.iter_mut().zip(next.gaps).for_each(|(count, more)| *count += more);
        segment.missing += next.missing;
    }

    /// The segment so far.
    pub fn segment(&self) -> Segment {
        let mut segment = self.segment.clone();
        let count = u64::from(segment.decided);
        segment.mean = segment.peak.map(|_| ((self.sum + count / 2) / count) as u32);
        segment
    }
}
