//! Time of each stage by batch size, beside its floor: the time its bytes and operations take at the measured ceilings.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use touchline_compute::backend::gpu;
use touchline_compute::features::cpu::farneback::Farneback;
use touchline_compute::features::cuda::{BatchInputs, DeviceFeatures, FeatureStage, OutputTarget, OutputTargets};
use touchline_compute::features::params::FlowParams;
use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::context::{Gpu, Output};
use touchline_compute::gpu::launch::Layout;
use touchline_compute::models::gpu::GpuNetwork;
use touchline_compute::models::pack::{ModelSpec, Pack};
use touchline_compute::models::{Network, read_weights_verified};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::labels::Modality;

use crate::Outcome;
use crate::ceilings::{Ceilings, best};
use crate::material::{PICTURES, second};

/// Batch sizes, seconds.
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Rounds of a measurement; the median counts.
const ROUNDS: usize = 15;

const NUMBERS: ElementType = ElementType::F16;

pub fn run(device: usize, packs: &[PathBuf]) -> Outcome<()> {
    let mut gpu = gpu::open(device)?;
    let ceilings = Ceilings::measure(&mut gpu, NUMBERS)?;
    println!(
        "Measured ceilings: memory {:.0} GB/s, upload {:.1} GB/s, {} products {:.0} TFLOP/s\n",
        ceilings.memory / 1e9,
        ceilings.upload / 1e9,
        NUMBERS.name(),
        ceilings.products / 1e12
    );
    for dir in packs {
        let pack = Pack::open(dir)?;
        features(&mut gpu, &pack, &ceilings)?;
        networks(&mut gpu, &pack, &ceilings)?;
    }
    Ok(())
}

/// Times upload, pictures, flow and sound, in milliseconds per batch.
fn features(gpu: &mut Gpu, pack: &Pack, ceilings: &Ceilings) -> Outcome<()> {
    let rgb = pack.rgb.as_ref().map(|p| &p.input);
    let (flow, audio) = (pack.flow.as_ref().map(|p| &p.input), pack.audio.as_ref().map(|p| &p.input));
    let mut features = DeviceFeatures::new(gpu, rgb, flow, audio)?;
    println!("### Features, pack {}, {PICTURES} pictures and pairs per second\n", pack.name);
    println!("| seconds | upload ms | floor | pictures ms | flow ms | floor | ratio | sound ms |");
    println!("|---|---|---|---|---|---|---|---|");
    for batch in BATCHES {
        let seconds: Vec<ClipSecond> = (0..batch as u32).map(|seed| second(pack, seed)).collect();
        let all: Vec<&ClipSecond> = seconds.iter().collect();
        let wants = PerModality { rgb: rgb.is_some(), flow: flow.is_some(), audio: audio.is_some() };
        let (work, _) = BatchInputs::of(&all, wants, |_| true);
        let mut rounds: Vec<[f32; 4]> = Vec::new();
        for _ in 0..ROUNDS + 2 {
            let outputs = Outputs::new(gpu, &features, &work)?;
            let mut marks = vec![(FeatureStage::Upload, gpu.mark()?)];
            let mut failed = None;
            features.run(gpu, &work, &outputs.targets(), &mut |gpu, part| match gpu.mark() {
                Ok(mark) => marks.push((part, mark)),
                Err(e) => failed = Some(e),
            })?;
            if let Some(e) = failed {
                return Err(e.into());
            }
            gpu.wait()?;
            let mut round = [0f32; 4];
            for pair in marks.windows(2) {
                round[pair[1].0 as usize] = pair[0].1.elapsed_ms(&pair[1].1).map_err(|e| format!("{e:?}"))?;
            }
            rounds.push(round);
        }
        let median = |i: usize| {
            let mut values: Vec<f32> = rounds[2..].iter().map(|r| r[i]).collect();
            values.sort_by(f32::total_cmp);
            f64::from(values[values.len() / 2])
        };
        let bytes: usize = work.pictures.iter().map(|p| p.data.len()).sum::<usize>()
            + work.sounds.iter().map(|s| 4 * s.len()).sum::<usize>();
        let upload_floor = bytes as f64 / ceilings.upload * 1e3;
        let flow_floor = flow.map_or(0.0, |flow| flow_bytes(flow) * work.pairs.len() as f64 / ceilings.memory * 1e3);
        let ratio = if flow_floor > 0.0 { median(FeatureStage::Flows as usize) / flow_floor } else { 0.0 };
        println!(
            "| {batch} | {:.3} | {upload_floor:.3} | {:.3} | {:.3} | {flow_floor:.3} | {ratio:.1} | {:.3} |",
            median(FeatureStage::Upload as usize),
            median(FeatureStage::Pictures as usize),
            median(FeatureStage::Flows as usize),
            median(FeatureStage::Sounds as usize),
        );
    }
    println!();
    Ok(())
}

/// Memory of the three models' inputs.
struct Outputs {
    pictures: Option<Output>,
    flows: Option<Output>,
    sounds: Option<Output>,
}

impl Outputs {
    fn new(gpu: &Gpu, features: &DeviceFeatures<Gpu>, work: &BatchInputs<'_>) -> Outcome<Self> {
        let output = |count: usize, size: Option<(usize, usize)>| match size {
            Some((width, height)) if count > 0 => gpu.output((count, height, width, 3), NUMBERS).map(Some),
            _ => Ok(None),
        };
        Ok(Self {
            pictures: output(work.rgb.len(), features.pictures.as_ref().map(|f| f.size()))?,
            flows: output(work.pairs.len(), features.flows.as_ref().map(|f| f.size()))?,
            sounds: output(work.sounds.len(), features.sounds.as_ref().map(|f| f.size()))?,
        })
    }

    fn targets(&self) -> OutputTargets {
        let target = |output: &Option<Output>| {
            let (numbers, layout) = (NUMBERS, Layout::Interleaved);
            output.as_ref().map(|o| OutputTarget { out: o.pointer(), numbers, layout })
        };
        OutputTargets { pictures: target(&self.pictures), flows: target(&self.flows), sounds: target(&self.sounds) }
    }
}

/// The fewest bytes that the flow of a pair moves, when every launch reads its inputs and writes its results once: the
/// gray pictures, at each level the reduced ones and their polynomials, and in each iteration both polynomials and the
/// flow.
fn flow_bytes(params: &FlowParams) -> f64 {
    let full = (params.width * params.height) as f64;
    let scale = params.farneback.pyr_scale * params.farneback.pyr_scale;
    let levels = Farneback::new(params.width, params.height, params.farneback).map_or(1, |f| f.levels());
    let level = |i: usize| {
        let pixels = full * scale.powi(i as i32);
        let pictures = 2.0 * (full + pixels + pixels + 5.0 * pixels);
        let iteration = 10.0 * pixels + 2.0 * pixels + 2.0 * pixels;
        let enlarge = if i + 1 < levels { 2.0 * pixels * (1.0 + scale) } else { 0.0 };
        4.0 * (pictures + params.farneback.iterations as f64 * iteration + enlarge)
    };
    (0..levels).map(level).sum::<f64>() + 4.0 * (2.0 * full + 3.0 * full)
}

/// Times every network of the pack by batch size.
fn networks(gpu: &mut Gpu, pack: &Pack, ceilings: &Ceilings) -> Outcome<()> {
    println!("### Networks, pack {}, {}\n", pack.name, NUMBERS.name());
    println!("| network | pictures | ms | pictures per second | floor ms | ratio |");
    println!("|---|---|---|---|---|---|");
    for modality in Modality::ALL {
        let Some(model) = pack.model(modality) else { continue };
        let size = match modality {
            Modality::Rgb => pack.rgb.as_ref().map(|p| (p.input.height, p.input.width)),
            Modality::Flow => pack.flow.as_ref().map(|p| (p.input.height, p.input.width)),
            Modality::Audio => pack.audio.as_ref().map(|p| (p.input.height, p.input.width)),
        };
        let Some((height, width)) = size else { continue };
        let tensors = read_weights_verified(&model.weights, &model.sha256, &Device::Cpu)?;
        let (architecture, classes) = (model.architecture, model.outputs.len());
        let on_cpu = Network::load(architecture, &tensors, Some(classes))?;
        let products: f64 = on_cpu.profile(1, (height, width), 1)?.iter().map(|cost| cost.products as f64).sum();
        let network = GpuNetwork::load(architecture, &tensors, classes, &gpu.device(), NUMBERS)?;
        for batch in BATCHES.into_iter().chain([128, 256]) {
            let x = Tensor::randn(0f32, 1., (batch, height, width, 3), &gpu.device())?.to_dtype(NUMBERS.dtype())?;
            let ms = best(gpu, |_| Ok(network.forward(&x)?))? * 1e3;
            let floor = 2.0 * products * batch as f64 / ceilings.products * 1e3;
            let rate = batch as f64 / ms * 1e3;
            println!(
                "| {} ({modality}) | {batch} | {ms:.3} | {rate:.0} | {floor:.3} | {:.1} |",
                name(model),
                ms / floor
            );
        }
    }
    println!();
    Ok(())
}

fn name(model: &ModelSpec) -> &'static str {
    model.architecture.name()
}
