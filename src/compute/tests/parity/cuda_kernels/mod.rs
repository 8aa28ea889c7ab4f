//! The kernels against their CPU twins, at odd sizes, without a GPU: their sources compiled for the processor.

mod features;
mod host;
mod layers;
mod numbers;
mod runner;
