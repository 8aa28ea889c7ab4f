//! Tests report skips here. In the gate (`TOUCHLINE_TESTS_SKIP=fail`, which `deploy/test.sh` sets) a skip is a failure, unless no
//! gate can be expected to have the missing resource.

/// The resource that a test lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // Each test binary uses a part of it.
pub enum Lacks {
    /// Data that are too large for the repository or not free. Every test that uses them also checks something without them.
    SharedData,
    /// Permission to create network namespaces or to mount file systems.
    Privileges,
    /// A program or a device that every machine of the gate has. `deploy/packages.sh` installs the programs.
    Tool,
}

impl Lacks {
    /// The skips that the gate allows.
    const ALLOWED: [Lacks; 2] = [Lacks::SharedData, Lacks::Privileges];
}

/// Reports that a test, or a part of it, does not run.
///
/// # Panics
/// In the gate, if the gate does not allow the skip.
pub fn skip(lacks: Lacks, reason: &str) {
    let in_gate = std::env::var_os("TOUCHLINE_TESTS_SKIP").is_some_and(|value| value == "fail");
    skip_in(in_gate, lacks, reason);
}

fn skip_in(in_gate: bool, lacks: Lacks, reason: &str) {
    assert!(!in_gate || Lacks::ALLOWED.contains(&lacks), "this test may not be skipped here: {reason}");
    println!("skipped: {reason}");
}

#[test]
fn the_gate_fails_on_skips_that_it_does_not_allow() {
    skip_in(false, Lacks::Tool, "no promtool");
    skip_in(true, Lacks::SharedData, "no recordings");
    skip_in(true, Lacks::Privileges, "no namespace");
    let failed = std::panic::catch_unwind(|| skip_in(true, Lacks::Tool, "no promtool"));
    assert!(failed.is_err());
}
