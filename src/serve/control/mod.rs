//! Requests to change packs and streams and to test addresses while the program runs, and the status of packs and of the configuration.
//!
//! The HTTP server and SIGHUP submit requests; [`crate::update`] and [`crate::run`] carry them out.

mod agreement;
pub(crate) mod config_status;
mod fleet;
pub mod pack_view;
pub mod packs;
pub mod probes;
pub mod streams;
