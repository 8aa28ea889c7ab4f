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
