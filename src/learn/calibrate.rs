//! `touchline pack calibrate`: the ranges of a pack's networks on material to learn from, which int8 wants.
//!
//! The training side is looked at, so that neither what chooses the table nor what measures the pack has been seen.

use std::path::Path;

use super::dataset::Kind;
use super::dataset::split::Side;
use super::evaluate::Deciders;
use super::evaluate::score::{Material, score_side};
use super::evaluate::table::confusion;
use touchline_compute::gpu::Placement;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::{Int8, Int8Cost, Manifest, Pack};
use touchline_compute::models::save_ranges;
use touchline_compute::nn::fused::{Observed, Precision, Range};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// The ranges of the networks of a pack, modality by modality.
pub type Ranges = PerModality<Option<Vec<Vec<Range>>>>;

/// Looks at up to `seconds` seconds of each kind of material (pictures, clips, sounds), one from each of as many recordings,
/// evenly over the training side. `progress` hears how many recordings are done, and of how many. Returns the ranges, and
/// the modalities that the material holds nothing for.
///
/// # Errors
/// [`Error::Data`] when the training side holds nothing that can be read; [`Error::Pack`] when the pack cannot be loaded or
/// a network gives what is no number.
pub fn calibrate(
    pack: &Pack,
    material: &dyn Material,
    seconds: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Ranges, Vec<Modality>)> {
    let items = material.items()?;
    let mut chosen = Vec::new();
    for kind in Kind::ALL {
        let of: Vec<usize> =
            (0..items.len()).filter(|i| items[*i].kind == kind && items[*i].side == Side::Train).collect();
        let count = seconds.min(of.len());
        chosen.extend((0..count).map(|i| of[i * of.len() / count]));
    }
    let mut engine = Engine::load(Pack { precision: Precision::F32, placement: Placement::CPU, ..pack.clone() })?;
    let mut observed = PerModality::<Observed>::default();
    let mut unread = None;
    for (done, index) in chosen.iter().enumerate() {
        progress(done, chosen.len());
        match material.seconds(*index) {
            Ok(all) => {
                // The middle: beginnings are often a title or a fade.
                if let Some(second) = all.get(all.len() / 2) {
                    engine.observe(&[second], &mut observed)?;
                }
            }
            Err(error) => unread = Some(error),
        }
    }
    progress(chosen.len(), chosen.len());
    let mut ranges = Ranges::default();
    let mut without = Vec::new();
    for modality in Modality::ALL.into_iter().filter(|m| pack.model(*m).is_some()) {
        let seen = observed.get(modality);
        if seen.pictures() == 0 {
            without.push(modality);
            continue;
        }
        let found = seen.ranges().map_err(|e| {
            let cause = format!("{modality} model: {e}");
            Error::pack(&pack.dir, cause, "take the pack again or train it again")
        })?;
        *ranges.get_mut(modality) = Some(found);
    }
    if Modality::ALL.iter().all(|m| ranges.get(*m).is_none()) {
        let cause = unread.map_or_else(|| "its training side holds nothing to look at".to_owned(), |e| e.to_string());
        return Err(Error::data(material.name(), cause, "give a dataset that was built and split"));
    }
    Ok((ranges, without))
}

/// Writes the ranges that there are into the pack in `dir`, and their names into its manifest, which is not written.
///
/// # Errors
/// [`Error::Output`] when a file cannot be written.
pub fn put(manifest: &mut Manifest, ranges: &Ranges, dir: &Path) -> Result<()> {
    for modality in Modality::ALL {
        let Some(ranges) = ranges.get(modality) else { continue };
        let name = format!("{modality}.int8.safetensors");
        let path = dir.join(&name);
        let sha256 = save_ranges(ranges, &path)
            .map_err(|e| Error::output(path.display().to_string(), e.to_string(), e.advice()))?;
        if let Some(int8) = of(manifest, modality) {
            *int8 = Some(Int8 { ranges: name, sha256, validation: None });
        }
    }
    Ok(())
}

/// Puts what int8 costs each modality on validation into the manifest, which is not written, of the pack in `dir`, where
/// [`put`] has written the ranges. Scores are kept in `cache`. Nothing where there is no validation, or
/// a model has no ranges. `progress` hears how
/// many items are done, and of how many.
///
/// # Errors
/// As [`score_side`], but for material without validation.
pub fn weigh(
    manifest: &mut Manifest,
    dir: &Path,
    material: &dyn Material,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    // What was found before must not keep int8 from being looked at.
    for modality in Modality::ALL {
        of(manifest, modality).into_iter().flatten().for_each(|int8| int8.validation = None);
    }
    let pack = Pack::from_manifest(dir, manifest.clone())
        .map_err(|cause| Error::pack(dir, cause, "take the pack again or train it again"))?;
    if Modality::ALL.into_iter().filter_map(|m| pack.model(m)).any(|model| model.int8.is_none()) {
        // int8 refuses such a pack.
        return Ok(());
    }
    let temperatures = Deciders::of(&pack).temperatures;
    let mut macro_f1 = |precision| {
        let pack = Pack { precision, placement: Placement::CPU, ..pack.clone() };
        let seconds = score_side(&pack, material, Side::Validation, cache, progress)?.soften(&temperatures);
        Ok(PerModality::of(|modality| {
            let clips = seconds.iter().filter(|second| second.kind == Kind::Clip);
            let found = confusion(clips, modality, pack.classes.len());
            (found.total() > 0).then(|| (found.macro_f1() * 1e4).round() / 1e4)
        }))
    };
    let f32 = match macro_f1(Precision::F32) {
        Ok(f32) => f32,
        Err(Error::Data { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let int8 = macro_f1(Precision::Int8)?;
    for modality in Modality::ALL {
        if let Some(Some(section)) = of(manifest, modality) {
            section.validation = f32.get(modality).zip(*int8.get(modality)).map(|(f32, int8)| Int8Cost { f32, int8 });
        }
    }
    Ok(())
}

/// A modality's place for ranges, if the manifest has the modality.
fn of(manifest: &mut Manifest, modality: Modality) -> Option<&mut Option<Int8>> {
    match modality {
        Modality::Rgb => manifest.rgb.as_mut().map(|section| &mut section.int8),
        Modality::Flow => manifest.flow.as_mut().map(|section| &mut section.int8),
        Modality::Audio => manifest.audio.as_mut().map(|section| &mut section.int8),
    }
}
