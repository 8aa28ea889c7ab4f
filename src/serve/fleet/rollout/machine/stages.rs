//! When a rollout continues, and when it is halted.

use std::collections::BTreeMap;

use super::{RolloutFacts, RolloutNode, S};
use crate::fleet::rollout::{ComparedSeconds, HaltReason, Member, Rollout, RolloutRules, RolloutStage};
use crate::fleet::{NodeName, NodeState};

/// How long a member of a rollout may be away before it is lost. A node that NATS did not acknowledge for a while joins again sooner.
const LOST_NS: u64 = 10 * S;

/// How much longer each node waits than the one before it, to halt the rollout because of another.
const STAGGER_NS: u64 = S;

/// How long a node may take to fetch and load the pack.
const LOAD_LIMIT_NS: u64 = 600 * S;

/// How long the canary may take for a second to compare: the shadow drops seconds that it is too slow for, and streams pause.
const COMPARE_FACTOR: u64 = 10;

/// How long the canary may take in any case.
const COMPARE_LEAST_NS: u64 = 60 * S;

/// A node that gives up a larger share of its seconds than one in this number is too slow for the pack.
const SHED_SHARE: u64 = 10;

impl RolloutNode {
    /// The rollout after what this node knows, with the revision that it replaces; `None` if nothing changes.
    pub(super) fn advanced(
        &mut self,
        now_ns: u64,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Option<(Rollout, u64)> {
        let (rollout, revision) = self.rollout.clone()?;
        if !rollout.is_active() {
            self.away.clear();
            return None;
        }
        let next = match rollout.stage {
            RolloutStage::Canary if rollout.canary == self.me => self.compare(rollout.clone(), nodes, facts),
            RolloutStage::Rolling if rollout.turn.as_ref() == Some(&self.me) => {
                self.take_turn(rollout.clone(), nodes, facts)
            }
            RolloutStage::Rolling if rollout.swapped.contains(&self.me) => self.stay(rollout.clone(), nodes, facts),
            _ => None,
        };
        let next = next.or_else(|| self.check_members(rollout, now_ns, nodes, facts))?;
        Some((next, revision))
    }

    fn halted(
        &self,
        mut rollout: Rollout,
        facts: &RolloutFacts,
        reason: HaltReason,
        text: impl Into<String>,
    ) -> Option<Rollout> {
        rollout.halt(facts.unix_ns, reason, Some(&self.me.node), text);
        Some(rollout)
    }

    fn is_leaving(&self, nodes: &BTreeMap<NodeName, NodeState>) -> bool {
        nodes.get(&self.me.node) == Some(&NodeState::Draining)
    }

    /// The canary's part.
    fn compare(
        &self,
        mut rollout: Rollout,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Option<Rollout> {
        if let Some((reason, text)) = self.local.failure.clone() {
            return self.halted(rollout, facts, reason, text);
        }
        if self.is_leaving(nodes) {
            return self.halted(rollout, facts, HaltReason::NodeLost, "the canary leaves the fleet");
        }
        if self.comparing.as_ref() != Some(&rollout.pack.digest) {
            return self.is_late().and_then(|text| self.halted(rollout, facts, HaltReason::LoadFailed, text));
        }
        let compared = facts.compared.unwrap_or_default();
        if let Some(fault) = self.failed(facts) {
            return self.halted(rollout, facts, HaltReason::NewFailures, fault);
        }
        match verdict(rollout.rules, compared) {
            Some(true) => {
                let share = percent(compared.agreement().unwrap_or_default());
                let text = format!("{}: both packs agree on {share} of {} seconds", self.me.node, compared.seconds);
                rollout.log(facts.unix_ns, text);
                (rollout.stage, rollout.turn) = (RolloutStage::Rolling, Some(self.me.clone()));
                Some(rollout)
            }
            Some(false) => {
                let (share, least) =
                    (percent(compared.agreement().unwrap_or_default()), percent(rollout.rules.agreement));
                let text = format!("both packs agree on {share} of {} seconds, not on {least}", compared.seconds);
                self.halted(rollout, facts, HaltReason::AgreementTooLow, text)
            }
            None => {
                let limit_ns = (u64::from(rollout.rules.seconds) * COMPARE_FACTOR * S).max(COMPARE_LEAST_NS);
                if self.local.observed_ns < limit_ns {
                    return None;
                }
                let (seconds, limit_s) = (compared.seconds, limit_ns / S);
                let wanted = rollout.rules.seconds;
                let text = format!(
                    "{seconds} of {wanted} seconds were compared within {limit_s} s; choose a canary with streams, and time for two packs"
                );
                self.halted(rollout, facts, HaltReason::NotCompared, text)
            }
        }
    }

    /// Why this node has not loaded the pack in time, if it has not.
    fn is_late(&self) -> Option<String> {
        let problem = self.problem.as_deref().unwrap_or("it takes too long");
        (self.local.elapsed_ns >= LOAD_LIMIT_NS)
            .then(|| format!("not loaded within {} s: {problem}", LOAD_LIMIT_NS / S))
    }

    /// What has failed since the pack runs here, or is compared.
    fn failed(&self, facts: &RolloutFacts) -> Option<String> {
        let failed = facts.failures.saturating_sub(self.local.before?.0);
        (failed > 0).then(|| format!("{failed} failures of models since the pack was loaded; see the machine's log"))
    }

    /// As [`RolloutNode::failed`], or because the pack is too slow. A canary runs two packs, so its load does not show it.
    fn fault(&self, facts: &RolloutFacts) -> Option<String> {
        if let Some(failed) = self.failed(facts) {
            return Some(failed);
        }
        let (_, shed, decided) = self.local.before?;
        let (shed, decided) = (facts.shed.saturating_sub(shed), facts.decided.saturating_sub(decided));
        let is_slow = shed + decided >= SHED_SHARE && shed > (shed + decided) / SHED_SHARE;
        is_slow.then(|| format!("{shed} of {} seconds were given up under load", shed + decided))
    }

    /// The part of the node that takes the pack.
    fn take_turn(
        &self,
        mut rollout: Rollout,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Option<Rollout> {
        if let Some((reason, text)) = self.local.failure.clone() {
            return self.halted(rollout, facts, reason, text);
        }
        let is_running = self.is_running(&rollout.pack, facts);
        if let Some(fault) = self.fault(facts).filter(|_| is_running) {
            return self.halted(rollout, facts, HaltReason::NewFailures, fault);
        }
        if self.is_leaving(nodes) {
            rollout.log(facts.unix_ns, format!("{} leaves the fleet", self.me.node));
            self.pass_on(&mut rollout, nodes, facts);
            return Some(rollout);
        }
        if !is_running {
            return self.is_late().and_then(|text| self.halted(rollout, facts, HaltReason::LoadFailed, text));
        }
        if self.local.observed_ns < u64::from(rollout.rules.watch_s) * S {
            return None;
        }
        rollout.swapped.insert(self.me.clone());
        rollout.log(facts.unix_ns, format!("{} has the pack", self.me.node));
        self.pass_on(&mut rollout, nodes, facts);
        Some(rollout)
    }

    /// Gives the turn to the next node, or ends the rollout.
    fn pass_on(&self, rollout: &mut Rollout, nodes: &BTreeMap<NodeName, NodeState>, facts: &RolloutFacts) {
        let active = nodes.iter().filter(|(_, state)| **state == NodeState::Active).map(|(name, _)| name);
        let next = active.filter(|name| **name != self.me.node).find_map(|name| {
            let (report, _) = self.reports.get(name)?;
            let member = Member { node: name.clone(), process: report.process };
            (!rollout.swapped.contains(&member)).then_some(member)
        });
        if next.is_none() {
            rollout.stage = RolloutStage::Done;
            rollout.log(facts.unix_ns, "all machines have the pack");
        }
        rollout.turn = next;
    }

    /// The part of a node that has taken the pack, while others take it.
    fn stay(
        &self,
        mut rollout: Rollout,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Option<Rollout> {
        if let Some(fault) = self.fault(facts) {
            return self.halted(rollout, facts, HaltReason::NewFailures, fault);
        }
        if self.is_leaving(nodes) {
            rollout.swapped.remove(&self.me);
            rollout.log(facts.unix_ns, format!("{} leaves the fleet", self.me.node));
            return Some(rollout);
        }
        None
    }

    /// Halts the rollout if one of its members is lost. Nodes wait in the order of their names.
    fn check_members(
        &mut self,
        mut rollout: Rollout,
        now_ns: u64,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Option<Rollout> {
        let members: Vec<Member> = match rollout.stage {
            RolloutStage::Canary => vec![rollout.canary.clone()],
            _ => rollout.turn.iter().chain(&rollout.swapped).cloned().collect(),
        };
        let place = nodes.iter().filter(|(_, state)| **state == NodeState::Active);
        let place = place.take_while(|(name, _)| **name != self.me.node).count() as u64;
        self.away.retain(|member, _| members.contains(member));
        let mut lost = None;
        for member in members.into_iter().filter(|member| *member != self.me) {
            let is_there = nodes.get(&member.node).is_some_and(|state| *state != NodeState::Gone);
            let report = self.reports.get(&member.node);
            let has_restarted = report.is_some_and(|(report, _)| report.process != member.process);
            if is_there && report.is_some() && !has_restarted {
                self.away.remove(&member);
                continue;
            }
            let since_ns = *self.away.entry(member.clone()).or_insert(now_ns);
            let least_ns = if has_restarted { 0 } else { LOST_NS };
            if now_ns.saturating_sub(since_ns) >= least_ns + place * STAGGER_NS {
                lost = Some((member, has_restarted));
            }
        }
        let (member, has_restarted) = lost?;
        let text = if has_restarted { "the program was restarted" } else { "the machine is gone" };
        rollout.halt(facts.unix_ns, HaltReason::NodeLost, Some(&member.node), text);
        Some(rollout)
    }
}

/// Whether the pack may be taken: true, false, or not known yet. It is false as soon as no further second can change it.
fn verdict(rules: RolloutRules, compared: ComparedSeconds) -> Option<bool> {
    let missing = u64::from(rules.seconds).saturating_sub(compared.seconds);
    let best = ComparedSeconds { same: compared.same + missing, seconds: compared.seconds + missing };
    if best.agreement().is_some_and(|share| share < rules.agreement) {
        return Some(false);
    }
    (missing == 0).then_some(true)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
