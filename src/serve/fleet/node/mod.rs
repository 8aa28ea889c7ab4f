//! The state machine of a node.

mod leases;
mod monitor;
mod renewal;

use std::collections::BTreeMap;

use super::placement::Loads;
use super::{
    FleetKey, FleetTimes, FleetValue, Holder, Lease, NodeName, NodeRecord, NodeState, Renewal, StreamId, StreamRecord,
};

/// Number of an operation of the store, for its result.
pub type OpId = u64;

/// Why an operation had no effect, or may have had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetStoreError {
    /// The key has another revision than the one to replace.
    Conflict,
    /// No answer. The operation may have had its effect.
    Unavailable,
}

/// The result of an operation: the value with its revision, if the key has one.
pub type FleetStoreResult = Result<Option<(FleetValue, u64)>, FleetStoreError>;

/// What the process does for its node.
#[derive(Clone, Debug, PartialEq)]
pub enum FleetAction {
    /// Reads a key. [`FleetNode::done`] takes the value.
    Read {
        /// Number of the operation.
        op: OpId,
        /// The key.
        key: FleetKey,
    },
    /// Replaces the value of a key that has revision `revision`, or of one that does not exist (`None`).
    Put {
        /// Number of the operation.
        op: OpId,
        /// The key.
        key: FleetKey,
        /// The new value.
        value: FleetValue,
        /// The revision to replace.
        revision: Option<u64>,
    },
    /// Opens a stream and decides, without publishing. [`FleetNode::prepared`] reports the first decided second.
    Prepare(StreamId),
    /// Watches a stream, and publishes with this epoch.
    Start {
        /// The stream.
        stream: StreamId,
        /// The epoch of its records.
        epoch: u64,
        /// Why this node watches it.
        cause: StartCause,
        /// Who watched it before, if another process did.
        before: Option<Holder>,
    },
    /// Stops watching a stream, and preparing for it.
    Stop(StreamId),
    /// Another process has the name of this node, and is younger. This one has stopped for good.
    Replaced,
    /// All streams are handed over, and the node has left.
    Left,
}

/// Why a node starts to watch a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCause {
    /// Nobody watched it.
    First,
    /// It is prepared, and the owner before, who was there, has handed it over.
    Planned,
    /// Its owner was lost, or this node could not publish it for a while.
    Lost,
}

/// A node's own facts.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Name of the node.
    pub name: NodeName,
    /// Random number of this process.
    pub session: u64,
    /// Cost of the streams that it can watch.
    pub capacity: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Address of its page, if it has one for people.
    pub page: Option<String>,
    /// The times of the protocol.
    pub times: FleetTimes,
}

/// An operation without a result.
#[derive(Clone, Debug)]
enum Pending {
    /// The node's own renewal with this count, sent at this time.
    Renewal { count: u64, sent_ns: u64 },
    /// Reads the node's own renewal, to learn its revision.
    OwnRenewal,
    /// Reads the renewal of another node.
    MonitorRead { node: NodeName },
    /// Fences another node's session.
    Fence { node: NodeName },
    /// Writes the record of a node.
    Node,
    /// Writes a lease.
    Lease(StreamId),
}

/// What a monitor knows of a node.
#[derive(Clone, Copy, Debug)]
struct Monitored {
    renewal: Renewal,
    revision: u64,
    /// When this renewal was first received.
    since_ns: u64,
}

/// A stream that this node watches.
#[derive(Clone, Copy, Debug)]
struct Owned {
    epoch: u64,
    /// When the next owner was named.
    moving_since_ns: Option<u64>,
}

/// How the node stands to its own renewal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RenewalState {
    /// The revision is not known: at the start, and after an operation without an answer.
    Unknown,
    /// Another session's renewal, which must be unchanged for `expire_ns` before this session replaces it.
    Foreign { renewal: Renewal, revision: u64, since_ns: u64 },
    /// This session's renewal, or none yet (`None`).
    Own { revision: Option<u64> },
}

/// A node of the fleet. Times are those of the process's monotonic clock.
#[derive(Debug)]
pub struct FleetNode {
    options: NodeOptions,
    next_op: OpId,
    pending: BTreeMap<OpId, Pending>,
    renewal: RenewalState,
    /// Count of the last renewal that was sent.
    count: u64,
    renew_due_ns: u64,
    /// When the last acknowledged renewal was sent.
    renewed_ns: Option<u64>,
    /// Streams may be published: the process has started them.
    is_publishing: bool,
    state: NodeState,
    is_over: bool,
    /// It is over because it has handed all its streams over.
    has_left: bool,
    /// All nodes, with the revisions of their records.
    nodes: BTreeMap<NodeName, (NodeRecord, u64)>,
    streams: BTreeMap<StreamId, StreamRecord>,
    leases: BTreeMap<StreamId, (Lease, u64)>,
    loads: Loads,
    monitored: BTreeMap<NodeName, Monitored>,
    /// Since when a stream has no owner.
    free: BTreeMap<StreamId, u64>,
    owned: BTreeMap<StreamId, Owned>,
    /// Streams that this node prepares to take over, and whether it has decided a second of each.
    preparing: BTreeMap<StreamId, bool>,
    balanced_ns: u64,
}

impl FleetNode {
    /// A node that has not joined. It joins with the first ticks.
    pub fn new(options: NodeOptions, now_ns: u64) -> Self {
        Self {
            options,
            next_op: 0,
            pending: BTreeMap::new(),
            renewal: RenewalState::Unknown,
            count: 0,
            renew_due_ns: now_ns,
            renewed_ns: None,
            is_publishing: false,
            state: NodeState::Active,
            is_over: false,
            has_left: false,
            nodes: BTreeMap::new(),
            streams: BTreeMap::new(),
            leases: BTreeMap::new(),
            loads: Loads::default(),
            monitored: BTreeMap::new(),
            free: BTreeMap::new(),
            owned: BTreeMap::new(),
            preparing: BTreeMap::new(),
            balanced_ns: now_ns,
        }
    }

    /// Whether records may be published now. The process asks before each record.
    pub fn may_publish(&self, now_ns: u64) -> bool {
        let is_renewed = self.renewed_ns.is_some_and(|renewed| now_ns < renewed + self.options.times.lease_ns);
        is_renewed && !self.is_over
    }

    /// Until when records may be published; 0 if not at all.
    pub fn publishes_until_ns(&self) -> u64 {
        let until = self.renewed_ns.map_or(0, |renewed| renewed + self.options.times.lease_ns);
        // A node that has left still publishes what it decided before it handed its streams over.
        if self.is_over && !self.has_left { 0 } else { until }
    }

    /// The session. A node whose session was fenced continues with another one.
    pub fn session(&self) -> u64 {
        self.options.session
    }

    /// The streams that this node watches, with their epochs.
    pub fn owned(&self) -> impl Iterator<Item = (&StreamId, u64)> {
        self.owned.iter().map(|(id, owned)| (id, owned.epoch))
    }

    /// Hands all streams over, then leaves.
    pub fn drain(&mut self) {
        if self.state == NodeState::Active {
            self.state = NodeState::Draining;
        }
    }

    /// Takes a change of a node, a stream or a lease from the store; `None` for a key that was deleted. Changes of a key come in order,
    /// and may be skipped if a later one comes.
    pub fn observe(&mut self, key: &FleetKey, value: Option<(FleetValue, u64)>, now_ns: u64) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        match (key, value) {
            (FleetKey::Node(name), Some((FleetValue::Node(record), revision))) => {
                self.node_changed(name, record, revision, now_ns, &mut actions);
            }
            (FleetKey::Node(name), _) => {
                self.nodes.remove(name);
                self.find_free(now_ns);
            }
            (FleetKey::Stream(id), Some((FleetValue::Stream(stream), _))) => {
                let old = self.streams.insert(id.clone(), stream);
                self.stream_changed(id, old.as_ref(), now_ns);
            }
            (FleetKey::Stream(id), _) => {
                let old = self.streams.remove(id);
                self.stream_changed(id, old.as_ref(), now_ns);
            }
            (FleetKey::Lease(id), Some((FleetValue::Lease(lease), revision))) => {
                self.lease_changed(id, lease, revision, now_ns, &mut actions);
            }
            _ => {}
        }
        actions
    }

    /// Takes the result of an operation.
    pub fn done(&mut self, op: OpId, result: FleetStoreResult, now_ns: u64) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        match (self.pending.remove(&op), result) {
            (Some(Pending::Renewal { count, sent_ns }), Ok(Some((FleetValue::Renewal(renewal), revision))))
                if renewal.session == self.options.session && renewal.count == count =>
            {
                self.renewed(sent_ns, revision);
            }
            // It may have had its effect, or a monitor has fenced this session.
            (Some(Pending::Renewal { .. }), _) => self.renewal = RenewalState::Unknown,
            (Some(Pending::OwnRenewal), Ok(value)) => self.own_renewal(value, now_ns, &mut actions),
            (Some(Pending::MonitorRead { node }), Ok(Some((FleetValue::Renewal(renewal), revision)))) => {
                self.monitor(&node, renewal, revision, now_ns, &mut actions);
            }
            (Some(Pending::Fence { node }), Ok(Some((FleetValue::Renewal(renewal), _)))) => {
                self.gone(&node, renewal, &mut actions)
            }
            // The watch brings the value too, and the first to come counts.
            (Some(Pending::Lease(id)), Ok(Some((FleetValue::Lease(lease), revision)))) => {
                self.lease_changed(&id, lease, revision, now_ns, &mut actions);
            }
            // The watch brings what counts.
            _ => {}
        }
        actions
    }

    /// The process has decided a second of a stream that it prepares.
    pub fn prepared(&mut self, stream: &StreamId) {
        if let Some(is_ready) = self.preparing.get_mut(stream) {
            *is_ready = true;
        }
    }

    /// Does what is due. Call it several times in each [`FleetTimes::renew_ns`].
    pub fn tick(&mut self, now_ns: u64) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        if self.is_over {
            return actions;
        }
        self.check_validity(now_ns, &mut actions);
        if now_ns >= self.renew_due_ns {
            self.renew_due_ns = now_ns + self.options.times.renew_ns;
            self.renew(now_ns, &mut actions);
            if self.may_publish(now_ns) {
                self.read_monitored(&mut actions);
            }
        }
        if !self.may_publish(now_ns) {
            return actions;
        }
        self.write_own_record(&mut actions);
        self.take_free(now_ns, &mut actions);
        self.take_prepared(&mut actions);
        self.hand_over(now_ns, &mut actions);
        self.leave(&mut actions);
        actions
    }

    /// Ends the session of a node that watches nothing any more, so that others need not wait until it expires.
    pub fn resign(&mut self) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        if !self.is_over {
            self.end_session(&mut actions);
        }
        actions
    }

    /// The definition of a stream.
    pub fn stream(&self, id: &StreamId) -> Option<&StreamRecord> {
        self.streams.get(id)
    }

    /// The streams that are defined, with their leases.
    pub fn streams(&self) -> impl Iterator<Item = (&StreamId, &StreamRecord, Option<&Lease>)> {
        self.streams.iter().map(|(id, stream)| (id, stream, self.leases.get(id).map(|(lease, _)| lease)))
    }

    /// The nodes that were ever there.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeRecord)> {
        self.nodes.iter().map(|(name, (node, _))| (name, node))
    }

    /// Whether a process with this node's name renews itself, so that this one must wait.
    pub fn waits_for_its_name(&self) -> bool {
        matches!(self.renewal, RenewalState::Foreign { renewal, .. } if !renewal.is_fenced)
    }

    /// Whether the session of a node is neither fenced nor over, as far as this node knows.
    pub fn is_live(&self, holder: &Holder) -> bool {
        let node = self.nodes.get(&holder.node);
        node.is_some_and(|(node, _)| node.session == holder.session && node.state != NodeState::Gone)
    }

    /// Whether the node takes streams.
    pub fn state(&self) -> NodeState {
        if self.is_over { NodeState::Gone } else { self.state }
    }

    fn me(&self) -> Holder {
        Holder { node: self.options.name.clone(), session: self.options.session }
    }

    fn op(&mut self, pending: Pending) -> OpId {
        self.next_op += 1;
        self.pending.insert(self.next_op, pending);
        self.next_op
    }

    fn put(&mut self, pending: Pending, key: FleetKey, value: FleetValue, revision: Option<u64>) -> FleetAction {
        FleetAction::Put { op: self.op(pending), key, value, revision }
    }
}
