//! Checkpoints: all tensors and the state of a training in one file, which is replaced atomically.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::record::Phase;
use touchline_compute::models::{Tensors, read_weights};
use touchline_core::error::{Error, Result};

/// File name of the checkpoint in the run directory of a modality.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// File name of the best weights in the run directory of a modality.
pub const BEST: &str = "best.safetensors";

/// Key of the state in the file's metadata.
const STATE: &str = "touchline.training";

/// The epoch whose weights are the best so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestWeights {
    /// Phase of the epoch.
    pub phase: Phase,
    /// Number of the epoch within its phase, from 1.
    pub epoch: u32,
    /// Validation macro F1 and loss; `None` without validation.
    pub figures: Option<(f64, f64)>,
}

/// Position and state of a run, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// SHA-256 of everything that the run depends on. A run with another hash cannot be resumed.
    pub ground: String,
    /// The current phase.
    pub phase: Phase,
    /// The current epoch, from 1.
    pub epoch: u32,
    /// Completed batches of the current epoch.
    pub batches: u64,
    /// Optimiser steps over both phases.
    pub step: u64,
    /// Steps that the optimiser of the current phase has counted.
    pub optimizer_steps: u64,
    /// Sums over the current epoch: loss times samples, correct predictions, samples, seconds.
    pub sums: (f64, u64, u64, f64),
    /// The best weights so far; `None` before the end of the first epoch.
    pub kept: Option<BestWeights>,
    /// Epochs since the best weights.
    pub since_kept: u32,
    /// State of the training rules, from [`Rules::state`](crate::rules::Rules::state).
    pub rules: serde_json::Value,
    /// Length in bytes of the log that belongs to this state.
    pub log_bytes: u64,
    /// Training time in seconds, over all resumptions.
    pub elapsed_s: f64,
    /// The reason why the run ended; `None` while it has not.
    pub ended: Option<String>,
}

/// Writes tensors and state as one file.
///
/// # Errors
/// [`Error::Output`] when the file cannot be written.
pub fn save(path: &Path, tensors: &Tensors, state: &TrainState) -> Result<()> {
    let text = serde_json::to_string(state).map_err(|e| Error::Internal(format!("cannot serialise the state: {e}")))?;
    write(path, tensors, Some(HashMap::from([(STATE.to_owned(), text)])))
}

/// Writes tensors to a file. The file is complete, or unchanged if writing fails.
///
/// # Errors
/// [`Error::Output`] when the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, metadata: Option<HashMap<String, String>>) -> Result<()> {
    let advice = "free space there; the previous file is intact";
    let failed = |cause: String| Error::output(path.display().to_string(), format!("cannot write: {cause}"), advice);
    let mut named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    named.sort_by_key(|(name, _)| *name);
    let bytes = safetensors::serialize(named, metadata).map_err(|e| failed(e.to_string()))?;
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).map_err(|e| {
        // An incomplete file is of no use and takes space on a disk that may be full.
        let _ = std::fs::remove_file(&part);
        failed(e.to_string())
    })
}

/// Reads a file that [`save`] wrote.
///
/// # Errors
/// [`Error::Data`] when the file cannot be read, is damaged, or has no training state.
pub fn load(path: &Path) -> Result<(Tensors, TrainState)> {
    let bad = |cause: String| Error::data(path, cause, "delete the run's directory and start again");
    let tensors = read_weights(path, &Device::Cpu).map_err(|e| bad(e.to_string()))?.tensors;
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(STATE));
    let text = text.ok_or_else(|| bad("it contains tensors but no training state".into()))?;
    let state = serde_json::from_str(text).map_err(|e| bad(format!("its training state is damaged: {e}")))?;
    Ok((tensors, state))
}
