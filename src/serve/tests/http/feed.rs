//! The records of many streams over one connection, and their pictures in one answer.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::api::{get, next_event, open};
use crate::support::{PastClock, Script, Server, Shot, add, court, feed, new_hub, step};
use crate::wait::until;
use serde_json::Value;
use touchline_core::item::Tracks;
use touchline_serve::hub::{Hub, StreamFacts, StreamHandle, StreamOwner};
use touchline_serve::record::StreamState;

fn two() -> (Hub, std::sync::Arc<PastClock>, StreamHandle, StreamHandle) {
    let (hub, clock) = new_hub();
    let (court, pitch) = (add(&hub, "court-1", "testsrc://"), add(&hub, "pitch-3", "testsrc://"));
    court.set_facts(facts(Some("tennis")));
    (hub, clock, court, pitch)
}

/// Settings of a stream in `group`.
pub fn facts(group: Option<&str>) -> StreamFacts {
    StreamFacts {
        label: None,
        group: group.map(Into::into),
        origin: StreamOwner::Config,
        enabled: true,
        generation: 1,
        latency_ms: 200,
        rtsp_transport: Default::default(),
        kind: None,
        tier: Default::default(),
        decoder: Default::default(),
        variant: Default::default(),
        max_height: None,
        audio_language: None,
        isolation: touchline_media::options::Isolation::None,
        retry: true,
        record: true,
        expect: Vec::new(),
        expect_for_s: 60,
        schedule: None,
        vote: touchline_core::vote::VoteConfig::default().into(),
    }
}

/// Follows the feed after the event `last`.
fn resume(server: &Server, path: &str, last: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut is_unbuffered = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        is_unbuffered |= line.eq_ignore_ascii_case("x-accel-buffering: no\r\n");
        if line == "\r\n" {
            assert!(is_unbuffered, "nginx would hold the events back");
            return reader;
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn one_connection_has_the_records_of_all_streams() {
    let (hub, clock, court, pitch) = two();
    feed(&court, &clock, &[Shot::On("tennis", 0.9); 5]);
    let server = Server::start(hub.clone());
    let mut live = open(&server, "/api/v1/live");
    let (event, _, data) = next_event(&mut live);
    let snapshot = json(&data);
    assert_eq!((event.as_str(), snapshot["streams"].as_array().unwrap().len()), ("snapshot", 2));
    assert_eq!(snapshot["streams"][0]["settings"]["group"], "tennis");
    assert_eq!(snapshot["streams"][0]["spans"][0]["label"], "tennis");
    assert!(hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 1"));

    let mut script = Script::default();
    step(&pitch, &clock, &mut script, Shot::On("soccer", 0.4));
    court.set_state(StreamState::Playing);
    let third = add(&hub, "arena", "testsrc://");
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (event, id, data) = next_event(&mut live);
        let record = json(&data);
        let stream = record["stream"].as_str().or(record["id"].as_str()).unwrap().to_owned();
        seen.push((event, stream, id));
    }
    let kinds: Vec<_> = seen.iter().map(|(event, stream, _)| (event.as_str(), stream.as_str())).collect();
    assert_eq!(kinds, [("second", "pitch-3"), ("estimate", "pitch-3"), ("state", "court-1"), ("stream", "arena")]);
    drop(live);
    until("the disconnection of the viewer", || hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 0"));

    // After the second it continues with the rest, without a snapshot.
    third.set_state(StreamState::Playing);
    let mut again = resume(&server, "/api/v1/live", &seen[1].2);
    let kinds: Vec<_> = (0..3).map(|_| next_event(&mut again).0).collect();
    assert_eq!(kinds, ["state", "stream", "state"]);
    for unknown in ["1-1", "x", ""] {
        assert_eq!(next_event(&mut resume(&server, "/api/v1/live", unknown)).0, "snapshot", "{unknown}");
    }
}

#[test]
fn streams_groups_and_types_are_selected() {
    let (hub, clock, court, pitch) = two();
    let server = Server::start(hub.clone());
    let mut one = open(&server, "/api/v1/live?stream=pitch-3&type=estimate");
    let mut group = open(&server, "/api/v1/live?group=tennis&type=estimate,state");
    for (live, id) in [(&mut one, "pitch-3"), (&mut group, "court-1")] {
        let streams = json(&next_event(live).2)["streams"].clone();
        assert_eq!((streams.as_array().unwrap().len(), &streams[0]["id"]), (1, &id.into()));
    }
    let (mut a, mut b) = (Script::default(), Script::default());
    step(&court, &clock, &mut a, Shot::On("tennis", 0.9));
    step(&pitch, &clock, &mut b, Shot::On("soccer", 0.9));
    court.set_state(StreamState::Playing);
    assert_eq!(json(&next_event(&mut one).2)["label"], "soccer");
    assert_eq!(json(&next_event(&mut group).2)["label"], "tennis");
    assert_eq!(next_event(&mut group).0, "state");
    let wrong = get(&server, "/api/v1/live?type=seconds");
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("there is no type \\\"seconds\\\"; choose from second, gap"), "{}", wrong.text());
    let overview = get(&server, "/api/v1/overview?group=tennis").json();
    assert_eq!(overview["streams"].as_array().unwrap().len(), 1);
}

#[test]
fn a_subscriber_that_does_not_read_gets_a_lag_event_and_a_new_snapshot() {
    let (hub, clock, court, _) = two();
    let server = Server::start(hub.clone());
    let mut live = open(&server, "/api/v1/live");
    assert_eq!(next_event(&mut live).0, "snapshot");
    let mut script = Script::default();
    // More than the memory and the buffers of the sockets hold.
    for _ in 0..9000 {
        step(&court, &clock, &mut script, Shot::On("tennis", 0.9));
    }
    let skipped = loop {
        let (event, _, data) = next_event(&mut live);
        if event == "lagged" {
            break json(&data)["skipped"].as_u64().unwrap();
        }
    };
    assert!(skipped > 0);
    assert_eq!(next_event(&mut live).0, "snapshot");
    assert!(!hub.metrics().encode().contains("touchline_live_records_skipped_total 0\n"));
}

#[test]
fn pictures_of_many_streams_come_in_one_answer_and_only_while_they_are_polled() {
    let (hub, _, court_1, pitch) = two();
    let radio = add(&hub, "radio", "testsrc://");
    radio.set_tracks(Tracks { video: false, audio: true });
    court_1.set_state(StreamState::Playing);
    let server = Server::start(hub.clone());
    let path = "/api/v1/preview?stream=court-1,pitch-3,radio,nope&width=300";
    assert!(!court_1.preview_wanted());
    assert_eq!(get(&server, path).status, 204, "no picture yet");
    assert!(court_1.preview_wanted() && pitch.preview_wanted() && !radio.preview_wanted());
    court_1.offer_preview(court(0.1));
    pitch.offer_preview(court(0.5));
    let answer = get(&server, path);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "multipart/form-data; boundary=touchline-picture");
    let parts: Vec<&[u8]> = split(&answer.body, b"--touchline-picture");
    assert_eq!(parts.len(), 4, "before the first, two pictures, after the last");
    for (part, id) in parts[1..3].iter().zip(["court-1", "pitch-3"]) {
        let head = split(part, b"\r\n\r\n")[0];
        assert!(String::from_utf8_lossy(head).contains(&format!("name=\"{id}\"; filename=\"{id}.jpg\"")));
        let picture = image::load_from_memory(&part[head.len() + 4..]).unwrap();
        assert_eq!((picture.width(), picture.height()), (320, 180));
    }
    for _ in 0..20 {
        assert_eq!(get(&server, path).body, answer.body, "encoded once for all walls");
    }
    assert!(hub.metrics().encode().contains("touchline_thumbnails_total 2"));
    let many = vec!["a"; 65].join(",");
    assert_eq!(get(&server, &format!("/api/v1/preview?stream={many}")).status, 400);
}

fn split<'a>(bytes: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(by.len()).position(|window| window == by) {
        parts.push(&rest[..at]);
        rest = &rest[at + by.len()..];
    }
    parts.push(rest);
    parts
}
