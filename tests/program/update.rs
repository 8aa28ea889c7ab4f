//! Pack updates of the running program: by request, by signal, from a watched directory; refused packs; the shadow.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::Fixtures;
use crate::common::live::{Live, seconds};
use crate::common::program;
use crate::common::wait::until;
use parking_lot::MutexGuard;
use serde_json::{Value, json};
use touchline_compute::models::sha256_hex;

/// A folder with packs and a recording of two minutes.
struct Stage {
    _one: MutexGuard<'static, ()>,
    fixtures: Fixtures,
    clip: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let one = crate::common::alone();
        let fixtures = Fixtures::new();
        let clip = fixtures.clip("court.mp4", 120);
        let stage = Self { _one: one, fixtures, clip };
        stage.pack("first", |text| text);
        stage
    }

    fn root(&self) -> PathBuf {
        self.fixtures.path().join("packs")
    }

    /// A copy of the shipped pack with another name and a changed manifest.
    fn pack(&self, name: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let dir = self.root().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for entry in std::fs::read_dir(program::pack()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
            }
        }
        let text = std::fs::read_to_string(program::pack().join("pack.toml")).unwrap();
        let text = text.replacen("name = \"compact\"", &format!("name = \"{name}\""), 1);
        std::fs::write(dir.join("pack.toml"), change(text)).unwrap();
        dir
    }

    /// Plays the recording at its own speed. A file loses no second, even on a busy machine.
    fn run(&self, host: &str, more: &[&str]) -> Live {
        let mut arguments = vec![format!("court={}", self.clip.display()), "--realtime".into(), "--pack".into()];
        arguments.push(self.root().join("first").display().to_string());
        arguments.extend(more.iter().map(|a| (*a).to_owned()));
        // Remove the records of an earlier program.
        let _ = std::fs::remove_file(self.fixtures.path().join("live.jsonl"));
        let mut live = Live::start_with(self.fixtures.path(), host, &arguments);
        live.wait(|records| seconds(records, "court").count() >= 2);
        live
    }
}

/// Changes a manifest so that sound decides every class, instead of the pictures.
fn sound_decides(text: String) -> String {
    let start = text.find("order = [").expect("a pack has an order");
    let end = start + text[start..].find('\n').expect("a line has an end");
    let sound_first = "order = [\"audio\", \"rgb\", \"flow\"]";
    format!("{}{sound_first}{}", &text[..start], &text[end..]).replace("modality = \"rgb\"", "modality = \"audio\"")
}

fn post_with(live: &Live, body: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = headers
        .iter()
        .fold(agent.post(format!("http://{}/api/v1/pack", live.address)), |request, (k, v)| request.header(*k, *v));
    let mut answer = request.send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    if answer.status() != 200 {
        assert!(value["error"].is_string() && !value["advice"].as_str().unwrap().is_empty(), "{value}");
    }
    (answer.status().as_u16(), value)
}

fn post(live: &Live, path: &str) -> (u16, Value) {
    post_with(live, &json!({ "path": path }).to_string(), &[("content-type", "application/json")])
}

fn pack_state(live: &Live) -> Value {
    serde_json::from_str(&live.get("/api/v1/pack")).unwrap()
}

/// Waits until the outcome of the last update is `outcome`.
fn wait_for_update(live: &Live, outcome: &str) {
    until(&format!("an update with the outcome {outcome}"), || {
        pack_state(live)["updates"]["last"]["outcome"] == outcome
    });
}

fn count(live: &Live) -> usize {
    seconds(&live.records(), "court").count()
}

/// The names of the packs in the order in which they decided. Panics if a second is missing.
fn packs_in_order(records: &[Value]) -> Vec<String> {
    assert!(records.iter().all(|r| r["type"] != "gap"), "a second was lost");
    let indices: Vec<u64> = seconds(records, "court").map(|s| s["index"].as_u64().unwrap()).collect();
    assert!(indices.windows(2).all(|w| w[1] == w[0] + 1), "seconds are missing: {indices:?}");
    let mut names: Vec<String> =
        seconds(records, "court").map(|s| s["pack"]["name"].as_str().unwrap().to_owned()).collect();
    names.dedup();
    names
}

#[test]
fn a_new_table_takes_effect_without_losing_a_second() {
    let stage = Stage::new();
    stage.pack("second", sound_decides);
    let mut live = stage.run("127.0.0.1", &[]);
    let mut events = TcpStream::connect(&live.address).unwrap();
    events.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(events, "GET /api/v1/streams/court/live HTTP/1.0\r\nHost: {}\r\n\r\n", live.address).unwrap();
    let before = pack_state(&live);
    assert_eq!((&before["pack"]["name"], &before["path"]), (&json!("first"), &json!("first")));
    assert_eq!(before["updates"]["accepted"], true);
    assert!(before["updates"]["last"].is_null() && before["shadow"].is_null());
    assert_eq!(before["classes"].as_array().unwrap().len(), 25);
    assert_eq!(before["fusion"]["table"]["tennis"]["modality"], "rgb");
    assert_eq!(before["models"]["flow"]["architecture"], "mobilenet_v2");
    assert!(before["card"]["measured"]["test_videos_n"].is_number());

    let (status, applied) = post(&live, "second");
    assert_eq!(status, 200, "{applied}");
    assert_eq!((&applied["pack"], &applied["table_only"]), (&json!("second"), &json!(true)));
    assert_eq!(applied["weights_sha256"], before["pack"]["weights_sha256"]);
    let earlier = count(&live);
    let records = live.wait(|records| seconds(records, "court").count() >= earlier + 3);
    assert_eq!(packs_in_order(&records), ["first", "second"]);
    let change: Vec<&Value> = records.iter().filter(|r| r["type"] == "pack").collect();
    assert_eq!(change.len(), 1);
    assert_eq!((&change[0]["previous"]["name"], &change[0]["stream"]), (&json!("first"), &json!("court")));
    for second in seconds(&records, "court") {
        let is_after = second["index"].as_u64() >= change[0]["index"].as_u64();
        assert_eq!(second["pack"], change[0][if is_after { "pack" } else { "previous" }], "{second}");
        assert_eq!(second["decided_by"], if is_after { "audio" } else { "rgb" }, "{second}");
    }
    let mut lines = BufReader::new(events).lines().map(|line| line.expect("the event stream continues"));
    lines.find(|line| line == "event: pack").expect("subscribers receive the change");

    let after = pack_state(&live);
    assert_eq!(after["fusion"]["order"][0], "audio");
    assert_eq!((&after["updates"]["last"]["outcome"], &after["updates"]["applied"]), (&json!("applied"), &json!(1)));
    assert_eq!(after["updates"]["last"]["trigger"], "http");
    let info: Value = serde_json::from_str(&live.get("/api/v1/info")).unwrap();
    assert_eq!(info["pack"], after["pack"]);
    let metrics = live.get("/metrics");
    assert!(metrics.contains("touchline_pack_updates_total{outcome=\"applied\"} 1"), "{metrics}");
    assert!(metrics.contains("pack=\"second\"") && !metrics.contains("pack=\"first\""), "{metrics}");

    // An empty body reloads the directory of the running pack, which has not changed.
    let (status, again) = post_with(&live, "", &[]);
    assert_eq!((status, &again["unchanged"], &again["pack"]), (200, &json!(true), &json!("second")), "{again}");
    assert_eq!(live.stop(), 0);
}

#[test]
fn new_weights_are_loaded_and_decide() {
    let stage = Stage::new();
    // The sound model in the place of the motion model: other weights with the correct hash.
    let dir = stage.pack("second", |text| {
        let sha = |key: &str| {
            let section = &text[text.find(&format!("[{key}]")).unwrap()..];
            let line = section.lines().find(|l| l.starts_with("sha256")).unwrap();
            line.split('"').nth(1).unwrap().to_owned()
        };
        let classes = |key: &str| {
            let section = &text[text.find(&format!("[{key}]")).unwrap()..];
            section.lines().find(|l| l.starts_with("classes")).unwrap().to_owned()
        };
        let (flow, audio) = (sha("flow"), sha("audio"));
        text.replace(&flow, &audio).replace(&classes("flow"), &classes("audio"))
    });
    std::fs::copy(dir.join("audio.safetensors"), dir.join("flow.safetensors")).unwrap();
    let mut live = stage.run("127.0.0.1", &[]);
    let (status, applied) = post(&live, dir.to_str().unwrap());
    assert_eq!((status, &applied["table_only"]), (200, &json!(false)), "{applied}");
    assert_eq!(
        pack_state(&live)["updates"]["last"]["path"],
        "second",
        "the path must not show the place on this machine"
    );
    let earlier = count(&live);
    let records = live.wait(|records| seconds(records, "court").count() >= earlier + 2);
    assert_eq!(packs_in_order(&records), ["first", "second"]);
    let stamps: Vec<&Value> = seconds(&records, "court").map(|s| &s["pack"]["weights_sha256"]).collect();
    assert_ne!(stamps[0], stamps[stamps.len() - 1]);
    assert_eq!(live.stop(), 0);
}

/// Overwrites the first value of a weights file with NaN and updates the hash in the manifest.
fn write_nan(dir: &Path) {
    let path = dir.join("rgb.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let old = sha256_hex(&bytes);
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[data..data + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let manifest = dir.join("pack.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace(&old, &sha256_hex(&bytes));
    std::fs::write(manifest, text).unwrap();
}

#[test]
fn an_invalid_pack_is_refused_and_the_old_pack_stays() {
    let stage = Stage::new();
    let flipped = stage.pack("flipped", |text| text).join("audio.safetensors");
    let mut bytes = std::fs::read(&flipped).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    std::fs::remove_file(stage.pack("lost", |text| text).join("flow.safetensors")).unwrap();
    stage.pack("key", |text| text.replacen("[sampling]", "[sampling]\nframes = 3", 1));
    write_nan(&stage.pack("nan", |text| text));
    stage.pack("classes", |text| text.replace("\"tennis\"", "\"padel\"").replace("table.tennis]", "table.padel]"));
    stage.pack("sampling", |text| text.replacen("frame_height = 288", "frame_height = 360", 1));
    stage.pack("rate", |text| text.replacen("sample_rate = 32000", "sample_rate = 44100", 1));
    let outside = stage.fixtures.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, stage.root().join("link")).unwrap();
    let mut live = stage.run("127.0.0.1", &[]);

    let refused = [
        ("flipped", 422, "SHA-256"),
        ("lost", 422, "cannot read weights"),
        ("key", 422, "unknown field `frames`"),
        ("nan", 422, "NaN or infinite"),
        ("classes", 422, "lacks tennis, and padel would be new"),
        ("sampling", 422, "frame_height is 360"),
        ("rate", 422, "sample_rate is 44100"),
        ("absent", 422, "no pack \"absent\""),
        ("../outside", 403, "outside the root"),
        ("link", 403, "outside the root"),
        (outside.to_str().unwrap(), 403, "outside the root"),
        ("/etc/passwd", 403, "outside the root"),
    ];
    for (path, want, message) in refused {
        let (status, answer) = post(&live, path);
        assert_eq!(status, want, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(message), "{path}: {answer}");
        assert!(!answer.to_string().contains(stage.root().to_str().unwrap()), "{path}: {answer}");
    }
    let state = pack_state(&live);
    assert_eq!((&state["updates"]["last"]["outcome"], &state["pack"]["name"]), (&json!("refused"), &json!("first")));
    let metrics = live.get("/metrics");
    let line = format!("touchline_pack_updates_total{{outcome=\"refused\"}} {}", refused.len());
    assert!(metrics.contains(&line), "no {line} in\n{metrics}");

    // The program refuses these requests before it reads a pack.
    let kind = ("content-type", "application/json");
    let own = format!("http://{}", live.address);
    let long = format!("{{\"path\":\"{}\"}}", "x".repeat(5000));
    for (body, headers, want) in [
        ("{}", &[kind, ("origin", "https://evil.example")][..], 403),
        ("", &[("origin", "null")], 403),
        ("{}", &[kind, ("sec-fetch-site", "cross-site")], 403),
        ("{}", &[("content-type", "text/plain")], 415),
        (&long, &[kind], 413),
        ("{\"path\":", &[kind], 400),
        ("{\"paht\":\"first\"}", &[kind], 400),
    ] {
        let (status, answer) = post_with(&live, body, headers);
        assert_eq!(status, want, "{headers:?}: {answer}");
    }
    assert_eq!(pack_state(&live)["updates"]["refused"], refused.len());
    assert_eq!(post_with(&live, "{}", &[kind, ("origin", &own)]).0, 200, "the server's own origin is allowed");

    let earlier = count(&live);
    let records = live.wait(|records| seconds(records, "court").count() >= earlier + 2);
    assert_eq!(packs_in_order(&records), ["first"]);
    assert!(records.iter().all(|r| r["type"] != "pack"));
    assert_eq!(live.stop(), 0);
}

#[test]
fn pack_updates_from_other_machines_need_a_flag() {
    let stage = Stage::new();
    stage.pack("second", sound_decides);
    let live = stage.run("0.0.0.0", &["--allow-anonymous"]);
    let (status, answer) = post(&live, "second");
    assert_eq!(status, 403, "{answer}");
    assert!(answer["advice"].as_str().unwrap().contains("--allow-pack-updates"), "{answer}");
    assert_eq!(pack_state(&live)["updates"]["accepted"], false);
    assert_eq!(live.stop(), 0);
    let live = stage.run("0.0.0.0", &["--allow-anonymous", "--allow-pack-updates"]);
    assert_eq!(post(&live, "second").0, 200);
    assert_eq!(live.stop(), 0);
}

#[test]
fn sighup_reads_the_directory_again() {
    let stage = Stage::new();
    let mut live = stage.run("127.0.0.1", &[]);
    std::fs::write(stage.root().join("first/pack.toml"), "half a pack").unwrap();
    live.signal("HUP");
    wait_for_update(&live, "refused");
    stage.pack("first", |text| sound_decides(text).replacen("\"first\"", "\"renewed\"", 1));
    live.signal("HUP");
    let records = live.wait(|records| records.iter().any(|r| r["type"] == "pack"));
    assert_eq!(records.iter().filter(|r| r["type"] == "pack").count(), 1);
    let state = pack_state(&live);
    assert_eq!((&state["pack"]["name"], &state["updates"]["last"]["trigger"]), (&json!("renewed"), &json!("signal")));
    assert_eq!(state["updates"]["refused"], 1);
    packs_in_order(&live.records());
    assert_eq!(live.stop(), 0);
}

#[test]
fn a_watched_directory_is_applied_when_it_stops_changing() {
    let stage = Stage::new();
    let mut live = stage.run("127.0.0.1", &["--watch-pack"]);
    std::fs::write(stage.root().join("first/pack.toml"), "half a pack").unwrap();
    wait_for_update(&live, "refused");
    stage.pack("first", |text| sound_decides(text).replacen("\"first\"", "\"renewed\"", 1));
    let records = live.wait(|records| records.iter().any(|r| r["type"] == "pack"));
    assert_eq!(packs_in_order(&records)[0], "first");
    let state = pack_state(&live);
    assert_eq!((&state["pack"]["name"], &state["updates"]["last"]["trigger"]), (&json!("renewed"), &json!("watch")));
    assert_eq!((&state["updates"]["refused"], &state["updates"]["applied"]), (&json!(1), &json!(1)));
    assert_eq!(live.stop(), 0);
}

#[test]
fn a_shadow_with_the_same_pack_agrees_and_one_with_another_table_does_not() {
    let stage = Stage::new();
    let second = stage.pack("second", sound_decides);
    let first = stage.root().join("first");
    let mut live = stage.run("127.0.0.1", &["--shadow", first.to_str().unwrap()]);
    live.wait(|records| seconds(records, "court").count() >= 6);
    let shadow = pack_state(&live)["shadow"].clone();
    assert!(shadow["seconds"].as_u64().unwrap() >= 1, "{shadow}");
    assert_eq!((&shadow["agreement"], &shadow["different"]), (&json!(1.0), &json!(0)), "{shadow}");
    assert_eq!(shadow["mean_absolute_difference"], 0.0, "{shadow}");
    assert_eq!(shadow["streams"]["court"]["agreement"], 1.0, "{shadow}");
    let metrics = live.get("/metrics");
    assert!(metrics.contains("touchline_shadow_info{") && metrics.contains("agreement=\"same\",stream=\"court\""));
    assert!(
        metrics.contains("touchline_shadow_seconds_total{agreement=\"different\",stream=\"court\"} 0"),
        "{metrics}"
    );
    assert_eq!(packs_in_order(&live.records()), ["first"]);
    assert_eq!(live.stop(), 0);

    let mut live = stage.run("127.0.0.1", &["--shadow", second.to_str().unwrap()]);
    live.wait(|records| seconds(records, "court").count() >= 6);
    let shadow = pack_state(&live)["shadow"].clone();
    assert!(shadow["mean_absolute_difference"].as_f64().unwrap() > 0.0, "{shadow}");
    // After the update, the shadow is compared with itself.
    assert_eq!(post(&live, "second").0, 200);
    let earlier = count(&live);
    live.wait(|records| seconds(records, "court").count() >= earlier + 4);
    let shadow = pack_state(&live)["shadow"].clone();
    assert_eq!((&shadow["agreement"], &shadow["mean_absolute_difference"]), (&json!(1.0), &json!(0.0)), "{shadow}");
    assert_eq!(live.stop(), 0);
}

#[test]
fn an_incompatible_shadow_is_an_error_at_the_start() {
    let stage = Stage::new();
    let other = stage.pack("rate", |text| text.replacen("sample_rate = 32000", "sample_rate = 44100", 1));
    let mut command = program::touchline();
    command.args(["run", "--quiet", "--listen", "off", "--pack"]).arg(stage.root().join("first"));
    command.arg("--shadow").arg(other).arg(&stage.clip);
    let output = program::finish(&mut command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("sample_rate is 44100") && error.contains("--shadow"), "{error}");
}
