//! Transformer blocks, which all towers share.

use candle_core::{DType, Module, Tensor};
use candle_nn::{LayerNorm, Linear};

use crate::models::LoadError;
use crate::models::loader::Loader;

/// The activation inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) enum Gelu {
    /// With the error function.
    Exact,
    /// `x · sigmoid(1.702 x)`.
    Quick,
    /// With the hyperbolic tangent.
    Tanh,
}

impl Gelu {
    pub(super) fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Gelu::Exact => x.gelu_erf(),
            Gelu::Quick => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Gelu::Tanh => x.gelu(),
        }
    }
}

/// How the layers of attention are named.
#[derive(Debug)]
pub(super) enum AttentionNames {
    /// Query, key, value, output.
    Apart([&'static str; 4]),
    /// Weight and bias of query, key and value one below the other, and the output.
    Joined([&'static str; 2], &'static str),
}

/// Names of the layers of a block, below its prefix.
#[derive(Debug)]
pub(super) struct BlockNames {
    pub norms: [&'static str; 2],
    pub attention: AttentionNames,
    /// Scales of the two branches; only DINOv2 has them.
    pub scales: Option<[&'static str; 2]>,
}

/// The blocks of the towers of CLIP and SigLIP.
pub(super) const CLIP_BLOCK: BlockNames = BlockNames {
    norms: ["layer_norm1", "layer_norm2"],
    attention: AttentionNames::Apart([
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    ]),
    scales: None,
};

pub(super) const DINO_BLOCK: BlockNames = BlockNames {
    norms: ["norm1", "norm2"],
    attention: AttentionNames::Apart([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ]),
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
};

pub(super) const TIMM_BLOCK: BlockNames = BlockNames {
    norms: ["norm1", "norm2"],
    attention: AttentionNames::Joined(["attn.qkv.weight", "attn.qkv.bias"], "attn.proj"),
    scales: None,
};

/// The numbers of a tower that no tensor's shape shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct TowerShape {
    /// Values per token.
    pub width: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// The activation.
    pub gelu: Gelu,
    /// Value added to the variance in norms.
    pub epsilon: f64,
}

/// Attention with several heads.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub out: Linear,
    pub heads: usize,
}

impl Attention {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        at: &str,
        tower: TowerShape,
        names: &AttentionNames,
    ) -> Result<Self, LoadError> {
        let (width, heads) = (tower.width, tower.heads);
        match names {
            AttentionNames::Apart(names) => {
                let [query, key, value, out] = names.map(|name| linear(loader, &format!("{at}{name}"), (width, width)));
                Ok(Self { query: query?, key: key?, value: value?, out: out?, heads })
            }
            AttentionNames::Joined([weight, bias], out) => {
                let weight = loader.tensor(&format!("{at}{weight}"), &[3 * width, width], DType::F32)?;
                let bias = loader.tensor(&format!("{at}{bias}"), &[3 * width], DType::F32)?;
                let part = |n: usize| -> candle_core::Result<Linear> {
                    let rows = |t: &Tensor| t.narrow(0, n * width, width)?.contiguous();
                    Ok(Linear::new(rows(&weight)?, Some(rows(&bias)?)))
                };
                let (query, key, value) = (loader.built(part(0))?, loader.built(part(1))?, loader.built(part(2))?);
                Ok(Self { query, key, value, out: linear(loader, &format!("{at}{out}"), (width, width))?, heads })
            }
        }
    }

    /// What the tokens `from` (N, T, width) take from the tokens `of` (N, S, width). `mask` (T, S) is added to the scores.
    pub(super) fn forward(&self, from: &Tensor, of: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (n, tokens, width) = from.dims3()?;
        let head = width / self.heads;
        let split = |layer: &Linear, x: &Tensor| {
            layer.forward(x)?.reshape((n, x.dims()[1], self.heads, head))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (split(&self.query, from)?, split(&self.key, of)?, split(&self.value, of)?);
        let mut scores = (q.matmul(&k.t()?)? * self.scale(width))?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        self.out.forward(&mixed.transpose(1, 2)?.reshape((n, tokens, width))?)
    }

    /// Factor of the scores.
    pub(super) fn scale(&self, width: usize) -> f64 {
        ((width / self.heads) as f64).powf(-0.5)
    }
}

/// Two linear layers with the activation between them.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    pub layers: [Linear; 2],
    pub gelu: Gelu,
}

impl Mlp {
    pub(super) fn load(loader: &mut Loader<'_>, at: &str, tower: TowerShape) -> Result<Self, LoadError> {
        let width = tower.width;
        let inner = loader.dims(&format!("{at}.fc1.weight")).map_or(4 * width, |dims| dims[0]);
        let first = linear(loader, &format!("{at}.fc1"), (width, inner))?;
        Ok(Self { layers: [first, linear(loader, &format!("{at}.fc2"), (inner, width))?], gelu: tower.gelu })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.layers[1].forward(&self.gelu.apply(&self.layers[0].forward(x)?)?)
    }
}

/// A transformer block: attention and two linear layers, each after a norm and beside a shortcut.
#[derive(Clone, Debug)]
pub(super) struct TransformerBlock {
    pub norms: [LayerNorm; 2],
    pub attention: Attention,
    pub mlp: Mlp,
    pub scales: Option<[Tensor; 2]>,
}

/// Transformer blocks, one after the other.
#[derive(Clone, Debug)]
pub(in crate::models) struct Blocks {
    pub(super) blocks: Vec<TransformerBlock>,
}

impl Blocks {
    /// The blocks `PREFIX.0`, `PREFIX.1`, … of CLIP or SigLIP, as far as the file has them.
    ///
    /// # Errors
    /// [`LoadError::Shape`], [`LoadError::DType`] for a tensor that does not fit; [`LoadError::Build`] when the heads do not.
    pub fn clip(loader: &mut Loader<'_>, prefix: &str, tower: TowerShape) -> Result<Self, LoadError> {
        Self::load(loader, prefix, tower, &CLIP_BLOCK)
    }

    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        tower: TowerShape,
        names: &BlockNames,
    ) -> Result<Self, LoadError> {
        let TowerShape { width, heads, .. } = tower;
        if heads == 0 || !width.is_multiple_of(heads) {
            let cause = format!("{heads} heads do not divide a width of {width}");
            return loader.built(Err(candle_core::Error::Msg(cause)));
        }
        let mut blocks = Vec::new();
        // At least one block, so that a file without any is reported by name.
        while blocks.is_empty() || loader.has(&format!("{prefix}.{}.{}.weight", blocks.len(), names.norms[0])) {
            let at = format!("{prefix}.{}", blocks.len());
            let [first, second] = names.norms.map(|name| norm(loader, &format!("{at}.{name}"), tower));
            let attention = Attention::load(loader, &format!("{at}."), tower, &names.attention)?;
            let scales = match names.scales {
                Some([one, two]) => Some([
                    loader.tensor(&format!("{at}.{one}"), &[width], DType::F32)?,
                    loader.tensor(&format!("{at}.{two}"), &[width], DType::F32)?,
                ]),
                None => None,
            };
            let mlp = Mlp::load(loader, &format!("{at}.mlp"), tower)?;
            blocks.push(TransformerBlock { norms: [first?, second?], attention, mlp, scales });
        }
        Ok(Self { blocks })
    }

    /// Tokens (N, tokens, width) → the same shape. `mask` (tokens, tokens) is added to the attention's scores.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks {
            let inner = block.norms[0].forward(&x)?;
            x = (x + block.scaled(0, block.attention.forward(&inner, &inner, mask)?)?)?;
            let inner = block.mlp.forward(&block.norms[1].forward(&x)?)?;
            x = (x + block.scaled(1, inner)?)?;
        }
        Ok(x)
    }
}

impl TransformerBlock {
    fn scaled(&self, branch: usize, x: Tensor) -> candle_core::Result<Tensor> {
        match &self.scales {
            Some(scales) => x.broadcast_mul(&scales[branch]),
            None => Ok(x),
        }
    }
}

/// A layer norm.
///
/// # Errors
/// As [`Loader::tensor`].
pub(in crate::models) fn norm(loader: &mut Loader<'_>, name: &str, tower: TowerShape) -> Result<LayerNorm, LoadError> {
    let weight = loader.tensor(&format!("{name}.weight"), &[tower.width], DType::F32)?;
    let bias = loader.tensor(&format!("{name}.bias"), &[tower.width], DType::F32)?;
    Ok(LayerNorm::new(weight, bias, tower.epsilon))
}

/// A linear layer with a bias.
///
/// # Errors
/// As [`Loader::tensor`].
pub(in crate::models) fn linear(
    loader: &mut Loader<'_>,
    name: &str,
    (from, to): (usize, usize),
) -> Result<Linear, LoadError> {
    let weight = loader.tensor(&format!("{name}.weight"), &[to, from], DType::F32)?;
    let bias = loader.tensor(&format!("{name}.bias"), &[to], DType::F32)?;
    Ok(Linear::new(weight, Some(bias)))
}
