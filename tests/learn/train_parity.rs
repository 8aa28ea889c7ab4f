//! Loss curves compared with PyTorch's: the same weights, batch, schedule and optimiser, step by step, and the running
//! statistics after the last step. Both sides generate weights and pictures from names.
//! `tests/reference/training/make.py` wrote the curves and explains the choice of the rates.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::Deserialize;
use touchline_compute::models::Architecture;
use touchline_learn::fit::{log_softmax_loss, soft_targets};
use touchline_learn::net::{Net, build};
use touchline_learn::optimizer::{Optimizer, OptimizerKind, cosine};

use crate::common::reference::{generated, uniform};

/// Allowed relative difference of the loss at each step: a tenth of the documented tolerance.
const LOSS: f64 = 1e-4;

/// Allowed relative difference of running statistics and of the classifier, root mean square over a tensor. It is larger than that
/// of the loss, because the rounding of every step adds up in the weights before a norm.
const AFTER: f64 = 5e-4;

#[derive(Deserialize)]
struct Reference {
    classes: usize,
    smoothing: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    architecture: Architecture,
    optimizer: String,
    steps: u64,
    warm_up: u64,
    peak: f64,
    weight_decay: f64,
    clip: Option<f64>,
    batch: usize,
    side: usize,
    /// The learning rate of each step, from PyTorch's schedulers.
    rates: Vec<f64>,
    losses: Vec<f64>,
    /// The norm of all gradients together at each step, before clipping.
    lengths: Vec<f64>,
    /// For each tensor after the last step: its root mean square, then values at even distances.
    after: BTreeMap<String, Vec<f64>>,
}

/// The same values as `tensor` in the script.
fn parameter(name: &str, shape: &[usize]) -> Tensor {
    match shape {
        [_] if ["conv.3.weight", "bn3.weight", "_bn2.weight"].iter().any(|end| name.ends_with(end)) => {
            generated(name, shape, 0.1, 0.3)
        }
        [_] if (name.starts_with("features.") || name.starts_with("_b")) && name.ends_with(".bias") => {
            generated(name, shape, 1.0, 3.0)
        }
        _ => crate::common::reference::parameter(name, shape),
    }
}

/// Patches of 16 pixels and a little noise, channel-major: (3, N, side, side).
fn pictures(batch: usize, side: usize) -> Tensor {
    let coarse = side / 16;
    let patches = uniform("patches", batch * 3 * coarse * coarse, -2.0, 2.0);
    let fine = uniform("input", batch * 3 * side * side, -0.25, 0.25);
    let value = |i: usize| {
        let (plane, y, x) = (i / (side * side), i / side % side, i % side);
        patches[(plane * coarse + y / 16) * coarse + x / 16] + fine[i]
    };
    let values: Vec<f32> = (0..fine.len()).map(value).collect();
    let x = Tensor::from_vec(values, (batch, 3, side, side), &Device::Cpu);
    x.and_then(|x| x.transpose(0, 1)?.contiguous()).expect("the number of values fits the shape")
}

/// The norm of all gradients together.
fn norm(grads: &GradStore, parameters: &[(String, Var, bool)]) -> f64 {
    let squares = parameters.iter().map(|(name, var, _)| {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        grad.sqr().and_then(|g| g.sum_all()?.to_scalar::<f32>()).map(f64::from).expect("a sum")
    });
    squares.sum::<f64>().sqrt()
}

fn check_case(reference: &Reference, case: &Case) {
    let name = format!("{} {} clip {:?}", case.architecture, case.optimizer, case.clip);
    let tensors = crate::common::reference::parameters(case.architecture, reference.classes, parameter);
    let built = build(case.architecture, &tensors, reference.classes, 1, &Device::Cpu).expect("builds");
    assert!(built.fresh.is_empty(), "{name}: {:?} were not loaded", built.fresh);
    let net = built.net;
    let kind = if case.optimizer == "sgd" { OptimizerKind::Sgd } else { OptimizerKind::AdamW };
    for (parameter, var, decays) in net.parameters(0) {
        assert_eq!(decays, var.rank() >= 2, "{parameter}");
    }
    let mut optimizer = Optimizer::new(kind, case.weight_decay, net.parameters(0)).expect("an optimizer");
    let x = pictures(case.batch, case.side);
    let labels: Vec<u32> = (0..case.batch).map(|i| (i * 3 % reference.classes) as u32).collect();
    let targets = soft_targets(&labels, reference.classes, reference.smoothing);
    let targets = Tensor::from_vec(targets, (case.batch, reference.classes), &Device::Cpu).expect("targets");
    let weights = uniform("sample weights", case.batch, 0.5, 2.0);
    let weights = Tensor::from_vec(weights, case.batch, &Device::Cpu).expect("weights");
    let check_near = |quantity: &str, step: usize, got: f64, want: f64, tolerance: f64| {
        let error = (got - want).abs() / want;
        assert!(error < tolerance, "{name}, step {}: {quantity} is {got}, PyTorch {want}: {error:.1e}", step + 1);
        error
    };
    assert!(case.losses.len() as u64 == case.steps && case.steps >= 5);
    let (first, last) = (case.losses[0], case.losses[case.losses.len() - 1]);
    assert!(last < 0.95 * first, "{name}: the loss falls too little for a comparison");
    let mut worst = 0f64;
    for (step, want) in case.losses.iter().enumerate() {
        let pass = net.learn(&x, 0, None).expect("a forward pass");
        let logits = net.classify(pass.features()).expect("a classifier");
        let loss = log_softmax_loss(&logits, &targets, &weights).expect("a loss");
        worst = worst.max(check_near(
            "the loss",
            step,
            f64::from(loss.to_scalar::<f32>().expect("one value")),
            *want,
            LOSS,
        ));
        let grads = pass.backward(&loss).expect("gradients");
        check_near("the norm of the gradients", step, norm(&grads, optimizer.parameters()), case.lengths[step], 0.01);
        assert!(case.clip.is_none_or(|limit| case.lengths[step] > limit), "{name}: the gradients are not clipped");
        // PyTorch computes its rates step by step, in f64.
        let rate = cosine(step as u64, case.steps, case.warm_up, case.peak);
        check_near("the learning rate", step, rate, case.rates[step], 1e-9);
        optimizer.step(&grads, rate, case.clip).expect("a step");
    }
    let statistics = after(&net, case, &name);
    println!("{name}: losses differ by at most {worst:.1e}, tensors after the last step by {statistics:.1e}");
}

/// Compares running statistics and classifier. Returns the largest relative difference.
fn after(net: &Net, case: &Case, name: &str) -> f64 {
    let tensors = net.tensors().expect("tensors");
    let running = tensors.keys().filter(|key| key.contains("running_")).count();
    assert_eq!(running + 2, case.after.len(), "{name}: the reference lacks tensors");
    let mut worst = 0f64;
    for (key, want) in &case.after {
        let (scale, want) = (want[0], &want[1..]);
        let got = tensors[key].flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
        let at = |i: usize| f64::from(got[i * (got.len() - 1) / (want.len() - 1)]);
        let squares: f64 = want.iter().enumerate().map(|(i, want)| (at(i) - want).powi(2)).sum();
        let error = (squares / want.len() as f64).sqrt() / scale;
        assert!(error < AFTER, "{name}: {key} differs by {error:.1e}");
        worst = worst.max(error);
    }
    worst
}

fn check_all(architecture: Architecture, optimizer: &str, cases: usize) {
    let reference: Reference = crate::common::reference::json("training/training.json");
    let is_selected = |case: &&Case| case.architecture == architecture && case.optimizer == optimizer;
    let found: Vec<&Case> = reference.cases.iter().filter(is_selected).collect();
    assert_eq!(found.len(), cases);
    found.into_iter().for_each(|case| check_case(&reference, case));
}

#[test]
fn mobilenet_with_sgd_follows_pytorch() {
    check_all(Architecture::MobileNetV2, "sgd", 2);
}

#[test]
fn mobilenet_with_adamw_follows_pytorch() {
    check_all(Architecture::MobileNetV2, "adamw", 2);
}

#[test]
fn resnet_with_sgd_follows_pytorch() {
    check_all(Architecture::ResNet50, "sgd", 1);
}

#[test]
fn efficientnet_lite_with_sgd_follows_pytorch() {
    check_all(Architecture::EfficientNetLite0, "sgd", 1);
}
