//! The engine: seconds in, scores and decisions out.
//!
//! A [`Backend`] computes logits; the engine applies temperature and softmax, takes the mean over the frames of a second, and
//! decides by the pack's class-to-modality table. One thread owns an engine. Seconds of several streams go through a model in
//! one batch, and on the CPU the scores of a second do not depend on its batch, so a replay gives the same decisions bit for
//! bit.

use std::sync::Arc;

use crate::backend::{Backend, BackendError, Loaded, Logits, open, open_cpu};
pub use crate::features::{is_silent, without_bars};
use crate::gpu::placement::{DeviceChoice, Placement};
use crate::models::pack::Pack;
use crate::nn::fused::Observed;
use touchline_core::clip::{Absent, ClipSecond};
use touchline_core::decision::{ModalityScores, PackStamp, PerModality, SecondPrediction};
use touchline_core::error::Result;
use touchline_core::fusion::second_scores;
use touchline_core::labels::{ClassId, Modality};
use touchline_core::observer::Observer;
use touchline_core::time::WallTime;

/// A pack and its loaded models, from which another engine can be made. Cloning copies no weights.
#[derive(Clone, Debug)]
pub struct Models {
    pack: Arc<Pack>,
    stamp: Arc<PackStamp>,
    loaded: Loaded,
}

impl Models {
    /// The pack, with the placement and precision it was loaded with.
    pub fn pack(&self) -> &Arc<Pack> {
        &self.pack
    }

    /// Name and hashes of the pack, which every decision carries.
    pub fn stamp(&self) -> &Arc<PackStamp> {
        &self.stamp
    }
}

/// The models of a pack, loaded and warm.
pub struct Engine {
    models: Models,
    backend: Box<dyn Backend>,
    /// Logits of a batch, kept for the next one.
    logits: PerModality<Logits>,
    /// Softmax of the rows of one modality: (rows, classes of the pack); kept as well.
    probabilities: Vec<f32>,
}

/// Scores of one second, and why a modality has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// `None` where the second has no input for the modality, or the pack has no model for it.
    pub scores: PerModality<Option<ModalityScores>>,
    /// Why the second has no input; `None` where it has one, or the pack has no model.
    pub absent: PerModality<Option<Absent>>,
}

/// Calls `compute` with the seconds, whose pictures for the RGB model have no bars.
fn with_content<T>(seconds: &[&ClipSecond], compute: impl FnOnce(&[&ClipSecond]) -> T) -> T {
    let cut: Vec<Option<ClipSecond>> = seconds.iter().map(|second| without_bars(second)).collect();
    if cut.iter().all(Option::is_none) {
        return compute(seconds);
    }
    let content: Vec<&ClipSecond> =
        seconds.iter().zip(&cut).map(|(second, cut)| cut.as_ref().unwrap_or(second)).collect();
    compute(&content)
}

impl Engine {
    /// Reads, verifies and builds the models of a pack, and runs each once so that the first second is not slower than the
    /// others. Where they compute is the pack's [`Placement`].
    ///
    /// # Errors
    /// [`Error::Pack`](touchline_core::error::Error::Pack) naming the file and what is wrong with it;
    /// [`Error::Device`](touchline_core::error::Error::Device) when a GPU was asked for by number and cannot be used.
    pub fn load(pack: Pack) -> Result<Self> {
        Self::load_beside(pack, None)
    }

    /// As [`Engine::load`], sharing networks with `running` where the weights are the same. Their files are verified
    /// nevertheless: a pack is rejected if it could not be loaded after a restart.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_beside(pack: Pack, running: Option<&Models>) -> Result<Self> {
        let pack = Arc::new(pack);
        let backend = open(&pack, running.map(|models| (&*models.pack, &models.loaded)))?;
        Ok(Self::with_backend(pack, backend))
    }

    fn with_backend(pack: Arc<Pack>, backend: Box<dyn Backend>) -> Self {
        let stamp = Arc::new(pack.stamp());
        let models = Models { pack, stamp, loaded: backend.loaded() };
        Self { models, backend, logits: PerModality::default(), probabilities: Vec::new() }
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        &self.models.pack
    }

    /// Whether a GPU computes, so that large batches are worth waiting for.
    pub fn is_on_gpu(&self) -> bool {
        self.backend.is_gpu()
    }

    /// The loaded models, to make another engine from while this one works.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Scores a batch of seconds, in order.
    ///
    /// # Errors
    /// When the device fails or the tensor library rejects an operation. The batch is lost; the engine stays usable.
    pub fn score(&mut self, seconds: &[&ClipSecond], observer: &dyn Observer) -> Result<Vec<Scored>> {
        let mut scored: Vec<Scored> = seconds
            .iter()
            .map(|s| Scored {
                scores: PerModality::default(),
                absent: PerModality {
                    rgb: s.rgb_absent,
                    flow: s.flow_absent,
                    audio: s.audio_absent.or_else(|| is_silent(s).then_some(Absent::NoData)),
                },
            })
            .collect();
        self.compute(seconds, Some(observer))?;
        let (pack, probabilities) = (&*self.models.pack, &mut self.probabilities);
        for modality in Modality::ALL {
            let Some(model) = pack.model(modality) else {
                // The pack has no model for this modality. The content of the clip does not matter.
                scored.iter_mut().for_each(|s| *s.absent.get_mut(modality) = None);
                continue;
            };
            let (logits, classes) = (self.logits.get(modality), pack.classes.len());
            probabilities.clear();
            for row in logits.values.chunks_exact(model.outputs.len()) {
                spread_softmax_onto(row, model.temperature, &model.outputs, classes, probabilities);
            }
            let mut rows = probabilities.chunks_exact(classes);
            for (second, count) in scored.iter_mut().zip(&logits.rows) {
                *second.scores.get_mut(modality) = second_scores(rows.by_ref().take(*count));
            }
        }
        Ok(scored)
    }

    /// The models' raw outputs for a batch of seconds, in order: one row of logits per frame, pair or second of sound. No
    /// rows where the modality or its model is missing.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn logits(&mut self, seconds: &[&ClipSecond]) -> Result<Vec<PerModality<Vec<Vec<f32>>>>> {
        self.compute(seconds, None)?;
        let mut out = vec![PerModality::<Vec<Vec<f32>>>::default(); seconds.len()];
        for modality in Modality::ALL {
            let Some(outputs) = self.pack().model(modality).map(|model| model.outputs.len()) else { continue };
            let logits = self.logits.get(modality);
            let mut rows = logits.values.chunks_exact(outputs).map(<[f32]>::to_vec);
            for (second, count) in out.iter_mut().zip(&logits.rows) {
                *second.get_mut(modality) = rows.by_ref().take(*count).collect();
            }
        }
        Ok(out)
    }

    /// Adds the activations of the networks on a batch of seconds to `observed`, for the ranges of int8.
    ///
    /// # Errors
    /// When the pack is not loaded in `f32` on the CPU.
    pub fn observe(&mut self, seconds: &[&ClipSecond], observed: &mut PerModality<Observed>) -> Result<()> {
        with_content(seconds, |seconds| self.backend.observe(seconds, observed))
    }

    /// Decides a scored second by the pack's table. `None` when every modality is missing.
    ///
    /// `arrival` is the wall time of the prediction where the source stated none.
    pub fn decide(&self, second: &ClipSecond, scored: Scored, arrival: WallTime) -> Option<SecondPrediction> {
        let decision = self.models.pack.fusion.decide(&scored.scores)?;
        Some(SecondPrediction {
            run: second.run,
            index: second.index,
            scores: scored.scores,
            absent: scored.absent,
            decision,
            known_from: self.models.pack.known_from(),
            frame_share: second.frame_share,
            tier: second.tier,
            pack: self.models.stamp.clone(),
            wall: second.wall.unwrap_or(arrival),
            timecode: second.timecode,
            arrived_ns: second.arrived_ns,
        })
    }

    /// Fills the logits. With `--device auto` a lost device is replaced by the CPU, for this batch and all later ones.
    fn compute(&mut self, seconds: &[&ClipSecond], observer: Option<&dyn Observer>) -> Result<()> {
        with_content(seconds, |seconds| self.compute_content(seconds, observer))
    }

    fn compute_content(&mut self, seconds: &[&ClipSecond], observer: Option<&dyn Observer>) -> Result<()> {
        match self.backend.score(seconds, &mut self.logits, observer) {
            Err(BackendError::DeviceLost(cause)) if self.models.pack.placement.requested == DeviceChoice::Auto => {
                tracing::error!("{cause}; computing on the CPU from now on");
                let mut pack = (*self.models.pack).clone();
                pack.placement = Placement { requested: DeviceChoice::Cpu, ..pack.placement };
                let pack = Arc::new(pack);
                let backend = open_cpu(&pack)?;
                *self = Self::with_backend(pack, backend);
                Ok(self.backend.score(seconds, &mut self.logits, observer)?)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// Softmax of `logits / temperature` over `classes` classes: output `i` of the model is class `outputs[i]`; classes that the
/// model does not know get 0.
pub fn spread_softmax(logits: &[f32], temperature: f32, outputs: &[ClassId], classes: usize) -> Vec<f32> {
    let mut probabilities = Vec::with_capacity(classes);
    spread_softmax_onto(logits, temperature, outputs, classes, &mut probabilities);
    probabilities
}

/// As [`spread_softmax`], appended to `rows`.
fn spread_softmax_onto(logits: &[f32], temperature: f32, outputs: &[ClassId], classes: usize, rows: &mut Vec<f32>) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let from = rows.len();
    rows.resize(from + classes, 0.0);
    let probabilities = &mut rows[from..];
    let mut sum = 0f32;
    for (logit, id) in logits.iter().zip(outputs) {
        let value = ((logit - highest) / temperature).exp();
        probabilities[id.index()] = value;
        sum += value;
    }
    probabilities.iter_mut().for_each(|p| *p /= sum);
}
