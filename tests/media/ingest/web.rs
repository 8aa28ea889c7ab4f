//! Cookies and logins of web servers, and proxies from the environment.

use touchline_core::cause::Cause;
use touchline_core::item::End;
use touchline_media::gst::GstOptions;

use super::all;
use super::guarded::{end, only_localhost};
use crate::common::http::HttpServer;
use crate::common::program::{self, touchline};
use crate::common::{Fixtures, free_tcp_port};

/// A recording of three seconds, also as an HLS playlist.
fn recording() -> Fixtures {
    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.playlist("vod.m3u8", &clip);
    dir
}

#[test]
fn cookies_and_logins_are_sent_as_servers_require() {
    let dir = recording();
    let server = HttpServer::start(dir.path());
    let login = |path: &str, password: &str| server.url(path).replace("://", &format!("://ann:{password}@"));
    for options in [only_localhost(), GstOptions { guard: None, ..only_localhost() }] {
        for url in [
            server.url("cookie/vod.m3u8"),
            login("digest/vod.m3u8", "geheim%26mehr"),
            login("digest/vod.mp4", "geheim&mehr"),
            login("private/vod.m3u8", "geheim"),
        ] {
            let received = all(&url, options.clone());
            assert_eq!((received.end.as_ref(), received.frames.len()), (Some(&End::Finished), 90), "{url}");
        }
        for url in [login("digest/vod.m3u8", "falsch"), server.url("private/vod.m3u8")] {
            match end(&url, options.clone()) {
                End::Failed { kind: Cause::NotAuthorized, .. } => {}
                other => panic!("{url}: {other:?}"),
            }
        }
    }
}

/// The program fetches without the proxy. Nothing listens at the proxy's port, so any use of it would fail.
#[test]
fn proxies_from_the_environment_are_ignored() {
    let dir = recording();
    let server = HttpServer::start(dir.path());
    let jsonl = dir.path().join("out.jsonl");
    let proxy = format!("http://127.0.0.1:{}", free_tcp_port());
    let mut run = touchline();
    run.args(["run", "--quiet", "--listen", "off", "--jsonl"]).arg(&jsonl);
    run.args(["vod.m3u8", "vod.mp4"].map(|path| server.url(path)));
    run.env("http_proxy", &proxy).env("https_proxy", &proxy).env("no_proxy", "other.example");
    let output = program::finish(&mut run);
    let records = std::fs::read_to_string(jsonl).unwrap();
    let seconds = records.lines().filter(|line| line.contains("\"type\":\"second\"")).count();
    assert_eq!((output.status.code(), seconds), (Some(0), 6), "{}", String::from_utf8_lossy(&output.stderr));
}
