//! Whole networks on the CPU as one candle op each, with all values in blocks of 16 channels, (C/16, H, W, 16).
//!
//! A [`Graph`] lists the operations of a network with packed weights; [`Fused`] runs it. A convolution adds bias and residual
//! and clamps in the same pass. Borders of zeros are stored with each value, so borders need no special case and no columns
//! are written. Memory is kept from call to call.

#[cfg(target_arch = "x86_64")]
mod compiled;
mod cost;
mod depthwise;
mod edges;
pub(super) mod format;
pub(super) mod graph;
mod hybrid;
mod kernel;
mod level;
mod observe;
mod op;
mod plan;
mod progress;
mod quantise;
mod run;
pub(super) mod simd;
#[cfg(target_arch = "x86_64")]
mod speed;
#[cfg(test)]
mod tests;
mod winograd;

pub use cost::LayerCost;
pub use graph::{Graph, Value};
pub use level::{Arithmetic, Level, Precision, VARIABLE};
pub use observe::Observed;
pub use op::Fused;
pub use quantise::Range;
