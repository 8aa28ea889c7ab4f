//! `touchline train`: trains the modalities on a split dataset, one after the other.
//!
//! A run is a directory with a folder for each modality. `run.toml` describes model, material and settings; [`super::fit`] writes
//! the other files. Packs are built from runs.

pub mod device;
pub mod folds;
mod views;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use self::views::FreshViews;
use super::classes::{self, Samples};
use super::dataset::Dataset;
use super::dataset::split::Side;
use super::fit::{self, EpochRows, Fit, FitConfig, Observer, Outcome};
use super::inputs::Inputs;
use super::net::{Built, build};
use super::rows::{self, Recipe, Rows, WantedRow};
use super::rules::OnRule;
use touchline_compute::models::pack::Sampling;
use touchline_compute::models::{Architecture, LoadError, Tensors, read_weights, sha256_hex};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// File name of the description in the run directory of a modality.
pub const RUN: &str = "run.toml";

/// The blocks that step 2 trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfreeze {
    /// All blocks.
    All,
    /// This number of blocks at the end; 0 skips step 2.
    Last(usize),
}

/// Settings of a training of several modalities.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Directory of the run.
    pub out: PathBuf,
    /// The modalities to train, in order.
    pub modalities: Vec<Modality>,
    /// The network.
    pub architecture: Architecture,
    /// File with the first weights; `None` initialises all layers at random.
    pub init: Option<PathBuf>,
    /// Feature parameters.
    pub inputs: Inputs,
    /// The blocks that step 2 trains.
    pub unfreeze: Unfreeze,
    /// Number of random views of a still, and of a second of a recording.
    pub views: (u32, u32),
    /// Frames or pairs in a random view of a second.
    pub frames: u32,
    /// Settings of the training loop.
    pub fit: FitConfig,
    /// Where the networks compute.
    pub device: Device,
    /// Directory for cached rows.
    pub cache: PathBuf,
    /// Whether an interrupted run in `out` is continued.
    pub resume: bool,
}

/// Contents of `run.toml`: the training of one modality.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInfo {
    /// Version of the format, 1.
    pub format: u32,
    /// The modality.
    pub modality: Modality,
    /// The network.
    pub architecture: Architecture,
    /// Classes of the pack.
    pub classes: Vec<String>,
    /// The study's classes that the pack does not have, with the reason.
    pub left_out: BTreeMap<String, String>,
    /// Classes of this model, in the order of its outputs.
    pub outputs: Vec<String>,
    /// Fingerprint of the dataset.
    pub fingerprint: String,
    /// Hash of labels and split, from [`labelling`]; runs of earlier versions have none.
    #[serde(default)]
    pub labelling: Option<String>,
    /// SHA-256 of the first weights, or a sentence if all layers started at random.
    pub first_weights: String,
    /// Name of the first block that step 2 trains; `classifier` when it trains none.
    pub learns_from: String,
    /// Sampling of the dataset's seconds.
    pub sampling: Sampling,
    /// Feature parameters.
    pub inputs: Inputs,
    /// Settings of the training loop.
    pub fit: FitConfig,
    /// Number of random views of a still, and of a second of a recording.
    pub views: (u32, u32),
}

/// Trains the modalities of `plan`. A modality with data of fewer than two classes is skipped with a note. Returns the outcome of
/// each trained modality.
///
/// # Errors
/// [`Error::Data`] when the dataset or the first weights cannot be used, or no sample of a modality can be read;
/// [`Error::Output`] when a file cannot be written. Modalities trained before the error are kept.
pub fn train(dataset: &Dataset, plan: &Plan, progress: &mut dyn Observer) -> Result<Vec<(Modality, Outcome)>> {
    let mut outcomes = Vec::new();
    each_modality(dataset, plan, |job, modality| {
        if let Some(outcome) = job.run(modality, progress)? {
            outcomes.push((modality, outcome));
        }
        Ok(())
    })?;
    Ok(outcomes)
}

/// Calls `each` for each modality of a plan, one after the other.
fn each_modality(dataset: &Dataset, plan: &Plan, mut each: impl FnMut(&Job<'_>, Modality) -> Result<()>) -> Result<()> {
    let sides = dataset.sides()?;
    check_inputs(dataset, &plan.inputs)?;
    let (known, left_out) = classes::known(dataset)?;
    let (weights, hash) = match &plan.init {
        None => (Tensors::new(), "none: all layers start at random".to_owned()),
        Some(path) => {
            let broken = |e: LoadError| Error::data(path, e.to_string(), e.advice());
            let file = read_weights(path, &Device::Cpu).map_err(broken)?;
            (file.tensors, file.sha256)
        }
    };
    let job = Job { dataset, sides, plan, known: &known, left_out: &left_out, weights: &weights, hash: &hash };
    plan.modalities.iter().try_for_each(|modality| each(&job, *modality))
}

/// Returns a hash of the class and side of every item, 64 hexadecimal digits. It ensures that a model is not measured on material
/// that it was trained on.
pub fn labelling(dataset: &Dataset, sides: &[Side]) -> String {
    let lines = dataset.items.iter().zip(sides).map(|(item, side)| format!("{} {}\n", item.class, side.as_str()));
    sha256_hex(lines.collect::<String>().as_bytes())
}

fn check_inputs(dataset: &Dataset, inputs: &Inputs) -> Result<()> {
    let gap_ns = u64::from(inputs.flow.gap_ms) * 1_000_000;
    let meta = &dataset.meta;
    if inputs.audio.mel.sample_rate != meta.sample_rate || gap_ns != meta.plan.flow_gap_ns {
        let cause = "its sound or its frame pairs were cut with other parameters than the features need";
        return Err(Error::data(&dataset.dir, cause, "build the dataset again with the default options"));
    }
    Ok(())
}

/// Inputs of the trainings of all modalities.
struct Job<'a> {
    dataset: &'a Dataset,
    sides: &'a [Side],
    plan: &'a Plan,
    known: &'a ClassSet,
    left_out: &'a BTreeMap<String, String>,
    weights: &'a Tensors,
    /// SHA-256 of the first weights.
    hash: &'a str,
}

/// The training of a modality before its rows are computed.
struct PreparedModality {
    modality: Modality,
    /// Class names, in the order of the outputs.
    names: Vec<String>,
    built: Built,
    /// Number of frozen blocks.
    frozen: usize,
    config: FitConfig,
    /// Hash of everything that the training depends on.
    ground: String,
}

impl Job<'_> {
    /// Builds the network and checks the settings. Returns [`None`] when fewer than two classes have data.
    fn begin(&self, modality: Modality, progress: &mut dyn Observer) -> Result<Option<PreparedModality>> {
        let plan = self.plan;
        let ids = classes::outputs(self.dataset, self.known, modality);
        if ids.len() < 2 {
            progress.note(&format!("{modality}: fewer than two classes have data; it is not trained"));
            return Ok(None);
        }
        let names: Vec<String> = ids.iter().map(|id| self.known.name(*id).to_owned()).collect();
        let built = self.build(names.len())?;
        if let (Some(init), 0) = (&plan.init, built.taken) {
            let cause = format!("it contains no tensor of {}", plan.architecture);
            return Err(Error::data(init, cause, "use weights of that architecture, or set --arch to theirs"));
        }
        let (frozen, config) = self.freeze(&built, progress);
        if config.head.steps == 0 && config.tune.epochs == 0 {
            return Err(Error::Usage(
                "layers that start at random are trained in step 2, which has no epochs; set --epochs".into(),
            ));
        }
        let ground = self.ground(frozen, &config, &names)?;
        Ok(Some(PreparedModality { modality, names, built, frozen, config, ground }))
    }

    /// Builds the network with the first weights.
    fn build(&self, classes: usize) -> Result<Built> {
        let Plan { architecture, init, fit, device, .. } = self.plan;
        let mut built = build(*architecture, self.weights, classes, fit.seed, device)
            .map_err(|e| Error::data(init.as_deref().unwrap_or(Path::new("--init")), e.to_string(), e.advice()))?;
        if fit.mixed_precision {
            built.net = built.net.with_mixed_precision();
        }
        Ok(built)
    }

    /// Computes or loads the rows for training and validation.
    fn rows(&self, begun: &PreparedModality, progress: &mut dyn Observer) -> Result<Rows> {
        let modality = begun.modality;
        let wanted = classes::wanted(self.dataset, self.sides, &begun.names, modality, self.plan.views);
        let rows = self.make_rows(begun, &wanted, &self.recipe(begun), &self.plan.cache, progress)?;
        for (path, cause) in &rows.skipped {
            progress.note(&format!("skipped {}: {cause}", path.display()));
        }
        Ok(rows)
    }

    fn recipe(&self, begun: &PreparedModality) -> Recipe {
        Recipe {
            modality: begun.modality,
            inputs: self.plan.inputs.clone(),
            frozen: begun.frozen,
            pooled: true,
            // Also if step 2 has no epochs, so that the cached rows of a training with step 2 are reused.
            activations: begun.frozen < begun.built.net.blocks(),
            frames: self.plan.frames,
            seed: self.plan.fit.seed,
        }
    }

    fn make_rows(
        &self,
        begun: &PreparedModality,
        wanted: &[WantedRow],
        recipe: &Recipe,
        cache: &Path,
        progress: &mut dyn Observer,
    ) -> Result<Rows> {
        let Plan { architecture, fit, .. } = self.plan;
        let numbers = if fit.mixed_precision { " bf16" } else { "" };
        let network = format!("{architecture} {} {}{numbers}", self.hash, fit.seed);
        rows::make(self.dataset, wanted, (&begun.built.net, &network), recipe, cache, &mut |done, inputs| {
            progress.rows(begun.modality, done, wanted.len(), inputs);
        })
    }

    fn run(&self, modality: Modality, progress: &mut dyn Observer) -> Result<Option<Outcome>> {
        let plan = self.plan;
        let Some(begun) = self.begin(modality, progress)? else { return Ok(None) };
        let dir = plan.out.join(modality.to_string());
        fit::prepare(&dir, plan.resume, &begun.ground)?;
        let rows = self.rows(&begun, progress)?;
        let PreparedModality { names, built, frozen, config, ground, .. } = &begun;
        let side = |side| classes::samples(self.dataset, self.sides, names, &rows.keys, side);
        let (train, validation) = (side(Side::Train), side(Side::Validation));
        self.note_gaps(modality, names, &train, &validation, progress);
        let info = self.info(modality, names, built.net.block_name(*frozen), config);
        let text = toml::to_string(&info).map_err(|e| Error::Internal(format!("{RUN} cannot be written: {e}")))?;
        let fresh = FreshViews::new(self, &begun, self.sides, false);
        let rows = (&rows, &train, &validation);
        let fit = self.fit(&begun, built, fresh.as_ref(), rows, (&dir, ground));
        let outcome = fit::run(&fit, plan.resume, progress)?;
        if let Some(fresh) = fresh {
            fresh.remove_files();
        }
        std::fs::write(dir.join(RUN), text).map_err(|e| {
            Error::output(dir.display().to_string(), format!("{RUN} cannot be written: {e}"), "choose another -o")
        })?;
        Ok(Some(outcome))
    }

    /// Returns the number of frozen blocks, and the settings adjusted to it. Layers that start at random must be trained, and step 1 on
    /// their outputs would be useless.
    fn freeze(&self, built: &Built, progress: &mut dyn Observer) -> (usize, FitConfig) {
        let blocks = built.net.blocks();
        let mut config = self.plan.fit.clone();
        let mut frozen = match self.plan.unfreeze {
            Unfreeze::All => 0,
            Unfreeze::Last(n) => blocks - n.min(blocks),
        };
        if let Some(first) = built.net.first_block_with(&built.fresh) {
            let fresh = built.fresh.len();
            progress.note(&format!(
                "{fresh} tensors are not in the first weights and start at random, from {} on: step 1 is skipped, and all \
                 layers from there on are trained",
                built.net.block_name(first)
            ));
            frozen = frozen.min(first);
            config.head.steps = 0;
        }
        if frozen == blocks {
            config.tune.epochs = 0;
        }
        (frozen, config)
    }

    /// Returns a hash of everything that a run depends on. A run with another hash cannot be resumed.
    fn ground(&self, frozen: usize, config: &FitConfig, names: &[String]) -> Result<String> {
        // Settings that only affect when the run ends and what is saved may differ when it is resumed.
        let config =
            FitConfig { patience: 0, on_rule: OnRule::Warn, checkpoint_every: 0, tensors_every: 0, ..config.clone() };
        let settings = serde_json::to_string(&config)
            .map_err(|e| Error::Internal(format!("cannot serialise the settings: {e}")))?;
        let (plan, dataset) = (self.plan, self.dataset.fingerprint());
        let labels = labelling(self.dataset, self.sides);
        let views = (plan.views, plan.frames, frozen);
        let network = format!("{} {}", plan.architecture, self.hash);
        let text = format!("{dataset} {labels} {network} {:?} {views:?} {settings} {names:?}", plan.inputs);
        Ok(sha256_hex(text.as_bytes()))
    }

    /// Reports classes without training or validation samples on this split.
    fn note_gaps(
        &self,
        modality: Modality,
        names: &[String],
        train: &Samples,
        validation: &Samples,
        progress: &mut dyn Observer,
    ) {
        for (samples, side) in [(train, "training"), (validation, "validation")] {
            let without: Vec<&str> = names
                .iter()
                .zip(samples.counts(names.len()))
                .filter(|(_, n)| *n == 0)
                .map(|(name, _)| name.as_str())
                .collect();
            if !without.is_empty() {
                progress.note(&format!("{modality}: no {side} samples of {}", without.join(", ")));
            }
        }
    }

    fn info(&self, modality: Modality, names: &[String], learns_from: &str, fit: &FitConfig) -> RunInfo {
        let meta = &self.dataset.meta;
        RunInfo {
            format: 1,
            modality,
            architecture: self.plan.architecture,
            classes: self.known.names().to_vec(),
            left_out: self.left_out.clone(),
            outputs: names.to_vec(),
            fingerprint: self.dataset.fingerprint(),
            labelling: Some(labelling(self.dataset, self.sides)),
            first_weights: self.hash.to_owned(),
            learns_from: learns_from.to_owned(),
            sampling: Sampling {
                frame_height: meta.frame_height,
                rgb_frames: meta.plan.rgb_frames,
                flow_pairs: meta.plan.flow_pairs,
            },
            inputs: self.plan.inputs.clone(),
            fit: fit.clone(),
            views: self.plan.views,
        }
    }

    /// Gathers the inputs of the training loop.
    fn fit<'a>(
        &'a self,
        begun: &'a PreparedModality,
        built: &'a Built,
        fresh: Option<&'a FreshViews<'a>>,
        (rows, train, validation): (&'a Rows, &'a Samples, &'a Samples),
        (dir, ground): (&'a Path, &str),
    ) -> Fit<'a> {
        let plan = self.plan;
        let PreparedModality { modality, names, frozen, config, .. } = begun;
        let (modality, frozen) = (*modality, *frozen);
        let count = |frozen| built.net.parameters(frozen).iter().map(|(_, v, _)| v.elem_count() as u64).sum();
        let learning = if config.tune.epochs > 0 { frozen } else { built.net.blocks() };
        let settings = [
            ("first weights", self.hash.to_owned()),
            ("learns from", built.net.block_name(learning).to_owned()),
            ("optimizer", format!("{:?}", config.optimizer).to_lowercase()),
            (
                "step 1",
                match config.head.steps {
                    0 => "skipped".to_owned(),
                    steps => format!("at most {steps} steps of L-BFGS, penalty {}", config.head.penalty),
                },
            ),
            (
                "step 2",
                format!(
                    "{} epochs, batch {}, rate {}",
                    config.tune.epochs, config.tune.batch, config.tune.learning_rate
                ),
            ),
            ("device", device::name(&plan.device)),
            ("precision", if config.mixed_precision { "bf16, sums and parameters f32" } else { "f32" }.to_owned()),
            ("weight decay", config.weight_decay.to_string()),
            ("label smoothing", config.label_smoothing.to_string()),
            ("dropout", config.dropout.to_string()),
            ("mixup", config.mixup.to_string()),
            ("CutMix", config.cutmix.to_string()),
            ("decay of averaged weights", config.average.to_string()),
            ("random views", format!("{} of a still, {} of a second", plan.views.0, plan.views.1)),
            ("views of step 2", if config.tune.fresh_views { "new in each epoch" } else { "the same" }.to_owned()),
        ];
        Fit {
            modality,
            net: &built.net,
            frozen,
            rows,
            train,
            fresh: fresh.map(|fresh| fresh as &dyn EpochRows),
            validation,
            names,
            config,
            ground: ground.to_owned(),
            dir,
            parameters: (count(0) + built.net.fixed_parameters(), count(learning)),
            settings: settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }
}
