//! Requests of the fleet to watch streams and to drop them.

use std::sync::Arc;

use crate::config::StreamSettings;
use crate::record::FleetTenure;

/// A request to the stream manager.
#[derive(Clone, Debug)]
pub enum FleetRequest {
    /// Watch a stream, or watch it with other settings.
    Watch {
        /// Its settings.
        settings: Box<StreamSettings>,
        /// Says whether its records are published.
        tenure: Arc<FleetTenure>,
    },
    /// Drop the stream with this id. Its history stays.
    Drop(String),
    /// The stream with this id was removed from the fleet: remove its history.
    Forget(String),
}
