//! Deadlines and shutdown: stops streams, and cuts off those that do not end.

use super::entry::ManagedStream;
use super::{Driver, Ended, StreamControl, StreamManager};
use crate::hub::StreamOwner;
use crate::run::publisher::PublisherCommand;
use crate::sink::terminal::announce;
use touchline_core::error::Error;
use touchline_core::time::NANOS_PER_SECOND;

/// How long a stream may take to stop. A pipeline gets five seconds, and its last second must be decided. After that
/// the stream is cut off and its source is abandoned.
pub(super) const CLOSE_MAX_NS: u64 = 8 * NANOS_PER_SECOND;

/// How long waiting seconds are still decided at shutdown, before they become gaps.
pub(super) const DRAIN_NS: u64 = 3 * NANOS_PER_SECOND;

/// How long all sources together may take at shutdown. The rest is logged and cut off.
pub(super) const STOP_MAX_NS: u64 = 6 * NANOS_PER_SECOND;

/// A shutdown in progress.
#[derive(Debug)]
pub(super) struct Stopping {
    since_ns: u64,
    has_shed: bool,
    /// The cause, unless a signal stopped the program.
    error: Option<Error>,
}

impl<H: Driver + 'static> StreamManager<H> {
    /// Checks the deadlines.
    pub(super) fn check_deadlines(&mut self) {
        let now_ns = self.tools.clock.mono_ns();
        let late: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| e.phase.waits_since_ns().is_some_and(|since_ns| now_ns - since_ns >= CLOSE_MAX_NS))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            tracing::warn!("{id}: the source does not stop; it is cut off and abandoned");
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
                tracing::warn!("waiting seconds become gaps; still running: {}", waits.join(", "));
            }
            self.tools.driver.shed_all();
        }
        if took_ns >= STOP_MAX_NS {
            let late: Vec<String> =
                self.entries.iter().filter(|(_, e)| e.is_busy()).map(|(id, _)| id.clone()).collect();
            if !late.is_empty() {
                tracing::error!("sources that did not stop in time and are abandoned: {}", late.join(", "));
            }
            late.iter().for_each(|id| self.cut(id));
        }
    }

    /// Abandons a source that does not stop.
    fn cut(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(queue) = entry.phase.queue() {
            self.tools.tell(PublisherCommand::Cut(queue));
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
        // All receive the request to stop before any is waited for.
        ids.iter().for_each(|id| self.reconcile(id));
    }

    /// The result, once nothing is left to do.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let now_ns = self.tools.clock.mono_ns();
        let is_late = self.stopping.as_ref().is_some_and(|s| now_ns - s.since_ns >= STOP_MAX_NS);
        if !is_late && self.entries.values().any(ManagedStream::is_busy) {
            return None;
        }
        if let Some(stopping) = &mut self.stopping {
            let error = stopping.error.take();
            self.entries.values_mut().for_each(|e| e.answer(Err(StreamControl::shutting_down())));
            self.tools.tell(PublisherCommand::Finish);
            return Some(Ended { stopped: error.is_none(), result: error.map_or(Ok(()), Err) });
        }
        // A disabled stream of the file has not ended: it may be enabled again.
        let goes_on = |e: &ManagedStream| {
            e.revive_at_ns.is_some() || !e.over && (e.settings.enabled || e.origin == StreamOwner::Config)
        };
        if self.rules.is_service || self.entries.values().any(goes_on) {
            return None;
        }
        let error = self.entries.values_mut().find_map(|e| e.error.take());
        if error.is_none() && self.rules.lingers {
            if !std::mem::replace(&mut self.lingering_logged, true) {
                announce("all streams have ended; the page stays until Ctrl-C");
            }
            return None;
        }
        self.tools.tell(PublisherCommand::Finish);
        Some(Ended { stopped: false, result: error.map_or(Ok(()), Err) })
    }
}
