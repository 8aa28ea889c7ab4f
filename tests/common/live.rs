//! A running `touchline run`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;
use serde_json::Value;

use super::program::touchline;
use super::wait::until_some;

/// A running `touchline run` with its records.
pub struct Live {
    child: Child,
    pub jsonl: PathBuf,
    pub address: String,
    /// The records read so far.
    read: Mutex<(RecordReader, Vec<Value>)>,
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
        let read = Mutex::new((RecordReader::new(&jsonl), Vec::new()));
        Self { child, jsonl, address: format!("127.0.0.1:{port}"), read }
    }

    pub fn records(&self) -> Vec<Value> {
        self.with_records(<[Value]>::to_vec)
    }

    /// Waits until the records satisfy `enough`.
    pub fn wait(&mut self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until_some("enough records", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the program ended early: {:?}", self.records());
            self.with_records(|records| enough(records).then(|| records.to_vec()))
        })
    }

    /// Calls `f` with all records. Reads only those that are new since the last call.
    fn with_records<T>(&self, f: impl FnOnce(&[Value]) -> T) -> T {
        let (reader, records) = &mut *self.read.lock();
        records.extend(reader.read());
        f(records)
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

/// Reads the records that a program appends to a file.
pub struct RecordReader {
    path: PathBuf,
    /// The length of the lines read so far.
    at: u64,
}

impl RecordReader {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), at: 0 }
    }

    /// The records that are new since the last call; none while there is no file. An incomplete last line is left for the next call, and
    /// every other line must be a record.
    pub fn read(&mut self) -> Vec<Value> {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.at))
                .and_then(|_| file.read_to_end(&mut bytes))
                .expect("the file is readable");
        }
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        self.at += bytes.len() as u64;
        let text = String::from_utf8(bytes).expect("records are UTF-8");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

/// The decided seconds of a stream.
pub fn seconds<'a>(records: &'a [Value], stream: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |r| r["type"] == "second" && r["stream"] == stream)
}
