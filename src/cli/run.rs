//! `touchline run`: watch streams.

mod access;
mod settle;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::{DeserializeOwned, IntoDeserializer};
use touchline_compute::models::pack::Pack;
use touchline_core::error::Result;
use touchline_media::options::Isolation;
use touchline_serve::config::{self, DEFAULT_LATENCY_MS, DEFAULT_MAX_STREAMS, RtspTransport, Shard};
use touchline_serve::run::{self, Reader, RunConfig};
use touchline_serve::workers::Batching;

use super::Compute;
use access::AccessArgs;
use settle::{Plan, settle};

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Streams or files to watch: rtsp, rtsps, http(s) .m3u8, srt, rtmp, udp, testsrc URIs or paths. NAME=URI names one.
    /// Without any, streams are added over the API.
    #[arg(value_name = "[NAME=]URI")]
    uris: Vec<String>,
    /// Configuration file (TOML); the command line goes over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<PathBuf>,
    /// A second pack that decides beside the first and is compared with it: see /api/v1/pack and the metrics.
    #[arg(long, value_name = "DIR")]
    shadow: Option<PathBuf>,
    /// Take the pack again whenever its directory has changed (SIGHUP does so at once).
    #[arg(long)]
    watch_pack: bool,
    /// Directory below which POST /api/v1/pack may name packs [default: the parent of the pack's directory].
    #[arg(long, value_name = "DIR")]
    pack_root: Option<PathBuf>,
    /// Address of the page, the API and the metrics, or "off" [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Append one JSON object per second and per event to a file; "-" is standard output.
    #[arg(long, value_name = "FILE|-")]
    jsonl: Option<String>,
    /// Keeps streams that were added over the API, and last events, in this file (SQLite) for the next start.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Streams at once [default: 64].
    #[arg(long, value_name = "N", value_parser = parse_max_streams)]
    max_streams: Option<usize>,
    /// Of the streams of the configuration and the command line watch only those that fall to part I of N, I from 0.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// GStreamer pipeline template in place of the built-in one (see pipelines/).
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Play files at their own speed instead of as fast as the machine allows.
    #[arg(long)]
    realtime: bool,
    /// Keep opening a stream that cannot be opened at the start, instead of failing.
    #[arg(long)]
    retry: bool,
    /// Keep serving the page after the last stream has ended.
    #[arg(long)]
    linger: bool,
    /// Jitter buffer of RTSP sources, milliseconds [default: 200].
    #[arg(long, value_name = "MS")]
    latency_ms: Option<u32>,
    /// How RTP comes from RTSP servers [default: auto].
    #[arg(long, value_parser = named::<RtspTransport>(&RtspTransport::NAMES))]
    rtsp_transport: Option<RtspTransport>,
    /// Receive and decode the streams of the configuration and the command line in the program's process, or each in one of
    /// its own [default: none]. Streams of the API say it themselves, and have one by default.
    #[arg(long, value_parser = named::<Isolation>(&Isolation::NAMES))]
    isolation: Option<Isolation>,
    /// Seconds of the sliding vote [default: 10].
    #[arg(long, value_name = "SECONDS")]
    vote_window: Option<u32>,
    /// Seconds between two votes [default: 1].
    #[arg(long, value_name = "SECONDS")]
    vote_stride: Option<u32>,
    /// Seconds of different streams that go through a model at once [default: 4, on a GPU 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    batch_max: Option<u16>,
    /// How long a second waits for others to go with it, milliseconds [default: 0, on a GPU 20].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u16).range(0..=1000))]
    batch_wait_ms: Option<u16>,
    /// Look at fewer pictures of every second while the machine is too slow for all, before seconds are dropped.
    #[arg(long)]
    adaptive: bool,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    compute: Compute,
    /// No line per second on the terminal.
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: RunArgs) -> Result<()> {
    touchline_core::limits::raise_open_files();
    let Plan { args, streams, sources, vote, fixed } = settle(args)?;
    let mut pack = Pack::open(&config::find_pack(args.pack.as_deref())?)?;
    let mut shadow = args.shadow.as_deref().map(Pack::open).transpose()?;
    for pack in [Some(&mut pack), shadow.as_mut()].into_iter().flatten() {
        args.compute.place(pack)?;
    }
    run::run(RunConfig {
        pack,
        shadow,
        pack_root: args.pack_root.clone(),
        watch_pack: args.watch_pack,
        streams,
        sources,
        vote,
        fixed,
        reader: args.config.clone().map(|path| reader(&args, &path)),
        listen: args.listen.clone(),
        access: args.access.settings(),
        jsonl: args.jsonl.clone(),
        state: args.state.clone(),
        max_streams: args.max_streams.unwrap_or(DEFAULT_MAX_STREAMS),
        latency_ms: args.latency_ms.unwrap_or(DEFAULT_LATENCY_MS),
        batching: Batching {
            max: args.batch_max.map(usize::from),
            wait: args.batch_wait_ms.map(|ms| Duration::from_millis(ms.into())),
            adaptive: args.adaptive,
        },
        realtime: args.realtime,
        retry: args.retry,
        linger: args.linger,
        quiet: args.quiet,
    })
}

/// The configuration file's name, and how it is read again.
fn reader(args: &RunArgs, path: &Path) -> (String, Reader) {
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let args = args.clone();
    (name, std::sync::Arc::new(move || settle::read_again(&args)))
}

/// Parses one of `names`, as the configuration file does.
fn named<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let parse = |name: String| T::deserialize(name.into_deserializer()).map_err(|e: serde::de::value::Error| e);
    PossibleValuesParser::new(names).try_map(parse)
}

fn parse_max_streams(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=4096).contains(&n) => Ok(n),
        _ => Err("choose 1 to 4096".to_owned()),
    }
}
