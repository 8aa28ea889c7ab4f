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
use crate::augment;
use crate::dataset::{Dataset, Item};
use crate::inputs::Inputs;
use crate::net::Net;
use touchline_compute::features::FeatureExtractor;
use touchline_compute::models::sha256_hex;
use touchline_core::clip::{ClipSecond, SamplingPlan};
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;

/// Changes whenever the rows of an unchanged item would change.
const VERSION: u32 = 1;

/// Model inputs that go through the network at once.
const BATCH: usize = 16;

/// Stills or recordings of a chunk: what a run that is cut short loses at most.
const STILLS: usize = 256;
const RECORDINGS: usize = 24;

/// Bytes of a chunk, which is collected in memory and copied twice when it is written. An item alone may be more: a minute
/// of model inputs is 200 MB.
const CHUNK_BYTES: u64 = 256 << 20;

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
    make_within(CHUNK_BYTES, dataset, wanted, (net, network), recipe, cache, progress)
}

fn make_within(
    chunk_bytes: u64,
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
    let activations = if recipe.activations { c * h * w } else { 0 };
    let row_bytes = (size_of::<Key>() + size_of::<f16>() * (rows.width + activations)) as u64;
    let items = wanted.iter().map(|w| {
        let item = &dataset.items[w.item as usize];
        (item.kind.is_still(), row_bytes * inputs_of(item, &dataset.meta.plan, w.views, recipe))
    });
    let (mut done, mut inputs) = (0, 0);
    for part in parts(wanted, &items.collect::<Vec<_>>(), chunk_bytes) {
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

/// Model inputs of an item at most: what of it is missing is known only when it is read.
fn inputs_of(item: &Item, plan: &SamplingPlan, views: u32, recipe: &Recipe) -> u64 {
    let (whole, of_view) = match recipe.modality {
        Modality::Rgb if !item.kind.is_still() => (plan.rgb_frames, plan.rgb_frames.min(recipe.frames)),
        Modality::Flow => (plan.flow_pairs, plan.flow_pairs.min(recipe.frames)),
        Modality::Rgb | Modality::Audio => (1, 1),
    };
    u64::from(item.seconds) * (u64::from(whole) + u64::from(views) * u64::from(of_view))
}

/// Cuts the list where a chunk is full or recordings follow stills; `items` says of each whether it is a still, and the
/// bytes of its rows.
fn parts<'a>(mut wanted: &'a [Wanted], items: &[(bool, u64)], chunk_bytes: u64) -> Vec<&'a [Wanted]> {
    let mut parts = Vec::new();
    let (mut n, mut bytes) = (0, 0);
    for (i, (still, size)) in items.iter().enumerate() {
        let full = n == if *still { STILLS } else { RECORDINGS } || bytes + size > chunk_bytes;
        if n > 0 && (full || items[i - 1].0 != *still) {
            let (part, rest) = wanted.split_at(n);
            parts.push(part);
            (wanted, n, bytes) = (rest, 0, 0);
        }
        (n, bytes) = (n + 1, bytes + size);
    }
    if n > 0 {
        parts.push(wanted);
    }
    parts
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
    let Some(samples) = clip.audio.as_ref().filter(|_| !touchline_compute::infer::is_silent(clip)) else { return 0 };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::build::{BuildConfig, build};
    use crate::net;
    use touchline_compute::models::{Architecture, Tensors};
    use touchline_core::item::Pace;
    use touchline_media::replay::Replay;

    #[test]
    fn a_chunk_ends_by_number_by_bytes_and_by_kind() {
        let wanted: Vec<Wanted> = (0..600).map(|item| Wanted { item, views: 1 }).collect();
        let lengths = |items: &[(bool, u64)]| -> Vec<usize> {
            let parts = parts(&wanted[..items.len()], items, 100);
            assert_eq!(parts.concat(), wanted[..items.len()], "nothing is lost or moved");
            parts.iter().map(|p| p.len()).collect()
        };
        assert!(lengths(&[]).is_empty());
        assert_eq!(lengths(&[(true, 0); 600]), [256, 256, 88]);
        assert_eq!(lengths(&[(false, 4); 60]), [24, 24, 12]);
        assert_eq!(lengths(&[(false, 10); 25]), [10, 10, 5]);
        assert_eq!(lengths(&[(false, 101), (false, 50), (false, 50), (false, 1), (true, 1)]), [1, 2, 1, 1]);
    }

    /// Where a chunk ends decides about files, not about rows.
    #[test]
    fn rows_are_the_same_in_chunks_of_any_size() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..21u32 {
            let folder = dir.path().join("in").join(["golf", "tennis"][n as usize % 2]);
            std::fs::create_dir_all(&folder).unwrap();
            let pixel = |x: u32, y: u32| image::Rgb([(x * n) as u8, (y * (n + 3)) as u8, (x * y + n) as u8]);
            image::RgbImage::from_fn(40, 32, pixel).save(folder.join(format!("{n}.png"))).unwrap();
        }
        let config = BuildConfig {
            inputs: vec![dir.path().join("in")],
            out: dir.path().join("ds"),
            frame_height: 32,
            sample_rate: 32_000,
            plan: SamplingPlan { rgb_frames: 1, flow_pairs: 0, flow_gap_ns: 40_000_000 },
            jobs: 1,
        };
        build(&config, &Replay::new(Pace::File, Vec::new()), &mut |_| {}).unwrap();
        let dataset = Dataset::open(&config.out).unwrap();
        let wanted: Vec<Wanted> = (0..21).map(|item| Wanted { item, views: 1 }).collect();
        let net = net::build(Architecture::MobileNetV2, &Tensors::new(), 2, 1, &Device::Cpu).unwrap().net;
        let recipe = Recipe {
            modality: Modality::Rgb,
            inputs: Inputs::standard(64, 32_000, 40),
            frozen: 4,
            activations: true,
            frames: 1,
            seed: 1,
        };
        let made = |chunk_bytes: u64| {
            let cache = dir.path().join(chunk_bytes.to_string());
            let rows =
                make_within(chunk_bytes, &dataset, &wanted, (&net, "fresh"), &recipe, &cache, &mut |_, _| {}).unwrap();
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let pooled = values(rows.pooled(&all, &Device::Cpu).unwrap());
            let activations = values(rows.activations(&all, &Device::Cpu).unwrap());
            (rows.chunks.len(), (rows.keys, pooled, activations))
        };
        let (one, few, many) = (made(CHUNK_BYTES), made(60_000), made(1));
        assert!(one.0 == 1 && few.0 > 2 && few.0 < 21 && many.0 == 21, "{} {} {}", one.0, few.0, many.0);
        assert!(one.1 == few.1 && one.1 == many.1);
    }
}
