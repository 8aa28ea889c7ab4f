//! Training on labelled recordings: manifests, split by source, frozen-backbone features, heads, figures, packs.
//!
//! The same feature code and clip builder as serving: what a head is trained on is what it will see.

pub mod augment;
mod card;
pub mod evaluate;
pub mod extract;
pub mod head;
pub mod manifest;
pub mod measure;
pub mod record;
pub mod report;
pub mod resources;
pub mod rules;
pub mod split;
pub mod train;
