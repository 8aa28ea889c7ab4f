//! A fleet in virtual time: nodes with clocks of their own, a store that answers late or never, and faults.

use std::cmp::Reverse;
mod facts;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::fleet::{
    FleetAction, FleetKey, FleetNode, FleetStoreError, FleetStoreResult, FleetTimes, FleetValue, Holder, Lease,
    NodeName, NodeOptions, NodeRecord, NodeState, OpId, StreamId, StreamRecord,
};
pub use facts::{Fault, MS, Published, SECOND, Weather, percentile};

/// How often a node's machine is driven.
const TICK: u64 = 100 * MS;

/// When a node gives an operation up.
const TIMEOUT: u64 = 400 * MS;

/// Seconds that a node publishes again which it decided while it prepared a stream.
const REPEATED: usize = 3;

enum FleetEvent {
    Tick,
    Request(FleetAction),
    Response(OpId, FleetStoreResult),
    Watch(FleetKey, Option<(FleetValue, u64)>),
    Prepared(StreamId),
    /// A second of the streams is over.
    Second,
    Fault(Fault),
    Heal,
}

/// A stream that a process watches.
struct WatchedStream {
    /// Published with this epoch; `None` while it is prepared.
    epoch: Option<u64>,
    opened: u64,
    /// Seconds that were decided and not published.
    decided: VecDeque<u64>,
}

struct Process {
    machine: FleetNode,
    name: NodeName,
    /// Number of the process: events of an earlier one are dropped.
    number: u64,
    is_alive: bool,
    paused_until: u64,
    is_cut_off: bool,
    rate: f64,
    offset: u64,
    running: BTreeMap<StreamId, WatchedStream>,
    /// Watched changes arrive in order.
    watched_until: u64,
}

pub struct FleetWorld {
    rng: SmallRng,
    pub now: u64,
    sequence: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize, u64)>>,
    bodies: HashMap<u64, FleetEvent>,
    values: BTreeMap<FleetKey, (FleetValue, u64)>,
    revision: u64,
    store_down_until: u64,
    processes: Vec<Process>,
    pub weather: Weather,
    pub published: Published,
    /// Epochs that were taken from a live owner, as planned.
    planned: BTreeSet<(StreamId, u64)>,
    /// Time of each taking, by stream and epoch.
    pub taken: BTreeMap<(StreamId, u64), u64>,
    /// Operations that the store has done, and changes that it has sent.
    pub operations: u64,
    pub changes: u64,
    pub problems: Vec<String>,
    pub left: BTreeSet<usize>,
    times: FleetTimes,
    capacity: u32,
}

impl FleetWorld {
    pub fn new(seed: u64, nodes: usize, streams: usize, cost: u32, capacity: u32, weather: Weather) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            bodies: HashMap::new(),
            values: BTreeMap::new(),
            revision: 0,
            store_down_until: 0,
            processes: Vec::new(),
            weather,
            published: Published::default(),
            planned: BTreeSet::new(),
            taken: BTreeMap::new(),
            operations: 0,
            changes: 0,
            problems: Vec::new(),
            left: BTreeSet::new(),
            times: FleetTimes::default(),
            capacity,
        };
        for n in 0..streams {
            let id = StreamId::from(format!("stream-{n}"));
            let stream = StreamRecord { cost, needs: BTreeMap::new(), settings: serde_json::Value::Null };
            world.write(FleetKey::Stream(id), FleetValue::Stream(stream));
        }
        for n in 0..nodes {
            world.start(n);
        }
        world
    }

    /// A fleet that has run for long: each node watches the same number of streams.
    pub fn settled(seed: u64, nodes: usize, streams: usize, cost: u32, capacity: u32, weather: Weather) -> Self {
        let mut world = Self::new(seed, 0, 0, cost, capacity, weather);
        for n in 0..nodes {
            world.start(n);
            let Process { name, number, .. } = &world.processes[n];
            let (labels, state) = (BTreeMap::new(), NodeState::Active);
            let record = NodeRecord { session: *number, capacity, labels, state, page: None };
            world.set(FleetKey::Node(name.clone()), FleetValue::Node(record));
        }
        for n in 0..streams {
            let id = StreamId::from(format!("stream-{n}"));
            let stream = StreamRecord { cost, needs: BTreeMap::new(), settings: serde_json::Value::Null };
            world.set(FleetKey::Stream(id.clone()), FleetValue::Stream(stream));
            let Process { name, number, .. } = &world.processes[n % nodes];
            let owner = Some(Holder { node: name.clone(), session: *number });
            world.set(FleetKey::Lease(id), FleetValue::Lease(Lease { owner, epoch: 1, next: None }));
        }
        let values: Vec<(FleetKey, (FleetValue, u64))> =
            world.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        for n in 0..nodes {
            let now = world.local(n);
            for (key, value) in &values {
                let actions = world.processes[n].machine.observe(key, Some(value.clone()), now);
                assert!(actions.is_empty(), "it has not joined");
            }
        }
        world
    }

    fn set(&mut self, key: FleetKey, value: FleetValue) {
        self.revision += 1;
        self.values.insert(key, (value, self.revision));
    }

    pub fn fault(&mut self, at: u64, fault: Fault) {
        self.push_at(at, usize::MAX, 0, FleetEvent::Fault(fault));
    }

    /// The streams that each live process watches and may publish.
    pub fn watched(&self) -> BTreeMap<StreamId, Vec<usize>> {
        let mut watched: BTreeMap<StreamId, Vec<usize>> = BTreeMap::new();
        for (n, process) in self.processes.iter().enumerate().filter(|(_, p)| p.is_alive) {
            if process.machine.may_publish(self.local(n)) {
                for (id, _) in process.machine.owned() {
                    watched.entry(id.clone()).or_default().push(n);
                }
            }
        }
        watched
    }

    pub fn lease(&self, id: &StreamId) -> Option<&Lease> {
        match self.values.get(&FleetKey::Lease(id.clone())) {
            Some((FleetValue::Lease(lease), _)) => Some(lease),
            _ => None,
        }
    }

    fn start(&mut self, n: usize) {
        let name = NodeName::from(format!("node-{n}"));
        let drift = self.weather.drift;
        let (rate, offset) = (1.0 + self.rng.random_range(-drift..=drift), self.rng.random_range(0..1000 * SECOND));
        let number = self.rng.random::<u64>();
        let options = NodeOptions {
            name: name.clone(),
            session: number,
            capacity: self.capacity,
            labels: BTreeMap::new(),
            page: None,
            times: self.times,
        };
        let machine = FleetNode::new(options, offset + (self.now as f64 * rate) as u64);
        let process = Process {
            machine,
            name,
            number,
            is_alive: true,
            paused_until: 0,
            is_cut_off: false,
            rate,
            offset,
            running: BTreeMap::new(),
            watched_until: self.now,
        };
        if n == self.processes.len() {
            self.processes.push(process);
        } else {
            self.processes[n] = process;
        }
        self.send_all(n);
        let phase = self.rng.random_range(0..SECOND);
        self.push(n, TICK / 2, FleetEvent::Tick);
        self.push(n, phase, FleetEvent::Second);
    }

    /// Sends a process all watched values, as at the start and after it was cut off.
    fn send_all(&mut self, n: usize) {
        let watched: Vec<_> = self.values.iter().filter(|(key, _)| !matches!(key, FleetKey::Renewal(_))).collect();
        let watched: Vec<_> = watched.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in watched {
            self.send_change(n, key, value);
        }
    }

    fn send_change(&mut self, n: usize, key: FleetKey, value: (FleetValue, u64)) {
        let at = (self.now + self.delay().unwrap_or(SECOND)).max(self.processes[n].watched_until);
        self.processes[n].watched_until = at;
        self.changes += 1;
        let number = self.processes[n].number;
        self.push_at(at, n, number, FleetEvent::Watch(key, Some(value)));
    }

    fn local(&self, n: usize) -> u64 {
        let process = &self.processes[n];
        process.offset + (self.now as f64 * process.rate) as u64
    }

    /// The time that a message takes; `None` if it is lost.
    fn delay(&mut self) -> Option<u64> {
        let chance: f64 = self.rng.random();
        if chance < self.weather.lost {
            None
        } else if chance < self.weather.lost + self.weather.late {
            Some(self.rng.random_range(50 * MS..3 * SECOND))
        } else {
            Some(self.rng.random_range(MS..10 * MS))
        }
    }

    fn push(&mut self, n: usize, after: u64, event: FleetEvent) {
        let number = self.processes[n].number;
        self.push_at(self.now + after, n, number, event);
    }

    fn push_at(&mut self, at: u64, n: usize, number: u64, event: FleetEvent) {
        self.sequence += 1;
        self.bodies.insert(self.sequence, event);
        self.events.push(Reverse((at, self.sequence, n, number)));
    }

    /// Runs until `end`.
    pub fn run(&mut self, end: u64) {
        while let Some(Reverse((at, sequence, n, number))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            let event = self.bodies.remove(&sequence).expect("each event has a body");
            self.now = self.now.max(at);
            if n == usize::MAX {
                if let FleetEvent::Fault(fault) = event {
                    self.break_something(fault);
                } else {
                    self.store_up();
                }
                continue;
            }
            let process = &self.processes[n];
            let is_of_store = matches!(event, FleetEvent::Request(_));
            if process.number != number || !process.is_alive && !is_of_store {
                continue;
            }
            if process.paused_until > self.now && !is_of_store {
                // It does all of it when it continues.
                self.push_at(process.paused_until, n, number, event);
                continue;
            }
            self.happen(n, event);
        }
        self.now = end;
    }

    fn happen(&mut self, n: usize, event: FleetEvent) {
        let now = self.local(n);
        let machine = &mut self.processes[n].machine;
        let actions = match event {
            FleetEvent::Tick => {
                let actions = machine.tick(now);
                self.push(n, TICK, FleetEvent::Tick);
                actions
            }
            FleetEvent::Response(op, result) => machine.done(op, result, now),
            FleetEvent::Watch(key, value) => machine.observe(&key, value, now),
            FleetEvent::Prepared(id) => {
                machine.prepared(&id);
                Vec::new()
            }
            FleetEvent::Request(action) => {
                self.serve(n, action);
                return;
            }
            FleetEvent::Second => {
                self.second(n);
                self.push(n, SECOND, FleetEvent::Second);
                return;
            }
            FleetEvent::Heal => {
                self.processes[n].is_cut_off = false;
                self.send_all(n);
                return;
            }
            FleetEvent::Fault(_) => unreachable!("a fault belongs to no process"),
        };
        for action in actions {
            self.act(n, action);
        }
    }

    fn act(&mut self, n: usize, action: FleetAction) {
        match &action {
            FleetAction::Read { op, .. } | FleetAction::Put { op, .. } => {
                self.push(n, TIMEOUT, FleetEvent::Response(*op, Err(FleetStoreError::Unavailable)));
                if let Some(delay) = self.delay().filter(|_| !self.processes[n].is_cut_off) {
                    self.push(n, delay, FleetEvent::Request(action));
                }
            }
            FleetAction::Prepare(id) => {
                let opened = self.open(n, id.clone(), None);
                self.push(n, opened - self.now + SECOND, FleetEvent::Prepared(id.clone()));
            }
            FleetAction::Start { stream, epoch, .. } => {
                if let Some(running) = self.processes[n].running.get_mut(stream) {
                    running.epoch = Some(*epoch);
                    // The owner before it may have stopped before it published them.
                    for second in std::mem::take(&mut running.decided) {
                        self.publish(n, stream, second);
                    }
                } else {
                    self.open(n, stream.clone(), Some(*epoch));
                }
            }
            FleetAction::Stop(id) => drop(self.processes[n].running.remove(id)),
            FleetAction::Left => {
                self.left.insert(n);
            }
            FleetAction::Replaced => {
                let name = &self.processes[n].name;
                self.problems.push(format!("{name} was replaced"));
            }
        }
    }

    /// Opens a source, which takes a while. Returns when its first second can be decided.
    fn open(&mut self, n: usize, id: StreamId, epoch: Option<u64>) -> u64 {
        let opened = self.now + self.rng.random_range(200 * MS..1200 * MS);
        self.processes[n].running.insert(id, WatchedStream { epoch, opened, decided: VecDeque::new() });
        opened
    }

    /// The store does an operation.
    fn serve(&mut self, n: usize, action: FleetAction) {
        if self.now < self.store_down_until || self.processes[n].is_cut_off {
            return;
        }
        self.operations += 1;
        let (op, result) = match action {
            FleetAction::Read { op, key } => (op, Ok(self.values.get(&key).cloned())),
            FleetAction::Put { op, key, value, revision } => {
                let known = self.values.get(&key).map(|(_, revision)| *revision);
                if known == revision {
                    let written = self.write(key, value);
                    (op, Ok(Some(written)))
                } else {
                    (op, Err(FleetStoreError::Conflict))
                }
            }
            _ => unreachable!("not an operation"),
        };
        if let Some(delay) = self.delay().filter(|_| self.processes[n].is_alive) {
            self.push(n, delay, FleetEvent::Response(op, result));
        }
    }

    fn write(&mut self, key: FleetKey, value: FleetValue) -> (FleetValue, u64) {
        self.revision += 1;
        if let (FleetKey::Lease(id), FleetValue::Lease(lease)) = (&key, &value) {
            let before = self.lease(id).cloned().unwrap_or_default();
            if lease.epoch != before.epoch {
                if before.next.is_some() && before.next == lease.owner {
                    self.planned.insert((id.clone(), lease.epoch));
                }
                self.taken.insert((id.clone(), lease.epoch), self.now);
            }
        }
        let written = (value, self.revision);
        self.values.insert(key.clone(), written.clone());
        if !matches!(key, FleetKey::Renewal(_)) {
            for n in 0..self.processes.len() {
                if self.processes[n].is_alive && !self.processes[n].is_cut_off {
                    self.send_change(n, key.clone(), written.clone());
                }
            }
        }
        written
    }

    fn second(&mut self, n: usize) {
        let second = self.now / SECOND;
        let ready: Vec<(StreamId, bool)> = self.processes[n]
            .running
            .iter()
            .filter(|(_, running)| running.opened <= self.now)
            .map(|(id, running)| (id.clone(), running.epoch.is_some()))
            .collect();
        for (id, is_published) in ready {
            if is_published {
                self.publish(n, &id, second);
            } else if let Some(running) = self.processes[n].running.get_mut(&id) {
                running.decided.push_back(second);
                if running.decided.len() > REPEATED {
                    running.decided.pop_front();
                }
            }
        }
    }

    fn publish(&mut self, n: usize, id: &StreamId, second: u64) {
        let process = &self.processes[n];
        let Some(epoch) = process.running.get(id).and_then(|running| running.epoch) else { return };
        if !process.machine.may_publish(self.local(n)) {
            return;
        }
        let lease = self.lease(id).cloned().unwrap_or_default();
        let later = (epoch + 1..=lease.epoch).find(|later| !self.planned.contains(&(id.clone(), *later)));
        if let Some(later) = later {
            let since = (self.now - self.taken[&(id.clone(), later)]) as f64 / MS as f64;
            self.problems
                .push(format!("{}: published {id} of epoch {epoch} {since} ms after {later} was taken", process.name));
        }
        let publisher = self.published.publishers.entry((id.clone(), epoch)).or_insert((n, process.number));
        if *publisher != (n, process.number) {
            self.problems.push(format!("{id}: two processes published epoch {epoch}"));
        }
        self.published.records += 1;
        let highest = self.published.seconds.entry(id.clone()).or_default().entry(second).or_insert(epoch);
        *highest = (*highest).max(epoch);
    }

    fn break_something(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(n) => {
                self.processes[n].is_alive = false;
                self.processes[n].running.clear();
            }
            Fault::Restart(n) if !self.processes[n].is_alive => self.start(n),
            Fault::Restart(_) => {}
            Fault::Pause(n, time) => self.processes[n].paused_until = self.now + time,
            Fault::Partition(n, time) => {
                self.processes[n].is_cut_off = true;
                self.push(n, time, FleetEvent::Heal);
            }
            Fault::StoreDown(time) => {
                self.store_down_until = self.now + time;
                self.push_at(self.store_down_until, usize::MAX, 0, FleetEvent::Heal);
            }
            Fault::Drain(n) => {
                // As a person does it.
                let key = FleetKey::Node(self.processes[n].name.clone());
                let Some((FleetValue::Node(node), _)) = self.values.get(&key).cloned() else { return };
                self.write(key, FleetValue::Node(NodeRecord { state: NodeState::Draining, ..node }));
            }
            Fault::Resign(n) => {
                let actions = self.processes[n].machine.resign();
                actions.into_iter().for_each(|action| self.act(n, action));
                self.break_something(Fault::Kill(n));
            }
        }
    }

    fn store_up(&mut self) {
        for n in 0..self.processes.len() {
            if self.processes[n].is_alive && !self.processes[n].is_cut_off {
                self.send_all(n);
            }
        }
    }
}
