//! The fleet as this machine sees it, for `GET /api/v1/fleet` and the command line.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Lease, NodeName, NodeRecord, NodeState, StreamId, StreamRecord};
use crate::metrics::FleetCounts;

/// The machines, streams and leases of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Fleet")]
pub struct FleetView {
    /// Name of the fleet.
    pub name: String,
    /// Name of this machine; null for the command line.
    pub node: Option<String>,
    /// Whether the store acknowledges this machine, so that it may publish.
    pub may_publish: bool,
    /// Why it does not; null if it does.
    pub problem: Option<String>,
    /// The machines, by name.
    pub nodes: Vec<FleetNodeView>,
    /// The streams, by id.
    pub streams: Vec<FleetStreamView>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FleetNode")]
pub struct FleetNodeView {
    /// Its name.
    pub name: String,
    /// Whether it takes streams.
    pub state: NodeState,
    /// Cost of the streams that it can watch, thousandths of a processor core.
    pub capacity: u32,
    /// Cost of the streams that it watches, thousandths of a processor core.
    pub load: u64,
    /// Number of the streams that it watches.
    pub streams: usize,
    /// What it has.
    pub labels: BTreeMap<String, String>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FleetStream")]
pub struct FleetStreamView {
    /// Its id.
    pub id: String,
    /// The machine that watches it; null if none does.
    pub node: Option<String>,
    /// How often it was taken over.
    pub epoch: u64,
    /// The machine that prepares to take it over.
    pub next: Option<String>,
    /// What watching it costs, thousandths of a processor core.
    pub cost: u32,
    /// Labels that a machine must have to watch it.
    pub needs: BTreeMap<String, String>,
    /// Where it comes from, without secrets.
    pub uri: String,
}

impl FleetView {
    /// A view of `nodes` and `streams`. The other keys are those of nobody.
    pub fn new<'a>(
        name: &str,
        nodes: impl Iterator<Item = (&'a NodeName, &'a NodeRecord)>,
        streams: impl Iterator<Item = (&'a StreamId, &'a StreamRecord, Option<&'a Lease>)>,
    ) -> Self {
        let records: BTreeMap<&NodeName, &NodeRecord> = nodes.collect();
        let mut nodes: Vec<FleetNodeView> = records
            .iter()
            .map(|(name, node)| FleetNodeView {
                name: name.to_string(),
                state: node.state,
                capacity: node.capacity,
                load: 0,
                streams: 0,
                labels: node.labels.clone(),
            })
            .collect();
        let streams = streams
            .map(|(id, stream, lease)| {
                let is_live = |holder: &&super::Holder| {
                    let node = records.get(&holder.node);
                    node.is_some_and(|node| node.session == holder.session && node.state != NodeState::Gone)
                };
                let owner = lease.and_then(|lease| lease.owner.as_ref()).filter(is_live);
                if let Some(view) = owner.and_then(|owner| nodes.iter_mut().find(|view| *view.name == *owner.node)) {
                    view.load += u64::from(stream.cost);
                    view.streams += 1;
                }
                let next = lease.and_then(|lease| lease.next.as_ref()).filter(is_live);
                FleetStreamView {
                    id: id.to_string(),
                    node: owner.map(|owner| owner.node.to_string()),
                    epoch: lease.map_or(0, |lease| lease.epoch),
                    next: next.map(|next| next.node.to_string()),
                    cost: stream.cost,
                    needs: stream.needs.clone(),
                    uri: touchline_core::redact::uri(stream.settings["uri"].as_str().unwrap_or_default()),
                }
            })
            .collect();
        Self { name: name.to_owned(), node: None, may_publish: false, problem: None, nodes, streams }
    }

    /// The numbers for the metrics; `leases` is the number of streams that this machine watches.
    pub fn counts(&self, leases: usize) -> FleetCounts {
        let of = |state: NodeState| self.nodes.iter().filter(|node| node.state == state).count();
        FleetCounts {
            active: of(NodeState::Active),
            draining: of(NodeState::Draining),
            gone: of(NodeState::Gone),
            streams: self.streams.len(),
            unwatched: self.streams.iter().filter(|stream| stream.node.is_none()).count(),
            leases,
        }
    }
}
