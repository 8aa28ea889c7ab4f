//! The Python client in `deploy/clients/python`, whose own tests run against the program.

use std::path::Path;
use std::process::Command;

use crate::common::alone;
use crate::common::api::wait_until_ready;
use crate::common::live::Live;
use crate::common::program::{finish, touchline};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::skip::{Lacks, skip};

const TOKEN: &str = "a-token-of-the-tests-of-the-client";

#[test]
fn the_tests_of_the_python_client_pass() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|done| done.status.success()) {
        return skip(Lacks::Tool, "no python3");
    }
    let _one = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut program = touchline();
    program.env("TOUCHLINE_ADMIN_TOKEN", TOKEN);
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let config = dir.path().join("touchline.toml");
    let sink = format!(
        "[[sink]]\nname = \"desk\"\nkind = \"exec\"\ncommand = [\"true\"]\nspool = \"{}\"\n",
        dir.path().display()
    );
    let stream = format!("[[stream]]\nid = \"recorded\"\nuri = \"{}\"\n", server.url());
    std::fs::write(&config, stream + &sink).unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let arguments = [
        format!("--state={}", place("state.db")),
        format!("--record-dir={}", place("media")),
        format!("--config={}", config.display()),
        "--rtsp-transport=tcp".to_owned(),
    ];
    let live = Live::start_by(program, dir.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/clients/python");
    let mut tests = Command::new("python3");
    tests.args(["-B", "tests/test_client.py"]).current_dir(&folder).env("PYTHONPATH", &folder);
    tests.env("TOUCHLINE_URL", format!("http://{}", live.address)).env("TOUCHLINE_TOKEN", TOKEN);
    let output = finish(&mut tests);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.contains("Ran 13 tests"), "{report}");
    assert_eq!(live.stop(), 0);
}
