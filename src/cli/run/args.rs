//! The flags of `touchline run`. Fields and nesting equal the keys and sections of the configuration file, so that the struct
//! serialises to a layer of settings.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::cli::Compute;
use crate::cli::fleet_args::FleetArgs;
use crate::cli::signal::SignalArgs;
use crate::cli::vote::VoteArgs;
use touchline_media::gst::output::{Encoder, LabelMode};
use touchline_media::options::{DecoderChoice, Isolation, TierChoice, VariantChoice};
use touchline_media::overlay::Position;
use touchline_serve::config::{
    BatchMax, BatchWaitMs, ClipKind, ExpectForS, LatencyMs, MaxHeight, MaxStreams, RecordKind, RtspTransport,
};

#[derive(Clone, Debug, Args, Serialize)]
#[command(
    after_long_help = "Settings come from flags, environment variables and the configuration file. Flags override \
variables, variables override the file, and the file overrides defaults. Every flag has a variable and a key of the file: \
--batch-max is TOUCHLINE_BATCH_MAX and batch_max; --vote-window is TOUCHLINE_VOTE_WINDOW and window in [vote]. \
`touchline config schema` describes the file, and `touchline config show` prints all settings with their sources. A switch \
that is on elsewhere is turned off with =false, as in --retry=false."
)]
pub struct RunArgs {
    /// Streams or files to watch: rtsp, rtsps, http(s) .m3u8, srt, rtmp, udp and testsrc URIs, or paths. NAME=URI gives a
    /// stream a name. Without any, streams can be added over the API.
    #[arg(value_name = "[NAME=]URI")]
    #[serde(skip)]
    pub(super) uris: Vec<String>,
    /// Configuration file (TOML). Flags and environment variables override it.
    #[arg(long, value_name = "FILE", env = "TOUCHLINE_CONFIG")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR")]
    pack: Option<PathBuf>,
    /// Second pack that scores the same seconds. Its decisions are only compared with the first pack's; see /api/v1/pack and the
    /// metrics.
    #[arg(long, value_name = "DIR")]
    shadow: Option<PathBuf>,
    /// Reload the pack when its directory changes. SIGHUP reloads it immediately.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    watch_pack: Option<bool>,
    /// Directory below which POST /api/v1/pack may name packs [default: the parent of the pack's directory].
    #[arg(long, value_name = "DIR")]
    pack_root: Option<PathBuf>,
    /// Address of the page, the API and the metrics, or "off" [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = checked::<touchline_serve::config::Listen>)]
    listen: Option<String>,
    /// Append one JSON object per second and per event to this file; "-" is standard output.
    #[arg(long, value_name = "FILE|-")]
    jsonl: Option<String>,
    /// Kinds of records in that file, separated by commas; by default all.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = named::<RecordKind>(&RecordKind::NAMES))]
    jsonl_kinds: Option<Vec<RecordKind>>,
    /// Name of this process in records and in deliveries of sinks.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Time zone of the times on the page, such as Europe/London [default: the viewer's time zone].
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// SQLite file that keeps streams added over the API for the next start, and the history: segments, events and seconds.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Maximum number of streams, 1 to 4096 [default: 64].
    #[arg(long, value_name = "N")]
    max_streams: Option<MaxStreams>,
    /// Watch only part I of N of the configured streams, with I from 0.
    #[arg(long, value_name = "I/N", value_parser = checked::<touchline_serve::config::Shard>)]
    shard: Option<String>,
    /// GStreamer pipeline template in place of the built-in one (see pipelines/).
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Play files at their own speed instead of as fast as the machine allows.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    realtime: Option<bool>,
    /// Keep trying to open a stream that cannot be opened at the start, instead of failing.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    retry: Option<bool>,
    /// Keep serving the page after the last stream has ended.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    linger: Option<bool>,
    /// Jitter buffer of RTSP sources, 0 to 60000 milliseconds [default: 200].
    #[arg(long, value_name = "MS")]
    latency_ms: Option<LatencyMs>,
    /// Transport of RTP from RTSP servers [default: auto].
    #[arg(long, value_parser = named::<RtspTransport>(&RtspTransport::NAMES))]
    rtsp_transport: Option<RtspTransport>,
    /// Receive and decode each stream of the configuration and the command line in a process of its own, or all of them in the
    /// program's process [default: none]. Streams added over the API choose for themselves; their default is process.
    #[arg(long, value_parser = named::<Isolation>(&Isolation::NAMES))]
    isolation: Option<Isolation>,
    /// Pictures to decode. full: all; lean: those that the models use and their references; sparse: as lean, without the flow
    /// model; key: key pictures only (seconds without one are gaps); auto: lean, and fewer during an overload with --adaptive
    /// [default: auto].
    #[arg(long, value_parser = named::<TierChoice>(&TierChoice::NAMES))]
    tier: Option<TierChoice>,
    /// Video decoder: software (CPU), or the devices vaapi and nvdec. auto uses a device for live streams if there is one
    /// (`touchline doctor` lists it). A device that fails is replaced by software [default: auto].
    #[arg(long, value_parser = named::<DecoderChoice>(&DecoderChoice::NAMES))]
    decoder: Option<DecoderChoice>,
    /// Variant of HLS sources to play: fit is the smallest with at least the lines that the pack uses [default: fit].
    #[arg(long, value_parser = named::<VariantChoice>(&VariantChoice::NAMES))]
    variant: Option<VariantChoice>,
    /// Maximum height of HLS variants, 1 to 8192 lines.
    #[arg(long, value_name = "LINES")]
    max_height: Option<MaxHeight>,
    /// Language of the HLS audio rendition, such as de or pt-BR, if the playlist marks none as default.
    #[arg(long, value_name = "LANGUAGE")]
    audio_language: Option<String>,
    /// Classes that are expected on air, separated by commas; also "unknown" and "no-programme". Anything else is unexpected.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    expect: Option<Vec<String>>,
    /// Something unexpected counts after this time on air, 1 to 86400 seconds [default: 60].
    #[arg(long, value_name = "SECONDS")]
    expect_for_s: Option<ExpectForS>,
    /// File that says which classes are expected when, an iCalendar (.ics) or start,end,expect (.csv). It is read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    #[command(flatten)]
    vote: VoteArgs,
    #[command(flatten)]
    signal: SignalArgs,
    /// Seconds of different streams that go through a model at once, 1 to 512 [default: 4, on a GPU 64].
    #[arg(long, value_name = "N")]
    batch_max: Option<BatchMax>,
    /// How long a second waits for others of its batch, 0 to 1000 milliseconds [default: 0, on a GPU 20].
    #[arg(long, value_name = "MS")]
    batch_wait_ms: Option<BatchWaitMs>,
    /// Use fewer pictures of every second while the machine is too slow for all, before whole seconds are dropped. Streams with
    /// --tier auto also decode fewer.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    adaptive: Option<bool>,
    #[command(flatten)]
    history: HistoryArgs,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    teach: TeachArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    tls: TlsArgs,
    /// Allow every client to change the pack if no admin token is set.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_pack_updates: Option<bool>,
    #[command(flatten)]
    sources: SourcesArgs,
    #[command(flatten)]
    #[serde(flatten)]
    compute: Compute,
    /// Print no line per second on the terminal.
    #[arg(
        short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    quiet: Option<bool>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "History")]
struct HistoryArgs {
    /// Remove segments, events, incidents and states from the file of --state after this many days, 1 to 36500 [default: 90].
    #[arg(long = "history-days", value_name = "DAYS")]
    days: Option<u32>,
    /// Remove seconds after this many days, 1 to 3650 [default: 7].
    #[arg(long = "history-seconds-days", value_name = "DAYS")]
    seconds_days: Option<u32>,
    /// Maximum size of the file of --state, 10 to 10000000 [default: 2000]. Beyond it, the oldest seconds are removed first, then
    /// the oldest other records.
    #[arg(long = "history-max-mb", value_name = "MB")]
    max_mb: Option<u32>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Event clips")]
struct RecordArgs {
    /// Folder for a ring of the original media of each stream and for the clips of events, which are cut from it without
    /// encoding. Without it nothing is recorded.
    #[arg(long = "record-dir", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Length of the ring of each stream, 30 to 86400 [default: 300].
    #[arg(long = "record-ring-s", value_name = "SECONDS")]
    ring_s: Option<u32>,
    /// Total size of the rings of all streams, 10 to 10000000 [default: 4000].
    #[arg(long = "record-ring-mb", value_name = "MB")]
    ring_mb: Option<u32>,
    /// Seconds of media before the event in each clip, 0 to 600 [default: 10].
    #[arg(long = "record-pre-roll-s", value_name = "SECONDS")]
    pre_roll_s: Option<u32>,
    /// Seconds of media after the event in each clip, 1 to 600 [default: 20].
    #[arg(long = "record-post-roll-s", value_name = "SECONDS")]
    post_roll_s: Option<u32>,
    /// Remove clips after this many days, 1 to 36500 [default: 30].
    #[arg(long = "record-keep-days", value_name = "DAYS")]
    keep_days: Option<u32>,
    /// Remove the oldest clips when all clips together exceed this size, 10 to 100000000 [default: 20000].
    #[arg(long = "record-keep-mb", value_name = "MB")]
    keep_mb: Option<u32>,
    /// Clips to cut, separated by commas: event (one per event), segment (the whole time that a class is on air) [default:
    /// event].
    #[arg(long = "record-clips", value_name = "LIST", value_delimiter = ',', value_parser = named::<ClipKind>(&ClipKind::NAMES))]
    clips: Option<Vec<ClipKind>>,
    /// Write the sound of each clip as a WAV file too.
    #[arg(long = "record-wav", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    wav: Option<bool>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Teaching")]
struct TeachArgs {
    /// Folder for corrections: what people say that seconds show, with the pictures and the sound of these seconds. Without it
    /// nothing can be corrected.
    #[arg(id = "teach_dir", long = "teach-dir", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Material of recent seconds that is held in memory for corrections, 16 to 100000 [default: 256].
    #[arg(long = "teach-memory-mb", value_name = "MB")]
    memory_mb: Option<u32>,
    /// Age of the oldest second that is held, 10 to 86400 [default: 600].
    #[arg(long = "teach-memory-s", value_name = "SECONDS")]
    memory_s: Option<u32>,
    /// Refuse corrections when the folder exceeds this size, 10 to 100000000 [default: 2000].
    #[arg(id = "teach_max_mb", long = "teach-max-mb", value_name = "MB")]
    max_mb: Option<u32>,
    /// Remove corrections after this many days, 1 to 36500 [default: they stay].
    #[arg(id = "teach_keep_days", long = "teach-keep-days", value_name = "DAYS")]
    keep_days: Option<u32>,
}

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Label on output pictures")]
struct OverlayArgs {
    /// How outputs have the label: draw (on the pictures, which are encoded again) or metadata (KLV in MPEG-TS, WebVTT in HLS; the
    /// pictures are not encoded again) [default: draw].
    #[arg(long = "overlay-mode", value_name = "MODE", value_parser = named::<LabelMode>(&LabelMode::NAMES))]
    mode: Option<LabelMode>,
    /// The label on the picture of the outputs that streams of the configuration file have: bug, label, bars, or the path of an SVG file
    /// [default: label].
    #[arg(long = "overlay-template", value_name = "NAME|FILE.svg")]
    template: Option<String>,
    /// Position of the label on the picture [default: from the template].
    #[arg(long = "overlay-position", value_name = "POSITION", value_parser = named::<Position>(&Position::NAMES))]
    position: Option<Position>,
    /// Height of the label in percent of the picture's shorter side, 1 to 100 [default: from the template].
    #[arg(long = "overlay-size", value_name = "PERCENT")]
    size: Option<u32>,
    /// Margin between the label and each edge of the picture in percent, 0 to 25 [default: from the template].
    #[arg(long = "overlay-safe-area", value_name = "PERCENT")]
    safe_area: Option<u32>,
    /// Font file in place of the system's sans-serif font.
    #[arg(long = "overlay-font", value_name = "FILE")]
    font: Option<PathBuf>,
    /// Video encoder: x264 (CPU) or va (GPU, through VA-API) [default: x264].
    #[arg(long = "overlay-encoder", value_name = "ENCODER", value_parser = named::<Encoder>(&Encoder::NAMES))]
    encoder: Option<Encoder>,
    /// Highest bit rate of the pictures in kbit/s, 100 to 100000 [default: 6000].
    #[arg(long = "overlay-bitrate-kbps", value_name = "KBPS")]
    bitrate_kbps: Option<u32>,
    /// Maximum time that a picture waits for the decision of its second, 0 to 60000 ms [default: 4000].
    #[arg(long = "overlay-delay-ms", value_name = "MS")]
    delay_ms: Option<u32>,
}

#[derive(Clone, Debug, Args, Serialize)]
struct AccessArgs {
    /// File with the bearer token of clients that may read and change [env: TOUCHLINE_ADMIN_TOKEN is the token itself].
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// File with the bearer token of clients that may only read [env: TOUCHLINE_READ_TOKEN is the token itself].
    #[arg(long, value_name = "FILE")]
    read_token_file: Option<PathBuf>,
    /// Allow every client to read without a token. Changes still need the admin token.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_anonymous: Option<bool>,
}

#[derive(Clone, Debug, Args, Serialize)]
struct TlsArgs {
    /// Serve over TLS with this certificate chain (PEM), which is read again on SIGHUP. Needs --tls-key.
    #[arg(long = "tls-cert", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Private key of the certificate (PEM). Needs --tls-cert.
    #[arg(long = "tls-key", value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Clone, Debug, Args, Serialize)]
struct SourcesArgs {
    /// Schemes that streams added over the API may have, separated by commas [default: all; file needs
    /// --sources-folders].
    #[arg(long = "sources-schemes", value_name = "LIST", value_delimiter = ',')]
    schemes: Option<Vec<String>>,
    /// Networks (CIDR) that streams added over the API may connect to besides the public internet.
    #[arg(long = "sources-allow-addresses", value_name = "LIST", value_delimiter = ',')]
    allow_addresses: Option<Vec<String>>,
    /// Folders below which streams added over the API may read files.
    #[arg(long = "sources-folders", value_name = "LIST", value_delimiter = ',')]
    folders: Option<Vec<PathBuf>>,
}

/// Parses one of `names`, as the configuration file does.
pub(in crate::cli) fn named<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let parse = |name: String| T::deserialize(name.into_deserializer()).map_err(|e: serde::de::value::Error| e);
    PossibleValuesParser::new(names).try_map(parse)
}

/// Text that is a `T`, as in the configuration file.
pub(in crate::cli) fn checked<T: std::str::FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}
