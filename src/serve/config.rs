//! What a run is made from: a TOML file, the command line over it, validated into settings that cannot be wrong.
//!
//! ```toml
//! pack = "weights/compact"
//! listen = "127.0.0.1:8080"
//! jsonl = "decisions.jsonl"
//! shadow = "weights/candidate"   # decides beside the pack and is compared with it
//! watch_pack = true              # take the pack again when its directory has changed
//! adaptive = true                # look at fewer pictures of every second while the machine is too slow for all
//! state = "touchline.db"         # keeps streams that were added at run time, and last events
//! max_streams = 64
//! shard = "0/2"                  # watch only the streams that fall to the first of two processes
//!
//! [vote]
//! window = 10      # seconds
//! stride = 1       # seconds between estimates
//! onset = 0.6      # a class comes on air at this mean probability
//! offset = 0.4     # and leaves below this
//!
//! [access]
//! admin_token_file = "admin.token"   # who shows it may read and change
//! read_token_file = "read.token"     # who shows it may read
//! allow_anonymous = false            # everyone may read
//!
//! [tls]
//! cert = "server.pem"
//! key = "server.key"
//!
//! [sources]                          # what streams given through the API may be
//! schemes = ["rtsp", "rtsps", "https"]
//! allow_addresses = ["10.20.0.0/16"] # beside the public ones
//! folders = ["/srv/recordings"]      # where file: may read
//!
//! [[stream]]
//! id = "court-1"
//! uri = "rtsp://camera.example/live"
//! latency_ms = 200
//! rtsp_transport = "tcp"
//! kind = "hls"             # read it as a playlist
//! variant = "fit"          # or lowest, highest
//! max_height = 720
//! audio_language = "de"
//! pipeline = "my-rtsp.gst"
//! isolation = "process"          # a process of its own for receiving and decoding; or none
//! label = "Centre court"
//! enabled = true                 # false: known, and not opened
//! retry = true                   # a first attempt that fails is followed by others
//! vote = { window = 5 }          # over [vote]
//! ```

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use touchline_compute::models::pack::{MANIFEST, parse_toml};
use touchline_core::error::{Error, Result};
use touchline_core::vote::VoteConfig;
use touchline_media::guard::SourcesFile;
use touchline_media::options::{HlsOptions, Isolation, SourceKind, VariantChoice};

/// Where the server listens when nothing else is said: this machine only.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// The pack that serves when nothing else is said.
pub const DEFAULT_PACK: &str = "weights/compact";

/// The file as it stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub pack: Option<PathBuf>,
    pub listen: Option<String>,
    pub jsonl: Option<String>,
    pub shadow: Option<PathBuf>,
    pub pack_root: Option<PathBuf>,
    #[serde(default)]
    pub watch_pack: bool,
    #[serde(default)]
    pub adaptive: bool,
    #[serde(default)]
    pub allow_pack_updates: bool,
    /// The store of streams added at run time and of last events.
    pub state: Option<PathBuf>,
    pub max_streams: Option<usize>,
    pub shard: Option<Shard>,
    #[serde(default)]
    pub access: AccessFile,
    pub tls: Option<TlsFile>,
    #[serde(default)]
    pub sources: SourcesFile,
    #[serde(default)]
    pub vote: VoteFile,
    #[serde(default)]
    pub stream: Vec<StreamFile>,
}

/// `[access]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessFile {
    pub admin_token_file: Option<PathBuf>,
    pub read_token_file: Option<PathBuf>,
    #[serde(default)]
    pub allow_anonymous: bool,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `[vote]`, and the key `vote` of a stream: what goes over the values of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onset: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f32>,
}

/// `[[stream]]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamFile {
    pub id: Option<String>,
    pub uri: String,
    pub pipeline: Option<PathBuf>,
    pub latency_ms: Option<u32>,
    pub rtsp_transport: Option<RtspTransport>,
    /// What is at an address of the web whose name does not say it.
    pub kind: Option<SourceKind>,
    /// Which variant of an HLS source is played.
    pub variant: Option<VariantChoice>,
    /// Greatest height of HLS variants, lines.
    pub max_height: Option<u32>,
    /// The language of HLS sound.
    pub audio_language: Option<String>,
    /// Where the source is received and decoded.
    pub isolation: Option<Isolation>,
    /// What people call it.
    pub label: Option<String>,
    /// False: known, and not opened.
    pub enabled: Option<bool>,
    /// A first attempt that fails is followed by others.
    pub retry: Option<bool>,
    #[serde(default)]
    pub vote: VoteFile,
}

/// How RTP comes from an RTSP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtspTransport {
    /// UDP, and TCP when no packet arrives.
    #[default]
    Auto,
    Tcp,
    Udp,
}

impl RtspTransport {
    /// In the order of the variants.
    pub const NAMES: [&str; 3] = ["auto", "tcp", "udp"];
}

/// One stream to watch.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamSettings {
    /// Name in output, pages and metrics: letters, digits, '-', '_' and '.', at most 64. Unique in a run.
    pub id: String,
    /// With its secrets: redact before showing.
    pub uri: String,
    pub pipeline: Option<PathBuf>,
    pub latency_ms: u32,
    pub rtsp_transport: RtspTransport,
    #[serde(default)]
    pub kind: Option<SourceKind>,
    #[serde(default)]
    pub hls: HlsOptions,
    /// `None`: as [`StreamSettings::isolation`] says.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// What people call it.
    pub label: Option<String>,
    /// False: known, and not opened.
    pub enabled: bool,
    /// A first attempt that fails is followed by others; `None`: as the run says.
    pub retry: Option<bool>,
    /// What goes over the vote of the run.
    pub vote: VoteFile,
}

impl StreamSettings {
    /// Where the source is received and decoded. Those that are given over the API have a process of their own unless
    /// they say otherwise: nobody has looked at them before.
    pub fn isolation(&self, is_from_api: bool) -> Isolation {
        self.isolation.unwrap_or(if is_from_api { Isolation::Process } else { Isolation::None })
    }

    /// Whether a source that runs with `other` must be opened anew to run with these.
    pub fn needs_reopening(&self, other: &Self) -> bool {
        self.uri != other.uri
            || self.pipeline != other.pipeline
            || self.latency_ms != other.latency_ms
            || self.rtsp_transport != other.rtsp_transport
            || (self.kind, &self.hls) != (other.kind, &other.hls)
            || self.isolation != other.isolation
            || self.retry != other.retry
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

/// Which part of the streams this process watches: those whose id falls to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// Whether stream `id` falls to this part: the first eight bytes of the SHA-256 of the id, as a big-endian number,
    /// modulo the number of parts, are the part's index. The same for every build, so that processes agree.
    pub fn takes(&self, id: &str) -> bool {
        let hash = Sha256::digest(id.as_bytes());
        let first = hash.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        first % u64::from(self.of) == u64::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err(format!("{text:?} is no part I/N, with I from 0 to N - 1; write 0/2 and 1/2 for two processes")),
        }
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Streams of a process at once, where nothing else is said.
pub const DEFAULT_MAX_STREAMS: usize = 64;

/// Jitter buffer of live network sources, milliseconds. GStreamer's 2000 would alone break the latency target.
pub const DEFAULT_LATENCY_MS: u32 = 200;

impl ConfigFile {
    /// # Errors
    /// [`Error::Usage`] naming the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::Usage(format!("{}: cannot read the configuration: {e}; check --config", path.display()))
        })?;
        Self::parse(&text).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
    }

    /// # Errors
    /// One line with the line number, the cause and what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_toml(text).map_err(|e| format!("{e}; correct it or remove it"))
    }
}

impl VoteFile {
    /// The defaults with this file's values over them.
    ///
    /// # Errors
    /// Names the value that cannot be.
    pub fn settings(&self) -> Result<VoteConfig, String> {
        self.over(VoteConfig::default())
    }

    /// `base` with this file's values over them.
    ///
    /// # Errors
    /// Names the value that cannot be.
    pub fn over(&self, base: VoteConfig) -> Result<VoteConfig, String> {
        let config = VoteConfig {
            window: self.window.unwrap_or(base.window),
            stride: self.stride.unwrap_or(base.stride),
            onset: self.onset.unwrap_or(base.onset),
            offset: self.offset.unwrap_or(base.offset),
            ..base
        };
        config.validate()?;
        Ok(config)
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
        let id = file.id.unwrap_or_else(|| {
            let id = free_id(&file.uri, |id| taken.contains(id));
            taken.insert(id.clone());
            id
        });
        if let Some(label) = &file.label {
            stream_label(label).map_err(|e| Error::Usage(format!("stream {id:?}: {e}")))?;
        }
        settings.push(StreamSettings {
            id,
            uri: file.uri,
            pipeline: file.pipeline,
            latency_ms: file.latency_ms.unwrap_or(DEFAULT_LATENCY_MS),
            rtsp_transport: file.rtsp_transport.unwrap_or_default(),
            kind: file.kind,
            hls: HlsOptions {
                variant: file.variant.unwrap_or_default(),
                max_height: file.max_height,
                audio_language: file.audio_language,
            },
            isolation: file.isolation,
            label: file.label,
            enabled: file.enabled.unwrap_or(true),
            retry: file.retry,
            vote: file.vote,
        });
    }
    Ok(settings)
}

/// Checks an id that somebody gave.
///
/// # Errors
/// Says what ids may be.
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

/// Checks what people want to call a stream.
///
/// # Errors
/// Says what labels may be.
pub fn stream_label(label: &str) -> Result<(), String> {
    let fits = (1..=120).contains(&label.chars().count()) && !label.chars().any(char::is_control);
    if fits { Ok(()) } else { Err("a label is 1 to 120 characters on one line".to_owned()) }
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

/// # Errors
/// [`Error::Usage`] that shows the form.
pub fn listen_address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        Error::Usage(format!(
            "--listen {text:?} is not ADDRESS:PORT; {DEFAULT_LISTEN} is the default, [::1]:8080 also works"
        ))
    })
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
                "the default pack is not here",
                "run from the project's directory or give --pack DIR",
            )
        })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
