//! Networks on a GPU: kernels, ops and whole networks.
//!
//! `depthwise.cu` has the kernels of [`super::depthwise_conv2d`] and its gradients, in (N, C, H, W). `layers.cu` has the
//! layers of inference in (N, H, W, C), the layout of tensor cores. Without the feature `cuda` this module only has the
//! sources, which the tests compile for the CPU.

#[cfg(feature = "cuda")]
mod conv;
#[cfg_attr(not(feature = "cuda"), path = "no_depthwise.rs")]
pub(super) mod depthwise;
#[cfg(feature = "cuda")]
mod net;
#[cfg(feature = "cuda")]
pub(super) mod ops;

use crate::gpu::{KernelModule, PRELUDE};

#[cfg(feature = "cuda")]
pub(crate) use conv::abandon;
#[cfg(feature = "cuda")]
pub use conv::start as start_cudnn;
#[cfg(feature = "cuda")]
pub use net::{DeviceNet, DeviceValue};

/// The sources of the kernels in compilation order, after [`PRELUDE`].
pub const SOURCES: [&str; 2] = [include_str!("kernels/depthwise.cu"), include_str!("kernels/layers.cu")];

/// Every kernel of [`SOURCES`].
pub const KERNELS: [&str; 20] = [
    "depthwise_forward_f32",
    "depthwise_forward_f16",
    "depthwise_forward_bf16",
    "depthwise_backward_input",
    "depthwise_backward_weight",
    "layer_finish_f32",
    "layer_finish_f16",
    "layer_finish_bf16",
    "layer_scale_shift_f32",
    "layer_scale_shift_f16",
    "layer_scale_shift_bf16",
    "layer_depthwise_f32",
    "layer_depthwise_f16",
    "layer_depthwise_bf16",
    "layer_max_pool_f32",
    "layer_max_pool_f16",
    "layer_max_pool_bf16",
    "layer_average_f32",
    "layer_average_f16",
    "layer_average_bf16",
];

/// The kernels of the layers, to open a GPU with.
pub const MODULE: KernelModule = KernelModule { name: "layers", source, kernels: &KERNELS };

/// All kernels of the layers as one source.
pub fn source() -> String {
    format!("{PRELUDE}\n{}", SOURCES.concat())
}
