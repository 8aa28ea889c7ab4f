//! From a second to scores: features, networks, model packs and the engine, on the CPU and on NVIDIA GPUs.
//!
//! The only crate with `unsafe`: where a kernel is launched, a SIMD vector loaded, or a library of CUDA called.

pub mod features;
pub mod gpu;
pub mod infer;
pub mod models;
pub mod nn;
