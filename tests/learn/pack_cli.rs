//! `touchline pack`: inspecting a pack and importing weights.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::program::{self, touchline};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use touchline_compute::models::pack::{Manifest, Pack};
use touchline_compute::models::{Tensors, read_weights};

fn run(arguments: &[&str]) -> Output {
    program::finish(touchline().arg("pack").args(arguments))
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Expects an error of one line with exit code `code`, and returns the line.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    error
}

/// The state dict of a model of the shipped pack, as torchvision would save it.
fn state_dict(modality: &str) -> Tensors {
    let path = program::pack().join(format!("{modality}.safetensors"));
    let mut tensors = read_weights(&path, &Device::Cpu).unwrap().tensors;
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(DType::F32).unwrap();
    }
    for i in 0..3 {
        let counter = Tensor::new(12_i64, &Device::Cpu).unwrap();
        tensors.insert(format!("features.{i}.1.num_batches_tracked"), counter);
    }
    tensors
}

fn save(dir: &Path, tensors: &Tensors) -> PathBuf {
    let path = dir.join("state.safetensors");
    candle_core::safetensors::save(tensors, &path).unwrap();
    path
}

fn import<'a>(file: &'a Path, modality: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["import", "--from", "torchvision", "--arch", "mobilenet_v2", "--modality", modality];
    arguments.extend([file.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    arguments.extend(more);
    arguments
}

/// The classes of the flow model.
fn classes() -> String {
    Manifest::read(&program::pack()).unwrap().flow.unwrap().classes.join(",")
}

#[test]
fn inspect_describes_the_shipped_pack() {
    let text = stdout(&run(&["inspect"]));
    for part in [
        "hashes verified, models loaded and run",
        "25 classes: americanfootball",
        "left out: handball (only 1 recording(s) of one source, no pictures)",
        "256x256 crop",
        "224x224 crop, 40 ms apart",
        "fusion, best first: rgb",
        "test_videos_fusion_accuracy",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("THE TABLE MUST BE FITTED AGAIN"), "{text}");
    let json: Value = serde_json::from_str(&stdout(&run(&["inspect", "--json"]))).unwrap();
    assert_eq!((&json["pack"]["name"], &json["verified"]), (&"compact".into(), &true.into()));
    // EfficientNet-Lite2 without its classifier has 4,811,072 parameters; the classifier has 1280 weights and a bias per class.
    assert_eq!(json["weights"][0]["parameters"], 4_811_072 + 25 * 1281);
    assert_eq!(json["fusion"]["table"]["tennis"]["modality"], "rgb");
    assert!(json["card"]["measured"]["test_videos_n"].as_f64().unwrap() > 0.0);

    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("bad");
    std::fs::create_dir(&pack).unwrap();
    for entry in std::fs::read_dir(program::pack()).unwrap().flatten() {
        std::fs::copy(entry.path(), pack.join(entry.file_name())).unwrap();
    }
    let mut bytes = std::fs::read(pack.join("flow.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(pack.join("flow.safetensors"), bytes).unwrap();
    assert!(refused(&["inspect", pack.to_str().unwrap()], 4).contains("flow model: weights"));
}

#[test]
fn an_imported_state_dict_gives_the_weights_of_the_shipped_pack() {
    let folder = tempfile::tempdir().unwrap();
    let file = save(folder.path(), &state_dict("flow"));
    let out = folder.path().join("court");
    let printed = stdout(&run(&import(&file, "flow", &out, &["--classes", &classes()])));
    assert!(printed.contains("262 tensors imported, 3 batch norm counters skipped, 0 unknown"), "{printed}");
    let (imported, shipped) = (Pack::open(&out).unwrap(), Pack::open(&program::pack()).unwrap());
    assert_eq!((imported.name.as_str(), imported.classes.names().join(",")), ("court", classes()));
    let (imported, shipped) = (imported.flow.unwrap(), shipped.flow.unwrap());
    // The same values in the same type and order are the same bytes.
    assert_eq!((&imported.model.sha256, &imported.input), (&shipped.model.sha256, &shipped.input));
    let json: Value = serde_json::from_str(&stdout(&run(&["inspect", "--json", out.to_str().unwrap()]))).unwrap();
    assert!(json["models"]["rgb"].is_null() && json["fusion"]["refit"].is_null(), "{json}");
    assert!(json["card"]["measured"].as_object().unwrap().is_empty(), "an imported pack has no measured figures");

    // The class names can come from a file. An existing pack is not overwritten.
    let names = folder.path().join("classes.txt");
    std::fs::write(&names, classes().replace(',', "\n") + "\n").unwrap();
    let more = ["--classes", names.to_str().unwrap()];
    assert!(refused(&import(&file, "flow", &out, &more), 5).contains("it already holds a pack"));
    stdout(&run(&import(&file, "flow", &folder.path().join("again"), &more)));
}

#[test]
fn an_import_onto_a_pack_replaces_one_modality_and_marks_the_table_as_stale() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state_dict("audio");
    let bias = &state["classifier.1.bias"] + 0.5;
    state.insert("classifier.1.bias".into(), bias.unwrap());
    let file = save(folder.path(), &state);
    let out = folder.path().join("court");
    let pack = program::pack();
    let more = ["--onto", pack.to_str().unwrap()];
    let printed = stdout(&run(&import(&file, "audio", &out, &more)));
    let stale = "the class-to-modality table must be fitted again: the audio model was imported";
    assert!(printed.contains(stale), "{printed}");
    let (imported, shipped) = (Manifest::read(&out).unwrap(), Manifest::read(&pack).unwrap());
    assert_eq!((&imported.rgb, &imported.flow, &imported.classes), (&shipped.rgb, &shipped.flow, &shipped.classes));
    let (audio, before) = (imported.audio.unwrap(), shipped.audio.unwrap());
    assert_eq!((&audio.classes, &audio.input), (&before.classes, &before.input));
    assert!(audio.sha256 != before.sha256 && audio.temperature == 1.0);
    assert!(
        imported.fusion.table.values().all(|entry| entry.audio.is_none()),
        "the table has figures of the replaced model"
    );
    assert!(imported.fusion.table["baseball"].rgb.is_some());
    let is_stale = |name: &str| name.contains("audio") || name.contains("fusion");
    assert!(imported.card.measured.keys().all(|name| !is_stale(name)) && !imported.card.measured.is_empty());
    assert!(
        imported.card.method.contains("audio: mobilenet_v2 imported from state.safetensors"),
        "{}",
        imported.card.method
    );
    let text = stdout(&run(&["inspect", out.to_str().unwrap()]));
    assert!(text.contains("THE TABLE MUST BE FITTED AGAIN"), "{text}");

    let other = folder.path().join("other");
    let foreign = ["--onto", pack.to_str().unwrap(), "--classes", "a,b,c,d,e,f,g,h,i"];
    assert!(refused(&import(&file, "audio", &other, &foreign), 2).contains("not in the pack of --onto"));
    assert!(!other.exists(), "a failed import must leave no files");
}

#[test]
fn state_dicts_that_do_not_fit_are_errors_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("court");
    let file = save(folder.path(), &state_dict("flow"));
    let error = refused(&import(&file, "rgb", &out, &["--classes", "tennis,soccer,other"]), 2);
    assert!(error.contains("has 11 outputs and --classes names 3"), "{error}");
    assert!(refused(&import(&file, "rgb", &out, &[]), 2).contains("11 outputs; name their classes"));
    let twice = classes().replace("athletics", "tennis");
    assert!(refused(&import(&file, "rgb", &out, &["--classes", &twice]), 2).contains("listed twice"));

    let mut state = state_dict("flow");
    state.remove("features.0.0.weight");
    state.remove("features.18.1.running_var");
    let narrow = state["features.1.conv.1.weight"].narrow(0, 0, 8).unwrap().contiguous().unwrap();
    state.insert("features.1.conv.1.weight".into(), narrow.clone());
    state.insert("aux.weight".into(), narrow);
    let file = save(folder.path(), &state);
    let error = refused(&import(&file, "rgb", &out, &["--classes", &classes()]), 6);
    for part in [
        "lacks 2: features.0.0.weight, features.18.1.running_var",
        "another form 1: features.1.conv.1.weight is [8, 32, 1, 1], needs [16, 32, 1, 1]",
        "also has 1: aux.weight",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    let mut arguments = import(&file, "rgb", &out, &[]);
    arguments[4] = "resnet50";
    assert!(refused(&arguments, 6).contains("no classifier fc.weight"));
    state.insert("classifier.1.bias".into(), Tensor::full(f32::NAN, 11, &Device::Cpu).unwrap());
    let file = save(folder.path(), &state);
    assert!(refused(&import(&file, "rgb", &out, &[]), 6).contains("tensor classifier.1.bias"));
    assert!(!out.exists());
}

#[test]
fn networks_are_exported_once_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (pack, out) = (program::pack(), folder.path().join("out"));
    let arguments = |to, modality| {
        vec!["export", pack.to_str().unwrap(), "--to", to, "-o", out.to_str().unwrap(), "--modality", modality]
    };
    let printed = stdout(&run(&arguments("onnx", "flow")));
    assert!(printed.starts_with("flow: ") && printed.contains("flow.onnx, 8.9 MB"), "{printed}");
    stdout(&run(&arguments("safetensors", "audio")));
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["audio.safetensors", "flow.onnx"]);
    assert!(refused(&arguments("onnx", "flow"), 5).contains("it exists already"));
    // A state dict that was exported can be imported again.
    let file = out.join("audio.safetensors");
    let again = folder.path().join("again");
    let classes = Manifest::read(&pack).unwrap().audio.unwrap().classes.join(",");
    let printed = stdout(&run(&import(&file, "audio", &again, &["--classes", &classes])));
    assert!(printed.contains("262 tensors imported, 52 batch norm counters skipped, 0 unknown"), "{printed}");
    let sha256 = |dir: &Path| Manifest::read(dir).unwrap().audio.unwrap().sha256;
    assert_eq!(sha256(&again), sha256(&pack));
}

#[test]
fn pickles_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("court");
    for start in [&b"PK\x03\x04 and a zip archive"[..], b"\x80\x02\x8a\x0a and a pickle"] {
        let file = folder.path().join("model.pth");
        std::fs::write(&file, start).unwrap();
        let error = refused(&import(&file, "rgb", &out, &["--classes", &classes()]), 6);
        assert!(error.contains("pickle") && error.contains("safetensors.torch"), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
    }
    let text = folder.path().join("model.txt");
    std::fs::write(&text, "no weights at all").unwrap();
    assert!(refused(&import(&text, "rgb", &out, &[]), 6).contains("not a safetensors file"));
}
