//! Vision transformers: the picture tower of CLIP and DINOv2, and the transformer blocks that they share with CLIP's text tower.
//!
//! Sizes are read from the tensors, so every size that was published loads. The number of heads is not in any shape; it is a tensor of its
//! own in a pack. Layers are candle's ops: nothing is fused, and the picture's own size decides the cost.

use candle_core::{D, DType, IndexOp, Module, Tensor, bail};
use candle_nn::{LayerNorm, Linear};

use super::loader::Loader;
use super::{Architecture, LoadError, Parts, Tensors};

/// Name of the classifier's layer.
pub(super) const CLASSIFIER: &str = "classifier";
/// The number of heads, one value.
pub(super) const HEADS: &str = "config.heads";
/// Whether CLIP's activation is `x · sigmoid(1.702 x)` instead of GELU: 1 or 0.
pub(super) const QUICK_GELU: &str = "config.quick_gelu";

/// Values per head in all published models but the largest of OpenCLIP.
pub(super) const HEAD_WIDTH: usize = 64;

const CLIP_EPSILON: f64 = 1e-5;
const DINO_EPSILON: f64 = 1e-6;

/// The activation inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gelu {
    /// With the error function.
    Exact,
    /// `x · sigmoid(1.702 x)`.
    Quick,
}

impl Gelu {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Gelu::Exact => x.gelu_erf(),
            Gelu::Quick => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        }
    }
}

/// Names of the layers of a block, below its prefix.
#[derive(Debug)]
struct BlockNames {
    norms: [&'static str; 2],
    /// Query, key, value, output.
    attention: [&'static str; 4],
    /// Scales of the two branches; CLIP has none.
    scales: Option<[&'static str; 2]>,
}

const CLIP_BLOCK: BlockNames = BlockNames {
    norms: ["layer_norm1", "layer_norm2"],
    attention: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    scales: None,
};

const DINO_BLOCK: BlockNames = BlockNames {
    norms: ["norm1", "norm2"],
    attention: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ],
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
};

/// A transformer block: attention and two linear layers, each after a norm and beside a shortcut.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norms: [LayerNorm; 2],
    attention: [Linear; 4],
    mlp: [Linear; 2],
    scales: Option<[Tensor; 2]>,
}

/// Transformer blocks, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    blocks: Vec<TransformerBlock>,
    heads: usize,
    gelu: Gelu,
}

impl Blocks {
    /// CLIP's blocks `PREFIX.0`, `PREFIX.1`, … as far as the file has them.
    ///
    /// # Errors
    /// [`LoadError::Shape`], [`LoadError::DType`] for a tensor that does not fit; [`LoadError::Build`] when the heads do not.
    pub fn clip(
        loader: &mut Loader<'_>,
        prefix: &str,
        width: usize,
        heads: usize,
        gelu: Gelu,
    ) -> Result<Self, LoadError> {
        Self::load(loader, prefix, width, (heads, gelu), &CLIP_BLOCK, CLIP_EPSILON)
    }

    fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        width: usize,
        (heads, gelu): (usize, Gelu),
        names: &BlockNames,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        if heads == 0 || !width.is_multiple_of(heads) {
            let cause = format!("{heads} heads do not divide a width of {width}");
            return loader.built(Err(candle_core::Error::Msg(cause)));
        }
        let mut blocks = Vec::new();
        // At least one block, so that a file without any is reported by name.
        while blocks.is_empty() || loader.has(&format!("{prefix}.{}.{}.weight", blocks.len(), names.norms[0])) {
            let at = format!("{prefix}.{}", blocks.len());
            let inner = loader.dims(&format!("{at}.mlp.fc1.weight")).map_or(4 * width, |dims| dims[0]);
            let [first, second] = names.norms.map(|name| norm(loader, &format!("{at}.{name}"), width, epsilon));
            let [q, k, v, out] = names.attention.map(|name| linear(loader, &format!("{at}.{name}"), (width, width)));
            let scales = match names.scales {
                Some([one, two]) => Some([
                    loader.tensor(&format!("{at}.{one}"), &[width], DType::F32)?,
                    loader.tensor(&format!("{at}.{two}"), &[width], DType::F32)?,
                ]),
                None => None,
            };
            let mlp = [
                linear(loader, &format!("{at}.mlp.fc1"), (width, inner))?,
                linear(loader, &format!("{at}.mlp.fc2"), (inner, width))?,
            ];
            blocks.push(TransformerBlock { norms: [first?, second?], attention: [q?, k?, v?, out?], mlp, scales });
        }
        Ok(Self { blocks, heads, gelu })
    }

    /// Tokens (N, tokens, width) → the same shape. `mask` (tokens, tokens) is added to the attention's scores.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks {
            let attended = block.attend(&block.norms[0].forward(&x)?, self.heads, mask)?;
            x = (x + block.scaled(0, attended)?)?;
            let inner = self.gelu.apply(&block.mlp[0].forward(&block.norms[1].forward(&x)?)?)?;
            let inner = block.mlp[1].forward(&inner)?;
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

    fn attend(&self, x: &Tensor, heads: usize, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (n, tokens, width) = x.dims3()?;
        let split = |layer: &Linear| {
            layer.forward(x)?.reshape((n, tokens, heads, width / heads))?.transpose(1, 2)?.contiguous()
        };
        let [q, k, v, out] = &self.attention;
        let (q, k, v) = (split(q)?, split(k)?, split(v)?);
        let mut scores = (q.matmul(&k.t()?)? * ((width / heads) as f64).powf(-0.5))?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        out.forward(&mixed.transpose(1, 2)?.reshape((n, tokens, width))?)
    }
}

/// A picture encoder.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    patches: (Tensor, Option<Tensor>),
    patch: usize,
    /// (1, 1, width)
    class: Tensor,
    /// (1, 1 + patches, width)
    positions: Tensor,
    before: Option<LayerNorm>,
    blocks: Blocks,
    after: LayerNorm,
    /// CLIP: from the class token to the embedding that pictures and texts share, (embedding, width).
    projection: Option<Tensor>,
    feature_width: usize,
}

/// Reads an encoder, and its classifier if `classes` is given.
pub(super) fn parts(
    architecture: Architecture,
    tensors: &Tensors,
    classes: Option<usize>,
) -> Result<Parts<Encoder>, LoadError> {
    let mut loader = Loader::new(architecture, tensors, str::to_owned);
    let clip = architecture == Architecture::ClipVit;
    let (class, patch_layer, positions) = if clip {
        ("vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding", {
            "vision_model.embeddings.position_embedding.weight"
        })
    } else {
        ("embeddings.cls_token", "embeddings.patch_embeddings.projection", "embeddings.position_embeddings")
    };
    let width = loader.dims(class).and_then(|dims| dims.last().copied()).unwrap_or(12 * HEAD_WIDTH);
    let heads = scalar(&mut loader, HEADS)?.map_or(width / HEAD_WIDTH, |heads| heads as usize);
    let patch = match loader.dims(&format!("{patch_layer}.weight")) {
        Some(&[_, _, _, side]) => side,
        _ => 14,
    };
    let tokens = loader.dims(positions).and_then(|dims| dims.iter().rev().nth(1).copied()).unwrap_or(257);
    let weight = loader.tensor(&format!("{patch_layer}.weight"), &[width, 3, patch, patch], DType::F32)?;
    let epsilon = if clip { CLIP_EPSILON } else { DINO_EPSILON };
    let encoder = if clip {
        let class = loader.tensor(class, &[width], DType::F32)?;
        let positions = loader.tensor(positions, &[tokens, width], DType::F32)?;
        let quick = scalar(&mut loader, QUICK_GELU)?.is_none_or(|quick| quick != 0.0);
        let gelu = if quick { Gelu::Quick } else { Gelu::Exact };
        let before = norm(&mut loader, "vision_model.pre_layrnorm", width, epsilon)?;
        let blocks = Blocks::clip(&mut loader, "vision_model.encoder.layers", width, heads, gelu)?;
        let after = norm(&mut loader, "vision_model.post_layernorm", width, epsilon)?;
        let embedding = loader.dims("visual_projection.weight").map_or(width, |dims| dims[0]);
        let projection = loader.tensor("visual_projection.weight", &[embedding, width], DType::F32)?;
        let (class, positions) =
            loader.built(class.reshape((1, 1, width)).and_then(|class| Ok((class, positions.unsqueeze(0)?))))?;
        let (before, projection) = (Some(before), Some(projection));
        let patches = (weight, None);
        Encoder { patches, patch, class, positions, before, blocks, after, projection, feature_width: embedding }
    } else {
        let bias = loader.tensor(&format!("{patch_layer}.bias"), &[width], DType::F32)?;
        let class = loader.tensor(class, &[1, 1, width], DType::F32)?;
        let positions = loader.tensor(positions, &[1, tokens, width], DType::F32)?;
        let blocks = Blocks::load(&mut loader, "encoder.layer", width, (heads, Gelu::Exact), &DINO_BLOCK, epsilon)?;
        let after = norm(&mut loader, "layernorm", width, epsilon)?;
        let bias = loader.built(bias.reshape((1, width, 1, 1)))?;
        let (patches, before, projection) = ((weight, Some(bias)), None, None);
        Encoder { patches, patch, class, positions, before, blocks, after, projection, feature_width: 2 * width }
    };
    let classifier = loader.classifier(CLASSIFIER, encoder.feature_width, classes)?;
    loader.finish(None, encoder, classifier)
}

impl Encoder {
    pub const fn feature_width(&self) -> usize {
        self.feature_width
    }

    pub fn is_on_cpu(&self) -> bool {
        self.class.device().is_cpu()
    }

    /// Side of the pictures, pixels: patches times their side.
    pub fn side(&self) -> usize {
        (self.positions.dims()[1] - 1).isqrt() * self.patch
    }

    /// Pictures (N, 3, side, side), normalised → features (N, [`Encoder::feature_width`]).
    ///
    /// # Errors
    /// When the pictures have another size.
    pub fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n, _, height, width) = x.dims4()?;
        let side = self.side();
        if (height, width) != (side, side) {
            bail!("the encoder takes pictures of {side} x {side} pixels, got {width} x {height}");
        }
        // One picture at a time: a matrix product may round differently with the number of its rows, and the features of a
        // picture must not depend on its batch. A picture has enough rows to occupy all cores.
        let rows = (0..n).map(|i| self.one(&x.narrow(0, i, 1)?)).collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::cat(&rows, 0)
    }

    fn one(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (weight, bias) = &self.patches;
        let mut patches = x.contiguous()?.conv2d(weight, 0, self.patch, 1, 1)?;
        if let Some(bias) = bias {
            patches = patches.broadcast_add(bias)?;
        }
        let patches = patches.flatten_from(2)?.transpose(1, 2)?;
        let mut x = (Tensor::cat(&[&self.class, &patches], 1)? + &self.positions)?;
        if let Some(norm) = &self.before {
            x = norm.forward(&x)?;
        }
        let x = self.blocks.forward(&x, None)?;
        match &self.projection {
            Some(projection) => unit(&self.after.forward(&x.i((.., 0))?.contiguous()?)?.matmul(&projection.t()?)?),
            None => {
                let x = self.after.forward(&x)?;
                Tensor::cat(&[x.i((.., 0))?, x.i((.., 1..))?.mean(1)?], D::Minus1)
            }
        }
    }
}

/// Rows scaled to length 1.
pub(super) fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// A layer norm of CLIP.
pub(super) fn clip_norm(loader: &mut Loader<'_>, name: &str, width: usize) -> Result<LayerNorm, LoadError> {
    norm(loader, name, width, CLIP_EPSILON)
}

fn norm(loader: &mut Loader<'_>, name: &str, width: usize, epsilon: f64) -> Result<LayerNorm, LoadError> {
    let weight = loader.tensor(&format!("{name}.weight"), &[width], DType::F32)?;
    let bias = loader.tensor(&format!("{name}.bias"), &[width], DType::F32)?;
    Ok(LayerNorm::new(weight, bias, epsilon))
}

fn linear(loader: &mut Loader<'_>, name: &str, (from, to): (usize, usize)) -> Result<Linear, LoadError> {
    let weight = loader.tensor(&format!("{name}.weight"), &[to, from], DType::F32)?;
    let bias = loader.tensor(&format!("{name}.bias"), &[to], DType::F32)?;
    Ok(Linear::new(weight, Some(bias)))
}

/// A setting of the network that the tensors do not show; `None` if the file does not have it.
fn scalar(loader: &mut Loader<'_>, name: &str) -> Result<Option<f32>, LoadError> {
    if !loader.has(name) {
        return Ok(None);
    }
    let value = loader.tensor(name, &[1], DType::F32)?;
    loader.built(value.to_vec1::<f32>().map(|values| values.first().copied()))
}
