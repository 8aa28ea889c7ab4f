//! `touchline export`: its files in the programs that they are for, and its mistakes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use serde_json::{Value, json};
use touchline_core::timecode::FrameRate;

use crate::common::api::{ask, wait_until_ready};
use crate::common::http::HttpServer;
use crate::common::live::Live;
use crate::common::program::{self, touchline};
use crate::common::skip::{Lacks, skip};
use crate::common::wait::until_some;
use crate::common::webdriver::Browser;
use crate::common::{self, Fixtures};

/// Kinds of time with their first second and the one after the last: what [`records`] contains.
const SEGMENTS: [(&str, u64, u64); 3] = [("Soccer", 0, 1000), ("Tennis", 1000, 1607), ("Soccer", 1607, 2000)];

/// Hand-written records of one stream with [`SEGMENTS`].
fn records(stream: &str) -> String {
    records_of(stream, &SEGMENTS)
}

/// Hand-written records of one stream: `segments`, each with an onset two seconds and an offset five seconds after the change.
fn records_of(stream: &str, segments: &[(&str, u64, u64)]) -> String {
    let mut lines = Vec::new();
    let mut put = |record: Value| lines.push(record.to_string());
    let mut before = None;
    for (title, from, to) in segments.iter().copied() {
        let class = title.to_lowercase();
        for index in from..to {
            put(json!({
                "type": "second", "stream": stream, "run": 0, "index": index, "pts_ns": index * 1_000_000_000, "wall": null,
                "decided_by": "rgb", "label": class, "probability": 0.9, "probabilities": {&class: 0.9},
                "window": {"seconds": (index + 1).min(10), "gaps": 0}, "key of a later version": [1, 2],
            }));
            let mut event = |kind: &str, class: &str| {
                put(json!({"type": "event", "stream": stream, "kind": kind, "class": class, "run": 0, "index": index}));
            };
            if let Some(before) = before.as_deref().filter(|_| index == from + 5) {
                event("offset", before);
            }
            if index == from + 2 {
                event("onset", &class);
            }
        }
        before = Some(class);
    }
    lines.join("\n") + "\n"
}

fn export(from: &Path, to: &Path, format: &str, more: &[&str]) -> Output {
    let mut command = touchline();
    command.arg("export").arg("--from").arg(from).args(["--format", format]).args(more).arg("-o").arg(to);
    program::finish(&mut command)
}

fn exported(from: &Path, to: &Path, format: &str, more: &[&str]) -> String {
    let output = export(from, to, format, more);
    assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(to).unwrap()
}

/// Python with OpenTimelineIO.
fn python() -> Option<PathBuf> {
    program::python("opentimelineio, otio_cmx3600_adapter")
}

/// The clips of a file, as OpenTimelineIO reads them.
fn read_back(python: &Path, file: &Path, rate: &str) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/export.py");
    let mut command = Command::new(python);
    let output = program::finish(command.arg(script).arg(file).arg(rate));
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn edit_suites_read_the_same_frames() {
    let Some(python) = python() else { return };
    let fixtures = Fixtures::new();
    let jsonl = fixtures.write("match.jsonl", records("recordings/match.mp4").as_bytes());
    // Frames of the offset 00:59:00:00 by the rule of drop-frame timecode: 2 (or 4) labels are left out in 54 of 59 minutes.
    // 00:59:00;00 itself is one of them.
    for (rate, numerator, denominator, offset, offset_frame) in [
        ("25", 25u64, 1u64, "00:59:00:00", 59 * 60 * 25),
        ("23.976", 24_000, 1001, "00:59:00:00", 59 * 60 * 24),
        ("29.97df", 30_000, 1001, "00:59:00;02", 59 * 60 * 30 + 2 - 54 * 2),
        ("59.94df", 60_000, 1001, "00:59:00;04", 59 * 60 * 60 + 4 - 54 * 4),
        ("59.94", 60_000, 1001, "00:59:00:00", 59 * 60 * 60),
    ] {
        let frame = |second: u64| offset_frame + (2 * second * numerator + denominator) / (2 * denominator);
        let fraction = format!("{numerator}/{denominator}");
        let expected: Vec<(u64, u64)> = SEGMENTS.iter().map(|(_, from, to)| (frame(*from), frame(*to))).collect();
        for (format, cut) in [("edl", false), ("edl", true), ("otio", true), ("otio", false)] {
            let file = fixtures.path().join(format!("{rate}-{cut}.{format}"));
            let mut flags = vec!["--rate", rate, "--offset", offset, "--media", "/media/match.mp4"];
            flags.extend(cut.then_some("--cut"));
            exported(&jsonl, &file, format, &flags);
            let clips = read_back(&python, &file, &fraction);
            let context = format!("{format} at {rate}, cut: {cut}: {clips:?}");
            assert!(clips.iter().all(|clip| clip["sound"] == 1), "{context}");
            if format == "otio" && !cut {
                assert_eq!(clips.len(), 1, "{context}");
                assert_eq!(clips[0]["source"], json!([frame(0), frame(2000)]), "{context}");
                let markers: Vec<Value> = SEGMENTS
                    .iter()
                    .zip(&expected)
                    .map(|((title, ..), (begin, end))| {
                        json!([title, if *title == "Soccer" { "GREEN" } else { "CYAN" }, begin, end])
                    })
                    .collect();
                assert_eq!(clips[0]["markers"], json!(markers), "{context}");
            } else {
                let sources: Vec<Value> = clips.iter().map(|clip| clip["source"].clone()).collect();
                assert_eq!(json!(sources), json!(expected), "{context}");
            }
            if format == "otio" {
                assert_eq!(clips[0]["media"], "file:///media/match.mp4", "{context}");
            } else {
                assert_eq!(clips[0]["name"], "match.mp4", "{context}");
                let shift = if cut { frame_of_one_hour(numerator, denominator, rate) - expected[0].0 } else { 0 };
                let records: Vec<(u64, u64)> =
                    expected.iter().map(|(begin, end)| (begin + shift, end + shift)).collect();
                let found: Vec<Value> = clips.iter().map(|clip| clip["record"].clone()).collect();
                assert_eq!(json!(found), json!(records), "{context}");
            }
        }
    }
}

/// The frame of 01:00:00:00.
fn frame_of_one_hour(numerator: u64, denominator: u64, rate: &str) -> u64 {
    let labels = numerator.div_ceil(denominator);
    3600 * labels - if rate.ends_with("df") { 54 * labels / 15 } else { 0 }
}

#[test]
fn browsers_read_the_cues() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.write("match.jsonl", records("recordings/a \"b\" --> <c>\u{202e}.mp4").as_bytes());
    exported(&jsonl, &fixtures.path().join("chapters.vtt"), "webvtt", &[]);
    exported(&jsonl, &fixtures.path().join("metadata.vtt"), "webvtt-metadata", &[]);
    fixtures.write(
        "index.html",
        b"<!doctype html><video><track kind=chapters src=chapters.vtt><track kind=metadata src=metadata.vtt></video>",
    );
    let Some(browser) = Browser::start() else { return };
    let server = HttpServer::start(fixtures.path());
    browser.go(&server.url("index.html"));
    browser.run("for (const track of document.querySelector('video').textTracks) track.mode = 'hidden'");
    browser.wait("the cues", "return [...document.querySelectorAll('track')].every(t => t.readyState === 2)");
    let cues = |track: u32| {
        browser.run(&format!(
            "return [...document.querySelectorAll('track')[{track}].track.cues].map(c => [c.startTime, c.endTime, c.text])"
        ))
    };
    let expected: Vec<Value> =
        SEGMENTS.iter().map(|(title, from, to)| json!([*from as f64, *to as f64, title])).collect();
    let seconds = |value: &Value| -> Value {
        value.as_array().unwrap().iter().map(|cue| json!([cue[0].as_f64(), cue[1].as_f64(), cue[2]])).collect()
    };
    assert_eq!(seconds(&cues(0)), json!(expected));
    let metadata = cues(1);
    let objects: Vec<Value> = metadata
        .as_array()
        .unwrap()
        .iter()
        .map(|cue| serde_json::from_str(cue[2].as_str().unwrap()).expect("the cue is JSON"))
        .collect();
    assert_eq!(objects.iter().map(|o| o["class"].clone()).collect::<Vec<_>>(), ["soccer", "tennis", "soccer"]);
    assert_eq!(objects[1]["mean"], 0.9);
}

/// hls.js of tests/package.json, which deploy/test.sh installs. It is of version 1.6: the track of 1.7 is loaded by Chromium after hls.js
/// has filled it, which removes its cues.
pub fn hls_js() -> Option<PathBuf> {
    let folder = std::env::var_os("TOUCHLINE_TEST_NODE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-node"), PathBuf::from);
    let script = folder.join("node_modules/hls.js/dist/hls.min.js");
    if !script.is_file() {
        skip(Lacks::Tool, "no hls.js (tests/package.json); deploy/test.sh installs it");
        return None;
    }
    Some(script)
}

#[test]
fn date_ranges_over_the_api_are_lines_or_a_playlist_of_the_source() {
    let _alone = common::alone();
    let fixtures = Fixtures::new();
    let recording = fixtures.clip("court.mp4", 6);
    let playlist = fixtures.playlist("court.m3u8", &recording);
    let dated = "#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:00:00Z\n#EXTINF";
    std::fs::write(&playlist, std::fs::read_to_string(&playlist).unwrap().replacen("#EXTINF", dated, 1)).unwrap();
    let (origin, other) = (HttpServer::start(fixtures.path()), HttpServer::start(fixtures.path()));
    let state = fixtures.path().join("state.db");
    let arguments = [format!("court={}", origin.url("court.m3u8")), format!("--state={}", state.display())];
    let mut live = Live::start_with(fixtures.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    live.wait(|records| records.iter().filter(|record| record["type"] == "second").count() >= 4);
    let get = |more: &str| {
        let path = format!("/api/v1/streams/court/export?format={more}");
        ask(&live.address, "GET", &path, None, &[])
    };
    let lines = until_some("the store", || Some(get("daterange&all=true")).filter(|answer| answer.status == 200));
    assert!(lines.kind.starts_with("text/plain") && lines.text.starts_with("#EXT-X-DATERANGE:ID="), "{lines:?}");
    let whole = get(&format!("daterange&all=true&playlist={}", origin.url("court.m3u8")));
    assert_eq!((whole.status, whole.kind.as_str()), (200, "application/vnd.apple.mpegurl"), "{}", whole.text);
    assert!(
        whole.text.starts_with("#EXTM3U") && whole.text.contains("\n#EXT-X-DATERANGE:ID=\"touchline-"),
        "{}",
        whole.text
    );
    assert!(whole.text.contains(&format!("\n{}", origin.url("court0.ts"))), "{}", whole.text);
    for (more, word) in [
        (format!("daterange&all=true&playlist={}", other.url("court.m3u8")), "not on the server"),
        (format!("daterange&all=true&playlist={}", origin.url("gone.m3u8")), "404"),
        (format!("daterange&all=true&playlist={}", origin.url("court.mp4")), "playlist"),
        (format!("csv&playlist={}", origin.url("court.m3u8")), "daterange"),
    ] {
        let refused = get(&more);
        assert!((400..500).contains(&refused.status) && refused.text.contains(word), "{more}: {refused:?}");
    }
    assert_eq!(live.stop(), 0);
}

#[test]
fn players_show_the_date_ranges() {
    let Some(script) = hls_js() else { return };
    let Some(browser) = Browser::start() else { return };
    let fixtures = Fixtures::new();
    let path = |name: &str| fixtures.path().join(name);
    std::fs::copy(script, path("hls.js")).unwrap();
    common::ffmpeg(
        &format!(
            "-f lavfi -i testsrc2=size=320x180:rate=25:duration=20 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 50 -bf 0 \
             -f hls -hls_time 2 -hls_list_size 0 -hls_segment_filename {}",
            path("s%d.ts").display()
        ),
        &path("video.m3u8"),
    );
    let dated = std::fs::read_to_string(path("video.m3u8")).unwrap().replacen(
        "#EXTINF",
        "#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:00:00Z\n#EXTINF",
        1,
    );
    let playlist = fixtures.write("video.m3u8", dated.as_bytes());
    let jsonl = fixtures.write("video.jsonl", records_of("video", &[("Soccer", 0, 8), ("Tennis", 8, 20)]).as_bytes());
    let flags = ["--began", "2026-03-29T14:00:00Z", "--playlist", playlist.to_str().unwrap()];
    exported(&jsonl, &path("marked.m3u8"), "daterange", &flags);
    // From a web address, the copy names its segments in full. The files of a mistake are not written.
    let origin = HttpServer::start(fixtures.path());
    let flags = ["--began", "2026-03-29T14:00:00Z", "--playlist", &origin.url("video.m3u8")];
    let fetched = exported(&jsonl, &path("fetched.m3u8"), "daterange", &flags);
    let local = std::fs::read_to_string(path("marked.m3u8")).unwrap();
    assert_eq!(fetched, local.replace("\ns", &format!("\n{}", origin.url("s"))));
    let flags = ["--began", "2026-03-29T14:00:00Z", "--playlist", &origin.url("gone.m3u8")];
    let refused = export(&jsonl, &path("none.m3u8"), "daterange", &flags);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && error.contains("gone.m3u8") && error.contains("404"), "{error}");
    assert!(!path("none.m3u8").exists());
    // The player must have its media element before the playlist: without one it makes no cues of date ranges.
    fixtures.write(
        "index.html",
        b"<!doctype html><script src=hls.js></script><video muted></video><script>
        const video = document.querySelector('video'), hls = new Hls();
        hls.on(Hls.Events.LEVEL_LOADED, (_, loaded) => { window.ranges = Object.values(loaded.details.dateRanges); });
        hls.on(Hls.Events.MEDIA_ATTACHED, () => hls.loadSource('marked.m3u8'));
        hls.attachMedia(video);
        const of = list => [...(list ?? [])].filter(c => c.value?.key === 'X-TOUCHLINE-CLASS');
        const tracks = () => [...video.textTracks].filter(t => t.kind === 'metadata');
        window.cues = () => tracks().flatMap(t => of(t.cues)).map(c => [c.value.data, c.startTime, c.endTime]);
        window.shown = () => tracks().flatMap(t => of(t.activeCues)).map(c => c.value.data);
        </script>",
    );
    let server = HttpServer::start(fixtures.path());
    browser.go(&server.url("index.html"));
    browser.wait("the cues", "return !!window.ranges && cues().length > 0 && video.readyState >= 3");
    let ranges = browser.run(
        "return ranges.map(r => [r.class, r.startDate.toISOString(), r.duration, r.isValid, r.attr['X-TOUCHLINE-CLASS']])",
    );
    let expected = json!([
        ["touchline.segment", "2026-03-29T14:00:00.000Z", 8, true, "soccer"],
        ["touchline.segment", "2026-03-29T14:00:08.000Z", 12, true, "tennis"],
    ]);
    assert_eq!(ranges, expected);
    // On the timeline of the media, each begins with its segment.
    let cues = browser.run("return cues()");
    let cues = cues.as_array().unwrap();
    assert_eq!(cues.len(), 2, "{cues:?}");
    for (cue, (class, begin, end)) in cues.iter().zip([("soccer", 0.0, 8.0), ("tennis", 8.0, 20.0)]) {
        let near = |value: &Value, at: f64| (value.as_f64().unwrap() - at).abs() < 0.04;
        assert!(cue[0] == class && near(&cue[1], begin) && near(&cue[2], end), "{cue}");
    }
    // While it plays, the class of the picture is active.
    browser.run("video.play(); return 0");
    let is_right = "shown().join() === (video.currentTime < 8 ? 'soccer' : 'tennis')";
    browser.wait("the class at the beginning", &format!("return video.currentTime > 0 && {is_right}"));
    browser.run("video.currentTime = 9; return 0");
    browser.wait("the class after the change", &format!("return video.currentTime > 9 && {is_right}"));
}

#[test]
fn pages_have_pictures_of_the_segments() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("pattern.mp4", 24);
    let segments = [("Soccer", 0, 8), ("Other", 8, 16), ("Tennis", 16, 24)];
    let jsonl = fixtures.write("pattern.jsonl", records_of(clip.to_str().unwrap(), &segments).as_bytes());
    let page = exported(&jsonl, &fixtures.path().join("a.html"), "html", &["--posters"]);
    let pictures: Vec<&str> = page.split("src=\"data:image/jpeg;base64,").skip(1).collect();
    assert_eq!(pictures.len(), 2, "one per segment with a sport");
    for (picture, alt) in pictures.iter().zip(["Soccer at 00:00:00:00", "Tennis at 00:00:16:00"]) {
        let (data, rest) = picture.split_once('"').unwrap();
        assert!(rest.starts_with(&format!(" alt=\"{alt}\"")), "{}", &rest[..60]);
        let jpeg = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        let picture = image::load_from_memory(&jpeg).unwrap();
        assert_eq!(picture.width().max(picture.height()), 320);
    }
    assert_ne!(pictures[0], pictures[1]);
    assert!(!exported(&jsonl, &fixtures.path().join("b.html"), "html", &[]).contains("<img"));
}

#[test]
fn a_scored_recording_is_exported_in_every_format() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("pattern.mp4", 8);
    let jsonl = fixtures.path().join("pattern.jsonl");
    let mut score = touchline();
    score.args(["score", "--vote-onset", "0.1", "--vote-offset", "0.05", "--jsonl"]).arg(&jsonl).arg(&clip);
    let output = program::finish(&mut score);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = |name: &str| fixtures.path().join(name);
    let table = exported(&jsonl, &path("a.csv"), "csv", &[]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|head| *head == name).unwrap();
    let seconds: u64 = rows[1..].iter().map(|row| row[column("seconds")].parse::<u64>().unwrap()).sum();
    assert_eq!(seconds, 8, "{table}");
    assert_eq!(rows[1][column("stream")], clip.to_str().unwrap());
    for (name, format, start, more) in [
        ("a.html", "html", "<!doctype html>", &[][..]),
        ("a.otio", "otio", "{", &["--all"]),
        ("a.edl", "edl", "TITLE: pattern.mp4\nFCM: NON-DROP FRAME", &["--all"]),
        ("a.vtt", "webvtt", "WEBVTT\n", &["--all"]),
        ("b.vtt", "webvtt-metadata", "WEBVTT\n", &["--all"]),
        ("a.txt", "daterange", "#EXT-X-DATERANGE:ID=", &["--all", "--began", "2026-03-29T14:00:00Z"]),
    ] {
        let text = exported(&jsonl, &path(name), format, more);
        assert!(text.starts_with(start), "{format}: {text}");
    }
    let url = url::Url::from_file_path(&clip).unwrap();
    assert!(std::fs::read_to_string(path("a.otio")).unwrap().contains(url.as_str()), "it refers to the recording");
}

#[test]
fn the_timecode_of_the_media_reaches_edit_suites() {
    let Some(python) = python() else { return };
    let fixtures = Fixtures::new();
    for (name, rate, fraction, first) in [
        ("a.mov", "29.97df", "30000/1001", "00:59:58;00"),
        ("a.mp4", "25", "25/1", "10:00:00:00"),
        ("b.mp4", "59.94df", "60000/1001", "01:00:00;00"),
    ] {
        let arguments = format!(
            "-f lavfi -i testsrc2=size=160x90:rate={fraction}:duration=4 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -bf 2 -timecode {first}"
        );
        let clip = fixtures.make(name, &arguments);
        let jsonl = fixtures.path().join(format!("{name}.jsonl"));
        let mut score = touchline();
        let output = program::finish(score.arg("score").arg("--jsonl").arg(&jsonl).arg(&clip));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rate_of = FrameRate::parse(rate).unwrap();
        let begin = rate_of.parse_timecode(first).unwrap();
        let frames = [begin, begin + rate_of.frame_at(4_000_000_000)];
        for format in ["edl", "otio"] {
            let file = fixtures.path().join(format!("{name}.{format}"));
            let text = exported(&jsonl, &file, format, &["--all"]);
            let clips = read_back(&python, &file, fraction);
            let source = |clip: &Value, at: usize| clip["source"][at].as_i64().unwrap();
            let found = [source(&clips[0], 0), source(&clips[clips.len() - 1], 1)];
            assert_eq!(found, frames, "{name}, {format}: {text}");
        }
        let counted = exported(&jsonl, &fixtures.path().join("c.csv"), "csv", &["--time", "pts", "--rate", "50"]);
        assert!(counted.contains(",00:00:00:00,"), "{counted}");
    }
}

#[test]
fn mistakes_are_one_line_with_advice() {
    let fixtures = Fixtures::new();
    let one = records("a.mp4");
    let jsonl = fixtures.write("one.jsonl", one.as_bytes());
    let two = fixtures.write("two.jsonl", (one.clone() + &records("b\u{202e}\n.mp4")).as_bytes());
    let empty = fixtures.write("empty.jsonl", b"");
    let text = fixtures.write("notes.txt", b"no records\nat all\n");
    let state = fixtures.write("state.db", b"SQLite format 3\0and so on");
    let nothing_on_air: String =
        one.lines().filter(|line| !line.contains("\"onset\"")).map(|line| format!("{line}\n")).collect();
    let off = fixtures.write("off.jsonl", nothing_on_air.as_bytes());
    let out = fixtures.path().join("out");
    let full = PathBuf::from("/dev/full");
    let missing = fixtures.path().join("missing.jsonl");
    let folder = fixtures.path().join("no/such/out");
    for (code, from, to, format, more, expected) in [
        (2, &jsonl, &out, "aaf", &[][..], &["otio", "edl", "webvtt"][..]),
        (2, &jsonl, &out, "edl", &["--rate", "26"], &["29.97df"]),
        (2, &jsonl, &out, "edl", &["--offset", "10:00:00;00"], &["offset:", "drop-frame"]),
        (2, &jsonl, &out, "edl", &["--offset", "00:01:00;00", "--rate", "29.97df"], &["leaves this label out"]),
        (2, &jsonl, &out, "html", &["--cut"], &["cut is for", "otio"]),
        (2, &jsonl, &out, "csv", &["--posters"], &["--posters", "html"]),
        (3, &jsonl, &out, "html", &["--posters"], &["a.mp4", "--media"]),
        (2, &jsonl, &out, "csv", &["--stream", "c.mp4"], &["no such stream", "\"a.mp4\""]),
        (2, &two, &out, "csv", &[], &["--stream", "\"a.mp4\", \"b\u{fffd}\u{fffd}.mp4\""]),
        (2, &jsonl, &jsonl, "csv", &[], &["would be replaced"]),
        (2, &jsonl, &out, "edl", &["--time", "wall"], &["(began)"]),
        (3, &jsonl, &out, "edl", &["--time", "timecode"], &["no timecode", "wall time or PTS"]),
        (2, &jsonl, &out, "daterange", &[], &["wall time", "(began)"]),
        (3, &missing, &out, "csv", &[], &["missing.jsonl", "--jsonl"]),
        (3, &empty, &out, "csv", &[], &["nothing to export", "--jsonl"]),
        (3, &text, &out, "csv", &[], &["nothing to export"]),
        (5, &state, &out, "csv", &[], &["state.db", "not a store"]),
        (3, &off, &out, "edl", &[], &["nothing to export", "or all for"]),
        (3, &jsonl, &out, "edl", &["--from-time", "3000"], &["nothing to export", "another time"]),
        (5, &jsonl, &full, "html", &[], &["/dev/full", "free space"]),
        (5, &jsonl, &folder, "html", &[], &["no/such/out", "check the folder"]),
    ] {
        let output = export(from, to, format, more);
        let error = String::from_utf8_lossy(&output.stderr);
        let context = format!("{format} {more:?}: {error}");
        assert_eq!(output.status.code(), Some(code), "{context}");
        assert!(!error.contains("panicked") && !error.contains('\u{202e}'), "{context}");
        let line = error.lines().rfind(|l| l.starts_with("touchline: ") || l.starts_with("error: "));
        let line = line.unwrap_or_else(|| panic!("no line: {context}"));
        for word in expected {
            assert!(line.contains(word) || (code == 2 && error.contains(word)), "the line lacks {word:?}: {context}");
        }
        assert!(!out.exists(), "{context}");
    }
}

#[test]
fn damaged_lines_are_counted_and_named() {
    let fixtures = Fixtures::new();
    let mut lines: Vec<String> = records("a.mp4").lines().map(str::to_owned).collect();
    lines[11] = lines[11][..40].to_owned();
    lines.insert(1200, "\u{1}\u{202e}".into());
    let jsonl = fixtures.write("a.jsonl", lines.join("\n").as_bytes());
    let to = fixtures.path().join("a.csv");
    let output = export(&jsonl, &to, "csv", &[]);
    assert!(output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error.lines().find(|line| line.starts_with("touchline: ")).unwrap();
    assert!(line.contains("skipped 2 damaged lines: line 12 (") && line.contains("line 1201 ("), "{error}");
    assert_eq!(std::fs::read_to_string(&to).unwrap().lines().count(), 1 + SEGMENTS.len());
}
