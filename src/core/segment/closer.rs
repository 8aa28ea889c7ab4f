//! Returns each segment of a running stream when it is closed.

use super::settle::Settler;
use super::tally::Tally;
use super::{RecordedSecond, Segment, SegmentKind};
use crate::decision::Event;

/// A segment whose end is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedSegment {
    /// The segment.
    pub segment: Segment,
    /// It replaces one of the same run with the same first second: an unknown segment continues where a class turned out to be
    /// unknown. A segment is revised once at most.
    pub is_revision: bool,
}

/// The open segment, or the last closed one.
#[derive(Debug)]
struct OpenSegment {
    tally: Tally,
    /// It was closed before.
    was_closed: bool,
}

/// Takes the seconds and events of one stream in order, and keeps those of about a vote window. A segment is closed about a vote window
/// after its end, when no event can be dated back to it any more.
#[derive(Debug, Default)]
pub struct SegmentCloser {
    settler: Settler,
    open: Option<OpenSegment>,
    /// The unknown segment that the open one follows, if it may be revised.
    before: Option<Tally>,
}

impl SegmentCloser {
    /// Takes a second, and the number of seconds in the vote window at it. Returns the segments that are closed.
    pub fn push(&mut self, second: RecordedSecond, vote_window: u32) -> Vec<ClosedSegment> {
        self.settler.push(second, vote_window);
        self.close()
    }

    /// Takes an event. Its second comes before it.
    pub fn event(&mut self, event: &Event) {
        self.settler.event(event);
    }

    /// Ends the stream. Returns the segments that were open.
    pub fn finish(&mut self) -> Vec<ClosedSegment> {
        self.settler.end();
        let mut closed = self.close();
        self.change(None, &mut closed);
        self.before = None;
        closed
    }

    /// The segment that is not closed, without its last seconds, which are not settled.
    pub fn open(&self) -> Option<Segment> {
        let mut tally = self.open.as_ref()?.tally.clone();
        if tally.is_withheld() {
            tally.withhold();
        }
        Some(tally.segment())
    }

    fn close(&mut self) -> Vec<ClosedSegment> {
        let mut closed = Vec::new();
        for settled in self.settler.settled() {
            let mut second = settled.second;
            if settled.begins_stretch {
                self.change(None, &mut closed);
                self.before = None;
            } else if second.wall_ns.is_none() {
                // Records of gaps have none.
                second.wall_ns = self.open.as_ref().and_then(|open| open.tally.segment().ended_ns);
            }
            if self.open.as_ref().is_some_and(|open| open.tally.kind() != settled.kind) {
                self.change(Some(settled.kind), &mut closed);
            }
            match &mut self.open {
                Some(open) => open.tally.add(&second),
                open => *open = Some(OpenSegment { tally: Tally::new(&second, settled.kind), was_closed: false }),
            }
        }
        closed
    }

    /// Closes the open segment. `next`: the kind of the second that follows it, if one does.
    fn change(&mut self, next: Option<SegmentKind>, closed: &mut Vec<ClosedSegment>) {
        let Some(mut open) = self.open.take() else { return };
        let before = self.before.take();
        if open.tally.is_withheld() {
            open.tally.withhold();
            if let Some(mut tally) = before {
                tally.join(&open.tally);
                open = OpenSegment { tally, was_closed: true };
            }
            if next == Some(SegmentKind::Unknown) {
                self.open = Some(open);
                return;
            }
        }
        closed.push(ClosedSegment { segment: open.tally.segment(), is_revision: open.was_closed });
        let may_be_revised = open.tally.kind() == SegmentKind::Unknown && !open.was_closed && next.is_some();
        self.before = may_be_revised.then_some(open.tally);
    }
}
