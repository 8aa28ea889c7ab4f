//! Requests to add, change and remove streams while the program runs, and the status of the configuration file.
//!
//! `run::manager` carries them out, `stream_routes` answers over HTTP.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

pub use super::config_status::{ConfigStatus, ReloadChanges};
pub use super::fleet::FleetRequest;
use crate::config::{
    ExpectForS, LatencyMs, MaxHeight, RtspTransport, StreamFile, StreamSettings, VoteFile, stream_group, stream_id,
    stream_label,
};
use touchline_core::markup::is_harmless;
use touchline_core::vote::VoteConfig;
use touchline_media::options::{DecoderChoice, Isolation, SourceKind, TierChoice, VariantChoice};

/// Capacity of the queue; a request takes microseconds to check.
const REQUESTS_MAX: usize = 16;

/// Longest URI, bytes.
const URI_MAX: usize = 2048;

/// A new stream: the keys of `[[stream]]` without `pipeline`, `output` and `schedule`. Files and receivers are the operator's.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(try_from = "StreamFile")]
pub struct NewStream {
    file: StreamFile,
}

impl TryFrom<StreamFile> for NewStream {
    type Error = &'static str;

    fn try_from(file: StreamFile) -> Result<Self, Self::Error> {
        match file {
            StreamFile { pipeline: Some(_), .. } => Err("unknown field `pipeline`"),
            StreamFile { output: Some(_), .. } => Err("unknown field `output`"),
            StreamFile { schedule: Some(_), .. } => Err("unknown field `schedule`"),
            file => Ok(Self { file }),
        }
    }
}

impl JsonSchema for NewStream {
    fn schema_name() -> Cow<'static, str> {
        "NewStream".into()
    }

    /// The schema of [`StreamFile`], with what the API limits and its defaults.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = StreamFile::json_schema(generator);
        schema.insert("description".into(), "A new stream.".into());
        if let Some(keys) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            keys.remove("pipeline");
            keys.remove("output");
            keys.remove("schedule");
            let uri =
                "URI with the scheme rtsp, rtsps, http, https, srt, rtmp, rtmps, udp or testsrc, with its secrets.";
            keys["uri"]["description"] = uri.into();
            keys["uri"]["maxLength"] = URI_MAX.into();
            keys["isolation"]["description"] =
                "Process that receives and decodes the source. By default one of its own, \
                                                so that a fault in a decoder affects no other stream."
                    .into();
            keys["isolation"]["default"] = "process".into();
            keys["enabled"]["default"] = true.into();
            keys["retry"]["default"] = true.into();
            keys["record"]["default"] = true.into();
            keys["expect"]["description"] =
                "Classes that are expected on air, \"unknown\" and \"no-programme\". Anything else is unexpected."
                    .into();
        }
        schema
    }
}

impl fmt::Debug for NewStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = touchline_core::redact::uri(&self.file.uri);
        f.debug_struct("NewStream").field("id", &self.file.id).field("uri", &uri).finish_non_exhaustive()
    }
}

/// Changes of a stream. Absent keys stay; `null` selects the default of the run.
#[derive(Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamPatch {
    /// URI of the source, as in a new stream.
    #[schemars(length(min = 1, max = URI_MAX))]
    pub uri: Option<String>,
    /// Display name.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(min = 1, max = 120))]
    pub label: Option<Option<String>>,
    /// The streams that a wall shows together.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(min = 1, max = 64))]
    pub group: Option<Option<String>>,
    /// Jitter buffer of RTSP sources, milliseconds.
    pub latency_ms: Option<LatencyMs>,
    /// Transport of RTP from RTSP servers.
    pub rtsp_transport: Option<RtspTransport>,
    /// Kind of an http(s) source whose address does not show it.
    #[serde(default, deserialize_with = "given")]
    pub kind: Option<Option<SourceKind>>,
    /// Which coded pictures are decoded.
    pub tier: Option<TierChoice>,
    /// Video decoder.
    pub decoder: Option<DecoderChoice>,
    /// Variant of an HLS source.
    pub variant: Option<VariantChoice>,
    /// Maximum height of HLS variants, lines.
    #[serde(default, deserialize_with = "given")]
    pub max_height: Option<Option<MaxHeight>>,
    /// Language of HLS audio if no rendition is the default.
    #[serde(default, deserialize_with = "given")]
    pub audio_language: Option<Option<String>>,
    /// Process that receives and decodes the source.
    #[serde(default, deserialize_with = "given")]
    pub isolation: Option<Option<Isolation>>,
    /// `false` pauses the stream. `true` also opens a stream again that has ended or failed.
    pub enabled: Option<bool>,
    /// Whether it retries if the first attempt fails.
    #[serde(default, deserialize_with = "given")]
    pub retry: Option<Option<bool>>,
    /// Whether its media are recorded, if the program records.
    pub record: Option<bool>,
    /// Classes that are expected on air, "unknown" and "no-programme". Anything else is unexpected.
    #[serde(default, deserialize_with = "given")]
    pub expect: Option<Option<Vec<String>>>,
    /// Something unexpected counts after this time on air, seconds.
    pub expect_for_s: Option<ExpectForS>,
    /// Overrides of the vote of the run.
    #[serde(default, deserialize_with = "given")]
    pub vote: Option<Option<VotePatch>>,
}

/// Changes of the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VotePatch {
    /// Length of the vote window, seconds.
    #[serde(default, deserialize_with = "given")]
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub window: Option<Option<u32>>,
    /// Seconds between estimates.
    #[serde(default, deserialize_with = "given")]
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub stride: Option<Option<u32>>,
    /// A class comes on air at this mean probability.
    #[serde(default, deserialize_with = "given")]
    #[schemars(range(min = 0, max = 1))]
    pub onset: Option<Option<f32>>,
    /// A class goes off air below this mean probability.
    #[serde(default, deserialize_with = "given")]
    #[schemars(range(min = 0, max = 1))]
    pub offset: Option<Option<f32>>,
}

/// Distinguishes `null` from an absent key.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl NewStream {
    /// The id, if the request has one.
    pub fn id(&self) -> Option<&str> {
        self.file.id.as_deref()
    }

    /// The URI, with its secrets.
    pub fn uri(&self) -> &str {
        &self.file.uri
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`StreamRefusalKind::Invalid`] with the invalid value.
    pub fn check(&self) -> Result<(), StreamRefusal> {
        if let Some(id) = &self.file.id {
            stream_id(id).map_err(|e| StreamRefusal::invalid(e, "choose another id, or omit it"))?;
        }
        check_uri(&self.file.uri)?;
        check_label(self.file.label.as_deref())?;
        check_group(self.file.group.as_deref())
    }

    /// The settings of the stream with the id `id`.
    pub fn settings(self, id: String, latency_ms: u32) -> StreamSettings {
        self.file.settings(id, latency_ms)
    }
}

impl StreamPatch {
    /// Checks the values.
    ///
    /// # Errors
    /// [`StreamRefusalKind::Invalid`] with the invalid value.
    pub fn check(&self) -> Result<(), StreamRefusal> {
        if let Some(uri) = &self.uri {
            check_uri(uri)?;
        }
        check_label(self.label.as_ref().and_then(Option::as_deref))?;
        check_group(self.group.as_ref().and_then(Option::as_deref))
    }

    /// `settings` with the changes applied.
    pub fn apply(&self, settings: &StreamSettings) -> StreamSettings {
        let mut new = settings.clone();
        if let Some(uri) = &self.uri {
            new.uri.clone_from(uri);
        }
        if let Some(label) = &self.label {
            new.label.clone_from(label);
        }
        if let Some(group) = &self.group {
            new.group.clone_from(group);
        }
        new.latency_ms = self.latency_ms.map_or(new.latency_ms, LatencyMs::get);
        new.rtsp_transport = self.rtsp_transport.unwrap_or(new.rtsp_transport);
        new.kind = self.kind.unwrap_or(new.kind);
        new.tier = self.tier.unwrap_or(new.tier);
        new.decoder = self.decoder.unwrap_or(new.decoder);
        new.hls.variant = self.variant.unwrap_or(new.hls.variant);
        if let Some(height) = self.max_height {
            new.hls.max_height = height.map(MaxHeight::get);
        }
        if let Some(language) = &self.audio_language {
            new.hls.audio_language.clone_from(language);
        }
        new.isolation = self.isolation.unwrap_or(new.isolation);
        new.enabled = self.enabled.unwrap_or(new.enabled);
        new.retry = self.retry.unwrap_or(new.retry);
        new.record = self.record.unwrap_or(new.record);
        if let Some(expect) = &self.expect {
            new.expect = expect.clone().unwrap_or_default();
        }
        new.expect_for_s = self.expect_for_s.map_or(new.expect_for_s, ExpectForS::get);
        match &self.vote {
            None => {}
            Some(None) => new.vote = VoteFile::default(),
            Some(Some(vote)) => {
                new.vote = VoteFile {
                    window: vote.window.unwrap_or(new.vote.window),
                    stride: vote.stride.unwrap_or(new.vote.stride),
                    onset: vote.onset.unwrap_or(new.vote.onset),
                    offset: vote.offset.unwrap_or(new.vote.offset),
                }
            }
        }
        new
    }
}

fn check_uri(uri: &str) -> Result<(), StreamRefusal> {
    if uri.is_empty() || uri.len() > URI_MAX || !uri.chars().all(is_harmless) {
        let error = format!("the uri is empty, longer than {URI_MAX} bytes, or has control or invisible characters");
        return Err(StreamRefusal::invalid(error, "give a URI as in rtsp://camera.example/live"));
    }
    Ok(())
}

fn check_label(label: Option<&str>) -> Result<(), StreamRefusal> {
    label.map_or(Ok(()), stream_label).map_err(|e| StreamRefusal::invalid(e, "choose another label, or omit it"))
}

fn check_group(group: Option<&str>) -> Result<(), StreamRefusal> {
    group.map_or(Ok(()), stream_group).map_err(|e| StreamRefusal::invalid(e, "choose another group, or omit it"))
}

/// Why a stream was not added, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamRefusalKind {
    /// There is no such stream.
    Unknown,
    /// The id exists.
    Duplicate,
    /// The stream limit is reached.
    Limit,
    /// It belongs to the configuration file or the command line.
    NotOwned,
    /// Another change of the stream is in progress, or too many requests wait.
    Busy,
    /// Its settings have changed since they were read.
    Outdated,
    /// A value is invalid.
    Invalid,
    /// The source cannot be opened.
    Source,
    /// The change cannot be stored.
    Store,
    /// The program is starting or shutting down.
    NotReady,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}; {advice}")]
pub struct StreamRefusal {
    /// The cause, for programs.
    pub kind: StreamRefusalKind,
    /// What is wrong.
    pub error: String,
    /// What to do.
    pub advice: String,
}

impl StreamRefusal {
    /// A refusal with its cause and advice, redacted.
    pub fn new(kind: StreamRefusalKind, error: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            kind,
            error: touchline_core::redact::text(&error.into()),
            advice: touchline_core::redact::text(&advice.into()),
        }
    }

    fn invalid(error: String, advice: &str) -> Self {
        Self::new(StreamRefusalKind::Invalid, error, advice)
    }
}

/// A requested change.
#[derive(Clone, Debug)]
pub enum StreamChange {
    /// Add a stream.
    Add(Box<NewStream>),
    /// Change the settings of a stream.
    Change {
        /// Its id.
        id: String,
        /// The changes.
        patch: Box<StreamPatch>,
        /// Only if the settings have this version.
        generation: Option<u64>,
    },
    /// Remove a stream.
    Remove {
        /// Its id.
        id: String,
        /// Only if the settings have this version.
        generation: Option<u64>,
    },
}

impl fmt::Debug for StreamPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.uri.as_deref().map(touchline_core::redact::uri);
        f.debug_struct("StreamPatch").field("uri", &uri).field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

/// The id of the stream, once the change is carried out and durable.
pub type StreamOutcome = Result<String, StreamRefusal>;

/// A request to the stream manager.
#[derive(Debug)]
pub struct StreamRequest {
    /// The change.
    pub change: StreamChange,
    /// Receives the outcome.
    pub answer: oneshot::Sender<StreamOutcome>,
}

/// Submits changes of streams. Cloning shares it.
#[derive(Clone, Debug)]
pub struct StreamControl {
    requests: Sender<StreamRequest>,
    /// Unbounded: the fleet has one request for each change of a lease, and must not wait.
    fleet: (Sender<FleetRequest>, Receiver<FleetRequest>),
    config: Arc<ConfigStatus>,
}

impl StreamControl {
    /// A control, and the receiver of its requests.
    pub fn new() -> (Self, Receiver<StreamRequest>) {
        let (requests, out) = bounded(REQUESTS_MAX);
        (Self { requests, fleet: unbounded(), config: Arc::default() }, out)
    }

    /// Submits a change. The channel returns its outcome.
    ///
    /// # Errors
    /// [`StreamRefusalKind::Busy`] if the queue is full, [`StreamRefusalKind::NotReady`] if the stream manager has
    /// ended.
    pub fn submit(&self, change: StreamChange) -> Result<oneshot::Receiver<StreamOutcome>, StreamRefusal> {
        let (answer, outcome) = oneshot::channel();
        match self.requests.try_send(StreamRequest { change, answer }) {
            Ok(()) => Ok(outcome),
            Err(e) if e.is_full() => {
                Err(StreamRefusal::new(StreamRefusalKind::Busy, "too many changes are waiting", "retry in a second"))
            }
            Err(_) => Err(Self::shutting_down()),
        }
    }

    /// Submits a request of the fleet.
    pub fn fleet(&self, request: FleetRequest) {
        // It holds the receiver itself.
        let _ = self.fleet.0.send(request);
    }

    /// The requests of the fleet.
    pub fn fleet_requests(&self) -> Receiver<FleetRequest> {
        self.fleet.1.clone()
    }

    /// The refusal at shutdown.
    pub fn shutting_down() -> StreamRefusal {
        StreamRefusal::new(StreamRefusalKind::NotReady, "the program is shutting down", "retry after it has restarted")
    }

    /// The status of the configuration file.
    pub fn config(&self) -> &ConfigStatus {
        &self.config
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
