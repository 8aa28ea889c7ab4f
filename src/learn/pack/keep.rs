//! Models of an older pack that a new pack keeps for the modalities that were not trained again.

use std::path::Path;

use super::TrainedModel;
use touchline_compute::models::pack::{MANIFEST, Manifest, Pack, Sampling, Section, parse_toml};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// Returns the manifest of the pack in `dir` and verifies its weights. The models that are kept, because `models` lacks them, bring their
/// numbers of frames and pairs a second to `sampling`.
///
/// # Errors
/// [`Error::Pack`] when the pack is damaged, [`Error::Data`] when its pictures have another size than those of the trained models.
pub(super) fn open(
    dir: &Path,
    sampling: &mut Sampling,
    models: &PerModality<Option<TrainedModel>>,
) -> Result<Manifest> {
    Pack::open(dir)?;
    let path = dir.join(MANIFEST);
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::data(&path, format!("cannot read: {e}"), "check its permissions"))?;
    let manifest: Manifest = parse_toml(&text).map_err(|e| Error::data(&path, e, "use a complete pack"))?;
    let Sampling { frame_height, rgb_frames, flow_pairs } = manifest.sampling;
    if frame_height != sampling.frame_height {
        let cause = format!("its pictures have {frame_height} lines, those of the runs {}", sampling.frame_height);
        return Err(Error::data(dir, cause, "train the other modalities too"));
    }
    if models.rgb.is_none() {
        sampling.rgb_frames = rgb_frames;
    }
    if models.flow.is_none() {
        sampling.flow_pairs = flow_pairs;
    }
    Ok(manifest)
}

/// Adds the models of `older` for the modalities that no run trained: their sections to `manifest`, their weights to the directory
/// `building`. Returns one sentence per model for the card.
///
/// # Errors
/// [`Error::Data`] when a model has a class that the new pack does not have, [`Error::Output`] when a file cannot be copied.
pub(super) fn keep(
    (older, dir): (&Manifest, &Path),
    models: &PerModality<Option<TrainedModel>>,
    classes: &ClassSet,
    manifest: &mut Manifest,
    building: &Path,
) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    let mut take = |modality: Modality, weights: &str, sha256: &str, outputs: &[String]| -> Result<()> {
        if let Some(class) = outputs.iter().find(|name| classes.id(name).is_none()) {
            let cause = format!("its {modality} model has the class {class:?}, which the runs do not have");
            return Err(Error::data(dir, cause, format!("train {modality} too")));
        }
        let to = building.join(weights);
        std::fs::copy(dir.join(weights), &to).map_err(|e| {
            Error::output(to.display().to_string(), format!("cannot write the pack: {e}"), "choose another -o")
        })?;
        let hash = &sha256[..8.min(sha256.len())];
        sentences.push(format!("{modality}: as in the pack {} (weights with SHA-256 {hash}…).", older.name));
        Ok(())
    };
    // The ranges for int8 are measured again, together with those of the trained models.
    fn fresh<P: Clone>(section: &Section<P>) -> Section<P> {
        Section { int8: None, temperature: 1.0, ..section.clone() }
    }
    if let (None, Some(s)) = (&models.rgb, &older.rgb) {
        take(Modality::Rgb, &s.weights, &s.sha256, &s.classes)?;
        manifest.rgb = Some(fresh(s));
    }
    if let (None, Some(s)) = (&models.flow, &older.flow) {
        take(Modality::Flow, &s.weights, &s.sha256, &s.classes)?;
        manifest.flow = Some(fresh(s));
    }
    if let (None, Some(s)) = (&models.audio, &older.audio) {
        take(Modality::Audio, &s.weights, &s.sha256, &s.classes)?;
        manifest.audio = Some(fresh(s));
    }
    let there = [manifest.rgb.is_some(), manifest.flow.is_some(), manifest.audio.is_some()];
    manifest.fusion.order = Modality::ALL.into_iter().zip(there).filter(|(_, there)| *there).map(|(m, _)| m).collect();
    Ok(sentences)
}
