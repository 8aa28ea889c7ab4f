//! Threads, channels and the ordered shutdown of a run.

mod crash_guard;
mod driver;
mod manager;
mod notify;
mod publisher;
mod server;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::models::pack::Pack;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;
use touchline_core::time::RunId;
use touchline_core::vote::VoteConfig;
use touchline_media::guard::{SourcePolicy, SourcesFile};
use touchline_media::uri::Pacing;

use crate::config::{Fixed, LatencyMs, Listen, MaxStreams, StreamSettings};
use crate::metrics::Metrics;
use crate::publish::access::SessionArchive;
use crate::publish::hub::{Hub, HubInfo, Origin, Restored};
use crate::publish::jsonl::JsonlWriter;
use crate::publish::packs::PackControl;
use crate::publish::sink::{JsonLines, Sink};
use crate::publish::streams::StreamControl;
use crate::publish::terminal::Terminal;
use crate::shadow::Shadow;
use crate::store::{Contents, Store, StoreThread, Stored};
use crate::update::{UpdateConfig, Updater};
use crate::workers::{Batching, Workers};
use driver::GstDriver;
use manager::{Ended, InitialStream, Rules, StreamManager, Tools};
use notify::ServiceManager;
use publisher::Publisher;
use server::{Controls, Server, catch_signals};
use shutdown::ShutdownTimer;

pub use manager::{Reader, Reading};
pub use server::AccessSettings;

/// The settings of a run: command line and configuration file, merged and validated.
pub struct RunConfig {
    /// The pack that decides.
    pub pack: Pack,
    /// A second pack that scores the same seconds and is only compared with `pack`.
    pub shadow: Option<Pack>,
    /// The directory whose packs the API may load.
    pub pack_root: Option<PathBuf>,
    /// Reload the pack when its directory changes.
    pub watch_pack: bool,
    /// The streams of the configuration file, then those of the command line.
    pub streams: Vec<(StreamSettings, Origin)>,
    /// Which sources the API may open.
    pub sources: SourcesFile,
    /// The vote of streams without a vote of their own.
    pub vote: VoteConfig,
    /// Keys of the configuration file that take effect only at the start.
    pub fixed: Fixed,
    /// Name of the configuration file, and the function that reads it again.
    pub reader: Option<(String, Reader)>,
    /// Address of the server.
    pub listen: Listen,
    /// Tokens and TLS of the HTTP server.
    pub access: AccessSettings,
    /// File for the records, or "-" for standard output.
    pub jsonl: Option<String>,
    /// SQLite file of the store.
    pub state: Option<PathBuf>,
    /// Limit of streams at once.
    pub max_streams: MaxStreams,
    /// Jitter buffer of RTSP sources that have none of their own.
    pub latency_ms: LatencyMs,
    /// When test bars, black, freeze and silence count.
    pub signals: SignalConfig,
    /// How seconds of different streams are batched.
    pub batching: Batching,
    /// Play files at their own speed.
    pub realtime: bool,
    /// Retry a stream that cannot be opened at the start.
    pub retry: bool,
    /// Keep the server running after the last stream has ended.
    pub linger: bool,
    /// Print no line per second on the terminal.
    pub quiet: bool,
}

/// Watches streams until they end or a signal stops the process.
///
/// # Errors
/// An address or a file that cannot be used, or a thread that failed.
pub fn run(config: RunConfig) -> Result<()> {
    run_with_sinks(config, Vec::new())
}

/// As [`run`], with further outputs. Each gets a thread and a queue of its own.
///
/// # Errors
/// As [`run`].
pub fn run_with_sinks(config: RunConfig, sinks: Vec<Box<dyn Sink>>) -> Result<()> {
    let RunConfig { pack, shadow: shadow_pack, streams, sources, vote, fixed, .. } = config;
    let packs = UpdateConfig::new(config.pack_root.as_deref(), &pack.dir, config.watch_pack)?;
    let jsonl = config.jsonl.as_deref().map(|path| JsonlWriter::append(Path::new(path))).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime: {e}")))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let (store, store_thread, mut contents) = open_store(config.state.as_deref(), &metrics)?;
    let info = HubInfo {
        classes: pack.classes.clone(),
        modalities: pack.fusion.order().to_vec(),
        pack: pack.stamp(),
        vote_window_s: vote.window,
    };
    let hub = Hub::new(info, metrics.clone(), clock.clone());
    let service_manager = ServiceManager::from_environment();
    let (control, requests) = PackControl::new();
    let (stream_control, stream_requests) = StreamControl::new();
    let policy = Arc::new(SourcePolicy::new(&sources)?);
    let controls = Controls { packs: control.clone(), streams: stream_control.clone(), policy: policy.clone() };
    let log_outs = std::mem::take(&mut contents.log_outs);
    let sessions = store.clone().map(|store| (Arc::new(store) as Arc<dyn SessionArchive>, log_outs));
    let server = Server::start(&runtime, config.listen, &hub, controls, &config.access, sessions)?;
    hub.set_starting("warming up the models");
    service_manager.status("warming up the models");
    let (shadow, feed) = match shadow_pack {
        Some(other) => {
            let shown = packs.shown(&other.dir);
            let (shadow, feed) = Shadow::start(other, shown, &pack, &hub)?;
            (Some(shadow), Some(feed))
        }
        None => (None, None),
    };
    let workers = Workers::start_with_shadow(pack, config.batching, metrics, clock.clone(), feed)?;
    let workers = workers.with_signals(config.signals);
    let updater = Updater::start(
        packs,
        workers.models().clone(),
        workers.swapper(),
        (control.clone(), requests),
        hub.clone(),
        clock.clone(),
    )?;
    if let Some(store) = &store {
        hub.set_archive(Arc::new(store.clone()));
    }
    if let Some(address) = server.address {
        eprintln!("watching on {}://{address}  (metrics: /metrics, API: /api/v1/streams)", server.scheme);
    }
    let StartState { initial, runs, held, suspects } = starting(streams, contents, store.as_ref());
    let is_service = server.address.is_some() && (config.state.is_some() || initial.is_empty());
    let terminal = (!config.quiet).then(|| {
        let streams = if is_service { usize::MAX } else { initial.len() };
        Terminal::new(&workers.pack().classes, streams, config.jsonl.as_deref() == Some("-"))
    });
    let (reports_to, reports) = unbounded();
    let (news_to, news) = unbounded();
    // Keeps the channel open while no supervisor exists: only `Command::Finish` ends the publisher.
    let _news_stay_open = news_to.clone();
    let (commands_to, commands) = unbounded();
    let mut publisher = Publisher::new(hub.clone(), clock.clone(), workers.pack().classes.len(), reports_to);
    if let Some(jsonl) = jsonl {
        publisher.sinks().add(JsonLines::new(jsonl, clock.clone()))?;
    }
    if let Some(terminal) = terminal {
        publisher.sinks().add(terminal)?;
    }
    for sink in sinks {
        publisher.sinks().add_boxed(sink)?;
    }
    let driver = GstDriver {
        intake: workers.intake().clone(),
        clock: clock.clone(),
        policy,
        commands: commands_to.clone(),
        news: news_to,
        pacing: if config.realtime { Pacing::Realtime } else { Pacing::Auto },
    };
    let read = config.reader.map(|(name, read)| {
        stream_control.config().set_file(name);
        read
    });
    let rules = Rules {
        max_streams: config.max_streams.get() as usize,
        retry: config.retry,
        latency_ms: config.latency_ms.get(),
        is_service,
        lingers: config.linger && server.address.is_some(),
    };
    let tools = Tools {
        driver: Arc::new(driver),
        hub: hub.clone(),
        clock: clock.clone(),
        commands: commands_to.clone(),
        store: store.clone(),
        control: stream_control,
        read,
        service_manager: service_manager.clone(),
    };
    let tools_commands = tools.commands.clone();
    let mut manager = StreamManager::new(tools, rules, vote, fixed);
    manager.know_runs(runs);
    manager.know_held(held, suspects);
    manager.add_initial(initial)?;
    hub.set_ready(true);
    service_manager.ready();
    let shutdown = ShutdownTimer::new(clock.clone());
    let (reload_to, reload) = bounded(1);
    let server_reload = server.reload.clone();
    let reopen_outputs = publisher.sinks().reopener();
    let on_hang_up = move || {
        reopen_outputs();
        server_reload.reload();
        control.reload();
        // If the channel is full, a reload is pending already.
        let _ = reload_to.try_send(());
    };
    let on_stop = {
        let (service_manager, shutdown, hub) = (service_manager.clone(), shutdown.clone(), hub.clone());
        move || {
            hub.set_starting("the program is shutting down");
            service_manager.stopping();
            shutdown.begin();
        }
    };
    let stop = catch_signals(&runtime, on_hang_up, on_stop);
    let beats = vec![("publishing", publisher.beat().clone()), ("inference", workers.beat().clone())];
    let intake = workers.intake().clone();
    let watchdog = service_manager.watch(hub.clone(), beats, move || {
        intake.nudge();
        let _ = commands_to.send(publisher::Command::Wake);
    })?;
    let inbox = manager::ManagerInbox { requests: stream_requests, reports, reload, stop };
    let (ended_to, ended) = bounded(1);
    let finish_on_drop = FinishOnDrop(tools_commands);
    spawn("stream-manager", move || {
        let _last_word = finish_on_drop;
        // The receiver is gone only if publishing failed.
        let _ = ended_to.send(manager.run(&inbox));
    })?;
    let published = publisher.publish(&publisher::PublisherInbox { decided: workers.decided.clone(), news, commands });
    shutdown.begin();
    drop(publisher);
    // The manager ends right after it has sent `Command::Finish`. If publishing failed, nothing waits for it.
    let Ended { stopped, result } = match &published {
        Ok(()) => ended.recv().map_err(|_| Error::Internal("the stream manager ended".into()))?,
        Err(_) => Ended { stopped: false, result: Ok(()) },
    };
    tracing::debug!(stopped, "all streams have ended");
    shutdown.at("writing the store");
    hub.end_archive();
    let stored = store.as_ref().is_none_or(|store| store.flush(STORE_TIMEOUT));
    if stored && published.is_ok() {
        shutdown.written();
    }
    drop(store);
    shutdown.at("stopping the server");
    server.stop(runtime);
    shutdown.at("stopping the watchdog thread");
    drop(watchdog);
    shutdown.at("stopping the clip and inference threads");
    drop(workers);
    // These two serve the inference thread, so they stop after it.
    shutdown.at("stopping the pack thread");
    drop(updater);
    shutdown.at("stopping the shadow thread");
    drop(shadow);
    shutdown.at("closing the store");
    drop(store_thread);
    shutdown.done();
    published.and(result)
}

/// Ends the publisher when the stream manager ends, even by a panic.
struct FinishOnDrop(Sender<publisher::Command>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        // Fails if publishing has ended already.
        let _ = self.0.send(publisher::Command::Finish);
    }
}

/// How long the store may take to write pending records at shutdown.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

type OpenStore = (Option<Store>, Option<StoreThread>, Contents);

fn open_store(path: Option<&Path>, metrics: &Metrics) -> Result<OpenStore> {
    let Some(path) = path else { return Ok((None, None, Contents::default())) };
    let (store, thread, contents) = Store::open(path, metrics.clone())?;
    Ok((Some(store), Some(thread), contents))
}

/// The streams at the start.
struct StartState {
    initial: Vec<InitialStream>,
    /// Last runs of stored streams that are not among `initial`.
    runs: BTreeMap<String, RunId>,
    /// Streams that start paused because opening them ended the process.
    held: BTreeSet<String>,
    /// Streams that were being opened when the process ended.
    suspects: BTreeSet<String>,
}

/// The streams of the configuration file and the command line, then those of the store.
fn starting(streams: Vec<(StreamSettings, Origin)>, contents: Contents, store: Option<&Store>) -> StartState {
    let Contents { streams: stored, mut restored, ends, log_outs: _ } = contents;
    let mut held = BTreeSet::new();
    let mut initial: Vec<InitialStream> = Vec::with_capacity(streams.len() + stored.len());
    for (settings, origin) in streams {
        let restored = restored.remove(&settings.id).unwrap_or_default();
        initial.push(InitialStream { settings, origin, generation: None, restored });
    }
    for Stored { mut settings, generation } in stored {
        if initial.iter().any(|s| s.settings.id == settings.id) {
            tracing::warn!(
                "stream {:?} of the store is skipped: the configuration file or the command line has a stream of that name",
                settings.id
            );
            continue;
        }
        if settings.enabled && ends.get(&settings.id) >= Some(&crash_guard::ENDS_MAX) {
            tracing::error!(
                "{}: the program ended {} times while opening its source; the stream starts paused",
                settings.id,
                crash_guard::ENDS_MAX
            );
            settings.enabled = false;
            held.insert(settings.id.clone());
            if let Some(store) = store {
                // If this fails, the next start detects the same.
                store.save(Stored { settings: settings.clone(), generation }, Box::new(|_| ()));
            }
        }
        let restored = restored.remove(&settings.id).unwrap_or_default();
        initial.push(InitialStream { settings, origin: Origin::Api, generation: Some(generation), restored });
    }
    // The rest belongs to removed streams. A new stream of such a name continues after its last run.
    let runs = restored.iter().filter_map(|(id, kept)| Some((id.clone(), kept.run?))).collect();
    restored.retain(|_, kept| *kept != Restored { run: kept.run, ..Restored::default() });
    if let Some(store) = store {
        restored.keys().for_each(|id| store.forget(id));
        store.here(initial.iter().map(|stream| stream.settings.id.clone()).collect());
    }
    let suspects = ends.into_keys().filter(|id| !held.contains(id)).collect();
    StartState { initial, runs, held, suspects }
}
