//! The graph computes what the kernels compute. Both run on the CPU here; on a GPU candle runs the same operations.

use candle_core::{DType, Device, Tensor};

use super::tests::{fresh, pictures};
use super::*;
use crate::fit::log_softmax_loss;
use crate::optimizer::{Optimizer, OptimizerKind};

/// One network twice: by the kernels, and as a graph.
fn both(architecture: Architecture) -> [Net; 2] {
    let (kernels, graph) = (fresh(architecture, 3), fresh(architecture, 3).in_graph(DType::F32));
    graph.restore(&kernels.tensors().unwrap()).unwrap();
    [kernels, graph]
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The greatest difference, relative to the greatest value.
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let largest = a.iter().fold(1e-12f32, |most, v| most.max(v.abs()));
    a.iter().zip(&b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn values_gradients_and_statistics_are_those_of_the_kernels() {
    for architecture in Architecture::ALL {
        let nets = both(architecture);
        let x = pictures(4, 64);
        let [a, b] = nets.each_ref().map(|net| net.run(&x, 0, net.blocks() - 1).unwrap());
        assert!(difference(&a, &b) < 1e-4, "{architecture}: fixed statistics: {}", difference(&a, &b));
        let frozen = nets[0].blocks() - 3;
        let x = nets[0].run(&x, 0, frozen).unwrap();
        let mut outputs = [Watched::default(), Watched::default()];
        let [a, b] = [0, 1].map(|i| {
            let pass = nets[i].learn(&x, frozen, Some(&mut outputs[i])).unwrap();
            let features = pass.features().detach();
            let direction = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((4, 3)).unwrap();
            let loss = (nets[i].classify(pass.features()).unwrap() * direction).unwrap().sum_all().unwrap();
            (features, pass.backward(&loss).unwrap())
        });
        assert!(difference(&a.0, &b.0) < 1e-4, "{architecture}: features: {}", difference(&a.0, &b.0));
        // Lengths, because rounding can move a value across the bend of ReLU, which changes some elements noticeably.
        let length = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let parameters = nets.each_ref().map(|net| net.parameters(frozen));
        let gradients = |grads: &GradStore, of: &[(String, Var, bool)]| -> Vec<Vec<f32>> {
            of.iter().map(|(_, var, _)| values(grads.get(var).unwrap())).collect()
        };
        let (a, b) = (gradients(&a.1, &parameters[0]), gradients(&b.1, &parameters[1]));
        // A bias before another batch norm has the gradient 0, but for rounding.
        let floor = 1e-2 * a.iter().map(|grad| length(grad)).fold(0.0, f64::max);
        for ((name, ..), (a, b)) in parameters[0].iter().zip(a.iter().zip(&b)) {
            let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            let off = length(&apart) / length(a).max(floor);
            assert!(off < 0.02, "{architecture}: gradient of {name}: {off}");
        }
        let [a, b] = nets.each_ref().map(|net| net.tensors().unwrap());
        for (name, tensor) in a.iter().filter(|(name, _)| name.contains("running")) {
            for (a, b) in values(tensor).iter().zip(values(&b[name])) {
                assert!((a - b).abs() < 1e-5 + 1e-4 * a.abs(), "{architecture}: {name}: {a} {b}");
            }
        }
        let names = |watched: &Watched| {
            watched.outputs.iter().map(|(name, means, _)| (name.clone(), means.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(&outputs[0]), names(&outputs[1]), "{architecture}");
    }
}

/// Twenty steps from the same weights on the same batches have the same losses.
#[test]
fn twenty_steps_have_the_losses_of_the_kernels() {
    for (architecture, kind) in
        [(Architecture::EfficientNetLite0, OptimizerKind::AdamW), (Architecture::ResNet50V2, OptimizerKind::Sgd)]
    {
        let nets = both(architecture);
        let frozen = nets[0].blocks() - 2;
        let x = nets[0].run(&pictures(8, 64), 0, frozen).unwrap();
        let targets: Vec<f32> = (0..24).map(|i| f32::from(i % 3 == (i / 3) % 3)).collect();
        let targets = Tensor::from_vec(targets, (8, 3), &Device::Cpu).unwrap();
        let weights = Tensor::ones(8, DType::F32, &Device::Cpu).unwrap();
        let [a, b] = nets.map(|net| {
            let mut optimizer = Optimizer::new(kind, 0.05, net.parameters(frozen)).unwrap();
            (0..20)
                .map(|_| {
                    let pass = net.learn(&x, frozen, None).unwrap();
                    let logits = net.classify(pass.features()).unwrap();
                    let loss = log_softmax_loss(&logits, &targets, &weights).unwrap();
                    optimizer.step(&pass.backward(&loss).unwrap(), 1e-3, Some(5.0)).unwrap();
                    loss.to_scalar::<f32>().unwrap()
                })
                .collect::<Vec<_>>()
        });
        assert!(a[19] < 0.9 * a[0], "{architecture} learns: {a:?}");
        for (step, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{architecture}, step {step}: {a} {b}");
        }
    }
}
