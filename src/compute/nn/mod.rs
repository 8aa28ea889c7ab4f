//! Layers that candle lacks, or that this program needs in another form, as candle custom ops.
//!
//! Layers and ops take and return `f32` tensors in NCHW order. The layers ([`Conv`], [`Pointwise`], [`Depthwise`],
//! [`ScaleShift`]) hold weights with batch norm folded in, for inference; the ops below them
//! ([`depthwise_conv2d`], [`unfold()`], [`max_pool2d`]) have gradients. A
//! layer whose input or weights are tracked by candle's autograd uses those differentiable ops; otherwise it uses a fused
//! op that reads and writes the result once. [`train`] computes whole training steps without candle's autograd.
//!
//! The ops run on the CPU, and those of the depthwise convolution with the feature `cuda` on GPUs too. On another device
//! they return candle's "no implementation" error. [`cuda`] runs whole networks on a GPU.

mod activation;
mod build;
mod conv;
pub mod cuda;
mod depthwise;
mod depthwise_plane;
pub mod fused;
mod padding;
mod pool;
mod scale_shift;
#[cfg(test)]
mod test_tensors;
pub mod train;
mod unfold;

pub use activation::Activation;
pub use build::{Build, BuildHybrid};
pub use conv::{Conv, Pointwise};
pub use depthwise::{Depthwise, depthwise_conv2d, depthwise_conv2d_channel_major};
pub use padding::Padding;
pub use pool::{global_average, max_pool2d};
pub use scale_shift::ScaleShift;
pub use unfold::unfold;

use candle_core::{CpuStorage, Layout, Result, bail};

/// The values of a contiguous `f32` tensor, or an error that names the op and what it got.
fn f32_slice<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: expected f32, got another type: convert the tensor with to_dtype first");
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{op}: expected a contiguous tensor, got strides {:?} for shape {:?}", layout.stride(), layout.dims());
    };
    Ok(&values[start..end])
}

/// As [`f32_slice`], mutable.
fn f32_slice_mut<'a>(op: &str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: expected f32, got another type: convert the tensor with to_dtype first");
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{op}: expected a contiguous tensor, got strides {:?} for shape {:?}", layout.stride(), layout.dims());
    };
    Ok(&mut values[start..end])
}

/// Length of one output axis of a sliding window: `floor((n + 2·padding − kernel) / stride) + 1`.
///
/// # Errors
/// When stride or kernel is 0, or the kernel is longer than the padded axis.
fn window_count(op: &str, n: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize> {
    let padded = n + 2 * padding;
    if stride == 0 || kernel == 0 || padded < kernel || n == 0 {
        bail!("{op}: no window of {kernel} with stride {stride} and padding {padding} fits on an axis of {n}");
    }
    Ok((padded - kernel) / stride + 1)
}

/// The output positions `x` in `0..out` for which `x * stride + tap − padding` lies in `0..n`, as a range that may be
/// empty. In this part of a row no border test is needed.
fn valid_outputs(n: usize, out: usize, tap: usize, stride: usize, padding: usize) -> std::ops::Range<usize> {
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let end = if n + padding > tap { (n + padding - tap - 1) / stride + 1 } else { 0 };
    let end = end.min(out);
    first.min(end)..end
}
