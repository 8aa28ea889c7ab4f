//! `touchline run`: watch streams.

mod server;
mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::Compute;

use crate::app::{Batching, Workers};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, ConfigFile, RtspTransport, StreamFile, StreamSettings};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::models::pack::Pack;
use crate::publish::hub::{Hub, HubInfo};
use crate::publish::jsonl::JsonlWriter;
use crate::publish::packs::PackDesk;
use crate::publish::terminal::Terminal;
use crate::shadow::Shadow;
use crate::update::{UpdateConfig, Updater};
use crate::vote::VoteConfig;
use server::{AccessArgs, Server, catch_signals};
use session::Session;

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Streams or files to watch: rtsp, rtsps, http(s) .m3u8, srt, rtmp, udp, testsrc URIs or paths. NAME=URI names one.
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
    #[arg(long, value_enum)]
    rtsp_transport: Option<RtspTransport>,
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
    let (args, streams, vote) = settle(args)?;
    let mut pack = Pack::open(&config::find_pack(args.pack.as_deref())?)?;
    let mut shadow_pack = args.shadow.as_deref().map(Pack::open).transpose()?;
    for pack in [Some(&mut pack), shadow_pack.as_mut()].into_iter().flatten() {
        args.compute.place(pack)?;
    }
    let packs = UpdateConfig::new(args.pack_root.as_deref(), &pack.dir, args.watch_pack)?;
    let jsonl = args.jsonl.as_deref().map(|path| JsonlWriter::append(Path::new(path))).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("the asynchronous runtime does not start: {e}")))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let info = HubInfo {
        classes: pack.classes.clone(),
        modalities: pack.fusion.order().to_vec(),
        pack: pack.stamp(),
        vote_window_s: vote.window,
    };
    let hub = Hub::new(info, metrics.clone(), clock.clone());
    let (desk, asks) = PackDesk::new();
    let server = Server::start(&runtime, args.listen.as_deref(), &hub, desk.clone(), &args.access)?;
    hub.set_starting("warming up the models");
    let (shadow, feed) = match shadow_pack {
        Some(other) => {
            let shown = packs.shown(&other.dir);
            let (shadow, feed) = Shadow::start(other, shown, &pack, &hub)?;
            (Some(shadow), Some(feed))
        }
        None => (None, None),
    };
    let batching = Batching {
        max: args.batch_max.map(usize::from),
        wait: args.batch_wait_ms.map(|ms| Duration::from_millis(ms.into())),
        adaptive: args.adaptive,
    };
    let workers = Workers::start_with_shadow(pack, batching, metrics, clock.clone(), feed)?;
    let updater = Updater::start(
        packs,
        workers.models().clone(),
        workers.swapper(),
        (desk.clone(), asks),
        hub.clone(),
        clock.clone(),
    )?;
    hub.set_ready(true);
    if let Some(address) = server.address {
        eprintln!("watching on {}://{address}  (metrics: /metrics, API: /api/v1/streams)", server.scheme);
    }
    let stop = catch_signals(&runtime, desk, server.reload.clone());
    let terminal = (!args.quiet)
        .then(|| Terminal::new(&workers.pack().classes, streams.len(), args.jsonl.as_deref() == Some("-")));
    let mut session =
        Session { args: &args, hub, workers, clock, jsonl, terminal, running: BTreeMap::new(), vote, stopped: false };
    let outcome = session.watch(streams, &stop);
    if outcome.is_ok() && !session.stopped && args.linger && server.address.is_some() {
        eprintln!("every stream has ended; the page stays until Ctrl-C");
        let _ = stop.recv();
    }
    drop(session);
    // What the inference thread fed and asked ends after it.
    drop(updater);
    drop(shadow);
    server.stop(runtime);
    outcome
}

/// Command line over configuration file.
fn settle(mut args: RunArgs) -> Result<(RunArgs, Vec<StreamSettings>, VoteConfig)> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let mut vote = file.vote;
    vote.window = args.vote_window.or(vote.window);
    vote.stride = args.vote_stride.or(vote.stride);
    let vote = vote.settings().map_err(Error::Usage)?;
    args.pack = args.pack.or(file.pack);
    args.listen = args.listen.or(file.listen);
    args.jsonl = args.jsonl.or(file.jsonl);
    args.shadow = args.shadow.or(file.shadow);
    args.pack_root = args.pack_root.or(file.pack_root);
    args.watch_pack |= file.watch_pack;
    args.adaptive |= file.adaptive;
    args.access.fill(file.access, file.tls, file.allow_pack_updates);
    let mut wanted = file.stream;
    wanted.extend(args.uris.iter().map(|given| {
        let (id, uri) = split_name(given);
        StreamFile { id: id.map(Into::into), uri: uri.to_owned(), ..StreamFile::default() }
    }));
    for stream in &mut wanted {
        crate::redact::remember(&stream.uri);
        stream.pipeline = args.pipeline.clone().or(stream.pipeline.take());
        stream.latency_ms = args.latency_ms.or(stream.latency_ms);
        stream.rtsp_transport = args.rtsp_transport.or(stream.rtsp_transport);
    }
    if wanted.is_empty() {
        let how = "give a URI or a path, as in `touchline run rtsp://camera.example/live`, or --config FILE";
        return Err(Error::Usage(format!("nothing to watch; {how}")));
    }
    Ok((args, config::streams(wanted)?, vote))
}

/// `NAME=URI` → both; a `=` behind a `/`, `:` or `?` belongs to the URI, and so does one in the name of a file.
fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, uri)) if !name.contains(['/', ':', '?']) && !Path::new(given).exists() => (Some(name), uri),
        _ => (None, given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_uris() {
        for (given, name, uri) in [
            ("court=rtsp://cam/live?a=b", Some("court"), "rtsp://cam/live?a=b"),
            ("rtsp://cam/live?a=b", None, "rtsp://cam/live?a=b"),
            ("srt://:9000?mode=listener", None, "srt://:9000?mode=listener"),
            ("testsrc://?seconds=3", None, "testsrc://?seconds=3"),
            ("a=b.mp4", Some("a"), "b.mp4"),
            ("dir/a=b.mp4", None, "dir/a=b.mp4"),
        ] {
            assert_eq!(split_name(given), (name, uri), "{given}");
        }
    }
}
