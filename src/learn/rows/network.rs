//! The networks whose outputs become rows.

use candle_core::{Result, Tensor};

use super::Recipe;
use crate::net::Net;
use touchline_compute::models::Network;

/// A network that computes rows.
#[derive(Clone, Copy, Debug)]
pub enum RowNetwork<'a> {
    /// A network that can be trained. Its first blocks are frozen.
    Trainable(&'a Net),
    /// An encoder, which is frozen as a whole: its rows have no activations.
    Encoder(&'a Network),
}

impl<'a> From<&'a Net> for RowNetwork<'a> {
    fn from(net: &'a Net) -> Self {
        net.encoder().map_or(RowNetwork::Trainable(net), RowNetwork::Encoder)
    }
}

/// What a network gives for a batch of N model inputs.
pub(super) struct Outputs {
    /// (N, features); no features if the recipe has none.
    pub pooled: Tensor,
    /// (N, C, H, W): the activations at the border between frozen and trained blocks.
    pub border: Tensor,
}

impl RowNetwork<'_> {
    /// Number of pooled features.
    pub(super) fn width(self) -> usize {
        match self {
            RowNetwork::Trainable(net) => net.architecture().feature_width(),
            RowNetwork::Encoder(network) => network.feature_width(),
        }
    }

    /// Channels, height and width of the activations for inputs of `height` × `width`.
    pub(super) fn shape(self, recipe: &Recipe, (width, height): (usize, usize)) -> Result<[usize; 3]> {
        match self {
            RowNetwork::Trainable(net) => {
                let probe = Tensor::zeros((3, 1, height, width), candle_core::DType::F32, &candle_core::Device::Cpu)?;
                let (c, _, h, w) = net.run(&probe, 0, recipe.frozen)?.dims4()?;
                Ok([c, h, w])
            }
            RowNetwork::Encoder(network) => Ok([network.feature_width(), 1, 1]),
        }
    }

    /// Runs model inputs (N, 3, H, W).
    pub(super) fn run(self, recipe: &Recipe, x: &Tensor) -> Result<Outputs> {
        match self {
            RowNetwork::Trainable(net) => {
                let border = net.run(&x.transpose(0, 1)?.contiguous()?, 0, recipe.frozen)?;
                let pooled = if recipe.pooled {
                    net.pool(&net.run(&border, recipe.frozen, net.blocks())?)?
                } else {
                    Tensor::zeros((x.dim(0)?, 0), x.dtype(), x.device())?
                };
                Ok(Outputs { pooled, border: border.transpose(0, 1)?.contiguous()? })
            }
            RowNetwork::Encoder(network) => {
                let pooled = network.features(x)?;
                Ok(Outputs { border: pooled.unsqueeze(2)?.unsqueeze(3)?, pooled })
            }
        }
    }
}
