//! Clips of recordings and of live streams, checked with FFmpeg.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::Fixtures;
use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::program::{self, touchline};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::wait::until_some;

/// The pack that ships, without unknown seconds: a test pattern then has a class like any sport.
fn pack(dir: &Path) -> PathBuf {
    let pack = dir.join("pack");
    std::fs::create_dir(&pack).unwrap();
    for entry in std::fs::read_dir(program::pack()).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, pack.join(path.file_name().unwrap())).unwrap();
    }
    let text = std::fs::read_to_string(program::pack().join("pack.toml")).unwrap();
    let (before, rest) = text.split_once("[unknown]").expect("the pack has unknown seconds");
    let after = rest.split_once("\n[").map_or(String::new(), |(_, after)| format!("[{after}"));
    std::fs::remove_file(pack.join("pack.toml")).unwrap();
    std::fs::write(pack.join("pack.toml"), format!("{before}{after}")).unwrap();
    pack
}

/// What FFprobe says about a file, as lines.
fn probe(path: &Path, entries: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", entries, "-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("FFmpeg is installed");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn segments_are_cut_with_their_decisions_and_a_poster() {
    let fixtures = Fixtures::new();
    let pack = pack(fixtures.path());
    let source = fixtures.clip("a \"b\"\u{202e}.mp4", 12);
    let clips = fixtures.path().join("clips");
    std::fs::create_dir(&clips).unwrap();
    // A download of the user.
    std::fs::write(clips.join("film.mp4.part"), "half").unwrap();
    let mut command = touchline();
    let table = fixtures.path().join("segments.csv");
    command.arg("score").arg(&source).arg("--pack").arg(&pack).arg("--clips").arg(&clips).arg("--segments").arg(&table);
    command.args([
        "--vote-window=3",
        "--vote-onset=0.01",
        "--vote-offset=0.005",
        "--clip-pre-roll=0",
        "--clip-post-roll=0",
    ]);
    command.arg("--clip-wav");
    let output = program::finish(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = [&output.stdout[..], &output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(printed.contains("a \"b\"\u{fffd}.mp4") && !printed.contains('\u{202e}'), "{printed}");
    assert_eq!(std::fs::read(clips.join("film.mp4.part")).unwrap(), b"half");
    std::fs::remove_file(clips.join("film.mp4.part")).unwrap();
    let files: Vec<String> =
        std::fs::read_dir(&clips).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(files.iter().all(|file| file.starts_with("a__b__-") && !file.ends_with(".part")), "{files:?}");
    let sidecars: Vec<&String> = files.iter().filter(|file| file.ends_with(".json")).collect();
    assert!(!sidecars.is_empty() && files.len() == 4 * sidecars.len(), "{files:?}");
    // The table has the segments of the clips, and what is between them.
    let mut reader = csv::Reader::from_path(&table).unwrap();
    let head = reader.headers().unwrap().clone();
    let column =
        |name: &str| head.iter().position(|column| column == name).unwrap_or_else(|| panic!("{name}: {head:?}"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let number = |row: &csv::StringRecord, name: &str| row[column(name)].parse::<u64>().unwrap();
    let seconds: u64 = rows.iter().map(|row| number(row, "seconds")).sum();
    assert_eq!((number(&rows[0], "begin_pts_s"), seconds), (0, 12), "{rows:?}");
    assert!(rows.is_sorted_by_key(|row| number(row, "begin_pts_s")) && rows[0][column("path")].ends_with(".mp4"));
    let of_class: Vec<(u64, u64)> = rows
        .iter()
        .filter(|row| !row[column("mean")].is_empty())
        .map(|row| (number(row, "begin_pts_s"), number(row, "end_pts_s")))
        .collect();
    assert_eq!(of_class.len(), sidecars.len(), "{rows:?}");
    let mut covered = 0;
    for sidecar in sidecars {
        let sidecar: Value = serde_json::from_slice(&std::fs::read(clips.join(sidecar)).unwrap()).unwrap();
        assert_eq!((&sidecar["reason"], sidecar["version"].as_u64()), (&Value::from("segment"), Some(1)));
        let (from, to) = (sidecar["from_pts_ns"].as_u64().unwrap(), sidecar["to_pts_ns"].as_u64().unwrap());
        let seconds = (to - from) / 1_000_000_000;
        covered += seconds;
        assert!(of_class.contains(&(from / 1_000_000_000, to / 1_000_000_000)), "{of_class:?}: {sidecar}");
        let records = sidecar["records"].as_array().unwrap();
        let indices: Vec<u64> =
            records.iter().filter(|r| r["type"] == "second").map(|r| r["index"].as_u64().unwrap()).collect();
        let first = from / 1_000_000_000;
        assert!((first..first + seconds).all(|index| indices.contains(&index)), "{indices:?}");
        // A key picture begins each second of the source, so the clip begins and ends with the segment.
        let media = &sidecar["media"][0];
        assert!(media["begin_pts_ns"].as_u64().unwrap().abs_diff(from) < 40_000_000, "{media}");
        let path = clips.join(media["file"].as_str().unwrap());
        let duration: f64 = probe(&path, "format=duration").trim().parse().unwrap();
        assert!((duration - seconds as f64).abs() < 0.1, "{duration} {seconds}");
        assert_eq!(probe(&path, "stream=codec_name").split_whitespace().collect::<Vec<_>>(), ["h264", "aac"]);
        let sound = clips.join(media["wav"].as_str().unwrap());
        assert_eq!(probe(&sound, "stream=codec_name,sample_rate,channels").trim(), "pcm_f32le,44100,2");
        let poster = &sidecar["poster"];
        let at = poster["pts_ns"].as_u64().unwrap();
        assert!(at >= from && at < to, "{poster}");
        let poster = image::open(clips.join(poster["file"].as_str().unwrap())).unwrap();
        assert_eq!((poster.width(), poster.height()), (320, 180));
    }
    assert!(covered >= 9, "{covered} seconds are in clips");
}

/// Bytes `range` of a clip's file: status, content range, and the bytes.
fn download(address: &str, path: &str, range: &str) -> (u16, String, Vec<u8>) {
    let mut answer = ureq::get(format!("http://{address}{path}")).header("Range", range).call().unwrap();
    let of = answer.headers().get("content-range").map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    let bytes = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
    (answer.status().as_u16(), of, bytes)
}

/// The clips that the API lists.
fn listed(address: &str) -> Vec<Value> {
    let clips = ask(address, "GET", "/api/v1/clips", None, &[]).body;
    clips["clips"].as_array().cloned().unwrap_or_default()
}

#[test]
fn events_of_live_streams_are_cut_from_the_original_media() {
    let _alone = crate::common::alone();
    let fixtures = Fixtures::new();
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let record = fixtures.path().join("media");
    let options = ["--vote-window=2", "--vote-onset=0.01", "--vote-offset=0.005", "--record-pre-roll-s=1"];
    let more = ["--record-post-roll-s=2", "--record-ring-s=60", "--rtsp-transport=tcp", "--record-dir"];
    let arguments: Vec<String> = options.iter().chain(&more).map(|text| (*text).to_owned()).collect();
    let state = format!("--state={}", fixtures.path().join("state.db").display());
    let config = fixtures.write(
        "touchline.toml",
        format!("[[stream]]\nid = \"inside\"\nuri = \"{0}\"\n[[stream]]\nid = \"outside\"\nuri = \"{0}\"\nisolation = \"process\"\n\
             [[stream]]\nid = \"off\"\nuri = \"testsrc://?width=64&height=48&fps=5&audio=0\"\nrecord = false\n", server.url()).as_bytes(),
    );
    let files =
        [record.to_str().unwrap().to_owned(), state, "--config".to_owned(), config.to_str().unwrap().to_owned()];
    let mut live = Live::start_with(fixtures.path(), "127.0.0.1", &[arguments, files.to_vec()].concat());
    let address = live.address.clone();
    wait_until_ready(&address);
    let is_there = |clips: &Vec<Value>| ["inside", "outside"].iter().all(|id| clips.iter().any(|c| c["stream"] == *id));
    let clips = until_some("clips", || Some(listed(&address)).filter(is_there));
    for clip in &clips {
        let (id, file) = (clip["id"].as_str().unwrap(), clip["media"][0]["file"].as_str().unwrap());
        let path = record.join("clips").join(file);
        assert_eq!(probe(&path, "stream=codec_name").split_whitespace().collect::<Vec<_>>(), ["h264", "aac"]);
        let duration: f64 = probe(&path, "format=duration").trim().parse().unwrap();
        assert!((1.5..30.0).contains(&duration), "{duration}");
        // The first picture is a key picture.
        let frames = probe(&path, "packet=flags");
        assert!(frames.lines().next().unwrap().starts_with('K'), "{frames}");
        let whole = std::fs::read(&path).unwrap();
        let at = format!("/api/v1/clips/{id}/{file}");
        let of = format!("bytes 0-{}/{}", whole.len() - 1, whole.len());
        assert_eq!(download(&address, &at, "bytes=0-"), (206, of, whole.clone()));
        assert_eq!(download(&address, &at, "bytes=10-19").2, whole[10..20]);
        let detail = ask(&address, "GET", &format!("/api/v1/clips/{id}"), None, &[]).body;
        let records = detail["records"].as_array().unwrap();
        assert!(records.iter().any(|record| record["type"] == "event"), "{detail}");
        assert!(detail["media"][0]["began_unix_ns"].as_i64().unwrap() > 1_600_000_000_000_000_000, "{detail}");
    }
    // The page of an export has their pictures.
    let page = |more: &str| {
        ask(&address, "GET", &format!("/api/v1/streams/inside/export?format={more}&posters=true"), None, &[])
    };
    until_some("a page with pictures", || {
        Some(page("html")).filter(|page| page.text.contains("src=\"data:image/jpeg;base64,"))
    });
    assert_eq!(page("csv").status, 422);
    // A clip on request, of seconds that are decided.
    let is_inside = |r: &&Value| r["type"] == "second" && r["stream"] == "inside";
    let records = live.wait(|records| records.iter().filter(is_inside).count() >= 5);
    let times: Vec<Value> = records.iter().filter(is_inside).map(|record| record["wall"]["time"].clone()).collect();
    let body = serde_json::json!({ "from": times[times.len() - 3], "to": times[times.len() - 1] });
    let request = || ask(&address, "POST", "/api/v1/streams/inside/clips", Some(&body), &[]);
    // The file of records may be ahead.
    let made = until_some("the end of the clip", || Some(request()).filter(|answer| answer.status != 409));
    assert_eq!((made.status, &made.body["reason"]), (201, &Value::from("request")), "{}", made.text);
    let late = serde_json::json!({ "from": times[times.len() - 1], "to": "2100-01-01T00:00:00Z" });
    assert_eq!(ask(&address, "POST", "/api/v1/streams/inside/clips", Some(&late), &[]).status, 422);
    let off = ask(&address, "POST", "/api/v1/streams/off/clips", Some(&body), &[]);
    assert!(
        off.status == 404 && off.text.contains("is not recorded") && off.text.contains("record = false"),
        "{}",
        off.text
    );
    let old = serde_json::json!({ "from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:00:05Z" });
    assert_eq!(ask(&address, "POST", "/api/v1/streams/inside/clips", Some(&old), &[]).status, 404);

    let at = made.location.unwrap();
    assert_eq!(ask(&address, "DELETE", &at, None, &[]).status, 204);
    assert_eq!(ask(&address, "GET", &at, None, &[]).status, 404);
    assert_eq!(ask(&address, "GET", "/api/v1/clips/..%2Fring", None, &[]).status, 404);
    let names = ["touchline_clips_total{result=\"made\"}", "touchline_ring_seconds{stream=\"outside\"}"];
    until_some("the metrics of clips", || {
        Some(live.get("/metrics")).filter(|metrics| names.iter().all(|name| metrics.contains(name)))
    });
    assert_eq!(live.stop(), 0);
    let left =
        std::fs::read_dir(record.join("clips")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!({ left }.all(|file| !file.ends_with(".part")));
}

#[test]
fn a_killed_program_completes_its_open_clips_and_leaves_out_streams_on_request() {
    let _alone = crate::common::alone();
    let fixtures = Fixtures::new();
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let record = fixtures.path().join("media");
    let text = format!(
        "rtsp_transport = \"tcp\"\n[vote]\nwindow = 2\nonset = 0.01\noffset = 0.005\n[record]\ndir = {record:?}\npre_roll_s = 1\npost_roll_s = 50\n\
         ring_s = 60\nwav = true\n[[stream]]\nid = \"court\"\nuri = \"{0}\"\n[[stream]]\nid = \"off\"\nuri = \"{0}\"\nrecord = false\n",
        server.url()
    );
    let config = fixtures.write("touchline.toml", text.as_bytes());
    let arguments = ["--config".to_owned(), config.to_str().unwrap().to_owned()];
    let mut live = Live::start_with(fixtures.path(), "127.0.0.1", &arguments);
    let open = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(record.join("clips")).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "open")).collect()
    };
    let is_begun = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= 5);
    until_some("open clips", || (!open().is_empty() && open().iter().all(is_begun)).then_some(()));
    live.wait(|records| crate::common::live::seconds(records, "off").count() > 0);
    // SIGKILL.
    drop(live);
    let left = open();
    assert!(!left.is_empty());
    let live = Live::start_with(fixtures.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    let clips = listed(&live.address);
    assert_eq!(clips.len(), left.len(), "{clips:?}");
    let mut with_event = 0;
    for clip in &clips {
        // The ring may lack the beginning too: it begins with a key picture.
        let missing = clip["missing"].as_array().unwrap().last().unwrap();
        assert_eq!((&clip["stream"], &missing["reason"]), (&"court".into(), &"killed".into()), "{clip}");
        let media = &clip["media"][0];
        let path = record.join("clips").join(media["file"].as_str().unwrap());
        assert_eq!(probe(&path, "stream=codec_name").split_whitespace().collect::<Vec<_>>(), ["h264", "aac"]);
        let (id, wav) = (clip["id"].as_str().unwrap(), media["wav"].as_str().unwrap());
        let (status, _, sound) = download(&live.address, &format!("/api/v1/clips/{id}/{wav}"), "bytes=0-");
        assert_eq!((status, &sound[..4]), (206, &b"RIFF"[..]));
        let detail = ask(&live.address, "GET", &format!("/api/v1/clips/{id}"), None, &[]).body;
        with_event += u32::from(detail["records"].as_array().unwrap().iter().any(|record| record["type"] == "event"));
    }
    assert!(with_event > 0, "{clips:?}");
    assert!(left.iter().all(|path| !path.exists()));
    let names: Vec<String> = std::fs::read_dir(record.join("ring"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["court.stream"], "the other stream is not recorded");
    // A page with one clip of each.
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = ask(&live.address, "GET", &format!("/api/v1/clips?limit=1{after}"), None, &[]).body;
        found.extend(page["clips"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found, clips);
    assert_eq!(ask(&live.address, "GET", "/api/v1/clips?limit=0", None, &[]).status, 422);
    assert_eq!(live.stop(), 0);
}
