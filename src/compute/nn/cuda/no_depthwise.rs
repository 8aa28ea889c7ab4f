//! Stands in for `depthwise` in builds without the feature `cuda`: candle has no CUDA tensors there, so no call gets here.

use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use crate::nn::Activation;
use crate::nn::depthwise::DepthwiseWindow;

type Operand<'a> = (&'a CudaStorage, &'a Layout);

fn absent<T>() -> Result<T> {
    bail!("depthwise convolution: this build has no CUDA")
}

pub(in crate::nn) fn forward(
    _window: &DepthwiseWindow,
    _x: Operand<'_>,
    _weight: Operand<'_>,
    _bias: Option<Operand<'_>>,
    _activation: Activation,
) -> Result<(CudaStorage, Shape)> {
    absent()
}

pub(in crate::nn) fn backward_input(
    _window: &DepthwiseWindow,
    _grad: Operand<'_>,
    _weight: Operand<'_>,
    _input: &Shape,
) -> Result<(CudaStorage, Shape)> {
    absent()
}

pub(in crate::nn) fn backward_weight(
    _window: &DepthwiseWindow,
    _x: Operand<'_>,
    _grad: Operand<'_>,
    _weight: &Shape,
) -> Result<(CudaStorage, Shape)> {
    absent()
}
