//! The whole program against real servers: `run` over RTSP and HLS, `score` on the same recordings, and the answers of
//! the HTTP server meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::Fixtures;
use crate::common::http::{HlsMedia, HlsOrigin};
use crate::common::live::{Live, seconds};
use crate::common::program::{self, touchline};
use crate::common::rtsp::{Media, RtspServer};
use serde_json::Value;

/// The label with the most seconds; ties go to the larger summed probability.
fn majority<'a>(seconds: impl Iterator<Item = &'a Value>) -> Option<String> {
    let mut votes: BTreeMap<String, (u32, f64)> = BTreeMap::new();
    for second in seconds {
        for (class, p) in second["probabilities"].as_object()? {
            votes.entry(class.clone()).or_default().1 += p.as_f64()?;
        }
        votes.get_mut(second["label"].as_str()?)?.0 += 1;
    }
    let best = votes.into_iter().max_by(|a, b| a.1.0.cmp(&b.1.0).then(a.1.1.total_cmp(&b.1.1)));
    best.map(|(class, _)| class)
}

#[test]
fn the_same_recording_gives_the_same_bytes() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("clip.mp4", 5);
    let score = |to: &str| {
        let to = fixtures.path().join(to);
        let output = program::finish(touchline().args(["score", "--jsonl"]).arg(&to).arg(&clip));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(to).unwrap()
    };
    let (one, two) = (score("1.jsonl"), score("2.jsonl"));
    assert_eq!(one, two);
    let records: Vec<Value> =
        String::from_utf8(one).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let name = clip.to_str().unwrap();
    assert_eq!(seconds(&records, name).count(), 5);
    for second in seconds(&records, name) {
        for modality in ["rgb", "flow", "audio"] {
            assert!(second["modalities"][modality]["label"].is_string(), "{modality} is missing: {second}");
        }
        let sum: f64 = second["probabilities"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "probabilities sum to {sum}");
    }
}

#[test]
fn stills_and_missing_tracks_are_scored_by_the_modalities_present() {
    let fixtures = Fixtures::new();
    let still = fixtures.make("still.png", "-f lavfi -i testsrc2=size=400x300:rate=1:duration=1 -frames:v 1");
    let silent = fixtures.make(
        "silent.mkv",
        "-f lavfi -i testsrc2=size=321x241:rate=25:duration=2 -c:v libx264 -preset ultrafast -pix_fmt yuv444p",
    );
    let sound = fixtures.make("sound.m4a", "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=3 -c:a aac");
    let jsonl = fixtures.path().join("out.jsonl");
    let output = program::finish(touchline().args(["score", "--jsonl"]).arg(&jsonl).args([&still, &silent, &sound]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(jsonl).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (path, count, present) in
        [(&still, 1, [true, false, false]), (&silent, 2, [true, true, false]), (&sound, 3, [false, false, true])]
    {
        let name = path.to_str().unwrap();
        assert_eq!(seconds(&records, name).count(), count, "{name}");
        for second in seconds(&records, name) {
            for (modality, is_present) in ["rgb", "flow", "audio"].into_iter().zip(present) {
                let result = &second["modalities"][modality];
                assert_eq!(result["label"].is_string(), is_present, "{name} {modality}: {result}");
                assert_eq!(result["absent"].is_string(), !is_present, "{name} {modality}: {result}");
            }
        }
    }
}

#[test]
fn a_live_stream_is_classified_shown_and_scraped() {
    let _alone = crate::common::alone();
    let fixtures = Fixtures::new();
    let server = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "geheim-rtsp-7");
    let uri = server.url().replace("rtsp://", "rtsp://ann:geheim-rtsp-7@");
    let mut live = Live::start(fixtures.path(), &[format!("court={uri}")]);
    let records = live.wait(|r| seconds(r, "court").count() >= 6);
    let whole = seconds(&records, "court").nth(3).unwrap();
    for modality in ["rgb", "flow", "audio"] {
        assert!(whole["modalities"][modality]["label"].is_string(), "{modality} is missing: {whole}");
    }
    assert!(whole["latency_ms"].as_f64().unwrap() > 0.0 && whole["wall"]["time"].is_string(), "{whole}");
    let indices: Vec<u64> = seconds(&records, "court").map(|s| s["index"].as_u64().unwrap()).collect();
    assert!(indices.windows(2).all(|w| w[1] == w[0] + 1), "seconds are missing: {indices:?}");

    assert!(live.get("/").contains("<title>"));
    assert_eq!(live.get("/healthz").trim(), "ok");
    live.get("/readyz");
    let streams = live.get("/api/v1/streams");
    let metrics = live.get("/metrics");
    for line in ["touchline_seconds_classified_total{stream=\"court\"}", "touchline_stream_up{stream=\"court\"} 1"] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    let stage_count = |name: &str| {
        let line = metrics
            .lines()
            .find(|l| l.starts_with(&format!("touchline_stage_duration_seconds_count{{stage=\"{name}\"")));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    for name in [
        "decode_wait",
        "features_rgb",
        "features_flow",
        "features_audio",
        "infer_rgb",
        "infer_flow",
        "infer_audio",
        "fusion",
        "publish",
    ] {
        assert!(stage_count(name) > 0, "stage {name} is not timed:\n{metrics}");
    }
    let jsonl = std::fs::read_to_string(&live.jsonl).unwrap();
    for (place, text) in [("API", &streams), ("metrics", &metrics), ("JSONL", &jsonl)] {
        assert!(!text.contains("geheim"), "the password is in the {place}");
    }
    assert_eq!(live.stop(), 0);
}

/// Path and class of the recordings on the test side of the shipped pack's split.
fn test_clips(data: &Path) -> Vec<(PathBuf, String)> {
    let split = std::fs::read_to_string(program::pack().join("split.csv")).unwrap();
    let weak: Vec<String> = std::fs::read_to_string(data.join("clips/manifest.csv"))
        .unwrap()
        .lines()
        .filter(|l| l.split(',').nth(4).is_some_and(|weak| !weak.is_empty()))
        .map(|l| l.split(',').next().unwrap().to_owned())
        .collect();
    split
        .lines()
        .skip(1)
        .filter(|line| line.starts_with("clips/") && line.ends_with(",test"))
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| !weak.iter().any(|w| fields[0].ends_with(w.as_str())))
        .map(|fields| (data.join(fields[0]), fields[1].to_owned()))
        .collect()
}

#[test]
fn most_test_recordings_get_the_right_label() {
    let _alone = crate::common::alone();
    let Some(data) = program::data() else { return };
    let clips = test_clips(&data);
    assert!(clips.len() >= 10, "the test side of the split has only {} clips", clips.len());
    let dir = tempfile::tempdir().unwrap();
    let summary = dir.path().join("labels.csv");
    let mut command = touchline();
    command.args(["score", "--summary"]).arg(&summary).args(clips.iter().map(|(path, _)| path));
    let output = program::finish(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let labels: BTreeMap<String, String> = std::fs::read_to_string(summary)
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .map(|fields| (fields[0].to_owned(), fields[1].to_owned()))
        .collect();
    let mut right = 0;
    for (path, class) in &clips {
        let label = &labels[path.to_str().unwrap()];
        right += usize::from(label == class);
        println!("{:>18} → {label}", class);
    }
    println!("video level: {right} of {} test recordings right", clips.len());
    assert!(right * 2 > clips.len(), "only {right} of {} are right", clips.len());
}

#[test]
fn run_over_rtsp_and_hls_agrees_with_score() {
    let _alone = crate::common::alone();
    let Some(data) = program::data() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Long clips with sound: the seconds that each protocol loses at its start then matter least.
    let manifest = std::fs::read_to_string(data.join("clips/manifest.csv")).unwrap();
    let long = |path: &Path| {
        let row = manifest.lines().find(|l| path.ends_with(l.split(',').next().unwrap_or("?"))).unwrap();
        let fields: Vec<&str> = row.split(',').collect();
        fields[5] == "yes" && fields[6].parse::<f64>().unwrap() >= 7.0
    };
    let mut compared = 0;
    for (path, class) in test_clips(&data).into_iter().filter(|(path, _)| long(path)) {
        let jsonl = dir.path().join("score.jsonl");
        let output = program::finish(touchline().args(["score", "--jsonl"]).arg(&jsonl).arg(&path));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&jsonl).unwrap();
        let scored: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let count = seconds(&scored, path.to_str().unwrap()).count();
        let want = majority(seconds(&scored, path.to_str().unwrap())).unwrap();
        let votes = seconds(&scored, path.to_str().unwrap()).filter(|r| r["label"] == want.as_str()).count();
        // Each protocol cuts the seconds at other pictures, so a narrow vote may end otherwise.
        if votes * 4 < count * 3 {
            continue;
        }

        let rtsp = RtspServer::start(Media::File { path: path.clone(), plays: 1 });
        let hls = HlsOrigin::start(HlsMedia::File(path.clone()));
        let mut live = Live::start(dir.path(), &[format!("rtsp={}", rtsp.url()), format!("hls={}", hls.url())]);
        // HLS starts a few segments behind the live edge, so it may miss the first seconds.
        let enough = |r: &[Value]| ["rtsp", "hls"].iter().all(|s| seconds(r, s).count() + 3 >= count);
        let records = live.wait(enough);
        for stream in ["rtsp", "hls"] {
            let got = majority(seconds(&records, stream)).unwrap();
            println!("{class}: score {want}, {stream} {got}, {} seconds", seconds(&records, stream).count());
            assert_eq!(got, want, "{} over {stream}", path.display());
        }
        assert_eq!(live.stop(), 0);
        std::fs::remove_file(dir.path().join("live.jsonl")).unwrap();
        compared += 1;
        if compared == 3 {
            break;
        }
    }
    assert!(compared >= 2, "the test side of the split has too few long clips with sound and a clear label");
}
