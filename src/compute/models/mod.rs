//! The networks for inference: their architectures, weights from safetensors files, and model packs. Batch norm is folded
//! into convolutions at load.
//!
//! Networks for training are in the crate `touchline-learn`; they keep batch norm as a layer.

mod efficientnet_lite;
mod encoder;
pub mod export;
pub mod foundation;
#[cfg(feature = "cuda")]
pub mod gpu;
mod head;
pub mod import;
mod int8;
mod inverted_residual;
mod loader;
mod manifest;
mod mobile_clip;
mod mobilenet_v2;
pub mod pack;
mod ranges;
mod resnet50;
#[cfg(test)]
mod tests;
pub mod timm;
mod weights;
mod zero_shot;

use candle_core::{Device, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::nn::fused::{Arithmetic, Fused, Graph, LayerCost, Level, Observed};
use crate::nn::{Build, Padding, ScaleShift};
use encoder::Encoder;
use head::Head;
pub use inverted_residual::{BlockPlan, InvertedResidualPlan, LayerNames, STEM_WIDTH};
pub use loader::LoadError;
use mobile_clip::MobileClip;
pub use mobile_clip::{FoldedTower, fold_mobile_clip};
pub use ranges::{read_ranges, save_ranges};
pub use resnet50::mxnet_name;
pub use resnet50::stages as resnet50_stages;
pub use weights::{Tensors, WeightsFile, check_finite, read_weights, read_weights_verified, save_f16, sha256_hex};

/// The network that a weights file is for, as named in model packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// The picture tower of CLIP, a vision transformer of any size, with the names of `transformers`. Its features are the projected
    /// embedding, of length 1. Beside the weights the file has `config.heads` and `config.quick_gelu` (0 or 1), one value each.
    #[serde(rename = "clip_vit")]
    ClipVit,
    /// DINOv2, a vision transformer of any size, with the names of `transformers`. Its features are the class token and the mean of
    /// the patches, both after the last norm. Beside the weights the file has `config.heads`.
    #[serde(rename = "dinov2")]
    DinoV2,
    /// EfficientNet-Lite0.
    #[serde(rename = "efficientnet_lite0")]
    EfficientNetLite0,
    /// EfficientNet-Lite2.
    #[serde(rename = "efficientnet_lite2")]
    EfficientNetLite2,
    /// The picture tower of MobileCLIP and MobileCLIP2, a FastViT of any size, with the names of `timm` and one convolution in the place of
    /// each block's branches. Its features are the projected embedding, of length 1. Norms before attention are part of the layer after
    /// them; `config.pixel_norm` (0 or 1) says whether pixels are still scaled there.
    #[serde(rename = "mobileclip")]
    MobileClip,
    /// MobileNetV2 1.0.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// ResNet50 v1.5, with torchvision's names.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// ResNet50 v2, pre-activation. Tensors are named in torchvision's style or as in MXNet's model zoo (see [`mxnet_name`]); which of
    /// the two is detected. In torchvision's style a block has, in the order of computation: `layerL.B.bn1`, `.conv1.weight`, `.bn2`,
    /// `.conv2.weight`, `.bn3`, `.conv3.weight`, and in the first block of a stage `.downsample.weight`, which reads the output of `bn1`
    /// and ReLU. Before the blocks come `conv1.weight` and `bn1`, after them `norm` and the classifier `fc`. A `bn0` on the picture itself
    /// is used if it is there.
    #[serde(rename = "resnet50_v2")]
    ResNet50V2,
    /// The picture tower of SigLIP, a vision transformer of any size, with the names of `transformers`. Its features are those that the
    /// head takes from the patches, of length 1. Beside the weights the file has `config.heads`.
    #[serde(rename = "siglip_vit")]
    SiglipVit,
    /// A plain vision transformer of any size, with the names of `timm`. Its features are the class token after the last norm. Beside the
    /// weights the file has `config.heads`.
    #[serde(rename = "vit")]
    Vit,
}

impl Architecture {
    /// The architectures that can be trained, by name: all but the frozen encoders.
    pub const ALL: [Architecture; 5] = [
        Architecture::EfficientNetLite0,
        Architecture::EfficientNetLite2,
        Architecture::MobileNetV2,
        Architecture::ResNet50,
        Architecture::ResNet50V2,
    ];

    /// Whether it is a foundation encoder that `touchline pack import` brings. Encoders are frozen, and they compute in f32 on
    /// the CPU.
    pub const fn is_encoder(self) -> bool {
        matches!(
            self,
            Architecture::ClipVit
                | Architecture::DinoV2
                | Architecture::MobileClip
                | Architecture::SiglipVit
                | Architecture::Vit
        )
    }

    /// The name in packs and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::ClipVit => "clip_vit",
            Architecture::DinoV2 => "dinov2",
            Architecture::EfficientNetLite0 => "efficientnet_lite0",
            Architecture::EfficientNetLite2 => "efficientnet_lite2",
            Architecture::MobileClip => "mobileclip",
            Architecture::MobileNetV2 => "mobilenet_v2",
            Architecture::ResNet50 => "resnet50",
            Architecture::ResNet50V2 => "resnet50_v2",
            Architecture::SiglipVit => "siglip_vit",
            Architecture::Vit => "vit",
        }
    }

    /// Names and shapes of all tensors of the network, in the order of computation: backbone, then a classifier of
    /// `classes` outputs. Names are torchvision's; those of v2 are in the same style.
    pub fn tensors(self, classes: usize) -> Vec<(String, Vec<usize>)> {
        // Loading from nothing reports every tensor as missing, so the table exists in one place only.
        match Network::load(self, &Tensors::new(), Some(classes)) {
            Err(LoadError::Missing { names, shapes, .. }) => names.into_iter().zip(shapes).collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// Name of the classifier's layer.
    pub const fn classifier(self) -> &'static str {
        match self {
            Architecture::EfficientNetLite0 | Architecture::EfficientNetLite2 => "_fc",
            Architecture::ClipVit | Architecture::DinoV2 | Architecture::MobileClip | Architecture::SiglipVit => {
                encoder::CLASSIFIER
            }
            Architecture::Vit => encoder::TIMM_CLASSIFIER,
            Architecture::MobileNetV2 => "classifier.1",
            Architecture::ResNet50 | Architecture::ResNet50V2 => resnet50::CLASSIFIER,
        }
    }

    /// Length of the pooled feature vector that the classifier reads. 0 for encoders: theirs depends on their size
    /// ([`Network::feature_width`]).
    pub const fn feature_width(self) -> usize {
        match self {
            Architecture::EfficientNetLite0 | Architecture::EfficientNetLite2 | Architecture::MobileNetV2 => {
                inverted_residual::FEATURE_WIDTH
            }
            Architecture::ResNet50 | Architecture::ResNet50V2 => resnet50::FEATURE_WIDTH,
            _ => 0,
        }
    }

    /// The layers of a network of inverted residuals; `None` for other networks.
    pub fn inverted_residuals(self) -> Option<InvertedResidualPlan> {
        match self {
            Architecture::EfficientNetLite0 => Some(efficientnet_lite::plan(efficientnet_lite::LITE0)),
            Architecture::EfficientNetLite2 => Some(efficientnet_lite::plan(efficientnet_lite::LITE2)),
            Architecture::MobileNetV2 => Some(mobilenet_v2::plan()),
            _ => None,
        }
    }

    /// Value added to the variance in every batch norm.
    pub const fn batch_norm_epsilon(self) -> f64 {
        match self {
            // TensorFlow's.
            Architecture::EfficientNetLite0 | Architecture::EfficientNetLite2 => 1e-3,
            // PyTorch's and MXNet's. Encoders have no batch norm.
            _ => 1e-5,
        }
    }

    /// Mean and standard deviation per channel (R, G, B; values in 0..1) of the pictures that the published weights were trained with.
    pub const fn normalisation(self) -> ([f32; 3], [f32; 3]) {
        match self {
            // (value − 127) / 128, of bytes.
            Architecture::EfficientNetLite0 | Architecture::EfficientNetLite2 => {
                ([127.0 / 255.0; 3], [128.0 / 255.0; 3])
            }
            Architecture::ClipVit => {
                ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1])
            }
            Architecture::MobileClip => ([0.0; 3], [1.0; 3]),
            Architecture::SiglipVit | Architecture::Vit => ([0.5; 3], [0.5; 3]),
            Architecture::DinoV2 | Architecture::MobileNetV2 | Architecture::ResNet50 | Architecture::ResNet50V2 => {
                ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            }
        }
    }

    /// How convolutions pad their input.
    pub const fn padding(self) -> Padding {
        match self {
            Architecture::EfficientNetLite0 | Architecture::EfficientNetLite2 => Padding::Same,
            // Patches of encoders do not reach beyond the picture.
            _ => Padding::Symmetric,
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A loaded network of any [`Architecture`]. It computes on the device of its tensors, in `f32` unless loaded otherwise.
#[derive(Clone, Debug)]
pub struct Network {
    feature_width: usize,
    /// Scale and shift of the picture itself; ResNet50 v2 from MXNet only.
    input_norm: Option<ScaleShift>,
    backbone: Backbone,
    head: Head,
}

impl Network {
    /// Builds the network from named tensors (`f16`, `bf16`, `f32` or `f64`). With `classes`, they must
    /// include a classifier of exactly that many outputs; without, no classifier is loaded and only [`Self::features`] works.
    ///
    /// # Errors
    /// [`LoadError::Missing`] listing all missing tensors; [`LoadError::Shape`] or [`LoadError::DType`] for the first tensor
    /// that does not fit. Unknown tensors are ignored.
    pub fn load(architecture: Architecture, tensors: &Tensors, classes: Option<usize>) -> Result<Self, LoadError> {
        Self::load_as(architecture, tensors, classes, Arithmetic::F32)
    }

    /// As [`Network::load`], computing in `arithmetic` on the CPU; other devices compute in `f32`.
    ///
    /// # Errors
    /// As [`Network::load`]; [`LoadError::Build`] when the int8 ranges belong to another network.
    pub fn load_as(
        architecture: Architecture,
        tensors: &Tensors,
        classes: Option<usize>,
        arithmetic: Arithmetic<'_>,
    ) -> Result<Self, LoadError> {
        let built = match (architecture.inverted_residuals(), architecture) {
            (Some(plan), _) => {
                let parts = inverted_residual::parts(architecture, &plan, tensors, classes)?;
                Self::assemble(architecture, parts, Body::InvertedResidual, arithmetic)
            }
            (None, Architecture::MobileClip) => {
                Self::of_encoder(mobile_clip::parts(tensors, classes)?, |body, device| {
                    let network = MobileClip::new(&body, device)?;
                    Ok((network.embedding, Backbone::MobileClip(Box::new(network))))
                })
            }
            (None, encoder) if encoder.is_encoder() => {
                Self::of_encoder(encoder::parts(architecture, tensors, classes)?, |encoder, _| {
                    Ok((encoder.feature_width(), Backbone::Encoder(Box::new(encoder))))
                })
            }
            (None, Architecture::ResNet50) => {
                Self::assemble(architecture, resnet50::parts(tensors, classes)?, Body::ResNet50, arithmetic)
            }
            (None, _) => {
                Self::assemble(architecture, resnet50::parts_v2(tensors, classes)?, Body::ResNet50, arithmetic)
            }
        };
        built.map_err(|cause| LoadError::Build { architecture, cause })
    }

    fn assemble<L: Layers>(
        architecture: Architecture,
        parts: Parts<L>,
        body: fn(L) -> Body,
        arithmetic: Arithmetic<'_>,
    ) -> candle_core::Result<Self> {
        let Parts { device, input_norm, body: layers, classifier } = parts;
        let head = match &classifier {
            Some((weight, bias)) => Head::new(weight, bias, &device)?,
            None => Head::None,
        };
        let backbone = if device.is_cpu() {
            let (mut graph, picture) = Graph::new(Level::best(), arithmetic, 3)?;
            let last = layers.fuse(&mut graph, picture)?;
            Backbone::Fused(Fused::new(graph.average(last)?))
        } else {
            Backbone::Layers(Box::new(body(layers)))
        };
        Ok(Self { feature_width: architecture.feature_width(), input_norm, backbone, head })
    }

    /// `make` returns the feature width and the backbone.
    fn of_encoder<L>(
        Parts { device, body, classifier, .. }: Parts<L>,
        make: impl FnOnce(L, &Device) -> candle_core::Result<(usize, Backbone)>,
    ) -> candle_core::Result<Self> {
        let head = match &classifier {
            Some((weight, bias)) => Head::new(weight, bias, &device)?,
            None => Head::None,
        };
        let (feature_width, backbone) = make(body, &device)?;
        Ok(Self { feature_width, input_norm: None, backbone, head })
    }

    /// Length of the pooled feature vector.
    pub const fn feature_width(&self) -> usize {
        self.feature_width
    }

    /// Side of the pictures that an encoder takes, pixels; `None` for networks that take any size.
    pub fn side(&self) -> Option<usize> {
        match &self.backbone {
            Backbone::Encoder(encoder) => Some(encoder.side()),
            Backbone::Fused(_) | Backbone::Layers(_) | Backbone::MobileClip(_) => None,
        }
    }

    /// Outputs of the classifier; `None` without one.
    pub fn classes(&self) -> Option<usize> {
        self.head.classes()
    }

    /// Pictures (N, 3, H, W), normalised, H and W at least 32 → pooled features (N, [`Self::feature_width`]).
    ///
    /// # Errors
    /// When `x` is not a contiguous `f32` tensor of that shape.
    pub fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.input_norm {
            Some(norm) => self.backbone.features(&norm.forward(x)?),
            None => self.backbone.features(x),
        }
    }

    /// Pooled features (N, [`Self::feature_width`]) → logits (N, classes).
    ///
    /// # Errors
    /// When the network was loaded without a classifier, or the shape does not fit.
    pub fn head(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(features)
    }

    /// The cost of each layer on the CPU for `n` pictures of `h` × `w`; see [`Fused::profile`]. Empty on other devices.
    ///
    /// # Errors
    /// When the pictures are too small.
    pub fn profile(&self, n: usize, (h, w): (usize, usize), rounds: usize) -> candle_core::Result<Vec<LayerCost>> {
        let fused = match &self.backbone {
            Backbone::MobileClip(network) => Some(&network.tower),
            _ => self.fused(),
        };
        fused.map_or(Ok(Vec::new()), |fused| fused.profile((n, h, w), rounds))
    }

    /// Adds the activations of the network on pictures (N, 3, H, W) to `observed`; see [`Fused::observe`].
    ///
    /// # Errors
    /// When the network does not compute in `f32` on the CPU, or `x` does not fit.
    pub fn observe(&self, x: &Tensor, observed: &mut Observed) -> candle_core::Result<()> {
        match self.fused() {
            Some(fused) => fused.observe(x, observed),
            None => bail!("activations are observed on the CPU only, and not those of encoders, which compute in f32"),
        }
    }

    fn fused(&self) -> Option<&Fused> {
        match &self.backbone {
            Backbone::Fused(fused) => Some(fused),
            Backbone::Layers(_) | Backbone::Encoder(_) | Backbone::MobileClip(_) => None,
        }
    }

    /// Pictures (N, 3, H, W) → logits (N, classes): [`Self::features`], then [`Self::head`]. On the CPU the logits of a picture
    /// do not depend on its batch.
    ///
    /// # Errors
    /// As [`Self::features`] and [`Self::head`].
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.head(&self.features(x)?)
    }

    /// As [`Self::forward`] without tensors, with the same result bit for bit. `pictures` is (N, 3, height, width) and may be
    /// overwritten; `features` and `logits` (N, classes) are overwritten. If both have the capacity, nothing is allocated
    /// that grows with N.
    ///
    /// # Errors
    /// When the network has no classifier or does not compute on the CPU, or the pictures are too small for it.
    ///
    /// # Panics
    /// If the length of `pictures` is not a multiple of 3 × height × width.
    pub fn logits_into(
        &self,
        pictures: &mut [f32],
        (width, height): (usize, usize),
        features: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        let picture = 3 * height * width;
        assert_eq!(pictures.len() % picture, 0, "pictures of 3 x {height} x {width}");
        if height < MIN_SIDE || width < MIN_SIDE {
            bail!("expected pictures of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {width} x {height}");
        }
        let fused = match &self.backbone {
            Backbone::Fused(fused) => fused,
            Backbone::Encoder(encoder) if encoder.is_on_cpu() => {
                let x = Tensor::from_slice(pictures, (pictures.len() / picture, 3, height, width), &Device::Cpu)?;
                *features = encoder.features(&x)?.flatten_all()?.to_vec1()?;
                return self.head.forward_into(features, logits);
            }
            Backbone::MobileClip(network) => {
                network.features_into(pictures, (height, width), features)?;
                return self.head.forward_into(features, logits);
            }
            Backbone::Encoder(_) | Backbone::Layers(_) => {
                bail!("pictures in host memory need a network on the CPU")
            }
        };
        if let Some(norm) = &self.input_norm {
            norm.apply(pictures, height * width)?;
        }
        features.clear();
        features.resize(pictures.len() / picture * self.feature_width(), 0.0);
        fused.forward_into(pictures, (height, width), features)?;
        self.head.forward_into(features, logits)
    }
}

/// The smallest side of a picture, pixels: all networks halve it five times.
const MIN_SIDE: usize = 32;

/// The layers of a network from the picture to the pooled features.
trait Layers {
    /// Runs the layers one by one: (N, 3, H, W) → (N, features).
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor>;

    /// Adds the layers to a graph. Returns the value before the global average.
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

/// A network without its classifier.
#[derive(Clone, Debug)]
enum Backbone {
    /// On the CPU: all layers as one candle op.
    Fused(Fused),
    /// On another device: layer by layer.
    Layers(Box<Body>),
    /// A vision transformer, with candle's ops.
    Encoder(Box<Encoder>),
    /// On the CPU only: the layers of the tower as one op, and its projection.
    MobileClip(Box<MobileClip>),
}

/// The layers of any network.
#[derive(Clone, Debug)]
enum Body {
    InvertedResidual(inverted_residual::NetworkBody),
    ResNet50(resnet50::NetworkBody),
}

impl Backbone {
    /// Pictures (N, 3, H, W), H and W at least [`MIN_SIDE`] → pooled features.
    fn features(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match *x.dims() {
            [n, 3, h, w] if n > 0 && h >= MIN_SIDE && w >= MIN_SIDE => {}
            _ => bail!("expected pictures (N, 3, H, W) with H and W at least {MIN_SIDE}, got shape {:?}", x.dims()),
        }
        match self {
            Backbone::Fused(fused) => fused.forward(x),
            Backbone::Encoder(encoder) => encoder.features(x),
            Backbone::MobileClip(network) => network.features(x),
            Backbone::Layers(layers) => match &**layers {
                Body::InvertedResidual(layers) => layers.run(x),
                Body::ResNet50(layers) => layers.run(x),
            },
        }
    }
}
