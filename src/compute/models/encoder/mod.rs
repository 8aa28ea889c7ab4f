//! Vision transformers: the picture towers of CLIP and SigLIP, DINOv2, and the plain one, with the blocks that they share with text towers.
//!
//! Sizes are read from the tensors, so every size that was published loads. The number of heads is not in any shape; it is a tensor of its
//! own in a pack. Layers are candle's ops: nothing is fused, and the picture's own size decides the cost.

mod blocks;
pub(super) mod onnx;

use candle_core::{D, DType, IndexOp, Module, Tensor, bail};
use candle_nn::LayerNorm;

use super::loader::Loader;
use super::{Architecture, LoadError, Parts, Tensors};
use blocks::{Attention, AttentionNames, BlockNames, CLIP_BLOCK, DINO_BLOCK, Mlp, TIMM_BLOCK};
pub(super) use blocks::{Blocks, Gelu, TowerShape, linear, norm};

/// Name of the classifier's layer of encoders whose files have none, or none for classes.
pub(super) const CLASSIFIER: &str = "classifier";
/// The same in timm.
pub(super) const TIMM_CLASSIFIER: &str = "head";
/// Start of the names of tensors that are settings.
pub(super) const SETTINGS: &str = "config.";
/// The number of heads, one value.
pub(super) const HEADS: &str = "config.heads";
/// Whether CLIP's activation is `x · sigmoid(1.702 x)` instead of GELU: 1 or 0.
pub(super) const QUICK_GELU: &str = "config.quick_gelu";

/// Values per head in all published models but the largest ones.
pub(super) const HEAD_WIDTH: usize = 64;

/// Value added to the variance in CLIP's norms.
pub(super) const CLIP_EPSILON: f64 = 1e-5;
/// The same in all other encoders.
pub(super) const EPSILON: f64 = 1e-6;

/// Names and form of an encoder.
struct Family {
    /// (width) or (1, 1, width); `None` without a class token.
    class: Option<&'static str>,
    patches: &'static str,
    has_patch_bias: bool,
    /// (tokens, width) or (1, tokens, width).
    positions: &'static str,
    before: Option<&'static str>,
    blocks: (&'static str, &'static BlockNames),
    after: &'static str,
    epsilon: f64,
}

const CLIP: Family = Family {
    class: Some("vision_model.embeddings.class_embedding"),
    patches: "vision_model.embeddings.patch_embedding",
    has_patch_bias: false,
    positions: "vision_model.embeddings.position_embedding.weight",
    before: Some("vision_model.pre_layrnorm"),
    blocks: ("vision_model.encoder.layers", &CLIP_BLOCK),
    after: "vision_model.post_layernorm",
    epsilon: CLIP_EPSILON,
};

const SIGLIP: Family = Family { class: None, has_patch_bias: true, before: None, epsilon: EPSILON, ..CLIP };

const DINO: Family = Family {
    class: Some("embeddings.cls_token"),
    patches: "embeddings.patch_embeddings.projection",
    has_patch_bias: true,
    positions: "embeddings.position_embeddings",
    before: None,
    blocks: ("encoder.layer", &DINO_BLOCK),
    after: "layernorm",
    epsilon: EPSILON,
};

const TIMM: Family = Family {
    class: Some("cls_token"),
    patches: "patch_embed.proj",
    has_patch_bias: true,
    positions: "pos_embed",
    before: None,
    blocks: ("blocks", &TIMM_BLOCK),
    after: "norm",
    epsilon: EPSILON,
};

/// SigLIP's head: one learned token takes what it needs from all patches.
const SIGLIP_HEAD: &str = "vision_model.head";

/// From tokens to features.
#[derive(Clone, Debug)]
enum Pool {
    /// The class token.
    Class,
    /// CLIP: the class token, projected by (embedding, width) and scaled to length 1.
    Projected(Tensor),
    /// DINOv2: the class token, and the mean of the patches.
    ClassAndMean,
    /// SigLIP: attention of one learned token, scaled to length 1.
    Attention(Box<AttentionPool>),
}

/// SigLIP's head.
#[derive(Clone, Debug)]
struct AttentionPool {
    /// (1, 1, width)
    probe: Tensor,
    attention: Attention,
    norm: LayerNorm,
    mlp: Mlp,
}

/// A picture encoder.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    patches: (Tensor, Option<Tensor>),
    patch: usize,
    /// (1, 1, width)
    class: Option<Tensor>,
    /// (1, tokens, width); the class token is the first.
    positions: Tensor,
    before: Option<LayerNorm>,
    blocks: Blocks,
    after: LayerNorm,
    pool: Pool,
    feature_width: usize,
}

/// Reads an encoder, and its classifier if `classes` is given.
pub(super) fn parts(
    architecture: Architecture,
    tensors: &Tensors,
    classes: Option<usize>,
) -> Result<Parts<Encoder>, LoadError> {
    let mut loader = Loader::new(architecture, tensors, str::to_owned);
    let family = match architecture {
        Architecture::ClipVit => CLIP,
        Architecture::SiglipVit => SIGLIP,
        Architecture::Vit => TIMM,
        _ => DINO,
    };
    let patch_weight = format!("{}.weight", family.patches);
    let (width, patch) = match loader.dims(&patch_weight) {
        Some(&[width, _, _, side]) => (width, side),
        _ => (12 * HEAD_WIDTH, 14),
    };
    let heads = scalar(&mut loader, HEADS)?.map_or(width / HEAD_WIDTH, |heads| heads as usize);
    let gelu = match architecture {
        Architecture::ClipVit if scalar(&mut loader, QUICK_GELU)?.is_none_or(|quick| quick != 0.0) => Gelu::Quick,
        Architecture::SiglipVit => Gelu::Tanh,
        _ => Gelu::Exact,
    };
    let tower = TowerShape { width, heads, gelu, epsilon: family.epsilon };
    let weight = loader.tensor(&patch_weight, &[width, 3, patch, patch], DType::F32)?;
    let bias = if family.has_patch_bias {
        let bias = loader.tensor(&format!("{}.bias", family.patches), &[width], DType::F32)?;
        Some(loader.built(bias.reshape((1, width, 1, 1)))?)
    } else {
        None
    };
    let is_clip = matches!(architecture, Architecture::ClipVit | Architecture::SiglipVit);
    let class = match family.class {
        Some(name) => {
            let shape: &[usize] = if is_clip { &[width] } else { &[1, 1, width] };
            let class = loader.tensor(name, shape, DType::F32)?;
            Some(loader.built(class.reshape((1, 1, width)))?)
        }
        None => None,
    };
    let tokens = loader.dims(family.positions).and_then(|dims| dims.iter().rev().nth(1).copied()).unwrap_or(257);
    let shape: &[usize] = if is_clip { &[tokens, width] } else { &[1, tokens, width] };
    let positions = loader.tensor(family.positions, shape, DType::F32)?;
    let positions = loader.built(positions.reshape((1, tokens, width)))?;
    let before = family.before.map(|name| norm(&mut loader, name, tower)).transpose()?;
    let (prefix, names) = family.blocks;
    let blocks = Blocks::load(&mut loader, prefix, tower, names)?;
    let after = norm(&mut loader, family.after, tower)?;
    let (pool, feature_width) = match architecture {
        Architecture::ClipVit => {
            let embedding = loader.dims("visual_projection.weight").map_or(width, |dims| dims[0]);
            let projection = loader.tensor("visual_projection.weight", &[embedding, width], DType::F32)?;
            (Pool::Projected(projection), embedding)
        }
        Architecture::SiglipVit => {
            let pool = AttentionPool::load(&mut loader, tower)?;
            (Pool::Attention(Box::new(pool)), width)
        }
        Architecture::Vit => (Pool::Class, width),
        _ => (Pool::ClassAndMean, 2 * width),
    };
    let encoder =
        Encoder { patches: (weight, bias), patch, class, positions, before, blocks, after, pool, feature_width };
    let classifier = loader.classifier(architecture.classifier(), feature_width, classes)?;
    loader.finish(None, encoder, classifier)
}

impl AttentionPool {
    fn load(loader: &mut Loader<'_>, tower: TowerShape) -> Result<Self, LoadError> {
        let names = AttentionNames::Joined(["in_proj_weight", "in_proj_bias"], "out_proj");
        Ok(Self {
            probe: loader.tensor(&format!("{SIGLIP_HEAD}.probe"), &[1, 1, tower.width], DType::F32)?,
            attention: Attention::load(loader, &format!("{SIGLIP_HEAD}.attention."), tower, &names)?,
            norm: norm(loader, &format!("{SIGLIP_HEAD}.layernorm"), tower)?,
            mlp: Mlp::load(loader, &format!("{SIGLIP_HEAD}.mlp"), tower)?,
        })
    }

    /// Tokens (1, tokens, width) → (1, width).
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.attention.forward(&self.probe, x, None)?;
        let x = (&x + self.mlp.forward(&self.norm.forward(&x)?)?)?;
        x.i((.., 0))
    }
}

impl Encoder {
    pub const fn feature_width(&self) -> usize {
        self.feature_width
    }

    pub fn is_on_cpu(&self) -> bool {
        self.positions.device().is_cpu()
    }

    /// Side of the pictures, pixels: patches times their side.
    pub fn side(&self) -> usize {
        (self.positions.dims()[1] - usize::from(self.class.is_some())).isqrt() * self.patch
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
        let mut x = patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        if let Some(class) = &self.class {
            x = Tensor::cat(&[class, &x], 1)?;
        }
        x = (x + &self.positions)?;
        if let Some(norm) = &self.before {
            x = norm.forward(&x)?;
        }
        let x = self.blocks.forward(&x, None)?;
        let class = |x: &Tensor| x.i((.., 0))?.contiguous();
        match &self.pool {
            Pool::Class => self.after.forward(&class(&x)?),
            Pool::Projected(projection) => unit(&self.after.forward(&class(&x)?)?.matmul(&projection.t()?)?),
            Pool::ClassAndMean => {
                let x = self.after.forward(&x)?;
                Tensor::cat(&[x.i((.., 0))?, x.i((.., 1..))?.mean(1)?], D::Minus1)
            }
            Pool::Attention(pool) => unit(&pool.forward(&self.after.forward(&x)?)?),
        }
    }
}

/// Rows scaled to length 1.
pub(super) fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// A setting of the network that the tensors do not show; `None` if the file does not have it.
fn scalar(loader: &mut Loader<'_>, name: &str) -> Result<Option<f32>, LoadError> {
    if !loader.has(name) {
        return Ok(None);
    }
    let value = loader.tensor(name, &[1], DType::F32)?;
    loader.built(value.to_vec1::<f32>().map(|values| values.first().copied()))
}
