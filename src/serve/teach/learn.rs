//! Learning: `touchline adapt` beside the streams, then the new pack as shadow, then as the running pack, and back.
//!
//! The program runs itself as a child with a low priority, one at a time. Nothing it does can change a decision: it writes a pack of
//! its own, which only [`Learner::swap`] puts into use.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::store::CorrectionStore;
use crate::config::TOKEN_VARIABLES;
use crate::control::packs::{PackControl, PackOutcome, PackRefusal, PackRefusalKind};
use crate::hub::Hub;
use crate::record::format::rfc3339;
use touchline_core::error::Result;
use touchline_core::redact;
use touchline_core::threads::spawn;

/// Lines of the child's output that are kept.
const LINES_MAX: usize = 40;

/// Longest line that is kept, characters.
const LINE_MAX: usize = 400;

/// Folder for what the child computes, in the folder of corrections. It is deleted at the end.
const WORK: &str = "work";

/// The child gets about a third of the processor time of a thread of the streams where both want all. With the lowest priority it would
/// never end on a busy machine.
const NICENESS: &str = "5";

/// How often a child that has closed its output is looked after.
const POLL: Duration = Duration::from_millis(100);

/// Part of the names of packs that were learned.
const TAUGHT: &str = "-taught-";

/// Runs and removes the shadow.
pub trait ShadowSlot: Send + Sync {
    /// Runs the pack in `dir` as shadow, in place of another.
    ///
    /// # Errors
    /// If it cannot be loaded, or could not replace the running pack.
    fn start(&self, dir: &Path) -> Result<()>;

    /// Ends the shadow, if there is one.
    fn stop(&self);
}

/// How far learning is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LearnStage {
    /// Nothing has been learned since the program started.
    #[default]
    Idle,
    /// A pack is learning.
    Learning,
    /// It was cancelled.
    Cancelled,
    /// It has failed, or the new pack was not better; see `error`.
    Failed,
    /// The new pack runs as shadow.
    Compared,
    /// The new pack is in use.
    InUse,
    /// The former pack is in use again.
    RolledBack,
}

/// Shares of held-out samples that are right, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LearnChange {
    /// With the former pack.
    pub before: f64,
    /// With the new one, which has not learned from these samples.
    pub after: f64,
}

/// The figures of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LearnedClass {
    /// The class.
    pub class: String,
    /// Seconds of corrections.
    pub seconds: u64,
    /// Number of sources: streams and days.
    pub sources: u64,
    /// What was held out as a whole: `source`, `recording` or `part`.
    pub held_out_by: String,
    /// Share of the held-out seconds that are right.
    pub right: LearnChange,
}

/// The figures of a new pack, from cross-validation, as `touchline adapt --json` writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LearnReport {
    /// By class.
    pub classes: Vec<LearnedClass>,
    /// Mean over the classes of the corrections.
    pub channel: LearnChange,
    /// Mean over the classes of what the pack was trained with; absent for imported encoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<LearnChange>,
}

/// `/api/v1/learn`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Learning")]
pub struct LearnView {
    /// How far it is.
    pub stage: LearnStage,
    /// Why this program cannot learn; null if it can.
    pub unable: Option<String>,
    /// Corrections that teach.
    pub corrections: usize,
    /// When it began.
    #[schemars(extend("format" = "date-time"))]
    pub began: Option<String>,
    /// When it ended.
    #[schemars(extend("format" = "date-time"))]
    pub ended: Option<String>,
    /// The last lines of its output.
    pub lines: VecDeque<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The new pack, relative to the root of packs.
    pub pack: Option<String>,
    /// The pack that it replaces.
    pub former: Option<String>,
    /// Its figures.
    pub report: Option<LearnReport>,
}

/// How packs learn.
#[derive(Clone, Debug)]
pub struct LearnSettings {
    /// The program that has `adapt`.
    pub program: PathBuf,
    /// Whether it was built with training.
    pub can_learn: bool,
    /// The directory of packs.
    pub root: PathBuf,
}

/// Learns, one pack at a time. Cloning shares it.
#[derive(Clone)]
pub struct Learner {
    shared: Arc<LearnShared>,
}

struct LearnShared {
    settings: LearnSettings,
    store: Arc<CorrectionStore>,
    packs: PackControl,
    hub: Hub,
    shadow: OnceLock<Arc<dyn ShadowSlot>>,
    state: Mutex<LearnState>,
    /// Wakes the thread that waits for a child that was killed.
    killed: Condvar,
}

#[derive(Default)]
struct LearnState {
    view: LearnView,
    child: Option<Child>,
    is_cancelled: bool,
    /// The program ends: no other begins.
    is_over: bool,
}

impl Learner {
    /// A learner that has learned nothing.
    pub fn new(settings: LearnSettings, store: Arc<CorrectionStore>, packs: PackControl, hub: Hub) -> Self {
        let (shadow, state, killed) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Self { shared: Arc::new(LearnShared { settings, store, packs, hub, shadow, state, killed }) }
    }

    /// Connects the shadow, once the models are loaded.
    pub fn connect(&self, shadow: Arc<dyn ShadowSlot>) {
        // It is connected once.
        let _ = self.shared.shadow.set(shadow);
    }

    fn state(&self) -> MutexGuard<'_, LearnState> {
        self.shared.state.lock()
    }

    /// The state for the API.
    pub fn view(&self) -> LearnView {
        LearnView { unable: self.unable(), corrections: self.shared.store.teaching(), ..self.state().view.clone() }
    }

    fn unable(&self) -> Option<String> {
        let built_without = "this program was built without training (feature train)";
        (!self.shared.settings.can_learn).then(|| built_without.to_owned())
    }

    /// Begins to learn from all corrections.
    ///
    /// # Errors
    /// If a pack is learning already, there is nothing to learn from, or no child can be started.
    pub fn start(&self) -> std::result::Result<LearnView, PackRefusal> {
        let refuse = |kind, error: &str, advice: &str| Err(PackRefusal::new(kind, error, advice));
        let shared = &self.shared;
        if let Some(unable) = self.unable() {
            return refuse(
                PackRefusalKind::Incompatible,
                &unable,
                "adapt the pack with another build: touchline adapt --from DIR",
            );
        }
        if shared.store.teaching() == 0 {
            return refuse(
                PackRefusalKind::Incompatible,
                "there are no corrections to learn from",
                "correct some seconds first",
            );
        }
        let Some((pack, former)) = shared.hub.pack_status().running() else {
            return refuse(PackRefusalKind::NotReady, "the program is starting", "retry when GET /readyz answers 200");
        };
        let mut state = self.state();
        if state.is_over {
            return refuse(PackRefusalKind::NotReady, "the program is shutting down", "retry after its restart");
        }
        if state.view.stage == LearnStage::Learning {
            return refuse(PackRefusalKind::Busy, "a pack is learning already", "wait for it, or cancel it");
        }
        let root = &shared.settings.root;
        if !pack.dir.canonicalize().is_ok_and(|dir| dir.starts_with(root)) {
            let error = "the running pack is outside the root of packs, so it could not be put back into use";
            return refuse(PackRefusalKind::OutsideRoot, error, "start the program with --pack-root");
        }
        let name = free_name(root, &pack.name);
        let mut child = self.command(&pack.dir, &name).spawn().map_err(|e| {
            let error = format!("`touchline adapt` cannot be started: {e}");
            PackRefusal::new(PackRefusalKind::Internal, error, "see the log of the program")
        })?;
        let output = child.stderr.take();
        *state = LearnState {
            view: LearnView {
                stage: LearnStage::Learning,
                began: Some(rfc3339(shared.hub.clock().unix_ns())),
                pack: Some(name.clone()),
                former: Some(former),
                ..LearnView::default()
            },
            child: Some(child),
            ..LearnState::default()
        };
        drop(state);
        tracing::info!("learning from corrections: {name}");
        let learner = self.clone();
        let started = spawn("learn", move || learner.follow(output.map(BufReader::new), &name));
        if let Err(e) = started {
            self.cancel();
            return refuse(PackRefusalKind::Internal, &e.to_string(), "restart the program");
        }
        Ok(self.view())
    }

    /// The child.
    fn command(&self, pack: &Path, name: &str) -> Command {
        let LearnSettings { program, root, .. } = &self.shared.settings;
        let dir = self.shared.store.dir();
        let mut command = Command::new("nice");
        command.args(["-n", NICENESS]).arg(program).arg("adapt").arg("--from").arg(dir).arg("--pack").arg(pack);
        command.arg("-o").arg(partial(root, name)).args(["--name", name]).arg("--work").arg(dir.join(WORK));
        command.arg("--json").arg(dir.join(WORK).join("report.json"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Threads that wait for each other would wait long, because each gets little time.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        command.env("RAYON_NUM_THREADS", (processors / 2).max(1).to_string());
        for name in TOKEN_VARIABLES {
            command.env_remove(name);
        }
        command
    }

    /// Reads the child's output until it ends, then takes its pack.
    fn follow(&self, output: Option<impl BufRead>, name: &str) {
        for line in output.into_iter().flat_map(BufRead::lines).map_while(std::io::Result::ok) {
            let line: String = self.shown(&line).replace(char::is_control, " ").chars().take(LINE_MAX).collect();
            let lines = &mut self.state().view.lines;
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        let status = self.status();
        let ended = self.take(status, name);
        let dir = self.shared.store.dir();
        // Only disk space remains to be freed.
        let _ = std::fs::remove_dir_all(dir.join(WORK));
        let _ = std::fs::remove_dir_all(partial(&self.shared.settings.root, name));
        let mut state = self.state();
        state.child = None;
        state.view.ended = Some(rfc3339(self.shared.hub.clock().unix_ns()));
        match ended {
            _ if state.is_cancelled => state.view.stage = LearnStage::Cancelled,
            Ok(report) => {
                tracing::info!("{name} has learned and runs as shadow");
                (state.view.stage, state.view.report) = (LearnStage::Compared, Some(report));
            }
            Err(error) => {
                let error = self.shown(&error);
                tracing::error!("{name} has not learned: {error}");
                (state.view.stage, state.view.error) = (LearnStage::Failed, Some(error));
            }
        }
    }

    /// Waits for the end of the child. It may run for long after it has closed its output, so the state is free meanwhile: it can be seen,
    /// and the child be killed.
    fn status(&self) -> Option<std::io::Result<ExitStatus>> {
        let mut state = self.state();
        loop {
            match state.child.as_mut()?.try_wait() {
                Ok(None) => {
                    self.shared.killed.wait_for(&mut state, POLL);
                }
                Ok(Some(status)) => return Some(Ok(status)),
                Err(e) => return Some(Err(e)),
            }
        }
    }

    /// A text for clients, who do not learn where packs and corrections are on this machine.
    fn shown(&self, text: &str) -> String {
        let LearnShared { settings, store, .. } = &*self.shared;
        let [root, dir] = [&*settings.root, store.dir()].map(|path| format!("{}", path.display()));
        redact::text(text).replace(&format!("{root}/"), "").replace(&dir, "corrections")
    }

    /// Moves the child's pack into the root of packs and runs it as shadow. Returns its figures, or why there is no new pack.
    fn take(
        &self,
        status: Option<std::io::Result<ExitStatus>>,
        name: &str,
    ) -> std::result::Result<LearnReport, String> {
        if self.state().is_cancelled {
            return Err("cancelled".into());
        }
        match status {
            Some(Ok(status)) if status.success() => {}
            Some(Ok(status)) => {
                let said = self.state().view.lines.back().cloned();
                let said = said.as_deref().map(|line| line.strip_prefix("touchline: ").unwrap_or(line).to_owned());
                return Err(said.unwrap_or_else(|| format!("`touchline adapt` ended: {status}")));
            }
            Some(Err(e)) => return Err(format!("`touchline adapt` cannot be waited for: {e}")),
            None => return Err("`touchline adapt` did not start".into()),
        }
        let root = &self.shared.settings.root;
        let path = self.shared.store.dir().join(WORK).join("report.json");
        let report = std::fs::read(&path).map_err(|e| e.to_string());
        let report = report.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
        let report: LearnReport = report.map_err(|e| format!("the figures of the new pack cannot be read: {e}"))?;
        std::fs::rename(partial(root, name), root.join(name))
            .map_err(|e| format!("the new pack cannot be put into the root of packs: {e}"))?;
        let slot = self.shared.shadow.get().ok_or("the program is starting")?;
        slot.start(&root.join(name)).map_err(|e| format!("the new pack cannot run as shadow: {e}"))?;
        Ok(report)
    }

    /// Ends the child, if a pack is learning.
    pub fn cancel(&self) {
        let mut state = self.state();
        if state.view.stage == LearnStage::Learning {
            state.is_cancelled = true;
            if let Some(child) = &mut state.child {
                // It may have ended.
                let _ = child.kill();
                self.shared.killed.notify_all();
            }
        }
    }

    /// Puts the new pack into use, and ends the shadow, which is the same pack.
    ///
    /// # Errors
    /// If no pack has learned, or the pack thread refuses it.
    pub async fn swap(&self) -> std::result::Result<LearnView, PackRefusal> {
        self.put_into_use(&[LearnStage::Compared, LearnStage::RolledBack], LearnStage::InUse, |view| view.pack.clone())
            .await
    }

    /// Puts the former pack into use again.
    ///
    /// # Errors
    /// If no new pack is in use, or the pack thread refuses the former one.
    pub async fn roll_back(&self) -> std::result::Result<LearnView, PackRefusal> {
        self.put_into_use(&[LearnStage::InUse], LearnStage::RolledBack, |view| view.former.clone()).await
    }

    async fn put_into_use(
        &self,
        from: &[LearnStage],
        to: LearnStage,
        pack: impl Fn(&LearnView) -> Option<String>,
    ) -> std::result::Result<LearnView, PackRefusal> {
        let view = self.state().view.clone();
        let pack = pack(&view).filter(|_| from.contains(&view.stage)).ok_or_else(|| {
            let error = "there is no pack that could be put into use";
            PackRefusal::new(PackRefusalKind::Incompatible, error, "see GET /api/v1/learn")
        })?;
        let gone =
            |_| PackRefusal::new(PackRefusalKind::NotReady, "the program is shutting down", "retry after its restart");
        let outcome: PackOutcome = self.shared.packs.submit(Some(pack.into()))?.await.map_err(gone)?;
        outcome?;
        self.state().view.stage = to;
        if let Some(slot) = self.shared.shadow.get() {
            slot.stop();
        }
        Ok(self.view())
    }

    /// Ends learning for good: the program ends.
    pub fn shut_down(&self) {
        self.state().is_over = true;
        self.cancel();
    }
}

/// The directory of a pack that is being written.
fn partial(root: &Path, name: &str) -> PathBuf {
    root.join(format!(".{name}.part"))
}

/// A name for the pack that learns from `pack`: that of its first ancestor with a number.
fn free_name(root: &Path, pack: &str) -> String {
    let base = match pack.rsplit_once(TAUGHT) {
        Some((base, number)) if number.parse::<u32>().is_ok() => base,
        _ => pack,
    };
    let base = crate::clips::name(&[base]);
    let names = (1_u32..).map(|number| format!("{base}{TAUGHT}{number}"));
    names.into_iter().find(|name| !root.join(name).exists()).unwrap_or(base)
}
