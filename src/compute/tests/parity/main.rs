//! The numbers: features, networks and kernels against the libraries that they follow, and the engine on the pack that ships.

mod cuda_kernels;
mod engine;
mod features;
mod models;
#[path = "../../../../tests/common/reference.rs"]
mod reference;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
