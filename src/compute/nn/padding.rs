//! How convolutions pad their input.

use candle_core::{Result, Tensor};

/// Zeros around the input of a convolution with an odd kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// k/2 on every side, as in PyTorch's networks.
    Symmetric,
    /// TensorFlow's `SAME`. With stride 2 on an even side it pads one pixel less at the top and left than at the bottom and right.
    /// Odd sides are treated as even ones, so inputs should have sides that are multiples of 32.
    Same,
}

impl Padding {
    /// The kernel (…, k, k) with which symmetric padding has the effect of this padding: `weight` itself, or with two rows and
    /// columns of zeros before it. Gradients flow to `weight`.
    ///
    /// # Errors
    /// When `weight` has fewer than two axes.
    pub fn kernel(self, weight: &Tensor, stride: usize) -> Result<Tensor> {
        let axes = weight.rank();
        if self == Padding::Symmetric || stride == 1 || axes < 2 {
            return Ok(weight.clone());
        }
        // A window of k at 2i − (k−3)/2 is the end of a window of k+2 at 2i − (k+2)/2.
        weight.pad_with_zeros(axes - 2, 2, 0)?.pad_with_zeros(axes - 1, 2, 0)?.contiguous()
    }

    /// The symmetric padding, pixels, of a kernel (…, k, k).
    pub fn of(kernel: &Tensor) -> usize {
        kernel.dims().last().map_or(0, |side| side / 2)
    }
}
