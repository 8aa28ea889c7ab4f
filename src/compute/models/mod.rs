//! The networks, for inference: their tables, their weights from safetensors files, batch norm folded at load.
//!
//! Not here: networks that learn (the crate `touchline-learn`), which keep batch norm as a layer of its own, and the packs that say which network and file
//! belong to which modality.

#[cfg(feature = "cuda")]
pub mod gpu;
mod head;
pub mod import;
mod int8;
mod loader;
mod mobilenet_v2;
pub mod pack;
mod ranges;
mod resnet50;
mod weights;

use candle_core::{Device, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::nn::fused::{Arithmetic, Fused, Graph, LayerCost, Level, Observed};
use crate::nn::{Build, ScaleShift};
use head::Head;
pub use loader::LoadError;
pub use mobilenet_v2::MobileNetV2;
pub use mobilenet_v2::table as mobilenet_v2_table;
pub use ranges::{read_ranges, save_ranges};
pub use resnet50::stages as resnet50_stages;
pub use resnet50::{ResNet50, mxnet_name};
pub use weights::{Tensors, WeightsFile, check_finite, read_weights, read_weights_verified, save_f16, sha256_hex};

/// Which network a weights file belongs to, under the name that a model pack gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// MobileNetV2 1.0: see [`MobileNetV2`].
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// ResNet50 v1.5: see [`ResNet50::load`].
    #[serde(rename = "resnet50")]
    ResNet50,
    /// ResNet50 v2, pre-activation: see [`ResNet50::load_v2`].
    #[serde(rename = "resnet50_v2")]
    ResNet50V2,
}

impl Architecture {
    /// The name in packs and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::MobileNetV2 => "mobilenet_v2",
            Architecture::ResNet50 => "resnet50",
            Architecture::ResNet50V2 => "resnet50_v2",
        }
    }

    /// Names and shapes of all tensors of the network, in the order of computation: backbone, then a classifier of
    /// `classes` outputs. Names are torchvision's (of v2, those in its manner).
    pub fn tensors(self, classes: usize) -> Vec<(String, Vec<usize>)> {
        // One place knows the network's table: given nothing, it says all that it lacks.
        match Network::load(self, &Tensors::new(), Some(classes)) {
            Err(LoadError::Missing { names, shapes, .. }) => names.into_iter().zip(shapes).collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// Name of the classifier's layer.
    pub const fn classifier(self) -> &'static str {
        match self {
            Architecture::MobileNetV2 => mobilenet_v2::CLASSIFIER,
            Architecture::ResNet50 | Architecture::ResNet50V2 => resnet50::CLASSIFIER,
        }
    }

    /// Length of the pooled feature vector that the classifier reads.
    pub const fn feature_width(self) -> usize {
        match self {
            Architecture::MobileNetV2 => mobilenet_v2::FEATURE_WIDTH,
            Architecture::ResNet50 | Architecture::ResNet50V2 => resnet50::FEATURE_WIDTH,
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A loaded network of any [`Architecture`]. It computes on the device its tensors are on, in `f32` unless told otherwise.
#[derive(Clone, Debug)]
pub enum Network {
    MobileNetV2(MobileNetV2),
    ResNet50(ResNet50),
}

impl Network {
    /// Builds the network from named tensors (`f16`, `bf16`, `f32` or `f64`). With `classes`, a classifier of exactly
    /// that many outputs must be among them; without, a classifier is not looked for and only [`Self::features`] works.
    ///
    /// # Errors
    /// [`LoadError::Missing`] with all that is missing counted, [`LoadError::Shape`] and [`LoadError::DType`] for the
    /// first tensor that does not fit. Tensors that the network does not have are passed over.
    pub fn load(architecture: Architecture, tensors: &Tensors, classes: Option<usize>) -> Result<Self, LoadError> {
        Self::load_as(architecture, tensors, classes, Arithmetic::F32)
    }

    /// As [`Network::load`], to compute in this arithmetic on the CPU.
    ///
    /// # Errors
    /// As [`Network::load`]; [`LoadError::Build`] when ranges for int8 are not this network's.
    pub fn load_as(
        architecture: Architecture,
        tensors: &Tensors,
        classes: Option<usize>,
        arithmetic: Arithmetic<'_>,
    ) -> Result<Self, LoadError> {
        Ok(match architecture {
            Architecture::MobileNetV2 => Network::MobileNetV2(MobileNetV2::load(tensors, classes, arithmetic)?),
            Architecture::ResNet50 => Network::ResNet50(ResNet50::load(tensors, classes, arithmetic)?),
            Architecture::ResNet50V2 => Network::ResNet50(ResNet50::load_v2(tensors, classes, arithmetic)?),
        })
    }

    /// Length of the pooled feature vector.
    pub const fn feature_width(&self) -> usize {
        match self {
            Network::MobileNetV2(_) => mobilenet_v2::FEATURE_WIDTH,
            Network::ResNet50(_) => resnet50::FEATURE_WIDTH,
        }
    }

    /// Outputs of the classifier; `None` without one.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Network::MobileNetV2(network) => network.classes(),
            Network::ResNet50(network) => network.classes(),
        }
    }

    /// Pictures (N, 3, H, W), normalised, H and W at least 32 → pooled features (N, [`Self::feature_width`]).
    ///
    /// # Errors
    /// When `x` is not such a tensor of contiguous `f32`.
    pub fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Network::MobileNetV2(network) => network.features(x),
            Network::ResNet50(network) => network.features(x),
        }
    }

    /// Pooled features (N, [`Self::feature_width`]) → logits (N, classes).
    ///
    /// # Errors
    /// When the network was loaded without a classifier, or the shape does not fit.
    pub fn head(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Network::MobileNetV2(network) => network.head(features),
            Network::ResNet50(network) => network.head(features),
        }
    }

    /// What each layer costs on the CPU, for `n` pictures of `h` × `w`: see [`Fused::profile`]. Empty on a device.
    ///
    /// # Errors
    /// When the pictures are too small.
    pub fn profile(&self, n: usize, (h, w): (usize, usize), rounds: usize) -> candle_core::Result<Vec<LayerCost>> {
        self.fused().map_or(Ok(Vec::new()), |fused| fused.profile((n, h, w), rounds))
    }

    /// Counts the values of the network on pictures (N, 3, H, W): see [`Fused::observe`].
    ///
    /// # Errors
    /// When the network does not compute in `f32` on the CPU, or `x` does not fit.
    pub fn observe(&self, x: &Tensor, observed: &mut Observed) -> candle_core::Result<()> {
        match self.fused() {
            Some(fused) => fused.observe(x, observed),
            None => bail!("values are observed on the CPU only"),
        }
    }

    fn fused(&self) -> Option<&Fused> {
        match self {
            Network::MobileNetV2(network) => network.fused(),
            Network::ResNet50(network) => network.fused(),
        }
    }

    /// Pictures (N, 3, H, W) → logits (N, classes): [`Self::features`], then [`Self::head`]. On the CPU a picture's logits
    /// do not depend on what else is in the batch.
    ///
    /// # Errors
    /// As these two.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.head(&self.features(x)?)
    }

    /// The same without tensors, and bit for bit: `pictures`, (N, 3, height, width) as they lie, become `logits`, (N, classes).
    /// `pictures` may be written to. Where both vectors have the room nothing is allocated that grows with N.
    ///
    /// # Errors
    /// When the network has no classifier or does not compute on the CPU, or the pictures are too small for it.
    ///
    /// # Panics
    /// If `pictures` is no whole number of them.
    pub fn logits_into(
        &self,
        pictures: &mut [f32],
        (width, height): (usize, usize),
        features: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        let (head, norm) = match self {
            Network::MobileNetV2(network) => (network.classifier(), None),
            Network::ResNet50(network) => (network.classifier(), network.input_norm()),
        };
        let Some(fused) = self.fused() else { bail!("pictures in memory are for networks on the CPU") };
        let picture = 3 * height * width;
        assert_eq!(pictures.len() % picture, 0, "pictures of 3 x {height} x {width}");
        if height < MIN_SIDE || width < MIN_SIDE {
            bail!("wants pictures of at least {MIN_SIDE} pixels a side, got {width} x {height}");
        }
        if let Some(norm) = norm {
            norm.apply(pictures, height * width)?;
        }
        features.clear();
        features.resize(pictures.len() / picture * self.feature_width(), 0.0);
        fused.forward_into(pictures, (height, width), features)?;
        head.forward_into(features, logits)
    }
}

/// The smallest side of a picture: all networks here halve it five times.
const MIN_SIDE: usize = 32;

/// The layers of a network from the picture to the pooled features.
trait Layers {
    /// Runs them one by one: (N, 3, H, W) → (N, features).
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor>;

    /// Puts them into a graph; returns what the average is taken of.
    fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> candle_core::Result<B::Value>;
}

/// The layers of a network as read from tensors, before they are built for a device.
struct Parts<L> {
    /// Where the tensors are.
    device: Device,
    /// Scale and shift of the picture itself; ResNet50 v2 from MXNet only.
    input_norm: Option<ScaleShift>,
    body: L,
    /// Weight (classes, features) and bias (classes), both `f32`.
    classifier: Option<(Tensor, Tensor)>,
}

/// A network on the CPU, or on another device that candle has ops for.
#[derive(Clone, Debug)]
struct Assembled<L> {
    input_norm: Option<ScaleShift>,
    backbone: Backbone<L>,
    head: Head,
}

impl<L: Layers> Assembled<L> {
    /// `arithmetic` is that of the CPU; other devices compute in `f32`.
    fn new(architecture: Architecture, parts: Parts<L>, arithmetic: Arithmetic<'_>) -> Result<Self, LoadError> {
        let Parts { device, input_norm, body, classifier } = parts;
        let build = || {
            let head = match &classifier {
                Some((weight, bias)) => Head::new(weight, bias, &device)?,
                None => Head::None,
            };
            Ok(Self { input_norm, backbone: Backbone::new(body, &device, arithmetic)?, head })
        };
        build().map_err(|cause| LoadError::Build { architecture, cause })
    }

    fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.input_norm {
            Some(norm) => self.backbone.features(&norm.forward(x)?),
            None => self.backbone.features(x),
        }
    }
}

/// A network without its classifier.
#[derive(Clone, Debug)]
enum Backbone<L> {
    /// On the CPU: all layers as one op.
    Fused(Fused),
    /// On another device, as far as candle has ops for it.
    Layers(L),
}

impl<L: Layers> Backbone<L> {
    fn new(layers: L, device: &Device, arithmetic: Arithmetic<'_>) -> candle_core::Result<Self> {
        if !device.is_cpu() {
            return Ok(Backbone::Layers(layers));
        }
        let (mut graph, picture) = Graph::new(Level::best(), arithmetic, 3)?;
        let last = layers.fuse(&mut graph, picture)?;
        Ok(Backbone::Fused(Fused::new(graph.average(last)?)))
    }

    fn fused(&self) -> Option<&Fused> {
        match self {
            Backbone::Fused(fused) => Some(fused),
            Backbone::Layers(_) => None,
        }
    }

    /// Pictures (N, 3, H, W), H and W at least [`MIN_SIDE`] → pooled features.
    fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match *x.dims() {
            [n, 3, h, w] if n > 0 && h >= MIN_SIDE && w >= MIN_SIDE => {}
            _ => bail!("wants pictures (N, 3, H, W) with H and W at least {MIN_SIDE}, got shape {:?}", x.dims()),
        }
        match self {
            Backbone::Fused(fused) => fused.forward(x),
            Backbone::Layers(layers) => layers.run(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted in torchvision: 314 and 320 entries in the state dict, of which 52 and 53 count batches.
    #[test]
    fn the_tensors_of_a_network_are_torchvisions() {
        for (architecture, count, classifier) in
            [(Architecture::MobileNetV2, 314 - 52, 1280), (Architecture::ResNet50, 320 - 53, 2048)]
        {
            let tensors = architecture.tensors(7);
            assert_eq!(tensors.len(), count, "{architecture}");
            let name = format!("{}.weight", architecture.classifier());
            assert!(tensors.contains(&(name, vec![7, classifier])), "{architecture}");
        }
    }
}
