//! A network on a GPU.

use candle_core::{DType, Device, Module, Tensor, bail};

use super::{Architecture, Layers, LoadError, MIN_SIDE, Parts, Tensors, inverted_residual, resnet50};
use crate::gpu::ElementType;
use crate::nn::ScaleShift;
use crate::nn::cuda::DeviceNet;

/// A network of any [`Architecture`] on a GPU. Inputs, weights and activations have one element type; sums and logits are
/// `f32`.
#[derive(Clone, Debug)]
pub struct GpuNetwork {
    /// Scale and shift of the input, (3) each.
    input_norm: Option<(Tensor, Tensor)>,
    backbone: DeviceNet,
    classifier: candle_nn::Linear,
}

impl GpuNetwork {
    /// Builds the network on `device` from tensors on the CPU. Among them must be a classifier of `classes` outputs.
    ///
    /// # Errors
    /// As [`super::Network::load`]; [`LoadError::Build`] also when the device has no memory left.
    pub fn load(
        architecture: Architecture,
        tensors: &Tensors,
        classes: usize,
        device: &Device,
        numbers: ElementType,
    ) -> Result<Self, LoadError> {
        let built = match (architecture.inverted_residuals(), architecture) {
            (Some(plan), _) => {
                let parts = inverted_residual::parts(architecture, &plan, tensors, Some(classes))?;
                Self::build(parts, device, numbers)
            }
            (None, encoder) if encoder.is_encoder() => {
                Err(candle_core::Error::Msg("encoders compute on the CPU only; choose --device cpu".into()))
            }
            (None, Architecture::ResNet50) => Self::build(resnet50::parts(tensors, Some(classes))?, device, numbers),
            (None, _) => Self::build(resnet50::parts_v2(tensors, Some(classes))?, device, numbers),
        };
        built.map_err(|cause| LoadError::Build { architecture, cause })
    }

    fn build<L: Layers>(parts: Parts<L>, device: &Device, numbers: ElementType) -> candle_core::Result<Self> {
        let Some((weight, bias)) = parts.classifier else { bail!("a network on a GPU needs a classifier") };
        let (mut backbone, picture) = DeviceNet::new(device, numbers, 3);
        parts.body.fuse(&mut backbone, picture)?;
        let input_norm = match parts.input_norm.as_ref().map(ScaleShift::parts) {
            Some((scale, shift)) => Some((scale.to_device(device)?, shift.to_device(device)?)),
            None => None,
        };
        let classifier = candle_nn::Linear::new(weight.to_device(device)?, Some(bias.to_device(device)?));
        Ok(Self { input_norm, backbone, classifier })
    }

    /// The element type of the input that avoids a conversion.
    pub fn numbers(&self) -> ElementType {
        self.backbone.computes_with().1
    }

    /// Normalised pictures → logits (N, classes), `f32`. Pictures are (N, H, W, 3), as the GPU's features are, or
    /// (N, 3, H, W); H and W are at least 32.
    ///
    /// # Errors
    /// When `x` has another shape, or the device fails.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (device, numbers) = self.backbone.computes_with();
        let interleaved = match *x.dims() {
            [n, h, w, 3] if n > 0 && h >= MIN_SIDE && w >= MIN_SIDE => x.clone(),
            [n, 3, h, w] if n > 0 && h >= MIN_SIDE && w >= MIN_SIDE => x.permute((0, 2, 3, 1))?.contiguous()?,
            _ => bail!("expected pictures (N, H, W, 3) with H and W at least {MIN_SIDE}, got shape {:?}", x.dims()),
        };
        let mut x = interleaved.to_device(device)?;
        if let Some((scale, shift)) = &self.input_norm {
            x = x.to_dtype(DType::F32)?.broadcast_mul(scale)?.broadcast_add(shift)?;
        }
        let features = self.backbone.forward(&x.to_dtype(numbers.dtype())?)?;
        self.classifier.forward(&features.to_dtype(DType::F32)?)
    }
}
