//! Forward passes of the networks at 224×224, batch 1, 5 and 8. `benches/peers/models.py` measures ONNX Runtime and
//! PyTorch on the same shapes.
//!
//! Weights are those of the parity test: the time of a dense forward pass does not depend on them.

#[path = "../tests/common/reference.rs"]
mod reference;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use touchline::models::{Architecture, Network};

/// As ImageNet.
const CLASSES: usize = 1000;

fn forward(criterion: &mut Criterion) {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet50] {
        let tensors = reference::parameters(architecture, CLASSES, reference::parameter);
        let network = Network::load(architecture, &tensors, Some(CLASSES)).expect("all tensors are there");
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
