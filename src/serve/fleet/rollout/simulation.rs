//! Rollouts in virtual time: nodes that die, a store that answers late or not at all, packs that are bad, and operators.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{
    ComparedSeconds, HaltReason, Member, PackRef, Rollout, RolloutAction, RolloutFacts, RolloutNode, RolloutRules,
    RolloutStage, TaskFailure,
};
use crate::fleet::{FleetKey, FleetValue, NodeName, NodeState};

pub const S: u64 = 1_000_000_000;
const MS: u64 = S / 1000;
const TICK: u64 = 500 * MS;

/// What a pack does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nature {
    /// It agrees on this share of the seconds.
    Agrees(f64),
    /// Its files are not those that were published.
    Corrupt,
    /// It cannot be loaded.
    Unloadable,
    /// It fails on seconds once it decides.
    Fails,
}

/// A fault, or something that people do.
#[derive(Clone, Debug)]
pub enum Incident {
    /// A node dies, for good or until it starts again.
    Kill(usize),
    Start(usize),
    /// A node leaves as planned.
    Drain(usize),
    /// A node is cut off from the store for this long.
    CutOff(usize, u64),
    /// The store is away for this long.
    StoreDown(u64),
    /// A person starts a rollout on a canary.
    Begin(PackRef, usize, RolloutRules),
    /// A person halts what runs.
    Halt,
}

enum Happening {
    Tick,
    Watch(FleetKey, Option<(FleetValue, u64)>),
    Task(RolloutAction),
    Request(RolloutAction),
    Answer(FleetKey, Option<(FleetValue, u64)>),
    Incident(Incident),
    /// A node is what the fleet knows of it.
    State(NodeState),
}

struct Machine {
    name: NodeName,
    number: u64,
    node: RolloutNode,
    is_alive: bool,
    cut_off_until: u64,
    running: Option<PackRef>,
    comparing: Option<(PackRef, u64)>,
    failures: u64,
    decided: u64,
    watched_until: u64,
}

pub struct RolloutWorld {
    rng: SmallRng,
    pub now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, (usize, u64, Happening)>,
    sequence: u64,
    values: BTreeMap<FleetKey, (FleetValue, u64)>,
    revision: u64,
    down_until: u64,
    states: BTreeMap<NodeName, NodeState>,
    machines: Vec<Machine>,
    pub natures: BTreeMap<String, Nature>,
    pub lossy: bool,
    /// Which node has used or compared which pack.
    pub used: BTreeSet<(String, usize)>,
    pub compared: BTreeSet<(String, usize)>,
    /// All values that the rollout's key had.
    pub history: Vec<Rollout>,
    pub refused: usize,
    next_id: u32,
}

pub fn pack(name: &str) -> PackRef {
    PackRef { name: name.to_owned(), digest: format!("digest-of-{name}") }
}

pub const RULES: RolloutRules = RolloutRules { agreement: 0.9, seconds: 30, watch_s: 5 };

impl RolloutWorld {
    pub fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            queue: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            sequence: 0,
            values: BTreeMap::new(),
            revision: 0,
            down_until: 0,
            states: BTreeMap::new(),
            machines: Vec::new(),
            natures: BTreeMap::new(),
            lossy: false,
            used: BTreeSet::new(),
            compared: BTreeSet::new(),
            history: Vec::new(),
            refused: 0,
            next_id: 0,
        };
        (0..nodes).for_each(|n| world.start(n));
        world
    }

    fn start(&mut self, n: usize) {
        if self.machines.get(n).is_some_and(|machine| machine.is_alive) {
            return;
        }
        let name = NodeName::from(format!("node-{n}"));
        let number = self.rng.random();
        let node = RolloutNode::new(Member { node: name.clone(), process: number }, self.now);
        let machine = Machine {
            name,
            number,
            node,
            is_alive: true,
            cut_off_until: 0,
            running: None,
            comparing: None,
            failures: 0,
            decided: 0,
            watched_until: self.now,
        };
        if n == self.machines.len() {
            self.machines.push(machine);
        } else {
            self.machines[n] = machine;
        }
        self.push(n, TICK, Happening::Tick);
        let joined = self.rng.random_range(100 * MS..2 * S);
        self.push(n, joined, Happening::State(NodeState::Active));
        self.send_all(n);
    }

    fn send_all(&mut self, n: usize) {
        for (key, value) in self.values.clone() {
            self.send(n, key, Some(value));
        }
    }

    fn send(&mut self, n: usize, key: FleetKey, value: Option<(FleetValue, u64)>) {
        let at = (self.now + self.delay()).max(self.machines[n].watched_until);
        self.machines[n].watched_until = at;
        let number = self.machines[n].number;
        self.push_at(at, n, number, Happening::Watch(key, value));
    }

    fn delay(&mut self) -> u64 {
        let is_late = self.lossy && self.rng.random_bool(0.05);
        if is_late { self.rng.random_range(100 * MS..3 * S) } else { self.rng.random_range(MS..20 * MS) }
    }

    pub fn at(&mut self, at: u64, incident: Incident) {
        self.push_at(at, usize::MAX, 0, Happening::Incident(incident));
    }

    fn push(&mut self, n: usize, after: u64, happening: Happening) {
        let number = self.machines[n].number;
        self.push_at(self.now + after, n, number, happening);
    }

    fn push_at(&mut self, at: u64, n: usize, number: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence)));
        self.bodies.insert(self.sequence, (n, number, happening));
    }

    pub fn run(&mut self, end: u64) {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied().filter(|Reverse((at, _))| *at <= end) {
            self.queue.pop();
            self.now = self.now.max(at);
            let (n, number, happening) = self.bodies.remove(&sequence).expect("each has a body");
            match happening {
                Happening::Incident(incident) => self.incident(incident),
                Happening::Request(action) => self.serve(n, number, action),
                _ if self.machines[n].number != number || !self.machines[n].is_alive => {}
                happening => self.happen(n, happening),
            }
        }
        self.now = end;
    }

    fn is_away(&self, n: usize) -> bool {
        self.now < self.down_until || self.now < self.machines[n].cut_off_until
    }

    fn happen(&mut self, n: usize, happening: Happening) {
        match happening {
            Happening::Tick => self.tick(n),
            // The client gets it again when it is connected.
            Happening::Watch(..) if self.is_away(n) => {
                let at = self.down_until.max(self.machines[n].cut_off_until);
                let number = self.machines[n].number;
                self.push_at(at, n, number, happening);
            }
            Happening::Watch(key, value) => self.machines[n].node.observe(&key, value),
            Happening::Answer(key, value) => self.machines[n].node.written(&key, value),
            Happening::Task(action) => self.finish(n, &action),
            Happening::State(state) => drop(self.states.insert(self.machines[n].name.clone(), state)),
            Happening::Request(_) | Happening::Incident(_) => unreachable!("handled before"),
        }
    }

    fn tick(&mut self, n: usize) {
        let may_act = !self.is_away(n);
        let machine = &mut self.machines[n];
        let nature = |natures: &BTreeMap<String, Nature>, pack: &PackRef| natures[&pack.name];
        machine.decided += 1;
        if machine.running.as_ref().is_some_and(|pack| nature(&self.natures, pack) == Nature::Fails) {
            machine.failures += 1;
        }
        let compared = machine.comparing.as_mut().map(|(pack, seconds)| {
            *seconds += u64::from(may_act);
            let share = match nature(&self.natures, pack) {
                Nature::Agrees(share) => share,
                _ => 1.0,
            };
            ComparedSeconds { same: (*seconds as f64 * share).round() as u64, seconds: *seconds }
        });
        let facts = RolloutFacts {
            unix_ns: i64::try_from(self.now).unwrap(),
            may_act,
            running: machine.running.as_ref().map(|pack| pack.digest.clone()),
            compared,
            failures: machine.failures,
            shed: 0,
            decided: machine.decided,
        };
        let actions = machine.node.tick(self.now, &self.states, &facts);
        self.push(n, TICK, Happening::Tick);
        for action in actions {
            match &action {
                RolloutAction::Put { key, .. } => {
                    let number = self.machines[n].number;
                    self.push(n, 3 * S, Happening::Answer(key.clone(), None));
                    let is_lost = self.lossy && self.rng.random_bool(0.03);
                    if !is_lost && !self.is_away(n) {
                        let at = self.now + self.delay();
                        self.push_at(at, n, number, Happening::Request(action));
                    }
                }
                _ => {
                    let time = self.rng.random_range(200 * MS..3 * S);
                    self.push(n, time, Happening::Task(action));
                }
            }
        }
    }

    fn finish(&mut self, n: usize, action: &RolloutAction) {
        let is_away = self.is_away(n);
        let nature = |pack: &PackRef| self.natures[&pack.name];
        let outcome = match action {
            RolloutAction::Fetch(_) if is_away => Err(TaskFailure::Later("away".into())),
            RolloutAction::Fetch(pack) if nature(pack) == Nature::Corrupt => {
                Err(TaskFailure::Final(HaltReason::DigestWrong, "other bytes".into()))
            }
            RolloutAction::Compare(pack) | RolloutAction::Use(Some(pack)) if nature(pack) == Nature::Unloadable => {
                Err(TaskFailure::Final(HaltReason::LoadFailed, "no such layer".into()))
            }
            _ => Ok(()),
        };
        if outcome.is_ok() {
            match action {
                RolloutAction::Compare(pack) => {
                    self.compared.insert((pack.name.clone(), n));
                    self.machines[n].comparing = Some((pack.clone(), 0));
                }
                RolloutAction::EndCompare => self.machines[n].comparing = None,
                RolloutAction::Use(pack) => {
                    if let Some(pack) = pack {
                        self.used.insert((pack.name.clone(), n));
                        let passed = self.history.iter().any(|rollout| {
                            rollout.pack == *pack && matches!(rollout.stage, RolloutStage::Rolling | RolloutStage::Done)
                        });
                        assert!(passed, "node {n} uses {} before the canary has compared it", pack.name);
                    }
                    self.machines[n].running.clone_from(pack);
                }
                _ => {}
            }
        }
        self.machines[n].node.task_done(action, outcome, self.now);
    }

    /// The store does a write.
    fn serve(&mut self, n: usize, number: u64, action: RolloutAction) {
        let RolloutAction::Put { key, value, revision } = action else { unreachable!("not a write") };
        if self.now < self.down_until {
            return;
        }
        let written = self.put(&key, value, revision);
        let is_lost = self.lossy && self.rng.random_bool(0.03);
        if !is_lost && self.machines[n].number == number && !self.is_away(n) {
            let after = self.delay();
            self.push(n, after, Happening::Answer(key, written));
        }
    }

    fn put(&mut self, key: &FleetKey, value: FleetValue, revision: Option<u64>) -> Option<(FleetValue, u64)> {
        if self.values.get(key).map(|(_, revision)| *revision) != revision {
            return None;
        }
        if let (FleetKey::Rollout, FleetValue::Rollout(rollout)) = (key, &value) {
            self.check_step(rollout);
            self.history.push((**rollout).clone());
        }
        self.revision += 1;
        let written = (value, self.revision);
        self.values.insert(key.clone(), written.clone());
        (0..self.machines.len()).for_each(|n| self.send(n, key.clone(), Some(written.clone())));
        Some(written)
    }

    /// A rollout continues in one direction, and another one starts only after its end.
    fn check_step(&self, next: &Rollout) {
        use RolloutStage::{Canary, Done, Halted, Rolling};
        let Some(before) = self.rollout() else { return };
        if before.id != next.id {
            assert!(!before.is_active() && next.stage == Canary, "{before:?} {next:?}");
            return;
        }
        let allowed =
            matches!((before.stage, next.stage), (Canary, Rolling | Halted) | (Rolling, Rolling | Done | Halted));
        assert!(allowed && before.pack == next.pack && before.former == next.former, "{before:?} {next:?}");
        let added = next.swapped.difference(&before.swapped).collect::<Vec<_>>();
        assert!(added.len() <= 1, "one machine after another: {added:?}");
        assert!(added.iter().all(|member| before.turn.as_ref() == Some(member)), "it had the turn");
    }

    pub fn rollout(&self) -> Option<Rollout> {
        match self.values.get(&FleetKey::Rollout) {
            Some((FleetValue::Rollout(rollout), _)) => Some((**rollout).clone()),
            _ => None,
        }
    }

    fn incident(&mut self, incident: Incident) {
        match incident {
            Incident::Kill(n) => {
                self.machines[n].is_alive = false;
                // Its monitors notice.
                self.states.insert(self.machines[n].name.clone(), NodeState::Gone);
            }
            Incident::Start(n) => self.start(n),
            Incident::Drain(n) => drop(self.states.insert(self.machines[n].name.clone(), NodeState::Draining)),
            Incident::CutOff(n, time) => {
                self.machines[n].cut_off_until = self.now + time;
                if time > 3 * S {
                    // Its monitors notice, and it joins again.
                    self.push(n, 3 * S, Happening::State(NodeState::Gone));
                    self.push(n, time + S, Happening::State(NodeState::Active));
                }
            }
            Incident::StoreDown(time) => self.down_until = self.now + time,
            Incident::Begin(pack, canary, rules) => {
                let known = self.values.get(&FleetKey::Rollout).cloned();
                let before = self.rollout();
                let former = before.as_ref().and_then(|rollout| rollout.fleet_pack().cloned());
                // Two people read, then both write: only one of them replaces what both have read.
                if before.is_some_and(|rollout| rollout.is_active()) || self.now < self.down_until {
                    self.refused += 1;
                    return;
                }
                self.next_id += 1;
                let Machine { name, number, .. } = &self.machines[canary];
                let member = Member { node: name.clone(), process: *number };
                let rollout = Rollout::new(self.next_id, pack, former, member, rules);
                self.put(
                    &FleetKey::Rollout,
                    FleetValue::Rollout(Box::new(rollout)),
                    known.map(|(_, revision)| revision),
                );
            }
            Incident::Halt => {
                let Some((FleetValue::Rollout(mut rollout), revision)) = self.values.get(&FleetKey::Rollout).cloned()
                else {
                    return;
                };
                if rollout.is_active() && self.now >= self.down_until {
                    rollout.halt(0, HaltReason::Operator, None, "halted by a person");
                    self.put(&FleetKey::Rollout, FleetValue::Rollout(rollout), Some(revision));
                }
            }
        }
    }

    /// The nodes that live, with the packs that they run and compare.
    pub fn running(&self) -> Vec<(usize, Option<PackRef>, bool)> {
        let live = self.machines.iter().enumerate().filter(|(_, machine)| machine.is_alive);
        live.map(|(n, machine)| (n, machine.running.clone(), machine.comparing.is_some())).collect()
    }
}
