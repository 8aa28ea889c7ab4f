//! Planted passwords, keys and tokens. The program runs with secrets in every place that accepts one, against working
//! and failing servers, with every log on. None of them may appear in its output.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::common::http::HttpServer;
use crate::common::program::{finish, touchline};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::wait::until;
use crate::common::{Child, Fixtures, free_tcp_port, program};

/// Part of every secret.
const MARKER: &str = "pl4nt";

/// The login `ann:pl4nt` in base64, as in a header.
const ENCODED_MARKER: &str = "YW5uOnBsNG50";

/// The text around each secret in `text`, labelled with `origin`.
fn leaks(origin: &str, text: &str) -> Vec<String> {
    let places = [MARKER, ENCODED_MARKER].into_iter().flat_map(|secret| text.match_indices(secret));
    let around = |at: usize| {
        let from = text[..at].rfind('\n').map_or(0, |n| n + 1).max(at.saturating_sub(200));
        text.get(from..(at + 60).min(text.len())).unwrap_or_default().to_owned()
    };
    places.map(|(at, _)| format!("{origin}: {}", around(at))).collect()
}

/// The answer to a GET of `path` with its headers, read until the server is silent for a second. Live answers do not
/// end.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let token = "Authorization: Bearer pl4nt-admin-0123456789";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{token}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_output_contains_a_secret() {
    let _alone = crate::common::alone();
    let media = Fixtures::new();
    let clip = media.clip("vod.mp4", 6);
    media.playlist("vod.m3u8", &clip);
    let web = HttpServer::start(media.path());
    let rtsp = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "pl4nt-rtsp");
    let (closed, dir) = (free_tcp_port(), tempfile::tempdir().unwrap());
    let login = |url: String, secret: &str| url.replace("://", &format!("://ann:pl4nt-{secret}@"));
    let uris = [
        format!("hls={}?token=pl4nt-query-1", login(web.url("private/vod.m3u8"), "hls%21x")),
        format!("mp4={}?sig=pl4nt-query-2#pl4nt-fragment", login(web.url("private/vod.mp4"), "mp4")),
        format!("camera={}", login(rtsp.url(), "rtsp")),
        format!("wrong={}", login(rtsp.url(), "wrong")),
        format!("refused=rtsp://ann:pl4nt-refused@127.0.0.1:{closed}/live?key=pl4nt-query-3"),
        format!("tls=rtsps://ann:pl4nt-rtsps@127.0.0.1:{}/live", web.port()),
        format!("https=https://ann:pl4nt-https@127.0.0.1:{}/a.m3u8?t=pl4nt-query-4", web.port()),
        format!("none={}", login(web.url("none.m3u8"), "none")),
        "unknown=http://ann:pl4nt-unknown@host.invalid/a.m3u8?k=pl4nt-query-5".to_owned(),
        // Characters that are not percent-encoded.
        format!("raw=rtsp://ann:a@pl4nt#1/pl4nt?:pl4nt@127.0.0.1:{closed}/live"),
        format!("rtmp=rtmp://127.0.0.1:{closed}/app/pl4nt-stream-key"),
        format!("srt=srt://127.0.0.1:{closed}?mode=caller&passphrase=pl4nt-passphrase&streamid=pl4nt-stream-id"),
    ];
    let listen = format!("127.0.0.1:{}", free_tcp_port());
    let config = dir.path().join("touchline.toml");
    let password = dir.path().join("password");
    std::fs::write(&password, "pl4nt-password\n").unwrap();
    let sink = |kind: &str, scheme: &str, rest: &str| {
        let spool = dir.path().join("spool").display().to_string();
        let url = format!("{scheme}://127.0.0.1:{closed}");
        format!("[[sink]]\nname = \"{kind}\"\nkind = \"{kind}\"\nspool = \"{spool}\"\nurl = \"{url}{rest}\n")
    };
    let login = format!("\"\nuser = \"ann\"\nsecret_file = \"{}\"", password.display());
    let file = "[[stream]]\nid = \"file\"\nuri = \"rtsp://ann:pl4nt-config@127.0.0.1:1/x\"\n".to_owned()
        + &sink("webhook", "http", "/pl4nt-path?key=pl4nt-query-6\"\nsecret_env = \"SINK_KEY\"")
        + &sink("mqtt", "mqtt", &login)
        + &sink("nats", "nats", &login)
        + &if cfg!(feature = "kafka") { sink("kafka", "kafka", &login) } else { String::new() };
    std::fs::write(&config, file).unwrap();
    let read_token = dir.path().join("read.token");
    std::fs::write(&read_token, "pl4nt-reader-0123456789\n").unwrap();
    let (out, err, jsonl) = (dir.path().join("out"), dir.path().join("err"), dir.path().join("all.jsonl"));
    let mut child = touchline()
        .args(["run", "--retry", "--linger", "--listen", &listen, "--jsonl"])
        .arg(&jsonl)
        .arg("--config")
        .arg(&config)
        .arg("--read-token-file")
        .arg(&read_token)
        .args(&uris)
        .env("TOUCHLINE_ADMIN_TOKEN", "pl4nt-admin-0123456789")
        .env("SINK_KEY", "pl4nt-key-0123456789abcdef")
        .env("RUST_LOG", "debug")
        .env("GST_DEBUG", "*:4,souphttpsrc:6,rtspsrc:6,hlsdemux2:6,rtmp2src:6,srtsrc:6,GST_URI:6")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .map(Child)
        .unwrap();
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    // Waits until every stream was tried and the working ones have decided seconds.
    let all_tried = |records: &str| {
        let has = |stream: &str, kind: &str| {
            records.lines().any(|l| l.contains(&format!("\"stream\":\"{stream}\"")) && l.contains(kind))
        };
        ["hls", "mp4", "camera"].iter().all(|s| has(s, "\"type\":\"second\""))
            && ["wrong", "refused", "tls", "https", "none", "unknown", "raw", "rtmp", "srt", "file"]
                .iter()
                .all(|s| has(s, "\"state\":\"waiting\"") || has(s, "\"state\":\"failed\""))
    };
    until("an attempt of every stream", || {
        assert!(child.0.try_wait().unwrap().is_none(), "{}", text(&jsonl));
        all_tried(&text(&jsonl))
    });
    let mut found = Vec::new();
    let mut paths = [
        "/",
        "/api/v1/info",
        "/api/v1/streams",
        "/api/v1/pack",
        "/api/v1/schema",
        "/api/v1/session",
        "/api/v1/config",
        "/api/v1/sinks",
        "/api/v1/openapi.json",
    ]
    .map(String::from)
    .to_vec();
    paths.extend(["/metrics", "/healthz", "/readyz", "/nowhere", "/api/v1/streams/none/x"].map(String::from));
    for id in
        ["hls", "mp4", "camera", "wrong", "refused", "tls", "https", "none", "unknown", "raw", "rtmp", "srt", "file"]
    {
        paths.extend(["", "/live", "/preview?single=1"].map(|rest| format!("/api/v1/streams/{id}{rest}")));
    }
    let mut successes = 0;
    for path in &paths {
        let answer = get(&listen, path);
        // The server waits for a picture longer than this client does.
        assert!(answer.starts_with("HTTP/1.1 ") || path.contains("preview"), "{path}: {answer:?}");
        successes += usize::from(answer.starts_with("HTTP/1.1 200"));
        found.extend(leaks(path, &answer));
    }
    assert!(successes > 30, "only {successes} of {} paths answered with 200", paths.len());
    assert!(std::process::Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
    child.0.wait().unwrap();
    for (origin, path) in [("stdout", &out), ("stderr", &err), ("jsonl", &jsonl)] {
        found.extend(leaks(origin, &text(path)));
    }
    let log = text(&err);
    assert!(log.contains("souphttpsrc") && log.contains("rtspsrc"), "GStreamer's log is off");
    assert!(log.matches("***").count() > 20, "the log has too few masked secrets");
    found.truncate(20);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn startup_errors_contain_no_secret() {
    let closed = free_tcp_port();
    for uri in [
        "gopher://ann:pl4nt-scheme@h/x?key=pl4nt-query".to_owned(),
        "rtsp://ann:pl4nt-port@h:notaport/x".to_owned(),
        "rtsp://ann:a@pl4nt/pl4nt@127.0.0.1/live".to_owned(),
        "rtsp://ann:1234/pl4nt@h/live".to_owned(),
        format!("http://ann:pl4nt-http@127.0.0.1:{closed}/a.m3u8?key=pl4nt-query"),
        format!("rtmp://127.0.0.1:{closed}/app/pl4nt-key"),
        "/nowhere/file.mp4".to_owned(),
    ] {
        let mut command = touchline();
        command.args(["run", "--listen", "off"]).arg(&uri).env("RUST_LOG", "debug");
        let output = finish(&mut command);
        assert!(!output.status.success());
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(leaks(&uri, &text), Vec::<String>::new());
    }
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "pl4nt-short").unwrap();
    let mut command = touchline();
    command.args(["run", "testsrc://", "--pack"]).arg(program::pack()).arg("--admin-token-file").arg(&token);
    let output = finish(&mut command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), leaks("token", &text)), (Some(2), Vec::new()), "{text}");
    assert!(text.contains("shorter than 16"), "{text}");
}
