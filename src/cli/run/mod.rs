//! `touchline run`: watch streams.

mod args;
mod resolve;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::paths::{refuse_inputs, refuse_inputs_of};
use touchline_compute::models::pack::Pack;
use touchline_core::error::Result;
use touchline_media::gst::output::OutputAddress;
use touchline_serve::config;
use touchline_serve::config::{BatchMax, BatchWaitMs, Settings, Shard};
use touchline_serve::hub::StreamOwner;
use touchline_serve::hub::notice::Notice;
use touchline_serve::run::{self, AccessSettings, Reader, RunConfig, TeachConfig};
use touchline_serve::sink::Sink;
use touchline_serve::workers::Batching;

pub use args::RunArgs;
pub(super) use args::{checked, named};
pub(super) use resolve::{setting_sources, split_name};

pub fn run(args: &RunArgs) -> Result<()> {
    run_with(args, None, Vec::new())
}

/// As [`run()`], with a sentence on the page and further outputs.
pub(super) fn run_with(args: &RunArgs, notice: Option<Notice>, sinks: Vec<Box<dyn Sink>>) -> Result<()> {
    touchline_core::limits::raise_open_files();
    let settings = resolve::resolve(args)?;
    let mut pack = Pack::open(&config::find_pack(settings.pack.as_deref())?)?;
    let mut shadow = settings.shadow.as_deref().map(Pack::open).transpose()?;
    for pack in [Some(&mut pack), shadow.as_mut()].into_iter().flatten() {
        super::place(pack, settings.precision, &settings.device)?;
    }
    let problems = settings.problems_with_classes(&pack.classes);
    if !problems.is_empty() {
        return Err(config::refused(&problems));
    }
    refuse_own_inputs(&settings)?;
    let fixed = settings.fixed();
    let Settings { shard, streams, named, access, .. } = settings;
    let with = |streams, origin: StreamOwner| resolve::of_shard(shard, streams).into_iter().map(move |s| (s, origin));
    let streams = with(streams, StreamOwner::Config).chain(with(named, StreamOwner::CommandLine)).collect();
    let config = RunConfig {
        pack,
        shadow,
        pack_root: settings.pack_root,
        watch_pack: settings.watch_pack,
        streams,
        sources: settings.sources,
        vote: settings.vote,
        signals: settings.signals,
        fixed,
        reader: args.config.as_deref().map(|path| reader(args, path, shard)),
        listen: settings.listen,
        access: AccessSettings {
            admin_token_file: access.admin_token_file,
            read_token_file: access.read_token_file,
            allow_anonymous: access.allow_anonymous.unwrap_or_default(),
            allow_pack_updates: settings.allow_pack_updates,
            tls: settings.tls,
        },
        record: settings.record,
        teach: settings.teach.map(|settings| TeachConfig { settings, learns: cfg!(feature = "train") }),
        overlay: settings.overlay,
        fleet: settings.fleet,
        jsonl: settings.jsonl,
        jsonl_kinds: settings.jsonl_kinds,
        instance: settings.instance,
        time_zone: settings.time_zone,
        notice,
        sinks: settings.sinks.into_iter().map(|sink| sink.settings).collect(),
        state: settings.state,
        history: settings.history,
        max_streams: settings.max_streams,
        latency_ms: settings.latency_ms,
        batching: Batching {
            max: settings.batch_max.map(BatchMax::get).map(|max| max as usize),
            wait: settings.batch_wait_ms.map(BatchWaitMs::get).map(|ms| Duration::from_millis(ms.into())),
            adaptive: settings.adaptive,
        },
        realtime: settings.realtime,
        retry: settings.retry,
        linger: settings.linger,
        quiet: settings.quiet,
    };
    run::run_with_sinks(config, sinks)
}

/// Refuses outputs that are files to watch.
fn refuse_own_inputs(settings: &Settings) -> Result<()> {
    let streams = || settings.streams.iter().chain(&settings.named);
    let uris = || streams().map(|stream| stream.settings.uri.as_str());
    settings.jsonl.iter().try_for_each(|jsonl| refuse_inputs("jsonl", Path::new(jsonl), uris()))?;
    streams().try_for_each(|stream| match stream.settings.output.as_deref().map(OutputAddress::parse) {
        Some(Ok(address)) => refuse_inputs_of("output", &address, uris()),
        _ => Ok(()),
    })
}

/// The configuration file's name, and how it is read again.
fn reader(args: &RunArgs, path: &Path, shard: Option<Shard>) -> (String, Reader) {
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let args = args.clone();
    (name, Arc::new(move || resolve::read_again(&args, shard)))
}
