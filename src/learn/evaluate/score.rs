//! Scoring of one side of a dataset by a pack's models.
//!
//! This is the slow part of an evaluation; the rest is arithmetic on its table. The table is therefore cached in a file. Its name
//! contains a hash of everything that the table depends on: weights, feature parameters, material, side.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use crossbeam_channel::bounded;

use super::scores::{RawSecond, ScoreTable, ScoredItem};
use crate::dataset::split::Side;
use crate::dataset::{Dataset, Kind, Meta};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_compute::models::sha256_hex;
use touchline_compute::nn::fused::Precision;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Version of the scores. Increase it with every change of the code that changes the scores of an unchanged side.
const VERSION: u32 = 3;

/// Seconds in one batch.
const BATCH: usize = 8;

/// Rows of logits.
type Rows = Vec<Vec<f32>>;

/// Items that are decoded ahead of the models: enough that neither side waits long for the other.
const AHEAD: usize = 2;

/// An item of labelled material.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledItem {
    /// Kind of material.
    pub kind: Kind,
    /// Path of the file, as the material names it.
    pub path: PathBuf,
    /// Name of the class.
    pub class: String,
    /// Group (source) of the item. The split keeps a group on one side.
    pub group: String,
    /// Side of the split.
    pub side: Side,
    /// Whether the item barely shows its sport. Weak items are neither trained on nor measured.
    pub weak: bool,
}

/// Labelled material that can be cut into seconds.
pub trait Material: Sync {
    /// Display name.
    fn name(&self) -> String;

    /// Parameters with which its seconds are cut.
    fn cut(&self) -> &Meta;

    /// Returns all items of all sides, in a fixed order.
    ///
    /// # Errors
    /// When the material is not split.
    fn items(&self) -> Result<Vec<LabelledItem>>;

    /// A hash that changes when the result of [`Self::seconds`] may have changed.
    fn fingerprint(&self) -> String;

    /// Returns the seconds of item `index`, in order.
    ///
    /// # Errors
    /// When the item cannot be read. The caller skips it.
    fn seconds(&self, index: usize) -> Result<Vec<ClipSecond>>;
}

impl Material for Dataset {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn cut(&self) -> &Meta {
        &self.meta
    }

    fn items(&self) -> Result<Vec<LabelledItem>> {
        let labelled = self.items.iter().zip(self.sides()?).map(|(item, side)| LabelledItem {
            kind: item.kind,
            path: item.path.clone(),
            class: item.class.clone(),
            group: item.group.clone(),
            side: *side,
            weak: item.weak,
        });
        Ok(labelled.collect())
    }

    fn fingerprint(&self) -> String {
        Dataset::fingerprint(self)
    }

    fn seconds(&self, index: usize) -> Result<Vec<ClipSecond>> {
        Dataset::seconds(self, index)
    }
}

/// Scores one side with the pack's models, or reads the scores from the directory `cache` if they are there. `progress` receives
/// the number of completed items and of all items.
///
/// # Errors
/// [`Error::Data`] when the pack and the material have no class in common, were cut differently, or the side has no items to
/// measure; [`Error::Pack`] when the pack cannot be loaded; [`Error::Output`] when the cache cannot be written.
pub fn score_side(
    pack: &Pack,
    material: &dyn Material,
    side: Side,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ScoreTable> {
    let (mut table, indices) = empty_table(pack, material, side)?;
    let key = key(pack, material, &table, side);
    let path = cache.join(format!("scores-{}-{}.safetensors", side.as_str(), &key[..16]));
    if path.is_file() {
        match load(&path, table.items.len()) {
            Ok(seconds) => {
                table.seconds = seconds;
                progress(indices.len(), indices.len());
                return Ok(table);
            }
            // A damaged cache costs time only.
            Err(error) => {
                tracing::warn!("cannot use the cached scores {}, computing them again: {error}", path.display())
            }
        }
    }
    let mut engine = Engine::load(pack.clone())?;
    run(&mut engine, material, &indices, &mut table, progress)?;
    // Skipped items may be readable next time, so an incomplete table is not cached.
    if table.skipped.is_empty() {
        std::fs::create_dir_all(cache).map_err(|e| e.to_string()).and_then(|()| save(&table, &path)).map_err(|e| {
            Error::output(path.display().to_string(), format!("cannot write: {e}"), "choose another --cache")
        })?;
    }
    Ok(table)
}

/// Returns the table without scores, and the index of each of its items in the material.
fn empty_table(pack: &Pack, material: &dyn Material, side: Side) -> Result<(ScoreTable, Vec<usize>)> {
    let all = material.items()?;
    let at = || PathBuf::from(material.name());
    if !all.iter().any(|i| pack.classes.id(&i.class).is_some()) {
        let cause = format!("none of its classes is known to the pack {}", pack.name);
        return Err(Error::data(at(), cause, "use a pack that was trained for these classes"));
    }
    let mut table = ScoreTable {
        classes: pack.classes.clone(),
        outputs: PerModality::of(|modality| pack.model(modality).map(|m| m.outputs.clone())),
        items: Vec::new(),
        seconds: Vec::new(),
        skipped: Vec::new(),
        unknown: BTreeMap::new(),
        weak: 0,
        remarks: remarks(pack, material)?,
    };
    let mut indices = Vec::new();
    for (index, item) in all.into_iter().enumerate().filter(|(_, i)| i.side == side) {
        let Some(truth) = pack.classes.id(&item.class) else {
            *table.unknown.entry(item.class).or_default() += 1;
            continue;
        };
        if item.weak {
            table.weak += 1;
            continue;
        }
        indices.push(index);
        table.items.push(ScoredItem {
            dataset_index: index as u32,
            path: item.path,
            kind: item.kind,
            truth,
            group: item.group,
        });
    }
    if table.items.is_empty() {
        let cause = format!("its {} side has no items to measure", side.as_str());
        return Err(Error::data(at(), cause, "split it again with more sources, or choose another side"));
    }
    Ok((table, indices))
}

/// Compares the cut of the material with that of the pack. Returns a remark on each difference that changes figures slightly.
///
/// # Errors
/// [`Error::Data`] when the pack cannot score seconds with this cut.
fn remarks(pack: &Pack, material: &dyn Material) -> Result<Vec<String>> {
    let cut = material.cut();
    let refuse = |cause: String, option: &str| {
        let advice = format!("build the dataset with {option}");
        Err(Error::data(PathBuf::from(material.name()), cause, advice))
    };
    if let Some(rate) = pack.sample_rate().filter(|rate| *rate != cut.sample_rate) {
        let cause = format!("its sound has {} samples a second, but the pack needs {rate}", cut.sample_rate);
        return refuse(cause, &format!("--sample-rate {rate}"));
    }
    let ms = |ns: u64| ns / 1_000_000;
    let (have, want) = (cut.plan.flow_gap_ns, pack.plan.flow_gap_ns);
    if pack.flow.is_some() && have != want {
        let cause = format!("its frame pairs are {} ms apart, but the pack needs {} ms", ms(have), ms(want));
        return refuse(cause, &format!("--flow-gap-ms {}", ms(want)));
    }
    let mut out = Vec::new();
    for (unit, have, want) in [
        ("frames a second", cut.plan.rgb_frames, pack.plan.rgb_frames),
        ("pairs a second", cut.plan.flow_pairs, pack.plan.flow_pairs),
        ("lines a picture", cut.frame_height, pack.frame_height),
    ] {
        // A pack without the modality has 0.
        if want == 0 || have == want {
            continue;
        }
        if have == 0 {
            let option = if unit.starts_with("frames") { "--rgb-frames" } else { "--flow-pairs" };
            return refuse(format!("it has no {unit}, but the pack needs {want}"), &format!("{option} {want}"));
        }
        out.push(format!("The dataset has {have} {unit}, but serving uses {want}: figures may differ slightly."));
    }
    Ok(out)
}

/// Decodes items on another thread and scores them on this one.
fn run(
    engine: &mut Engine,
    material: &dyn Material,
    indices: &[usize],
    table: &mut ScoreTable,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let (to, decoded) = bounded(AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for index in indices {
                // The receiver is gone after an error.
                if to.send(material.seconds(*index)).is_err() {
                    return;
                }
            }
        });
        let mut batch: Vec<(u32, u32, ClipSecond)> = Vec::with_capacity(BATCH);
        for (item, seconds) in (0u32..).zip(decoded) {
            progress(item as usize, indices.len());
            let scored = &table.items[item as usize];
            let skip = match seconds {
                Ok(seconds) if seconds.is_empty() => Some("it contains no second".to_owned()),
                Ok(seconds) => {
                    for (second, clip) in (0u32..).zip(seconds) {
                        batch.push((item, second, clip));
                        if batch.len() == BATCH {
                            flush(engine, &mut batch, &mut table.seconds)?;
                        }
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            table.skipped.extend(skip.map(|cause| (scored.path.clone(), cause)));
        }
        flush(engine, &mut batch, &mut table.seconds)
    })?;
    progress(indices.len(), indices.len());
    Ok(())
}

fn flush(engine: &mut Engine, batch: &mut Vec<(u32, u32, ClipSecond)>, out: &mut Vec<RawSecond>) -> Result<()> {
    let clips: Vec<&ClipSecond> = batch.iter().map(|(_, _, clip)| clip).collect();
    let logits = engine.logits(&clips)?;
    out.extend(batch.iter().zip(logits).map(|((item, second, _), logits)| RawSecond {
        item: *item,
        second: *second,
        logits,
    }));
    batch.clear();
    Ok(())
}

/// Returns a hash of everything that the scores depend on.
fn key(pack: &Pack, material: &dyn Material, table: &ScoreTable, side: Side) -> String {
    let inputs = (
        pack.rgb.as_ref().map(|p| &p.input),
        pack.flow.as_ref().map(|p| &p.input),
        pack.audio.as_ref().map(|p| &p.input),
    );
    let mut text = format!(
        "{VERSION} {} {} {inputs:?} {:?} {} {} {side:?}\n",
        pack.weights_sha256(),
        pack.precision.name(),
        pack.plan,
        pack.frame_height,
        material.fingerprint()
    );
    if pack.precision == Precision::Int8 {
        let ranges =
            |m: Modality| pack.model(m).map(|model| (model.precision(Precision::Int8).name(), model.ranges_sha256()));
        text += &format!("{:?}\n", Modality::ALL.map(ranges));
    }
    for item in &table.items {
        text += &format!("{}\n", item.path.display());
    }
    sha256_hex(text.as_bytes())
}

/// Writes a table: the index (item, second, rows per modality) as one tensor, and the rows of each modality as another.
fn save(table: &ScoreTable, path: &Path) -> Result<(), String> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut index: Vec<u32> = Vec::new();
    for s in &table.seconds {
        index.extend([s.item, s.second]);
        index.extend(Modality::ALL.map(|m| s.logits.get(m).len() as u32));
    }
    let write = || -> candle_core::Result<()> {
        let seconds = Tensor::from_vec(index, (table.seconds.len(), 5), &Device::Cpu)?;
        tensors.insert("seconds".into(), seconds);
        for modality in table.modalities() {
            let rows: Vec<f32> = table.rows(modality).flat_map(|(_, row)| row.iter().copied()).collect();
            let width = table.outputs.get(modality).as_ref().map_or(0, Vec::len);
            let n = rows.len() / width.max(1);
            if n > 0 {
                tensors.insert(modality.to_string(), Tensor::from_vec(rows, (n, width), &Device::Cpu)?);
            }
        }
        let partial = path.with_extension("part");
        candle_core::safetensors::save(&tensors, &partial)?;
        // The file appears complete or not at all, so an interrupted run leaves no incomplete cache.
        std::fs::rename(&partial, path)?;
        Ok(())
    };
    write().map_err(|e| e.to_string())
}

/// Reads the seconds that [`save`] wrote. `items` is the number of items in the table.
fn load(path: &Path, items: usize) -> Result<Vec<RawSecond>, String> {
    let read = || -> candle_core::Result<(Vec<Vec<u32>>, PerModality<Rows>)> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let seconds = tensors.get("seconds").ok_or_else(|| candle_core::Error::Msg("it has no seconds".into()))?;
        let mut rows = PerModality::default();
        for modality in Modality::ALL {
            if let Some(tensor) = tensors.get(modality.as_str()) {
                *rows.get_mut(modality) = tensor.to_vec2::<f32>()?;
            }
        }
        Ok((seconds.to_vec2::<u32>()?, rows))
    };
    let (seconds, rows) = read().map_err(|e| e.to_string())?;
    let mut rows =
        PerModality { rgb: rows.rgb.into_iter(), flow: rows.flow.into_iter(), audio: rows.audio.into_iter() };
    let mut out = Vec::with_capacity(seconds.len());
    for s in seconds {
        let [item, second, counts @ ..] = s.as_slice() else { return Err("its index is malformed".into()) };
        let mut logits = PerModality::<Rows>::default();
        for (modality, count) in Modality::ALL.into_iter().zip(counts) {
            let own: Rows = rows.get_mut(modality).take(*count as usize).collect();
            if own.len() != *count as usize {
                return Err("rows are missing".into());
            }
            *logits.get_mut(modality) = own;
        }
        if *item as usize >= items {
            return Err("it belongs to other items".into());
        }
        out.push(RawSecond { item: *item, second: *second, logits });
    }
    Ok(out)
}
