//! Features: what the models see of a second. The CPU twin is the reference.

pub mod cpu;
pub mod params;
