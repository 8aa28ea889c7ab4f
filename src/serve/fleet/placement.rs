//! Which nodes should watch a stream, the best first.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar, *Using name-based mappings to increase hit rates*, 1998; weights as in
//! Schindelhauer and Schomaker, *Weighted distributed hash tables*, 2005): each node has a score for each stream, and the stream
//! prefers the node with the highest. A node that comes or goes changes the preferences of its own share only. Nodes whose streams
//! would cost more than they can watch come last.

use std::collections::BTreeMap;

use super::{NodeName, NodeRecord, NodeState, StreamRecord};

/// Share of the capacity that a node must have less load than another, before a stream moves to it.
const WORTH_MOVING: f64 = 0.2;

/// The nodes and what their streams cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads {
    pub of: BTreeMap<NodeName, u64>,
}

impl Loads {
    pub fn add(&mut self, node: &NodeName, cost: u32) {
        *self.of.entry(node.clone()).or_default() += u64::from(cost);
    }

    pub fn remove(&mut self, node: &NodeName, cost: u32) {
        if let Some(load) = self.of.get_mut(node) {
            *load = load.saturating_sub(u64::from(cost));
        }
    }

    fn get(&self, node: &str) -> u64 {
        self.of.get(node).copied().unwrap_or(0)
    }

    /// Load as a share of the capacity.
    pub fn share(&self, node: &str, capacity: u32) -> f64 {
        self.get(node) as f64 / f64::from(capacity.max(1))
    }
}

/// A hash: FNV-1a, then the finaliser of SplitMix64. The same in every build, so that nodes agree.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// The place of a node on the ring of monitors.
pub(super) fn ring_place(node: &str) -> u64 {
    hash(node.bytes())
}

/// The score of a node for a stream: the higher, the better.
fn score(node: &str, capacity: u32, stream: &str) -> f64 {
    let hash = hash(node.bytes().chain([0xff]).chain(stream.bytes()));
    // In (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(capacity.max(1)) / uniform.ln()
}

/// Whether a node may watch a stream.
pub(super) fn is_eligible(node: &NodeRecord, stream: &StreamRecord) -> bool {
    node.state == NodeState::Active && stream.needs.iter().all(|(name, value)| node.labels.get(name) == Some(value))
}

/// The nodes that may watch a stream, the best first, without those in `without`.
pub(super) fn candidates<'a>(
    id: &str,
    stream: &StreamRecord,
    nodes: impl Iterator<Item = (&'a NodeName, &'a NodeRecord)>,
    loads: &Loads,
) -> Vec<&'a NodeName> {
    let mut ranked: Vec<(bool, f64, &NodeName)> = nodes
        .filter(|(_, node)| is_eligible(node, stream))
        .map(|(name, node)| {
            let after = loads.get(name) + u64::from(stream.cost);
            let is_full = after > u64::from(node.capacity);
            // Where all are full, the least loaded for its capacity comes first.
            let key = if is_full {
                -(after as f64 / f64::from(node.capacity.max(1)))
            } else {
                score(name, node.capacity, id)
            };
            (is_full, key, name)
        })
        .collect();
    ranked.sort_by(|(a_full, a, a_name), (b_full, b, b_name)| {
        a_full.cmp(b_full).then(b.total_cmp(a)).then_with(|| a_name.cmp(b_name))
    });
    ranked.into_iter().map(|(_, _, name)| name).collect()
}

/// The stream that `own` should hand over, and to whom: if it has more than it can watch, or another node has clearly less.
/// `streams` are those that `own` watches and does not hand over yet.
pub(super) fn worth_moving<'a, 'b>(
    (own, record): (&NodeName, &NodeRecord),
    streams: impl Iterator<Item = (&'b super::StreamId, &'b StreamRecord)>,
    nodes: &'a BTreeMap<NodeName, (NodeRecord, u64)>,
    loads: &Loads,
) -> Option<(&'b super::StreamId, &'a NodeName)> {
    let own_share = loads.share(own, record.capacity);
    let mut best: Option<(f64, &super::StreamId, &NodeName)> = None;
    for (id, stream) in streams {
        for (name, (node, _)) in nodes.iter().filter(|(name, (node, _))| *name != own && is_eligible(node, stream)) {
            let after = loads.share(name, node.capacity) + f64::from(stream.cost) / f64::from(node.capacity.max(1));
            let own_after = own_share - f64::from(stream.cost) / f64::from(record.capacity.max(1));
            let gain = own_share - after;
            let is_worth = after <= own_after.max(0.0) + f64::EPSILON
                && (gain >= WORTH_MOVING || (own_share > 1.0 && after <= 1.0));
            if is_worth && best.is_none_or(|(most, _, _)| gain > most) {
                best = Some((gain, id, name));
            }
        }
    }
    best.map(|(_, id, name)| (id, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn node(capacity: u32) -> NodeRecord {
        NodeRecord { session: 1, capacity, labels: BTreeMap::new(), state: NodeState::Active, page: None }
    }

    fn stream(cost: u32) -> StreamRecord {
        StreamRecord { cost, needs: BTreeMap::new(), settings: serde_json::Value::Null }
    }

    fn nodes(capacities: &[u32]) -> BTreeMap<NodeName, NodeRecord> {
        capacities.iter().enumerate().map(|(n, c)| (Arc::from(format!("node-{n}")), node(*c))).collect()
    }

    #[test]
    fn shares_follow_capacity_and_a_new_node_takes_only_its_own() {
        let (three, loads) = (nodes(&[1000, 1000, 2000]), Loads::default());
        let first = |nodes: &BTreeMap<NodeName, NodeRecord>, id: usize| {
            candidates(&format!("stream-{id}"), &stream(1), nodes.iter(), &loads)[0].clone()
        };
        let before: Vec<NodeName> = (0..4000).map(|id| first(&three, id)).collect();
        let share = |name: &str| before.iter().filter(|node| &***node == name).count();
        assert!(
            (900..1100).contains(&share("node-0")) && (1900..2100).contains(&share("node-2")),
            "{}",
            share("node-2")
        );
        let four = nodes(&[1000, 1000, 2000, 1000]);
        let moved = (0..4000).filter(|id| first(&four, *id) != before[*id]);
        assert!(moved.clone().all(|id| &*first(&four, id) == "node-3"));
        assert!((700..900).contains(&moved.count()));
    }

    #[test]
    fn full_nodes_and_those_without_the_labels_come_last_or_not() {
        let mut three = nodes(&[100, 100, 100]);
        let mut loads = Loads::default();
        loads.add(&Arc::from("node-0"), 95);
        loads.add(&Arc::from("node-1"), 120);
        let names = |nodes: &BTreeMap<NodeName, NodeRecord>, stream: &StreamRecord| {
            candidates("s", stream, nodes.iter(), &loads).iter().map(|n| n.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&three, &stream(10)), ["node-2", "node-0", "node-1"]);
        let needs = StreamRecord { needs: BTreeMap::from([("gpu".into(), "true".into())]), ..stream(10) };
        assert!(names(&three, &needs).is_empty());
        three.get_mut("node-1").unwrap().labels.insert("gpu".into(), "true".into());
        assert_eq!(names(&three, &needs), ["node-1"]);
        three.get_mut("node-2").unwrap().state = NodeState::Draining;
        assert_eq!(names(&three, &stream(10)), ["node-0", "node-1"]);
    }

    #[test]
    fn a_stream_moves_only_when_it_pays() {
        let two: BTreeMap<NodeName, (NodeRecord, u64)> =
            nodes(&[100, 100]).into_iter().map(|(name, node)| (name, (node, 1))).collect();
        let own: NodeName = Arc::from("node-0");
        let streams: Vec<(super::super::StreamId, StreamRecord)> =
            [("a", 10), ("b", 40)].map(|(id, cost)| (Arc::from(id), stream(cost))).to_vec();
        let moved = |own_load: u32, other_load: u32| {
            let mut loads = Loads::default();
            loads.add(&own, own_load);
            loads.add(&Arc::from("node-1"), other_load);
            let all = streams.iter().map(|(id, stream)| (id, stream));
            worth_moving((&own, &two[&own].0), all, &two, &loads).map(|(id, _)| id.to_string())
        };
        assert_eq!(moved(50, 35), None, "a small difference");
        assert_eq!(moved(50, 0), Some("a".into()), "and not b, after which the other has more");
        assert_eq!(moved(110, 85), Some("a".into()), "more than it can watch");
        assert_eq!(moved(110, 105), None, "both have");
    }
}
