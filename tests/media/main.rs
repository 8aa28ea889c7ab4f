//! Sources against real servers: what is received and decoded, HLS, faults, and sources in processes of
//! their own.
#![cfg(feature = "gst")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hls;
mod ingest;
mod isolation;
