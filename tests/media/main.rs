//! Sources against real servers: what is received and decoded, HLS, faults, sources in processes of
//! their own, and what opening again leaves behind.
#![cfg(feature = "gst")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hls;
mod ingest;
mod isolation;
mod reconnects;
