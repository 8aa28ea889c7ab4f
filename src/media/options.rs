//! What a source on the web may be asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is at an address of the web, where its name does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// An HLS playlist.
    Hls,
}

/// Where a source is received and decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In the program's own process.
    None,
    /// In a process of its own: a fault in GStreamer or a decoder ends that process and nothing else.
    Process,
}

impl Isolation {
    /// In the order of the variants.
    pub const NAMES: [&str; 2] = ["none", "process"];
}

/// Which of the variants of an HLS source is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariantChoice {
    /// The smallest with at least the lines that the pack looks at.
    #[default]
    Fit,
    /// The smallest.
    Lowest,
    /// The largest.
    Highest,
}

impl VariantChoice {
    /// In the order of the variants.
    pub const NAMES: [&str; 3] = ["fit", "lowest", "highest"];
}

/// What an HLS source is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HlsOptions {
    pub variant: VariantChoice,
    /// Variants with more lines are left aside while there are others.
    pub max_height: Option<u32>,
    /// The language of the sound (RFC 5646, `de` or `pt-BR`) when none is the default.
    pub audio_language: Option<String>,
}
