//! Threads, channels and the ordered shutdown of a run.

mod crash_guard;
mod driver;
mod manager;
mod models;
mod notify;
mod parts;
mod publisher;
mod recordings;
mod server;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::unbounded;
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::models::pack::Pack;
use touchline_core::error::Result;
use touchline_core::time::RunId;
use touchline_core::vote::VoteConfig;
use touchline_media::guard::{SourcePolicy, SourcesFile};

use crate::config::{
    Fixed, FleetSettings, HistorySettings, LatencyMs, Listen, MaxStreams, OverlaySettings, RecordKind, RecordSettings,
    SinkSettings, StreamSettings, TeachSettings,
};
use crate::control::packs::PackControl;
use crate::control::streams::StreamControl;
use crate::hub::notice::Notice;
use crate::hub::{Restored, StreamOwner};
use crate::recording;
use crate::sink::Sink;
use crate::sink::jsonl::JsonlWriter;
use crate::sink::terminal::Terminal;
use crate::store::{Contents, Store, Stored};
use crate::update::UpdateConfig;
use crate::workers::Batching;
use driver::GstDriver;
use manager::{InitialStream, ManagerDependencies, ManagerInbox, Rules, StreamManager};
use models::ModelThreads;
use parts::SharedParts;
use publisher::{Publisher, PublisherInbox};
use server::Controls;
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
    pub streams: Vec<(StreamSettings, StreamOwner)>,
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
    /// The ring and the clips of events; `None`: nothing is recorded.
    pub record: Option<RecordSettings>,
    /// The folder of corrections; `None`: nothing can be corrected.
    pub teach: Option<TeachConfig>,
    /// The label on the picture of outputs, which the settings of streams name.
    pub overlay: OverlaySettings,
    /// The machines that this one shares streams with; `None`: none.
    pub fleet: Option<FleetSettings>,
    /// File for the records, or "-" for standard output.
    pub jsonl: Option<String>,
    /// The kinds of records in that file; `None`: all.
    pub jsonl_kinds: Option<Vec<RecordKind>>,
    /// Name of this process in deliveries of sinks; `None`: the host name.
    pub instance: Option<String>,
    /// Time zone of the page; `None`: that of the viewer.
    pub time_zone: Option<String>,
    /// A sentence that the page shows to all viewers.
    pub notice: Option<Notice>,
    /// Receivers that records are delivered to.
    pub sinks: Vec<SinkSettings>,
    /// SQLite file of the store.
    pub state: Option<PathBuf>,
    /// Limits of the history in the store.
    pub history: HistorySettings,
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

/// How people teach a pack.
#[derive(Clone, Debug)]
pub struct TeachConfig {
    /// The folder and the limits.
    pub settings: TeachSettings,
    /// Whether the running program has `adapt`.
    pub learns: bool,
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
pub fn run_with_sinks(mut config: RunConfig, sinks: Vec<Box<dyn Sink>>) -> Result<()> {
    let packs = UpdateConfig::new(config.pack_root.as_deref(), &config.pack.dir, config.watch_pack)?;
    let jsonl = config.jsonl.as_deref().map(|path| JsonlWriter::append(Path::new(path))).transpose()?;
    let runtime = parts::runtime()?;
    let (mut shared, store_thread, mut contents) = SharedParts::open(&config)?;
    let (outputs, (clips, past)) = parts::outputs(&mut config, jsonl, sinks, &shared)?;
    let (pack_control, pack_requests) = PackControl::new();
    let (stream_control, requests) = StreamControl::new();
    let policy = Arc::new(SourcePolicy::new(&config.sources)?);
    let ring = config.record.as_ref().map(recording::ring_options);
    let teach = models::teach(&config, &packs, &pack_control, past, &shared)?;
    let controls = Controls::new(&pack_control, &stream_control, &policy, (clips, teach.clone()));
    let server = shared.start_server(&runtime, &config, controls, std::mem::take(&mut contents.log_outs))?;
    let (packs, how) = ((packs, pack_control.clone(), pack_requests), models::model_use(&config));
    let models = ModelThreads::start((config.pack, config.shadow), how, packs, teach, &shared)?;
    let workers = &models.workers;
    shared.announce(&server);

    let (is_in_fleet, has_state) = (config.fleet.is_some(), config.state.is_some());
    let start = starting(config.streams, contents, shared.store.as_ref(), is_in_fleet);
    let rules = Rules {
        max_streams: config.max_streams.get() as usize,
        is_in_fleet,
        retry: config.retry,
        latency_ms: config.latency_ms.get(),
        is_service: is_in_fleet || server.address.is_some() && (has_state || start.initial.is_empty()),
        lingers: config.linger && server.address.is_some(),
    };
    let lines = if rules.is_service { usize::MAX } else { start.initial.len() };
    let is_stdout_taken = config.jsonl.as_deref() == Some("-");
    let terminal = (!config.quiet).then(|| Terminal::new(&workers.pack().classes, lines, is_stdout_taken));
    let (reports_to, reports) = unbounded();
    let (news_to, news) = unbounded();
    // Keeps the channel open while no supervisor exists: only `PublisherCommand::Finish` ends the publisher.
    let _news_stay_open = news_to.clone();
    let (commands_to, commands) = unbounded();
    let classes = workers.pack().classes.len();
    let mut publisher = Publisher::new(shared.hub.clone(), shared.clock.clone(), classes, reports_to);
    parts::add_sinks(publisher.sinks(), terminal, outputs)?;
    let driver = shared.driver(workers, policy, commands_to.clone(), news_to, (config.realtime, ring));
    let tools = shared.tools(driver, commands_to.clone(), stream_control.clone(), config.reader);
    let manager = manager_of(tools, rules, (config.vote, config.fixed), start)?;
    shared.ready();

    let shutdown = ShutdownTimer::new(shared.clock.clone());
    let fleet = shared.join_fleet(config.fleet, config.latency_ms, (stream_control, &pack_control, &models))?;
    let on_hang_up = parts::on_hang_up(publisher.sinks().reopener(), server.reload.clone(), pack_control, fleet.login);
    let (reload, stop) = shared.catch_signals(&runtime, on_hang_up, &shutdown, fleet.hand_over);
    let watchdog = shared.watch(&publisher, workers, commands_to.clone())?;
    let ended = parts::start_manager(manager, ManagerInbox { requests, reports, reload, stop }, commands_to)?;
    let published = publisher.publish(&PublisherInbox { decided: workers.decided.clone(), news, commands });

    shutdown.begin();
    drop(publisher);
    parts::leave((fleet.host, fleet.archive), &shutdown);
    let result = parts::result_of(&ended, published.is_ok())?;
    shared.write_store(published.is_ok(), &shutdown);
    parts::stop(&shutdown, (server, runtime), watchdog, models, store_thread);
    published.and(result)
}

/// The stream manager with the streams of the start.
fn manager_of(
    tools: ManagerDependencies<GstDriver>,
    rules: Rules,
    (vote, fixed): (VoteConfig, Fixed),
    StartState { initial, runs, held, suspects }: StartState,
) -> Result<StreamManager<GstDriver>> {
    let mut manager = StreamManager::new(tools, rules, vote, fixed);
    manager.restore_runs(runs);
    manager.restore_held(held, suspects);
    manager.add_initial(initial)?;
    Ok(manager)
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
fn starting(
    streams: Vec<(StreamSettings, StreamOwner)>,
    contents: Contents,
    store: Option<&Store>,
    is_in_fleet: bool,
) -> StartState {
    let Contents { streams: mut stored, mut restored, ends, log_outs: _ } = contents;
    if is_in_fleet && !stored.is_empty() {
        let count = stored.len();
        tracing::warn!("{count} streams of the store are not watched: the machines of a fleet share its streams");
        stored.clear();
    }
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
        initial.push(InitialStream { settings, origin: StreamOwner::Api, generation: Some(generation), restored });
    }
    // The rest belongs to removed streams. A new stream of such a name continues after its last run.
    let runs = restored.iter().filter_map(|(id, kept)| Some((id.clone(), kept.run?))).collect();
    restored.retain(|_, kept| *kept != Restored { run: kept.run, ..Restored::default() });
    if let Some(store) = store {
        // The streams of a fleet are not known yet, and those that were removed from it are named when it is joined.
        if !is_in_fleet {
            restored.keys().for_each(|id| store.forget(id));
        }
        store.retain_runs_of(initial.iter().map(|stream| stream.settings.id.clone()).collect());
    }
    let suspects = ends.into_keys().filter(|id| !held.contains(id)).collect();
    StartState { initial, runs, held, suspects }
}
