//! Writes the adapted pack.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::samples::Classifier;
use super::{AdaptConfig, AdaptReport, replay};
use touchline_compute::models::foundation::EMPTY_CLASSIFIER;
use touchline_compute::models::pack::{FusionEntry, MANIFEST, Manifest, Pack};
use touchline_compute::models::{Tensors, save_f16};
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Writes the adapted pack: `config.out` has all files of the pack, with the new classifier. Returns the SHA-256 of the RGB weights.
pub(super) fn write(
    pack: &Pack,
    manifest: &Manifest,
    config: &AdaptConfig,
    outputs: &[String],
    (tensors, classifier): (&Tensors, &Classifier),
    temperature: f32,
    report: &AdaptReport,
) -> Result<String> {
    let cannot = |path: &Path, e: std::io::Error| {
        Error::output(path.display().to_string(), format!("cannot write the pack: {e}"), "choose another -o")
    };
    let mut adapted = manifest.clone();
    let Some(section) = &mut adapted.rgb else { return Err(Error::Internal("the pack has no RGB model".into())) };
    std::fs::create_dir_all(&config.out).map_err(|e| cannot(&config.out, e))?;
    for entry in std::fs::read_dir(&pack.dir).map_err(|e| cannot(&pack.dir, e))? {
        let name = entry.map_err(|e| cannot(&pack.dir, e))?.file_name();
        let is_rewritten = name == MANIFEST || name == replay::FILE || *name == *section.weights;
        if !is_rewritten && pack.dir.join(&name).is_file() {
            let to = config.out.join(&name);
            std::fs::copy(pack.dir.join(&name), &to).map_err(|e| cannot(&to, e))?;
        }
    }
    let mut tensors = tensors.clone();
    let name = section.architecture.classifier();
    let width = classifier.weight.len() / classifier.outputs;
    let is_empty = match tensors.get(&format!("{name}.weight")) {
        Some(weight) => weight.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()? == 0.0,
        None => false,
    };
    let weight = Tensor::from_slice(&classifier.weight, (classifier.outputs, width), &Device::Cpu)?;
    let bias = Tensor::from_slice(&classifier.bias, classifier.outputs, &Device::Cpu)?;
    tensors.insert(format!("{name}.weight"), weight);
    tensors.insert(format!("{name}.bias"), bias);
    let path = config.out.join(&section.weights);
    let sha256 =
        save_f16(&tensors, &path).map_err(|e| Error::output(path.display().to_string(), e.to_string(), e.advice()))?;
    let hash = section.sha256[..8].to_owned();
    (section.sha256, section.temperature) = (sha256.clone(), temperature);
    section.classes = outputs.to_vec();
    for class in outputs.iter().filter(|class| !manifest.classes.contains(class)) {
        adapted.classes.push(class.clone());
        adapted.left_out.remove(class);
        let entry = FusionEntry { modality: Modality::Rgb, rgb: None, flow: None, audio: None };
        adapted.fusion.table.insert(class.clone(), entry);
    }
    if is_empty {
        // The pack answered unknown until it had a classifier.
        adapted.unknown = None;
        adapted.card.limits = adapted.card.limits.replace(EMPTY_CLASSIFIER, "").trim().to_owned();
    }
    if let Some(name) = &config.name {
        adapted.name.clone_from(name);
    }
    let seconds: usize = report.classes.iter().map(|c| c.seconds).sum();
    let own = report
        .replay
        .map_or_else(String::new, |own| format!("; of the pack's own, {:.2} and {:.2}", own.before, own.after));
    adapted.card.method = format!(
        "{} The classifier of the pictures was adapted from {} (weights with SHA-256 {hash}…) with {seconds} seconds and stills of {} \
         classes of a channel: {:.2} of held-out samples right before, {:.2} after{own}.",
        adapted.card.method,
        manifest.name,
        report.classes.len(),
        report.channel.before,
        report.channel.after,
    );
    adapted.card.limits =
        format!("The measured figures are those of the pack before it was adapted. {}", adapted.card.limits);
    adapted.write(&config.out)?;
    Pack::open(&config.out)?;
    Ok(sha256)
}
