//! The nodes that a node monitors, and what it knows of all nodes.

use super::{FleetAction, FleetNode, Monitored, NodeOptions, Pending};
use crate::fleet::placement::ring_place;
use crate::fleet::{FleetKey, FleetValue, NodeName, NodeRecord, NodeState, Renewal};

/// Monitors of a node.
const MONITORS: usize = 3;

impl FleetNode {
    /// The nodes that this one monitors: those that it follows among the next ones in the order of their names' hashes.
    pub(super) fn wards(&self) -> Vec<NodeName> {
        let place = |name: &str| (ring_place(name), NodeName::from(name));
        let mut ring: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, (node, _))| node.state != NodeState::Gone)
            .map(|(name, _)| place(name))
            .collect();
        ring.sort();
        let Some(at) = ring.iter().position(|(_, name)| *name == self.options.name) else { return Vec::new() };
        (1..=MONITORS.min(ring.len() - 1)).map(|n| ring[(at + n) % ring.len()].1.clone()).collect()
    }

    pub(super) fn read_monitored(&mut self, actions: &mut Vec<FleetAction>) {
        let wards = self.wards();
        self.monitored.retain(|node, _| wards.contains(node));
        for node in wards {
            let is_waiting = |pending: &Pending| match pending {
                Pending::MonitorRead { node: other } | Pending::Fence { node: other } => *other == node,
                _ => false,
            };
            if !self.pending.values().any(is_waiting) {
                let op = self.op(Pending::MonitorRead { node: node.clone() });
                actions.push(FleetAction::Read { op, key: FleetKey::Renewal(node) });
            }
        }
    }

    pub(super) fn monitor(
        &mut self,
        node: &NodeName,
        renewal: Renewal,
        revision: u64,
        now_ns: u64,
        actions: &mut Vec<FleetAction>,
    ) {
        if renewal.is_fenced {
            // Its monitor may have died before it wrote that.
            self.gone(node, renewal, actions);
            return;
        }
        match self.monitored.get(node) {
            Some(seen) if seen.revision == revision => {
                // The value may be old by now. Then the fence fails, because the revision is another one.
                if now_ns.saturating_sub(seen.since_ns) > self.options.times.expire_ns {
                    let fence = Renewal { is_fenced: true, ..seen.renewal };
                    let action = self.put(
                        Pending::Fence { node: node.clone() },
                        FleetKey::Renewal(node.clone()),
                        FleetValue::Renewal(fence),
                        Some(revision),
                    );
                    actions.push(action);
                }
            }
            _ => drop(self.monitored.insert(node.clone(), Monitored { renewal, revision, since_ns: now_ns })),
        }
    }

    /// Writes that a fenced session is gone, unless its node has another session by now.
    pub(super) fn gone(&mut self, node: &NodeName, fenced: Renewal, actions: &mut Vec<FleetAction>) {
        let Some((record, revision)) = self.nodes.get(node) else { return };
        if fenced.is_fenced && record.session == fenced.session && record.state != NodeState::Gone {
            let (record, revision) = (NodeRecord { state: NodeState::Gone, ..record.clone() }, *revision);
            let action =
                self.put(Pending::Node, FleetKey::Node(node.clone()), FleetValue::Node(record), Some(revision));
            actions.push(action);
        }
    }

    pub(super) fn node_changed(
        &mut self,
        name: &NodeName,
        record: NodeRecord,
        revision: u64,
        now_ns: u64,
        actions: &mut Vec<FleetAction>,
    ) {
        if self.nodes.get(name).is_some_and(|(_, known)| *known >= revision) {
            return;
        }
        let is_own = *name == self.options.name && record.session == self.options.session;
        let is_gone = record.state == NodeState::Gone;
        if is_own && record.state == NodeState::Draining {
            // A person drains the node by its record.
            self.drain();
        }
        self.nodes.insert(name.clone(), (record, revision));
        self.find_free(now_ns);
        if is_own && is_gone && !self.is_over {
            // Its renewal says whether this session is fenced.
            self.forget_renewal(actions);
        }
    }

    pub(super) fn write_own_record(&mut self, actions: &mut Vec<FleetAction>) {
        let NodeOptions { name, session, capacity, labels, page, .. } = self.options.clone();
        let wanted = NodeRecord { session, capacity, labels, state: self.state, page };
        let known = self.nodes.get(&name);
        let is_waiting = self.pending.values().any(|pending| matches!(pending, Pending::Node));
        if !is_waiting && known.is_none_or(|(record, _)| *record != wanted) {
            let revision = known.map(|(_, revision)| *revision);
            let action = self.put(Pending::Node, FleetKey::Node(name), FleetValue::Node(wanted), revision);
            actions.push(action);
        }
    }
}
