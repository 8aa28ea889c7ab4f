//! The whole chain through the program: recordings → dataset → split → training → pack → evaluation → labels. Learnable
//! material gives full accuracy; shuffled labels must not.

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

/// Sources of each class; two go to the test side.
const SOURCES: u32 = 15;

/// Builds, splits, trains and evaluates `material/CSV` below `dir` with `modalities`. The names of the results start with `name`.
fn chain(dir: &Path, csv: &str, name: &str, modalities: &str) -> Evaluation {
    let pictures = if name == "true" { "stills" } else { "" };
    let plan = "--rgb-frames 2 --flow-pairs 2";
    run(dir, &format!("dataset build material/{csv} {pictures} -o {name}-set {plan}")).well();
    run(dir, &format!("dataset split {name}-set")).well();
    let train = format!(
        "train {modalities} {name}-set -o {name}-run --init {} --unfreeze 1 --epochs 4 --dropout 0 --mixup 0 --batch 16 \
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

/// Shuffles the labels by a hash, the same way every time. A third of the sources of each class gets each label, so
/// that pictures and sound say nothing about it.
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
fn learnable_material_gives_full_accuracy_and_shuffled_labels_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sources = sources(SOURCES);
    make_clips(&dir.join("material"), &sources);
    (0..3).for_each(|class| make_stills(&dir.join("stills"), class, 4));
    write_csv(&dir.join("material/true.csv"), &sources, |i| sources[i].0);
    let labels = shuffled(&sources);
    write_csv(&dir.join("material/shuffled.csv"), &sources, |i| labels[i]);

    let learnt = chain(dir, "true.csv", "true", "all");
    assert_eq!(learnt.modalities, Modality::ALL);
    assert_eq!(learnt.classes, CLASSES);
    let fusion = report(&learnt, Level::Video, Predictor::Table);
    // At least two sources per class. The two halves of a recording count as one recording.
    assert!(fusion.n >= 6, "{}", fusion.n);
    assert!((fusion.accuracy.value - 1.0).abs() < 1e-9, "{:?} {:?}", fusion.accuracy, fusion.confusion);
    for modality in [Predictor::Rgb, Predictor::Flow, Predictor::Audio] {
        let accuracy = report(&learnt, Level::Second, modality).accuracy.value;
        assert!(accuracy > 0.8, "{modality:?} {accuracy}");
    }
    check_run(&dir.join("true-run"));
    check_evaluation_report(&dir.join("true.html"));
    pack_labels_test_recordings(dir, &sources);
    pack_keeps_models_that_were_not_trained(dir);
    pack_adapts_to_a_channel(dir, &sources);

    // The pictures identify the sources most clearly.
    let guessed = chain(dir, "shuffled.csv", "shuffled", "rgb");
    let fusion = report(&guessed, Level::Video, Predictor::Table);
    assert!(fusion.n >= 6, "{}", fusion.n);
    // Chance is a third. If a split put the two halves of a recording on different sides, the accuracy would be 1,
    // because the strips identify the sources.
    assert!(fusion.accuracy.value < 0.6, "{:?} {:?}", fusion.accuracy, fusion.confusion);
    let seconds = report(&guessed, Level::Second, Predictor::Rgb);
    assert!(seconds.accuracy.value < 0.6, "{:?} {:?}", seconds.accuracy, seconds.confusion);
}

/// A run of RGB alone replaces the RGB model of a pack. The pack's flow and audio models stay.
fn pack_keeps_models_that_were_not_trained(dir: &Path) {
    std::fs::create_dir(dir.join("again")).unwrap();
    std::fs::rename(dir.join("true-run/rgb"), dir.join("again/rgb")).unwrap();
    run(dir, "pack build again --keep true-pack --dataset true-set -o kept --name kept").well();
    std::fs::rename(dir.join("again/rgb"), dir.join("true-run/rgb")).unwrap();
    let (before, after) = (Pack::open(&dir.join("true-pack")).unwrap(), Pack::open(&dir.join("kept")).unwrap());
    for modality in Modality::ALL {
        let sha256 = |pack: &Pack| pack.model(modality).unwrap().sha256.clone();
        assert_eq!(sha256(&before), sha256(&after), "{modality}");
    }
    assert_eq!(before.fusion, after.fusion, "the same models must give the same fusion");
    let card = std::fs::read_to_string(dir.join("kept/pack.toml")).unwrap();
    assert!(card.contains("flow: as in the pack true") && card.contains("audio: as in the pack true"), "{card}");
}

/// Adapting to recordings that the pack classifies correctly keeps it as good as it is. Classes that no option names are refused.
fn pack_adapts_to_a_channel(dir: &Path, sources: &[Source]) {
    let channel: Vec<usize> = (0..sources.len()).filter(|i| sources[*i].1.is_multiple_of(4)).collect();
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
    assert!(!dir.join("adapted.work").exists(), "the cut material was not deleted");
    let adapted = Pack::open(&dir.join("adapted")).unwrap();
    assert_eq!((adapted.name.as_str(), adapted.classes.len()), ("channel", CLASSES.len()));
    assert!(adapted.card.method.contains("was adapted from true"), "{}", adapted.card.method);
    // The adapted pack can be adapted again.
    run(dir, "adapt --from material/channel.csv --pack adapted -o adapted-twice").well();

    // The CSV labels recordings of chess as darts.
    write("wrong.csv", &|i| if sources[i].0 == 0 { "darts" } else { CLASSES[sources[i].0] });
    run(dir, "adapt --from material/wrong.csv --pack true-pack -o refused")
        .refused(6, &["\"darts\" is not one of the pack", "--new-class darts"]);
    assert!(!dir.join("refused/pack.toml").exists());
    write("typo.csv", &|i| if sources[i].0 == 2 { "tenis" } else { CLASSES[sources[i].0] });
    run(dir, "adapt --from material/typo.csv --pack true-pack -o refused").refused(6, &["did you mean \"tennis\"?"]);
    run(dir, "adapt --from material/channel.csv --pack true-pack -o true-pack").refused(2, &["choose another -o"]);
}

/// Checks log, weights, tensors and report of a run of all modalities.
fn check_run(run: &Path) {
    for modality in Modality::ALL {
        let folder = run.join(modality.to_string());
        let weights = read_weights(&folder.join("best.safetensors"), &Device::Cpu).unwrap().tensors;
        assert_eq!(weights["classifier.1.weight"].dims(), [3, 1280]);
        assert!(weights.contains_key("features.18.1.running_var"));

        let start = &log_lines(&folder, "start")[0];
        assert_eq!(start["classes"].as_array().unwrap().len(), 3);
        assert!(start["train"].as_array().unwrap().iter().all(|n| n.as_u64().unwrap() > 20), "{start}");
        let steps = log_lines(&folder, "step");
        let numbers: Vec<u64> = steps.iter().map(|s| s["step"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let epochs = log_lines(&folder, "epoch");
        let epochs_of = |phase: &str| epochs.iter().filter(|e| e["phase"] == phase).count();
        assert_eq!((epochs_of("head"), epochs_of("tune")), (1, 4));
        let head: Vec<f64> =
            steps.iter().filter(|s| s["phase"] == "head").map(|s| s["loss"].as_f64().unwrap()).collect();
        assert!(head.len() > 2 && head[head.len() - 1] < 0.8 * head[0], "{modality}: {head:?}");
        assert_eq!(log_lines(&folder, "end")[0]["cause"], "finished");

        check_tensors(&folder, head.len() as u64, numbers.len() as u64);
    }
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    check_page(&page);
    for part in ["id=\"rgb-labels\"", "id=\"flow-findings\"", "id=\"audio-resources\"", "<svg"] {
        assert!(page.contains(part), "no {part}");
    }
}

/// Checks the files of step 2, which follows `head` optimiser steps: every second step has statistics, and the last
/// twenty of these also have tensors.
fn check_tensors(run: &Path, head: u64, steps: u64) {
    let folder = run.join("tensors");
    let mut files: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let (first, last) = (head / 2 + 1, steps / 2);
    assert!(last - first > 20, "too few steps to remove tensors");
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
    assert_eq!(summaries[0].count, 2 * first - head, "the losses of step 2 so far");
    let load = |file: &str| read_weights(&folder.join(file), &Device::Cpu).unwrap().tensors;
    let last = load(files.last().unwrap());
    for name in ["gradients/features.18.0.weight", "weights/features.18.1.bias", "feature_means/features.18.1"] {
        let tensor = last.get(name).unwrap_or_else(|| panic!("no {name}"));
        let values = tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap();
        assert!(values.to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()), "{name}");
    }
    assert_eq!(last["feature_means/features.18.1"].dims(), [1280]);
    assert!(!last.contains_key("weights/features.17.conv.0.0.weight"), "a frozen layer has tensors");
}

fn check_evaluation_report(path: &Path) {
    let page = std::fs::read_to_string(path).unwrap();
    check_page(&page);
    assert!(CLASSES.iter().all(|class| page.contains(class)) && page.contains("<svg"));
}

/// Checks that a page is complete and loads nothing from elsewhere.
fn check_page(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for outside in ["src=\"http", "href=\"http", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// The pack can be inspected, and it labels the test recordings correctly.
fn pack_labels_test_recordings(dir: &Path, sources: &[Source]) {
    let text = run(dir, "pack inspect true-pack").well();
    assert!(text.contains("hashes verified, models loaded and run") && text.contains("3 classes: chess"), "{text}");
    let pack = Pack::open(&dir.join("true-pack")).unwrap();
    assert_eq!(pack.classes.names(), CLASSES);
    let split = std::fs::read_to_string(dir.join("true-set/split.csv")).unwrap();
    let test_sources: Vec<Source> = sources
        .iter()
        .copied()
        .filter(|s| split.lines().any(|line| line.contains(&clip_name(*s)) && line.ends_with("test")))
        .collect();
    assert_eq!(test_sources.len(), 6, "{split}");
    let clips: Vec<String> = test_sources.iter().map(|s| format!("material/{}", clip_name(*s))).collect();
    run(dir, &format!("score {} --pack true-pack --summary labels.csv", clips.join(" "))).well();
    // In int8 too, first with the ranges from the build of the pack, then with newly measured ones.
    let score = format!("score {} --pack true-pack --precision int8 --summary", clips.join(" "));
    run(dir, &format!("{score} int8.csv")).well();
    let built = pack.rgb.as_ref().unwrap().model.int8.clone().expect("`pack build` measures ranges");
    run(dir, "pack calibrate true-pack true-set --recordings 5").well();
    let again = Pack::open(&dir.join("true-pack")).unwrap();
    assert_ne!(again.rgb.as_ref().unwrap().model.int8, Some(built), "fewer recordings must give other ranges");
    run(dir, &format!("{score} again.csv")).well();
    let labels = ["labels.csv", "int8.csv", "again.csv"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
    for (source, labels) in test_sources.iter().flat_map(|source| labels.iter().map(move |labels| (*source, labels))) {
        let line = labels.lines().find(|line| line.contains(&clip_name(source)));
        let line = line.unwrap_or_else(|| panic!("{source:?} is not in {labels}"));
        assert_eq!(line.split(',').nth(1), Some(CLASSES[source.0]), "{line}");
    }
}
