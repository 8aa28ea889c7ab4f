//! `touchline adapt`: adapts a pack to a channel from a few minutes of labelled recordings.
//!
//! Only the classifier of the RGB model changes. The correction to it is fitted on pooled features of the frozen network: those of
//! the channel's material, and the pack's replay features, which keep what the pack knows. The fit is multinomial logistic
//! regression with a penalty on the distance from the pack's classifier; its optimum is unique. Cross-validation measures the pack
//! before and after on held-out material of the channel and on held-out replay features, and chooses how much the channel counts.
//!
//! An imported encoder has no replay features. It learns from material of all its classes, and is then like any other pack.

mod folds;
pub mod replay;
mod samples;
mod write;

use std::path::PathBuf;

use candle_core::Device;
use serde::Serialize;

pub use folds::HeldOutBy;
use replay::{Frozen, Replay};
use samples::{AdaptSamples, Classifier, PENALTY};
use write::write;

use crate::dataset::{Dataset, Item};
use crate::evaluate::temperature::temperature;
use crate::inputs::Inputs;
use crate::net::build;
use crate::rows::{Rows, teaches};
use touchline_compute::models::pack::{Manifest, Pack};
use touchline_compute::models::{LoadError, read_weights_verified};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality, OTHER};

/// Loss of accuracy on the replay features that is accepted.
const MAX_FORGOTTEN: f64 = 0.02;

/// The pack to adapt, and its new material.
#[derive(Clone, Debug)]
pub struct AdaptConfig {
    /// The pack that learns.
    pub pack: PathBuf,
    /// Directory of the adapted pack.
    pub out: PathBuf,
    /// Name of the adapted pack; the pack's own when `None`.
    pub name: Option<String>,
    /// Classes that the pack does not know and that the material may have.
    pub new_classes: Vec<String>,
    /// Directory for features; a repeated run finds them there.
    pub cache: PathBuf,
    /// Writes the pack even if cross-validation finds it worse.
    pub force: bool,
}

/// Shares of samples that are classified correctly before and after, from cross-validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// With the pack's classifier.
    pub before: f64,
    /// With classifiers that have not learned from the samples.
    pub after: f64,
}

/// The figures of one class of the material.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassChange {
    /// Name of the class.
    pub class: String,
    /// Whether the pack did not know it.
    pub is_new: bool,
    /// Seconds of recordings, and stills.
    pub seconds: usize,
    /// Number of sources.
    pub sources: usize,
    /// The unit that was held out as a whole.
    pub held_out_by: HeldOutBy,
    /// Share of its samples that are right.
    pub right: Change,
}

/// The effect of adapting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdaptReport {
    /// Per class, in the order of the adapted pack.
    pub classes: Vec<ClassChange>,
    /// Mean over the classes of the material.
    pub channel: Change,
    /// Mean over the classes of the replay features, which are from the pack's training material. `None`: an imported encoder, which
    /// has no such features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Change>,
    /// The chosen weight of new samples, relative to replay samples.
    pub share: f64,
    /// Whether the pack was written.
    pub written: bool,
}

impl AdaptReport {
    /// Whether the adapted pack is worse on the channel, or has forgotten more of what the pack knew than is accepted.
    pub fn is_worse(&self) -> bool {
        let has_forgotten = |replay: &Change| replay.after < replay.before - MAX_FORGOTTEN;
        self.channel.after < self.channel.before || self.replay.as_ref().is_some_and(has_forgotten)
    }
}

/// Adapts a pack to the material of `dataset`, which was cut with the pack's sampling. `progress` receives the number of finished
/// items and the number of all.
///
/// # Errors
/// [`Error::Pack`] when the pack has no RGB model or no replay features; [`Error::Data`] when the material has an unknown class or
/// nothing usable, or when cross-validation finds the adapted pack worse; [`Error::Output`] when it cannot be written.
pub fn adapt(dataset: &Dataset, config: &AdaptConfig, progress: &mut dyn FnMut(usize, usize)) -> Result<AdaptReport> {
    let pack = Pack::open(&config.pack)?;
    let manifest = Manifest::read(&config.pack)?;
    let Some(section) = &manifest.rgb else {
        return Err(Error::pack(&config.pack, "it has no RGB model", "adapt a pack that classifies pictures"));
    };
    let outputs = outputs(dataset, &section.classes, config)?;
    let weights = config.pack.join(&section.weights);
    let broken = |e: LoadError| Error::pack(&config.pack, e.to_string(), e.advice());
    let tensors = read_weights_verified(&weights, &section.sha256, &Device::Cpu).map_err(broken)?;
    let built = build(section.architecture, &tensors, section.classes.len(), 0, &Device::Cpu).map_err(broken)?;
    let frozen = Frozen::of(&built);
    let replay = match built.net.encoder() {
        Some(encoder) if !config.pack.join(replay::FILE).is_file() => {
            needs_all_classes(dataset, &outputs)?;
            Replay::none(encoder.feature_width())
        }
        _ => Replay::load(&config.pack, &section.sha256, section.classes.len())?,
    };
    let mut inputs = Inputs::standard(section.input.width, dataset.meta.sample_rate, dataset.meta.flow_gap_ms());
    inputs.rgb = section.input.clone();
    let rows = channel_rows(dataset, &outputs, (frozen, &section.sha256), &inputs, config, progress)?;
    let own = Classifier::read(&tensors, section.architecture.classifier(), outputs.len())?;
    let mut samples = AdaptSamples::new(dataset, &outputs, &rows, &replay, &own)?;
    if section.architecture.is_encoder() {
        // The penalty is made for features of about unit size. Those of CLIP and SigLIP are vectors of length 1.
        samples.penalty = PENALTY * samples.mean_square();
    }
    let (share, scores) = samples.choose_share()?;
    let report = samples.report(dataset, &outputs, section.classes.len(), share, &scores);
    if report.is_worse() && !config.force {
        let AdaptReport { channel, replay, .. } = &report;
        let (before, after) = (channel.before, channel.after);
        let mut cause =
            format!("adapting does not help: {before:.2} → {after:.2} of the channel's held-out samples are right");
        if let Some(Change { before, after }) = replay {
            cause.push_str(&format!(", and {before:.2} → {after:.2} of the pack's own"));
        }
        let advice = "check the labels, give more recordings per class, or give --force to write the pack anyway";
        return Err(Error::data(&dataset.dir, cause, advice));
    }
    let correction = samples.fit(share, &|_| true)?;
    let temperature = temperature(&scores, &samples.labels);
    let sha256 = write(&pack, &manifest, config, &outputs, (&tensors, &own.plus(&correction)), temperature, &report)?;
    let mut kept = replay;
    kept.extend(&samples.new_as_replay());
    kept.save(&config.out, &sha256)?;
    Ok(AdaptReport { written: true, ..report })
}

/// The outputs of the adapted model: the pack's, then the new classes.
fn outputs(dataset: &Dataset, known: &[String], config: &AdaptConfig) -> Result<Vec<String>> {
    let mut outputs = known.to_vec();
    for class in &config.new_classes {
        if known.contains(class) {
            return Err(Error::Usage(format!("--new-class {class}: the pack knows this class already")));
        }
        if !dataset.class_names().contains(class) {
            return Err(Error::Usage(format!("--new-class {class}: the material has nothing of this class")));
        }
        outputs.push(class.clone());
    }
    for class in dataset.class_names() {
        if outputs.contains(&class) {
            continue;
        }
        let near = outputs.iter().min_by_key(|name| strsim::damerau_levenshtein(name, &class));
        let near = near.filter(|name| strsim::damerau_levenshtein(name, &class) <= 2);
        let cause = format!("its class {class:?} is not one of the pack");
        let advice = match near {
            Some(near) => format!("did you mean {near:?}? Otherwise give --new-class {class}"),
            None => format!("give --new-class {class} to add it, or label the material {OTHER:?}"),
        };
        return Err(Error::data(&dataset.dir, cause, advice));
    }
    ClassSet::new(outputs.clone()).map_err(|e| Error::data(&dataset.dir, e, "rename the class"))?;
    Ok(outputs)
}

/// Without replay features nothing keeps what the pack knows of a class without material, so there must be none.
fn needs_all_classes(dataset: &Dataset, outputs: &[String]) -> Result<()> {
    let is_usable = |item: &&Item| teaches(Modality::Rgb, item);
    let has = |class: &String| dataset.items.iter().filter(is_usable).any(|item| item.class == *class);
    let Some(class) = outputs.iter().find(|class| !has(class)) else { return Ok(()) };
    let cause = format!("it has nothing of {class:?}, and an imported encoder can only learn all its classes at once");
    let advice = "add material of this class, or import the encoder with --classes that the material has";
    Err(Error::data(&dataset.dir, cause, advice))
}

/// The features of the channel's material.
fn channel_rows(
    dataset: &Dataset,
    outputs: &[String],
    (frozen, hash): (Frozen<'_>, &str),
    inputs: &Inputs,
    config: &AdaptConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    let is_usable = |item: &Item| teaches(Modality::Rgb, item) && outputs.contains(&item.class);
    let items = dataset.items.iter().enumerate().filter(|(_, item)| is_usable(item)).map(|(i, _)| i);
    let rows = replay::whole_network_rows(dataset, items, (frozen, hash), inputs, &config.cache, progress)?;
    if rows.is_empty() {
        let advice = "give recordings with pictures in one folder per class";
        return Err(Error::data(&dataset.dir, "it has no usable pictures", advice));
    }
    Ok(rows)
}
