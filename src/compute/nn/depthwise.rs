//! Depthwise convolution: every channel has its own kernel.
//!
//! candle runs a convolution of C groups as C convolutions; this is one op, with one rayon task per channel and sample. On a GPU the op runs kernels of
//! `cuda/depthwise.rs`.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use pulp::Arch;
use rayon::prelude::*;

use super::depthwise_plane::{BackwardInput, BackwardWeight, Forward, Geometry, PlaneScratch};
use super::{Activation, Build, f32_slice};

/// Depthwise convolution of `x` (N, C, H, W) with `weight` (C, 1, k, k) to (N, C, H', W'), without bias or dilation,
/// with gradients of both. Equals candle's `conv2d` with C groups.
///
/// # Errors
/// When a tensor is not contiguous `f32` on the CPU or a GPU, the shapes do not fit, no window fits, the stride is 0 or the
/// padding is not below the kernel.
pub fn depthwise_conv2d(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    x.apply_op2(weight, DepthwiseWindow { stride, padding, order: AxisOrder::SampleMajor })
}

/// As [`depthwise_conv2d`], of `x` (C, N, H, W) to (C, N, H', W'): the order of activations in training.
///
/// # Errors
/// As [`depthwise_conv2d`].
pub fn depthwise_conv2d_channel_major(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    x.apply_op2(weight, DepthwiseWindow { stride, padding, order: AxisOrder::ChannelMajor })
}

/// Which of the two outer axes of a tensor is the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AxisOrder {
    /// (N, C, H, W)
    SampleMajor,
    /// (C, N, H, W)
    ChannelMajor,
}

impl AxisOrder {
    /// The channel of plane `i`, of `n` samples and `c` channels.
    const fn channel(self, i: usize, n: usize, c: usize) -> usize {
        match self {
            AxisOrder::SampleMajor => i % c,
            AxisOrder::ChannelMajor => i / n,
        }
    }

    /// The plane of a channel and a sample.
    const fn plane(self, channel: usize, sample: usize, n: usize, c: usize) -> usize {
        match self {
            AxisOrder::SampleMajor => sample * c + channel,
            AxisOrder::ChannelMajor => channel * n + sample,
        }
    }

    /// Lengths of the two outer axes, in the order of the tensor.
    pub(super) const fn outer(self, n: usize, c: usize) -> (usize, usize) {
        match self {
            AxisOrder::SampleMajor => (n, c),
            AxisOrder::ChannelMajor => (c, n),
        }
    }
}

/// A depthwise convolution with bias and activation.
#[derive(Clone, Debug)]
pub struct Depthwise {
    /// (C, 1, k, k).
    weight: Tensor,
    /// (C).
    bias: Tensor,
    window: DepthwiseWindow,
    activation: Activation,
}

impl Depthwise {
    /// `weight` is (C, 1, k, k), `bias` is (C), both `f32`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: usize, padding: usize, activation: Activation) -> Result<Self> {
        match *weight.dims() {
            [c, 1, h, w] if h == w && bias.dims() == [c] => {}
            _ => bail!("depthwise convolution: weights {:?} and bias {:?} do not fit", weight.dims(), bias.dims()),
        }
        let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
        Ok(Self {
            weight,
            bias,
            window: DepthwiseWindow { stride, padding, order: AxisOrder::SampleMajor },
            activation,
        })
    }

    /// Adds the layer to a graph.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> Result<B::Value> {
        let DepthwiseWindow { stride, padding, .. } = self.window;
        graph.depthwise(x, (&self.weight, &self.bias), (stride, padding), self.activation)
    }

    /// (N, C, H, W) → (N, C, H', W').
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.track_op() || self.weight.track_op() || self.bias.track_op() {
            let y = x.apply_op2(&self.weight, self.window)?;
            let bias = self.bias.reshape((1, self.bias.elem_count(), 1, 1))?;
            return self.activation.apply(&y.broadcast_add(&bias)?);
        }
        let fused = FusedDepthwise { window: self.window, activation: self.activation };
        x.apply_op3_no_bwd(&self.weight, &self.bias, &fused)
    }
}

/// Stride and padding; as an op, the convolution of (input, weight).
#[derive(Clone, Copy, Debug)]
pub(super) struct DepthwiseWindow {
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) order: AxisOrder,
}

const NAME: &str = "depthwise convolution";

impl DepthwiseWindow {
    /// Checks that input and weight fit each other. Returns N, C, and the sizes of a channel.
    pub(super) fn check(&self, x: &Shape, weight: &Shape) -> Result<(usize, usize, Geometry)> {
        let (outer, inner, h, w) = x.dims4()?;
        let (n, c) = match self.order {
            AxisOrder::SampleMajor => (outer, inner),
            AxisOrder::ChannelMajor => (inner, outer),
        };
        match *weight.dims() {
            [wc, 1, kh, kw] if wc == c && kh == kw => Ok((n, c, Geometry::new(h, w, kh, self.stride, self.padding)?)),
            _ => bail!("{NAME}: weights of shape {:?} do not fit an input of shape {:?}", weight.dims(), x.dims()),
        }
    }

    fn run(
        &self,
        (x, x_l): (&CpuStorage, &Layout),
        (weight, weight_l): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
        activation: Activation,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, c, geometry) = self.check(x_l.shape(), weight_l.shape())?;
        let x = f32_slice(NAME, x, x_l)?;
        let weight = f32_slice(NAME, weight, weight_l)?;
        if bias.is_some_and(|bias| bias.len() != c) {
            bail!("{NAME}: the bias does not have {c} values");
        }
        let arch = Arch::new();
        let taps = geometry.kernel * geometry.kernel;
        let mut y = vec![0f32; n * c * geometry.out_len()];
        y.par_chunks_mut(geometry.out_len())
            .zip(x.par_chunks(geometry.height * geometry.width))
            .enumerate()
            .for_each_init(
                || PlaneScratch::new(&geometry),
                |scratch, (i, (y, x))| {
                    let channel = self.order.channel(i, n, c);
                    let taps = &weight[channel * taps..][..taps];
                    let bias = bias.map_or(0.0, |bias| bias[channel]);
                    arch.dispatch(Forward { geometry: &geometry, scratch, input: x, taps, bias, activation, out: y });
                },
            );
        let (outer, inner) = self.order.outer(n, c);
        Ok((CpuStorage::F32(y), (outer, inner, geometry.out_height, geometry.out_width).into()))
    }
}

impl CustomOp2 for DepthwiseWindow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((x, x_l), (weight, weight_l), None, Activation::Identity)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        weight: &CudaStorage,
        weight_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        super::cuda::depthwise::forward(self, (x, x_l), (weight, weight_l), None, Activation::Identity)
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let x_grad = grad.apply_op2_no_bwd(weight, &InputGrad { window: *self, input: x.shape().clone() })?;
        let weight_grad = x.apply_op2_no_bwd(&grad, &WeightGrad { window: *self, weight: weight.shape().clone() })?;
        Ok((Some(x_grad), Some(weight_grad)))
    }
}

/// Convolution, bias and activation as an op of (input, weight, bias), without gradient.
struct FusedDepthwise {
    window: DepthwiseWindow,
    activation: Activation,
}

impl CustomOp3 for FusedDepthwise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = f32_slice(NAME, bias, bias_l)?;
        self.window.run((x, x_l), (weight, weight_l), Some(bias), self.activation)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        weight: &CudaStorage,
        weight_l: &Layout,
        bias: &CudaStorage,
        bias_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let bias = Some((bias, bias_l));
        super::cuda::depthwise::forward(&self.window, (x, x_l), (weight, weight_l), bias, self.activation)
    }
}

/// (gradient of the result, weight) → gradient of the input.
struct InputGrad {
    window: DepthwiseWindow,
    input: Shape,
}

impl CustomOp2 for InputGrad {
    fn name(&self) -> &'static str {
        "depthwise convolution, gradient of the input"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, c, geometry) = self.window.check(&self.input, weight_l.shape())?;
        let grad = f32_slice(self.name(), grad, grad_l)?;
        let weight = f32_slice(self.name(), weight, weight_l)?;
        let arch = Arch::new();
        let taps = geometry.kernel * geometry.kernel;
        let plane = geometry.height * geometry.width;
        let mut x_grad = vec![0f32; n * c * plane];
        x_grad.par_chunks_mut(plane).zip(grad.par_chunks(geometry.out_len())).enumerate().for_each_init(
            || PlaneScratch::new(&geometry),
            |scratch, (i, (x_grad, grad))| {
                let taps = &weight[self.window.order.channel(i, n, c) * taps..][..taps];
                arch.dispatch(BackwardInput { geometry: &geometry, scratch, out_grad: grad, taps, input_grad: x_grad });
            },
        );
        Ok((CpuStorage::F32(x_grad), self.input.clone()))
    }

    fn cuda_fwd(
        &self,
        grad: &CudaStorage,
        grad_l: &Layout,
        weight: &CudaStorage,
        weight_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        super::cuda::depthwise::backward_input(&self.window, (grad, grad_l), (weight, weight_l), &self.input)
    }
}

/// (input, gradient of the result) → gradient of the weight, summed over the batch in order, so that a run repeats
/// bit for bit.
struct WeightGrad {
    window: DepthwiseWindow,
    weight: Shape,
}

impl CustomOp2 for WeightGrad {
    fn name(&self) -> &'static str {
        "depthwise convolution, gradient of the weight"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, grad: &CpuStorage, grad_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, geometry) = self.window.check(x_l.shape(), &self.weight)?;
        let x = f32_slice(self.name(), x, x_l)?;
        let grad = f32_slice(self.name(), grad, grad_l)?;
        let arch = Arch::new();
        let plane = geometry.height * geometry.width;
        let mut weight_grad = vec![0f32; self.weight.elem_count()];
        weight_grad.par_chunks_mut(geometry.kernel * geometry.kernel).enumerate().for_each_init(
            || PlaneScratch::new(&geometry),
            |scratch, (channel, tap_grads)| {
                for sample in 0..n {
                    let at = self.window.order.plane(channel, sample, n, c);
                    let x = &x[at * plane..][..plane];
                    let grad = &grad[at * geometry.out_len()..][..geometry.out_len()];
                    arch.dispatch(BackwardWeight { geometry: &geometry, scratch, input: x, out_grad: grad, tap_grads });
                }
            },
        );
        Ok((CpuStorage::F32(weight_grad), self.weight.clone()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_l: &Layout,
        grad: &CudaStorage,
        grad_l: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        super::cuda::depthwise::backward_weight(&self.window, (x, x_l), (grad, grad_l), &self.weight)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::nn::test_tensors::TestTensors;

    fn max_error(got: &Tensor, want: &Tensor) -> Result<f32> {
        assert_eq!(got.dims(), want.dims());
        (got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    }

    /// (N, C, H, W, k, stride, padding): odd and even sizes, pictures smaller than a vector and smaller than the
    /// kernel, kernels and strides that MobileNet does not use.
    const CASES: &[(usize, usize, usize, usize, usize, usize, usize)] = &[
        (1, 1, 3, 3, 3, 1, 1),
        (2, 5, 7, 7, 3, 1, 1),
        (1, 3, 14, 15, 3, 1, 1),
        (2, 4, 15, 14, 3, 2, 1),
        (1, 3, 16, 16, 3, 2, 1),
        (1, 2, 33, 41, 3, 1, 0),
        (1, 2, 9, 8, 3, 2, 0),
        (3, 1, 1, 1, 3, 1, 1),
        (1, 2, 1, 9, 3, 2, 1),
        (1, 2, 2, 1, 3, 2, 1),
        (1, 2, 12, 13, 5, 1, 2),
        (1, 2, 12, 13, 5, 2, 2),
        (1, 2, 13, 11, 5, 3, 1),
        (1, 2, 10, 11, 7, 4, 3),
        (2, 2, 6, 5, 1, 1, 0),
        (1, 2, 6, 5, 1, 2, 0),
        (1, 1, 5, 5, 2, 3, 1),
    ];

    #[test]
    fn depthwise_agrees_with_grouped_convolution() -> Result<()> {
        let numbers = &mut TestTensors::new(14);
        for &case in CASES {
            let (n, c, h, w, k, stride, padding) = case;
            let x = numbers.unit((n, c, h, w));
            let weight = numbers.unit((c, 1, k, k));
            let want = x.conv2d(&weight, padding, stride, 1, c)?;
            let error = max_error(&depthwise_conv2d(&x, &weight, stride, padding)?, &want)?;
            assert!(error < 1e-5, "{case:?}: {error}");

            let bias = numbers.unit(c);
            let want = want.broadcast_add(&bias.reshape((1, c, 1, 1))?)?.clamp(0f32, 6f32)?;
            let layer = Depthwise::new(&weight, &bias, stride, padding, Activation::Relu6)?;
            let error = max_error(&layer.forward(&x)?, &want)?;
            assert!(error < 1e-5, "{case:?} with bias and activation: {error}");
            let tracked = layer.forward(Var::from_tensor(&x)?.as_tensor())?;
            assert!(tracked.track_op());
            let error = max_error(&tracked, &want)?;
            assert!(error < 1e-5, "{case:?} tracked: {error}");
        }
        Ok(())
    }

    /// The other order of the axes is the same convolution, forward and backward.
    #[test]
    fn channel_major_is_the_transpose() -> Result<()> {
        let numbers = &mut TestTensors::new(15);
        for (n, c, h, w, k, stride, padding) in [(3, 2, 7, 6, 3, 1, 1), (2, 5, 9, 8, 3, 2, 1), (1, 4, 5, 5, 5, 1, 2)] {
            let x = Var::from_tensor(&numbers.unit((n, c, h, w)))?;
            let weight = Var::from_tensor(&numbers.unit((c, 1, k, k)))?;
            let want = depthwise_conv2d(&x, &weight, stride, padding)?;
            let turned = x.transpose(0, 1)?.contiguous()?;
            let got = depthwise_conv2d_channel_major(&turned, &weight, stride, padding)?.transpose(0, 1)?;
            assert_eq!(max_error(&got.contiguous()?, &want)?, 0.0);
            let upstream = numbers.unit(want.shape());
            let want = (want * &upstream)?.sum_all()?.backward()?;
            let got = (got * &upstream)?.sum_all()?.backward()?;
            for var in [&x, &weight] {
                let error = max_error(
                    got.get(var).expect("the variable is used"),
                    want.get(var).expect("the variable is used"),
                )?;
                assert!(error < 1e-5, "{error}");
            }
        }
        Ok(())
    }

    /// Compared with candle's autograd of the grouped convolution, except where no window covers the last rows or columns:
    /// its gradients are wrong there.
    #[test]
    fn gradients_agree_with_grouped_convolution() -> Result<()> {
        let numbers = &mut TestTensors::new(16);
        let mut compared = 0;
        for &case in CASES {
            let (n, c, h, w, k, stride, padding) = case;
            if [h, w].iter().any(|side| !(side + 2 * padding - k).is_multiple_of(stride)) {
                continue;
            }
            let x = Var::from_tensor(&numbers.unit((n, c, h, w)))?;
            let weight = Var::from_tensor(&numbers.unit((c, 1, k, k)))?;
            let want = x.conv2d(&weight, padding, stride, 1, c)?;
            let upstream = numbers.unit(want.shape());
            let want = (want * &upstream)?.sum_all()?.backward()?;
            let got = (depthwise_conv2d(&x, &weight, stride, padding)? * &upstream)?.sum_all()?.backward()?;
            for (name, var) in [("input", &x), ("weight", &weight)] {
                let (got, want) = (got.get(var).expect("both are used"), want.get(var).expect("both are used"));
                let error = max_error(got, want)?;
                // The gradient of a weight is a sum over a whole picture, in another order than candle's.
                let largest = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                assert!(error < 1e-5 * largest.max(10.0), "{case:?}, {name}: {error}");
            }
            compared += 1;
        }
        assert!(compared >= 8, "only {compared} cases");
        Ok(())
    }

    /// The op is linear in input and weight, so ⟨conv(x, w), g⟩ = ⟨x, dx⟩ = ⟨w, dw⟩ must hold for every case,
    /// including those for which candle's own gradient is wrong.
    #[test]
    fn gradients_are_the_transposed_op() -> Result<()> {
        let numbers = &mut TestTensors::new(17);
        for &case in CASES {
            let (n, c, h, w, k, stride, padding) = case;
            let x = Var::from_tensor(&numbers.between(0.5, 1.5, (n, c, h, w)))?;
            let weight = Var::from_tensor(&numbers.between(0.5, 1.5, (c, 1, k, k)))?;
            let y = depthwise_conv2d(&x, &weight, stride, padding)?;
            let upstream = numbers.between(0.5, 1.5, y.shape());
            let loss = (y * &upstream)?.sum_all()?;
            let grads = loss.backward()?;
            let loss = loss.to_scalar::<f32>()?;
            for var in [&x, &weight] {
                let product =
                    (var.as_tensor() * grads.get(var).expect("both are used"))?.sum_all()?.to_scalar::<f32>()?;
                assert!((product - loss).abs() < 1e-4 * loss.abs(), "{case:?}: {product} is not {loss}");
            }
        }
        Ok(())
    }

    #[test]
    fn unsupported_inputs_are_errors() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Tensor::zeros((1, 4, 5, 6), DType::F32, cpu)?;
        let weight = Tensor::zeros((4, 1, 3, 3), DType::F32, cpu)?;
        let message = |x: &Tensor, weight: &Tensor, stride, padding| match depthwise_conv2d(x, weight, stride, padding)
        {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(message(&x.transpose(2, 3)?, &weight, 1, 1).contains("contiguous"));
        assert!(message(&x.to_dtype(DType::F16)?, &weight, 1, 1).contains("f32"));
        assert!(message(&x, &Tensor::zeros((3, 1, 3, 3), DType::F32, cpu)?, 1, 1).contains("do not fit"));
        assert!(message(&x, &Tensor::zeros((4, 2, 3, 3), DType::F32, cpu)?, 1, 1).contains("do not fit"));
        assert!(message(&x, &weight, 0, 1).contains("stride 0"));
        assert!(message(&x, &weight, 1, 3).contains("padding"));
        assert!(message(&Tensor::zeros((1, 4, 2, 2), DType::F32, cpu)?, &weight, 1, 0).contains("window"));
        assert!(message(&x.get(0)?, &weight, 1, 1).contains("rank"));
        Ok(())
    }
}
