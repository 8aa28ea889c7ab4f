//! Threads, channels and the ordered shutdown of a run.

mod brake;
mod ending;
mod notify;
mod open;
mod server;
mod session;
mod warden;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
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
use crate::publish::packs::PackDesk;
use crate::publish::sink::JsonLines;
use crate::publish::streams::StreamDesk;
use crate::publish::terminal::Terminal;
use crate::shadow::Shadow;
use crate::store::{Contents, Store, StoreThread, Stored};
use crate::update::{UpdateConfig, Updater};
use crate::workers::{Batching, Workers};
use ending::Ending;
use notify::Manager;
use open::Opening;
use server::{Desks, Server, catch_signals};
use session::Session;
use warden::{Ended, Initial, Rules, Tools, Warden};

pub use server::AccessSettings;
pub use warden::{Reader, Reading};

/// What a run is made from: the command line and the configuration file, merged and checked.
pub struct RunConfig {
    pub pack: Pack,
    /// Decides beside `pack`; only compared with it.
    pub shadow: Option<Pack>,
    /// Below it, packs may be named over the API.
    pub pack_root: Option<PathBuf>,
    /// The pack is read again whenever its directory changes.
    pub watch_pack: bool,
    /// Of the configuration file and the command line, in this order.
    pub streams: Vec<(StreamSettings, Origin)>,
    /// What sources given over the API may be.
    pub sources: SourcesFile,
    pub vote: VoteConfig,
    /// Keys of the configuration file that count only at the start.
    pub fixed: Fixed,
    /// The configuration file's name, and how it is read again.
    pub reader: Option<(String, Reader)>,
    /// Address of the server.
    pub listen: Listen,
    pub access: AccessSettings,
    /// File of the records, or "-".
    pub jsonl: Option<String>,
    /// File of the store.
    pub state: Option<PathBuf>,
    pub max_streams: MaxStreams,
    /// Jitter buffer of RTSP sources that have none of their own.
    pub latency_ms: LatencyMs,
    pub batching: Batching,
    /// Files play at their own speed.
    pub realtime: bool,
    /// A stream that cannot be opened at the start is tried again.
    pub retry: bool,
    /// The server stays when the last stream has ended.
    pub linger: bool,
    /// No line per second on the terminal.
    pub quiet: bool,
}

/// Watches streams until they end or the process is told to stop.
///
/// # Errors
/// One line for a person: an address or a file that cannot be used, or the failure of a thread.
pub fn run(config: RunConfig) -> Result<()> {
    let RunConfig { pack, shadow: shadow_pack, streams, sources, vote, fixed, .. } = config;
    let packs = UpdateConfig::new(config.pack_root.as_deref(), &pack.dir, config.watch_pack)?;
    let jsonl = config.jsonl.as_deref().map(|path| JsonlWriter::append(Path::new(path))).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("the asynchronous runtime does not start: {e}")))?;
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
    let manager = Manager::from_environment();
    let (desk, asks) = PackDesk::new();
    let (stream_desk, stream_asks) = StreamDesk::new();
    let policy = Arc::new(SourcePolicy::new(&sources)?);
    let desks = Desks { packs: desk.clone(), streams: stream_desk.clone(), policy: policy.clone() };
    let log_outs = std::mem::take(&mut contents.log_outs);
    let sessions = store.clone().map(|store| (Arc::new(store) as Arc<dyn SessionArchive>, log_outs));
    let server = Server::start(&runtime, config.listen, &hub, desks, &config.access, sessions)?;
    hub.set_starting("warming up the models");
    manager.status("warming up the models");
    let (shadow, feed) = match shadow_pack {
        Some(other) => {
            let shown = packs.shown(&other.dir);
            let (shadow, feed) = Shadow::start(other, shown, &pack, &hub)?;
            (Some(shadow), Some(feed))
        }
        None => (None, None),
    };
    let workers = Workers::start_with_shadow(pack, config.batching, metrics, clock.clone(), feed)?;
    let updater = Updater::start(
        packs,
        workers.models().clone(),
        workers.swapper(),
        (desk.clone(), asks),
        hub.clone(),
        clock.clone(),
    )?;
    if let Some(store) = &store {
        hub.set_archive(Arc::new(store.clone()));
    }
    if let Some(address) = server.address {
        eprintln!("watching on {}://{address}  (metrics: /metrics, API: /api/v1/streams)", server.scheme);
    }
    let Starting { initial, runs, held, suspects } = starting(streams, contents, store.as_ref());
    let is_service = server.address.is_some() && (config.state.is_some() || initial.is_empty());
    let terminal = (!config.quiet).then(|| {
        let streams = if is_service { usize::MAX } else { initial.len() };
        Terminal::new(&workers.pack().classes, streams, config.jsonl.as_deref() == Some("-"))
    });
    let (told_to, told) = unbounded();
    let (news_to, news) = unbounded();
    // Supervisors come and go; what the publishing thread ends with is the warden's last word.
    let _news_stay_open = news_to.clone();
    let (commands_to, commands) = unbounded();
    let mut session = Session::new(hub.clone(), clock.clone(), workers.pack().classes.len(), told_to);
    if let Some(jsonl) = jsonl {
        session.sinks().add(JsonLines::new(jsonl, clock.clone()))?;
    }
    if let Some(terminal) = terminal {
        session.sinks().add(terminal)?;
    }
    let hands = Opening {
        intake: workers.intake().clone(),
        clock: clock.clone(),
        policy,
        commands: commands_to.clone(),
        news: news_to,
        pacing: if config.realtime { Pacing::Realtime } else { Pacing::Auto },
    };
    let read = config.reader.map(|(name, read)| {
        stream_desk.config().set_file(name);
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
        hands: Arc::new(hands),
        hub: hub.clone(),
        clock: clock.clone(),
        commands: commands_to.clone(),
        store: store.clone(),
        desk: stream_desk,
        read,
        manager: manager.clone(),
    };
    let tools_commands = tools.commands.clone();
    let mut warden = Warden::new(tools, rules, vote, fixed);
    warden.know_runs(runs);
    warden.know_held(held, suspects);
    warden.take_up(initial)?;
    hub.set_ready(true);
    manager.ready();
    let ending = Ending::new(clock.clone());
    let (reload_to, reload) = bounded(1);
    let server_reload = server.reload.clone();
    let reopen_outputs = session.sinks().reopener();
    let on_hang_up = move || {
        reopen_outputs();
        server_reload.reload();
        desk.hang_up();
        // A full channel holds such a wish already.
        let _ = reload_to.try_send(());
    };
    let on_stop = {
        let (manager, ending, hub) = (manager.clone(), ending.clone(), hub.clone());
        move || {
            hub.set_starting("the program ends");
            manager.stopping();
            ending.begin();
        }
    };
    let stop = catch_signals(&runtime, on_hang_up, on_stop);
    let beats = vec![("publishing", session.beat().clone()), ("inference", workers.beat().clone())];
    let intake = workers.intake().clone();
    let watchdog = manager.watch(hub.clone(), beats, move || {
        intake.nudge();
        let _ = commands_to.send(session::Command::Turn);
    })?;
    let inbox = warden::Inbox { asks: stream_asks, told, reload, stop };
    let (ended_to, ended) = bounded(1);
    let last_word = LastWord(tools_commands);
    spawn("warden", move || {
        let _last_word = last_word;
        // The program waits for it, unless publishing failed.
        let _ = ended_to.send(warden.run(&inbox));
    })?;
    let published = session.publish(&session::Inbox { decided: workers.decided.clone(), news, commands });
    ending.begin();
    drop(session);
    // It ends with what it told the publishing thread to finish with; when that failed, the program ends without it.
    let Ended { stopped, result } = match &published {
        Ok(()) => ended.recv().map_err(|_| Error::Internal("the warden's thread ended".into()))?,
        Err(_) => Ended { stopped: false, result: Ok(()) },
    };
    tracing::debug!(stopped, "every stream is at its end");
    ending.at("writing the store");
    hub.end_archive();
    let stored = store.as_ref().is_none_or(|store| store.flush(STORE_LIMIT));
    if stored && published.is_ok() {
        ending.written();
    }
    drop(store);
    ending.at("stopping the server");
    server.stop(runtime);
    ending.at("ending the watchdog's thread");
    drop(watchdog);
    ending.at("ending the threads of the streams and of inference");
    drop(workers);
    // What the inference thread fed and asked ends after it.
    ending.at("ending the thread of the packs");
    drop(updater);
    ending.at("ending the thread of the shadow");
    drop(shadow);
    ending.at("closing the store");
    drop(store_thread);
    ending.done();
    published.and(result)
}

/// Ends publishing when the warden is gone, also by a panic.
struct LastWord(Sender<session::Command>);

impl Drop for LastWord {
    fn drop(&mut self) {
        // Publishing has ended already, mostly.
        let _ = self.0.send(session::Command::Finish);
    }
}

/// How long the store may take to write what is under way.
const STORE_LIMIT: Duration = Duration::from_secs(2);

type OpenStore = (Option<Store>, Option<StoreThread>, Contents);

fn open_store(path: Option<&Path>, metrics: &Metrics) -> Result<OpenStore> {
    let Some(path) = path else { return Ok((None, None, Contents::default())) };
    let (store, thread, contents) = Store::open(path, metrics.clone())?;
    Ok((Some(store), Some(thread), contents))
}

/// What there is at the start.
struct Starting {
    initial: Vec<Initial>,
    /// The last runs of streams that are not among them.
    runs: BTreeMap<String, RunId>,
    /// Those that are paused because opening them ended the process.
    held: BTreeSet<String>,
    /// Those that may be the ones.
    suspects: BTreeSet<String>,
}

/// The streams of the start: those of the configuration and the command line, then those of the store. And the last runs of
/// those that the store knows beside them.
fn starting(streams: Vec<(StreamSettings, Origin)>, contents: Contents, store: Option<&Store>) -> Starting {
    let Contents { streams: stored, mut restored, ends, log_outs: _ } = contents;
    let mut held = BTreeSet::new();
    let mut initial: Vec<Initial> = Vec::with_capacity(streams.len() + stored.len());
    for (settings, origin) in streams {
        let restored = restored.remove(&settings.id).unwrap_or_default();
        initial.push(Initial { settings, origin, generation: None, restored });
    }
    for Stored { mut settings, generation } in stored {
        if initial.iter().any(|s| s.settings.id == settings.id) {
            tracing::warn!(
                "stream {:?} of the store is left out: the configuration or the command line has one of that name",
                settings.id
            );
            continue;
        }
        if settings.enabled && ends.get(&settings.id) >= Some(&brake::ENDS_MAX) {
            tracing::error!(
                "{}: the program ended {} times while its source was being opened; it is started paused",
                settings.id,
                brake::ENDS_MAX
            );
            settings.enabled = false;
            held.insert(settings.id.clone());
            if let Some(store) = store {
                // When it fails, the next start finds the same.
                store.save(Stored { settings: settings.clone(), generation }, Box::new(|_| ()));
            }
        }
        let restored = restored.remove(&settings.id).unwrap_or_default();
        initial.push(Initial { settings, origin: Origin::Api, generation: Some(generation), restored });
    }
    // What is left belongs to nobody any more; but who comes by such a name goes on after its last run.
    let runs = restored.iter().filter_map(|(id, kept)| Some((id.clone(), kept.run?))).collect();
    restored.retain(|_, kept| *kept != Restored { run: kept.run, ..Restored::default() });
    if let Some(store) = store {
        restored.keys().for_each(|id| store.forget(id));
        store.here(initial.iter().map(|stream| stream.settings.id.clone()).collect());
    }
    let suspects = ends.into_keys().filter(|id| !held.contains(id)).collect();
    Starting { initial, runs, held, suspects }
}
