//! Training on the CPU: the operations of a network, forward and backward, on batches stored as (N, H, W, C).
//!
//! A [`Tape`] runs operations and records them. Its values are the sums of convolutions. Batch norm and activation are not stored: they are
//! computed when the next operation reads the values, and their gradients when the previous one does. A convolution
//! also sums the statistics of its results, and the backward pass of a convolution the sums that the batch norm before it needs. So a layer
//! reads and writes memory about six times in a step, forward and backward, where layer after layer would do so about fifteen times.
//!
//! Sources: Ioffe and Szegedy, *Batch Normalization*, ICML 2015 (the backward pass is its section 3); Georganas et al., *Anatomy of
//! High-Performance Deep Learning Convolutions on SIMD Architectures*, 2018; Micikevicius et al., *Mixed Precision Training*, ICLR
//! 2018 (sums and parameters in `f32`).

mod backward;
mod conv;
mod depthwise;
mod elementwise;
mod engine;
mod kernel;
mod max_pool;
mod moves;
mod tape;
mod values;
mod weights;
mod window;

pub use engine::Engine;
pub use tape::{Batch, BatchStatistics, NormParameters, Tape};

#[cfg(test)]
mod tests;
