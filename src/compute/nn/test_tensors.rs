//! Pseudorandom tensors for tests, the same in every run.

use std::ops::Range;

use candle_core::{Device, Shape, Tensor};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(super) struct TestTensors(SmallRng);

impl TestTensors {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Uniform over `low..high`.
    pub(super) fn between(&mut self, low: f32, high: f32, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.0.random_range(low..high)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has")
    }

    /// Normal with mean 0 and deviation 1.
    pub(super) fn unit(&mut self, shape: impl Into<Shape>) -> Tensor {
        let half = 3f32.sqrt();
        self.between(-half, half, shape)
    }

    /// Weights (outputs, inputs, k, k), scaled so that outputs have the magnitude of inputs, and a bias.
    pub(super) fn layer(&mut self, outputs: usize, inputs: usize, k: usize) -> (Tensor, Tensor) {
        let scale = ((inputs * k * k) as f32).sqrt().recip();
        (self.between(-scale, scale, (outputs, inputs, k, k)), self.between(-0.5, 0.5, outputs))
    }

    pub(super) fn size(&mut self, range: Range<usize>) -> usize {
        self.0.random_range(range)
    }

    pub(super) fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.size(0..of.len())]
    }
}
