//! ResNet50 in its two orders, for inference.
//!
//! - *v1.5*: convolution, batch norm, ReLU, with the stride in the 3×3 convolution. He et al., *Deep Residual Learning
//!   for Image Recognition*, CVPR 2016; the place of the stride is torchvision's.
//! - *v2* (pre-activation): batch norm, ReLU, convolution, and nothing on the shortcut. He et al., *Identity Mappings in
//!   Deep Residual Networks*, ECCV 2016; the stride is in the 3×3 convolution as in MXNet's model zoo.

use candle_core::Tensor;

use super::loader::Loader;
use super::{Architecture, Layers, LoadError, Parts, Tensors};
use crate::nn::{Activation, Build, Conv, Pointwise, ScaleShift, global_average, max_pool2d};

/// Length of the pooled features.
pub(super) const FEATURE_WIDTH: usize = 2048;

/// Name of the classifier's layer.
pub(super) const CLASSIFIER: &str = "fc";

/// Output channels of the first convolution.
const STEM_WIDTH: usize = 64;

/// Output channels of a block, as a multiple of the channels of its 3×3 convolution.
const EXPANSION: usize = 4;

/// One group of blocks: column "50-layer" of the first paper's table 1.
struct BottleneckStage {
    /// Channels of the 3×3 convolutions.
    width: usize,
    blocks: usize,
    /// Stride of the first block.
    stride: usize,
}

#[rustfmt::skip]
const STAGES: [BottleneckStage; 4] = [
    BottleneckStage { width:  64, blocks: 3, stride: 1 },
    BottleneckStage { width: 128, blocks: 4, stride: 2 },
    BottleneckStage { width: 256, blocks: 6, stride: 2 },
    BottleneckStage { width: 512, blocks: 3, stride: 2 },
];

/// Every block as (name, inputs, width, stride), for networks in training.
pub fn stages() -> Vec<(String, usize, usize, usize)> {
    let block = |name: &str, (inputs, width): (usize, usize), stride| Ok((name.to_owned(), inputs, width, stride));
    for_each_block(block).expect("nothing is loaded")
}

/// Everything between the picture and the classifier, with batch norm folded into the convolution before it wherever there is one.
#[derive(Clone, Debug)]
pub(super) struct NetworkBody {
    stem: Conv,
    blocks: Vec<Bottleneck>,
    /// After the last block: v2 only.
    last_norm: Option<ScaleShift>,
}

/// Narrow (1×1), filter (3×3), widen (1×1), beside a shortcut.
#[derive(Clone, Debug)]
struct Bottleneck {
    /// Before everything: v2 only.
    pre: Option<ScaleShift>,
    reduce: Pointwise,
    filter: Conv,
    /// Adds the shortcut, and in v1.5 activates the sum.
    widen: Conv,
    /// The shortcut's projection, where size or channels change.
    project: Option<Conv>,
}

/// Reads the layers of v1.5.
pub(super) fn parts(tensors: &Tensors, classes: Option<usize>) -> Result<Parts<NetworkBody>, LoadError> {
    let mut loader = Loader::new(Architecture::ResNet50, tensors, str::to_owned);
    let stem = loader.conv(("conv1", "bn1"), (3, STEM_WIDTH), (7, 2), Activation::Relu)?;
    let blocks = for_each_block(|name, channels, stride| Bottleneck::load(&mut loader, name, channels, stride))?;
    let classifier = loader.classifier(CLASSIFIER, FEATURE_WIDTH, classes)?;
    loader.finish(None, NetworkBody { stem, blocks, last_norm: None }, classifier)
}

/// Reads the layers of v2, under either set of names.
pub(super) fn parts_v2(tensors: &Tensors, classes: Option<usize>) -> Result<Parts<NetworkBody>, LoadError> {
    let mxnet_prefix = tensors.keys().find_map(|name| name.strip_suffix("stage1_conv0_weight"));
    let rename = |name: &str| match mxnet_prefix {
        Some(prefix) => mxnet_name(name).map_or_else(|| name.to_owned(), |name| format!("{prefix}{name}")),
        None => name.to_owned(),
    };
    let mut loader = Loader::new(Architecture::ResNet50V2, tensors, rename);
    let input_norm = if mxnet_prefix.is_some() || loader.has("bn0.running_mean") {
        Some(loader.scale_shift("bn0", 3, Activation::Identity)?)
    } else {
        None
    };
    let stem = loader.conv(("conv1", "bn1"), (3, STEM_WIDTH), (7, 2), Activation::Relu)?;
    let blocks = for_each_block(|name, channels, stride| Bottleneck::load_v2(&mut loader, name, channels, stride))?;
    let last_norm = Some(loader.scale_shift("norm", FEATURE_WIDTH, Activation::Relu)?);
    let classifier = loader.classifier(CLASSIFIER, FEATURE_WIDTH, classes)?;
    loader.finish(input_norm, NetworkBody { stem, blocks, last_norm }, classifier)
}

impl Layers for NetworkBody {
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = max_pool2d(&self.stem.forward(x)?, 3, 2, 1)?;
        for block in &self.blocks {
            x = block.forward(x)?;
        }
        if let Some(norm) = &self.last_norm {
            x = norm.forward(&x)?;
        }
        global_average(&x)
    }

    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let x = self.stem.fuse(graph, x, None)?;
        let mut x = graph.max_pool(x, 3, 2, 1)?;
        for block in &self.blocks {
            x = block.fuse(graph, x)?;
        }
        match &self.last_norm {
            Some(norm) => norm.fuse(graph, x),
            None => Ok(x),
        }
    }
}

/// Calls `load(name, (inputs, width), stride of the block)` for every block of [`STAGES`].
fn for_each_block<T>(
    mut load: impl FnMut(&str, (usize, usize), usize) -> Result<T, LoadError>,
) -> Result<Vec<T>, LoadError> {
    let mut loaded = Vec::new();
    let mut inputs = STEM_WIDTH;
    for (stage, BottleneckStage { width, blocks, stride }) in STAGES.iter().enumerate() {
        for block in 0..*blocks {
            let name = format!("layer{}.{block}", stage + 1);
            loaded.push(load(&name, (inputs, *width), if block == 0 { *stride } else { 1 })?);
            inputs = width * EXPANSION;
        }
    }
    Ok(loaded)
}

impl Bottleneck {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        (inputs, width): (usize, usize),
        stride: usize,
    ) -> Result<Self, LoadError> {
        let outputs = width * EXPANSION;
        let at = |layer: &str| format!("{name}.{layer}");
        let reduce = loader.pointwise((&at("conv1"), &at("bn1")), (inputs, width), Activation::Relu)?;
        let filter = loader.conv((&at("conv2"), &at("bn2")), (width, width), (3, stride), Activation::Relu)?;
        let widen = loader.conv((&at("conv3"), &at("bn3")), (width, outputs), (1, 1), Activation::Relu)?;
        let project = if inputs == outputs && stride == 1 {
            None
        } else {
            let names = (at("downsample.0"), at("downsample.1"));
            let names = (names.0.as_str(), names.1.as_str());
            Some(loader.conv(names, (inputs, outputs), (1, stride), Activation::Identity)?)
        };
        Ok(Self { pre: None, reduce, filter, widen, project })
    }

    fn load_v2(
        loader: &mut Loader<'_>,
        name: &str,
        (inputs, width): (usize, usize),
        stride: usize,
    ) -> Result<Self, LoadError> {
        let outputs = width * EXPANSION;
        let at = |layer: &str| format!("{name}.{layer}");
        let pre = Some(loader.scale_shift(&at("bn1"), inputs, Activation::Relu)?);
        // Inside a block a norm follows each convolution and is folded into it.
        let reduce = loader.pointwise((&at("conv1"), &at("bn2")), (inputs, width), Activation::Relu)?;
        let filter = loader.conv((&at("conv2"), &at("bn3")), (width, width), (3, stride), Activation::Relu)?;
        let widen = loader.bare_conv(&at("conv3"), (width, outputs), (1, 1))?;
        let project = if inputs == outputs && stride == 1 {
            None
        } else {
            Some(loader.bare_conv(&at("downsample"), (inputs, outputs), (1, stride))?)
        };
        Ok(Self { pre, reduce, filter, widen, project })
    }

    fn forward(&self, x: Tensor) -> candle_core::Result<Tensor> {
        let activated = match &self.pre {
            Some(pre) => pre.forward(&x)?,
            None => x.clone(),
        };
        let inner = self.filter.forward(&self.reduce.forward(&activated)?)?;
        match &self.project {
            Some(project) => self.widen.forward_residual(&inner, &project.forward(&activated)?),
            None => self.widen.forward_residual(&inner, &x),
        }
    }

    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value> {
        let activated = match &self.pre {
            Some(pre) => pre.fuse(graph, x)?,
            None => x,
        };
        let narrow = self.reduce.fuse(graph, activated, None)?;
        let inner = self.filter.fuse(graph, narrow, None)?;
        let shortcut = match &self.project {
            Some(project) => project.fuse(graph, activated, None)?,
            None => x,
        };
        self.widen.fuse(graph, inner, Some(shortcut))
    }
}

/// Converts the name of a tensor of v2 from torchvision's style to that of MXNet's model zoo, without the prefix
/// (`resnetv24_`). `None` for an unknown name.
///
/// MXNet counts the norms and convolutions of a stage through all its blocks, the projection of the shortcut last in
/// the first block: `layer2.1.conv3.weight` is `stage2_conv6_weight`, `layer2.1.bn1.weight` is
/// `stage2_batchnorm3_gamma`.
pub fn mxnet_name(name: &str) -> Option<String> {
    let (layer, part) = name.rsplit_once('.')?;
    let norm_part = match part {
        "weight" => "gamma",
        "bias" => "beta",
        "running_mean" | "running_var" => part,
        _ => return None,
    };
    match (layer, part) {
        ("bn0", _) => return Some(format!("batchnorm0_{norm_part}")),
        ("bn1", _) => return Some(format!("batchnorm1_{norm_part}")),
        ("norm", _) => return Some(format!("batchnorm2_{norm_part}")),
        ("conv1", "weight") => return Some("conv0_weight".to_owned()),
        ("fc", "weight" | "bias") => return Some(format!("dense0_{part}")),
        _ => {}
    }
    let (stage, rest) = layer.strip_prefix("layer")?.split_once('.')?;
    let (block, layer) = rest.split_once('.')?;
    let block: usize = block.parse().ok()?;
    // The first block has one more convolution, the projection.
    let conv = |n: usize| if block == 0 { n } else { 3 * block + 1 + n };
    match (layer, part) {
        ("conv1", "weight") => Some(format!("stage{stage}_conv{}_weight", conv(0))),
        ("conv2", "weight") => Some(format!("stage{stage}_conv{}_weight", conv(1))),
        ("conv3", "weight") => Some(format!("stage{stage}_conv{}_weight", conv(2))),
        ("downsample", "weight") if block == 0 => Some(format!("stage{stage}_conv3_weight")),
        ("bn1", _) => Some(format!("stage{stage}_batchnorm{}_{norm_part}", 3 * block)),
        ("bn2", _) => Some(format!("stage{stage}_batchnorm{}_{norm_part}", 3 * block + 1)),
        ("bn3", _) => Some(format!("stage{stage}_batchnorm{}_{norm_part}", 3 * block + 2)),
        _ => None,
    }
}
