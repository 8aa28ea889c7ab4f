//! The raw form of all settings, the defaults, and the keys with their types.
//!
//! Command line, environment and file bring values of the same keys. A key is written `section.key`.

use std::path::PathBuf;
use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fleet::FleetFile;
use super::history::HistoryFile;
use super::overlay::OverlayFile;
use super::record::RecordFile;
use super::signal::SignalFile;
use super::sink::{self, RecordKind, SinkFile};
use super::teach::TeachFile;
use super::values::{
    BatchMax, BatchWaitMs, ExpectForS, LatencyMs, Listen, MaxHeight, MaxStreams, PrecisionChoice, RtspTransport, Shard,
    text,
};
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::gpu::placement::DeviceChoice;
use touchline_core::vote::VoteConfig;
use touchline_media::guard::SourcesFile;
use touchline_media::options::{DecoderChoice, Isolation, SourceKind, TierChoice, VariantChoice};

/// Where the server listens by default: on this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// Settings of `touchline run`. Flags override environment variables, variables override this file, the file overrides defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Touchline's configuration file")]
pub struct RawSettings {
    /// Directory of the model pack; by default weights/compact.
    pub pack: Option<PathBuf>,
    /// Second pack that scores the same seconds. Its decisions are only compared with the first pack's.
    pub shadow: Option<PathBuf>,
    /// The API may name packs below this directory; by default the parent of the pack's directory.
    pub pack_root: Option<PathBuf>,
    /// Reload the pack when its directory changes. SIGHUP reloads it immediately.
    pub watch_pack: Option<bool>,
    /// Allow every client to change the pack if no admin token is set.
    pub allow_pack_updates: Option<bool>,
    /// Address of the page, the API and the metrics, or "off".
    #[serde(with = "text")]
    #[schemars(with = "Option<String>")]
    pub listen: Option<Listen>,
    /// Append one JSON object per second and per event to this file; "-" is standard output.
    pub jsonl: Option<String>,
    /// Kinds of records in that file; by default all.
    #[schemars(length(min = 1))]
    pub jsonl_kinds: Option<Vec<RecordKind>>,
    /// SQLite file that keeps streams added over the API for the next start, and the history: segments, events and seconds.
    pub state: Option<PathBuf>,
    /// Maximum number of streams.
    pub max_streams: Option<MaxStreams>,
    /// Watch only part I of N of the configured streams, as "I/N" with I from 0.
    #[serde(with = "text")]
    #[schemars(with = "Option<String>")]
    pub shard: Option<Shard>,
    /// Play files at their own speed instead of as fast as the machine allows.
    pub realtime: Option<bool>,
    /// Keep trying to open a stream that cannot be opened at the start.
    pub retry: Option<bool>,
    /// Keep serving the page after the last stream has ended.
    pub linger: Option<bool>,
    /// Print no line per second on the terminal.
    pub quiet: Option<bool>,
    /// Number format of the networks.
    pub precision: Option<PrecisionChoice>,
    /// Device that computes: auto, cpu, cuda:0, or several GPUs as in cuda:0,1.
    #[serde(with = "text")]
    #[schemars(with = "Option<String>")]
    pub device: Option<DeviceChoice>,
    /// Seconds of different streams that go through a model at once; by default 4, on a GPU 64.
    pub batch_max: Option<BatchMax>,
    /// How long a second waits for others of its batch, milliseconds; by default 0, on a GPU 20.
    pub batch_wait_ms: Option<BatchWaitMs>,
    /// Use fewer pictures per second while the machine is too slow for all, before whole seconds are dropped.
    pub adaptive: Option<bool>,
    /// GStreamer pipeline template of all streams, in place of the built-in one.
    pub pipeline: Option<PathBuf>,
    /// Jitter buffer of RTSP sources of all streams, milliseconds.
    pub latency_ms: Option<LatencyMs>,
    /// Transport of RTP from RTSP servers, for all streams.
    pub rtsp_transport: Option<RtspTransport>,
    /// Whether each source runs in its own process, for all configured streams; by default `none`: all run in the program's
    /// process.
    pub isolation: Option<Isolation>,
    /// Which coded pictures are decoded, for all configured streams.
    pub tier: Option<TierChoice>,
    /// Video decoder, for all configured streams.
    pub decoder: Option<DecoderChoice>,
    /// Variant of HLS sources that is played, for all configured streams.
    pub variant: Option<VariantChoice>,
    /// Maximum height of HLS variants in lines, for all configured streams.
    pub max_height: Option<MaxHeight>,
    /// Language of the HLS audio rendition, such as de or pt-BR, if the playlist marks none as default; for all configured
    /// streams.
    pub audio_language: Option<String>,
    /// Classes that are expected on air, "unknown" and "no-programme", for all configured streams. Anything else is unexpected.
    pub expect: Option<Vec<String>>,
    /// Something unexpected counts after this time on air, seconds; for all configured streams.
    pub expect_for_s: Option<ExpectForS>,
    /// File (.ics or .csv) that says which classes are expected when, for all configured streams. It is read again on SIGHUP.
    pub schedule: Option<PathBuf>,
    /// The sliding vote, and when a class counts as on air.
    pub vote: VoteFile,
    /// When test bars, black, freeze and silence count.
    pub signal: SignalFile,
    /// Limits of the history in the store.
    pub history: HistoryFile,
    /// The ring of original media, and the clips of events that are cut from it.
    pub record: RecordFile,
    /// What people say that seconds show, and what a pack learns from it.
    pub teach: TeachFile,
    /// The label on the picture of outputs.
    pub overlay: OverlayFile,
    /// Machines that share streams over NATS.
    pub fleet: FleetFile,
    /// Access over HTTP: tokens, and permissions without a token.
    pub access: AccessFile,
    /// Serve over TLS.
    pub tls: RawTls,
    /// Restrictions on streams that are added over the API.
    pub sources: RawSources,
    /// Name of this process in records and deliveries. By default, records have no name and deliveries have the host name.
    pub instance: Option<String>,
    /// Time zone of the times on the page, such as Europe/London; by default the viewer's.
    #[schemars(regex(pattern = "^[A-Za-z0-9_+/-]{1,64}$"))]
    pub time_zone: Option<String>,
    /// The streams to watch.
    pub stream: Vec<StreamFile>,
    /// Receivers that records are delivered to.
    pub sink: Vec<SinkFile>,
}

/// `[access]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessFile {
    /// File with the bearer token of clients that may read and change.
    pub admin_token_file: Option<PathBuf>,
    /// File with the bearer token of clients that may only read.
    pub read_token_file: Option<PathBuf>,
    /// Allow every client to read without a token.
    pub allow_anonymous: Option<bool>,
}

/// `[tls]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTls {
    /// Certificate chain (PEM); read again on SIGHUP. Needs `key`.
    pub cert: Option<PathBuf>,
    /// Private key of the certificate (PEM). Needs `cert`.
    pub key: Option<PathBuf>,
}

/// `[sources]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawSources {
    /// Allowed schemes; by default all, but for files only below `folders`.
    pub schemes: Option<Vec<String>>,
    /// Allowed networks (CIDR) besides the public internet.
    pub allow_addresses: Option<Vec<String>>,
    /// Folders below which files may be read.
    pub folders: Option<Vec<PathBuf>>,
}

impl RawSources {
    pub(super) fn settings(self) -> SourcesFile {
        SourcesFile {
            schemes: self.schemes,
            allow_addresses: self.allow_addresses.unwrap_or_default(),
            folders: self.folders.unwrap_or_default(),
        }
    }
}

/// `[vote]`, and the key `vote` of a stream, which overrides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VoteFile {
    /// Seconds of the sliding vote.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub window: Option<u32>,
    /// Seconds between estimates; at most `window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = VoteConfig::WINDOW_MAX))]
    pub stride: Option<u32>,
    /// A class comes on air at this mean probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub onset: Option<f32>,
    /// A class goes off air below this mean probability; at most `onset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub offset: Option<f32>,
}

/// `[[stream]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamFile {
    /// Name in output, pages and metrics: 1 to 64 letters, digits, '-', '_' and '.'; by default made from the URI.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub id: Option<String>,
    /// URI or path of the source.
    #[schemars(length(min = 1))]
    pub uri: String,
    /// GStreamer pipeline template in place of the built-in one.
    pub pipeline: Option<PathBuf>,
    /// Jitter buffer of an RTSP source, milliseconds.
    pub latency_ms: Option<LatencyMs>,
    /// Transport of RTP from the RTSP server.
    pub rtsp_transport: Option<RtspTransport>,
    /// Kind of an http(s) source whose address does not show it.
    pub kind: Option<SourceKind>,
    /// Pictures to decode. full: all; lean: those that the models use and their references; sparse: as lean, without the flow
    /// model; key: key pictures only; auto: lean, and fewer during an overload.
    pub tier: Option<TierChoice>,
    /// Video decoder: software (CPU), or the devices vaapi and nvdec. auto uses a device for live streams if there is one. A
    /// device that fails is replaced by software.
    pub decoder: Option<DecoderChoice>,
    /// Variant of an HLS source that is played.
    pub variant: Option<VariantChoice>,
    /// Maximum height of HLS variants, lines.
    pub max_height: Option<MaxHeight>,
    /// Language of the HLS audio rendition, such as de or pt-BR, if the playlist marks none as default.
    pub audio_language: Option<String>,
    /// Whether the source runs in its own process.
    pub isolation: Option<Isolation>,
    /// Name for people: 1 to 120 characters.
    #[schemars(length(min = 1, max = 120))]
    pub label: Option<String>,
    /// The streams that a wall shows together: 1 to 64 characters without commas.
    #[schemars(length(min = 1, max = 64))]
    pub group: Option<String>,
    /// false keeps the stream paused: it is listed but not opened.
    pub enabled: Option<bool>,
    /// Keep trying when the first attempt fails.
    pub retry: Option<bool>,
    /// false excludes the stream from `[record]`.
    pub record: Option<bool>,
    /// Where its pictures are sent with the label: rtmp://…, srt://…, udp://HOST:PORT, hls:DIR, or the path of an .mp4, .mkv or .ts file.
    /// Needs `[record]`.
    #[schemars(length(min = 1))]
    pub output: Option<String>,
    /// Classes that are expected on air, "unknown" and "no-programme". Anything else is unexpected.
    pub expect: Option<Vec<String>>,
    /// Something unexpected counts after this time on air, seconds; by default 60.
    pub expect_for_s: Option<ExpectForS>,
    /// File (.ics or .csv) that says which classes are expected when; `expect` holds at other times.
    pub schedule: Option<PathBuf>,
    /// Overrides the vote of the run.
    #[serde(default)]
    pub vote: VoteFile,
}

impl VoteFile {
    /// The defaults with these values over them.
    ///
    /// # Errors
    /// Names the value that is out of bounds.
    pub fn settings(&self) -> Result<VoteConfig, String> {
        self.over(VoteConfig::default())
    }

    /// `base` with these values over them.
    ///
    /// # Errors
    /// Names the value that is out of bounds.
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

/// All defaults. A key that is absent here has a default that depends on the machine or on other keys.
pub fn defaults() -> RawSettings {
    let VoteConfig { window, stride, onset, offset, .. } = VoteConfig::default();
    RawSettings {
        watch_pack: Some(false),
        allow_pack_updates: Some(false),
        listen: Some(DEFAULT_LISTEN.parse().expect("the default is an address")),
        max_streams: Some(MaxStreams::of::<64>()),
        realtime: Some(false),
        retry: Some(false),
        linger: Some(false),
        quiet: Some(false),
        precision: Some(PrecisionChoice::Auto),
        device: Some(DeviceChoice::Auto),
        adaptive: Some(false),
        latency_ms: Some(DEFAULT_LATENCY),
        rtsp_transport: Some(RtspTransport::Auto),
        tier: Some(TierChoice::Auto),
        decoder: Some(DecoderChoice::Auto),
        variant: Some(VariantChoice::Fit),
        expect_for_s: Some(DEFAULT_EXPECT_FOR),
        vote: VoteFile { window: Some(window), stride: Some(stride), onset: Some(onset), offset: Some(offset) },
        signal: SignalConfig::default().into(),
        history: HistoryFile::default_values(),
        record: RecordFile::default_values(),
        teach: TeachFile::default_values(),
        overlay: OverlayFile::default_values(),
        fleet: FleetFile::default_values(),
        access: AccessFile { allow_anonymous: Some(false), ..AccessFile::default() },
        ..RawSettings::default()
    }
}

/// GStreamer's own 2000 would alone exceed the permitted latency of a decision.
pub(super) const DEFAULT_LATENCY: LatencyMs = LatencyMs::of::<200>();

/// As long as a break between two programmes that nobody needs to look at.
pub(super) const DEFAULT_EXPECT_FOR: ExpectForS = ExpectForS::of::<60>();

/// The JSON Schema of the file, with the defaults.
pub fn schema() -> Value {
    let mut schema = plain_schema::<RawSettings>();
    let defaults = serde_json::to_value(defaults()).expect("settings are plain values");
    set_defaults(&mut schema, &defaults);
    set_defaults(&mut schema["properties"][SINK]["items"], &sink::default_values());
    schema["$id"] = "urn:touchline:config".into();
    schema
}

/// The schema of `T` without references, null and defaults.
pub(super) fn plain_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    schema
}

/// TOML has no null: a key is there or not.
fn without_null(schema: &mut Value) {
    let is_null = |v: &Value| v == "null" || v["type"] == "null";
    if let Some(object) = schema.as_object_mut() {
        object.remove("default");
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|t| !is_null(t));
            if let [one] = types.as_slice() {
                let one = one.clone();
                object.insert("type".into(), one);
            }
        }
        if let Some(Value::Array(names)) = object.get_mut("enum") {
            names.retain(|name| !name.is_null());
        }
        if let Some(Value::Array(mut choices)) = object.remove("anyOf") {
            choices.retain(|choice| !is_null(choice));
            match (choices.pop(), choices.is_empty()) {
                (Some(Value::Object(only)), true) => only.into_iter().for_each(|(key, value)| {
                    object.entry(key).or_insert(value);
                }),
                (last, _) => {
                    choices.extend(last);
                    object.insert("anyOf".into(), Value::Array(choices));
                }
            }
        }
        object.values_mut().for_each(without_null);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(without_null);
    }
}

fn set_defaults(schema: &mut Value, defaults: &Value) {
    let Some(properties) = schema["properties"].as_object_mut() else { return };
    for (key, property) in properties {
        match &defaults[key] {
            Value::Null | Value::Array(_) => {}
            section @ Value::Object(_) => set_defaults(property, section),
            value => property["default"] = short(value),
        }
    }
}

/// 0.6 in place of the double nearest to the float nearest to 0.6.
pub(super) fn short(value: &Value) -> Value {
    match value.as_f64() {
        #[allow(clippy::cast_possible_truncation, reason = "settings are floats")]
        Some(number) if value.is_f64() => (number as f32).to_string().parse::<f64>().map_or(Value::Null, Value::from),
        _ => value.clone(),
    }
}

/// The form of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// An integer or a float.
    Number,
    /// A switch.
    Bool,
    /// A list of strings.
    List,
}

/// A key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `section.key`
    pub path: String,
    /// The form of its value.
    pub form: Form,
}

impl Key {
    /// The flag of `touchline run`: `vote.window` → `--vote-window`. The section is left out where keys are clear without.
    pub fn flag(&self) -> String {
        let name = match self.path.as_str() {
            "fleet.url" => "fleet",
            "fleet.node" | "fleet.capacity" | "fleet.labels" => &self.path["fleet.".len()..],
            path => path.strip_prefix("access.").unwrap_or(path),
        };
        format!("--{}", name.replace(['.', '_'], "-"))
    }

    /// The environment variable: `vote.window` → `TOUCHLINE_VOTE_WINDOW`.
    pub fn variable(&self) -> String {
        format!("TOUCHLINE_{}", self.flag().trim_start_matches('-').replace('-', "_").to_uppercase())
    }
}

/// The keys of a table of the file and of the sections in it.
#[derive(Debug)]
pub struct Keys {
    /// All keys, with those of the sections.
    pub keys: Vec<Key>,
    /// The sections.
    pub sections: Vec<String>,
}

impl Keys {
    pub(super) fn of(schema: &Value) -> Self {
        let mut keys = Self { keys: Vec::new(), sections: Vec::new() };
        keys.collect(schema, "");
        keys
    }

    fn collect(&mut self, schema: &Value, prefix: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{prefix}{name}");
            if path == STREAM || path == SINK {
                continue;
            }
            if property["properties"].is_object() {
                self.collect(property, &format!("{path}."));
                self.sections.push(path);
                continue;
            }
            let form = match property["type"].as_str() {
                Some("integer" | "number") => Form::Number,
                Some("boolean") => Form::Bool,
                Some("array") => Form::List,
                _ => Form::Text,
            };
            self.keys.push(Key { path, form });
        }
    }

    /// The key with the path `path`.
    pub fn find(&self, path: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.path == path)
    }
}

/// The key of the streams.
pub(super) const STREAM: &str = "stream";

/// The key of the sinks.
pub(super) const SINK: &str = "sink";

/// The keys of a run, without those of streams and sinks.
pub static RUN_KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::of(&schema()));

/// The keys of `[[stream]]`.
pub static STREAM_KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::of(&schema()["properties"][STREAM]["items"]));

/// The keys of `[[sink]]`.
pub static SINK_KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::of(&schema()["properties"][SINK]["items"]));
