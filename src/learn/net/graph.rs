//! The network as a graph of candle's tensors, whose gradients are those of its autograd. For devices other than the CPU.
//!
//! Values are (N, C, H, W). Convolutions compute in the graph's precision, everything else in `f32`: parameters, batch norms, sums of residual
//! blocks and gradients of parameters (Micikevicius et al., *Mixed Precision Training*, ICLR 2018). candle runs grouped
//! convolutions one group at a time, so depthwise ones are sums over the taps of their kernels instead.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::layers::{Layer, Mode, Norm};
use super::{Block, Shortcut, Watched};
use touchline_compute::nn::train::BatchStatistics;
use touchline_compute::nn::{Activation, Padding};

/// Axes of the samples and the pixels.
const ALL_BUT_CHANNELS: (usize, usize, usize) = (0, 2, 3);

/// Where and how precisely the graph computes.
#[derive(Debug)]
pub(super) struct TensorGraph {
    device: Device,
    /// Type of the values and weights of convolutions.
    numbers: DType,
}

/// A forward pass.
struct GraphPass<'a> {
    numbers: DType,
    mode: Mode,
    /// The batch norms so far in training mode. Their statistics are read once at the end, because each read waits for the device.
    norms: Vec<Normed<'a>>,
}

/// A batch norm that has been applied to a batch.
struct Normed<'a> {
    norm: &'a Norm,
    count: usize,
    /// Mean and variance of each channel before the norm, mean of each channel after norm and activation, one after the other.
    statistics: Tensor,
}

impl TensorGraph {
    /// A graph on `device`. `numbers` is `f32`, or `bf16` for mixed precision.
    pub(super) fn new(device: Device, numbers: DType) -> Self {
        Self { device, numbers }
    }

    /// Runs `blocks` on `x` (C, N, H, W), which may be on another device. The result is (N, C, H, W).
    pub(super) fn run(
        &self,
        blocks: &[Block],
        x: &Tensor,
        mode: Mode,
        watched: Option<&mut Watched>,
    ) -> Result<Tensor> {
        let mut forward = GraphPass { numbers: self.numbers, mode, norms: Vec::new() };
        let mut x = x.to_device(&self.device)?.transpose(0, 1)?.contiguous()?;
        for block in blocks {
            x = forward.block(block, &x)?;
        }
        forward.end(watched)?;
        Ok(x)
    }
}

impl<'a> GraphPass<'a> {
    fn block(&mut self, block: &'a Block, x: &Tensor) -> Result<Tensor> {
        let before = self.layers(&block.pre, x)?;
        let main = self.layers(&block.main, &before)?;
        let sum = match &block.shortcut {
            Shortcut::None => return Ok(main),
            Shortcut::Identity => (main + x)?,
            Shortcut::Project(layers) => (main + self.layers(layers, &before)?)?,
        };
        activate(&sum, block.activation)
    }

    fn layers(&mut self, layers: &'a [Layer], x: &Tensor) -> Result<Tensor> {
        layers.iter().try_fold(x.clone(), |x, layer| match layer {
            Layer::Conv { weight, stride, padding, .. } => self.conv(&x, weight, *stride, *padding),
            Layer::Depthwise { weight, stride, padding, .. } => self.depthwise(&x, weight, *stride, *padding),
            Layer::Norm(norm) => self.norm(norm, &x),
            // Its input has passed ReLU, so zeros around it change no maximum.
            Layer::MaxPool => taps(&x, 3, 2, Padding::Symmetric)?
                .map(|(_, tap)| tap)
                .reduce(|a, b| a?.maximum(&b?))
                .expect("a window has taps"),
        })
    }

    fn conv(&self, x: &Tensor, weight: &Var, stride: usize, padding: Padding) -> Result<Tensor> {
        let kernel = padding.kernel(&weight.to_dtype(self.numbers)?, stride)?;
        let y = x.to_dtype(self.numbers)?.conv2d(&kernel, Padding::of(&kernel), stride, 1, 1)?;
        y.to_dtype(DType::F32)
    }

    fn depthwise(&self, x: &Tensor, weight: &Var, stride: usize, padding: Padding) -> Result<Tensor> {
        let (channels, _, kernel, _) = weight.dims4()?;
        let weight = weight.to_dtype(self.numbers)?.reshape((1, channels, kernel, kernel))?;
        let y = taps(&x.to_dtype(self.numbers)?, kernel, stride, padding)?
            .map(|((row, column), tap)| tap?.broadcast_mul(&weight.narrow(2, row, 1)?.narrow(3, column, 1)?))
            .reduce(|a, b| a? + b?)
            .expect("a window has taps")?;
        y.to_dtype(DType::F32)
    }

    fn norm(&mut self, norm: &'a Norm, x: &Tensor) -> Result<Tensor> {
        let channels = x.dim(1)?;
        let shape = (1, channels, 1, 1);
        if self.mode == Mode::Fixed {
            let (scale, shift) = norm.fixed()?;
            let per_channel = |values: Vec<f32>| Tensor::from_vec(values, shape, x.device());
            let y = x.broadcast_mul(&per_channel(scale)?)?.broadcast_add(&per_channel(shift)?)?;
            return activate(&y, norm.activation);
        }
        let mean = x.mean_keepdim(ALL_BUT_CHANNELS)?;
        let centred = x.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim(ALL_BUT_CHANNELS)?;
        let scale = (norm.weight.reshape(shape)? / (&variance + norm.epsilon)?.sqrt()?)?;
        let y = centred.broadcast_mul(&scale)?.broadcast_add(&norm.bias.reshape(shape)?)?;
        let y = activate(&y, norm.activation)?;
        let parts = [mean, variance, y.detach().mean_keepdim(ALL_BUT_CHANNELS)?];
        let statistics = Tensor::cat(&parts.map(|part| part.detach()), 0)?.flatten_all()?;
        self.norms.push(Normed { norm, count: x.elem_count() / channels, statistics });
        Ok(y)
    }

    /// Reads the statistics of all batch norms from the device: updates the running ones, and adds those of outputs to `watched`.
    fn end(self, mut watched: Option<&mut Watched>) -> Result<()> {
        if self.norms.is_empty() {
            return Ok(());
        }
        let all: Vec<&Tensor> = self.norms.iter().map(|normed| &normed.statistics).collect();
        let values = Tensor::cat(&all, 0)?.to_vec1::<f32>()?;
        let mut values = &values[..];
        for Normed { norm, count, statistics } in self.norms {
            let (own, rest) = values.split_at(statistics.elem_count());
            values = rest;
            let mut parts = own.chunks_exact(own.len() / 3).map(<[f32]>::to_vec);
            let mut next = || parts.next().unwrap_or_default();
            norm.update_running(&BatchStatistics { mean: next(), variance: next(), count });
            if let Some(watched) = watched.as_deref_mut().filter(|_| norm.activation != Activation::Identity) {
                watched.outputs.push(norm.output_statistics(next()));
            }
        }
        Ok(())
    }
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => x.relu(),
        Activation::Relu6 => x.clamp(0f32, 6f32),
    }
}

/// The taps of windows of `kernel` × `kernel`, row by row: place in the kernel, and for each window the value there (N, C, H, W). Values
/// outside of `x` are 0.
fn taps(
    x: &Tensor,
    kernel: usize,
    stride: usize,
    padding: Padding,
) -> Result<impl Iterator<Item = ((usize, usize), Result<Tensor>)>> {
    let (samples, channels, height, width) = x.dims4()?;
    let before = match padding {
        Padding::Same if stride == 2 => (kernel - 3) / 2,
        Padding::Same | Padding::Symmetric => kernel / 2,
    };
    let windows = move |side: usize| side.div_ceil(stride);
    // Enough for the last window, and a multiple of the stride, so that the taps of all windows are a slice.
    let steps = move |side: usize| (stride * (windows(side) - 1) + kernel).div_ceil(stride);
    let pad =
        |x: &Tensor, axis: usize, side: usize| x.pad_with_zeros(axis, before, stride * steps(side) - side - before);
    let padded = pad(&pad(x, 2, height)?, 3, width)?;
    let split = padded.reshape((samples, channels, steps(height), stride, steps(width), stride))?;
    let places = (0..kernel * kernel).map(move |at| (at / kernel, at % kernel));
    Ok(places.map(move |(row, column)| {
        let slice = |x: Tensor, axis: usize, place: usize, windows: usize| {
            x.narrow(axis + 1, place % stride, 1)?.narrow(axis, place / stride, windows)
        };
        let tap = slice(split.clone(), 2, row, windows(height)).and_then(|rows| slice(rows, 4, column, windows(width)));
        ((row, column), tap.and_then(|tap| tap.squeeze(5)?.squeeze(3)))
    }))
}
