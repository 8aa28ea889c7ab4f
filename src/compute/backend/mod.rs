//! The operations that the engine needs from a device: load a pack's models, warm them up, score seconds.
//!
//! | backend | computes | feature |
//! |---|---|---|
//! | `cpu` | features and fused networks on the calling thread and rayon's pool | |
//! | [`gpu`] | features and networks on one or more NVIDIA GPUs, a thread each | `cuda` |
//!
//! A backend returns logits. Temperature, softmax and the class-to-modality table are the engine's
//! ([`crate::infer`]), so every backend's logits are decided by the same code. [`probe`] reports which devices this build
//! and this machine have.

mod choose;
mod cpu;
// The only place that knows whether this build has CUDA; `no_gpu` has the same items and refuses to load.
#[cfg_attr(not(feature = "cuda"), path = "no_gpu.rs")]
pub mod gpu;
pub mod probe;

use std::sync::Arc;

use candle_core::Device;

use crate::models::pack::{ModelSpec, Pack};
use crate::models::{LoadError, Network, Tensors, read_ranges, read_weights_verified};
use crate::nn::fused::{Observed, Range};
use choose::Choice;
pub use cpu::CpuBackend;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::observer::Observer;

/// A device with the models of one pack. One thread uses it at a time.
pub trait Backend: Send + Sync {
    /// Reads, verifies and builds the models. Every file is verified, even where loaded networks are reused.
    ///
    /// # Errors
    /// [`Error::Pack`] naming the file and what is wrong with it; [`Error::Device`] when the device cannot be used.
    fn load(request: &LoadRequest<'_>) -> Result<Self>
    where
        Self: Sized;

    /// Runs every model once on synthetic input, so that the first real second is as fast as the others.
    ///
    /// # Errors
    /// [`Error::Pack`] when a model's output is NaN or infinite; [`Error::Device`] when the device fails.
    fn warm(&mut self) -> Result<()>;

    /// Computes features and logits of a batch of seconds. `logits` is overwritten; its memory is reused. The logits of a
    /// second do not depend on the other seconds of the batch on the CPU, and on a GPU only by rounding. `observer`
    /// receives each second's share of the time per stage, nanoseconds.
    ///
    /// # Errors
    /// See [`BackendError`]; `logits` is then undefined.
    fn score(
        &mut self,
        seconds: &[&ClipSecond],
        logits: &mut PerModality<Logits>,
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), BackendError>;

    /// Adds the activations of the networks on `seconds` to the statistics from which int8 ranges are made.
    ///
    /// # Errors
    /// When the backend does not compute in `f32` on the CPU.
    fn observe(&mut self, _seconds: &[&ClipSecond], _observed: &mut PerModality<Observed>) -> Result<()> {
        Err(Error::Device("ranges for int8 are measured on the CPU only; give --device cpu".into()))
    }

    /// The parts that another backend of the same kind can reuse. Cheap: nothing is copied.
    fn loaded(&self) -> Loaded;

    /// Whether large batches are worth waiting for.
    fn is_gpu(&self) -> bool;
}

/// The models to load, and their place.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// The pack, with the precision and placement that were asked for.
    pub pack: &'a Arc<Pack>,
    /// The driver's numbers of the GPUs to use; empty on the CPU.
    pub gpus: &'a [usize],
    /// A running engine's pack and models, which are reused where they are the same.
    pub running: Option<(&'a Pack, &'a Loaded)>,
}

/// Loaded models that several engines share.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    networks: PerModality<Option<Network>>,
    gpus: Option<gpu::SharedWorkers>,
}

/// Logits of one modality for a batch of seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// Rows of each second, in the order of the batch: one per frame (RGB), frame pair (flow) or second of sound (audio),
    /// 0 where the modality is missing or silent. All 0 or empty when the pack has no model for the modality.
    pub rows: Vec<usize>,
    /// The rows of all seconds in order, each as long as the model has outputs. Natural logarithms, before temperature.
    pub values: Vec<f32>,
}

/// Why a batch has no logits.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The device failed and cannot be restarted: no later batch will succeed either.
    #[error("{0}")]
    DeviceLost(String),
    /// This batch failed; the next one may succeed.
    #[error(transparent)]
    Batch(#[from] Error),
}

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::DeviceLost(cause) => Error::Device(format!("device failure: {cause}")),
            BackendError::Batch(error) => error,
        }
    }
}

/// Loads and warms the backend that the pack's placement asks for. With `auto`, a GPU that cannot be used is reported in the
/// log and the CPU takes its place.
///
/// # Errors
/// As [`Backend::load`] and [`Backend::warm`].
pub fn open(pack: &Arc<Pack>, running: Option<(&Pack, &Loaded)>) -> Result<Box<dyn Backend>> {
    match choose::choose(&pack.placement.requested) {
        Choice::Cpu => ready::<CpuBackend>(&LoadRequest { pack, gpus: &[], running }),
        Choice::Gpus { ordinals, fall_back } => {
            match ready::<gpu::GpuBackend>(&LoadRequest { pack, gpus: &ordinals, running }) {
                Err(Error::Device(cause)) if fall_back => {
                    tracing::warn!("computing on the CPU: {cause}");
                    open_cpu(pack)
                }
                opened => opened,
            }
        }
    }
}

/// Loads and warms the CPU backend.
///
/// # Errors
/// As [`Backend::load`] and [`Backend::warm`].
pub fn open_cpu(pack: &Arc<Pack>) -> Result<Box<dyn Backend>> {
    ready::<CpuBackend>(&LoadRequest { pack, gpus: &[], running: None })
}

fn ready<B: Backend + 'static>(request: &LoadRequest<'_>) -> Result<Box<dyn Backend>> {
    let mut backend = B::load(request)?;
    backend.warm()?;
    Ok(Box::new(backend))
}

/// Of every activation of a network, by channel.
type Ranges = Vec<Vec<Range>>;

/// Reads and verifies a model's weights, and its int8 ranges if it has them: a pack with a damaged file is rejected even when
/// the file is not used.
fn read(model: &ModelSpec) -> std::result::Result<(Tensors, Option<Ranges>), LoadError> {
    let tensors = read_weights_verified(&model.weights, &model.sha256, &Device::Cpu)?;
    let ranges = model.int8.as_ref().map(|spec| read_ranges(&spec.path, &spec.sha256)).transpose()?;
    Ok((tensors, ranges))
}
