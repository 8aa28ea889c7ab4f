//! Where a run goes on: all tensors and the state in one file, which is there whole or as it was before.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::record::Phase;
use touchline_compute::models::{Tensors, read_weights};
use touchline_core::error::{Error, Result};

/// File names in a modality's run.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
pub const BEST: &str = "best.safetensors";

/// Key of the state in the file's metadata.
const STATE: &str = "touchline.training";

/// The epoch that is kept so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub phase: Phase,
    pub epoch: u32,
    /// Validation macro F1 and loss.
    pub figures: Option<(f64, f64)>,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Hash of everything the run depends on: another cannot be gone on with.
    pub ground: String,
    pub phase: Phase,
    /// The epoch under way, from 1.
    pub epoch: u32,
    /// Batches of it that are done.
    pub batches: u64,
    /// Optimiser steps over both phases.
    pub step: u64,
    /// Optimiser steps of the phase, as the optimiser counts them.
    pub optimizer_steps: u64,
    /// Of the epoch so far: loss times samples, right answers, samples, seconds.
    pub sums: (f64, u64, u64, f64),
    pub kept: Option<Kept>,
    /// Epochs since then.
    pub since_kept: u32,
    pub rules: serde_json::Value,
    /// Length of the log that belongs to this state.
    pub log_bytes: u64,
    pub elapsed_s: f64,
    /// Why the run has ended, if it has.
    pub ended: Option<String>,
}

/// Writes tensors and state as one file.
pub fn save(path: &Path, tensors: &Tensors, state: &State) -> Result<()> {
    let text = serde_json::to_string(state).map_err(|e| Error::Internal(format!("the state is no JSON: {e}")))?;
    write(path, tensors, Some(HashMap::from([(STATE.to_owned(), text)])))
}

/// Writes tensors as they are, whole or not at all.
pub fn write(path: &Path, tensors: &Tensors, metadata: Option<HashMap<String, String>>) -> Result<()> {
    let advice = "free space there; what was written before is still whole";
    let failed = |cause: String| Error::output(path.display().to_string(), format!("cannot write: {cause}"), advice);
    let mut named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    named.sort_by_key(|(name, _)| *name);
    let bytes = safetensors::serialize(named, metadata).map_err(|e| failed(e.to_string()))?;
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).map_err(|e| {
        // Half a file helps nobody, least of all on a full disk.
        let _ = std::fs::remove_file(&part);
        failed(e.to_string())
    })
}

/// Reads what [`save`] wrote.
pub fn load(path: &Path) -> Result<(Tensors, State)> {
    let bad = |cause: String| Error::data(path, cause, "delete the run's directory and start again");
    let tensors = read_weights(path, &Device::Cpu).map_err(|e| bad(e.to_string()))?.tensors;
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(STATE));
    let text = text.ok_or_else(|| bad("it holds tensors, but no state of a training".into()))?;
    let state = serde_json::from_str(text).map_err(|e| bad(format!("its state is damaged: {e}")))?;
    Ok((tensors, state))
}
