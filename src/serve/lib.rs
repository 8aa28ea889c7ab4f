//! The server: every thread and channel of the running program, the stream manager, the backlog, the store, the
//! metrics, the page and the API.

#![deny(missing_docs)]

pub mod backlog;
pub mod clips;
pub mod config;
pub mod deliver;
pub mod frame_share;
pub mod live;
pub mod metrics;
pub mod outputs;
pub mod publish;
pub mod recording;
pub mod relief;
pub mod run;
pub mod shadow;
pub mod store;
pub mod update;
pub mod workers;

#[cfg(test)]
#[path = "../../tests/common/skip.rs"]
mod skip;
#[cfg(test)]
#[path = "../../tests/common/wait.rs"]
mod wait;
