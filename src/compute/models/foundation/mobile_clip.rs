//! MobileCLIP with the names of OpenCLIP: `open_clip_model.safetensors`, with `open_clip_config.json` beside it.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{Foundation, Made, NEW_CLASSIFIER, empty_head, put_head};
use crate::features::params::{Filter, Fit, PictureParams};
use crate::models::encoder::{CLASSIFIER, Gelu};
use crate::models::import::COUNTER;
use crate::models::mobile_clip::{FoldedTower, fold_mobile_clip};
use crate::models::zero_shot::{TextReading, TextTower};
use crate::models::{Architecture, LoadError, Network, Tensors};
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassSet;

/// Name of the settings beside the weights.
const CONFIG: &str = "open_clip_config.json";

/// Start of the names of the picture tower.
const TOWER: &str = "visual.trunk.";

/// Start of the names in the files of the authors.
const AUTHORS: &str = "image_encoder.";

/// The part of the settings that is needed.
#[derive(Debug, Deserialize)]
struct OpenClipConfig {
    model_cfg: Model,
    preprocess_cfg: Preprocessing,
}

#[derive(Debug, Deserialize)]
struct Model {
    vision_cfg: Vision,
    text_cfg: Text,
    #[serde(default)]
    quick_gelu: bool,
}

#[derive(Debug, Deserialize)]
struct Vision {
    timm_model_name: String,
    /// Side of the pictures, pixels.
    image_size: usize,
}

#[derive(Debug, Deserialize)]
struct Text {
    heads: Option<usize>,
    /// Tokens see those after them too.
    #[serde(default)]
    no_causal_mask: bool,
}

#[derive(Debug, Deserialize)]
struct Preprocessing {
    mean: [f32; 3],
    std: [f32; 3],
    #[serde(default = "bicubic")]
    interpolation: String,
    #[serde(default = "shortest")]
    resize_mode: String,
}

/// What OpenCLIP uses when the settings do not name a filter.
fn bicubic() -> String {
    "bicubic".into()
}

/// What OpenCLIP does when the settings do not name a mode.
fn shortest() -> String {
    "shortest".into()
}

impl Foundation {
    /// MobileCLIP: the tower folded for inference, and a classifier of prompts or an empty one.
    pub(super) fn mobile_clip(&self, state: &Tensors, classes: &ClassSet) -> Result<Made> {
        let advice = format!(
            "give the open_clip_model.safetensors and {CONFIG} of MobileCLIP-S1 or -S2, or of MobileCLIP2-S0 to -S4"
        );
        let failed = |cause: String| Error::data(&self.file, cause, advice.as_str());
        if state.keys().any(|name| name.starts_with(AUTHORS)) {
            return Err(failed("it has the names of its authors, not those of OpenCLIP".into()));
        }
        let OpenClipConfig { model_cfg: model, preprocess_cfg } = self.open_clip_config()?;
        if !model.vision_cfg.timm_model_name.starts_with("fastvit_mci") {
            return Err(failed(format!(
                "{CONFIG} names the picture tower {:?}, which is not supported",
                model.vision_cfg.timm_model_name
            )));
        }
        let unfit = |e: LoadError| failed(e.to_string());
        let (counters, tower): (Vec<_>, Vec<_>) = state
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(TOWER)?.to_owned(), tensor.clone())))
            .partition(|(name, _)| name.ends_with(COUNTER));
        let FoldedTower { mut tensors, rest } = fold_mobile_clip(tower.into_iter().collect()).map_err(unfit)?;
        let is_known = |name: &str| name.starts_with(TOWER) || name.starts_with("text.") || name == "logit_scale";
        let unknown = rest.into_keys().map(|name| format!("{TOWER}{name}"));
        let unknown = unknown.chain(state.keys().filter(|name| !is_known(name)).cloned()).collect();
        let said = if self.new_classifier {
            if !self.prompts.is_empty() || self.tokenizer.is_some() {
                let cause = "--new-classifier makes an empty classifier, --prompts and --tokenizer one of text";
                return Err(Error::Usage(format!("{cause}; leave one of them out")));
            }
            let width = tensors.get("head.fc.bias").map_or(0, Tensor::elem_count);
            empty_head(&mut tensors, CLASSIFIER, classes.len(), width)?;
            NEW_CLASSIFIER.to_owned()
        } else {
            let gelu = if model.quick_gelu { Gelu::Quick } else { Gelu::Exact };
            let reading = if model.text_cfg.no_causal_mask { TextReading::Filled } else { TextReading::Causal };
            let text = text_tower(state)?;
            if !TextTower::is_in(&text) {
                return Err(failed(
                    "it has no text tower, so no classifier can be made of prompts; or give --new-classifier".into(),
                ));
            }
            let text = TextTower::load(Architecture::MobileClip, &text, model.text_cfg.heads, (gelu, reading))
                .map_err(unfit)?;
            let (made, said) = self.classifier(&text, classes)?;
            put_head(&mut tensors, made.weight, Tensor::full(made.bias as f32, classes.len(), &Device::Cpu)?);
            said
        };
        // Shapes are checked, so that a file that does not fit is reported as such.
        Network::load(Architecture::MobileClip, &tensors, Some(classes.len())).map_err(unfit)?;
        let side = model.vision_cfg.image_size;
        let input = self.picture(side, &preprocess_cfg)?;
        let said = format!("{} of timm, {said}", model.vision_cfg.timm_model_name);
        Ok(Made { tensors, said, input, counters: counters.len(), unknown })
    }

    fn open_clip_config(&self) -> Result<OpenClipConfig> {
        let path = self.file.with_file_name(CONFIG);
        let advice = format!("put the {CONFIG} of the model beside its open_clip_model.safetensors");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::data(&path, e.to_string(), advice.as_str()))?;
        serde_json::from_str(&text).map_err(|e| Error::data(&path, e.to_string(), advice.as_str()))
    }

    /// The input of the encoder, as its preprocessing makes it.
    fn picture(&self, side: usize, preprocessing: &Preprocessing) -> Result<PictureParams> {
        let Preprocessing { mean, std, interpolation, resize_mode } = preprocessing;
        let path = self.file.with_file_name(CONFIG);
        let failed = |what: &str, have: &str, known: &str| {
            Error::data(&path, format!("it names the {what} {have:?}, not {known}"), "give the settings of the model")
        };
        let filter = match interpolation.as_str() {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            other => return Err(failed("interpolation", other, "bilinear or bicubic")),
        };
        let fit = match resize_mode.as_str() {
            "shortest" => Fit::Crop,
            "squash" => Fit::Stretch,
            other => return Err(failed("resize_mode", other, "shortest or squash")),
        };
        Ok(PictureParams { width: side, height: side, fit, filter, mean: *mean, std: *std })
    }
}

/// The text tower of OpenCLIP under the names of `transformers`, which [`TextTower`] reads.
fn text_tower(state: &Tensors) -> candle_core::Result<Tensors> {
    const NAMES: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    let mut tensors = Tensors::new();
    for (name, tensor) in state {
        let Some(own) = name.strip_prefix("text.") else {
            if name == "logit_scale" {
                tensors.insert(name.clone(), tensor.clone());
            }
            continue;
        };
        if let Some((block, own)) = own.strip_prefix("transformer.resblocks.").and_then(|own| own.split_once('.')) {
            let at = format!("text_model.encoder.layers.{block}");
            if let Some(part) = own.strip_prefix("attn.in_proj_") {
                for (layer, rows) in ["q_proj", "k_proj", "v_proj"].into_iter().zip(tensor.chunk(3, 0)?) {
                    tensors.insert(format!("{at}.self_attn.{layer}.{part}"), rows);
                }
            } else if let Some((theirs, ours)) = NAMES.iter().find(|(theirs, _)| own.starts_with(theirs)) {
                tensors.insert(format!("{at}.{ours}{}", &own[theirs.len()..]), tensor.clone());
            }
            continue;
        }
        let (name, tensor) = match own {
            "token_embedding.weight" => ("text_model.embeddings.token_embedding.weight", tensor.clone()),
            "positional_embedding" => ("text_model.embeddings.position_embedding.weight", tensor.clone()),
            "ln_final.weight" => ("text_model.final_layer_norm.weight", tensor.clone()),
            "ln_final.bias" => ("text_model.final_layer_norm.bias", tensor.clone()),
            "text_projection" => ("text_projection.weight", tensor.t()?.contiguous()?),
            _ => continue,
        };
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}
