//! The CPU backend: features by rayon, networks as one fused op each.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::{Backend, BackendError, LoadRequest, Loaded, Logits, read};
use crate::features::{FeatureExtractor, is_silent};
use crate::models::pack::{ModelSpec, Pack};
use crate::models::{LoadError, Network, check_finite};
use crate::nn::fused::{Arithmetic, Observed, Precision};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::observer::{Observer, Stage};

/// Features and networks on the CPU.
#[derive(Debug)]
pub struct CpuBackend {
    pack: Arc<Pack>,
    networks: PerModality<Option<Network>>,
    extractor: FeatureExtractor,
    buffers: Buffers,
}

/// Memory that a batch needs, kept for the next one.
#[derive(Debug, Default)]
struct Buffers {
    /// Inputs of one model: (inputs of all seconds, 3, height, width).
    input: Vec<f32>,
    /// Pooled features of one network: (inputs, feature width).
    pooled: Vec<f32>,
}

impl Backend for CpuBackend {
    fn load(request: &LoadRequest<'_>) -> Result<Self> {
        let pack = request.pack;
        let mut networks = PerModality::default();
        for modality in Modality::ALL {
            if let Some(model) = pack.model(modality) {
                let known = request.running.and_then(|running| reusable(running, modality, model, pack.precision));
                *networks.get_mut(modality) = Some(build(pack, model, modality, known)?);
            }
        }
        let extractor = FeatureExtractor::new(
            pack.rgb.as_ref().map(|p| &p.input),
            pack.flow.as_ref().map(|p| &p.input),
            pack.audio.as_ref().map(|p| &p.input),
        )
        .map_err(|cause| Error::pack(&pack.dir, cause, "correct the key named"))?;
        Ok(Self { pack: pack.clone(), networks, extractor, buffers: Buffers::default() })
    }

    fn warm(&mut self) -> Result<()> {
        let mut logits = Vec::new();
        for modality in Modality::ALL {
            if let Some((width, height)) = self.pack.input_size(modality) {
                // Any picture with contrast: zeros would hide a faulty weight behind the first layer's bias.
                self.buffers.input = (0..3 * width * height).map(|i| (i as f32 * 0.37).sin()).collect();
                self.forward(modality, &mut logits)?;
                if !logits.iter().all(|logit| logit.is_finite()) {
                    let cause = format!("{modality} model: output is NaN or infinite");
                    return Err(Error::pack(&self.pack.dir, cause, "fetch the pack again or train it again"));
                }
            }
        }
        Ok(())
    }

    fn score(
        &mut self,
        seconds: &[&ClipSecond],
        logits: &mut PerModality<Logits>,
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), BackendError> {
        for modality in Modality::ALL {
            let Logits { rows, values } = logits.get_mut(modality);
            rows.clear();
            values.clear();
            if self.pack.model(modality).is_none() {
                continue;
            }
            let started = Instant::now();
            self.features(modality, seconds, rows);
            if self.buffers.input.is_empty() {
                continue;
            }
            let features_ns = nanos(started);
            let started = Instant::now();
            self.forward(modality, values)?;
            let inference_ns = nanos(started);
            if let Some(observer) = observer {
                let (features, inference) = stages(modality);
                let with = rows.iter().filter(|rows| **rows > 0).count() as u64;
                for _ in 0..with {
                    observer.observe_stage(features, features_ns / with);
                    observer.observe_stage(inference, inference_ns / with);
                }
            }
        }
        Ok(())
    }

    fn observe(&mut self, seconds: &[&ClipSecond], observed: &mut PerModality<Observed>) -> Result<()> {
        let mut rows = Vec::new();
        for modality in Modality::ALL {
            let Some((width, height)) = self.pack.input_size(modality) else { continue };
            // Encoders always compute in f32.
            if self.pack.model(modality).is_some_and(|model| model.architecture.is_encoder()) {
                continue;
            }
            rows.clear();
            self.features(modality, seconds, &mut rows);
            let count: usize = rows.iter().sum();
            let network = self.networks.get(modality).as_ref().expect("every model of the pack is loaded");
            if count > 0 {
                let input = Tensor::from_slice(&self.buffers.input, (count, 3, height, width), &Device::Cpu)?;
                network.observe(&input, observed.get_mut(modality))?;
            }
        }
        Ok(())
    }

    fn loaded(&self) -> Loaded {
        Loaded { networks: self.networks.clone(), gpus: None }
    }

    fn is_gpu(&self) -> bool {
        false
    }
}

impl CpuBackend {
    /// Computes a model's inputs into the buffer, and appends to `rows` how many each second has.
    fn features(&mut self, modality: Modality, seconds: &[&ClipSecond], rows: &mut Vec<usize>) {
        let (Buffers { input, .. }, extractor) = (&mut self.buffers, &mut self.extractor);
        input.clear();
        rows.extend(seconds.iter().map(|second| match modality {
            Modality::Rgb => extractor.pictures_into(second, input),
            Modality::Flow => extractor.flows_into(second, input),
            Modality::Audio if is_silent(second) => 0,
            Modality::Audio => extractor.sound_into(second, input),
        }));
    }

    /// Runs the network on the buffered inputs: `logits` is overwritten with one row each.
    fn forward(&mut self, modality: Modality, logits: &mut Vec<f32>) -> Result<()> {
        let size = self.pack.input_size(modality).expect("the caller checked that the model is there");
        let network = self.networks.get(modality).as_ref().expect("every model of the pack is loaded");
        let Buffers { input, pooled } = &mut self.buffers;
        Ok(network.logits_into(input, size, pooled, logits)?)
    }
}

/// The stages of a modality: features, then inference.
pub(super) fn stages(modality: Modality) -> (Stage, Stage) {
    match modality {
        Modality::Rgb => (Stage::FeaturesRgb, Stage::InferRgb),
        Modality::Flow => (Stage::FeaturesFlow, Stage::InferFlow),
        Modality::Audio => (Stage::FeaturesAudio, Stage::InferAudio),
    }
}

/// The running network of `modality` if it is the one that `model` asks for: the same bytes, architecture and precision.
fn reusable(
    (pack, loaded): (&Pack, &Loaded),
    modality: Modality,
    model: &ModelSpec,
    precision: Precision,
) -> Option<Network> {
    let own = pack.model(modality)?;
    let precision = model.precision(precision);
    let same = own.precision(pack.precision) == precision
        && own.architecture == model.architecture
        && own.sha256 == model.sha256
        && own.outputs.len() == model.outputs.len()
        && (precision != Precision::Int8 || own.ranges_sha256() == model.ranges_sha256());
    loaded.networks.get(modality).clone().filter(|_| same)
}

/// Builds the network of a model. Its files are read and verified even when `known` takes its place.
fn build(pack: &Pack, model: &ModelSpec, modality: Modality, known: Option<Network>) -> Result<Network> {
    let failed = |e: LoadError| Error::pack(&pack.dir, format!("{modality} model: {e}"), e.advice());
    let (tensors, ranges) = read(model).map_err(failed)?;
    if let Some(network) = known {
        return Ok(network);
    }
    let precision = model.precision(pack.precision);
    if let Some(cost) = model.int8.as_ref().and_then(|spec| spec.validation).filter(|_| precision != pack.precision) {
        let (f32, int8, precision) = (cost.f32, cost.int8, precision.name());
        tracing::info!(%modality, "macro F1 on validation is {int8:.3} in int8 and {f32:.3} in f32: computing in {precision}");
    }
    if model.architecture.is_encoder() && pack.precision != Precision::F32 {
        tracing::info!(%modality, "{} has no {}: computing in f32", model.architecture, pack.precision.name());
    }
    let arithmetic = match (precision, &ranges) {
        (Precision::F32, _) => Arithmetic::F32,
        (Precision::Bf16, _) => Arithmetic::Bf16,
        (Precision::Int8, Some(ranges)) => Arithmetic::Int8(ranges),
        (Precision::Int8, None) => {
            let cause = format!("{modality} model: the pack has no activation ranges, which int8 needs");
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
