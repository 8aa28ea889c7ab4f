//! Training steps of MobileNetV2 at 224×224, batch 16: forward, backward and AdamW, of the last five blocks on their
//! cached activations and of all layers. `benches/peers/training.py` measures PyTorch on the same work.
//!
//!     RAYON_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296 \
//!         MALLOC_TOP_PAD_=67108864 cargo bench --bench training
//!
//! `touchline train` sets the same variables for itself. The weights are random: the time of a step does not depend on
//! them.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use touchline_compute::models::{Architecture, Tensors};
use touchline_learn::fit::{log_softmax_loss, soft_targets};
use touchline_learn::net::build;
use touchline_learn::optimizer::{Optimizer, OptimizerKind};

const BATCH: usize = 16;
const CLASSES: usize = 24;

fn step(criterion: &mut Criterion) {
    let device = &Device::Cpu;
    let built = build(Architecture::MobileNetV2, &Tensors::new(), CLASSES, 1, device).expect("a network");
    let net = built.net;
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % CLASSES as u32).collect();
    let targets = Tensor::from_vec(soft_targets(&labels, CLASSES, 0.1), (BATCH, CLASSES), device).expect("targets");
    let weights = Tensor::ones(BATCH, DType::F32, device).expect("weights");
    let pictures = Tensor::randn(0f32, 1., (3, BATCH, 224, 224), device).expect("pictures");
    let mut group = criterion.benchmark_group("training step");
    group.sample_size(10).warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(8));
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, learning) in [("last 5 blocks", 5), ("all layers", net.blocks())] {
        let frozen = net.blocks() - learning;
        let x = net.run(&pictures, 0, frozen).expect("activations");
        let mut optimizer = Optimizer::new(OptimizerKind::AdamW, 0.05, net.parameters(frozen)).expect("an optimiser");
        group.bench_with_input(BenchmarkId::from_parameter(name), &x, |bencher, x| {
            bencher.iter(|| {
                let pass = net.learn(x, frozen, None).expect("forward");
                let logits = net.classify(pass.features()).expect("logits");
                let loss = log_softmax_loss(&logits, &targets, &weights).expect("a loss");
                let grads = pass.backward(&loss).expect("backward");
                black_box(optimizer.step(&grads, 1e-4, None).expect("a step"));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
