//! A network as a list of fused operations on numbered values, with weights packed once.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::kernel::LANES;
use super::level::{Level, Precision};
use super::winograd;
use crate::nn::{Activation, window_count};

/// Sixteen values on a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; LANES]);

impl Line {
    pub const ZERO: Line = Line([0.0; LANES]);
}

/// What an operation gives: a picture of `channels` × `h` × `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub(super) usize);

/// Weights of a convolution: for every block of 16 outputs, for every segment (see [`super::kernel`]), 16 weights for each of
/// its inputs; as bf16, 16 pairs for every two inputs.
#[derive(Debug)]
pub(super) struct PackedConv {
    pub weights: Vec<Line>,
    /// Transformed for [`super::winograd`], where that may pay.
    pub winograd: Option<Vec<Line>>,
    pub bias: Vec<Line>,
    pub inputs: usize,
    pub outputs: usize,
    pub window: Window,
    pub bounds: (f32, f32),
    /// The input is the network's: planes, not blocks.
    pub planar: bool,
}

/// Weights of a depthwise convolution: kernel · kernel lines a block.
#[derive(Debug)]
pub(super) struct PackedDepthwise {
    pub weights: Vec<Line>,
    pub bias: Vec<Line>,
    pub channels: usize,
    pub window: Window,
    pub bounds: (f32, f32),
}

/// A square window that moves over a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Window {
    pub fn outputs(&self, op: &str, (h, w): (usize, usize)) -> Result<(usize, usize)> {
        let count = |n| window_count(op, n, self.kernel, self.stride, self.padding);
        Ok((count(h)?, count(w)?))
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Conv {
        x: usize,
        residual: Option<usize>,
        y: usize,
        layer: Arc<PackedConv>,
    },
    Depthwise {
        x: usize,
        y: usize,
        layer: Arc<PackedDepthwise>,
    },
    MaxPool {
        x: usize,
        y: usize,
        window: Window,
    },
    ScaleShift {
        x: usize,
        y: usize,
        scale: Arc<Vec<Line>>,
        shift: Arc<Vec<Line>>,
        bounds: (f32, f32),
    },
    /// The end: the mean over all pixels, or all of the picture in planes.
    Average {
        x: usize,
    },
    Whole {
        x: usize,
    },
}

/// The operations of a network from its picture to its pooled features; they do not depend on the picture's size.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(super) level: Level,
    pub(super) precision: Precision,
    pub(super) ops: Vec<Op>,
    /// Channels of each value.
    pub(super) channels: Vec<usize>,
    /// Border of zeros that the readers of each value want around it.
    pub(super) padding: Vec<usize>,
}

/// Value 0: the network's input.
pub(super) const INPUT: usize = 0;

impl Graph {
    /// A graph without operations and its input, a planar picture of `channels`.
    pub fn new(level: Level, precision: Precision, channels: usize) -> (Self, Value) {
        (Self { level, precision, ops: Vec::new(), channels: vec![channels], padding: vec![0] }, Value(INPUT))
    }

    fn value(&mut self, channels: usize) -> usize {
        self.channels.push(channels);
        self.padding.push(0);
        self.channels.len() - 1
    }

    fn pad(&mut self, value: usize, padding: usize) {
        self.padding[value] = self.padding[value].max(padding);
    }

    /// A convolution with `weight` (Cout, Cin, k, k) or (Cout, Cin) and `bias` (Cout); `residual` is added before the
    /// activation.
    ///
    /// # Errors
    /// When shapes do not fit, or the stride is neither 1 nor 2.
    pub fn conv(
        &mut self,
        Value(x): Value,
        (weight, bias): (&Tensor, &Tensor),
        (stride, padding): (usize, usize),
        residual: Option<Value>,
        activation: Activation,
    ) -> Result<Value> {
        let (outputs, inputs, kernel) = match *weight.dims() {
            [outputs, inputs] => (outputs, inputs, 1),
            [outputs, inputs, h, w] if h == w => (outputs, inputs, h),
            _ => bail!("convolution: weights of shape {:?} are not (out, in, k, k)", weight.dims()),
        };
        let residual_fits = residual.is_none_or(|Value(r)| r != INPUT && self.channels[r] == outputs);
        if inputs != self.channels[x] || bias.dims() != [outputs] || !matches!(stride, 1 | 2) || !residual_fits {
            bail!(
                "convolution: weights {:?}, bias {:?} and stride {stride} do not fit {} channels",
                weight.dims(),
                bias.dims(),
                self.channels[x]
            );
        }
        let planar = x == INPUT;
        let values = weight.flatten_all()?.to_vec1()?;
        let packed = pack(&values, (outputs, inputs, kernel), planar);
        let tiled = self.precision == Precision::F32 && !planar && (kernel, stride, padding) == (3, 1, 1);
        let layer = PackedConv {
            weights: match self.precision {
                Precision::Bf16 if !planar => pairs(&packed),
                _ => packed,
            },
            winograd: if tiled { winograd::pack(&values, outputs, inputs) } else { None },
            bias: lines(&bias.to_vec1::<f32>()?),
            inputs,
            outputs,
            window: Window { kernel, stride, padding },
            bounds: activation.bounds(),
            planar,
        };
        self.pad(x, padding);
        let y = self.value(outputs);
        self.ops.push(Op::Conv { x, residual: residual.map(|r| r.0), y, layer: Arc::new(layer) });
        Ok(Value(y))
    }

    /// A depthwise convolution with `weight` (C, 1, k, k) and `bias` (C).
    ///
    /// # Errors
    /// When shapes do not fit or the value is the network's input.
    pub fn depthwise(
        &mut self,
        Value(x): Value,
        (weight, bias): (&Tensor, &Tensor),
        (stride, padding): (usize, usize),
        activation: Activation,
    ) -> Result<Value> {
        let channels = self.channels[x];
        let kernel = match *weight.dims() {
            [c, 1, h, w] if h == w && c == channels && bias.dims() == [c] && x != INPUT && stride > 0 => h,
            _ => bail!("depthwise convolution: weights of shape {:?} do not fit {channels} channels", weight.dims()),
        };
        let (taps, values) = (kernel * kernel, weight.flatten_all()?.to_vec1::<f32>()?);
        let mut weights = vec![Line::ZERO; channels.div_ceil(LANES) * taps];
        for (i, value) in values.into_iter().enumerate() {
            let (channel, tap) = (i / taps, i % taps);
            weights[channel / LANES * taps + tap].0[channel % LANES] = value;
        }
        let layer = PackedDepthwise {
            weights,
            bias: lines(&bias.to_vec1::<f32>()?),
            channels,
            window: Window { kernel, stride, padding },
            bounds: activation.bounds(),
        };
        self.pad(x, padding);
        let y = self.value(channels);
        self.ops.push(Op::Depthwise { x, y, layer: Arc::new(layer) });
        Ok(Value(y))
    }

    /// The greatest value under each window; what lies outside of the picture counts nothing.
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn max_pool(&mut self, Value(x): Value, kernel: usize, stride: usize, padding: usize) -> Result<Value> {
        if x == INPUT || padding >= kernel {
            bail!("max pool: a window of {kernel} with padding {padding} on value {x}");
        }
        let y = self.value(self.channels[x]);
        self.ops.push(Op::MaxPool { x, y, window: Window { kernel, stride, padding } });
        Ok(Value(y))
    }

    /// `x · scale + shift`, both (C), and the activation.
    ///
    /// # Errors
    /// When shapes do not fit or the value is the network's input.
    pub fn scale_shift(
        &mut self,
        Value(x): Value,
        (scale, shift): (&Tensor, &Tensor),
        activation: Activation,
    ) -> Result<Value> {
        let channels = self.channels[x];
        if x == INPUT || scale.dims() != [channels] || shift.dims() != [channels] {
            bail!("scale and shift: {:?} and {:?} do not fit {channels} channels", scale.dims(), shift.dims());
        }
        let y = self.value(channels);
        let (scale, shift) = (Arc::new(lines(&scale.to_vec1::<f32>()?)), Arc::new(lines(&shift.to_vec1::<f32>()?)));
        self.ops.push(Op::ScaleShift { x, y, scale, shift, bounds: activation.bounds() });
        Ok(Value(y))
    }

    /// The mean over all pixels: the end of the graph.
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn average(mut self, Value(x): Value) -> Result<Self> {
        if x == INPUT {
            bail!("global average: of the network's input");
        }
        self.ops.push(Op::Average { x });
        Ok(self)
    }

    /// The picture itself, (C, H, W), as the end of the graph.
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn whole(mut self, Value(x): Value) -> Result<Self> {
        if x == INPUT {
            bail!("the network's input is no end");
        }
        self.ops.push(Op::Whole { x });
        Ok(self)
    }
}

/// Values in lines, the last filled up with zeros.
fn lines(values: &[f32]) -> Vec<Line> {
    let line = |chunk: &[f32]| {
        let mut line = Line::ZERO;
        line.0[..chunk.len()].copy_from_slice(chunk);
        line
    };
    values.chunks(LANES).map(line).collect()
}

/// (Cout, Cin, k, k) → lines in the order of [`PackedConv`]. Channels beyond the last count 0.
fn pack(values: &[f32], (outputs, inputs, kernel): (usize, usize, usize), planar: bool) -> Vec<Line> {
    let taps = kernel * kernel;
    let rows = if planar { inputs * taps } else { inputs.div_ceil(LANES) * LANES * taps };
    let mut lines = vec![Line::ZERO; outputs.div_ceil(LANES) * rows];
    for (i, &value) in values.iter().enumerate() {
        let (output, input, tap) = (i / (inputs * taps), i / taps % inputs, i % taps);
        let row = if planar { input * taps + tap } else { (input / LANES * taps + tap) * LANES + input % LANES };
        lines[output / LANES * rows + row].0[output % LANES] = value;
    }
    lines
}

/// Every two lines as one of pairs of bf16.
fn pairs(lines: &[Line]) -> Vec<Line> {
    let bits = |value: f32| u32::from(half::bf16::from_f32(value).to_bits());
    let pair = |two: &[Line]| {
        let mut line = Line::ZERO;
        for (lane, pair) in line.0.iter_mut().enumerate() {
            *pair = f32::from_bits(bits(two[0].0[lane]) | bits(two[1].0[lane]) << 16);
        }
        line
    };
    lines.chunks_exact(2).map(pair).collect()
}
