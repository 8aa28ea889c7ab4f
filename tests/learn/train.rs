//! The whole chain by the program: recordings → dataset → split → training → pack → evaluation → labels. On material that can
//! be learnt it ends in full accuracy; with labels that say nothing it must not.

use std::path::Path;

use crate::common::training::{
    CLASSES, Source, clip_name, first_weights, log_lines, make_clips, make_stills, mixed, run, sources, write_csv,
};
use candle_core::Device;
use touchline_compute::models::pack::Pack;
use touchline_compute::models::read_weights;
use touchline_core::labels::Modality;
use touchline_learn::evaluate::result::{Evaluation, Level, LevelReport, Predictor};
use touchline_learn::record::{Collection, TensorSummary};

/// Of each class; two go to the test side.
const SOURCES: u32 = 15;

/// Builds, splits, trains and evaluates `material/CSV` below `dir`; what is made has names that start with `name`.
fn chain(dir: &Path, csv: &str, name: &str) -> Evaluation {
    let pictures = if name == "true" { "stills" } else { "" };
    let plan = "--rgb-frames 2 --flow-pairs 2";
    run(dir, &format!("dataset build material/{csv} {pictures} -o {name}-set {plan}")).well();
    run(dir, &format!("dataset split {name}-set")).well();
    let train = format!(
        "train all {name}-set -o {name}-run --init {} --unfreeze 1 --epochs 4 --dropout 0 --mixup 0 --batch 16 \
         --views 1 --frames 1 --save-tensors 2",
        first_weights()
    );
    println!("{}", run(dir, &train).well());
    let build = format!("pack build {name}-run --dataset {name}-set -o {name}-pack --name {name}");
    println!("{}", run(dir, &build).well());
    let files = format!("--json {name}.json --report {name}.html");
    println!("{}", run(dir, &format!("evaluate {name}-pack {name}-set {files}")).well());
    let json = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn report(evaluation: &Evaluation, level: Level, predictor: Predictor) -> &LevelReport {
    let found = evaluation.reports.iter().find(|r| r.level == level && r.predictor == predictor);
    found.unwrap_or_else(|| panic!("no report of {predictor:?} at {level:?}"))
}

/// Labels in an order that hashing gives, the same every time: a third of every class's sources gets each, so that what a
/// recording shows and how it sounds says nothing about its label.
fn shuffled(sources: &[Source]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|i| (sources[*i].0, mixed(*i as u32)));
    let mut labels = vec![0; sources.len()];
    for (place, i) in order.into_iter().enumerate() {
        labels[i] = place % CLASSES.len();
    }
    labels
}

#[test]
fn what_can_be_learnt_is_learnt_and_shuffled_labels_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sources = sources(SOURCES);
    make_clips(&dir.join("material"), &sources);
    (0..3).for_each(|class| make_stills(&dir.join("stills"), class, 4));
    write_csv(&dir.join("material/true.csv"), &sources, |i| sources[i].0);
    let labels = shuffled(&sources);
    write_csv(&dir.join("material/shuffled.csv"), &sources, |i| labels[i]);

    let learnt = chain(dir, "true.csv", "true");
    assert_eq!(learnt.modalities, Modality::ALL);
    assert_eq!(learnt.classes, CLASSES);
    let fusion = report(&learnt, Level::Video, Predictor::Table);
    // Two sources a class, at least; the halves of a recording are one recording.
    assert!(fusion.n >= 6, "{}", fusion.n);
    assert!((fusion.accuracy.value - 1.0).abs() < 1e-9, "{:?} {:?}", fusion.accuracy, fusion.confusion);
    for modality in [Predictor::Rgb, Predictor::Flow, Predictor::Audio] {
        let accuracy = report(&learnt, Level::Second, modality).accuracy.value;
        assert!(accuracy > 0.8, "{modality:?} {accuracy}");
    }
    run_holds_what_it_should(&dir.join("true-run"));
    evaluation_is_drawn(&dir.join("true.html"));
    pack_serves(dir, &sources);
    pack_keeps_what_was_not_trained_again(dir);
    pack_adapts_to_a_channel(dir, &sources);

    let guessed = chain(dir, "shuffled.csv", "shuffled");
    let fusion = report(&guessed, Level::Video, Predictor::Table);
    assert!(fusion.n >= 6, "{}", fusion.n);
    // Chance is a third. Were a half of a recording learnt from and the other measured on, all would be right: the strips
    // tell sources apart.
    assert!(fusion.accuracy.value < 0.6, "{:?} {:?}", fusion.accuracy, fusion.confusion);
    let seconds = report(&guessed, Level::Second, Predictor::Rgb);
    assert!(seconds.accuracy.value < 0.6, "{:?} {:?}", seconds.accuracy, seconds.confusion);
}

/// A run of the pictures alone takes its place in a pack whose motion and sound stay.
fn pack_keeps_what_was_not_trained_again(dir: &Path) {
    std::fs::create_dir(dir.join("again")).unwrap();
    std::fs::rename(dir.join("true-run/rgb"), dir.join("again/rgb")).unwrap();
    run(dir, "pack build again --keep true-pack --dataset true-set -o kept --name kept").well();
    std::fs::rename(dir.join("again/rgb"), dir.join("true-run/rgb")).unwrap();
    let (before, after) = (Pack::open(&dir.join("true-pack")).unwrap(), Pack::open(&dir.join("kept")).unwrap());
    for modality in Modality::ALL {
        let sha256 = |pack: &Pack| pack.model(modality).unwrap().sha256.clone();
        assert_eq!(sha256(&before), sha256(&after), "{modality}");
    }
    assert_eq!(before.fusion, after.fusion, "the same models are measured alike");
    let card = std::fs::read_to_string(dir.join("kept/pack.toml")).unwrap();
    assert!(card.contains("flow: as in the pack true") && card.contains("audio: as in the pack true"), "{card}");
}

/// Adapting to recordings that the pack classifies correctly keeps it as good as it is. Classes that no option names are refused.
fn pack_adapts_to_a_channel(dir: &Path, sources: &[Source]) {
    let channel: Vec<usize> = (0..sources.len()).filter(|i| sources[*i].1 % 4 == 0).collect();
    let write = |name: &str, class_of: &dyn Fn(usize) -> &'static str| {
        let row = |i: &usize| {
            let name = clip_name(sources[*i]);
            format!("{name},{},{name}\n", class_of(*i))
        };
        let rows = channel.iter().map(row);
        let text = format!("path,class,source\n{}", rows.collect::<String>());
        std::fs::write(dir.join("material").join(name), text).unwrap();
    };
    write("channel.csv", &|i| CLASSES[sources[i].0]);
    let out =
        run(dir, "adapt --from material/channel.csv --pack true-pack -o adapted --name channel --json adapted.json")
            .well();
    assert!(out.contains("golf") && out.contains("pack's own material") && out.contains("--shadow adapted"), "{out}");
    let figures: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("adapted.json")).unwrap()).unwrap();
    assert_eq!(figures["channel"]["after"], 1.0, "{figures}");
    assert_eq!(figures["classes"].as_array().unwrap().len(), CLASSES.len());
    assert!(!dir.join("adapted.work").exists(), "the cut material is deleted");
    let adapted = Pack::open(&dir.join("adapted")).unwrap();
    assert_eq!((adapted.name.as_str(), adapted.classes.len()), ("channel", CLASSES.len()));
    assert!(adapted.card.method.contains("was adapted from true"), "{}", adapted.card.method);
    // The adapted pack can be adapted again.
    run(dir, "adapt --from material/channel.csv --pack adapted -o adapted-twice").well();

    // What the pack knows as chess is called darts.
    write("wrong.csv", &|i| if sources[i].0 == 0 { "darts" } else { CLASSES[sources[i].0] });
    run(dir, "adapt --from material/wrong.csv --pack true-pack -o refused")
        .refused(6, &["\"darts\" is not one of the pack", "--new-class darts"]);
    assert!(!dir.join("refused/pack.toml").exists());
    write("typo.csv", &|i| if sources[i].0 == 2 { "tenis" } else { CLASSES[sources[i].0] });
    run(dir, "adapt --from material/typo.csv --pack true-pack -o refused").refused(6, &["did you mean \"tennis\"?"]);
    run(dir, "adapt --from material/channel.csv --pack true-pack -o true-pack").refused(2, &["another directory"]);
}

/// Log, weights, tensors and report of a run of all modalities.
fn run_holds_what_it_should(run: &Path) {
    for modality in Modality::ALL {
        let of = run.join(modality.to_string());
        let weights = read_weights(&of.join("best.safetensors"), &Device::Cpu).unwrap().tensors;
        assert_eq!(weights["classifier.1.weight"].dims(), [3, 1280]);
        assert!(weights.contains_key("features.18.1.running_var"));

        let start = &log_lines(&of, "start")[0];
        assert_eq!(start["classes"].as_array().unwrap().len(), 3);
        assert!(start["train"].as_array().unwrap().iter().all(|n| n.as_u64().unwrap() > 20), "{start}");
        let steps = log_lines(&of, "step");
        let numbers: Vec<u64> = steps.iter().map(|s| s["step"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let epochs = log_lines(&of, "epoch");
        let of_phase = |phase: &str| epochs.iter().filter(|e| e["phase"] == phase).count();
        assert_eq!((of_phase("head"), of_phase("tune")), (1, 4));
        let head: Vec<f64> =
            steps.iter().filter(|s| s["phase"] == "head").map(|s| s["loss"].as_f64().unwrap()).collect();
        assert!(head.len() > 2 && head[head.len() - 1] < 0.8 * head[0], "{modality}: {head:?}");
        assert_eq!(log_lines(&of, "end")[0]["cause"], "finished");

        tensors_are_collected(&of, head.len() as u64, numbers.len() as u64);
    }
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    is_one_page(&page);
    for part in ["id=\"rgb-labels\"", "id=\"flow-findings\"", "id=\"audio-resources\"", "<svg"] {
        assert!(page.contains(part), "no {part}");
    }
}

/// Every other step of step 2, which comes after `head` steps, has its statistics, the last twenty of them their tensors.
fn tensors_are_collected(run: &Path, head: u64, steps: u64) {
    let folder = run.join("tensors");
    let mut files: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let (first, last) = (head / 2 + 1, steps / 2);
    assert!(last - first > 20, "there is something to remove");
    let names = |from: u64, ending: &str| -> Vec<String> {
        (from..=last).map(|n| format!("step-{:08}.{ending}", 2 * n)).collect()
    };
    let mut expected = [names(first, "json"), names(last - 19, "safetensors")].concat();
    expected.sort();
    assert_eq!(files, expected);
    let summaries: Vec<TensorSummary> =
        serde_json::from_slice(&std::fs::read(folder.join(&names(first, "json")[0])).unwrap()).unwrap();
    let has = |collection, name: &str| summaries.iter().any(|t| t.collection == collection && t.name == name);
    for name in ["classifier.1.weight", "classifier.1.bias", "features.18.0.weight"] {
        assert!(has(Collection::Gradients, name) && has(Collection::Weights, name), "{name}");
    }
    assert_eq!(summaries[0].collection, Collection::Losses);
    assert_eq!(summaries[0].count, 2 * first - head, "the losses of the steps before");
    let load = |file: &str| read_weights(&folder.join(file), &Device::Cpu).unwrap().tensors;
    let last = load(files.last().unwrap());
    for name in ["gradients/features.18.0.weight", "weights/features.18.1.bias", "feature_means/features.18.1"] {
        let tensor = last.get(name).unwrap_or_else(|| panic!("no {name}"));
        let values = tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
        assert!(values.to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()), "{name}");
    }
    assert_eq!(last["feature_means/features.18.1"].dims(), [1280]);
    assert!(!last.contains_key("weights/features.17.conv.0.0.weight"), "frozen layers do not learn");
}

fn evaluation_is_drawn(path: &Path) {
    let page = std::fs::read_to_string(path).unwrap();
    is_one_page(&page);
    assert!(CLASSES.iter().all(|class| page.contains(class)) && page.contains("<svg"));
}

/// Whole, and nothing is loaded from anywhere.
fn is_one_page(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for outside in ["src=\"http", "href=\"http", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// The pack says what it is, and labels recordings that it has not learnt from.
fn pack_serves(dir: &Path, sources: &[Source]) {
    let said = run(dir, "pack inspect true-pack").well();
    assert!(said.contains("hashes verified, models loaded and run") && said.contains("3 classes: chess"), "{said}");
    let pack = Pack::open(&dir.join("true-pack")).unwrap();
    assert_eq!(pack.classes.names(), CLASSES);
    let split = std::fs::read_to_string(dir.join("true-set/split.csv")).unwrap();
    let held_back: Vec<Source> = sources
        .iter()
        .copied()
        .filter(|s| split.lines().any(|line| line.contains(&clip_name(*s)) && line.ends_with("test")))
        .collect();
    assert_eq!(held_back.len(), 6, "{split}");
    let clips: Vec<String> = held_back.iter().map(|s| format!("material/{}", clip_name(*s))).collect();
    run(dir, &format!("score {} --pack true-pack --summary labels.csv", clips.join(" "))).well();
    // In int8 too, with the ranges that the pack was built with, and with those that are measured again.
    let score = format!("score {} --pack true-pack --precision int8 --summary", clips.join(" "));
    run(dir, &format!("{score} int8.csv")).well();
    let built = pack.rgb.as_ref().unwrap().model.int8.clone().expect("a pack that is built has ranges");
    run(dir, "pack calibrate true-pack true-set --recordings 5").well();
    let again = Pack::open(&dir.join("true-pack")).unwrap();
    assert_ne!(again.rgb.as_ref().unwrap().model.int8, Some(built), "fewer recordings have other ranges");
    run(dir, &format!("{score} again.csv")).well();
    let labels = ["labels.csv", "int8.csv", "again.csv"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
    for (source, labels) in held_back.iter().flat_map(|source| labels.iter().map(move |labels| (*source, labels))) {
        let line = labels.lines().find(|line| line.contains(&clip_name(source)));
        let line = line.unwrap_or_else(|| panic!("{source:?} is not in {labels}"));
        assert_eq!(line.split(',').nth(1), Some(CLASSES[source.0]), "{line}");
    }
}
