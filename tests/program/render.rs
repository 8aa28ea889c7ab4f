//! `touchline render`: the label on the pictures of a recording, read back with FFmpeg.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use touchline_core::colours;

use crate::common::Fixtures;
use crate::common::http::HttpServer;
use crate::common::pictures::{colour, flash_and_beep, flashes_and_beeps};
use crate::common::program::{self, touchline};
use crate::common::webdriver::Browser;
use crate::export::hls_js;

/// The classes that are on air, second by second. `None` is a second without a decision.
const CLASSES: [Option<&str>; 6] =
    [Some("tennis"), Some("soccer"), None, Some("formula1"), Some("badminton"), Some("tennis")];

/// The records of [`CLASSES`].
fn decisions(fixtures: &Fixtures) -> PathBuf {
    let second = |(index, class): (usize, &Option<&str>)| -> Value {
        let window = |label: Value, mean: Value| json!({ "label": label, "mean": mean, "seconds": 1, "gaps": 0 });
        match class {
            Some(class) => {
                let window = window((*class).into(), json!({ *class: 0.75, "other": 0.25 }));
                json!({ "type": "second", "stream": "x", "run": 0, "index": index, "window": window })
            }
            None => {
                json!({ "type": "gap", "stream": "x", "run": 0, "index": index, "window": window(Value::Null, json!({})) })
            }
        }
    };
    let lines: Vec<String> = CLASSES.iter().enumerate().map(second).map(|record| record.to_string()).collect();
    fixtures.write("decisions.jsonl", lines.join("\n").as_bytes())
}

fn render(arguments: &[&str]) -> Output {
    program::finish(touchline().arg("render").args(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the folder has a plain name")
}

fn rendered(arguments: &[&str]) {
    let done = render(arguments);
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The colour strip of the template `label`, with its size as a share, on a picture of this size: all of it is the colour of the class.
fn strip((width, height): (u32, u32), pixel_aspect: f64, size: f64) -> (u32, u32, u32, u32) {
    let (shown_width, shown_height) = (f64::from(width) * pixel_aspect, f64::from(height));
    let down = (shown_width.min(shown_height) * size / 110.0).min(shown_width * 0.9 / 720.0);
    let across = down / pixel_aspect;
    let (left, top) = (f64::from(width) * 0.05, shown_height * 0.95 - 110.0 * down);
    let at = |value: f64| value.round() as u32;
    (at(left + 29.0 * across), at(top + 35.0 * down), at(6.0 * across).max(2), at(40.0 * down).max(2))
}

fn assert_colour(path: &Path, seconds: f64, at: (u32, u32, u32, u32), class: &str) {
    let (found, expected) = (colour(path, seconds, at), colours::rgb(class));
    let off = found.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max().unwrap();
    // Small pictures have few chroma samples for the strip. The matrix of the other definition is off by 22.
    assert!(off <= 16, "{} at {seconds} s: {found:?}, and {class} is {expected:?}", path.display());
}

#[test]
fn each_picture_shows_the_class_of_its_second_and_the_sound_stays_in_time() {
    let fixtures = Fixtures::new();
    let decisions = decisions(&fixtures);
    for (name, size, stretch, options) in [
        ("a.mp4", (1280, 720), 1.0, "-bf 2 -colorspace bt709 -color_primaries bt709 -color_trc bt709"),
        ("b.ts", (720, 576), 16.0 / 15.0, "-bf 0 -vf setsar=16/15 -colorspace bt470bg"),
        ("c.mkv", (360, 640), 1.0, "-bf 2"),
    ] {
        let source = fixtures.make(
            name,
            &format!(
                "{} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 50 {options} -c:a aac",
                flash_and_beep(size, 6)
            ),
        );
        let out = fixtures.path().join(format!("out-{name}"));
        rendered(&[text(&source), "-o", text(&out), "--decisions", text(&decisions), "--overlay-size", "30"]);
        let at = strip(size, stretch, 0.3);
        for (second, class) in CLASSES.iter().enumerate() {
            // The first and the last picture of the second.
            for moment in [second as f64 + 0.02, second as f64 + 0.94] {
                match class {
                    Some(class) => assert_colour(&out, moment, at, class),
                    None => {
                        let found = colour(&out, moment, at);
                        assert!(found.iter().all(|value| *value < 8), "{name} at {moment} s: {found:?} is not black");
                    }
                }
            }
        }
        let ((before, beeps), (flashes, heard)) = (flashes_and_beeps(&source), flashes_and_beeps(&out));
        assert_eq!(
            (before.len(), beeps.len(), flashes.len(), heard.len()),
            (3, 3, 3, 3),
            "{name}: {flashes:?} {heard:?}"
        );
        let apart =
            |flashes: &[f64], beeps: &[f64]| -> Vec<f64> { beeps.iter().zip(flashes).map(|(a, b)| a - b).collect() };
        for (before, after) in apart(&before, &beeps).into_iter().zip(apart(&flashes, &heard)) {
            assert!((after - before).abs() <= 0.04 && after.abs() <= 0.04, "{name}: {before} s, then {after} s");
        }
    }
}

#[test]
fn a_playlist_has_the_label_and_the_three_templates_differ() {
    let fixtures = Fixtures::new();
    let decisions = decisions(&fixtures);
    let source = fixtures.make(
        "a.mp4",
        &format!("{} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac", flash_and_beep((640, 360), 6)),
    );
    let folder = fixtures.path().join("vod");
    rendered(&[text(&source), "-o", &format!("hls:{}", text(&folder)), "--decisions", text(&decisions)]);
    assert_colour(&folder.join("live.m3u8"), 1.5, strip((640, 360), 1.0, 0.11), "soccer");
    let playlist = std::fs::read_to_string(folder.join("live.m3u8")).unwrap();
    assert!(playlist.contains("#EXT-X-ENDLIST"), "{playlist}");
    let mut pictures = Vec::new();
    for template in ["bug", "label", "bars"] {
        let out = fixtures.path().join(format!("{template}.mp4"));
        let options = ["--overlay", template, "--overlay-position", "bottom-left", "--overlay-size", "30"];
        rendered(&[&[text(&source), "-o", text(&out), "--decisions", text(&decisions)], &options[..]].concat());
        pictures.push(colour(&out, 1.5, (32, 250, 200, 90)));
    }
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2] && pictures[0] != pictures[2], "{pictures:?}");
    // A template of one's own.
    let own = fixtures.write(
        "own.svg",
        br#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" data-position="top-left" data-safe-area="0"
            data-size="20"><rect width="40" height="40" fill="{{colour}}"/></svg>"#,
    );
    let out = fixtures.path().join("own.mp4");
    rendered(&[text(&source), "-o", text(&out), "--decisions", text(&decisions), "--overlay", text(&own)]);
    assert_colour(&out, 4.5, (8, 8, 50, 50), "badminton");
}

#[test]
fn labels_are_metadata_beside_unchanged_pictures() {
    let Some(script) = hls_js() else { return };
    let Some(browser) = Browser::start() else { return };
    let fixtures = Fixtures::new();
    let decisions = decisions(&fixtures);
    let media =
        format!("{} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25 -c:a aac", flash_and_beep((320, 180), 6));
    let source = fixtures.make("a.mp4", &media);
    let out = fixtures.path().join("labelled.ts");
    let with = |output: &str| {
        rendered(&[text(&source), "-o", output, "--decisions", text(&decisions), "--overlay-mode", "metadata"]);
    };
    with(text(&out));
    let printed = |path: &Path, arguments: &str| {
        let mut command = std::process::Command::new("ffmpeg");
        let done = command.args(["-v", "error", "-i"]).arg(path).args(arguments.split(' ')).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let pictures = |path: &Path| {
        let hashes = printed(path, "-map 0:v -f framehash -");
        let frames = hashes.lines().filter(|line| !line.starts_with('#'));
        frames.map(|line| line.rsplit(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pictures(&out), pictures(&source));
    let packets = printed(&out, "-map 0:d -c copy -f data -");
    for class in CLASSES.iter().flatten() {
        assert!(packets.contains(&format!("\"class\":\"{class}\"")), "{class} is not in the packets");
    }
    // A player shows the label of the picture.
    let folder = fixtures.path().join("vod");
    with(&format!("hls:{}", text(&folder)));
    assert_eq!(pictures(&folder.join("live.m3u8")), pictures(&source));
    std::fs::copy(script, folder.join("hls.js")).unwrap();
    std::fs::write(
        folder.join("index.html"),
        "<!doctype html><script src=hls.js></script><video muted></video><script>
        const video = document.querySelector('video'), hls = new Hls();
        hls.on(Hls.Events.MEDIA_ATTACHED, () => hls.loadSource('master.m3u8'));
        hls.on(Hls.Events.SUBTITLE_TRACKS_UPDATED, () => { hls.subtitleTrack = 0; });
        hls.attachMedia(video);
        const tracks = () => [...video.textTracks].filter(t => t.kind === 'subtitles');
        window.cues = () => tracks().flatMap(t => [...(t.cues ?? [])]).map(c => [c.text, c.startTime, c.endTime]);
        </script>",
    )
    .unwrap();
    let server = HttpServer::start(&folder);
    browser.go(&server.url("index.html"));
    browser.wait("the cues", "return video.readyState >= 3 && cues().some(c => c[2] > 5.5)");
    let found = browser.run("return cues()");
    let middle = |second: usize| second as f64 + 0.5;
    for (second, class) in CLASSES.iter().enumerate() {
        let at = |cue: &&Value| cue[1].as_f64() <= Some(middle(second)) && cue[2].as_f64() > Some(middle(second));
        let shown: Vec<&str> = found.as_array().unwrap().iter().filter(at).filter_map(|cue| cue[0].as_str()).collect();
        let title = |class: &str| {
            if class == "formula1" { "Formula 1".into() } else { class[..1].to_uppercase() + &class[1..] }
        };
        let expected: Vec<String> = class.iter().map(|class| format!("{} 75 %", title(class))).collect();
        assert_eq!(shown, expected, "second {second}: {found}");
    }
}

#[test]
fn a_real_recording_is_decided_and_rendered() {
    let Some(data) = program::data() else { return };
    let fixtures = Fixtures::new();
    let folder = data.join("clips/tennis");
    let clip = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).min().expect("there are clips");
    let (out, records) = (fixtures.path().join("out.mp4"), fixtures.path().join("out.jsonl"));
    rendered(&[text(&clip), "-o", text(&out), "--overlay-position", "top-left", "--overlay-safe-area", "0"]);
    let done = program::finish(touchline().arg("score").arg(&clip).arg("--jsonl").arg(&records));
    assert!(done.status.success());
    let size = program::finish(
        std::process::Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v", "-show_entries", "stream=width,height", "-of", "csv=p=0"])
            .arg(&out),
    );
    let size = String::from_utf8(size.stdout).unwrap();
    let mut sides = size.trim().split(',').map(|side| side.parse::<u32>().unwrap());
    let (width, height) = (sides.next().unwrap(), sides.next().unwrap());
    let down = (f64::from(width.min(height)) * 0.11 / 110.0).min(f64::from(width) / 720.0);
    let at = |value: f64| (value * down).round() as u32;
    let place = (at(29.0), at(35.0), at(6.0).max(2), at(40.0).max(2));
    let mut compared = 0;
    for line in std::fs::read_to_string(&records).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["type"] == "second" {
            let window = &record["window"];
            let class = if window["unknown"] == true { "other" } else { window["label"].as_str().unwrap() };
            let second = record["index"].as_f64().unwrap();
            let (found, expected) = (colour(&out, second + 0.5, place), colours::rgb(class));
            // Small pictures have one chroma sample for the width of the strip.
            let off = found.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 40, "{second}: {found:?}, and {class} is {expected:?}");
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared} seconds");
}

#[test]
fn what_cannot_be_rendered_is_refused_in_one_line() {
    let fixtures = Fixtures::new();
    let decisions = decisions(&fixtures);
    let clip = fixtures.clip("clip.mp4", 1);
    let sound = fixtures.make("sound.m4a", "-f lavfi -i sine=duration=1 -c:a aac");
    let (clip, sound, decisions) = (text(&clip), text(&sound), text(&decisions));
    let out = fixtures.path().join("out.mp4");
    let out = text(&out);
    let own = fixtures.write("own.svg", b"<svg xmlns=\"http://www.w3.org/2000/svg\">{{sport}}</svg>");
    for (arguments, code, part) in [
        (vec![clip, "-o", clip], 2, "is the input"),
        (vec![clip, "-o", "out.avi"], 2, "give a name with one"),
        (vec![clip, "-o", "a\u{202e}4pm.exe"], 2, "control or invisible characters"),
        (vec![clip, "-o", "rtmp://user:hunter2@host/app/key"], 2, "rendered into files"),
        (vec![clip, "-o", "/proc/nowhere/out.mp4"], 5, "check the folder"),
        (vec![clip, "-o", "hls:/proc/nowhere"], 5, "check the folder"),
        (vec![clip, "-o", out, "--overlay-mode", "metadata"], 2, "give a .ts file, hls:DIR"),
        (vec![clip, "-o", out, "--overlay", "banner"], 2, "bug, label, bars"),
        (vec![clip, "-o", out, "--overlay", text(&own)], 2, "{{sport}} is not known"),
        (vec![clip, "-o", out, "--overlay-font", text(&own)], 2, "TrueType"),
        (vec![clip, "-o", out, "--stream", "court"], 2, "no such stream"),
        (vec![sound, "-o", out], 3, "no pictures"),
        (vec!["/nowhere\n.mp4", "-o", out], 3, "/nowhere"),
    ] {
        let refused = render(&[&arguments[..], &["--decisions", decisions]].concat());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && error.contains(part), "{arguments:?}: {error}");
        assert!(error.lines().count() == 1 && !error.contains(['\u{202e}']), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let refused = render(&[clip, "-o", out, "--decisions", clip]);
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    let left: Vec<_> = std::fs::read_dir(fixtures.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("out")), "{left:?}");
}
