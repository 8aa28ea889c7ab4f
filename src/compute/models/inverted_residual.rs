//! Networks of inverted residuals for inference: MobileNetV2 and EfficientNet-Lite.
//!
//! Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018.

use candle_core::Tensor;

use super::loader::Loader;
use super::{Architecture, Layers, LoadError, Parts, Tensors};
use crate::nn::{Activation, Build, Conv, Depthwise, Pointwise, global_average};

/// Length of the pooled features.
pub(super) const FEATURE_WIDTH: usize = 1280;

/// Output channels of the first convolution.
pub const STEM_WIDTH: usize = 32;

/// Names of a convolution and of the batch norm after it, without `.weight`, `.bias` and so on.
pub type LayerNames = (String, String);

/// The layers of a network of inverted residuals and the names of their tensors. Every activation is ReLU6.
#[derive(Clone, Debug)]
pub struct InvertedResidualPlan {
    /// 3×3 convolution with stride 2 from the picture to [`STEM_WIDTH`] channels.
    pub stem: LayerNames,
    /// The inverted residuals, in the order of computation.
    pub blocks: Vec<BlockPlan>,
    /// 1×1 convolution to the pooled features.
    pub last: LayerNames,
    /// Name of the classifier's layer.
    pub classifier: &'static str,
}

impl InvertedResidualPlan {
    /// Output channels of the last block.
    pub fn outputs(&self) -> usize {
        self.blocks.last().map_or(STEM_WIDTH, |block| block.outputs)
    }
}

/// One inverted residual. Its input is added to its output when [`BlockPlan::has_shortcut`].
#[derive(Clone, Debug)]
pub struct BlockPlan {
    /// Name of the block, for messages.
    pub name: String,
    /// Input channels.
    pub inputs: usize,
    /// Channels of the depthwise convolution.
    pub hidden: usize,
    /// Output channels.
    pub outputs: usize,
    /// Side of the depthwise kernel, pixels.
    pub kernel: usize,
    /// Stride of the depthwise convolution.
    pub stride: usize,
    /// 1×1 convolution to `hidden` channels; `None` where `hidden` equals `inputs`.
    pub expand: Option<LayerNames>,
    /// Depthwise convolution.
    pub filter: LayerNames,
    /// 1×1 convolution to `outputs` channels, without activation.
    pub project: LayerNames,
}

impl BlockPlan {
    /// Whether input and output have the same shape and are added.
    pub fn has_shortcut(&self) -> bool {
        self.stride == 1 && self.inputs == self.outputs
    }
}

/// A stage of a network: `repeats` blocks. The first has `stride`, the others have stride 1.
pub(super) struct Stage {
    pub kernel: usize,
    pub expansion: usize,
    pub outputs: usize,
    pub repeats: usize,
    pub stride: usize,
}

/// The blocks of `stages`. `names` returns the block's name and the names of its layers from the block's number and whether it has
/// an expansion.
pub(super) fn blocks(
    stages: impl IntoIterator<Item = Stage>,
    names: impl Fn(usize, bool) -> (String, Option<LayerNames>, LayerNames, LayerNames),
) -> Vec<BlockPlan> {
    let mut blocks: Vec<BlockPlan> = Vec::new();
    let mut inputs = STEM_WIDTH;
    for Stage { kernel, expansion, outputs, repeats, stride } in stages {
        for repeat in 0..repeats {
            let (name, expand, filter, project) = names(blocks.len(), expansion != 1);
            let stride = if repeat == 0 { stride } else { 1 };
            let hidden = inputs * expansion;
            blocks.push(BlockPlan { name, inputs, hidden, outputs, kernel, stride, expand, filter, project });
            inputs = outputs;
        }
    }
    blocks
}

/// Everything before the classifier, with batch norm folded into the convolutions.
#[derive(Clone, Debug)]
pub(super) struct NetworkBody {
    stem: Conv,
    blocks: Vec<InvertedResidual>,
    last: Pointwise,
}

/// Widen (1×1), filter each channel (k×k), narrow (1×1, linear).
#[derive(Clone, Debug)]
struct InvertedResidual {
    expand: Option<Pointwise>,
    filter: Depthwise,
    project: Pointwise,
    has_shortcut: bool,
}

/// Reads the layers of `plan`.
pub(super) fn parts(
    architecture: Architecture,
    plan: &InvertedResidualPlan,
    tensors: &Tensors,
    classes: Option<usize>,
) -> Result<Parts<NetworkBody>, LoadError> {
    let mut loader = Loader::new(architecture, tensors, str::to_owned);
    let stem = loader.conv((&plan.stem.0, &plan.stem.1), (3, STEM_WIDTH), (3, 2), Activation::Relu6)?;
    let mut blocks = Vec::with_capacity(plan.blocks.len());
    for block in &plan.blocks {
        blocks.push(InvertedResidual::load(&mut loader, block)?);
    }
    let last = loader.pointwise((&plan.last.0, &plan.last.1), (plan.outputs(), FEATURE_WIDTH), Activation::Relu6)?;
    let classifier = loader.classifier(plan.classifier, FEATURE_WIDTH, classes)?;
    loader.finish(None, NetworkBody { stem, blocks, last }, classifier)
}

impl Layers for NetworkBody {
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        global_average(&self.last.forward(&x)?)
    }

    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let mut x = self.stem.fuse(graph, x, None)?;
        for block in &self.blocks {
            x = block.fuse(graph, x)?;
        }
        self.last.fuse(graph, x, None)
    }
}

impl InvertedResidual {
    fn load(loader: &mut Loader<'_>, plan: &BlockPlan) -> Result<Self, LoadError> {
        let expand = match &plan.expand {
            Some((conv, norm)) => {
                Some(loader.pointwise((conv, norm), (plan.inputs, plan.hidden), Activation::Relu6)?)
            }
            None => None,
        };
        let (conv, norm) = &plan.filter;
        let filter = loader.depthwise((conv, norm), plan.hidden, (plan.kernel, plan.stride), Activation::Relu6)?;
        let (conv, norm) = &plan.project;
        let project = loader.pointwise((conv, norm), (plan.hidden, plan.outputs), Activation::Identity)?;
        Ok(Self { expand, filter, project, has_shortcut: plan.has_shortcut() })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let wide = match &self.expand {
            Some(expand) => self.filter.forward(&expand.forward(x)?)?,
            None => self.filter.forward(x)?,
        };
        if self.has_shortcut { self.project.forward_residual(&wide, x) } else { self.project.forward(&wide) }
    }

    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let wide = match &self.expand {
            Some(expand) => expand.fuse(graph, x, None)?,
            None => x,
        };
        let wide = self.filter.fuse(graph, wide)?;
        self.project.fuse(graph, wide, self.has_shortcut.then_some(x))
    }
}
