//! Modalities of an older pack that a new one keeps, where only some were trained again.

use std::path::Path;

use super::Part;
use touchline_compute::models::pack::{MANIFEST, Manifest, Pack, Sampling, Section, parse_toml};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// The manifest of the pack in `dir`, when its models can serve beside those that were trained. Its weights are verified.
///
/// # Errors
/// [`Error::Pack`] when it is damaged, [`Error::Data`] when it cuts seconds otherwise.
pub(super) fn open(dir: &Path, sampling: &Sampling) -> Result<Manifest> {
    Pack::open(dir)?;
    let path = dir.join(MANIFEST);
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::data(&path, format!("cannot read: {e}"), "check its permissions"))?;
    let manifest: Manifest = parse_toml(&text).map_err(|e| Error::data(&path, e, "give a pack that is whole"))?;
    if manifest.sampling != *sampling {
        let cause = "it looks at other frames of a second than the runs";
        return Err(Error::data(dir, cause, "train the other modalities too"));
    }
    Ok(manifest)
}

/// Copies what `older` has of the modalities that no run trained into `manifest` and beside it, in `building`. Gives a
/// sentence on each for the card.
///
/// # Errors
/// [`Error::Data`] when a model tells classes apart that the new pack does not have, [`Error::Output`] when a file cannot
/// be copied.
pub(super) fn keep(
    (older, dir): (&Manifest, &Path),
    parts: &PerModality<Option<Part>>,
    classes: &ClassSet,
    manifest: &mut Manifest,
    building: &Path,
) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    let mut take = |modality: Modality, weights: &str, sha256: &str, outputs: &[String]| -> Result<()> {
        if let Some(class) = outputs.iter().find(|name| classes.id(name).is_none()) {
            let cause = format!("its model of {modality} knows {class:?}, which the runs do not");
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
    // The ranges for int8 are measured anew, with those of the others.
    fn fresh<P: Clone>(section: &Section<P>) -> Section<P> {
        Section { int8: None, temperature: 1.0, ..section.clone() }
    }
    if let (None, Some(s)) = (&parts.rgb, &older.rgb) {
        take(Modality::Rgb, &s.weights, &s.sha256, &s.classes)?;
        manifest.rgb = Some(fresh(s));
    }
    if let (None, Some(s)) = (&parts.flow, &older.flow) {
        take(Modality::Flow, &s.weights, &s.sha256, &s.classes)?;
        manifest.flow = Some(fresh(s));
    }
    if let (None, Some(s)) = (&parts.audio, &older.audio) {
        take(Modality::Audio, &s.weights, &s.sha256, &s.classes)?;
        manifest.audio = Some(fresh(s));
    }
    let there = [manifest.rgb.is_some(), manifest.flow.is_some(), manifest.audio.is_some()];
    manifest.fusion.order = Modality::ALL.into_iter().zip(there).filter(|(_, there)| *there).map(|(m, _)| m).collect();
    Ok(sentences)
}
