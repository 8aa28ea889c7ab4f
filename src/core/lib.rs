//! What every part of Touchline speaks of: time, labels, the items of a stream, seconds, decisions and votes.
//!
//! Nothing here does input or output beyond reading limits of the system: no GStreamer, no tensors, no asynchronous runtime.

#![warn(missing_docs)]

pub mod cause;
pub mod clip;
pub mod clock;
pub mod decision;
pub mod error;
pub mod frame;
pub mod fusion;
pub mod incident;
pub mod item;
pub mod labels;
pub mod limits;
pub mod observer;
pub mod pcm;
pub mod pool;
pub mod redact;
pub mod selection;
pub mod threads;
pub mod time;
pub mod userinfo;
pub mod vote;
