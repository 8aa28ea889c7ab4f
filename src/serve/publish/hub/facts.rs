//! What is known of a stream before it delivers anything: its name, source and settings.

use serde::Serialize;

use crate::config::RtspTransport;
use crate::publish::format::round6;
use touchline_core::item::Pace;
use touchline_core::vote::VoteConfig;
use touchline_media::options::{Isolation, SourceKind, VariantChoice};

/// A stream as it begins.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// 1 to 64 letters, digits, `-`, `_` and `.`: it stands in URLs, metric labels and records.
    pub id: String,
    /// Shown after redaction only.
    pub uri: String,
    pub pace: Pace,
}

/// How a stream is set up and by whom, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamFacts {
    /// What people call it.
    pub label: Option<String>,
    pub origin: Origin,
    /// False: an operator stopped it.
    pub enabled: bool,
    /// Version of the settings; another one after every change.
    pub generation: u64,
    /// Jitter buffer of RTSP sources, milliseconds.
    pub latency_ms: u32,
    pub rtsp_transport: RtspTransport,
    /// `hls`: said beforehand.
    pub kind: Option<SourceKind>,
    pub variant: VariantChoice,
    pub max_height: Option<u32>,
    pub audio_language: Option<String>,
    pub isolation: Isolation,
    /// A first attempt that fails is followed by others.
    pub retry: bool,
    pub vote: VoteFacts,
}

/// How the seconds of a stream are voted over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VoteFacts {
    pub window: u32,
    pub stride: u32,
    pub onset: f64,
    pub offset: f64,
}

impl From<VoteConfig> for VoteFacts {
    fn from(vote: VoteConfig) -> Self {
        let VoteConfig { window, stride, onset, offset, .. } = vote;
        Self { window, stride, onset: round6(onset), offset: round6(offset) }
    }
}

/// Who said that the stream is to be watched, and may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration file: it is changed there.
    Config,
    /// The command line: it stays as long as the program runs.
    CommandLine,
    /// The API.
    Api,
}
