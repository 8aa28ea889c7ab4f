//! Decode tiers: which coded pictures of a stream are decoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which coded pictures are decoded. A later tier costs less and sees less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecodeTier {
    /// All.
    Full,
    /// All that other pictures refer to, and of the rest those that the sampling plan may choose. The samples are those of
    /// [`DecodeTier::Full`].
    #[default]
    Lean,
    /// As [`DecodeTier::Lean`], for a plan without pairs for the flow model.
    Sparse,
    /// Key pictures.
    Key,
}

impl DecodeTier {
    /// All tiers, in order.
    pub const ALL: [DecodeTier; 4] = [DecodeTier::Full, DecodeTier::Lean, DecodeTier::Sparse, DecodeTier::Key];

    /// The name in settings, records and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            DecodeTier::Full => "full",
            DecodeTier::Lean => "lean",
            DecodeTier::Sparse => "sparse",
            DecodeTier::Key => "key",
        }
    }

    /// Whether pairs of pictures are sampled for the flow model.
    pub const fn has_flow(self) -> bool {
        matches!(self, DecodeTier::Full | DecodeTier::Lean)
    }
}

/// The tier of one or more streams, which may change while they run. Clones share it.
#[derive(Clone, Debug)]
pub struct SharedTier(Arc<AtomicU8>);

impl SharedTier {
    /// Starts at `tier`.
    pub fn new(tier: DecodeTier) -> Self {
        Self(Arc::new(AtomicU8::new(tier as u8)))
    }

    /// The current tier.
    pub fn get(&self) -> DecodeTier {
        DecodeTier::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Changes the tier, from the next second on.
    pub fn set(&self, tier: DecodeTier) {
        self.0.store(tier as u8, Ordering::Relaxed);
    }
}

impl Default for SharedTier {
    fn default() -> Self {
        Self::new(DecodeTier::default())
    }
}
