//! Teaching: what people say that seconds show, and what a pack learns from it.
//!
//! ```text
//!  infer ── second, decision ──► teach ──► Memory ──► suggestions, pictures ──► page
//!                                (JPEG)      │
//!                             answer ────────┴─► CorrectionStore: DIR/clips, DIR/corrections.jsonl
//!                                                      │
//!                                       Learner: `touchline adapt` ──► shadow ──► running pack
//! ```
//!
//! [`Memory`] holds the latest seconds as the models saw them. An answer writes those that it is about to the folder of corrections,
//! which `touchline dataset build` and `touchline adapt` read as it is. Older seconds are decoded again from the ring of the stream
//! ([`PastSeconds`]), if it is recorded.

mod doubt;
mod feed;
pub mod learn;
mod memory;
mod past;
mod store;
pub mod types;

use std::sync::Arc;

pub use self::feed::{TeachFeed, TeachThread, see};
use self::learn::Learner;
pub use self::memory::{HeldDecision, HeldSecond, Memory};
pub use self::past::{PastSecond, PastSeconds};
pub use self::store::CorrectionStore;

/// What the API needs.
#[derive(Clone)]
pub struct TeachAccess {
    /// The latest seconds.
    pub memory: Arc<Memory>,
    /// The corrections.
    pub store: Arc<CorrectionStore>,
    /// Learns from them.
    pub learner: Learner,
}

#[cfg(test)]
mod tests;
