//! The rules of the fleet under faults, in virtual time. `TOUCHLINE_FLEET_SEEDS=4000` runs that many histories.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::StreamId;
use super::simulation::{Fault, FleetWorld, MS, SECOND, Weather, percentile};

/// Number of random histories.
fn seeds() -> u64 {
    std::env::var("TOUCHLINE_FLEET_SEEDS").map_or(300, |number| number.parse().expect("a number"))
}

const CALM: Weather = Weather { lost: 0.0, late: 0.0, drift: 0.0 };
const ROUGH: Weather = Weather { lost: 0.02, late: 0.02, drift: 0.05 };

#[track_caller]
fn check(world: &FleetWorld, seed: u64) {
    assert!(world.problems.is_empty(), "seed {seed}: {:#?}", &world.problems[..world.problems.len().min(5)]);
}

/// Fails unless each stream is watched by exactly one node.
#[track_caller]
fn check_watched(world: &FleetWorld, streams: usize, seed: u64) {
    let watched = world.watched();
    assert_eq!(watched.len(), streams, "seed {seed}: streams that nobody watches");
    for (id, nodes) in watched {
        assert_eq!(nodes.len(), 1, "seed {seed}: {id} {:?}", world.lease(&id));
    }
}

#[test]
fn a_calm_fleet_watches_each_stream_once_and_shares_them() {
    let mut world = FleetWorld::new(1, 4, 40, 100, 2000, CALM);
    world.run(60 * SECOND);
    check(&world, 1);
    check_watched(&world, 40, 1);
    let mut of_node = BTreeMap::<usize, usize>::new();
    world.watched().values().for_each(|nodes| *of_node.entry(nodes[0]).or_default() += 1);
    assert!(of_node.len() == 4 && of_node.values().all(|n| (5..=15).contains(n)), "{of_node:?}");
    for (id, seconds) in &world.published.seconds {
        let (first, last) = (*seconds.keys().next().unwrap(), *seconds.keys().last().unwrap());
        assert!(first < 8 && last >= 59, "{id} {first} {last}");
        assert_eq!(seconds.len() as u64, last - first + 1, "{id}: planned moves lose no second");
    }
}

#[test]
fn any_faults_leave_one_decider_for_each_epoch_and_every_stream_is_watched_again() {
    for seed in 0..seeds() {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xf1ee7);
        let (nodes, streams) = (rng.random_range(2..6), rng.random_range(1..13));
        let mut world = FleetWorld::new(seed, nodes, streams, 100, 3000, ROUGH);
        for _ in 0..rng.random_range(1..12) {
            let at = rng.random_range(5 * SECOND..60 * SECOND);
            let n = rng.random_range(0..nodes);
            let time = rng.random_range(200 * MS..12 * SECOND);
            let fault = match rng.random_range(0..6) {
                0 => Fault::Kill(n),
                1 => Fault::Restart(n),
                2 => Fault::Pause(n, time),
                3 => Fault::Partition(n, time),
                4 => Fault::StoreDown(time.min(5 * SECOND)),
                _ => Fault::Pause(n, 20 * SECOND),
            };
            world.fault(at, fault);
        }
        // In the end all nodes are there, and the weather is calm.
        (0..nodes).for_each(|n| world.fault(82 * SECOND, Fault::Restart(n)));
        world.run(82 * SECOND);
        world.weather = CALM;
        world.run(110 * SECOND);
        check(&world, seed);
        check_watched(&world, streams, seed);
        for (id, seconds) in &world.published.seconds {
            assert!(seconds.contains_key(&108), "seed {seed}: {id} is not published again");
        }
    }
}

#[test]
fn a_killed_node_is_replaced_within_five_seconds() {
    let mut times = Vec::new();
    for seed in 0..50 {
        let mut world = FleetWorld::settled(seed, 3, 12, 100, 3000, Weather { drift: 0.01, ..CALM });
        world.run(20 * SECOND);
        let killed = (seed % 3) as usize;
        let its: Vec<StreamId> =
            world.watched().into_iter().filter(|(_, nodes)| nodes == &[killed]).map(|(id, _)| id).collect();
        world.fault(20 * SECOND, Fault::Kill(killed));
        world.run(40 * SECOND);
        check(&world, seed);
        check_watched(&world, 12, seed);
        for id in its {
            let taken = world.taken.iter().filter(|((stream, _), at)| *stream == id && **at > 20 * SECOND);
            times.push(taken.map(|(_, at)| at - 20 * SECOND).min().expect("it was taken"));
            let seconds = &world.published.seconds[&id];
            let gap = (20..40).filter(|second| !seconds.contains_key(second)).count();
            assert!(gap <= 5, "seed {seed}: {id} lost {gap} seconds");
        }
    }
    times.sort();
    assert!(percentile(&times, 0.95) < 3500, "{} ms", percentile(&times, 0.95));
}

#[test]
fn a_drained_node_leaves_and_loses_no_second() {
    for seed in 0..50 {
        let mut world = FleetWorld::settled(seed, 3, 12, 100, 3000, Weather { drift: 0.01, ..CALM });
        world.run(20 * SECOND);
        world.fault(20 * SECOND, Fault::Drain((seed % 3) as usize));
        world.run(50 * SECOND);
        check(&world, seed);
        assert!(world.left.contains(&((seed % 3) as usize)), "seed {seed}");
        check_watched(&world, 12, seed);
        for (id, seconds) in &world.published.seconds {
            let lost: Vec<u64> = (15..50).filter(|second| !seconds.contains_key(second)).collect();
            assert!(lost.is_empty(), "seed {seed}: {id} {lost:?}");
        }
    }
}

#[test]
fn a_node_that_resigns_is_replaced_without_waiting_for_its_lease() {
    for seed in 0..50 {
        let mut world = FleetWorld::settled(seed, 3, 12, 100, 3000, CALM);
        world.run(20 * SECOND);
        let gone = (seed % 3) as usize;
        let its: Vec<StreamId> =
            world.watched().into_iter().filter(|(_, nodes)| nodes == &[gone]).map(|(id, _)| id).collect();
        world.fault(20 * SECOND, Fault::Resign(gone));
        world.run(30 * SECOND);
        check(&world, seed);
        check_watched(&world, 12, seed);
        for id in its {
            let taken = world.taken.iter().filter(|((stream, _), at)| *stream == id && **at > 20 * SECOND);
            let after = taken.map(|(_, at)| at - 20 * SECOND).min().expect("it was taken");
            assert!(after < SECOND, "seed {seed}: {id} {} ms", after / MS);
        }
    }
}

#[test]
fn streams_wait_for_the_store_and_are_decided_meanwhile_for_the_time_of_the_lease() {
    let mut world = FleetWorld::new(3, 3, 12, 100, 3000, CALM);
    world.run(20 * SECOND);
    world.fault(20 * SECOND, Fault::StoreDown(30 * SECOND));
    world.run(21_500 * MS);
    assert_eq!(world.watched().len(), 12, "a short outage stops nothing");
    world.run(25 * SECOND);
    assert!(world.watched().is_empty(), "nobody may publish");
    world.run(60 * SECOND);
    check(&world, 3);
    check_watched(&world, 12, 3);
    let epochs: Vec<u64> =
        (0..12).map(|n| world.lease(&StreamId::from(format!("stream-{n}"))).unwrap().epoch).collect();
    assert!(epochs.iter().all(|epoch| *epoch <= 3), "nothing moved: {epochs:?}");
}
