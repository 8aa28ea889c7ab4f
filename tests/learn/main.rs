//! Datasets, training, evaluation, packs and reports, through the program and the library.

#[path = "../common/mod.rs"]
mod common;
mod dataset;
mod encoder;
mod evaluate;
mod kubeflow;
mod pack_cli;
mod report;
mod teach;
mod train;
mod train_bad_input;
mod train_folds;
mod train_parity;
mod train_resume;
