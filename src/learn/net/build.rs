//! From named tensors, or from nothing, to a network that learns.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand::rngs::SmallRng;

use super::layers::{Layer, Norm, Running};
use super::{Block, Net, Shortcut};
use crate::augment;
use touchline_compute::models::{
    Architecture, InvertedResidualPlan, LoadError, STEM_WIDTH, Tensors, mxnet_name, resnet50_stages,
};
use touchline_compute::nn::Activation;

/// A network and where its tensors came from.
#[derive(Debug)]
pub struct Built {
    pub net: Net,
    /// Tensors taken from the file.
    pub taken: usize,
    /// Tensors that were not in it and start at random (norms: at 1 and 0), in the order of the network.
    pub fresh: Vec<String>,
}

/// Builds a network with `classes` outputs. Tensors that `weights` holds are taken (ResNet v2 also under the names of
/// MXNet's model zoo), others start as torchvision starts them: convolutions from He et al.'s normal distribution over
/// the fan-out (*Delving Deep into Rectifiers*, ICCV 2015), norms at 1 and 0, the classifier at N(0, 0.01). A classifier of
/// another number of classes is not taken.
///
/// # Errors
/// [`LoadError::Shape`] or [`LoadError::DType`] for a tensor that does not fit, [`LoadError::Build`] when the device
/// refuses.
pub fn build(
    architecture: Architecture,
    weights: &Tensors,
    classes: usize,
    seed: u64,
    device: &Device,
) -> Result<Built, LoadError> {
    let prefix = weights.keys().find_map(|name| name.strip_suffix("stage1_conv0_weight")).map(str::to_owned);
    let mut maker = Maker { architecture, weights, prefix, seed, device, taken: 0, fresh: Vec::new() };
    let blocks = match (architecture.inverted_residuals(), architecture) {
        (Some(plan), _) => inverted_residuals(&mut maker, &plan)?,
        (None, Architecture::ResNet50) => resnet(&mut maker)?,
        (None, _) => resnet_v2(&mut maker)?,
    };
    let head = maker.head(architecture.classifier(), classes, architecture.feature_width())?;
    let Maker { taken, fresh, .. } = maker;
    Ok(Built { net: Net { architecture, blocks, head }, taken, fresh })
}

fn inverted_residuals(maker: &mut Maker<'_>, plan: &InvertedResidualPlan) -> Result<Vec<Block>, LoadError> {
    let block = |name: &str, main, shortcut| Block {
        name: name.to_owned(),
        pre: Vec::new(),
        main,
        shortcut,
        activation: Activation::Identity,
    };
    let (conv, norm) = &plan.stem;
    let stem = vec![maker.conv(conv, (3, STEM_WIDTH), 3, 2)?, maker.norm(norm, STEM_WIDTH, Activation::Relu6)?];
    let mut blocks = vec![block(conv, stem, Shortcut::None)];
    for residual in &plan.blocks {
        let (inputs, hidden, outputs) = (residual.inputs, residual.hidden, residual.outputs);
        let mut main = Vec::new();
        if let Some((conv, norm)) = &residual.expand {
            main.push(maker.conv(conv, (inputs, hidden), 1, 1)?);
            main.push(maker.norm(norm, hidden, Activation::Relu6)?);
        }
        let (conv, norm) = &residual.filter;
        main.push(maker.depthwise(conv, hidden, residual.kernel, residual.stride)?);
        main.push(maker.norm(norm, hidden, Activation::Relu6)?);
        let (conv, norm) = &residual.project;
        main.push(maker.conv(conv, (hidden, outputs), 1, 1)?);
        main.push(maker.norm(norm, outputs, Activation::Identity)?);
        let shortcut = if residual.has_shortcut() { Shortcut::Identity } else { Shortcut::None };
        blocks.push(block(&residual.name, main, shortcut));
    }
    let (conv, norm) = &plan.last;
    let width = maker.architecture.feature_width();
    let last = vec![maker.conv(conv, (plan.outputs(), width), 1, 1)?, maker.norm(norm, width, Activation::Relu6)?];
    blocks.push(block(conv, last, Shortcut::None));
    Ok(blocks)
}

fn resnet(maker: &mut Maker<'_>) -> Result<Vec<Block>, LoadError> {
    let stem = vec![maker.conv("conv1", (3, 64), 7, 2)?, maker.norm("bn1", 64, Activation::Relu)?, Layer::MaxPool];
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
            maker.conv(&at("conv1"), (inputs, width), 1, 1)?,
            maker.norm(&at("bn1"), width, Activation::Relu)?,
            maker.conv(&at("conv2"), (width, width), 3, stride)?,
            maker.norm(&at("bn2"), width, Activation::Relu)?,
            maker.conv(&at("conv3"), (width, outputs), 1, 1)?,
            maker.norm(&at("bn3"), outputs, Activation::Identity)?,
        ];
        let shortcut = if inputs == outputs && stride == 1 {
            Shortcut::Identity
        } else {
            Shortcut::Project(vec![
                maker.conv(&at("downsample.0"), (inputs, outputs), 1, stride)?,
                maker.norm(&at("downsample.1"), outputs, Activation::Identity)?,
            ])
        };
        blocks.push(Block { name, pre: Vec::new(), main, shortcut, activation: Activation::Relu });
    }
    Ok(blocks)
}

fn resnet_v2(maker: &mut Maker<'_>) -> Result<Vec<Block>, LoadError> {
    let mut stem = Vec::new();
    // Only networks that come from MXNet have a norm on the picture itself.
    if maker.prefix.is_some() || maker.weights.contains_key("bn0.running_mean") {
        stem.push(maker.norm("bn0", 3, Activation::Identity)?);
    }
    stem.push(maker.conv("conv1", (3, 64), 7, 2)?);
    stem.push(maker.norm("bn1", 64, Activation::Relu)?);
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
        let pre = vec![maker.norm(&at("bn1"), inputs, Activation::Relu)?];
        let main = vec![
            maker.conv(&at("conv1"), (inputs, width), 1, 1)?,
            maker.norm(&at("bn2"), width, Activation::Relu)?,
            maker.conv(&at("conv2"), (width, width), 3, stride)?,
            maker.norm(&at("bn3"), width, Activation::Relu)?,
            maker.conv(&at("conv3"), (width, outputs), 1, 1)?,
        ];
        let shortcut = if inputs == outputs && stride == 1 {
            Shortcut::Identity
        } else {
            Shortcut::Project(vec![maker.conv(&at("downsample"), (inputs, outputs), 1, stride)?])
        };
        blocks.push(plain(&name, pre, main, shortcut));
    }
    let last = vec![maker.norm("norm", 2048, Activation::Relu)?];
    blocks.push(plain("norm", Vec::new(), last, Shortcut::None));
    Ok(blocks)
}

/// Makes layers from what the file holds and from chance.
struct Maker<'a> {
    architecture: Architecture,
    weights: &'a Tensors,
    /// Of MXNet's names.
    prefix: Option<String>,
    seed: u64,
    device: &'a Device,
    taken: usize,
    fresh: Vec<String>,
}

impl Maker<'_> {
    /// A tensor of the file as `f32` on the device.
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

    /// A tensor of the file, or what `fresh` makes.
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

    /// The same numbers for a tensor whatever else is built.
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
        // PyTorch counts the fan-out over the groups.
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
        // A classifier of other classes is no start for this one.
        let fits = self.weights.get(&format!("{name}.weight")).is_some_and(|t| t.dims() == [classes, width]);
        let nothing = Tensors::new();
        let weights = if fits { self.weights } else { &nothing };
        let mut maker = Maker { weights, prefix: None, fresh: Vec::new(), ..*self };
        let weight =
            maker.var(format!("{name}.weight"), &[classes, width], |rng| normal(rng, classes * width, 0.01))?;
        let bias = maker.var(format!("{name}.bias"), &[classes], |_| vec![0.0; classes])?;
        self.taken = maker.taken;
        self.fresh.extend(maker.fresh);
        Ok((weight, bias))
    }
}

/// Box and Muller's transform, *A Note on the Generation of Random Normal Deviates*, 1958.
fn normal(rng: &mut SmallRng, n: usize, deviation: f64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}
