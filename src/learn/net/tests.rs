use candle_core::{DType, Device, Tensor};

use super::*;
use touchline_compute::models::Network;

const ARCHITECTURES: [Architecture; 5] = Architecture::ALL;

pub(super) fn fresh(architecture: Architecture, classes: usize) -> Net {
    let built = build(architecture, &Tensors::new(), classes, 7, &Device::Cpu).unwrap();
    assert_eq!(built.taken, 0);
    built.net
}

pub(super) fn pictures(n: usize, side: usize) -> Tensor {
    let values: Vec<f32> = (0..3 * n * side * side).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    Tensor::from_vec(values, (3, n, side, side), &Device::Cpu).unwrap()
}

fn logits(net: &Net, x: &Tensor) -> Vec<Vec<f32>> {
    let y = net.run(x, 0, net.blocks()).unwrap();
    net.classify_fixed(&net.pool(&y).unwrap()).unwrap().to_vec2().unwrap()
}

/// The trained tensors, loaded for serving with folded batch norm, give the same logits.
#[test]
fn serving_gives_the_logits_of_training() {
    for architecture in ARCHITECTURES {
        let net = fresh(architecture, 5);
        let x = pictures(2, 48);
        // Two passes, so that the running statistics are no longer 0 and 1.
        for _ in 0..2 {
            net.learn(&x, 0, None).unwrap();
        }
        let want = logits(&net, &x);
        let tensors = net.tensors().unwrap();
        let network = Network::load(architecture, &tensors, Some(5)).unwrap();
        let got: Vec<Vec<f32>> =
            network.forward(&x.transpose(0, 1).unwrap().contiguous().unwrap()).unwrap().to_vec2().unwrap();
        let scale = want.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in want.iter().flatten().zip(got.iter().flatten()) {
            assert!((a - b).abs() < 1e-4 * scale.max(1.0), "{architecture}: {a} {b}");
        }
        let built = build(architecture, &tensors, 5, 8, &Device::Cpu).unwrap();
        assert_eq!((built.taken, built.fresh.len()), (tensors.len(), 0), "{architecture}");
        assert_eq!(logits(&built.net, &x), want, "{architecture}: from its own tensors");
        let other = fresh(architecture, 5);
        other.restore(&tensors).unwrap();
        assert_eq!(logits(&other, &x), want, "{architecture}: restored");
    }
}

#[test]
fn frozen_blocks_have_no_gradients_and_the_others_do() {
    for architecture in ARCHITECTURES {
        let net = fresh(architecture, 3);
        let frozen = net.blocks() - 2;
        let x = net.run(&pictures(4, 32), 0, frozen).unwrap();
        assert!(!x.track_op(), "a frozen prefix records no graph");
        let mut watched = Watched::default();
        let pass = net.learn(&x, frozen, Some(&mut watched)).unwrap();
        assert!(!watched.outputs.is_empty());
        let loss = net.classify(pass.features()).unwrap().sqr().unwrap().sum_all().unwrap();
        let grads = pass.backward(&loss).unwrap();
        let learning = net.parameters(frozen);
        let all = net.parameters(0);
        assert!(learning.len() < all.len());
        for (name, var, _) in &all {
            let learns = learning.iter().any(|(n, _, _)| n == name);
            assert_eq!(grads.get(var).is_some(), learns, "{architecture}: {name}");
        }
    }
}

/// Compares the gradient of every kind of parameter with a finite difference of the loss.
#[test]
fn gradients_are_finite_differences() {
    for (architecture, learning, names) in [
        (
            Architecture::MobileNetV2,
            3,
            ["features.17.conv.1.0.weight", "features.18.1.bias", "features.16.conv.2.weight"],
        ),
        (Architecture::ResNet50V2, 3, ["layer4.2.conv2.weight", "norm.weight", "layer4.2.bn1.bias"]),
        // Block 11 has stride 2, with TensorFlow's padding.
        (
            Architecture::EfficientNetLite0,
            6,
            ["_blocks.11._depthwise_conv.weight", "_bn1.bias", "_blocks.15._bn0.weight"],
        ),
    ] {
        let net = fresh(architecture, 3);
        let frozen = net.blocks() - learning;
        let x = net.run(&pictures(6, 64), 0, frozen).unwrap();
        let direction =
            Tensor::from_vec((0..18).map(|i| (i % 5) as f32 - 2.0).collect(), (6, 3), &Device::Cpu).unwrap();
        let forward = || {
            let pass = net.learn(&x, frozen, None).unwrap();
            let logits = net.classify(pass.features()).unwrap();
            (pass, (logits * &direction).unwrap().sum_all().unwrap())
        };
        let (pass, loss) = forward();
        let grads = pass.backward(&loss).unwrap();
        for name in names {
            let (_, var, _) = net.parameters(frozen).into_iter().find(|(n, _, _)| n == name).unwrap();
            let grad = grads.get(&var).unwrap().copy().unwrap();
            let at = var.as_detached_tensor().copy().unwrap();
            // Along the unit vector of the gradient, the slope is the length of the gradient.
            let length = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let unit = (&grad / f64::from(length)).unwrap();
            let size = at.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt().max(1e-2);
            let step = f64::from(size) * 0.05;
            let value = |by: f64| -> f64 {
                var.set(&(&at + (&unit * by).unwrap()).unwrap()).unwrap();
                f64::from(forward().1.to_scalar::<f32>().unwrap())
            };
            let slope = (value(step) - value(-step)) / (2.0 * step);
            var.set(&at).unwrap();
            assert!(
                (slope - f64::from(length)).abs() < 0.03 * f64::from(length),
                "{architecture} {name}: {slope} {length}"
            );
        }
    }
}

#[test]
fn a_classifier_of_other_classes_is_not_loaded_and_shapes_are_checked() {
    let tensors = fresh(Architecture::MobileNetV2, 4).tensors().unwrap();
    let built = build(Architecture::MobileNetV2, &tensors, 9, 1, &Device::Cpu).unwrap();
    assert_eq!(built.fresh, ["classifier.1.weight", "classifier.1.bias"]);
    assert_eq!(built.net.classes(), 9);
    let mut broken = tensors;
    broken.insert("features.0.0.weight".into(), Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap());
    let error = build(Architecture::MobileNetV2, &broken, 9, 1, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("features.0.0.weight"), "{error}");
}
