//! The layers of hybrid networks, which have convolutions and attention: squeeze and excite, norms over channels, attention.
//!
//! They see all pixels of a picture, and their cost is small beside that of the convolutions: plain loops over blocks of 16 channels, which
//! the compiler vectorises.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::graph::{Graph, INPUT, Op, Value};
use super::kernel::LANES;
use super::level::Precision;
use crate::nn::{Activation, BuildHybrid};

/// The weights of squeeze and excite (Hu et al., *Squeeze-and-Excitation Networks*, CVPR 2018).
#[derive(Debug)]
pub(super) struct PackedGate {
    /// A row of weights over all channels, and a bias, per squeezed value.
    squeeze: Vec<(Vec<f32>, f32)>,
    /// A row of weights over all channels per squeezed value.
    excite: Vec<Vec<f32>>,
    /// (channels)
    bias: Vec<f32>,
}

impl PackedGate {
    /// Words of scratch that [`PackedGate::run`] needs.
    pub fn scratch(&self) -> usize {
        self.bias.len()
    }

    /// The factors of the channels of `x`: blocks of pixels.
    #[inline(always)]
    pub fn run(&self, x: &[f32], factors: &mut [f32], scratch: &mut [f32]) {
        let means = &mut scratch[..self.bias.len()];
        let plane = x.len() / (means.len() / LANES);
        for (pixels, means) in x.chunks_exact(plane).zip(means.chunks_exact_mut(LANES)) {
            let mut sums = [0f32; LANES];
            for pixel in pixels.chunks_exact(LANES) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            }
            means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = sum / (plane / LANES) as f32);
        }
        factors.copy_from_slice(&self.bias);
        for ((weights, bias), excite) in self.squeeze.iter().zip(&self.excite) {
            let squeezed = (dot(weights, means) + bias).max(0.0);
            factors.iter_mut().zip(excite).for_each(|(factor, weight)| *factor += squeezed * weight);
        }
        factors.iter_mut().for_each(|factor| *factor = 1.0 / (1.0 + (-*factor).exp()));
    }
}

/// The dot product of whole blocks, in the same order on every processor.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Scales each of `pixels` so that its channels have mean 0 and variance 1.
#[inline(always)]
pub(super) fn channel_norm(x: &[f32], y: &mut [f32], pixels: usize, epsilon: f32) {
    let (plane, channels) = (pixels * LANES, (x.len() / pixels) as f32);
    for pixel in 0..pixels {
        let blocks = || x.chunks_exact(plane).map(|block| &block[pixel * LANES..][..LANES]);
        let total = |sums: [f32; LANES]| sums.iter().sum::<f32>() / channels;
        let mut sums = [0f32; LANES];
        blocks().for_each(|block| sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value));
        let mean = total(sums);
        let mut squares = [0f32; LANES];
        blocks().for_each(|block| {
            squares.iter_mut().zip(block).for_each(|(sum, value)| *sum += (value - mean) * (value - mean));
        });
        let factor = 1.0 / (total(squares) + epsilon).sqrt();
        for (block, out) in blocks().zip(y.chunks_exact_mut(plane)) {
            let out = &mut out[pixel * LANES..][..LANES];
            out.iter_mut().zip(block).for_each(|(out, value)| *out = (value - mean) * factor);
        }
    }
}

/// Words of scratch that [`attention`] needs for a head of `blocks` blocks.
pub(super) const fn attention_scratch(blocks: usize, pixels: usize) -> usize {
    (blocks * LANES + 1) * pixels
}

/// Attention of one head among all pixels: query, key and value, each a few blocks of `pixels`.
#[inline(always)]
pub(super) fn attention([query, key, value]: [&[f32]; 3], y: &mut [f32], pixels: usize, scratch: &mut [f32]) {
    let (plane, width) = (pixels * LANES, query.len() / pixels);
    let (keys, rest) = scratch.split_at_mut(width * pixels);
    let scores = &mut rest[..pixels];
    // A row per channel, so that a query's products with all keys lie side by side.
    for (i, row) in keys.chunks_exact_mut(pixels).enumerate() {
        let channel = key[i / LANES * plane..][..plane].iter().skip(i % LANES).step_by(LANES);
        row.iter_mut().zip(channel).for_each(|(to, from)| *to = *from);
    }
    let scale = (width as f32).sqrt().recip();
    for pixel in 0..pixels {
        scores.fill(0.0);
        for (i, row) in keys.chunks_exact(pixels).enumerate() {
            let query = query[i / LANES * plane + pixel * LANES + i % LANES] * scale;
            scores.iter_mut().zip(row).for_each(|(score, key)| *score += query * key);
        }
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        let share = 1.0 / scores.iter().sum::<f32>();
        for (value, y) in value.chunks_exact(plane).zip(y.chunks_exact_mut(plane)) {
            let mut sums = [0f32; LANES];
            for (score, value) in scores.iter().zip(value.chunks_exact(LANES)) {
                sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += score * value);
            }
            let y = &mut y[pixel * LANES..][..LANES];
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum * share);
        }
    }
}

/// `e^x` of numbers that are not above 0, written so that the compiler vectorises it: a power of two, times a Taylor series of the rest.
/// The relative error is below 3e-7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Added to a small number, leaves its integer in the lowest bits.
    const TO_WHOLE: f32 = 12_582_912.0;
    // ln 2 in two parts, the first of which has few bits, so that its products are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + TO_WHOLE;
    let whole = shifted - TO_WHOLE;
    let rest = x - whole * LN_2[0] - whole * LN_2[1];
    let mut series = 1.0 / 720.0;
    for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + factor;
    }
    f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23))
}

impl BuildHybrid for Graph {
    fn depthwise_repeated(
        &mut self,
        x: Value,
        _: usize,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
    ) -> Result<Value> {
        self.depthwise(x, layer, window, Activation::Identity)
    }

    fn gelu(&mut self, Value(x): Value) -> Result<Value> {
        self.only_f32("GELU")?;
        match self.ops.last() {
            Some(Op::Conv { y, .. } | Op::Depthwise { y, .. } | Op::ScaleShift { y, .. } | Op::Scale { y, .. })
                if *y == x => {}
            _ => bail!("GELU: value {x} is not the output of a convolution or a scale just before"),
        }
        self.gelu[x] = true;
        Ok(Value(x))
    }

    fn squeeze_excite(
        &mut self,
        Value(x): Value,
        squeeze: (&Tensor, &Tensor),
        excite: (&Tensor, &Tensor),
    ) -> Result<Value> {
        self.only_f32("squeeze and excite")?;
        let (channels, squeezed) = (self.whole_blocks(x, "squeeze and excite")?, squeeze.1.elem_count());
        let count = channels * squeezed;
        if [squeeze.0.elem_count(), excite.0.elem_count(), excite.1.elem_count()] != [count, count, channels] {
            let shapes = [squeeze.0.dims(), excite.0.dims()];
            bail!("squeeze and excite: weights of shape {shapes:?} do not fit {channels} channels");
        }
        let rows = squeeze.0.reshape((squeezed, channels))?.to_vec2::<f32>()?;
        let layer = PackedGate {
            squeeze: rows.into_iter().zip(squeeze.1.flatten_all()?.to_vec1::<f32>()?).collect(),
            excite: excite.0.reshape((channels, squeezed))?.t()?.to_vec2()?,
            bias: excite.1.flatten_all()?.to_vec1()?,
        };
        let gate = self.value(channels, Activation::Identity)?;
        self.ops.push(Op::Gate { x, y: gate, layer: Arc::new(layer) });
        let y = self.value(channels, Activation::Identity)?;
        self.ops.push(Op::Scale { x, gate, y });
        Ok(Value(y))
    }

    fn channel_norm(&mut self, Value(x): Value, epsilon: f64) -> Result<Value> {
        self.only_f32("norm over channels")?;
        let channels = self.whole_blocks(x, "norm over channels")?;
        let y = self.value(channels, Activation::Identity)?;
        self.ops.push(Op::ChannelNorm { x, y, epsilon: epsilon as f32 });
        Ok(Value(y))
    }

    fn attention(&mut self, Value(x): Value, (heads, width): (usize, usize)) -> Result<Value> {
        self.only_f32("attention")?;
        let channels = self.whole_blocks(x, "attention")?;
        if heads == 0 || 3 * heads * width != channels || !width.is_multiple_of(LANES) {
            bail!(
                "attention: {heads} heads of {width} do not fit {channels} channels, or are not whole blocks of {LANES}"
            );
        }
        let y = self.value(channels / 3, Activation::Identity)?;
        self.ops.push(Op::Attention { x, y, heads });
        Ok(Value(y))
    }
}

impl Graph {
    fn only_f32(&self, op: &str) -> Result<()> {
        match self.precision {
            Precision::F32 => Ok(()),
            Precision::Bf16 | Precision::Int8 => bail!("{op}: computed in f32 only"),
        }
    }

    /// The channels of a value, if they are whole blocks.
    fn whole_blocks(&self, x: usize, op: &str) -> Result<usize> {
        match self.channels[x] {
            channels if x != INPUT && channels.is_multiple_of(LANES) => Ok(channels),
            channels => bail!("{op}: {channels} channels are not whole blocks of {LANES}, or are the network's input"),
        }
    }
}
