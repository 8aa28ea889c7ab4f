//! Deadlines, and how the program comes to its end: streams that are stopped, and what is done with those that do not end.

use super::entry::ManagedStream;
use super::{Driver, Ended, StreamControl, StreamManager};
use crate::publish::hub::Origin;
use crate::run::publisher::Command;
use touchline_core::error::Error;
use touchline_core::time::NANOS_PER_SECOND;

/// How long a stream that is being stopped may take to come to its end. A pipeline gets five seconds to stop, and its last
/// second must be decided; after that the stream is cut off and its source left to itself.
pub(super) const CLOSE_MAX_NS: u64 = 8 * NANOS_PER_SECOND;

/// When the program stops: how long what waits is still decided, before it becomes gaps.
pub(super) const DRAIN_NS: u64 = 3 * NANOS_PER_SECOND;

/// When the program stops: how long sources may take, all together. What is left of them is named and cut off.
pub(super) const STOP_MAX_NS: u64 = 6 * NANOS_PER_SECOND;

/// The program stops.
#[derive(Debug)]
pub(super) struct Stopping {
    since_ns: u64,
    has_shed: bool,
    /// Why, when nobody asked for it.
    error: Option<Error>,
}

impl<H: Driver + 'static> StreamManager<H> {
    /// Looks at deadlines.
    pub(super) fn look(&mut self) {
        let now_ns = self.tools.clock.mono_ns();
        let late: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| e.phase.waits_since_ns().is_some_and(|since_ns| now_ns - since_ns >= CLOSE_MAX_NS))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            tracing::warn!("{id}: its source does not come to an end; it is cut off and left to itself");
            self.cut(&id);
            self.reconcile(&id);
        }
        if let Some(id) = self.suspects.next(now_ns) {
            self.reconcile(&id);
        }
        let is_due = |e: &ManagedStream| e.revive_at_ns.is_some_and(|at_ns| now_ns >= at_ns);
        let due: Vec<String> = self.entries.iter().filter(|(_, e)| is_due(e)).map(|(id, _)| id.clone()).collect();
        for id in due {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.revive_at_ns = None;
                entry.reopen |= entry.over;
            }
            self.reconcile(&id);
        }
        let Some(stopping) = &mut self.stopping else { return };
        let took_ns = now_ns - stopping.since_ns;
        if took_ns >= DRAIN_NS && !std::mem::replace(&mut stopping.has_shed, true) {
            let waits: Vec<&str> =
                self.entries.iter().filter(|(_, e)| e.is_busy()).map(|(id, _)| id.as_str()).collect();
            if !waits.is_empty() {
                tracing::warn!("seconds that still wait become gaps; not at their end yet: {}", waits.join(", "));
            }
            self.tools.driver.shed_all();
        }
        if took_ns >= STOP_MAX_NS {
            let late: Vec<String> =
                self.entries.iter().filter(|(_, e)| e.is_busy()).map(|(id, _)| id.clone()).collect();
            if !late.is_empty() {
                tracing::error!("these sources did not stop in time and are left to themselves: {}", late.join(", "));
            }
            late.iter().for_each(|id| self.cut(id));
        }
    }

    /// Gives a source up that does not come to its end.
    fn cut(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(queue) = entry.phase.queue() {
            self.tools.tell(Command::Cut(queue));
            self.tools.driver.remove_queue(queue);
        }
        let source = entry.phase.take_source();
        self.tools.drop_aside(id, source);
    }

    pub(super) fn stop(&mut self, error: Option<Error>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping { since_ns: self.tools.clock.mono_ns(), has_shed: false, error });
        let ids: Vec<String> = self.entries.keys().cloned().collect();
        // All of them are asked before any of them is waited for.
        ids.iter().for_each(|id| self.reconcile(id));
    }

    /// Whether there is nothing left to do, and how it ended.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let now_ns = self.tools.clock.mono_ns();
        let is_late = self.stopping.as_ref().is_some_and(|s| now_ns - s.since_ns >= STOP_MAX_NS);
        if !is_late && self.entries.values().any(ManagedStream::is_busy) {
            return None;
        }
        if let Some(stopping) = &mut self.stopping {
            let error = stopping.error.take();
            self.entries.values_mut().for_each(|e| e.answer(Err(StreamControl::shutting_down())));
            self.tools.tell(Command::Finish);
            return Some(Ended { stopped: error.is_none(), result: error.map_or(Ok(()), Err) });
        }
        // One of the file that is off is not at its end: whoever turned it off may turn it on again.
        let goes_on = |e: &ManagedStream| {
            e.revive_at_ns.is_some() || !e.over && (e.settings.enabled || e.origin == Origin::Config)
        };
        if self.rules.is_service || self.entries.values().any(goes_on) {
            return None;
        }
        let error = self.entries.values_mut().find_map(|e| e.error.take());
        if error.is_none() && self.rules.lingers {
            if !std::mem::replace(&mut self.lingering_said, true) {
                eprintln!("every stream has ended; the page stays until Ctrl-C");
            }
            return None;
        }
        self.tools.tell(Command::Finish);
        Some(Ended { stopped: false, result: error.map_or(Ok(()), Err) })
    }
}
