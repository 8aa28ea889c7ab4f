//! Numbers for tests: they look random, and are the same in every run.

use candle_core::{Device, Result, Shape, Tensor};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(super) struct Numbers(SmallRng);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Evenly spread over `low..high`.
    pub(super) fn between(&mut self, low: f32, high: f32, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.0.random_range(low..high)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// Of mean 0 and deviation 1.
    pub(super) fn unit(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        let half = 3f32.sqrt();
        self.between(-half, half, shape)
    }
}
