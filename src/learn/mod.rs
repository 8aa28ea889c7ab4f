//! Training on labelled recordings: manifests, split by source, frozen-backbone features, heads, figures, packs.
//!
//! The same feature code and clip builder as serving: what a head is trained on is what it will see.

pub mod augment;
mod card;
pub mod dataset;
pub mod evaluate;
pub mod extract;
pub mod head;
pub mod measure;
pub mod net;
pub mod record;
pub mod train;
