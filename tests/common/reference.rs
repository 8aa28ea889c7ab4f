//! Reference values of the parity tests: the files of `tests/reference`, and values that both sides generate from names.
//!
//! A module of its own, so that a test of numbers does not link the media servers.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use touchline_compute::models::{Architecture, Tensors};

/// The project's folder. The tests of a workspace member are built in the member's folder.
pub fn project() -> &'static Path {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.into_iter().find(|folder| folder.join("weights").is_dir()).expect("the project has a folder of weights")
}

/// A file of `tests/reference`.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = project().join("tests/reference").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file of `tests/reference`.
pub fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Mixes 32 bits one to one (the finaliser of MurmurHash3).
pub fn finalised(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

/// Values in `low..high` from an integer hash of `name` and index: the twin of `uniform` in
/// `tests/reference/models/generate.py`.
pub fn uniform(name: &str, n: usize, low: f64, high: f64) -> Vec<f32> {
    let seed = name.bytes().fold(0x811C_9DC5u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let value = |i: u32| {
        let unit = f64::from(finalised(i.wrapping_mul(0x9E37_79B1).wrapping_add(seed)) >> 8) / f64::from(1 << 24);
        (low + (high - low) * unit) as f32
    };
    (0..n as u32).map(value).collect()
}

/// [`uniform`] values as a tensor.
pub fn generated(name: &str, shape: &[usize], low: f64, high: f64) -> Tensor {
    let values = uniform(name, shape.iter().product(), low, high);
    Tensor::from_vec(values, shape, &Device::Cpu).expect("the values fill the shape")
}

/// A weight of a magnitude that keeps activations near 1: the twin of `parameter` in `tests/reference/models/generate.py`.
pub fn parameter(name: &str, shape: &[usize]) -> Tensor {
    let (low, high) = match shape {
        [_, fan_in @ ..] if shape.len() == 4 => {
            let bound = (6.0 / fan_in.iter().product::<usize>() as f64).sqrt();
            let bound = if name.ends_with("conv3.weight") { 0.25 * bound } else { bound };
            (-bound, bound)
        }
        [_, inputs] => {
            let bound = 0.35 * (3.0 / *inputs as f64).sqrt();
            (-bound, bound)
        }
        _ if name.ends_with(".running_var") || name.ends_with(".weight") => (0.5, 1.5),
        _ => (-0.25, 0.25),
    };
    generated(name, shape, low, high)
}

/// All tensors of an architecture whose classifier has `classes` outputs, each made by `parameter`.
pub fn parameters(architecture: Architecture, classes: usize, parameter: impl Fn(&str, &[usize]) -> Tensor) -> Tensors {
    #[derive(Deserialize)]
    struct Shapes {
        tensors: Vec<(String, Vec<usize>)>,
    }
    let shapes: Shapes = json(&format!("models/{architecture}.json"));
    let tensors = shapes.tensors.into_iter().map(|(name, mut shape)| {
        if ["fc.", "_fc.", "classifier."].iter().any(|classifier| name.starts_with(classifier)) {
            shape[0] = classes;
        }
        let tensor = parameter(&name, &shape);
        (name, tensor)
    });
    tensors.collect()
}
