//! From a second of frames and sound to scores: features, networks, model packs and the engine.
//!
//! | module | contents | imports |
//! |---|---|---|
//! | [`gpu`] | devices, kernel launches, faults | |
//! | [`features`] | pictures, optical flow and log-mel images, on the CPU and on GPUs | `gpu` |
//! | [`nn`] | layers and fused networks, on the CPU and on GPUs | `gpu` |
//! | [`models`] | architectures, weights, packs | `nn`, `features`, `gpu` |
//! | [`backend`] | the contract between engine and device, for the CPU and for GPUs | all above |
//! | [`infer`] | the engine | all above |
//!
//! This is the only crate with `unsafe`: to launch kernels, to load SIMD vectors, and to call CUDA libraries. The feature
//! `cuda` adds NVIDIA GPUs. `examples/embed.rs` runs the engine on frames of its own.
#![deny(missing_docs)]

pub mod backend;
pub mod features;
pub mod gpu;
pub mod infer;
pub mod models;
pub mod nn;
