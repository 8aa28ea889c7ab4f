//! Activations, and the in-place pass that adds bias and residual and activates.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::{f32_slice, f32_slice_mut};

/// The activation after a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// None.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// Bounds of the result. The activation is a clamp to these.
    pub(super) const fn bounds(self) -> (f32, f32) {
        match self {
            Activation::Identity => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
        }
    }

    /// Applies the activation to a tensor of any shape, with gradient.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Identity => Ok(x.clone()),
            Activation::Relu => x.relu(),
            Activation::Relu6 => x.clamp(0f32, 6f32),
        }
    }
}

/// `activation(y + bias + residual)`, where `y` and `residual` are (N, C, …) and `bias` is (C).
///
/// `fresh` must not be shared: without autograd it is overwritten and returned.
pub(super) fn finish(
    fresh: Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let tracked = fresh.track_op() || bias.track_op() || residual.is_some_and(Tensor::track_op);
    if tracked {
        let mut shape = vec![1; fresh.rank()];
        shape[1] = bias.elem_count();
        let mut y = fresh.broadcast_add(&bias.reshape(shape)?)?;
        if let Some(residual) = residual {
            y = (y + residual)?;
        }
        return activation.apply(&y);
    }
    match residual {
        Some(residual) => fresh.inplace_op3(bias, &residual.contiguous()?, &BiasActivation { activation })?,
        None => fresh.inplace_op2(bias, &BiasActivation { activation })?,
    }
    Ok(fresh)
}

/// The in-place pass of [`finish`], one rayon task per plane.
struct BiasActivation {
    activation: Activation,
}

/// The length of a plane of `values` (N, C, …), or an error if `bias` has not one value per channel.
fn plane_len(layout: &Layout, bias: &[f32]) -> Result<usize> {
    match layout.dims() {
        [_, channels, rest @ ..] if *channels == bias.len() => Ok(rest.iter().product::<usize>().max(1)),
        dims => bail!("bias-activation: a bias of {} values does not fit a tensor of shape {dims:?}", bias.len()),
    }
}

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, y_l: &Layout, bias: &CpuStorage, bias_l: &Layout) -> Result<()> {
        let y = f32_slice_mut("bias-activation", y, y_l)?;
        let bias = f32_slice("bias-activation", bias, bias_l)?;
        let (low, high) = self.activation.bounds();
        y.par_chunks_mut(plane_len(y_l, bias)?).enumerate().for_each(|(i, plane)| {
            let bias = bias[i % bias.len()];
            for v in plane {
                *v = (*v + bias).max(low).min(high);
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-residual-activation"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
        residual: &CpuStorage,
        residual_l: &Layout,
    ) -> Result<()> {
        if y_l.dims() != residual_l.dims() {
            bail!("residual of shape {:?} does not fit a result of shape {:?}", residual_l.dims(), y_l.dims());
        }
        let y = f32_slice_mut("bias-residual-activation", y, y_l)?;
        let bias = f32_slice("bias-residual-activation", bias, bias_l)?;
        let residual = f32_slice("bias-residual-activation", residual, residual_l)?;
        let (low, high) = self.activation.bounds();
        let plane_len = plane_len(y_l, bias)?;
        y.par_chunks_mut(plane_len).zip(residual.par_chunks(plane_len)).enumerate().for_each(
            |(i, (plane, residual))| {
                let bias = bias[i % bias.len()];
                for (v, r) in plane.iter_mut().zip(residual) {
                    *v = (*v + bias + r).max(low).min(high);
                }
            },
        );
        Ok(())
    }
}
