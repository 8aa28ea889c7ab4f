//! Builds a trainable network from named tensors, with random initial values for those that are missing.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand::rngs::SmallRng;

use super::layers::{Layer, Norm, Running};
use super::{Block, Computation, FrozenEncoder, Net, Shortcut};
use crate::augment;
use touchline_compute::models::{
    Architecture, InvertedResidualPlan, LoadError, Network, STEM_WIDTH, Tensors, mxnet_name, resnet50_stages,
};
use touchline_compute::nn::Activation;

/// A network and the origin of its tensors.
#[derive(Debug)]
pub struct Built {
    /// The network.
    pub net: Net,
    /// Number of tensors taken from the weights.
    pub taken: usize,
    /// Names of tensors that the weights lack, in the order of the network. They have initial values.
    pub fresh: Vec<String>,
}

/// Builds a network with `classes` outputs. Tensors come from `weights` if they are there (for ResNet v2 also under the names of
/// MXNet's model zoo). A classifier with another number of classes is not used. A foundation encoder must be there as a whole.
///
/// Other tensors are initialised as in torchvision, reproducibly for a `seed`: convolutions from a normal distribution scaled by
/// the fan-out (He et al., *Delving Deep into Rectifiers*, ICCV 2015), norms with weight 1 and bias 0, the weight of the
/// classifier from N(0, 0.01²) and its bias with 0.
///
/// # Errors
/// [`LoadError::Shape`] or [`LoadError::DType`] for a tensor that does not fit, [`LoadError::Missing`] for an encoder that is not
/// whole, [`LoadError::Build`] when an operation fails on the device.
pub fn build(
    architecture: Architecture,
    weights: &Tensors,
    classes: usize,
    seed: u64,
    device: &Device,
) -> Result<Built, LoadError> {
    if architecture.is_encoder() {
        return frozen(architecture, weights, classes, seed, device);
    }
    let prefix = weights.keys().find_map(|name| name.strip_suffix("stage1_conv0_weight")).map(str::to_owned);
    let mut builder = Builder { architecture, weights, prefix, seed, device, taken: 0, fresh: Vec::new() };
    let blocks = match (architecture.inverted_residuals(), architecture) {
        (Some(plan), _) => inverted_residuals(&mut builder, &plan)?,
        (None, Architecture::ResNet50) => resnet(&mut builder)?,
        (None, _) => resnet_v2(&mut builder)?,
    };
    let head = builder.head(architecture.classifier(), classes, architecture.feature_width())?;
    let Builder { taken, fresh, .. } = builder;
    Ok(Built {
        net: Net { architecture, blocks, encoder: None, head, computation: Computation::on(device) },
        taken,
        fresh,
    })
}

/// A foundation encoder with a classifier. All tensors of the encoder must be there.
fn frozen(
    architecture: Architecture,
    weights: &Tensors,
    classes: usize,
    seed: u64,
    device: &Device,
) -> Result<Built, LoadError> {
    let network = Network::load(architecture, weights, None)?;
    let mut builder = Builder { architecture, weights, prefix: None, seed, device, taken: 0, fresh: Vec::new() };
    let name = architecture.classifier();
    let head = builder.head(name, classes, network.feature_width())?;
    let is_head = |tensor: &str| tensor.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let tensors: Tensors = weights
        .iter()
        .filter(|(name, _)| !is_head(name))
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    let Builder { taken, fresh, .. } = builder;
    let taken = taken + tensors.len();
    let encoder = Some(FrozenEncoder { network, tensors });
    Ok(Built {
        net: Net { architecture, blocks: Vec::new(), encoder, head, computation: Computation::on(device) },
        taken,
        fresh,
    })
}

fn inverted_residuals(builder: &mut Builder<'_>, plan: &InvertedResidualPlan) -> Result<Vec<Block>, LoadError> {
    let block = |name: &str, main, shortcut| Block {
        name: name.to_owned(),
        pre: Vec::new(),
        main,
        shortcut,
        activation: Activation::Identity,
    };
    let (conv, norm) = &plan.stem;
    let stem = vec![builder.conv(conv, (3, STEM_WIDTH), 3, 2)?, builder.norm(norm, STEM_WIDTH, Activation::Relu6)?];
    let mut blocks = vec![block(conv, stem, Shortcut::None)];
    for residual in &plan.blocks {
        let (inputs, hidden, outputs) = (residual.inputs, residual.hidden, residual.outputs);
        let mut main = Vec::new();
        if let Some((conv, norm)) = &residual.expand {
            main.push(builder.conv(conv, (inputs, hidden), 1, 1)?);
            main.push(builder.norm(norm, hidden, Activation::Relu6)?);
        }
        let (conv, norm) = &residual.filter;
        main.push(builder.depthwise(conv, hidden, residual.kernel, residual.stride)?);
        main.push(builder.norm(norm, hidden, Activation::Relu6)?);
        let (conv, norm) = &residual.project;
        main.push(builder.conv(conv, (hidden, outputs), 1, 1)?);
        main.push(builder.norm(norm, outputs, Activation::Identity)?);
        let shortcut = if residual.has_shortcut() { Shortcut::Identity } else { Shortcut::None };
        blocks.push(block(&residual.name, main, shortcut));
    }
    let (conv, norm) = &plan.last;
    let width = builder.architecture.feature_width();
    let last = vec![builder.conv(conv, (plan.outputs(), width), 1, 1)?, builder.norm(norm, width, Activation::Relu6)?];
    blocks.push(block(conv, last, Shortcut::None));
    Ok(blocks)
}

fn resnet(builder: &mut Builder<'_>) -> Result<Vec<Block>, LoadError> {
    let stem = vec![builder.conv("conv1", (3, 64), 7, 2)?, builder.norm("bn1", 64, Activation::Relu)?, Layer::MaxPool];
    let mut blocks = vec![Block {
        name: "conv1".into(),
        pre: Vec::new(),
        main: stem,
        shortcut: Shortcut::None,
        activation: Activation::Identity,
    }];
    for (name, inputs, width, stride) in resnet50_stages() {
        let at = |layer: &str| format!("{name}.{layer}");
        let outputs = 4 * width;
        let main = vec![
            builder.conv(&at("conv1"), (inputs, width), 1, 1)?,
            builder.norm(&at("bn1"), width, Activation::Relu)?,
            builder.conv(&at("conv2"), (width, width), 3, stride)?,
            builder.norm(&at("bn2"), width, Activation::Relu)?,
            builder.conv(&at("conv3"), (width, outputs), 1, 1)?,
            builder.norm(&at("bn3"), outputs, Activation::Identity)?,
        ];
        let shortcut = if inputs == outputs && stride == 1 {
            Shortcut::Identity
        } else {
            Shortcut::Project(vec![
                builder.conv(&at("downsample.0"), (inputs, outputs), 1, stride)?,
                builder.norm(&at("downsample.1"), outputs, Activation::Identity)?,
            ])
        };
        blocks.push(Block { name, pre: Vec::new(), main, shortcut, activation: Activation::Relu });
    }
    Ok(blocks)
}

fn resnet_v2(builder: &mut Builder<'_>) -> Result<Vec<Block>, LoadError> {
    let mut stem = Vec::new();
    // Only networks from MXNet have a norm on the input picture.
    if builder.prefix.is_some() || builder.weights.contains_key("bn0.running_mean") {
        stem.push(builder.norm("bn0", 3, Activation::Identity)?);
    }
    stem.push(builder.conv("conv1", (3, 64), 7, 2)?);
    stem.push(builder.norm("bn1", 64, Activation::Relu)?);
    stem.push(Layer::MaxPool);
    let plain = |name: &str, pre, main, shortcut| Block {
        name: name.to_owned(),
        pre,
        main,
        shortcut,
        activation: Activation::Identity,
    };
    let mut blocks = vec![plain("conv1", Vec::new(), stem, Shortcut::None)];
    for (name, inputs, width, stride) in resnet50_stages() {
        let at = |layer: &str| format!("{name}.{layer}");
        let outputs = 4 * width;
        let pre = vec![builder.norm(&at("bn1"), inputs, Activation::Relu)?];
        let main = vec![
            builder.conv(&at("conv1"), (inputs, width), 1, 1)?,
            builder.norm(&at("bn2"), width, Activation::Relu)?,
            builder.conv(&at("conv2"), (width, width), 3, stride)?,
            builder.norm(&at("bn3"), width, Activation::Relu)?,
            builder.conv(&at("conv3"), (width, outputs), 1, 1)?,
        ];
        let shortcut = if inputs == outputs && stride == 1 {
            Shortcut::Identity
        } else {
            Shortcut::Project(vec![builder.conv(&at("downsample"), (inputs, outputs), 1, stride)?])
        };
        blocks.push(plain(&name, pre, main, shortcut));
    }
    let last = vec![builder.norm("norm", 2048, Activation::Relu)?];
    blocks.push(plain("norm", Vec::new(), last, Shortcut::None));
    Ok(blocks)
}

/// Builds layers from the given weights, or from initial values.
struct Builder<'a> {
    architecture: Architecture,
    weights: &'a Tensors,
    /// Prefix of the tensor names in weights from MXNet.
    prefix: Option<String>,
    seed: u64,
    device: &'a Device,
    taken: usize,
    fresh: Vec<String>,
}

impl Builder<'_> {
    /// Returns a tensor of the weights as `f32` on the device; `None` when it is missing.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, LoadError> {
        let stored = match &self.prefix {
            Some(prefix) => mxnet_name(name).and_then(|n| self.weights.get(&format!("{prefix}{n}"))),
            None => self.weights.get(name),
        };
        let Some(tensor) = stored else { return Ok(None) };
        if tensor.dims() != shape {
            return Err(LoadError::Shape {
                architecture: self.architecture,
                name: name.to_owned(),
                have: tensor.dims().to_vec(),
                want: shape.to_vec(),
            });
        }
        if !tensor.dtype().is_float() {
            return Err(LoadError::DType { name: name.to_owned(), have: tensor.dtype().as_str() });
        }
        let tensor = tensor.to_device(self.device).and_then(|t| t.to_dtype(DType::F32)).and_then(|t| t.contiguous());
        tensor.map(Some).map_err(|cause| LoadError::Build { architecture: self.architecture, cause })
    }

    /// Returns a tensor of the weights, or one with the values that `fresh` returns.
    fn var(
        &mut self,
        name: String,
        shape: &[usize],
        fresh: impl FnOnce(&mut SmallRng) -> Vec<f32>,
    ) -> Result<Var, LoadError> {
        let tensor = match self.stored(&name, shape)? {
            Some(tensor) => {
                self.taken += 1;
                Ok(tensor)
            }
            None => {
                let values = fresh(&mut self.rng(&name));
                self.fresh.push(name);
                Tensor::from_vec(values, shape, self.device)
            }
        };
        tensor
            .and_then(|t| Var::from_tensor(&t))
            .map_err(|cause| LoadError::Build { architecture: self.architecture, cause })
    }

    /// Returns the random generator of a tensor. It does not depend on the other tensors.
    fn rng(&self, name: &str) -> SmallRng {
        let key = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        augment::rng(self.seed, key, 0)
    }

    fn conv(
        &mut self,
        name: &str,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Result<Layer, LoadError> {
        let shape = [outputs, inputs, kernel, kernel];
        let deviation = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
        let weight =
            self.var(format!("{name}.weight"), &shape, |rng| normal(rng, shape.iter().product(), deviation))?;
        Ok(Layer::Conv { name: name.to_owned(), weight, stride, padding: self.architecture.padding() })
    }

    fn depthwise(&mut self, name: &str, channels: usize, kernel: usize, stride: usize) -> Result<Layer, LoadError> {
        // PyTorch divides the fan-out by the number of groups.
        let deviation = (2.0 / (kernel * kernel) as f64).sqrt();
        let shape = [channels, 1, kernel, kernel];
        let weight =
            self.var(format!("{name}.weight"), &shape, |rng| normal(rng, shape.iter().product(), deviation))?;
        Ok(Layer::Depthwise { name: name.to_owned(), weight, stride, padding: self.architecture.padding() })
    }

    fn norm(&mut self, name: &str, channels: usize, activation: Activation) -> Result<Layer, LoadError> {
        let mut part =
            |part: &str, value: f32| self.var(format!("{name}.{part}"), &[channels], |_| vec![value; channels]);
        let (weight, bias) = (part("weight", 1.0)?, part("bias", 0.0)?);
        let (mean, variance) = (part("running_mean", 0.0)?, part("running_var", 1.0)?);
        let values = |v: Var| v.to_vec1().map_err(|cause| LoadError::Build { architecture: self.architecture, cause });
        let running = RefCell::new(Running { mean: values(mean)?, variance: values(variance)? });
        let epsilon = self.architecture.batch_norm_epsilon();
        Ok(Layer::Norm(Box::new(Norm { name: name.to_owned(), weight, bias, running, epsilon, activation })))
    }

    fn head(&mut self, name: &str, classes: usize, width: usize) -> Result<(Var, Var), LoadError> {
        // A classifier with another number of classes cannot initialise this one.
        let fits = self.weights.get(&format!("{name}.weight")).is_some_and(|t| t.dims() == [classes, width]);
        let none = Tensors::new();
        let weights = if fits { self.weights } else { &none };
        let mut builder = Builder { weights, prefix: None, fresh: Vec::new(), ..*self };
        let weight =
            builder.var(format!("{name}.weight"), &[classes, width], |rng| normal(rng, classes * width, 0.01))?;
        let bias = builder.var(format!("{name}.bias"), &[classes], |_| vec![0.0; classes])?;
        self.taken = builder.taken;
        self.fresh.extend(builder.fresh);
        Ok((weight, bias))
    }
}

/// Returns `n` normal deviates with mean 0 and the given standard deviation.
///
/// Source: Box and Muller, *A Note on the Generation of Random Normal Deviates*, Annals of Mathematical Statistics, 1958.
fn normal(rng: &mut SmallRng, n: usize, deviation: f64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}
