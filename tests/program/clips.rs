//! `touchline score --clips`: segments cut from recordings, checked with FFmpeg.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::Fixtures;
use crate::common::program::{self, touchline};

const LIMIT: Duration = Duration::from_secs(120);

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
    std::fs::write(clips.join("old.mp4.part"), "killed").unwrap();
    let mut command = touchline();
    command.arg("score").arg(&source).arg("--pack").arg(&pack).arg("--clips").arg(&clips);
    command.args([
        "--vote-window=3",
        "--vote-onset=0.01",
        "--vote-offset=0.005",
        "--clip-pre-roll=0",
        "--clip-post-roll=0",
    ]);
    let output = program::finish(&mut command, LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Vec<String> =
        std::fs::read_dir(&clips).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(files.iter().all(|file| file.starts_with("a__b__-") && !file.ends_with(".part")), "{files:?}");
    let sidecars: Vec<&String> = files.iter().filter(|file| file.ends_with(".json")).collect();
    assert!(!sidecars.is_empty() && files.len() == 3 * sidecars.len(), "{files:?}");
    let mut covered = 0;
    for sidecar in sidecars {
        let sidecar: Value = serde_json::from_slice(&std::fs::read(clips.join(sidecar)).unwrap()).unwrap();
        assert_eq!((&sidecar["reason"], sidecar["version"].as_u64()), (&Value::from("segment"), Some(1)));
        let (from, to) = (sidecar["from_pts_ns"].as_u64().unwrap(), sidecar["to_pts_ns"].as_u64().unwrap());
        let seconds = (to - from) / 1_000_000_000;
        covered += seconds;
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
        let poster = &sidecar["poster"];
        let at = poster["pts_ns"].as_u64().unwrap();
        assert!(at >= from && at < to, "{poster}");
        let poster = image::open(clips.join(poster["file"].as_str().unwrap())).unwrap();
        assert_eq!((poster.width(), poster.height()), (320, 180));
    }
    assert!(covered >= 9, "{covered} seconds are in clips");
}
