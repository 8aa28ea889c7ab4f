//! Options of sources.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchline_core::tier::DecodeTier;

/// The kind of an http(s) source whose address does not show it.
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
    /// In the program's process.
    None,
    /// In its own process: a fault in GStreamer or a decoder ends only that process.
    Process,
}

impl Isolation {
    /// The names of the values, in order.
    pub const NAMES: [&str; 2] = ["none", "process"];
}

/// Which variant of an HLS source is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariantChoice {
    /// The smallest with at least the picture height that the pack uses.
    #[default]
    Fit,
    /// The smallest.
    Lowest,
    /// The largest.
    Highest,
}

impl VariantChoice {
    /// The names in settings, in the order of the variants.
    pub const NAMES: [&str; 3] = ["fit", "lowest", "highest"];
}

/// Which coded pictures of a stream are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TierChoice {
    /// As lean, and less during an overload of a live stream.
    #[default]
    Auto,
    /// All.
    Full,
    /// All that others refer to, and those that the models see.
    Lean,
    /// As lean, without pictures for the flow model.
    Sparse,
    /// Key pictures only; seconds without one are gaps.
    Key,
}

impl TierChoice {
    /// The names in settings, in the order of the variants.
    pub const NAMES: [&str; 5] = ["auto", "full", "lean", "sparse", "key"];

    /// The tier that is set; [`None`] for the automatic one.
    pub const fn fixed(self) -> Option<DecodeTier> {
        match self {
            TierChoice::Auto => None,
            TierChoice::Full => Some(DecodeTier::Full),
            TierChoice::Lean => Some(DecodeTier::Lean),
            TierChoice::Sparse => Some(DecodeTier::Sparse),
            TierChoice::Key => Some(DecodeTier::Key),
        }
    }
}

/// Video decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecoderChoice {
    /// Live streams: a device if there is one, NVDEC before VA-API. Recordings: the processor.
    #[default]
    Auto,
    /// The processor.
    Software,
    /// A device through VA-API.
    Vaapi,
    /// A device of NVIDIA.
    Nvdec,
}

impl DecoderChoice {
    /// The names in settings, in the order of the variants.
    pub const NAMES: [&str; 4] = ["auto", "software", "vaapi", "nvdec"];
}

/// Options of an HLS source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HlsOptions {
    /// Which variant is played.
    pub variant: VariantChoice,
    /// Maximum picture height, lines. Taller variants are played only if no other works.
    pub max_height: Option<u32>,
    /// The language of the sound (RFC 5646, such as `de` or `pt-BR`) if no rendition is the default.
    pub audio_language: Option<String>,
}
