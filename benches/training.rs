//! Training steps at 224×224: forward, backward and AdamW, of all layers and of MobileNetV2's last five blocks on their cached
//! activations, in turn with PyTorch on the same work (`benches/peers/training.py`). Runs alternate, so that other work on the
//! machine slows both.
//!
//!     PYTHON=python3 RAYON_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296 \
//!         MALLOC_TOP_PAD_=67108864 cargo bench --bench training [-- ROUNDS [WORK]]
//!
//! `touchline train` sets the variables of malloc for itself. Without `PYTHON`, only Touchline is measured. `WORK` is a part of the
//! name of what is measured. The weights are random: the time of a step does not depend on them.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use touchline_compute::models::{Architecture, Tensors};
use touchline_learn::fit::{log_softmax_loss, soft_targets};
use touchline_learn::net::{Net, build};
use touchline_learn::optimizer::{Optimizer, OptimizerKind};

const CLASSES: usize = 24;

/// Name, architecture, batch, and blocks that learn (0: all).
const WORKS: [(&str, Architecture, usize, usize); 5] = [
    ("mobilenet_v2 last 5 blocks", Architecture::MobileNetV2, 16, 5),
    ("mobilenet_v2 all layers", Architecture::MobileNetV2, 16, 0),
    ("mobilenet_v2 all layers", Architecture::MobileNetV2, 32, 0),
    ("resnet50 all layers", Architecture::ResNet50, 16, 0),
    ("resnet50 all layers", Architecture::ResNet50, 32, 0),
];

/// Steps of Touchline.
struct Work {
    net: Net,
    frozen: usize,
    x: Tensor,
    targets: Tensor,
    weights: Tensor,
    optimizer: Optimizer,
}

impl Work {
    fn new(architecture: Architecture, batch: usize, learning: usize) -> candle_core::Result<Self> {
        let device = &Device::Cpu;
        let net = build(architecture, &Tensors::new(), CLASSES, 1, device).expect("a network").net;
        let frozen = if learning == 0 { 0 } else { net.blocks() - learning };
        let labels: Vec<u32> = (0..batch as u32).map(|i| i % CLASSES as u32).collect();
        let targets = Tensor::from_vec(soft_targets(&labels, CLASSES, 0.1), (batch, CLASSES), device)?;
        let weights = Tensor::ones(batch, DType::F32, device)?;
        let x = net.run(&Tensor::randn(0f32, 1., (3, batch, 224, 224), device)?, 0, frozen)?;
        let optimizer = Optimizer::new(OptimizerKind::AdamW, 0.05, net.parameters(frozen))?;
        Ok(Self { net, frozen, x, targets, weights, optimizer })
    }

    /// Milliseconds of a step.
    fn step(&mut self) -> candle_core::Result<f64> {
        let began = Instant::now();
        let pass = self.net.learn(&self.x, self.frozen, None)?;
        let loss = log_softmax_loss(&self.net.classify(pass.features())?, &self.targets, &self.weights)?;
        let grads = pass.backward(&loss)?;
        black_box(self.optimizer.step(&grads, 1e-4, None)?);
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }
}

/// PyTorch in a process of its own.
struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &str) -> std::io::Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/training.py");
        let mut process = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = process.stdin.take().expect("a pipe was asked for");
        let answers = BufReader::new(process.stdout.take().expect("a pipe was asked for"));
        Ok(Self { process, requests, answers })
    }

    /// Milliseconds of each of `steps` steps; the first request for a work also prepares it.
    fn steps(&mut self, work: (&str, usize, usize), steps: usize) -> Vec<f64> {
        let architecture = work.0.split(' ').next().unwrap_or_default();
        writeln!(self.requests, "{architecture} {} {} {steps}", work.1, work.2).expect("the peer runs");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the peer answers");
        line.split_whitespace().map(|ms| ms.parse().expect("milliseconds")).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The least and the median.
fn summary(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times.first().copied().unwrap_or(f64::NAN), times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds: usize = arguments.first().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let mut peer = std::env::var("PYTHON").ok().map(|python| Peer::start(&python).expect("PYTHON starts"));
    for (name, architecture, batch, learning) in WORKS {
        if arguments.get(1).is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        let mut work = Work::new(architecture, batch, learning).expect("a network");
        // The first steps allocate memory.
        let warm = work.step().and_then(|_| work.step()).expect("a step");
        let steps = ((1000.0 / warm) as usize).max(1);
        if let Some(peer) = &mut peer {
            peer.steps((name, batch, learning), 2);
        }
        let [mut own, mut other] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            own.extend((0..steps).map(|_| work.step().expect("a step")));
            if let Some(peer) = &mut peer {
                other.extend(peer.steps((name, batch, learning), steps));
            }
        }
        let (least, median) = summary(&mut own);
        print!("{name}, batch {batch}: least {least:.0} ms, median {median:.0} ms");
        if peer.is_some() {
            let (peer_least, peer_median) = summary(&mut other);
            print!("; PyTorch {peer_least:.0} and {peer_median:.0} ms");
            print!("; ratio {:.2} and {:.2}", least / peer_least, median / peer_median);
        }
        println!();
    }
}
