//! The kernels against their CPU equivalents, at odd sizes and without a GPU: their sources are compiled for the processor.

mod features;
mod host;
mod layers;
mod numbers;
mod runner;
