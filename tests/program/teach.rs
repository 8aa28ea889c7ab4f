//! Corrections of seconds that have left the memory: their material comes from the ring.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::api::{Answer, ask, wait_until_ready};
use crate::common::live::{Live, seconds};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::wait::{until, until_some};
use crate::common::{Fixtures, alone};

/// Seconds of a correction.
const LENGTH: u64 = 3;

/// The checksums of a track's packets, in order: the JPEG pictures as they were kept, or the samples of the sound.
fn packets(file: &Path, track: &str) -> Vec<String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-map", track, "-c", "copy", "-f", "framemd5", "-"])
        .output()
        .expect("FFmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    // The time of a packet, and its checksum.
    lines
        .map(|line| {
            line.split(',')
                .map(str::trim)
                .enumerate()
                .filter(|(i, _)| [2, 5].contains(i))
                .map(|(_, f)| f)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

/// The sound of a file.
fn sound(file: &Path) -> Vec<i16> {
    let output =
        Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(file).args(["-f", "s16le", "-"]).output().unwrap();
    output.stdout.chunks_exact(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect()
}

struct Watched {
    live: Live,
    corrections: PathBuf,
}

impl Watched {
    fn start(fixtures: &Fixtures, url: &str, record: bool) -> Self {
        let dir = fixtures.path();
        let mut arguments = vec![
            format!("court={url}"),
            "--rtsp-transport=tcp".into(),
            format!("--teach-dir={}", dir.join("corrections").display()),
            "--teach-memory-s=10".into(),
            format!("--state={}", dir.join("state.db").display()),
        ];
        if record {
            arguments.extend([format!("--record-dir={}", dir.join("media").display()), "--record-ring-s=120".into()]);
        }
        let live = Live::start_with(dir, "127.0.0.1", &arguments);
        wait_until_ready(&live.address);
        Self { live, corrections: dir.join("corrections/clips") }
    }

    /// The records of decided seconds, when the newest run has `count`.
    fn seconds(&mut self, count: usize) -> Vec<Value> {
        let of_newest = |records: &[Value]| -> Vec<Value> {
            let run = seconds(records, "court").last().map(|second| second["run"].clone());
            seconds(records, "court").filter(|second| Some(&second["run"]) == run.as_ref()).cloned().collect()
        };
        of_newest(&self.live.wait(|records| of_newest(records).len() >= count))
    }

    fn correct(&self, run: &Value, from: u64, said: &Value) -> Answer {
        let mut body = json!({ "run": run, "from": from, "to": from + LENGTH - 1 });
        body.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
        ask(&self.live.address, "POST", "/api/v1/streams/court/corrections", Some(&body), &[])
    }

    /// Removes a correction. Returns a copy of its file.
    fn take_back(&self, made: &Value, name: &str) -> PathBuf {
        let file = self.corrections.join(made["file"].as_str().unwrap());
        let copy = self.corrections.with_file_name(format!("{name}.mkv"));
        std::fs::copy(file, &copy).unwrap();
        let path = format!("/api/v1/corrections/{}", made["id"].as_str().unwrap());
        assert_eq!(ask(&self.live.address, "DELETE", &path, None, &[]).status, 204);
        copy
    }

    fn is_held(&self, run: &Value, index: u64) -> bool {
        let path = format!("/api/v1/streams/court/seconds/{run}/{index}");
        ask(&self.live.address, "GET", &path, None, &[]).status == 200
    }
}

#[test]
fn seconds_that_left_the_memory_are_corrected_from_the_ring() {
    let _alone = alone();
    let fixtures = Fixtures::new();
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let mut watched = Watched::start(&fixtures, &server.url(), true);
    let early = watched.seconds(5);
    // The first second of a run may be a part of one.
    let (run, from) = (early[1]["run"].clone(), early[1]["index"].as_u64().unwrap());
    until("the seconds in memory", || (from..from + LENGTH).all(|index| watched.is_held(&run, index)));
    let tennis = json!({ "class": "tennis" });
    let held = watched.correct(&run, from, &tennis);
    assert_eq!((held.status, &held.body["seconds"]), (201, &json!(LENGTH)), "{}", held.text);
    let held = watched.take_back(&held.body, "held");

    until("the seconds to leave the memory", || (from..from + LENGTH).all(|index| !watched.is_held(&run, index)));
    let recalled = watched.correct(&run, from, &tennis);
    assert_eq!((recalled.status, &recalled.body["seconds"]), (201, &json!(LENGTH)), "{}", recalled.text);
    assert_eq!(
        recalled.body["decision"]["label"], early[1]["label"],
        "the decision about seconds that left the memory is known"
    );
    let recalled = watched.take_back(&recalled.body, "recalled");
    // The decoder, the conversion and the choice are the same, and so is each byte.
    let pictures = packets(&held, "0:v");
    assert!(pictures.len() as u64 > 2 * LENGTH, "{pictures:?}");
    assert_eq!(packets(&recalled, "0:v"), pictures);
    // Resampled sound may be shifted by half a sample.
    let (heard, again) = (sound(&held), sound(&recalled));
    let loudest = heard.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
    let differs = heard.iter().zip(&again).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).max().unwrap();
    assert!(heard.len() == again.len() && loudest > 1000 && differs < i32::from(loudest) / 5, "{differs} of {loudest}");
    assert!(!fixtures.path().join("media/decoding").exists(), "no media stay");

    let confirmed = watched.correct(&run, from, &json!({ "answer": "confirm" }));
    assert_eq!(confirmed.body["class"], confirmed.body["decision"]["label"], "{}", confirmed.text);
    let unknown = watched.correct(&json!(900), from, &tennis);
    assert!(unknown.status == 404 && unknown.text.contains("ring_s"), "{}", unknown.text);
    assert_eq!(watched.live.stop(), 0);

    // Another process finds what was decided in its store, and the media by their wall time.
    let mut watched = Watched::start(&fixtures, &server.url(), true);
    watched.seconds(1);
    let after = watched.correct(&run, from + LENGTH, &tennis);
    assert_eq!((after.status, &after.body["seconds"]), (201, &json!(LENGTH)), "{}", after.text);
    assert_eq!(watched.live.stop(), 0);

    // The ring is still there, and nothing says that it is that of this stream.
    let mut watched = Watched::start(&fixtures, &server.url(), false);
    watched.seconds(1);
    let refused = watched.correct(&run, from, &json!({ "class": "soccer" }));
    assert!(refused.status == 404 && refused.text.contains("[record]"), "{}", refused.text);
    let metrics = until_some("metrics", || Some(watched.live.get("/metrics")));
    assert!(metrics.contains("touchline_corrections_total{result=\"not-held\"} 1"), "{metrics}");
    assert_eq!(watched.live.stop(), 0);
}
