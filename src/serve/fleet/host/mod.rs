//! The thread `fleet` of a running program: drives the [`FleetNode`] with the store and the stream manager.
//!
//! ```text
//! store ── changes, answers ──► FleetNode ── actions ──► store
//!                               RolloutNode ───────────► store, object store, shadow, pack thread
//!                 ticks ──────►           ──────────────► stream manager (watch, drop)
//!                                         ── until when ─► publisher (PublishingRight)
//! ```

mod elsewhere;
mod hand_overs;
mod history;
mod link;
mod packs;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::hand_overs::HandOvers;
use self::history::RemovedStreams;
use self::link::{HostEvent, follow, perform};
use self::packs::PackHost;
use super::{
    FleetAction, FleetKey, FleetNode, FleetStore, FleetTimes, FleetValue, Holder, NodeName, NodeOptions, NodeState,
    StartCause, StreamId, StreamRecord,
};
use crate::config::FleetSettings;
use crate::connect::host_name;
use crate::control::packs::PackControl;
use crate::control::streams::{FleetRequest, NewStream, StreamControl};
use crate::hub::Hub;
use crate::hub::notice::Notice;
use crate::metrics::Takeover;
use crate::record::{FleetTenure, SessionRight};
use crate::teach::learn::ShadowSlot;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;

/// Between two ticks of the node.
const TICK: Duration = Duration::from_millis(100);

/// How long leaving the fleet may take at the end.
const RESIGN_LIMIT: Duration = Duration::from_secs(1);

enum HostCommand {
    /// Hand all streams over. The answer comes when that is done, or cannot be done.
    Drain(oneshot::Sender<()>),
    /// End the session and the thread.
    Finish,
}

/// The thread of the fleet. Dropping it ends the session.
pub struct FleetHost {
    commands: mpsc::UnboundedSender<HostCommand>,
    cost: Arc<AtomicU32>,
    login: Arc<Notify>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What requests a hand-over. Cloning shares it.
#[derive(Clone)]
pub struct FleetDrain(mpsc::UnboundedSender<HostCommand>);

impl FleetDrain {
    /// Hands all streams over to other machines. The receiver gets a message, or an error, when that is done or cannot be done.
    pub fn drain(&self) -> oneshot::Receiver<()> {
        let (to, done) = oneshot::channel();
        // Without the thread there is nothing to hand over.
        let _ = self.0.send(HostCommand::Drain(to));
        done
    }
}

/// How the fleet changes what this machine does.
#[derive(Clone)]
pub struct FleetControls {
    /// Watches and drops streams.
    pub streams: StreamControl,
    /// Swaps packs.
    pub packs: PackControl,
    /// Compares packs.
    pub shadow: Arc<dyn ShadowSlot>,
}

/// What reads the login to NATS again. Cloning shares it.
#[derive(Clone)]
pub struct FleetLogin(Arc<Notify>);

impl FleetLogin {
    /// Reads the files of the login and of TLS again, and connects with them. The former connection stays if that fails.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

impl FleetHost {
    /// Starts the thread. `latency_ms` is the jitter buffer of streams without one of their own.
    ///
    /// # Errors
    /// If the system refuses to start a thread, or has no random numbers.
    pub fn start(settings: FleetSettings, latency_ms: u32, hub: &Hub, controls: FleetControls) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime of the fleet: {e}")))?;
        let (commands, requests) = mpsc::unbounded_channel();
        let machine = FleetMachine::new(settings, latency_ms, hub.clone(), controls)?;
        let login = machine.login.clone();
        let cost = machine.cost.clone();
        let metrics = hub.metrics().clone();
        let thread = spawn("fleet", move || {
            // A panic ends the renewals, and other machines take the streams over.
            if metrics.contain(crate::metrics::StageThread::Fleet, || runtime.block_on(machine.run(requests))).is_none()
            {
                tracing::error!("the fleet's thread panicked: this machine publishes no stream until a restart");
            }
            // A file that is being fetched must not delay the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { commands, cost, login, thread: Some(thread) })
    }

    /// Reads the login again.
    pub fn login(&self) -> FleetLogin {
        FleetLogin(self.login.clone())
    }

    /// Cost of the streams that this machine watches, in thousandths of a processor core. It follows them.
    pub fn cost(&self) -> Arc<AtomicU32> {
        self.cost.clone()
    }

    /// Requests hand-overs.
    pub fn drain(&self) -> FleetDrain {
        FleetDrain(self.commands.clone())
    }
}

impl Drop for FleetHost {
    fn drop(&mut self) {
        let _ = self.commands.send(HostCommand::Finish);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the fleet's thread panicked; see the panic message above");
        }
    }
}

struct FleetMachine {
    settings: FleetSettings,
    node_name: NodeName,
    latency_ms: u32,
    node: FleetNode,
    hub: Hub,
    clock: Arc<dyn Clock>,
    control: StreamControl,
    packs: PackHost,
    hand_overs: HandOvers,
    /// Read the records of other machines: for the page, and for the store.
    followers: Vec<JoinHandle<()>>,
    /// Streams that were removed from the fleet.
    removed: RemovedStreams,
    login: Arc<Notify>,
    right: SessionRight,
    /// The streams that this machine prepares or watches.
    tenures: BTreeMap<StreamId, Arc<FleetTenure>>,
    /// The last tenure of streams that it watched before.
    ended: BTreeMap<StreamId, Arc<FleetTenure>>,
    store: Option<FleetStore>,
    events: (mpsc::UnboundedSender<HostEvent>, mpsc::UnboundedReceiver<HostEvent>),
    /// Answers when all streams are handed over.
    drains: Vec<oneshot::Sender<()>>,
    notice: Notice,
    /// Why the store cannot be used.
    trouble: Option<String>,
    /// Since when this machine may not publish.
    silent_since_ns: Option<u64>,
    status_due_ns: u64,
    has_changed: bool,
    is_name_logged: bool,
    was_connected: bool,
    cost: Arc<AtomicU32>,
}

impl FleetMachine {
    fn new(settings: FleetSettings, latency_ms: u32, hub: Hub, controls: FleetControls) -> Result<Self> {
        let node_name: NodeName = settings.node.clone().unwrap_or_else(host_name).into();
        let mut session = [0; 8];
        let filled = SystemRandom::new().fill(&mut session);
        filled.map_err(|_| Error::Internal("the system has no random numbers for the fleet".into()))?;
        let clock = hub.clock().clone();
        let session = u64::from_le_bytes(session);
        let packs = PackHost::new(node_name.clone(), session, settings.packs.clone(), &controls, &hub);
        let options = NodeOptions {
            name: node_name.clone(),
            session,
            capacity: settings.capacity,
            labels: settings.labels.clone(),
            page: settings.page.as_ref().map(ToString::to_string),
            times: FleetTimes::default(),
        };
        let notice = Notice::new("");
        hub.set_notice(Some(notice.clone()));
        hub.metrics().fleet().start();
        let now_ns = clock.mono_ns();
        Ok(Self {
            node: FleetNode::new(options, now_ns),
            settings,
            node_name,
            latency_ms,
            hub,
            clock,
            control: controls.streams,
            packs,
            hand_overs: HandOvers::default(),
            followers: Vec::new(),
            removed: RemovedStreams::default(),
            login: Arc::default(),
            right: SessionRight::default(),
            tenures: BTreeMap::new(),
            ended: BTreeMap::new(),
            store: None,
            events: mpsc::unbounded_channel(),
            drains: Vec::new(),
            notice,
            trouble: None,
            silent_since_ns: Some(now_ns),
            status_due_ns: 0,
            has_changed: true,
            is_name_logged: false,
            was_connected: false,
            cost: Arc::default(),
        })
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<HostCommand>) {
        let link = tokio::spawn(follow(
            self.settings.clone(),
            self.node_name.clone(),
            self.login.clone(),
            self.events.0.clone(),
        ));
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.events.1.recv() => if let Some(event) = event {
                    self.take(event);
                },
                command = commands.recv() => match command {
                    Some(HostCommand::Drain(done)) => {
                        tracing::info!("fleet: {} hands its streams over", self.node_name);
                        self.node.drain();
                        self.drains.push(done);
                    }
                    Some(HostCommand::Finish) | None => break,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
        link.abort();
        self.resign().await;
    }

    fn take(&mut self, event: HostEvent) {
        let now_ns = self.clock.mono_ns();
        match event {
            HostEvent::Connected(store) => {
                self.followers.drain(..).for_each(|follower| follower.abort());
                if self.settings.follow {
                    self.followers.push(elsewhere::follow((*store).clone(), self.hub.clone()));
                }
                if let Some(archive) = self.hub.archive().filter(|_| self.settings.history) {
                    let (node, removed) = (self.node_name.clone(), self.removed.clone());
                    self.followers.push(history::follow((*store).clone(), archive, node, removed));
                }
                (self.store, self.trouble) = (Some(*store), None);
            }
            HostEvent::Trouble(cause) => {
                let cause = touchline_core::redact::text(&cause);
                if self.trouble.as_ref() != Some(&cause) {
                    tracing::error!("fleet: {cause}");
                }
                self.trouble = Some(cause);
            }
            HostEvent::Changed((key, value)) => {
                self.trouble = None;
                let changed = match (&key, &value) {
                    (FleetKey::Stream(id), Some((FleetValue::Stream(stream), _))) => Some((id.clone(), stream.clone())),
                    _ => None,
                };
                let changed = changed.filter(|(id, stream)| self.node.stream(id).is_some_and(|known| known != stream));
                self.packs.observe(&key, value.clone());
                let mut removed = None;
                if let FleetKey::Stream(id) = &key {
                    self.removed.set(id, value.is_none());
                    removed = value.is_none().then(|| id.to_string());
                }
                let actions = self.node.observe(&key, value, now_ns);
                self.act(actions);
                if let Some(id) = removed {
                    self.control.fleet(FleetRequest::Forget(id));
                }
                if let Some((id, stream)) = changed
                    && let Some(tenure) = self.tenures.get(&id).cloned()
                {
                    self.watch(&id, &stream, tenure);
                }
                self.has_changed = true;
            }
            HostEvent::Done(op, result) => {
                let actions = self.node.done(op, result, now_ns);
                self.act(actions);
            }
            HostEvent::Prepared { stream, sequence } => self.hand_overs.prepared(stream, sequence),
            // The publisher compares it with the first second that it has published.
            HostEvent::OwnerEnded { tenure, unix_ns } => tenure.lost_since(unix_ns),
            HostEvent::PackTask(action, outcome) => self.packs.task_done(&action, outcome, now_ns),
            HostEvent::PackWritten(key, value) => {
                self.packs.written(&key, value);
                self.has_changed = true;
            }
            HostEvent::LastSecond { stream, tenure, unix_ns } => {
                let is_current = self.tenures.get(&stream).is_some_and(|current| Arc::ptr_eq(current, &tenure));
                if let Some(record) = self.node.stream(&stream).cloned().filter(|_| is_current) {
                    // Records of this machine may still be in its spool.
                    let own = self.ended.get(&stream).and_then(|ended| ended.published_until());
                    tenure.lost_since(own.map_or(unix_ns, |own| own.max(unix_ns)));
                    self.watch(&stream, &record, tenure);
                }
            }
        }
    }

    fn tick(&mut self) {
        let now_ns = self.clock.mono_ns();
        let prepared = self.tenures.iter().filter(|(_, tenure)| tenure.epoch().is_none() && tenure.has_decided());
        for id in prepared.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.node.prepared(&id);
        }
        let actions = self.node.tick(now_ns);
        self.act(actions);
        if !self.drains.is_empty() && self.has_drained(now_ns) {
            for done in self.drains.drain(..) {
                // The program may have stopped waiting.
                let _ = done.send(());
            }
        }
        self.hand_overs.tick(now_ns, &self.node, self.store.as_ref(), &self.events.0);
        self.packs.tick(now_ns, &self.node, self.store.as_ref(), &self.events.0);
        self.report(now_ns);
    }

    /// Whether all streams are handed over, or cannot be.
    fn has_drained(&self, now_ns: u64) -> bool {
        let is_other =
            |(name, node): (&NodeName, &super::NodeRecord)| node.state == NodeState::Active && *name != self.node_name;
        self.tenures.is_empty() || !self.node.may_publish(now_ns) || !self.node.nodes().any(is_other)
    }

    fn act(&mut self, actions: Vec<FleetAction>) {
        // Before anything else: what the node may not publish any more must not be published.
        self.right.lasts_until(self.node.session(), self.node.publishes_until_ns());
        for action in actions {
            match action {
                FleetAction::Read { .. } | FleetAction::Put { .. } => {
                    perform(self.store.as_ref(), action, &self.events.0);
                }
                FleetAction::Prepare(id) => {
                    let tenure = self.tenure(&id);
                    self.hand_overs.prepare(self.store.as_ref(), id.clone(), &self.events.0);
                    if let Some(stream) = self.node.stream(&id).cloned() {
                        tracing::info!("fleet: {id}: preparing to take it over");
                        self.watch(&id, &stream, tenure);
                    }
                }
                FleetAction::Start { stream, epoch, cause, before } => self.start(&stream, epoch, cause, before),
                FleetAction::Stop(id) => {
                    self.hand_overs.forget(&id);
                    let ended = self.tenures.remove(&id).filter(|tenure| tenure.epoch().is_some());
                    self.ended.extend(ended.map(|tenure| (id.clone(), tenure)));
                    tracing::info!("fleet: {id}: no longer watched here");
                    self.control.fleet(FleetRequest::Drop(id.to_string()));
                }
                FleetAction::Replaced => {
                    let name = &self.node_name;
                    let text = format!("another process has the name {name:?}; give each machine its own by --node");
                    tracing::error!("fleet: {text}");
                    self.trouble = Some(text);
                }
                FleetAction::Left => tracing::info!("fleet: {} has left", self.node_name),
            }
            self.has_changed = true;
        }
    }

    fn tenure(&mut self, id: &StreamId) -> Arc<FleetTenure> {
        let (node, right) = (&self.node_name, self.right.current());
        let new = || Arc::new(FleetTenure::new(node.clone(), right.clone()));
        self.tenures.entry(id.clone()).or_insert_with(new).clone()
    }

    fn start(&mut self, id: &StreamId, epoch: u64, cause: StartCause, before: Option<Holder>) {
        let is_prepared = self.tenures.contains_key(id);
        let tenure = self.tenure(id);
        tenure.take(epoch);
        let takeover = match cause {
            StartCause::First => Takeover::First,
            StartCause::Planned => Takeover::Planned,
            StartCause::Lost => Takeover::Lost,
        };
        self.hub.metrics().fleet().took(takeover);
        tracing::info!("fleet: {id}: published here with epoch {epoch} ({})", takeover.as_str());
        if is_prepared {
            return self.hand_overs.take(id.clone(), tenure, before, self.clock.mono_ns());
        }
        let Some(stream) = self.node.stream(id).cloned() else { return };
        match (cause, &self.store) {
            (StartCause::Lost, Some(store)) => {
                // The owner before renewed itself last that long ago.
                let expired_ns = i64::try_from(FleetTimes::default().expire_ns).unwrap_or(i64::MAX);
                let otherwise = self.clock.unix_ns().saturating_sub(expired_ns);
                link::last_second(store, id.clone(), tenure, otherwise, &self.events.0);
            }
            _ => self.watch(id, &stream, tenure),
        }
    }

    /// Requests the stream manager to watch a stream.
    fn watch(&self, id: &StreamId, stream: &StreamRecord, tenure: Arc<FleetTenure>) {
        let refused = |text: String| {
            let text = touchline_core::redact::text(&text);
            tracing::error!("fleet: {id}: cannot be watched: {text}; correct it with `touchline stream add --replace`");
        };
        match serde_json::from_value::<NewStream>(stream.settings.clone()) {
            Ok(new) => match new.check() {
                Ok(()) => {
                    let settings = Box::new(new.settings(id.to_string(), self.latency_ms));
                    self.control.fleet(FleetRequest::Watch { settings, tenure });
                }
                Err(e) => refused(e.to_string()),
            },
            Err(e) => refused(e.to_string()),
        }
    }

    /// Ends the session, so that other machines need not wait until it expires.
    async fn resign(mut self) {
        self.right.lasts_until(self.node.session(), 0);
        let actions = self.node.resign();
        let Some(store) = self.store.take() else { return };
        let writes = async {
            for action in actions {
                if let FleetAction::Put { key, value, revision, .. } = action {
                    // A monitor does it if this fails.
                    let _ = store.put(&key, &value, revision).await;
                }
            }
        };
        let _ = timeout(RESIGN_LIMIT, writes).await;
    }
}
