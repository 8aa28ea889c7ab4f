//! Exported networks: onnxruntime must give the scores of the pack (`run_onnx.py`), and a state dict the pack's values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use touchline_compute::infer::spread_softmax;
use touchline_compute::models::export::{ExportFormat, export};
use touchline_compute::models::pack::Pack;
use touchline_compute::models::{Network, read_weights};
use touchline_core::labels::Modality;

use crate::encoders::{imported_clip, imported_dino, imported_siglip, imported_transformer};
use crate::mobileclip::{imported_mobileclip, imported_mobileclip2};
use crate::reference::{generated, project};
use crate::skip::{Lacks, skip};

/// The largest permitted difference of a logit or score.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Answer {
    input: [usize; 3],
    properties: BTreeMap<String, String>,
    logits: Vec<f32>,
    scores: Vec<f32>,
}

/// A network whose answers are compared.
struct Exported {
    pack: Pack,
    modality: Modality,
    /// With `network.onnx` and `input.f32`.
    folder: PathBuf,
    input: Tensor,
}

/// Python with the packages of tests/requirements.txt, which deploy/test.sh installs.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("TOUCHLINE_TEST_PYTHON")
        .map_or_else(|| project().join("target/test-python/bin/python"), PathBuf::from);
    let has_package = Command::new(&python).args(["-c", "import onnxruntime"]).output();
    if !has_package.is_ok_and(|done| done.status.success()) {
        skip(Lacks::Tool, "no onnxruntime (tests/requirements.txt); deploy/test.sh installs it");
        return None;
    }
    Some(python)
}

fn exported(pack: &Path, modality: Modality, folder: PathBuf) -> Exported {
    let pack = Pack::open(pack).expect("a pack");
    let files = export(&pack, ExportFormat::Onnx, Some(modality), &folder).expect("an export");
    std::fs::rename(&files[0].path, folder.join("network.onnx")).expect("the file is there");
    let (width, height) = pack.input_size(modality).expect("the pack has the model");
    let input = generated("input", &[2, 3, height, width], -2.0, 2.0);
    let values = input.flatten_all().and_then(|values| values.to_vec1::<f32>()).expect("values");
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(folder.join("input.f32"), bytes).expect("a file");
    Exported { pack, modality, folder, input }
}

fn assert_near(have: &[f32], want: &[f32], what: &str) {
    assert_eq!(have.len(), want.len(), "{what}");
    let error = have.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: max difference {error:.1e}");
    assert!(error < TOLERANCE, "{what}: {error}");
}

fn assert_same_answer(Exported { pack, modality, input, .. }: &Exported, answer: &Answer) {
    let model = pack.model(*modality).expect("a model");
    let what = format!("{} of {}", model.architecture, pack.name);
    let (_, picture) = input.dims().split_first().expect("four axes");
    assert_eq!(answer.input, picture, "{what}");
    let tensors = read_weights(&model.weights, &Device::Cpu).expect("weights").tensors;
    let network = Network::load(model.architecture, &tensors, Some(model.outputs.len())).expect("a network");
    let logits = network.forward(input).and_then(|logits| logits.to_vec2::<f32>()).expect("a forward pass");
    assert_near(&answer.logits, &logits.concat(), &format!("logits of {what}"));
    // The outputs of a model are in the order of its classes, as in the exported file.
    let order: Vec<_> = model.outputs.iter().map(|class| class.index()).collect();
    let spread = |row: &Vec<f32>| {
        let all = spread_softmax(row, model.temperature, &model.outputs, pack.classes.len());
        order.iter().map(|class| all[*class]).collect::<Vec<f32>>()
    };
    assert_near(&answer.scores, &logits.iter().map(spread).collect::<Vec<_>>().concat(), &format!("scores of {what}"));

    let property = |name: &str| answer.properties.get(name).map_or("", String::as_str);
    let classes: Vec<String> = serde_json::from_str(property("classes")).expect("a list");
    assert!(classes.iter().zip(&model.outputs).all(|(name, id)| name == pack.classes.name(*id)), "{what}");
    assert_eq!(property("temperature").parse::<f32>().ok(), Some(model.temperature));
    assert_eq!((property("modality"), property("architecture")), (modality.as_str(), model.architecture.name()));
    let given: serde_json::Value = serde_json::from_str(property("input")).expect("an object");
    assert_eq!((&given["height"], &given["width"]), (&picture[1].into(), &picture[2].into()));
    assert!(property("preprocessing").starts_with("float32 (batch, 3, "), "{}", property("preprocessing"));
}

#[test]
fn onnxruntime_gives_the_scores_of_the_pack() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let weights = project().join("weights");
    let mut networks: Vec<Exported> = Modality::ALL
        .into_iter()
        .map(|modality| exported(&weights.join("compact"), modality, dir.path().join(modality.as_str())))
        .collect();
    networks.push(exported(&weights.join("reference"), Modality::Rgb, dir.path().join("reference")));
    for (name, import) in [
        ("clip", &imported_clip as &dyn Fn(&Path) -> PathBuf),
        ("siglip", &imported_siglip),
        ("dino", &imported_dino),
        ("mobileclip", &imported_mobileclip),
        ("mobileclip2", &imported_mobileclip2),
        ("transformer", &imported_transformer),
    ] {
        let from = dir.path().join(format!("{name}.model"));
        std::fs::create_dir(&from).expect("a folder");
        networks.push(exported(&import(&from), Modality::Rgb, dir.path().join(name)));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/run_onnx.py");
    let output = Command::new(python).arg(script).args(networks.iter().map(|n| &n.folder)).output().expect("Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).expect("a list of answers");
    assert_eq!(answers.len(), networks.len());
    for (network, answer) in networks.iter().zip(&answers) {
        assert_same_answer(network, answer);
    }
}

#[test]
fn a_state_dict_has_the_values_of_the_pack_and_what_pytorch_asks_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let pack = Pack::open(&project().join("weights/compact")).expect("the shipped pack");
    let files = export(&pack, ExportFormat::Safetensors, None, dir.path()).expect("an export");
    assert_eq!(files.iter().map(|file| file.modality).collect::<Vec<_>>(), Modality::ALL);
    for file in &files {
        let own = read_weights(&pack.model(file.modality).expect("a model").weights, &Device::Cpu).expect("weights");
        let state = read_weights(&file.path, &Device::Cpu).expect("a state dict").tensors;
        let counters = own.tensors.keys().filter(|name| name.ends_with("running_var")).count();
        assert_eq!(state.len(), own.tensors.len() + counters);
        for (name, tensor) in &own.tensors {
            let values = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
            assert_eq!(state[name].dtype(), DType::F32);
            assert_eq!((state[name].dims(), values(&state[name]).ok()), (tensor.dims(), values(tensor).ok()), "{name}");
            if let Some(norm) = name.strip_suffix("running_var") {
                let counter = &state[&format!("{norm}num_batches_tracked")];
                assert_eq!((counter.dtype(), counter.rank()), (DType::I64, 0));
            }
        }
    }
    // Nothing is overwritten, and equal packs give equal files.
    let error = export(&pack, ExportFormat::Safetensors, Some(Modality::Flow), dir.path()).expect_err("it exists");
    assert!(error.to_string().contains("flow.safetensors"), "{error}");
    let again = dir.path().join("again");
    let flow = export(&pack, ExportFormat::Safetensors, Some(Modality::Flow), &again).expect("an export");
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert_eq!(bytes(&flow[0].path), bytes(&dir.path().join("flow.safetensors")));

    let reference = Pack::open(&project().join("weights/reference")).expect("the other pack");
    let error = export(&reference, ExportFormat::Onnx, Some(Modality::Flow), &again).expect_err("it has no such model");
    assert!(error.to_string().contains("no flow model"), "{error}");
}
