//! `touchline train`: trains models of one modality, or of all three, on a split dataset.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::numbers::{fraction, not_negative, positive, share};
use super::progress::Bar;
use touchline_compute::features::params::PictureParams;
use touchline_compute::gpu::placement::DeviceChoice;
use touchline_compute::models::Architecture;
use touchline_compute::models::pack::Manifest;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::redact::print_error_line;
use touchline_learn::dataset::Dataset;
use touchline_learn::fit::{FitConfig, HeadConfig, LOG, Observer, TuneConfig};
use touchline_learn::inputs::Inputs;
use touchline_learn::optimizer::OptimizerKind;
use touchline_learn::record::{EpochRecord, Finding, Phase, StepRecord};
use touchline_learn::report;
use touchline_learn::rules::OnRule;
use touchline_learn::train as learn;
use touchline_learn::train::folds::{Folds, cross_validate};
use touchline_learn::train::{Plan, Unfreeze};

/// Width and height of a model's input. For pictures, --size overrides it.
const SIDE: usize = 224;

/// Time between two lines about steps.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_long_help = "Training has the study's two steps. Step 1 trains the classifier alone, to its \
optimum (L-BFGS), on features of the frozen network, which are computed once and cached. Step 2 also trains the last --unfreeze \
blocks, on cached activations of the block before them. With --unfreeze all, the whole network is trained.

Examples:
  touchline train all DATASET -o RUN --init mobilenet_v2.safetensors
  touchline train rgb DATASET -o RUN --init mobilenet_v2.safetensors --unfreeze 8 --epochs 12
  touchline train rgb DATASET -o RUN --arch resnet50_v2 --init resnet50_v2.safetensors --unfreeze 4
  touchline train all DATASET -o RUN --init mobilenet_v2.safetensors --resume
  touchline train rgb DATASET -o CV --init mobilenet_v2.safetensors --unfreeze 0 --folds 5

A run is a directory with a folder for each modality, which contains log.jsonl, checkpoint.safetensors, best.safetensors and \
tensors/. `touchline pack build` builds a pack from it.")]
pub struct TrainArgs {
    /// Modality to train, or all three.
    #[arg(value_name = "rgb|flow|audio|all")]
    modality: ModalityArg,
    /// Directory of a dataset that was built and split.
    dataset: PathBuf,
    /// Directory of the run.
    #[arg(short, long, value_name = "RUN")]
    out: PathBuf,
    /// Network: mobilenet_v2, efficientnet_lite0, efficientnet_lite2, resnet50 or resnet50_v2 (pre-activation) [default:
    /// mobilenet_v2, or that of the pack that --init names].
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    arch: Option<Architecture>,
    /// Initial weights: safetensors with torchvision's names (for ResNet v2 also MXNet's, for EfficientNet-Lite those of the Python
    /// package efficientnet_lite_pytorch), or the directory of a pack, whose network and size of pictures are used too. With a pack of
    /// a foundation encoder (touchline pack import), step 1 trains its classifier; the encoder stays as it is. Without --init, weights
    /// start at random.
    #[arg(long, value_name = "FILE|PACK")]
    init: Option<PathBuf>,
    /// Continue an interrupted run.
    #[arg(long)]
    resume: bool,
    /// Maximum number of L-BFGS iterations of step 1, which trains the classifier on the frozen network. It ends earlier at the
    /// optimum. 0 skips step 1.
    #[arg(long, value_name = "N", default_value_t = HeadConfig::default().steps)]
    head_steps: u32,
    /// Penalty on the classifier's squared weights in step 1.
    #[arg(long, value_name = "PENALTY", default_value_t = HeadConfig::default().penalty, value_parser = positive)]
    head_penalty: f64,
    /// Epochs of step 2 [default: 30; audio: 100]. With 0 step 2 is skipped, and step 1 reuses cached features of a run with the
    /// same --unfreeze.
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Samples per epoch of step 2 [default: all]. Fewer samples mean more frequent validation.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epoch_samples: Option<u32>,
    /// Blocks at the end of the network that are trained in step 2: a number (0 skips step 2) or `all`. Layers that the initial
    /// weights lack are always trained.
    #[arg(long, value_name = "N|all", default_value = "5", value_parser = unfreeze)]
    unfreeze: Unfreeze,
    /// Batch size of step 2, in samples.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,
    /// Highest learning rate of step 2.
    #[arg(long, default_value_t = 3e-4, value_parser = positive)]
    learning_rate: f64,
    /// Optimiser of step 2; sgd uses Nesterov momentum of 0.9.
    #[arg(long, value_enum, default_value_t = OptimizerArg::Adamw)]
    optimizer: OptimizerArg,
    /// Weight decay of convolutions and of the classifier in step 2.
    #[arg(long, default_value_t = 0.05, value_parser = not_negative)]
    weight_decay: f64,
    /// Label smoothing: share of the target that is spread over all classes.
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    label_smoothing: f64,
    /// Dropout in step 2: share of the pooled features that is left out.
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    dropout: f64,
    /// Alpha of mixup's Beta distribution in step 2, for pictures and motion; 0 turns mixup off.
    #[arg(long, value_name = "ALPHA", default_value_t = 0.2, value_parser = not_negative)]
    mixup: f64,
    /// Alpha of CutMix's Beta distribution in step 2, for pictures and motion: a rectangle of each sample shows another sample. 1 is
    /// usual; 0 turns CutMix off. With --mixup, each batch has one of the two.
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0, value_parser = not_negative)]
    cutmix: f64,
    /// Keep the moving average of the weights over the steps of step 2, with this decay, instead of the weights of the last step.
    /// 0.999 is usual; 0 turns averaging off.
    #[arg(long, value_name = "DECAY", default_value_t = 0.0, value_parser = share)]
    average_weights: f64,
    /// Maximum norm of the gradient; 0 means no limit.
    #[arg(long, default_value_t = 5.0, value_parser = not_negative)]
    clip_norm: f64,
    /// Epochs of warm-up, in which the learning rate rises.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    warm_up_epochs: f64,
    /// Epochs without an improvement on validation after which step 2 ends early; 0 means never.
    #[arg(long, default_value_t = 20)]
    patience: u32,
    /// Augmented views of each second of a recording.
    #[arg(long, default_value_t = 2)]
    views: u32,
    /// Augmented views of each still picture.
    #[arg(long, default_value_t = 1)]
    still_views: u32,
    /// Compute a new augmented view of each training sample for each epoch of step 2. An epoch takes longer, as its views run
    /// through the frozen blocks, but no sample is learnt by heart.
    #[arg(long)]
    fresh_views: bool,
    /// Frames, or pairs of frames, in each view of a second.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Action when a training rule fires.
    #[arg(long, value_enum, default_value_t = OnRuleArg::Warn)]
    on_rule: OnRuleArg,
    /// Steps between saved tensors (losses, gradients, weights, means of features); 0 means never. The newest 20 collections are
    /// kept in tensors/; mean, deviation, extremes and share of zeros are kept for all.
    #[arg(long, value_name = "STEPS", default_value_t = 200)]
    save_tensors: u64,
    /// Steps between checkpoints; a killed run loses at most this many steps. 0 means only after each epoch.
    #[arg(long, value_name = "STEPS", default_value_t = 100)]
    checkpoint: u64,
    /// Random seed. The same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cross-validate: train one model for each of N folds, split by source, and keep its predictions for the held-out sources.
    /// `touchline evaluate --cv RUN DATASET` measures these. The test side is not used, and each fold keeps its last epoch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    folds: Option<u32>,
    /// With --folds, the share of sources of clips, frames and sounds to train on. Several runs with different shares give a
    /// learning curve.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "folds", value_parser = fraction)]
    sources: f64,
    /// Width and height of picture inputs, multiples of 32. 224x224 covers the middle of a broadcast picture; 320x192 covers
    /// almost all of it and costs a quarter more [default: 224x224, or that of the pack that --init names].
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,
    /// Device that computes: auto (a GPU, or the CPU where no GPU can be used), cpu, or a GPU such as cuda:0.
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "TOUCHLINE_DEVICE")]
    device: DeviceChoice,
    /// Compute convolutions in bf16; parameters and sums stay in f32. Fast on GPUs and on processors with bf16 instructions; results
    /// differ slightly.
    #[arg(long)]
    mixed_precision: bool,
    /// Directory of the cache of computed rows [default: DATASET/cache].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModalityArg {
    Rgb,
    Flow,
    Audio,
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerArg {
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnRuleArg {
    Stop,
    Warn,
}

pub fn train(args: TrainArgs) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    let modalities = match args.modality {
        ModalityArg::Rgb => vec![Modality::Rgb],
        ModalityArg::Flow => vec![Modality::Flow],
        ModalityArg::Audio => vec![Modality::Audio],
        ModalityArg::All => Modality::ALL.to_vec(),
    };
    let mut shown = TrainProgress { rows: None, last_line: Instant::now(), phase: None };
    if let Some(count) = args.folds {
        return folds(&args, &dataset, &modalities, Folds { count, sources: args.sources }, &mut shown);
    }
    let mut best = Vec::new();
    for modality in modalities {
        let plan = plan(&args, &dataset, modality)?;
        let trained = learn::train(&dataset, &plan, &mut shown);
        // The report is written after each modality, because training the others takes hours, and also after a failed training.
        // An error of the training takes precedence over one of the report.
        let reported = if args.out.join(modality.as_str()).join(LOG).is_file() {
            report::write_training(&args.out).map(drop)
        } else {
            Ok(())
        };
        best.extend(trained?);
        reported?;
    }
    if best.is_empty() {
        let advice = "see the messages above; a modality needs at least two classes with readable files";
        return Err(Error::data(&args.dataset, "there are no usable samples", advice));
    }
    for (modality, outcome) in best {
        let f1 = outcome.validation_f1.map_or("not measured".to_owned(), |f| format!("{f:.4}"));
        let step = if outcome.best_phase == Phase::Head { 1 } else { 2 };
        let kept = match outcome.best_epoch {
            0 => "no epoch was completed; no weights were kept".to_owned(),
            epoch => format!("epoch {epoch} of step {step} kept, validation macro F1 {f1}"),
        };
        let _ =
            writeln!(std::io::stdout(), "{modality}: {kept} ({}, {} optimiser steps)", outcome.cause, outcome.steps);
    }
    let _ = writeln!(
        std::io::stdout(),
        "run written to {}, report to {}",
        args.out.display(),
        args.out.join(report::REPORT).display()
    );
    Ok(())
}

/// Cross-validates each modality.
fn folds(
    args: &TrainArgs,
    dataset: &Dataset,
    modalities: &[Modality],
    folds: Folds,
    shown: &mut TrainProgress,
) -> Result<()> {
    let mut rows = Vec::new();
    for modality in modalities {
        rows.extend(cross_validate(dataset, &plan(args, dataset, *modality)?, folds, shown)?);
    }
    if rows.is_empty() {
        let advice = "see the messages above; a modality needs at least two classes with readable files";
        return Err(Error::data(&args.dataset, "there are no usable samples", advice));
    }
    for (modality, n) in rows {
        let _ = writeln!(std::io::stdout(), "{modality}: {n} held-out rows in {} folds", folds.count);
    }
    let _ = writeln!(
        std::io::stdout(),
        "folds written to {0}; to evaluate them, run `touchline evaluate --cv {0} {1}`",
        args.out.display(),
        args.dataset.display()
    );
    Ok(())
}

/// Where a training begins: the network, the file with its first weights, and for pictures the input that the weights are for.
struct Beginning {
    architecture: Architecture,
    init: Option<PathBuf>,
    input: Option<PictureParams>,
}

impl Beginning {
    fn new(args: &TrainArgs, modality: Modality) -> Result<Self> {
        let init = args.init.clone();
        let Some(dir) = init.as_deref().filter(|path| path.is_dir()) else {
            let architecture = args.arch.unwrap_or(Architecture::MobileNetV2);
            return Ok(Self { architecture, init, input: None });
        };
        let manifest = Manifest::read(dir)?;
        let part = match modality {
            Modality::Rgb => manifest.rgb.map(|part| (part.architecture, part.weights, Some(part.input))),
            Modality::Flow => manifest.flow.map(|part| (part.architecture, part.weights, None)),
            Modality::Audio => manifest.audio.map(|part| (part.architecture, part.weights, None)),
        };
        let Some((architecture, weights, input)) = part else {
            let advice = "give a pack that has one, or a file with weights";
            return Err(Error::pack(dir, format!("it has no {modality} model, so --init cannot use it"), advice));
        };
        if let Some(other) = args.arch.filter(|arch| *arch != architecture) {
            let cause = format!("the {modality} model of {} is {architecture}, not {other}", dir.display());
            return Err(Error::Usage(format!("{cause}; leave --arch out")));
        }
        if architecture.is_encoder() && args.size.is_some() {
            return Err(Error::Usage(format!("{architecture} takes pictures of one size; leave --size out")));
        }
        Ok(Self { architecture, init: Some(dir.join(weights)), input })
    }
}

fn plan(args: &TrainArgs, dataset: &Dataset, modality: Modality) -> Result<Plan> {
    let meta = &dataset.meta;
    let audio = modality == Modality::Audio;
    let Beginning { architecture, init, input } = Beginning::new(args, modality)?;
    let mut inputs = Inputs::standard(SIDE, meta.sample_rate, meta.flow_gap_ms());
    match input {
        Some(input) => inputs.rgb = input,
        None => (inputs.rgb.mean, inputs.rgb.std) = architecture.normalisation(),
    }
    if let Some(size) = args.size {
        (inputs.rgb.width, inputs.rgb.height) = size;
    }
    inputs.audio.validate().map_err(|e| Error::Usage(format!("the sample rate of this dataset: {e}")))?;
    let fit = FitConfig {
        head: HeadConfig { steps: args.head_steps, penalty: args.head_penalty },
        tune: TuneConfig {
            epochs: args.epochs.unwrap_or(if audio { 100 } else { 30 }),
            batch: args.batch as usize,
            learning_rate: args.learning_rate,
            samples: args.epoch_samples.map(|n| n as usize),
            fresh_views: args.fresh_views,
        },
        optimizer: match args.optimizer {
            OptimizerArg::Adamw => OptimizerKind::AdamW,
            OptimizerArg::Sgd => OptimizerKind::Sgd,
        },
        weight_decay: args.weight_decay,
        label_smoothing: args.label_smoothing,
        dropout: args.dropout,
        mixup: if audio { 0.0 } else { args.mixup },
        cutmix: if audio { 0.0 } else { args.cutmix },
        average: args.average_weights,
        clip_norm: (args.clip_norm > 0.0).then_some(args.clip_norm),
        warm_up_epochs: args.warm_up_epochs,
        patience: args.patience,
        checkpoint_every: args.checkpoint,
        tensors_every: args.save_tensors,
        on_rule: match args.on_rule {
            OnRuleArg::Stop => OnRule::Stop,
            OnRuleArg::Warn => OnRule::Warn,
        },
        seed: args.seed,
        mixed_precision: args.mixed_precision,
    };
    if fit.head.steps == 0 && (fit.tune.epochs == 0 || args.unfreeze == Unfreeze::Last(0)) {
        return Err(Error::Usage("both steps are skipped; set --head-steps, or --epochs and --unfreeze".into()));
    }
    Ok(Plan {
        out: args.out.clone(),
        modalities: vec![modality],
        architecture,
        init,
        inputs,
        unfreeze: args.unfreeze,
        views: (args.still_views, args.views),
        frames: args.frames,
        fit,
        device: learn::device::open(&args.device)?,
        cache: args.cache.clone().unwrap_or_else(|| args.dataset.join("cache")),
        resume: args.resume,
    })
}

/// Prints progress bars and lines.
struct TrainProgress {
    rows: Option<(Modality, Bar)>,
    last_line: Instant,
    /// The current phase, the first optimiser step of it in this process, and the time of that step.
    phase: Option<(Phase, u64, Instant)>,
}

impl TrainProgress {
    fn print(&mut self, text: &str) {
        match &self.rows {
            Some((_, bar)) => bar.line(text),
            None => print_error_line(format_args!("{text}")),
        }
    }

    /// Number of steps of this phase in this process, and the time of the first.
    fn steps_done(&mut self, phase: Phase, step: u64) -> (u64, Instant) {
        match self.phase {
            // Steps of the next modality or fold start over.
            Some((last, first, began)) if last == phase && first <= step => (step - first, began),
            _ => {
                let began = Instant::now();
                self.phase = Some((phase, step, began));
                (0, began)
            }
        }
    }
}

impl Observer for TrainProgress {
    fn rows(&mut self, modality: Modality, done: usize, of: usize, _inputs: usize) {
        if self.rows.as_ref().is_none_or(|(m, _)| *m != modality) {
            self.phase = None;
            self.rows = Some((modality, Bar::new("recordings and pictures read", of as u64)));
        }
        if let Some((_, bar)) = &mut self.rows {
            bar.set(done as u64);
        }
        if done == of
            && let Some((_, bar)) = self.rows.take()
        {
            bar.finish();
        }
    }

    fn step(&mut self, record: &StepRecord, of: u64) {
        if self.last_line.elapsed() < PLAIN_EVERY {
            return;
        }
        self.last_line = Instant::now();
        let StepRecord { phase, step, epoch, loss, accuracy, images_per_second, .. } = record;
        let (done, began) = self.steps_done(*phase, *step);
        let left = if done == 0 {
            String::new()
        } else {
            let each = began.elapsed().as_secs_f64() / done as f64;
            format!(", at most {:.0} s left", each * of.saturating_sub(done) as f64)
        };
        let text = format!(
            "step {step} (epoch {epoch}): loss {loss:.4}, accuracy {accuracy:.3}, {images_per_second:.1} samples/s{left}"
        );
        self.print(&text);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.last_line = Instant::now();
        let step = if record.phase == Phase::Head { 1 } else { 2 };
        let validation = record.validation.map_or("no validation".to_owned(), |v| {
            format!("validation loss {:.4}, accuracy {:.3}, macro F1 {:.4}", v.loss, v.accuracy, v.macro_f1)
        });
        let left = f64::from(record.epochs - record.epoch) * record.took_s;
        self.print(&format!(
            "step {step} epoch {}/{}: loss {:.4}, accuracy {:.3}; {validation}{}; {:.0} samples/s, about {left:.0} s left",
            record.epoch,
            record.epochs,
            record.train_loss,
            record.train_accuracy,
            if record.best { " (best)" } else { "" },
            record.images_per_second
        ));
    }

    fn finding(&mut self, finding: &Finding) {
        self.print(&format!("rule {:?} at step {}: {}", finding.rule, finding.step, finding.evidence));
    }

    fn note(&mut self, text: &str) {
        self.print(text);
    }
}

fn architecture(text: &str) -> Result<Architecture, String> {
    Architecture::ALL.into_iter().find(|a| a.name() == text).ok_or_else(|| {
        let names = Architecture::ALL.map(Architecture::name);
        format!("must be one of {}", names.join(", "))
    })
}

fn unfreeze(text: &str) -> Result<Unfreeze, String> {
    match text {
        "all" => Ok(Unfreeze::All),
        _ => text.parse().map(Unfreeze::Last).map_err(|_| "must be a number of blocks, or all".to_owned()),
    }
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| text.parse::<usize>().ok().filter(|n| (96..=1024).contains(n) && n % 32 == 0);
    let sides = text.split_once('x').and_then(|(w, h)| side(w).zip(side(h)));
    sides.ok_or_else(|| "must be WIDTHxHEIGHT as in 320x192, both multiples of 32 from 96 to 1024".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next modality may reach the same phase without a line of its first phase in between.
    #[test]
    fn steps_of_the_next_modality_start_over() {
        let mut progress = TrainProgress { rows: None, last_line: Instant::now(), phase: None };
        let mut done = |phase, step| progress.steps_done(phase, step).0;
        assert_eq!(
            [done(Phase::Tune, 90), done(Phase::Tune, 100), done(Phase::Tune, 14), done(Phase::Tune, 20)],
            [0, 10, 0, 6]
        );
        assert_eq!(done(Phase::Head, 20), 0);
    }
}
