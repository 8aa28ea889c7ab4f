//! Runs the kernels of the tests on the processor, or with the feature `cuda` and TOUCHLINE_GPU set to a number, on that
//! GPU. The tests are the same.

use touchline_compute::gpu::GpuError;
use touchline_compute::gpu::launch::{Argument, Launcher, Pointer, Shape};

use super::host::{self, Host};

pub enum Device {
    Host(Host),
    #[cfg(feature = "cuda")]
    Gpu(Box<touchline_compute::gpu::context::Gpu>),
}

pub struct Runner {
    device: Device,
    pub launches: Vec<&'static str>,
}

pub enum Memory {
    Host(host::Memory),
    #[cfg(feature = "cuda")]
    Gpu(candle_core::cuda_backend::cudarc::driver::CudaSlice<u8>),
}

impl Runner {
    /// # Panics
    /// If the requested GPU cannot be used.
    pub fn new() -> Self {
        Self { device: device(), launches: Vec::new() }
    }

    /// The bytes from `pointer` on.
    pub fn read(&self, pointer: Pointer, bytes: usize) -> Vec<u8> {
        match &self.device {
            Device::Host(host) => host.read(pointer, bytes),
            #[cfg(feature = "cuda")]
            Device::Gpu(gpu) => gpu.read(pointer, bytes).expect("the kernels ran"),
        }
    }

    /// Numbers from `pointer` on.
    pub fn floats(&self, pointer: Pointer, count: usize) -> Vec<f32> {
        let bytes = self.read(pointer, 4 * count);
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

fn device() -> Device {
    #[cfg(feature = "cuda")]
    if let Ok(number) = std::env::var("TOUCHLINE_GPU") {
        let number = number.parse().expect("TOUCHLINE_GPU is the number of a GPU");
        let gpu = touchline_compute::backend::gpu::open(number).unwrap_or_else(|e| panic!("{e}"));
        return Device::Gpu(Box::new(gpu));
    }
    Device::Host(Host::new())
}

impl Launcher for Runner {
    type Memory = Memory;

    fn memory(&mut self, bytes: usize) -> Result<Memory, GpuError> {
        match &mut self.device {
            Device::Host(host) => host.memory(bytes).map(Memory::Host),
            #[cfg(feature = "cuda")]
            Device::Gpu(gpu) => {
                let memory = gpu.memory(bytes)?;
                // As in the program for the processor, values that no kernel has written are NaN.
                gpu.write(&memory, &vec![0xff; bytes])?;
                Ok(Memory::Gpu(memory))
            }
        }
    }

    fn pointer(&self, memory: &Memory) -> Pointer {
        match (&self.device, memory) {
            (Device::Host(host), Memory::Host(memory)) => host.pointer(memory),
            #[cfg(feature = "cuda")]
            (Device::Gpu(gpu), Memory::Gpu(memory)) => gpu.pointer(memory),
            #[cfg(feature = "cuda")]
            _ => unreachable!("memory is used on its own device"),
        }
    }

    fn write(&mut self, memory: &Memory, data: &[u8]) -> Result<(), GpuError> {
        match (&mut self.device, memory) {
            (Device::Host(host), Memory::Host(memory)) => host.write(memory, data),
            #[cfg(feature = "cuda")]
            (Device::Gpu(gpu), Memory::Gpu(memory)) => gpu.write(memory, data),
            #[cfg(feature = "cuda")]
            _ => unreachable!("memory is used on its own device"),
        }
    }

    fn upload(&mut self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pointer, GpuError> {
        match &mut self.device {
            Device::Host(host) => host.upload(bytes, fill),
            #[cfg(feature = "cuda")]
            Device::Gpu(gpu) => gpu.upload(bytes, fill),
        }
    }

    fn launch(&mut self, kernel: &'static str, shape: Shape, arguments: &[Argument]) -> Result<(), GpuError> {
        self.launches.push(kernel);
        match &mut self.device {
            Device::Host(host) => host.launch(kernel, shape, arguments),
            #[cfg(feature = "cuda")]
            Device::Gpu(gpu) => Launcher::launch(gpu.as_mut(), kernel, shape, arguments),
        }
    }
}
