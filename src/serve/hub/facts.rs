//! Facts about a stream before it delivers data: its name, source and settings.

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::RtspTransport;
use crate::record::format::round6;
use touchline_core::item::Pace;
use touchline_core::vote::VoteConfig;
use touchline_media::options::{DecoderChoice, Isolation, SourceKind, TierChoice, VariantChoice};

/// A new stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// 1 to 64 letters, digits, `-`, `_` and `.`: it is used in URLs, metric labels and records.
    pub id: String,
    /// Published only after redaction.
    pub uri: String,
    /// Live or file.
    pub pace: Pace,
}

/// The settings of a stream, as the API shows them.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Settings")]
pub struct StreamFacts {
    /// Display name.
    pub label: Option<String>,
    /// The streams that a wall shows together.
    pub group: Option<String>,
    /// Who owns the stream.
    pub origin: StreamOwner,
    /// False: an operator paused it.
    pub enabled: bool,
    /// Version of the settings; greater after every change.
    #[schemars(range(min = 1))]
    pub generation: u64,
    /// Jitter buffer of RTSP sources, milliseconds.
    pub latency_ms: u32,
    /// Transport of RTP from RTSP servers.
    pub rtsp_transport: RtspTransport,
    /// Kind of an http(s) source whose address does not show it.
    pub kind: Option<SourceKind>,
    /// Which coded pictures are decoded.
    pub tier: TierChoice,
    /// Video decoder.
    pub decoder: DecoderChoice,
    /// Variant of an HLS source.
    pub variant: VariantChoice,
    /// Maximum height of HLS variants, lines.
    pub max_height: Option<u32>,
    /// Language of HLS audio if no rendition is the default.
    pub audio_language: Option<String>,
    /// Process that receives and decodes the source.
    pub isolation: Isolation,
    /// Whether it retries if the first attempt fails.
    pub retry: bool,
    /// Whether its media are recorded, if the program records.
    pub record: bool,
    /// What is expected on air when no entry of the schedule holds: classes of the pack, unknown, no-programme.
    pub expect: Vec<String>,
    /// Seconds of something else on air after which it is unexpected.
    #[schemars(range(min = 1))]
    pub expect_for_s: u32,
    /// Name of the file of the schedule, without its folder.
    pub schedule: Option<String>,
    /// Vote settings of the stream.
    pub vote: VoteFacts,
}

/// The vote of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Vote")]
pub struct VoteFacts {
    /// Length of the vote window, seconds.
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub window: u32,
    /// Seconds between estimates; at most the window.
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub stride: u32,
    /// A class comes on air at this mean probability.
    #[schemars(range(min = 0, max = 1))]
    pub onset: f64,
    /// A class goes off air below this mean probability.
    #[schemars(range(min = 0, max = 1))]
    pub offset: f64,
}

impl From<VoteConfig> for VoteFacts {
    fn from(vote: VoteConfig) -> Self {
        let VoteConfig { window, stride, onset, offset, .. } = vote;
        Self { window, stride, onset: round6(onset), offset: round6(offset) }
    }
}

/// Owner of a stream. Only the owner may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamOwner {
    /// The configuration file.
    Config,
    /// The command line, until the program ends.
    CommandLine,
    /// The API.
    Api,
    /// The fleet, whose streams are in the bucket of its NATS server.
    Fleet,
}

impl StreamOwner {
    /// Whether the source policy applies, and the source has a process of its own by default: others than the operator of this process
    /// add the stream.
    pub const fn is_guarded(self) -> bool {
        matches!(self, Self::Api | Self::Fleet)
    }
}
