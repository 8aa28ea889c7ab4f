//! NVIDIA GPUs: which device computes, how kernels are launched, and what faults mean.
//!
//! Host code for a device is written against [`Launcher`]. It runs on a GPU and, in tests, on the CPU, where the kernels are
//! compiled as C++. With the feature `cuda`, `context` is the launcher of a real device.
//! Kernels are elsewhere ([`crate::features::cuda`], [`crate::nn::cuda`]).

#[cfg(feature = "cuda")]
mod compile;
#[cfg(feature = "cuda")]
pub mod context;
pub mod fault;
pub mod launch;
#[cfg(feature = "cuda")]
mod libraries;
pub mod placement;

pub use fault::GpuError;
pub use launch::{Argument, ElementType, KernelModule, Launcher, Layout, Pointer, Shape};
pub use placement::Placement;

/// Source that precedes every kernel file.
pub const PRELUDE: &str = include_str!("common.cuh");
