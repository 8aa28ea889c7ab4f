//! Batch norm at inference where no convolution precedes it: a scale and a shift for each channel.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, Build, f32_slice};

/// `activation(scale · x + shift)` for each channel, as the pre-activation order of ResNet v2 needs before its
/// convolutions.
#[derive(Clone, Debug)]
pub struct ScaleShift {
    /// (C).
    scale: Tensor,
    /// (C).
    shift: Tensor,
    activation: Activation,
}

impl ScaleShift {
    /// `scale` and `shift` are (C), `f32`.
    ///
    /// # Errors
    /// When they are not vectors of one length.
    pub fn new(scale: &Tensor, shift: &Tensor, activation: Activation) -> Result<Self> {
        if scale.rank() != 1 || scale.dims() != shift.dims() {
            bail!("scale-shift: scale {:?} and shift {:?} are not vectors of one length", scale.dims(), shift.dims());
        }
        Ok(Self { scale: scale.contiguous()?, shift: shift.contiguous()?, activation })
    }

    /// Scale and shift, both (C).
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.scale, &self.shift)
    }

    /// Adds the layer to a graph.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn fuse<B: Build>(&self, graph: &mut B, x: B::Value) -> Result<B::Value> {
        graph.scale_shift(x, (&self.scale, &self.shift), self.activation)
    }

    /// Applies scale and shift to a slice in place, without the activation. `x` is (N, C, `area`).
    ///
    /// # Errors
    /// When scale and shift cannot be read.
    pub fn apply(&self, x: &mut [f32], area: usize) -> Result<()> {
        let (scale, shift) = (self.scale.to_vec1::<f32>()?, self.shift.to_vec1::<f32>()?);
        for (plane, (scale, shift)) in x.chunks_exact_mut(area).zip(scale.iter().zip(&shift).cycle()) {
            plane.iter_mut().for_each(|x| *x = *x * scale + shift);
        }
        Ok(())
    }

    /// (N, C, H, W) → (N, C, H, W).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.track_op() || self.scale.track_op() || self.shift.track_op() {
            let c = self.scale.elem_count();
            let y = x.broadcast_mul(&self.scale.reshape((1, c, 1, 1))?)?;
            return self.activation.apply(&y.broadcast_add(&self.shift.reshape((1, c, 1, 1))?)?);
        }
        x.apply_op3_no_bwd(&self.scale, &self.shift, &ScaleShiftOp { activation: self.activation })
    }
}

struct ScaleShiftOp {
    activation: Activation,
}

impl CustomOp3 for ScaleShiftOp {
    fn name(&self) -> &'static str {
        "scale-shift"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        scale: &CpuStorage,
        scale_l: &Layout,
        shift: &CpuStorage,
        shift_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = x_l.shape().dims4()?;
        let x = f32_slice(self.name(), x, x_l)?;
        let scale = f32_slice(self.name(), scale, scale_l)?;
        let shift = f32_slice(self.name(), shift, shift_l)?;
        if scale.len() != c || h * w == 0 {
            bail!("scale-shift: {} scales do not fit a picture of shape {:?}", scale.len(), x_l.dims());
        }
        let (low, high) = self.activation.bounds();
        let mut y = vec![0f32; n * c * h * w];
        y.par_chunks_mut(h * w).zip(x.par_chunks(h * w)).enumerate().for_each(|(i, (y, x))| {
            let (scale, shift) = (scale[i % c], shift[i % c]);
            for (y, x) in y.iter_mut().zip(x) {
                *y = (scale * x + shift).max(low).min(high);
            }
        });
        Ok((CpuStorage::F32(y), x_l.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn both_routes_give_the_same_result() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Var::from_slice(&[1f32, -2., 3., 10., -1., 4.], (1, 2, 1, 3), cpu)?;
        let layer =
            ScaleShift::new(&Tensor::new(&[2f32, -1.], cpu)?, &Tensor::new(&[1f32, 0.5], cpu)?, Activation::Relu6)?;
        for x in [x.as_tensor(), &x.as_detached_tensor()] {
            let y = layer.forward(x)?;
            assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [3., 0., 6., 0., 1.5, 0.]);
            assert_eq!(y.track_op(), x.track_op());
        }
        assert!(layer.forward(&Tensor::zeros((1, 3, 1, 1), candle_core::DType::F32, cpu)?).is_err());
        Ok(())
    }
}
