//! The pack thread: takes another pack into the running program between two seconds, or refuses it and leaves the old
//! one.
//!
//! Reading, verifying, building and warming up happen here, beside the streams; the inference thread only swaps. One
//! update at a time, whoever asked: over HTTP, with SIGHUP, or by changing the directory that is watched.

mod watch;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::publish::hub::Hub;
use crate::publish::packs::{
    AppliedPack, PackControl, PackOutcome, PackRefusal, PackRefusalKind, PackRequest, PackTrigger, took_ms,
};
use crate::workers::EngineSwapper;
use touchline_compute::infer::{Engine, Models};
use touchline_compute::models::pack::Pack;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::threads::{own_processors, spawn};
use watch::{DirectoryWatch, POLL_NS};

/// What may be taken, and when to look by oneself.
#[derive(Clone, Debug)]
pub struct UpdateConfig {
    /// Packs asked for over HTTP lie below this directory.
    pub root: PathBuf,
    /// Look at the running pack's directory every few seconds.
    pub watch: bool,
}

impl UpdateConfig {
    /// The directory in which the packs lie: as given, or the running pack's parent.
    ///
    /// # Errors
    /// [`Error::Usage`] when it cannot be found.
    pub fn new(root: Option<&Path>, running: &Path, watch: bool) -> Result<Self> {
        let found = match root {
            Some(root) => root.canonicalize(),
            None => running.canonicalize().map(|dir| dir.parent().map(Path::to_owned).unwrap_or(dir)),
        };
        let root = found.map_err(|e| {
            let given = root.unwrap_or(running).display();
            Error::Usage(format!("--pack-root {given}: {e}; give the directory in which the packs lie"))
        })?;
        Ok(Self { root, watch })
    }

    /// How people would ask for the pack in `dir`: below the root by its path there, elsewhere by its name.
    pub fn shown(&self, dir: &Path) -> String {
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let shown = whole.strip_prefix(&self.root).ok().or_else(|| whole.file_name().map(Path::new));
        shown.unwrap_or(&whole).display().to_string()
    }

    /// The directory that was asked for.
    ///
    /// # Errors
    /// [`PackRefusalKind::OutsideRoot`] for what leads out of the root, through links as well, and for what does not exist
    /// there: who requests must not learn what exists elsewhere. [`PackRefusalKind::BadPack`] for what the root does not have.
    fn resolve(&self, asked: &Path) -> Result<PathBuf, PackRefusal> {
        let outside = || {
            let advice = "name a directory below it, or start with another --pack-root";
            PackRefusal::new(PackRefusalKind::OutsideRoot, "the path leads out of the directory of packs", advice)
        };
        if asked.components().any(|part| part == Component::ParentDir) {
            return Err(outside());
        }
        let path = self.root.join(asked);
        match path.canonicalize() {
            Ok(whole) if whole.starts_with(&self.root) => Ok(path),
            Err(_) if path.starts_with(&self.root) => {
                let error = format!("there is no pack {:?}", asked.display().to_string());
                Err(PackRefusal::new(PackRefusalKind::BadPack, error, "name a directory in the directory of packs"))
            }
            _ => Err(outside()),
        }
    }
}

/// The pack thread. Dropping it ends it, after the update that is under way.
pub struct Updater {
    /// Closed by dropping.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Updater {
    /// `running`: the models that decide now. Says to `hub` what runs.
    ///
    /// # Errors
    /// When the system has no thread left.
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
        let pool = own_processors("pack")?;
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
            tracing::error!("the pack thread panicked; its message is above");
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
                // Nothing to look at: it only sleeps.
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
        let over_http = request.trigger == PackTrigger::Http;
        if !over_http {
            self.control.begun();
        }
        let outcome = self.update(request.trigger, request.path.as_deref());
        self.control.finished();
        if let Some(answer) = request.answer {
            // Who asked may be gone; what was done stays done.
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

    /// Takes or refuses a pack, and says so everywhere.
    fn update(&mut self, trigger: PackTrigger, asked: Option<&Path>) -> PackOutcome {
        let shown = match asked {
            // It goes into the log, where a line end would begin a line of another's words.
            Some(path) => path
                .strip_prefix(&self.config.root)
                .unwrap_or(path)
                .display()
                .to_string()
                .replace(char::is_control, "?"),
            None => self.config.shown(&self.running.pack().dir),
        };
        let outcome = self.attempt(asked).map_err(|refused| self.without_root(refused));
        self.hub.metrics().pack_update(outcome.is_ok());
        match &outcome {
            Ok(applied) if applied.unchanged => tracing::info!("pack {shown}: nothing has changed"),
            Ok(applied) => {
                let how = if applied.table_only { "table only" } else { "with its models" };
                tracing::info!("pack {} ({shown}) decides from now on, {how}", applied.pack);
            }
            Err(refused) => tracing::error!("pack {shown} is refused, the old one stays: {refused}"),
        }
        self.hub.pack_status().updated(trigger, shown, outcome.clone());
        outcome
    }

    fn attempt(&mut self, asked: Option<&Path>) -> PackOutcome {
        let began_ns = self.clock.mono_ns();
        let running = self.running.pack().clone();
        let dir = match asked {
            Some(path) => self.config.resolve(path)?,
            None => running.dir.clone(),
        };
        // Before reading: what changes while it is read is a change again.
        let seen = self.watch.as_ref().map(|_| DirectoryWatch::new(&dir, began_ns));
        let mut pack = Pack::open(&dir).map_err(bad_pack)?;
        pack.precision = running.precision;
        pack.placement = running.placement.clone();
        pack.can_replace(&running).map_err(|cause| {
            let advice = "a pack with other classes or sampling needs a restart: touchline run --pack DIR";
            PackRefusal::new(PackRefusalKind::Incompatible, format!("pack {}: {cause}", pack.name), advice)
        })?;
        let table_only = pack.same_networks(&running);
        let engine = self.pool.install(|| Engine::load_beside(pack, Some(&self.running))).map_err(bad_pack)?;
        let models = engine.models().clone();
        let unchanged = models.stamp() == self.running.stamp() && models.pack().dir == running.dir;
        if !unchanged {
            // Said before the swap: who hears of the first second that it decided, and requests, gets the new pack.
            self.hub.set_pack(models.stamp().clone(), models.pack().fusion.order().to_vec());
            self.hub.pack_status().set_pack(models.pack().clone(), self.config.shown(&dir));
            drop(
                self.swapper.swap(engine).map_err(|e| {
                    PackRefusal::new(PackRefusalKind::Internal, e.to_string(), "start the program again")
                })?,
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

    /// Paths as people ask for them: where the packs lie on this machine is nobody's business.
    fn without_root(&self, mut refused: PackRefusal) -> PackRefusal {
        let root = format!("{}/", self.config.root.display());
        refused.error = touchline_core::redact::text(&refused.error.replace(&root, ""));
        refused
    }
}

fn bad_pack(error: Error) -> PackRefusal {
    match error {
        Error::Pack { path, cause, advice } => {
            PackRefusal::new(PackRefusalKind::BadPack, format!("pack {}: {cause}", path.display()), advice)
        }
        Error::Compute(e) => {
            PackRefusal::new(PackRefusalKind::BadPack, format!("its models do not run: {e}"), "check the free memory")
        }
        error => PackRefusal::new(PackRefusalKind::Internal, error.to_string(), "start the program again"),
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
        let kind = |asked: &str| config.resolve(Path::new(asked)).map_err(|refused| refused.kind);
        assert_eq!(kind("new"), Ok(config.root.join("new")));
        assert_eq!(kind("current"), Ok(config.root.join("current")), "a link within the root is followed each time");
        assert_eq!(kind(root.join("new").to_str().unwrap()), Ok(root.join("new")));
        assert_eq!(kind("absent"), Err(PackRefusalKind::BadPack));
        let elsewhere = elsewhere.join("pack");
        for asked in ["..", "new/../../elsewhere/pack", "link/pack", "/etc", "/no/such/place"] {
            assert_eq!(kind(asked), Err(PackRefusalKind::OutsideRoot), "{asked}");
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
}
