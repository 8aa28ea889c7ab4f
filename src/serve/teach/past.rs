//! Seconds that have left the memory: where they come from. A second of a correction, from memory or from the ring.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::memory::HeldSecond;
use touchline_core::labels::ClassId;
use touchline_core::time::RunId;
use touchline_media::gst::clips::ring::Arrived;
use touchline_media::gst::clips::{ClipError, SeenSecond};

/// A decided second that has left the memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PastSecond {
    /// Its number in its run.
    pub index: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub unix_ns: i64,
    /// The class that was decided.
    pub label: ClassId,
    /// Its probability.
    pub probability: f32,
    /// When its media arrived.
    pub arrived: Arrived,
}

/// Has seconds that left the memory. Every method waits for the disk.
pub trait PastSeconds: Send + Sync {
    /// Whether the media of a stream are recorded.
    fn is_recorded(&self, stream: &str) -> bool;

    /// The decided seconds from `from` to `to` of a run, both included, in order, as far as they are known.
    fn decided(&self, stream: &str, run: RunId, span: (u64, u64)) -> Vec<PastSecond>;

    /// What the models saw of `seconds`, in order of their numbers, by number. Those whose media are gone are left out. `is_cancelled` ends
    /// it early.
    ///
    /// # Errors
    /// [`ClipError::NoMedia`] if the media of all are gone; others if they cannot be read or decoded.
    fn see(
        &self,
        stream: &str,
        seconds: &[PastSecond],
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<BTreeMap<u64, SeenSecond>, ClipError>;
}

/// A second that a correction is about.
#[derive(Clone)]
pub(super) struct TaughtSecond {
    pub index: u64,
    pub unix_ns: i64,
    pub label: ClassId,
    pub probability: f32,
    pub material: SecondMaterial,
}

/// Where the pictures and the sound of a second are.
#[derive(Clone)]
pub(super) enum SecondMaterial {
    /// In memory.
    Held(Arc<HeldSecond>),
    /// In the ring.
    Past(PastSecond),
    /// They were in the ring.
    Seen(Arc<SeenSecond>),
}

impl TaughtSecond {
    /// What the models saw, once it is known.
    pub fn seen(&self) -> Option<&SeenSecond> {
        match &self.material {
            SecondMaterial::Held(held) => Some(&held.seen),
            SecondMaterial::Past(_) => None,
            SecondMaterial::Seen(seen) => Some(seen),
        }
    }

    /// The second, if it must be read from the ring.
    pub fn past(&self) -> Option<PastSecond> {
        match self.material {
            SecondMaterial::Past(past) => Some(past),
            _ => None,
        }
    }
}

impl From<Arc<HeldSecond>> for TaughtSecond {
    fn from(held: Arc<HeldSecond>) -> Self {
        let (label, probability) = (held.decision.label, held.decision.probability);
        Self { index: held.index, unix_ns: held.unix_ns, label, probability, material: SecondMaterial::Held(held) }
    }
}

impl From<PastSecond> for TaughtSecond {
    fn from(past: PastSecond) -> Self {
        let PastSecond { index, unix_ns, label, probability, .. } = past;
        Self { index, unix_ns, label, probability, material: SecondMaterial::Past(past) }
    }
}
