//! The HTTP API against a real server on a free port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::access::{connect, exchange, request};
use crate::support::{Script, Server, Shot, add, afternoon, court, feed, new_hub, step};
use crate::wait::until;
use serde_json::Value;
use touchline_core::clip::GapReason;
use touchline_core::item::Tracks;
use touchline_serve::http;
use touchline_serve::record::StreamState;

pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

pub fn get(server: &Server, path: &str) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("{}{path}", server.url)).call().unwrap();
    let body = answer.body_mut().read_to_vec().unwrap();
    Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), body }
}

/// Opens an endless answer and reads its headers. Returns a reader of the body.
pub fn open(server: &Server, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line == "\r\n" {
            return reader;
        }
    }
}

/// The next server-sent event as (event, id, data).
pub fn next_event(reader: &mut impl BufRead) -> (String, String, String) {
    let (mut event, mut id, mut data) = Default::default();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the server closed the event stream");
        match line.trim_end().split_once(": ") {
            Some(("event", v)) => event = v.to_owned(),
            Some(("id", v)) => id = v.to_owned(),
            Some(("data", v)) => data = v.to_owned(),
            Some(_) => {}
            None if line.trim_end().is_empty() && !data.is_empty() => return (event, id, data),
            None => {}
        }
    }
}

#[test]
fn answers_have_their_content_type_and_security_headers() {
    let (hub, clock) = new_hub();
    let cam = add(&hub, "court-1", "rtsp://ann:s3cretpw@cam.example/live?token=abcdef");
    cam.set_state(StreamState::Playing);
    feed(&cam, &clock, &afternoon());
    let server = Server::start(hub);
    for (path, kind, contains) in [
        ("/", "text/html; charset=utf-8", "id=\"tiles\""),
        ("/?group=a&rotate=20", "text/html; charset=utf-8", "id=\"tiles\""),
        ("/?stream=court-1", "text/html; charset=utf-8", "id=\"third\""),
        ("/assets/wall.js", "text/javascript; charset=utf-8", "import"),
        ("/assets/style.css", "text/css; charset=utf-8", ":root"),
        ("/assets/icon.svg", "image/svg+xml", "<svg"),
        ("/api/v1/info", "application/json", "\"title\":\"Table tennis\""),
        ("/api/v1/schema", "application/schema+json", "\"$defs\""),
        ("/api/v1/overview", "application/json", "\"spans\""),
        ("/api/v1/streams", "application/json", "\"court-1\""),
        ("/api/v1/streams/court-1", "application/json", "\"history\""),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "touchline_stream_up{stream=\"court-1\"} 1"),
        ("/healthz", "text/plain; charset=utf-8", "ok"),
        ("/readyz", "text/plain; charset=utf-8", "ready"),
    ] {
        let answer = get(&server, path);
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{path}");
        assert!(answer.text().contains(contains), "{path}: {}", answer.text());
        assert!(!answer.text().contains("s3cretpw") && !answer.text().contains("abcdef"), "{path} contains a secret");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
    }
    let stream = get(&server, "/api/v1/streams/court-1").json();
    assert_eq!(stream["uri"], "rtsp://***@cam.example/live?***");
    assert_eq!(stream["history"].as_array().unwrap().len(), 600);
    assert_eq!(stream["top"]["label"], "tennis");
    assert_eq!(stream["last"]["type"], "second");
}

#[test]
fn every_file_of_the_page_exists_and_comes_from_the_server() {
    let (hub, _) = new_hub();
    let server = Server::start(hub);
    let mut files: Vec<String> =
        ["/", "/?stream=x", "/history", "/teach", "/assets/login.html"].map(str::to_owned).to_vec();
    let mut next = 0;
    while let Some(path) = files.get(next).cloned() {
        next += 1;
        let answer = get(&server, &path);
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("//cdn"), "{path}");
        for quoted in text.split(['"', '(', ')']) {
            let found = match quoted.strip_prefix("./") {
                Some(name) if name.ends_with(".js") => format!("/assets/{name}"),
                _ if quoted.starts_with("assets/") => format!("/{quoted}"),
                // A proxy may serve the page below a prefix.
                _ if quoted.starts_with("/assets/") || quoted.starts_with("/api/") => panic!("{path}: {quoted}"),
                _ => continue,
            };
            if !files.contains(&found) {
                files.push(found);
            }
        }
    }
    assert_eq!(files.len(), 40, "{files:?}");
}

#[test]
fn missing_resources_are_errors_with_advice() {
    let (hub, _) = new_hub();
    add(&hub, "radio", "srt://h.example:9000?passphrase=longsecret").set_tracks(Tracks { video: false, audio: true });
    let server = Server::start(hub.clone());
    for (path, message) in [
        ("/api/v1/streams/nope", "no stream \"nope\""),
        ("/api/v1/streams/nope/live", "no stream \"nope\""),
        ("/api/v1/live?stream=radio,nope", "no stream \"nope\""),
        ("/api/v1/overview?stream=nope", "no stream \"nope\""),
        ("/api/v1/streams/nope/preview", "no stream \"nope\""),
        ("/api/v1/streams/radio/preview", "no pictures"),
        ("/assets/../Cargo.toml", "nothing at this path"),
        ("/assets/secret.js", "no such file"),
        ("/assets/%2e%2e%2fCargo.toml", "no such file"),
        ("/assets/..%2f..%2f..%2fetc%2fpasswd", "no such file"),
        ("/%2e%2e/%2e%2e/etc/passwd", "nothing at this path"),
        ("/nowhere", "nothing at this path"),
    ] {
        let answer = get(&server, path);
        assert_eq!((answer.status, answer.header("content-type")), (404, "application/json"), "{path}");
        let problem = answer.json();
        assert!(problem["error"].as_str().unwrap().contains(message), "{path}: {problem}");
        assert!(!problem["advice"].as_str().unwrap().is_empty(), "{path}: {problem}");
    }
    hub.set_starting("warming up the models");
    let answer = get(&server, "/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"], "not ready: warming up the models");
    assert_eq!(get(&server, "/healthz").status, 200, "a starting server is healthy");
}

#[test]
fn live_records_follow_the_snapshot_in_order() {
    let (hub, clock) = new_hub();
    let cam = add(&hub, "court-1", "testsrc://");
    let mut script = feed(&cam, &clock, &[Shot::On("tennis", 0.9); 5]);
    let server = Server::start(hub.clone());
    let mut live = open(&server, "/api/v1/streams/court-1/live");
    let (event, id, data) = next_event(&mut live);
    let snapshot: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((event.as_str(), snapshot["history"].as_array().unwrap().len()), ("snapshot", 5));
    let first: u64 = id.parse().unwrap();
    assert!(hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 1"));

    step(&cam, &clock, &mut script, Shot::On("tennis", 0.9));
    step(&cam, &clock, &mut script, Shot::Gap(GapReason::Overload));
    cam.set_state(StreamState::Playing);
    let mut ids = Vec::new();
    for kind in ["second", "gap", "state"] {
        let (event, id, data) = next_event(&mut live);
        let record: Value = serde_json::from_str(&data).unwrap();
        assert_eq!((event.as_str(), &record["type"]), (kind, &Value::from(kind)));
        ids.push(id.parse::<u64>().unwrap() - first);
    }
    assert_eq!(ids, [1, 2, 3]);
    drop(live);
    until("the disconnection of the viewer", || hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 0"));
}

#[test]
fn a_subscriber_that_does_not_read_delays_nobody_and_gets_a_lag_event() {
    let (hub, clock) = new_hub();
    let cam = add(&hub, "court-1", "testsrc://");
    let server = Server::start(hub.clone());
    let mut live = open(&server, "/api/v1/streams/court-1/live");
    assert_eq!(next_event(&mut live).0, "snapshot");
    let mut script = Script::default();
    // Far more than fits in the buffers of the sockets. If publishing waited for the subscriber, the test would hang here.
    for _ in 0..6000 {
        step(&cam, &clock, &mut script, Shot::On("tennis", 0.9));
    }
    let mut last = 0;
    let (skipped, fresh) = loop {
        let (event, id, data) = next_event(&mut live);
        if event == "lagged" {
            let skipped = serde_json::from_str::<Value>(&data).unwrap()["skipped"].as_u64().unwrap();
            break (skipped, next_event(&mut live));
        }
        assert!(event == "second" || event == "event", "{event}");
        last = id.parse().unwrap();
    };
    // The number of skipped records depends on the scheduling of the threads.
    assert!(skipped > 0 && fresh.1.parse::<u64>().unwrap() >= last + skipped, "{skipped} after {last}, {fresh:?}");
    assert_eq!(fresh.0, "snapshot", "a new snapshot must replace the skipped records");
    let text = hub.metrics().encode();
    assert!(!text.contains("touchline_live_records_skipped_total 0\n"), "{text}");
}

#[test]
fn previews_are_encoded_only_while_watched() {
    let (hub, _) = new_hub();
    let cam = add(&hub, "court-1", "testsrc://");
    let server = Server::start(hub.clone());
    assert!(!cam.preview_wanted());
    let single = get(&server, "/api/v1/streams/court-1/preview?single=1");
    assert_eq!(single.status, 503, "no picture yet: {}", single.text());

    let mut pictures = open(&server, "/api/v1/streams/court-1/preview");
    until("the request for a picture", || cam.preview_wanted());
    for t in [0.1, 0.9] {
        cam.offer_preview(court(t));
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(pictures.read_line(&mut line).unwrap() > 0);
            match line.trim_end().split_once(": ") {
                Some(("Content-Type", kind)) => assert_eq!(kind, "image/jpeg"),
                Some(("Content-Length", n)) => length = n.parse().unwrap(),
                Some(other) => panic!("unexpected header {other:?}"),
                None if line.trim_end().is_empty() && length > 0 => break,
                None => assert!(line.trim_end().is_empty() || line.starts_with("--touchline-picture"), "{line:?}"),
            }
        }
        let mut jpeg = vec![0; length];
        pictures.read_exact(&mut jpeg).unwrap();
        let picture = image::load_from_memory(&jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()), (768, 432));
        // The boundary comes with the picture, because a browser shows the picture only after it.
        let mut tail = [0; "\r\n--touchline-picture\r\n".len()];
        pictures.read_exact(&mut tail).unwrap();
        assert_eq!(&tail, b"\r\n--touchline-picture\r\n");
    }
    let single = get(&server, "/api/v1/streams/court-1/preview?single=1");
    assert_eq!((single.status, single.header("content-type")), (200, "image/jpeg"));
    drop(pictures);
    until("the end of the preview", || !cam.preview_wanted());
}

#[test]
fn the_server_stops_while_clients_listen() {
    let (hub, _) = new_hub();
    add(&hub, "court-1", "testsrc://");
    let mut server = Server::start(hub);
    let mut live = open(&server, "/api/v1/streams/court-1/live");
    next_event(&mut live);
    let _pictures = open(&server, "/api/v1/streams/court-1/preview");
    server.stop();
    let mut rest = Vec::new();
    live.read_to_end(&mut rest).expect("the answer ended cleanly");
}

#[test]
fn a_port_in_use_is_an_error_with_address_and_advice() {
    let (hub, _) = new_hub();
    let server = Server::start(hub);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(http::bind(server.address())).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 5);
    assert!(text.starts_with(server.address()) && text.contains("in use") && text.contains("--listen"), "{text}");
    let text = runtime.block_on(http::bind("not an address")).unwrap_err().to_string();
    assert!(text.contains("--listen") && !text.contains('\n'), "{text}");
}

#[test]
fn malformed_paths_and_queries_are_answered_as_every_error() {
    let (hub, _) = new_hub();
    add(&hub, "court-1", "testsrc://");
    let server = Server::start(hub);
    let document = get(&server, "/api/v1/openapi.json").json();
    let mut checked = (0, 0);
    let check = |method: &str, path: &str| {
        let answer = exchange(connect(&server), &request(&server, method, path, &[], ""));
        let problem: Value = serde_json::from_str(answer.body()).unwrap_or_default();
        assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        assert!(problem["error"].is_string() && problem["advice"].is_string(), "{method} {path}: {answer:?}");
    };
    for (path, item) in document["paths"].as_object().unwrap() {
        // Files of the page are looked up by any name.
        for (method, operation) in item.as_object().unwrap().iter().filter(|_| !path.starts_with("/assets/")) {
            let (method, parts) = (method.to_uppercase(), path.split(['{', '}']).collect::<Vec<_>>());
            let filled = |value: &dyn Fn(&str) -> String| -> String {
                parts
                    .iter()
                    .enumerate()
                    .map(|(i, part)| if i % 2 == 1 { value(part) } else { (*part).to_owned() })
                    .collect()
            };
            if parts.len() > 1 {
                check(&method, &filled(&|_| "%ff".to_owned()));
                checked.0 += 1;
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            if let Some(query) = parameters.iter().find(|parameter| parameter["in"] == "query") {
                let known = |part: &str| if part == "id" { "court-1" } else { "0" }.to_owned();
                let name = query["name"].as_str().unwrap();
                check(&method, &format!("{}?{name}=0&{name}=0", filled(&known)));
                checked.1 += 1;
            }
        }
    }
    assert!(checked.0 > 10 && checked.1 > 8, "{checked:?}");
}
