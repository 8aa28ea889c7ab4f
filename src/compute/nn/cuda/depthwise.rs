//! The depthwise convolution of [`crate::nn::depthwise_conv2d`] on a GPU, with its gradients.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use super::MODULE;
use super::ops::{f32_pointer, pointer};
use crate::gpu;
use crate::gpu::context::{KernelOutput, launch};
use crate::gpu::launch::{Argument, ElementType};
use crate::nn::Activation;
use crate::nn::depthwise::{AxisOrder, DepthwiseWindow};
use crate::nn::depthwise_plane::Geometry;

const OP: &str = "depthwise convolution";

/// Threads of the block that sums the gradient of a tap; must equal the constant in `depthwise.cu`.
const WEIGHT_THREADS: usize = 256;

type Operand<'a> = (&'a CudaStorage, &'a Layout);

fn order(window: &DepthwiseWindow, n: usize, c: usize) -> [Argument; 3] {
    [n.into(), c.into(), usize::from(window.order == AxisOrder::ChannelMajor).into()]
}

fn sizes(g: &Geometry) -> [Argument; 7] {
    [g.height, g.width, g.kernel, g.stride, g.padding, g.out_height, g.out_width].map(Argument::from)
}

/// `activation(weight * x + bias)` in the element type of `x` and `weight`; the bias is f32.
pub(in crate::nn) fn forward(
    window: &DepthwiseWindow,
    (x, x_l): Operand<'_>,
    (weight, weight_l): Operand<'_>,
    bias: Option<Operand<'_>>,
    activation: Activation,
) -> Result<(CudaStorage, Shape)> {
    let (n, c, geometry) = window.check(x_l.shape(), weight_l.shape())?;
    let (from, numbers) = pointer(OP, x, x_l)?;
    let (taps, theirs) = pointer(OP, weight, weight_l)?;
    if theirs != numbers {
        bail!("{OP}: weights of type {} for a tensor of type {}", theirs.name(), numbers.name());
    }
    let bias = match bias {
        Some((_, layout)) if layout.dims() != [c] => bail!("{OP}: the bias does not have {c} values"),
        Some((storage, layout)) => f32_pointer(OP, storage, layout)?.into(),
        None => Argument::Null,
    };
    let (outer, inner) = window.order.outer(n, c);
    let out = KernelOutput::new(x.device(), (outer, inner, geometry.out_height, geometry.out_width).into(), numbers)?;
    let (low, high) = activation.bounds();
    let mut arguments: Vec<Argument> = vec![from.into(), taps.into(), bias, out.pointer().into()];
    arguments.push(((n * c) as u64).into());
    arguments.extend(order(window, n, c));
    arguments.extend(sizes(&geometry));
    arguments.extend([low, high].map(Argument::from));
    let kernel = match numbers {
        ElementType::F32 => "depthwise_forward_f32",
        ElementType::F16 => "depthwise_forward_f16",
        ElementType::Bf16 => "depthwise_forward_bf16",
    };
    let shape = gpu::Shape::flat((n * c * geometry.out_len()) as u64);
    launch(x.device(), MODULE, kernel, shape, &arguments)?;
    Ok(out.parts())
}

/// (gradient of the result, weight) → gradient of the input, f32.
pub(in crate::nn) fn backward_input(
    window: &DepthwiseWindow,
    (grad, grad_l): Operand<'_>,
    (weight, weight_l): Operand<'_>,
    input: &Shape,
) -> Result<(CudaStorage, Shape)> {
    let (n, c, geometry) = window.check(input, weight_l.shape())?;
    let (from, taps) = (f32_pointer(OP, grad, grad_l)?, f32_pointer(OP, weight, weight_l)?);
    let out = KernelOutput::new(grad.device(), input.clone(), ElementType::F32)?;
    let mut arguments: Vec<Argument> = [from, taps, out.pointer()].map(Argument::from).into();
    arguments.push(((n * c) as u64).into());
    arguments.extend(order(window, n, c));
    arguments.extend(sizes(&geometry));
    let shape = gpu::Shape::flat(input.elem_count() as u64);
    launch(grad.device(), MODULE, "depthwise_backward_input", shape, &arguments)?;
    Ok(out.parts())
}

/// (input, gradient of the result) → gradient of the weight, f32.
pub(in crate::nn) fn backward_weight(
    window: &DepthwiseWindow,
    (x, x_l): Operand<'_>,
    (grad, grad_l): Operand<'_>,
    weight: &Shape,
) -> Result<(CudaStorage, Shape)> {
    let (n, c, geometry) = window.check(x_l.shape(), weight)?;
    let (from, grads) = (f32_pointer(OP, x, x_l)?, f32_pointer(OP, grad, grad_l)?);
    let out = KernelOutput::new(x.device(), weight.clone(), ElementType::F32)?;
    let mut arguments: Vec<Argument> = [from, grads, out.pointer()].map(Argument::from).into();
    arguments.extend(order(window, n, c));
    arguments.extend(sizes(&geometry));
    let shape = gpu::Shape::new([geometry.kernel * geometry.kernel, c, 1], WEIGHT_THREADS);
    launch(x.device(), MODULE, "depthwise_backward_weight", shape, &arguments)?;
    Ok(out.parts())
}
