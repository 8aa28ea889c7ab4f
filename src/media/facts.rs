//! Facts about the media of a source: its tracks and formats, and the variants of an HLS source.
//!
//! Nothing is decided from them: they are shown to a person who tests an address.

use std::sync::Arc;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::uri::Kind;

/// The most variants that are listed. A playlist has about ten.
pub const VARIANTS_MAX: usize = 64;

/// The facts that are known so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaFacts {
    /// The kind of content at a web address, once its server has answered.
    pub kind: Option<Kind>,
    /// The first track of pictures.
    pub video: Option<VideoFacts>,
    /// The first track of sound.
    pub audio: Option<AudioFacts>,
    /// The variants of an HLS source, as its playlist states them; at most [`VARIANTS_MAX`].
    pub variants: Vec<VariantFacts>,
}

/// A track of pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VideoFacts {
    /// Name of the codec; null for pictures that are not coded.
    pub codec: Option<String>,
    /// Width of the coded pictures, pixels.
    pub width: Option<u32>,
    /// Height of the coded pictures, lines.
    pub height: Option<u32>,
    /// Pictures per second, as the stream states them or else as they came.
    pub frame_rate: Option<f64>,
    /// Whether pictures are interlaced; null if the stream does not state it.
    pub interlaced: Option<bool>,
}

/// A track of sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AudioFacts {
    /// Name of the codec; null for sound that is not coded.
    pub codec: Option<String>,
    /// Sample rate, Hz.
    pub rate: Option<u32>,
    /// Number of channels.
    pub channels: Option<u32>,
}

/// A variant of an HLS source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VariantFacts {
    /// Height of the pictures, lines.
    pub height: Option<u32>,
    /// Bits per second; 0 if the playlist does not state it.
    pub bandwidth: u64,
    /// Codecs (RFC 6381).
    pub codecs: Option<String>,
    /// Whether this one is played.
    pub chosen: bool,
}

/// The facts of one source, shared with its threads.
#[derive(Clone, Debug, Default)]
pub struct SharedFacts(Arc<Mutex<MediaFacts>>);

impl SharedFacts {
    /// A copy of the facts.
    pub fn get(&self) -> MediaFacts {
        self.0.lock().clone()
    }

    /// Changes the facts.
    pub fn update(&self, change: impl FnOnce(&mut MediaFacts)) {
        change(&mut self.0.lock());
    }

    /// A copy of the facts if they differ from `known`.
    pub fn newer_than(&self, known: &MediaFacts) -> Option<MediaFacts> {
        let facts = self.0.lock();
        (*facts != *known).then(|| facts.clone())
    }
}
