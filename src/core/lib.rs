//! Types and pure logic that all crates share: time, labels, media items, seconds, decisions and votes.
//!
//! The only input and output is the log and the system's limits. There is no GStreamer, no tensor and no asynchronous runtime here.

#![deny(missing_docs)]

pub mod cause;
pub mod clip;
pub mod clock;
pub mod colours;
pub mod decision;
pub mod error;
pub mod expectation;
pub mod frame;
pub mod fusion;
pub mod incident;
pub mod item;
pub mod labels;
pub mod limits;
pub mod markup;
pub mod observer;
pub mod pcm;
pub mod pool;
pub mod redact;
pub mod segment;
pub mod selection;
pub mod signal;
pub mod threads;
pub mod tier;
pub mod time;
pub mod timecode;
pub mod userinfo;
pub mod vote;
