//! A test that cannot run here says so in one place. Where the gate runs (`TOUCHLINE_TESTS_SKIP=fail`, which `deploy/test.sh`
//! sets) a skip is a failure, unless it is of a kind that no gate can be asked for.

/// What a test lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // Each test file uses its own part of it.
pub enum Lacks {
    /// Data that are too large or not free to be in the repository. Every test that uses them checks something without them.
    SharedData,
    /// The right to make network namespaces or to mount file systems.
    Privileges,
    /// A program or a device that every machine of the gate has: `deploy/packages.sh` installs it.
    Tool,
}

impl Lacks {
    /// Allowed in the gate.
    const ALLOWED: [Lacks; 2] = [Lacks::SharedData, Lacks::Privileges];
}

/// Says that a test, or a part of it, does not run.
///
/// # Panics
/// In the gate, when it may not be skipped there.
pub fn skip(lacks: Lacks, why: &str) {
    let in_gate = std::env::var_os("TOUCHLINE_TESTS_SKIP").is_some_and(|value| value == "fail");
    decide(in_gate, lacks, why);
}

fn decide(in_gate: bool, lacks: Lacks, why: &str) {
    assert!(!in_gate || Lacks::ALLOWED.contains(&lacks), "this test may not be skipped here: {why}");
    println!("skipped: {why}");
}

#[test]
fn in_the_gate_a_skip_is_a_failure_unless_it_is_listed() {
    decide(false, Lacks::Tool, "no promtool");
    decide(true, Lacks::SharedData, "no recordings");
    decide(true, Lacks::Privileges, "no namespace");
    let failed = std::panic::catch_unwind(|| decide(true, Lacks::Tool, "no promtool"));
    assert!(failed.is_err());
}
