//! Streams that are added, changed and removed continually beside four permanent ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{OWN_SOURCES, Program, TEST, records, until};
use crate::common::Fixtures;
use crate::common::api::{ask, ids};
use crate::common::http::{HlsMedia, HlsOrigin};
use crate::common::rtsp::{Media, RtspServer};

/// How many streams are added, changed or removed, at most one each second.
const CHANGES: u64 = 30;

#[test]
fn four_streams_miss_no_second_while_others_come_and_go() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.path().join("out.jsonl");
    let rtsp = RtspServer::start(Media::Test { video: true, audio: true });
    let hls = HlsOrigin::start(HlsMedia::Test);
    let four = [
        format!("court={}", rtsp.url()),
        format!("stage={}", hls.url()),
        format!("pattern={TEST}"),
        "tone=testsrc://?width=64&height=48&fps=10".to_owned(),
    ];
    let config = fixtures.write("touchline.toml", OWN_SOURCES.as_bytes());
    let mut arguments = vec!["--config", config.to_str().unwrap(), "--jsonl", jsonl.to_str().unwrap()];
    arguments.extend(four.iter().map(String::as_str));
    let program = Program::start(&arguments);
    let address = program.address.clone();
    let names = ["court", "stage", "pattern", "tone"];
    until("a second of each", || names.iter().all(|name| seconds_of(&records(&jsonl), name).len() > 1));

    for changes in 0..CHANGES {
        let (kind, guest) = (changes % 3, format!("guest-{}", changes % 2));
        let uri = if changes % 2 == 0 { TEST.to_owned() } else { rtsp.url() };
        let path = format!("/api/v1/streams/{guest}");
        let sent = Instant::now();
        let answer = match kind {
            0 => ask(&address, "POST", "/api/v1/streams", Some(&json!({ "id": guest, "uri": uri })), &[]),
            1 => ask(&address, "PATCH", &path, Some(&json!({ "latency_ms": 100 + changes })), &[]),
            _ => ask(&address, "DELETE", &path, None, &[]),
        };
        assert!([200, 201, 204, 404, 409].contains(&answer.status), "{answer:?}");
        std::thread::sleep(Duration::from_secs(1).saturating_sub(sent.elapsed()));
    }
    for id in ids(&address).iter().filter(|id| id.starts_with("guest")) {
        assert_eq!(ask(&address, "DELETE", &format!("/api/v1/streams/{id}"), None, &[]).status, 204);
    }
    let metrics = crate::common::api::send(&address, "GET", "/metrics", "", &[]).unwrap().text;
    assert!(!metrics.contains("guest"), "{metrics}");
    assert_eq!(ids(&address), names);
    let status = program.stop();
    assert!(status.success(), "{status}");

    let records = records(&jsonl);
    let mut report = BTreeMap::new();
    for name in names {
        let all = seconds_of(&records, name);
        let whole: Vec<(u64, u64)> = all.iter().map(|(run, index, _)| (*run, *index)).collect();
        assert!(whole.windows(2).all(|w| w[1] == (w[0].0, w[0].1 + 1)), "{name} misses seconds: {whole:?}");
        assert!(all.len() as u64 + 5 >= CHANGES, "{name} has {} seconds", all.len());
        // A busy machine may be too slow. The program then sheds seconds and counts them, but none is missing.
        let shed = all.iter().filter(|(_, _, gap)| gap.as_deref() == Some("overload")).count();
        assert!(all.iter().all(|(_, _, gap)| gap.as_deref().is_none_or(|gap| gap == "overload")), "{name}: {all:?}");
        report.insert(name, (all.len(), shed));
    }
    println!("total and shed seconds: {report:?}");
    // The last record of every guest is its removal.
    for guest in ["guest-0", "guest-1"] {
        let last = records.iter().rfind(|r| r["stream"] == guest).expect("the guest has records");
        assert_eq!((&last["type"], &last["state"]), (&json!("state"), &json!("removed")), "{last}");
    }
}

/// Run, index and gap reason of every second of a stream.
fn seconds_of(records: &[Value], stream: &str) -> Vec<(u64, u64, Option<String>)> {
    let place = |r: &Value| {
        let reason = r["reason"].as_str().map(str::to_owned);
        (r["run"].as_u64().unwrap(), r["index"].as_u64().unwrap(), reason)
    };
    records
        .iter()
        .filter(|r| r["stream"] == stream && (r["type"] == "second" || r["type"] == "gap"))
        .map(place)
        .collect()
}

/// Threads, open files and resident memory (kB) of a process.
fn resources(pid: u32) -> (usize, usize, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (field("Threads:") as usize, files, field("VmRSS:"))
}

#[test]
fn two_hundred_removed_streams_leak_nothing() {
    let program = Program::start(&[]);
    let address = program.address.clone();
    let add_and_remove = |n: u32| {
        let new = json!({ "id": format!("guest-{n}"), "uri": TEST });
        assert_eq!(ask(&address, "POST", "/api/v1/streams", Some(&new), &[]).status, 201);
        assert_eq!(ask(&address, "DELETE", &format!("/api/v1/streams/guest-{n}"), None, &[]).status, 204);
    };
    // Plugins, pools and the allocator's arenas fill first.
    (0..40).for_each(add_and_remove);
    std::thread::sleep(Duration::from_secs(2));
    let before = resources(program.child.id());
    (40..240).for_each(add_and_remove);
    // The last pipelines stop after the answer to the removal.
    until("the return of threads, files and memory to their levels before 200 more streams", || {
        let after = resources(program.child.id());
        println!("threads, files, kB: {before:?} before, {after:?} after 200 more");
        after.0 <= before.0 + 2 && after.1 <= before.1 + 4 && after.2 <= before.2 + 20_000
    });
    let metrics = crate::common::api::send(&address, "GET", "/metrics", "", &[]).unwrap().text;
    assert!(!metrics.contains("guest"), "{metrics}");
    assert!(program.stop().success());
}

#[test]
fn subscribers_of_a_removed_stream_get_its_last_record_and_end_of_file() {
    use std::io::{BufRead, BufReader, Read, Write};
    let program = Program::start(&[]);
    let new = json!({ "id": "guest", "uri": "testsrc://?width=64&height=48&fps=10" });
    assert_eq!(ask(&program.address, "POST", "/api/v1/streams", Some(&new), &[]).status, 201);
    let open = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&program.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET /api/v1/streams/guest/{path} HTTP/1.0\r\nHost: {}\r\n\r\n", program.address).unwrap();
        BufReader::new(stream)
    };
    let (mut live, mut pictures) = (open("live"), open("preview"));
    let mut first = String::new();
    pictures.read_line(&mut first).unwrap();
    assert!(first.contains("200"), "{first}");
    let mut line = String::new();
    while !line.contains("\"type\":\"second\"") {
        line.clear();
        assert!(live.read_line(&mut line).unwrap() > 0, "the stream of events ended");
    }
    let reader = std::thread::spawn(move || live.lines().map_while(Result::ok).collect::<Vec<_>>());
    assert_eq!(ask(&program.address, "DELETE", "/api/v1/streams/guest", None, &[]).status, 204);
    let lines = reader.join().unwrap();
    let last = lines.iter().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(last.contains("\"state\":\"removed\""), "{last}");
    let mut rest = Vec::new();
    pictures.read_to_end(&mut rest).expect("the pictures end cleanly");
    assert!(program.stop().success());
}
