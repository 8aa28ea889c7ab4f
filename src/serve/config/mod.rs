//! The settings of a run: flags, environment and file, merged once and validated once into types with bounds.
//!
//! Settings have one raw form ([`RawSettings`]) with the same keys in every source, one place for defaults ([`defaults`]) and one
//! for bounds (the types in [`values`]). Flags override environment variables, variables override the file, the file overrides
//! defaults:
//!
//! ```text
//! defaults ── file ── environment ── flags ──► merged layer, each value with its place ──► Settings
//! ```
//!
//! Of a stream, flags and variables override the keys of `[[stream]]`, and those override the run's keys in the file. A new
//! setting is a field of [`RawSettings`] and a flag in `cli/run/args.rs`; file, environment, schema and `config show` follow.

mod file;
mod fleet;
mod history;
mod keys;
mod layers;
mod overlay;
mod raw;
mod record;
mod secret;
mod settings;
mod signal;
pub mod sink;
mod teach;
pub mod values;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::schedule::{Expectations, Schedule};
use touchline_compute::models::pack::MANIFEST;
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassSet;
use touchline_core::markup::is_harmless;
use touchline_media::options::{DecoderChoice, HlsOptions, Isolation, SourceKind, TierChoice};

pub use file::{ConfigFile, RawTable};
pub use fleet::{Capacity, FLEET_SINK, FleetFile, FleetSettings, labels, records_stream};
pub use history::{HistoryFile, HistorySettings};
pub use layers::{Entry, Layer, Problem, ValueOrigin, default_layer, environment, flags, misspelt};
pub use overlay::{OverlayFile, OverlaySettings};
pub use raw::{
    AccessFile, Form, Key, Keys, RUN_KEYS, RawSettings, SINK_KEYS, STREAM_KEYS, StreamFile, VoteFile, defaults, schema,
};
pub use record::{ClipKind, RecordFile, RecordSettings};
pub use secret::{ADMIN_TOKEN, READ_TOKEN, Secret, SecretSource, TOKEN_VARIABLES, read_pem};
pub use settings::{Fixed, SettingSources, Settings, Stream, TlsFile, refused, resolve};
pub use signal::SignalFile;
pub use sink::{RecordKind, SinkSettings};
pub use teach::{TeachFile, TeachSettings};
pub use touchline_media::guard::SourcesFile;
pub use values::{
    BatchMax, BatchWaitMs, ExpectForS, LatencyMs, Listen, MaxHeight, MaxStreams, PrecisionChoice, RtspTransport, Shard,
};

/// The pack that serves by default.
pub const DEFAULT_PACK: &str = "weights/compact";

/// One stream to watch.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamSettings {
    /// Name in output, pages and metrics: letters, digits, '-', '_' and '.', at most 64. Unique in a run.
    pub id: String,
    /// With its secrets: redact before showing.
    pub uri: String,
    /// A pipeline template in place of the built-in one.
    pub pipeline: Option<PathBuf>,
    /// Jitter buffer of an RTSP source, milliseconds.
    pub latency_ms: u32,
    /// Transport of an RTSP source.
    pub rtsp_transport: RtspTransport,
    /// The kind of an http(s) source whose address does not show it.
    #[serde(default)]
    pub kind: Option<SourceKind>,
    /// Which coded pictures are decoded.
    #[serde(default)]
    pub tier: TierChoice,
    /// Video decoder.
    #[serde(default)]
    pub decoder: DecoderChoice,
    /// Options of an HLS source.
    #[serde(default)]
    pub hls: HlsOptions,
    /// `None`: as [`StreamSettings::isolation`] says.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// Name for people.
    pub label: Option<String>,
    /// The streams that a wall shows together.
    #[serde(default)]
    pub group: Option<String>,
    /// False: known, and not opened.
    pub enabled: bool,
    /// Keep trying when the first attempt fails; `None`: as set for the run.
    pub retry: Option<bool>,
    /// Whether its media are recorded, if the program records.
    #[serde(default = "yes")]
    pub record: bool,
    /// Where its pictures are sent with the label, with its secrets: redact before showing.
    #[serde(default)]
    pub output: Option<String>,
    /// Overrides the vote of the run.
    pub vote: VoteFile,
    /// Names of what is expected on air when no entry of the schedule holds.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Seconds of something else on air after which it is unexpected.
    #[serde(default = "default_expect_for_s")]
    pub expect_for_s: u32,
    /// What is expected when. Only streams of the configuration have one.
    #[serde(skip)]
    pub schedule: Option<Schedule>,
}

impl StreamSettings {
    /// What is expected on the stream, with the classes of the pack.
    ///
    /// # Errors
    /// Names the class that does not exist, the nearest one, and the file and line of the schedule.
    pub fn expectations(&self, classes: &ClassSet) -> Result<Expectations, String> {
        Expectations::new(&self.expect, self.schedule.as_ref(), self.expect_for_s, classes)
    }

    /// Where the source is received and decoded. Sources added over the API have a process of their own by default, because
    /// they are unchecked.
    pub fn isolation(&self, is_from_api: bool) -> Isolation {
        self.isolation.unwrap_or(if is_from_api { Isolation::Process } else { Isolation::None })
    }

    /// Whether a source that runs with `other` must be opened again to run with these.
    pub fn needs_reopening(&self, other: &Self) -> bool {
        self.uri != other.uri
            || self.pipeline != other.pipeline
            || self.latency_ms != other.latency_ms
            || self.rtsp_transport != other.rtsp_transport
            || (self.kind, &self.hls) != (other.kind, &other.hls)
            || (self.isolation, self.tier, self.decoder) != (other.isolation, other.tier, other.decoder)
            || (self.retry, self.record) != (other.retry, other.record)
    }
}

impl fmt::Debug for StreamSettings {
    /// Without the secrets of the URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, uri, enabled, .. } = self;
        let uri = touchline_core::redact::uri(uri);
        f.debug_struct("StreamSettings")
            .field("id", id)
            .field("uri", &uri)
            .field("enabled", enabled)
            .finish_non_exhaustive()
    }
}

/// Checks the streams of a run and gives those without an id one.
///
/// # Errors
/// [`Error::Usage`] naming the id that is ill-formed or twice there.
pub fn streams(files: Vec<StreamFile>) -> Result<Vec<StreamSettings>> {
    streams_beside(files, HashSet::new())
}

/// As [`streams`], beside those whose ids are `taken`.
///
/// # Errors
/// As [`streams`].
pub fn streams_beside(files: Vec<StreamFile>, mut taken: HashSet<String>) -> Result<Vec<StreamSettings>> {
    for id in files.iter().filter_map(|f| f.id.as_deref()) {
        stream_id(id).map_err(Error::Usage)?;
        if !taken.insert(id.to_owned()) {
            return Err(Error::Usage(format!("stream id {id:?} is given twice; give every stream its own")));
        }
    }
    let mut settings = Vec::with_capacity(files.len());
    for file in files {
        let id = file.id.clone().unwrap_or_else(|| {
            let id = free_id(&file.uri, |id| taken.contains(id));
            taken.insert(id.clone());
            id
        });
        if let Some(label) = &file.label {
            stream_label(label).map_err(|e| Error::Usage(format!("stream {id:?}: {e}")))?;
        }
        if let Some(group) = &file.group {
            stream_group(group).map_err(|e| Error::Usage(format!("stream {id:?}: {e}")))?;
        }
        settings.push(file.settings(id, raw::DEFAULT_LATENCY.get()));
    }
    Ok(settings)
}

impl StreamFile {
    /// The settings of the stream, as `id`, with `latency_ms` where it has none. The schedule is not read.
    pub fn settings(self, id: String, latency_ms: u32) -> StreamSettings {
        StreamSettings {
            id,
            uri: self.uri,
            pipeline: self.pipeline,
            latency_ms: self.latency_ms.map_or(latency_ms, LatencyMs::get),
            rtsp_transport: self.rtsp_transport.unwrap_or_default(),
            kind: self.kind,
            tier: self.tier.unwrap_or_default(),
            decoder: self.decoder.unwrap_or_default(),
            hls: HlsOptions {
                variant: self.variant.unwrap_or_default(),
                max_height: self.max_height.map(MaxHeight::get),
                audio_language: self.audio_language,
            },
            isolation: self.isolation,
            label: self.label,
            group: self.group,
            enabled: self.enabled.unwrap_or(true),
            retry: self.retry,
            record: self.record.unwrap_or(true),
            output: self.output,
            vote: self.vote,
            expect: self.expect.unwrap_or_default(),
            expect_for_s: self.expect_for_s.map_or_else(default_expect_for_s, ExpectForS::get),
            schedule: None,
        }
    }
}

fn default_expect_for_s() -> u32 {
    raw::DEFAULT_EXPECT_FOR.get()
}

const fn yes() -> bool {
    true
}

/// Checks the form of a stream's id.
///
/// # Errors
/// Names the permitted form.
pub fn stream_id(id: &str) -> Result<(), String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // "." and ".." are path segments that clients resolve away.
    let fits = (1..=64).contains(&id.len()) && id.chars().all(well_formed) && !id.chars().all(|c| c == '.');
    if fits {
        Ok(())
    } else {
        Err(format!("stream id {id:?} is ill-formed; use 1 to 64 letters, digits, '-', '_' and '.'"))
    }
}

/// Checks the label of a stream.
///
/// # Errors
/// Names the permitted form.
pub fn stream_label(label: &str) -> Result<(), String> {
    let fits = (1..=120).contains(&label.chars().count()) && label.chars().all(is_harmless);
    if fits { Ok(()) } else { Err("a label is 1 to 120 characters on one line, none of them invisible".to_owned()) }
}

/// Checks the group of a stream.
///
/// # Errors
/// Names the permitted form.
pub fn stream_group(group: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&group.chars().count()) && group.chars().all(|c| is_harmless(c) && c != ',');
    let refused = || "a group is 1 to 64 characters on one line, none of them invisible, without commas".to_owned();
    if fits { Ok(()) } else { Err(refused()) }
}

/// Checks the form of a time zone's name. The browser knows the zones.
///
/// # Errors
/// Names the permitted form.
pub fn time_zone(name: &str) -> Result<(), String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '/');
    let fits = (1..=64).contains(&name.len()) && name.chars().all(well_formed);
    if fits {
        Ok(())
    } else {
        Err(format!("{name:?} is not the name of a time zone; write one such as Europe/London or UTC"))
    }
}

/// A readable id for a stream without one, which is not `taken`.
pub fn free_id(uri: &str, taken: impl Fn(&str) -> bool) -> String {
    let base = id_from_uri(uri);
    let mut id = base.clone();
    let mut n = 2;
    while taken(&id) {
        id = format!("{base}-{n}");
        n += 1;
    }
    id
}

/// A readable id: the file's name, or the host. Never the path of a network URI: an RTMP stream key is one.
fn id_from_uri(uri: &str) -> String {
    let redacted = touchline_core::redact::uri(uri);
    let name = match redacted.split_once("://") {
        None => file_stem(&redacted),
        Some(("file", path)) => file_stem(path),
        Some(("testsrc", _)) => "test".to_owned(),
        Some((_, rest)) => {
            let rest = rest.strip_prefix("***@").unwrap_or(rest);
            rest.split(['/', '?']).next().unwrap_or_default().to_owned()
        }
    };
    let slug: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .take(48)
        .collect();
    let slug = slug.trim_matches(['-', '.']).to_owned();
    if slug.is_empty() { "stream".to_owned() } else { slug }
}

fn file_stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// The directory of the pack to serve: as given, or the default beside the working directory or the program.
///
/// # Errors
/// [`Error::Pack`] when the default is nowhere.
pub fn find_pack(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    // A built checkout has the program in target/<profile>/, an installed one in bin/ beside share/touchline/.
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let candidates = [
        Some(PathBuf::new()),
        beside.as_ref().map(|d| d.join("../..")),
        beside.as_ref().map(|d| d.join("../share/touchline")),
    ];
    candidates
        .into_iter()
        .flatten()
        .map(|base| base.join(DEFAULT_PACK))
        .find(|path| path.join(MANIFEST).is_file())
        .ok_or_else(|| {
            Error::pack(
                DEFAULT_PACK,
                "the default pack was not found",
                "run from the project's directory or give --pack DIR",
            )
        })
}

#[cfg(test)]
mod tests;
