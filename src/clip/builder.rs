//! The state machine that cuts seconds.

use super::{ClipOutput, Patience, SamplingPlan};
use crate::ingest::MediaItem;

/// What a [`ClipBuilder`] is made from.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// Hz of the mono sound in every [`super::ClipSecond`]; `None` when the pack has no audio model.
    pub sample_rate: Option<u32>,
    pub plan: SamplingPlan,
    pub patience: Patience,
}

/// Cuts one stream into seconds.
#[derive(Debug)]
pub struct ClipBuilder {
    config: ClipConfig,
}

impl ClipBuilder {
    pub fn new(config: ClipConfig) -> Self {
        Self { config }
    }

    /// Takes one item; appends what follows from it to `out`.
    pub fn push(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        let _ = (&self.config, item, out);
    }
}
