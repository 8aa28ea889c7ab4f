//! What the history of a fleet costs the machines that store it: synthetic records of other machines, of the size that real ones have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use touchline_core::clock::SystemClock;
use touchline_core::labels::STUDY_CLASSES;
use touchline_serve::config::HistorySettings;
use touchline_serve::hub::{Archive, FleetRecord, FleetSource, RecordKind};
use touchline_serve::metrics::Metrics;
use touchline_serve::record::format::rfc3339;
use touchline_serve::store::Store;

/// Seconds from one change of the programme to the next: some fifty segments a day.
const PROGRAMME_S: u64 = 1800;

const DAY_S: u64 = 86_400;

/// The records of second `index` of a stream.
fn records(stream: &str, index: u64, rng: &mut SmallRng) -> Vec<(RecordKind, Value)> {
    let at = |second: u64| rfc3339((1_700_000_000 + second as i64) * 1_000_000_000);
    let class = |second: u64| STUDY_CLASSES[(second / PROGRAMME_S) as usize * 7 % STUDY_CLASSES.len()];
    let label = class(index);
    let mut map = |top: f64| -> BTreeMap<&str, f64> {
        let mut rest = 1.0 - top;
        let of = |name: &&'static str| {
            let share = if *name == label { top } else { rest * rng.random_range(0.0..0.4) };
            rest -= if *name == label { 0.0 } else { share };
            (*name, (share * 1e6).round() / 1e6)
        };
        STUDY_CLASSES.iter().map(of).collect()
    };
    let (probabilities, mean) = (map(0.8), map(0.8));
    let share: BTreeMap<&str, f64> =
        STUDY_CLASSES.iter().map(|name| (*name, f64::from(u8::from(*name == label)))).collect();
    let view = json!({ "label": label, "score": 0.812345, "votes": 4, "voters": 5 });
    let stamp = json!({ "name": "compact", "weights_sha256": "0".repeat(64), "manifest_sha256": "0".repeat(64) });
    let head = |kind: &str| json!({ "type": kind, "stream": stream, "node": "b", "epoch": 1, "run": 0, "index": index, "schema": 1 });
    let with = |mut head: Value, keys: Value| {
        head.as_object_mut().expect("it is a map").extend(keys.as_object().expect("it is a map").clone());
        head
    };
    let wall = json!({ "time": at(index), "source": "arrival", "uncertainty_ms": 1200.0 });
    let second = json!({
        "pts_ns": index * 1_000_000_000, "wall": wall.clone(), "modalities": { "rgb": view, "flow": view, "audio": view },
        "decided_by": "rgb", "why": "table", "label": label, "probability": probabilities[label], "probabilities": probabilities,
        "window": { "label": label, "share": share, "mean": mean, "seconds": 10, "gaps": 0 }, "latency_ms": 431.2, "backlog": 0,
        "pack": stamp,
    });
    let mut all = vec![(RecordKind::Second, with(head("second"), second))];
    if index % PROGRAMME_S == 3 {
        let event = |kind: &str, class: &str| json!({ "kind": kind, "class": class, "wall": wall, "probability": 0.7 });
        if index > PROGRAMME_S {
            all.push((RecordKind::Event, with(head("event"), event("offset", class(index - 10)))));
        }
        all.push((RecordKind::Event, with(head("event"), event("onset", label))));
    }
    if index > PROGRAMME_S && index % PROGRAMME_S == 13 {
        let first = index - 13 - PROGRAMME_S;
        let segment = json!({
            "content": "class", "class": class(first), "first": first, "last": first + PROGRAMME_S - 1, "began": at(first),
            "ended": at(first + PROGRAMME_S), "seconds": PROGRAMME_S, "mean": 0.8, "peak": 0.9, "peak_index": first, "decided": PROGRAMME_S,
            "unknown": 0, "decided_by": { "rgb": PROGRAMME_S, "flow": 0, "audio": 0 }, "gaps": {}, "missing": 0, "revision": 0,
        });
        all.push((RecordKind::Segment, with(head("segment"), segment)));
    }
    all
}

fn main() {
    let streams: u32 = std::env::var("STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let limits = HistorySettings { keep_s: u64::MAX, seconds_s: u64::MAX, max_bytes: u64::MAX };
    let (store, thread, _) = Store::open(&path, limits, Metrics::new(), Arc::new(SystemClock::new())).expect("a store");
    let source = FleetSource { node: "a".into(), created_ns: 1 };
    let names: Vec<String> = (0..streams).map(|n| format!("court-{n}")).collect();
    let (mut rng, mut batch, mut sequence, mut bytes) = (SmallRng::seed_from_u64(1), Vec::new(), 0, 0);
    let mut busy = std::time::Duration::ZERO;
    for index in 0..DAY_S {
        for name in &names {
            for (kind, value) in records(name, index, &mut rng) {
                sequence += 1;
                let json = value.to_string();
                bytes += json.len();
                batch.push(FleetRecord { sequence, kind, at_ms: 0, json });
            }
        }
        if batch.len() >= 256 || index + 1 == DAY_S {
            let began = Instant::now();
            store.keep_fleet(&source, std::mem::take(&mut batch)).blocking_recv().expect("they are stored");
            busy += began.elapsed();
        }
    }
    let began = Instant::now();
    drop((store, thread));
    busy += began.elapsed();
    let stored = std::fs::metadata(&path).expect("the store").len();
    let mb = |bytes: u64| bytes as f64 / 1e6 / f64::from(streams);
    println!(
        "| streams | records a second | MB of records a stream-day | MB stored a stream-day | processor of a live stream |"
    );
    println!("|---|---|---|---|---|");
    println!(
        "| {streams} | {:.0} | {:.0} | {:.1} | {:.4} % |",
        sequence as f64 / busy.as_secs_f64(),
        mb(bytes as u64),
        mb(stored),
        100.0 * busy.as_secs_f64() / DAY_S as f64 / f64::from(streams),
    );
}
