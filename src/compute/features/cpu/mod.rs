//! Features on the CPU: the reference that GPU features are compared with.

pub mod axis;
pub mod farneback;
pub mod mel;
pub mod nv12;
pub mod resize;
pub(in crate::features) mod spectrum;
