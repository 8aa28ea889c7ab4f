//! SIGTERM: an orderly end within ten seconds, even when something hangs.

use std::process::Stdio;
use std::time::Duration;

use rustix::pipe::fcntl_setpipe_size;
use serde_json::json;

use super::{Fixtures, Program, records, until};
use crate::common::api::{ask, wait_until_ready};
use crate::common::origin::{Behaviour, Origin};
use crate::common::rtsp::{Media, RtspServer};

#[test]
fn eight_streams_on_a_busy_machine_end_in_time() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.path().join("out.jsonl");
    let (rtsp, hls) = (RtspServer::start(Media::Test { video: true, audio: true }), Origin::start());
    let mut streams: Vec<String> = (0..3).map(|n| format!("rtsp-{n}={}", rtsp.url())).collect();
    streams.extend((0..2).map(|n| format!("hls-{n}={}", hls.url())));
    // More than this machine can decide: the stream queues are full when the signal arrives.
    streams.extend((0..3).map(|n| format!("test-{n}=testsrc://?width=1280&height=720&fps=30")));
    let mut arguments = vec!["--jsonl", jsonl.to_str().unwrap()];
    arguments.extend(streams.iter().map(String::as_str));
    let program = Program::start(&arguments);
    until("seconds of all streams", || {
        let records = records(&jsonl);
        let has = |id: &str| records.iter().any(|r| r["stream"] == id && r["type"] == "second");
        streams.iter().all(|s| has(s.split('=').next().unwrap()))
    });
    // Other processes load the machine, and a server stalls its clients.
    let _burners: Vec<crate::common::Child> = (0..4)
        .map(|_| {
            let child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
            crate::common::Child(child.expect("a shell"))
        })
        .collect();
    hls.set_behaviour(Behaviour::SlowLoris);
    std::thread::sleep(Duration::from_secs(5));
    // After ten seconds the program exits without waiting, and its exit code says so.
    let status = program.stop();
    assert!(status.success(), "{status}");
    let records = records(&jsonl);
    for stream in &streams {
        let id = stream.split('=').next().unwrap();
        let last = records.iter().rfind(|r| r["stream"] == id).unwrap();
        assert_eq!((&last["type"], &last["state"]), (&json!("state"), &json!("ended")), "{last}");
        let places: Vec<(u64, u64)> = records
            .iter()
            .filter(|r| r["stream"] == id && (r["type"] == "second" || r["type"] == "gap"))
            .map(|r| (r["run"].as_u64().unwrap(), r["index"].as_u64().unwrap()))
            .collect();
        let follow = |w: &[(u64, u64)]| w[1].0 > w[0].0 || w[1].1 == w[0].1 + 1;
        assert!(places.windows(2).all(follow), "{id} misses seconds: {places:?}");
    }
}

#[test]
fn a_reader_that_does_not_read_the_records_does_not_block_the_end() {
    // A pipe without a reading process, and a recording that fills it at once.
    let mut program =
        Program::launch(&["--jsonl", "-", "testsrc://?width=64&height=48&fps=5&audio=0&seconds=86400"], |c| {
            c.stdout(Stdio::piped()).stderr(Stdio::piped());
        });
    let unread = program.child.stdout.take().unwrap();
    wait_until_ready(&program.address);
    // A page has room for two records at most.
    fcntl_setpipe_size(&unread, 4096).unwrap();
    until("more records than the pipe holds", || {
        let streams = ask(&program.address, "GET", "/api/v1/streams", None, &[]).body;
        streams["streams"][0]["counters"]["classified"].as_u64() > Some(20)
    });
    let stderr = program.child.stderr.take().unwrap();
    let log = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let status = program.stop();
    drop(unread);
    let log = log.join().unwrap();
    assert_eq!(status.code(), Some(5), "unwritten records must be an error: {log}");
    assert!(log.contains("the program exits without waiting"), "{log}");
}

#[test]
fn a_program_without_streams_waits_until_sigterm() {
    let program = Program::start(&[]);
    assert_eq!(ask(&program.address, "GET", "/api/v1/streams", None, &[]).body, json!({ "streams": [] }));
    let status = program.stop();
    assert!(status.success(), "{status}");
}
