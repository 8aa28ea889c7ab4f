//! Whole networks on the CPU, layer after layer in one layout: blocks of 16 channels, (C/16, H, W, 16).
//!
//! A [`Graph`] lists a network's operations with their weights packed once; [`Fused`] runs it as one candle op. Every
//! convolution adds its bias and residual and clamps in the pass that computes it, borders of zeros lie in memory, no
//! columns are written, and memory is kept from call to call.

mod edges;
mod format;
mod graph;
mod kernel;
mod level;
mod observe;
mod op;
mod plan;
mod progress;
mod quantise;
mod run;
mod simd;
#[cfg(test)]
mod tests;
mod winograd;

pub use graph::{Graph, Value};
pub use level::{Arithmetic, Level, Precision, VARIABLE};
pub use observe::Observed;
pub use op::Fused;
pub use plan::LayerCost;
pub use quantise::Range;
