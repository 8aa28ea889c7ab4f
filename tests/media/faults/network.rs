//! A network between the program and its sources that silently drops all packets: no connection is closed, and no address is
//! unreachable. The program runs in a network namespace of its own, joined to the servers by a bridge. The test detaches the
//! namespace's cable from the bridge.
//!
//! The test needs root and `ip` (Debian package iproute2) on a kernel with bridges. It is skipped elsewhere.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Fixtures;
use crate::common::live::{Live, seconds};
use crate::common::origin::Origin;
use crate::common::program;
use crate::common::rtsp::{Media, RtspServer};
use crate::common::skip::{Lacks, skip};
use crate::common::ts::TsSender;

/// The length of the outage, longer than every stall time.
const OUTAGE: Duration = Duration::from_secs(20);

/// A network namespace with one cable into it.
struct Network {
    name: String,
    host: String,
    guest: String,
}

impl Network {
    /// [`None`] after a reported skip where the machine does not allow it.
    fn new() -> Option<Self> {
        let id = std::process::id();
        // A /30 for each process, from the address block for benchmarks between networks (RFC 2544).
        let (third, fourth) = (id / 64 % 256, id % 64 * 4);
        let (host, guest) = (format!("198.18.{third}.{}", fourth + 1), format!("198.18.{third}.{}", fourth + 2));
        let network = Self { name: format!("tl{id}"), host, guest };
        let Self { name, host, guest } = &network;
        let steps = [
            format!("netns add {name}"),
            format!("link add {name}b type bridge"),
            format!("link add {name}h type veth peer name {name}g netns {name}"),
            format!("link set {name}h master {name}b"),
            format!("link set {name}h up"),
            format!("addr add {host}/30 dev {name}b"),
            format!("link set {name}b up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} addr add {guest}/30 dev {name}g"),
            format!("-n {name} link set {name}g up"),
        ];
        for step in &steps {
            if let Err(cause) = ip(step) {
                skip(Lacks::Privileges, &format!("ip {step}: {cause}"));
                return None;
            }
        }
        Some(network)
    }

    /// A command that runs the program in the namespace.
    fn program(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program::path()]).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env_remove("RUST_LOG").env_remove("TOUCHLINE_PACK");
        command
    }

    fn cut(&self) {
        ip(&format!("link set {}h nomaster", self.name)).expect("the cable exists");
    }

    fn mend(&self) {
        ip(&format!("link set {0}h master {0}b", self.name)).expect("the bridge exists");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // These fail for devices that were not created.
        let _ = ip(&format!("link del {}b", self.name));
        let _ = ip(&format!("link del {}h", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(step: &str) -> Result<(), String> {
    let output = Command::new("ip").args(step.split(' ')).output().map_err(|e| e.to_string())?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(error) }
}

#[test]
fn streams_recover_from_a_silent_network_outage() {
    let Some(network) = Network::new() else { return };
    let both = || Media::Test { video: true, audio: true };
    let (tcp, udp) = (RtspServer::start_at(&network.host, both()), RtspServer::start_at(&network.host, both()));
    let origin = Origin::start_at(&network.host);
    let (mut srt, mut push) = (TsSender::srt_at(&network.host), TsSender::udp_to(&network.guest));
    srt.start();
    push.start();
    let dir = Fixtures::new();
    let ids = ["rtsp-tcp", "rtsp-udp", "hls", "srt", "udp"];
    let config = dir.path().join("streams.toml");
    let stream = |id: &str, uri: &str, more: &str| format!("[[stream]]\nid = \"{id}\"\nuri = \"{uri}\"\n{more}\n");
    let text = stream(ids[0], &tcp.url(), "rtsp_transport = \"tcp\"")
        + &stream(ids[1], &udp.url(), "rtsp_transport = \"udp\"")
        + &stream(ids[2], &origin.url(), "")
        + &stream(ids[3], srt.url(), "")
        + &stream(ids[4], push.url(), "");
    std::fs::write(&config, text).unwrap();
    let arguments = ["--config".to_owned(), config.display().to_string(), "--retry".to_owned()];
    let mut live = Live::start_by(network.program(), dir.path(), "127.0.0.1", &arguments);

    live.wait(|records| ids.iter().all(|id| seconds(records, id).count() >= 3));
    network.cut();
    let from = live.records().len();
    let cut = Instant::now();
    let has_failed = |records: &[Value], id: &str| {
        records[from..].iter().any(|r| r["stream"] == id && r["type"] == "state" && r["state"] == "waiting")
    };
    live.wait(|records| ids.iter().all(|id| has_failed(records, id)) && cut.elapsed() > OUTAGE);
    network.mend();
    let mended = live.records().len();
    let records = live.wait(|records| ids.iter().all(|id| seconds(&records[mended..], id).count() >= 3));

    for id in ids {
        let own: Vec<&Value> = records.iter().filter(|r| r["stream"] == id).collect();
        let failure = own.iter().find(|r| r["state"] == "waiting").expect("`wait` found it");
        let kind = failure["kind"].as_str().unwrap_or_default();
        assert!(["stalled", "playlist-stalled", "no-answer", "ended"].contains(&kind), "{id}: {failure}");
        // Every second of a run is decided or a gap.
        let mut next = None;
        for r in own.iter().filter(|r| r["type"] == "second" || r["type"] == "gap") {
            let (run, index) = (r["run"].as_u64().unwrap(), r["index"].as_u64().unwrap());
            assert!(next.is_none_or(|(last, due)| run > last || index == due), "{id}: {r} after {next:?}");
            next = Some((run, index + 1));
        }
        let runs = own.iter().filter(|r| r["incident"] == "run-started").count();
        assert!(runs >= 1, "{id}: the recovered stream starts a run");
    }
    assert_eq!(live.stop(), 0);
}
