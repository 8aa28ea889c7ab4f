//! Imports a foundation encoder as the picture model of a pack: CLIP, SigLIP or MobileCLIP with a classifier made of text prompts, or DINOv2
//! with the classifier in its file or an empty one.
//!
//! The file is that of `transformers`: `model.safetensors`, with `config.json` beside it for the settings that the tensors do not show. That of
//! MobileCLIP is OpenCLIP's.

mod mobile_clip;
mod prompts;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::encoder::{self, Gelu};
use super::import::{Import, Imported};
use super::pack::{Manifest, Unknown};
use super::zero_shot::{PromptClassifier, TextReading, TextTower};
use super::{Architecture, LoadError, Network, Tensors};
use crate::features::cpu::axis::cubic;
use crate::features::params::{Filter, Fit, PictureParams};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

pub use prompts::Prompts;

/// Side of the pictures that DINOv2 is used with, pixels. Its position embeddings are resampled to it.
const DINO_SIDE: usize = 224;

/// An import of an encoder to run.
#[derive(Clone, Debug)]
pub struct Foundation {
    /// [`Architecture::ClipVit`], [`Architecture::SiglipVit`], [`Architecture::MobileClip`] or [`Architecture::DinoV2`].
    pub architecture: Architecture,
    /// The state dict of the whole model.
    pub file: PathBuf,
    /// With a text tower: its `tokenizer.json`. `None`: the one beside `file`.
    pub tokenizer: Option<PathBuf>,
    /// With a text tower: prompts by class, `{class}` standing for its name. Classes without an entry have the prompts that are built in.
    pub prompts: Prompts,
    /// Classes, in order.
    pub classes: Vec<String>,
    /// DINOv2 and MobileCLIP: an empty classifier for the classes instead of the one in the file or of prompts.
    pub new_classifier: bool,
    /// Directory of the pack to write; it must not hold a pack yet.
    pub out: PathBuf,
}

/// The part of `config.json` that is needed. A model of one tower has it at the top.
#[derive(Debug, Default, Deserialize)]
struct Config {
    text_config: Option<Tower>,
    vision_config: Option<Tower>,
    #[serde(flatten)]
    own: Tower,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Tower {
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
}

impl Tower {
    /// The activation: `default` if the file does not name one.
    fn gelu(&self, default: Gelu) -> std::result::Result<Gelu, String> {
        match (self.hidden_act.as_deref(), default) {
            (None, default) => Ok(default),
            (Some("gelu_pytorch_tanh"), Gelu::Tanh) => Ok(Gelu::Tanh),
            (Some("quick_gelu"), Gelu::Quick) => Ok(Gelu::Quick),
            (Some("gelu"), Gelu::Quick) => Ok(Gelu::Exact),
            (Some(other), _) => {
                Err(format!("the activation {other:?} in config.json is not one that such a model has"))
            }
        }
    }
}

/// What an import makes of a file.
struct Made {
    /// The tensors of the pack.
    tensors: Tensors,
    /// Where the classifier is from.
    said: String,
    input: PictureParams,
    counters: usize,
    unknown: Vec<String>,
}

impl Foundation {
    /// Checks the weights and writes the pack, its manifest last.
    ///
    /// # Errors
    /// [`Error::Data`] when a file is not of such a model, [`Error::Usage`] when classes or prompts do not fit,
    /// [`Error::Output`] when the pack cannot be written.
    pub fn run(&self) -> Result<Imported> {
        let classes = ClassSet::new(self.classes.clone()).map_err(|e| Error::Usage(format!("--classes: {e}")))?;
        if let Some(name) = self.prompts.keys().find(|name| classes.id(name).is_none()) {
            return Err(Error::Usage(format!("--prompts names {name:?}, which is not in --classes")));
        }
        let import = Import {
            file: self.file.clone(),
            architecture: self.architecture,
            modality: Modality::Rgb,
            out: self.out.clone(),
            classes: Some(self.classes.clone()),
            onto: None,
        };
        let state = import.read()?;
        let Made { tensors, said, input, counters, mut unknown } = match self.architecture {
            Architecture::MobileClip => self.mobile_clip(&state.tensors, &classes)?,
            _ => self.of_transformers(&state.tensors, &classes)?,
        };
        let manifest = import.write(&tensors, classes, &state.sha256, None, |manifest| {
            if let Some(section) = &mut manifest.rgb {
                section.input = input;
            }
            manifest.card.method = format!("{}; {said}", manifest.card.method);
            if self.new_classifier {
                leave_unknown(manifest);
            }
        })?;
        unknown.sort();
        Ok(Imported { manifest, taken: tensors.len(), counters, unknown })
    }

    /// CLIP, SigLIP or DINOv2.
    fn of_transformers(&self, state: &Tensors, classes: &ClassSet) -> Result<Made> {
        let config = self.config()?;
        let (tensors, said) = match self.architecture {
            Architecture::ClipVit | Architecture::SiglipVit => self.by_prompts(state, classes, &config)?,
            _ => self.dino(state, classes, &config)?,
        };
        let input = self.input(&tensors, classes.len())?;
        let used = |name: &str| tensors.contains_key(name.strip_prefix("dinov2.").unwrap_or(name));
        let unknown = state.keys().filter(|name| !used(name) && !is_known(name)).cloned().collect();
        Ok(Made { tensors, said, input, counters: 0, unknown })
    }

    /// `config.json` beside the weights. Without it the settings of the published models apply.
    fn config(&self) -> Result<Config> {
        let path = self.file.with_file_name("config.json");
        if !path.is_file() {
            tracing::info!("{}: not there; heads of 64 values and the usual activation are assumed", path.display());
            return Ok(Config::default());
        }
        let advice = "give the config.json of the model that the weights are of";
        let text = std::fs::read_to_string(&path).map_err(|e| Error::data(&path, e.to_string(), advice))?;
        serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string(), advice))
    }

    /// CLIP or SigLIP.
    fn by_prompts(&self, state: &Tensors, classes: &ClassSet, config: &Config) -> Result<(Tensors, String)> {
        if self.new_classifier {
            let cause = "--new-classifier is for DINOv2, MobileCLIP and timm";
            return Err(Error::Usage(format!("{cause}; prompts make the classifier of this one")));
        }
        if !TextTower::is_in(state) {
            let cause = "it has no text tower, so no classifier can be made of prompts";
            let advice = "bring the model.safetensors of the whole model, with both towers";
            return Err(Error::data(&self.file, cause, advice));
        }
        let is_siglip = self.architecture == Architecture::SiglipVit;
        let (default, what) = if is_siglip { (Gelu::Tanh, "SigLIP") } else { (Gelu::Quick, "CLIP") };
        let of = |tower: &Option<Tower>| tower.clone().unwrap_or_default();
        let (text, vision) = (of(&config.text_config), of(&config.vision_config));
        let advice = format!("give a {what} model with the names of transformers");
        let failed = |cause: String| Error::data(&self.file, cause, advice.as_str());
        let gelu = text.gelu(default).map_err(failed)?;
        let reading = if is_siglip { TextReading::Siglip } else { TextReading::Causal };
        let tower = TextTower::load(self.architecture, state, text.num_attention_heads, (gelu, reading))
            .map_err(|e| failed(e.to_string()))?;
        let (made, said) = self.classifier(&tower, classes)?;
        let parts: &[&str] = if is_siglip { &["vision_model."] } else { &["vision_model.", "visual_projection."] };
        let mut tensors = picked(state, "", parts);
        settings(&mut tensors, &vision, vision.gelu(default).map_err(failed)?)?;
        put_head(&mut tensors, made.weight, Tensor::full(made.bias as f32, classes.len(), &Device::Cpu)?);
        Ok((tensors, said))
    }

    /// The classifier that a text tower makes of the prompts, and how the card describes it.
    fn classifier(&self, tower: &TextTower, classes: &ClassSet) -> Result<(PromptClassifier, String)> {
        let tokenizer = self.tokenizer.clone().unwrap_or_else(|| self.file.with_file_name("tokenizer.json"));
        if !tokenizer.is_file() {
            let cause = format!("there is no {}, which the text tower needs", tokenizer.display());
            return Err(Error::Usage(format!("{cause}; give the model's tokenizer.json with --tokenizer")));
        }
        let prompts: Vec<(&str, Vec<String>)> =
            classes.names().iter().map(|class| (class.as_str(), prompts::prompts_of(&self.prompts, class))).collect();
        let count: usize = prompts.iter().map(|(_, prompts)| prompts.len()).sum();
        Ok((tower.classifier(&tokenizer, &prompts)?, format!("classifier from {count} text prompts")))
    }

    fn dino(&self, state: &Tensors, classes: &ClassSet, config: &Config) -> Result<(Tensors, String)> {
        if !self.prompts.is_empty() || self.tokenizer.is_some() {
            let cause =
                "DINOv2 has no text tower; --prompts and --tokenizer are for --from clip, siglip and mobileclip";
            return Err(Error::Usage(cause.into()));
        }
        let prefix = if state.contains_key("dinov2.embeddings.cls_token") { "dinov2." } else { "" };
        let mut tensors = picked(state, prefix, &["embeddings.", "encoder.", "layernorm."]);
        tensors.remove("embeddings.mask_token");
        if self.new_classifier {
            let width = tensors.get("layernorm.weight").map_or(0, Tensor::elem_count);
            empty_head(&mut tensors, encoder::CLASSIFIER, classes.len(), 2 * width)?;
        } else {
            let (weight, bias) = head(&self.file, state, encoder::CLASSIFIER, classes, NO_HEAD)?;
            put_head(&mut tensors, weight, bias);
        }
        settings(&mut tensors, &config.own, Gelu::Exact)?;
        let positions = "embeddings.position_embeddings";
        if let (Some(&[1, _, _]), Some(&[_, _, _, patch])) = (
            tensors.get(positions).map(Tensor::dims),
            tensors.get("embeddings.patch_embeddings.projection.weight").map(Tensor::dims),
        ) {
            let resampled = resample(&tensors[positions].to_dtype(DType::F32)?, DINO_SIDE / patch)?;
            tensors.insert(positions.into(), resampled);
        }
        Ok((tensors, if self.new_classifier { NEW_CLASSIFIER } else { "with the classifier of its file" }.into()))
    }

    /// The input of the encoder, as its preprocessing makes it.
    fn input(&self, tensors: &Tensors, classes: usize) -> Result<PictureParams> {
        let failed = |e: LoadError| {
            let advice = "give the model.safetensors of the whole model, with the names of transformers";
            Error::data(&self.file, e.to_string(), advice)
        };
        let network = Network::load(self.architecture, tensors, Some(classes)).map_err(failed)?;
        let (mean, std) = self.architecture.normalisation();
        let side = network.side().unwrap_or(DINO_SIDE);
        // SigLIP was trained on whole pictures, squashed to a square.
        let fit = if self.architecture == Architecture::SiglipVit { Fit::Stretch } else { Fit::Crop };
        Ok(PictureParams { width: side, height: side, fit, filter: Filter::Bicubic, mean, std })
    }
}

/// Advice for an encoder without a classifier for the classes.
pub(super) const NO_HEAD: &str = "give --new-classifier, and then fit the classifier to labelled recordings with `touchline adapt`; or bring a model with a classifier";

/// A limit of packs with an empty classifier, in the card.
pub const EMPTY_CLASSIFIER: &str =
    "The classifier is empty, so every answer is unknown until `touchline adapt` has fitted it.";

/// How the card describes an empty classifier.
pub(super) const NEW_CLASSIFIER: &str = "with an empty classifier";

/// The probability below which a pack with an empty classifier answers unknown: more than it ever gives a class.
const NEVER_REACHED: f32 = 0.99;

/// Makes every answer of a pack with an empty classifier unknown.
pub(super) fn leave_unknown(manifest: &mut Manifest) {
    manifest.unknown = Some(Unknown { below: NEVER_REACHED, precision: 0.0, coverage: 0.0 });
    manifest.card.limits = format!("{} {EMPTY_CLASSIFIER}", manifest.card.limits);
}

/// Puts a classifier of zeros in the place of any other.
pub(super) fn empty_head(tensors: &mut Tensors, layer: &str, classes: usize, width: usize) -> Result<()> {
    tensors.insert(format!("{layer}.weight"), Tensor::zeros((classes, width), DType::F32, &Device::Cpu)?);
    tensors.insert(format!("{layer}.bias"), Tensor::zeros(classes, DType::F32, &Device::Cpu)?);
    Ok(())
}

/// The classifier in a file: weight and bias. `advice` is for a file without one for these classes.
///
/// # Errors
/// [`Error::Data`] without one, [`Error::Usage`] when the classes do not fit it.
pub(super) fn head(
    file: &Path,
    state: &Tensors,
    layer: &str,
    classes: &ClassSet,
    advice: &str,
) -> Result<(Tensor, Tensor)> {
    let get = |part: &str| state.get(&format!("{layer}.{part}")).cloned();
    let (Some(weight), Some(bias)) = (get("weight"), get("bias")) else {
        return Err(Error::data(file, "it has no classifier", advice));
    };
    let (rows, named) = (weight.dims().first().copied().unwrap_or(0), classes.len());
    if rows != named {
        let said = format!("the classifier has {rows} outputs and --classes names {named}");
        return Err(Error::Usage(format!("{said}; give one name per output, in order. For other classes: {advice}")));
    }
    Ok((weight, bias))
}

/// Whether a tensor has no use in a pack but belongs to such a model.
fn is_known(name: &str) -> bool {
    let parts = ["text_model.", "text_projection.", "logit_scale", "logit_bias"];
    parts.iter().any(|part| name.starts_with(part)) || name.ends_with("mask_token") || name.ends_with("position_ids")
}

/// The tensors below one of `parts`, without `prefix`.
fn picked(state: &Tensors, prefix: &str, parts: &[&str]) -> Tensors {
    let named = state.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
    named
        .filter(|(name, _)| parts.iter().any(|part| name.starts_with(part)) && !is_known(name))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect()
}

fn put_head(tensors: &mut Tensors, weight: Tensor, bias: Tensor) {
    tensors.insert(format!("{}.weight", encoder::CLASSIFIER), weight);
    tensors.insert(format!("{}.bias", encoder::CLASSIFIER), bias);
}

/// Adds the settings that the tensors do not show.
fn settings(tensors: &mut Tensors, tower: &Tower, gelu: Gelu) -> Result<()> {
    if let Some(heads) = tower.num_attention_heads {
        tensors.insert(encoder::HEADS.into(), Tensor::new(&[heads as f32], &Device::Cpu)?);
    }
    if gelu != Gelu::Tanh {
        let quick = if gelu == Gelu::Quick { 1f32 } else { 0.0 };
        tensors.insert(encoder::QUICK_GELU.into(), Tensor::new(&[quick], &Device::Cpu)?);
    }
    Ok(())
}

/// Position embeddings (1, 1 + n², width) for a grid of `side` × `side` patches, by PyTorch's bicubic interpolation (a = −0.75, ends
/// repeated, nothing widened).
fn resample(positions: &Tensor, side: usize) -> Result<Tensor> {
    let (_, tokens, width) = positions.dims3()?;
    let had = (tokens - 1).isqrt();
    if had == side || side == 0 || had * had + 1 != tokens {
        return Ok(positions.clone());
    }
    let mut weights = vec![0f32; side * had];
    for (i, row) in weights.chunks_exact_mut(had).enumerate() {
        let at = (i as f64 + 0.5) * had as f64 / side as f64 - 0.5;
        for tap in -1..=2 {
            let sample = at.floor() + f64::from(tap);
            row[sample.clamp(0.0, (had - 1) as f64) as usize] += cubic((at - sample).abs(), -0.75) as f32;
        }
    }
    let weights = Tensor::from_vec(weights, (side, had), &Device::Cpu)?;
    let grid = positions.narrow(1, 1, had * had)?.reshape((had, had * width))?;
    let rows = weights.matmul(&grid)?.reshape((side, had, width))?;
    let columns = weights.unsqueeze(0)?.broadcast_matmul(&rows.contiguous()?)?;
    let patches = columns.reshape((1, side * side, width))?;
    Ok(Tensor::cat(&[&positions.narrow(1, 0, 1)?.contiguous()?, &patches], 1)?)
}
