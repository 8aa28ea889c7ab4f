//! The publisher's state of one stream: its vote, its events, its segments and its changes for the hub.

use crate::hub::StreamHandle;
use crate::record::{OutputRecord, Published, StreamState};
use crate::schedule::Expectations;
use touchline_core::clip::ClipOutput;
use touchline_core::clock::Clock;
use touchline_core::decision::{Event, SecondOutcome, WindowEstimate};
use touchline_core::expectation::Watch;
use touchline_core::item::{End, Pace};
use touchline_core::segment::{ClosedSegment, RecordedSecond, Segment, SegmentCloser};
use touchline_core::time::{NANOS_PER_SECOND, RunId, WallSource};
use touchline_core::vote::{VoteConfig, Voter};

/// One stream in the publisher.
pub struct LiveStream {
    handle: StreamHandle,
    vote: StreamVote,
    supervised: bool,
    /// The state after the end of its source, in place of `Ended` or `Failed`.
    into: Option<StreamState>,
    over: bool,
}

impl LiveStream {
    /// `supervised`: a supervisor reports when the stream plays. Its news overtake waiting seconds, so an in-band
    /// `Opened` may be old.
    pub fn new(
        handle: StreamHandle,
        vote: VoteConfig,
        expectations: Expectations,
        classes: usize,
        supervised: bool,
    ) -> Self {
        let mut vote = StreamVote::new(vote, classes, handle.pace());
        vote.expect(expectations);
        Self { handle, vote, supervised, into: None, over: false }
    }

    /// The source is being stopped. After its last second the stream enters `into`.
    pub fn ends_into(&mut self, into: StreamState) {
        self.into = Some(into);
    }

    /// Changes the vote from the next second on.
    pub fn set_vote(&mut self, vote: VoteConfig) {
        self.vote.set_config(vote);
    }

    /// Changes what is expected from the next second on.
    pub fn expect(&mut self, expectations: Expectations) {
        self.vote.expect(expectations);
    }

    /// Ends the stream now, although its source has not ended.
    pub fn cut(&mut self, records: &mut Vec<OutputRecord>) -> Option<StreamState> {
        self.news(ClipOutput::Ended(End::Finished), records)
    }

    /// Its handle in the hub.
    pub fn handle(&self) -> &StreamHandle {
        &self.handle
    }

    /// Whether its source has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Votes over a second that was decided or became a gap.
    pub fn outcome(&mut self, outcome: SecondOutcome, backlog: u32, clock: &dyn Clock) -> Published {
        let latency_ns = match &outcome {
            SecondOutcome::Predicted(p) => Some(clock.mono_ns().saturating_sub(p.arrived_ns)),
            SecondOutcome::Gap(_) => None,
        };
        self.vote.take(outcome, backlog, latency_ns, clock.unix_ns())
    }

    /// The segment that is not closed.
    pub fn open_segment(&self) -> Option<Segment> {
        self.vote.open_segment()
    }

    /// Passes news to the hub and appends the records for other outputs. Returns the new state, if it changed.
    pub fn news(&mut self, news: ClipOutput, records: &mut Vec<OutputRecord>) -> Option<StreamState> {
        match news {
            ClipOutput::Opened(tracks) => {
                records.extend(self.handle.set_tracks(tracks));
                if self.supervised { None } else { self.change(StreamState::Playing, records) }
            }
            ClipOutput::RunStarted { run, cause } => {
                records.extend(self.handle.run_started(run, cause));
                None
            }
            ClipOutput::Discarded { track, count } => {
                self.handle.discarded(track, count);
                None
            }
            ClipOutput::Incident(incident) => {
                records.push(self.handle.incident(incident));
                None
            }
            ClipOutput::TrackEnded(track) => {
                tracing::debug!("{}: {track:?} track ended", self.handle.id());
                None
            }
            ClipOutput::Ended(end) => {
                self.over = true;
                let (events, segments) = self.vote.finish();
                records.extend(self.handle.publish_end(&events, &segments));
                records.extend(self.vote.watch.finish().map(|event| self.handle.expectation(&event)));
                let state = match (self.into.take(), end) {
                    (Some(into), _) => into,
                    (None, End::Finished) => StreamState::Ended,
                    (None, End::Failed { kind, cause, advice }) => StreamState::Failed { kind, cause, advice },
                };
                self.change(state, records)
            }
            ClipOutput::Second(_) | ClipOutput::Gap(_) => None,
        }
    }

    fn change(&self, state: StreamState, records: &mut Vec<OutputRecord>) -> Option<StreamState> {
        let record = self.handle.set_state(state.clone())?;
        records.push(record);
        Some(state)
    }
}

/// The vote over the seconds of one stream, and the segments that follow from it.
pub struct StreamVote {
    voter: Voter,
    closer: SegmentCloser,
    classes: usize,
    pace: Pace,
    expectations: Expectations,
    watch: Watch,
    /// Wall time of the last second, with its run and index.
    last_wall: Option<(RunId, u64, i64)>,
}

impl StreamVote {
    /// A vote over `classes` classes.
    pub fn new(config: VoteConfig, classes: usize, pace: Pace) -> Self {
        let (voter, closer) = (Voter::new(config, classes), SegmentCloser::default());
        let (expectations, watch) = (Expectations::default(), Watch::default());
        Self { voter, closer, classes, pace, expectations, watch, last_wall: None }
    }

    /// Changes the vote from the next second on.
    pub fn set_config(&mut self, config: VoteConfig) {
        self.voter.set_config(config);
    }

    /// Changes what is expected from the next second on. Before, nothing is.
    pub fn expect(&mut self, expectations: Expectations) {
        self.expectations = expectations;
    }

    /// Votes over a second. Returns it with the estimate, the events and the segments that follow. `unix_ns` is the time now.
    pub fn take(&mut self, outcome: SecondOutcome, backlog: u32, latency_ns: Option<u64>, unix_ns: i64) -> Published {
        let mut events: Vec<Event> = Vec::new();
        let estimate = self.voter.push(&outcome, &mut events).cloned();
        let estimate = estimate.unwrap_or_else(|| WindowEstimate::empty(self.classes));
        let wall_ns = self.wall_ns(&outcome, unix_ns);
        let (expected, patience_s) = (self.expectations.at(wall_ns), self.expectations.patience_s());
        let watched = self.watch.take(expected, patience_s, (&outcome, &estimate), self.voter.on_air());
        let segments = Vec::new();
        let mut published = Published { outcome, estimate, events, segments, watched, latency_ns, backlog };
        let recorded = RecordedSecond { wall_ns, ..published.recorded() };
        let WindowEstimate { seconds, gaps, .. } = published.estimate;
        published.segments = self.closer.push(recorded, seconds + gaps);
        published.events.iter().for_each(|event| self.closer.event(event));
        published
    }

    /// Ends the stream: every class on air leaves it, and the open segment is closed.
    pub fn finish(&mut self) -> (Vec<Event>, Vec<ClosedSegment>) {
        let mut events = Vec::new();
        self.voter.finish(&mut events);
        events.iter().for_each(|event| self.closer.event(event));
        (events, self.closer.finish())
    }

    /// The segment that is not closed.
    pub fn open_segment(&self) -> Option<Segment> {
        self.closer.open()
    }

    /// Wall time of the start of a second. A gap has that after the second before it, or the time of its arrival; a file has none,
    /// because its segments must not depend on the time at which it is read.
    fn wall_ns(&mut self, outcome: &SecondOutcome, unix_ns: i64) -> Option<i64> {
        let (run, index) = (outcome.run(), outcome.index());
        let wall_ns = match outcome {
            SecondOutcome::Predicted(second)
                if self.pace == Pace::Live || second.wall.source != WallSource::Arrival =>
            {
                second.wall.unix_ns
            }
            SecondOutcome::Gap(_) if self.pace == Pace::Live => {
                let last = self.last_wall.filter(|(of, last, _)| *of == run && *last < index);
                let after = last.map(|(_, last, ns)| ns.saturating_add_unsigned((index - last) * NANOS_PER_SECOND));
                after.unwrap_or(unix_ns.saturating_sub_unsigned(NANOS_PER_SECOND))
            }
            _ => return None,
        };
        self.last_wall = Some((run, index, wall_ns));
        Some(wall_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use crate::testing::{EPOCH_NS, classes, predicted};
    use touchline_core::expectation::ExpectationEnd;

    /// The seconds at which something unexpected begins or ends in a stream of soccer, whose first second is at 22:13:20 UTC.
    fn watched(pace: Pace, expectations: Expectations, seconds: u64) -> Vec<(u64, Option<ExpectationEnd>)> {
        let mut vote = StreamVote::new(VoteConfig::default(), classes().len(), pace);
        vote.expect(expectations);
        let mut events = Vec::new();
        for index in 0..seconds {
            let published = vote.take(predicted(index, "soccer", 0.9).outcome, 0, None, EPOCH_NS);
            events.extend(published.watched.events.into_iter().map(|event| (event.index, event.end)));
        }
        events
    }

    #[test]
    fn a_schedule_applies_by_the_wall_time_of_the_seconds_and_not_to_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day.csv");
        let entries =
            "2023-11-14T22:14:00Z,2023-11-14T22:15:00Z,tennis\n2023-11-14T22:15:00Z,2023-11-14T22:16:00Z,soccer\n";
        std::fs::write(&path, format!("start,end,expect\n{entries}")).unwrap();
        let schedule = Schedule::read(&path, None).unwrap();
        let scheduled = || Expectations::new(&[], Some(&schedule), 30, &classes()).unwrap();
        // 22:14:00 is second 40. Soccer is on air, as it was before: second 69 is the thirtieth.
        let found = watched(Pace::Live, scheduled(), 600);
        assert_eq!(found, [(69, None), (100, Some(ExpectationEnd::Changed))]);
        assert_eq!(watched(Pace::File, scheduled(), 600), [], "the time of reading says nothing about a recording");
        let always = Expectations::new(&["tennis".into()], None, 30, &classes()).unwrap();
        // Soccer comes on air with the third second.
        assert_eq!(watched(Pace::File, always, 600), [(31, None)]);
    }
}
