//! The whole program: decisions against real servers, added and removed streams, pack updates, bad input, secrets.
#![cfg(feature = "gst")]

mod archive;
mod bad_input;
mod client;
mod clips;
mod closed_output;
#[path = "../common/mod.rs"]
mod common;
mod demo;
mod doctor;
mod end_to_end;
mod examples;
mod export;
mod fleet;
mod history;
mod log;
mod outputs;
mod package;
mod render;
mod secrets;
mod signals;
mod sinks;
mod streams;
mod teach;
mod tiers;
mod update;
mod wav;
