//! Compares a GPU with the CPU: inputs of the models in f32, and scores of whole packs.

use std::path::{Path, PathBuf};

use touchline_compute::backend::gpu;
use touchline_compute::features::FeatureExtractor;
use touchline_compute::features::cuda::{BatchInputs, DeviceFeatures, OutputTarget, OutputTargets};
use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::context::Gpu;
use touchline_compute::gpu::launch::Layout;
use touchline_compute::gpu::placement::{DeviceChoice, Placement};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_compute::nn::fused::Precision;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::labels::Modality;

use crate::material::second_of;
use crate::{Outcome, Unobserved};

/// Sizes of pictures: the usual one, odd ones, and one smaller than the model's input.
const SIZES: [(u32, u32); 4] = [(512, 288), (321, 241), (163, 288), (97, 65)];

/// Largest allowed difference of an input from the CPU's: pictures and sound in standard deviations, flow as a share of
/// its clipping range.
const INPUTS: PerModality<f32> = PerModality { rgb: 1e-3, flow: 1e-3, audio: 1e-4 };

/// Largest allowed difference of a probability, by the element type of the network.
const SCORES: [(ElementType, f32); 3] = [(ElementType::F32, 1e-3), (ElementType::F16, 1e-2), (ElementType::Bf16, 5e-2)];

pub fn run(device: usize, packs: &[PathBuf]) -> Outcome<bool> {
    let mut gpu = gpu::open(device)?;
    gpu::check(&mut gpu)?;
    println!("All kernels compile and load; cuDNN starts.\n");
    println!("| comparison | largest difference from the CPU | allowed | |");
    println!("|---|---|---|---|");
    let mut all = true;
    for dir in packs {
        all &= inputs(&mut gpu, dir)?;
        all &= scores(device, dir)?;
    }
    Ok(all)
}

/// Prints a row of the table. Returns whether the difference is allowed and `is_same` is true.
fn row(name: &str, difference: f32, allowed: f32, is_same: bool) -> bool {
    let fits = difference <= allowed && is_same;
    println!("| {name} | {difference:.2e} | {allowed:.0e} | {} |", if fits { "ok" } else { "**DIFFERS**" });
    fits
}

fn difference(got: &[f32], want: &[f32]) -> f32 {
    if got.len() != want.len() {
        return f32::INFINITY;
    }
    let each = |(g, w): (&f32, &f32)| if (g - w).is_nan() { f32::INFINITY } else { (g - w).abs() };
    got.iter().zip(want).map(each).fold(0.0, f32::max)
}

fn seconds(pack: &Pack) -> Vec<ClipSecond> {
    SIZES.iter().enumerate().map(|(i, size)| second_of(pack, i as u32, *size)).collect()
}

/// Compares the models' inputs in f32, as planes.
fn inputs(gpu: &mut Gpu, dir: &Path) -> Outcome<bool> {
    let pack = Pack::open(dir)?;
    let parts = (
        pack.rgb.as_ref().map(|p| &p.input),
        pack.flow.as_ref().map(|p| &p.input),
        pack.audio.as_ref().map(|p| &p.input),
    );
    let mut cpu = FeatureExtractor::new(parts.0, parts.1, parts.2)?;
    let mut device = DeviceFeatures::new(gpu, parts.0, parts.1, parts.2)?;
    let seconds = seconds(&pack);
    let all: Vec<&ClipSecond> = seconds.iter().collect();
    let wants = PerModality { rgb: parts.0.is_some(), flow: parts.1.is_some(), audio: parts.2.is_some() };
    let (work, _) = BatchInputs::of(&all, wants, |_| true);
    let mut want = PerModality::<Vec<f32>>::default();
    for second in &seconds {
        cpu.pictures_into(second, &mut want.rgb);
        cpu.flows_into(second, &mut want.flow);
        cpu.sound_into(second, &mut want.audio);
    }
    let memory = |modality: Modality| gpu.output(want.get(modality).len().max(1), ElementType::F32);
    let outputs =
        PerModality { rgb: memory(Modality::Rgb)?, flow: memory(Modality::Flow)?, audio: memory(Modality::Audio)? };
    let target = |modality: Modality| {
        let out = outputs.get(modality).pointer();
        (!want.get(modality).is_empty()).then_some(OutputTarget {
            out,
            numbers: ElementType::F32,
            layout: Layout::Planar,
        })
    };
    let targets = OutputTargets {
        pictures: target(Modality::Rgb),
        flows: target(Modality::Flow),
        sounds: target(Modality::Audio),
    };
    device.run(gpu, &work, &targets, &mut |_, _| {})?;
    let mut fits = true;
    for modality in Modality::ALL {
        let want = want.get(modality);
        if want.is_empty() {
            continue;
        }
        let bytes = gpu.read(outputs.get(modality).pointer(), 4 * want.len())?;
        let got: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
        let name = format!("{}: inputs of the {modality} model, f32", pack.name);
        fits &= row(&name, difference(&got, want), *INPUTS.get(modality), true);
    }
    Ok(fits)
}

/// Compares scores of whole seconds: probabilities must be close, and the top class the same where the CPU's lead is
/// clear.
fn scores(device: usize, dir: &Path) -> Outcome<bool> {
    let mut pack = Pack::open(dir)?;
    (pack.precision, pack.placement) = (Precision::F32, Placement::CPU);
    let seconds = seconds(&pack);
    let all: Vec<&ClipSecond> = seconds.iter().collect();
    let want = Engine::load(pack.clone())?.score(&all, &Unobserved)?;
    let mut fits = true;
    for (numbers, allowed) in SCORES {
        pack.placement = Placement { requested: DeviceChoice::Cuda(vec![device]), numbers };
        let mut engine = Engine::load(pack.clone())?;
        let got = engine.score(&all, &Unobserved)?;
        for modality in Modality::ALL {
            let pairs = got.iter().zip(&want).filter_map(|(got, want)| {
                Some((got.scores.get(modality).as_ref()?, want.scores.get(modality).as_ref()?))
            });
            let (mut largest, mut same, mut count) = (0f32, true, 0);
            for (got, want) in pairs {
                largest = largest.max(difference(&got.scores, &want.scores));
                let mut sorted = want.scores.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let decided = sorted[0] - sorted[1] > 2.0 * allowed;
                same &= !decided || top(&got.scores) == top(&want.scores);
                count += 1;
            }
            if count > 0 {
                let name = format!("{}: {modality} scores in {}, {count} seconds", pack.name, numbers.name());
                fits &= row(&name, largest, allowed, same);
            }
        }
    }
    Ok(fits)
}

fn top(scores: &[f32]) -> Option<usize> {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
}
