//! `touchline pack calibrate`: measures the activation ranges of a pack's networks on training material, for int8 inference.
//!
//! Only the training side is used. The validation side selects the table and the test side measures the pack; neither may
//! influence the ranges.

use std::path::Path;

use super::dataset::Kind;
use super::dataset::split::Side;
use super::evaluate::PackParameters;
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

/// Activation ranges of each network of a pack; `None` for a modality without ranges.
pub type Ranges = PerModality<Option<Vec<Vec<Range>>>>;

/// Measures the ranges on up to `seconds` seconds of each kind of material, one per recording, with recordings taken evenly
/// from the training side. `progress` receives the number of recordings done and their total. Returns the ranges, and the
/// modalities of the pack for which the material has no input, or whose network is an encoder, which has no ranges.
///
/// # Errors
/// [`Error::Data`] when nothing on the training side can be read; [`Error::Pack`] when the pack cannot be loaded or a network
/// returns NaN or infinity.
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
                // The middle second, because a recording often begins with a title or a fade.
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
        let of_modality = observed.get(modality);
        if of_modality.pictures() == 0 {
            without.push(modality);
            continue;
        }
        let measured = of_modality.ranges().map_err(|e| {
            let cause = format!("{modality} model: {e}");
            Error::pack(&pack.dir, cause, "download the pack again or train it again")
        })?;
        *ranges.get_mut(modality) = Some(measured);
    }
    let needs_ranges = |m: &Modality| pack.model(*m).is_some_and(|model| !model.architecture.is_encoder());
    if Modality::ALL.iter().any(needs_ranges) && Modality::ALL.iter().all(|m| ranges.get(*m).is_none()) {
        let cause =
            unread.map_or_else(|| "its training side has no input for the models".to_owned(), |e| e.to_string());
        return Err(Error::data(material.name(), cause, "choose a dataset that is built and split"));
    }
    Ok((ranges, without))
}

/// Writes one file per modality that has ranges into the pack directory `dir`, and adds the files to `manifest`. The manifest
/// itself is not written.
///
/// # Errors
/// [`Error::Output`] when a file cannot be written.
pub fn write_ranges(manifest: &mut Manifest, ranges: &Ranges, dir: &Path) -> Result<()> {
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

/// Measures macro F1 of each modality on validation clips in f32 and in int8, and adds both figures to `manifest`, which is not
/// written. [`write_ranges`] has written the ranges into `dir` before. Scores are cached in `cache`. Adds nothing when there
/// is no validation side or a model has no ranges. `progress` receives the number of items done and their total.
///
/// # Errors
/// The errors of [`score_side`], except that material without a validation side is no error; [`Error::Pack`] when `manifest`
/// does not describe the pack in `dir`.
pub fn measure_cost(
    manifest: &mut Manifest,
    dir: &Path,
    material: &dyn Material,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    // Figures of an earlier measurement must not keep int8 from being measured.
    for modality in Modality::ALL {
        of(manifest, modality).into_iter().flatten().for_each(|int8| int8.validation = None);
    }
    let pack = Pack::from_manifest(dir, manifest.clone())
        .map_err(|cause| Error::pack(dir, cause, "download the pack again or train it again"))?;
    if Modality::ALL.into_iter().filter_map(|m| pack.model(m)).any(|model| model.int8.is_none()) {
        // Such a pack cannot run in int8.
        return Ok(());
    }
    let temperatures = PackParameters::of(&pack).temperatures;
    let mut macro_f1 = |precision| {
        let pack = Pack { precision, placement: Placement::CPU, ..pack.clone() };
        let seconds = score_side(&pack, material, Side::Validation, cache, progress)?.soften(&temperatures);
        Ok(PerModality::of(|modality| {
            let clips = seconds.iter().filter(|second| second.kind == Kind::Clip);
            let confusion = confusion(clips, modality, pack.classes.len());
            (confusion.total() > 0).then(|| (confusion.macro_f1() * 1e4).round() / 1e4)
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

/// Returns the `int8` entry of a modality's section; `None` when the manifest has no such section.
fn of(manifest: &mut Manifest, modality: Modality) -> Option<&mut Option<Int8>> {
    match modality {
        Modality::Rgb => manifest.rgb.as_mut().map(|section| &mut section.int8),
        Modality::Flow => manifest.flow.as_mut().map(|section| &mut section.int8),
        Modality::Audio => manifest.audio.as_mut().map(|section| &mut section.int8),
    }
}
