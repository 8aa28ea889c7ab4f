//! The tensors that are looked at and saved every so many steps.

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use super::checkpoint;
use crate::error::Result;
use crate::learn::net::Watched;
use crate::learn::optimizer::Optimizer;
use crate::learn::record::{Collection, TensorSummary};
use crate::models::Tensors;

/// Sums up losses, gradients, weights and means of outputs, and writes them as `tensors/step-N.safetensors` in `f16`.
pub(super) fn collect(
    dir: &Path,
    step: u64,
    losses: &[f32],
    optimizer: &Optimizer,
    grads: &GradStore,
    watched: &Watched,
) -> Result<Vec<TensorSummary>> {
    let mut summaries = vec![TensorSummary::of(Collection::Losses, "loss", losses)];
    let mut tensors = Tensors::new();
    tensors.insert("losses/loss".into(), Tensor::from_slice(losses, losses.len(), &Device::Cpu)?);
    for (name, var, _) in optimizer.parameters() {
        let mut add = |collection, folder: &str, tensor: &Tensor| -> Result<()> {
            let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            summaries.push(TensorSummary::of(collection, name, &values));
            tensors.insert(format!("{folder}/{name}"), tensor.to_device(&Device::Cpu)?.to_dtype(DType::F16)?);
            Ok(())
        };
        add(Collection::Weights, "weights", &var.as_detached_tensor())?;
        if let Some(grad) = grads.get(var) {
            add(Collection::Gradients, "gradients", grad)?;
        }
    }
    for (name, means, dead) in &watched.outputs {
        let summary = TensorSummary::of(Collection::FeatureMeans, name, means);
        summaries.push(TensorSummary { dead_channels: Some(*dead), ..summary });
        tensors.insert(format!("feature_means/{name}"), Tensor::from_slice(means, means.len(), &Device::Cpu)?);
    }
    let folder = dir.join("tensors");
    std::fs::create_dir_all(&folder).map_err(|e| {
        crate::error::Error::output(folder.display().to_string(), format!("cannot be made: {e}"), "choose another -o")
    })?;
    checkpoint::write(&folder.join(format!("step-{step:08}.safetensors")), &tensors, None)?;
    Ok(summaries)
}
