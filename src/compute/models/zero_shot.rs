//! A classifier from text: the text tower of CLIP, SigLIP or MobileCLIP turns prompts into rows of a linear layer.
//!
//! It runs once, at import. The pack holds the rows, so serving needs neither the tower nor the tokenizer.

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Module, Tensor};
use candle_nn::{LayerNorm, Linear};
use tokenizers::Tokenizer;

use super::encoder::{Blocks, CLIP_EPSILON, EPSILON, Gelu, HEAD_WIDTH, TowerShape, linear, norm, unit};
use super::loader::Loader;
use super::{Architecture, LoadError, Tensors};
use touchline_core::error::{Error, Result};

const TOKENS: &str = "text_model.embeddings.token_embedding.weight";
const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";
const SCALE: &str = "logit_scale";
const BIAS: &str = "logit_bias";

/// The token that fills a text of SigLIP up, where the tokenizer does not name one.
const PADDING: u32 = 1;

/// How a tower reads a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextReading {
    /// CLIP: a token sees those before it only, and the answer is read at the end of the text.
    Causal,
    /// OpenCLIP without a mask: texts are filled up to the tower's length with token 0, which all tokens see. The answer is read at the end of
    /// the text.
    Filled,
    /// SigLIP: texts are filled up to the tower's length, and the answer is read at the last token.
    Siglip,
}

/// The text tower of CLIP, SigLIP or MobileCLIP.
pub(super) struct TextTower {
    tokens: Tensor,
    positions: Tensor,
    blocks: Blocks,
    after: LayerNorm,
    projection: Linear,
    /// Logits are the cosine times this …
    scale: f64,
    /// … plus this.
    bias: f64,
    reading: TextReading,
}

/// The classifier that prompts make.
pub(super) struct PromptClassifier {
    /// (classes, embedding)
    pub weight: Tensor,
    /// The same for all classes.
    pub bias: f64,
}

impl TextTower {
    /// Whether a state dict has a text tower.
    pub fn is_in(tensors: &Tensors) -> bool {
        tensors.contains_key(TOKENS)
    }

    /// Reads the tower that belongs to the pictures of `architecture`, with the names that `transformers` has for it. `heads` is a guess from the width when it is not given.
    ///
    /// # Errors
    /// As [`super::Network::load`].
    pub fn load(
        architecture: Architecture,
        tensors: &Tensors,
        heads: Option<usize>,
        (gelu, reading): (Gelu, TextReading),
    ) -> std::result::Result<Self, LoadError> {
        let mut loader = Loader::new(architecture, tensors, str::to_owned);
        let is_siglip = reading == TextReading::Siglip;
        let shape = |loader: &Loader<'_>, name: &str, or: (usize, usize)| match loader.dims(name) {
            Some(&[rows, columns]) => (rows, columns),
            _ => or,
        };
        let (vocabulary, width) = shape(&loader, TOKENS, (49_408, 512));
        let (context, _) = shape(&loader, POSITIONS, (77, width));
        let projection = if is_siglip { "text_model.head" } else { "text_projection" };
        let (embedding, _) = shape(&loader, &format!("{projection}.weight"), (width, width));
        let epsilon = if is_siglip { EPSILON } else { CLIP_EPSILON };
        let tower = TowerShape { width, heads: heads.unwrap_or(width / HEAD_WIDTH), gelu, epsilon };
        // A scalar in CLIP, a list of one value in SigLIP.
        let number = |loader: &mut Loader<'_>, name: &str| {
            let shape = loader.dims(name).unwrap_or_default();
            let value = loader.tensor(name, if shape == [1] { &[1] } else { &[] }, DType::F32)?;
            let value = value.flatten_all().and_then(|value| value.to_vec1::<f32>());
            loader.built(value).map(|value| f64::from(value[0]))
        };
        let loaded = Self {
            tokens: loader.tensor(TOKENS, &[vocabulary, width], DType::F32)?,
            positions: loader.tensor(POSITIONS, &[context, width], DType::F32)?,
            blocks: Blocks::clip(&mut loader, "text_model.encoder.layers", tower)?,
            after: norm(&mut loader, "text_model.final_layer_norm", tower)?,
            projection: if is_siglip {
                linear(&mut loader, projection, (width, embedding))?
            } else {
                Linear::new(loader.tensor(&format!("{projection}.weight"), &[embedding, width], DType::F32)?, None)
            },
            scale: number(&mut loader, SCALE)?.exp(),
            bias: if is_siglip { number(&mut loader, BIAS)? } else { 0.0 },
            reading,
        };
        Ok(loader.finish(None, loaded, None)?.body)
    }

    /// The classifier: for each class a row, the mean of its prompts' embeddings, scaled to length 1 and then by the tower's logit scale.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the prompt that does not fit the tower, [`Error::Data`] for a tokenizer that does not.
    pub fn classifier(&self, tokenizer: &Path, prompts: &[(&str, Vec<String>)]) -> Result<PromptClassifier> {
        let other = |cause: String| Error::data(tokenizer, cause, "give the tokenizer.json of the same model");
        let mut encoder = Tokenizer::from_file(tokenizer).map_err(|e| other(format!("it is not a tokenizer: {e}")))?;
        let is_siglip = self.reading == TextReading::Siglip;
        let filled_with = match self.reading {
            TextReading::Causal => None,
            TextReading::Filled => Some(0),
            TextReading::Siglip => Some(padding(&encoder, tokenizer)),
        };
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|e| other(e.to_string()))?;
        let (vocabulary, context) = (self.tokens.dim(0)?, self.positions.dim(0)?);
        let mut rows = Vec::with_capacity(prompts.len());
        for (class, prompts) in prompts {
            let mut embeddings = Vec::with_capacity(prompts.len());
            for prompt in prompts {
                let text = if is_siglip { canonical(prompt) } else { prompt.clone() };
                let encoding = encoder.encode(text, true).map_err(|e| other(e.to_string()))?;
                let ids = encoding.get_ids();
                let largest = ids.iter().copied().max().unwrap_or(0);
                if largest as usize >= vocabulary {
                    return Err(other(format!("it has token {largest}, the text tower only {vocabulary} tokens")));
                }
                // The tower's answer is read at the end token, which has the largest number in CLIP's vocabularies.
                if !is_siglip && ids.last() != Some(&largest) {
                    return Err(other("it does not end a text with CLIP's end token".into()));
                }
                if ids.len() > context {
                    let have = ids.len();
                    let said = format!("the prompt {prompt:?} of class {class} has {have} tokens");
                    return Err(Error::Usage(format!("{said}, the text tower takes {context}; shorten it")));
                }
                let mut ids = ids.to_vec();
                let end = if is_siglip { context } else { ids.len() } - 1;
                if let Some(token) = filled_with {
                    ids.resize(context, token);
                }
                embeddings.push(unit(&self.embed(&ids, end)?)?);
            }
            rows.push(unit(&Tensor::cat(&embeddings, 0)?.mean_keepdim(0)?)?);
        }
        Ok(PromptClassifier { weight: (Tensor::cat(&rows, 0)? * self.scale)?, bias: self.bias })
    }

    /// The projected embedding of a text, read at token `end`: (1, embedding), not normalised.
    fn embed(&self, ids: &[u32], end: usize) -> candle_core::Result<Tensor> {
        let n = ids.len();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let x = (self.tokens.index_select(&ids, 0)? + self.positions.narrow(0, 0, n)?)?.unsqueeze(0)?;
        let mask = if self.reading != TextReading::Causal {
            None
        } else {
            // A token sees itself and those before it.
            let mask: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
            Some(Tensor::from_vec(mask, (n, n), &Device::Cpu)?)
        };
        let x = self.blocks.forward(&x, mask.as_ref())?;
        self.projection.forward(&self.after.forward(&x.i((.., end))?.contiguous()?)?)
    }
}

/// A text as SigLIP's own tokenizer prepares it: in lower case, without punctuation, with single spaces.
fn canonical(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The token that fills texts up: the tokenizer's, or the one named in the `tokenizer_config.json` beside it.
fn padding(tokenizer: &Tokenizer, path: &Path) -> u32 {
    if let Some(padding) = tokenizer.get_padding() {
        return padding.pad_id;
    }
    let read = || -> Option<u32> {
        let text = std::fs::read_to_string(path.with_file_name("tokenizer_config.json")).ok()?;
        let config: serde_json::Value = serde_json::from_str(&text).ok()?;
        let token = &config["pad_token"];
        tokenizer.token_to_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    read().unwrap_or(PADDING)
}
