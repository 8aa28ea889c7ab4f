//! Trainable networks: the architectures of [`touchline_compute::models`] with separate batch norm layers, torchvision's tensor
//! names, and a border before which all blocks are frozen. A foundation encoder has no blocks to train, only a classifier.
//!
//! Activations are channel-major, (C, N, H, W), from the first layer to the last. A 1×1 convolution of a whole batch is then
//! one matrix product, and the statistics of a channel are sums over one slice. The trained tensors are passed by name to
//! [`touchline_compute::models`] for serving.

mod build;
mod graph;
mod layers;

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

pub use build::{Built, build};
use graph::TensorGraph;
use layers::{Layer, Mode};

use touchline_compute::models::{Architecture, Network, Tensors};
use touchline_compute::nn::fused::Precision;
use touchline_compute::nn::train::{Batch, Engine, Tape};
use touchline_compute::nn::{Activation, global_average};

/// A trainable network: blocks, then a linear classifier on the pooled features.
#[derive(Debug)]
pub struct Net {
    architecture: Architecture,
    blocks: Vec<Block>,
    /// Computes the features in place of the blocks, of which there are none then.
    encoder: Option<FrozenEncoder>,
    /// Weight (classes, features) and bias (classes) of the classifier.
    head: (Var, Var),
    computation: Computation,
}

/// How the blocks of a network are computed.
#[derive(Debug)]
enum Computation {
    /// By the kernels of `touchline-compute`, on the CPU.
    Kernels(Engine),
    /// By candle.
    Graph(TensorGraph),
}

impl Computation {
    fn on(device: &Device) -> Self {
        match device {
            Device::Cpu => Computation::Kernels(Engine::new(Precision::F32)),
            device => Computation::Graph(TensorGraph::new(device.clone(), DType::F32)),
        }
    }
}

/// A forward pass in training mode, from which gradients can be computed.
#[derive(Debug)]
pub struct Pass {
    features: Tensor,
    /// Where gradients continue from those of the features; [`None`] when candle continues them itself.
    tape: Option<(Tape, Batch)>,
}

impl Pass {
    /// Returns the pooled features (N, C), with gradients.
    pub fn features(&self) -> &Tensor {
        &self.features
    }

    /// Returns the gradients of `loss`, which was computed from [`Self::features`], for all trained parameters.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn backward(self, loss: &Tensor) -> candle_core::Result<GradStore> {
        let mut grads = loss.backward()?;
        if let Some((tape, last)) = self.tape
            && let Some(grad) = grads.remove(&self.features)
        {
            tape.backward(&last, &grad.contiguous()?, &mut grads)?;
        }
        Ok(grads)
    }
}

/// A foundation encoder, which is frozen as a whole.
#[derive(Debug)]
struct FrozenEncoder {
    network: Network,
    /// All tensors of its file but the classifier's.
    tensors: Tensors,
}

/// A residual block, or the layers before or after all residual blocks.
#[derive(Debug)]
struct Block {
    /// Prefix of the tensor names in the block, or the name of its first layer.
    name: String,
    /// Layers before main path and projection: the pre-activation of ResNet v2.
    pre: Vec<Layer>,
    /// Layers of the main path.
    main: Vec<Layer>,
    shortcut: Shortcut,
    /// Applied to the sum of main path and shortcut, if there is one.
    activation: Activation,
}

/// The term that is added to the main path of a block.
#[derive(Debug)]
enum Shortcut {
    /// Nothing.
    None,
    /// The input of the block.
    Identity,
    /// The output of `pre` through these layers.
    Project(Vec<Layer>),
}

/// Statistics of layer outputs, recorded during a forward pass in training.
#[derive(Debug, Default)]
pub struct Watched {
    /// For each layer with an activation: name, mean of each channel over the batch, share of channels that are 0 for the whole
    /// batch.
    pub outputs: Vec<(String, Vec<f32>, f64)>,
}

impl Net {
    /// Returns the architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Returns the encoder that computes the features; `None` for a network of blocks.
    pub fn encoder(&self) -> Option<&Network> {
        self.encoder.as_ref().map(|encoder| &encoder.network)
    }

    /// Returns the number of parameters that cannot be trained: those of an encoder.
    pub fn fixed_parameters(&self) -> u64 {
        let tensors = self.encoder.iter().flat_map(|encoder| encoder.tensors.values());
        tensors.map(|tensor| tensor.elem_count() as u64).sum()
    }

    /// Returns the number of blocks that can be frozen. The layers before the first residual block form block 0, and layers after
    /// the last residual block form one more.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Returns the name of a block for messages; `classifier` for an index beyond the last block.
    pub fn block_name(&self, block: usize) -> &str {
        self.blocks.get(block).map_or("classifier", |b| &b.name)
    }

    /// Returns the first block that has one of the named parameters.
    pub fn first_block_with(&self, names: &[String]) -> Option<usize> {
        self.blocks.iter().position(|block| {
            let mut own = Vec::new();
            block.layers().for_each(|layer| layer.parameters(&mut own));
            own.iter().any(|(name, _, _)| names.contains(name))
        })
    }

    /// Returns the number of outputs.
    pub fn classes(&self) -> usize {
        self.head.1.elem_count()
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> &Device {
        self.head.0.device()
    }

    /// Computes the blocks in mixed precision: convolutions in `bf16`, sums and parameters in `f32`.
    pub fn with_mixed_precision(self) -> Self {
        match self.computation {
            Computation::Kernels(_) => Self { computation: Computation::Kernels(Engine::new(Precision::Bf16)), ..self },
            Computation::Graph(_) => self.in_graph(DType::BF16),
        }
    }

    /// Lets candle compute the blocks, with convolutions in `numbers`.
    fn in_graph(self, numbers: DType) -> Self {
        let graph = TensorGraph::new(self.device().clone(), numbers);
        Self { computation: Computation::Graph(graph), ..self }
    }

    /// Runs blocks `from..to` with running statistics and without gradients. `x` and the result are (C, N, H, W). `x` may be on
    /// another device.
    ///
    /// # Errors
    /// When the shape does not fit, or an operation fails on the device.
    ///
    /// # Panics
    /// If `from..to` is not a range of blocks.
    pub fn run(&self, x: &Tensor, from: usize, to: usize) -> candle_core::Result<Tensor> {
        if from == to {
            return Ok(x.clone());
        }
        match &self.computation {
            Computation::Kernels(engine) => {
                let mut tape = Tape::new(engine, false);
                let last = self.forward(&mut tape, x, from..to, Mode::Fixed, None)?;
                tape.tensor(&last)
            }
            Computation::Graph(graph) => {
                let y = graph.run(&self.blocks[from..to], x, Mode::Fixed, None)?;
                y.detach().transpose(0, 1)?.contiguous()
            }
        }
    }

    /// Runs blocks `from..` in training mode: with batch statistics, which also update the running statistics, and with gradients.
    /// `x` is (C, N, H, W). Statistics of layer outputs are added to `watched`.
    ///
    /// # Errors
    /// The errors of [`Self::run`].
    ///
    /// # Panics
    /// If `from` exceeds the number of blocks.
    pub fn learn(&self, x: &Tensor, from: usize, watched: Option<&mut Watched>) -> candle_core::Result<Pass> {
        match &self.computation {
            Computation::Kernels(engine) => {
                let mut tape = Tape::new(engine, true);
                let last = self.forward(&mut tape, x, from..self.blocks.len(), Mode::Learning, watched)?;
                // A variable, so that candle computes the gradient of the features.
                let features = Var::from_tensor(&tape.average(&last)?)?.into_inner();
                Ok(Pass { features, tape: Some((tape, last)) })
            }
            Computation::Graph(graph) => {
                let y = graph.run(&self.blocks[from..], x, Mode::Learning, watched)?;
                Ok(Pass { features: y.mean((2, 3))?, tape: None })
            }
        }
    }

    fn forward(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        blocks: Range<usize>,
        mode: Mode,
        mut watched: Option<&mut Watched>,
    ) -> candle_core::Result<Batch> {
        let blocks = &self.blocks[blocks];
        let thin = x.dim(0)? <= 3 && blocks.first().is_some_and(Block::begins_with_convolution);
        let mut x = tape.input(x, thin)?;
        for block in blocks {
            x = block.forward(tape, &x, mode, watched.as_deref_mut())?;
        }
        Ok(x)
    }

    /// Averages the last block's output (C, N, H, W) over its pixels and returns the pooled features (N, C).
    ///
    /// # Errors
    /// The errors of [`Self::run`].
    pub fn pool(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        global_average(x)?.t()?.contiguous()
    }

    /// Returns the logits (N, classes) of pooled features (N, C), with gradients for the classifier.
    ///
    /// # Errors
    /// The errors of [`Self::run`].
    pub fn classify(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        features.matmul(&self.head.0.t()?)?.broadcast_add(&self.head.1)
    }

    /// Returns the logits as [`Self::classify`] does, without gradients.
    ///
    /// # Errors
    /// The errors of [`Self::run`].
    pub fn classify_fixed(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let (weight, bias) = (self.head.0.as_detached_tensor(), self.head.1.as_detached_tensor());
        features.matmul(&weight.t()?)?.broadcast_add(&bias)
    }

    /// Returns the parameters that are trained when the blocks before `frozen` are frozen: name, variable, and whether weight decay
    /// applies (to the weights of convolutions and of the classifier, not to norms and biases).
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

    /// Returns copies of all tensors by torchvision's names, including the running statistics.
    ///
    /// # Errors
    /// When a tensor cannot be copied on the device.
    pub fn tensors(&self) -> candle_core::Result<Tensors> {
        let mut all = self.tensors_from(0)?;
        if let Some(encoder) = &self.encoder {
            all.extend(encoder.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        }
        Ok(all)
    }

    /// Returns copies of the tensors of blocks `from..` and of the classifier, as [`Self::tensors`] does.
    ///
    /// # Errors
    /// When a tensor cannot be copied on the device.
    pub fn tensors_from(&self, from: usize) -> candle_core::Result<Tensors> {
        let mut all = Tensors::new();
        for (name, var, _) in self.parameters(from) {
            all.insert(name, var.as_detached_tensor().copy()?);
        }
        for (name, values) in self.blocks.iter().skip(from).flat_map(Block::layers).flat_map(Layer::statistics) {
            let n = values.len();
            all.insert(name, Tensor::from_vec(values, n, self.device())?);
        }
        Ok(all)
    }

    /// Restores the tensors that [`Self::tensors`] returned, except for those of an encoder, which do not change.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore(&self, tensors: &Tensors) -> candle_core::Result<()> {
        let get = |name: &str| {
            tensors.get(name).ok_or_else(|| candle_core::Error::Msg(format!("tensor {name} is missing")).bt())
        };
        for layer in self.blocks.iter().flat_map(Block::layers) {
            let mut parameters = Vec::new();
            layer.parameters(&mut parameters);
            for (name, var, _) in parameters {
                set(&var, get(&name)?)?;
            }
            layer.restore_statistics(&get)?;
        }
        let (weight, bias) = self.head_names();
        set(&self.head.0, get(&weight)?)?;
        set(&self.head.1, get(&bias)?)
    }

    /// Returns the names of the classifier's weight and bias.
    fn head_names(&self) -> (String, String) {
        let name = self.architecture.classifier();
        (format!("{name}.weight"), format!("{name}.bias"))
    }
}

/// Sets a variable to values that may be on another device.
fn set(var: &Var, values: &Tensor) -> candle_core::Result<()> {
    var.set(&values.to_device(var.device())?)
}

impl Block {
    /// Returns all layers, those of the projection last.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let project: &[Layer] = match &self.shortcut {
            Shortcut::Project(layers) => layers,
            Shortcut::None | Shortcut::Identity => &[],
        };
        self.pre.iter().chain(&self.main).chain(project)
    }

    /// Whether nothing but a convolution reads the block's input.
    fn begins_with_convolution(&self) -> bool {
        let convolution = matches!(self.main.first(), Some(Layer::Conv { .. }));
        self.pre.is_empty() && convolution && matches!(self.shortcut, Shortcut::None)
    }

    fn forward(
        &self,
        tape: &mut Tape,
        x: &Batch,
        mode: Mode,
        mut watched: Option<&mut Watched>,
    ) -> candle_core::Result<Batch> {
        let before = layers::forward(&self.pre, tape, x, mode, watched.as_deref_mut())?;
        let main = layers::forward(&self.main, tape, &before, mode, watched.as_deref_mut())?;
        match &self.shortcut {
            Shortcut::None => Ok(main),
            Shortcut::Identity => tape.add(&main, x, self.activation),
            Shortcut::Project(layers) => {
                let projected = layers::forward(layers, tape, &before, mode, watched)?;
                tape.add(&main, &projected, self.activation)
            }
        }
    }
}

#[cfg(test)]
mod graph_tests;
#[cfg(test)]
mod tests;
