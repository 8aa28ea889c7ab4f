//! `touchline run --fleet`: machines that share streams, with a real NATS server. Machines are processes here.
//!
//! Nothing here limits a time: the rules hold on a slow machine too, where streams may move more often.

mod archive;
mod history;
mod login;
mod nats;
mod packs;
mod page;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::nats::Nats;
use crate::common::alone;
use crate::common::api::ask;
use crate::common::live::Live;
use crate::common::program::{finish, touchline};
use crate::common::wait::{until, until_some};

const SOURCE: &str = "testsrc://?width=64&height=48&fps=10&audio=0";

/// Machines and their server.
struct FleetBench {
    folder: TempDir,
    nats: Nats,
    /// All that ever ran.
    names: BTreeSet<&'static str>,
    nodes: BTreeMap<&'static str, Live>,
    /// Further arguments of each machine, in which FOLDER is its folder.
    arguments: Vec<String>,
}

/// A second or a gap of the records.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    stream: String,
    epoch: u64,
    run: u64,
    index: u64,
    node: String,
    /// Wall time of its start, ms.
    wall_ms: Option<i64>,
    uncertainty_ms: f64,
    latency_ms: f64,
    /// Of a lost span, ms.
    lost: Option<(i64, i64)>,
}

fn ms(time: &Value) -> i64 {
    let time = OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).unwrap();
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap()
}

fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap()
}

fn entries(records: &[Value]) -> Vec<Entry> {
    let of = records.iter().filter(|record| record["type"] == "second" || record["type"] == "gap");
    let entry = |record: &Value| Entry {
        stream: record["stream"].as_str().unwrap().to_owned(),
        epoch: record["epoch"].as_u64().expect("each record of a fleet has its epoch"),
        run: record["run"].as_u64().unwrap(),
        index: record["index"].as_u64().unwrap(),
        node: record["node"].as_str().expect("and its node").to_owned(),
        wall_ms: record["wall"].is_object().then(|| ms(&record["wall"]["time"])),
        uncertainty_ms: record["wall"]["uncertainty_ms"].as_f64().unwrap_or_default(),
        latency_ms: record["latency_ms"].as_f64().unwrap_or_default(),
        lost: (record["reason"] == "node-lost").then(|| (ms(&record["lost"]["from"]), ms(&record["lost"]["to"]))),
    };
    of.map(entry).collect()
}

impl FleetBench {
    fn start(nodes: &[&'static str]) -> Option<Self> {
        Self::start_with(nodes, |_| ())
    }

    /// As [`FleetBench::start`], with a server that was prepared first.
    fn start_with(nodes: &[&'static str], prepare: impl FnOnce(&mut Nats)) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let nats = Nats::start(folder.path(), prepare)?;
        let mut bench = Self { folder, nats, names: BTreeSet::new(), nodes: BTreeMap::new(), arguments: Vec::new() };
        nodes.iter().for_each(|node| bench.run(node));
        Some(bench)
    }

    /// Starts a machine.
    fn run(&mut self, node: &'static str) {
        let folder = self.folder.path().join(node);
        std::fs::create_dir_all(&folder).unwrap();
        let [spool, packs] = ["spool", "packs"].map(|name| folder.join(name).display().to_string());
        let url = self.nats.url();
        let arguments = ["--fleet", &url, "--node", node, "--capacity", "100000", "--fleet-spool", &spool];
        let arguments: Vec<String> =
            [&arguments[..], &["--fleet-packs", &packs, "--fleet-page", &format!("http://{node}.example/")]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect();
        let further = self.arguments.iter().map(|argument| argument.replace("FOLDER", &folder.display().to_string()));
        let arguments = [arguments, self.nats.login(), further.collect()].concat();
        self.names.insert(node);
        self.nodes.insert(node, Live::start_with(&folder, "127.0.0.1", &arguments));
    }

    /// Runs `touchline stream`.
    fn stream(&self, arguments: &[&str]) -> String {
        let mut command = touchline();
        command.args(["stream", "--fleet", &self.nats.url()]).args(self.nats.login()).args(arguments);
        let output = finish(&mut command);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn add(&self, streams: &[&str]) {
        for id in streams {
            self.stream(&["add", &format!("{id}={SOURCE}"), "--set", "isolation=none"]);
        }
    }

    /// All seconds and gaps, of machines that were killed too.
    fn entries(&self) -> Vec<Entry> {
        self.names.iter().flat_map(|node| self.entries_of(node)).collect()
    }

    fn entries_of(&self, node: &str) -> Vec<Entry> {
        let text = std::fs::read_to_string(self.folder.path().join(node).join("live.jsonl")).unwrap_or_default();
        // The last line may be incomplete.
        let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        entries(&records)
    }

    /// The machine with the highest epoch of a stream, and that epoch.
    fn owner(&self, stream: &str) -> Option<(String, u64)> {
        let all = self.entries();
        let of = all.into_iter().filter(|entry| entry.stream == stream).max_by_key(|entry| entry.epoch)?;
        Some((of.node, of.epoch))
    }

    /// Waits until each of `streams` has `count` more seconds.
    fn wait_for_seconds(&self, streams: &[&str], count: usize) {
        let number =
            |all: &[Entry], id: &str| all.iter().filter(|entry| entry.stream == id && entry.lost.is_none()).count();
        let before = self.entries();
        until("more seconds of all streams", || {
            let all = self.entries();
            streams.iter().all(|id| number(&all, id) >= number(&before, id) + count)
        });
    }

    /// Number of records that a machine has delivered to JetStream.
    fn sent(&self, node: &str) -> u64 {
        let metrics = self.nodes[node].get("/metrics");
        let line = metrics.lines().find(|line| line.starts_with("touchline_sink_sent_records_total{sink=\"fleet\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    /// What the sinks of a machine report.
    fn sinks(&self, node: &str) -> Value {
        ask(&self.nodes[node].address, "GET", "/api/v1/sinks", None, &[]).body
    }

    /// What the fleet is, as a machine reports it.
    fn status(&self, node: &str) -> Value {
        ask(&self.nodes[node].address, "GET", "/api/v1/fleet", None, &[]).body
    }

    /// The state of a machine, as another one reports it.
    fn state(&self, by: &str, node: &str) -> String {
        let nodes = self.status(by)["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.iter().find(|known| known["name"] == node);
        found.and_then(|node| node["state"].as_str()).unwrap_or_default().to_owned()
    }

    /// Sends SIGTERM to a machine. Returns its exit code.
    fn stop(&mut self, node: &str) -> i32 {
        self.nodes.remove(node).expect("it runs").stop()
    }

    /// Checks the rules that always hold: each epoch of a stream belongs to one machine, which publishes each second once and leaves none
    /// out, and a machine that was lost leaves a span that is recorded.
    fn check(&self) {
        let all = self.entries();
        let mut deciders: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
        let mut runs: BTreeMap<(String, u64, u64), Vec<u64>> = BTreeMap::new();
        for entry in &all {
            deciders.entry((entry.stream.clone(), entry.epoch)).or_default().insert(entry.node.clone());
            runs.entry((entry.stream.clone(), entry.epoch, entry.run)).or_default().push(entry.index);
        }
        for (epoch, nodes) in deciders {
            assert_eq!(nodes.len(), 1, "{epoch:?} belongs to {nodes:?}");
        }
        for (run, indexes) in runs {
            let expected: Vec<u64> = (indexes[0]..).take(indexes.len()).collect();
            assert_eq!(indexes, expected, "{run:?}: seconds in order, each once");
        }
        for entry in all.iter().filter_map(|entry| entry.lost) {
            assert!(entry.0 < entry.1, "{entry:?}");
        }
    }

    /// Checks that the records of `stream` leave no wall time out: a new epoch or run begins no later than the one before ended, or a span
    /// is recorded as lost. Returns the number of such spans.
    fn check_coverage(&self, stream: &str) -> usize {
        let mut all: Vec<Entry> = self.entries().into_iter().filter(|entry| entry.stream == stream).collect();
        all.sort_by_key(|entry| (entry.epoch, entry.run, entry.index));
        let (mut covered_ms, mut spans) = (None, 0);
        for entry in &all {
            if let Some((from, to)) = entry.lost {
                let end = covered_ms.unwrap_or(from);
                assert!(from <= end + 1000, "{entry:?}: the span begins after {end}");
                covered_ms = Some(to.max(end));
                spans += 1;
                continue;
            }
            let Some(wall_ms) = entry.wall_ms else {
                // A gap follows the second before it.
                covered_ms = covered_ms.map(|end| end + 1000);
                continue;
            };
            if let Some(end) = covered_ms {
                let allowed = end + entry.uncertainty_ms as i64;
                assert!(wall_ms <= allowed, "{entry:?} begins {} ms after the second before it", wall_ms - end);
            }
            covered_ms = Some(covered_ms.unwrap_or(0).max(wall_ms + 1000));
        }
        spans
    }
}

/// Ids of streams that two machines share.
const STREAMS: [&str; 4] = ["one", "two", "three.3", "four"];

#[test]
fn streams_are_watched_once_and_taken_over_from_a_machine_that_is_killed() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&STREAMS);
    bench.wait_for_seconds(&STREAMS, 5);
    bench.check();
    let refused =
        ask(&bench.nodes["a"].address, "POST", "/api/v1/streams", Some(&serde_json::json!({ "uri": SOURCE })), &[]);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.text.contains("touchline stream"), "{refused:?}");
    let (victim, _) = bench.owner(STREAMS[0]).unwrap();
    let its: Vec<(&str, u64)> = STREAMS
        .into_iter()
        .filter_map(|id| bench.owner(id).filter(|(node, _)| *node == victim).map(|(_, epoch)| (id, epoch)))
        .collect();
    let other = if victim == "a" { "b" } else { "a" };
    bench.nodes[&*victim].signal("KILL");
    for (id, epoch) in &its {
        until("the other machine to publish", || {
            bench.owner(id).is_some_and(|(node, now)| node == other && now > *epoch)
        });
    }
    let ids: Vec<&str> = its.iter().map(|(id, _)| *id).collect();
    bench.wait_for_seconds(&ids, 3);
    bench.check();
    for id in &ids {
        assert!(bench.check_coverage(id) > 0, "{id}: the span that was lost is recorded");
    }
    let metrics = bench.nodes[other].get("/metrics");
    assert!(metrics.contains("touchline_fleet_takeovers_total{kind=\"lost\"}"), "{metrics}");
    // It returns under its name, as another session.
    let victim = *bench.nodes.keys().find(|node| **node == victim).unwrap();
    bench.run(victim);
    until("its return", || bench.state(other, victim) == "active");
    bench.check();
}

#[test]
fn an_owner_that_dies_during_a_planned_move_leaves_a_span_that_is_recorded() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&["court"]);
    bench.wait_for_seconds(&["court"], 3);
    let (owner, epoch) = bench.owner("court").unwrap();
    let other = if owner == "a" { "b" } else { "a" };
    bench.stream(&["move", "court", other]);
    // Its successor has seen no second yet.
    bench.nodes[&*owner].signal("KILL");
    until("the other machine to publish", || {
        bench.owner("court").is_some_and(|(node, now)| node == other && now > epoch)
    });
    until("the lost span", || bench.entries_of(other).iter().any(|entry| entry.lost.is_some()));
    bench.wait_for_seconds(&["court"], 3);
    bench.check();
    assert_eq!(bench.check_coverage("court"), 1);
    // A planned move of a live owner leaves none.
    let owner = *bench.nodes.keys().find(|node| **node == owner).unwrap();
    bench.run(owner);
    until("its return", || bench.state(other, owner) == "active");
    let epoch = bench.owner("court").unwrap().1;
    bench.stream(&["move", "court", owner]);
    until("the move", || bench.owner("court").is_some_and(|(node, now)| node == owner && now > epoch));
    assert_eq!(bench.stop(other), 0);
    bench.wait_for_seconds(&["court"], 12);
    bench.check();
    assert_eq!(bench.check_coverage("court"), 1);
}

#[test]
fn a_machine_that_was_stopped_publishes_nothing_more_of_its_epochs() {
    let _alone = alone();
    let Some(bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&["court"]);
    bench.wait_for_seconds(&["court"], 3);
    let (stopped, epoch) = bench.owner("court").unwrap();
    let other = if stopped == "a" { "b" } else { "a" };
    bench.nodes[&*stopped].signal("STOP");
    let stopped_ms = now_ms();
    until("the other machine to publish", || {
        bench.owner("court").is_some_and(|(node, now)| node == other && now > epoch)
    });
    // The time between stopping and continuing must be much longer than wall times are uncertain.
    bench.wait_for_seconds(&["court"], 10);
    let continued_ms = now_ms();
    bench.nodes[&*stopped].signal("CONT");
    until("its return to the fleet", || bench.status(&stopped)["may_publish"] == true);
    bench.wait_for_seconds(&["court"], 3);
    bench.check();
    bench.check_coverage("court");
    let middle_ms = stopped_ms + (continued_ms - stopped_ms) / 2;
    let old = bench.entries_of(&stopped).into_iter().filter(|entry| entry.epoch <= epoch);
    let late: Vec<Entry> = old
        .filter(|entry| entry.wall_ms.is_some_and(|wall| wall + 1000 + entry.latency_ms as i64 > middle_ms))
        .collect();
    assert!(late.is_empty(), "published after it had continued: {late:?}");
}

#[test]
fn a_restart_of_nats_loses_nothing_that_was_published() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&["one", "two"]);
    bench.wait_for_seconds(&["one", "two"], 3);
    bench.nats.kill();
    bench.nats.run();
    bench.wait_for_seconds(&["one", "two"], 5);
    bench.check();
    for id in ["one", "two"] {
        bench.check_coverage(id);
    }
    let written = bench.entries();
    let key = |entry: &Entry| (entry.stream.clone(), entry.epoch, entry.run, entry.index);
    let kept = until_some("all records in JetStream", || {
        let kept = bench.nats.records();
        let records: Vec<Value> = kept.iter().map(|(.., record)| record.clone()).collect();
        let keys: BTreeSet<_> = entries(&records).iter().map(key).collect();
        written.iter().all(|entry| keys.contains(&key(entry))).then_some(kept)
    });
    let mut ids = BTreeSet::new();
    for (subject, id, record) in kept {
        let stream = record["stream"].as_str().unwrap().replace('.', "_");
        assert_eq!(subject, format!("touchline.main.{stream}.{}", record["type"].as_str().unwrap()));
        assert!(ids.insert(id.clone()), "{id} is there twice");
        if record["type"] == "second" {
            assert_eq!(id, format!("{stream}-{}-{}-{}", record["epoch"], record["run"], record["index"]));
        }
    }
}

#[test]
fn a_machine_that_is_drained_or_terminated_hands_over_without_losing_a_second() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&["one", "two"]);
    bench.wait_for_seconds(&["one", "two"], 3);
    let listed: Value = serde_json::from_str(&bench.stream(&["list", "--json"])).unwrap();
    assert_eq!(listed["streams"].as_array().map(Vec::len), Some(2), "{listed}");
    // All streams to one machine, by hand.
    for id in ["one", "two"] {
        let (owner, epoch) = bench.owner(id).unwrap();
        if owner == "a" {
            bench.stream(&["move", id, "b"]);
            until("the move", || bench.owner(id).is_some_and(|(node, now)| node == "b" && now > epoch));
        }
    }
    bench.wait_for_seconds(&["one", "two"], 2);
    bench.stream(&["drain", "b"]);
    for id in ["one", "two"] {
        until("the hand-over", || bench.owner(id).is_some_and(|(node, _)| node == "a"));
    }
    until("its leaving", || bench.state("a", "b") == "gone");
    let table = bench.stream(&["list"]);
    assert!(table.contains("gone") && table.contains(SOURCE), "{table}");
    assert_eq!(bench.stop("b"), 0);
    bench.run("b");
    until("a second machine", || bench.state("a", "b") == "active");
    bench.wait_for_seconds(&["one", "two"], 2);
    let epochs = ["one", "two"].map(|id| bench.owner(id).unwrap().1);
    // A service manager stops the machine.
    assert_eq!(bench.stop("a"), 0);
    for (id, epoch) in ["one", "two"].into_iter().zip(epochs) {
        until("the hand-over", || bench.owner(id).is_some_and(|(node, now)| node == "b" && now >= epoch));
    }
    bench.wait_for_seconds(&["one", "two"], 3);
    bench.check();
    for id in ["one", "two"] {
        bench.check_coverage(id);
    }
}
