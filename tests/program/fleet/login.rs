//! A password that is replaced while machines run.

use super::FleetBench;
use super::nats::Nats;
use crate::common::alone;
use crate::common::wait::{until, until_or};

/// Enough for each machine to have one.
const STREAMS: [&str; 4] = ["one", "two", "three.3", "four"];

#[test]
fn a_password_that_is_replaced_is_read_again() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start_with(&["a", "b"], |nats: &mut Nats| nats.set_password("pl4nt-first"))
    else {
        return;
    };
    bench.add(&STREAMS);
    bench.wait_for_seconds(&["one", "two"], 3);
    bench.nats.set_password("pl4nt-second");
    for node in ["a", "b"] {
        bench.nodes[node].signal("HUP");
    }
    bench.wait_for_seconds(&["one", "two"], 5);
    for node in ["a", "b"] {
        until("its return to the fleet", || bench.status(node)["may_publish"] == true);
    }
    // Without a signal too: the connection is lost, and the file has another password.
    bench.nats.set_password("pl4nt-third");
    bench.wait_for_seconds(&["one", "two"], 5);
    for node in ["a", "b"] {
        until("its return to the fleet", || bench.status(node)["may_publish"] == true);
    }
    bench.check();
    for id in ["one", "two"] {
        bench.check_coverage(id);
    }
    // The sink of the records has the new password as well. One machine may have taken all streams meanwhile.
    let watches = |node: &str| STREAMS.iter().any(|id| bench.owner(id).is_some_and(|(owner, _)| owner == node));
    for node in ["a", "b"] {
        if !watches(node) {
            bench.stream(&["move", "four", node]);
            until("the move", || watches(node));
        }
        let sent = bench.sent(node);
        let has_sent = || (bench.sent(node) > sent + 3).then_some(());
        until_or(has_sent, || format!("no records of {node}: {}, {}", bench.status(node), bench.sinks(node)));
    }
}
