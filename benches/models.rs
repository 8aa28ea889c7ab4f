//! Forward passes of the networks at 224×224, batch 1, 5 and 8. `benches/peers/models.py` measures ONNX Runtime and
//! PyTorch on the same shapes.
//!
//! Weights are random: the time of a dense forward pass does not depend on them.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use touchline::models::{Architecture, Network, Tensors};

/// Tensors of the shapes that the parity test's reference lists, filled with values of a normal size.
fn tensors(architecture: Architecture) -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/reference/models/{architecture}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reference: serde_json::Value = serde_json::from_str(&text).expect("the reference is JSON");
    let listed: Vec<(String, Vec<usize>)> =
        serde_json::from_value(reference["tensors"].clone()).expect("a list of names and shapes");
    listed
        .into_iter()
        .map(|(name, shape)| {
            let fan_in = shape.iter().skip(1).product::<usize>() as f32;
            let tensor = if name.ends_with("running_var") {
                Tensor::ones(shape, DType::F32, &Device::Cpu)
            } else {
                Tensor::randn(0f32, fan_in.sqrt().recip(), shape, &Device::Cpu)
            };
            (name, tensor.expect("a tensor"))
        })
        .collect()
}

fn forward(criterion: &mut Criterion) {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet50] {
        let tensors = tensors(architecture);
        let classes = tensors
            .iter()
            .find_map(|(name, tensor)| (name == "fc.bias" || name == "classifier.1.bias").then(|| tensor.elem_count()));
        let network = Network::load(architecture, &tensors, classes).expect("all tensors are there");
        let mut group = criterion.benchmark_group(architecture.name());
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
        for batch in [1, 5, 8] {
            let x = Tensor::randn(0f32, 1., (batch, 3, 224, 224), &Device::Cpu).expect("pictures");
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_with_input(BenchmarkId::from_parameter(batch), &x, |bencher, x| {
                bencher.iter(|| black_box(network.forward(x).expect("a forward pass")));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
