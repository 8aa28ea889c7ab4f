//! An engine whose networks are on GPUs: loading, scoring, and the way back to the CPU.

use std::sync::{Arc, Mutex, PoisonError};

use super::gpu::{Lanes, Rows};
use super::{Engine, Gpus, Memory, Models, Scored};
use crate::features::FeatureExtractor;
use crate::gpu::GpuError;
use crate::gpu::placement::{Placement, Wish};
use crate::models::pack::Pack;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::fusion::second_scores;
use touchline_core::labels::Modality;
use touchline_core::observer::Observer;

impl Engine {
    /// As [`Engine::load_beside`], on these GPUs; with `fall_back` on the CPU where they fail.
    pub(super) fn load_on_gpus(
        pack: Pack,
        running: Option<&Models>,
        ordinals: &[usize],
        fall_back: bool,
    ) -> Result<Self> {
        let pack = Arc::new(pack);
        // With the same networks there is nothing to load: the table and the temperatures are the engine's.
        let shared = running.filter(|r| r.pack.placement == pack.placement && r.pack.same_networks(&pack));
        let gpus = match shared.and_then(|running| running.gpus.clone()) {
            Some(gpus) => Ok(gpus),
            None => Lanes::open(&pack, ordinals, pack.placement.numbers).map(|lanes| Gpus(Arc::new(Mutex::new(lanes)))),
        };
        match gpus {
            Ok(gpus) => {
                let stamp = Arc::new(pack.stamp());
                let models = Models { pack, stamp, networks: PerModality::default(), gpus: Some(gpus) };
                let extractor = FeatureExtractor::new(None, None, None)
                    .map_err(|cause| Error::pack(&models.pack.dir, cause, "correct the key named"))?;
                Ok(Self { models, extractor, memory: Memory::default() })
            }
            Err(Error::Device(cause)) if fall_back => {
                tracing::warn!("computing on the CPU: {cause}");
                Self::load_on_cpu(Arc::unwrap_or_clone(pack), None)
            }
            Err(e) => Err(e),
        }
    }

    /// The models' raw outputs, as [`Engine::logits`].
    pub(super) fn rows_on_gpus(
        &mut self,
        seconds: &[&ClipSecond],
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<Rows>> {
        let Some(Gpus(lanes)) = self.models.gpus.clone() else {
            return Err(Error::Internal("seconds were sent to a GPU that is not there".into()));
        };
        // A panic of another engine's batch leaves nothing half done: rows are the caller's own.
        let outcome = lanes.lock().unwrap_or_else(PoisonError::into_inner).rows(seconds, observer);
        match outcome {
            Ok(rows) => Ok(rows),
            Err(GpuError::Device(cause)) if self.models.pack.placement.wish == Wish::Auto => {
                tracing::error!("{cause}; computing on the CPU from now on");
                let mut pack = (*self.models.pack).clone();
                pack.placement = Placement { wish: Wish::Cpu, ..pack.placement };
                *self = Self::load_on_cpu(pack, None)?;
                self.logits(seconds)
            }
            Err(e) => Err(Error::Device(e.to_string())),
        }
    }

    /// Fills in the scores, as [`Engine::score`].
    pub(super) fn score_on_gpus(
        &mut self,
        seconds: &[&ClipSecond],
        mut scored: Vec<Scored>,
        observer: &dyn Observer,
    ) -> Result<Vec<Scored>> {
        let rows = self.rows_on_gpus(seconds, Some(observer))?;
        for modality in Modality::ALL {
            let Some(model) = self.models.pack.model(modality) else {
                // No scores and no reason of the clip's: what is missing is the model.
                scored.iter_mut().for_each(|s| *s.absent.get_mut(modality) = None);
                continue;
            };
            for (second, rows) in scored.iter_mut().zip(&rows) {
                let own: Vec<Vec<f32>> = rows.get(modality).iter().map(|row| self.softmax(model, row)).collect();
                *second.scores.get_mut(modality) = second_scores(own.iter().map(Vec::as_slice));
            }
        }
        Ok(scored)
    }
}
