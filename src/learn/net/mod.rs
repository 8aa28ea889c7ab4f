//! Networks that learn: the architectures of [`touchline_compute::models`] with batch norm as a layer of its own, every tensor under
//! torchvision's name, and a border before which nothing learns.
//!
//! Activations are channel-major, (C, N, H, W), from the first layer to the last: a 1×1 convolution of a whole batch is
//! then one matrix product, and a channel's statistics are a sum over one slice. What is learnt goes back to
//! [`touchline_compute::models`] as named tensors.

mod build;
mod layers;

use candle_core::{Device, Tensor, Var};

pub use build::{Built, build};
use layers::{Layer, Mode};

use touchline_compute::models::{Architecture, Tensors};
use touchline_compute::nn::{Activation, global_average};

/// A network that can learn.
#[derive(Debug)]
pub struct Net {
    architecture: Architecture,
    blocks: Vec<Block>,
    /// (classes, features) and (classes).
    head: (Var, Var),
}

/// A residual block, or the layers before or after them.
#[derive(Debug)]
struct Block {
    /// Of the tensors in it.
    name: String,
    /// Before main path and projection: the pre-activation of ResNet v2.
    pre: Vec<Layer>,
    main: Vec<Layer>,
    shortcut: Shortcut,
    /// Of the sum.
    activation: Activation,
}

#[derive(Debug)]
enum Shortcut {
    None,
    /// The block's input.
    Identity,
    /// Of what `pre` gives.
    Project(Vec<Layer>),
}

/// What a forward pass in training shows of the layers that learn.
#[derive(Debug, Default)]
pub struct Watched {
    /// Name of the layer, mean of each channel over the batch, and the share of channels that are 0 all over it.
    pub outputs: Vec<(String, Vec<f32>, f64)>,
}

impl Net {
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Blocks that can be frozen: the layers before the first residual block are block 0, those after the last are one
    /// more.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Name of the first tensor's layer of a block, for messages.
    pub fn block_name(&self, block: usize) -> &str {
        self.blocks.get(block).map_or("classifier", |b| &b.name)
    }

    /// The first block that has one of these parameters.
    pub fn first_block_with(&self, names: &[String]) -> Option<usize> {
        self.blocks.iter().position(|block| {
            let mut own = Vec::new();
            block.layers().for_each(|layer| layer.parameters(&mut own));
            own.iter().any(|(name, _, _)| names.contains(name))
        })
    }

    pub fn classes(&self) -> usize {
        self.head.1.elem_count()
    }

    fn device(&self) -> &Device {
        self.head.0.device()
    }

    /// Runs blocks `from..to` with fixed statistics and without gradients. `x` is (C, N, H, W).
    ///
    /// # Errors
    /// When the shape does not fit or the device refuses.
    pub fn run(&self, x: &Tensor, from: usize, to: usize) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks[from..to] {
            x = block.forward(&x, Mode::Fixed, None)?;
        }
        Ok(x)
    }

    /// Runs blocks `from..` as they learn: statistics of the batch, which also move the running ones, and gradients.
    /// Without blocks it is the identity.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn learn(&self, x: &Tensor, from: usize, mut watched: Option<&mut Watched>) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks[from..] {
            x = block.forward(&x, Mode::Learning, watched.as_deref_mut())?;
        }
        Ok(x)
    }

    /// The last block's output (C, N, H, W) → pooled features (N, C).
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn pool(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        global_average(x)?.t()?.contiguous()
    }

    /// Pooled features (N, C) → logits (N, classes), with gradients for the classifier.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn classify(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        features.matmul(&self.head.0.t()?)?.broadcast_add(&self.head.1)
    }

    /// As [`Self::classify`] without gradients.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn classify_fixed(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let (weight, bias) = (self.head.0.as_detached_tensor(), self.head.1.as_detached_tensor());
        features.matmul(&weight.t()?)?.broadcast_add(&bias)
    }

    /// The tensors that learn when blocks before `frozen` do not: name, variable, and whether weight decay applies (to
    /// weights of convolutions and of the classifier, not to norms and biases).
    pub fn parameters(&self, frozen: usize) -> Vec<(String, Var, bool)> {
        let mut all = Vec::new();
        for block in self.blocks.iter().skip(frozen) {
            for layer in block.layers() {
                layer.parameters(&mut all);
            }
        }
        let (weight, bias) = self.head_names();
        all.push((weight, self.head.0.clone(), true));
        all.push((bias, self.head.1.clone(), false));
        all
    }

    /// All tensors by torchvision's names, running statistics among them: copies that later steps do not change.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn tensors(&self) -> candle_core::Result<Tensors> {
        let mut all = Tensors::new();
        for layer in self.blocks.iter().flat_map(Block::layers) {
            let mut parameters = Vec::new();
            layer.parameters(&mut parameters);
            for (name, var, _) in parameters {
                all.insert(name, var.as_detached_tensor().copy()?);
            }
            for (name, values) in layer.statistics() {
                let n = values.len();
                all.insert(name, Tensor::from_vec(values, n, self.device())?);
            }
        }
        let (weight, bias) = self.head_names();
        all.insert(weight, self.head.0.as_detached_tensor().copy()?);
        all.insert(bias, self.head.1.as_detached_tensor().copy()?);
        Ok(all)
    }

    /// Sets all tensors, as [`Self::tensors`] gave them.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub fn restore(&self, tensors: &Tensors) -> candle_core::Result<()> {
        let get = |name: &str| {
            tensors.get(name).ok_or_else(|| candle_core::Error::Msg(format!("tensor {name} is missing")).bt())
        };
        for layer in self.blocks.iter().flat_map(Block::layers) {
            let mut parameters = Vec::new();
            layer.parameters(&mut parameters);
            for (name, var, _) in parameters {
                var.set(get(&name)?)?;
            }
            layer.restore_statistics(&get)?;
        }
        let (weight, bias) = self.head_names();
        self.head.0.set(get(&weight)?)?;
        self.head.1.set(get(&bias)?)
    }

    fn head_names(&self) -> (String, String) {
        let name = self.architecture.classifier();
        (format!("{name}.weight"), format!("{name}.bias"))
    }
}

impl Block {
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let project: &[Layer] = match &self.shortcut {
            Shortcut::Project(layers) => layers,
            Shortcut::None | Shortcut::Identity => &[],
        };
        self.pre.iter().chain(&self.main).chain(project)
    }

    fn forward(&self, x: &Tensor, mode: Mode, mut watched: Option<&mut Watched>) -> candle_core::Result<Tensor> {
        let mut run = |layers: &[Layer], x: &Tensor| -> candle_core::Result<Tensor> {
            let mut x = x.clone();
            for layer in layers {
                x = layer.forward(&x, mode, watched.as_deref_mut())?;
            }
            Ok(x)
        };
        let before = run(&self.pre, x)?;
        let main = run(&self.main, &before)?;
        let sum = match &self.shortcut {
            Shortcut::None => main,
            Shortcut::Identity => (main + x)?,
            Shortcut::Project(layers) => (main + run(layers, &before)?)?,
        };
        self.activation.apply(&sum)
    }
}

#[cfg(test)]
mod tests;
