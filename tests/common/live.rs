//! A running `touchline run`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::program::touchline;
use super::wait::until_some;

/// A running `touchline run` with its records.
pub struct Live {
    child: Child,
    pub jsonl: PathBuf,
    pub address: String,
}

impl Live {
    /// Watches `uris`, with the records in `dir`.
    pub fn start(dir: &Path, uris: &[String]) -> Self {
        Self::start_with(dir, "127.0.0.1", uris)
    }

    /// Listens on a free port of `host`; `arguments` are URIs and options.
    pub fn start_with(dir: &Path, host: &str, arguments: &[String]) -> Self {
        Self::start_by(touchline(), dir, host, arguments)
    }

    /// Like [`Live::start_with`], with a command whose last word is the program.
    pub fn start_by(mut program: Command, dir: &Path, host: &str, arguments: &[String]) -> Self {
        let jsonl = dir.join("live.jsonl");
        let port = super::free_tcp_port();
        let address = format!("{host}:{port}");
        let child = program
            .args(["run", "--quiet", "--linger", "--listen", &address, "--jsonl"])
            .arg(&jsonl)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        Self { child, jsonl, address: format!("127.0.0.1:{port}") }
    }

    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.jsonl).unwrap_or_default();
        // The last line may be incomplete.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the records satisfy `enough`.
    pub fn wait(&mut self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until_some("enough records", || {
            let records = self.records();
            assert!(self.child.try_wait().unwrap().is_none(), "the program ended early: {records:?}");
            enough(&records).then_some(records)
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by name, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM, as a service manager does. Returns the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal("TERM");
        let status = until_some("the exit of the program", || self.child.try_wait().unwrap());
        status.code().expect("it exits instead of being killed")
    }

    pub fn get(&self, path: &str) -> String {
        let mut answer = ureq::get(format!("http://{}{path}", self.address)).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Both fail after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The decided seconds of a stream.
pub fn seconds<'a>(records: &'a [Value], stream: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |r| r["type"] == "second" && r["stream"] == stream)
}
