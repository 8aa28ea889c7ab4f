//! Adds a network's layers to the fused CPU graph or to a GPU network.

use candle_core::{Result, Tensor};

use super::Activation;
use super::fused::{Graph, Value};

/// Receives the layers of a network in the order of computation. Weights are `f32`, with batch norm folded in.
pub trait Build {
    /// The output of a layer.
    type Value: Copy;

    /// A convolution with `weight` (Cout, Cin, k, k) or (Cout, Cin) and `bias` (Cout); `residual` is added before the
    /// activation.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn conv(
        &mut self,
        x: Self::Value,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        residual: Option<Self::Value>,
        activation: Activation,
    ) -> Result<Self::Value>;

    /// A depthwise convolution with `weight` (C, 1, k, k) and `bias` (C).
    ///
    /// # Errors
    /// When shapes do not fit.
    fn depthwise(
        &mut self,
        x: Self::Value,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        activation: Activation,
    ) -> Result<Self::Value>;

    /// The maximum of each window of `kernel`, with stride and padding.
    ///
    /// # Errors
    /// When the window is not possible.
    fn max_pool(&mut self, x: Self::Value, kernel: usize, stride: usize, padding: usize) -> Result<Self::Value>;

    /// `x · scale + shift`, both (C), and the activation.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn scale_shift(&mut self, x: Self::Value, layer: (&Tensor, &Tensor), activation: Activation)
    -> Result<Self::Value>;
}

impl Build for Graph {
    type Value = Value;

    fn conv(
        &mut self,
        x: Value,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        residual: Option<Value>,
        activation: Activation,
    ) -> Result<Value> {
        Graph::conv(self, x, layer, window, residual, activation)
    }

    fn depthwise(
        &mut self,
        x: Value,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        activation: Activation,
    ) -> Result<Value> {
        Graph::depthwise(self, x, layer, window, activation)
    }

    fn max_pool(&mut self, x: Value, kernel: usize, stride: usize, padding: usize) -> Result<Value> {
        Graph::max_pool(self, x, kernel, stride, padding)
    }

    fn scale_shift(&mut self, x: Value, layer: (&Tensor, &Tensor), activation: Activation) -> Result<Value> {
        Graph::scale_shift(self, x, layer, activation)
    }
}

/// Also receives the layers of hybrid networks, which have convolutions and attention.
pub trait BuildHybrid: Build {
    /// A depthwise convolution with several outputs per channel: as [`Build::depthwise`] of the channels of `x`, repeated `times` times one
    /// after the other. Channel `c` of the output reads channel `c` modulo their number.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn depthwise_repeated(
        &mut self,
        x: Self::Value,
        times: usize,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
    ) -> Result<Self::Value>;

    /// Applies GELU with the error function to the output of the convolution or of [`BuildHybrid::squeeze_excite`] that was added last.
    ///
    /// # Errors
    /// When `x` is another value.
    fn gelu(&mut self, x: Self::Value) -> Result<Self::Value>;

    /// `x` times a factor for each channel: the sigmoid of `excite` of ReLU of `squeeze` of the means of all channels. Both are weight and
    /// bias of a linear layer; the weights are (squeezed, C) and (C, squeezed), of any rank.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn squeeze_excite(
        &mut self,
        x: Self::Value,
        squeeze: (&Tensor, &Tensor),
        excite: (&Tensor, &Tensor),
    ) -> Result<Self::Value>;

    /// Scales each pixel so that its channels have mean 0 and variance 1. `epsilon` is added to the variance.
    ///
    /// # Errors
    /// When the channels do not fit.
    fn channel_norm(&mut self, x: Self::Value, epsilon: f64) -> Result<Self::Value>;

    /// Attention among all pixels, with a number of heads and a width of each. `x` has the queries, keys and values of all heads,
    /// (3 · heads · width); the result has (heads · width) channels.
    ///
    /// # Errors
    /// When the channels do not fit.
    fn attention(&mut self, x: Self::Value, heads: (usize, usize)) -> Result<Self::Value>;
}
