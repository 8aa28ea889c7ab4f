//! Packs of a fleet: publishing, listing and removing them, and their rollouts.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::{FleetAdmin, unknown_node};
use crate::fleet::rollout::{HaltReason, Member, PackRef, Rollout, RolloutRules};
use crate::fleet::store::FleetStoreFailure;
use crate::fleet::{FleetKey, FleetSnapshot, FleetValue, NodeState};
use touchline_core::error::{Error, Result};

/// Digits of a digest that identify a pack for people.
const DIGITS: usize = 12;

/// A digest as people see it.
pub fn short(digest: &str) -> &str {
    digest.get(..DIGITS).unwrap_or(digest)
}

fn rollout(all: &FleetSnapshot) -> Option<&Rollout> {
    match all.get(&FleetKey::Rollout) {
        Some((FleetValue::Rollout(rollout), _)) => Some(rollout),
        _ => None,
    }
}

impl FleetAdmin {
    fn failed(&self, failure: FleetStoreFailure) -> Error {
        Error::output(&self.place, failure.to_string(), "see `touchline pack publish --help`")
    }

    /// Puts the pack in `dir` into the object store of the fleet. A pack that is there stays as it is.
    ///
    /// # Errors
    /// [`Error::Output`] if the pack is damaged, or the server does not take it.
    pub fn publish(&self, dir: &Path) -> Result<PackRef> {
        self.runtime.block_on(self.store.publish_pack(dir)).map_err(|e| self.failed(e))
    }

    /// The packs in the object store, by name.
    ///
    /// # Errors
    /// [`Error::Output`] if the server does not answer.
    pub fn packs(&self) -> Result<Vec<PackRef>> {
        self.runtime.block_on(self.store.packs()).map_err(|e| self.failed(e))
    }

    /// The published pack with this name, or whose digest begins so.
    fn pack(&self, pack: &str) -> Result<PackRef> {
        let packs = self.packs()?;
        let mut found =
            packs.into_iter().filter(|known| known.name == pack || pack.len() >= 4 && known.digest.starts_with(pack));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => {
                let text = format!("there is no published pack {pack:?}; `touchline pack list` lists them");
                Err(Error::Usage(text))
            }
            (Some(_), Some(_)) => {
                let text =
                    format!("{pack:?} is more than one pack; give the digest, as `touchline pack list` shows it");
                Err(Error::Usage(text))
            }
        }
    }

    /// Removes a published pack that no rollout needs.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none or it is needed, [`Error::Output`] if the server does not remove it.
    pub fn unpublish(&self, pack: &str) -> Result<PackRef> {
        let pack = self.pack(pack)?;
        let all = self.snapshot()?;
        let is_needed = rollout(&all).is_some_and(|rollout| {
            [Some(&rollout.pack), rollout.former.as_ref()]
                .into_iter()
                .flatten()
                .any(|known| known.digest == pack.digest)
        });
        if is_needed {
            let text = format!("machines may need pack {:?}; remove it after another rollout", pack.name);
            return Err(Error::Usage(text));
        }
        self.runtime.block_on(self.store.remove_pack(&pack.digest)).map_err(|e| self.failed(e))?;
        Ok(pack)
    }

    /// Starts the rollout of a published pack. Without a canary it is the machine that watches most streams.
    ///
    /// # Errors
    /// [`Error::Usage`] if another rollout is not over, the fleet has the pack already, or the canary cannot be one, [`Error::Output`] if the
    /// change is not acknowledged.
    pub fn roll_out(&self, pack: &str, canary: Option<&str>, rules: RolloutRules) -> Result<Rollout> {
        let pack = self.pack(pack)?;
        let canary = match canary {
            Some(canary) => canary.to_owned(),
            None => {
                let view = self.view()?;
                let active = view.nodes.into_iter().filter(|node| node.state == NodeState::Active);
                let most = active.max_by_key(|node| (node.pack.is_some(), node.streams));
                most.ok_or_else(|| Error::Usage("no machine is there; start one first".to_owned()))?.name
            }
        };
        let mut id = [0; 4];
        let filled = SystemRandom::new().fill(&mut id);
        filled.map_err(|_| Error::Internal("the system has no random numbers".into()))?;
        let id = u32::from_le_bytes(id);
        let started = std::cell::RefCell::new(None);
        self.change(|all| {
            let before = rollout(all);
            if let Some(active) = before.filter(|before| before.is_active()) {
                let text = format!("a rollout is not over: {}; wait, or halt it", active.summary());
                return Err(Error::Usage(text));
            }
            let former = before.and_then(Rollout::fleet_pack).cloned();
            if former.as_ref().is_some_and(|former| former.digest == pack.digest) {
                return Err(Error::Usage(format!("pack {:?} is that of the fleet already", pack.name)));
            }
            let is_active = match all.get(&FleetKey::Node(canary.as_str().into())) {
                Some((FleetValue::Node(node), _)) => node.state == NodeState::Active,
                _ => return Err(unknown_node(&canary)),
            };
            let Some((FleetValue::Pack(report), _)) =
                all.get(&FleetKey::Pack(canary.as_str().into())).filter(|_| is_active)
            else {
                let text = format!("machine {canary:?} cannot be the canary: it is not there; choose another one");
                return Err(Error::Usage(text));
            };
            let member = Member { node: canary.as_str().into(), process: report.process };
            let new = Rollout::new(id, pack.clone(), former, member, rules);
            *started.borrow_mut() = Some(new.clone());
            Ok((FleetKey::Rollout, Some(FleetValue::Rollout(Box::new(new)))))
        })?;
        started.into_inner().ok_or_else(|| Error::Internal("a change was written and not made".into()))
    }

    /// Halts the rollout. All machines run the former pack again.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none that is not over, [`Error::Output`] if the change is not acknowledged.
    pub fn halt(&self, unix_ns: i64) -> Result<()> {
        self.change(|all| match rollout(all).filter(|rollout| rollout.is_active()) {
            Some(active) => {
                let mut halted = active.clone();
                halted.halt(unix_ns, HaltReason::Operator, None, "halted by a person");
                Ok((FleetKey::Rollout, Some(FleetValue::Rollout(Box::new(halted)))))
            }
            None => Err(Error::Usage("there is no rollout that could be halted".to_owned())),
        })
    }

    /// Forgets a rollout that was halted, so that nothing reports it any more. The fleet keeps its pack.
    ///
    /// # Errors
    /// [`Error::Usage`] if none was halted, [`Error::Output`] if the change is not acknowledged.
    pub fn forget_halted(&self) -> Result<()> {
        use crate::fleet::rollout::RolloutStage::{Done, Halted};
        self.change(|all| {
            let halted = rollout(all).filter(|rollout| rollout.stage == Halted);
            let halted = halted.ok_or_else(|| Error::Usage("no rollout is halted".to_owned()))?;
            let former = halted.former.clone().map(|pack| {
                let done = Rollout { stage: Done, pack, former: None, halt: None, ..halted.clone() };
                FleetValue::Rollout(Box::new(done))
            });
            Ok((FleetKey::Rollout, former))
        })
    }
}
