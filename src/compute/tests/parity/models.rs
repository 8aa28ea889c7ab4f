//! Forward passes against PyTorch's, on weights and pictures that both sides generate from names
//! (`tests/reference/models/generate.py` is the twin of [`reference`]); only logits are stored. Also the real ImageNet
//! weights, if they are available.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use touchline_compute::models::{Architecture, LoadError, Network, Tensors, mxnet_name, read_weights};

use crate::reference::generated;
use crate::skip::{Lacks, skip};

/// The largest permitted difference of a logit, as the product promises.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    classes: usize,
    batch: usize,
    height: usize,
    width: usize,
    logits: Vec<f64>,
}

fn reference(architecture: Architecture) -> Reference {
    crate::reference::json(&format!("models/{architecture}.json"))
}

fn parameters(architecture: Architecture, classes: usize) -> Tensors {
    crate::reference::parameters(architecture, classes, crate::reference::parameter)
}

fn pictures(batch: usize, height: usize, width: usize) -> Tensor {
    generated("input", &[batch, 3, height, width], -2.0, 2.0)
}

fn logits(network: &Network, x: &Tensor) -> Vec<f32> {
    network.forward(x).and_then(|logits| logits.flatten_all()?.to_vec1()).expect("a forward pass")
}

/// The result of `generate.uniform("input", (4,), -2.0, 2.0)`.
const GENERATED: [f32; 4] = [1.196_132_4, -1.553_519, -1.749_927_8, -0.464_714_3];

/// The first values of a generated tensor, computed by the Python twin. They distinguish a broken generator from a broken
/// network.
#[test]
fn the_generator_matches_the_reference() {
    let values = generated("input", &[4], -2.0, 2.0).to_vec1::<f32>().expect("four values");
    assert_eq!(values, GENERATED);
}

fn assert_parity(architecture: Architecture) {
    let reference = reference(architecture);
    assert!(reference.cases.len() >= 3);
    for case in &reference.cases {
        let tensors = parameters(architecture, case.classes);
        let network = Network::load(architecture, &tensors, Some(case.classes)).expect("all tensors are present");
        assert_eq!(network.classes(), Some(case.classes));
        let x = pictures(case.batch, case.height, case.width);
        let features = network.features(&x).expect("a forward pass");
        assert_eq!(features.dims(), [case.batch, architecture.feature_width()]);
        let got = logits(&network, &x);
        assert_eq!(got.len(), case.logits.len());
        let error = got.iter().zip(&case.logits).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        println!("{architecture} {}x{}, {} classes: max difference {error:.1e}", case.width, case.height, case.classes);
        assert!(error < TOLERANCE, "{architecture} {}x{}: {error}", case.width, case.height);

        let backbone = Network::load(architecture, &tensors, None).expect("a backbone needs no classifier");
        assert_eq!(backbone.classes(), None);
        let again = backbone.features(&x).and_then(|f| f.to_vec2::<f32>()).expect("a forward pass");
        assert_eq!(again, features.to_vec2::<f32>().expect("features"), "a forward pass is reproducible bit for bit");
        assert!(backbone.forward(&x).expect_err("no classifier").to_string().contains("without a classifier"));
    }
}

#[test]
fn mobilenet_v2_agrees_with_torchvision() {
    assert_parity(Architecture::MobileNetV2);
}

#[test]
fn efficientnet_lite_agrees_with_its_python_package() {
    assert_parity(Architecture::EfficientNetLite0);
    assert_parity(Architecture::EfficientNetLite2);
}

#[test]
fn resnet50_agrees_with_torchvision() {
    assert_parity(Architecture::ResNet50);
}

#[test]
fn resnet50_v2_agrees_with_pytorch() {
    assert_parity(Architecture::ResNet50V2);
}

/// The result of a picture does not depend on the others in the batch.
#[test]
fn results_do_not_depend_on_the_batch() {
    let network =
        Network::load(Architecture::MobileNetV2, &parameters(Architecture::MobileNetV2, 5), Some(5)).expect("loads");
    let x = pictures(3, 64, 50);
    let together = logits(&network, &x);
    for i in 0..3 {
        let alone = logits(&network, &x.narrow(0, i, 1).and_then(|x| x.contiguous()).expect("one of three"));
        assert_eq!(alone, together[i * 5..][..5], "picture {i}");
    }
}

/// The names of MXNet's model zoo give the same network.
#[test]
fn mxnet_names_are_understood() {
    let tensors = parameters(Architecture::ResNet50V2, 7);
    let renamed: Tensors = tensors
        .iter()
        .map(|(name, tensor)| (format!("resnetv24_{}", mxnet_name(name).expect("a known name")), tensor.clone()))
        .collect();
    assert_eq!(renamed.len(), tensors.len(), "no two tensors share a name");
    let x = pictures(1, 40, 48);
    let load = |tensors| Network::load(Architecture::ResNet50V2, tensors, Some(7)).expect("all tensors are present");
    assert_eq!(logits(&load(&renamed), &x), logits(&load(&tensors), &x));
    assert_eq!(mxnet_name("layer2.1.conv3.weight").as_deref(), Some("stage2_conv6_weight"));
    assert_eq!(mxnet_name("layer2.1.downsample.weight"), None);
    assert_eq!(mxnet_name("layer2.1.conv3.bias"), None);
}

/// Weights stored as `f16` give nearly the result of `f32`, and an identity `bn0` gives the result without it.
#[test]
fn f16_weights_and_an_identity_norm_change_little() {
    let mut tensors = parameters(Architecture::ResNet50V2, 3);
    for (part, value) in [("weight", 1f32), ("bias", 0.), ("running_mean", 0.), ("running_var", 1. - 1e-5)] {
        tensors.insert(format!("bn0.{part}"), Tensor::new(&[value; 3], &Device::Cpu).expect("three values"));
    }
    let x = pictures(1, 32, 32);
    let load = |tensors: &Tensors| Network::load(Architecture::ResNet50V2, tensors, Some(3)).expect("loads");
    let with_norm = logits(&load(&tensors), &x);
    tensors.retain(|name, _| !name.starts_with("bn0."));
    let without = logits(&load(&tensors), &x);
    let halves: Tensors =
        tensors.iter().map(|(name, t)| (name.clone(), t.to_dtype(DType::F16).expect("converts"))).collect();
    let from_halves = logits(&load(&halves), &x);
    for ((a, b), c) in with_norm.iter().zip(&without).zip(&from_halves) {
        assert!((a - b).abs() < 1e-4, "{a} with the norm, {b} without");
        assert!((b - c).abs() < 0.02 * b.abs().max(1.0), "{b} from f32, {c} from f16");
        assert_ne!(b, c, "f16 rounds");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let tensors = parameters(Architecture::MobileNetV2, 25);
    let load = |tensors: &Tensors, classes| {
        let error = Network::load(Architecture::MobileNetV2, tensors, classes).expect_err("does not fit");
        assert!(!error.to_string().contains('\n') && !error.advice().is_empty());
        error.to_string()
    };
    let message = load(&tensors, Some(26));
    assert_eq!(message, "tensor classifier.1.weight has shape [25, 1280], mobilenet_v2 needs [26, 1280]");

    let mut lacking = tensors.clone();
    lacking.remove("features.3.conv.1.1.running_var");
    let message = load(&lacking, Some(25));
    assert_eq!(message, "mobilenet_v2 lacks 1 of its tensors: features.3.conv.1.1.running_var");

    let mut integer = tensors.clone();
    let zeros = Tensor::zeros(32, DType::U32, &Device::Cpu).expect("32 zeros");
    integer.insert("features.0.1.bias".to_owned(), zeros);
    assert!(load(&integer, None).contains("features.0.1.bias is of type u32"));

    let message = load(&Tensors::new(), None);
    assert!(message.starts_with("mobilenet_v2 lacks 260 of its tensors: features.0.0.weight, "), "{message}");
    assert!(message.ends_with(" and 256 more"), "{message}");
}

#[test]
fn pictures_that_do_not_fit_are_errors() {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet50] {
        let network = Network::load(architecture, &parameters(architecture, 2), Some(2)).expect("loads");
        let cpu = &Device::Cpu;
        for shape in [&[1, 3, 31, 64][..], &[1, 1, 64, 64], &[3, 64, 64], &[0, 3, 64, 64]] {
            let x = Tensor::zeros(shape, DType::F32, cpu).expect("zeros");
            let message = network.forward(&x).expect_err("not pictures").to_string();
            assert!(message.contains("expected pictures"), "{message}");
        }
        let x = Tensor::zeros((1, 3, 32, 40), DType::F32, cpu).expect("zeros");
        assert!(network.forward(&x.transpose(2, 3).expect("transposes")).is_err(), "not contiguous");
        assert!(network.forward(&x.to_dtype(DType::F64).expect("converts")).is_err(), "not f32");
    }
}

#[test]
fn architectures_are_serialised_by_their_names() {
    for architecture in Architecture::ALL {
        let json = serde_json::to_string(&architecture).expect("serialises");
        assert_eq!(json, format!("\"{architecture}\""));
        assert_eq!(serde_json::from_str::<Architecture>(&json).expect("parses"), architecture);
    }
    assert!(serde_json::from_str::<Architecture>("\"vgg16\"").is_err());
}

/// A file in the weights folder of the shared data, or `None` with a skip message if it does not exist.
fn data_file(name: &str) -> Option<PathBuf> {
    let data = std::env::var_os("TOUCHLINE_DATA")
        .map_or_else(|| crate::reference::project().join("../shared/data"), PathBuf::from);
    let path = data.join("weights").join(name);
    if path.is_file() {
        return Some(path);
    }
    skip(Lacks::SharedData, &format!("{} does not exist", path.display()));
    None
}

#[test]
fn imagenet_backbone_gives_torchvisions_features() {
    #[derive(Deserialize)]
    struct Backbone {
        height: usize,
        width: usize,
        first_features: Vec<f32>,
        sum: f32,
        largest: f32,
        largest_at: usize,
    }
    let Some(path) = data_file("mobilenet_v2_imagenet_backbone.safetensors") else { return };
    let want: Backbone = crate::reference::json("models/mobilenet_v2_backbone.json");
    let file = read_weights(&path, &Device::Cpu).expect("is read");
    let network = Network::load(Architecture::MobileNetV2, &file.tensors, None).expect("loads");
    let features = network
        .features(&pictures(1, want.height, want.width))
        .and_then(|features| features.flatten_all()?.to_vec1::<f32>())
        .expect("a forward pass");
    assert_eq!(want.first_features.len(), 16);
    for (i, (got, want)) in features.iter().zip(&want.first_features).enumerate() {
        assert!((got - want).abs() < 1e-4, "feature {i}: {got}, torchvision {want}");
    }
    assert!((features.iter().sum::<f32>() - want.sum).abs() < 1e-2, "sum of all features");
    assert!((features[want.largest_at] - want.largest).abs() < 1e-4, "the largest feature");

    let error = Network::load(Architecture::MobileNetV2, &file.tensors, Some(25)).expect_err("has no classifier");
    let LoadError::Missing { names, .. } = &error else { panic!("{error}") };
    assert_eq!(names, &["classifier.1.weight", "classifier.1.bias"]);
}

/// The file lacks most of stage 4. The message names only the missing tensors, by the names of the file.
#[test]
fn incomplete_mxnet_weights_are_refused_with_the_missing_names() {
    let Some(path) = data_file("resnet50_v2_imagenet_stages1to3.safetensors") else { return };
    let file = read_weights(&path, &Device::Cpu).expect("is read");
    let error = Network::load(Architecture::ResNet50V2, &file.tensors, Some(1000)).expect_err("is incomplete");
    let LoadError::Missing { names, .. } = &error else { panic!("{error}") };
    // Of ten convolutions of stage 4 only the first is present.
    let mut want: Vec<String> = (1..10).map(|i| format!("resnetv24_stage4_conv{i}_weight")).collect();
    want.push("resnetv24_dense0_weight".to_owned());
    let mut got = names.clone();
    got.sort();
    want.sort();
    assert_eq!(got, want);
    assert_eq!(
        error.to_string(),
        "resnet50_v2 lacks 10 of its tensors: resnetv24_stage4_conv1_weight, resnetv24_stage4_conv2_weight, \
         resnetv24_stage4_conv3_weight, resnetv24_stage4_conv4_weight and 6 more"
    );
}
