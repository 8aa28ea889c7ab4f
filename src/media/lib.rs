//! From a URI to frames and PCM: what flows, who makes it, and how it can end.
//!
//! A [`Source`] pushes [`MediaItem`]s into one bounded channel from threads of its own. Only `gst` (and `plugins`) knows GStreamer;
//! everything behind the channel can be fed by `replay.rs`, by a source of your own (`registry.rs`) or by a test.

#[cfg(feature = "gst")]
pub mod gst;
pub mod guard;
#[cfg(feature = "gst")]
pub mod hls;
pub mod options;
pub mod outlet;
#[cfg(feature = "gst")]
mod pcr;
pub mod plausible;
#[cfg(feature = "gst")]
pub mod plugins;
pub mod registry;
pub mod replay;
pub mod still;
pub mod supervise;
pub mod template;
pub mod threaded;
pub mod tone;
pub mod uri;
mod watch;
#[cfg(feature = "gst")]
mod web;
pub mod wholeness;
#[cfg(feature = "gst")]
pub mod worker;

use crossbeam_channel::Sender;
use touchline_core::error::Result;
use touchline_core::item::{MediaItem, Pace};

/// A running source. Dropping it stops its threads and returns after they have ended.
pub trait Source: Send {
    fn pace(&self) -> Pace;
    /// Asks the source to stop. `MediaItem::Ended(End::Finished)` follows in-band.
    fn stop(&mut self);
}

/// Opens sources by URI. Implemented by GStreamer ingest, by the replay source, and by sources of your own ([`registry`]).
pub trait Open: Send + Sync {
    /// Starts `uri` and sends its media to `to`.
    ///
    /// # Errors
    /// Only for what is wrong before anything runs (unknown scheme, bad template, missing plugin). What goes wrong
    /// later, an unreachable host for one, arrives in-band as [`touchline_core::item::End::Failed`].
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}
