//! The examples of the crates run as their documentation says.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::program::{self, finish};
use crate::common::skip::{Lacks, skip};
use crate::common::{Child, alone};

/// An example that cargo has built, which it does for `cargo test` without `--test`.
fn example(name: &str) -> Option<PathBuf> {
    let path = Path::new(program::path()).with_file_name("examples").join(name);
    if !path.is_file() {
        skip(Lacks::Tool, &format!("no {}; `cargo build --examples` builds it", path.display()));
        return None;
    }
    Some(path)
}

/// The output of an example. It runs in the project's directory, where the pack is.
fn output(name: &str, arguments: &[&str]) -> Option<String> {
    let path = example(name)?;
    let _one = alone();
    let mut command = Command::new(path);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let done = finish(&mut command);
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    Some(String::from_utf8(done.stdout).unwrap())
}

#[test]
fn embed_decides_its_seconds() {
    let Some(text) = output("embed", &[]) else { return };
    let seconds = text.lines().filter(|line| line.starts_with("second ") && line.contains("decided by")).count();
    assert_eq!(seconds, 3, "{text}");
}

#[test]
fn decide_prints_every_second_of_a_source() {
    let Some(text) = output("decide", &["testsrc://?seconds=3&width=64&height=48&fps=10"]) else { return };
    assert_eq!(text.lines().filter(|line| line.contains("decided by")).count(), 3, "{text}");
    assert!(text.lines().last().unwrap().trim_start().starts_with("all "), "{text}");
}

#[test]
fn sink_gets_the_records_of_a_run() {
    let Some(text) = output("sink", &["testsrc://?seconds=3&width=64&height=48&fps=10"]) else { return };
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("second,kind,class,probability"), "{text}");
    assert!(lines.all(|line| line.split(',').count() == 4), "{text}");
}

#[test]
fn own_source_is_opened_by_its_scheme() {
    let Some(text) = output("own_source", &["mypattern://?seconds=1"]) else { return };
    assert!(text.starts_with("opened: ") && text.ends_with("ended: Finished\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("picture ")).count(), 25, "{text}");
}

#[test]
fn live_py_follows_a_stream_until_it_is_removed() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|done| done.status.success()) {
        return skip(Lacks::Tool, "no python3");
    }
    let _one = alone();
    let dir = tempfile::tempdir().unwrap();
    let live = Live::start(dir.path(), &[]);
    wait_until_ready(&live.address);
    let stream = json!({ "id": "guest", "uri": "testsrc://?width=64&height=48&fps=10&audio=0" });
    assert_eq!(ask(&live.address, "POST", "/api/v1/streams", Some(&stream), &[]).status, 201);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/examples/live.py");
    let mut client = Command::new("python3");
    client.arg("-u").arg(script).args(["guest", &format!("http://{}", live.address)]);
    let mut client = Child(client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(client.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("guest: "));
    // Each second is one line. The output ends if the client fails.
    assert!(lines.any(|line| line.contains("this second: ")), "no second was printed");
    assert_eq!(ask(&live.address, "DELETE", "/api/v1/streams/guest", None, &[]).status, 204);
    assert_eq!(lines.last().as_deref(), Some("guest: removed"));
    assert!(client.0.wait().unwrap().success());
    assert_eq!(live.stop(), 0);
}
