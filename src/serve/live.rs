//! The publisher's state of one stream: its vote, its events and its news for the hub.

use crate::publish::hub::StreamHandle;
use crate::publish::record::{OutputRecord, Published, StreamState};
use touchline_core::clip::ClipOutput;
use touchline_core::decision::{Event, SecondOutcome, WindowEstimate};
use touchline_core::item::End;
use touchline_core::vote::{VoteConfig, Voter};

/// One stream in the publisher.
pub struct LiveStream {
    handle: StreamHandle,
    voter: Voter,
    classes: usize,
    supervised: bool,
    /// The state after the end of its source, in place of `Ended` or `Failed`.
    into: Option<StreamState>,
    over: bool,
}

impl LiveStream {
    /// `supervised`: a supervisor reports when the stream plays. Its news overtake waiting seconds, so an in-band
    /// `Opened` may be old.
    pub fn new(handle: StreamHandle, vote: VoteConfig, classes: usize, supervised: bool) -> Self {
        Self { handle, voter: Voter::new(vote, classes), classes, supervised, into: None, over: false }
    }

    /// The source is being stopped. After its last second the stream enters `into`.
    pub fn ends_into(&mut self, into: StreamState) {
        self.into = Some(into);
    }

    /// Changes the vote from the next second on.
    pub fn set_vote(&mut self, vote: VoteConfig) {
        self.voter.set_config(vote);
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
    pub fn outcome(&mut self, outcome: SecondOutcome, backlog: u32, now_ns: u64) -> Published {
        let latency_ns = match &outcome {
            SecondOutcome::Predicted(p) => Some(now_ns.saturating_sub(p.arrived_ns)),
            SecondOutcome::Gap(_) => None,
        };
        vote(&mut self.voter, self.classes, outcome, backlog, latency_ns)
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
                let mut events = Vec::new();
                self.voter.finish(&mut events);
                records.extend(self.handle.publish_events(&events));
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

/// Votes over a second. Returns it with the estimate and the events that follow.
pub fn vote(
    voter: &mut Voter,
    classes: usize,
    outcome: SecondOutcome,
    backlog: u32,
    latency_ns: Option<u64>,
) -> Published {
    let mut events: Vec<Event> = Vec::new();
    let estimate = voter.push(&outcome, &mut events).cloned().unwrap_or_else(|| WindowEstimate::empty(classes));
    Published { outcome, estimate, events, latency_ns, backlog }
}
