//! Convolutions as matrix products, with bias, residual and activation in one pass over the result.

use candle_core::{Result, Tensor, bail};

use super::activation::{Activation, finish};
use super::{Build, unfold};

/// A 1×1 convolution with stride 1: for every sample one product (Cout, Cin) × (Cin, H·W) through candle's `gemm`.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// (Cout, Cin).
    weight: Tensor,
    /// (Cout).
    bias: Tensor,
    activation: Activation,
}

impl Pointwise {
    /// `weight` is (Cout, Cin) or (Cout, Cin, 1, 1), `bias` is (Cout), both `f32`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn new(weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Self> {
        let (outputs, inputs) = match *weight.dims() {
            [outputs, inputs] | [outputs, inputs, 1, 1] => (outputs, inputs),
            _ => bail!("pointwise: weights of shape {:?} are not (out, in) or (out, in, 1, 1)", weight.dims()),
        };
        if bias.dims() != [outputs] {
            bail!("pointwise: a bias of shape {:?} does not fit {outputs} outputs", bias.dims());
        }
        Ok(Self { weight: weight.reshape((outputs, inputs))?.contiguous()?, bias: bias.contiguous()?, activation })
    }

    /// (N, Cin, H, W) → (N, Cout, H, W).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// As [`Self::forward`], with `residual` (N, Cout, H, W) added before the activation.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Some(residual))
    }

    /// Adds the layer to a graph, with `residual` added before the activation.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn fuse<B: Build>(&self, graph: &mut B, x: B::Value, residual: Option<B::Value>) -> Result<B::Value> {
        graph.conv(x, (&self.weight, &self.bias), (1, 0), residual, self.activation)
    }

    fn run(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        self.product(&x.reshape((n, c, h * w))?, (h, w), residual)
    }

    /// Convolves columns (N, Cin, H·W) to a picture (N, Cout, H, W).
    fn product(&self, columns: &Tensor, (h, w): (usize, usize), residual: Option<&Tensor>) -> Result<Tensor> {
        let (n, c, _) = columns.dims3()?;
        let (outputs, inputs) = self.weight.dims2()?;
        if c != inputs {
            bail!("convolution: the input has {c} rows, the weights need {inputs}");
        }
        // A batch stride of 0 repeats the weights without a copy. candle's gradient of a matrix product needs them
        // contiguous, so the tracked path copies them.
        let weight = self.weight.unsqueeze(0)?.broadcast_as((n, outputs, inputs))?;
        let weight = if weight.track_op() || columns.track_op() { weight.contiguous()? } else { weight };
        let y = weight.matmul(columns)?.reshape((n, outputs, h, w))?;
        finish(y, &self.bias, residual, self.activation)
    }
}

/// A square convolution without dilation or groups: [`unfold()`] and then [`Pointwise`].
#[derive(Clone, Debug)]
pub struct Conv {
    product: Pointwise,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Conv {
    /// `weight` is (Cout, Cin, k, k), `bias` is (Cout), both `f32`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: usize, padding: usize, activation: Activation) -> Result<Self> {
        let (outputs, inputs, kernel, kernel_w) = weight.dims4()?;
        if kernel != kernel_w {
            bail!("convolution: a kernel of {kernel}x{kernel_w} is not square");
        }
        let product = Pointwise::new(&weight.reshape((outputs, inputs * kernel * kernel))?, bias, activation)?;
        Ok(Self { product, kernel, stride, padding })
    }

    /// (N, Cin, H, W) → (N, Cout, H', W').
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// As [`Self::forward`], with `residual` (N, Cout, H', W') added before the activation.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Some(residual))
    }

    /// Adds the layer to a graph, with `residual` added before the activation.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn fuse<B: Build>(&self, graph: &mut B, x: B::Value, residual: Option<B::Value>) -> Result<B::Value> {
        let Pointwise { weight, bias, activation } = &self.product;
        let (outputs, rows) = weight.dims2()?;
        let weight = weight.reshape((outputs, rows / (self.kernel * self.kernel), self.kernel, self.kernel))?;
        graph.conv(x, (&weight, bias), (self.stride, self.padding), residual, *activation)
    }

    fn run(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        if self.kernel == 1 && self.stride == 1 && self.padding == 0 {
            return self.product.run(x, residual);
        }
        let (_, _, h, w) = x.dims4()?;
        let out = |n| super::window_count("convolution", n, self.kernel, self.stride, self.padding);
        let columns = unfold(x, self.kernel, self.stride, self.padding)?;
        self.product.product(&columns, (out(h)?, out(w)?), residual)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::test_tensors::TestTensors;

    /// The fused route and the differentiable one give the same values as candle's own convolution.
    #[test]
    fn both_routes_agree_with_candle() -> Result<()> {
        let numbers = &mut TestTensors::new(18);
        for (k, stride, padding) in [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1)] {
            let x = Var::from_tensor(&numbers.unit((2, 3, 7, 5)))?;
            let weight = numbers.unit((4, 3, k, k));
            let bias = numbers.unit(4);
            for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
                let conv = Conv::new(&weight, &bias, stride, padding, activation)?;
                let plain = x.conv2d(&weight, padding, stride, 1, 1)?.broadcast_add(&bias.reshape((1, 4, 1, 1))?)?;
                let residual = numbers.unit(plain.shape());
                for residual in [None, Some(&residual)] {
                    let want = match residual {
                        Some(residual) => activation.apply(&(&plain + residual)?)?,
                        None => activation.apply(&plain)?,
                    };
                    for x in [x.as_tensor(), &x.as_detached_tensor()] {
                        let got = conv.run(x, residual)?;
                        let error = (&got - &want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                        assert!(error < 1e-5, "{k}/{stride}+{padding} {activation:?}: {error}");
                        assert_eq!(got.track_op(), x.track_op());
                    }
                }
            }
        }
        Ok(())
    }

    /// The input survives the in-place pass, also when it is itself the residual.
    #[test]
    fn input_is_not_overwritten() -> Result<()> {
        let numbers = &mut TestTensors::new(19);
        let x = numbers.unit((1, 3, 4, 4));
        let before = x.flatten_all()?.to_vec1::<f32>()?;
        let weight = numbers.unit((3, 3));
        let layer =
            Pointwise::new(&weight, &Tensor::ones(3, candle_core::DType::F32, &Device::Cpu)?, Activation::Relu)?;
        layer.forward_residual(&x, &x)?;
        assert_eq!(x.flatten_all()?.to_vec1::<f32>()?, before);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let cpu = &Device::Cpu;
        let f32s = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, cpu);
        assert!(Pointwise::new(&f32s(&[4, 3, 3, 3])?, &f32s(&[4])?, Activation::Relu).is_err());
        assert!(Pointwise::new(&f32s(&[4, 3])?, &f32s(&[3])?, Activation::Relu).is_err());
        assert!(Conv::new(&f32s(&[4, 3, 3, 1])?, &f32s(&[4])?, 1, 1, Activation::Relu).is_err());
        let conv = Conv::new(&f32s(&[4, 3, 3, 3])?, &f32s(&[4])?, 1, 1, Activation::Relu)?;
        assert!(conv.forward(&f32s(&[1, 2, 8, 8])?).is_err());
        assert!(conv.forward_residual(&f32s(&[1, 3, 8, 8])?, &f32s(&[1, 4, 8, 7])?).is_err());
        Ok(())
    }
}
