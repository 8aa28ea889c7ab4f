//! Numerical parity of features, networks and kernels with the libraries that they follow, and the engine with the shipped pack.

mod cuda_kernels;
mod encoders;
mod engine;
mod features;
mod models;
#[path = "../../../../tests/common/reference.rs"]
mod reference;
mod signals;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
