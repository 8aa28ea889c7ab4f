//! A classifier from text: the text tower of CLIP turns prompts into rows of a linear layer.
//!
//! It runs once, at import. The pack holds the rows, so serving needs neither the tower nor the tokenizer.

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Module, Tensor};
use candle_nn::LayerNorm;
use tokenizers::Tokenizer;

use super::encoder::{Blocks, Gelu, HEAD_WIDTH, clip_norm, unit};
use super::loader::Loader;
use super::{Architecture, LoadError, Tensors};
use touchline_core::error::{Error, Result};

const TOKENS: &str = "text_model.embeddings.token_embedding.weight";
const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";
const SCALE: &str = "logit_scale";

/// The text tower of CLIP.
pub(super) struct TextTower {
    tokens: Tensor,
    positions: Tensor,
    blocks: Blocks,
    after: LayerNorm,
    projection: Tensor,
    /// Logits are the cosine times this.
    scale: f64,
}

impl TextTower {
    /// Whether a state dict has a text tower.
    pub fn is_in(tensors: &Tensors) -> bool {
        tensors.contains_key(TOKENS)
    }

    /// Reads the tower. `heads` is a guess from the width when it is not given.
    ///
    /// # Errors
    /// As [`super::Network::load`].
    pub fn load(tensors: &Tensors, heads: Option<usize>, gelu: Gelu) -> std::result::Result<Self, LoadError> {
        let mut loader = Loader::new(Architecture::ClipVit, tensors, str::to_owned);
        let shape = |loader: &Loader<'_>, name: &str, or: (usize, usize)| match loader.dims(name) {
            Some(&[rows, columns]) => (rows, columns),
            _ => or,
        };
        let (vocabulary, width) = shape(&loader, TOKENS, (49_408, 512));
        let (context, _) = shape(&loader, POSITIONS, (77, width));
        let (embedding, _) = shape(&loader, "text_projection.weight", (width, width));
        let heads = heads.unwrap_or(width / HEAD_WIDTH);
        let scale = loader.tensor(SCALE, &[], DType::F32)?;
        let tower = Self {
            tokens: loader.tensor(TOKENS, &[vocabulary, width], DType::F32)?,
            positions: loader.tensor(POSITIONS, &[context, width], DType::F32)?,
            blocks: Blocks::clip(&mut loader, "text_model.encoder.layers", width, heads, gelu)?,
            after: clip_norm(&mut loader, "text_model.final_layer_norm", width)?,
            projection: loader.tensor("text_projection.weight", &[embedding, width], DType::F32)?,
            scale: loader.built(scale.to_scalar::<f32>())?.exp().into(),
        };
        Ok(loader.finish(None, tower, None)?.body)
    }

    /// The classifier's weight (classes, embedding): for each class the mean of its prompts' embeddings, scaled to length 1 and then by
    /// the tower's logit scale.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the prompt that does not fit the tower, [`Error::Data`] for a tokenizer that does not.
    pub fn classifier(&self, tokenizer: &Path, prompts: &[(&str, Vec<String>)]) -> Result<Tensor> {
        let other = |cause: String| Error::data(tokenizer, cause, "give the tokenizer.json of the same model");
        let mut encoder = Tokenizer::from_file(tokenizer).map_err(|e| other(format!("it is not a tokenizer: {e}")))?;
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|e| other(e.to_string()))?;
        let (vocabulary, context) = (self.tokens.dim(0)?, self.positions.dim(0)?);
        let mut rows = Vec::with_capacity(prompts.len());
        for (class, prompts) in prompts {
            let mut embeddings = Vec::with_capacity(prompts.len());
            for prompt in prompts {
                let encoding = encoder.encode(prompt.as_str(), true).map_err(|e| other(e.to_string()))?;
                let ids = encoding.get_ids();
                let largest = ids.iter().copied().max().unwrap_or(0);
                if largest as usize >= vocabulary {
                    return Err(other(format!("it has token {largest}, the text tower only {vocabulary} tokens")));
                }
                // The tower's answer is read at the end token, which has the largest number in CLIP's vocabularies.
                if ids.last() != Some(&largest) {
                    return Err(other("it does not end a text with CLIP's end token".into()));
                }
                if ids.len() > context {
                    let have = ids.len();
                    let said = format!("the prompt {prompt:?} of class {class} has {have} tokens");
                    return Err(Error::Usage(format!("{said}, the text tower takes {context}; shorten it")));
                }
                embeddings.push(unit(&self.embed(ids)?)?);
            }
            rows.push(unit(&Tensor::cat(&embeddings, 0)?.mean_keepdim(0)?)?);
        }
        Ok((Tensor::cat(&rows, 0)? * self.scale)?)
    }

    /// The projected embedding of a text, (1, embedding), not normalised.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let n = ids.len();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let x = (self.tokens.index_select(&ids, 0)? + self.positions.narrow(0, 0, n)?)?.unsqueeze(0)?;
        // A token sees itself and those before it.
        let mask: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
        let x = self.blocks.forward(&x, Some(&Tensor::from_vec(mask, (n, n), &Device::Cpu)?))?;
        self.after.forward(&x.i((.., n - 1))?.contiguous()?)?.matmul(&self.projection.t()?)
    }
}
