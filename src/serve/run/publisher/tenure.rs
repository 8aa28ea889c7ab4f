//! Streams of a fleet: what is published of them, and when.
//!
//! Seconds wait while the stream is prepared, because the owner before may stop before it has published them, and while the right to
//! publish is interrupted: if the fleet's store acknowledges the machine again before another one takes the stream, they are published.

use std::collections::VecDeque;

use super::{Publisher, Running};
use crate::backlog::QueueId;
use crate::sink::ItemContent;
use crate::workers::DecidedItem;
use touchline_core::decision::SecondOutcome;
use touchline_core::time::RunId;

/// Seconds that wait while a stream is prepared.
const PREPARED: usize = 3;

/// Seconds that wait while the right to publish is interrupted. Monitors end the session before that.
const INTERRUPTED: usize = 8;

/// A stream of a fleet in the publisher.
#[derive(Default)]
pub(super) struct FleetStanding {
    /// Seconds that wait, with the backlog at their time.
    waiting: VecDeque<(SecondOutcome, u32)>,
    /// Run and wall time of the first published second, nanoseconds since 1970-01-01 UTC.
    first: Option<(RunId, i64)>,
}

impl Publisher {
    /// Lets a second of a stream wait that is being prepared.
    pub(super) fn prepare(&mut self, queue: QueueId, outcome: SecondOutcome, backlog: u32) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        if running.fleet.waiting.len() == PREPARED {
            running.fleet.waiting.pop_front();
        }
        running.fleet.waiting.push_back((outcome, backlog));
        if let Some(tenure) = running.stream.handle().tenure() {
            tenure.decided();
        }
    }

    /// Lets a second wait that may not be published now. The oldest is dropped and counted if there are too many.
    pub(super) fn interrupt(&mut self, queue: QueueId, outcome: SecondOutcome, backlog: u32) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        running.fleet.waiting.push_back((outcome, backlog));
        if running.fleet.waiting.len() > INTERRUPTED {
            running.fleet.waiting.pop_front();
            self.unpublished(queue, 1);
        }
    }

    /// Publishes what precedes an item of a stream that may be published: at first the state and the span that was lost, then the seconds
    /// that wait.
    pub(super) fn catch_up_tenure(&mut self, queue: QueueId, item: &DecidedItem) {
        let Some(running) = self.running.get_mut(&queue) else { return };
        let waiting = std::mem::take(&mut running.fleet.waiting);
        let first = waiting.front().map(|(outcome, _)| outcome).or(match item {
            DecidedItem::Outcome { outcome, .. } => Some(outcome),
            DecidedItem::News(_) => None,
        });
        let handle = running.stream.handle().clone();
        let mut records = Vec::new();
        if let Some(first) = first.filter(|_| running.fleet.first.is_none()) {
            let wall_ns = match first {
                SecondOutcome::Predicted(second) => second.wall.unix_ns,
                SecondOutcome::Gap(_) => self.clock.unix_ns(),
            };
            running.fleet.first = Some((first.run(), wall_ns));
            self.is_interruption_logged = false;
            // While the stream was prepared, its state was not published.
            records.extend((!waiting.is_empty()).then(|| handle.state_record()));
        }
        // A lost span ends with the first second. After a planned move it is known later.
        if let Some((run, wall_ns)) = running.fleet.first
            && let Some(from_ns) =
                handle.tenure().and_then(|tenure| tenure.take_lost()).filter(|from_ns| *from_ns < wall_ns)
        {
            records.push(handle.publish_lost(RunId(run.0.wrapping_sub(1)), from_ns, wall_ns));
        }
        if !records.is_empty() {
            self.send(&handle, ItemContent::RecordsOnly, records);
        }
        for (outcome, backlog) in waiting {
            self.outcome(queue, outcome, backlog);
        }
    }

    /// Removes a stream whose source has ended. Its seconds that wait are never published.
    pub(super) fn remove(&mut self, queue: QueueId) {
        let Some(Running { fleet, .. }) = self.running.get(&queue) else { return };
        self.unpublished(queue, fleet.waiting.len());
        self.running.remove(&queue);
    }

    /// Counts seconds that were decided and are not published. Those of a stream that another machine publishes do not count.
    fn unpublished(&mut self, queue: QueueId, seconds: usize) {
        let Some(running) = self.running.get(&queue).filter(|_| seconds > 0) else { return };
        let handle = running.stream.handle();
        if handle.tenure().is_none_or(|tenure| tenure.epoch().is_none()) {
            return;
        }
        self.hub.metrics().fleet().unpublished(seconds as u64);
        if !std::mem::replace(&mut self.is_interruption_logged, true) {
            let advice = "check NATS (GET /api/v1/fleet); other machines take its streams over";
            let id = handle.id();
            tracing::error!("{id}: seconds are not published: the fleet has not acknowledged this machine; {advice}");
        }
    }
}
