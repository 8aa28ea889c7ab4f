//! The thread `archive` of a machine in a fleet: takes parts of recordings while live streams leave room.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::room::{ArchiveRoom, LiveSample};
use super::store::{ArchiveStore, next_message, waiting};
use super::work::{WorkBench, WorkControl, work};
use crate::config::FleetSettings;
use crate::connect::host_name;
use crate::metrics::{Metrics, StageThread};
use touchline_compute::models::sha256_hex;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;

/// Between two looks at the live streams.
const TICK: Duration = Duration::from_millis(100);

/// How long the queue is asked for a message.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(2);

/// The limit of giving all parts back at the end.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(3);

/// Ticks between two looks at how much waits.
const REPORT_TICKS: u32 = 50;

/// Folder in the spool for copies of recordings.
const FOLDER: &str = "archive";

/// What live streams need, on this machine.
pub trait LiveLoad: Send {
    /// A sample of now.
    fn sample(&mut self) -> LiveSample;
}

/// The thread. Dropping it gives its parts back.
pub struct ArchiveHost {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Returns a directory of a pack.
pub type PackDirectory = Box<dyn Fn() -> PathBuf + Send>;

/// What the thread needs.
pub struct ArchiveParts {
    /// The fleet.
    pub settings: FleetSettings,
    /// The program that has [`super::task::SUBCOMMAND`].
    pub program: PathBuf,
    /// Returns the directory of the pack that decides now.
    pub pack: PackDirectory,
    /// Metrics of the program.
    pub metrics: Metrics,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// What live streams need.
    pub live: Box<dyn LiveLoad>,
}

impl ArchiveHost {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses to start a thread, or has no random numbers.
    pub fn start(parts: ArchiveParts) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime of archives: {e}")))?;
        let mut session = [0; 8];
        let filled = SystemRandom::new().fill(&mut session);
        filled.map_err(|_| Error::Internal("the system has no random numbers for archives".into()))?;
        let (stop, stopped) = oneshot::channel();
        let metrics = parts.metrics.clone();
        metrics.archive().start();
        // Its processes end with this thread.
        let thread = spawn("archive", move || {
            let session = u64::from_le_bytes(session);
            let run = || LocalSet::new().block_on(&runtime, run(parts, session, stopped));
            if metrics.contain(StageThread::Archive, run).is_none() {
                tracing::error!("the thread of archives panicked: this machine scores no recordings until a restart");
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ArchiveHost {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of archives panicked; see the panic message above");
        }
    }
}

/// A task that takes a message and works on it.
struct Slot {
    control: watch::Sender<WorkControl>,
    /// It works on a message.
    works: Rc<Cell<bool>>,
}

async fn run(parts: ArchiveParts, session: u64, mut stopped: oneshot::Receiver<()>) {
    let ArchiveParts { settings, program, pack, metrics, clock, mut live } = parts;
    let node = settings.node.clone().unwrap_or_else(host_name);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut room = ArchiveRoom::new(settings.capacity, u32::try_from(processors).unwrap_or(u32::MAX));
    let connect = async {
        loop {
            match ArchiveStore::connect(&settings, &format!("{node}-archive")).await {
                Ok(store) => break store,
                // The thread of the fleet reports it.
                Err(e) => tracing::debug!("archive: {e}"),
            }
            sleep(RETRY).await;
        }
    };
    let store = tokio::select! {
        store = connect => store,
        _ = &mut stopped => return,
    };
    let folder = settings.sink.spool.join(FOLDER);
    let bench = WorkBench { store, program, pack, worker: (node, session), folder, metrics, clock };
    let machine = Rc::new(ArchiveMachine { bench, consumer: RefCell::default(), trouble: RefCell::default() });
    let mut slots: Vec<Slot> = Vec::new();
    let mut tasks = JoinSet::new();
    let (mut ticks, mut count) = (interval(TICK), 0_u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stopped => break,
        }
        while tasks.try_join_next().is_some() {}
        // A task that has ended does not listen.
        slots.retain(|slot| !slot.control.is_closed());
        let parts = room.parts(live.sample());
        // Those that work come before those that wait for a message.
        slots.sort_by_key(|slot| !slot.works.get());
        let (mut running, mut paused) = (0, 0);
        for (n, slot) in slots.iter().enumerate() {
            let (has_room, works) = (n < parts, slot.works.get());
            running += usize::from(works && has_room);
            paused += usize::from(works && !has_room);
            let wanted = match (has_room, works) {
                (true, _) => WorkControl::Go,
                (false, true) => WorkControl::Pause,
                (false, false) => WorkControl::GiveBack,
            };
            slot.control.send_if_modified(|control| std::mem::replace(control, wanted) != wanted);
        }
        machine.bench.metrics.archive().working(running, paused);
        while slots.len() < parts && machine.bench.store.is_connected() {
            let (control, listen) = watch::channel(WorkControl::Go);
            let works = Rc::new(Cell::new(false));
            tasks.spawn_local(take_one(machine.clone(), listen, works.clone()));
            slots.push(Slot { control, works });
        }
        count = count.wrapping_add(1);
        if count % REPORT_TICKS == 0 {
            let machine = machine.clone();
            tokio::task::spawn_local(async move { machine.report().await });
        }
    }
    for slot in &slots {
        slot.control.send_replace(WorkControl::GiveBack);
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(GIVE_BACK_LIMIT, all).await.is_err() {
        tracing::warn!("archive: not all parts were given back; other machines take them when they are missed");
    }
}

/// What the tasks of the thread share.
struct ArchiveMachine {
    bench: WorkBench,
    /// The consumer of a pack, by its digest.
    consumer: RefCell<Option<(String, PullConsumer)>>,
    /// What was logged last.
    trouble: RefCell<Option<String>>,
}

impl ArchiveMachine {
    /// The consumer of the pack that decides now. An update of the pack, by a rollout too, changes it.
    async fn consumer(&self) -> std::result::Result<PullConsumer, String> {
        let digest = manifest_digest(&(self.bench.pack)())?;
        if let Some((known, consumer)) = &*self.consumer.borrow()
            && *known == digest
        {
            return Ok(consumer.clone());
        }
        let consumer = self.bench.store.consumer(&digest).await.map_err(super::store::StoreFailure::text)?;
        *self.consumer.borrow_mut() = Some((digest, consumer.clone()));
        Ok(consumer)
    }

    /// Logs a failure once.
    fn failed(&self, text: &str) {
        let text = touchline_core::redact::text(text);
        if self.trouble.replace(Some(text.clone())).as_ref() != Some(&text) {
            tracing::warn!("archive: {text}");
        }
        // It may have been deleted.
        *self.consumer.borrow_mut() = None;
    }

    async fn report(&self) {
        let consumer = self.consumer.borrow().as_ref().map(|(_, consumer)| consumer.clone());
        if let Some(consumer) = consumer
            && let Some(count) = waiting(&consumer).await
        {
            self.bench.metrics.archive().waiting(count);
        }
    }
}

/// Takes a message, if there is one, and works on it.
async fn take_one(machine: Rc<ArchiveMachine>, mut control: watch::Receiver<WorkControl>, works: Rc<Cell<bool>>) {
    let fetched = async {
        let consumer = machine.consumer().await?;
        next_message(&consumer, FETCH_LIMIT).await
    };
    let gives_back = control.wait_for(|control| *control == WorkControl::GiveBack);
    let message = tokio::select! {
        fetched = fetched => fetched,
        _ = gives_back => return,
    };
    match message {
        Ok(Some(message)) => {
            machine.trouble.replace(None);
            works.set(true);
            work(&machine.bench, &message, control).await;
        }
        Ok(None) => {}
        Err(text) => {
            machine.failed(&text);
            sleep(RETRY).await;
        }
    }
}

/// SHA-256 of a pack's manifest, hexadecimal.
fn manifest_digest(pack: &Path) -> std::result::Result<String, String> {
    let path = pack.join("pack.toml");
    let manifest = std::fs::read(&path).map_err(|e| format!("{}: {e}; restore the pack", path.display()))?;
    Ok(sha256_hex(&manifest))
}
