//! Rollouts: a pack becomes that of the whole fleet in stages, and the old one stays if it is not good.
//!
//! One key of the bucket has the [`Rollout`], and each node writes a [`PackReport`]. Every change of the rollout names the revision that it
//! replaces, so of two operators or nodes one wins.
//!
//! ```text
//! canary ── the canary compares ──► rolling ── one node after another swaps, is watched ──► done
//!    └────────────────────────────────┴── agreement, digest, load, node, failures, operator ──► halted
//! ```
//!
//! What a node should run follows from the rollout alone ([`Rollout::wanted`]): a node that joins late, and one that was away when the
//! rollout was halted, does the same as the others.

mod machine;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NodeName, name_text};
pub(crate) use machine::states;
pub use machine::{RolloutAction, RolloutFacts, RolloutNode, TaskFailure};

/// Entries of the log of a rollout.
const LOG_MAX: usize = 50;

/// A pack in the object store of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FleetPack")]
pub struct PackRef {
    /// Its name.
    pub name: String,
    /// SHA-256 over the names and hashes of its files, hexadecimal.
    pub digest: String,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RolloutStage {
    /// The canary compares the pack with the one that it runs.
    Canary,
    /// One machine after another takes it.
    Rolling,
    /// It is the pack of the fleet.
    Done,
    /// It was stopped, and all machines run the former pack.
    Halted,
}

impl RolloutStage {
    /// All stages.
    pub const ALL: [Self; 4] = [Self::Canary, Self::Rolling, Self::Done, Self::Halted];

    /// The name in the API and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Rolling => "rolling",
            Self::Done => "done",
            Self::Halted => "halted",
        }
    }
}

/// Why a rollout was halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HaltReason {
    /// The canary's packs agreed on too few seconds.
    AgreementTooLow,
    /// The canary could not compare enough seconds in time.
    NotCompared,
    /// A file in the object store is not the one that was published.
    DigestWrong,
    /// A machine could not load the pack.
    LoadFailed,
    /// A machine that runs the pack, or compares it, was lost or restarted.
    NodeLost,
    /// A machine failed on seconds after it had taken the pack.
    NewFailures,
    /// A person halted it.
    Operator,
}

impl HaltReason {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgreementTooLow => "agreement-too-low",
            Self::NotCompared => "not-compared",
            Self::DigestWrong => "digest-wrong",
            Self::LoadFailed => "load-failed",
            Self::NodeLost => "node-lost",
            Self::NewFailures => "new-failures",
            Self::Operator => "operator",
        }
    }
}

/// The end of a rollout that was halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutHalt {
    /// Why, for programs.
    pub reason: HaltReason,
    /// The machine on which it happened; null for a person.
    pub node: Option<String>,
    /// Why, for people.
    pub text: String,
}

/// A process of a node. A restart makes another one; a session that was fenced and joined again does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Name of the node.
    #[serde(with = "name_text")]
    pub node: NodeName,
    /// Random number of the process.
    pub process: u64,
}

/// What a pack must do before the whole fleet takes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutRules {
    /// Share of the compared seconds on which both packs must have the same label.
    #[schemars(range(min = 0, max = 1))]
    pub agreement: f64,
    /// Seconds of streams that the canary compares.
    pub seconds: u32,
    /// How long each machine is watched after it has taken the pack, seconds.
    pub watch_s: u32,
}

/// Something that happened in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStep {
    /// When, nanoseconds since 1970-01-01 UTC, by the clock of who did it.
    pub unix_ns: i64,
    /// What.
    pub text: String,
}

/// The rollout of a pack. The last one stays in the bucket: it says which pack is that of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Number that no other rollout has.
    pub id: u32,
    /// The pack.
    pub pack: PackRef,
    /// The pack of the fleet before; `None`: each node's own.
    pub former: Option<PackRef>,
    /// How far it is.
    pub stage: RolloutStage,
    /// The node that compares the pack first, and takes it first.
    pub canary: Member,
    /// What the pack must do.
    pub rules: RolloutRules,
    /// The node that takes the pack now, or is watched after that.
    pub turn: Option<Member>,
    /// The nodes that have taken it.
    pub swapped: BTreeSet<Member>,
    /// Why it was halted.
    pub halt: Option<RolloutHalt>,
    /// What happened, the latest last.
    pub log: Vec<RolloutStep>,
}

/// What a node should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedPacks<'a> {
    /// The pack that decides; `None`: its own.
    pub running: Option<&'a PackRef>,
    /// The pack that is compared with it.
    pub compared: Option<&'a PackRef>,
}

impl Rollout {
    /// A rollout at its start. `former` is the pack of the fleet until then.
    pub fn new(id: u32, pack: PackRef, former: Option<PackRef>, canary: Member, rules: RolloutRules) -> Self {
        let (turn, swapped, halt, log) = (None, BTreeSet::new(), None, Vec::new());
        Self { id, pack, former, stage: RolloutStage::Canary, canary, rules, turn, swapped, halt, log }
    }

    /// Whether it is not over.
    pub fn is_active(&self) -> bool {
        matches!(self.stage, RolloutStage::Canary | RolloutStage::Rolling)
    }

    /// The pack of the fleet that a rollout after this one replaces.
    pub fn fleet_pack(&self) -> Option<&PackRef> {
        if self.stage == RolloutStage::Done { Some(&self.pack) } else { self.former.as_ref() }
    }

    /// What `member` should do.
    pub fn wanted(&self, member: &Member) -> WantedPacks<'_> {
        let former = self.former.as_ref();
        let compares = self.stage == RolloutStage::Canary && self.canary == *member;
        let takes = match self.stage {
            RolloutStage::Canary | RolloutStage::Halted => false,
            RolloutStage::Rolling => self.turn.as_ref() == Some(member) || self.swapped.contains(member),
            RolloutStage::Done => true,
        };
        WantedPacks { running: if takes { Some(&self.pack) } else { former }, compared: compares.then_some(&self.pack) }
    }

    /// Adds to the log.
    pub fn log(&mut self, unix_ns: i64, text: impl Into<String>) {
        if self.log.len() == LOG_MAX {
            self.log.remove(0);
        }
        self.log.push(RolloutStep { unix_ns, text: text.into() });
    }

    /// Halts it.
    pub fn halt(&mut self, unix_ns: i64, reason: HaltReason, node: Option<&str>, text: impl Into<String>) {
        let text = text.into();
        let at = node.map_or(String::new(), |node| format!(" on {node}"));
        self.log(unix_ns, format!("halted{at}: {text}"));
        (self.stage, self.turn) = (RolloutStage::Halted, None);
        self.halt = Some(RolloutHalt { reason, node: node.map(str::to_owned), text });
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let (name, canary) = (&self.pack.name, &self.canary.node);
        match (&self.stage, &self.halt) {
            (RolloutStage::Canary, _) => format!("pack {name} is compared on {canary}"),
            (RolloutStage::Rolling, _) => match &self.turn {
                Some(turn) => format!("{} machines have pack {name}, {} takes it", self.swapped.len(), turn.node),
                None => format!("{} machines have pack {name}", self.swapped.len()),
            },
            (RolloutStage::Done, _) => format!("pack {name} is that of the fleet"),
            (RolloutStage::Halted, None) => format!("the rollout of pack {name} is halted"),
            (RolloutStage::Halted, Some(halt)) => {
                let at = halt.node.as_ref().map_or(String::new(), |node| format!(" on {node}"));
                format!("the rollout of pack {name} is halted{at}: {}", halt.text)
            }
        }
    }
}

/// What a node has done about packs of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PackStep {
    /// It runs the pack that it should run.
    #[default]
    Settled,
    /// It fetches, loads or swaps a pack.
    Changing,
    /// It compares a pack with the one that it runs.
    Comparing,
    /// It is watched after a swap.
    Watched,
    /// It could not do what it should.
    Failed,
}

/// Seconds that both packs of a node decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedSeconds {
    /// Seconds with the same label.
    pub same: u64,
    /// All seconds.
    pub seconds: u64,
}

impl ComparedSeconds {
    /// The share with the same label; `None` before the first.
    pub fn agreement(self) -> Option<f64> {
        (self.seconds > 0).then(|| self.same as f64 / self.seconds as f64)
    }
}

/// The pack of a node, as it reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Random number of its process.
    pub process: u64,
    /// The pack of the fleet that it runs; `None`: its own.
    pub running: Option<String>,
    /// What it does.
    pub step: PackStep,
    /// Seconds that it has compared, while it compares.
    pub compared: Option<ComparedSeconds>,
    /// Why it could not do what it should.
    pub problem: Option<String>,
}
