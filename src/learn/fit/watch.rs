//! Collection of tensors: every N steps they are summarised for the rules and saved.

use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use super::checkpoint;
use crate::net::Watched;
use crate::optimizer::Optimizer;
use crate::record::{Collection, TensorSummary};
use touchline_compute::models::Tensors;
use touchline_core::error::{Error, Result};

/// Collections whose full tensors are kept: enough to investigate a failure, and about 2 GB for a ResNet50.
const KEPT: usize = 20;

/// Folder of the collections in the run directory of a modality.
const FOLDER: &str = "tensors";

/// Summarises losses, gradients, weights and channel means of outputs. Writes the summaries to `tensors/step-N.json` and the tensors
/// to `tensors/step-N.safetensors` in `f16`; the newest [`KEPT`] tensor files are kept.
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
    keep(&dir.join(FOLDER), step, &tensors, &summaries)?;
    Ok(summaries)
}

/// Writes tensors and summaries of a step into `folder`, and removes old tensor files. Files of later steps stay: a run that was
/// interrupted after its checkpoint wrote them, and will overwrite them.
fn keep(folder: &Path, step: u64, tensors: &Tensors, summaries: &[TensorSummary]) -> Result<()> {
    let failed = |path: &Path, cause: String| {
        Error::output(path.display().to_string(), format!("cannot write: {cause}"), "free space or choose another -o")
    };
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, e.to_string()))?;
    let sums = folder.join(format!("step-{step:08}.json"));
    let text = serde_json::to_string(summaries).map_err(|e| failed(&sums, e.to_string()))?;
    std::fs::write(&sums, text).map_err(|e| failed(&sums, e.to_string()))?;
    checkpoint::write(&folder.join(format!("step-{step:08}.safetensors")), tensors, None)?;
    let Ok(files) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut past: Vec<(u64, PathBuf)> = files
        .flatten()
        .filter_map(|file| Some((step_of(file.file_name().to_str()?)?, file.path())))
        .filter(|(of, _)| *of <= step)
        .collect();
    past.sort_by(|a, b| b.cmp(a));
    for (_, path) in past.into_iter().skip(KEPT) {
        // A file that cannot be removed only takes space.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Returns the step of a tensor file from its name.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_tensors_and_all_summaries_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        let tensors = Tensors::from([("losses/loss".to_owned(), Tensor::new(&[0.5f32, 0.25], &Device::Cpu).unwrap())]);
        let summaries = [TensorSummary::of(Collection::Losses, "loss", &[0.5, 0.25])];
        let names_of = |ending: &str| {
            let names = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|n| n.ends_with(ending)).collect();
            names.sort();
            names
        };
        let steps = KEPT as u64 + 5;
        for step in 1..=steps {
            keep(&folder, 200 * step, &tensors, &summaries).unwrap();
        }
        let whole = names_of(".safetensors");
        assert_eq!((whole.len(), whole[0].as_str()), (KEPT, "step-00001200.safetensors"));
        assert_eq!(names_of(".json").len() as u64, steps);
        let read: Vec<TensorSummary> =
            serde_json::from_slice(&std::fs::read(folder.join("step-00000200.json")).unwrap()).unwrap();
        assert_eq!(read, summaries);

        // Resumed at an earlier step: later files and files of other origin stay.
        std::fs::write(folder.join("step-notes.txt"), "mine").unwrap();
        keep(&folder, 1000, &tensors, &summaries).unwrap();
        keep(&folder, 1200, &tensors, &summaries).unwrap();
        assert_eq!(names_of(".safetensors").len(), KEPT + 1);
        keep(&folder, 200 * steps, &tensors, &summaries).unwrap();
        assert_eq!(names_of(".safetensors"), whole);
        assert_eq!(names_of(".txt").len(), 1);
    }
}
