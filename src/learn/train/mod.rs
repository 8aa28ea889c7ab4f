//! `touchline train`: from a split dataset to a run, one modality after the other.
//!
//! A run is a directory with a folder for each modality: `run.toml` says what was trained on what, the rest is
//! [`super::fit`]'s. Packs are built from runs.

pub mod folds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::classes::{self, Samples};
use super::dataset::Dataset;
use super::dataset::split::Side;
use super::fit::{self, Fit, FitConfig, LOG, Observer, Outcome};
use super::inputs::Inputs;
use super::net::{Built, build};
use super::report::{self, RunLog};
use super::rows::{self, Recipe, Rows};
use super::rules::OnRule;
use touchline_compute::models::pack::Sampling;
use touchline_compute::models::{Architecture, LoadError, Tensors, read_weights, sha256_hex};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// What a modality's folder says about itself.
pub const RUN: &str = "run.toml";

/// The report on a run, beside the folders of its modalities.
pub const REPORT: &str = "report.html";

/// Which blocks learn in step 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfreeze {
    All,
    /// So many at the end; 0 leaves step 2 out.
    Last(usize),
}

/// What is to be trained, of what, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    pub out: PathBuf,
    pub modalities: Vec<Modality>,
    pub architecture: Architecture,
    /// First weights; without, everything starts at random.
    pub init: Option<PathBuf>,
    pub inputs: Inputs,
    pub unfreeze: Unfreeze,
    /// Random views of a still, and of a second of a recording.
    pub views: (u32, u32),
    /// Frames or pairs of a second that a random view takes.
    pub frames: u32,
    pub fit: FitConfig,
    pub cache: PathBuf,
    pub resume: bool,
}

/// `run.toml`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInfo {
    pub format: u32,
    pub modality: Modality,
    pub architecture: Architecture,
    /// Classes of the pack, and the study's classes that it does not know, with why.
    pub classes: Vec<String>,
    pub left_out: BTreeMap<String, String>,
    /// Classes of this model, in the order of its outputs.
    pub outputs: Vec<String>,
    /// Of the dataset.
    pub fingerprint: String,
    /// Of its labels and its split, as [`labelling`] gives it; runs of earlier versions have none.
    #[serde(default)]
    pub labelling: Option<String>,
    pub first_weights: String,
    /// The first block that learns in step 2; `classifier` when none does.
    pub learns_from: String,
    pub sampling: Sampling,
    pub inputs: Inputs,
    pub fit: FitConfig,
    pub views: (u32, u32),
}

/// What is heard besides steps and epochs.
pub trait Progress: Observer {
    /// Items whose rows are there, of so many, and model inputs computed so far.
    fn rows(&mut self, modality: Modality, done: usize, of: usize, inputs: usize);
}

/// Trains what the plan says; a modality for which fewer than two classes have data is left out, with a note.
///
/// # Errors
/// [`Error::Data`] when the dataset or the first weights do not do, or nothing of a modality can be read;
/// [`Error::Output`] when something cannot be written. What was trained before stays.
pub fn train(dataset: &Dataset, plan: &Plan, progress: &mut dyn Progress) -> Result<Vec<(Modality, Outcome)>> {
    let mut outcomes = Vec::new();
    each_modality(dataset, plan, |job, modality| {
        if let Some(outcome) = job.run(modality, progress)? {
            outcomes.push((modality, outcome));
        }
        Ok(())
    })?;
    Ok(outcomes)
}

/// Does something for each modality of a plan, one after the other.
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

/// Draws the report on all modalities that a run's directory holds.
///
/// # Errors
/// When a log is damaged or the report cannot be written.
pub fn write_report(out: &Path) -> Result<PathBuf> {
    let mut logs = Vec::new();
    for modality in Modality::ALL {
        let path = out.join(modality.to_string()).join(LOG);
        if path.is_file() {
            logs.push(RunLog::read(&path)?);
        }
    }
    let path = out.join(REPORT);
    let text = report::training(&logs)?;
    std::fs::write(&path, text)
        .map_err(|e| Error::output(path.display().to_string(), format!("cannot write: {e}"), "choose another -o"))?;
    Ok(path)
}

/// A hash of which class and which side every item has: figures on material that a model has learnt from would be worth
/// nothing. 64 hex digits.
pub fn labelling(dataset: &Dataset, sides: &[Side]) -> String {
    let lines = dataset.items.iter().zip(sides).map(|(item, side)| format!("{} {}\n", item.class, side.as_str()));
    sha256_hex(lines.collect::<String>().as_bytes())
}

fn check_inputs(dataset: &Dataset, inputs: &Inputs) -> Result<()> {
    let gap_ns = u64::from(inputs.flow.gap_ms) * 1_000_000;
    let meta = &dataset.meta;
    if inputs.audio.mel.sample_rate != meta.sample_rate || gap_ns != meta.plan.flow_gap_ns {
        let cause = "its sound or its pairs were cut otherwise than the features want";
        return Err(Error::data(&dataset.dir, cause, "build the dataset again with the default options"));
    }
    Ok(())
}

struct Job<'a> {
    dataset: &'a Dataset,
    sides: &'a [Side],
    plan: &'a Plan,
    known: &'a ClassSet,
    left_out: &'a BTreeMap<String, String>,
    weights: &'a Tensors,
    /// Of the first weights.
    hash: &'a str,
}

/// A modality's training before its rows are there.
struct Begun {
    modality: Modality,
    /// Of the outputs.
    names: Vec<String>,
    built: Built,
    /// Blocks that do not learn.
    frozen: usize,
    config: FitConfig,
    /// A hash of what it depends on.
    ground: String,
}

impl Job<'_> {
    /// [`None`] when there is nothing to tell apart.
    fn begin(&self, modality: Modality, progress: &mut dyn Progress) -> Result<Option<Begun>> {
        let plan = self.plan;
        let ids = classes::outputs(self.dataset, self.known, modality);
        if ids.len() < 2 {
            progress.note(&format!("{modality}: fewer than two classes have data; nothing is trained for it"));
            return Ok(None);
        }
        let names: Vec<String> = ids.iter().map(|id| self.known.name(*id).to_owned()).collect();
        let seed = plan.fit.seed;
        let built = build(plan.architecture, self.weights, names.len(), seed, &Device::Cpu)
            .map_err(|e| Error::data(plan.init.as_deref().unwrap_or(Path::new("--init")), e.to_string(), e.advice()))?;
        if let (Some(init), 0) = (&plan.init, built.taken) {
            let cause = format!("it holds no tensor of {}", plan.architecture);
            return Err(Error::data(init, cause, "give weights of that architecture, or the --arch they are of"));
        }
        let (frozen, config) = self.freeze(&built, progress);
        if config.head.steps == 0 && config.tune.epochs == 0 {
            return Err(Error::Usage(
                "layers that start at random learn in step 2, which has no epochs; give --epochs".into(),
            ));
        }
        let ground = self.ground(frozen, &config, &names)?;
        Ok(Some(Begun { modality, names, built, frozen, config, ground }))
    }

    /// What is learnt from and validated on.
    fn rows(&self, begun: &Begun, progress: &mut dyn Progress) -> Result<Rows> {
        let (plan, modality, seed) = (self.plan, begun.modality, self.plan.fit.seed);
        let recipe = Recipe {
            modality,
            inputs: plan.inputs.clone(),
            frozen: begun.frozen,
            // Also where step 2 has no epochs: rows that a training with step 2 has made are taken as they are.
            activations: begun.frozen < begun.built.net.blocks(),
            frames: plan.frames,
            seed,
        };
        let network = (&begun.built.net, format!("{} {} {seed}", plan.architecture, self.hash));
        let wanted = classes::wanted(self.dataset, self.sides, &begun.names, modality, plan.views);
        let network = (network.0, network.1.as_str());
        let rows = rows::make(self.dataset, &wanted, network, &recipe, &plan.cache, &mut |done, inputs| {
            progress.rows(modality, done, wanted.len(), inputs);
        })?;
        for (path, cause) in &rows.skipped {
            progress.note(&format!("skipped {}: {cause}", path.display()));
        }
        Ok(rows)
    }

    fn run(&self, modality: Modality, progress: &mut dyn Progress) -> Result<Option<Outcome>> {
        let plan = self.plan;
        let Some(begun) = self.begin(modality, progress)? else { return Ok(None) };
        let dir = plan.out.join(modality.to_string());
        fit::prepare(&dir, plan.resume, &begun.ground)?;
        let rows = self.rows(&begun, progress)?;
        let Begun { names, built, frozen, config, ground, .. } = &begun;
        let side = |side| classes::samples(self.dataset, self.sides, names, &rows.keys, side);
        let (train, validation) = (side(Side::Train), side(Side::Validation));
        self.say_gaps(modality, names, &train, &validation, progress);
        let info = self.info(modality, names, built.net.block_name(*frozen), config);
        let text = toml::to_string(&info).map_err(|e| Error::Internal(format!("{RUN} cannot be written: {e}")))?;
        let fit = self.fit(modality, built, *frozen, config, (&rows, &train, &validation), names, (&dir, ground));
        let outcome = fit::run(&fit, plan.resume, progress)?;
        std::fs::write(dir.join(RUN), text).map_err(|e| {
            Error::output(dir.display().to_string(), format!("{RUN} cannot be written: {e}"), "choose another -o")
        })?;
        Ok(Some(outcome))
    }

    /// The number of blocks that do not learn. Layers that start at random must, and step 1 on their output would be
    /// wasted.
    fn freeze(&self, built: &Built, progress: &mut dyn Progress) -> (usize, FitConfig) {
        let blocks = built.net.blocks();
        let mut config = self.plan.fit.clone();
        let mut frozen = match self.plan.unfreeze {
            Unfreeze::All => 0,
            Unfreeze::Last(n) => blocks - n.min(blocks),
        };
        if let Some(first) = built.net.first_block_with(&built.fresh) {
            let fresh = built.fresh.len();
            progress.note(&format!(
                "{fresh} tensors are not in the first weights and start at random, from {} on: step 1 is left out and all \
                 layers from there learn",
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

    /// A hash of what a run depends on: with another it cannot be gone on with.
    fn ground(&self, frozen: usize, config: &FitConfig, names: &[String]) -> Result<String> {
        // What only says when to stop and what to keep may be changed for a run that is taken up again.
        let config =
            FitConfig { patience: 0, on_rule: OnRule::Warn, checkpoint_every: 0, tensors_every: 0, ..config.clone() };
        let settings =
            serde_json::to_string(&config).map_err(|e| Error::Internal(format!("settings are no JSON: {e}")))?;
        let (plan, dataset) = (self.plan, self.dataset.fingerprint());
        let labels = labelling(self.dataset, self.sides);
        let views = (plan.views, plan.frames, frozen);
        let network = format!("{} {}", plan.architecture, self.hash);
        let text = format!("{dataset} {labels} {network} {:?} {views:?} {settings} {names:?}", plan.inputs);
        Ok(sha256_hex(text.as_bytes()))
    }

    /// Classes that cannot be learnt or measured on this split.
    fn say_gaps(
        &self,
        modality: Modality,
        names: &[String],
        train: &Samples,
        validation: &Samples,
        progress: &mut dyn Progress,
    ) {
        for (samples, what) in [(train, "training"), (validation, "validation")] {
            let without: Vec<&str> = names
                .iter()
                .zip(samples.counts(names.len()))
                .filter(|(_, n)| *n == 0)
                .map(|(name, _)| name.as_str())
                .collect();
            if !without.is_empty() {
                progress.note(&format!("{modality}: no {what} samples of {}", without.join(", ")));
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

    #[expect(clippy::too_many_arguments, reason = "it only gathers what the loop wants")]
    fn fit<'a>(
        &'a self,
        modality: Modality,
        built: &'a Built,
        frozen: usize,
        config: &'a FitConfig,
        (rows, train, validation): (&'a Rows, &'a Samples, &'a Samples),
        names: &'a [String],
        (dir, ground): (&'a Path, &str),
    ) -> Fit<'a> {
        let plan = self.plan;
        let count = |frozen| built.net.parameters(frozen).iter().map(|(_, v, _)| v.elem_count() as u64).sum();
        let learning = if config.tune.epochs > 0 { frozen } else { built.net.blocks() };
        let settings = [
            ("first weights", self.hash.to_owned()),
            ("learns from", built.net.block_name(learning).to_owned()),
            ("optimizer", format!("{:?}", config.optimizer).to_lowercase()),
            (
                "step 1",
                match config.head.steps {
                    0 => "left out".to_owned(),
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
            ("weight decay", config.weight_decay.to_string()),
            ("label smoothing", config.label_smoothing.to_string()),
            ("dropout", config.dropout.to_string()),
            ("mixup", config.mixup.to_string()),
            ("random views", format!("{} of a still, {} of a second", plan.views.0, plan.views.1)),
        ];
        Fit {
            modality,
            net: &built.net,
            frozen,
            rows,
            train,
            validation,
            names,
            config,
            ground: ground.to_owned(),
            dir,
            parameters: (count(0), count(learning)),
            settings: settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }
}
