//! `touchline adapt`: a pack learns a channel from a few labelled minutes.
//!
//! Only the classifier of the RGB model changes. The correction to it is fitted on pooled features of the frozen network: those of
//! the channel's material, and the pack's replay features, which keep what the pack knows. The fit is multinomial logistic
//! regression with a penalty on the distance from the pack's classifier; its optimum is unique. Cross-validation measures the pack
//! before and after on held-out material of the channel and on held-out replay features, and chooses how much the channel counts.

mod folds;
pub mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

pub use folds::HeldOutBy;
use folds::{FOLDS, Origin};
use replay::Replay;

use crate::dataset::Dataset;
use crate::evaluate::temperature::temperature;
use crate::fit::classifier::{Material, fit};
use crate::inputs::Inputs;
use crate::net::{Built, build};
use crate::rows::{Rows, Wanted, make, teaches};
use touchline_compute::models::pack::{FusionEntry, MANIFEST, Manifest, Pack};
use touchline_compute::models::{LoadError, Tensors, read_weights_verified, save_f16};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality, OTHER};

/// Weight of a class's new samples as a multiple of its replay samples; cross-validation chooses one.
const SHARES: [f64; 3] = [0.3, 1.0, 3.0];

/// Penalty on half the squared distance from the pack's classifier: that of step 1 of training.
const PENALTY: f64 = 1e-2;

/// Steps of L-BFGS at most.
const STEPS: usize = 200;

/// Loss of accuracy on the replay features that is accepted.
const MAX_FORGOTTEN: f64 = 0.02;

/// What is adapted, and to what.
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
    /// What was held out as a whole.
    pub held_out_by: HeldOutBy,
    /// Share of its samples that are right.
    pub right: Change,
}

/// What adapting changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Per class, in the order of the adapted pack.
    pub classes: Vec<ClassChange>,
    /// Mean over the classes of the material.
    pub channel: Change,
    /// Mean over the classes of the replay features: what the pack knew before.
    pub replay: Change,
    /// The chosen weight of new samples, relative to replay samples.
    pub share: f64,
    /// Whether the pack was written.
    pub written: bool,
}

impl Report {
    /// Whether the adapted pack is worse on the channel, or has forgotten more of what the pack knew than is accepted.
    pub fn is_worse(&self) -> bool {
        self.channel.after < self.channel.before || self.replay.after < self.replay.before - MAX_FORGOTTEN
    }
}

/// Adapts a pack to the material of `dataset`, which was cut with the pack's sampling. `progress` receives the number of finished
/// items and the number of all.
///
/// # Errors
/// [`Error::Pack`] when the pack has no RGB model or no replay features; [`Error::Data`] when the material has an unknown class or
/// nothing usable, or when cross-validation finds the adapted pack worse; [`Error::Output`] when it cannot be written.
pub fn adapt(dataset: &Dataset, config: &AdaptConfig, progress: &mut dyn FnMut(usize, usize)) -> Result<Report> {
    let pack = Pack::open(&config.pack)?;
    let manifest = Manifest::read(&config.pack)?;
    let Some(section) = &manifest.rgb else {
        return Err(Error::pack(&config.pack, "it has no RGB model", "adapt a pack that classifies pictures"));
    };
    let replay = Replay::load(&config.pack, &section.sha256, section.classes.len())?;
    let outputs = outputs(dataset, &section.classes, config)?;
    let weights = config.pack.join(&section.weights);
    let broken = |e: LoadError| Error::pack(&config.pack, e.to_string(), e.advice());
    let tensors = read_weights_verified(&weights, &section.sha256, &Device::Cpu).map_err(broken)?;
    let built = build(section.architecture, &tensors, section.classes.len(), 0, &Device::Cpu).map_err(broken)?;
    let mut inputs = Inputs::standard(section.input.width, dataset.meta.sample_rate, flow_gap_ms(dataset));
    inputs.rgb = section.input.clone();
    let rows = channel_rows(dataset, &outputs, (&built, &section.sha256), &inputs, config, progress)?;
    let own = Classifier::read(&tensors, section.architecture.classifier(), outputs.len())?;
    let samples = Samples::new(dataset, &outputs, &rows, &replay, &own)?;
    let (share, scores) = samples.choose_share()?;
    let report = samples.report(dataset, &outputs, section.classes.len(), share, &scores);
    if report.is_worse() && !config.force {
        let Report { channel, replay, .. } = &report;
        let cause = format!(
            "adapting does not help: {:.2} → {:.2} of the channel's held-out samples are right, and {:.2} → {:.2} of the pack's own",
            channel.before, channel.after, replay.before, replay.after
        );
        let advice = "check the labels, give more recordings per class, or give --force to write the pack anyway";
        return Err(Error::data(&dataset.dir, cause, advice));
    }
    let correction = samples.fit(share, &|_| true)?;
    let temperature = temperature(&scores, &samples.labels);
    write(&pack, &manifest, config, &outputs, (&tensors, &own.plus(&correction)), temperature, &report)?;
    let mut kept = replay;
    kept.extend(&samples.new_as_replay());
    let written = Manifest::read(&config.out)?;
    kept.save(&config.out, &written.rgb.map_or_else(String::new, |s| s.sha256))?;
    Ok(Report { written: true, ..report })
}

fn flow_gap_ms(dataset: &Dataset) -> u32 {
    u32::try_from(dataset.meta.plan.flow_gap_ns / 1_000_000).unwrap_or(u32::MAX)
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

/// The features of the channel's material.
fn channel_rows(
    dataset: &Dataset,
    outputs: &[String],
    (built, hash): (&Built, &str),
    inputs: &Inputs,
    config: &AdaptConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    let items = dataset.items.iter().enumerate();
    let mut wanted: Vec<Wanted> = items
        .filter(|(_, item)| teaches(Modality::Rgb, item) && outputs.contains(&item.class))
        .map(|(i, _)| Wanted { item: i as u32, views: 0 })
        .collect();
    wanted.sort_by_key(|w| (!dataset.items[w.item as usize].kind.is_still(), w.item));
    let recipe = replay::recipe(inputs, built.net.blocks());
    let rows = make(dataset, &wanted, (&built.net, hash), &recipe, &config.cache, &mut |done, _| {
        progress(done, wanted.len());
    })?;
    if rows.is_empty() {
        let advice = "give recordings with pictures in one folder per class";
        return Err(Error::data(&dataset.dir, "it has no usable pictures", advice));
    }
    Ok(rows)
}

/// A linear classifier: `outputs` rows of weights, and biases.
#[derive(Clone, Debug)]
struct Classifier {
    outputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Classifier {
    /// The pack's classifier. Classes that it does not know have zero weights and the lowest bias.
    fn read(tensors: &Tensors, name: &str, outputs: usize) -> Result<Self> {
        let values = |part: &str| -> Result<Vec<f32>> {
            let name = format!("{name}.{part}");
            let tensor = tensors.get(&name).ok_or_else(|| Error::Internal(format!("the weights lack {name}")))?;
            Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let (mut weight, mut bias) = (values("weight")?, values("bias")?);
        let width = weight.len() / bias.len().max(1);
        let lowest = bias.iter().copied().fold(0.0, f32::min);
        bias.resize(outputs, lowest);
        weight.resize(outputs * width, 0.0);
        Ok(Self { outputs, weight, bias })
    }

    fn plus(&self, correction: &Classifier) -> Classifier {
        let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Classifier {
            outputs: self.outputs,
            weight: sum(&self.weight, &correction.weight),
            bias: sum(&self.bias, &correction.bias),
        }
    }

    /// Logits (N × outputs) of features (N × width).
    fn logits(&self, features: &[f32]) -> Result<Vec<f32>> {
        let width = self.weight.len() / self.outputs;
        let x = Tensor::from_slice(features, (features.len() / width, width), &Device::Cpu)?;
        let weight = Tensor::from_slice(&self.weight, (self.outputs, width), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.outputs, &Device::Cpu)?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(&bias)?.flatten_all()?.to_vec1()?)
    }
}

/// Replay features and the channel's, in this order.
struct Samples {
    width: usize,
    outputs: usize,
    features: Vec<f32>,
    labels: Vec<u32>,
    /// The fold that holds each out.
    folds: Vec<usize>,
    /// Number of replay samples.
    replayed: usize,
    /// Logits of the pack's classifier, N × outputs.
    before: Vec<f32>,
    /// Item and second of the channel's samples.
    places: Vec<(u32, u32)>,
    held_out_by: BTreeMap<u32, HeldOutBy>,
}

impl Samples {
    fn new(dataset: &Dataset, outputs: &[String], rows: &Rows, replay: &Replay, own: &Classifier) -> Result<Self> {
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let mut features = replay.features.clone();
        features.extend(rows.pooled(&all, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
        if replay.width != rows.width {
            return Err(Error::Internal("replay features of another width than the network's".into()));
        }
        let mut labels = replay.labels.clone();
        let mut origins = Vec::with_capacity(rows.len());
        for key in &rows.keys {
            let item = &dataset.items[key.item as usize];
            let label = outputs.iter().position(|name| *name == item.class).unwrap_or_default() as u32;
            labels.push(label);
            let (source, second, seconds) = (item.group.as_str(), key.second, item.seconds);
            origins.push(Origin { label, source, item: key.item, second, seconds });
        }
        let (of_channel, held_out_by) = folds::folds(&origins);
        let mut folds: Vec<usize> = replay.sources.iter().map(|source| *source as usize % FOLDS).collect();
        folds.extend(of_channel);
        let before = own.logits(&features)?;
        let places = rows.keys.iter().map(|key| (key.item, key.second)).collect();
        let (width, outputs, replayed) = (rows.width, outputs.len(), replay.len());
        Ok(Self { width, outputs, features, labels, folds, replayed, before, places, held_out_by })
    }

    /// The channel's samples weigh `share` times the replay samples of their class; a class without replay samples weighs as much
    /// as an average class does.
    fn weights(&self, share: f64, used: &[usize]) -> Vec<f32> {
        let mut counts = vec![[0f64; 2]; self.outputs];
        for i in used {
            counts[self.labels[*i] as usize][usize::from(*i >= self.replayed)] += 1.0;
        }
        let with_replay = counts.iter().filter(|[replayed, _]| *replayed > 0.0);
        let (n, sum) = with_replay.fold((0.0, 0.0), |(n, sum), [replayed, _]| (n + 1.0, sum + replayed));
        let mean: f64 = if n > 0.0 { sum / n } else { 1.0 };
        let weight = |i: &usize| {
            let [replayed, new] = counts[self.labels[*i] as usize];
            let weight = match (*i < self.replayed, replayed > 0.0) {
                (true, _) => mean / replayed,
                (false, true) => share * mean / new,
                (false, false) => mean / new,
            };
            weight as f32
        };
        used.iter().map(weight).collect()
    }

    /// The correction to the pack's classifier from the samples whose fold is used.
    fn fit(&self, share: f64, uses: &dyn Fn(usize) -> bool) -> Result<Classifier> {
        let used: Vec<usize> = (0..self.labels.len()).filter(|i| uses(self.folds[*i])).collect();
        let labels: Vec<u32> = used.iter().map(|i| self.labels[*i]).collect();
        let offsets: Vec<f32> =
            used.iter().flat_map(|i| &self.before[i * self.outputs..][..self.outputs]).copied().collect();
        let fitted = fit(
            &Material {
                features: &|chosen| {
                    let rows = chosen.iter().map(|n| used[*n as usize]);
                    let values: Vec<f32> =
                        rows.flat_map(|i| &self.features[i * self.width..][..self.width]).copied().collect();
                    Ok(Tensor::from_vec(values, (chosen.len(), self.width), &Device::Cpu)?)
                },
                labels: &labels,
                weights: &self.weights(share, &used),
                classes: self.outputs,
                width: self.width,
                smoothing: 0.1,
                penalty: PENALTY,
                offsets: &offsets,
            },
            STEPS,
            &mut |_| Ok(()),
        )?;
        Ok(Classifier { outputs: self.outputs, weight: fitted.weight, bias: fitted.bias })
    }

    /// Held-out logits with a share: each sample is scored by a classifier that has not learned from its fold.
    fn held_out(&self, share: f64) -> Result<Vec<Vec<f32>>> {
        let mut scores = vec![Vec::new(); self.labels.len()];
        for fold in 0..FOLDS {
            let held: Vec<usize> = (0..self.labels.len()).filter(|i| self.folds[*i] == fold).collect();
            if held.is_empty() {
                continue;
            }
            let correction = self.fit(share, &|of| of != fold)?;
            let features: Vec<f32> =
                held.iter().flat_map(|i| &self.features[i * self.width..][..self.width]).copied().collect();
            for (i, logits) in held.into_iter().zip(correction.logits(&features)?.chunks(self.outputs)) {
                let before = &self.before[i * self.outputs..][..self.outputs];
                scores[i] = logits.iter().zip(before).map(|(a, b)| a + b).collect();
            }
        }
        Ok(scores)
    }

    /// The share with the lowest held-out loss, and its scores. The channel and the replay features count alike.
    fn choose_share(&self) -> Result<(f64, Vec<Vec<f32>>)> {
        let mut best: Option<(f64, f64, Vec<Vec<f32>>)> = None;
        for share in SHARES {
            let scores = self.held_out(share)?;
            let losses: Vec<f64> = scores.iter().zip(&self.labels).map(|(s, l)| loss(s, *l)).collect();
            let loss = self.mean_over_classes(&losses, true) + self.mean_over_classes(&losses, false);
            if best.as_ref().is_none_or(|(least, _, _)| loss < *least) {
                best = Some((loss, share, scores));
            }
        }
        best.map(|(_, share, scores)| (share, scores)).ok_or_else(|| Error::Internal("there is no share".into()))
    }

    /// Mean over classes of the mean of `values`, of the channel's samples or of the replay samples.
    fn mean_over_classes(&self, values: &[f64], of_channel: bool) -> f64 {
        let mut sums = vec![(0.0, 0u32); self.outputs];
        for (i, value) in values.iter().enumerate().filter(|(i, _)| (*i >= self.replayed) == of_channel) {
            let (sum, n) = &mut sums[self.labels[i] as usize];
            *sum += value;
            *n += 1;
        }
        let means: Vec<f64> = sums.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / f64::from(*n)).collect();
        means.iter().sum::<f64>() / means.len().max(1) as f64
    }

    fn report(&self, dataset: &Dataset, names: &[String], known: usize, share: f64, after: &[Vec<f32>]) -> Report {
        let is_right = |scores: &[f32], label: u32| f64::from(u8::from(best(scores) == label));
        let before: Vec<f64> =
            self.before.chunks(self.outputs).zip(&self.labels).map(|(s, l)| is_right(s, *l)).collect();
        let after: Vec<f64> = after.iter().zip(&self.labels).map(|(s, l)| is_right(s, *l)).collect();
        let change = |of_channel| Change {
            before: self.mean_over_classes(&before, of_channel),
            after: self.mean_over_classes(&after, of_channel),
        };
        let class = |(label, by): (&u32, &HeldOutBy)| {
            let of: Vec<usize> = (self.replayed..self.labels.len()).filter(|i| self.labels[*i] == *label).collect();
            let mean = |values: &[f64]| of.iter().map(|i| values[*i]).sum::<f64>() / of.len().max(1) as f64;
            let places = of.iter().map(|i| self.places[i - self.replayed]);
            let seconds: BTreeSet<(u32, u32)> = places.clone().collect();
            let sources: BTreeSet<&str> = places.map(|(item, _)| dataset.items[item as usize].group.as_str()).collect();
            ClassChange {
                class: names[*label as usize].clone(),
                is_new: *label as usize >= known,
                seconds: seconds.len(),
                sources: sources.len(),
                held_out_by: *by,
                right: Change { before: mean(&before), after: mean(&after) },
            }
        };
        Report {
            classes: self.held_out_by.iter().map(class).collect(),
            channel: change(true),
            replay: change(false),
            share,
            written: false,
        }
    }

    /// The channel's samples, to be kept beside the pack's.
    fn new_as_replay(&self) -> Replay {
        let mut numbers = BTreeMap::new();
        let sources = self.places.iter().map(|(item, _)| {
            let next = numbers.len() as u32;
            *numbers.entry(*item).or_insert(next)
        });
        Replay {
            width: self.width,
            features: self.features[self.replayed * self.width..].to_vec(),
            labels: self.labels[self.replayed..].to_vec(),
            sources: sources.collect(),
        }
    }
}

/// Cross-entropy of one sample.
fn loss(scores: &[f32], label: u32) -> f64 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|s| f64::from(s - top).exp()).sum();
    sum.ln() - f64::from(scores[label as usize] - top)
}

fn best(scores: &[f32]) -> u32 {
    let largest = scores.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    largest.map_or(0, |(i, _)| i as u32)
}

/// Writes the adapted pack: `config.out` has all files of the pack, with the new classifier.
fn write(
    pack: &Pack,
    manifest: &Manifest,
    config: &AdaptConfig,
    outputs: &[String],
    (tensors, classifier): (&Tensors, &Classifier),
    temperature: f32,
    report: &Report,
) -> Result<()> {
    let cannot = |path: &Path, e: std::io::Error| {
        Error::output(path.display().to_string(), format!("cannot write the pack: {e}"), "choose another -o")
    };
    let mut adapted = manifest.clone();
    let Some(section) = &mut adapted.rgb else { return Ok(()) };
    std::fs::create_dir_all(&config.out).map_err(|e| cannot(&config.out, e))?;
    for entry in std::fs::read_dir(&pack.dir).map_err(|e| cannot(&pack.dir, e))? {
        let name = entry.map_err(|e| cannot(&pack.dir, e))?.file_name();
        let is_rewritten = name == MANIFEST || name == replay::FILE || *name == *section.weights;
        if !is_rewritten && pack.dir.join(&name).is_file() {
            let to = config.out.join(&name);
            std::fs::copy(pack.dir.join(&name), &to).map_err(|e| cannot(&to, e))?;
        }
    }
    let mut tensors = tensors.clone();
    let name = section.architecture.classifier();
    let width = classifier.weight.len() / classifier.outputs;
    let weight = Tensor::from_slice(&classifier.weight, (classifier.outputs, width), &Device::Cpu)?;
    let bias = Tensor::from_slice(&classifier.bias, classifier.outputs, &Device::Cpu)?;
    tensors.insert(format!("{name}.weight"), weight);
    tensors.insert(format!("{name}.bias"), bias);
    let path = config.out.join(&section.weights);
    let sha256 =
        save_f16(&tensors, &path).map_err(|e| Error::output(path.display().to_string(), e.to_string(), e.advice()))?;
    let hash = section.sha256[..8].to_owned();
    (section.sha256, section.temperature) = (sha256, temperature);
    section.classes = outputs.to_vec();
    for class in outputs.iter().filter(|class| !manifest.classes.contains(class)) {
        adapted.classes.push(class.clone());
        adapted.left_out.remove(class);
        let entry = FusionEntry { modality: Modality::Rgb, rgb: None, flow: None, audio: None };
        adapted.fusion.table.insert(class.clone(), entry);
    }
    if let Some(name) = &config.name {
        adapted.name.clone_from(name);
    }
    let seconds: usize = report.classes.iter().map(|c| c.seconds).sum();
    adapted.card.method = format!(
        "{} The classifier of the pictures was adapted from {} (weights with SHA-256 {hash}…) with {seconds} seconds and stills of {} \
         classes of a channel: {:.2} of held-out samples right before, {:.2} after; of the pack's own, {:.2} and {:.2}.",
        adapted.card.method,
        manifest.name,
        report.classes.len(),
        report.channel.before,
        report.channel.after,
        report.replay.before,
        report.replay.after,
    );
    adapted.card.limits =
        format!("The measured figures are those of the pack before it was adapted. {}", adapted.card.limits);
    adapted.write(&config.out)?;
    Pack::open(&config.out)?;
    Ok(())
}

#[cfg(test)]
mod tests;
