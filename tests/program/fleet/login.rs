//! A password that is replaced while machines run.

use super::FleetBench;
use super::nats::Nats;
use crate::common::alone;
use crate::common::wait::until;

#[test]
fn a_password_that_is_replaced_is_read_again() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start_with(&["a", "b"], |nats: &mut Nats| nats.set_password("pl4nt-first"))
    else {
        return;
    };
    // Enough streams for each machine to have one.
    bench.add(&["one", "two", "three.3", "four"]);
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
    // The sink of the records has the new password as well.
    for node in ["a", "b"] {
        let sent = bench.sent(node);
        until("more records in JetStream", || bench.sent(node) > sent + 3);
    }
}
