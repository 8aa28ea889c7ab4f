//! Bad input, bad servers, bad pipeline templates, and consumers that disconnect.

use std::sync::atomic::Ordering;
use std::time::Duration;

use touchline_core::item::MEDIA_CHANNEL_CAPACITY;
use touchline_media::gst::GstOptions;

use super::{LIMIT, all, failure, open, text};
use crate::common::http::HttpServer;
use crate::common::wait::until;
use crate::common::{Fixtures, free_tcp_port};

#[test]
fn dropping_a_source_with_a_full_channel_returns() {
    let dir = Fixtures::new();
    let path = dir.clip("x.mp4", 4);
    let options = GstOptions::default();
    let counters = options.counters.clone();
    let (source, from) = open(text(&path), options).unwrap();
    until("a full channel", || from.len() == MEDIA_CHANNEL_CAPACITY);
    drop(source);
    assert_eq!(counters.abandoned.load(Ordering::Relaxed), 0, "the pipeline stops in time");
    drop(from);
    // Here the consumer is dropped first.
    let (source, from) = open(text(&path), GstOptions::default()).unwrap();
    from.recv_timeout(LIMIT).unwrap();
    drop(from);
    drop(source);
}

#[test]
fn failures_name_the_cause_and_no_secret() {
    let dir = Fixtures::new();
    let prose = dir.write("prose.mp4", "It was a dark and stormy night. ".repeat(200).as_bytes());
    let noise: Vec<u8> = (0..60_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let noise = dir.write("noise.mkv", &noise);
    let subtitles = dir.write("only.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n");
    let server = HttpServer::start(dir.path());
    let (closed, quick) =
        (free_tcp_port(), GstOptions { connect_timeout: Duration::from_secs(2), ..GstOptions::default() });
    // Accepts connections and sends nothing.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mute = listener.local_addr().unwrap().port();
    // Uses plain HTTP where TLS is expected.
    let plain = server.port();
    let login = |url: String| url.replace("://", "://ann:geheim-pass@") + "?key=geheim-key-1";
    for (uri, expected) in [
        (text(&prose).to_owned(), "not a media file"),
        (text(&noise).to_owned(), "not a media file"),
        (text(&subtitles).to_owned(), "no"),
        (text(&dir.path().join("none.mp4")).to_owned(), "no such file"),
        (text(dir.path()).to_owned(), "is a folder"),
        (text(&dir.write("empty.ts", b"")).to_owned(), "is empty"),
        (server.url("none.m3u8"), "not found (404)"),
        (server.url("none.mp4"), "not found (404)"),
        (server.url("private/prose.mp4"), "not authorized (401)"),
        (login(format!("http://127.0.0.1:{closed}/a.m3u8")), "connection refused"),
        (login(format!("rtsp://127.0.0.1:{closed}/a")), "connection refused"),
        (login(format!("rtmp://127.0.0.1:{closed}/a/b")), "connection refused"),
        (login("rtsp://host.invalid/a".into()), "host not found"),
        (login("http://host.invalid/a.mp4".into()), "host not found"),
        (format!("udp://127.0.0.1:{closed}"), "no data within 2 s"),
        (format!("http://127.0.0.1:{mute}/a.mp4"), "no data within 2 s|does not answer"),
        (format!("http://127.0.0.1:{mute}/a.m3u8"), "no data within 2 s|does not answer"),
        (format!("rtsp://127.0.0.1:{mute}/a"), "no data within 2 s|does not answer"),
        (format!("https://127.0.0.1:{plain}/a.mp4"), "TLS connection failed"),
        (format!("rtsps://127.0.0.1:{plain}/a"), "TLS connection failed"),
        (format!("rtmp://127.0.0.1:{mute}/a/b"), "no data within 2 s|does not answer"),
        (format!("srt://127.0.0.1:{closed}?passphrase=geheim-srt-1"), "no data within 2 s"),
        (login("gopher://h/a".into()), "unknown scheme"),
    ] {
        let message = failure(&uri, quick.clone());
        eprintln!("{:<60} {message}", touchline_core::redact::uri(&uri));
        assert!(expected.split('|').any(|e| message.contains(e)), "{uri}: {message}");
        assert!(!message.contains("geheim") && !message.contains('\n'), "{uri}: {message}");
    }
}

#[test]
fn a_custom_pipeline_replaces_the_built_in_one() {
    let dir = Fixtures::new();
    let path = dir.clip("o.mp4", 1);
    let with = |pipeline: &str| GstOptions { pipeline: Some(pipeline.into()), ..GstOptions::default() };
    let good = "# pictures only, small\nuridecodebin uri={uri} name=in in. ! videoconvert ! videoscale\n\
                ! video/x-raw,format=RGB,width=64,height=48 ! appsink name=video";
    let received = all(text(&path), with(good));
    assert_eq!((received.frames.len(), received.frames[0].width), (30, 64));
    for (bad, expected) in [
        ("uridecodebin uri={uri} ! fakesink", "no appsink"),
        ("uridecodebin uri={uri} ! videoconvert ! video/x-raw,format=UYVY ! appsink name=video", "not RGB"),
        ("uridecodebin uri={address} ! appsink name=video", "unknown placeholder {address}"),
        ("nosuchelement ! appsink name=video", "element nosuchelement is missing"),
        ("uridecodebin uri={uri} ! ! appsink name=video", "pipeline:"),
        ("appsink name=video", "pipeline:"),
        ("videotestsrc num-buffers=1 ! fakesink name=video", "must be an appsink"),
    ] {
        let message = failure(text(&path), with(bad));
        assert!(message.contains(expected), "{bad}: {message}");
    }
}
