//! The graphics processor: which device computes, how kernels are started on it, and what its faults mean.
//!
//! What works on a device is written against [`Launcher`], so that the very same code runs on a GPU and, in the tests, on a
//! processor that takes the kernels' sources as C++. With the feature `cuda`, `context` is the launcher of a real device.
//! Not here: kernels ([`crate::features::cuda`], [`crate::nn::cuda`]) and networks.

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

/// What stands before every kernel file.
pub const PRELUDE: &str = include_str!("common.cuh");
