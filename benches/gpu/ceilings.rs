//! The measured peak rates of a device: memory bandwidth, upload bandwidth, and operations per second.

use candle_core::{DType, Device, Tensor};
use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::context::Gpu;
use touchline_compute::gpu::launch::Launcher;

use crate::Outcome;

/// Each figure is the best of [`ROUNDS`] rounds.
pub struct Ceilings {
    /// Bytes per second, read plus written, of a copy within the device.
    pub memory: f64,
    /// Bytes per second from pinned host memory to the device.
    pub upload: f64,
    /// Operations per second of a large matrix product.
    pub products: f64,
}

/// Size of the copies, bytes.
const BYTES: usize = 1 << 28;

/// Side of the matrices.
const SIDE: usize = 8192;

/// Rounds of a measurement; the best one counts.
const ROUNDS: usize = 10;

impl Ceilings {
    pub fn measure(gpu: &mut Gpu, numbers: ElementType) -> Outcome<Self> {
        let device = gpu.device();
        let block = Tensor::zeros(BYTES / 4, DType::F32, &device)?;
        let copy = best(gpu, |_| Ok(block.copy()?))?;
        let upload = best(gpu, |gpu| Ok(gpu.upload(BYTES, &mut |_| {})?))?;
        let a = random(&device, numbers)?;
        let b = random(&device, numbers)?;
        let product = best(gpu, |_| Ok(a.matmul(&b)?))?;
        let (bytes, side) = (BYTES as f64, SIDE as f64);
        Ok(Self { memory: 2.0 * bytes / copy, upload: bytes / upload, products: 2.0 * side.powi(3) / product })
    }
}

fn random(device: &Device, numbers: ElementType) -> Outcome<Tensor> {
    Ok(Tensor::randn(0f32, 1., (SIDE, SIDE), device)?.to_dtype(numbers.dtype())?)
}

/// Duration of the best round on the device, seconds, after two rounds of warm-up.
pub fn best<T>(gpu: &mut Gpu, mut work: impl FnMut(&mut Gpu) -> Outcome<T>) -> Outcome<f64> {
    let mut shortest = f64::INFINITY;
    for round in 0..ROUNDS + 2 {
        let began = gpu.mark()?;
        let result = work(gpu)?;
        let ended = gpu.mark()?;
        gpu.wait()?;
        drop(result);
        if round >= 2 {
            shortest = shortest.min(f64::from(began.elapsed_ms(&ended).map_err(|e| format!("{e:?}"))?) / 1e3);
        }
    }
    Ok(shortest)
}
