//! `[[sink]]`: eight streams while every receiver stalls, an outage, `kill -9`, and the delivery of everything after it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::common::live::{Live, seconds};
use crate::common::program::{finish, touchline};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::skip::{Lacks, skip};
use crate::common::wait::until;
use crate::common::{Child, Fixtures, free_tcp_port};

const SINKS: [&str; 4] = ["web", "hook", "home", "bus"];

/// A server that accepts connections and never answers.
fn stalled() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Answers each request of `listener` with 204, and keeps the bodies.
fn receive(listener: TcpListener) -> Arc<Mutex<Vec<Value>>> {
    let bodies = Arc::<Mutex<Vec<Value>>>::default();
    let kept = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = kept.clone();
            std::thread::spawn(move || serve(&stream, &kept));
        }
    });
    bodies
}

fn serve(stream: &TcpStream, kept: &Mutex<Vec<Value>>) {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        kept.lock().push(serde_json::from_slice(&body).unwrap());
        if writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
            return;
        }
    }
}

fn configuration(folder: &Path, [web, home, bus]: [u16; 3], streams: &str) -> String {
    let spool = folder.join("spool").display().to_string();
    let script = "while [ -e $1/stalled ]; do sleep 1; done; cat >> $1/hook.jsonl";
    format!(
        "instance = \"watcher\"\n{streams}\n\
         [[sink]]\nname = \"web\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{web}/\"\nspool = \"{spool}\"\n\
         [[sink]]\nname = \"hook\"\nkind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\", \"hook\", \"{}\"]\nspool = \"{spool}\"\n\
         timeout_s = 600\n\
         [[sink]]\nname = \"home\"\nkind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{home}\"\nspool = \"{spool}\"\nhome_assistant = true\n\
         [[sink]]\nname = \"bus\"\nkind = \"nats\"\nurl = \"nats://127.0.0.1:{bus}\"\nspool = \"{spool}\"\nnats_stream = \"TOUCHLINE\"\n",
        folder.display(),
    )
}

/// The program without streams: it delivers the contents of the spools.
fn deliver(config: &Path, listen: &str) -> Child {
    let mut command = touchline();
    command.args(["run", "--quiet", "--listen", listen, "--config"]).arg(config);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Child(child)
}

/// What `GET /api/v1/sinks` shows of a sink; null while the server does not answer.
fn status(listen: &str, sink: usize) -> Value {
    let answer = ureq::get(format!("http://{listen}/api/v1/sinks")).call();
    let body = answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok()).unwrap_or_default();
    let all: Value = serde_json::from_str(&body).unwrap_or_default();
    all["sinks"][sink].clone()
}

/// The records in events, without those that were delivered before.
fn records(events: &[Value]) -> Vec<&Value> {
    let mut seen = std::collections::HashSet::new();
    events.iter().filter(|event| seen.insert(event["id"].to_string())).map(|event| &event["data"]).collect()
}

#[test]
fn stalled_receivers_delay_nothing_and_get_everything_later() {
    let servers = ["/usr/sbin/mosquitto", "/usr/sbin/nats-server"];
    if let Some(missing) = servers.iter().find(|path| !Path::new(path).is_file()) {
        return skip(Lacks::Tool, &format!("no {missing}"));
    }
    let _alone = crate::common::alone();
    let media = Fixtures::new();
    let clip = media.clip("clip.mp4", 3);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (config, jsonl, stall) = (folder.join("touchline.toml"), folder.join("all.jsonl"), folder.join("stalled"));
    fs::write(&stall, "").unwrap();
    let (web, home, bus) = (stalled(), stalled(), stalled());
    let ports = [&web, &home, &bus].map(|listener| listener.local_addr().unwrap().port());
    let stream = |n: usize| format!("[[stream]]\nid = \"court-{n}\"\nuri = \"{}\"\n", clip.display());
    fs::write(&config, configuration(folder, ports, &(0..8).map(stream).collect::<String>())).unwrap();
    let mut command = touchline();
    command.args(["run", "--quiet", "--listen", "off", "--jsonl"]).arg(&jsonl).arg("--config").arg(&config);
    let output = finish(&mut command);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let written = fs::read_to_string(&jsonl).unwrap();
    let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seconds = written.iter().filter(|record| record["type"] == "second").count();
    assert_eq!((seconds, written.iter().filter(|record| record["type"] == "gap").count()), (24, 0), "{log}");
    for sink in SINKS {
        let waiting = format!("{sink}.spool: {} records wait for the next start", written.len());
        assert!(log.contains(&waiting), "no {waiting:?} in {log}");
    }

    // The receivers work again, on the same ports.
    drop((web, home, bus));
    fs::remove_file(&stall).unwrap();
    fs::write(&config, configuration(folder, ports, "")).unwrap();
    let received = receive(TcpListener::bind(("127.0.0.1", ports[0])).unwrap());
    let broker = folder.join("mosquitto.conf");
    fs::write(&broker, format!("user root\nlistener {} 127.0.0.1\nallow_anonymous true\n", ports[1])).unwrap();
    let start = |command: &mut Command| Child(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let _broker = start(Command::new(servers[0]).arg("-c").arg(&broker));
    let port = ports[2].to_string();
    let _server =
        start(Command::new(servers[1]).args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"]).arg(folder.join("js")));
    let listen = format!("127.0.0.1:{}", free_tcp_port());
    let first = deliver(&config, &listen);
    until("the first deliveries", || received.lock().len() > 5);
    // SIGKILL.
    drop(first);
    let listen = format!("127.0.0.1:{}", free_tcp_port());
    let _second = deliver(&config, &listen);
    for (number, sink) in SINKS.iter().enumerate() {
        until(&format!("the delivery by {sink}"), || status(&listen, number)["waiting"] == 0);
        let shown = status(&listen, number);
        assert_eq!(shown["lost"], serde_json::json!({ "overflow": 0, "refused": 0, "damaged": 0 }), "{sink}");
    }
    let expected: Vec<&Value> = written.iter().collect();
    assert_eq!(records(&received.lock()), expected, "by webhook");
    let hook = fs::read_to_string(folder.join("hook.jsonl")).unwrap();
    let hook: Vec<Value> = hook.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records(&hook), expected, "by program");
}

/// Eight live streams with a ring and an output, while no receiver takes anything.
#[test]
fn live_streams_are_decided_while_every_receiver_stalls() {
    let _alone = crate::common::alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("stalled"), "").unwrap();
    let (web, home, bus, picture) = (stalled(), stalled(), stalled(), stalled());
    let ports = [&web, &home, &bus].map(|listener| listener.local_addr().unwrap().port());
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let output = format!("rtmp://127.0.0.1:{}/live/key", picture.local_addr().unwrap().port());
    // Key pictures alone, so that eight streams are little work. Only one has an output: its pictures are encoded.
    let stream = |n: usize| {
        let output = if n == 0 { format!("output = \"{output}\"\n") } else { String::new() };
        format!("[[stream]]\nid = \"court-{n}\"\nuri = \"{}\"\n{output}", server.url())
    };
    let streams: String = (0..8).map(stream).collect();
    let record = format!("[record]\ndir = {:?}\n", folder.join("media"));
    let text = format!("rtsp_transport = \"tcp\"\ntier = \"key\"\n{}{record}", configuration(folder, ports, &streams));
    let config = folder.join("touchline.toml");
    fs::write(&config, text).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut program = touchline();
    program.stderr(log);
    let arguments = ["--config".to_owned(), config.display().to_string()];
    let mut live = Live::start_by(program, folder, "127.0.0.1", &arguments);
    live.wait(|records| (0..8).all(|n| seconds(records, &format!("court-{n}")).count() >= 15));
    until("an attempt of each sink", || (0..SINKS.len()).all(|n| !status(&live.address, n)["waiting"].is_null()));
    let metrics = live.get("/metrics");
    let dropped = "touchline_sink_dropped_records_total";
    let lost: Vec<&str> = metrics.lines().filter(|line| line.starts_with(dropped) && !line.ends_with(" 0")).collect();
    assert!(lost.is_empty() && metrics.contains(dropped), "{lost:?}");
    let jsonl = live.jsonl.clone();
    assert_eq!(live.stop(), 0);
    let written = fs::read_to_string(jsonl).unwrap().lines().count();
    let log = fs::read_to_string(folder.join("log")).unwrap();
    for sink in SINKS {
        let waiting = format!("{sink}.spool: {written} records wait for the next start");
        assert!(log.contains(&waiting), "no {waiting:?} in {log}");
    }
}

#[test]
fn config_check_finds_mistakes_of_sinks() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("t.toml");
    let sink = |name: &str, rest: &str| format!("[[sink]]\nname = \"{name}\"\nspool = \"/s\"\nkind = {rest}\n");
    let text = sink("a", "\"webhook\"")
        + &sink("a", "\"webhook\"\nurl = \"https://h.example/\"\nsecret_file = \"/nowhere\"")
        + &sink("b", "\"mqtt\"\nurl = \"mqtt://ann:pl4nt-pw@h\"");
    fs::write(&config, text).unwrap();
    let output = finish(touchline().args(["config", "check"]).arg(&config));
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    for line in
        ["t.toml:1: url: the sink has no address", "t.toml:6: name: ", "t.toml:15: url: the address contains a login"]
    {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(!log.contains("pl4nt"), "{log}");
    fs::write(&config, sink("a", "\"webhook\"\nurl = \"https://h.example/\"\nsecret_file = \"/nowhere\"")).unwrap();
    let output = finish(touchline().args(["config", "check"]).arg(&config));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("t.toml:6: secret_file: /nowhere: cannot read the secret"), "{log}");
}
