//! The whole program: decisions against real servers, streams that come and go, packs that are exchanged, bad input, secrets.
#![cfg(feature = "gst")]

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod end_to_end;
mod secrets;
mod streams;
mod update;
