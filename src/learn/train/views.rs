//! New random views of the training samples for each epoch of step 2. Rows that an epoch repeats are learnt by heart.

use std::path::PathBuf;

use super::{Job, PreparedModality};
use crate::classes::{self, Samples};
use crate::dataset::split::Side;
use crate::fit::{EpochRows, Observer};
use crate::rows::{Recipe, Rows};
use touchline_core::error::Result;

/// The rows of each epoch, in a folder of the cache that belongs to one training, or to all folds of one.
pub(super) struct FreshViews<'a> {
    job: &'a Job<'a>,
    begun: &'a PreparedModality,
    /// The sides of the samples: those of the dataset, or of a fold.
    sides: &'a [Side],
    /// Whether the epochs are those of a fold. All folds use the same rows, and each has its own part of them.
    is_fold: bool,
    dir: PathBuf,
}

impl<'a> FreshViews<'a> {
    /// Returns [`None`] when all epochs use the same rows.
    pub fn new(job: &'a Job<'a>, begun: &'a PreparedModality, sides: &'a [Side], is_fold: bool) -> Option<Self> {
        let dir = job.plan.cache.join(format!("views-{}", &begun.ground[..16]));
        begun.config.tune.fresh_views.then_some(Self { job, begun, sides, is_fold, dir })
    }

    /// Removes the rows of all epochs.
    pub fn remove_files(&self) {
        // Files that stay only take space.
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    fn dir_of(&self, epoch: u32) -> PathBuf {
        self.dir.join(format!("epoch-{epoch}"))
    }
}

impl EpochRows for FreshViews<'_> {
    fn of_epoch(&self, epoch: u32, observer: &mut dyn Observer) -> Result<(Rows, Samples)> {
        let (job, begun) = (self.job, self.begun);
        if !self.is_fold {
            // The last epoch's. It may have been removed before.
            let _ = std::fs::remove_dir_all(self.dir_of(epoch - 1));
        }
        let sides: &[Side] = if self.is_fold { &[Side::Train, Side::Validation] } else { &[Side::Train] };
        // Views that the cached rows do not have.
        let view = job.plan.views.0.max(job.plan.views.1) + epoch;
        let wanted = classes::wanted_view(job.dataset, (job.sides, sides), &begun.names, begun.modality, view);
        let recipe = Recipe { pooled: false, ..job.recipe(begun) };
        let rows = job.make_rows(begun, &wanted, &recipe, &self.dir_of(epoch), observer)?;
        let samples = classes::samples(job.dataset, self.sides, &begun.names, &rows.keys, Side::Train);
        Ok((rows, samples))
    }
}
