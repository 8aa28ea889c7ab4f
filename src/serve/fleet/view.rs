//! The fleet as this machine sees it, for `GET /api/v1/fleet` and the command line.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::rollout::{
    ComparedSeconds, PackRef, PackReport, PackStep, Rollout, RolloutHalt, RolloutRules, RolloutStage,
};
use super::{Lease, NodeName, NodeRecord, NodeState, StreamId, StreamRecord};
use crate::metrics::FleetCounts;
use crate::record::format::rfc3339;

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
    /// The last rollout of a pack; null before the first.
    pub rollout: Option<RolloutView>,
}

/// A pack on its way to all machines.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FleetRollout")]
pub struct RolloutView {
    /// The pack.
    pub pack: PackRef,
    /// The pack of the fleet before; null: each machine's own.
    pub former: Option<PackRef>,
    /// How far it is.
    pub stage: RolloutStage,
    /// The machine that compares it, and takes it first.
    pub canary: String,
    /// What the pack must do.
    #[serde(flatten)]
    pub rules: RolloutRules,
    /// What the canary has compared; null if it does not compare.
    pub compared: Option<ComparedSeconds>,
    /// The machine that takes the pack now, or is watched after that.
    pub turn: Option<String>,
    /// The machines that have taken it.
    pub swapped: Vec<String>,
    /// Why it was halted.
    pub halt: Option<RolloutHalt>,
    /// What happened, the latest last.
    pub log: Vec<RolloutStepView>,
}

/// Something that happened in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FleetRolloutStep")]
pub struct RolloutStepView {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// What.
    pub text: String,
}

/// The pack of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FleetNodePack")]
pub struct NodePackView {
    /// Digest of the pack of the fleet that it runs; null: a pack of its own.
    pub digest: Option<String>,
    /// What it does about packs.
    pub step: PackStep,
    /// Why it could not do what it should.
    pub problem: Option<String>,
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
    /// Address of its page for people; null if it has given none.
    pub page: Option<String>,
    /// Its pack; null for a machine that has not reported it.
    pub pack: Option<NodePackView>,
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
    /// Display name.
    pub label: Option<String>,
    /// The streams that a wall shows together.
    pub group: Option<String>,
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
                page: node.page.clone(),
                pack: None,
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
                let text = |key: &str| stream.settings[key].as_str();
                FleetStreamView {
                    id: id.to_string(),
                    node: owner.map(|owner| owner.node.to_string()),
                    epoch: lease.map_or(0, |lease| lease.epoch),
                    next: next.map(|next| next.node.to_string()),
                    cost: stream.cost,
                    needs: stream.needs.clone(),
                    uri: touchline_core::redact::uri(text("uri").unwrap_or_default()),
                    label: text("label").map(str::to_owned),
                    group: text("group").map(str::to_owned),
                }
            })
            .collect();
        Self { name: name.to_owned(), node: None, may_publish: false, problem: None, nodes, streams, rollout: None }
    }

    /// Adds the rollout and the packs of the machines.
    pub fn add_packs<'a>(
        &mut self,
        rollout: Option<&Rollout>,
        reports: impl Iterator<Item = (&'a NodeName, &'a PackReport)>,
    ) {
        let reports: BTreeMap<&NodeName, &PackReport> = reports.collect();
        for node in &mut self.nodes {
            node.pack = reports.get(&NodeName::from(node.name.as_str())).map(|report| NodePackView {
                digest: report.running.clone(),
                step: report.step,
                problem: report.problem.clone(),
            });
        }
        self.rollout = rollout.map(|rollout| RolloutView {
            pack: rollout.pack.clone(),
            former: rollout.former.clone(),
            stage: rollout.stage,
            canary: rollout.canary.node.to_string(),
            rules: rollout.rules,
            compared: reports.get(&rollout.canary.node).and_then(|report| report.compared),
            turn: rollout.turn.as_ref().map(|turn| turn.node.to_string()),
            swapped: rollout.swapped.iter().map(|member| member.node.to_string()).collect(),
            halt: rollout.halt.clone(),
            log: rollout
                .log
                .iter()
                .map(|step| RolloutStepView { at: rfc3339(step.unix_ns), text: step.text.clone() })
                .collect(),
        });
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
