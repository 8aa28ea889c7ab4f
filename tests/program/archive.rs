//! Parts of recordings: the process that works on them, without a fleet.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::Fixtures;
use crate::common::program::{pack, touchline};

/// SHA-256 of the pack's manifest.
pub fn manifest_digest() -> String {
    use sha2::Digest;
    let manifest = std::fs::read(pack().join("pack.toml")).unwrap();
    sha2::Sha256::digest(manifest).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The records of `touchline score`.
pub fn scored(path: &str, folder: &Path) -> String {
    let to = folder.join("scored.jsonl");
    let output = touchline().arg("score").arg(path).arg("--jsonl").arg(&to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(to).unwrap()
}

/// Works on a task in `folder`. Returns the answer.
fn work(path: &str, folder: &Path, step: &Value) -> Value {
    std::fs::create_dir_all(folder).unwrap();
    let task = json!({
        "recording": path, "name": path, "pack": pack(), "manifest_sha256": manifest_digest(), "variables": {},
        "folder": folder, "step": step,
    });
    let mut child = touchline()
        .arg("archive-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().expect("there is an answer")).unwrap();
    last["answer"].clone()
}

/// Scores a recording in parts of six seconds. Returns the records, and the number of parts that began with a key picture of their own.
fn in_parts(path: &str, folder: &Path) -> (String, usize) {
    let plans = work(path, folder, &json!({ "begin": { "part_seconds": 6 } }))["parts"].clone();
    let plans = plans.as_array().unwrap_or_else(|| panic!("{path} has parts: {plans}")).clone();
    assert!(plans.len() >= 4, "{plans:?}");
    let (mut files, mut started) = (Vec::<PathBuf>::new(), 0);
    // The last one first: they depend on nothing of each other.
    for (n, plan) in plans.iter().enumerate().rev() {
        let of_part = folder.join(format!("part-{n}"));
        let answer = work(path, &of_part, &json!({ "part": plan }));
        let count = plan["to"].as_u64().unwrap() - plan["from"].as_u64().unwrap();
        assert_eq!(answer, json!({ "decided": { "seconds": count } }), "{path}: {plan}");
        started += usize::from(!plan["starts"].as_array().unwrap().is_empty());
        files.insert(0, of_part.join("outcomes.jsonl"));
    }
    let answer = work(path, folder, &json!({ "join": { "parts": files } }));
    assert!(answer["scored"]["seconds"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(std::fs::read(folder.join("seconds.parquet")).unwrap()[..4], *b"PAR1");
    (std::fs::read_to_string(folder.join("records.jsonl")).unwrap(), started)
}

/// Pictures in motion with B-pictures in open groups, and noise that the encoder of the sound replaces by its own. The sound begins later.
const OPEN_GROUPS: &str = "-f lavfi -i testsrc2=size=160x90:rate=25:duration=30 -itsoffset 0.73 \
     -f lavfi -i anoisesrc=duration=28:sample_rate=44100:amplitude=0.3:seed=7 -c:v libx264 -preset veryfast -bf 3 -b_strategy 0 \
     -x264-params open-gop=1:keyint=25:min-keyint=25:scenecut=0 -pix_fmt yuv420p -c:a aac -aac_pns 1 -b:a 48k";

/// Motion, black, a frozen picture, motion. The freeze lasts over several parts.
const SIGNALS: &str = "-f lavfi -i testsrc2=size=160x90:rate=25:duration=5 -f lavfi -i color=black:size=160x90:rate=25:duration=5 \
     -f lavfi -i color=gray:size=160x90:rate=25:duration=18 -f lavfi -i testsrc2=size=160x90:rate=25:duration=6 \
     -filter_complex [0:v][1:v][2:v][3:v]concat=n=4 -c:v mpeg2video -bf 2 -g 15 -b:v 2M";

/// Leading pictures that refer to the group before.
const HEVC: &str = "-f lavfi -i mandelbrot=size=160x90:rate=25 -t 30 -c:v libx265 -preset ultrafast -x265-params \
     open-gop=1:keyint=25:min-keyint=25:bframes=4:log-level=error:pools=1 -pix_fmt yuv420p";

fn check(name: &str, arguments: &str) {
    let fixtures = Fixtures::new();
    let path = fixtures.make(name, arguments);
    let path = Path::new(&path).to_str().unwrap();
    let whole = scored(path, fixtures.path());
    let (joined, started) = in_parts(path, &fixtures.path().join("work"));
    assert!(whole.lines().count() >= 29, "{whole}");
    assert!(started >= 2, "{name}: parts must begin in the middle");
    for (n, (whole, joined)) in whole.lines().zip(joined.lines()).enumerate() {
        assert_eq!(whole, joined, "{name}: record {n}");
    }
    assert_eq!(whole, joined, "{name}");
}

#[test]
fn parts_with_open_groups_and_replaced_noise_have_the_records_of_the_whole() {
    check("open.mp4", OPEN_GROUPS);
}

#[test]
fn parts_in_black_and_freeze_have_the_records_of_the_whole() {
    check("signals.ts", SIGNALS);
}

#[test]
fn parts_of_hevc_have_the_records_of_the_whole() {
    check("hevc.mkv", HEVC);
}

#[test]
fn a_short_recording_and_a_picture_are_scored_at_once() {
    let fixtures = Fixtures::new();
    let clip =
        fixtures.make("clip.mp4", "-f lavfi -i testsrc2=size=160x90:rate=25:duration=6 -c:v libx264 -pix_fmt yuv420p");
    let picture = fixtures.make("picture.png", "-f lavfi -i testsrc2=size=160x90:rate=25 -frames:v 1");
    for path in [clip, picture] {
        let path = Path::new(&path).to_str().unwrap().to_owned();
        let folder = fixtures.path().join("work");
        let answer = work(&path, &folder, &json!({ "begin": { "part_seconds": 10 } }));
        assert_eq!(answer["scored"]["gaps"], 0, "{path}: {answer}");
        assert_eq!(
            std::fs::read_to_string(folder.join("records.jsonl")).unwrap(),
            scored(&path, fixtures.path()),
            "{path}"
        );
    }
}
