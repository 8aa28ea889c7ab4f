//! A network on a GPU: layer by layer, a whole batch at once.
//!
//! Values are (N, H, W, C) in the network's element type; sums, biases and depthwise weights are f32. 1×1 convolutions are
//! matrix products by cuBLAS, other convolutions use cuDNN, and one kernel adds bias and residual and clamps. A value's memory
//! comes from the device's pool and returns to it after its last reader.

use candle_core::{Device, Result, Tensor, bail};

use super::conv::Conv;
use super::ops::{self, Bounds, EIGHT};
use crate::gpu::launch::ElementType;
use crate::nn::{Activation, Build};

/// A network without its classifier on a GPU. Cloning shares the weights.
#[derive(Clone, Debug)]
pub struct DeviceNet {
    device: Device,
    numbers: ElementType,
    layers: Vec<NetLayer>,
    /// The last layer that reads each value.
    last_use: Vec<usize>,
    /// Channels of each value.
    channels: Vec<usize>,
}

/// The output of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceValue(usize);

#[derive(Clone, Debug)]
struct NetLayer {
    x: usize,
    residual: Option<usize>,
    y: usize,
    kind: LayerKind,
}

#[derive(Clone, Debug)]
enum LayerKind {
    /// weight (Cout, Cin).
    Product {
        weight: Tensor,
        bias: Tensor,
        bounds: Bounds,
    },
    /// weight (Cout, k, k, Cin + `more`): the input is padded with `more` channels of zeros.
    Conv {
        weight: Tensor,
        bias: Tensor,
        stride: usize,
        padding: usize,
        more: usize,
        bounds: Bounds,
    },
    /// weight (k², C) f32.
    Depthwise {
        weight: Tensor,
        bias: Tensor,
        kernel: usize,
        stride: usize,
        padding: usize,
        bounds: Bounds,
    },
    MaxPool {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    ScaleShift {
        scale: Tensor,
        shift: Tensor,
        bounds: Bounds,
    },
}

impl DeviceNet {
    /// A network without layers, and its input: pictures of `channels`.
    pub fn new(device: &Device, numbers: ElementType, channels: usize) -> (Self, DeviceValue) {
        let (layers, last_use, channels) = (Vec::new(), vec![0], vec![channels]);
        (Self { device: device.clone(), numbers, layers, last_use, channels }, DeviceValue(0))
    }

    /// The device and the element type it computes in.
    pub fn computes_with(&self) -> (&Device, ElementType) {
        (&self.device, self.numbers)
    }

    /// Pictures (N, H, W, C) → pooled features (N, F), the mean over the last value's pixels, both in the network's element type.
    ///
    /// # Errors
    /// When `x` has another shape or type, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.channels.len()];
        values[0] = Some(x.clone());
        let get = |values: &[Option<Tensor>], value: usize| -> Result<Tensor> {
            match &values[value] {
                Some(tensor) => Ok(tensor.clone()),
                None => bail!("value {value} of the network is read after its last use"),
            }
        };
        for (at, layer) in self.layers.iter().enumerate() {
            let x = get(&values, layer.x)?;
            let residual = layer.residual.map(|r| get(&values, r)).transpose()?;
            let y = layer.kind.run(&x, residual.as_ref())?;
            values[layer.y] = Some(y);
            for value in [Some(layer.x), layer.residual].into_iter().flatten() {
                if self.last_use[value] == at {
                    values[value] = None;
                }
            }
        }
        match values.pop().flatten() {
            Some(last) => last.apply_op1_no_bwd(&ops::Average),
            None => bail!("the network has no layers"),
        }
    }

    fn push(&mut self, x: DeviceValue, residual: Option<DeviceValue>, channels: usize, kind: LayerKind) -> DeviceValue {
        let at = self.layers.len();
        self.channels.push(channels);
        self.last_use.push(at + 1);
        let y = self.channels.len() - 1;
        for value in [Some(x), residual].into_iter().flatten() {
            self.last_use[value.0] = at;
        }
        self.layers.push(NetLayer { x: x.0, residual: residual.map(|r| r.0), y, kind });
        DeviceValue(y)
    }

    fn check(&self, op: &str, channels: usize) -> Result<()> {
        if channels == 0 || !channels.is_multiple_of(EIGHT) {
            bail!("{op}: {channels} channels are not a multiple of {EIGHT}");
        }
        Ok(())
    }

    /// A tensor on the device, in the network's element type.
    fn place(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.detach().to_dtype(self.numbers.dtype())?.contiguous()?.to_device(&self.device)
    }

    /// A tensor on the device, in f32.
    fn place_f32(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.detach().contiguous()?.to_device(&self.device)
    }
}

impl Build for DeviceNet {
    type Value = DeviceValue;

    fn conv(
        &mut self,
        x: DeviceValue,
        (weight, bias): (&Tensor, &Tensor),
        (stride, padding): (usize, usize),
        residual: Option<DeviceValue>,
        activation: Activation,
    ) -> Result<DeviceValue> {
        let (outputs, inputs, kernel) = match *weight.dims() {
            [outputs, inputs] => (outputs, inputs, 1),
            [outputs, inputs, h, w] if h == w => (outputs, inputs, h),
            _ => bail!("convolution: weights of shape {:?} are not (out, in, k, k)", weight.dims()),
        };
        self.check("convolution", outputs)?;
        let fits = residual.is_none_or(|r| self.channels[r.0] == outputs);
        if inputs != self.channels[x.0] || bias.dims() != [outputs] || !fits {
            bail!("convolution: weights {:?} do not fit {} channels", weight.dims(), self.channels[x.0]);
        }
        let (bounds, bias) = (activation.bounds(), self.place_f32(bias)?);
        let kind = if (kernel, stride, padding) == (1, 1, 0) && inputs.is_multiple_of(EIGHT) {
            LayerKind::Product { weight: self.place(&weight.reshape((outputs, inputs))?)?, bias, bounds }
        } else {
            // Tensor cores need a multiple of eight channels. For a picture's three, cuDNN has a slow algorithm or none.
            let more = inputs.next_multiple_of(EIGHT) - inputs;
            let weight = weight.reshape((outputs, inputs, kernel, kernel))?.permute((0, 2, 3, 1))?.contiguous()?;
            LayerKind::Conv {
                weight: self.place(&weight.pad_with_zeros(3, 0, more)?)?,
                bias,
                stride,
                padding,
                more,
                bounds,
            }
        };
        Ok(self.push(x, residual, outputs, kind))
    }

    fn depthwise(
        &mut self,
        x: DeviceValue,
        (weight, bias): (&Tensor, &Tensor),
        (stride, padding): (usize, usize),
        activation: Activation,
    ) -> Result<DeviceValue> {
        let channels = self.channels[x.0];
        self.check("depthwise convolution", channels)?;
        let kernel = match *weight.dims() {
            [c, 1, h, w] if h == w && c == channels && bias.dims() == [c] => h,
            _ => bail!("depthwise convolution: weights of shape {:?} do not fit {channels} channels", weight.dims()),
        };
        let weight = self.place_f32(&weight.reshape((channels, kernel * kernel))?.t()?)?;
        let (bias, bounds) = (self.place_f32(bias)?, activation.bounds());
        Ok(self.push(x, None, channels, LayerKind::Depthwise { weight, bias, kernel, stride, padding, bounds }))
    }

    fn max_pool(&mut self, x: DeviceValue, kernel: usize, stride: usize, padding: usize) -> Result<DeviceValue> {
        if padding > kernel / 2 {
            bail!("max pool: padding {padding} exceeds half of kernel {kernel}");
        }
        let channels = self.channels[x.0];
        self.check("max pool", channels)?;
        Ok(self.push(x, None, channels, LayerKind::MaxPool { kernel, stride, padding }))
    }

    fn scale_shift(
        &mut self,
        x: DeviceValue,
        (scale, shift): (&Tensor, &Tensor),
        activation: Activation,
    ) -> Result<DeviceValue> {
        let channels = self.channels[x.0];
        self.check("scale and shift", channels)?;
        if scale.dims() != [channels] || shift.dims() != [channels] {
            bail!("scale and shift: {:?} and {:?} do not fit {channels} channels", scale.dims(), shift.dims());
        }
        let (scale, shift, bounds) = (self.place_f32(scale)?, self.place_f32(shift)?, activation.bounds());
        Ok(self.push(x, None, channels, LayerKind::ScaleShift { scale, shift, bounds }))
    }
}

impl LayerKind {
    fn run(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        match self {
            LayerKind::Product { weight, bias, bounds } => {
                let (n, h, w, inputs) = x.dims4()?;
                let y = x.reshape((n * h * w, inputs))?.matmul(&weight.t()?)?;
                ops::finish(y.reshape((n, h, w, weight.dims()[0]))?, bias, residual, *bounds)
            }
            LayerKind::Conv { weight, bias, stride, padding, more, bounds } => {
                let y = x
                    .pad_with_zeros(3, 0, *more)?
                    .apply_op2_no_bwd(weight, &Conv { stride: *stride, padding: *padding })?;
                ops::finish(y, bias, residual, *bounds)
            }
            &LayerKind::Depthwise { ref weight, ref bias, kernel, stride, padding, bounds } => {
                x.apply_op3_no_bwd(weight, bias, &ops::Depthwise { kernel, stride, padding, bounds })
            }
            &LayerKind::MaxPool { kernel, stride, padding } => {
                x.apply_op1_no_bwd(&ops::MaxPool { kernel, stride, padding })
            }
            LayerKind::ScaleShift { scale, shift, bounds } => {
                x.apply_op3_no_bwd(scale, shift, &ops::ScaleShift(*bounds))
            }
        }
    }
}
