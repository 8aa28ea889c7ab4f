//! Numerical parity of features, networks and kernels with the libraries that they follow, the engine with the shipped pack, and exported
//! networks in onnxruntime.

mod cuda_kernels;
mod encoders;
mod engine;
mod export;
mod features;
mod mobileclip;
mod models;
#[path = "../../../../tests/common/reference.rs"]
mod reference;
mod signals;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
