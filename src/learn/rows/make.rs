//! Computes the rows that are not on disk yet: worker threads read seconds and make model inputs, the calling thread runs
//! the network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use crossbeam_channel::bounded;
use half::f16;

use super::chunk::{Chunk, Collected};
use super::{Key, Recipe, Rows, ground};
use crate::clip::ClipSecond;
use crate::error::{Error, Result};
use crate::features::FeatureExtractor;
use crate::ingest::frame::Frame;
use crate::labels::Modality;
use crate::learn::augment;
use crate::learn::dataset::{Dataset, Kind};
use crate::learn::inputs::Inputs;
use crate::learn::net::Net;
use crate::models::sha256_hex;

/// Changes whenever the rows of an unchanged item would change.
const VERSION: u32 = 1;

/// Model inputs that go through the network at once.
const BATCH: usize = 16;

/// Stills or recordings of a chunk: what a run that is cut short loses at most.
const STILLS: usize = 256;
const RECORDINGS: usize = 24;

/// An item and how many random views of it are wanted beside the item itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub item: u32,
    pub views: u32,
}

/// Model inputs of one item.
#[derive(Default)]
struct Prepared {
    keys: Vec<Key>,
    input: Vec<f32>,
}

/// Computes or loads the rows of `wanted`, in their order. `network` names the network's weights; `progress` hears how many
/// items are done and how many model inputs that were.
///
/// # Errors
/// When the cache cannot be written or the network fails. An unreadable item is skipped and listed.
pub fn make(
    dataset: &Dataset,
    wanted: &[Wanted],
    (net, network): (&Net, &str),
    recipe: &Recipe,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    std::fs::create_dir_all(cache).map_err(|e| {
        Error::output(cache.display().to_string(), format!("cannot be made: {e}"), "choose another --cache")
    })?;
    let ground = ground(dataset, network, recipe);
    let mut rows = Rows {
        keys: Vec::new(),
        width: net.architecture().feature_width(),
        shape: [0; 3],
        pooled: Vec::new(),
        chunks: Vec::new(),
        places: Vec::new(),
        skipped: Vec::new(),
    };
    let (width, height) = recipe.inputs.size(recipe.modality);
    let probe = Tensor::zeros((3, 1, height, width), DType::F32, &Device::Cpu)?;
    let (c, _, h, w) = net.run(&probe, 0, recipe.frozen)?.dims4()?;
    rows.shape = [c, h, w];
    let (mut done, mut inputs) = (0, 0);
    for part in parts(dataset, wanted) {
        let text = format!("{VERSION} {ground} {part:?}");
        let path = cache.join(format!("rows-{}.safetensors", &sha256_hex(text.as_bytes())[..24]));
        let mut complete = true;
        if !path.is_file() {
            let before = inputs;
            let mut on_item = |n: usize, made: usize| {
                inputs = before + made;
                progress(done + n, inputs);
            };
            let (collected, skipped) = compute(dataset, part, net, recipe, &mut on_item)?;
            complete = skipped.is_empty();
            rows.skipped.extend(skipped);
            collected.save(&path, rows.width, rows.shape)?;
        }
        let loaded = Chunk::open(&path)?;
        if !complete {
            // What is missing may be mended; the next run must look again. The file stays readable until it is closed.
            let _ = std::fs::remove_file(&path);
        }
        let chunk = rows.chunks.len() as u32;
        rows.places.extend((0..loaded.keys.len() as u32).map(|place| (chunk, place)));
        rows.keys.extend(loaded.keys);
        rows.pooled.extend(loaded.pooled);
        rows.chunks.push(loaded.chunk);
        done += part.len();
        progress(done, inputs);
    }
    Ok(rows)
}

/// Cuts the list where a chunk is full or recordings follow stills.
fn parts<'a>(dataset: &Dataset, wanted: &'a [Wanted]) -> Vec<&'a [Wanted]> {
    let still = |w: &Wanted| dataset.items[w.item as usize].kind == Kind::Picture;
    wanted
        .chunk_by(|a, b| still(a) == still(b))
        .flat_map(|run| run.chunks(if still(&run[0]) { STILLS } else { RECORDINGS }))
        .collect()
}

type Skipped = Vec<(std::path::PathBuf, String)>;

fn compute(
    dataset: &Dataset,
    part: &[Wanted],
    net: &Net,
    recipe: &Recipe,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Collected, Skipped)> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() / 2).max(1);
    let next = AtomicUsize::new(0);
    // Two items a worker: enough that the network never waits for a long recording alone.
    let (to, prepared) = bounded::<(usize, Result<Prepared>)>(2 * workers);
    let mut sink = Sink { net, recipe, pending: Prepared::default(), out: Collected::default() };
    let mut skipped = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        for n in 0..workers {
            let (to, next) = (to.clone(), &next);
            std::thread::Builder::new()
                .name(format!("rows/{n}"))
                .spawn_scoped(scope, move || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(wanted) = part.get(i) else { return };
                        if to.send((i, prepare(dataset, *wanted, recipe))).is_err() {
                            return;
                        }
                    }
                })
                .map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))?;
        }
        drop(to);
        // In the order of the list, whoever was first: the same list gives the same file.
        let mut early: BTreeMap<usize, Result<Prepared>> = BTreeMap::new();
        let mut at = 0;
        for (i, item) in prepared {
            early.insert(i, item);
            while let Some(item) = early.remove(&at) {
                match item {
                    Ok(item) => sink.take(item)?,
                    Err(e) => skipped.push((dataset.file(part[at].item as usize), e.to_string())),
                }
                at += 1;
                progress(at, sink.out.keys.len());
            }
        }
        sink.flush()
    })?;
    Ok((sink.out, skipped))
}

/// Collects model inputs into batches and runs the network on them.
struct Sink<'a> {
    net: &'a Net,
    recipe: &'a Recipe,
    pending: Prepared,
    out: Collected,
}

impl Sink<'_> {
    fn take(&mut self, mut item: Prepared) -> Result<()> {
        self.pending.keys.append(&mut item.keys);
        self.pending.input.append(&mut item.input);
        while self.pending.keys.len() >= BATCH {
            self.run(BATCH)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match self.pending.keys.len() {
            0 => Ok(()),
            n => self.run(n),
        }
    }

    fn run(&mut self, n: usize) -> Result<()> {
        let (width, height) = self.recipe.inputs.size(self.recipe.modality);
        let values = n * 3 * height * width;
        let x = Tensor::from_slice(&self.pending.input[..values], (n, 3, height, width), &Device::Cpu)?;
        let x = x.transpose(0, 1)?.contiguous()?;
        let border = self.net.run(&x, 0, self.recipe.frozen)?;
        let pooled = self.net.pool(&self.net.run(&border, self.recipe.frozen, self.net.blocks())?)?;
        self.out.pooled.extend(halves(&pooled)?);
        if self.recipe.activations {
            self.out.activations.extend(halves(&border.transpose(0, 1)?.contiguous()?)?);
        }
        self.out.keys.extend(self.pending.keys.drain(..n));
        self.pending.input.drain(..values);
        Ok(())
    }
}

fn halves(x: &Tensor) -> candle_core::Result<Vec<f16>> {
    x.to_dtype(DType::F16)?.flatten_all()?.to_vec1()
}

/// The model inputs of an item: all its seconds, all its views.
fn prepare(dataset: &Dataset, wanted: Wanted, recipe: &Recipe) -> Result<Prepared> {
    let index = wanted.item as usize;
    let inputs = &recipe.inputs;
    let mut extractor = FeatureExtractor::new(Some(&inputs.rgb), Some(&inputs.flow), Some(&inputs.audio))
        .map_err(|e| Error::Usage(format!("feature parameters: {e}")))?;
    let mut out = Prepared::default();
    for (second, clip) in dataset.seconds(index)?.iter().enumerate() {
        for view in 0..=wanted.views {
            let key = Key { item: wanted.item, second: second as u32, view };
            // 24 bits of seconds: half a year.
            let mut rng = augment::rng(recipe.seed, u64::from(key.item) << 24 | u64::from(key.second), view);
            let added = match recipe.modality {
                Modality::Rgb => {
                    let chosen = chosen(clip, view, recipe.frames);
                    let frames = chosen
                        .into_iter()
                        .map(|f| if view == 0 { f.clone() } else { augment::picture(f.view(), &mut rng) });
                    extractor.pictures_into(&ClipSecond::of_pictures(frames.collect()), &mut out.input)
                }
                Modality::Flow if view == 0 => extractor.flows_into(clip, &mut out.input),
                Modality::Flow => {
                    extractor.flows_into(&augment::second(clip, recipe.frames as usize, &mut rng), &mut out.input)
                }
                Modality::Audio => sound(clip, view, inputs, &mut extractor, &mut rng, &mut out.input),
            };
            out.keys.extend(std::iter::repeat_n(key, added));
        }
    }
    Ok(out)
}

/// The frames of a second that a view takes: all, or as many as the recipe says, spread over the second.
fn chosen(clip: &ClipSecond, view: u32, frames: u32) -> Vec<&Frame> {
    let all = &clip.rgb;
    let n = if view == 0 { all.len() } else { all.len().min(frames as usize) };
    (0..n).map(|i| &clip.frames[all[(2 * i + 1) * all.len() / (2 * n)]]).collect()
}

fn sound(
    clip: &ClipSecond,
    view: u32,
    inputs: &Inputs,
    extractor: &mut FeatureExtractor,
    rng: &mut rand::rngs::SmallRng,
    out: &mut Vec<f32>,
) -> usize {
    // Digital silence is no sound, in serving too.
    let Some(samples) = clip.audio.as_ref().filter(|_| !crate::infer::is_silent(clip)) else { return 0 };
    let sound = extractor.sound.as_mut().expect("the extractor was made with audio parameters");
    if view == 0 {
        sound.samples_into(samples, out);
    } else {
        let start = out.len();
        sound.samples_into(&augment::sound(samples, rng), out);
        augment::mask(&mut out[start..], inputs.audio.width, inputs.audio.height, rng);
    }
    1
}
