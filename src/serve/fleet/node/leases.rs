//! The leases of streams: taking free ones, handing over, leaving.

use super::{FleetAction, FleetNode, Owned, Pending, RenewalState, StartCause};
use crate::fleet::placement::{candidates, is_eligible, worth_moving};
use crate::fleet::{
    FleetKey, FleetValue, Holder, Lease, NodeName, NodeRecord, NodeState, Renewal, StreamId, StreamRecord,
};

/// Streams that a node hands over at once.
const MOVES: usize = 4;

/// Candidates that wait longer than the one before them, to take a free stream.
const STAGGERED: u64 = 8;

impl FleetNode {
    pub(super) fn lease_changed(
        &mut self,
        id: &StreamId,
        lease: Lease,
        revision: u64,
        now_ns: u64,
        actions: &mut Vec<FleetAction>,
    ) {
        if self.leases.get(id).is_some_and(|(_, known)| *known >= revision) {
            return;
        }
        let me = self.me();
        let cost = self.streams.get(id).map_or(0, |stream| stream.cost);
        if let Some((Lease { owner: Some(owner), .. }, _)) = self.leases.get(id) {
            self.loads.remove(&owner.node, cost);
        }
        if let Some(owner) = &lease.owner {
            self.loads.add(&owner.node, cost);
        }
        let is_mine = lease.owner.as_ref() == Some(&me);
        match self.owned.get_mut(id) {
            Some(owned) if is_mine && owned.epoch == lease.epoch => {
                owned.moving_since_ns = owned.moving_since_ns.filter(|_| lease.next.is_some());
            }
            Some(_) => {
                self.owned.remove(id);
                actions.push(FleetAction::Stop(id.clone()));
            }
            None => {}
        }
        if is_mine && self.is_publishing && !self.owned.contains_key(id) {
            let moving_since_ns = lease.next.is_some().then_some(now_ns);
            self.owned.insert(id.clone(), Owned { epoch: lease.epoch, moving_since_ns });
            let before = self.leases.get(id).and_then(|(lease, _)| lease.owner.clone());
            let cause = match (self.preparing.remove(id), &before) {
                (Some(_), Some(owner)) if !self.is_live(owner) => StartCause::Lost,
                (Some(_), _) => StartCause::Planned,
                (None, Some(_)) => StartCause::Lost,
                (None, None) => StartCause::First,
            };
            actions.push(FleetAction::Start { stream: id.clone(), epoch: lease.epoch, cause, before });
        }
        let is_next = lease.next.as_ref() == Some(&me) && self.is_publishing && self.state == NodeState::Active;
        if is_next && !self.preparing.contains_key(id) {
            self.preparing.insert(id.clone(), false);
            actions.push(FleetAction::Prepare(id.clone()));
        } else if !is_next && self.preparing.remove(id).is_some() {
            actions.push(FleetAction::Stop(id.clone()));
        }
        self.leases.insert(id.clone(), (lease, revision));
        self.note_free(id, now_ns);
    }

    /// Counts the load of a stream again whose definition has changed.
    pub(super) fn stream_changed(&mut self, id: &StreamId, old: Option<&StreamRecord>, now_ns: u64) {
        if let Some((Lease { owner: Some(owner), .. }, _)) = self.leases.get(id) {
            let new = self.streams.get(id).map_or(0, |stream| stream.cost);
            self.loads.remove(&owner.node, old.map_or(0, |stream| stream.cost));
            self.loads.add(&owner.node, new);
        }
        self.note_free(id, now_ns);
    }

    /// Whether nobody watches a stream that is defined.
    pub(super) fn is_free(&self, id: &StreamId) -> bool {
        let owner = self.leases.get(id).and_then(|(lease, _)| lease.owner.as_ref());
        self.streams.contains_key(id) && owner.is_none_or(|owner| !self.is_live(owner))
    }

    pub(super) fn note_free(&mut self, id: &StreamId, now_ns: u64) {
        if self.is_free(id) {
            self.free.entry(id.clone()).or_insert(now_ns);
        } else {
            self.free.remove(id);
        }
    }

    /// Looks at all streams, after a node has changed.
    pub(super) fn find_free(&mut self, now_ns: u64) {
        for id in self.streams.keys().cloned().collect::<Vec<_>>() {
            self.note_free(&id, now_ns);
        }
    }

    pub(super) fn is_writing_lease(&self, id: &StreamId) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::Lease(other) if other == id))
    }

    pub(super) fn put_lease(
        &mut self,
        id: &StreamId,
        lease: Lease,
        revision: Option<u64>,
        actions: &mut Vec<FleetAction>,
    ) {
        let action =
            self.put(Pending::Lease(id.clone()), FleetKey::Lease(id.clone()), FleetValue::Lease(lease), revision);
        actions.push(action);
    }

    pub(super) fn take_free(&mut self, now_ns: u64, actions: &mut Vec<FleetAction>) {
        if self.state != NodeState::Active {
            return;
        }
        for (id, since_ns) in self.free.clone() {
            if self.is_writing_lease(&id) {
                continue;
            }
            let nodes = self.nodes.iter().map(|(name, (node, _))| (name, node));
            let order = candidates(&id, &self.streams[&id], nodes, &self.loads);
            let Some(place) = order.iter().position(|name| **name == self.options.name) else { continue };
            if now_ns < since_ns + (place as u64).min(STAGGERED) * self.options.times.stagger_ns {
                continue;
            }
            let known = self.leases.get(&id);
            let (epoch, revision) = known.map_or((0, None), |(lease, revision)| (lease.epoch, Some(*revision)));
            self.put_lease(&id, Lease { owner: Some(self.me()), epoch: epoch + 1, next: None }, revision, actions);
        }
    }

    pub(super) fn take_prepared(&mut self, actions: &mut Vec<FleetAction>) {
        let ready: Vec<StreamId> =
            self.preparing.iter().filter(|(_, is_ready)| **is_ready).map(|(id, _)| id.clone()).collect();
        for id in ready.into_iter().filter(|id| !self.is_writing_lease(id)).collect::<Vec<_>>() {
            let Some((lease, revision)) = self.leases.get(&id) else { continue };
            let (epoch, revision) = (lease.epoch + 1, *revision);
            self.put_lease(&id, Lease { owner: Some(self.me()), epoch, next: None }, Some(revision), actions);
        }
    }

    pub(super) fn hand_over(&mut self, now_ns: u64, actions: &mut Vec<FleetAction>) {
        let prepare_ns = self.options.times.prepare_ns;
        let mut moving = 0;
        for id in self.owned.keys().cloned().collect::<Vec<_>>() {
            let Some((lease, revision)) = self.leases.get(&id).cloned() else { continue };
            let is_defined = self.streams.contains_key(&id);
            if !is_defined && !self.is_writing_lease(&id) {
                self.put_lease(&id, Lease { owner: None, next: None, ..lease }, Some(revision), actions);
                continue;
            }
            let Some(next) = &lease.next else { continue };
            moving += 1;
            let owned = self.owned.get_mut(&id).expect("a key of it");
            let since_ns = *owned.moving_since_ns.get_or_insert(now_ns);
            let is_late = now_ns.saturating_sub(since_ns) > prepare_ns;
            if (is_late || !self.is_live(next)) && !self.is_writing_lease(&id) {
                self.put_lease(&id, Lease { next: None, ..lease }, Some(revision), actions);
            }
        }
        if self.state == NodeState::Draining {
            let idle: Vec<StreamId> = self.idle().take(MOVES.saturating_sub(moving)).cloned().collect();
            for id in idle {
                let nodes = self.nodes.iter().map(|(name, (node, _))| (name, node));
                let Some(stream) = self.streams.get(&id) else { continue };
                let order = candidates(&id, stream, nodes, &self.loads);
                if let Some(next) = order.into_iter().find(|name| **name != self.options.name).cloned() {
                    self.name_next(&id, &next, actions);
                }
            }
        } else if now_ns >= self.balanced_ns + self.options.times.balance_ns {
            self.balanced_ns = now_ns;
            let own = (&self.options.name, self.nodes.get(&self.options.name));
            let (name, Some((record, _))) = own else { return };
            if moving >= MOVES {
                return;
            }
            let idle = self.idle().filter_map(|id| Some((id, self.streams.get(id)?)));
            let chosen = worth_moving((name, record), idle, &self.nodes, &self.loads);
            if let Some((id, next)) = chosen.map(|(id, next)| (id.clone(), next.clone())) {
                self.name_next(&id, &next, actions);
            }
        }
    }

    /// The streams of this node that no other prepares for.
    pub(super) fn idle(&self) -> impl Iterator<Item = &StreamId> {
        self.owned.keys().filter(|id| {
            self.leases.get(*id).is_some_and(|(lease, _)| lease.next.is_none()) && !self.is_writing_lease(id)
        })
    }

    pub(super) fn name_next(&mut self, id: &StreamId, next: &NodeName, actions: &mut Vec<FleetAction>) {
        let (Some((lease, revision)), Some((node, _)), Some(stream)) =
            (self.leases.get(id), self.nodes.get(next), self.streams.get(id))
        else {
            return;
        };
        if !is_eligible(node, stream) {
            return;
        }
        let next = Holder { node: next.clone(), session: node.session };
        let (lease, revision) = (Lease { next: Some(next), ..lease.clone() }, *revision);
        self.put_lease(id, lease, Some(revision), actions);
    }

    /// Leaves when a draining node has no streams left.
    pub(super) fn leave(&mut self, actions: &mut Vec<FleetAction>) {
        let me = self.me();
        let holds = self.leases.values().any(|(lease, _)| lease.owner.as_ref() == Some(&me));
        let is_known = self.nodes.get(&me.node).is_some_and(|(node, _)| node.state == NodeState::Draining);
        if self.state != NodeState::Draining
            || holds
            || !is_known
            || self.pending.values().any(|p| !matches!(p, Pending::MonitorRead { .. }))
        {
            return;
        }
        if self.end_session(actions) {
            self.has_left = true;
            actions.push(FleetAction::Left);
        }
    }

    /// Fences the own session. Returns false if its renewal or its record is not known.
    pub(super) fn end_session(&mut self, actions: &mut Vec<FleetAction>) -> bool {
        let me = self.me();
        let RenewalState::Own { revision: Some(revision) } = self.renewal else { return false };
        let Some((record, known)) = self.nodes.get(&me.node).cloned() else { return false };
        self.is_over = true;
        let fence = Renewal { session: me.session, count: self.count, is_fenced: true };
        let renewal =
            self.put(Pending::Node, FleetKey::Renewal(me.node.clone()), FleetValue::Renewal(fence), Some(revision));
        let record = NodeRecord { state: NodeState::Gone, ..record };
        let record = self.put(Pending::Node, FleetKey::Node(me.node), FleetValue::Node(record), Some(known));
        actions.extend([renewal, record]);
        true
    }
}
