//! Batch norm for training: batch statistics, gradients, and the activation in the same pass.
//!
//! Tensors are channel-major, (C, N, H, W): a channel is one slice, over which its statistics are summed.
//! Source: Ioffe and Szegedy, *Batch Normalization*, ICML 2015; the backward pass is its section 3.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, f32_slice};

/// Mean and variance of each channel over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Variance of each channel. Biased: divided by the number of values.
    pub variance: Vec<f32>,
    /// Values per channel.
    pub count: usize,
}

impl BatchStatistics {
    /// Statistics of `x`, (C, N, H, W) or any shape whose first axis is the channel. Sums are kept in `f64`.
    ///
    /// # Errors
    /// When `x` is not contiguous `f32` on the CPU, or empty.
    pub fn of(x: &Tensor) -> Result<Self> {
        let both = x.apply_op1_no_bwd(&Statistics)?.to_vec2::<f32>()?;
        let [mean, variance] = <[Vec<f32>; 2]>::try_from(both).expect("the op gives two rows");
        let count = x.elem_count() / mean.len();
        Ok(Self { mean, variance, count })
    }
}

/// `activation(weight · (x − mean) / √(variance + epsilon) + bias)` with the statistics of this batch, `x`
/// (C, N, H, W), `weight` and `bias` (C). Gradients flow to all three, through the statistics too.
///
/// # Errors
/// When a tensor is not contiguous `f32` on the CPU, or the shapes do not fit.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    statistics: &BatchStatistics,
    epsilon: f64,
    activation: Activation,
) -> Result<Tensor> {
    let inverse = statistics.variance.iter().map(|v| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32).collect();
    let op = Normalise { mean: statistics.mean.clone(), inverse, weight: weight.to_vec1()?, activation };
    x.apply_op3(weight, bias, op)
}

/// `activation(scale · x + shift)` for each channel of `x` (C, N, H, W): batch norm with fixed statistics. No gradient.
///
/// # Errors
/// When `x` is not contiguous `f32` on the CPU, or the lengths do not fit.
pub fn scale_shift_channel_major(x: &Tensor, scale: &[f32], shift: &[f32], activation: Activation) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Affine { scale, shift, activation })
}

/// Length of a channel.
fn plane(name: &str, layout: &Layout, channels: usize) -> Result<usize> {
    match layout.dims() {
        [c, rest @ ..] if *c == channels && !rest.is_empty() && layout.shape().elem_count() > 0 => {
            Ok(rest.iter().product())
        }
        dims => bail!("{name}: {channels} channels do not fit a tensor of shape {dims:?}"),
    }
}

struct Statistics;

impl CustomOp1 for Statistics {
    fn name(&self) -> &'static str {
        "batch statistics"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let channels = x_l.dims().first().copied().unwrap_or(0);
        let len = plane(self.name(), x_l, channels)?;
        let x = f32_slice(self.name(), x, x_l)?;
        let rows: Vec<(f32, f32)> = x
            .par_chunks(len)
            .map(|row| {
                // Two passes: one pass would lose the small variance of a nearly constant channel to cancellation.
                let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / len as f64;
                let centre = mean as f32;
                let squares = row.iter().map(|v| f64::from((v - centre) * (v - centre))).sum::<f64>();
                (centre, (squares / len as f64) as f32)
            })
            .collect();
        let values = rows.iter().map(|r| r.0).chain(rows.iter().map(|r| r.1)).collect();
        Ok((CpuStorage::F32(values), (2, channels).into()))
    }
}

struct Affine<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
}

impl CustomOp1 for Affine<'_> {
    fn name(&self) -> &'static str {
        "scale and shift of channels"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let len = plane(self.name(), x_l, self.scale.len())?;
        let x = f32_slice(self.name(), x, x_l)?;
        let (low, high) = self.activation.bounds();
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(len).zip(x.par_chunks(len)).zip(self.scale.par_iter().zip(self.shift)).for_each(
            |((y, x), (scale, shift))| {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (scale * x + shift).max(low).min(high);
                }
            },
        );
        Ok((CpuStorage::F32(y), x_l.shape().clone()))
    }
}

#[derive(Clone)]
struct Normalise {
    mean: Vec<f32>,
    /// 1 / standard deviation.
    inverse: Vec<f32>,
    weight: Vec<f32>,
    activation: Activation,
}

const NAME: &str = "batch norm";

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        _weight: &CpuStorage,
        weight_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let channels = self.mean.len();
        if weight_l.dims() != [channels] || bias_l.dims() != [channels] {
            bail!("{NAME}: weights {:?} and bias {:?} are not {channels}", weight_l.dims(), bias_l.dims());
        }
        let bias = f32_slice(NAME, bias, bias_l)?;
        let scale: Vec<f32> = self.weight.iter().zip(&self.inverse).map(|(w, i)| w * i).collect();
        let shift: Vec<f32> = bias.iter().zip(&scale).zip(&self.mean).map(|((b, s), m)| b - m * s).collect();
        Affine { scale: &scale, shift: &shift, activation: self.activation }.cpu_fwd(x, x_l)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let sums = x.apply_op3_no_bwd(y, &grad, &Sums(self.clone()))?;
        let (weight_grad, bias_grad) = (sums.get(0)?, sums.get(1)?);
        let sums = sums.to_vec2::<f32>()?;
        let x_grad = if x.track_op() {
            Some(x.apply_op3_no_bwd(y, &grad, &InputGrad { norm: self.clone(), sums })?)
        } else {
            None
        };
        Ok((x_grad, weight.track_op().then_some(weight_grad), Some(bias_grad)))
    }
}

/// The upstream gradient where the activation has slope 1, else 0.
#[inline]
fn passed(y: f32, grad: f32, low: f32, high: f32) -> f32 {
    if y > low && y < high { grad } else { 0.0 }
}

/// (x, y, gradient) → (2, C): gradients of weight and bias.
struct Sums(Normalise);

impl CustomOp3 for Sums {
    fn name(&self) -> &'static str {
        "batch norm, gradients of the weights"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        y: &CpuStorage,
        y_l: &Layout,
        grad: &CpuStorage,
        grad_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let norm = &self.0;
        let len = plane(self.name(), x_l, norm.mean.len())?;
        let (x, y) = (f32_slice(self.name(), x, x_l)?, f32_slice(self.name(), y, y_l)?);
        let grad = f32_slice(self.name(), grad, grad_l)?;
        let (low, high) = norm.activation.bounds();
        let rows: Vec<(f32, f32)> = (0..norm.mean.len())
            .into_par_iter()
            .map(|c| {
                let (mut by_x, mut all) = (0f64, 0f64);
                let range = c * len..(c + 1) * len;
                // Short sums in f32, which the compiler vectorises; their totals in f64.
                for ((x, y), g) in
                    x[range.clone()].chunks(256).zip(y[range.clone()].chunks(256)).zip(grad[range].chunks(256))
                {
                    let (mut a, mut b) = (0f32, 0f32);
                    for ((x, y), g) in x.iter().zip(y).zip(g) {
                        let g = passed(*y, *g, low, high);
                        a += g * (x - norm.mean[c]);
                        b += g;
                    }
                    by_x += f64::from(a);
                    all += f64::from(b);
                }
                ((by_x * f64::from(norm.inverse[c])) as f32, all as f32)
            })
            .collect();
        let values = rows.iter().map(|r| r.0).chain(rows.iter().map(|r| r.1)).collect();
        Ok((CpuStorage::F32(values), (2, norm.mean.len()).into()))
    }
}

/// (x, y, gradient) → gradient of x.
struct InputGrad {
    norm: Normalise,
    sums: Vec<Vec<f32>>,
}

impl CustomOp3 for InputGrad {
    fn name(&self) -> &'static str {
        "batch norm, gradient of the input"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        y: &CpuStorage,
        y_l: &Layout,
        grad: &CpuStorage,
        grad_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let norm = &self.norm;
        let len = plane(self.name(), x_l, norm.mean.len())?;
        let (x, y) = (f32_slice(self.name(), x, x_l)?, f32_slice(self.name(), y, y_l)?);
        let grad = f32_slice(self.name(), grad, grad_l)?;
        let (low, high) = norm.activation.bounds();
        let n = len as f32;
        let mut out = vec![0f32; x.len()];
        out.par_chunks_mut(len).enumerate().for_each(|(c, out)| {
            let range = c * len..(c + 1) * len;
            let scale = norm.weight[c] * norm.inverse[c];
            let slope = self.sums[0][c] / n * norm.inverse[c];
            let constant = self.sums[1][c] / n;
            let mean = norm.mean[c];
            for (((o, x), y), g) in out.iter_mut().zip(&x[range.clone()]).zip(&y[range.clone()]).zip(&grad[range]) {
                *o = scale * (passed(*y, *g, low, high) - constant - slope * (x - mean));
            }
        });
        Ok((CpuStorage::F32(out), x_l.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::nn::test_tensors::TestTensors;

    /// The same function in candle's own differentiable ops.
    fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
        let c = x.dim(0)?;
        let flat = x.reshape((c, ()))?;
        let centred = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
        let variance = centred.sqr()?.mean_keepdim(1)?;
        let normal = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
        let y = normal.broadcast_mul(&weight.reshape((c, 1))?)?.broadcast_add(&bias.reshape((c, 1))?)?;
        activation.apply(&y)?.reshape(x.shape())
    }

    #[test]
    fn forward_and_gradients_agree_with_composed_ops() -> Result<()> {
        let numbers = &mut TestTensors::new(12);
        for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
            for shape in [(3, 4, 5, 6), (1, 1, 2, 2), (7, 2, 1, 1), (2, 3, 20, 30)] {
                let x = Var::from_tensor(&numbers.between(-3.2, 7.2, shape))?;
                let weight = Var::from_tensor(&numbers.between(1.0, 5.0, shape.0))?;
                let bias = Var::from_tensor(&numbers.between(-3.5, 3.5, shape.0))?;
                let want = composed(&x, &weight, &bias, activation)?;
                let statistics = BatchStatistics::of(&x)?;
                let got = batch_norm_train(&x, &weight, &bias, &statistics, 1e-5, activation)?;
                let close = |a: &Tensor, b: &Tensor, name: &str| -> Result<()> {
                    let error = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                    let size = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
                    assert!(error < 1e-4 * size, "{name} {activation:?} {shape:?}: {error} of {size}");
                    Ok(())
                };
                close(&got, &want, "forward")?;
                let upstream = numbers.unit(shape);
                let want = (want * &upstream)?.sum_all()?.backward()?;
                let got = (got * &upstream)?.sum_all()?.backward()?;
                for (name, var) in [("x", &x), ("weight", &weight), ("bias", &bias)] {
                    close(
                        got.get(var).expect("the variable is used"),
                        want.get(var).expect("the variable is used"),
                        name,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Central differences of a scalar of the output, in one direction at a time.
    #[test]
    fn the_gradient_equals_the_finite_difference() -> Result<()> {
        let numbers = &mut TestTensors::new(13);
        let cpu = &Device::Cpu;
        let x = Var::from_tensor(&numbers.unit((2, 3, 2, 2)))?;
        let weight = Var::new(&[1.5f32, 0.7], cpu)?;
        let bias = Var::new(&[0.3f32, -0.2], cpu)?;
        let upstream = numbers.unit((2, 3, 2, 2));
        let value = |x: &Tensor| -> Result<f64> {
            let s = BatchStatistics::of(x)?;
            let y = batch_norm_train(x, &weight, &bias, &s, 1e-5, Activation::Identity)?;
            Ok(f64::from((y * &upstream)?.sum_all()?.to_scalar::<f32>()?))
        };
        let statistics = BatchStatistics::of(&x)?;
        let y = batch_norm_train(&x, &weight, &bias, &statistics, 1e-5, Activation::Identity)?;
        let grads = (y * &upstream)?.sum_all()?.backward()?;
        let grad = grads.get(&x).expect("the variable is used").flatten_all()?.to_vec1::<f32>()?;
        let at = x.flatten_all()?.to_vec1::<f32>()?;
        for i in 0..at.len() {
            let moved = |by: f32| -> Result<Tensor> {
                let mut values = at.clone();
                values[i] += by;
                Tensor::from_vec(values, x.shape(), cpu)
            };
            let step = 1e-2f32;
            let slope = (value(&moved(step)?)? - value(&moved(-step)?)?) / (2.0 * f64::from(step));
            assert!((slope - f64::from(grad[i])).abs() < 2e-3, "{i}: {slope} {}", grad[i]);
        }
        Ok(())
    }

    #[test]
    fn fixed_statistics_are_a_scale_and_shift() -> Result<()> {
        let x = Tensor::new(&[[[[1f32, -2.]]], [[[3., 10.]]]], &Device::Cpu)?;
        let y = scale_shift_channel_major(&x, &[2., 1.], &[1., 0.5], Activation::Relu6)?;
        assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [3., 0., 3.5, 6.]);
        assert!(scale_shift_channel_major(&x, &[2.], &[1.], Activation::Relu6).is_err());
        assert!(BatchStatistics::of(&Tensor::ones((2, 3), DType::F32, &Device::Cpu)?.t()?).is_err(), "not contiguous");
        Ok(())
    }
}
