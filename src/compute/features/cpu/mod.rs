//! The CPU twins: the reference every other backend is measured against.

pub mod axis;
pub mod farneback;
pub mod mel;
pub mod nv12;
pub mod resize;
pub(in crate::features) mod spectrum;
