//! What this machine says about the fleet: metrics, status and page.

use std::sync::atomic::Ordering;

use super::{FleetMachine, elsewhere};
use crate::fleet::view::FleetView;
use crate::fleet::{FleetStore, NodeState};
use touchline_core::time::NANOS_PER_SECOND;

/// Between two updates of the status.
const STATUS_EVERY_NS: u64 = NANOS_PER_SECOND;

/// How long the right to publish may be absent before the page shows it.
const NOTICE_AFTER_NS: u64 = 3 * NANOS_PER_SECOND;

impl FleetMachine {
    /// Updates metrics, status and page.
    pub(super) fn report(&mut self, now_ns: u64) {
        let is_connected = self.store.as_ref().is_some_and(FleetStore::is_connected);
        match (std::mem::replace(&mut self.was_connected, is_connected), is_connected) {
            (false, true) => tracing::info!("fleet: connected to NATS"),
            (true, false) => tracing::warn!("fleet: the connection to NATS is lost"),
            _ => {}
        }
        let may_publish = self.node.may_publish(now_ns);
        if may_publish {
            if self.silent_since_ns.take().is_some() {
                self.has_changed = true;
            }
        } else {
            let since_ns = *self.silent_since_ns.get_or_insert(now_ns);
            let is_ending = self.node.state() != NodeState::Active;
            if now_ns.saturating_sub(since_ns) > NOTICE_AFTER_NS && !is_ending {
                let text = format!("Fleet {}: this machine publishes nothing: {}", self.settings.name, self.problem());
                self.has_changed |= self.notice.text() != text;
                self.notice.set(text);
            }
        }
        if self.node.waits_for_its_name() && !std::mem::replace(&mut self.is_name_logged, true) {
            let name = &self.node_name;
            tracing::warn!("fleet: a process with the name {name:?} was there; this one waits until it is gone");
        }
        if !self.has_changed || now_ns < self.status_due_ns {
            return;
        }
        (self.has_changed, self.status_due_ns) = (false, now_ns + STATUS_EVERY_NS);
        if may_publish {
            let text = self.packs.notice();
            let is_said = !text.is_empty();
            self.notice.set(if is_said { format!("Fleet {}: {text}", self.settings.name) } else { text });
        }
        self.packs.report();
        let costs = self.tenures.keys().filter_map(|id| self.node.stream(id)).map(|stream| stream.cost);
        self.cost.store(costs.fold(0, u32::saturating_add), Ordering::Relaxed);
        if self.settings.follow {
            self.hub.set_elsewhere(elsewhere::streams(&self.node, &self.node_name));
        }
        let mut view = FleetView::new(&self.settings.name, self.node.nodes(), self.node.streams());
        view.add_packs(self.packs.node().rollout(), self.packs.node().reports());
        self.hub.metrics().fleet().counts(&view.counts(self.node.owned().count()));
        self.hub.metrics().fleet().may_publish(may_publish);
        view.node = Some(self.node_name.to_string());
        view.may_publish = may_publish;
        view.problem = (!may_publish).then(|| self.problem());
        self.hub.set_fleet(serde_json::to_string(&view).ok());
    }

    /// Why this machine does not publish.
    fn problem(&self) -> String {
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        match &self.store {
            Some(store) if store.is_connected() && self.node.waits_for_its_name() => {
                "another process has the name of this machine".to_owned()
            }
            Some(store) if store.is_connected() => "the store does not acknowledge this machine".to_owned(),
            _ => "no connection to NATS; streams are not published".to_owned(),
        }
    }
}
