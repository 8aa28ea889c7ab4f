//! The CPU twins: the reference every other backend is measured against.

pub mod axis;
pub mod farneback;
pub mod mel;
pub mod resize;
mod spectrum;
