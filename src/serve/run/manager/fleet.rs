//! Streams of a fleet: watched and dropped as the fleet requests it.

use std::sync::Arc;

use super::{Driver, InitialStream, StreamManager};
use crate::config::StreamSettings;
use crate::control::streams::FleetRequest;
use crate::hub::{Restored, StreamOwner};
use crate::record::FleetTenure;

/// A stream that the fleet wants to be watched.
pub(super) struct FleetWatch {
    settings: StreamSettings,
    tenure: Arc<FleetTenure>,
}

impl<H: Driver + 'static> StreamManager<H> {
    pub(super) fn handle_fleet(&mut self, request: FleetRequest) {
        if self.stopping.is_some() {
            return;
        }
        match request {
            FleetRequest::Watch { settings, tenure } => self.watch(FleetWatch { settings: *settings, tenure }),
            FleetRequest::Drop(id) => {
                let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.origin == StreamOwner::Fleet) else {
                    return;
                };
                (entry.gone, entry.again) = (true, None);
                self.reconcile(&id);
            }
            FleetRequest::Forget(id) => match self.entries.get_mut(&id) {
                // Its last records come before its end.
                Some(entry) if entry.origin == StreamOwner::Fleet => entry.forgotten = true,
                // A stream of the configuration may have the name.
                Some(_) => {}
                None => {
                    if let Some(store) = &self.tools.store {
                        store.forget(&id);
                    }
                }
            },
        }
    }

    fn watch(&mut self, watch: FleetWatch) {
        let generation = self.next_generation();
        let id = watch.settings.id.clone();
        let (vote, retry) = (self.vote, self.rules.retry);
        let Some(entry) = self.entries.get_mut(&id) else { return self.watch_again(watch) };
        let is_same = entry.handle.tenure().is_some_and(|tenure| std::ptr::eq(tenure, &raw const *watch.tenure));
        if entry.gone || !is_same {
            // The hub keeps the tenure of a stream for as long as it has the stream.
            (entry.gone, entry.again) = (true, Some(Box::new(watch)));
        } else {
            (entry.settings, entry.generation) = (watch.settings, generation);
            entry.show(vote, retry);
        }
        self.reconcile(&id);
    }

    /// Watches a stream that the manager does not have.
    pub(super) fn watch_again(&mut self, FleetWatch { settings, tenure }: FleetWatch) {
        let id = settings.id.clone();
        let restored = Restored::default();
        let stream = InitialStream { settings, origin: StreamOwner::Fleet, generation: None, restored };
        match self.enter(stream, Some(tenure)) {
            Ok(_) => self.reconcile(&id),
            Err(e) => tracing::error!("{id}: the stream of the fleet cannot be watched: {e}"),
        }
    }
}
