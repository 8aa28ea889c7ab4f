//! Sources with real servers: receiving and decoding, HLS, faults, and sources in worker processes.
#![cfg(feature = "gst")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hls;
mod ingest;
mod isolation;
mod outputs;
