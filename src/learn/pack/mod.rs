//! `touchline pack build`: builds a pack for serving from trained models.
//!
//! Validation determines the temperatures and the class-to-modality table. The test side is read once, for the figures on the card.
//! The files are moved into place one by one, `pack.toml` last. While an older pack is replaced, new weights may briefly be beside
//! the old manifest. A running detector rejects these because of their hashes, and loads the pack at its next check.

mod keep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;

use super::adapt::replay::Replay;
use super::calibrate;
use super::dataset::split::Side;
use super::dataset::{Dataset, Kind};
use super::evaluate::cross::Cross;
use super::evaluate::figures::card_figures;
use super::evaluate::score::score_side;
use super::evaluate::scores::ScoreTable;
use super::evaluate::{Fitted, fit, fit_at};
use super::fit::BEST;
use super::net;
use super::train::{RUN, RunInfo, labelling};
use touchline_compute::models::pack::{Card, Fusion, FusionEntry, MANIFEST, Manifest, Pack, Section, parse_toml};
use touchline_compute::models::{LoadError, read_weights, save_f16};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassSet, Modality};

/// File name of the list of recordings with their sides, beside the manifest.
const SPLIT: &str = "split.csv";

/// Number of recordings of each kind on which the ranges for int8 are measured. More recordings hardly change the ranges.
pub const CALIBRATED_ON: u32 = 150;

/// Inputs and output of the build of a pack.
#[derive(Clone, Debug)]
pub struct PackConfig {
    /// Directories of runs. If several have the same modality, the last one is used.
    pub runs: Vec<PathBuf>,
    /// A pack whose models are kept for the modalities that no run has.
    pub keep: Option<PathBuf>,
    /// Directory of the new pack.
    pub out: PathBuf,
    /// Name of the new pack.
    pub name: String,
    /// Description of the material and its origin, for the card.
    pub material: String,
    /// A cross-validation of the same training, for temperatures and the threshold of answers. Validation has a tenth of its sources.
    pub cv: Option<PathBuf>,
    /// Directory for cached scores.
    pub cache: PathBuf,
}

/// The trained model of a modality.
struct TrainedModel {
    info: RunInfo,
    /// File with the best weights.
    weights: PathBuf,
}

/// Builds a pack and returns its manifest. `progress` receives the current step, the number of completed items and of all items.
///
/// # Errors
/// [`Error::Data`] when a run is missing or unfinished, belongs to another dataset or split, or has other classes than the rest;
/// [`Error::Output`] when the pack cannot be written.
///
/// # Panics
/// Never: at least one run is required, and each has a model.
pub fn build(
    dataset: &Dataset,
    config: &PackConfig,
    progress: &mut dyn FnMut(&'static str, usize, usize),
) -> Result<Manifest> {
    let sides = dataset.sides()?;
    let models = find(dataset, sides, config)?;
    let first = Modality::ALL.iter().find_map(|m| models.get(*m).as_ref()).expect("find returns at least one model");
    let classes = ClassSet::new(first.info.classes.clone())
        .map_err(|e| Error::data(&config.out, e, "train again; the classes of the run are damaged"))?;
    let cannot = |path: &Path, e: std::io::Error| {
        Error::output(path.display().to_string(), format!("cannot write the pack: {e}"), "choose another -o")
    };
    std::fs::create_dir_all(&config.out).map_err(|e| cannot(&config.out, e))?;
    let building = config.out.join("building");
    // An earlier build that failed may have left it.
    let _ = std::fs::remove_dir_all(&building);
    std::fs::create_dir(&building).map_err(|e| cannot(&building, e))?;

    let mut manifest = draft(config, &models, &classes, &first.info, &building)?;
    let mut kept = Vec::new();
    if let Some(dir) = &config.keep {
        let older = keep::open(dir, &mut manifest.sampling, &models)?;
        kept = keep::keep((&older, dir), &models, &classes, &mut manifest, &building)?;
    }
    manifest.write(&building)?;
    replay(dataset, sides, config, (&manifest, &models), &building, progress)?;
    let pack = Pack::open(&building)?;
    let mut notes = Vec::new();
    let validation = score_side(&pack, dataset, Side::Validation, &config.cache, &mut |done, of| {
        progress("validation", done, of);
    });
    let fitted = match validation {
        Ok(table) => {
            let fitted = match &config.cv {
                Some(run) => fit_with_folds(run, dataset, &classes, &table)?,
                None => fit(&table),
            };
            manifest.unknown = fitted.unknown;
            manifest.fusion = manifest_fusion(&fitted.fusion, &classes);
            fitted
        }
        Err(Error::Data { cause, .. }) => {
            let reason = format!(
                "built without validation ({cause}): all temperatures are 1, and one modality decides all classes"
            );
            notes.push(reason.clone());
            manifest.fusion.refit = Some(reason);
            Fitted {
                temperatures: PerModality::of(|_| 1.0),
                fusion: pack.fusion.clone(),
                unknown: None,
                soft: Vec::new(),
            }
        }
        Err(e) => return Err(e),
    };
    let (ranges, _) = calibrate::calibrate(&pack, dataset, CALIBRATED_ON as usize, &mut |done, of| {
        progress("calibration", done, of);
    })?;
    calibrate::write_ranges(&mut manifest, &ranges, &building)?;
    for (section, temperature) in [
        (manifest.rgb.as_mut().map(|s| &mut s.temperature), fitted.temperatures.rgb),
        (manifest.flow.as_mut().map(|s| &mut s.temperature), fitted.temperatures.flow),
        (manifest.audio.as_mut().map(|s| &mut s.temperature), fitted.temperatures.audio),
    ] {
        if let Some(stated) = section {
            *stated = temperature;
        }
    }
    calibrate::measure_cost(&mut manifest, &building, dataset, &config.cache, &mut |done, of| {
        progress("int8", done, of);
    })?;
    let test = score_side(&pack, dataset, Side::Test, &config.cache, &mut |done, of| progress("test", done, of));
    let measured = match test {
        Ok(test) => card_figures(&test.soften(&fitted.temperatures), &fitted.soft, &fitted.fusion, classes.len()),
        Err(Error::Data { cause, .. }) => {
            notes.push(format!("not measured: {cause}"));
            BTreeMap::new()
        }
        Err(e) => return Err(e),
    };
    manifest.card = card(dataset, sides, config, (&models, &kept), measured, &notes);
    manifest.write(&building)?;
    let split = split_csv(dataset, sides);
    std::fs::write(building.join(SPLIT), split).map_err(|e| cannot(&building, e))?;
    Pack::open(&building)?;
    put_in_place(&building, &config.out).map_err(|e| cannot(&config.out, e))?;
    Ok(manifest)
}

/// Fits temperatures and the threshold of answers on the held-out items of a cross-validation, for the modalities that it has, and the
/// rest on validation.
fn fit_with_folds(run: &Path, dataset: &Dataset, classes: &ClassSet, validation: &ScoreTable) -> Result<Fitted> {
    let cross = Cross::open(run, dataset)?;
    if cross.table.classes != *classes {
        let cause = "has other classes than the pack";
        return Err(Error::data(run, cause, "cross-validate the training that the pack is built from"));
    }
    let of_folds = cross.fitted();
    let mut temperatures = validation.fit_temperatures();
    for modality in cross.modalities() {
        *temperatures.get_mut(modality) = *of_folds.temperatures.get(modality);
    }
    Ok(Fitted { unknown: of_folds.unknown, ..fit_at(validation, temperatures) })
}

/// Writes the replay features of the pictures' model, which `touchline adapt` needs: those of the training side, or those of the pack
/// that the model is kept from.
fn replay(
    dataset: &Dataset,
    sides: &[Side],
    config: &PackConfig,
    (manifest, models): (&Manifest, &PerModality<Option<TrainedModel>>),
    building: &Path,
    progress: &mut dyn FnMut(&'static str, usize, usize),
) -> Result<()> {
    let Some(section) = &manifest.rgb else { return Ok(()) };
    let Some(model) = &models.rgb else {
        let Some(older) = &config.keep else { return Ok(()) };
        // A pack of an earlier version has none, and cannot be adapted either.
        return match Replay::load(older, &section.sha256, section.classes.len()) {
            Ok(replay) => replay.save(building, &section.sha256),
            Err(_) => Ok(()),
        };
    };
    let path = building.join(&section.weights);
    let broken = |e: LoadError| Error::data(&path, e.to_string(), e.advice());
    let file = read_weights(&path, &Device::Cpu).map_err(broken)?;
    let built =
        net::build(section.architecture, &file.tensors, section.classes.len(), 0, &Device::Cpu).map_err(broken)?;
    let network = (&built, section.sha256.as_str());
    let replay = Replay::compute(
        dataset,
        sides,
        &section.classes,
        network,
        &model.info.inputs,
        &config.cache,
        &mut |done, of| {
            progress("replay", done, of);
        },
    )?;
    replay.save(building, &section.sha256)
}

/// Returns the trained models of the runs.
fn find(dataset: &Dataset, sides: &[Side], config: &PackConfig) -> Result<PerModality<Option<TrainedModel>>> {
    let mut models: PerModality<Option<TrainedModel>> = PerModality::default();
    let labelling = labelling(dataset, sides);
    for run in &config.runs {
        let mut any = false;
        for modality in Modality::ALL {
            let dir = run.join(modality.to_string());
            let (toml, weights) = (dir.join(RUN), dir.join(BEST));
            if !toml.is_file() {
                continue;
            }
            any = true;
            let text = std::fs::read_to_string(&toml)
                .map_err(|e| Error::data(&toml, format!("cannot read: {e}"), "check its permissions"))?;
            let info: RunInfo = parse_toml(&text).map_err(|e| Error::data(&toml, e, "train again"))?;
            if !weights.is_file() {
                return Err(Error::data(&weights, "is missing", "train for at least one epoch"));
            }
            if info.fingerprint != dataset.fingerprint() {
                let cause = format!("was trained on another dataset than {}", dataset.dir.display());
                return Err(Error::data(&dir, cause, "use the dataset that it was trained on"));
            }
            if info.labelling.as_ref().is_some_and(|then| *then != labelling) {
                let cause = format!("was trained on another split or other labels of {}", dataset.dir.display());
                return Err(Error::data(
                    &dir,
                    cause,
                    "restore the earlier split (dataset split --seed), or train again",
                ));
            }
            *models.get_mut(modality) = Some(TrainedModel { info, weights });
        }
        if !any {
            let cause = format!("contains no finished training (no {RUN} in rgb/, flow/ or audio/)");
            return Err(Error::data(run, cause, "use the -o directory of `touchline train`"));
        }
    }
    let mut all = Modality::ALL.iter().filter_map(|m| models.get(*m).as_ref());
    let advice = "train all modalities on one dataset with one set of classes";
    let Some(first) = all.next() else {
        return Err(Error::Usage("name at least one run".into()));
    };
    if let Some(other) = all.find(|p| p.info.classes != first.info.classes || p.info.sampling != first.info.sampling) {
        let cause = format!("{} and {} have different classes or samplings", first.info.modality, other.info.modality);
        return Err(Error::data(&config.runs[0], cause, advice));
    }
    Ok(models)
}

/// Writes the weights to `dir` and returns the manifest before any measurement.
fn draft(
    config: &PackConfig,
    models: &PerModality<Option<TrainedModel>>,
    classes: &ClassSet,
    info: &RunInfo,
    dir: &Path,
) -> Result<Manifest> {
    let order: Vec<Modality> = Modality::ALL.into_iter().filter(|m| models.get(*m).is_some()).collect();
    let entry = FusionEntry { modality: order[0], rgb: None, flow: None, audio: None };
    let table = classes.names().iter().map(|name| (name.clone(), entry.clone())).collect();
    let weights = |modality: Modality| -> Result<String> {
        let Some(model) = models.get(modality) else { return Ok(String::new()) };
        let file = read_weights(&model.weights, &Device::Cpu)
            .map_err(|e| Error::data(&model.weights, e.to_string(), e.advice()))?;
        let path = dir.join(format!("{modality}.safetensors"));
        save_f16(&file.tensors, &path).map_err(|e| Error::output(path.display().to_string(), e.to_string(), e.advice()))
    };
    let (rgb, flow, audio) = (weights(Modality::Rgb)?, weights(Modality::Flow)?, weights(Modality::Audio)?);
    fn section<P>(modality: Modality, model: &TrainedModel, sha256: String, input: P) -> Section<P> {
        Section {
            architecture: model.info.architecture,
            weights: format!("{modality}.safetensors"),
            sha256,
            classes: model.info.outputs.clone(),
            temperature: 1.0,
            input,
            int8: None,
        }
    }
    Ok(Manifest {
        format: 1,
        name: config.name.clone(),
        classes: classes.names().to_vec(),
        left_out: info.left_out.clone(),
        sampling: info.sampling.clone(),
        rgb: models.rgb.as_ref().map(|p| section(Modality::Rgb, p, rgb, p.info.inputs.rgb.clone())),
        flow: models.flow.as_ref().map(|p| section(Modality::Flow, p, flow, p.info.inputs.flow.clone())),
        audio: models.audio.as_ref().map(|p| section(Modality::Audio, p, audio, p.info.inputs.audio.clone())),
        fusion: Fusion { order, refit: None, table },
        unknown: None,
        card: Card::default(),
    })
}

/// Converts a table to its form in the manifest, with F1 rounded to four decimals.
fn manifest_fusion(fusion: &FusionTable, classes: &ClassSet) -> Fusion {
    let round = |v: Option<f32>| v.map(|v| (v * 1e4).round() / 1e4);
    let table = classes
        .names()
        .iter()
        .zip(fusion.entries())
        .map(|(name, e)| {
            let entry = FusionEntry {
                modality: e.modality,
                rgb: round(e.f1.rgb),
                flow: round(e.f1.flow),
                audio: round(e.f1.audio),
            };
            (name.clone(), entry)
        })
        .collect();
    Fusion { order: fusion.order().to_vec(), refit: None, table }
}

/// Returns the card: material, method, split, figures, limits.
fn card(
    dataset: &Dataset,
    sides: &[Side],
    config: &PackConfig,
    (models, kept): (&PerModality<Option<TrainedModel>>, &[String]),
    measured: BTreeMap<String, f64>,
    notes: &[String],
) -> Card {
    let count = |kind| dataset.items.iter().filter(|i| i.kind == kind).count();
    let clips = |side| {
        let on = dataset.items.iter().zip(sides).filter(move |(i, s)| **s == side && i.kind == Kind::Clip && !i.weak);
        let groups: std::collections::BTreeSet<&str> = on.clone().map(|(i, _)| i.group.as_str()).collect();
        (on.count(), groups.len())
    };
    let trained = Modality::ALL.iter().filter_map(|m| models.get(*m).as_ref()).map(method);
    let methods: Vec<String> = trained.chain(kept.iter().cloned()).collect();
    let ((train, _), (validation, _), (test, sources)) =
        (clips(Side::Train), clips(Side::Validation), clips(Side::Test));
    let fingerprint = touchline_compute::models::sha256_hex(split_csv(dataset, sides).as_bytes());
    let mut limits = format!(
        "The figures are from {test} recordings of {sources} sources and vary by several points with the choice of \
         sources. Material that shows none of the sports is recognised as 'other' only if it resembles the training material."
    );
    for note in notes {
        limits = format!("This pack was {note}. {limits}");
    }
    Card {
        trained_on: format!(
            "{} still pictures, {} frames of television, {} video clips and {} pieces of sound; {}",
            count(Kind::Picture),
            count(Kind::Frame),
            count(Kind::Clip),
            count(Kind::Sound),
            config.material
        ),
        method: methods.join(" "),
        split: format!(
            "80/10/10 by source: {train} / {validation} / {test} clips (split.csv, SHA-256 starts {}); a class from one \
             source is in training only; clips that show little play are neither trained on nor measured; table and \
             temperatures are from validation{}",
            &fingerprint[..8],
            if config.cv.is_some() {
                ", and those of the cross-validated modalities and the threshold from its folds"
            } else {
                ""
            }
        ),
        measured,
        limits,
    }
}

/// Returns a sentence on the training of a model.
fn method(model: &TrainedModel) -> String {
    let RunInfo { modality, architecture, fit, learns_from, first_weights, views, .. } = &model.info;
    let start = if first_weights.len() == 64 {
        format!("first weights with SHA-256 {}…", &first_weights[..8])
    } else {
        first_weights.clone()
    };
    let mut steps = Vec::new();
    if fit.head.steps > 0 {
        steps.push(format!("the classifier to its optimum (L-BFGS, penalty {})", fit.head.penalty));
    }
    steps.push(if fit.tune.epochs > 0 {
        format!(
            "up to {} epochs of all from {learns_from} on ({:?}, rate {}, dropout {}, mixup {})",
            fit.tune.epochs, fit.optimizer, fit.tune.learning_rate, fit.dropout, fit.mixup
        )
    } else {
        "the rest frozen".to_owned()
    });
    let fresh = if fit.tune.fresh_views { ", new ones in each epoch" } else { "" };
    format!(
        "{modality}: {architecture}, {start}; {}; label smoothing {}, {} random views of a still and {} of a second{fresh}, classes \
         and sources balanced, the epoch with the best validation macro F1 kept, seed {}.",
        steps.join(", then "),
        fit.label_smoothing,
        views.0,
        views.1,
        fit.seed
    )
}

/// Counts the recordings of `side` that the `split.csv` of the pack in `dir` lists as training material. Figures on these would be
/// meaningless. 0 when the pack has no such list.
///
/// # Errors
/// When the dataset is not split.
pub fn seen_in_training(dir: &Path, dataset: &Dataset, side: Side) -> Result<usize> {
    let Ok(mut list) = csv::Reader::from_path(dir.join(SPLIT)) else { return Ok(0) };
    let rows = list.records().filter_map(std::result::Result::ok);
    let trained: std::collections::BTreeSet<PathBuf> =
        rows.filter(|r| r.get(3) == Some(Side::Train.as_str())).filter_map(|r| Some(r.get(0)?.into())).collect();
    let seen = |(item, s): (&super::dataset::Item, &Side)| *s == side && trained.contains(&item.path);
    Ok(dataset.items.iter().zip(dataset.sides()?).filter(|both| seen(*both)).count())
}

/// Returns path, class, source and side of every recording and frame. The list leaves out photographs, of which there are thousands.
fn split_csv(dataset: &Dataset, sides: &[Side]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = writer.write_record(["path", "class", "source", "side"]);
    header.expect("writing to memory does not fail");
    for (item, side) in dataset.items.iter().zip(sides).filter(|(i, _)| i.kind != Kind::Picture) {
        let path = item.path.to_string_lossy();
        let row = writer.write_record([&path, item.class.as_str(), item.source.as_str(), side.as_str()]);
        row.expect("writing to memory does not fail");
    }
    let bytes = writer.into_inner().expect("writing to memory does not fail");
    String::from_utf8(bytes).expect("only text was written")
}

/// Moves the files from `building` to `out`, the manifest last.
fn put_in_place(building: &Path, out: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    let mut names: Vec<_> = std::fs::read_dir(building)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort_by_key(|name| (name == MANIFEST, name.clone()));
    for name in names {
        std::fs::rename(building.join(&name), out.join(&name))?;
    }
    std::fs::remove_dir(building)
}
