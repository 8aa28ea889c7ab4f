//! Frozen-backbone features of every labelled item, computed once and cached.
//!
//! A row is the pooled output of the backbone for one model input: a frame, a pair, or a second of sound, as it is
//! (view 0) or as an augmented view (1…). The cache file's name holds a hash of all that the rows depend on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::augment;
use super::dataset::{Item, Kind, seconds};
use crate::clip::{ClipConfig, ClipSecond, Patience, SamplingPlan};
use crate::decision::PerModality;
use crate::error::{Error, Result};
use crate::features::FeatureExtractor;
use crate::features::params::{AudioParams, FlowParams, PictureParams};
use crate::ingest::frame::{Frame, read_still};
use crate::ingest::{Open, Pace};
use crate::labels::Modality;
use crate::models::Network;

/// Changes whenever the rows of an unchanged item would change.
const VERSION: u32 = 2;

/// Augmented views of a picture beside the picture itself: two are enough for a linear head; more cost minutes each.
const PICTURE_VIEWS: u32 = 2;

/// Model inputs that go through the backbone at once.
const BATCH: usize = 16;

/// The feature parameters of the pack that is being made.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    pub rgb: PictureParams,
    pub flow: FlowParams,
    pub audio: AudioParams,
    pub plan: SamplingPlan,
    /// Lines that pictures of recordings are scaled down to on ingest.
    pub frame_height: u32,
}

/// Which input a row of features stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Index into the items.
    pub item: u32,
    /// Second of the recording, counted over its runs.
    pub second: u32,
    /// 0 = as it is.
    pub view: u32,
}

/// The rows of one modality.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// `rows.len() * width`
    pub features: Vec<f32>,
}

/// The features of all items, per modality.
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// Values a row.
    pub width: usize,
    pub rows: PerModality<Rows>,
    /// Items that could not be read, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Rows {
    pub fn feature(&self, i: usize, width: usize) -> &[f32] {
        &self.features[i * width..(i + 1) * width]
    }
}

/// Computes or loads the features of `items` (paths relative to `data`).
///
/// # Errors
/// When the cache cannot be written or the backbone fails. An unreadable item is skipped and listed.
pub fn extract(
    data: &Path,
    items: &[Item],
    inputs: &Inputs,
    backbone: (&Network, &str),
    opener: &dyn Open,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Extracted> {
    let (network, backbone_hash) = backbone;
    let key = key(data, items, inputs, backbone_hash);
    let path = cache.join(format!("features-{}.safetensors", &key[..16]));
    tracing::debug!("features: {}", path.display());
    if path.is_file() {
        return load(&path);
    }
    let extractor = FeatureExtractor::new(Some(&inputs.rgb), Some(&inputs.flow), Some(&inputs.audio))
        .map_err(|e| Error::Usage(format!("feature parameters: {e}")))?;
    let mut work = Work {
        network,
        inputs,
        extractor,
        pending: PerModality::default(),
        out: Extracted { width: network.feature_width(), ..Extracted::default() },
    };
    for (i, item) in items.iter().enumerate() {
        progress(i, items.len());
        let outcome = match item.kind {
            Kind::Picture => work.picture(i as u32, &data.join(&item.path)),
            Kind::Clip | Kind::Sound => work.recording(i as u32, &data.join(&item.path), item, opener),
        };
        if let Err(e) = outcome {
            work.out.skipped.push((item.path.clone(), e.to_string()));
        }
    }
    for modality in Modality::ALL {
        work.flush(modality)?;
    }
    progress(items.len(), items.len());
    if !work.out.skipped.is_empty() {
        // What is missing may be mended; the next run must look again.
        return Ok(work.out);
    }
    std::fs::create_dir_all(cache).and_then(|()| save(&work.out, &path).map_err(std::io::Error::other)).map_err(
        |e| Error::output(path.display().to_string(), format!("cannot write: {e}"), "choose another --cache"),
    )?;
    Ok(work.out)
}

/// A hash of all that the rows depend on; a file's content is told by its length and time of change.
fn key(data: &Path, items: &[Item], inputs: &Inputs, backbone_hash: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{VERSION} {PICTURE_VIEWS} {backbone_hash} {inputs:?}"));
    for item in items {
        let meta = std::fs::metadata(data.join(&item.path)).ok();
        let state = meta.map(|m| (m.len(), m.modified().ok()));
        hash.update(format!("{:?} {} {} {state:?}\n", item.kind, item.path.display(), item.audible));
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Model inputs waiting for the backbone.
#[derive(Default)]
struct Pending {
    rows: Vec<Row>,
    input: Vec<f32>,
}

struct Work<'a> {
    network: &'a Network,
    inputs: &'a Inputs,
    extractor: FeatureExtractor,
    pending: PerModality<Pending>,
    out: Extracted,
}

impl Work<'_> {
    fn picture(&mut self, item: u32, path: &Path) -> Result<()> {
        let image = read_still(path).map_err(|e| Error::data(path, e.to_string(), "replace or remove it"))?;
        let frame = Frame::still(image);
        self.frames(Row { item, second: 0, view: 0 }, std::slice::from_ref(&frame))?;
        for view in 1..=PICTURE_VIEWS {
            let made = augment::picture(frame.view(), &mut augment::rng(0, u64::from(item), view));
            self.frames(Row { item, second: 0, view }, &[made])?;
        }
        Ok(())
    }

    fn recording(&mut self, item: u32, path: &Path, manifest: &Item, opener: &dyn Open) -> Result<()> {
        let config = ClipConfig {
            sample_rate: Some(self.inputs.audio.mel.sample_rate),
            plan: self.inputs.plan.clone(),
            patience: Patience::for_pace(Pace::File),
        };
        let mut second = 0;
        seconds(opener, path, config, &mut |clip| {
            let row = Row { item, second, view: 0 };
            second += 1;
            if manifest.kind == Kind::Clip {
                let chosen: Vec<Frame> = clip.rgb.iter().map(|&i| clip.frames[i].clone()).collect();
                self.frames(row, &chosen)?;
                let made: Vec<Frame> = chosen
                    .iter()
                    .enumerate()
                    .map(|(n, f)| {
                        let key = u64::from(item) << 32 | u64::from(row.second) << 8 | n as u64;
                        augment::picture(f.view(), &mut augment::rng(0, key, 1))
                    })
                    .collect();
                self.frames(Row { view: 1, ..row }, &made)?;
                self.pairs(row, &clip)?;
                self.pairs(Row { view: 1, ..row }, &mirrored(&clip))?;
            }
            if let (true, Some(samples)) = (manifest.audible, &clip.audio) {
                self.sound(row, samples)?;
                let made =
                    augment::sound(samples, &mut augment::rng(0, u64::from(item) << 32 | u64::from(row.second), 1));
                self.sound(Row { view: 1, ..row }, &made)?;
            }
            Ok(())
        })
    }

    fn frames(&mut self, row: Row, frames: &[Frame]) -> Result<()> {
        let clip = ClipSecond::of_pictures(frames.to_vec());
        let pending = &mut self.pending.rgb;
        let count = self.extractor.pictures_into(&clip, &mut pending.input);
        self.added(Modality::Rgb, row, count)
    }

    fn pairs(&mut self, row: Row, clip: &ClipSecond) -> Result<()> {
        let pending = &mut self.pending.flow;
        let count = self.extractor.flows_into(clip, &mut pending.input);
        self.added(Modality::Flow, row, count)
    }

    fn sound(&mut self, row: Row, samples: &[f32]) -> Result<()> {
        let pending = &mut self.pending.audio;
        let sound = self.extractor.sound.as_mut().expect("the extractor was made with audio parameters");
        sound.samples_into(samples, &mut pending.input);
        self.added(Modality::Audio, row, 1)
    }

    fn added(&mut self, modality: Modality, row: Row, count: usize) -> Result<()> {
        let pending = self.pending.get_mut(modality);
        pending.rows.extend(std::iter::repeat_n(row, count));
        if pending.rows.len() >= BATCH { self.flush(modality) } else { Ok(()) }
    }

    fn flush(&mut self, modality: Modality) -> Result<()> {
        let pending = self.pending.get_mut(modality);
        if pending.rows.is_empty() {
            return Ok(());
        }
        let (width, height) = match modality {
            Modality::Rgb => (self.inputs.rgb.width, self.inputs.rgb.height),
            Modality::Flow => (self.inputs.flow.width, self.inputs.flow.height),
            Modality::Audio => (self.inputs.audio.width, self.inputs.audio.height),
        };
        let x = Tensor::from_slice(&pending.input, (pending.rows.len(), 3, height, width), &Device::Cpu)?;
        let features = self.network.features(&x)?.flatten_all()?.to_vec1::<f32>()?;
        let out = self.out.rows.get_mut(modality);
        out.rows.append(&mut pending.rows);
        out.features.extend(features);
        pending.input.clear();
        Ok(())
    }
}

/// The second as a mirror shows it: motion goes the other way, as for teams that changed ends.
fn mirrored(clip: &ClipSecond) -> ClipSecond {
    let flip = |f: &Frame| Frame { pts: f.pts, ..augment::mirror(f.view()) };
    ClipSecond {
        pairs: clip.pairs.clone(),
        flow_absent: clip.flow_absent,
        ..ClipSecond::of_pictures(clip.frames.iter().map(flip).collect())
    }
}

fn save(extracted: &Extracted, path: &Path) -> candle_core::Result<()> {
    let mut tensors = HashMap::new();
    for modality in Modality::ALL {
        let rows = extracted.rows.get(modality);
        let index: Vec<u32> = rows.rows.iter().flat_map(|r| [r.item, r.second, r.view]).collect();
        let n = rows.rows.len();
        tensors.insert(format!("{modality}.rows"), Tensor::from_vec(index, (n, 3), &Device::Cpu)?);
        let features = Tensor::from_slice(&rows.features, (n, extracted.width), &Device::Cpu)?;
        tensors.insert(format!("{modality}.features"), features.to_dtype(DType::F16)?);
    }
    let partial = path.with_extension("part");
    candle_core::safetensors::save(&tensors, &partial)?;
    // Complete or absent: a run that was cut short leaves no cache that looks whole.
    std::fs::rename(&partial, path)?;
    Ok(())
}

fn load(path: &Path) -> Result<Extracted> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
    let mut out = Extracted::default();
    for modality in Modality::ALL {
        let get = |part: &str| {
            tensors.get(&format!("{modality}.{part}")).ok_or_else(|| {
                Error::data(path, format!("{modality}.{part} is missing"), "delete this cache file and run again")
            })
        };
        let index = get("rows")?.to_vec2::<u32>()?;
        let features = get("features")?.to_dtype(DType::F32)?;
        out.width = features.dim(1)?;
        out.rows.get_mut(modality).rows = index.iter().map(|r| Row { item: r[0], second: r[1], view: r[2] }).collect();
        out.rows.get_mut(modality).features = features.flatten_all()?.to_vec1()?;
    }
    Ok(out)
}
