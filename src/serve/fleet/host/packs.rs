//! Rollouts on this machine: drives the [`RolloutNode`] with the object store, the shadow and the pack thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::FleetControls;
use super::link::HostEvent;
use crate::control::packs::{PackControl, PackRefusal, PackRefusalKind};
use crate::fleet::rollout::{
    ComparedSeconds, HaltReason, Member, PackRef, PackStep, Rollout, RolloutAction, RolloutFacts, RolloutNode,
    RolloutStage, TaskFailure, states,
};
use crate::fleet::store::is_digest;
use crate::fleet::{FleetKey, FleetNode, FleetStore, FleetValue, NodeName};
use crate::hub::Hub;
use crate::metrics::RolloutCounts;
use crate::teach::learn::ShadowSlot;
use touchline_core::redact;

/// Between two ticks of the rollout.
const TICK_NS: u64 = 500_000_000;

/// When a write is given up.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Names of the stages, for the metrics.
const STAGES: [&str; 4] = [
    RolloutStage::ALL[0].as_str(),
    RolloutStage::ALL[1].as_str(),
    RolloutStage::ALL[2].as_str(),
    RolloutStage::ALL[3].as_str(),
];

type Events = mpsc::UnboundedSender<HostEvent>;

/// The part of this machine in rollouts.
pub(super) struct PackHost {
    node: RolloutNode,
    me: NodeName,
    /// The folder of the packs of the fleet.
    root: PathBuf,
    /// The directory of this machine's own pack.
    own: Option<PathBuf>,
    packs: PackControl,
    shadow: Arc<dyn ShadowSlot>,
    hub: Hub,
    due_ns: u64,
    /// The log and the stage of the rollout that were logged here.
    logged: (u32, usize),
    failed: Option<String>,
}

impl PackHost {
    pub(super) fn new(me: NodeName, process: u64, root: PathBuf, controls: &FleetControls, hub: &Hub) -> Self {
        let member = Member { node: me.clone(), process };
        Self {
            node: RolloutNode::new(member, hub.clock().mono_ns()),
            me,
            root: std::path::absolute(&root).unwrap_or(root),
            own: None,
            packs: controls.packs.clone(),
            shadow: controls.shadow.clone(),
            hub: hub.clone(),
            due_ns: 0,
            logged: (0, 0),
            failed: None,
        }
    }

    /// The part in rollouts.
    pub(super) fn node(&self) -> &RolloutNode {
        &self.node
    }

    pub(super) fn observe(&mut self, key: &FleetKey, value: Option<(FleetValue, u64)>) {
        self.node.observe(key, value);
        self.log();
    }

    pub(super) fn task_done(&mut self, action: &RolloutAction, outcome: Result<(), TaskFailure>, now_ns: u64) {
        match &outcome {
            Ok(()) => self.failed = None,
            Err(TaskFailure::Later(text) | TaskFailure::Final(_, text)) => {
                if self.failed.as_ref() != Some(text) {
                    let what = match action {
                        RolloutAction::Fetch(pack) => format!("pack {} cannot be fetched", pack.name),
                        RolloutAction::Compare(pack) => format!("pack {} cannot be compared", pack.name),
                        _ => "the pack cannot be changed".to_owned(),
                    };
                    tracing::error!("fleet: {what}: {text}");
                }
                self.failed = Some(text.clone());
            }
        }
        self.node.task_done(action, outcome, now_ns);
    }

    pub(super) fn written(&mut self, key: &FleetKey, value: Option<(FleetValue, u64)>) {
        self.node.written(key, value);
        self.log();
    }

    /// Writes the log of the rollout into that of the program, as far as it is new here.
    fn log(&mut self) {
        let Some(rollout) = self.node.rollout() else { return };
        let seen = if self.logged.0 == rollout.id { self.logged.1 } else { 0 };
        for step in rollout.log.iter().skip(seen) {
            let (name, text) = (&rollout.pack.name, &step.text);
            if rollout.stage == RolloutStage::Halted {
                tracing::error!("fleet: rollout of pack {name}: {text}");
            } else {
                tracing::info!("fleet: rollout of pack {name}: {text}");
            }
        }
        self.logged = (rollout.id, rollout.log.len());
    }

    fn dir(&self, pack: &PackRef) -> PathBuf {
        self.root.join(&pack.digest)
    }

    /// The pack of the fleet that a directory has.
    fn digest_of(&self, dir: &Path) -> Option<String> {
        let dir = std::path::absolute(dir).ok()?;
        let name = dir.strip_prefix(&self.root).ok()?.to_str()?;
        is_digest(name).then(|| name.to_owned())
    }

    fn facts(&mut self, may_act: bool) -> Option<RolloutFacts> {
        let (running, _) = self.hub.pack_status().running()?;
        let digest = self.digest_of(&running.dir);
        if digest.is_none() {
            self.own = Some(running.dir.clone());
        }
        let pack = self.node.rollout().map(|rollout| &rollout.pack);
        let compared = pack.and_then(|pack| self.hub.pack_status().compared_with(&self.dir(pack)));
        let health = self.hub.metrics().pack_health();
        Some(RolloutFacts {
            unix_ns: self.hub.clock().unix_ns(),
            may_act,
            running: digest,
            compared: compared.map(|(same, seconds)| ComparedSeconds { same, seconds }),
            failures: health.failures,
            shed: health.shed,
            decided: health.decided,
        })
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_ns: u64, fleet: &FleetNode, store: Option<&FleetStore>, events: &Events) {
        if now_ns < self.due_ns {
            return;
        }
        self.due_ns = now_ns + TICK_NS;
        let Some(facts) = self.facts(fleet.may_publish(now_ns)) else { return };
        for action in self.node.tick(now_ns, &states(fleet.nodes()), &facts) {
            self.perform(action, store, events);
        }
    }

    /// Performs an action. Its outcome is an event.
    fn perform(&self, action: RolloutAction, store: Option<&FleetStore>, events: &Events) {
        let (store, events) = (store.cloned(), events.clone());
        // The host is gone only at the end.
        let done = {
            let events = events.clone();
            move |action, outcome| drop(events.send(HostEvent::PackTask(Box::new(action), outcome)))
        };
        match action {
            RolloutAction::Put { key, value, revision } => {
                tokio::spawn(async move {
                    let written = async { store?.put(&key, &value, revision).await.ok().flatten() };
                    let written = timeout(WRITE_LIMIT, written).await.ok().flatten();
                    let _ = events.send(HostEvent::PackWritten(key, written));
                });
            }
            RolloutAction::Fetch(ref pack) => {
                let (pack, root, needed) = (pack.clone(), self.root.clone(), self.needed());
                let runtime = Handle::current();
                spawn_blocking(move || {
                    remove_others(&root, &needed);
                    let offline = || Err(TaskFailure::Later("there is no connection to NATS".into()));
                    let fetched = store.map_or_else(offline, |store| store.fetch_pack(&runtime, &pack, &root));
                    done(action, fetched);
                });
            }
            RolloutAction::Compare(ref pack) => {
                let (shadow, dir, folder) = (self.shadow.clone(), self.dir(pack), self.root.clone());
                spawn_blocking(move || {
                    let started = shadow.start(&dir).map_err(|e| {
                        let text = e.to_string().replace(&format!("{}/", folder.display()), "");
                        TaskFailure::Final(HaltReason::LoadFailed, redact::text(&text))
                    });
                    done(action, started);
                });
            }
            RolloutAction::EndCompare => {
                let shadow = self.shadow.clone();
                spawn_blocking(move || {
                    shadow.stop();
                    done(action, Ok(()));
                });
            }
            RolloutAction::Use(ref pack) => {
                let dir = pack.as_ref().map(|pack| self.dir(pack)).or_else(|| self.own.clone());
                let Some(dir) = dir else {
                    let text = "the machine's own pack is not known; restart the program".to_owned();
                    return done(action, Err(TaskFailure::Final(HaltReason::LoadFailed, text)));
                };
                let packs = self.packs.clone();
                tokio::spawn(async move {
                    let used = swap(&packs, dir).await;
                    done(action, used);
                });
            }
        }
    }

    /// Digests of the packs whose files must stay.
    fn needed(&self) -> Vec<String> {
        let running = self.hub.pack_status().running().and_then(|(pack, _)| self.digest_of(&pack.dir));
        self.node.needed().into_iter().chain(running).collect()
    }

    /// Updates the metrics.
    pub(super) fn report(&self) {
        let rollout = self.node.rollout();
        let reports = || self.node.reports();
        let canary = rollout.filter(|rollout| rollout.stage == RolloutStage::Canary);
        let canary = canary.and_then(|rollout| reports().find(|(node, _)| **node == rollout.canary.node));
        let digest = |node: &NodeName| reports().find(|(name, _)| *name == node).and_then(|(_, r)| r.running.clone());
        let has_pack = |rollout: &Rollout| {
            reports().filter(|(_, report)| report.running.as_ref() == Some(&rollout.pack.digest)).count()
        };
        let counts = RolloutCounts {
            stage: rollout.map(|rollout| rollout.stage.as_str()),
            agreement: canary.and_then(|(_, report)| report.compared?.agreement()),
            nodes: rollout.map_or(0, has_pack),
            digest: digest(&self.me).unwrap_or_default(),
        };
        self.hub.metrics().fleet().rollout(&STAGES, &counts);
    }

    /// What the page says; empty without anything.
    pub(super) fn notice(&self) -> String {
        let Some(rollout) = self.node.rollout() else { return String::new() };
        let mine = self.node.reports().find(|(node, _)| **node == self.me).map(|(_, report)| report);
        match mine.and_then(|report| report.problem.as_ref().filter(|_| report.step == PackStep::Failed)) {
            Some(problem) if !rollout.is_active() => {
                format!("this machine cannot run the pack of the fleet: {problem}")
            }
            _ if rollout.stage == RolloutStage::Done => String::new(),
            _ => rollout.summary(),
        }
    }
}

/// Puts the pack in `dir` into use.
async fn swap(packs: &PackControl, dir: PathBuf) -> Result<(), TaskFailure> {
    let refused = |PackRefusal { kind, error, .. }: PackRefusal| match kind {
        PackRefusalKind::Busy | PackRefusalKind::NotReady => TaskFailure::Later(error),
        _ => TaskFailure::Final(HaltReason::LoadFailed, error),
    };
    let ending = |_| TaskFailure::Later("the program is shutting down".into());
    let outcome = packs.submit_fleet(dir).map_err(refused)?.await.map_err(ending)?;
    outcome.map(drop).map_err(refused)
}

/// Deletes packs that no rollout needs any more, and what a fetch left that was cut off.
fn remove_others(root: &Path, needed: &[String]) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = name.strip_prefix('.').and_then(|name| name.strip_suffix(".part")).unwrap_or(&name);
        if is_digest(digest)
            && !needed.contains(&name)
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!("fleet: {}: an old pack cannot be deleted: {e}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packs_that_nothing_needs_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let digests = ["a", "b"].map(|digit| digit.repeat(64));
        let cut_off = format!(".{}.part", digests[0]);
        for name in [digests[0].as_str(), &digests[1], &cut_off, "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        remove_others(folder.path(), &digests[..1]);
        let mut left: Vec<String> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, [digests[0].as_str(), "other"]);
    }
}
