//! `touchline fleet score`: recordings that machines score, from folders and from an S3 server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::FleetBench;
use crate::archive::scored;
use crate::common::live::Live;
use crate::common::program::{finish, python, touchline};
use crate::common::wait::{until, until_some};
use crate::common::{Child, Fixtures, alone, free_tcp_port};

/// A secret that must not be found anywhere.
const SECRET: &str = "pl4nt-of-the-store";

impl FleetBench {
    /// Starts a machine that can open the stores of `variables`.
    fn run_with(&mut self, node: &'static str, variables: &[(&str, String)]) {
        let folder = self.folder.path().join(node);
        std::fs::create_dir_all(&folder).unwrap();
        let spool = folder.join("spool").display().to_string();
        let url = self.nats.url();
        let arguments = ["--fleet", &url, "--node", node, "--capacity", "100000", "--fleet-spool", &spool];
        let mut program = touchline();
        program.envs(variables.iter().map(|(name, value)| (*name, value.clone())));
        self.names.insert(node);
        self.nodes.insert(node, Live::start_by(program, &folder, "127.0.0.1", &arguments.map(str::to_owned)));
    }

    /// Runs `touchline fleet score`.
    pub(super) fn score(&self, arguments: &[&str], variables: &[(&str, String)]) -> String {
        let mut command = touchline();
        command.args(["fleet", "--fleet", &self.nats.url(), "score"]).args(arguments);
        command.envs(variables.iter().map(|(name, value)| (*name, value.clone())));
        let output = finish(&mut command);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn job(&self, name: &str) -> Value {
        let text = self.score(&["status", name, "--json"], &[]);
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    }

    /// Waits until every recording of a job is done or set aside.
    pub(super) fn wait_for_job(&self, name: &str) -> Value {
        until_some("the end of the job", || {
            let job = self.job(name);
            (job["running"] == 0 && job["waiting"] == 0).then_some(job)
        })
    }

    fn metric(&self, node: &str, name: &str) -> f64 {
        let text = self.nodes[node].get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A clip of `seconds` at five pictures a second, with a key picture every second.
pub(super) fn clip(fixtures: &Fixtures, name: &str, seconds: u32) -> PathBuf {
    let arguments = format!(
        "-f lavfi -i testsrc2=size=96x54:rate=5:duration={seconds} -f lavfi -i sine=frequency=440:duration={seconds} \
         -c:v libx264 -preset ultrafast -g 5 -pix_fmt yuv420p -c:a aac"
    );
    fixtures.make(name, &arguments)
}

/// The processes of a machine that work on recordings.
fn workers(node: u32) -> Vec<u32> {
    let listed = Command::new("ps").args(["-o", "pid=", "--ppid", &node.to_string()]).output().unwrap();
    let all = String::from_utf8(listed.stdout).unwrap();
    let is_worker = |pid: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains("archive-worker")
    };
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_worker).collect()
}

#[test]
fn a_part_of_a_machine_that_is_killed_is_scored_by_another() {
    let _alone = alone();
    let Some(mut bench) = FleetBench::start(&["a"]) else { return };
    let fixtures = Fixtures::new();
    let path = clip(&fixtures, "long.mp4", 150);
    let results = bench.folder.path().join("results");
    let source = path.to_str().unwrap();
    let submit = ["submit", source, "--name", "j", "--results", results.to_str().unwrap(), "--part-seconds", "60"];
    assert!(bench.score(&submit, &[]).contains("1 recordings are queued, 0 were known"));
    until("a part to be decided", || {
        let job = bench.job("j");
        let works = job["working"].as_array().unwrap().iter().any(|part| part["part"].as_u64() > Some(0));
        works && bench.metric("a", "touchline_archive_scored_seconds_total") > 3.0
    });
    let processes = workers(bench.nodes["a"].pid());
    assert!(!processes.is_empty(), "parts are worked on by processes");
    let nice = std::fs::read_to_string(format!("/proc/{}/stat", processes[0])).unwrap();
    assert_eq!(nice.rsplit(") ").next().unwrap().split(' ').nth(16), Some("19"), "{nice}");
    bench.nodes["a"].signal("KILL");
    until("the end of its processes", || {
        processes.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(*pid))
    });
    bench.run("b");
    let job = bench.wait_for_job("j");
    assert_eq!((&job["done"], &job["set_aside"]), (&1.into(), &Value::Array(Vec::new())), "{job}");
    let name = source.trim_start_matches('/');
    let records = std::fs::read_to_string(results.join("j").join(format!("{name}.jsonl"))).unwrap();
    assert_eq!(records, scored(source, fixtures.path()));
    assert!(results.join("j").join(format!("{name}.parquet")).is_file());
    assert!(bench.metric("b", "touchline_archive_parts_total{end=\"lost\"}") >= 1.0);
    // The same again is known, and nothing is scored twice.
    let before = bench.metric("b", "touchline_archive_scored_seconds_total");
    assert!(bench.score(&submit, &[]).contains("0 recordings are queued, 1 were known"));
    let other = clip(&fixtures, "short.mp4", 5);
    let more = ["submit", other.to_str().unwrap(), "--name", "k", "--results", results.to_str().unwrap()];
    bench.score(&more, &[]);
    bench.wait_for_job("k");
    assert_eq!(bench.metric("b", "touchline_archive_scored_seconds_total") - before, 5.0);
    assert_eq!(bench.nodes.remove("b").unwrap().stop(), 0);
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z') || rest.is_empty())
}

/// An S3 server with the bucket `media`.
struct Store {
    python: PathBuf,
    port: u16,
    _server: Child,
}

impl Store {
    fn start() -> Option<Self> {
        let python = python("boto3, flask, moto.server")?;
        let port = free_tcp_port();
        let mut command = Command::new(&python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let store = Self { python, port, _server: Child(server) };
        until("the S3 server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        store.python("s3.create_bucket(Bucket='media')", &[]);
        Some(store)
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "archive".into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ]
    }

    /// Runs Python with the client `s3`. Returns what it prints.
    fn python(&self, code: &str, arguments: &[&str]) -> String {
        let client = format!(
            "import boto3, sys\ns3 = boto3.client('s3', endpoint_url='http://127.0.0.1:{}', region_name='us-east-1', \
             aws_access_key_id='archive', aws_secret_access_key='{SECRET}')\n{code}",
            self.port
        );
        let output = Command::new(&self.python).args(["-c", &client]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn put(&self, key: &str, path: &Path) {
        self.python("s3.upload_file(sys.argv[1], 'media', sys.argv[2])", &[path.to_str().unwrap(), key]);
    }

    fn keys(&self) -> String {
        self.python("print('\\n'.join(o['Key'] for o in s3.list_objects_v2(Bucket='media')['Contents']))", &[])
    }

    fn get(&self, key: &str) -> String {
        self.python("print(s3.get_object(Bucket='media', Key=sys.argv[1])['Body'].read().decode(), end='')", &[key])
    }
}

#[test]
fn recordings_of_an_s3_store_are_scored_there_and_a_broken_one_is_set_aside() {
    let _alone = alone();
    let Some(store) = Store::start() else { return };
    let Some(mut bench) = FleetBench::start(&[]) else { return };
    let fixtures = Fixtures::new();
    let (short, long) = (clip(&fixtures, "short.mp4", 6), clip(&fixtures, "long.mp4", 45));
    let broken = fixtures.path().join("broken.mp4");
    std::fs::write(&broken, vec![7; 20_000]).unwrap();
    for (key, path) in [("in/a b.mp4", &short), ("in/long.mp4", &long), ("in/broken.mp4", &broken)] {
        store.put(key, path);
    }
    store.put("in/notes.txt", &broken);
    let variables = store.variables();
    let submit = ["submit", "s3://media/in", "--name", "tv", "--results", "s3://media/out", "--part-seconds", "15"];
    assert!(bench.score(&submit, &variables).contains("3 recordings are queued, 0 were known"));
    assert!(bench.score(&submit, &variables).contains("0 recordings are queued, 3 were known"));
    bench.run_with("a", &variables);
    bench.run_with("b", &variables);
    let job = bench.wait_for_job("tv");
    assert_eq!((&job["done"], &job["seconds"]), (&2.into(), &51.into()), "{job}");
    assert_eq!(job["set_aside"][0]["recording"], "s3://media/in/broken.mp4", "{job}");
    let reason = job["set_aside"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("s3://media/in/broken.mp4") && !reason.contains("spool"), "{job}");
    for (key, path) in [("media/in/a b.mp4", &short), ("media/in/long.mp4", &long)] {
        let path = path.to_str().unwrap();
        let name = format!("\"stream\":\"s3://{key}\"");
        let expected = scored(path, fixtures.path()).replace(&format!("\"stream\":\"{path}\""), &name);
        let keys = store.keys();
        let key = keys.lines().find(|found| found.starts_with("out/tv/") && found.ends_with(&format!("{key}.jsonl")));
        assert_eq!(store.get(key.unwrap_or_else(|| panic!("{keys}"))), expected);
    }
    let keys = store.keys();
    assert_eq!(keys.lines().filter(|key| key.ends_with(".parquet")).count(), 2, "{keys}");
    assert!(!keys.contains("/parts/"), "the decided seconds of parts are removed: {keys}");
    // Nothing has the login: not the jobs, not the results.
    let table = bench.score(&["status"], &[]);
    assert!(table.contains("broken.mp4") && !table.contains(SECRET), "{table}");
    assert!(!store.get("out/tv/job.json").contains(SECRET));
    assert!(!found_in(bench.folder.path(), SECRET.as_bytes()));
    // Corrected in place, it is another recording; tried again, it is still broken.
    assert!(bench.score(&["retry", "tv"], &[]).contains("1 recordings are queued again"));
    let job = bench.wait_for_job("tv");
    assert_eq!(job["set_aside"].as_array().map(Vec::len), Some(1), "{job}");
    bench.score(&["cancel", "tv"], &[]);
    assert_eq!(bench.job("tv")["is_cancelled"], true);
}

/// Whether a file below `folder` has `bytes`: the store of NATS and the spools of machines.
fn found_in(folder: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().any(|path| match path.is_dir() {
        true => found_in(&path, bytes),
        false => std::fs::read(&path).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes),
    })
}
