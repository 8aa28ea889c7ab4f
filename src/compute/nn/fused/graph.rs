//! A network as a list of fused operations on numbered values, with weights packed once.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::depthwise::turned_lines;
use super::hybrid::PackedGate;
use super::kernel::LANES;
use super::level::{Arithmetic, Level, Precision};
use super::quantise::{Quantisation, QuantisedWeights, Range};
use super::{format, winograd};
use crate::nn::{Activation, window_count};

/// Sixteen values on one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::nn) struct CacheLine(pub [f32; LANES]);

impl CacheLine {
    pub const ZERO: CacheLine = CacheLine([0.0; LANES]);
}

/// The output of an operation, by its number: a picture of `channels` × `h` × `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub(super) usize);

/// How the sums of a layer become its output: bias, scale, residual, clamp.
#[derive(Debug)]
pub(super) struct Epilogue {
    pub bias: Vec<CacheLine>,
    /// Units of the output per unit of a sum; for sums of bytes.
    pub scale: Vec<CacheLine>,
    /// Units of the output per unit of the residual; for sums of bytes.
    pub residual: Vec<CacheLine>,
    /// Bounds of the activation. Storing bytes clamps to their ranges, which are within.
    pub bounds: (f32, f32),
}

/// Weights of a convolution: for every block of 16 outputs, for every segment (see [`super::kernel`]), 16 words of weights for
/// each word of its inputs.
#[derive(Debug)]
pub(super) struct PackedConv {
    pub weights: Vec<CacheLine>,
    /// Weights transformed for [`super::winograd`], where that may be faster.
    pub winograd: Option<Vec<CacheLine>>,
    pub epilogue: Epilogue,
    pub inputs: usize,
    pub outputs: usize,
    pub window: Window,
    /// Whether the input is the network's: planes, not blocks.
    pub planar: bool,
}

/// Weights of a depthwise convolution: kernel · kernel lines per block, or as in [`turned_lines`].
#[derive(Debug)]
pub(super) struct PackedDepthwise {
    pub weights: Vec<CacheLine>,
    /// Lines per block.
    pub lines: usize,
    pub epilogue: Epilogue,
    pub channels: usize,
    pub window: Window,
}

/// A square sliding window.
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
        scale: Arc<Vec<CacheLine>>,
        shift: Arc<Vec<CacheLine>>,
        bounds: (f32, f32),
    },
    /// A factor for each channel, from the means of all channels.
    Gate {
        x: usize,
        y: usize,
        layer: Arc<PackedGate>,
    },
    /// `x` times the factors of a gate.
    Scale {
        x: usize,
        gate: usize,
        y: usize,
    },
    ChannelNorm {
        x: usize,
        y: usize,
        epsilon: f32,
    },
    Attention {
        x: usize,
        y: usize,
        heads: usize,
    },
    /// The output: the mean over all pixels, or the whole picture in planes.
    Average {
        x: usize,
    },
    WholePicture {
        x: usize,
    },
}

/// The operations of a network from the picture to its output, independent of the picture's size.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(super) level: Level,
    pub(super) precision: Precision,
    pub(super) ops: Vec<Op>,
    /// Channels of each value.
    pub(super) channels: Vec<usize>,
    /// Border of zeros that the readers of each value need around it.
    pub(super) padding: Vec<usize>,
    /// Whether each value is stored after GELU.
    pub(super) gelu: Vec<bool>,
    /// Quantisation of each value, by channel.
    pub(super) bytes: Vec<Arc<[Quantisation]>>,
    /// Ranges of the values, by channel; for bytes.
    ranges: Vec<Vec<Range>>,
}

/// Value 0: the network's input.
pub(super) const INPUT: usize = 0;

impl Graph {
    /// A graph without operations, and its input: a planar picture of `channels`.
    ///
    /// # Errors
    /// When the input's range is missing or not sound.
    pub fn new(level: Level, arithmetic: Arithmetic<'_>, channels: usize) -> Result<(Self, Value)> {
        let ranges = if let Arithmetic::Int8(ranges) = arithmetic { ranges } else { &[] };
        let mut graph = Self {
            level,
            precision: arithmetic.precision(),
            ops: Vec::new(),
            channels: Vec::new(),
            padding: Vec::new(),
            gelu: Vec::new(),
            bytes: Vec::new(),
            ranges: ranges.to_vec(),
        };
        let input = graph.value(channels, Activation::Identity)?;
        Ok((graph, Value(input)))
    }

    pub(super) fn value(&mut self, channels: usize, activation: Activation) -> Result<usize> {
        let value = self.channels.len();
        let bytes = match (self.precision, self.ranges.get(value)) {
            (Precision::F32 | Precision::Bf16, _) => vec![Quantisation::NONE; channels],
            (Precision::Int8, None) => bail!("int8: there are ranges for {value} values, but the network has more"),
            (Precision::Int8, Some(ranges)) if ranges.len() != channels => {
                bail!("int8: value {value} of the network has {channels} channels, and {} ranges", ranges.len())
            }
            (Precision::Int8, Some(ranges)) => {
                if let Some(range) = ranges.iter().find(|range| !range.is_sound()) {
                    bail!(
                        "int8: a channel of value {value} of the network has the range {range:?}, which is not finite or excludes 0"
                    );
                }
                ranges.iter().map(|range| Quantisation::within(*range, activation.bounds())).collect()
            }
        };
        self.channels.push(channels);
        self.padding.push(0);
        self.gelu.push(false);
        self.bytes.push(bytes.into());
        Ok(value)
    }

    /// The epilogue of sums that become `y`. `weights` is used if values are bytes.
    fn epilogue(
        &self,
        (residual, y): (Option<usize>, usize),
        bias: &[f32],
        weights: &[QuantisedWeights],
        activation: Activation,
    ) -> Epilogue {
        let bounds = activation.bounds();
        if self.precision != Precision::Int8 {
            return Epilogue { bias: lines(bias), scale: Vec::new(), residual: Vec::new(), bounds };
        }
        let y = &self.bytes[y];
        let scale: Vec<f32> = weights.iter().zip(y.iter()).map(|(weights, y)| y.units(weights.unit)).collect();
        let beside: Vec<(f32, f32)> = match residual {
            Some(value) => self.bytes[value].iter().zip(y.iter()).map(|(r, y)| (y.units(r.unit), r.zero)).collect(),
            None => vec![(1.0, 0.0); y.len()],
        };
        // The zero points add a constant to every sum. It becomes part of the bias.
        let bias: Vec<f32> = (0..y.len())
            .map(|c| {
                let bias = y[c].place(bias[c] - weights[c].shift);
                bias - beside[c].0 * beside[c].1 - weights[c].zeros * scale[c]
            })
            .collect();
        let factors: Vec<f32> = beside.iter().map(|(factor, _)| *factor).collect();
        Epilogue { bias: lines(&bias), scale: lines(&scale), residual: lines(&factors), bounds }
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
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let y = self.value(outputs, activation)?;
        let shape = (outputs, inputs, kernel);
        let mut whole: Vec<QuantisedWeights> = Vec::new();
        let weights = match self.precision {
            Precision::F32 => pack(values.iter().map(|v| v.to_bits()), shape, planar, 1),
            Precision::Bf16 => pack(values.iter().map(|v| format::bf16_bits(*v)), shape, planar, 2),
            Precision::Int8 => {
                let rows = values.chunks_exact(inputs * kernel * kernel);
                whole = rows.map(|row| QuantisedWeights::of(row, kernel * kernel, &self.bytes[x])).collect();
                let bytes = whole.iter().flat_map(|row| row.weights.iter().map(|byte| u32::from(*byte as u8)));
                pack(bytes, shape, planar, 4)
            }
        };
        let tiled = self.precision == Precision::F32 && !planar && (kernel, stride, padding) == (3, 1, 1);
        let residual = residual.map(|r| r.0);
        let layer = PackedConv {
            weights,
            winograd: if tiled { winograd::pack(&values, outputs, inputs) } else { None },
            epilogue: self.epilogue((residual, y), &bias.to_vec1::<f32>()?, &whole, activation),
            inputs,
            outputs,
            window: Window { kernel, stride, padding },
            planar,
        };
        self.pad(x, padding);
        self.ops.push(Op::Conv { x, residual, y, layer: Arc::new(layer) });
        Ok(Value(y))
    }

    /// A depthwise convolution with `weight` (C, 1, k, k) and `bias` (C). C may be a multiple of the channels of `x`, if these are whole
    /// blocks of 16: channel `c` of the output then reads channel `c` modulo that number.
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
        let inputs = self.channels[x];
        let fits = |c: usize| c == inputs || (inputs.is_multiple_of(LANES) && c.is_multiple_of(inputs));
        let (channels, kernel) = match *weight.dims() {
            [c, 1, h, w] if h == w && fits(c) && bias.dims() == [c] && x != INPUT && stride > 0 => (c, h),
            _ => bail!("depthwise convolution: weights of shape {:?} do not fit {inputs} channels", weight.dims()),
        };
        let (taps, values) = (kernel * kernel, weight.flatten_all()?.to_vec1::<f32>()?);
        let y = self.value(channels, activation)?;
        let mut whole: Vec<QuantisedWeights> = Vec::new();
        let lines = if self.precision == Precision::Int8 { kernel * turned_lines(kernel) } else { taps };
        let mut weights = vec![CacheLine::ZERO; channels.div_ceil(LANES) * lines];
        if self.precision == Precision::Int8 {
            for (channel, taps) in values.chunks_exact(taps).enumerate() {
                let row = QuantisedWeights::of(taps, taps.len(), &self.bytes[x][channel % inputs..][..1]);
                turned(&row.weights, kernel, channel % LANES, &mut weights[channel / LANES * lines..][..lines]);
                whole.push(row);
            }
        } else {
            for (i, value) in values.into_iter().enumerate() {
                let (channel, tap) = (i / taps, i % taps);
                weights[channel / LANES * taps + tap].0[channel % LANES] = value;
            }
        }
        let layer = PackedDepthwise {
            weights,
            lines,
            epilogue: self.epilogue((None, y), &bias.to_vec1::<f32>()?, &whole, activation),
            channels,
            window: Window { kernel, stride, padding },
        };
        self.pad(x, padding);
        self.ops.push(Op::Depthwise { x, y, layer: Arc::new(layer) });
        Ok(Value(y))
    }

    /// The maximum of each window; pixels outside the picture are ignored.
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn max_pool(&mut self, Value(x): Value, kernel: usize, stride: usize, padding: usize) -> Result<Value> {
        if x == INPUT || padding >= kernel {
            bail!("max pool: a window of {kernel} with padding {padding} on value {x}");
        }
        let y = self.value(self.channels[x], Activation::Identity)?;
        // The largest byte is the largest value, since input and output have the same quantisation.
        self.bytes[y] = self.bytes[x].clone();
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
        let y = self.value(channels, activation)?;
        let (scale, shift) = (scale.to_vec1::<f32>()?, shift.to_vec1::<f32>()?);
        let line = |c: usize| {
            let (from, to) = (self.bytes[x][c], self.bytes[y][c]);
            let scale = to.units(scale[c] * from.unit);
            (scale, to.place(shift[c]) - from.zero * scale)
        };
        let (scale, shift): (Vec<f32>, Vec<f32>) = (0..channels).map(line).unzip();
        let (scale, shift) = (Arc::new(lines(&scale)), Arc::new(lines(&shift)));
        let bounds = match self.precision {
            Precision::Int8 => Activation::Identity.bounds(),
            Precision::F32 | Precision::Bf16 => activation.bounds(),
        };
        self.ops.push(Op::ScaleShift { x, y, scale, shift, bounds });
        Ok(Value(y))
    }

    /// Ends the graph with the mean over all pixels.
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn average(mut self, Value(x): Value) -> Result<Self> {
        if x == INPUT {
            bail!("global average: not of the network's input");
        }
        self.ops.push(Op::Average { x });
        self.ended()
    }

    /// Ends the graph with the whole picture, (C, H, W).
    ///
    /// # Errors
    /// When the value is the network's input.
    pub fn whole(mut self, Value(x): Value) -> Result<Self> {
        if x == INPUT {
            bail!("the network's input cannot be its output");
        }
        self.ops.push(Op::WholePicture { x });
        self.ended()
    }

    fn ended(self) -> Result<Self> {
        let (values, ranges) = (self.channels.len(), self.ranges.len());
        if self.precision == Precision::Int8 && ranges != values {
            bail!("int8: there are ranges for {ranges} values, but the network has {values}");
        }
        Ok(self)
    }
}

/// Values in lines; the last line is padded with zeros.
fn lines(values: &[f32]) -> Vec<CacheLine> {
    let line = |chunk: &[f32]| {
        let mut line = CacheLine::ZERO;
        line.0[..chunk.len()].copy_from_slice(chunk);
        line
    };
    values.chunks(LANES).map(line).collect()
}

/// (Cout, Cin, k, k), given as bits, → lines in the order of [`PackedConv`], `per_word` inputs per word. Channels
/// beyond the last are 0.
fn pack(
    values: impl Iterator<Item = u32>,
    (outputs, inputs, kernel): (usize, usize, usize),
    planar: bool,
    per_word: usize,
) -> Vec<CacheLine> {
    let (taps, bits) = (kernel * kernel, 32 / per_word);
    let words = LANES / per_word;
    let rows = if planar { inputs.div_ceil(per_word) * taps } else { inputs.div_ceil(LANES) * words * taps };
    let mut lines = vec![CacheLine::ZERO; outputs.div_ceil(LANES) * rows];
    for (i, value) in values.enumerate() {
        let (output, input, tap) = (i / (inputs * taps), i / taps % inputs, i % taps);
        let row = match planar {
            true => input / per_word * taps + tap,
            false => (input / LANES * taps + tap) * words + input % LANES / per_word,
        };
        let word = &mut lines[output / LANES * rows + row].0[output % LANES];
        *word = f32::from_bits(word.to_bits() | value << (input % per_word * bits));
    }
    lines
}

/// The taps of a lane in the order of [`turned_lines`].
fn turned(taps: &[i8], kernel: usize, lane: usize, block: &mut [CacheLine]) {
    let lines = turned_lines(kernel);
    let mut put = |line: usize, place: usize, tap: i8| {
        let word = &mut block[line].0[lane];
        *word = f32::from_bits(word.to_bits() | u32::from(tap as u8) << (8 * place));
    };
    for (i, tap) in taps.iter().enumerate() {
        let (ky, kx) = (i / kernel, i % kernel);
        put(ky * lines + kx / 4, kx % 4, *tap);
        if kernel == 3 {
            put(ky * lines + 1, kx + 1, *tap);
        }
    }
}
