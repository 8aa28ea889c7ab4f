//! Imports a network of the Python package `timm` as the picture model of a pack.
//!
//! The file is `model.safetensors`, with `config.json` beside it: the architecture and the preprocessing are in no tensor.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::foundation::{NEW_CLASSIFIER, NO_HEAD, empty_head, head, leave_unknown};
use super::import::{Import, Imported};
use super::{Architecture, Network, Tensors, encoder};
use crate::features::params::{Filter, Fit, PictureParams};
use crate::nn::Padding;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// The networks that can be imported, for people.
pub const SUPPORTED: &str = "mobilenetv2_100, resnet50, tf_efficientnet_lite0, tf_efficientnet_lite2, and \
    vit_tiny, vit_small, vit_base and vit_large with a class token";

/// Sizes of vision transformers whose heads have [`encoder::HEAD_WIDTH`] values.
const SIZES: [&str; 4] = ["vit_tiny_patch", "vit_small_patch", "vit_base_patch", "vit_large_patch"];

/// Advice for a network that is no encoder and has no classifier for the classes.
const NO_CLASSES: &str = "`touchline train --init` gives such a network other classes";

/// Networks halve a side five times. It is even each time if it is a multiple of this.
const EVEN: usize = 32;

/// An import of a network of `timm` to run.
#[derive(Clone, Debug)]
pub struct Timm {
    /// The state dict, with its `config.json` beside it.
    pub file: PathBuf,
    /// Classes in the order of the network's outputs.
    pub classes: Vec<String>,
    /// Gives a vision transformer an empty classifier for the classes instead of the one in its file.
    pub new_classifier: bool,
    /// Directory of the pack to write; it must not hold a pack yet.
    pub out: PathBuf,
}

/// The part of `config.json` that is needed.
#[derive(Debug, Deserialize)]
struct Config {
    architecture: String,
    pretrained_cfg: Preprocessing,
}

#[derive(Debug, Deserialize)]
struct Preprocessing {
    mean: [f32; 3],
    std: [f32; 3],
    /// Channels, height, width.
    input_size: [usize; 3],
    interpolation: String,
}

impl Timm {
    /// Checks the weights and writes the pack, its manifest last.
    ///
    /// # Errors
    /// [`Error::Data`] when a file is not of a network that is supported, [`Error::Usage`] when the classes do not fit,
    /// [`Error::Output`] when the pack cannot be written.
    pub fn run(&self) -> Result<Imported> {
        let classes = ClassSet::new(self.classes.clone()).map_err(|e| Error::Usage(format!("--classes: {e}")))?;
        let Config { architecture: name, pretrained_cfg: preprocessing } = self.config()?;
        let name = name.split('.').next().unwrap_or_default();
        let Some(architecture) = architecture(name) else {
            let cause = format!("{name} of timm is not a network that can be imported");
            return Err(Error::data(&self.file, cause, format!("choose one of {SUPPORTED}")));
        };
        let import = Import {
            file: self.file.clone(),
            architecture,
            modality: Modality::Rgb,
            out: self.out.clone(),
            classes: Some(self.classes.clone()),
            onto: None,
        };
        let state = import.read()?;
        let (tensors, counters) = if architecture == Architecture::Vit {
            (self.transformer(state.tensors, &classes)?, 0)
        } else {
            if self.new_classifier {
                let cause = "--new-classifier is for encoders";
                return Err(Error::Usage(format!("{cause}; `touchline train --init` gives {name} new classes")));
            }
            let names = layers(architecture);
            let theirs = |own: &str| {
                let (layer, part) = own.rsplit_once('.').unwrap_or((own, ""));
                names.get(layer).map_or_else(|| own.to_owned(), |layer| format!("{layer}.{part}"))
            };
            let own = architecture.classifier();
            head(&self.file, &state.tensors, names.get(own).map_or(own, String::as_str), &classes, NO_CLASSES)?;
            let (tensors, counters, unknown) = import.fitting(state.tensors, classes.len(), "timm", &theirs)?;
            if let Some(name) = unknown.first() {
                return Err(self.foreign(name));
            }
            (tensors, counters)
        };
        let input = self.input(architecture, &tensors, classes.len(), &preprocessing)?;
        let said = if self.new_classifier { NEW_CLASSIFIER } else { "with the classifier of its file" };
        let manifest = import.write(&tensors, classes, &state.sha256, None, |manifest| {
            if let Some(section) = &mut manifest.rgb {
                section.input = input;
            }
            manifest.card.method = format!("{} of timm, {said}; {}", name, manifest.card.method);
            if self.new_classifier {
                leave_unknown(manifest);
            }
        })?;
        Ok(Imported { manifest, taken: tensors.len(), counters, unknown: Vec::new() })
    }

    fn config(&self) -> Result<Config> {
        let path = self.file.with_file_name("config.json");
        let advice = "put the config.json of the model beside its model.safetensors";
        let text = std::fs::read_to_string(&path).map_err(|e| Error::data(&path, e.to_string(), advice))?;
        serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string(), advice))
    }

    /// A tensor that the network does not have would change its answers.
    fn foreign(&self, name: &str) -> Error {
        let cause = format!("it has {name}, so it is another network than its config.json names");
        Error::data(&self.file, cause, format!("choose one of {SUPPORTED}"))
    }

    fn transformer(&self, mut state: Tensors, classes: &ClassSet) -> Result<Tensors> {
        if self.new_classifier {
            let width = state.get("norm.weight").map_or(0, Tensor::elem_count);
            empty_head(&mut state, encoder::TIMM_CLASSIFIER, classes.len(), width)?;
        } else {
            head(&self.file, &state, encoder::TIMM_CLASSIFIER, classes, NO_HEAD)?;
        }
        if let Some(name) = state.keys().filter(|name| !is_of_transformer(name)).min() {
            return Err(self.foreign(name));
        }
        let width = state.get("norm.weight").map_or(0, Tensor::elem_count);
        let heads = (width / encoder::HEAD_WIDTH) as f32;
        state.insert(encoder::HEADS.into(), Tensor::new(&[heads], &Device::Cpu)?);
        Ok(state)
    }

    fn input(
        &self,
        architecture: Architecture,
        tensors: &Tensors,
        classes: usize,
        Preprocessing { mean, std, input_size, interpolation }: &Preprocessing,
    ) -> Result<PictureParams> {
        let advice = "give the model.safetensors and the config.json of one model";
        let failed = |cause: String| Error::data(&self.file, cause, advice);
        let network = Network::load(architecture, tensors, Some(classes)).map_err(|e| failed(e.to_string()))?;
        let [_, mut height, mut width] = *input_size;
        if architecture.padding() == Padding::Same {
            // TensorFlow pads odd sides in another way than even ones, and the network here pads as for even sides.
            (height, width) = (height / EVEN * EVEN, width / EVEN * EVEN);
        }
        if let Some(side) = network.side().filter(|side| (height, width) != (*side, *side)) {
            return Err(failed(format!(
                "config.json states {width} x {height} pixels, the weights are for {side} x {side}"
            )));
        }
        let filter = match interpolation.as_str() {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            other => return Err(failed(format!("config.json names the filter {other:?}, not bilinear or bicubic"))),
        };
        Ok(PictureParams { width, height, fit: Fit::Crop, filter, mean: *mean, std: *std })
    }
}

/// The architecture that a name of `timm` stands for.
fn architecture(name: &str) -> Option<Architecture> {
    match name {
        "mobilenetv2_100" => Some(Architecture::MobileNetV2),
        "resnet50" => Some(Architecture::ResNet50),
        "tf_efficientnet_lite0" => Some(Architecture::EfficientNetLite0),
        "tf_efficientnet_lite2" => Some(Architecture::EfficientNetLite2),
        // Another activation is in no tensor, only in the name.
        _ if SIZES.iter().any(|size| name.starts_with(size)) && !name.contains("quickgelu") => Some(Architecture::Vit),
        _ => None,
    }
}

/// Whether a plain vision transformer has a tensor of this name.
fn is_of_transformer(name: &str) -> bool {
    const LAYERS: [&str; 6] = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
    if matches!(name, "cls_token" | "pos_embed") {
        return true;
    }
    let Some((layer, "weight" | "bias")) = name.rsplit_once('.') else { return false };
    let in_block = || layer.strip_prefix("blocks.")?.split_once('.');
    matches!(layer, "patch_embed.proj" | "norm" | encoder::TIMM_CLASSIFIER)
        || in_block().is_some_and(|(n, layer)| n.parse::<u16>().is_ok() && LAYERS.contains(&layer))
}

/// `timm`'s name of each layer of a network of inverted residuals. ResNet50 has torchvision's names there too.
fn layers(architecture: Architecture) -> HashMap<String, String> {
    let Some(plan) = architecture.inverted_residuals() else { return HashMap::new() };
    let mut names = HashMap::new();
    let mut put = |(conv, norm): (String, String), at: &str, [their_conv, their_norm]: [&str; 2]| {
        names.insert(conv, format!("{at}{their_conv}"));
        names.insert(norm, format!("{at}{their_norm}"));
    };
    put(plan.stem, "", ["conv_stem", "bn1"]);
    let (mut stages, mut blocks) = (0, 0);
    for block in plan.blocks {
        // The first block of a stage changes the number of channels, the others do not.
        (stages, blocks) = if block.inputs == block.outputs { (stages, blocks + 1) } else { (stages + 1, 0) };
        let at = format!("blocks.{}.{blocks}.", stages - 1);
        match block.expand {
            Some(expand) => {
                put(expand, &at, ["conv_pw", "bn1"]);
                put(block.filter, &at, ["conv_dw", "bn2"]);
                put(block.project, &at, ["conv_pwl", "bn3"]);
            }
            None => {
                put(block.filter, &at, ["conv_dw", "bn1"]);
                put(block.project, &at, ["conv_pw", "bn2"]);
            }
        }
    }
    put(plan.last, "", ["conv_head", "bn2"]);
    names.insert(plan.classifier.to_owned(), "classifier".to_owned());
    names
}
