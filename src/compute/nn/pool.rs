//! Maximum and average pooling.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{f32_slice, valid_outputs, window_count};

/// Maximum over square windows, (N, C, H, W) → (N, C, H', W'), padded with −∞ as in PyTorch. Windows may overlap; the
/// gradient goes to the first maximum of each window.
///
/// # Errors
/// When `x` is not contiguous `f32` of rank 4, no window fits, or the padding exceeds half the kernel (a window could
/// then cover padding only).
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    if padding > kernel / 2 {
        bail!("max-pool: padding {padding} exceeds half of kernel {kernel}");
    }
    x.apply_op1(MaxPool { kernel, stride, padding })
}

/// Mean over height and width, (N, C, H, W) → (N, C).
pub fn global_average(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(2)
}

#[derive(Clone, Copy)]
struct MaxPool {
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let MaxPool { kernel, stride, padding } = *self;
        let (n, c, h, w) = layout.shape().dims4()?;
        let out_h = window_count("max-pool", h, kernel, stride, padding)?;
        let out_w = window_count("max-pool", w, kernel, stride, padding)?;
        let x = f32_slice("max-pool", storage, layout)?;
        let mut pooled = vec![f32::NEG_INFINITY; n * c * out_h * out_w];
        pooled.par_chunks_mut(out_h * out_w).zip(x.par_chunks(h * w)).for_each(|(out, plane)| {
            for ky in 0..kernel {
                for y in valid_outputs(h, out_h, ky, stride, padding) {
                    let row = &plane[(y * stride + ky - padding) * w..][..w];
                    let out = &mut out[y * out_w..][..out_w];
                    for kx in 0..kernel {
                        let xs = valid_outputs(w, out_w, kx, stride, padding);
                        if xs.is_empty() {
                            continue;
                        }
                        let row = &row[xs.start * stride + kx - padding..];
                        for (o, v) in out[xs].iter_mut().zip(row.iter().step_by(stride)) {
                            *o = o.max(*v);
                        }
                    }
                }
            }
        });
        Ok((CpuStorage::F32(pooled), (n, c, out_h, out_w).into()))
    }

    fn bwd(&self, x: &Tensor, _pooled: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &MaxPoolGrad(*self))?))
    }
}

/// (input, gradient of the result) → gradient of the input.
struct MaxPoolGrad(MaxPool);

impl CustomOp2 for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max-pool-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, grad: &CpuStorage, grad_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let MaxPool { kernel, stride, padding } = self.0;
        let (n, c, h, w) = x_l.shape().dims4()?;
        let (_, _, out_h, out_w) = grad_l.shape().dims4()?;
        let x = f32_slice(self.name(), x, x_l)?;
        let grad = f32_slice(self.name(), grad, grad_l)?;
        let mut grad_x = vec![0f32; n * c * h * w];
        grad_x.par_chunks_mut(h * w).zip(x.par_chunks(h * w)).zip(grad.par_chunks(out_h * out_w)).for_each(
            |((grad_x, x), grad)| {
                for (i, g) in grad.iter().enumerate() {
                    let (top, left) = (i / out_w * stride, i % out_w * stride);
                    let rows = top.saturating_sub(padding)..(top + kernel - padding).min(h);
                    let columns = left.saturating_sub(padding)..(left + kernel - padding).min(w);
                    let mut best = rows.start * w + columns.start;
                    for y in rows {
                        for at in y * w + columns.start..y * w + columns.end {
                            if x[at] > x[best] {
                                best = at;
                            }
                        }
                    }
                    grad_x[best] += g;
                }
            },
        );
        Ok((CpuStorage::F32(grad_x), x_l.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::test_tensors::TestTensors;

    /// Compared with candle's pooling of a picture padded by hand with a value below all others.
    #[test]
    fn overlapping_windows_agree_with_candle() -> Result<()> {
        let numbers = &mut TestTensors::new(22);
        for (h, w, kernel, stride, padding) in [(112, 9, 3, 2, 1), (7, 8, 3, 2, 1), (5, 5, 2, 2, 0), (6, 7, 3, 1, 1)] {
            let x = numbers.between(-21.8, -18.2, (2, 3, h, w));
            let lifted = (&x + 1000.)?.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
            let want = (lifted.max_pool2d_with_stride(kernel, stride)? - 1000.)?;
            let got = max_pool2d(&x, kernel, stride, padding)?;
            assert_eq!(got.dims(), want.dims());
            let error = (got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(error < 1e-3, "{h}x{w} {kernel}/{stride}+{padding}: {error}");
        }
        Ok(())
    }

    /// A 3×3 picture worked by hand: 3/2+1 has four windows, the centre is in all of them.
    #[test]
    fn the_gradient_goes_to_the_first_maximum() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Var::from_slice(&[5f32, 1., 7., 1., 4., 1., 0., 4., 2.], (1, 1, 3, 3), cpu)?;
        let y = max_pool2d(&x, 3, 2, 1)?;
        assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [5., 7., 4., 4.]);
        let upstream = Tensor::from_slice(&[1f32, 10., 100., 1000.], (1, 1, 2, 2), cpu)?;
        let grads = (y * upstream)?.sum_all()?.backward()?;
        let got = grads.get(&x).expect("x is used").flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(got, [1., 0., 10., 0., 1100., 0., 0., 0., 0.]);
        Ok(())
    }

    #[test]
    fn padding_beyond_half_the_kernel_is_an_error() -> Result<()> {
        let x = Tensor::zeros((1, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(max_pool2d(&x, 3, 2, 2).is_err());
        assert!(max_pool2d(&x, 3, 0, 1).is_err());
        Ok(())
    }

    #[test]
    fn the_average_is_over_height_and_width() -> Result<()> {
        let x = Tensor::arange(0f32, 12., &Device::Cpu)?.reshape((1, 2, 2, 3))?;
        assert_eq!(global_average(&x)?.to_vec2::<f32>()?, [[2.5, 8.5]]);
        Ok(())
    }
}
