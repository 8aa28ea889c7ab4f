//! Weights as products read them, and their gradients as tensors.

use candle_core::{Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::engine::{Buffer, Engine, GROUPS};
use super::kernel::{LANES, panel};
use super::values::THIN;
use super::window::Taps;
use crate::nn::f32_slice;
use crate::nn::fused::format::bf16_bits;

/// Calls `use_values` with the values of a tensor.
pub(super) fn with_values<T>(tensor: &Tensor, use_values: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(use_values(f32_slice("training", storage, layout)?)),
        _ => bail!("training: expected a tensor on the CPU: move it with to_device first"),
    }
}

/// Packs `terms` × `columns` values into panels.
fn pack(engine: &Engine, terms: usize, columns: usize, value: impl Fn(usize, usize) -> f32 + Sync) -> Buffer {
    let (per_word, blocks) = (engine.precision.per_word(), columns.div_ceil(LANES));
    let depth = terms / per_word;
    let mut packed = engine.buffer(depth * blocks * LANES);
    let mut rest = &mut packed.words_mut()[..depth * blocks * LANES];
    let (mut panels, mut block) = (Vec::new(), 0);
    while block < blocks {
        let width = panel(blocks, block, engine.is_wide());
        let (own, others) = rest.split_at_mut(width * depth * LANES);
        panels.push((block, width, own));
        (rest, block) = (others, block + width);
    }
    panels.into_par_iter().for_each(|(block, width, own)| {
        for (word, row) in own.chunks_exact_mut(width * LANES).enumerate() {
            for (lane, to) in row.iter_mut().enumerate() {
                let column = block * LANES + lane;
                *to = match (column < columns, per_word) {
                    (false, _) => 0.0,
                    (true, 1) => value(word, column),
                    (true, _) => {
                        let (low, high) = (value(2 * word, column), value(2 * word + 1, column));
                        f32::from_bits(bf16_bits(low) | bf16_bits(high) << 16)
                    }
                };
            }
        }
    });
    packed
}

/// Where the weights of a convolution, (outputs, inputs, kernel, kernel), are.
#[derive(Clone, Copy)]
pub(super) struct WeightShape {
    pub outputs: usize,
    pub inputs: usize,
    pub kernel: usize,
}

impl WeightShape {
    fn at(&self, output: usize, input: usize, tap: usize) -> usize {
        (output * self.inputs + input) * self.kernel * self.kernel + tap
    }

    /// The input channel and the tap of a term, if it has a weight.
    fn term(&self, taps: &Taps, part: usize, term: usize) -> Option<(usize, usize)> {
        let (input, tap) =
            if taps.columns == self.kernel { (term, part) } else { (term % THIN, part * self.kernel + term / THIN) };
        (input < self.inputs && term < taps.terms).then_some((input, tap))
    }

    /// Panels for [`super::conv::ConvForward`].
    pub fn forward(&self, engine: &Engine, weights: &[f32], taps: &Taps) -> Buffer {
        pack(engine, taps.count() * taps.terms, self.outputs, |term, output| {
            let at = self.term(taps, term / taps.terms, term % taps.terms);
            at.map_or(0.0, |(input, tap)| weights[self.at(output, input, tap)])
        })
    }

    /// Panels for [`super::conv::ConvBackward`].
    pub fn backward(&self, engine: &Engine, weights: &[f32]) -> Buffer {
        let padded = self.outputs.next_multiple_of(LANES);
        pack(engine, self.kernel * self.kernel * padded, self.inputs, |term, input| {
            let (tap, output) = (term / padded, term % padded);
            if output < self.outputs { weights[self.at(output, input, tap)] } else { 0.0 }
        })
    }

    /// The gradient in the order of the weights, from taps × terms × padded outputs.
    pub fn gradient(&self, grads: &[f32], taps: &Taps) -> Vec<f32> {
        let each = self.inputs * self.kernel * self.kernel;
        let (terms, padded) = (taps.blocks() * LANES, self.outputs.next_multiple_of(LANES));
        let mut to = vec![0.0; self.outputs * each];
        to.par_chunks_mut(LANES * each).enumerate().for_each(|(block, to)| {
            for part in 0..taps.count() {
                for term in 0..terms {
                    let Some((input, tap)) = self.term(taps, part, term) else { continue };
                    let from = &grads[(part * terms + term) * padded + block * LANES..][..LANES];
                    for (output, value) in from.iter().enumerate().take(to.len() / each) {
                        to[self.at(output, input, tap)] = *value;
                    }
                }
            }
        });
        to
    }
}

/// The weights of a depthwise convolution, (channels, 1, kernel, kernel), as taps × padded channels.
pub(super) fn depthwise(weights: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    let padded = channels.next_multiple_of(LANES);
    let mut to = vec![0.0; taps * padded];
    for (channel, weights) in weights.chunks_exact(taps).enumerate() {
        for (tap, weight) in weights.iter().enumerate() {
            to[tap * padded + channel] = *weight;
        }
    }
    to
}

/// The reverse of [`depthwise`].
pub(super) fn depthwise_gradient(grads: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    let padded = channels.next_multiple_of(LANES);
    (0..channels * taps).map(|i| grads[i % taps * padded + i / taps]).collect()
}

/// Sums the gradients of all groups.
pub(super) fn total(groups: &[f32], each: usize) -> Vec<f32> {
    const PART: usize = 1 << 14;
    let mut sum = groups[..each].to_vec();
    sum.par_chunks_mut(PART).enumerate().for_each(|(part, sum)| {
        for group in 1..GROUPS {
            let from = &groups[group * each + part * PART..];
            for (sum, value) in sum.iter_mut().zip(from) {
                *sum += value;
            }
        }
    });
    sum
}
