//! The picture towers of MobileCLIP that are FastViT: convolutions, with attention in the last stages.
//!
//! Sources: Vasu et al., *FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization*, ICCV 2023; Vasu et al., *MobileCLIP:
//! Fast Image-Text Models through Multi-Modal Reinforced Training*, CVPR 2024. A pack has the form for inference, with one convolution in the
//! place of the branches that training has ([`fold_mobile_clip`]). Sizes are read from the tensors, so every size that was published loads.

mod fold;
mod onnx;

use candle_core::{DType, Device, Tensor, bail};

use super::head::Head;
use super::loader::Loader;
use super::{Architecture, LoadError, Parts, Tensors};
use crate::nn::fused::{Arithmetic, Fused, Graph, Level};
use crate::nn::{Activation, BuildHybrid};
pub use fold::{FoldedTower, fold_mobile_clip};

/// Whether norms before attention scale each pixel, 1 or 0. If not, they are folded into the layer after them.
pub(super) const PIXEL_NORM: &str = "config.pixel_norm";

/// Channels of a head of the attention.
const HEAD_WIDTH: usize = 32;

/// Value added to the variance in norms.
pub(super) const EPSILON: f64 = 1e-5;

/// Channels of the stem of a file that does not show them.
const WIDTH: usize = 64;

/// Weight and bias.
type LayerTensors = (Tensor, Tensor);

/// The tower without its classifier.
#[derive(Clone, Debug)]
pub(super) struct FastVit {
    stem: [LayerTensors; 3],
    stages: Vec<FastVitStage>,
    last: Downsample,
    /// From pooled features to the embedding.
    projection: LayerTensors,
}

/// A stage: fewer pixels with more channels, positions, and blocks.
#[derive(Clone, Debug)]
struct FastVitStage {
    begin: Option<(Downsample, LayerTensors)>,
    positions: Option<LayerTensors>,
    blocks: Vec<Block>,
}

/// A depthwise convolution with several outputs per channel, and perhaps squeeze and excite.
#[derive(Clone, Debug)]
struct Downsample {
    filter: LayerTensors,
    /// Outputs per channel.
    times: usize,
    stride: usize,
    gate: Option<[LayerTensors; 2]>,
}

/// A block: mixes pixels, then channels.
#[derive(Clone, Debug)]
struct Block {
    mixer: Mixer,
    /// Depthwise convolution, and two 1×1 convolutions with GELU between them, beside a shortcut.
    mlp: [LayerTensors; 3],
}

#[derive(Clone, Debug)]
enum Mixer {
    /// A depthwise convolution.
    Conv(LayerTensors),
    /// Attention beside a shortcut.
    Attention { heads: usize, has_norm: bool, qkv: LayerTensors, out: LayerTensors },
}

/// Reads a tower, and its classifier if `classes` is given.
pub(super) fn parts(tensors: &Tensors, classes: Option<usize>) -> Result<Parts<FastVit>, LoadError> {
    let architecture = Architecture::MobileClip;
    let mut loader = Loader::new(architecture, tensors, str::to_owned);
    let has_norm = match loader.has(PIXEL_NORM) {
        true => {
            let value = loader.tensor(PIXEL_NORM, &[1], DType::F32)?;
            loader.built(value.to_vec1::<f32>())?.first().is_some_and(|value| *value != 0.0)
        }
        false => false,
    };
    let outputs = |loader: &Loader<'_>, name: &str, or: usize| loader.dims(name).map_or(or, |dims| dims[0]);
    let mut width = outputs(&loader, "stem.0.reparam_conv.weight", WIDTH);
    let stem = [
        layer(&mut loader, "stem.0.reparam_conv", &[width, 3, 3, 3])?,
        layer(&mut loader, "stem.1.reparam_conv", &[width, 1, 3, 3])?,
        layer(&mut loader, "stem.2.reparam_conv", &[width, width, 1, 1])?,
    ];
    let mut stages = Vec::new();
    // At least one stage, so that a file without any is reported by name.
    while stages.is_empty() || loader.has(&format!("stages.{}.blocks.0.mlp.fc1.weight", stages.len())) {
        let at = format!("stages.{}", stages.len());
        let down = format!("{at}.downsample.proj");
        let begin = if loader.has(&format!("{down}.0.reparam_conv.weight")) {
            let (first, second) = (format!("{down}.0"), format!("{down}.1.reparam_conv"));
            let (begin, order) = Downsample::load(&mut loader, &first, (width, 2))?;
            width = begin.filter.1.elem_count();
            let project = layer(&mut loader, &second, &[width, width, 1, 1])?;
            Some((begin, loader.built(inputs_in_order(project, &order))?))
        } else {
            None
        };
        let name = format!("{at}.pos_emb.reparam_conv");
        let positions = match loader.has(&format!("{name}.weight")) {
            true => Some(depthwise(&mut loader, &name, width)?),
            false => None,
        };
        let mut blocks = Vec::new();
        while blocks.is_empty() || loader.has(&format!("{at}.blocks.{}.mlp.fc1.weight", blocks.len())) {
            blocks.push(Block::load(&mut loader, &format!("{at}.blocks.{}", blocks.len()), width, has_norm)?);
        }
        stages.push(FastVitStage { begin, positions, blocks });
    }
    let (last, order) = Downsample::load(&mut loader, "final_conv", (width, 1))?;
    let pooled = last.filter.1.elem_count();
    let embedding = outputs(&loader, "head.fc.weight", width);
    let projection = layer(&mut loader, "head.fc", &[embedding, pooled])?;
    let projection = loader.built(inputs_in_order(projection, &order))?;
    let classifier = loader.classifier(architecture.classifier(), embedding, classes)?;
    loader.finish(None, FastVit { stem, stages, last, projection }, classifier)
}

fn layer(loader: &mut Loader<'_>, name: &str, shape: &[usize]) -> Result<LayerTensors, LoadError> {
    let weight = loader.tensor(&format!("{name}.weight"), shape, DType::F32)?;
    Ok((weight, loader.tensor(&format!("{name}.bias"), &shape[..1], DType::F32)?))
}

/// A depthwise convolution of any kernel.
fn depthwise(loader: &mut Loader<'_>, name: &str, channels: usize) -> Result<LayerTensors, LoadError> {
    let kernel = loader.dims(&format!("{name}.weight")).and_then(|dims| dims.last().copied()).unwrap_or(3);
    layer(loader, name, &[channels, 1, kernel, kernel])
}

/// The layer with its inputs in the order of `order`.
fn inputs_in_order((weight, bias): LayerTensors, order: &Tensor) -> candle_core::Result<LayerTensors> {
    Ok((weight.index_select(order, 1)?, bias))
}

impl Downsample {
    /// Reads the layer, and the order of its outputs: in the file those that read a channel are neighbours, here they are as far apart as
    /// there are channels, as depthwise convolutions have them.
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        (channels, stride): (usize, usize),
    ) -> Result<(Self, Tensor), LoadError> {
        let filter = format!("{name}.reparam_conv");
        let dims = loader.dims(&format!("{filter}.weight"));
        let outputs = dims.map_or(channels, |dims| dims[0].next_multiple_of(channels));
        let (weight, bias) = depthwise(loader, &filter, outputs)?;
        let times = outputs / channels;
        let order: Vec<u32> = (0..outputs).map(|i| (i % channels * times + i / channels) as u32).collect();
        let order = loader.built(Tensor::new(order, weight.device()))?;
        let select = |tensor: &Tensor, axis: usize| tensor.index_select(&order, axis);
        let filter = (loader.built(select(&weight, 0))?, loader.built(select(&bias, 0))?);
        let gate = match loader.dims(&format!("{name}.se.fc1.weight")) {
            Some(dims) => {
                let squeezed = dims[0];
                let squeeze = layer(loader, &format!("{name}.se.fc1"), &[squeezed, outputs, 1, 1])?;
                let (weight, bias) = layer(loader, &format!("{name}.se.fc2"), &[outputs, squeezed, 1, 1])?;
                let excite = (loader.built(select(&weight, 0))?, loader.built(select(&bias, 0))?);
                Some([loader.built(inputs_in_order(squeeze, &order))?, excite])
            }
            None => None,
        };
        Ok((Self { filter, times, stride, gate }, order))
    }

    fn fuse<B: BuildHybrid>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let padding = self.filter.0.dim(3)? / 2;
        let mut x = graph.depthwise_repeated(x, self.times, pair(&self.filter), (self.stride, padding))?;
        if let Some([squeeze, excite]) = &self.gate {
            x = graph.squeeze_excite(x, pair(squeeze), pair(excite))?;
        }
        graph.gelu(x)
    }
}

impl Block {
    fn load(loader: &mut Loader<'_>, at: &str, width: usize, has_norm: bool) -> Result<Self, LoadError> {
        let mixer = if loader.has(&format!("{at}.token_mixer.qkv.weight")) {
            if !width.is_multiple_of(HEAD_WIDTH) {
                let cause = format!("heads of {HEAD_WIDTH} values do not divide a width of {width}");
                return loader.built(Err(candle_core::Error::Msg(cause)));
            }
            Mixer::Attention {
                heads: width / HEAD_WIDTH,
                has_norm,
                qkv: layer(loader, &format!("{at}.token_mixer.qkv"), &[3 * width, width])?,
                out: layer(loader, &format!("{at}.token_mixer.proj"), &[width, width])?,
            }
        } else {
            Mixer::Conv(depthwise(loader, &format!("{at}.token_mixer.reparam_conv"), width)?)
        };
        let inner = loader.dims(&format!("{at}.mlp.fc1.weight")).map_or(3 * width, |dims| dims[0]);
        let mlp = [
            depthwise(loader, &format!("{at}.mlp.conv.conv"), width)?,
            layer(loader, &format!("{at}.mlp.fc1"), &[inner, width, 1, 1])?,
            layer(loader, &format!("{at}.mlp.fc2"), &[width, inner, 1, 1])?,
        ];
        Ok(Self { mixer, mlp })
    }

    fn fuse<B: BuildHybrid>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let x = match &self.mixer {
            Mixer::Conv(layer) => filtered(graph, x, layer, 1)?,
            Mixer::Attention { heads, has_norm, qkv, out } => {
                let inner = if *has_norm { graph.channel_norm(x, EPSILON)? } else { x };
                let qkv = mixed(graph, inner, qkv, None)?;
                let attended = graph.attention(qkv, (*heads, HEAD_WIDTH))?;
                mixed(graph, attended, out, Some(x))?
            }
        };
        let [filter, widen, narrow] = &self.mlp;
        let inner = filtered(graph, x, filter, 1)?;
        let wide = mixed(graph, inner, widen, None)?;
        let wide = graph.gelu(wide)?;
        mixed(graph, wide, narrow, Some(x))
    }
}

impl FastVit {
    /// Adds the tower to a graph. Returns the value before the global average.
    pub fn fuse<B: BuildHybrid>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let [first, second, third] = &self.stem;
        let x = graph.conv(x, pair(first), (2, 1), None, Activation::Identity)?;
        let x = graph.gelu(x)?;
        let x = filtered(graph, x, second, 2)?;
        let x = graph.gelu(x)?;
        let x = mixed(graph, x, third, None)?;
        let mut x = graph.gelu(x)?;
        for stage in &self.stages {
            if let Some((begin, project)) = &stage.begin {
                x = begin.fuse(graph, x)?;
                x = mixed(graph, x, project, None)?;
                x = graph.gelu(x)?;
            }
            if let Some(positions) = &stage.positions {
                x = filtered(graph, x, positions, 1)?;
            }
            for block in &stage.blocks {
                x = block.fuse(graph, x)?;
            }
        }
        self.last.fuse(graph, x)
    }

    /// From pooled features to the embedding: weight (embedding, pooled) and bias.
    pub fn projection(&self) -> (&Tensor, &Tensor) {
        pair(&self.projection)
    }
}

fn pair((weight, bias): &LayerTensors) -> (&Tensor, &Tensor) {
    (weight, bias)
}

/// A depthwise convolution without activation.
fn filtered<B: BuildHybrid>(
    graph: &mut B,
    x: B::Value,
    layer: &LayerTensors,
    stride: usize,
) -> candle_core::Result<B::Value> {
    let padding = layer.0.dim(3)? / 2;
    graph.depthwise(x, pair(layer), (stride, padding), Activation::Identity)
}

/// A 1×1 convolution without activation.
fn mixed<B: BuildHybrid>(
    graph: &mut B,
    x: B::Value,
    layer: &LayerTensors,
    residual: Option<B::Value>,
) -> candle_core::Result<B::Value> {
    graph.conv(x, pair(layer), (1, 0), residual, Activation::Identity)
}

/// A tower on the CPU: pictures to embeddings of length 1.
#[derive(Clone, Debug)]
pub(super) struct MobileClip {
    pub tower: Fused,
    pooled: usize,
    projection: Head,
    pub embedding: usize,
}

impl MobileClip {
    /// # Errors
    /// When layers do not fit each other, or the tensors are not on the CPU.
    pub fn new(body: &FastVit, device: &Device) -> candle_core::Result<Self> {
        if !device.is_cpu() {
            bail!("MobileCLIP computes on the CPU only");
        }
        let (mut graph, picture) = Graph::new(Level::best(), Arithmetic::F32, 3)?;
        let last = body.fuse(&mut graph, picture)?;
        let (weight, bias) = body.projection();
        let (embedding, pooled) = weight.dims2()?;
        let projection = Head::new(weight, bias, device)?;
        Ok(Self { tower: Fused::new(graph.average(last)?), pooled, projection, embedding })
    }

    /// Pictures (N, 3, h, w), normalised → embeddings (N, [`MobileClip::embedding`]).
    ///
    /// # Errors
    /// As [`MobileClip::features_into`].
    pub fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n, _, h, w) = x.dims4()?;
        let mut features = Vec::new();
        self.features_into(&x.flatten_all()?.to_vec1::<f32>()?, (h, w), &mut features)?;
        Tensor::from_vec(features, (n, self.embedding), x.device())
    }

    /// Pictures (N, 3, h, w), normalised → embeddings (N, [`MobileClip::embedding`]), which are overwritten. A picture's embedding does not
    /// depend on its batch.
    ///
    /// # Errors
    /// When the pictures are too small for a layer's window.
    pub fn features_into(
        &self,
        pictures: &[f32],
        (h, w): (usize, usize),
        features: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        let mut pooled = vec![0f32; pictures.len() / (3 * h * w) * self.pooled];
        self.tower.forward_into(pictures, (h, w), &mut pooled)?;
        self.projection.forward_into(&pooled, features)?;
        for row in features.chunks_exact_mut(self.embedding) {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        Ok(())
    }
}
