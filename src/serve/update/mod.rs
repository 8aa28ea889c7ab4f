//! The pack thread: replaces the running pack between two batches, or rejects the new one and keeps the old one.
//!
//! It reads, verifies, builds and warms up the new pack; the inference thread only swaps. It runs one update at a time,
//! requested over HTTP, by SIGHUP, by a rollout of the fleet, or by a change of the watched directory.

mod watch;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::control::packs::{
    AppliedPack, PackControl, PackOutcome, PackRefusal, PackRefusalKind, PackRequest, PackTrigger, took_ms,
};
use crate::hub::Hub;
use crate::metrics::{Metrics, StageThread};
use crate::workers::EngineSwapper;
use touchline_compute::infer::{Engine, Models};
use touchline_compute::models::pack::Pack;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::{background_pool, spawn};
use watch::{DirectoryWatch, POLL_NS};

/// Settings of pack updates.
#[derive(Clone, Debug)]
pub struct UpdateConfig {
    /// Requests over HTTP may name packs below this directory.
    pub root: PathBuf,
    /// Check the running pack's directory every few seconds.
    pub watch: bool,
}

impl UpdateConfig {
    /// The root of packs: as given, or the parent of the running pack.
    ///
    /// # Errors
    /// [`Error::Usage`] if the directory does not exist.
    pub fn new(root: Option<&Path>, running: &Path, watch: bool) -> Result<Self> {
        let found = match root {
            Some(root) => root.canonicalize(),
            None => running.canonicalize().map(|dir| dir.parent().map(Path::to_owned).unwrap_or(dir)),
        };
        let root = found.map_err(|e| {
            let given = root.unwrap_or(running).display();
            Error::Usage(format!("--pack-root {given}: {e}; give the directory that contains the packs"))
        })?;
        Ok(Self { root, watch })
    }

    /// The path of the pack in `dir` as the API shows it: relative to the root, or the name of the directory outside
    /// it.
    pub fn shown(&self, dir: &Path) -> String {
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let shown = whole.strip_prefix(&self.root).ok().or_else(|| whole.file_name().map(Path::new));
        shown.unwrap_or(&whole).display().to_string()
    }

    /// The directory of a request.
    ///
    /// # Errors
    /// [`PackRefusalKind::OutsideRoot`] for a path that leads out of the root, also through links or if it does not
    /// exist there: clients must not learn what exists elsewhere. [`PackRefusalKind::BadPack`] for a path that the root
    /// does not have.
    fn resolve(&self, asked: &Path) -> Result<PathBuf, PackRefusal> {
        let outside = || {
            let advice = "name a directory below it, or start the program with another --pack-root";
            PackRefusal::new(PackRefusalKind::OutsideRoot, "the path is outside the root of packs", advice)
        };
        if asked.components().any(|part| part == Component::ParentDir) {
            return Err(outside());
        }
        let path = self.root.join(asked);
        match path.canonicalize() {
            Ok(whole) if whole.starts_with(&self.root) => Ok(path),
            Err(_) if path.starts_with(&self.root) => {
                let error = format!("there is no pack {:?}", asked.display().to_string());
                Err(PackRefusal::new(PackRefusalKind::BadPack, error, "name a directory below the root of packs"))
            }
            _ => Err(outside()),
        }
    }
}

/// The pack thread. Dropping this stops it after the current update.
pub struct Updater {
    /// Closed by dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Updater {
    /// Starts the thread. `running`: the models that decide now, which are published in `hub`.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn start(
        config: UpdateConfig,
        running: Models,
        swapper: EngineSwapper,
        (control, requests): (PackControl, Receiver<PackRequest>),
        hub: Hub,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        hub.pack_status().set_pack(running.pack().clone(), config.shown(&running.pack().dir));
        let watch = config.watch.then(|| DirectoryWatch::new(&running.pack().dir, clock.mono_ns()));
        let pool = background_pool("pack")?;
        let worker = PackWorker { config, running, swapper, control, hub, clock, watch, pool };
        let (stop, stopped) = bounded(0);
        let thread = spawn("pack", move || worker.run(&requests, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Updater {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the pack thread panicked; see the panic message above");
        }
    }
}

struct PackWorker {
    config: UpdateConfig,
    running: Models,
    swapper: EngineSwapper,
    control: PackControl,
    hub: Hub,
    clock: Arc<dyn Clock>,
    watch: Option<DirectoryWatch>,
    pool: rayon::ThreadPool,
}

impl PackWorker {
    fn run(mut self, requests: &Receiver<PackRequest>, stopped: &Receiver<()>) {
        loop {
            let wait_ns = match &self.watch {
                Some(watch) => watch.due_ns().saturating_sub(self.clock.mono_ns()),
                // Nothing to check.
                None => POLL_NS,
            };
            select! {
                recv(requests) -> request => match request {
                    Ok(request) => self.handle_request(request),
                    Err(_) => return,
                },
                recv(stopped) -> _ => return,
                default(Duration::from_nanos(wait_ns)) => self.look(),
            }
        }
    }

    fn handle_request(&mut self, request: PackRequest) {
        let is_counted = matches!(request.trigger, PackTrigger::Http | PackTrigger::Fleet);
        if !is_counted {
            self.control.begun();
        }
        let outcome = self.update(request.trigger, request.path.as_deref());
        self.control.finished();
        if let Some(answer) = request.answer {
            // The client may be gone. The update stays.
            let _ = answer.send(outcome);
        }
    }

    fn look(&mut self) {
        let now_ns = self.clock.mono_ns();
        let dir = self.running.pack().dir.clone();
        if self.watch.as_mut().is_some_and(|watch| watch.changed(&dir, now_ns)) {
            self.handle_request(PackRequest { trigger: PackTrigger::Watch, path: None, answer: None });
        }
    }

    /// Takes or refuses a pack; logs, counts and publishes the outcome.
    fn update(&mut self, trigger: PackTrigger, asked: Option<&Path>) -> PackOutcome {
        let shown = match asked {
            Some(path) if trigger == PackTrigger::Fleet => self.config.shown(path),
            // It is logged: a line break would forge a log line.
            Some(path) => path
                .strip_prefix(&self.config.root)
                .unwrap_or(path)
                .display()
                .to_string()
                .replace(char::is_control, "?"),
            None => self.config.shown(&self.running.pack().dir),
        };
        let metrics = self.hub.metrics().clone();
        let outcome = contained(&metrics, || self.attempt(trigger, asked));
        let outcome = outcome.map_err(|refused| self.without_root(refused, asked));
        metrics.pack_update(outcome.is_ok());
        match &outcome {
            Ok(applied) if applied.unchanged => tracing::info!("pack {shown}: unchanged"),
            Ok(applied) => {
                let how = if applied.table_only { "new table only" } else { "new models" };
                tracing::info!("pack {} ({shown}) is in use, {how}", applied.pack);
            }
            Err(refused) => tracing::error!("pack {shown} is rejected, the previous one stays: {refused}"),
        }
        self.hub.pack_status().updated(trigger, shown, outcome.clone());
        outcome
    }

    fn attempt(&mut self, trigger: PackTrigger, asked: Option<&Path>) -> PackOutcome {
        let began_ns = self.clock.mono_ns();
        let running = self.running.pack().clone();
        let dir = match asked {
            Some(path) if trigger == PackTrigger::Fleet => path.to_owned(),
            Some(path) => self.config.resolve(path)?,
            None => running.dir.clone(),
        };
        // Taken before reading: a change while it is read counts as a new one.
        let seen = self.watch.as_ref().map(|_| DirectoryWatch::new(&dir, began_ns));
        let mut pack = Pack::open(&dir).map_err(bad_pack)?;
        pack.precision = running.precision;
        pack.placement = running.placement.clone();
        pack.can_replace(&running).map_err(|cause| {
            let advice = "restart with `touchline run --pack DIR` to change classes or sampling";
            PackRefusal::new(PackRefusalKind::Incompatible, format!("pack {}: {cause}", pack.name), advice)
        })?;
        let table_only = pack.same_networks(&running);
        let engine = self.pool.install(|| Engine::load_beside(pack, Some(&self.running))).map_err(bad_pack)?;
        let models = engine.models().clone();
        let unchanged = models.stamp() == self.running.stamp() && models.pack().dir == running.dir;
        if !unchanged {
            // Published before the swap: a client that asks after the first second of the new pack gets the new pack.
            self.hub.set_pack(models.stamp().clone(), models.pack().fusion.order().to_vec());
            self.hub.pack_status().set_pack(models.pack().clone(), self.config.shown(&dir));
            drop(
                self.swapper
                    .swap(engine)
                    .map_err(|e| PackRefusal::new(PackRefusalKind::Internal, e.to_string(), "restart the program"))?,
            );
            self.running = models;
        }
        if let Some(seen) = seen {
            self.watch = Some(seen);
        }
        let stamp = self.running.stamp();
        Ok(AppliedPack {
            pack: stamp.name.clone(),
            weights_sha256: stamp.weights_sha256.clone(),
            manifest_sha256: stamp.manifest_sha256.clone(),
            path: self.config.shown(&dir),
            table_only,
            unchanged,
            took_ms: took_ms(self.clock.mono_ns().saturating_sub(began_ns)),
        })
    }

    /// Removes the root from paths: clients do not learn where the packs are on this machine.
    fn without_root(&self, mut refused: PackRefusal, asked: Option<&Path>) -> PackRefusal {
        let folders = asked.and_then(Path::parent).into_iter().chain([&*self.config.root]);
        for folder in folders.filter(|folder| folder.is_absolute()) {
            refused.error = refused.error.replace(&format!("{}/", folder.display()), "");
        }
        refused.error = touchline_core::redact::text(&refused.error);
        refused
    }
}

/// Runs an update. If it panics, it is refused, and the thread remains for the next one.
fn contained(metrics: &Metrics, attempt: impl FnOnce() -> PackOutcome) -> PackOutcome {
    metrics.contain(StageThread::Pack, attempt).unwrap_or_else(|| {
        let advice = "report this bug with the log";
        Err(PackRefusal::new(PackRefusalKind::Internal, "the update panicked", advice))
    })
}

fn bad_pack(error: Error) -> PackRefusal {
    match error {
        Error::Pack { path, cause, advice } => {
            PackRefusal::new(PackRefusalKind::BadPack, format!("pack {}: {cause}", path.display()), advice)
        }
        Error::Compute(e) => {
            PackRefusal::new(PackRefusalKind::BadPack, format!("the models do not run: {e}"), "free memory, then retry")
        }
        error => PackRefusal::new(PackRefusalKind::Internal, error.to_string(), "restart the program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(root: &Path) -> UpdateConfig {
        UpdateConfig::new(Some(root), root, false).unwrap()
    }

    #[test]
    fn paths_stay_below_the_root() {
        let base = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (base.path().join("packs"), base.path().join("elsewhere"));
        for dir in [&root.join("new"), &elsewhere.join("pack")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, root.join("link")).unwrap();
        std::os::unix::fs::symlink("new", root.join("current")).unwrap();
        let config = config(&root);
        let kind = |path: &str| config.resolve(Path::new(path)).map_err(|refusal| refusal.kind);
        assert_eq!(kind("new"), Ok(config.root.join("new")));
        assert_eq!(kind("current"), Ok(config.root.join("current")), "a link within the root is followed each time");
        assert_eq!(kind(root.join("new").to_str().unwrap()), Ok(root.join("new")));
        assert_eq!(kind("absent"), Err(PackRefusalKind::BadPack));
        let elsewhere = elsewhere.join("pack");
        for path in ["..", "new/../../elsewhere/pack", "link/pack", "/etc", "/no/such/place"] {
            assert_eq!(kind(path), Err(PackRefusalKind::OutsideRoot), "{path}");
        }
        assert_eq!(kind(elsewhere.to_str().unwrap()), Err(PackRefusalKind::OutsideRoot));
        assert_eq!(config.shown(&root.join("current")), "new");
        assert_eq!(config.shown(&elsewhere), "pack");
    }

    #[test]
    fn the_default_root_is_the_parent_of_the_running_pack() {
        let base = tempfile::tempdir().unwrap();
        let pack = base.path().join("compact");
        std::fs::create_dir(&pack).unwrap();
        let config = UpdateConfig::new(None, &pack, false).unwrap();
        assert_eq!(config.root, base.path().canonicalize().unwrap());
        assert!(UpdateConfig::new(Some(&base.path().join("absent")), &pack, false).is_err());
    }

    #[test]
    fn a_panic_refuses_the_update_and_is_counted() {
        let metrics = Metrics::new();
        let refused = contained(&metrics, || panic!("a bug in a loader")).unwrap_err();
        assert_eq!(refused.kind, PackRefusalKind::Internal);
        let other = PackRefusal::new(PackRefusalKind::BadPack, "damaged", "copy it again");
        assert_eq!(contained(&metrics, || Err(other)).unwrap_err().kind, PackRefusalKind::BadPack, "the next update");
        assert!(metrics.encode().contains(r#"touchline_stage_panics_total{stage="pack"} 1"#));
    }
}
