//! Evaluation of a pack on a dataset: figures at frame, second and video level.

pub mod result;
