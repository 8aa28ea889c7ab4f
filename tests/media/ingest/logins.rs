//! Logins that GStreamer cannot answer, passwords as people write them, and what is no recording.

use std::sync::Arc;

use touchline_media::gst::GstOptions;
use touchline_media::guard::SourcePolicy;
use touchline_media::guard::SourcesFile;

use super::{failure, open, some, text};
use crate::common::Fixtures;
use crate::common::camera::{Camera, Habits};

const PASSWORD: &str = "p@ss#1/x?:é";

fn camera() -> Camera {
    Camera::start(Habits { login: Some(("ann".into(), PASSWORD.into())), ..Habits::default() })
}

fn tcp() -> GstOptions {
    GstOptions { rtsp_transport: "tcp".into(), ..GstOptions::default() }
}

#[test]
fn a_digest_of_sha_256_is_answered_with_the_password_as_it_stands() {
    let camera = camera();
    for login in [format!("ann:{PASSWORD}@"), "ann:p%40ss%231%2Fx%3F%3A%C3%A9@".into()] {
        let heard = some(&camera.url(&login), tcp(), 10, 0);
        assert_eq!((heard.frames[0].width, heard.frames[0].height), (160, 120));
    }
    let sources = SourcesFile { allow_addresses: vec!["127.0.0.1".into()], ..SourcesFile::default() };
    let guard = Some(Arc::new(SourcePolicy::new(&sources).unwrap()));
    some(&camera.url(&format!("ann:{PASSWORD}@")), GstOptions { guard, ..tcp() }, 10, 0);
}

#[test]
fn a_wrong_password_is_told_and_was_shown_once() {
    let camera = camera();
    let said = failure(&camera.url("ann:geheim@"), tcp());
    assert!(said.contains("not authorized (401)") && !said.contains("geheim"), "{said}");
    let shown = camera.requests().iter().filter(|request| request.contains("Digest ")).count();
    assert_eq!(shown, 1, "{:?}", camera.requests());
    // Nobody is asked for what there is not.
    let said = failure(&camera.url(""), tcp());
    assert!(said.contains("not authorized (401)"), "{said}");
}

#[test]
fn an_address_that_is_not_clear_goes_nowhere() {
    let said = failure("rtsp://ann:p@ss/word@127.0.0.1/live", GstOptions::default());
    assert!(said.contains("%40") && !said.contains("ss/word"), "{said}");
}

#[test]
fn a_fifo_a_socket_and_a_device_are_refused_at_once() {
    let dir = Fixtures::new();
    let fifo = dir.path().join("pipe.ts");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = dir.path().join("socket.ts");
    let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let sources = SourcesFile { folders: vec![dir.path().to_owned()], ..SourcesFile::default() };
    let guard = Arc::new(SourcePolicy::new(&sources).unwrap());
    for path in [&fifo, &socket] {
        let refused = open(text(path), GstOptions::default()).err().expect("it is refused").to_string();
        assert!(refused.contains("FIFO"), "{refused}");
        let refused = guard.check(text(path)).unwrap_err().to_string();
        assert!(refused.contains("FIFO"), "{refused}");
        let said = failure(text(path), GstOptions { guard: Some(guard.clone()), ..GstOptions::default() });
        assert!(said.contains("FIFO"), "{said}");
    }
    let refused = open("/dev/zero", GstOptions::default()).err().expect("it is refused").to_string();
    assert!(refused.contains("device"), "{refused}");
}
