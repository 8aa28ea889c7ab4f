//! The fleet: which node watches which stream.
//!
//! Nodes share a key-value store with compare-and-set, such as a bucket of NATS JetStream. There is no coordinator. A node is one
//! process of the program; it is alive while it renews itself. Three other nodes monitor it.
//!
//! | key | value | written by |
//! |---|---|---|
//! | [`FleetKey::Renewal`] | [`Renewal`]: session and count | the node, every [`FleetTimes::renew_ns`]; a monitor, to fence it |
//! | [`FleetKey::Node`] | [`NodeRecord`]: session, capacity, labels, state | the node, when it joins, drains and leaves; anyone, once it is fenced |
//! | [`FleetKey::Stream`] | [`StreamRecord`]: settings, cost, needs | users |
//! | [`FleetKey::Lease`] | [`Lease`]: owner, epoch, next owner | who takes, moves or gives back the stream |
//! | [`FleetKey::Rollout`] | [`rollout::Rollout`]: a pack on its way to all nodes | users; the node whose turn it is; anyone, if it is lost |
//! | [`FleetKey::Pack`] | [`rollout::PackReport`]: the pack of a node | the node |
//!
//! Every write names the revision that it replaces, so of two writers one wins. That gives the rules their force:
//!
//! - **One decider for each epoch.** Taking a lease raises its epoch by one. Records carry the epoch; of two records of a second the one
//!   with the higher epoch counts.
//! - **A node stops before another begins.** A node publishes for [`FleetTimes::lease_ns`] after it sent the last renewal that was
//!   acknowledged, by its own clock. A monitor fences it when its renewal has not changed for [`FleetTimes::expire_ns`], by the
//!   monitor's clock: longer, by more than clocks differ in rate. The fence replaces the renewal at the revision that the monitor saw, so
//!   it fails if the node renewed in between, and once it succeeds the node cannot renew. Leases of a fenced session are free.
//! - **Planned moves lose no second.** The owner names the next owner in the lease. That one opens the source, and takes the
//!   lease when it has decided a second.
//!
//! Beats are read by three monitors and not by all nodes, so the messages grow with the number of nodes and not with its square.
//!
//! [`FleetNode`] is the state machine of a node. It has no clock, no network and no thread: it takes observations, results and
//! ticks, and returns [`FleetAction`]s. [`FleetStore`] is the bucket, and [`FleetHost`] drives the node in a running program.

mod admin;
mod host;
mod node;
mod placement;
pub mod rollout;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_tests;
mod store;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admin::{FleetAdmin, short};
pub use host::{FleetControls, FleetDrain, FleetHost, FleetLogin};
pub use node::{FleetAction, FleetNode, FleetStoreError, FleetStoreResult, NodeOptions, OpId, StartCause};
#[cfg(test)]
pub(crate) use store::tests::deployed;
pub use store::{FleetChange, FleetRecords, FleetSnapshot, FleetStore, FleetStoreFailure, LastSecond};
pub(crate) use store::{bucket_config, entries};

/// Name of a node.
pub type NodeName = Arc<str>;

/// Id of a stream.
pub type StreamId = Arc<str>;

/// A key of the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FleetKey {
    /// The renewal of a node. It is read by its monitors only.
    Renewal(NodeName),
    /// A node. All nodes observe it.
    Node(NodeName),
    /// The definition of a stream. All nodes observe it.
    Stream(StreamId),
    /// The lease of a stream. All nodes observe it.
    Lease(StreamId),
    /// The rollout of a pack. All nodes observe it.
    Rollout,
    /// The pack of a node. All nodes observe it.
    Pack(NodeName),
}

/// The renewal of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Number of the process, from its start. Two processes have different ones.
    pub session: u64,
    /// Grows with each renewal.
    pub count: u64,
    /// The session is over: it cannot renew, and its leases are free.
    pub is_fenced: bool,
}

/// Whether a node takes streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FleetNodeState")]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It takes streams.
    Active,
    /// It hands its streams over and takes none.
    Draining,
    /// It is fenced, or has left. Its leases are free.
    Gone,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The session of its process.
    pub session: u64,
    /// Cost of the streams that it can watch, in the unit of [`StreamRecord::cost`].
    pub capacity: u32,
    /// What it has, as name and value: `gpu=true`, `site=oslo`.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes streams.
    pub state: NodeState,
    /// Address of its page, if it has given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// The definition of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// What watching it costs, in thousandths of a processor core.
    pub cost: u32,
    /// Labels that a node must have to watch it.
    pub needs: BTreeMap<String, String>,
    /// The settings of the stream, as the API takes them.
    pub settings: serde_json::Value,
}

/// A process of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the node.
    #[serde(with = "name_text")]
    pub node: NodeName,
    /// Session of the process.
    pub session: u64,
}

/// Who watches a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The process that watches it.
    pub owner: Option<Holder>,
    /// Number of times that the lease was taken.
    pub epoch: u64,
    /// The process that prepares to take it over.
    pub next: Option<Holder>,
}

/// A value of the store.
#[derive(Clone, Debug, PartialEq)]
pub enum FleetValue {
    /// Of [`FleetKey::Renewal`].
    Renewal(Renewal),
    /// Of [`FleetKey::Node`].
    Node(NodeRecord),
    /// Of [`FleetKey::Stream`].
    Stream(StreamRecord),
    /// Of [`FleetKey::Lease`].
    Lease(Lease),
    /// Of [`FleetKey::Rollout`].
    Rollout(Box<rollout::Rollout>),
    /// Of [`FleetKey::Pack`].
    Pack(rollout::PackReport),
}

/// The times of the protocol, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetTimes {
    /// Between two renewals of a node.
    pub renew_ns: u64,
    /// How long a node publishes after it sent its last acknowledged renewal.
    pub lease_ns: u64,
    /// How long a renewal is unchanged before a monitor fences the node. At least a tenth more than `lease_ns`, for clocks that differ in
    /// rate by 5 % each.
    pub expire_ns: u64,
    /// How much longer each candidate waits than the one before it, to take a free stream.
    pub stagger_ns: u64,
    /// How long the next owner of a stream may prepare.
    pub prepare_ns: u64,
    /// Between two looks of a node for a stream that another node should have.
    pub balance_ns: u64,
}

impl Default for FleetTimes {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            renew_ns: 500 * MS,
            lease_ns: 2000 * MS,
            expire_ns: 2300 * MS,
            stagger_ns: 200 * MS,
            prepare_ns: 20_000 * MS,
            balance_ns: 5000 * MS,
        }
    }
}

/// A name as text: serde has `Arc<str>` behind a feature only.
mod name_text {
    use super::NodeName;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(name: &NodeName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeName, D::Error> {
        String::deserialize(from).map(NodeName::from)
    }
}
