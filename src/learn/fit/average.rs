//! The moving average of the weights of a network over the steps of a training.

use candle_core::Result;

use crate::net::Net;
use touchline_compute::models::Tensors;

/// Prefix of the averaged tensors in a checkpoint.
const PREFIX: &str = "average.";

/// The exponential moving average of the trained weights and of the running statistics, which are averaged like weights.
///
/// Source: Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017; the rise of the decay over the first steps is
/// that of TensorFlow's `ExponentialMovingAverage`.
#[derive(Debug)]
pub(super) struct WeightAverage {
    decay: f64,
    /// Number of blocks that do not change.
    frozen: usize,
    tensors: Tensors,
}

impl WeightAverage {
    /// Returns the average at the beginning of step 2, or that of the `checkpoint` from which a run continues; `None` if `decay` is 0.
    ///
    /// # Errors
    /// When a tensor is missing in the checkpoint.
    pub fn begin(decay: f64, net: &Net, frozen: usize, checkpoint: Option<&Tensors>) -> Result<Option<Self>> {
        if decay == 0.0 {
            return Ok(None);
        }
        let mut tensors = net.tensors_from(frozen)?;
        if let Some(checkpoint) = checkpoint {
            for (name, tensor) in &mut tensors {
                let name = format!("{PREFIX}{name}");
                let missing = || candle_core::Error::Msg(format!("tensor {name} is missing")).bt();
                *tensor = checkpoint.get(&name).ok_or_else(missing)?.to_device(net.device())?;
            }
        }
        Ok(Some(Self { decay, frozen, tensors }))
    }

    /// Adds the weights after a step of the optimiser that came after `step` others.
    ///
    /// # Errors
    /// When an operation fails on the device.
    pub fn add(&mut self, net: &Net, step: u64) -> Result<()> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        for (name, now) in net.tensors_from(self.frozen)? {
            if let Some(average) = self.tensors.get_mut(&name) {
                *average = (&*average + ((now - &*average)? * (1.0 - decay))?)?;
            }
        }
        Ok(())
    }

    /// Gives the network the averaged weights. Returns those that it had, for [`Net::restore`].
    ///
    /// # Errors
    /// When an operation fails on the device.
    pub fn enter(&self, net: &Net) -> Result<Tensors> {
        let last = net.tensors()?;
        let mut averaged = last.clone();
        averaged.extend(self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        net.restore(&averaged)?;
        Ok(last)
    }

    /// Returns the tensors for a checkpoint, from which [`Self::begin`] continues.
    pub fn state(&self) -> impl Iterator<Item = (String, candle_core::Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use touchline_compute::models::Architecture;

    use super::*;
    use crate::net::build;

    #[test]
    fn weights_and_statistics_are_averaged_from_the_first_trained_block_on() {
        let cpu = Device::Cpu;
        let net = build(Architecture::MobileNetV2, &Tensors::new(), 3, 7, &cpu).unwrap().net;
        let frozen = net.blocks() - 1;
        let first = net.tensors().unwrap();
        let mut average = WeightAverage::begin(0.5, &net, frozen, None).unwrap().unwrap();
        let (bias, mean) = ("classifier.1.bias", "features.18.1.running_mean");
        let set = |value: f32| {
            let mut all = net.tensors().unwrap();
            for name in [bias, mean] {
                all.insert(name.into(), Tensor::full(value, first[name].shape(), &cpu).unwrap());
            }
            net.restore(&all).unwrap();
        };
        let values = |tensors: &Tensors, name: &str| tensors[name].to_vec1::<f32>().unwrap();
        // The decay after one other step is 2/11, after 100 others the configured one.
        set(11.0);
        average.add(&net, 1).unwrap();
        set(5.0);
        average.add(&net, 100).unwrap();
        let last = average.enter(&net).unwrap();
        let averaged = net.tensors().unwrap();
        for name in [bias, mean] {
            assert!(values(&last, name).iter().all(|v| *v == 5.0), "{name}");
            for (before, now) in values(&first, name).iter().zip(values(&averaged, name)) {
                let want = 0.5 * (before * 2.0 / 11.0 + 11.0 * 9.0 / 11.0) + 0.5 * 5.0;
                assert!((now - want).abs() < 1e-5, "{name}: {now} {want}");
            }
        }
        let frozen_tensor = "features.0.0.weight";
        assert!(!average.tensors.contains_key(frozen_tensor));

        let checkpoint: Tensors = average.state().collect();
        let again = WeightAverage::begin(0.5, &net, frozen, Some(&checkpoint)).unwrap().unwrap();
        assert_eq!(values(&again.tensors, bias), values(&average.tensors, bias));
        assert!(WeightAverage::begin(0.5, &net, frozen, Some(&Tensors::new())).is_err());
        assert!(WeightAverage::begin(0.0, &net, frozen, None).unwrap().is_none());
    }
}
