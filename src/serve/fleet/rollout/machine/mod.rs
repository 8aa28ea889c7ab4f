//! The part of a node in rollouts, without a clock, network or thread.

mod stages;

use std::collections::BTreeMap;

use super::{ComparedSeconds, HaltReason, Member, PackRef, PackReport, PackStep, Rollout, RolloutStage, WantedPacks};
use crate::fleet::{FleetKey, FleetValue, NodeName, NodeRecord, NodeState};

const S: u64 = 1_000_000_000;

/// Between two reports of a comparison.
const REPORT_NS: u64 = 5 * S;

/// Before a task is tried again that could not be done.
const RETRY_NS: u64 = 5 * S;

/// Before a task is tried again that has failed: a folder may be writable again.
const RETRY_FAILED_NS: u64 = 60 * S;

/// The longest time that counts between two ticks: a node that was stopped has watched nothing meanwhile.
const TICK_MAX_NS: u64 = S;

/// What the process does.
#[derive(Clone, Debug, PartialEq)]
pub enum RolloutAction {
    /// Fetch a pack from the object store and verify it. [`RolloutNode::task_done`] takes the outcome, as of the next three.
    Fetch(PackRef),
    /// Load a pack that was fetched and compare it with the running one.
    Compare(PackRef),
    /// End the comparison.
    EndCompare,
    /// Run a pack that was fetched; `None`: the node's own.
    Use(Option<PackRef>),
    /// Replaces the value of a key that has revision `revision`. [`RolloutNode::written`] is called afterwards.
    Put {
        /// The key.
        key: FleetKey,
        /// The new value.
        value: FleetValue,
        /// The revision to replace.
        revision: Option<u64>,
    },
}

/// What the process knows at a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutFacts {
    /// Wall time, nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
    /// The store acknowledges the node.
    pub may_act: bool,
    /// Digest of the pack of the fleet that decides; `None`: another pack.
    pub running: Option<String>,
    /// What the comparison has counted; `None` without one.
    pub compared: Option<ComparedSeconds>,
    /// Seconds and models that have failed, since the start of the process.
    pub failures: u64,
    /// Seconds that were given up under load, since the start of the process.
    pub shed: u64,
    /// Seconds that were decided, since the start of the process.
    pub decided: u64,
}

/// Why a task was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskFailure {
    /// It may succeed later.
    Later(String),
    /// It will not succeed.
    Final(HaltReason, String),
}

/// A stage of the rollout on this node: nothing of it survives another rollout, stage or turn.
#[derive(Clone, Debug, Default)]
struct Local {
    /// Time in it that counts, nanoseconds.
    elapsed_ns: u64,
    /// Time in it since the pack runs, or is compared.
    observed_ns: u64,
    /// The counts when the pack began to run.
    before: Option<(u64, u64, u64)>,
    /// A task that will not succeed.
    failure: Option<(HaltReason, String)>,
}

/// The part of a node in rollouts.
#[derive(Debug)]
pub struct RolloutNode {
    me: Member,
    rollout: Option<(Rollout, u64)>,
    reports: BTreeMap<NodeName, (PackReport, u64)>,
    /// Digests of packs that were fetched and verified by this process.
    fetched: Vec<String>,
    /// Digest of the pack that is compared.
    comparing: Option<String>,
    is_busy: bool,
    /// A write of the rollout, and of the report, has no answer yet.
    is_writing: (bool, bool),
    retry_ns: u64,
    problem: Option<String>,
    local: Local,
    ticked_ns: u64,
    reported_ns: u64,
    /// Since when members of the rollout are away.
    away: BTreeMap<Member, u64>,
}

impl RolloutNode {
    /// The part of `me`.
    pub fn new(me: Member, now_ns: u64) -> Self {
        Self {
            me,
            rollout: None,
            reports: BTreeMap::new(),
            fetched: Vec::new(),
            comparing: None,
            is_busy: false,
            is_writing: (false, false),
            retry_ns: 0,
            problem: None,
            local: Local::default(),
            ticked_ns: now_ns,
            reported_ns: 0,
            away: BTreeMap::new(),
        }
    }

    /// The rollout, if there ever was one.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.rollout.as_ref().map(|(rollout, _)| rollout)
    }

    /// The reports of the nodes.
    pub fn reports(&self) -> impl Iterator<Item = (&NodeName, &PackReport)> {
        self.reports.iter().map(|(node, (report, _))| (node, report))
    }

    /// Digests of the packs that this node may still need.
    pub fn needed(&self) -> Vec<String> {
        let rollout = self.rollout();
        let packs = rollout.into_iter().flat_map(|rollout| [Some(&rollout.pack), rollout.former.as_ref()]);
        packs.flatten().map(|pack| pack.digest.clone()).collect()
    }

    /// Takes a change of the rollout or of a report; `None` for a key that was deleted.
    pub fn observe(&mut self, key: &FleetKey, value: Option<(FleetValue, u64)>) {
        match (key, value) {
            (FleetKey::Rollout, Some((FleetValue::Rollout(rollout), revision))) => self.changed(*rollout, revision),
            (FleetKey::Rollout, _) => (self.rollout, self.local) = (None, Local::default()),
            (FleetKey::Pack(node), Some((FleetValue::Pack(report), revision))) => {
                let known = self.reports.entry(node.clone()).or_insert_with(|| (report.clone(), revision));
                if known.1 < revision {
                    *known = (report, revision);
                }
            }
            (FleetKey::Pack(node), _) => drop(self.reports.remove(node)),
            _ => {}
        }
    }

    fn changed(&mut self, rollout: Rollout, revision: u64) {
        if let Some((known, known_revision)) = &self.rollout {
            if *known_revision >= revision {
                return;
            }
            let of = |rollout: &Rollout, me: &Member| {
                let is_turn = rollout.turn.as_ref() == Some(me);
                (rollout.id, rollout.stage, is_turn || rollout.swapped.contains(me))
            };
            if of(known, &self.me) != of(&rollout, &self.me) {
                (self.local, self.retry_ns, self.problem) = (Local::default(), 0, None);
            }
        }
        self.rollout = Some((rollout, revision));
        // The process deletes the others.
        let needed = self.needed();
        self.fetched.retain(|digest| needed.contains(digest));
    }

    /// A task has ended.
    pub fn task_done(&mut self, task: &RolloutAction, outcome: Result<(), TaskFailure>, now_ns: u64) {
        self.is_busy = false;
        match (task, outcome) {
            (RolloutAction::Fetch(pack), Ok(())) => self.fetched.push(pack.digest.clone()),
            (RolloutAction::Compare(pack), Ok(())) => self.comparing = Some(pack.digest.clone()),
            (RolloutAction::EndCompare, Ok(())) => self.comparing = None,
            (_, Ok(())) => {}
            (task, Err(failure)) => {
                self.retry_ns = now_ns + RETRY_NS;
                let (text, is_final) = match failure {
                    TaskFailure::Later(text) => (text, None),
                    TaskFailure::Final(reason, text) => (text, Some(reason)),
                };
                let of_new = match (task, self.rollout()) {
                    (
                        RolloutAction::Fetch(pack) | RolloutAction::Compare(pack) | RolloutAction::Use(Some(pack)),
                        Some(rollout),
                    ) => *pack == rollout.pack,
                    _ => false,
                };
                if let Some(reason) = is_final {
                    self.retry_ns = now_ns + RETRY_FAILED_NS;
                    // It ends a rollout that is not over.
                    let is_active = self.rollout().is_some_and(Rollout::is_active);
                    self.local.failure = (of_new && is_active).then(|| (reason, text.clone()));
                }
                self.problem = Some(text);
                return;
            }
        }
        self.problem = None;
    }

    /// A write has ended. `value` is what the key has now, if that is known.
    pub fn written(&mut self, key: &FleetKey, value: Option<(FleetValue, u64)>) {
        match key {
            FleetKey::Rollout => self.is_writing.0 = false,
            _ => self.is_writing.1 = false,
        }
        if value.is_some() {
            self.observe(key, value);
        }
    }

    /// Does what is due. `nodes` are those of the fleet.
    pub fn tick(
        &mut self,
        now_ns: u64,
        nodes: &BTreeMap<NodeName, NodeState>,
        facts: &RolloutFacts,
    ) -> Vec<RolloutAction> {
        let passed_ns = now_ns.saturating_sub(std::mem::replace(&mut self.ticked_ns, now_ns)).min(TICK_MAX_NS);
        if !facts.may_act {
            // Nothing of another node is known now.
            self.away.clear();
            return Vec::new();
        }
        let mut actions = Vec::new();
        self.work(now_ns, facts, &mut actions);
        self.observe_pack(passed_ns, facts);
        if !self.is_writing.0
            && let Some((next, revision)) = self.advanced(now_ns, nodes, facts)
        {
            self.is_writing.0 = true;
            let value = FleetValue::Rollout(Box::new(next));
            actions.push(RolloutAction::Put { key: FleetKey::Rollout, value, revision: Some(revision) });
        }
        self.report(now_ns, facts, &mut actions);
        actions
    }

    /// Begins a task if the node does not do what it should.
    fn work(&mut self, now_ns: u64, facts: &RolloutFacts, actions: &mut Vec<RolloutAction>) {
        if self.is_busy || now_ns < self.retry_ns {
            return;
        }
        let Some((rollout, _)) = &self.rollout else { return };
        let WantedPacks { running, compared } = rollout.wanted(&self.me);
        // What this node has failed at ends the rollout, or waits for another one.
        let may = |pack: &PackRef| self.local.failure.is_none() || *pack != rollout.pack;
        let fetched = |pack: &PackRef| self.fetched.contains(&pack.digest);
        let task = if facts.running.as_deref() != running.map(|pack| pack.digest.as_str()) {
            match running {
                Some(pack) if !may(pack) => return,
                Some(pack) if !fetched(pack) => RolloutAction::Fetch(pack.clone()),
                pack => RolloutAction::Use(pack.cloned()),
            }
        } else if self.comparing.as_deref() != compared.map(|pack| pack.digest.as_str()) {
            match compared {
                None => RolloutAction::EndCompare,
                Some(pack) if !may(pack) => return,
                Some(pack) if !fetched(pack) => RolloutAction::Fetch(pack.clone()),
                Some(pack) => RolloutAction::Compare(pack.clone()),
            }
        } else {
            return;
        };
        self.is_busy = true;
        actions.push(task);
    }

    fn is_running(&self, pack: &PackRef, facts: &RolloutFacts) -> bool {
        facts.running.as_ref() == Some(&pack.digest)
    }

    fn observe_pack(&mut self, passed_ns: u64, facts: &RolloutFacts) {
        let Some((rollout, _)) = &self.rollout else { return };
        self.local.elapsed_ns += passed_ns;
        let is_observed = match rollout.stage {
            RolloutStage::Canary => self.comparing.as_ref() == Some(&rollout.pack.digest),
            _ => self.is_running(&rollout.pack, facts),
        };
        if is_observed {
            self.local.observed_ns += passed_ns;
            self.local.before.get_or_insert((facts.failures, facts.shed, facts.decided));
        }
    }

    /// Writes this node's report if it has changed.
    fn report(&mut self, now_ns: u64, facts: &RolloutFacts, actions: &mut Vec<RolloutAction>) {
        if self.is_writing.1 {
            return;
        }
        let known = self.reports.get(&self.me.node).map(|(report, _)| report);
        let wanted = self.wanted_report(facts);
        let is_same = |known: &PackReport| PackReport { compared: wanted.compared, ..known.clone() } == wanted;
        let due_ns = if known.is_some_and(is_same) { self.reported_ns + REPORT_NS } else { 0 };
        if known == Some(&wanted) || now_ns < due_ns {
            return;
        }
        let revision = self.reports.get(&self.me.node).map(|(_, revision)| *revision);
        (self.is_writing.1, self.reported_ns) = (true, now_ns);
        let (key, value) = (FleetKey::Pack(self.me.node.clone()), FleetValue::Pack(wanted));
        actions.push(RolloutAction::Put { key, value, revision });
    }

    fn wanted_report(&self, facts: &RolloutFacts) -> PackReport {
        let is_watched = self
            .rollout()
            .is_some_and(|rollout| rollout.stage == RolloutStage::Rolling && rollout.turn.as_ref() == Some(&self.me));
        let is_right = self.rollout().is_none_or(|rollout| {
            let WantedPacks { running, compared } = rollout.wanted(&self.me);
            let digest = |pack: Option<&PackRef>| pack.map(|pack| pack.digest.clone());
            digest(running) == facts.running && digest(compared) == self.comparing
        });
        let step = match (&self.problem, is_right) {
            (Some(_), false) => PackStep::Failed,
            (_, false) => PackStep::Changing,
            _ if self.comparing.is_some() => PackStep::Comparing,
            _ if is_watched => PackStep::Watched,
            _ => PackStep::Settled,
        };
        PackReport {
            process: self.me.process,
            running: facts.running.clone(),
            step,
            compared: facts.compared.filter(|_| self.comparing.is_some()),
            problem: self.problem.clone().filter(|_| !is_right),
        }
    }
}

/// The states of nodes, by name.
pub(crate) fn states<'a>(nodes: impl Iterator<Item = (&'a NodeName, &'a NodeRecord)>) -> BTreeMap<NodeName, NodeState> {
    nodes.map(|(name, node)| (name.clone(), node.state)).collect()
}
