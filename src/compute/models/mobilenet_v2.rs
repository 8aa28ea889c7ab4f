//! MobileNetV2 1.0, for inference.
//!
//! Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018. Tensors have
//! torchvision's names.

use candle_core::Tensor;

use super::loader::Loader;
use super::{Architecture, Assembled, Head, Layers, LoadError, Parts, Tensors};
use crate::nn::fused::{Arithmetic, Fused};
use crate::nn::{Activation, Build, Conv, Depthwise, Pointwise, global_average};

/// Length of the pooled features.
pub(super) const FEATURE_WIDTH: usize = 1280;

/// Name of the classifier's layer.
pub(super) const CLASSIFIER: &str = "classifier.1";

/// Output channels of the first convolution.
const STEM_WIDTH: usize = 32;

/// One row of the paper's table 2: `repeats` blocks that widen `expansion` times and return `outputs` channels. The first
/// block has `stride`, the others have stride 1.
struct Row {
    expansion: usize,
    outputs: usize,
    repeats: usize,
    stride: usize,
}

/// Table 2 of the paper, between the first and the last convolution.
#[rustfmt::skip]
const TABLE: [Row; 7] = [
    Row { expansion: 1, outputs:  16, repeats: 1, stride: 1 },
    Row { expansion: 6, outputs:  24, repeats: 2, stride: 2 },
    Row { expansion: 6, outputs:  32, repeats: 3, stride: 2 },
    Row { expansion: 6, outputs:  64, repeats: 4, stride: 2 },
    Row { expansion: 6, outputs:  96, repeats: 3, stride: 1 },
    Row { expansion: 6, outputs: 160, repeats: 3, stride: 2 },
    Row { expansion: 6, outputs: 320, repeats: 1, stride: 1 },
];

/// Table 2 of the paper as (expansion, outputs, repeats, stride of the first block), for networks in training.
pub fn table() -> impl Iterator<Item = (usize, usize, usize, usize)> {
    TABLE.iter().map(|row| (row.expansion, row.outputs, row.repeats, row.stride))
}

/// MobileNetV2 1.0 with batch norm folded into its convolutions.
#[derive(Clone, Debug)]
pub struct MobileNetV2(Assembled<NetworkBody>);

/// Everything before the classifier.
#[derive(Clone, Debug)]
pub(super) struct NetworkBody {
    stem: Conv,
    blocks: Vec<InvertedResidual>,
    last: Pointwise,
}

/// Widen (1×1), filter each channel (3×3), narrow (1×1, linear).
#[derive(Clone, Debug)]
struct InvertedResidual {
    /// Absent where the expansion is 1.
    expand: Option<Pointwise>,
    filter: Depthwise,
    project: Pointwise,
    /// Whether the input is added to the result.
    shortcut: bool,
}

/// Reads the layers from tensors named as in torchvision.
pub(super) fn parts(tensors: &Tensors, classes: Option<usize>) -> Result<Parts<NetworkBody>, LoadError> {
    let mut loader = Loader::new(Architecture::MobileNetV2, tensors, str::to_owned);
    let stem = loader.conv(("features.0.0", "features.0.1"), (3, STEM_WIDTH), (3, 2), Activation::Relu6)?;
    let mut blocks = Vec::new();
    let mut inputs = STEM_WIDTH;
    for Row { expansion, outputs, repeats, stride } in TABLE {
        for repeat in 0..repeats {
            let name = format!("features.{}.conv", blocks.len() + 1);
            let stride = if repeat == 0 { stride } else { 1 };
            blocks.push(InvertedResidual::load(&mut loader, &name, (inputs, outputs), expansion, stride)?);
            inputs = outputs;
        }
    }
    let name = format!("features.{}", blocks.len() + 1);
    let names = (format!("{name}.0"), format!("{name}.1"));
    let last = loader.pointwise((&names.0, &names.1), (inputs, FEATURE_WIDTH), Activation::Relu6)?;
    let classifier = loader.classifier(CLASSIFIER, FEATURE_WIDTH, classes)?;
    loader.finish(None, NetworkBody { stem, blocks, last }, classifier)
}

impl MobileNetV2 {
    /// Builds the network from tensors named as in torchvision (`features.0.0.weight`, `features.1.conv.0.0.weight`, …,
    /// `features.18.1.running_var`, and with `classes` also `classifier.1.weight` and `.bias`).
    ///
    /// # Errors
    /// As [`super::Network::load`].
    pub fn load(tensors: &Tensors, classes: Option<usize>, arithmetic: Arithmetic<'_>) -> Result<Self, LoadError> {
        Assembled::new(Architecture::MobileNetV2, parts(tensors, classes)?, arithmetic).map(Self)
    }

    pub(super) fn fused(&self) -> Option<&Fused> {
        self.0.backbone.fused()
    }

    pub(super) fn classifier(&self) -> &Head {
        &self.0.head
    }

    /// Outputs of the classifier; `None` without one.
    pub fn classes(&self) -> Option<usize> {
        self.0.head.classes()
    }

    /// (N, 3, H, W) → (N, 1280). See [`super::Network::features`].
    ///
    /// # Errors
    /// As [`super::Network::features`].
    pub fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.0.features(x)
    }

    /// (N, 1280) → (N, classes). See [`super::Network::head`].
    ///
    /// # Errors
    /// As [`super::Network::head`].
    pub fn head(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        self.0.head.forward(features)
    }

    /// (N, 3, H, W) → (N, classes).
    ///
    /// # Errors
    /// As [`super::Network::forward`].
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.head(&self.features(x)?)
    }
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
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        (inputs, outputs): (usize, usize),
        expansion: usize,
        stride: usize,
    ) -> Result<Self, LoadError> {
        let hidden = inputs * expansion;
        // Names are numbered by existing layers: without the expansion, the others move up by one.
        let mut layer = 0;
        let mut inner = || {
            layer += 1;
            (format!("{name}.{}.0", layer - 1), format!("{name}.{}.1", layer - 1))
        };
        let expand = if expansion == 1 {
            None
        } else {
            let (conv, norm) = inner();
            Some(loader.pointwise((&conv, &norm), (inputs, hidden), Activation::Relu6)?)
        };
        let (conv, norm) = inner();
        let filter = loader.depthwise((&conv, &norm), hidden, stride, Activation::Relu6)?;
        let (conv, norm) = (format!("{name}.{layer}"), format!("{name}.{}", layer + 1));
        let project = loader.pointwise((&conv, &norm), (hidden, outputs), Activation::Identity)?;
        Ok(Self { expand, filter, project, shortcut: stride == 1 && inputs == outputs })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let wide = match &self.expand {
            Some(expand) => self.filter.forward(&expand.forward(x)?)?,
            None => self.filter.forward(x)?,
        };
        if self.shortcut { self.project.forward_residual(&wide, x) } else { self.project.forward(&wide) }
    }

    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let wide = match &self.expand {
            Some(expand) => expand.fuse(graph, x, None)?,
            None => x,
        };
        let wide = self.filter.fuse(graph, wide)?;
        self.project.fuse(graph, wide, self.shortcut.then_some(x))
    }
}
