use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::simulation::{Incident, Nature, RULES, RolloutWorld, S, pack};
use super::*;

/// A rollout of a pack of this nature on three nodes, on the first as canary, until it is over.
fn rolled_out(seed: u64, nature: Nature) -> RolloutWorld {
    let mut world = RolloutWorld::new(seed, 3);
    world.natures.insert("new".into(), nature);
    world.at(5 * S, Incident::Begin(pack("new"), 0, RULES));
    world.run(200 * S);
    world
}

/// Every live node runs what the rollout says, and compares nothing.
fn check_settled(world: &RolloutWorld, seed: u64) {
    let rollout = world.rollout().expect("there is one");
    assert!(!rollout.is_active(), "seed {seed}: {rollout:?}");
    for (n, running, is_comparing) in world.running() {
        assert_eq!(running.as_ref(), rollout.fleet_pack(), "seed {seed}: node {n}: {rollout:#?}");
        assert!(!is_comparing, "seed {seed}: node {n}");
    }
}

fn reason(world: &RolloutWorld) -> Option<HaltReason> {
    world.rollout().and_then(|rollout| rollout.halt).map(|halt| halt.reason)
}

#[test]
fn a_good_pack_is_compared_on_the_canary_and_then_taken_by_one_node_after_another() {
    let world = rolled_out(1, Nature::Agrees(0.95));
    let rollout = world.rollout().unwrap();
    assert_eq!((rollout.stage, rollout.halt.clone(), rollout.swapped.len()), (RolloutStage::Done, None, 3));
    assert_eq!(world.compared.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0], "only the canary compares");
    assert_eq!(world.used.len(), 3);
    check_settled(&world, 1);
    let turns: Vec<&str> = world.history.iter().filter_map(|r| r.turn.as_ref()).map(|turn| &*turn.node).collect();
    assert_eq!(turns, ["node-0", "node-1", "node-2"], "the canary is first");
    assert!(rollout.log.iter().any(|step| step.text.contains("agree on 96.7 % of 30 seconds")), "{rollout:?}");
}

#[test]
fn a_bad_pack_is_halted_with_its_reason_and_the_others_never_load_it() {
    for (nature, expected, users) in [
        (Nature::Agrees(0.6), HaltReason::AgreementTooLow, 0),
        (Nature::Corrupt, HaltReason::DigestWrong, 0),
        (Nature::Unloadable, HaltReason::LoadFailed, 0),
        (Nature::Fails, HaltReason::NewFailures, 1),
    ] {
        let world = rolled_out(2, nature);
        assert_eq!(reason(&world), Some(expected), "{nature:?}");
        assert_eq!(world.used.len(), users, "{nature:?}");
        assert!(world.used.iter().chain(&world.compared).all(|(_, n)| *n == 0), "{nature:?}: only the canary");
        check_settled(&world, 2);
    }
}

#[test]
fn a_pack_that_cannot_reach_the_agreement_is_halted_before_all_seconds_are_compared() {
    let rules = RolloutRules { agreement: 0.9, seconds: 1000, watch_s: 5 };
    let mut world = RolloutWorld::new(3, 2);
    world.natures.insert("new".into(), Nature::Agrees(0.0));
    world.at(5 * S, Incident::Begin(pack("new"), 1, rules));
    world.run(90 * S);
    assert_eq!(reason(&world), Some(HaltReason::AgreementTooLow), "100 different seconds suffice");
}

#[test]
fn a_node_that_joins_during_or_after_a_rollout_takes_the_packs_of_the_fleet() {
    let mut world = RolloutWorld::new(4, 3);
    for name in ["first", "second"] {
        world.natures.insert(name.into(), Nature::Agrees(1.0));
    }
    world.at(5 * S, Incident::Kill(2));
    world.at(6 * S, Incident::Begin(pack("first"), 0, RULES));
    world.run(100 * S);
    assert_eq!(world.used.len(), 2);
    world.at(101 * S, Incident::Start(2));
    world.run(120 * S);
    assert!(world.used.contains(&("first".into(), 2)), "after the rollout");
    check_settled(&world, 4);
    world.at(121 * S, Incident::Kill(2));
    world.at(122 * S, Incident::Begin(pack("second"), 1, RULES));
    world.at(125 * S, Incident::Start(2));
    world.run(135 * S);
    assert_eq!(world.rollout().unwrap().stage, RolloutStage::Canary);
    assert_eq!(world.running()[2].1, Some(pack("first")), "the pack before, during the rollout");
    world.run(250 * S);
    check_settled(&world, 4);
    assert!(world.used.contains(&("second".into(), 2)));
}

#[test]
fn a_member_that_is_lost_or_restarted_halts_the_rollout_and_a_planned_leave_does_not() {
    for (incidents, expected) in [
        (vec![(12, Incident::Kill(0))], Some(HaltReason::NodeLost)),
        (vec![(12, Incident::Kill(0)), (14, Incident::Start(0))], Some(HaltReason::NodeLost)),
        (vec![(12, Incident::Drain(0))], Some(HaltReason::NodeLost)),
        // The second one takes the pack at about 30 s.
        (vec![(33, Incident::Kill(0))], Some(HaltReason::NodeLost)),
        (vec![(33, Incident::Drain(0))], None),
        // Not a member yet.
        (vec![(12, Incident::Kill(2))], None),
        (vec![(12, Incident::CutOff(0, 8 * S))], None),
        (vec![(12, Incident::StoreDown(60 * S))], None),
        (vec![(12, Incident::Halt)], Some(HaltReason::Operator)),
    ] {
        let mut world = RolloutWorld::new(5, 3);
        world.natures.insert("new".into(), Nature::Agrees(1.0));
        world.at(5 * S, Incident::Begin(pack("new"), 0, RULES));
        incidents.iter().for_each(|(at, incident)| world.at(at * S, incident.clone()));
        world.run(300 * S);
        assert_eq!(reason(&world), expected, "{incidents:?}: {:#?}", world.rollout());
        check_settled(&world, 5);
    }
}

#[test]
fn a_canary_without_streams_ends_the_rollout() {
    let compared = ComparedSeconds::default();
    let me = Member { node: "a".into(), process: 1 };
    let mut node = RolloutNode::new(me.clone(), 0);
    let rollout = Rollout::new(1, pack("new"), None, me, RULES);
    let nodes = [("a".into(), crate::fleet::NodeState::Active)].into();
    use crate::fleet::{FleetKey, FleetValue};
    node.observe(&FleetKey::Rollout, Some((FleetValue::Rollout(Box::new(rollout)), 1)));
    let facts = RolloutFacts { may_act: true, compared: Some(compared), ..RolloutFacts::default() };
    let mut halted = None;
    for tick in 1..2000 {
        let now_ns = tick * S / 2;
        for action in node.tick(now_ns, &nodes, &facts) {
            match &action {
                RolloutAction::Put { value: FleetValue::Rollout(rollout), .. } => {
                    halted = Some((tick, rollout.clone()))
                }
                RolloutAction::Put { .. } => {}
                task => node.task_done(task, Ok(()), now_ns),
            }
        }
        if halted.is_some() {
            break;
        }
    }
    let (tick, rollout) = halted.expect("it is halted");
    assert_eq!(rollout.halt.unwrap().reason, HaltReason::NotCompared);
    assert!((600..620).contains(&tick), "after 300 s: {tick}");
}

#[test]
fn nothing_breaks_the_rules_of_rollouts() {
    let seeds = if cfg!(debug_assertions) { 400 } else { 3000 };
    let (mut done, mut halted) = (0, 0);
    for seed in 0..seeds {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xF1EE7);
        let nodes = rng.random_range(2..6);
        let mut world = RolloutWorld::new(seed, nodes);
        world.lossy = true;
        let natures = [
            Nature::Agrees(1.0),
            Nature::Agrees(0.97),
            Nature::Agrees(0.5),
            Nature::Corrupt,
            Nature::Unloadable,
            Nature::Fails,
        ];
        let names = ["p", "q", "r"];
        for name in names {
            let weighted = rng.random_range(0..10);
            world.natures.insert(name.into(), natures[if weighted < 5 { weighted % 2 } else { weighted % 6 }]);
        }
        // Two people, who do not know of each other.
        for _ in 0..rng.random_range(2..7) {
            let name = names[rng.random_range(0..names.len())];
            let at = rng.random_range(5 * S..150 * S);
            let canary = rng.random_range(0..nodes);
            world.at(at, Incident::Begin(pack(name), canary, RULES));
            if rng.random_bool(0.5) {
                let other = names[rng.random_range(0..names.len())];
                world.at(at + rng.random_range(0..S), Incident::Begin(pack(other), (canary + 1) % nodes, RULES));
            }
        }
        for _ in 0..rng.random_range(0..8) {
            let (n, at) = (rng.random_range(0..nodes), rng.random_range(5 * S..150 * S));
            let time = rng.random_range(S..40 * S);
            let incident = match rng.random_range(0..5) {
                0 => Incident::Kill(n),
                1 => Incident::CutOff(n, time),
                2 => Incident::StoreDown(time),
                3 => Incident::Halt,
                _ => Incident::Start(n),
            };
            world.at(at, incident);
        }
        world.run(152 * S);
        // In the end all nodes are there, and the network is good.
        world.lossy = false;
        (0..nodes).for_each(|n| world.at(160 * S, Incident::Start(n)));
        world.run(900 * S);
        let Some(rollout) = world.rollout() else { continue };
        match rollout.stage {
            RolloutStage::Done => done += 1,
            _ => halted += 1,
        }
        check_settled(&world, seed);
        for (name, nature) in world.natures.clone() {
            let canaries: BTreeSet<String> =
                world.history.iter().filter(|r| r.pack.name == name).map(|r| r.canary.node.to_string()).collect();
            let loaders: BTreeSet<String> = world
                .used
                .iter()
                .chain(&world.compared)
                .filter(|(used, _)| *used == name)
                .map(|(_, n)| format!("node-{n}"))
                .collect();
            match nature {
                Nature::Agrees(share) if share > RULES.agreement => {}
                Nature::Fails => {}
                _ => assert!(loaders.is_subset(&canaries), "seed {seed}: {name} {nature:?}: {loaders:?} {canaries:?}"),
            }
        }
    }
    assert!(done > seeds / 5 && halted > seeds / 5, "both ends occur: {done} {halted}");
}
