//! The classifier: one linear layer.

use candle_core::{Device, Tensor, bail};

/// From pooled features to logits.
#[derive(Clone, Debug)]
pub(super) enum Head {
    /// The network was loaded without a classifier.
    None,
    /// On the CPU.
    Cpu(std::sync::Arc<Linear>),
    /// On another device.
    Device(candle_nn::Linear),
}

/// Weights (classes, width), row-major, and a bias per class.
#[derive(Debug)]
pub(super) struct Linear {
    width: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Number of independent partial sums: the floats in the widest register.
const SUMS: usize = 16;

impl Head {
    /// `weight` (classes, width) and `bias` (classes), both `f32`, computing on `device`.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(weight: &Tensor, bias: &Tensor, device: &Device) -> candle_core::Result<Self> {
        if device.is_cpu() {
            let width = weight.dim(1)?;
            let (weight, bias) = (weight.flatten_all()?.to_vec1()?, bias.to_vec1()?);
            return Ok(Head::Cpu(std::sync::Arc::new(Linear { width, weight, bias })));
        }
        Ok(Head::Device(candle_nn::Linear::new(weight.to_device(device)?, Some(bias.to_device(device)?))))
    }

    pub fn classes(&self) -> Option<usize> {
        match self {
            Head::None => None,
            Head::Cpu(linear) => Some(linear.bias.len()),
            Head::Device(linear) => Some(linear.weight().dims()[0]),
        }
    }

    /// Features (N, width) → logits (N, classes).
    ///
    /// # Errors
    /// Without a classifier, or when the shape does not fit.
    pub fn forward(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Head::None => bail!("the network was loaded without a classifier"),
            Head::Cpu(linear) => {
                let (n, width) = features.dims2()?;
                if width != linear.width {
                    bail!("the classifier expects features of {}, got {width}", linear.width);
                }
                let mut logits = Vec::new();
                self.forward_into(&features.flatten_all()?.to_vec1()?, &mut logits)?;
                Tensor::from_vec(logits, (n, linear.bias.len()), features.device())
            }
            // Logits are always f32; features may be bf16 or f16.
            Head::Device(linear) => candle_core::Module::forward(linear, &features.to_dtype(candle_core::DType::F32)?),
        }
    }

    /// As [`Head::forward`] on slices: `logits` is overwritten. A row depends on its own features only.
    ///
    /// # Errors
    /// When there is no classifier on the CPU.
    ///
    /// # Panics
    /// If the length of `features` is not a multiple of the width.
    pub fn forward_into(&self, features: &[f32], logits: &mut Vec<f32>) -> candle_core::Result<()> {
        let Head::Cpu(linear) = self else { bail!("the network has no classifier on the CPU") };
        assert_eq!(features.len() % linear.width, 0, "features are rows of {}", linear.width);
        logits.clear();
        for row in features.chunks_exact(linear.width) {
            let classes = linear.weight.chunks_exact(linear.width).zip(&linear.bias);
            logits.extend(classes.map(|(weights, bias)| dot(row, weights) + bias));
        }
        Ok(())
    }
}

/// Dot product, summed in the same order on every processor.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; SUMS];
    let (a, b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let mut half = SUMS / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use candle_core::Module;

    use super::*;

    #[test]
    fn the_head_equals_a_linear_layer_at_every_width() {
        for width in [1, 15, 16, 33, 1280] {
            let values = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
            let tensor = |shape: &[usize], step| {
                Tensor::from_vec(values(shape.iter().product(), step), shape, &Device::Cpu).unwrap()
            };
            let (weight, bias, features) = (tensor(&[7, width], 0.3), tensor(&[7], 0.9), tensor(&[3, width], 0.7));
            let head = Head::new(&weight, &bias, &Device::Cpu).unwrap();
            let have = head.forward(&features).unwrap();
            let want = candle_nn::Linear::new(weight, Some(bias)).forward(&features).unwrap();
            let off = (have - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5 * (width as f32).sqrt(), "width {width}: off by {off}");
            let (all, alone) = (head.forward(&features).unwrap(), head.forward(&features.narrow(0, 2, 1).unwrap()));
            assert_eq!(all.to_vec2::<f32>().unwrap()[2], alone.unwrap().to_vec2::<f32>().unwrap()[0]);
            assert!(head.forward(&tensor(&[3, width + 1], 0.7)).is_err());
        }
    }
}
