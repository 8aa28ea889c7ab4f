//! `touchline pack publish|rollout`: a pack goes to three machines, with a real NATS server.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use touchline_compute::models::sha256_hex;

use super::FleetBench;
use super::archive::clip;
use crate::common::program::{self, finish, touchline};
use crate::common::wait::{until, until_some};
use crate::common::{Fixtures, alone};

const NODES: [&str; 3] = ["a", "b", "c"];
const STREAMS: [&str; 3] = ["one", "two", "three"];

/// Few seconds, so that the tests are short.
const RULES: [&str; 6] = ["--seconds", "10", "--agreement", "0.9", "--watch-s", "1"];

/// Moves each class of a list to the next place: the models then say another class of everything.
fn rotated(text: &str) -> String {
    let mut lists = 0;
    let line = |line: &str| match line.strip_prefix("classes = [").and_then(|rest| rest.strip_suffix(']')) {
        // The first list is that of the pack.
        Some(list) if std::mem::replace(&mut lists, 1) > 0 => {
            let mut classes: Vec<&str> = list.split(", ").collect();
            classes.rotate_left(1);
            format!("classes = [{}]\n", classes.join(", "))
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

impl FleetBench {
    /// A copy of the shipped pack with another name and a changed manifest.
    fn pack(&self, name: &str, change: impl FnOnce(&str) -> String) -> PathBuf {
        let dir = self.folder.path().join("packs").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for entry in std::fs::read_dir(program::pack()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        let text = std::fs::read_to_string(dir.join("pack.toml")).unwrap();
        let text = change(&text.replacen("name = \"compact\"", &format!("name = \"{name}\""), 1));
        std::fs::write(dir.join("pack.toml"), text).unwrap();
        dir
    }

    fn packs(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = touchline();
        command.arg("pack").args(arguments).args(["--fleet", &self.nats.url()]);
        let output = finish(&mut command);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn publish(&self, dir: &Path) -> String {
        let said = self.packs(&["publish", &dir.display().to_string()]).unwrap();
        let digest = said.split(": ").nth(1).unwrap().split_whitespace().next().unwrap();
        assert_eq!(digest.len(), 64, "{said}");
        digest.to_owned()
    }

    fn begin(&self, pack: &str, canary: &str) {
        self.packs(&[&["rollout", "start", pack, "--canary", canary][..], &RULES].concat()).unwrap();
    }

    fn rollout(&self) -> Value {
        let said = self.packs(&["rollout", "status", "--json"]).unwrap();
        serde_json::from_str::<Value>(&said).unwrap()["rollout"].clone()
    }

    /// Waits until the rollout is over. Returns it.
    fn ended(&self) -> Value {
        until_some("the end of the rollout", || {
            Some(self.rollout()).filter(|rollout| rollout["stage"] == "done" || rollout["stage"] == "halted")
        })
    }

    /// The name of the pack that a machine runs.
    fn running(&self, node: &str) -> String {
        let pack: Value = serde_json::from_str(&self.nodes[node].get("/api/v1/pack")).unwrap();
        pack["pack"]["name"].as_str().unwrap().to_owned()
    }

    /// The packs that a machine has fetched.
    fn fetched(&self, node: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join(node).join("packs"));
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn notice(&self, node: &str) -> String {
        let info: Value = serde_json::from_str(&self.nodes[node].get("/api/v1/info")).unwrap();
        info["notice"].as_str().unwrap_or_default().to_owned()
    }

    /// Three machines with streams that have decided.
    fn start_three() -> Option<Self> {
        let bench = Self::start(&NODES)?;
        bench.add(&STREAMS);
        bench.wait_for_seconds(&STREAMS, 2);
        Some(bench)
    }

    /// A machine that watches a stream, to be the canary.
    fn watching(&self) -> &'static str {
        let (owner, _) = self.owner(STREAMS[0]).unwrap();
        NODES.into_iter().find(|node| *node == owner).unwrap()
    }
}

#[test]
fn a_good_pack_reaches_all_machines_and_those_that_join_later() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start_three() else { return };
    let digest = bench.publish(&bench.pack("good", str::to_owned));
    let listed: Value = serde_json::from_str(&bench.packs(&["list", "--json"]).unwrap()).unwrap();
    assert_eq!(listed, json!([{ "name": "good", "digest": digest }]));
    let canary = bench.watching();
    bench.begin("good", canary);
    // A second person comes too late.
    let refused = bench.packs(&["rollout", "start", "good"]);
    assert!(refused.as_ref().is_err_and(|text| text.contains("a rollout is not over")), "{refused:?}");
    let rollout = bench.ended();
    assert_eq!((&rollout["stage"], &rollout["halt"]), (&json!("done"), &Value::Null), "{rollout:#}");
    let log = rollout["log"].to_string();
    assert!(log.contains("both packs agree on") && log.contains("all machines have the pack"), "{log}");
    assert_eq!(rollout["swapped"], json!(NODES));
    let first = log.find(&format!("{canary} has the pack")).expect("the canary took it");
    for node in NODES {
        assert_eq!(bench.running(node), "good", "{node}");
        assert!(node == canary || log.find(&format!("{node} has the pack")).is_some_and(|at| at > first), "{log}");
        until("its metrics", || {
            let metrics = bench.nodes[node].get("/metrics");
            metrics.contains("touchline_fleet_rollout_stage{stage=\"done\"} 1")
                && metrics.contains(&format!("touchline_fleet_pack_info{{digest=\"{digest}\"}} 1"))
        });
        assert_eq!(bench.notice(node), "");
    }
    bench.wait_for_seconds(&STREAMS, 2);
    bench.check();
    // Not published again with the same files, and not rolled out again.
    let refused = bench.packs(&["rollout", "start", "good"]);
    assert!(refused.as_ref().is_err_and(|text| text.contains("already")), "{refused:?}");
    let refused = bench.packs(&["remove", "good"]);
    assert!(refused.as_ref().is_err_and(|text| text.contains("may need pack")), "{refused:?}");
    // A new machine, and one that starts again, take the pack of the fleet.
    bench.run("d");
    assert_eq!(bench.stop("b"), 0);
    bench.run("b");
    for node in ["b", "d"] {
        crate::common::api::wait_until_ready(&bench.nodes[node].address);
        until("the pack of the fleet", || bench.running(node) == "good");
    }
    assert_eq!(bench.fetched("d"), [digest]);
    // Recordings are scored with it.
    let fixtures = Fixtures::new();
    let recording = clip(&fixtures, "short.mp4", 5);
    let (pack, results) = (bench.folder.path().join("packs/good"), bench.folder.path().join("results"));
    let [recording, pack, results] = [&recording, &pack, &results].map(|path| path.to_str().unwrap());
    bench.score(&["submit", recording, "--name", "j", "--results", results, "--pack", pack], &[]);
    assert_eq!(bench.wait_for_job("j")["done"], 1);
}

#[test]
fn a_pack_that_disagrees_is_halted_on_the_canary_and_the_others_never_load_it() {
    let _alone = alone();
    let Some(bench) = FleetBench::start_three() else { return };
    let digest = bench.publish(&bench.pack("bad", rotated));
    let canary = bench.watching();
    bench.begin(&digest[..12], canary);
    let rollout = bench.ended();
    assert_eq!(rollout["halt"]["reason"], "agreement-too-low", "{rollout:#}");
    assert_eq!((&rollout["halt"]["node"], &rollout["canary"]), (&json!(canary), &json!(canary)));
    for node in NODES {
        assert_eq!(bench.running(node), "compact", "{node}");
        assert_eq!(bench.fetched(node).len(), usize::from(node == canary), "{node}");
        until("the line on its page", || bench.notice(node).contains("halted"));
        until("its metrics", || {
            bench.nodes[node].get("/metrics").contains("touchline_fleet_rollout_stage{stage=\"halted\"} 1")
        });
    }
    until("the end of the comparison", || {
        serde_json::from_str::<Value>(&bench.nodes[canary].get("/api/v1/pack")).unwrap()["shadow"].is_null()
    });
    let status = bench.packs(&["rollout", "status"]).unwrap();
    assert!(status.contains("agreement-too-low") && status.contains("its own"), "{status}");
    bench.packs(&["rollout", "forget"]).unwrap();
    for node in NODES {
        until("the end of the line", || bench.notice(node).is_empty());
    }
    assert!(bench.entries().iter().all(|entry| entry.lost.is_none()));
    bench.check();
}

#[test]
fn a_corrupted_object_is_refused() {
    let _alone = alone();
    let Some(bench) = FleetBench::start_three() else { return };
    let dir = bench.pack("good", str::to_owned);
    bench.publish(&dir);
    let weights = sha256_hex(&std::fs::read(dir.join("rgb.safetensors")).unwrap());
    bench.nats.corrupt(&weights);
    let canary = bench.watching();
    bench.begin("good", canary);
    let rollout = bench.ended();
    assert_eq!(rollout["halt"]["reason"], "digest-wrong", "{rollout:#}");
    assert!(rollout["halt"]["text"].as_str().unwrap().contains("rgb.safetensors"), "{rollout:#}");
    for node in NODES {
        assert_eq!((bench.running(node), bench.fetched(node)), ("compact".to_owned(), Vec::new()), "{node}");
    }
}
