//! Logins that GStreamer does not support, passwords with special characters, and files that are not recordings.

use std::sync::Arc;

use touchline_media::gst::GstOptions;
use touchline_media::guard::SourcePolicy;
use touchline_media::guard::SourcesFile;

use super::{failure, open, some, text};
use crate::common::Fixtures;
use crate::common::camera::{Camera, CameraOptions};

const PASSWORD: &str = "p@ss#1/x?:é";

fn camera() -> Camera {
    Camera::start(CameraOptions { login: Some(("ann".into(), PASSWORD.into())), ..CameraOptions::default() })
}

fn tcp() -> GstOptions {
    GstOptions { rtsp_transport: "tcp".into(), ..GstOptions::default() }
}

#[test]
fn a_digest_login_with_sha_256_accepts_raw_and_encoded_passwords() {
    let camera = camera();
    for login in [format!("ann:{PASSWORD}@"), "ann:p%40ss%231%2Fx%3F%3A%C3%A9@".into()] {
        let received = some(&camera.url(&login), tcp(), 10, 0);
        assert_eq!((received.frames[0].width, received.frames[0].height), (160, 120));
    }
    let sources = SourcesFile { allow_addresses: vec!["127.0.0.1".into()], ..SourcesFile::default() };
    let guard = Some(Arc::new(SourcePolicy::new(&sources).unwrap()));
    some(&camera.url(&format!("ann:{PASSWORD}@")), GstOptions { guard, ..tcp() }, 10, 0);
}

#[test]
fn a_wrong_password_is_sent_once_and_reported() {
    let camera = camera();
    let message = failure(&camera.url("ann:geheim@"), tcp());
    assert!(message.contains("not authorized (401)") && !message.contains("geheim"), "{message}");
    let logins = camera.requests().iter().filter(|request| request.contains("Digest ")).count();
    assert_eq!(logins, 1, "{:?}", camera.requests());
    // The same without a login.
    let message = failure(&camera.url(""), tcp());
    assert!(message.contains("not authorized (401)"), "{message}");
}

#[test]
fn an_ambiguous_uri_is_refused() {
    let message = failure("rtsp://ann:p@ss/word@127.0.0.1/live", GstOptions::default());
    assert!(message.contains("%40") && !message.contains("ss/word"), "{message}");
}

#[test]
fn fifos_sockets_and_devices_are_refused() {
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
        let message = failure(text(path), GstOptions { guard: Some(guard.clone()), ..GstOptions::default() });
        assert!(message.contains("FIFO"), "{message}");
    }
    let refused = open("/dev/zero", GstOptions::default()).err().expect("it is refused").to_string();
    assert!(refused.contains("device"), "{refused}");
}
