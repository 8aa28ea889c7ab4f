//! Touchline watches live sports broadcasts and says every second which sport is on.

pub mod app;
pub mod backlog;
#[cfg(feature = "gst")]
pub mod cli;
pub mod clip;
pub mod clock;
pub mod config;
pub mod decision;
pub mod error;
pub mod features;
pub mod fusion;
pub mod infer;
pub mod ingest;
pub mod labels;
pub mod learn;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod publish;
pub mod redact;
pub mod time;
pub mod vote;
