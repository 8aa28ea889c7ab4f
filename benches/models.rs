//! Forward passes of the networks at 224×224 (EfficientNet-Lite2: 256×256). `benches/peers/models.py` alternates
//! between this benchmark and ONNX Runtime, OpenVINO and PyTorch, so that all run under the same conditions.
//!
//! ```sh
//! cargo bench --bench models                    batches of 1, 5 and 8, without peers
//! cargo bench --bench models -- --by-turns      reads lines "NETWORK PRECISION BATCH RUNS", prints the best time, ms
//! cargo bench --bench models -- --layers        the time of each layer, with its operations and bytes per second
//! cargo bench --bench models -- --encoders      vision transformers, MobileCLIP and EfficientNet-Lite2 in turn, one picture each
//! cargo bench --bench models -- --mobileclip    as --by-turns, for `benches/peers/mobileclip.py`; then the time of each layer of S0
//! ```
//!
//! Weights are those of the parity test: the time of a dense forward pass does not depend on them.

#[path = "../tests/common/reference.rs"]
mod reference;

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use touchline_compute::models::{Architecture, Network, Tensors};
use touchline_compute::nn::fused::{Arithmetic, LayerCost, Observed, Precision};

/// The same number as in the peers' models. A classifier of a thousand classes would take a noticeable part of the
/// time.
const CLASSES: usize = 7;

/// Networks and the side of their pictures.
const NETWORKS: [(Architecture, usize); 3] =
    [(Architecture::MobileNetV2, 224), (Architecture::ResNet50, 224), (Architecture::EfficientNetLite2, 256)];

fn network((architecture, side): (Architecture, usize), precision: Precision) -> Network {
    let tensors = reference::parameters(architecture, CLASSES, reference::parameter);
    let load = |arithmetic| {
        Network::load_as(architecture, &tensors, Some(CLASSES), arithmetic).expect("all tensors are there")
    };
    match precision {
        Precision::F32 => load(Arithmetic::F32),
        Precision::Bf16 => load(Arithmetic::Bf16),
        Precision::Int8 => {
            let mut observed = Observed::default();
            load(Arithmetic::F32).observe(&pictures(2, side), &mut observed).expect("a forward pass");
            load(Arithmetic::Int8(&observed.ranges().expect("ranges of finite values")))
        }
    }
}

fn pictures(batch: usize, side: usize) -> Tensor {
    Tensor::randn(0f32, 1., (batch, 3, side, side), &Device::Cpu).expect("pictures")
}

fn alone() {
    let mut criterion = Criterion::default().configure_from_args();
    for (architecture, side) in NETWORKS {
        for precision in Precision::ALL {
            let network = network((architecture, side), precision);
            let mut group = criterion.benchmark_group(format!("{architecture} {}", precision.name()));
            group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
            for batch in [1, 5, 8] {
                let x = pictures(batch, side);
                group.throughput(Throughput::Elements(batch as u64));
                group.bench_with_input(BenchmarkId::from_parameter(batch), &x, |bencher, x| {
                    bencher.iter(|| black_box(network.forward(x).expect("a forward pass")));
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

fn all_networks() -> Vec<(String, usize, Network)> {
    NETWORKS
        .iter()
        .flat_map(|n| Precision::ALL.iter().map(move |p| (format!("{} {}", n.0, p.name()), n.1, network(*n, *p))))
        .collect()
}

fn by_turns(networks: &[(String, usize, Network)]) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, precision, batch, runs] = words[..] else { panic!("NETWORK PRECISION BATCH RUNS, not {line:?}") };
        let wanted = format!("{name} {precision}");
        let (_, side, network) =
            networks.iter().find(|(name, ..)| *name == wanted).expect("a network of the benchmark");
        let x = pictures(batch.parse().expect("a number of pictures"), *side);
        let run = || {
            let began = Instant::now();
            black_box(network.forward(&x).expect("a forward pass"));
            began.elapsed().as_secs_f64() * 1e3
        };
        // Not timed: after a run of the other program, the weights are no longer in the caches.
        run();
        let best = (0..runs.parse().expect("a number of runs")).map(|_| run()).fold(f64::MAX, f64::min);
        println!("{best}");
    }
}

fn layers() {
    for (architecture, side) in NETWORKS {
        for precision in Precision::ALL {
            println!("{architecture} {}, one picture", precision.name());
            print_layers(&network((architecture, side), precision), side);
        }
    }
}

fn print_layers(network: &Network, side: usize) {
    let costs = network.profile(1, (side, side), 50).expect("a profile");
    println!("{:<42} {:>9} {:>9} {:>9} {:>9}", "layer", "us", "GFLOP/s", "GB/s", "weights");
    for cost in &costs {
        let ns = cost.ns as f64;
        println!(
            "{:<42} {:>9.1} {:>9.1} {:>9.1} {:>7} k",
            cost.name,
            ns / 1e3,
            2.0 * cost.products as f64 / ns,
            (cost.weight_bytes + cost.value_bytes) as f64 / ns,
            cost.weight_bytes >> 10
        );
    }
    let total: u64 = costs.iter().map(|cost| cost.ns).sum();
    println!("{:<42} {:>9.1}", "all", total as f64 / 1e3);
}

/// The size of a vision transformer.
struct Transformer {
    name: &'static str,
    width: usize,
    blocks: usize,
    patch: usize,
    side: usize,
}

/// Sizes that encoders are published in. CLIP, SigLIP, DINOv2 and the plain one of timm have the same blocks.
const TRANSFORMERS: [Transformer; 5] = [
    Transformer { name: "ViT-Ti/16, 224 x 224", width: 192, blocks: 12, patch: 16, side: 224 },
    Transformer { name: "ViT-S/16, 224 x 224", width: 384, blocks: 12, patch: 16, side: 224 },
    Transformer { name: "ViT-S/14, 224 x 224", width: 384, blocks: 12, patch: 14, side: 224 },
    Transformer { name: "ViT-B/32, 224 x 224", width: 768, blocks: 12, patch: 32, side: 224 },
    Transformer { name: "ViT-B/16, 224 x 224", width: 768, blocks: 12, patch: 16, side: 224 },
];

impl Transformer {
    fn tokens(&self) -> usize {
        1 + (self.side / self.patch).pow(2)
    }

    /// The values of all weights that are matrices.
    fn weights(&self) -> usize {
        self.width * (3 * self.patch.pow(2) + self.blocks * 12 * self.width)
    }

    /// Products of one picture.
    fn products(&self) -> usize {
        self.tokens() * (self.weights() + self.blocks * 2 * self.tokens() * self.width)
    }

    fn network(&self) -> Network {
        let (width, inner) = (self.width, 4 * self.width);
        let mut tensors = Tensors::new();
        let mut put =
            |name: String, shape: &[usize]| drop(tensors.insert(name.clone(), reference::parameter(&name, shape)));
        put("cls_token".into(), &[1, 1, width]);
        put("pos_embed".into(), &[1, self.tokens(), width]);
        put("patch_embed.proj.weight".into(), &[width, 3, self.patch, self.patch]);
        put("patch_embed.proj.bias".into(), &[width]);
        let mut layer = |name: String, outputs: usize, inputs: usize| {
            put(format!("{name}.weight"), &[outputs, inputs]);
            put(format!("{name}.bias"), &[outputs]);
        };
        for block in 0..self.blocks {
            layer(format!("blocks.{block}.attn.qkv"), 3 * width, width);
            layer(format!("blocks.{block}.attn.proj"), width, width);
            layer(format!("blocks.{block}.mlp.fc1"), inner, width);
            layer(format!("blocks.{block}.mlp.fc2"), width, inner);
        }
        layer("head".into(), CLASSES, width);
        let norms = (0..self.blocks).flat_map(|n| [format!("blocks.{n}.norm1"), format!("blocks.{n}.norm2")]);
        for name in norms.chain(["norm".to_owned()]) {
            put(format!("{name}.weight"), &[width]);
            put(format!("{name}.bias"), &[width]);
        }
        Network::load(Architecture::Vit, &tensors, Some(CLASSES)).expect("all tensors are there")
    }
}

/// The size of a picture tower of MobileCLIP.
struct Tower {
    name: &'static str,
    blocks: [usize; 4],
    /// Channels of the first stage; each stage doubles them.
    width: usize,
}

/// Side of the pictures of MobileCLIP, pixels.
const TOWER_SIDE: usize = 256;

const TOWERS: [Tower; 3] = [
    Tower { name: "mobileclip_s0", blocks: [2, 6, 10, 2], width: 64 },
    Tower { name: "mobileclip_s1", blocks: [4, 12, 20, 4], width: 64 },
    Tower { name: "mobileclip_s2", blocks: [4, 12, 24, 4], width: 80 },
];

impl Tower {
    fn network(&self) -> Network {
        let mut tensors = Tensors::new();
        let mut layer = |name: &str, shape: &[usize]| {
            for (name, shape) in [(format!("{name}.weight"), shape), (format!("{name}.bias"), &shape[..1])] {
                tensors.insert(name.clone(), reference::parameter(&name, shape));
            }
        };
        let mut width = self.width;
        layer("stem.0.reparam_conv", &[width, 3, 3, 3]);
        layer("stem.1.reparam_conv", &[width, 1, 3, 3]);
        layer("stem.2.reparam_conv", &[width, width, 1, 1]);
        for (stage, blocks) in self.blocks.iter().enumerate() {
            let at = format!("stages.{stage}");
            if stage > 0 {
                width *= 2;
                layer(&format!("{at}.downsample.proj.0.reparam_conv"), &[width, 1, 7, 7]);
                layer(&format!("{at}.downsample.proj.1.reparam_conv"), &[width, width, 1, 1]);
            }
            if stage > 1 {
                layer(&format!("{at}.downsample.proj.0.se.fc1"), &[width / 4, width, 1, 1]);
                layer(&format!("{at}.downsample.proj.0.se.fc2"), &[width, width / 4, 1, 1]);
            }
            if stage == 3 {
                layer(&format!("{at}.pos_emb.reparam_conv"), &[width, 1, 7, 7]);
            }
            for block in 0..*blocks {
                let at = format!("{at}.blocks.{block}");
                if stage == 3 {
                    layer(&format!("{at}.token_mixer.qkv"), &[3 * width, width]);
                    layer(&format!("{at}.token_mixer.proj"), &[width, width]);
                } else {
                    layer(&format!("{at}.token_mixer.reparam_conv"), &[width, 1, 3, 3]);
                }
                layer(&format!("{at}.mlp.conv.conv"), &[width, 1, 7, 7]);
                layer(&format!("{at}.mlp.fc1"), &[3 * width, width, 1, 1]);
                layer(&format!("{at}.mlp.fc2"), &[width, 3 * width, 1, 1]);
            }
        }
        layer("final_conv.reparam_conv", &[2 * width, 1, 3, 3]);
        layer("final_conv.se.fc1", &[width / 8, 2 * width, 1, 1]);
        layer("final_conv.se.fc2", &[2 * width, width / 8, 1, 1]);
        layer("head.fc", &[512, 2 * width]);
        layer("classifier", &[CLASSES, 512]);
        Network::load(Architecture::MobileClip, &tensors, Some(CLASSES)).expect("all tensors are there")
    }
}

/// Products of one picture, and bytes of weights. Those of attention and of the projection are left out: a hundredth.
fn work(network: &Network) -> (f64, f64) {
    let costs = network.profile(1, (TOWER_SIDE, TOWER_SIDE), 1).expect("a profile");
    let sum = |of: fn(&LayerCost) -> u64| costs.iter().map(of).sum::<u64>() as f64;
    (sum(|cost| cost.products), sum(|cost| cost.weight_bytes))
}

/// Median of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs the picture network of `compact` and the encoders in turn.
fn encoders() {
    const ROUNDS: usize = 15;
    let lite2 = NETWORKS[2];
    type Case = (String, Tensor, Network, Option<(f64, f64)>);
    let mut networks: Vec<Case> = [Precision::F32, Precision::Bf16]
        .map(|p| {
            (format!("EfficientNet-Lite2, 256 x 256, {}", p.name()), pictures(1, lite2.1), network(lite2, p), None)
        })
        .into();
    networks.extend(TOWERS.iter().map(|tower| {
        let network = tower.network();
        let work = work(&network);
        (tower.name.to_owned(), pictures(1, TOWER_SIDE), network, Some(work))
    }));
    networks.extend(TRANSFORMERS.iter().map(|t| {
        let work = (t.products() as f64, 4.0 * t.weights() as f64);
        (t.name.to_owned(), pictures(1, t.side), t.network(), Some(work))
    }));
    let mut times = vec![Vec::new(); networks.len()];
    for _ in 0..ROUNDS {
        for ((_, x, network, _), times) in networks.iter().zip(&mut times) {
            // Not timed: after another network's run, the weights are no longer in the caches.
            network.forward(x).expect("a forward pass");
            let began = Instant::now();
            black_box(network.forward(x).expect("a forward pass"));
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("{:<36} {:>8} {:>8} {:>9} {:>9} {:>9}", "network", "ms", "ratio", "GFLOP", "GFLOP/s", "weights");
    let first = times[0].clone();
    for ((name, _, _, work), times) in networks.iter().zip(times) {
        let ratio = median(times.iter().zip(&first).map(|(a, b)| a / b).collect());
        let ms = median(times);
        print!("{name:<36} {ms:>8.2} {ratio:>8.2}");
        if let Some((products, weights)) = work {
            let operations = 2.0 * products / 1e9;
            print!(" {operations:>9.2} {:>9.0} {:>6.0} MB", operations / ms * 1e3, weights * 1e-6);
        }
        println!();
    }
}

fn main() {
    let has_flag = |flag: &str| std::env::args().any(|arg| arg == flag);
    if has_flag("--by-turns") {
        by_turns(&all_networks());
    } else if has_flag("--mobileclip") {
        let towers = TOWERS.iter().map(|tower| (format!("{} f32", tower.name), TOWER_SIDE, tower.network()));
        let towers: Vec<_> = towers.collect();
        by_turns(&towers);
        print_layers(&towers[0].2, TOWER_SIDE);
    } else if has_flag("--layers") {
        layers();
    } else if has_flag("--encoders") {
        encoders();
    } else {
        alone();
    }
}
