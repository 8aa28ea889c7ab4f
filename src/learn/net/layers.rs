//! The layers of a trainable network. Inputs and outputs are channel-major, (C, N, H, W).

use std::cell::RefCell;

use candle_core::{Result, Tensor, Var};

use super::Watched;
use touchline_compute::nn::{
    Activation, BatchStatistics, Padding, batch_norm_train, depthwise_conv2d_channel_major, max_pool2d,
    scale_shift_channel_major, unfold_channel_major,
};

/// Weight of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// Mode of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normalises with running statistics; no gradients.
    Fixed,
    /// Normalises with batch statistics, updates the running statistics, and tracks gradients.
    Learning,
}

/// A layer.
#[derive(Debug)]
pub enum Layer {
    /// Convolution without bias. The weight is (outputs, inputs, kernel, kernel).
    Conv { name: String, weight: Var, stride: usize, padding: Padding },
    /// Depthwise convolution without bias. The weight is (channels, 1, kernel, kernel).
    Depthwise { name: String, weight: Var, stride: usize, padding: Padding },
    /// Batch norm.
    Norm(Box<Norm>),
    /// Maximum over 3×3, stride 2, padding 1.
    MaxPool,
}

/// Batch norm and the activation after it. All tensors have one value per channel.
#[derive(Debug)]
pub struct Norm {
    pub name: String,
    pub weight: Var,
    pub bias: Var,
    /// Updated by each forward pass in training mode. A single thread trains.
    pub running: RefCell<Running>,
    /// Added to the variance.
    pub epsilon: f64,
    pub activation: Activation,
}

/// Running statistics of a batch norm layer, one value per channel.
#[derive(Clone, Debug)]
pub struct Running {
    pub mean: Vec<f32>,
    /// Unbiased, as in PyTorch.
    pub variance: Vec<f32>,
}

impl Layer {
    /// Returns the output of the layer.
    pub fn forward(&self, x: &Tensor, mode: Mode, watched: Option<&mut Watched>) -> Result<Tensor> {
        let tensor = |var: &Var| match mode {
            Mode::Fixed => var.as_detached_tensor(),
            Mode::Learning => var.as_tensor().clone(),
        };
        match self {
            Layer::Conv { weight, stride, padding, .. } => conv(x, &padding.kernel(&tensor(weight), *stride)?, *stride),
            Layer::Depthwise { weight, stride, padding, .. } => {
                let kernel = padding.kernel(&tensor(weight), *stride)?;
                depthwise_conv2d_channel_major(x, &kernel, *stride, Padding::of(&kernel))
            }
            Layer::Norm(norm) => norm.forward(x, mode, watched),
            Layer::MaxPool => max_pool2d(x, 3, 2, 1),
        }
    }

    /// Appends name, variable and whether weight decay applies, for each parameter.
    pub fn parameters(&self, to: &mut Vec<(String, Var, bool)>) {
        match self {
            Layer::Conv { name, weight, .. } | Layer::Depthwise { name, weight, .. } => {
                to.push((format!("{name}.weight"), weight.clone(), true));
            }
            Layer::Norm(norm) => {
                to.push((format!("{}.weight", norm.name), norm.weight.clone(), false));
                to.push((format!("{}.bias", norm.name), norm.bias.clone(), false));
            }
            Layer::MaxPool => {}
        }
    }

    /// Returns the running statistics by torchvision's names.
    pub fn statistics(&self) -> Vec<(String, Vec<f32>)> {
        let Layer::Norm(norm) = self else { return Vec::new() };
        let running = norm.running.borrow();
        vec![
            (format!("{}.running_mean", norm.name), running.mean.clone()),
            (format!("{}.running_var", norm.name), running.variance.clone()),
        ]
    }

    /// Restores the running statistics from the tensors that `get` returns.
    pub fn restore_statistics<'a>(&self, get: &impl Fn(&str) -> Result<&'a Tensor>) -> Result<()> {
        let Layer::Norm(norm) = self else { return Ok(()) };
        let values = |part: &str| -> Result<Vec<f32>> { get(&format!("{}.{part}", norm.name))?.to_vec1() };
        let (mean, variance) = (values("running_mean")?, values("running_var")?);
        *norm.running.borrow_mut() = Running { mean, variance };
        Ok(())
    }
}

/// Computes the convolution of a channel-major batch as one matrix product.
fn conv(x: &Tensor, weight: &Tensor, stride: usize) -> Result<Tensor> {
    let (c, n, h, w) = x.dims4()?;
    let (outputs, _, kernel, _) = weight.dims4()?;
    let (columns, out_h, out_w) = if kernel == 1 && stride == 1 {
        (x.reshape((c, n * h * w))?, h, w)
    } else {
        let side = |length: usize| (length + 2 * (kernel / 2) - kernel) / stride + 1;
        (unfold_channel_major(x, kernel, stride, kernel / 2)?, side(h), side(w))
    };
    weight.reshape((outputs, c * kernel * kernel))?.matmul(&columns)?.reshape((outputs, n, out_h, out_w))
}

impl Norm {
    fn forward(&self, x: &Tensor, mode: Mode, watched: Option<&mut Watched>) -> Result<Tensor> {
        match mode {
            Mode::Fixed => {
                let running = self.running.borrow();
                let (weight, bias) = (self.weight.to_vec1::<f32>()?, self.bias.to_vec1::<f32>()?);
                let scale: Vec<f32> = weight
                    .iter()
                    .zip(&running.variance)
                    .map(|(w, v)| (f64::from(*w) / (f64::from(*v) + self.epsilon).sqrt()) as f32)
                    .collect();
                let shift: Vec<f32> = bias.iter().zip(&scale).zip(&running.mean).map(|((b, s), m)| b - m * s).collect();
                scale_shift_channel_major(&x.detach(), &scale, &shift, self.activation)
            }
            Mode::Learning => {
                let statistics = BatchStatistics::of(&x.detach())?;
                self.update_running(&statistics);
                let y = batch_norm_train(x, &self.weight, &self.bias, &statistics, self.epsilon, self.activation)?;
                if let Some(watched) = watched.filter(|_| self.activation != Activation::Identity) {
                    watched.outputs.push(self.output_statistics(&y.detach())?);
                }
                Ok(y)
            }
        }
    }

    /// Updates the running statistics with those of a batch.
    fn update_running(&self, batch: &BatchStatistics) {
        let mut running = self.running.borrow_mut();
        // The factor is 1 for a single value, which has no unbiased variance.
        let unbiased = batch.count as f32 / batch.count.saturating_sub(1).max(1) as f32;
        for (r, b) in running.mean.iter_mut().zip(&batch.mean) {
            *r += MOMENTUM * (b - *r);
        }
        for (r, b) in running.variance.iter_mut().zip(&batch.variance) {
            *r += MOMENTUM * (b * unbiased - *r);
        }
    }

    /// Returns name, mean of each channel, and share of channels that are 0 for the whole batch.
    fn output_statistics(&self, y: &Tensor) -> Result<(String, Vec<f32>, f64)> {
        let means = BatchStatistics::of(y)?.mean;
        // Outputs are not negative, so a channel with mean 0 is 0 everywhere.
        let dead = means.iter().filter(|m| **m == 0.0).count() as f64 / means.len().max(1) as f64;
        Ok((self.name.clone(), means, dead))
    }
}
