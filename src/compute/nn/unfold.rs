//! Windows of a picture as columns of a matrix (`im2col`), so that a convolution is one matrix product.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{f32_slice, valid_outputs, window_count};

/// Unfolds (N, C, H, W) into (N, C·k·k, H'·W'): row `(c·k + ky)·k + kx` holds, for every output position, the input
/// value under tap (ky, kx) of channel c, and 0 where the tap lies on the padding. The row order is that of the weights
/// of a convolution, so that `weights (Cout, C·k·k) × unfolded` is the convolution. Has a gradient.
///
/// Source: Chellapilla, Puri, Simard, *High Performance Convolutional Neural Networks for Document Processing*, 2006.
///
/// # Errors
/// When `x` is not contiguous `f32` of rank 4, or no window fits.
pub fn unfold(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    x.apply_op1(Unfold { kernel, stride, padding })
}

#[derive(Clone, Copy)]
struct Unfold {
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Sizes of a picture and of its columns.
struct Arrangement {
    h: usize,
    w: usize,
    out_h: usize,
    out_w: usize,
    /// Planes of all samples.
    planes: usize,
}

impl Unfold {
    fn arrange(&self, op: &str, dims: (usize, usize, usize, usize)) -> Result<Arrangement> {
        let (n, c, h, w) = dims;
        let out_h = window_count(op, h, self.kernel, self.stride, self.padding)?;
        let out_w = window_count(op, w, self.kernel, self.stride, self.padding)?;
        Ok(Arrangement { h, w, out_h, out_w, planes: n * c })
    }

    /// Shape of the columns of a picture of shape `dims`.
    fn columns(&self, dims: (usize, usize, usize, usize), a: &Arrangement) -> Shape {
        (dims.0, dims.1 * self.kernel * self.kernel, a.out_h * a.out_w).into()
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Unfold { kernel, stride, padding, .. } = *self;
        let dims = layout.shape().dims4()?;
        let a = self.arrange("unfold", dims)?;
        let x = f32_slice("unfold", storage, layout)?;
        let (taps, places) = (kernel * kernel, a.out_h * a.out_w);
        let mut columns = vec![0f32; a.planes * taps * places];
        columns.par_chunks_mut(places).enumerate().for_each(|(row, column)| {
            let (plane, ky, kx) = (row / taps, row % taps / kernel, row % kernel);
            let plane = &x[plane * a.h * a.w..][..a.h * a.w];
            let xs = valid_outputs(a.w, a.out_w, kx, stride, padding);
            if xs.is_empty() {
                return;
            }
            let first = xs.start * stride + kx - padding;
            for y in valid_outputs(a.h, a.out_h, ky, stride, padding) {
                let source = &plane[(y * stride + ky - padding) * a.w..][..a.w][first..];
                let target = &mut column[y * a.out_w..][..a.out_w][xs.clone()];
                if stride == 1 {
                    target.copy_from_slice(&source[..target.len()]);
                } else {
                    for (t, s) in target.iter_mut().zip(source.iter().step_by(stride)) {
                        *t = *s;
                    }
                }
            }
        });
        Ok((CpuStorage::F32(columns), self.columns(dims, &a)))
    }

    fn bwd(&self, x: &Tensor, _columns: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let fold = Fold { window: *self, picture: x.dims4()? };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&fold)?))
    }
}

/// The transpose of [`Unfold`]: sums every column value back onto the pixel it was taken from.
struct Fold {
    window: Unfold,
    /// Shape of the unfolded picture.
    picture: (usize, usize, usize, usize),
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Unfold { kernel, stride, padding, .. } = self.window;
        let a = self.window.arrange("fold", self.picture)?;
        let (taps, places) = (kernel * kernel, a.out_h * a.out_w);
        if *layout.shape() != self.window.columns(self.picture, &a) {
            bail!("fold: columns of shape {:?} do not fit a picture of shape {:?}", layout.dims(), self.picture);
        }
        let columns = f32_slice("fold", storage, layout)?;
        let mut x = vec![0f32; a.planes * a.h * a.w];
        x.par_chunks_mut(a.h * a.w).enumerate().for_each(|(index, plane)| {
            for tap in 0..taps {
                let column = &columns[(index * taps + tap) * places..][..places];
                let (ky, kx) = (tap / kernel, tap % kernel);
                let xs = valid_outputs(a.w, a.out_w, kx, stride, padding);
                if xs.is_empty() {
                    continue;
                }
                let first = xs.start * stride + kx - padding;
                for y in valid_outputs(a.h, a.out_h, ky, stride, padding) {
                    let target = &mut plane[(y * stride + ky - padding) * a.w..][..a.w][first..];
                    let source = &column[y * a.out_w..][..a.out_w][xs.clone()];
                    for (t, s) in target.iter_mut().step_by(stride).zip(source) {
                        *t += s;
                    }
                }
            }
        });
        Ok((CpuStorage::F32(x), self.picture.into()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::test_tensors::TestTensors;

    /// Convolution through `unfold`, and its gradient, against candle's own.
    #[test]
    fn the_unfolded_product_is_a_convolution_with_its_gradient() -> Result<()> {
        let numbers = &mut TestTensors::new(20);
        for (n, c, out, h, w, k, stride, padding) in [
            (2, 3, 4, 9, 7, 3, 1, 1),
            (1, 2, 5, 12, 11, 3, 2, 1),
            (1, 3, 2, 17, 15, 7, 2, 3),
            (2, 4, 3, 6, 5, 1, 2, 0),
            (1, 1, 1, 3, 3, 3, 1, 0),
            (1, 2, 2, 5, 1, 3, 1, 1),
        ] {
            let case = format!("{n}x{c}x{h}x{w}, {k}/{stride}+{padding}");
            let x = Var::from_tensor(&numbers.unit((n, c, h, w)))?;
            let weight = Var::from_tensor(&numbers.unit((out, c, k, k)))?;
            let want = x.conv2d(&weight, padding, stride, 1, 1)?;
            let (_, _, out_h, out_w) = want.dims4()?;
            let columns = unfold(&x, k, stride, padding)?;
            let matrix = weight.reshape((out, c * k * k))?.unsqueeze(0)?.broadcast_as((n, out, c * k * k))?;
            let got = matrix.contiguous()?.matmul(&columns)?.reshape((n, out, out_h, out_w))?;
            assert_close(&got, &want, &case)?;

            // A gradient that differs at every position, so that a swapped index cannot pass. candle's own gradient is
            // right only where the windows reach the last row and column, so compare there.
            if (h + 2 * padding - k).is_multiple_of(stride) && (w + 2 * padding - k).is_multiple_of(stride) {
                let upstream = numbers.unit(got.shape());
                let got = (got * &upstream)?.sum_all()?.backward()?;
                let want = (want * &upstream)?.sum_all()?.backward()?;
                for var in [&x, &weight] {
                    let (got, want) = (got.get(var).expect("x is used"), want.get(var).expect("x is used"));
                    assert_close(got, want, &case)?;
                }
            }
        }
        Ok(())
    }

    fn assert_close(got: &Tensor, want: &Tensor, case: &str) -> Result<()> {
        assert_eq!(got.dims(), want.dims(), "{case}");
        let error = (got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(error < 1e-4, "{case}: {error}");
        Ok(())
    }

    #[test]
    fn unsupported_inputs_are_errors() -> Result<()> {
        let x = Tensor::zeros((1, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(unfold(&x, 5, 1, 0).is_err(), "window larger than the picture");
        assert!(unfold(&x, 3, 0, 1).is_err(), "stride 0");
        assert!(unfold(&x.t()?, 3, 1, 1).unwrap_err().to_string().contains("contiguous"));
        assert!(unfold(&x.to_dtype(candle_core::DType::F64)?, 3, 1, 1).unwrap_err().to_string().contains("f32"));
        Ok(())
    }
}
