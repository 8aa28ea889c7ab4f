//! The node's own renewal: it may publish while the store acknowledges it.

use super::{FleetAction, FleetNode, Owned, Pending, RenewalState, StartCause};
use crate::fleet::{FleetKey, FleetValue, Renewal};

impl FleetNode {
    /// Starts the streams of leases that this node holds, once its renewal is acknowledged, and stops them when it has not been for too
    /// long.
    pub(super) fn check_validity(&mut self, now_ns: u64, actions: &mut Vec<FleetAction>) {
        let may = self.may_publish(now_ns);
        if may == self.is_publishing {
            return;
        }
        self.is_publishing = may;
        if may {
            // This session was never fenced, so its leases are still its own.
            let me = self.me();
            let own = self.leases.iter().filter(|(_, (lease, _))| lease.owner.as_ref() == Some(&me));
            self.owned =
                own.map(|(id, (lease, _))| (id.clone(), Owned { epoch: lease.epoch, moving_since_ns: None })).collect();
            actions.extend(self.owned.iter().map(|(id, owned)| FleetAction::Start {
                stream: id.clone(),
                epoch: owned.epoch,
                cause: StartCause::Lost,
                before: None,
            }));
        } else {
            self.stop_all(actions);
            // What this node saw of others is old by now.
            self.monitored.clear();
        }
        self.free.clear();
        self.find_free(now_ns);
    }

    pub(super) fn renew(&mut self, now_ns: u64, actions: &mut Vec<FleetAction>) {
        let is_waiting = |pending: &Pending| matches!(pending, Pending::Renewal { .. } | Pending::OwnRenewal);
        if self.pending.values().any(is_waiting) {
            return;
        }
        match self.renewal {
            RenewalState::Unknown => {
                let op = self.op(Pending::OwnRenewal);
                actions.push(FleetAction::Read { op, key: FleetKey::Renewal(self.options.name.clone()) });
            }
            RenewalState::Foreign { renewal, revision, since_ns } => {
                let has_expired = now_ns.saturating_sub(since_ns) > self.options.times.expire_ns;
                if renewal.is_fenced || has_expired {
                    self.send_renewal(Some(revision), now_ns, actions);
                } else {
                    let op = self.op(Pending::OwnRenewal);
                    actions.push(FleetAction::Read { op, key: FleetKey::Renewal(self.options.name.clone()) });
                }
            }
            RenewalState::Own { revision } => self.send_renewal(revision, now_ns, actions),
        }
    }

    pub(super) fn send_renewal(&mut self, revision: Option<u64>, now_ns: u64, actions: &mut Vec<FleetAction>) {
        self.count += 1;
        let renewal = Renewal { session: self.options.session, count: self.count, is_fenced: false };
        let pending = Pending::Renewal { count: self.count, sent_ns: now_ns };
        let action =
            self.put(pending, FleetKey::Renewal(self.options.name.clone()), FleetValue::Renewal(renewal), revision);
        actions.push(action);
    }

    pub(super) fn renewed(&mut self, sent_ns: u64, revision: u64) {
        self.renewed_ns = self.renewed_ns.max(Some(sent_ns));
        self.renewal = RenewalState::Own { revision: Some(revision) };
    }

    /// The value of this node's own renewal, after its revision was not known.
    pub(super) fn own_renewal(
        &mut self,
        value: Option<(FleetValue, u64)>,
        now_ns: u64,
        actions: &mut Vec<FleetAction>,
    ) {
        let Some((FleetValue::Renewal(renewal), revision)) = value else {
            self.renewal = RenewalState::Own { revision: None };
            return;
        };
        let is_own = renewal.session == self.options.session;
        if is_own && renewal.is_fenced {
            self.rejoin(now_ns, actions);
        } else if is_own {
            // The time when it was sent is not known, so it renews nothing.
            self.renewal = RenewalState::Own { revision: Some(revision) };
        } else if self.renewed_ns.is_some() {
            // This session had the renewal, and another process with its name has it now.
            self.stop_all(actions);
            self.is_over = true;
            actions.push(FleetAction::Replaced);
        } else {
            self.renewal = match self.renewal {
                RenewalState::Foreign { renewal: seen, revision, since_ns } if seen == renewal => {
                    RenewalState::Foreign { renewal, revision, since_ns }
                }
                _ => RenewalState::Foreign { renewal, revision, since_ns: now_ns },
            };
        }
    }

    /// This session was fenced. The process continues with another one.
    pub(super) fn rejoin(&mut self, now_ns: u64, actions: &mut Vec<FleetAction>) {
        self.forget_renewal(actions);
        self.options.session = self.options.session.wrapping_add(1);
        self.renew_due_ns = now_ns;
    }

    /// Stops all streams until the store acknowledges a renewal again.
    pub(super) fn forget_renewal(&mut self, actions: &mut Vec<FleetAction>) {
        self.stop_all(actions);
        self.renewed_ns = None;
        self.is_publishing = false;
        self.renewal = RenewalState::Unknown;
    }

    pub(super) fn stop_all(&mut self, actions: &mut Vec<FleetAction>) {
        let streams =
            std::mem::take(&mut self.owned).into_keys().chain(std::mem::take(&mut self.preparing).into_keys());
        actions.extend(streams.map(FleetAction::Stop));
    }
}
