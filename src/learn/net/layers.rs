//! The layers of a trainable network.

use std::cell::RefCell;

use candle_core::{Result, Tensor, Var};

use super::Watched;
use touchline_compute::nn::train::{Batch, BatchStatistics, NormParameters, Tape};
use touchline_compute::nn::{Activation, Padding};

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

/// Returns the output of layers.
pub fn forward(
    layers: &[Layer],
    tape: &mut Tape,
    x: &Batch,
    mode: Mode,
    mut watched: Option<&mut Watched>,
) -> Result<Batch> {
    let mut x = x.clone();
    for (i, layer) in layers.iter().enumerate() {
        // A convolution computes the statistics for the norm after it.
        let running = match (mode, layers.get(i + 1)) {
            (Mode::Learning, Some(Layer::Norm(norm))) => Some(norm.running.borrow()),
            _ => None,
        };
        let centre = running.as_ref().map(|running| &running.mean[..]);
        x = match layer {
            Layer::Conv { weight, stride, padding, .. } => tape.conv(&x, weight, *stride, *padding, centre)?,
            Layer::Depthwise { weight, stride, padding, .. } => {
                tape.depthwise(&x, weight, *stride, *padding, centre)?
            }
            Layer::Norm(norm) => norm.forward(tape, &x, mode, watched.as_deref_mut())?,
            Layer::MaxPool => tape.max_pool(&x)?,
        };
    }
    Ok(x)
}

impl Layer {
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

impl Norm {
    fn forward(&self, tape: &mut Tape, x: &Batch, mode: Mode, watched: Option<&mut Watched>) -> Result<Batch> {
        match mode {
            Mode::Fixed => {
                let (scale, shift) = self.fixed()?;
                tape.fixed_norm(x, &scale, &shift, self.activation)
            }
            Mode::Learning => {
                let (weight, bias) = (&self.weight, &self.bias);
                let (epsilon, activation) = (self.epsilon, self.activation);
                let (y, statistics) = tape.norm(x, NormParameters { weight, bias, epsilon, activation })?;
                self.update_running(&statistics);
                if let Some(watched) = watched.filter(|_| self.activation != Activation::Identity) {
                    watched.outputs.push(self.output_statistics(tape.statistics(&y).mean));
                }
                Ok(y)
            }
        }
    }

    /// Returns scale and shift of each channel with the running statistics.
    pub(super) fn fixed(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let running = self.running.borrow();
        let (weight, bias) = (self.weight.to_vec1::<f32>()?, self.bias.to_vec1::<f32>()?);
        let scale: Vec<f32> = weight
            .iter()
            .zip(&running.variance)
            .map(|(w, v)| (f64::from(*w) / (f64::from(*v) + self.epsilon).sqrt()) as f32)
            .collect();
        let shift = bias.iter().zip(&scale).zip(&running.mean).map(|((b, s), m)| b - m * s).collect();
        Ok((scale, shift))
    }

    /// Updates the running statistics with those of a batch.
    pub(super) fn update_running(&self, batch: &BatchStatistics) {
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
    pub(super) fn output_statistics(&self, means: Vec<f32>) -> (String, Vec<f32>, f64) {
        // Outputs are not negative, so a channel with mean 0 is 0 everywhere.
        let dead = means.iter().filter(|m| **m == 0.0).count() as f64 / means.len().max(1) as f64;
        (self.name.clone(), means, dead)
    }
}
