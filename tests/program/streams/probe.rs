//! Tests of addresses (`POST /api/v1/probe`) with real servers.

use serde_json::{Value, json};

use super::isolation::worker_of;
use super::{OWN_SOURCES, Program, TEST, records, until};
use crate::common::Fixtures;
use crate::common::api::{Answer, ask, ids};
use crate::common::http::HttpServer;
use crate::common::rtsp::{Media, RtspServer};

/// Tests an address. Asks again while the sources of earlier tests are still closing, which may take long on a busy machine.
fn probe(program: &Program, body: &Value) -> Answer {
    let mut answer = None;
    until("a place for the test", || {
        answer = Some(ask(&program.address, "POST", "/api/v1/probe", Some(body), &[]));
        answer.as_ref().is_some_and(|answer| answer.status != 429)
    });
    answer.unwrap()
}

#[test]
fn a_probe_reports_tracks_variants_and_a_picture_and_adds_nothing() {
    let fixtures = Fixtures::new();
    let small = fixtures.clip("small.mp4", 4);
    let large = fixtures.make(
        "large.mp4",
        &format!("-i {} -vf scale=640:360 -c:v libx264 -preset ultrafast -g 30 -bf 0 -c:a copy", small.display()),
    );
    fixtures.playlist("small.m3u8", &small);
    fixtures.playlist("large.m3u8", &large);
    let codecs = "CODECS=\"avc1.42c01e,mp4a.40.2\"";
    let variants = format!(
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=320x180,{codecs}\nsmall.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=640x360,{codecs}\nlarge.m3u8\n"
    );
    fixtures.write("channel.m3u8", variants.as_bytes());
    fixtures.write("page.html", b"<!doctype html><title>no media</title>");
    let web = HttpServer::start(fixtures.path());
    let camera = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "geheim-probe-1");
    let with_login = |password: &str| camera.url().replace("rtsp://", &format!("rtsp://ann:{password}@"));
    let config = fixtures.write("touchline.toml", OWN_SOURCES.as_bytes());
    let jsonl = fixtures.path().join("out.jsonl");
    let own = format!("own={TEST}");
    let program = Program::start(&["--config", config.to_str().unwrap(), "--jsonl", jsonl.to_str().unwrap(), &own]);

    let found = probe(&program, &json!({ "uri": with_login("geheim-probe-1") }));
    let body = &found.body;
    assert_eq!((found.status, &body["failure"], &body["kind"]), (200, &Value::Null, &json!("rtsp")), "{}", found.text);
    let video = json!({ "codec": "H.264", "width": 320, "height": 240, "frame_rate": 25.0, "interlaced": false });
    assert_eq!(body["video"], video);
    assert_eq!((&body["audio"]["codec"], &body["audio"]["rate"]), (&json!("AAC"), &json!(48_000)));
    let picture = body["picture"].as_str().unwrap();
    assert!(picture.starts_with("data:image/jpeg;base64,/9j/"), "{picture}");
    let (opened, first) = (body["opened_ms"].as_u64().unwrap(), body["first_picture_ms"].as_u64().unwrap());
    assert!(opened <= first && first < 10_000, "{opened} {first}");
    until("the end of the process of the probe", || worker_of(&program, "probe").is_none());

    // The pack wants pictures of some 250 lines.
    for (variant, chosen) in [("fit", 360), ("lowest", 180)] {
        let body = probe(&program, &json!({ "uri": web.url("channel.m3u8"), "variant": variant })).body;
        assert_eq!((&body["kind"], &body["failure"]), (&json!("hls"), &Value::Null), "{body}");
        let all = body["variants"].as_array().unwrap();
        let heights: Vec<_> = all.iter().map(|row| (row["height"].as_u64(), row["chosen"] == true)).collect();
        assert_eq!(heights, [(Some(360), chosen == 360), (Some(180), chosen == 180)]);
        assert_eq!((&body["video"]["height"], &all[0]["bandwidth"]), (&json!(chosen), &json!(900_000)));
        assert_eq!(body["audio"], json!({ "codec": "AAC", "rate": 44_100, "channels": 2 }));
    }
    // In the program's own process, too.
    for isolation in ["none", "process"] {
        let body = probe(&program, &json!({ "uri": web.url("small.mp4"), "isolation": isolation })).body;
        assert_eq!((&body["kind"], &body["failure"]), (&json!("http"), &Value::Null), "{body}");
        assert_eq!((&body["video"]["codec"], &body["video"]["frame_rate"]), (&json!("H.264"), &json!(30.0)), "{body}");
    }
    let body = probe(&program, &json!({ "uri": TEST })).body;
    assert_eq!(
        (&body["audio"], &body["video"]["codec"], &body["video"]["width"]),
        (&Value::Null, &Value::Null, &json!(64))
    );

    let closed = crate::common::free_tcp_port();
    for (uri, cause) in [
        (with_login("geheim-probe-2"), "not-authorized"),
        (camera.url().replace("/live", "/none"), "not-found"),
        (format!("rtsp://127.0.0.1:{closed}/live?token=geheim-probe-3"), "connection-refused"),
        (format!("http://127.0.0.1:{closed}/live.m3u8"), "connection-refused"),
        (web.url("none.m3u8"), "not-found"),
        (web.url("page.html"), "not-media"),
    ] {
        let answer = probe(&program, &json!({ "uri": uri }));
        let failure = &answer.body["failure"];
        assert_eq!((answer.status, &answer.body["reachable"]), (200, &json!(false)), "{uri}: {}", answer.text);
        assert_eq!(failure["kind"], cause, "{uri}: {failure}");
        assert!(!failure["cause"].as_str().unwrap().is_empty() && !failure["advice"].as_str().unwrap().is_empty());
        assert!(!answer.text.contains("geheim-probe"), "{}", answer.text);
    }
    for (uri, status) in [("http://169.254.169.254/live", 403), ("file:///etc/passwd", 403), ("nonsense", 403)] {
        assert_eq!(probe(&program, &json!({ "uri": uri })).status, status, "{uri}");
    }

    assert_eq!(ids(&program.address), ["own"]);
    let metrics = ask(&program.address, "GET", "/metrics", None, &[]).text;
    assert!(metrics.contains("touchline_probes_total{result=\"playable\"} 6\n"), "{metrics}");
    assert!(metrics.contains("touchline_probes_total{result=\"failed\"} 6\n"));
    assert!(program.stop().success());
    let indexes: Vec<u64> = records(&jsonl)
        .iter()
        .filter(|record| record["type"] == "second" || record["type"] == "gap")
        .map(|record| {
            assert_eq!((&record["stream"], &record["run"]), (&json!("own"), &json!(0)), "{record}");
            record["index"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(indexes, (0..indexes.len() as u64).collect::<Vec<_>>(), "a test disturbed a running stream");
}
