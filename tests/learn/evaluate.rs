//! Scoring a dataset with the shipped pack, and `touchline evaluate` on a folder of pictures.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::program::{self, touchline};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;
use touchline_learn::dataset::split::Side;
use touchline_learn::dataset::{Kind, Meta};
use touchline_learn::evaluate::PackParameters;
use touchline_learn::evaluate::result::Evaluation;
use touchline_learn::evaluate::score::{LabelledItem, Material, score_side};
use touchline_serve::metrics::Metrics;

/// Material of moving waves and tones. The length of an item's path is its duration in seconds. An item whose path
/// starts with `bad` cannot be read. The sound is muted (-106 dB) if the path starts with `m`, and faint (-80 dB) with
/// `f`.
struct Waves {
    meta: Meta,
    items: Vec<LabelledItem>,
    read: AtomicUsize,
}

impl Waves {
    fn new(pack: &Pack, items: Vec<LabelledItem>) -> Self {
        let sample_rate = pack.sample_rate().unwrap();
        let meta = Meta { format: 1, frame_height: pack.frame_height, sample_rate, plan: pack.plan.clone() };
        Self { meta, items, read: AtomicUsize::new(0) }
    }

    fn second(&self, seed: usize, loudness: f32) -> ClipSecond {
        let frame = |t: usize| {
            let (w, h) = (160, 120);
            let wave = |x: usize, y: usize, c: usize| ((x + 3 * t + seed * 11) * (c + 1) + y * (3 - c)) as f32 * 0.05;
            let pixels = (0..h * w * 3).map(|i| (wave(i / 3 % w, i / 3 / w, i % 3).sin() * 90.0 + 128.0) as u8);
            Frame::new(Pooled::detached(pixels.collect()), w as u32, h as u32, Pts(t as u64 * 40_000_000), 0)
        };
        let mut clip = ClipSecond::of_pictures((0..3).map(frame).collect());
        clip.pairs = (0..2).map(|i| FlowPair { first: i, second: i + 1, gap_ns: 40_000_000 }).collect();
        clip.flow_absent = None;
        let tone = |i: u32| (i as f32 * (0.05 + seed as f32 * 0.01)).sin() * loudness;
        clip.audio = Some((0..self.meta.sample_rate).map(tone).collect());
        clip.audio_absent = None;
        clip
    }
}

impl Material for Waves {
    fn name(&self) -> String {
        "waves".into()
    }

    fn cut(&self) -> &Meta {
        &self.meta
    }

    fn items(&self) -> Result<Vec<LabelledItem>> {
        Ok(self.items.clone())
    }

    fn fingerprint(&self) -> String {
        "waves, as they are".into()
    }

    fn seconds(&self, index: usize) -> Result<Vec<ClipSecond>> {
        self.read.fetch_add(1, Ordering::Relaxed);
        let path = self.items[index].path.display().to_string();
        if path.starts_with("bad") {
            return Err(Error::data(path, "it is broken", "replace it"));
        }
        let loudness = match path.chars().next() {
            Some('m') => 5e-6,
            Some('f') => 1e-4,
            _ => 0.3,
        };
        Ok((0..path.len()).map(|s| self.second(index * 7 + s, loudness)).collect())
    }
}

fn item(path: &str, class: &str) -> LabelledItem {
    LabelledItem {
        kind: Kind::Clip,
        path: path.into(),
        class: class.into(),
        group: path.into(),
        side: Side::Test,
        weak: false,
    }
}

fn pack() -> Pack {
    Pack::open(&program::pack()).expect("the shipped pack is complete")
}

#[test]
fn scores_equal_those_of_serving_and_are_cached() {
    let pack = pack();
    let cache = tempfile::tempdir().unwrap();
    let elsewhere = LabelledItem { side: Side::Train, ..item("c", "golf") };
    let weak = LabelledItem { weak: true, ..item("d", "golf") };
    let material = Waves::new(
        &pack,
        vec![elsewhere, item("aaaa", "tennis"), item("mmm", "golf"), item("ff", "golf"), weak, item("e", "chess")],
    );
    let score = |progress: &mut Vec<(usize, usize)>| {
        score_side(&pack, &material, Side::Test, cache.path(), &mut |done, total| progress.push((done, total))).unwrap()
    };
    let mut progress = Vec::new();
    let table = score(&mut progress);
    assert_eq!(progress.last(), Some(&(3, 3)));
    assert_eq!(table.items.iter().map(|i| i.dataset_index).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((table.unknown["chess"], table.weak, table.seconds.len()), (1, 1, 9));

    // The scores are bit-identical to those of serving.
    let soft = table.soften(&PackParameters::of(&pack).temperatures);
    let mut engine = Engine::load(pack.clone()).unwrap();
    for (scored, index) in [(&soft[..4], 1), (&soft[4..7], 2), (&soft[7..], 3)] {
        let seconds = material.seconds(index).unwrap();
        let served = engine.score(&seconds.iter().collect::<Vec<_>>(), &Metrics::new()).unwrap();
        for (ours, theirs) in scored.iter().zip(served) {
            assert_eq!(ours.scores.rgb, theirs.scores.rgb);
            assert_eq!(ours.scores.flow, theirs.scores.flow);
            assert_eq!(ours.scores.audio, theirs.scores.audio);
            assert_eq!(ours.scores.audio.is_some(), index != 2, "faint sound is scored, silence is not");
            assert!(Modality::ALL[..2].iter().all(|m| ours.scores.get(*m).is_some()));
        }
    }

    // The second call decodes nothing.
    let before = material.read.load(Ordering::Relaxed);
    assert_eq!(score(&mut Vec::new()), table);
    assert_eq!(material.read.load(Ordering::Relaxed), before);
    // A damaged cache is written again.
    let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(score(&mut Vec::new()), table);
    assert!(material.read.load(Ordering::Relaxed) > before);
    assert_eq!(std::fs::read(&file).unwrap().len(), whole.len());
}

#[test]
fn unreadable_items_are_skipped_and_not_cached() {
    let pack = pack();
    let cache = tempfile::tempdir().unwrap();
    let material = Waves::new(&pack, vec![item("bad", "golf"), item("a", "tennis"), item("", "golf")]);
    let table = score_side(&pack, &material, Side::Test, cache.path(), &mut |_, _| ()).unwrap();
    let skipped: Vec<String> =
        table.skipped.iter().map(|(path, reason)| format!("{} {reason}", path.display())).collect();
    assert!(skipped[0].contains("broken") && skipped[1].contains("no second"), "{skipped:?}");
    assert_eq!(table.seconds.len(), 1);
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "nothing is cached");
}

#[test]
fn material_that_does_not_fit_the_pack_is_refused() {
    let pack = pack();
    let cache = tempfile::tempdir().unwrap();
    let refused = |material: &Waves, side, words: &[&str]| {
        let error = score_side(&pack, material, side, cache.path(), &mut |_, _| ()).unwrap_err();
        assert_eq!(error.exit_code(), 6, "{error}");
        assert!(words.iter().all(|w| error.to_string().contains(w)), "{error}");
        assert_eq!(material.read.load(Ordering::Relaxed), 0, "an item was decoded");
    };
    refused(&Waves::new(&pack, vec![item("a", "chess")]), Side::Test, &["none of its classes", "compact"]);
    let mut material = Waves::new(&pack, vec![item("a", "golf")]);
    refused(&material, Side::Validation, &["validation side has no items"]);
    material.meta.sample_rate = 16_000;
    refused(&material, Side::Test, &["16000", "--sample-rate 32000"]);
    material.meta.sample_rate = 32_000;
    material.meta.plan.flow_gap_ns = 80_000_000;
    refused(&material, Side::Test, &["80 ms", "--flow-gap-ms 40"]);
    material.meta.plan.flow_gap_ns = 40_000_000;
    material.meta.plan.flow_pairs = 0;
    let pairs = pack.plan.flow_pairs;
    refused(&material, Side::Test, &["no pairs", &format!("--flow-pairs {pairs}")]);
    material.meta.plan.flow_pairs = 3;
    let table = score_side(&pack, &material, Side::Test, cache.path(), &mut |_, _| ()).unwrap();
    let remark = format!("3 pairs a second, but serving uses {pairs}");
    assert!(table.remarks[0].contains(&remark), "{:?}", table.remarks);
}

/// Runs the program. Returns its exit code, standard output and standard error.
fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = program::finish(touchline().current_dir(dir).args(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_folder_of_pictures_can_be_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let paint = |class: &str, n: u32| {
        let folder = dir.path().join("material").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..n {
            // Random patches, so that no two pictures look the same.
            let mut state = i * 97 + class.len() as u32 * 1009 + 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            let patches: Vec<[u8; 3]> = (0..64).map(|_| [next(), next(), next()]).collect();
            let pixel = |x: u32, y: u32| image::Rgb(patches[(y / 8 * 8 + x / 8) as usize]);
            image::RgbImage::from_fn(64, 64, pixel).save(folder.join(format!("{i}.png"))).unwrap();
        }
    };
    paint("tennis", 30);
    paint("golf", 30);
    paint("chess", 12);
    let pack = program::pack();
    let pack = pack.to_str().unwrap();
    assert_eq!(run(dir.path(), &["dataset", "build", "material", "-o", "ds"]).0, 0);
    let (code, _, error) = run(dir.path(), &["evaluate", pack, "ds"]);
    assert!(code == 6 && error.contains("not split"), "{code} {error}");
    assert_eq!(run(dir.path(), &["dataset", "split", "ds"]).0, 0);

    let (code, out, error) = run(dir.path(), &["evaluate", pack, "ds", "--json", "out/figures.json"]);
    assert_eq!(code, 0, "{error}");
    let json = std::fs::read_to_string(dir.path().join("out/figures.json")).unwrap();
    let evaluation: Evaluation = serde_json::from_str(&json).unwrap();
    assert_eq!(evaluation.side, "test");
    let tennis = evaluation.label_distribution.iter().find(|c| c.class == "tennis").unwrap();
    assert_eq!((tennis.pictures, tennis.recordings), (3, 0));
    assert!(evaluation.reports.iter().any(|r| r.n == 6), "the test side has only pictures");
    let notes = evaluation.notes.join("\n");
    assert!(notes.contains("no clips") && notes.contains("chess (1)"), "{notes}");
    assert!(out.contains("macro F1") && out.contains("figures written to out/figures.json"), "{out}");
    let html = std::fs::read_to_string(dir.path().join("out/figures.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("tennis"));
    assert!(evaluation.wrong.iter().all(|w| w.thumbnail.as_ref().unwrap().starts_with("data:image/jpeg;base64,")));
    // The same seed and material give the same bytes.
    assert_eq!(run(dir.path(), &["evaluate", pack, "ds", "--json", "again.json"]).0, 0);
    assert_eq!(std::fs::read_to_string(dir.path().join("again.json")).unwrap(), json);

    let against = |file: &str| run(dir.path(), &["evaluate", pack, "ds", "--json", "x.json", "--against", file]);
    let (code, out, error) = against("again.json");
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("pictures") && out.contains("0.000 [0.000 0.000]      undecided"), "{out}");
    assert!(out.contains("may explain the difference from compact"), "{out}");
    std::fs::write(dir.path().join("other.json"), json.replace("\"side\": \"test\"", "\"side\": \"validation\""))
        .unwrap();
    for (file, cause) in
        [("none.json", "No such file"), ("ds/items.csv", "no evaluation"), ("other.json", "validation side")]
    {
        let (code, _, error) = against(file);
        assert!(code == 6 && error.contains(cause) && error.contains("touchline evaluate"), "{code} {error}");
    }

    std::fs::write(dir.path().join("file"), "").unwrap();
    let (code, _, error) = run(dir.path(), &["evaluate", pack, "ds", "--json", "file/x.json"]);
    assert!(code == 5 && error.contains("--json"), "{code} {error}");
    let (code, _, error) = run(dir.path(), &["evaluate", pack, "ds", "--json", "x.html"]);
    assert!(code == 2 && error.contains("--report"), "{code} {error}");
    let (code, _, error) = run(dir.path(), &["evaluate", "nowhere", "ds"]);
    assert!(code == 4 && error.contains("pack.toml"), "{code} {error}");
}
