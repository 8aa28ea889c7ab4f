//! The engine: seconds in, scores per modality out. One thread owns it, and with it the device.
//!
//! Seconds of several streams go through a model in one batch. The scores of a second do not depend on what else was in
//! the batch, so a replay gives the same decisions bit for bit.

#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod on_gpus;
mod place;

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::Mutex;
use std::time::Instant;

use candle_core::{Device, Tensor};

use crate::features::FeatureExtractor;
use crate::models::pack::{ModelSpec, Pack};
use crate::models::{LoadError, Network, Tensors, check_finite, read_ranges, read_weights_verified};
use crate::nn::fused::{Arithmetic, Observed, Precision, Range};
use touchline_core::clip::{Absent, ClipSecond};
use touchline_core::decision::{ModalityScores, PackStamp, PerModality, SecondPrediction};
use touchline_core::error::{Error, Result};
use touchline_core::fusion::second_scores;
use touchline_core::labels::{ClassId, Modality};
use touchline_core::observer::{Observer, Stage};
use touchline_core::time::WallTime;

/// Sound below this peak (-100 dB of full scale) is digital silence: a muted or dead feed. A model made to name a sport
/// would name one, so it is not asked.
const SILENCE_PEAK: f32 = 1e-5;

/// The loaded networks of a pack. Cloning shares them: another engine may be made from them.
#[derive(Clone, Debug)]
pub struct Models {
    pack: Arc<Pack>,
    stamp: Arc<PackStamp>,
    networks: PerModality<Option<Network>>,
    /// The GPUs that compute instead of `networks`.
    #[cfg(feature = "cuda")]
    gpus: Option<Gpus>,
}

/// Shared by engines whose networks are the same.
#[cfg(feature = "cuda")]
#[derive(Clone)]
struct Gpus(Arc<Mutex<gpu::Lanes>>);

#[cfg(feature = "cuda")]
impl std::fmt::Debug for Gpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpus").finish_non_exhaustive()
    }
}

impl Models {
    pub fn pack(&self) -> &Arc<Pack> {
        &self.pack
    }

    pub fn stamp(&self) -> &Arc<PackStamp> {
        &self.stamp
    }

    /// The network that `model` asks for, if it is here: from the same bytes, in the same architecture and precision.
    fn network(&self, modality: Modality, model: &ModelSpec, precision: Precision) -> Option<Network> {
        let own = self.pack.model(modality)?;
        let precision = model.precision(precision);
        let same = own.precision(self.pack.precision) == precision
            && own.architecture == model.architecture
            && own.sha256 == model.sha256
            && own.outputs.len() == model.outputs.len()
            && (precision != Precision::Int8 || own.ranges_sha256() == model.ranges_sha256());
        self.networks.get(modality).clone().filter(|_| same)
    }
}

/// The models of a pack, loaded and warm.
pub struct Engine {
    models: Models,
    extractor: FeatureExtractor,
    memory: Memory,
}

/// What a batch on the CPU is worked out in, kept for the next one.
#[derive(Default)]
struct Memory {
    /// Inputs of a model, one behind the other.
    input: Vec<f32>,
    /// How many of them each second has.
    counts: Vec<usize>,
    features: Vec<f32>,
    /// Rows of the model's classes.
    logits: Vec<f32>,
    /// Rows of the pack's classes.
    probabilities: Vec<f32>,
}

/// Scores of one second with the reasons for what is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub scores: PerModality<Option<ModalityScores>>,
    pub absent: PerModality<Option<Absent>>,
}

impl Engine {
    /// Reads, verifies and builds the models of a pack, and runs each once so that the first second is not the slow
    /// one.
    ///
    /// # Errors
    /// [`Error::Pack`] naming the file and what is wrong with it.
    pub fn load(pack: Pack) -> Result<Self> {
        Self::load_beside(pack, None)
    }

    /// As [`Engine::load`], taking from `running` the networks whose weights are the very same. Their files are verified
    /// all the same: a pack that could not be started anew is not taken.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_beside(pack: Pack, running: Option<&Models>) -> Result<Self> {
        match place::choose(&pack.placement.wish)? {
            place::Chosen::Cpu => Self::load_on_cpu(pack, running),
            #[cfg(feature = "cuda")]
            place::Chosen::Gpus { ordinals, fall_back } => Self::load_on_gpus(pack, running, &ordinals, fall_back),
            #[cfg(not(feature = "cuda"))]
            place::Chosen::Gpus { .. } => unreachable!("a build without CUDA chooses no GPU"),
        }
    }

    fn load_on_cpu(pack: Pack, running: Option<&Models>) -> Result<Self> {
        let mut networks = PerModality::default();
        for modality in Modality::ALL {
            if let Some(model) = pack.model(modality) {
                let known = running.and_then(|running| running.network(modality, model, pack.precision));
                *networks.get_mut(modality) = Some(build(&pack, model, modality, known)?);
            }
        }
        let extractor = FeatureExtractor::new(
            pack.rgb.as_ref().map(|p| &p.input),
            pack.flow.as_ref().map(|p| &p.input),
            pack.audio.as_ref().map(|p| &p.input),
        )
        .map_err(|cause| Error::pack(&pack.dir, cause, "correct the key named"))?;
        let stamp = Arc::new(pack.stamp());
        #[cfg(feature = "cuda")]
        let models = Models { pack: Arc::new(pack), stamp, networks, gpus: None };
        #[cfg(not(feature = "cuda"))]
        let models = Models { pack: Arc::new(pack), stamp, networks };
        let mut engine = Self { models, extractor, memory: Memory::default() };
        for modality in Modality::ALL {
            if let Some((width, height)) = engine.input_size(modality) {
                // Any picture with contrast will do; all zeros would hide a fault behind the first layer's bias.
                engine.memory.input = (0..3 * width * height).map(|i| (i as f32 * 0.37).sin()).collect();
                engine.forward(modality)?;
                if !engine.memory.logits.iter().all(|logit| logit.is_finite()) {
                    let cause = format!("{modality} model: its outputs are no numbers");
                    return Err(Error::pack(&engine.pack().dir, cause, "take the pack again or train it again"));
                }
            }
        }
        Ok(engine)
    }

    pub fn pack(&self) -> &Pack {
        &self.models.pack
    }

    /// Whether a GPU computes: batches should then be large.
    pub fn is_on_gpu(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.models.gpus.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// What another engine can be made from while this one works.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Width and height of a model's input, pixels.
    fn input_size(&self, modality: Modality) -> Option<(usize, usize)> {
        match modality {
            Modality::Rgb => self.models.pack.rgb.as_ref().map(|p| (p.input.width, p.input.height)),
            Modality::Flow => self.models.pack.flow.as_ref().map(|p| (p.input.width, p.input.height)),
            Modality::Audio => self.models.pack.audio.as_ref().map(|p| (p.input.width, p.input.height)),
        }
    }

    /// Scores a batch of seconds, in order.
    ///
    /// # Errors
    /// When the tensor library refuses an operation; the batch is lost, the engine stays usable.
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
        #[cfg(feature = "cuda")]
        if self.models.gpus.is_some() {
            return self.score_on_gpus(seconds, scored, observer);
        }
        for modality in Modality::ALL {
            let (features, inference) = match modality {
                Modality::Rgb => (Stage::FeaturesRgb, Stage::InferRgb),
                Modality::Flow => (Stage::FeaturesFlow, Stage::InferFlow),
                Modality::Audio => (Stage::FeaturesAudio, Stage::InferAudio),
            };
            if self.models.pack.model(modality).is_none() {
                // No scores and no reason of the clip's: what is missing is the model.
                scored.iter_mut().for_each(|s| *s.absent.get_mut(modality) = None);
                continue;
            }
            let started = Instant::now();
            self.features(modality, seconds);
            if self.memory.input.is_empty() {
                continue;
            }
            let took_ns = nanos(started);
            let with: u64 = self.memory.counts.iter().filter(|n| **n > 0).count() as u64;
            (0..with).for_each(|_| observer.observe_stage(features, took_ns / with));
            let started = Instant::now();
            self.forward(modality)?;
            let took_ns = nanos(started);
            (0..with).for_each(|_| observer.observe_stage(inference, took_ns / with));
            let model = self.models.pack.model(modality).expect("the model was there a moment ago");
            let (memory, classes) = (&mut self.memory, self.models.pack.classes.len());
            memory.probabilities.clear();
            for row in memory.logits.chunks_exact(model.outputs.len()) {
                spread_softmax_onto(row, model.temperature, &model.outputs, classes, &mut memory.probabilities);
            }
            let mut rows = memory.probabilities.chunks_exact(classes);
            for (second, count) in scored.iter_mut().zip(&memory.counts) {
                *second.scores.get_mut(modality) = second_scores(rows.by_ref().take(*count));
            }
        }
        Ok(scored)
    }

    /// The models' raw outputs for a batch of seconds, in order: one row of logits a frame, pair or second of sound. No
    /// rows where the modality or its model is missing.
    ///
    /// # Errors
    /// When the tensor library refuses an operation; the batch is lost, the engine stays usable.
    pub fn logits(&mut self, seconds: &[&ClipSecond]) -> Result<Vec<PerModality<Vec<Vec<f32>>>>> {
        #[cfg(feature = "cuda")]
        if self.models.gpus.is_some() {
            return self.rows_on_gpus(seconds, None);
        }
        let mut out = vec![PerModality::<Vec<Vec<f32>>>::default(); seconds.len()];
        for modality in Modality::ALL {
            let Some(outputs) = self.pack().model(modality).map(|model| model.outputs.len()) else { continue };
            self.features(modality, seconds);
            if self.memory.input.is_empty() {
                continue;
            }
            self.forward(modality)?;
            let mut rows = self.memory.logits.chunks_exact(outputs).map(<[f32]>::to_vec);
            for (second, count) in out.iter_mut().zip(&self.memory.counts) {
                *second.get_mut(modality) = rows.by_ref().take(*count).collect();
            }
        }
        Ok(out)
    }

    /// Counts the values of the networks on the inputs of a batch of seconds, for the ranges of int8.
    ///
    /// # Errors
    /// When the pack is not loaded in `f32`.
    pub fn observe(&mut self, seconds: &[&ClipSecond], observed: &mut PerModality<Observed>) -> Result<()> {
        for modality in Modality::ALL {
            let Some((width, height)) = self.input_size(modality) else { continue };
            self.features(modality, seconds);
            let count: usize = self.memory.counts.iter().sum();
            let network = self.models.networks.get(modality).as_ref().expect("every model of the pack is loaded");
            if count > 0 {
                let input = Tensor::from_slice(&self.memory.input, (count, 3, height, width), &Device::Cpu)?;
                network.observe(&input, observed.get_mut(modality))?;
            }
        }
        Ok(())
    }

    /// Scores one second and decides it by the pack's table. `None` when every modality is missing.
    ///
    /// `arrival`: the wall time to state when the source told none.
    pub fn decide(&self, second: &ClipSecond, scored: Scored, arrival: WallTime) -> Option<SecondPrediction> {
        let decision = self.models.pack.fusion.decide(&scored.scores)?;
        Some(SecondPrediction {
            run: second.run,
            index: second.index,
            scores: scored.scores,
            absent: scored.absent,
            decision,
            frame_share: second.frame_share,
            pack: self.models.stamp.clone(),
            wall: second.wall.unwrap_or(arrival),
            arrived_ns: second.arrived_ns,
        })
    }

    /// Puts the model's inputs for a batch of seconds into the memory, and how many each second has.
    fn features(&mut self, modality: Modality, seconds: &[&ClipSecond]) {
        let (Memory { input, counts, .. }, extractor) = (&mut self.memory, &mut self.extractor);
        input.clear();
        counts.clear();
        counts.extend(seconds.iter().map(|second| match modality {
            Modality::Rgb => extractor.pictures_into(second, input),
            Modality::Flow => extractor.flows_into(second, input),
            Modality::Audio if is_silent(second) => 0,
            Modality::Audio => extractor.sound_into(second, input),
        }));
    }

    /// Runs the inputs that are in the memory, and leaves one row of logits there for each.
    fn forward(&mut self, modality: Modality) -> Result<()> {
        let size = self.input_size(modality).expect("the caller checked that the model is there");
        let network = self.models.networks.get(modality).as_ref().expect("every model of the pack is loaded");
        let Memory { input, features, logits, .. } = &mut self.memory;
        Ok(network.logits_into(input, size, features, logits)?)
    }

    /// Logits of a model's own classes → probabilities over the pack's classes.
    #[cfg(feature = "cuda")]
    fn softmax(&self, model: &ModelSpec, logits: &[f32]) -> Vec<f32> {
        spread_softmax(logits, model.temperature, &model.outputs, self.models.pack.classes.len())
    }
}

pub fn is_silent(second: &ClipSecond) -> bool {
    second.audio.as_ref().is_some_and(|samples| samples.iter().all(|s| s.abs() < SILENCE_PEAK))
}

/// Softmax of `logits / temperature`, spread over `classes` places: output `i` goes to `outputs[i]`, the rest is 0.
pub fn spread_softmax(logits: &[f32], temperature: f32, outputs: &[ClassId], classes: usize) -> Vec<f32> {
    let mut probabilities = Vec::with_capacity(classes);
    spread_softmax_onto(logits, temperature, outputs, classes, &mut probabilities);
    probabilities
}

/// The same, at the end of `rows`.
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

/// Of every value of a network, by channel.
type Ranges = Vec<Vec<Range>>;

/// What a model's files hold, verified: weights, and ranges if it has them.
fn read(model: &ModelSpec) -> std::result::Result<(Tensors, Option<Ranges>), LoadError> {
    let tensors = read_weights_verified(&model.weights, &model.sha256, &Device::Cpu)?;
    // Even where they are not computed with: the pack is whole or it is not.
    let ranges = model.int8.as_ref().map(|spec| read_ranges(&spec.path, &spec.sha256)).transpose()?;
    Ok((tensors, ranges))
}

/// The network of a model; its file is read and verified even when it is `known`.
fn build(pack: &Pack, model: &ModelSpec, modality: Modality, known: Option<Network>) -> Result<Network> {
    let failed = |e: LoadError| Error::pack(&pack.dir, format!("{modality} model: {e}"), e.advice());
    let (tensors, ranges) = read(model).map_err(failed)?;
    if let Some(network) = known {
        return Ok(network);
    }
    let precision = model.precision(pack.precision);
    if let Some(cost) = model.int8.as_ref().and_then(|spec| spec.validation).filter(|_| precision != pack.precision) {
        let (f32, int8, precision) = (cost.f32, cost.int8, precision.name());
        tracing::info!(%modality, "int8 has macro F1 {int8:.3} on validation and f32 {f32:.3}: the model runs in {precision}");
    }
    let arithmetic = match (precision, &ranges) {
        (Precision::F32, _) => Arithmetic::F32,
        (Precision::Bf16, _) => Arithmetic::Bf16,
        (Precision::Int8, Some(ranges)) => Arithmetic::Int8(ranges),
        (Precision::Int8, None) => {
            let cause = format!("{modality} model: the pack has no ranges of its values, which int8 wants");
            let advice = "run `touchline pack calibrate PACK DATASET`, or choose another --precision";
            return Err(Error::pack(&pack.dir, cause, advice));
        }
    };
    check_finite(&tensors).map_err(failed)?;
    Network::load_as(model.architecture, &tensors, Some(model.outputs.len()), arithmetic).map_err(failed)
}

/// Nanoseconds since `started`.
fn nanos(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
