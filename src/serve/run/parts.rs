//! The parts of a run: how each is started, and the order in which they stop.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;
use touchline_media::gst::clips::ring::RingOptions;
use touchline_media::guard::SourcePolicy;
use touchline_media::uri::Pacing;

use super::RunConfig;
use super::driver::{GstDriver, recorded};
use super::manager::{Ended, ManagerDependencies, ManagerInbox, Reader, StreamManager};
use super::models::ModelThreads;
use super::notify::{ServiceManager, Watchdog};
use super::publisher::{News, Publisher, PublisherCommand};
use super::server::{Controls, HandOver, Reload, Server, catch_signals};
use super::shutdown::ShutdownTimer;
use crate::archive::ArchiveHost;
use crate::clips::ClipAccess;
use crate::config::{FleetSettings, LatencyMs};
use crate::control::packs::PackControl;
use crate::control::probes::ProbeControl;
use crate::control::streams::StreamControl;
use crate::deliver;
use crate::fleet::{FleetControls, FleetHost, FleetLogin};
use crate::http::access::{LogOuts, SessionArchive};
use crate::hub::{Hub, HubInfo};
use crate::metrics::Metrics;
use crate::outputs::OutputSink;
use crate::recording::{self, ClipSink};
use crate::sink::jsonl::JsonlWriter;
use crate::sink::terminal::{Terminal, announce};
use crate::sink::{JsonLines, Sink, Sinks};
use crate::store::{Contents, Store, StoreThread};
use crate::teach::PastSeconds;
use crate::workers::Workers;

/// How long the store may take to write pending records at shutdown.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The asynchronous runtime of server and signals.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime: {e}")))
}

/// Handles that all parts use.
pub(super) struct SharedParts {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Hub,
    pub(super) service_manager: ServiceManager,
    pub(super) store: Option<Store>,
    probes: ProbeControl,
}

impl SharedParts {
    /// Opens the store and reads it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(super) fn open(config: &RunConfig) -> Result<(Self, Option<StoreThread>, Contents)> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Metrics::new();
        let (store, store_thread, contents) = match &config.state {
            Some(path) => {
                let (store, thread, contents) = Store::open(path, config.history, metrics.clone(), clock.clone())?;
                (Some(store), Some(thread), contents)
            }
            None => (None, None, Contents::default()),
        };
        let info = HubInfo {
            classes: config.pack.classes.clone(),
            modalities: config.pack.fusion.order().to_vec(),
            pack: config.pack.stamp(),
            vote_window_s: config.vote.window,
            instance: config.instance.as_deref().map(Into::into),
        };
        let hub = Hub::new(info, metrics, clock.clone());
        hub.set_time_zone(config.time_zone.as_deref());
        hub.set_notice(config.notice.clone());
        if let Some(fleet) = &config.fleet {
            hub.join_fleet(&fleet.name);
        }
        let probes = ProbeControl::new(clock.clone(), hub.metrics().clone(), config.latency_ms.get());
        let service_manager = ServiceManager::from_environment();
        Ok((Self { clock, hub, service_manager, store, probes }, store_thread, contents))
    }

    /// Starts the server. Until the models are ready it answers that the program is starting.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub(super) fn start_server(
        &self,
        runtime: &tokio::runtime::Runtime,
        config: &RunConfig,
        controls: Controls,
        log_outs: LogOuts,
    ) -> Result<Server> {
        let sessions = self.store.clone().map(|store| (Arc::new(store) as Arc<dyn SessionArchive>, log_outs));
        let controls = (controls, self.probes.clone());
        let server = Server::start(runtime, config.listen, &self.hub, controls, &config.access, sessions)?;
        self.hub.set_starting("warming up the models");
        self.service_manager.status("warming up the models");
        Ok(server)
    }

    /// The models are ready: the hub answers from the store, and the address is printed.
    pub(super) fn announce(&self, server: &Server) {
        if let Some(store) = &self.store {
            self.hub.set_archive(Arc::new(store.clone()));
        }
        if let Some(address) = server.address {
            announce(&format!("watching on {}://{address}  (metrics: /metrics, API: /api/v1/streams)", server.scheme));
        }
    }

    /// Opens sources for the stream manager and for tests of addresses.
    pub(super) fn driver(
        &self,
        workers: &Workers,
        policy: Arc<SourcePolicy>,
        commands: Sender<PublisherCommand>,
        news: Sender<News>,
        (is_realtime, record): (bool, Option<RingOptions>),
    ) -> Arc<GstDriver> {
        let driver = Arc::new(GstDriver {
            intake: workers.intake().clone(),
            clock: self.clock.clone(),
            policy,
            commands,
            news,
            pacing: if is_realtime { Pacing::Realtime } else { Pacing::Auto },
            record,
        });
        self.probes.connect(driver.clone());
        driver
    }

    /// What the stream manager works with.
    pub(super) fn tools(
        &self,
        driver: Arc<GstDriver>,
        commands: Sender<PublisherCommand>,
        control: StreamControl,
        reader: Option<(String, Reader)>,
    ) -> ManagerDependencies<GstDriver> {
        let read = reader.map(|(name, read)| {
            control.config().set_file(name);
            read
        });
        ManagerDependencies {
            driver,
            hub: self.hub.clone(),
            clock: self.clock.clone(),
            commands,
            store: self.store.clone(),
            control,
            read,
            service_manager: self.service_manager.clone(),
        }
    }

    /// Handles signals from now on. Returns the requests to read the configuration file again, and those to stop.
    pub(super) fn catch_signals(
        &self,
        runtime: &tokio::runtime::Runtime,
        on_hang_up: impl Fn() + Send + Sync + 'static,
        shutdown: &ShutdownTimer,
        hand_over: HandOver,
    ) -> (Receiver<()>, Receiver<()>) {
        let (reload_to, reload) = bounded(1);
        let on_hang_up = move || {
            on_hang_up();
            // If the channel is full, a reload is pending already.
            let _ = reload_to.try_send(());
        };
        let (service_manager, shutdown, hub) = (self.service_manager.clone(), shutdown.clone(), self.hub.clone());
        let on_stop = move || {
            hub.set_starting("the program is shutting down");
            service_manager.stopping();
            shutdown.begin();
        };
        (reload, catch_signals(runtime, on_hang_up, on_stop, hand_over))
    }

    /// The program is ready.
    pub(super) fn ready(&self) {
        self.hub.set_ready(true);
        self.service_manager.ready();
    }

    /// Joins the fleet, if the program is in one.
    ///
    /// # Errors
    /// As [`FleetHost::start`] and [`ArchiveHost::start`].
    pub(super) fn join_fleet(
        &self,
        settings: Option<FleetSettings>,
        latency_ms: LatencyMs,
        (streams, packs, models): (StreamControl, &PackControl, &ModelThreads),
    ) -> Result<JoinedFleet> {
        let (Some(settings), Some(shadow)) = (settings, models.fleet_shadow.clone()) else {
            return Ok(JoinedFleet { host: None, archive: None, login: None, hand_over: None });
        };
        let limit = Duration::from_secs(settings.drain_s.into());
        let controls = FleetControls { streams, packs: packs.clone(), shadow };
        let host = FleetHost::start(settings.clone(), latency_ms.get(), &self.hub, controls)?;
        let archive = self.take_recordings(settings, &host, &models.workers)?;
        let (login, hand_over) = (Some(host.login()), Some((host.drain(), limit)));
        Ok(JoinedFleet { host: Some(host), archive, login, hand_over })
    }

    /// Starts the watchdog thread, if a service manager wants messages.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub(super) fn watch(
        &self,
        publisher: &Publisher,
        workers: &Workers,
        commands: Sender<PublisherCommand>,
    ) -> Result<Option<Watchdog>> {
        let beats = vec![("publishing", publisher.beat().clone()), ("inference", workers.beat().clone())];
        let intake = workers.intake().clone();
        self.service_manager.watch(self.hub.clone(), beats, move || {
            intake.nudge();
            let _ = commands.send(PublisherCommand::Wake);
        })
    }

    /// Writes what the store has pending, and closes this handle of it.
    pub(super) fn write_store(&mut self, is_published: bool, shutdown: &ShutdownTimer) {
        shutdown.at("writing the store");
        self.hub.end_archive();
        let stored = self.store.as_ref().is_none_or(|store| store.flush(STORE_TIMEOUT));
        if stored && is_published {
            shutdown.written();
        }
        self.store = None;
    }
}

/// The place of a program in its fleet; empty without one.
pub(super) struct JoinedFleet {
    pub(super) host: Option<FleetHost>,
    /// Scores recordings.
    pub(super) archive: Option<ArchiveHost>,
    /// Reads the login again.
    pub(super) login: Option<FleetLogin>,
    /// Done before the program stops.
    pub(super) hand_over: HandOver,
}

/// Outputs, and what the API needs of the recorded media, if there are any.
pub(super) type Outputs = (Vec<Box<dyn Sink>>, (Option<ClipAccess>, Option<Arc<dyn PastSeconds>>));

/// The outputs of a run but for the terminal, and access to recorded media if there are any: the file of records, the receivers, the clips,
/// and `further` ones.
///
/// # Errors
/// A spool or a folder of clips that cannot be used.
pub(super) fn outputs(
    config: &mut RunConfig,
    jsonl: Option<JsonlWriter>,
    further: Vec<Box<dyn Sink>>,
    shared: &SharedParts,
) -> Result<Outputs> {
    let mut outputs: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(writer) = jsonl {
        outputs.push(Box::new(JsonLines::new(writer, config.jsonl_kinds.take(), shared.clock.clone())));
    }
    config.sinks.extend(config.fleet.as_ref().map(|fleet| fleet.sink.clone()));
    outputs.extend(deliver::open(std::mem::take(&mut config.sinks), config.instance.clone(), &shared.hub)?);
    let (mut clips, mut past) = (None, None);
    if let Some(record) = config.record.clone() {
        let sink = ClipSink::open(record.clone(), &shared.hub)?;
        let (opener, cut) = recorded(&config.pack, &shared.clock);
        (clips, past) = (Some(sink.access()), Some(sink.past(opener, cut)));
        outputs.push(Box::new(sink));
        let ring = recording::ring_options(&record);
        let is_wanted = config.streams.iter().any(|(stream, _)| stream.output.is_some());
        outputs.push(Box::new(OutputSink::open(config.overlay.clone(), ring, &shared.hub, is_wanted)?));
    }
    outputs.extend(further);
    Ok((outputs, (clips, past)))
}

/// Adds the sinks of a run. Each gets its thread.
///
/// # Errors
/// If the system refuses to start a thread.
pub(super) fn add_sinks(to: &mut Sinks, terminal: Option<Terminal>, outputs: Vec<Box<dyn Sink>>) -> Result<()> {
    if let Some(terminal) = terminal {
        to.add(terminal)?;
    }
    outputs.into_iter().try_for_each(|sink| to.add_boxed(sink))
}

/// What SIGHUP reads again besides the configuration file: outputs, tokens and TLS files, the pack, the login of the fleet.
pub(super) fn on_hang_up(
    reopen_outputs: impl Fn() + Send + Sync + 'static,
    server: Reload,
    packs: PackControl,
    fleet: Option<FleetLogin>,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        reopen_outputs();
        server.reload();
        packs.reload();
        if let Some(login) = &fleet {
            login.reload();
        }
    }
}

/// Ends the publisher when the stream manager ends, even by a panic.
struct FinishOnDrop(Sender<PublisherCommand>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        // Fails if publishing has ended already.
        let _ = self.0.send(PublisherCommand::Finish);
    }
}

/// Starts the thread of the stream manager. Returns the channel of its result.
///
/// # Errors
/// If the system refuses to start a thread.
pub(super) fn start_manager(
    manager: StreamManager<GstDriver>,
    inbox: ManagerInbox,
    commands: Sender<PublisherCommand>,
) -> Result<Receiver<Ended>> {
    let (ended_to, ended) = bounded(1);
    let finish_on_drop = FinishOnDrop(commands);
    spawn("stream-manager", move || {
        let _last_word = finish_on_drop;
        // The receiver is gone only if publishing failed.
        let _ = ended_to.send(manager.run(&inbox));
    })?;
    Ok(ended)
}

/// The result of the stream manager, which ends right after it has sent [`PublisherCommand::Finish`]. If publishing failed, nothing waits
/// for it.
///
/// # Errors
/// If its thread ended without a result.
pub(super) fn result_of(ended: &Receiver<Ended>, is_published: bool) -> Result<Result<()>> {
    let Ended { stopped, result } = if is_published {
        ended.recv().map_err(|_| Error::Internal("the stream manager ended".into()))?
    } else {
        Ended { stopped: false, result: Ok(()) }
    };
    tracing::debug!(stopped, "all streams have ended");
    Ok(result)
}

/// The threads of a machine in a fleet.
pub(super) type FleetThreads = (Option<FleetHost>, Option<ArchiveHost>);

/// Leaves the fleet, after the last record is published.
pub(super) fn leave((fleet, archive): FleetThreads, shutdown: &ShutdownTimer) {
    shutdown.at("giving recordings back to the fleet");
    drop(archive);
    shutdown.at("leaving the fleet");
    drop(fleet);
}

/// Stops what is left after the streams and the publisher, in this order.
pub(super) fn stop(
    shutdown: &ShutdownTimer,
    (server, runtime): (Server, tokio::runtime::Runtime),
    watchdog: Option<Watchdog>,
    ModelThreads { updater, workers, shadow, teach, posters, .. }: ModelThreads,
    store_thread: Option<StoreThread>,
) {
    shutdown.at("stopping the server");
    server.stop(runtime);
    shutdown.at("stopping the watchdog thread");
    drop(watchdog);
    if let Some((_, learner)) = &teach {
        shutdown.at("stopping the learning process");
        learner.shut_down();
    }
    shutdown.at("stopping the clip and inference threads");
    drop(workers);
    // These two serve the inference thread, so they stop after it.
    shutdown.at("stopping the pack thread");
    drop(updater);
    shutdown.at("stopping the shadow thread");
    if let Some(shadow) = shadow {
        shadow.stop();
    }
    shutdown.at("stopping the teach thread");
    drop(teach);
    shutdown.at("stopping the posters thread");
    drop(posters);
    shutdown.at("closing the store");
    drop(store_thread);
    shutdown.done();
}
