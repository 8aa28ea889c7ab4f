//! Sources: from a URI to frames and PCM.
//!
//! A [`Source`] sends [`MediaItem`]s into one bounded channel from threads of its own. Only `gst` and `plugins` depend on GStreamer;
//! `replay.rs`, a registered source (`registry.rs`) or a test can feed the channel as well.

#![deny(missing_docs)]

mod boxes;
pub mod convert;
pub mod facts;
#[cfg(feature = "gst")]
pub mod gst;
pub mod guard;
#[cfg(feature = "gst")]
pub mod hls;
pub mod jpeg;
pub mod options;
pub mod outlet;
#[cfg(feature = "gst")]
pub mod overlay;
#[cfg(feature = "gst")]
mod pcr;
#[cfg(feature = "gst")]
pub mod plugins;
pub mod probe;
pub mod registry;
pub mod replay;
pub mod source_clock;
mod stalls;
pub mod still;
pub mod supervise;
pub mod template;
pub mod threaded;
#[cfg(feature = "gst")]
mod timecode_track;
pub mod tone;
pub mod truncation;
pub mod uri;
#[cfg(test)]
#[path = "../../tests/common/wait.rs"]
mod wait;
pub mod wav;
#[cfg(feature = "gst")]
mod web;
#[cfg(feature = "gst")]
pub mod worker;

use crossbeam_channel::Sender;
use touchline_core::error::Result;
use touchline_core::item::{MediaItem, Pace};

/// A running source. Dropping it stops its threads and returns after they have ended.
pub trait Source: Send {
    /// Whether the source or downstream sets the pace.
    fn pace(&self) -> Pace;
    /// Asks the source to stop. Its last item is then `MediaItem::Ended(End::Finished)`.
    fn stop(&mut self);
}

/// Opens sources by URI. Implemented by GStreamer ingest, the replay source, and registered sources ([`registry`]).
pub trait Open: Send + Sync {
    /// Starts `uri` and sends its media to `to`.
    ///
    /// # Errors
    /// Failures before the source starts: unknown scheme, invalid template, missing plugin. Later failures, such as an unreachable
    /// host, are sent in-band as [`touchline_core::item::End::Failed`].
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}
