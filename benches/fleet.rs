//! Fleets in virtual time: the operations of the store, and what the loss of nodes costs.

#[expect(dead_code, reason = "tests use the other faults")]
#[path = "../src/serve/fleet/simulation/mod.rs"]
mod simulation;

use simulation::{Fault, FleetWorld, SECOND, Weather, percentile};
use touchline_serve::fleet::{self, StreamId};

fn main() {
    let weather = Weather { lost: 0.0, late: 0.001, drift: 0.001 };
    println!(
        "| nodes | streams | operations a second | changes sent after 1 % of the nodes die | a stream is taken after, ms (p50, p95) | \
         seconds lost by a stream (mean, most) |"
    );
    println!("|---|---|---|---|---|---|");
    for (nodes, streams) in [(12, 200), (50, 1000), (200, 4000), (500, 10_000)] {
        let mut world = FleetWorld::settled(1, nodes, streams, 100, 3000, weather);
        world.run(10 * SECOND);
        let operations = world.operations;
        world.run(30 * SECOND);
        let operations = (world.operations - operations) / 20;
        let killed = (nodes / 100).max(1);
        let watched = world.watched().into_iter();
        let lost: Vec<StreamId> = watched.filter(|(_, nodes)| nodes[0] < killed).map(|(id, _)| id).collect();
        let changes = world.changes;
        (0..killed).for_each(|n| world.fault(30 * SECOND, Fault::Kill(n)));
        world.run(50 * SECOND);
        assert!(world.problems.is_empty(), "{:?}", world.problems);
        assert_eq!(world.watched().len(), streams, "streams that no node watches");
        let taken_after = |id: &StreamId| {
            let takings = world.taken.iter().filter(|((stream, _), at)| stream == id && **at > 30 * SECOND);
            takings.map(|(_, at)| at - 30 * SECOND).min().expect("it was taken")
        };
        let mut times: Vec<u64> = lost.iter().map(taken_after).collect();
        times.sort();
        let gap = |id: &StreamId| (29..50).filter(|n| !world.published.seconds[id].contains_key(n)).count();
        let gaps: Vec<usize> = lost.iter().map(gap).collect();
        println!(
            "| {nodes} | {streams} | {operations} | {} | {}, {} | {:.1}, {} |",
            world.changes - changes,
            percentile(&times, 0.5),
            percentile(&times, 0.95),
            gaps.iter().sum::<usize>() as f64 / gaps.len() as f64,
            gaps.iter().max().expect("a node watches streams")
        );
    }
}
